//! Messages as bytes and back: [`Message::encode`] and [`Message::parse`]. Little-endian, no gaps but named
//! reserved ones, nothing behind the last field. docs/PROTOCOL.md shows every body as a byte table.
//!
//! Rule: a parsed message was checked in every field, and the payload of its records block by block.

mod read;
mod resync;
#[cfg(test)]
mod tests;

use bytes::Bytes;

use crate::checksum::Crc32c;
use crate::generation::split_brain::Discards;
use crate::layout::record_table::{RecordHead, RecordTableError, encode_record_table, parse_record_table};
use crate::peer::check::{check, check_batch};
use crate::peer::fields::{FieldError, FieldReader, FieldWriter, code_of, value_of};
use crate::peer::frame::{FRAME_HEADER_BYTES, FrameHeader, FrameStamp, OutboundFrame, ReceivedFrame};
use crate::peer::message::{
    Basis, Denial, FarewellReason, Message, PeerState, Progress, RecordBatch, VoteReply, VoteRequest,
    VoteStage,
};
use crate::peer::message_type::MessageType;
use crate::record::Record;
use crate::units::{BLOCK_SIZE, GenerationId, Lsn, NodeId, REPLICAS_MAX, Span, Term, bytes_usize};

/// Why a frame holds no message. The link is of no more use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// The body is not what its type says.
    #[error("a {message_type} message is refused: {reason}")]
    Body {
        /// Its type.
        message_type: MessageType,
        /// What is wrong.
        reason: FieldError,
    },
    /// The records of a Records message are not what they must be.
    #[error("a Records message is refused: {0}")]
    Table(#[from] RecordTableError),
    /// Blocks with a message that has none, or another number of blocks than the record table says.
    #[error("a {message_type} message has {found} bytes of payload instead of {expected}")]
    PayloadLength {
        /// Its type.
        message_type: MessageType,
        /// By the body.
        expected: usize,
        /// In the frame.
        found: usize,
    },
    /// A block is not the one that the Primary received. It must not reach a disk.
    #[error("block {block} of record {lsn} does not match its checksum")]
    PayloadMismatch {
        /// Of which record.
        lsn: Lsn,
        /// Which block of the volume.
        block: u64,
    },
}

/// Most runs of one DirtyRuns message.
pub const RUNS_MAX: usize = 2048;

const STAGES: [(VoteStage, u8); 2] = [(VoteStage::Ask, 1), (VoteStage::Take, 2)];
const REASONS: [(FarewellReason, u8); 5] = [
    (FarewellReason::Stopping, 1),
    (FarewellReason::Disconnected, 2),
    (FarewellReason::UnknownVoter, 3),
    (FarewellReason::StoppingOutdated, 4),
    (FarewellReason::DisconnectedOutdated, 5),
];

impl Message {
    /// Which message this is.
    #[must_use]
    pub fn message_type(&self) -> MessageType {
        match self {
            Self::State(_) => MessageType::State,
            Self::Heartbeat { .. } => MessageType::Heartbeat,
            Self::Records(_) => MessageType::Records,
            Self::NewGeneration { .. } => MessageType::NewGeneration,
            Self::Progress(_) => MessageType::Progress,
            Self::Flush { .. } => MessageType::Flush,
            Self::CatchUpFrom { .. } => MessageType::CatchUpFrom,
            Self::DirtyRuns { .. } => MessageType::DirtyRuns,
            Self::ResyncFrom { .. } => MessageType::ResyncFrom,
            Self::Copies(_) => MessageType::Copies,
            Self::CopiesFlushed { .. } => MessageType::CopiesFlushed,
            Self::ResyncEnd { .. } => MessageType::ResyncEnd,
            Self::Compare(_) => MessageType::Compare,
            Self::Compared(_) => MessageType::Compared,
            Self::ReadBlocks(_) => MessageType::ReadBlocks,
            Self::BlocksRead(_) => MessageType::BlocksRead,
            Self::SyncStatus { .. } => MessageType::SyncStatus,
            Self::VoteRequest(_) => MessageType::VoteRequest,
            Self::VoteReply(_) => MessageType::VoteReply,
            Self::RecordUpdate(_) => MessageType::RecordUpdate,
            Self::RecordStored(_) => MessageType::RecordStored,
            Self::RecordPassedOn(_) => MessageType::RecordPassedOn,
            Self::Farewell { .. } => MessageType::Farewell,
        }
    }

