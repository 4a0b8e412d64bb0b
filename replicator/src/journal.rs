//! The write-ahead ring: where batches go, how they are found again, and what of them survives a crash.

pub mod chain;
pub mod reader;
pub mod recovery;
pub mod recovery_case;
pub mod ring;
mod walk;
pub mod writer;

/// A piece of the ring to read. Offset and length are whole blocks, so O_DIRECT may serve it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingRead {
    /// Where, from the ring's start.
    pub ring_offset: u64,
    /// How much; never beyond the ring's end.
    pub length: u64,
}
