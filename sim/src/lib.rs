//! A world in memory in which real replicas run: disks that forget, links that stall, clocks that start anew,
//! clients that remember what they were promised. Everything follows from one seed, so whatever it finds can
//! be repeated. Pure: no threads, no clock, no files.
#![forbid(unsafe_code)]

pub mod checker;
pub mod coverage;
pub mod fault_budget;
pub mod faults;
pub mod fence_command;
pub mod liveness;
pub mod node;
pub mod random;
pub mod random_run;
pub mod rescue;
pub mod sabotage;
pub mod sim_clock;
pub mod sim_disk;
pub mod sim_network;
pub mod swarm;
pub mod tiebreaker;
pub mod workload;
pub mod world;
