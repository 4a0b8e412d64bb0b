//! The table of records as journal descriptors and peer frames carry it: one entry for each record, then one
//! CRC32C for each block of payload, in the same order. The payload itself follows elsewhere.

use bytes::Bytes;
use zerocopy::little_endian::U64;
use zerocopy::{FromBytes, IntoBytes};

use crate::checksum::{BlockSums, Crc32c};
use crate::layout::disk_struct;
use crate::record::{RECORD_BLOCKS_MAX, Record, RecordKind};
use crate::units::{BLOCK_BYTES, BLOCK_SIZE, BlockRange, Lsn, VOLUME_BYTES_MAX, bytes_u64, bytes_usize};

/// Most records of one table.
pub const BATCH_RECORDS_MAX: usize = 256;
/// Most blocks of payload of one table.
pub const BATCH_PAYLOAD_BLOCKS_MAX: u64 = 1024;
/// Bytes of one entry.
pub const RECORD_ENTRY_BYTES: usize = 24;
/// Bytes of one checksum.
pub const SUM_BYTES: usize = 4;

const _: () = assert!(RECORD_BLOCKS_MAX <= BATCH_PAYLOAD_BLOCKS_MAX);

disk_struct! {
    /// One record of a table.
    pub struct RecordEntryBytes {
        /// 1 write, 2 zeroes, 3 trim.
        kind: u8,
        /// Zero.
        reserved: [u8; 7],
        /// First block of the volume.
        first_block: U64,
        /// Number of blocks.
        block_count: U64,
    }
}
const _: () = assert!(size_of::<RecordEntryBytes>() == RECORD_ENTRY_BYTES);

/// A record without its payload: what a table says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordHead {
    /// Its number.
    pub lsn: Lsn,
    /// What it does.
    pub kind: RecordKind,
    /// Where.
    pub range: BlockRange,
    /// One checksum for each block of its payload.
    pub sums: BlockSums,
}

impl RecordHead {
    /// Bytes of its payload.
    #[must_use]
    pub fn payload_bytes(&self) -> usize {
        self.sums.as_slice().len() * BLOCK_SIZE
    }

    /// The record with this payload. Whether the payload has the sums is for [`Record::verify`] to say.
    #[must_use]
    pub fn with_payload(self, payload: Bytes) -> Record {
        assert_eq!(
            payload.len(),
            self.payload_bytes(),
            "record {} has a payload of another length",
            self.lsn
        );
        Record { lsn: self.lsn, kind: self.kind, range: self.range, payload, sums: self.sums }
    }
}

/// Why bytes are no table of records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordTableError {
    /// No record, or too many.
    #[error("{0} records, 1 to {BATCH_RECORDS_MAX} are legal")]
    Count(usize),
    /// Too short or too long for its records.
    #[error("record table of {have} bytes, its records need {need}")]
    Length {
        /// What there is.
        have: usize,
        /// What its records need.
        need: usize,
    },
    /// A kind that this version does not know.
    #[error("record {lsn} is of unknown kind {kind}")]
    Kind {
        /// Which record.
        lsn: Lsn,
        /// The kind's number.
        kind: u8,
    },
    /// A reserved byte is set.
    #[error("record {0} has reserved bytes that are not zero")]
    Reserved(Lsn),
    /// No blocks, more than a record may carry, or beyond every volume.
    #[error("record {lsn} covers {count} blocks from block {first} on, which no record does")]
    Range {
        /// Which record.
        lsn: Lsn,
        /// Its first block.
        first: u64,
        /// Its number of blocks.
        count: u64,
    },
    /// More payload than one table carries.
    #[error("{0} blocks of payload, at most {BATCH_PAYLOAD_BLOCKS_MAX} are legal")]
    Payload(u64),
    /// Numbers beyond every Lsn.
    #[error("records from {0} on exceed every Lsn")]
    Lsn(Lsn),
}

