//! Every message comes back as it was sent, and nothing else comes through.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::checksum::BlockSums;
use crate::generation::lineage::{Generation, Lineage, Position};
use crate::generation::split_brain::Discards;
use crate::promotion::membership::{InSyncSet, MembershipRecord, VoterList};
use crate::record::RecordKind;
use crate::remote_read::ReadRequest;
use crate::resync::Differing;
use crate::resync::digest::{BlockDigest, Comparison};
use crate::resync::pace::SyncCounts;
use crate::resync::target::Compared;
use crate::state::{DiskState, Role};
use crate::units::{BlockRange, Incarnation, Tick, VOLUME_BYTES_MAX, VOTERS_MAX, VoterId, bytes_u64};

const STAMP: FrameStamp = FrameStamp { term: Term { number: 4, taker: 9 }, clock: Tick(17), echo: Tick(12) };

fn received(frame: &OutboundFrame) -> ReceivedFrame {
    let (header, body) = frame.head.split_at(FRAME_HEADER_BYTES);
    let header = FrameHeader::parse(header.try_into().expect("64 bytes")).expect("a header");
    let payload = Bytes::from(frame.payloads.concat());
    ReceivedFrame::assemble(header, Bytes::copy_from_slice(body), payload).expect("a frame")
}

fn with_body(frame: &ReceivedFrame, body: &[u8]) -> ReceivedFrame {
    ReceivedFrame { body: Bytes::copy_from_slice(body), ..frame.clone() }
}

fn term() -> impl Strategy<Value = Term> {
    (1..9u64, any::<u64>()).prop_map(|(number, taker)| Term { number, taker })
}

fn incarnation() -> impl Strategy<Value = Incarnation> {
    (1..=u64::MAX).prop_map(Incarnation)
}

fn lsn() -> impl Strategy<Value = Lsn> {
    prop_oneof![0..200u64, 0..1u64 << 63].prop_map(Lsn)
}

fn position() -> impl Strategy<Value = Position> {
    let somewhere = (term(), lsn(), lsn(), 1..=u64::MAX).prop_map(|(term, first_lsn, lsn, generation)| {
        Position { term, first_lsn, lsn, generation: GenerationId(generation) }
    });
    prop_oneof![Just(Position::default()), somewhere]
}

fn lineage() -> impl Strategy<Value = Lineage> {
    vec((1..=u64::MAX, 0..3u64, any::<bool>()), 1..64).prop_map(|steps| {
        let mut number = 0;
        let generations = steps.into_iter().map(|(id, step, granted)| {
            number += step;
            let taker = if number == 0 { 0 } else { 7 };
            let (term, first_lsn) = (Term { number, taker }, Lsn(number * 10 + 1));
            Generation { id: GenerationId(id), term, granted, first_lsn }
        });
        Lineage::parse(generations.collect()).expect("in order")
    })
}

fn full_record() -> impl Strategy<Value = MembershipRecord> {
    let members = vec(proptest::option::of(incarnation()), 8)
        .prop_filter("the set is never empty", |members| members.iter().any(Option::is_some));
    let primary = proptest::option::of((0..8u8).prop_map(NodeId));
    // Whoever a record names is among its voters.
    let parts = (term(), 0..(1u64 << 63), primary, members, vec(1..=u64::MAX, VOTERS_MAX));
    parts.prop_map(|(term, version, primary, members, ids)| {
        let members = (0u8..).zip(members).filter_map(|(node, member)| Some((NodeId(node), member?)));
        let in_sync = members.fold(InSyncSet::default(), |set, (node, member)| set.with(node, member));
        let mut voters = VoterList::default();
        voters.ids.iter_mut().zip(ids).for_each(|(id, value)| *id = VoterId(value));
        MembershipRecord { term, version, primary, in_sync, voters }
    })
}

fn record() -> impl Strategy<Value = MembershipRecord> {
    let empty = any::<u64>().prop_map(|id| {
        let mut voters = VoterList::default();
        voters.ids[2] = VoterId(id);
        MembershipRecord { voters, ..MembershipRecord::default() }
    });
    prop_oneof![1 => empty, 4 => full_record()]
}

