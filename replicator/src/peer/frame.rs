//! Frames: what travels on a link. A frame is a 64-byte header, a body (one message), and a payload
//! (the blocks of records, verified by the checksums in the body).
//!
//! Rule: a header or frame that somebody holds is verified; [`FrameHeader::parse`] and
//! [`ReceivedFrame::assemble`] are the only ways from bytes to them, and no length is believed before its
//! checksum is. What a body means is `codec`'s business.

use std::mem::offset_of;

use bytes::Bytes;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::checksum::Crc32c;
use crate::peer::message_type::MessageType;
use crate::units::{BLOCK_SIZE, Term, Tick};

/// Bytes of a frame header.
pub const FRAME_HEADER_BYTES: usize = 64;
/// Largest body, bytes: a record table of a full batch fits.
pub const FRAME_BODY_BYTES_MAX: usize = 64 << 10;
/// Largest payload, bytes: a full journal batch.
pub const FRAME_PAYLOAD_BYTES_MAX: usize = 4 << 20;
/// First bytes of every frame: `TBFR`.
pub const FRAME_MAGIC: u32 = u32::from_le_bytes(*b"TBFR");
/// The protocol version of the frames that this build speaks.
pub const FRAME_VERSION: u16 = 1;

/// The header as it travels.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
struct WireHeader {
    magic: U32,
    version: U16,
    message_type: U16,
    body_length: U32,
    payload_length: U32,
    term_number: U64,
    term_taker: U64,
    clock: U64,
    echo: U64,
    body_sum: U32,
    header_sum: U32,
    reserved: [u8; 8],
}

/// Name, offset and length of every field of the header, in order. docs/PROTOCOL.md shows the same table.
pub const FRAME_HEADER_FIELDS: [(&str, usize, usize); 12] = [
    ("magic", offset_of!(WireHeader, magic), 4),
    ("version", offset_of!(WireHeader, version), 2),
    ("type", offset_of!(WireHeader, message_type), 2),
    ("body_length", offset_of!(WireHeader, body_length), 4),
    ("payload_length", offset_of!(WireHeader, payload_length), 4),
    ("term_number", offset_of!(WireHeader, term_number), 8),
    ("term_taker", offset_of!(WireHeader, term_taker), 8),
    ("clock", offset_of!(WireHeader, clock), 8),
    ("echo", offset_of!(WireHeader, echo), 8),
    ("body_crc32c", offset_of!(WireHeader, body_sum), 4),
    ("header_crc32c", offset_of!(WireHeader, header_sum), 4),
    ("reserved", offset_of!(WireHeader, reserved), 8),
];

const _: () = {
    assert!(size_of::<WireHeader>() == FRAME_HEADER_BYTES);
    assert!(offset_of!(WireHeader, body_length) == 8);
    assert!(offset_of!(WireHeader, term_number) == 16);
    assert!(offset_of!(WireHeader, body_sum) == 48);
    assert!(offset_of!(WireHeader, header_sum) == 52);
    assert!(offset_of!(WireHeader, reserved) == 56);
    assert!(FRAME_PAYLOAD_BYTES_MAX.is_multiple_of(BLOCK_SIZE));
};