/// A payload that does not have the checksums of its record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("payload of record {lsn} is damaged")]
pub struct PayloadDamaged {
    /// The first such record.
    pub lsn: Lsn,
}

/// Bytes of the table of `records` records with `payload_blocks` blocks of payload.
#[must_use]
pub fn record_table_bytes(records: usize, payload_blocks: u64) -> usize {
    records * RECORD_ENTRY_BYTES + bytes_usize(payload_blocks) * SUM_BYTES
}

/// Blocks of payload of all records together.
#[must_use]
pub fn payload_blocks(records: &[Record]) -> u64 {
    records.iter().map(Record::payload_blocks).sum()
}

/// Appends the table of `records` to `out`.
pub fn encode_record_table(records: &[Record], out: &mut Vec<u8>) {
    assert!(!records.is_empty(), "a record table has records");
    assert!(records.len() <= BATCH_RECORDS_MAX, "{} records in one table", records.len());
    let blocks = payload_blocks(records);
    assert!(blocks <= BATCH_PAYLOAD_BLOCKS_MAX, "{blocks} blocks of payload in one table");
    out.reserve(record_table_bytes(records.len(), blocks));
    let mut expected = records[0].lsn;
    for record in records {
        assert_eq!(record.lsn, expected, "the records of one table are consecutive");
        assert_eq!(
            bytes_u64(record.sums.as_slice().len()),
            record.payload_blocks(),
            "one sum for each block"
        );
        let first_block = U64::new(record.range.first);
        let block_count = U64::new(record.range.count);
        let entry = RecordEntryBytes { kind: record.kind.code(), reserved: [0; 7], first_block, block_count };
        out.extend_from_slice(entry.as_bytes());
        expected = expected.next();
    }
    for sum in records.iter().flat_map(|record| record.sums.as_slice()) {
        out.extend_from_slice(&sum.0.to_le_bytes());
    }
}

/// The `count` records of a table, numbered from `first_lsn` on. `bytes` is the table and nothing else.
///
/// # Errors
/// The bytes are no such table.
pub fn parse_record_table(
    bytes: &[u8],
    first_lsn: Lsn,
    count: usize,
) -> Result<Vec<RecordHead>, RecordTableError> {
    if count == 0 || count > BATCH_RECORDS_MAX {
        return Err(RecordTableError::Count(count));
    }
    if first_lsn.0.checked_add(bytes_u64(count)).is_none() {
        return Err(RecordTableError::Lsn(first_lsn));
    }
    let entries_bytes = count * RECORD_ENTRY_BYTES;
    let too_short = RecordTableError::Length { have: bytes.len(), need: entries_bytes };
    let (entries, sums) = bytes.split_at_checked(entries_bytes).ok_or(too_short)?;
    let mut lsn = first_lsn;
    let mut heads = Vec::with_capacity(count);
    let mut blocks = 0;
    for entry in entries.chunks_exact(RECORD_ENTRY_BYTES) {
        let (kind, range) = parse_entry(entry, lsn)?;
        let payload = if kind == RecordKind::Write { range.count } else { 0 };
        blocks += payload;
        if blocks > BATCH_PAYLOAD_BLOCKS_MAX {
            return Err(RecordTableError::Payload(blocks));
        }
        heads.push((lsn, kind, range, bytes_usize(payload)));
        lsn = lsn.next();
    }
    let need = record_table_bytes(count, blocks);
    if bytes.len() != need {
        return Err(RecordTableError::Length { have: bytes.len(), need });
    }
    let (words, _) = sums.as_chunks::<SUM_BYTES>();
    let mut words = words.iter().map(|word| Crc32c(u32::from_le_bytes(*word)));
    let with_sums = |(lsn, kind, range, payload): (Lsn, RecordKind, BlockRange, usize)| {
        let sums: Vec<Crc32c> = words.by_ref().take(payload).collect();
        RecordHead { lsn, kind, range, sums: BlockSums::from_sums(sums.into_iter()) }
    };
    Ok(heads.into_iter().map(with_sums).collect())
}

