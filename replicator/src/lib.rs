//! How a replica decides. Pure: no I/O, no clock, no threads, no chance but from a seed.
#![forbid(unsafe_code)]

pub mod bitmap;
pub mod block_set;
pub mod checksum;
pub mod config;
pub mod effect;
pub mod event;
pub mod explain_report;
pub mod generation;
pub mod journal;
pub mod layout;
pub mod notice;
pub mod peer;
pub mod prng;
pub mod promotion;
pub mod read;
pub mod record;
pub mod remote_read;
pub mod replica;
pub mod rescue;
pub mod resync;
pub mod state;
pub mod status_report;
pub mod superblock_keeper;
pub mod units;
pub mod write;
pub mod write_back;
