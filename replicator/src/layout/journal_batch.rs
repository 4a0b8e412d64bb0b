//! A batch of the journal: a descriptor of 1 to 4 blocks, then the payload blocks of its records in order.
//! One O_DIRECT write carries a batch. What makes a batch the successor of another is `journal::chain`'s rule.

use bytes::Bytes;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, IntoBytes};

pub use crate::layout::record_table::{
    BATCH_PAYLOAD_BLOCKS_MAX, BATCH_RECORDS_MAX, PayloadDamaged, RecordHead, RecordTableError,
    attach_payload, encode_record_table, parse_record_table, payload_blocks, record_table_bytes,
};

use crate::checksum::Crc32c;
use crate::layout::disk_struct;
use crate::layout::format_version::FORMAT_VERSION;
use crate::record::Record;
use crate::units::{BLOCK_BYTES, BLOCK_SIZE, GenerationId, Lsn, VoterId, bytes_u64};

/// First bytes of a descriptor.
pub const BATCH_MAGIC: [u8; 8] = *b"TBLKBTCH";
/// Bytes of a descriptor before its record table.
pub const BATCH_HEADER_BYTES: usize = 96;
/// Most blocks of a descriptor.
pub const DESCRIPTOR_BLOCKS_MAX: u64 = 4;
/// Most bytes of a descriptor.
pub const DESCRIPTOR_BYTES_MAX: u64 = DESCRIPTOR_BLOCKS_MAX * BLOCK_BYTES;
/// Most bytes of a batch.
pub const BATCH_BYTES_MAX: u64 = DESCRIPTOR_BYTES_MAX + BATCH_PAYLOAD_BLOCKS_MAX * BLOCK_BYTES;

disk_struct! {
    /// The first bytes of a descriptor. The record table follows, then zeroes to the end of the block.
    pub struct BatchHeaderBytes {
        /// [`BATCH_MAGIC`].
        magic: [u8; 8],
        /// Format version.
        version: U32,
        /// CRC32C of the whole descriptor with this field zero.
        crc: U32,
        /// Identity of the node's metadata.
        journal: U64,
        /// Where in the ring the batch lies.
        ring_offset: U64,
        /// Session that wrote it.
        session: U64,
        /// Generation of its records.
        generation: U64,
        /// Lsn of its first record.
        first_lsn: U64,
        /// Flushed in this journal when the batch was written.
        flushed_up_to: U64,
        /// Written and flushed in this node's data area when the batch was written.
        written_back_up_to: U64,
        /// CRC of the descriptor before it.
        predecessor: U32,
        /// Number of records.
        record_count: U16,
        /// Blocks of the descriptor.
        descriptor_blocks: U16,
        /// Blocks of payload.
        payload_blocks: U32,
        /// Zero.
        reserved: [u8; 12],
    }
}
const _: () = assert!(size_of::<BatchHeaderBytes>() == BATCH_HEADER_BYTES);
const _: () = assert!(core::mem::offset_of!(BatchHeaderBytes, crc) == 12);
const _: () = assert!(BATCH_HEADER_BYTES + BATCH_RECORDS_MAX * 24 + 1024 * 4 <= 16_384);
const _: () = assert!(BATCH_PAYLOAD_BLOCKS_MAX == 1024 && DESCRIPTOR_BYTES_MAX == 16_384);

/// What a descriptor says of its batch as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    /// Identity of the node's metadata: a batch of another journal never counts, wherever it turns up.
    pub journal: VoterId,
    /// Where in the ring the batch lies: a batch that lies elsewhere went astray and does not count.
    pub ring_offset: u64,
    /// Session that wrote it.
    pub session: u64,
    /// Generation of all its records.
    pub generation: GenerationId,
    /// Lsn of its first record.
    pub first_lsn: Lsn,
    /// CRC of the descriptor of the batch before it.
    pub predecessor: Crc32c,
    /// Newest record that this node had flushed in its own journal when it wrote the batch.
    pub flushed_up_to: Lsn,
    /// Newest record up to which everything was written and flushed in this node's data area.
    pub written_back_up_to: Lsn,
}

