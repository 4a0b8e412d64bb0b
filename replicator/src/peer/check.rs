//! What a message must fulfil besides its layout. The sender asserts it and the receiver checks it with the
//! same functions, so that no node says what none would take.

use crate::peer::codec::RUNS_MAX;
use crate::peer::fields::{FieldError, check_record};
use crate::peer::message::{
    Basis, Denial, Message, PeerState, Progress, RecordBatch, VoteReply, VoteRequest,
};
use crate::promotion::membership::MembershipRecord;
use crate::record::RecordKind;
use crate::remote_read::READ_BLOCKS_MAX;
use crate::resync::COPY_BLOCKS_MAX;
use crate::state::Role;
use crate::units::{BLOCK_BYTES, Lsn, REPLICAS_MAX, VOLUME_BYTES_MAX, VOLUME_BYTES_MIN, bytes_u64};

/// Whether the values of `message` belong together.
pub(super) fn check(message: &Message) -> Result<(), FieldError> {
    match message {
        Message::State(state) => check_state(state),
        Message::Heartbeat { role, disk: _, stable_up_to, flushed } => {
            let from_primary = *role == Role::Primary;
            require(from_primary || *stable_up_to == Lsn::ZERO, "stable_up_to", stable_up_to.0)?;
            let newest = flushed.iter().max().copied().unwrap_or_default();
            require(from_primary || newest == Lsn::ZERO, "flushed", newest.0)
        }
        Message::Records(batch) => check_batch(batch),
        Message::NewGeneration { generation, lineage } => {
            require(lineage.newest() == Some(generation), "generation", generation.id.0)
        }
        Message::Progress(progress) => check_progress(progress),
        Message::DirtyRuns { runs, is_last: _ } => {
            require(runs.len() <= RUNS_MAX, "count", bytes_u64(runs.len()))
        }
        Message::ResyncFrom { start: _, lineage } => require(!lineage.is_empty(), "lineage length", 0),
        Message::Copies(pieces) => {
            let first = pieces.first().map_or(Lsn::ZERO, |piece| piece.lsn);
            require(first != Lsn::ZERO, "first_piece", 0)
        }
        Message::Compare(question) => {
            require(question.number > 0, "number", 0)?;
            let (blocks, digests) = (question.range.count, bytes_u64(question.digests.len()));
            require(blocks == digests && blocks <= COPY_BLOCKS_MAX, "count", blocks)
        }
        Message::Compared(compared) => require(compared.number > 0, "number", 0),
        Message::ReadBlocks(request) => {
            require(request.number > 0, "number", 0)?;
            require(request.range.count <= READ_BLOCKS_MAX, "count", request.range.count)
        }
        Message::BlocksRead(blocks) => {
            require(blocks.lsn != Lsn::ZERO, "number", 0)?;
            require(blocks.kind == RecordKind::Write, "kind", blocks.kind.code().into())
        }
        Message::SyncStatus { counts, is_paused: _ } => {
            require(counts.left <= VOLUME_BYTES_MAX, "left", counts.left)?;
            require(counts.done.checked_add(counts.left).is_some(), "done", counts.done)
        }
        Message::Flush { up_to: _ }
        | Message::CatchUpFrom { end: _ }
        | Message::CopiesFlushed { up_to: _ }
        | Message::ResyncEnd { consistent_at: _ }
        | Message::Farewell { reason: _ } => Ok(()),
        Message::VoteRequest(request) => check_request(request),
        Message::VoteReply(reply) => check_reply(reply),
        Message::RecordUpdate(record) | Message::RecordPassedOn(record) => {
            require(!record.is_empty(), "term number", 0)?;
            check_record(record)
        }
        Message::RecordStored(record) => check_record(record),
    }
}

fn require(holds: bool, field: &'static str, value: u64) -> Result<(), FieldError> {
    if holds { Ok(()) } else { Err(FieldError::Value { field, value }) }
}

/// A batch belongs to a generation and begins with a write. Its table checks the rest of its records.
pub(super) fn check_batch(batch: &RecordBatch) -> Result<(), FieldError> {
    require(batch.generation.0 != 0, "generation", 0)?;
    let first = batch.records.first().map_or(Lsn::ZERO, |record| record.lsn);
    require(first != Lsn::ZERO, "first_lsn", 0)
}

fn check_state(state: &PeerState) -> Result<(), FieldError> {
    require(state.introduction > 0, "introduction", 0)?;
    let volume = state.volume_bytes;
    let is_lawful =
        (VOLUME_BYTES_MIN..=VOLUME_BYTES_MAX).contains(&volume) && volume.is_multiple_of(BLOCK_BYTES);
    require(is_lawful, "volume_bytes", volume)?;
    require(state.flushed <= state.end, "flushed", state.flushed.0)?;
    require(state.stable <= state.end, "stable", state.stable.0)?;
    let kept = state.oldest_kept;
    require(kept > Lsn::ZERO && kept.previous() <= state.end, "oldest_kept", kept.0)?;
    require(state.base.0.0 != 0 || state.base.1 == Lsn::ZERO, "base", state.base.1.0)?;
    require(state.incarnation.0 != 0, "incarnation", 0)?;
    require(!(state.follows_another && state.role == Role::Primary), "follows_another", 1)?;
    check_record(&state.record)
}

/// Nothing is journaled before it is received, nor flushed before it is journaled, nor in the data area
/// before it is flushed (I3).
fn check_progress(progress: &Progress) -> Result<(), FieldError> {
    require(progress.journaled <= progress.received, "journaled", progress.journaled.0)?;
    require(progress.flushed <= progress.journaled, "flushed", progress.flushed.0)?;
    require(progress.data_flushed <= progress.flushed, "data_flushed", progress.data_flushed.0)
}

fn check_request(request: &VoteRequest) -> Result<(), FieldError> {
    let candidate = request.candidate;
    require(candidate.index() < REPLICAS_MAX, "candidate", candidate.0.into())?;
    require(request.incarnation.0 != 0, "incarnation", 0)?;
    if let Basis::Member { continues } = request.basis {
        require(continues.0 != 0, "continues", 0)?;
    }
    check_record(&request.record)?;
    check_candidacy(&request.record, request)
}

/// The record of a promotion makes the candidate Primary and a member, as the run that asks.
fn check_candidacy(record: &MembershipRecord, request: &VoteRequest) -> Result<(), FieldError> {
    require(!record.is_empty(), "term number", 0)?;
    require(record.primary == Some(request.candidate), "primary", request.candidate.0.into())?;
    let member = record.in_sync.incarnation_of(request.candidate);
    require(member == Some(request.incarnation), "in-sync set", request.incarnation.0)
}

fn check_reply(reply: &VoteReply) -> Result<(), FieldError> {
    if let Err(Denial::PrimaryLives { primary }) = reply.vote {
        require(primary.index() < REPLICAS_MAX, "denial primary", primary.0.into())?;
    }
    check_record(&reply.record)
}