    /// The frame of this message. Payload is shared, never copied.
    ///
    /// # Panics
    /// The message is one that no receiver would take: a bug of the caller.
    #[must_use]
    pub fn encode(&self, stamp: FrameStamp) -> OutboundFrame {
        if let Err(reason) = check(self) {
            panic!("a {} message must not be sent: {reason}", self.message_type());
        }
        // The header is written last, into the room left for it: it holds the checksum of the body.
        let mut head = vec![0; FRAME_HEADER_BYTES];
        write_body(self, &mut head);
        let payloads = match self {
            Self::Records(batch) => payloads_of(&batch.records),
            Self::Copies(pieces) => payloads_of(pieces),
            Self::BlocksRead(blocks) => vec![blocks.payload.clone()],
            _ => Vec::new(),
        };
        let payload_bytes = payloads.iter().map(Bytes::len).sum();
        let header = FrameHeader::of(stamp, self.message_type(), &head[FRAME_HEADER_BYTES..], payload_bytes);
        head[..FRAME_HEADER_BYTES].copy_from_slice(&header.encode());
        OutboundFrame { head, payloads }
    }

    /// The message of `frame`. Records share the frame's payload, and every block of them was verified.
    ///
    /// # Errors
    /// The body or the payload is not what it must be; see [`MessageError`].
    pub fn parse(frame: &ReceivedFrame) -> Result<Self, MessageError> {
        let message_type = frame.message_type;
        let body_error = |reason| MessageError::Body { message_type, reason };
        match message_type {
            MessageType::Records => return parse_records(frame).map(Self::Records),
            MessageType::Copies => return parse_copies(frame).map(Self::Copies),
            MessageType::BlocksRead => return read::parse_blocks(frame),
            _ => {}
        }
        if !frame.payload.is_empty() {
            return Err(MessageError::PayloadLength {
                message_type,
                expected: 0,
                found: frame.payload.len(),
            });
        }
        let mut reader = FieldReader::new(&frame.body);
        let message = read_body(message_type, &mut reader).map_err(body_error)?;
        reader.finish().map_err(body_error)?;
        check(&message).map_err(body_error)?;
        Ok(message)
    }
}

fn payloads_of(records: &[Record]) -> Vec<Bytes> {
    let payloads = records.iter().map(|record| &record.payload);
    payloads.filter(|payload| !payload.is_empty()).cloned().collect()
}