/// A verified descriptor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParsedDescriptor {
    /// What it says of the batch.
    pub header: BatchHeader,
    /// Its records, without payload.
    pub records: Vec<RecordHead>,
    /// Blocks of the descriptor itself.
    pub descriptor_blocks: u64,
    /// Blocks of payload behind it.
    pub payload_blocks: u64,
    /// Its checksum, by which the next batch names it.
    pub crc: Crc32c,
}

impl ParsedDescriptor {
    /// Lsn of the last record.
    #[must_use]
    pub fn last_lsn(&self) -> Lsn {
        self.header.first_lsn.plus(bytes_u64(self.records.len()) - 1)
    }

    /// Length of the whole batch in blocks.
    #[must_use]
    pub fn total_blocks(&self) -> u64 {
        self.descriptor_blocks + self.payload_blocks
    }

    /// Length of the whole batch.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.total_blocks() * BLOCK_BYTES
    }

    /// The batch's records with their payloads as slices of `payload`, every block verified.
    ///
    /// # Errors
    /// A payload that does not have its record's sums.
    pub fn into_records(self, payload: Bytes) -> Result<Vec<Record>, PayloadDamaged> {
        attach_payload(self.records, payload)
    }
}

/// Why bytes are no descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// Fewer bytes than the descriptor has.
    #[error("descriptor of {need} bytes, only {have} are there")]
    Short {
        /// What there is.
        have: usize,
        /// What it needs.
        need: usize,
    },
    /// Something else, or nothing.
    #[error("no descriptor: its magic is missing")]
    Magic,
    /// Written by another version.
    #[error("descriptor of format version {0}, this program knows {FORMAT_VERSION}")]
    Version(u32),
    /// A number of blocks that no descriptor has.
    #[error("descriptor of {0} blocks, 1 to {DESCRIPTOR_BLOCKS_MAX} are legal")]
    Blocks(u16),
    /// Damaged.
    #[error("descriptor damaged: its checksum is {stored}, its content has {computed}")]
    Checksum {
        /// What the descriptor says.
        stored: Crc32c,
        /// What its bytes have.
        computed: Crc32c,
    },
    /// Bytes that this version leaves zero are not.
    #[error("descriptor with reserved bytes that are not zero")]
    Reserved,
    /// Claims to be flushed beyond what it follows, or written back beyond what is flushed (I3).
    #[error(
        "descriptor from {first_lsn} on claims flushed {flushed_up_to}, written back {written_back_up_to}"
    )]
    Claims {
        /// Its first record.
        first_lsn: Lsn,
        /// What it claims to be flushed.
        flushed_up_to: Lsn,
        /// What it claims to be written back.
        written_back_up_to: Lsn,
    },
    /// Its record table is wrong.
    #[error("descriptor with a wrong record table: {0}")]
    Table(#[from] RecordTableError),
}

/// Blocks of the descriptor of `records` records with `payload_blocks` blocks of payload.
#[must_use]
pub fn descriptor_blocks(records: usize, payload_blocks: u64) -> u64 {
    bytes_u64(BATCH_HEADER_BYTES + record_table_bytes(records, payload_blocks)).div_ceil(BLOCK_BYTES)
}

/// Blocks of the whole batch of `records`, which [`crate::journal::ring::Ring::fits`] asks for.
#[must_use]
pub fn batch_blocks(records: &[Record]) -> u64 {
    let payload = payload_blocks(records);
    descriptor_blocks(records.len(), payload) + payload
}

