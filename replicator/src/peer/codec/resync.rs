//! The bodies of a resync's messages: runs of marked blocks, comparisons and their answers.

use crate::peer::codec::RUNS_MAX;
use crate::peer::fields::{FieldError, FieldReader, FieldWriter};
use crate::peer::message::Message;
use crate::resync::digest::{BlockDigest, Comparison, DIGEST_BYTES};
use crate::resync::pace::SyncCounts;
use crate::resync::target::Compared;
use crate::resync::{COPY_BLOCKS_MAX, Differing};
use crate::units::{BLOCK_BYTES, BlockRange, VOLUME_BYTES_MAX, bytes_usize};

pub(super) fn write_runs(runs: &[BlockRange], is_last: bool, writer: &mut FieldWriter<'_>) {
    writer.u8(u8::from(is_last));
    writer.reserved(3);
    writer.u32(u32::try_from(runs.len()).expect("the body is bounded"));
    for run in runs {
        writer.u64(run.first);
        writer.u64(run.count);
    }
}

pub(super) fn read_runs(reader: &mut FieldReader<'_>) -> Result<Message, FieldError> {
    let is_last = reader.flag("is_last")?;
    reader.reserved(3)?;
    let count = reader.u32("count")?;
    // Nothing is allocated for a count that is not legal.
    let length = usize::try_from(count).ok().filter(|length| *length <= RUNS_MAX);
    let length = length.ok_or(FieldError::Value { field: "count", value: count.into() })?;
    let mut runs = Vec::with_capacity(length);
    for _ in 0..length {
        let (first, count) = (reader.u64("first_block")?, reader.u64("block_count")?);
        runs.push(range(first, count)?);
    }
    Ok(Message::DirtyRuns { runs, is_last })
}

/// Blocks that a volume may have.
pub(super) fn range(first: u64, count: u64) -> Result<BlockRange, FieldError> {
    let blocks_max = VOLUME_BYTES_MAX / BLOCK_BYTES;
    let is_legal = first < blocks_max && (1..=blocks_max - first).contains(&count);
    let illegal = FieldError::Value { field: "block_count", value: count };
    is_legal.then(|| BlockRange::new(first, count)).ok_or(illegal)
}

pub(super) fn write_comparison(question: &Comparison, writer: &mut FieldWriter<'_>) {
    writer.u64(question.number);
    writer.u64(question.range.first);
    writer.u32(u32::try_from(question.range.count).expect("the body is bounded"));
    writer.reserved(4);
    for digest in &question.digests {
        writer.bytes(&digest.0);
    }
}

pub(super) fn read_comparison(reader: &mut FieldReader<'_>) -> Result<Comparison, FieldError> {
    let number = reader.u64("number")?;
    let first = reader.u64("first_block")?;
    let count = u64::from(reader.u32("count")?);
    reader.reserved(4)?;
    let range = range(first, count)?;
    if count > COPY_BLOCKS_MAX {
        return Err(FieldError::Value { field: "count", value: count });
    }
    let mut digests = Vec::with_capacity(bytes_usize(count));
    for _ in 0..count {
        let digest = reader.take("digests", DIGEST_BYTES)?;
        digests.push(BlockDigest(digest.try_into().expect("as many as were taken")));
    }
    Ok(Comparison { number, range, digests })
}

pub(super) fn write_compared(compared: &Compared, writer: &mut FieldWriter<'_>) {
    writer.u64(compared.number);
    writer.bytes(&compared.differing.0);
}

pub(super) fn read_compared(reader: &mut FieldReader<'_>) -> Result<Compared, FieldError> {
    let number = reader.u64("number")?;
    let differing = reader.take("differing", Differing::BYTES)?;
    Ok(Compared { number, differing: Differing(differing.try_into().expect("as many as were taken")) })
}

pub(super) fn write_status(counts: &SyncCounts, is_paused: bool, writer: &mut FieldWriter<'_>) {
    writer.u64(counts.done);
    writer.u64(counts.left);
    writer.u64(counts.same);
    writer.u8(u8::from(is_paused));
    writer.reserved(7);
}

pub(super) fn read_status(reader: &mut FieldReader<'_>) -> Result<Message, FieldError> {
    let counts =
        SyncCounts { done: reader.u64("done")?, left: reader.u64("left")?, same: reader.u64("same")? };
    let is_paused = reader.flag("is_paused")?;
    reader.reserved(7)?;
    Ok(Message::SyncStatus { counts, is_paused })
}