/// Why bytes are no frame. The link that they came on is of no more use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Not a frame at all.
    #[error("a frame begins with {found:08x} instead of the magic {FRAME_MAGIC:08x}")]
    Magic {
        /// What it begins with.
        found: u32,
    },
    /// A frame of another protocol version.
    #[error("a frame has protocol version {found}, this build speaks version {FRAME_VERSION}")]
    Version {
        /// Its version.
        found: u16,
    },
    /// The header was damaged on the way.
    #[error("a frame header has checksum {found}, its bytes have {computed}")]
    HeaderSum {
        /// In the header.
        found: Crc32c,
        /// Of its bytes.
        computed: Crc32c,
    },
    /// A message that this build does not know.
    #[error("message type {0} is unknown")]
    UnknownType(u16),
    /// A body longer than is legal.
    #[error("a body of {0} bytes, at most {FRAME_BODY_BYTES_MAX} are legal")]
    BodyTooLong(u32),
    /// A payload longer than is legal.
    #[error("a payload of {0} bytes, at most {FRAME_PAYLOAD_BYTES_MAX} are legal")]
    PayloadTooLong(u32),
    /// A payload that is not whole blocks.
    #[error("a payload of {0} bytes is not a multiple of {BLOCK_SIZE}")]
    RaggedPayload(u32),
    /// Reserved bytes that are not zero.
    #[error("the reserved bytes of a frame header are not zero")]
    Reserved,
    /// A term without a number has a taker.
    #[error("a frame has a term without a number, but with a taker")]
    Term,
    /// Body or payload differ in length from what the header says.
    #[error("a frame of {found} bytes behind its header, the header says {expected}")]
    Length {
        /// By the header.
        expected: usize,
        /// Held.
        found: usize,
    },
    /// The body was damaged on the way.
    #[error("a body has checksum {computed}, its header says {found}")]
    BodySum {
        /// In the header.
        found: Crc32c,
        /// Of the body.
        computed: Crc32c,
    },
}

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

/// A verified frame header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    message_type: MessageType,
    body_length: u32,
    payload_length: u32,
    stamp: FrameStamp,
    body_sum: Crc32c,
}

impl FrameHeader {
    /// The header of a frame with this body and a payload of `payload_bytes`.
    #[must_use]
    pub fn of(stamp: FrameStamp, message_type: MessageType, body: &[u8], payload_bytes: usize) -> Self {
        assert!(body.len() <= FRAME_BODY_BYTES_MAX, "a body of {} bytes is too long", body.len());
        assert!(payload_bytes <= FRAME_PAYLOAD_BYTES_MAX, "a payload of {payload_bytes} bytes is too long");
        assert!(
            payload_bytes.is_multiple_of(BLOCK_SIZE),
            "a payload of {payload_bytes} bytes is not whole blocks"
        );
        assert!(is_lawful(stamp.term), "a term without a number has no taker");
        Self {
            message_type,
            body_length: u32::try_from(body.len()).expect("checked above"),
            payload_length: u32::try_from(payload_bytes).expect("checked above"),
            stamp,
            body_sum: Crc32c::of(body),
        }
    }

    /// A header from the wire.
    ///
    /// # Errors
    /// Anything about it is not as it must be; see [`FrameError`].
    pub fn parse(bytes: &[u8; FRAME_HEADER_BYTES]) -> Result<Self, FrameError> {
        let wire = WireHeader::read_from_bytes(bytes).expect("the lengths are equal");
        if wire.magic.get() != FRAME_MAGIC {
            return Err(FrameError::Magic { found: wire.magic.get() });
        }
        if wire.version.get() != FRAME_VERSION {
            return Err(FrameError::Version { found: wire.version.get() });
        }
        let (found, computed) = (Crc32c(wire.header_sum.get()), wire.sum());
        if found != computed {
            return Err(FrameError::HeaderSum { found, computed });
        }
        let (body_length, payload_length) = (wire.body_length.get(), wire.payload_length.get());
        if !fits(body_length, FRAME_BODY_BYTES_MAX) {
            return Err(FrameError::BodyTooLong(body_length));
        }
        if !fits(payload_length, FRAME_PAYLOAD_BYTES_MAX) {
            return Err(FrameError::PayloadTooLong(payload_length));
        }
        if !in_memory(payload_length).is_multiple_of(BLOCK_SIZE) {
            return Err(FrameError::RaggedPayload(payload_length));
        }
        if wire.reserved != [0; 8] {
            return Err(FrameError::Reserved);
        }
        let term = Term { number: wire.term_number.get(), taker: wire.term_taker.get() };
        if !is_lawful(term) {
            return Err(FrameError::Term);
        }
        let code = wire.message_type.get();
        let message_type = MessageType::from_code(code).ok_or(FrameError::UnknownType(code))?;
        let stamp = FrameStamp { term, clock: Tick(wire.clock.get()), echo: Tick(wire.echo.get()) };
        Ok(Self { message_type, body_length, payload_length, stamp, body_sum: Crc32c(wire.body_sum.get()) })
    }