/// The descriptor of a batch and the checksum by which the next batch names it. Whole blocks, but an
/// ordinary allocation: for O_DIRECT the shell copies it into an aligned buffer, before the payloads.
#[must_use]
pub fn encode_descriptor(header: &BatchHeader, records: &[Record]) -> (Vec<u8>, Crc32c) {
    assert!(claims_hold(header), "I3: a batch claims no more than came before it: {header:?}");
    assert_eq!(
        records.first().map(|record| record.lsn),
        Some(header.first_lsn),
        "a batch starts with its first record"
    );
    let payload_blocks = payload_blocks(records);
    let blocks = descriptor_blocks(records.len(), payload_blocks);
    let bytes = BatchHeaderBytes {
        magic: BATCH_MAGIC,
        version: U32::new(FORMAT_VERSION),
        crc: U32::ZERO,
        journal: U64::new(header.journal.0),
        ring_offset: U64::new(header.ring_offset),
        session: U64::new(header.session),
        generation: U64::new(header.generation.0),
        first_lsn: U64::new(header.first_lsn.0),
        flushed_up_to: U64::new(header.flushed_up_to.0),
        written_back_up_to: U64::new(header.written_back_up_to.0),
        predecessor: U32::new(header.predecessor.0),
        record_count: U16::new(u16::try_from(records.len()).expect("at most BATCH_RECORDS_MAX")),
        descriptor_blocks: U16::new(u16::try_from(blocks).expect("at most DESCRIPTOR_BLOCKS_MAX")),
        payload_blocks: U32::new(u32::try_from(payload_blocks).expect("at most BATCH_PAYLOAD_BLOCKS_MAX")),
        reserved: [0; 12],
    };
    let mut descriptor = bytes.as_bytes().to_vec();
    encode_record_table(records, &mut descriptor);
    descriptor.resize(crate::units::bytes_usize(blocks) * BLOCK_SIZE, 0);
    let crc = Crc32c::of(&descriptor);
    descriptor[12..16].copy_from_slice(&crc.0.to_le_bytes());
    (descriptor, crc)
}

/// The descriptor at the start of `bytes`. Bytes behind it are left alone.
///
/// # Errors
/// The bytes are no descriptor, or not all of it.
pub fn parse_descriptor(bytes: &[u8]) -> Result<ParsedDescriptor, BatchError> {
    let short = BatchError::Short { have: bytes.len(), need: BLOCK_SIZE };
    let first_block = bytes.get(..BLOCK_SIZE).ok_or(short)?;
    let (fixed, _) = BatchHeaderBytes::read_from_prefix(first_block).map_err(|_| short)?;
    if fixed.magic != BATCH_MAGIC {
        return Err(BatchError::Magic);
    }
    if fixed.version.get() != FORMAT_VERSION {
        return Err(BatchError::Version(fixed.version.get()));
    }
    let blocks = fixed.descriptor_blocks.get();
    if !(1..=DESCRIPTOR_BLOCKS_MAX).contains(&u64::from(blocks)) {
        return Err(BatchError::Blocks(blocks));
    }
    let need = usize::from(blocks) * BLOCK_SIZE;
    let descriptor = bytes.get(..need).ok_or(BatchError::Short { have: bytes.len(), need })?;
    let stored = Crc32c(fixed.crc.get());
    let computed = Crc32c::of(&descriptor[..12]).append(&[0; 4]).append(&descriptor[16..]);
    if stored != computed {
        return Err(BatchError::Checksum { stored, computed });
    }
    parse_verified(&fixed, descriptor, stored)
}

