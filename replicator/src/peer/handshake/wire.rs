//! How the messages of a handshake travel: a 16-byte header {magic u32, layout u16, kind u16, body length
//! u32, CRC32C u32 over header and body with itself as zero}, then the body. Frames have another header:
//! a node that has proved nothing meets only this small parser.

use super::HandshakeError;
use crate::checksum::Crc32c;
use crate::units::bytes_usize;

/// First bytes of every message of a handshake: `TBHS`.
pub const HANDSHAKE_MAGIC: u32 = u32::from_le_bytes(*b"TBHS");
/// Bytes of the header.
pub const HANDSHAKE_HEADER_BYTES: usize = 16;
/// Largest message with its header, bytes.
pub const HANDSHAKE_BYTES_MAX: usize = 1024;
/// The layout that this build knows. It changes only if this file does; what is spoken later is the version.
const LAYOUT: u16 = 1;
/// Longest refusal, bytes.
const REASON_BYTES_MAX: usize = 512;

/// Numbers and names of the messages. docs/PROTOCOL.md shows the same table.
pub const HANDSHAKE_KINDS: [(u16, &str); 3] = [(1, "Hello"), (2, "Refuse"), (3, "Proof")];

/// Which message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Hello,
    Refuse,
    Proof,
}

impl Kind {
    const ALL: [Self; 3] = [Self::Hello, Self::Refuse, Self::Proof];

    pub(super) fn code(self) -> u16 {
        match self {
            Self::Hello => HANDSHAKE_KINDS[0].0,
            Self::Refuse => HANDSHAKE_KINDS[1].0,
            Self::Proof => HANDSHAKE_KINDS[2].0,
        }
    }
}

/// The message as it travels.
pub(super) fn encode(kind: Kind, body: &[u8]) -> Vec<u8> {
    let length = HANDSHAKE_HEADER_BYTES + body.len();
    assert!(length <= HANDSHAKE_BYTES_MAX, "a message of {length} bytes is too long");
    let mut bytes = Vec::with_capacity(length);
    bytes.extend(HANDSHAKE_MAGIC.to_le_bytes());
    bytes.extend(LAYOUT.to_le_bytes());
    bytes.extend(kind.code().to_le_bytes());
    bytes.extend(u32::try_from(body.len()).expect("checked above").to_le_bytes());
    let sum = sum(&bytes, body);
    bytes.extend(sum.0.to_le_bytes());
    bytes.extend(body);
    bytes
}

/// A refusal as it travels; a reason that is too long is cut.
pub(super) fn encode_refusal(reason: &str) -> Vec<u8> {
    encode(Kind::Refuse, &reason.as_bytes()[..reason.floor_char_boundary(REASON_BYTES_MAX)])
}

/// Words of somebody who has proved nothing, harmless in a log.
pub(super) fn printable(reason: &[u8]) -> String {
    let reason = String::from_utf8_lossy(&reason[..reason.len().min(REASON_BYTES_MAX)]).into_owned();
    reason.replace(|letter: char| letter.is_control(), "?")
}

/// Checksum of the first 12 bytes of the header, four zeroes, and the body.
fn sum(head: &[u8], body: &[u8]) -> Crc32c {
    Crc32c::of(head).append(&[0; 4]).append(body)
}

/// A message of which a part has arrived. Holds at most [`HANDSHAKE_BYTES_MAX`].
#[derive(Debug, Default)]
pub(super) struct Partial {
    bytes: Vec<u8>,
}

impl Partial {
    /// How many bytes are missing to the end of the header, or to the end of the message.
    pub(super) fn bytes_wanted(&self) -> usize {
        let held = self.bytes.len();
        match self.body_length() {
            None => HANDSHAKE_HEADER_BYTES - held,
            Some(length) => HANDSHAKE_HEADER_BYTES + length - held,
        }
    }

    /// Takes what is wanted from `bytes` behind the first `consumed`; the message, if that completes it.
    pub(super) fn take(
        &mut self,
        bytes: &[u8],
        consumed: &mut usize,
    ) -> Result<Option<(Kind, Vec<u8>)>, HandshakeError> {
        let count = self.bytes_wanted().min(bytes.len() - *consumed);
        self.bytes.extend(&bytes[*consumed..*consumed + count]);
        *consumed += count;
        if self.bytes.len() == HANDSHAKE_HEADER_BYTES {
            self.check_header()?;
        }
        if self.bytes_wanted() > 0 {
            return Ok(None);
        }
        let (header, body) = self.bytes.split_at(HANDSHAKE_HEADER_BYTES);
        if sum(&header[..12], body).0 != self.u32_at(12) {
            return Err(HandshakeError::Damaged);
        }
        let found = self.u16_at(6);
        let kind = Kind::ALL.into_iter().find(|kind| kind.code() == found);
        let message = (kind.ok_or(HandshakeError::OutOfTurn { found })?, body.to_vec());
        self.bytes.clear();
        Ok(Some(message))
    }

    fn check_header(&self) -> Result<(), HandshakeError> {
        if self.u32_at(0) != HANDSHAKE_MAGIC {
            return Err(HandshakeError::Foreign { found: self.u32_at(0) });
        }
        if self.u16_at(4) != LAYOUT {
            return Err(HandshakeError::Layout { found: self.u16_at(4), known: LAYOUT });
        }
        match self.body_length() {
            Some(length) if length > HANDSHAKE_BYTES_MAX - HANDSHAKE_HEADER_BYTES => {
                Err(HandshakeError::TooLong(self.u32_at(8)))
            }
            Some(_) | None => Ok(()),
        }
    }

    fn body_length(&self) -> Option<usize> {
        (self.bytes.len() >= HANDSHAKE_HEADER_BYTES).then(|| bytes_usize(self.u32_at(8).into()))
    }

    fn u16_at(&self, at: usize) -> u16 {
        u16::from_le_bytes(self.bytes[at..at + 2].try_into().expect("two bytes"))
    }

    fn u32_at(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.bytes[at..at + 4].try_into().expect("four bytes"))
    }
}
