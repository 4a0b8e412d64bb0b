//! Copying blocks to a node that the journal cannot bring up to date: what is left to copy, what is on its way, what
//! has arrived. Both halves; who talks to whom and what is durable when is the business of `replica`.
//!
//! The rule that keeps old bytes from winning: from the start of a resync on, the target gets every record too, and a
//! record brings whole blocks. So a block for which the target has received a record is never taken from a copy, and
//! a record is not written back before a copy that was under way to the same block has arrived.

pub mod source;
pub mod target;
pub mod throttle;

/// Most bytes of copies that are sent and not flushed by the target.
pub const IN_FLIGHT_BYTES_MAX: u64 = 16 << 20;
/// Blocks of a copy, at most.
pub const COPY_BLOCKS_MAX: u64 = crate::record::RECORD_BLOCKS_MAX;