fn parse_entry(entry: &[u8], lsn: Lsn) -> Result<(RecordKind, BlockRange), RecordTableError> {
    let entry =
        RecordEntryBytes::read_from_bytes(entry).expect("the caller cuts entries of the right length");
    let kind = RecordKind::from_code(entry.kind).ok_or(RecordTableError::Kind { lsn, kind: entry.kind })?;
    if entry.reserved != [0; 7] {
        return Err(RecordTableError::Reserved(lsn));
    }
    let (first, count) = (entry.first_block.get(), entry.block_count.get());
    let in_volume = first.checked_add(count).is_some_and(|end| end <= VOLUME_BYTES_MAX / BLOCK_BYTES);
    let payload_fits = kind != RecordKind::Write || count <= RECORD_BLOCKS_MAX;
    if count == 0 || !in_volume || !payload_fits {
        return Err(RecordTableError::Range { lsn, first, count });
    }
    Ok((kind, BlockRange::new(first, count)))
}

/// The records of `heads` with their payloads as slices of `payload`, every block verified.
///
/// # Errors
/// A payload that does not have its record's sums.
pub fn attach_payload(heads: Vec<RecordHead>, mut payload: Bytes) -> Result<Vec<Record>, PayloadDamaged> {
    let attach = |head: RecordHead| {
        let lsn = head.lsn;
        let length = head.payload_bytes();
        let damaged = PayloadDamaged { lsn };
        if payload.len() < length {
            return Err(damaged);
        }
        let record = head.with_payload(payload.split_to(length));
        if record.verify() { Ok(record) } else { Err(damaged) }
    };
    heads.into_iter().map(attach).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records() -> Vec<Record> {
        let payload = Bytes::from(vec![3; 2 * BLOCK_SIZE]);
        vec![
            Record::write(Lsn(5), BlockRange::new(9, 2), payload),
            Record::zero(Lsn(6), RecordKind::Trim, BlockRange::new(0, VOLUME_BYTES_MAX / BLOCK_BYTES)),
            Record::write(Lsn(7), BlockRange::new(1, 1), Bytes::from(vec![4; BLOCK_SIZE])),
        ]
    }

    #[test]
    fn a_table_comes_back_as_written() {
        let mut table = Vec::new();
        encode_record_table(&records(), &mut table);
        let heads = parse_record_table(&table, Lsn(5), 3).unwrap();
        let payload: Vec<u8> = records().iter().flat_map(|record| record.payload.to_vec()).collect();
        assert_eq!(attach_payload(heads, payload.into()), Ok(records()));
    }

    #[test]
    fn a_table_of_another_length_is_refused() {
        let mut table = Vec::new();
        encode_record_table(&records(), &mut table);
        for length in 0..table.len() {
            assert!(parse_record_table(&table[..length], Lsn(5), 3).is_err());
        }
        table.push(0);
        assert!(matches!(parse_record_table(&table, Lsn(5), 3), Err(RecordTableError::Length { .. })));
    }

    #[test]
    fn a_record_beyond_every_volume_is_refused() {
        let mut table = Vec::new();
        encode_record_table(&records()[1..2], &mut table);
        table[8] = 1;
        assert!(matches!(parse_record_table(&table, Lsn(6), 1), Err(RecordTableError::Range { .. })));
        assert!(matches!(parse_record_table(&table, Lsn(u64::MAX), 1), Err(RecordTableError::Lsn(_))));
    }

    #[test]
    fn a_damaged_payload_names_its_record() {
        let mut table = Vec::new();
        encode_record_table(&records(), &mut table);
        let heads = parse_record_table(&table, Lsn(5), 3).unwrap();
        let mut payload: Vec<u8> = records().iter().flat_map(|record| record.payload.to_vec()).collect();
        payload[2 * BLOCK_SIZE] ^= 1;
        assert_eq!(attach_payload(heads, payload.into()), Err(PayloadDamaged { lsn: Lsn(7) }));
    }
}
