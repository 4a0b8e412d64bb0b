//! Who may be Primary, and who may go on alone (semantics §3).

pub mod agreement;
pub mod ballot;
pub mod fence;
pub mod membership;
pub mod preconditions;
pub mod refusal;
pub mod seats;
pub mod tiebreaker;
pub mod tiebreaker_file;
pub mod voting;