fn role() -> impl Strategy<Value = Role> {
    prop_oneof![Just(Role::Primary), Just(Role::Secondary)]
}

fn disk() -> impl Strategy<Value = DiskState> {
    use DiskState::{Consistent, Diskless, Failed, Inconsistent, Outdated, UpToDate};
    proptest::sample::select(vec![Diskless, Failed, Inconsistent, Outdated, Consistent, UpToDate])
}

fn state() -> impl Strategy<Value = Message> {
    let ids = (1..(1u32 << 31), 256..(1u64 << 32), any::<[bool; 2]>(), any::<u64>());
    let ends = vec(1..1000u64, 3).prop_map(|mut ends| {
        ends.sort_unstable();
        ends
    });
    let base = (1..=u64::MAX, lsn());
    let run = (incarnation(), proptest::option::of(incarnation()));
    (ids, role(), disk(), lineage(), ends, base, run, record()).prop_map(
        |((introduction, blocks, flags, digest), role, disk, lineage, ends, base, run, record)| {
            Message::State(Box::new(PeerState {
                introduction,
                node: NodeId(2),
                volume_bytes: blocks * 4096,
                role,
                disk,
                lineage,
                end: Lsn(ends[2]),
                flushed: Lsn(ends[1]),
                stable: Lsn(ends[1]),
                oldest_kept: Lsn(ends[0]),
                base: (GenerationId(base.0), base.1),
                has_dirty_bits: flags[0],
                follows_another: flags[1] && role == Role::Secondary,
                discards: if flags[1] { Discards::Changes } else { Discards::Everything },
                record,
                incarnation: run.0,
                continues: run.1,
                resync_from: flags[0].then_some(NodeId(3)),
                is_tentative: flags[0],
                configuration_digest: digest,
            }))
        },
    )
}

fn heartbeat() -> impl Strategy<Value = Message> {
    (role(), disk(), lsn(), vec(lsn(), REPLICAS_MAX)).prop_map(|(role, disk, stable_up_to, flushed)| {
        match role {
            Role::Primary => {
                let flushed = flushed.try_into().expect("as many as replicas");
                Message::Heartbeat { role, disk, stable_up_to, flushed }
            }
            Role::Secondary | Role::Unknown => {
                Message::Heartbeat { role, disk, stable_up_to: Lsn::ZERO, flushed: [Lsn::ZERO; REPLICAS_MAX] }
            }
        }
    })
}

fn numbered_records() -> impl Strategy<Value = Vec<Record>> {
    let record = (0..3usize, 0..1000u64, 1..4u8, any::<u8>());
    (1..1000u64, vec(record, 1..8)).prop_map(|(first, records)| {
        let numbered = (first..).map(Lsn).zip(records);
        let records = numbered.map(|(lsn, (kind, block, count, fill))| {
            let range = BlockRange::new(block, count.into());
            match RecordKind::ALL[kind].0 {
                RecordKind::Write => {
                    let payload = vec![fill; usize::from(count) * BLOCK_SIZE];
                    Record::write(lsn, range, Bytes::from(payload))
                }
                kind @ (RecordKind::Zeroes | RecordKind::Trim) => Record::zero(lsn, kind, range),
            }
        });
        records.collect()
    })
}

fn records() -> impl Strategy<Value = Message> {
    (1..=u64::MAX, lsn(), numbered_records()).prop_map(|(generation, stable_up_to, records)| {
        Message::Records(RecordBatch { generation: GenerationId(generation), stable_up_to, records })
    })
}

fn comparison((number, first, digests): (u64, u64, Vec<[u8; 32]>)) -> Message {
    let range = BlockRange::new(first, bytes_u64(digests.len()));
    Message::Compare(Comparison { number, range, digests: digests.into_iter().map(BlockDigest).collect() })
}

