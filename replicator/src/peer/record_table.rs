//! The record table: what the records of a frame are and where they go, without their payload.
//! Each record is 24 bytes {kind u8, 7 reserved, first block u64, blocks u64} and, for a write, one CRC32C
//! for each of its blocks. Lsns are not in the table: they follow the first without gaps.

use crate::checksum::{BlockSums, Crc32c};
use crate::peer::fields::{FieldError, FieldReader, FieldWriter};
use crate::record::{RECORD_BLOCKS_MAX, Record, RecordKind};
use crate::units::{BLOCK_BYTES, BlockRange, Lsn, VOLUME_BYTES_MAX, bytes_usize};

/// Bytes of an entry without its checksums.
const ENTRY_BYTES: usize = 24;

/// A record without its payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordHead {
    /// Its number.
    pub lsn: Lsn,
    /// What it does.
    pub kind: RecordKind,
    /// Where.
    pub range: BlockRange,
    /// One checksum for each block of payload.
    pub sums: BlockSums,
}

/// Appends the table of `records` to `out`.
pub fn encode_record_table(records: &[Record], out: &mut Vec<u8>) {
    let mut writer = FieldWriter::new(out);
    for record in records {
        writer.u8(record.kind.code());
        writer.reserved(7);
        writer.u64(record.range.first);
        writer.u64(record.range.count);
        for sum in record.sums.as_slice() {
            writer.u32(sum.0);
        }
    }
}

/// The `count` records of a table whose first has number `first_lsn`.
///
/// # Errors
/// The bytes are not exactly such a table.
pub fn parse_record_table(bytes: &[u8], first_lsn: Lsn, count: usize) -> Result<Vec<RecordHead>, FieldError> {
    let mut reader = FieldReader::new(bytes);
    // Nothing is allocated for a count that the bytes cannot hold.
    if count > bytes.len() / ENTRY_BYTES {
        return Err(FieldError::Truncated { field: "record table" });
    }
    let mut heads = Vec::with_capacity(count);
    let mut lsn = first_lsn;
    for _ in 0..count {
        heads.push(parse_entry(&mut reader, lsn)?);
        lsn =
            Lsn(lsn.0.checked_add(1).ok_or(FieldError::Value { field: "first_lsn", value: first_lsn.0 })?);
    }
    reader.finish()?;
    Ok(heads)
}

fn parse_entry(reader: &mut FieldReader<'_>, lsn: Lsn) -> Result<RecordHead, FieldError> {
    let kind = reader.coded("record kind", RecordKind::from_code)?;
    reader.reserved(7)?;
    let first = reader.u64("first block")?;
    let count = reader.u64("blocks")?;
    let end = first.checked_add(count).filter(|end| *end <= VOLUME_BYTES_MAX / BLOCK_BYTES);
    if count == 0 || end.is_none() || (kind == RecordKind::Write && count > RECORD_BLOCKS_MAX) {
        return Err(FieldError::Value { field: "blocks", value: count });
    }
    let sums = match kind {
        RecordKind::Write => {
            let sums = reader.take("block checksums", bytes_usize(count) * 4)?.chunks_exact(4);
            BlockSums::from_sums(
                sums.map(|sum| Crc32c(u32::from_le_bytes(sum.try_into().expect("four bytes")))),
            )
        }
        RecordKind::Zeroes | RecordKind::Trim => BlockSums::None,
    };
    Ok(RecordHead { lsn, kind, range: BlockRange::new(first, count), sums })
}
