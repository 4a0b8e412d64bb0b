//! The laws that the world holds its nodes to, one for each file. A broken law panics with the word
//! "violation", like a broken assert of the core.

pub mod convergence;
pub mod durability;
pub mod marks;
pub mod single_primary;