/// Reads a descriptor whose checksum holds.
fn parse_verified(
    fixed: &BatchHeaderBytes,
    descriptor: &[u8],
    crc: Crc32c,
) -> Result<ParsedDescriptor, BatchError> {
    let header = BatchHeader {
        journal: VoterId(fixed.journal.get()),
        ring_offset: fixed.ring_offset.get(),
        session: fixed.session.get(),
        generation: GenerationId(fixed.generation.get()),
        first_lsn: Lsn(fixed.first_lsn.get()),
        predecessor: Crc32c(fixed.predecessor.get()),
        flushed_up_to: Lsn(fixed.flushed_up_to.get()),
        written_back_up_to: Lsn(fixed.written_back_up_to.get()),
    };
    let (first_lsn, flushed_up_to) = (header.first_lsn, header.flushed_up_to);
    if !claims_hold(&header) {
        let written_back_up_to = header.written_back_up_to;
        return Err(BatchError::Claims { first_lsn, flushed_up_to, written_back_up_to });
    }
    let count = usize::from(fixed.record_count.get());
    let payload_blocks = u64::from(fixed.payload_blocks.get());
    if count > BATCH_RECORDS_MAX {
        return Err(BatchError::Table(RecordTableError::Count(count)));
    }
    if payload_blocks > BATCH_PAYLOAD_BLOCKS_MAX {
        return Err(BatchError::Table(RecordTableError::Payload(payload_blocks)));
    }
    let descriptor_blocks = bytes_u64(descriptor.len()) / BLOCK_BYTES;
    let table = descriptor.split_at_checked(BATCH_HEADER_BYTES).expect("a descriptor has a block").1;
    let (have, need) = (table.len(), record_table_bytes(count, payload_blocks));
    let (table, padding) = table.split_at_checked(need).ok_or(RecordTableError::Length { have, need })?;
    let padded = padding.len() < BLOCK_SIZE && padding.iter().all(|byte| *byte == 0);
    if fixed.reserved != [0; 12] || !padded {
        return Err(BatchError::Reserved);
    }
    let records = parse_record_table(table, first_lsn, count)?;
    Ok(ParsedDescriptor { header, records, descriptor_blocks, payload_blocks, crc })
}

/// A batch is written after what it calls flushed, and only stable records are written back (I3).
fn claims_hold(header: &BatchHeader) -> bool {
    header.first_lsn > Lsn::ZERO
        && header.flushed_up_to < header.first_lsn
        && header.written_back_up_to <= header.flushed_up_to
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::RecordKind;
    use crate::units::BlockRange;

    fn header() -> BatchHeader {
        BatchHeader {
            journal: VoterId(1),
            ring_offset: 8192,
            session: 3,
            generation: GenerationId(4),
            first_lsn: Lsn(10),
            predecessor: Crc32c(5),
            flushed_up_to: Lsn(9),
            written_back_up_to: Lsn(8),
        }
    }

    fn largest() -> Vec<Record> {
        let payload = Bytes::from(vec![6; 4 * BLOCK_SIZE]);
        (0..256).map(|at| Record::write(Lsn(10 + at), BlockRange::new(at * 4, 4), payload.clone())).collect()
    }

    #[test]
    fn the_largest_batch_comes_back_as_written() {
        let (descriptor, crc) = encode_descriptor(&header(), &largest());
        let parsed = parse_descriptor(&descriptor).unwrap();
        assert_eq!((parsed.header, parsed.crc, parsed.last_lsn()), (header(), crc, Lsn(265)));
        assert_eq!((parsed.descriptor_blocks, parsed.total_blocks()), (3, batch_blocks(&largest())));
        let payload: Vec<u8> = largest().iter().flat_map(|record| record.payload.to_vec()).collect();
        assert_eq!(parsed.into_records(payload.into()), Ok(largest()));
    }

    #[test]
    fn every_flipped_bit_of_a_descriptor_is_refused() {
        let records = [Record::zero(Lsn(10), RecordKind::Trim, BlockRange::new(1, 5))];
        let (mut descriptor, _) = encode_descriptor(&header(), &records);
        for bit in 0..descriptor.len() * 8 {
            descriptor[bit / 8] ^= 1 << (bit % 8);
            assert!(parse_descriptor(&descriptor).is_err(), "bit {bit}");
            descriptor[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn a_descriptor_that_is_cut_short_says_how_much_it_needs() {
        let (descriptor, _) = encode_descriptor(&header(), &largest());
        let short = BatchError::Short { have: 8192, need: 3 * BLOCK_SIZE };
        assert_eq!(parse_descriptor(&descriptor[..8192]), Err(short));
        assert_eq!(parse_descriptor(&[]), Err(BatchError::Short { have: 0, need: BLOCK_SIZE }));
    }
}
