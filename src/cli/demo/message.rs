//! A message of the demo: says itself who wrote it and what must be in it, so that a lost, old or torn one is
//! told from a whole one by its bytes alone.
//!
//! ```text
//! offset  bytes  field
//!      0      8  magic, "twinmail"
//!      8      4  writer
//!     12      4  length of the message, this header included
//!     16      8  sequence number, from 1 in each writer
//!     24      8  seed of the body
//!     32      4  CRC32C of the message, with zero here
//!     36      4  zero
//!     40      -  body: pseudo-random bytes from the seed
//! ```
//! All numbers are little-endian.

use replicator::prng::Prng;
use replicator::units::bytes_u64;

/// Bytes before the body.
pub const HEADER_BYTES: usize = 40;
/// Shortest message, bytes.
pub const MESSAGE_BYTES_MIN: u64 = 1 << 10;
/// Longest message, bytes.
pub const MESSAGE_BYTES_MAX: u64 = 64 << 10;

const MAGIC: [u8; 8] = *b"twinmail";
const CHECKSUM_AT: std::ops::Range<usize> = 32..36;

/// Everything that determines the bytes of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// Who wrote it.
    pub writer: u32,
    /// Its number.
    pub sequence: u64,
    /// What its body is made from.
    pub seed: u64,
    /// Its length with header.
    pub length: u32,
}

/// What is found in the place of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// The message, whole.
    Whole,
    /// Another whole message, by its sequence number.
    Other(u64),
    /// No whole message.
    Damaged,
}

impl Message {
    /// The bytes, header and body.
    pub fn encode(&self) -> Vec<u8> {
        let length = usize::try_from(self.length).expect("64-bit target");
        assert!(length >= HEADER_BYTES, "a message has at least its header");
        let mut bytes = Vec::with_capacity(length + 8);
        bytes.extend(MAGIC);
        bytes.extend(self.writer.to_le_bytes());
        bytes.extend(self.length.to_le_bytes());
        bytes.extend(self.sequence.to_le_bytes());
        bytes.extend(self.seed.to_le_bytes());
        bytes.extend([0; 8]);
        let mut chance = Prng::new(self.seed);
        while bytes.len() < length {
            bytes.extend(chance.draw().to_le_bytes());
        }
        bytes.truncate(length);
        let checksum = crc32c::crc32c(&bytes);
        bytes[CHECKSUM_AT].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// Judges the bytes that are in this message's place.
    pub fn judge(&self, bytes: &[u8]) -> Found {
        if bytes == self.encode() {
            return Found::Whole;
        }
        match sequence_of_whole(bytes) {
            Some(sequence) => Found::Other(sequence),
            None => Found::Damaged,
        }
    }
}

/// The number of the message that `bytes` begin with, if all of it is there.
fn sequence_of_whole(bytes: &[u8]) -> Option<u64> {
    let word =
        |at: usize| bytes.get(at..at + 4).map(|word| u32::from_le_bytes(word.try_into().expect("4 bytes")));
    let length = usize::try_from(word(12)?).ok()?;
    if bytes.get(..8)? != MAGIC || length < HEADER_BYTES {
        return None;
    }
    let mut whole = bytes.get(..length)?.to_vec();
    whole[CHECKSUM_AT].fill(0);
    let sequence = u64::from_le_bytes(bytes[16..24].try_into().expect("8 bytes"));
    (word(32)? == crc32c::crc32c(&whole)).then_some(sequence)
}

/// The next message of a writer: as long as mails are, most of them short.
pub fn draw(writer: u32, sequence: u64, chance: &mut Prng) -> Message {
    let octave = chance.draw() % u64::from((MESSAGE_BYTES_MAX / MESSAGE_BYTES_MIN).ilog2());
    let shortest = MESSAGE_BYTES_MIN << octave;
    let length = shortest + chance.draw() % (shortest + 1);
    let length = u32::try_from(length).expect("at most MESSAGE_BYTES_MAX");
    assert!(bytes_u64(HEADER_BYTES) <= u64::from(length), "the shortest message has room for its header");
    Message { writer, sequence, seed: chance.draw(), length }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MESSAGE: Message = Message { writer: 2, sequence: 7, seed: 99, length: 5000 };

    #[test]
    fn a_message_is_known_by_its_bytes_alone() {
        let bytes = MESSAGE.encode();
        assert_eq!(bytes.len(), 5000);
        assert_eq!(MESSAGE.judge(&bytes), Found::Whole);
        let newer = Message { sequence: 8, ..MESSAGE };
        assert_eq!(newer.judge(&bytes), Found::Other(7));
    }

    #[test]
    fn one_flipped_bit_anywhere_is_damage() {
        let mut bytes = MESSAGE.encode();
        for at in [0, 13, 20, 30, 35, 39, 40, 4095, 4999] {
            bytes[at] ^= 1;
            assert_ne!(MESSAGE.judge(&bytes), Found::Whole, "byte {at}");
            bytes[at] ^= 1;
        }
        bytes[4096..].fill(0);
        assert_eq!(MESSAGE.judge(&bytes), Found::Damaged);
    }

    #[test]
    fn lengths_stay_within_their_bounds() {
        let mut chance = Prng::new(1);
        for sequence in 0..1000 {
            let length = u64::from(draw(0, sequence, &mut chance).length);
            assert!((MESSAGE_BYTES_MIN..=MESSAGE_BYTES_MAX).contains(&length), "{length}");
        }
    }
}