fn write_body(message: &Message, out: &mut Vec<u8>) {
    let mut writer = FieldWriter::new(out);
    match message {
        Message::State(state) => write_state(state, &mut writer),
        Message::Heartbeat { role, disk, stable_up_to, flushed } => {
            writer.role(*role);
            writer.disk(*disk);
            writer.reserved(6);
            writer.lsn(*stable_up_to);
            for lsn in flushed {
                writer.lsn(*lsn);
            }
        }
        Message::Records(batch) => write_records(batch, out),
        Message::NewGeneration { generation: _, lineage } => writer.lineage(lineage),
        Message::Progress(progress) => {
            writer.lsn(progress.received);
            writer.lsn(progress.journaled);
            writer.lsn(progress.flushed);
            writer.lsn(progress.data_flushed);
            writer.u64(progress.window_bytes);
        }
        Message::Flush { up_to } => writer.lsn(*up_to),
        Message::CatchUpFrom { end } => writer.lsn(*end),
        Message::DirtyRuns { runs, is_last } => resync::write_runs(runs, *is_last, &mut writer),
        Message::ResyncFrom { start, lineage } => {
            writer.lsn(*start);
            writer.lineage(lineage);
        }
        Message::Copies(pieces) => write_copies(pieces, out),
        Message::CopiesFlushed { up_to } => writer.u64(*up_to),
        Message::ResyncEnd { consistent_at } => writer.lsn(*consistent_at),
        Message::Compare(question) => resync::write_comparison(question, &mut writer),
        Message::Compared(compared) => resync::write_compared(compared, &mut writer),
        Message::ReadBlocks(request) => read::write_request(request, &mut writer),
        Message::BlocksRead(blocks) => read::write_blocks(blocks, out),
        Message::SyncStatus { counts, is_paused } => resync::write_status(counts, *is_paused, &mut writer),
        Message::VoteRequest(request) => write_request(request, &mut writer),
        Message::VoteReply(reply) => write_reply(reply, &mut writer),
        Message::RecordUpdate(record) | Message::RecordStored(record) | Message::RecordPassedOn(record) => {
            writer.record(record)
        }
        Message::Farewell { reason } => {
            writer.u8(code_of(&REASONS, *reason));
            writer.reserved(7);
        }
    }
}

fn read_body(message_type: MessageType, reader: &mut FieldReader<'_>) -> Result<Message, FieldError> {
    Ok(match message_type {
        MessageType::State => Message::State(Box::new(read_state(reader)?)),
        MessageType::Heartbeat => {
            let (role, disk) = (reader.role()?, reader.disk()?);
            reader.reserved(6)?;
            let stable_up_to = reader.lsn("stable_up_to")?;
            let mut flushed = [Lsn::ZERO; REPLICAS_MAX];
            for lsn in &mut flushed {
                *lsn = reader.lsn("flushed")?;
            }
            Message::Heartbeat { role, disk, stable_up_to, flushed }
        }
        MessageType::Records | MessageType::Copies | MessageType::BlocksRead => {
            unreachable!("what has a payload has a parser of its own")
        }
        MessageType::NewGeneration => {
            let lineage = reader.lineage()?;
            let none = FieldError::Value { field: "lineage length", value: 0 };
            let generation = *lineage.newest().ok_or(none)?;
            Message::NewGeneration { generation, lineage }
        }
        MessageType::Progress => Message::Progress(Progress {
            received: reader.lsn("received")?,
            journaled: reader.lsn("journaled")?,
            flushed: reader.lsn("flushed")?,
            data_flushed: reader.lsn("data_flushed")?,
            window_bytes: reader.u64("window_bytes")?,
        }),
        MessageType::Flush => Message::Flush { up_to: reader.lsn("up_to")? },
        MessageType::CatchUpFrom => Message::CatchUpFrom { end: reader.lsn("end")? },
        MessageType::DirtyRuns => resync::read_runs(reader)?,
        MessageType::ResyncFrom => {
            Message::ResyncFrom { start: reader.lsn("start")?, lineage: reader.lineage()? }
        }
        MessageType::CopiesFlushed => Message::CopiesFlushed { up_to: reader.u64("up_to")? },
        MessageType::ResyncEnd => Message::ResyncEnd { consistent_at: reader.lsn("consistent_at")? },
        MessageType::Compare => Message::Compare(resync::read_comparison(reader)?),
        MessageType::Compared => Message::Compared(resync::read_compared(reader)?),
        MessageType::ReadBlocks => Message::ReadBlocks(read::read_request(reader)?),
        MessageType::SyncStatus => resync::read_status(reader)?,
        MessageType::VoteRequest => Message::VoteRequest(Box::new(read_request(reader)?)),
        MessageType::VoteReply => Message::VoteReply(Box::new(read_reply(reader)?)),
        MessageType::RecordUpdate => Message::RecordUpdate(Box::new(reader.record()?)),
        MessageType::RecordStored => Message::RecordStored(Box::new(reader.record()?)),
        MessageType::RecordPassedOn => Message::RecordPassedOn(Box::new(reader.record()?)),
        MessageType::Farewell => {
            let reason = reader.coded("reason", |code| value_of(&REASONS, code))?;
            reader.reserved(7)?;
            Message::Farewell { reason }
        }
    })
}

