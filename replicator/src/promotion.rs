//! Who may be Primary, and who may go on alone (semantics §3).

pub mod membership;
pub mod refusal;
pub mod tiebreaker_file;
pub mod voting;