/// Messages of a resync.
fn resync() -> impl Strategy<Value = Message> {
    let run = (0..1_000_000u64, 1..1000u64).prop_map(|(first, count)| BlockRange::new(first, count));
    prop_oneof![
        (vec(run, 0..20), any::<bool>()).prop_map(|(runs, is_last)| Message::DirtyRuns { runs, is_last }),
        (lsn(), lineage()).prop_map(|(start, lineage)| Message::ResyncFrom { start, lineage }),
        numbered_records().prop_map(Message::Copies),
        any::<u64>().prop_map(|up_to| Message::CopiesFlushed { up_to }),
        lsn().prop_map(|consistent_at| Message::ResyncEnd { consistent_at }),
        (1..=u64::MAX, 0..1_000_000u64, vec(any::<[u8; 32]>(), 1..20)).prop_map(comparison),
        (1..=u64::MAX, 0..1_000_000u64, 1..=256u64).prop_map(|(number, first, count)| {
            Message::ReadBlocks(ReadRequest { number, range: BlockRange::new(first, count) })
        }),
        (1..=1u64 << 60, 0..1_000_000u64, 1..4usize, any::<u8>()).prop_map(|(number, first, count, byte)| {
            let (range, payload) = (BlockRange::new(first, bytes_u64(count)), vec![byte; count * BLOCK_SIZE]);
            Message::BlocksRead(Box::new(Record::write(Lsn(number), range, payload.into())))
        }),
        (1..=u64::MAX, any::<[u8; 32]>()).prop_map(|(number, differing)| {
            Message::Compared(Compared { number, differing: Differing(differing) })
        }),
        (0..=u64::MAX / 2, 0..=VOLUME_BYTES_MAX, any::<u64>(), any::<bool>()).prop_map(
            |(done, left, same, is_paused)| {
                Message::SyncStatus { counts: SyncCounts { done, left, same }, is_paused }
            }
        ),
    ]
}

fn progress() -> impl Strategy<Value = Message> {
    (vec(0..1u64 << 63, 4), any::<u64>()).prop_map(|(mut steps, window_bytes)| {
        steps.sort_unstable();
        let [data_flushed, flushed, journaled, received] = [0, 1, 2, 3].map(|at| Lsn(steps[at]));
        Message::Progress(Progress { received, journaled, flushed, data_flushed, window_bytes })
    })
}

fn stage() -> impl Strategy<Value = VoteStage> {
    prop_oneof![Just(VoteStage::Ask), Just(VoteStage::Take)]
}

fn request() -> impl Strategy<Value = Message> {
    let basis = prop_oneof![
        Just(Basis::First),
        Just(Basis::AllReported),
        Just(Basis::Agreement),
        incarnation().prop_map(|continues| Basis::Member { continues }),
    ];
    let parts =
        (any::<u64>(), stage(), 0..8u8, incarnation(), basis, position(), full_record(), any::<bool>());
    parts.prop_map(|(round, stage, node, incarnation, basis, position, mut record, peer_is_fenced)| {
        let candidate = NodeId(node);
        record.primary = Some(candidate);
        record.in_sync = record.in_sync.with(candidate, incarnation);
        Message::VoteRequest(Box::new(VoteRequest {
            round,
            stage,
            candidate,
            incarnation,
            basis,
            position,
            record,
            peer_is_fenced,
        }))
    })
}

fn denial() -> impl Strategy<Value = Denial> {
    let node = || (0..8u8).prop_map(NodeId);
    prop_oneof![
        any::<u64>().prop_map(|remaining| Denial::Lease { remaining: Span(remaining) }),
        node().prop_map(|primary| Denial::PrimaryLives { primary }),
        term().prop_map(|term| Denial::NotAMember { term }),
        lsn().prop_map(|lsn| Denial::Behind { lsn }),
        term().prop_map(|term| Denial::OlderTerm { term }),
        Just(Denial::EmptyRecord),
        Just(Denial::OtherVoters),
        node().prop_map(|member| Denial::MemberLives { member }),
        lsn().prop_map(|lsn| Denial::NotInSync { lsn }),
    ]
}