fn write_state(state: &PeerState, writer: &mut FieldWriter<'_>) {
    writer.u64(state.volume_bytes);
    writer.role(state.role);
    writer.disk(state.disk);
    writer.u8(u8::from(state.has_dirty_bits));
    writer.u8(u8::from(state.follows_another));
    writer.u32(state.introduction);
    writer.lsn(state.end);
    writer.lsn(state.flushed);
    writer.lsn(state.stable);
    writer.lsn(state.oldest_kept);
    writer.u64(state.base.0.0);
    writer.lsn(state.base.1);
    writer.u64(state.incarnation.0);
    writer.continues(state.continues);
    writer.u64(state.configuration_digest);
    writer.replica(state.resync_from);
    writer.replica(Some(state.node));
    writer.u8(code_of(&Discards::ALL, state.discards));
    writer.u8(u8::from(state.is_tentative));
    writer.reserved(4);
    writer.record(&state.record);
    writer.lineage(&state.lineage);
}

fn read_state(reader: &mut FieldReader<'_>) -> Result<PeerState, FieldError> {
    let volume_bytes = reader.u64("volume_bytes")?;
    let (role, disk) = (reader.role()?, reader.disk()?);
    let has_dirty_bits = reader.flag("has_dirty_bits")?;
    let follows_another = reader.flag("follows_another")?;
    Ok(PeerState {
        introduction: reader.counter_u32("introduction")?,
        volume_bytes,
        role,
        disk,
        has_dirty_bits,
        follows_another,
        end: reader.lsn("end")?,
        flushed: reader.lsn("flushed")?,
        stable: reader.lsn("stable")?,
        oldest_kept: reader.lsn("oldest_kept")?,
        base: (GenerationId(reader.u64("base generation")?), reader.lsn("base")?),
        incarnation: reader.incarnation()?,
        continues: reader.continues()?,
        configuration_digest: reader.u64("configuration_digest")?,
        resync_from: reader.replica("resync_from")?,
        node: reader.replica("node")?.ok_or(FieldError::Value { field: "node", value: u64::MAX })?,
        discards: reader.coded("discards", |code| value_of(&Discards::ALL, code))?,
        is_tentative: read_is_tentative(reader)?,
        record: reader.record()?,
        lineage: reader.lineage()?,
    })
}

fn read_is_tentative(reader: &mut FieldReader<'_>) -> Result<bool, FieldError> {
    let is_tentative = reader.flag("is_tentative")?;
    reader.reserved(4)?;
    Ok(is_tentative)
}

fn write_copies(pieces: &[Record], out: &mut Vec<u8>) {
    let mut writer = FieldWriter::new(out);
    writer.lsn(pieces.first().expect("checked: there is a piece").lsn);
    writer.u32(u32::try_from(pieces.len()).expect("the body is bounded"));
    writer.reserved(4);
    encode_record_table(pieces, out);
}

fn parse_copies(frame: &ReceivedFrame) -> Result<Vec<Record>, MessageError> {
    let mut reader = FieldReader::new(&frame.body);
    let (first, count) = read_copies(&mut reader)
        .map_err(|reason| MessageError::Body { message_type: frame.message_type, reason })?;
    parse_table(frame, reader.rest(), first, count)
}

fn read_copies(reader: &mut FieldReader<'_>) -> Result<(Lsn, usize), FieldError> {
    let first = reader.lsn("first_piece")?;
    let count = bytes_usize(reader.u32("count")?.into());
    reader.reserved(4)?;
    match first {
        Lsn::ZERO => Err(FieldError::Value { field: "first_piece", value: 0 }),
        first => Ok((first, count)),
    }
}

