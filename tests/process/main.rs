//! Real daemons on loopback: killed at random moments, stopped in order, misconfigured on purpose,
//! ordered about by an operator, and shown off.
//!
//! `TWINBLK_PROCESS_ROUNDS` says in how many rounds `nothing_acknowledged_is_lost…` kills processes (8), `TWINBLK_PROCESS_SEED`
//! repeats a run of it.

#[path = "../common/harness.rs"]
mod harness;
#[path = "../../src/cli/demo/mailbox.rs"]
#[allow(dead_code, reason = "a part of the demo")]
mod mailbox;
#[path = "../../src/cli/demo/message.rs"]
#[allow(dead_code, reason = "a part of the demo")]
mod message;
#[path = "../../src/cli/demo/volume.rs"]
#[allow(dead_code, reason = "a part of the demo")]
mod volume;
#[path = "../../src/cli/demo/writers.rs"]
#[allow(dead_code, reason = "a part of the demo")]
mod writers;

mod clients;
mod demo;
mod disks;
mod explanations;
mod extended;
mod failing_disk;
mod foreign;
mod hosts;
mod kills;
mod orders;
mod partition;
mod protocols;
mod refusals;
mod resync;
mod split_brain;
mod stops;
mod trio;
mod voters;
mod without_votes;