    /// The header for the wire.
    #[must_use]
    pub fn encode(&self) -> [u8; FRAME_HEADER_BYTES] {
        let mut wire = WireHeader {
            magic: FRAME_MAGIC.into(),
            version: FRAME_VERSION.into(),
            message_type: self.message_type.code().into(),
            body_length: self.body_length.into(),
            payload_length: self.payload_length.into(),
            term_number: self.stamp.term.number.into(),
            term_taker: self.stamp.term.taker.into(),
            clock: self.stamp.clock.0.into(),
            echo: self.stamp.echo.0.into(),
            body_sum: self.body_sum.0.into(),
            header_sum: 0.into(),
            reserved: [0; 8],
        };
        wire.header_sum = wire.sum().0.into();
        wire.as_bytes().try_into().expect("the lengths are equal")
    }

    /// What every frame says.
    #[must_use]
    pub fn stamp(&self) -> FrameStamp {
        self.stamp
    }

    /// Which message the body is.
    #[must_use]
    pub fn message_type(&self) -> MessageType {
        self.message_type
    }

    /// Bytes of body that follow the header.
    #[must_use]
    pub fn body_bytes(&self) -> usize {
        in_memory(self.body_length)
    }

    /// Bytes of payload that follow the body.
    #[must_use]
    pub fn payload_bytes(&self) -> usize {
        in_memory(self.payload_length)
    }

    /// Checks that `body` is the one that the sender made.
    ///
    /// # Errors
    /// It has another length or another checksum.
    pub fn verify_body(&self, body: &[u8]) -> Result<(), FrameError> {
        if body.len() != self.body_bytes() {
            return Err(FrameError::Length { expected: self.body_bytes(), found: body.len() });
        }
        let (found, computed) = (self.body_sum, Crc32c::of(body));
        if found == computed { Ok(()) } else { Err(FrameError::BodySum { found, computed }) }
    }
}

impl WireHeader {
    /// Checksum of the header with the checksum's own field as zero.
    fn sum(mut self) -> Crc32c {
        self.header_sum = 0.into();
        Crc32c::of(self.as_bytes())
    }
}

/// A length of the wire as a length in memory.
fn in_memory(length: u32) -> usize {
    usize::try_from(length).expect("twinblk runs on 64-bit machines")
}

fn fits(length: u32, length_max: usize) -> bool {
    in_memory(length) <= length_max
}

/// Before the first promotion there is no taker.
fn is_lawful(term: Term) -> bool {
    term.number > 0 || term.taker == 0
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
    /// Which message the body is.
    pub message_type: MessageType,
    /// The message.
    pub body: Bytes,
    /// Blocks, in one 4 KiB aligned piece of memory.
    pub payload: Bytes,
}