fn write_records(batch: &RecordBatch, out: &mut Vec<u8>) {
    let first = batch.records.first().expect("checked: a batch has records").lsn;
    let mut writer = FieldWriter::new(out);
    writer.u64(batch.generation.0);
    writer.lsn(batch.stable_up_to);
    writer.lsn(first);
    writer.u32(u32::try_from(batch.records.len()).expect("the body is bounded"));
    writer.reserved(4);
    encode_record_table(&batch.records, out);
}

fn parse_records(frame: &ReceivedFrame) -> Result<RecordBatch, MessageError> {
    let message_type = MessageType::Records;
    let body_error = |reason| MessageError::Body { message_type, reason };
    let (mut batch, first_lsn, count, table) = read_records(&frame.body).map_err(body_error)?;
    batch.records = parse_table(frame, table, first_lsn, count)?;
    check_batch(&batch).map_err(body_error)?;
    Ok(batch)
}

/// Numbered blocks with their payload, every one of them verified.
fn parse_table(
    frame: &ReceivedFrame,
    table: &[u8],
    first: Lsn,
    count: usize,
) -> Result<Vec<Record>, MessageError> {
    let heads = parse_record_table(table, first, count)?;
    let (expected, found) = (heads.iter().map(RecordHead::payload_bytes).sum(), frame.payload.len());
    if found != expected {
        return Err(MessageError::PayloadLength { message_type: frame.message_type, expected, found });
    }
    let mut at = 0;
    let mut records = Vec::with_capacity(heads.len());
    for head in heads {
        let end = at + head.payload_bytes();
        let record = head.with_payload(frame.payload.slice(at..end));
        verify(&record)?;
        records.push(record);
        at = end;
    }
    Ok(records)
}

/// Everything before the record table; the batch has no records yet.
fn read_records(body: &[u8]) -> Result<(RecordBatch, Lsn, usize, &[u8]), FieldError> {
    let mut reader = FieldReader::new(body);
    let generation = GenerationId(reader.u64("generation")?);
    let stable_up_to = reader.lsn("stable_up_to")?;
    let first_lsn = reader.lsn("first_lsn")?;
    let count = bytes_usize(reader.u32("count")?.into());
    reader.reserved(4)?;
    Ok((RecordBatch { generation, stable_up_to, records: Vec::new() }, first_lsn, count, reader.rest()))
}

/// A record whose payload is not what the Primary received never reaches a disk.
fn verify(record: &Record) -> Result<(), MessageError> {
    let blocks = record.payload.chunks_exact(BLOCK_SIZE).zip(record.sums.as_slice());
    for (block, (bytes, sum)) in (record.range.first..).zip(blocks) {
        if Crc32c::of(bytes) != *sum {
            return Err(MessageError::PayloadMismatch { lsn: record.lsn, block });
        }
    }
    Ok(())
}

fn write_request(request: &VoteRequest, writer: &mut FieldWriter<'_>) {
    writer.u64(request.round);
    writer.u8(code_of(&STAGES, request.stage));
    writer.u8(request.candidate.0);
    let (basis, continues) = match request.basis {
        Basis::First => (1, None),
        Basis::Member { continues } => (2, Some(continues)),
        Basis::AllReported => (3, None),
        Basis::Agreement => (4, None),
    };
    writer.u8(basis);
    writer.u8(u8::from(request.peer_is_fenced));
    writer.reserved(4);
    writer.u64(request.incarnation.0);
    writer.continues(continues);
    writer.position(request.position);
    writer.record(&request.record);
}