fn reply() -> impl Strategy<Value = Message> {
    let vote = prop_oneof![Just(Ok(())), denial().prop_map(Err)];
    let run = (any::<u64>(), proptest::option::of(incarnation()));
    (any::<u64>(), stage(), vote, record(), position(), run).prop_map(
        |(round, stage, vote, record, position, (incarnation, continues))| {
            let incarnation = Incarnation(incarnation);
            Message::VoteReply(Box::new(VoteReply {
                round,
                stage,
                vote,
                record,
                position,
                incarnation,
                continues,
            }))
        },
    )
}

/// Messages of every kind.
fn message() -> impl Strategy<Value = Message> {
    let new_generation = lineage().prop_map(|lineage| {
        let generation = *lineage.newest().expect("not empty");
        Message::NewGeneration { generation, lineage }
    });
    let reasons = proptest::sample::select(REASONS.map(|row| row.0).to_vec());
    prop_oneof![
        state(),
        heartbeat(),
        resync(),
        records(),
        new_generation,
        progress(),
        lsn().prop_map(|up_to| Message::Flush { up_to }),
        lsn().prop_map(|end| Message::CatchUpFrom { end }),
        request(),
        reply(),
        full_record().prop_map(|record| Message::RecordUpdate(Box::new(record))),
        record().prop_map(|record| Message::RecordStored(Box::new(record))),
        full_record().prop_map(|record| Message::RecordPassedOn(Box::new(record))),
        reasons.prop_map(|reason| Message::Farewell { reason }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn every_message_comes_back_as_it_was_sent(message in message()) {
        let frame = received(&message.encode(STAMP));
        prop_assert_eq!(frame.stamp, STAMP);
        prop_assert_eq!(Message::parse(&frame), Ok(message));
    }

    #[test]
    fn a_truncated_or_longer_body_is_refused(message in message()) {
        let frame = received(&message.encode(STAMP));
        for length in 0..frame.body.len() {
            let truncated = with_body(&frame, &frame.body[..length]);
            prop_assert!(Message::parse(&truncated).is_err(), "{} bytes of {:?}", length, message);
        }
        for byte in [0, 1] {
            let longer = with_body(&frame, &[&frame.body[..], &[byte]].concat());
            prop_assert!(Message::parse(&longer).is_err());
        }
    }

    #[test]
    fn what_a_damaged_body_still_says_is_said_in_no_other_way(
        message in message(), at in any::<prop::sample::Index>(), bit in 0..8u8,
    ) {
        let frame = received(&message.encode(STAMP));
        let mut body = frame.body.to_vec();
        let at = at.index(body.len());
        body[at] ^= 1 << bit;
        let damaged = with_body(&frame, &body);
        if let Ok(other) = Message::parse(&damaged) {
            prop_assert_ne!(&other, &message);
            prop_assert_eq!(&other.encode(STAMP).head[FRAME_HEADER_BYTES..], &body[..]);
        }
    }

    #[test]
    fn arbitrary_bytes_are_refused_or_have_one_encoding(
        row in 0..MessageType::ALL.len(), body in vec(any::<u8>(), 0..400),
    ) {
        let message_type = MessageType::ALL[row].0;
        let frame = ReceivedFrame { stamp: STAMP, message_type, body: body.clone().into(), payload: Bytes::new() };
        if let Ok(message) = Message::parse(&frame) {
            prop_assert_eq!(&message.encode(STAMP).head[FRAME_HEADER_BYTES..], &body[..]);
        }
    }
}

fn batch() -> Message {
    let write = |lsn, block: u64, fill| {
        let payload = Bytes::from([[fill; BLOCK_SIZE], [fill + 1; BLOCK_SIZE]].concat());
        Record::write(Lsn(lsn), BlockRange::new(block, 2), payload)
    };
    let trim = Record::zero(Lsn(8), RecordKind::Trim, BlockRange::new(0, 500));
    let records = vec![write(7, 10, 1), trim, write(9, 20, 3)];
    Message::Records(RecordBatch { generation: GenerationId(3), stable_up_to: Lsn(6), records })
}

#[test]
fn a_flipped_bit_of_any_block_is_reported_with_its_record_and_its_block() {
    let frame = received(&batch().encode(STAMP));
    for (block_index, (lsn, block)) in [(7, 10), (7, 11), (9, 20), (9, 21)].into_iter().enumerate() {
        for at in [0, 2000, BLOCK_SIZE - 1] {
            let mut payload = frame.payload.to_vec();
            payload[block_index * BLOCK_SIZE + at] ^= 0x80;
            let damaged = ReceivedFrame { payload: payload.into(), ..frame.clone() };
            let mismatch = MessageError::PayloadMismatch { lsn: Lsn(lsn), block };
            assert_eq!(Message::parse(&damaged), Err(mismatch));
        }
    }
}

#[test]
fn records_share_the_memory_of_their_frame() {
    let frame = received(&batch().encode(STAMP));
    let Ok(Message::Records(batch)) = Message::parse(&frame) else { panic!("records") };
    assert_eq!(batch.records[0].payload.as_ptr(), frame.payload.as_ptr());
    assert_eq!(batch.records[2].payload.as_ptr(), frame.payload[2 * BLOCK_SIZE..].as_ptr());
    assert_eq!(batch.records[1].sums, BlockSums::None);
}

#[test]
fn a_sender_shares_the_payload_instead_of_copying_it() {
    let Message::Records(sent) = batch() else { panic!("records") };
    let frame = Message::Records(sent.clone()).encode(STAMP);
    assert_eq!(frame.payloads.len(), 2);
    assert_eq!(frame.payloads[1].as_ptr(), sent.records[2].payload.as_ptr());
    assert_eq!(frame.wire_bytes(), frame.head.len() + 4 * BLOCK_SIZE);
}

#[test]
fn payload_that_the_body_does_not_announce_is_refused() {
    let frame = received(&batch().encode(STAMP));
    let length = |blocks: usize| {
        let payload = Bytes::from(vec![0; blocks * BLOCK_SIZE]);
        Message::parse(&ReceivedFrame { payload, ..frame.clone() })
    };
    let error = |expected, found| {
        Err(MessageError::PayloadLength { message_type: MessageType::Records, expected, found })
    };
    assert_eq!(length(3), error(4 * BLOCK_SIZE, 3 * BLOCK_SIZE));
    assert_eq!(length(5), error(4 * BLOCK_SIZE, 5 * BLOCK_SIZE));
    let flush = received(&Message::Flush { up_to: Lsn(1) }.encode(STAMP));
    let flush = ReceivedFrame { payload: Bytes::from(vec![0; BLOCK_SIZE]), ..flush };
    assert!(matches!(Message::parse(&flush), Err(MessageError::PayloadLength { expected: 0, .. })));
}

#[test]
fn hostile_counts_are_refused_before_anything_is_allocated_for_them() {
    let frame = received(&batch().encode(STAMP));
    let mut body = frame.body.to_vec();
    body[24..28].copy_from_slice(&u32::MAX.to_le_bytes());
    let count = RecordTableError::Count(bytes_usize(u32::MAX.into()));
    assert_eq!(Message::parse(&with_body(&frame, &body)), Err(MessageError::Table(count)));

    let lineage = Lineage::zeroed();
    let message = Message::NewGeneration { generation: *lineage.newest().expect("one"), lineage };
    for count in [0, 65, u32::MAX] {
        assert_eq!(refusal(&message, 0, &count.to_le_bytes()), value("lineage length", count.into()));
    }
    assert_eq!(refusal(&message, 0, &[64]), Some(FieldError::Truncated { field: "lineage" }));
}

/// What a body whose bytes from `at` on are `bytes` is refused with.
fn refusal(message: &Message, at: usize, bytes: &[u8]) -> Option<FieldError> {
    let frame = received(&message.encode(STAMP));
    let mut body = frame.body.to_vec();
    body[at..at + bytes.len()].copy_from_slice(bytes);
    match Message::parse(&with_body(&frame, &body)) {
        Err(MessageError::Body { reason, .. }) => Some(reason),
        Err(_) | Ok(_) => None,
    }
}

fn value(field: &'static str, value: u64) -> Option<FieldError> {
    Some(FieldError::Value { field, value })
}

#[test]
fn a_field_with_a_value_that_it_cannot_have_is_refused_by_name() {
    let flushed = [Lsn(3); REPLICAS_MAX];
    let beat =
        Message::Heartbeat { role: Role::Primary, disk: DiskState::UpToDate, stable_up_to: Lsn(2), flushed };
    assert_eq!(refusal(&beat, 0, &[3]), value("role", 3));
    assert_eq!(refusal(&beat, 0, &[2]), value("stable_up_to", 2), "only a Primary knows what is stable");
    assert_eq!(refusal(&beat, 1, &[7]), value("disk", 7));
    assert_eq!(refusal(&beat, 7, &[1]), Some(FieldError::Reserved));

    let steps = Progress { received: Lsn(9), journaled: Lsn(8), flushed: Lsn(7), ..Progress::default() };
    let progress = Message::Progress(steps);
    assert_eq!(refusal(&progress, 8, &[10]), value("journaled", 10));
    assert_eq!(refusal(&progress, 16, &[9]), value("flushed", 9));
    assert_eq!(refusal(&progress, 24, &[8]), value("data_flushed", 8));
    let farewell = Message::Farewell { reason: FarewellReason::Stopping };
    assert_eq!(refusal(&farewell, 0, &[6]), value("reason", 6));
    assert_eq!(refusal(&batch(), 0, &[0; 8]), value("generation", 0));
}

#[test]
fn a_request_whose_record_is_not_the_candidates_own_is_refused() {
    let incarnation = Incarnation(5);
    let in_sync = InSyncSet::of(NodeId(1), incarnation);
    let term = Term { number: 2, taker: 3 };
    let mut voters = VoterList::default();
    voters.ids[1] = VoterId(6);
    let record = MembershipRecord { term, version: 0, primary: Some(NodeId(1)), in_sync, voters };
    let request = Message::VoteRequest(Box::new(VoteRequest {
        round: 1,
        stage: VoteStage::Take,
        candidate: NodeId(1),
        incarnation,
        basis: Basis::Member { continues: Incarnation(4) },
        position: Position::default(),
        record,
        peer_is_fenced: false,
    }));
    assert_eq!(refusal(&request, 9, &[0]), value("primary", 0), "another candidate than the Primary");
    assert_eq!(refusal(&request, 9, &[8]), value("candidate", 8));
    assert_eq!(refusal(&request, 16, &[6]), value("in-sync set", 6), "another run than the member");
    assert_eq!(refusal(&request, 16, &[0; 8]), value("incarnation", 0));
    assert_eq!(refusal(&request, 24, &[0; 8]), value("basis", 2), "a member continues nothing");
    assert_eq!(refusal(&request, 10, &[1]), value("basis", 1), "the first continues something");
    let in_record = 16 + 16 + 40;
    assert_eq!(refusal(&request, in_record, &[0; 16]), value("primary", 1), "an empty record");
    assert_eq!(refusal(&request, in_record + 24, &[9]), value("primary", 9));
    assert_eq!(refusal(&request, in_record + 40, &[0; 8]), value("in-sync set", 0));
}

#[test]
#[should_panic(expected = "must not be sent")]
fn a_message_that_nobody_would_take_is_not_sent() {
    let steps = Progress { received: Lsn(1), journaled: Lsn(2), ..Progress::default() };
    let _ = Message::Progress(steps).encode(STAMP);
}

#[test]
fn a_full_batch_fits_into_a_frame() {
    use crate::layout::record_table::{BATCH_PAYLOAD_BLOCKS_MAX, BATCH_RECORDS_MAX, record_table_bytes};
    assert!(
        32 + record_table_bytes(BATCH_RECORDS_MAX, BATCH_PAYLOAD_BLOCKS_MAX)
            <= super::super::frame::FRAME_BODY_BYTES_MAX
    );
    let block = Bytes::from(vec![9; 4 * BLOCK_SIZE]);
    let write = |at: u64| Record::write(Lsn(1 + at), BlockRange::new(at * 4, 4), block.clone());
    let records = (0..256).map(write).collect();
    let full = Message::Records(RecordBatch { generation: GenerationId(1), stable_up_to: Lsn(0), records });
    assert_eq!(Message::parse(&received(&full.encode(STAMP))), Ok(full));
}
