//! Frames: what travels on a link. A frame is a 64-byte header, a body (one message), and a payload
//! (the blocks of records, verified by the checksums in the body).

use bytes::Bytes;

use crate::units::{Term, Tick};

/// Bytes of a frame header.
pub const FRAME_HEADER_BYTES: usize = 64;
/// Largest body, bytes: a record table of a full batch fits.
pub const FRAME_BODY_BYTES_MAX: usize = 64 << 10;
/// Largest payload, bytes: a full journal batch.
pub const FRAME_PAYLOAD_BYTES_MAX: usize = 4 << 20;

/// What every frame says besides its message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameStamp {
    /// Term of the record that the sender has stored.
    pub term: Term,
    /// The sender's clock when the frame was made.
    pub clock: Tick,
    /// The newest clock value that the sender has received from the receiver; zero if none.
    pub echo: Tick,
}

/// A frame ready to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboundFrame {
    /// Header and body.
    pub head: Vec<u8>,
    /// Payload pieces, in order.
    pub payloads: Vec<Bytes>,
}

impl OutboundFrame {
    /// Bytes on the wire.
    #[must_use]
    pub fn wire_bytes(&self) -> usize {
        self.head.len() + self.payloads.iter().map(Bytes::len).sum::<usize>()
    }
}

/// A frame that arrived whole. Header and body checksums are verified; the payload is not yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceivedFrame {
    /// What every frame says.
    pub stamp: FrameStamp,
    /// Number of the message type.
    pub message_type: u16,
    /// The message.
    pub body: Bytes,
    /// Blocks, in one 4 KiB aligned piece of memory.
    pub payload: Bytes,
}