fn read_request(reader: &mut FieldReader<'_>) -> Result<VoteRequest, FieldError> {
    let round = reader.u64("round")?;
    let stage = reader.coded("stage", |code| value_of(&STAGES, code))?;
    let candidate = NodeId(reader.u8("candidate")?);
    let basis = reader.u8("basis")?;
    let peer_is_fenced = reader.flag("peer_is_fenced")?;
    reader.reserved(4)?;
    let incarnation = reader.incarnation()?;
    let basis = match (basis, reader.continues()?) {
        (1, None) => Basis::First,
        (2, Some(continues)) => Basis::Member { continues },
        (3, None) => Basis::AllReported,
        (4, None) => Basis::Agreement,
        (basis, _) => return Err(FieldError::Value { field: "basis", value: basis.into() }),
    };
    let (position, record) = (reader.position()?, reader.record()?);
    Ok(VoteRequest { round, stage, candidate, incarnation, basis, position, record, peer_is_fenced })
}

fn write_reply(reply: &VoteReply, writer: &mut FieldWriter<'_>) {
    writer.u64(reply.round);
    writer.u8(code_of(&STAGES, reply.stage));
    let (code, first, second) = vote_fields(reply.vote);
    writer.u8(code);
    writer.reserved(6);
    writer.u64(first);
    writer.u64(second);
    writer.u64(reply.incarnation.0);
    writer.continues(reply.continues);
    writer.position(reply.position);
    writer.record(&reply.record);
}

fn read_reply(reader: &mut FieldReader<'_>) -> Result<VoteReply, FieldError> {
    let round = reader.u64("round")?;
    let stage = reader.coded("stage", |code| value_of(&STAGES, code))?;
    let code = reader.u8("vote")?;
    reader.reserved(6)?;
    let vote = vote_from(code, reader.u64("vote value")?, reader.u64("vote value")?)?;
    let (incarnation, continues) = (reader.incarnation()?, reader.continues()?);
    let (position, record) = (reader.position()?, reader.record()?);
    Ok(VoteReply { round, stage, vote, record, position, incarnation, continues })
}

/// A vote as a number and two values; a value without meaning is zero.
fn vote_fields(vote: Result<(), Denial>) -> (u8, u64, u64) {
    match vote {
        Ok(()) => (0, 0, 0),
        Err(Denial::Lease { remaining }) => (1, remaining.0, 0),
        Err(Denial::PrimaryLives { primary }) => (2, primary.0.into(), 0),
        Err(Denial::NotAMember { term }) => (3, term.number, term.taker),
        Err(Denial::Behind { lsn }) => (4, lsn.0, 0),
        Err(Denial::OlderTerm { term }) => (5, term.number, term.taker),
        Err(Denial::EmptyRecord) => (6, 0, 0),
        Err(Denial::OtherVoters) => (7, 0, 0),
        Err(Denial::MemberLives { member }) => (8, member.0.into(), 0),
        Err(Denial::NotInSync { lsn }) => (9, lsn.0, 0),
    }
}

fn vote_from(code: u8, first: u64, second: u64) -> Result<Result<(), Denial>, FieldError> {
    let node = || u8::try_from(first).ok().map(NodeId);
    let node = || node().ok_or(FieldError::Value { field: "vote value", value: first });
    let vote = match code {
        0 => Ok(()),
        1 => Err(Denial::Lease { remaining: Span(first) }),
        2 => Err(Denial::PrimaryLives { primary: node()? }),
        3 => Err(Denial::NotAMember { term: Term { number: first, taker: second } }),
        4 => Err(Denial::Behind { lsn: Lsn(first) }),
        5 => Err(Denial::OlderTerm { term: Term { number: first, taker: second } }),
        6 => Err(Denial::EmptyRecord),
        7 => Err(Denial::OtherVoters),
        8 => Err(Denial::MemberLives { member: node()? }),
        9 => Err(Denial::NotInSync { lsn: Lsn(first) }),
        _ => return Err(FieldError::Value { field: "vote", value: code.into() }),
    };
    // Values that the vote has no use for must be zero, so that every message has one encoding.
    if vote_fields(vote) != (code, first, second) {
        return Err(FieldError::Value { field: "vote value", value: first | second });
    }
    Ok(vote)
}