impl ReceivedFrame {
    /// The frame with this header, whose body and payload have arrived.
    ///
    /// # Errors
    /// A length differs from the header, or the body from its checksum.
    pub fn assemble(header: FrameHeader, body: Bytes, payload: Bytes) -> Result<Self, FrameError> {
        header.verify_body(&body)?;
        if payload.len() != header.payload_bytes() {
            return Err(FrameError::Length { expected: header.payload_bytes(), found: payload.len() });
        }
        Ok(Self { stamp: header.stamp, message_type: header.message_type, body, payload })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> FrameHeader {
        let term = Term { number: 3, taker: 0xfeed };
        let stamp = FrameStamp { term, clock: Tick(1_000_001), echo: Tick(999) };
        FrameHeader::of(stamp, MessageType::Records, b"body", 2 * BLOCK_SIZE)
    }

    /// Changes one field of an encoded header and makes the checksum right again, as an enemy would.
    fn forged(change: impl FnOnce(&mut WireHeader)) -> [u8; FRAME_HEADER_BYTES] {
        let mut wire = WireHeader::read_from_bytes(&header().encode()).expect("64 bytes");
        change(&mut wire);
        wire.header_sum = wire.sum().0.into();
        wire.as_bytes().try_into().expect("64 bytes")
    }

    #[test]
    fn a_header_comes_back_as_it_was_sent() {
        assert_eq!(FrameHeader::parse(&header().encode()), Ok(header()));
    }

    #[test]
    fn every_flipped_bit_of_a_header_is_refused() {
        for bit in 0..FRAME_HEADER_BYTES * 8 {
            let mut bytes = header().encode();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(FrameHeader::parse(&bytes).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_header_with_a_right_checksum_and_a_wrong_field_is_refused_by_name() {
        let parse = |bytes| FrameHeader::parse(&bytes);
        assert_eq!(parse(forged(|wire| wire.magic = 7.into())), Err(FrameError::Magic { found: 7 }));
        assert_eq!(parse(forged(|wire| wire.version = 2.into())), Err(FrameError::Version { found: 2 }));
        assert_eq!(parse(forged(|wire| wire.message_type = 0.into())), Err(FrameError::UnknownType(0)));
        assert_eq!(parse(forged(|wire| wire.message_type = 999.into())), Err(FrameError::UnknownType(999)));
        assert_eq!(parse(forged(|wire| wire.reserved[7] = 1)), Err(FrameError::Reserved));
        assert_eq!(parse(forged(|wire| wire.term_number = 0.into())), Err(FrameError::Term));
        assert_eq!(
            parse(forged(|wire| wire.payload_length = 4097.into())),
            Err(FrameError::RaggedPayload(4097))
        );
    }

    #[test]
    fn a_length_is_legal_up_to_its_limit_and_no_further() {
        let body = |length: u32| FrameHeader::parse(&forged(|wire| wire.body_length = length.into()));
        let payload = |length: u32| FrameHeader::parse(&forged(|wire| wire.payload_length = length.into()));
        assert_eq!(body(64 << 10).map(|header| header.body_bytes()), Ok(FRAME_BODY_BYTES_MAX));
        assert_eq!(body((64 << 10) + 1), Err(FrameError::BodyTooLong((64 << 10) + 1)));
        assert_eq!(body(u32::MAX), Err(FrameError::BodyTooLong(u32::MAX)));
        assert_eq!(payload(4 << 20).map(|header| header.payload_bytes()), Ok(FRAME_PAYLOAD_BYTES_MAX));
        assert_eq!(payload((4 << 20) + 4096), Err(FrameError::PayloadTooLong((4 << 20) + 4096)));
        assert_eq!(payload(u32::MAX), Err(FrameError::PayloadTooLong(u32::MAX)));
    }

    #[test]
    fn a_frame_is_assembled_only_from_the_body_and_the_lengths_of_its_header() {
        let payload = Bytes::from(vec![0; 2 * BLOCK_SIZE]);
        let assemble = |body: &'static [u8], payload| {
            ReceivedFrame::assemble(header(), Bytes::from_static(body), payload)
                .map(|frame| frame.message_type)
        };
        assert_eq!(assemble(b"body", payload.clone()), Ok(MessageType::Records));
        assert!(matches!(assemble(b"bodx", payload.clone()), Err(FrameError::BodySum { .. })));
        assert_eq!(assemble(b"bod", payload), Err(FrameError::Length { expected: 4, found: 3 }));
        assert_eq!(assemble(b"body", Bytes::new()), Err(FrameError::Length { expected: 8192, found: 0 }));
    }
}
