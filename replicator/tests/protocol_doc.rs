//! docs/PROTOCOL.md says what the code does: its numbers, names and byte tables are compared with encoded messages.

use bytes::Bytes;
use replicator::generation::lineage::{Generation, Lineage, Position};
use replicator::generation::split_brain::Discards;
use replicator::peer::frame::{FRAME_HEADER_BYTES, FRAME_HEADER_FIELDS, FrameStamp};
use replicator::peer::handshake::{
    HANDSHAKE_BYTES_MAX, HANDSHAKE_HEADER_BYTES, HANDSHAKE_KINDS, Handshake, KnownPeer, LocalIdentity,
    Secret, VersionRange, VoterKind,
};
use replicator::peer::message::{
    Basis, Denial, FarewellReason, Message, PeerState, Progress, RecordBatch, VoteReply, VoteRequest,
    VoteStage,
};
use replicator::peer::message_type::MessageType;
use replicator::promotion::membership::{InSyncSet, MembershipRecord, VoterList};
use replicator::record::{Record, RecordKind};
use replicator::remote_read::ReadRequest;
use replicator::resync::Differing;
use replicator::resync::digest::{BlockDigest, Comparison};
use replicator::resync::pace::SyncCounts;
use replicator::resync::target::Compared;
use replicator::state::{DiskState, Role};
use replicator::units::{
    BlockRange, GenerationId, Incarnation, Lsn, NodeId, REPLICAS_MAX, Span, Term, Tick, VOTERS_MAX, VoterId,
};

const DOCUMENT: &str = include_str!("../../docs/PROTOCOL.md");

/// The cells of every row behind `heading`, up to the next heading. Rows of heads and rulers are left out.
fn rows(heading: &str) -> Vec<Vec<&'static str>> {
    let start = DOCUMENT.find(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("no heading {heading}"));
    let section = &DOCUMENT[start + heading.len() + 2..];
    let section = &section[..section.find("\n##").unwrap_or(section.len())];
    let rows = section.lines().filter(|line| line.starts_with("| ") && !line.starts_with("|---"));
    let cells = rows.map(|line| line.trim_matches('|').split('|').map(str::trim).collect());
    cells.filter(|cells: &Vec<&str>| cells[0].bytes().all(|byte| byte.is_ascii_digit())).collect()
}

/// A byte table: offset, length (nothing for "rest"), name.
fn byte_table(name: &str) -> Vec<(usize, Option<usize>, &'static str)> {
    let table = rows(&format!("### {name}")).into_iter().filter(|cells| cells.len() == 4);
    let number = |cell: &str| cell.parse().unwrap_or_else(|_| panic!("{cell} is no number in {name}"));
    let row = |cells: Vec<&'static str>| {
        let length = (cells[1] != "rest").then(|| number(cells[1]));
        (number(cells[0]), length, cells[2])
    };
    table.map(row).collect()
}

/// Checks that the table `name` describes `bytes`: no gaps, every field where it says and as `fields` has it.
fn check(name: &str, bytes: &[u8], fields: &[(&str, Vec<u8>)]) {
    let mut at = 0;
    let mut unseen: Vec<_> = fields.to_vec();
    for (offset, length, field) in byte_table(name) {
        assert_eq!(offset, at, "{name}: {field} does not follow its predecessor");
        let length = length.unwrap_or(bytes.len() - at);
        let found = &bytes[at..at + length];
        at += length;
        if field == "reserved" {
            assert!(found.iter().all(|byte| *byte == 0), "{name}: {field} is not zero");
            continue;
        }
        let expected = unseen.iter().position(|row| row.0 == field);
        let expected = expected.unwrap_or_else(|| panic!("{name}: the code has no field {field}"));
        assert_eq!(found, unseen.remove(expected).1, "{name}: {field}");
    }
    assert_eq!(at, bytes.len(), "{name}: the table ends too early");
    assert!(unseen.is_empty(), "{name}: not in the table: {unseen:?}");
}

fn u64s(values: &[u64]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn body(message: &Message) -> Vec<u8> {
    let stamp = FrameStamp { term: Term::ZERO, clock: Tick(0), echo: Tick(0) };
    message.encode(stamp).head.split_off(FRAME_HEADER_BYTES)
}

const TERM: Term = Term { number: 0x1101, taker: 0x1102 };

fn record() -> MembershipRecord {
    let mut voters = VoterList::default();
    voters.ids.iter_mut().zip(0x2001..).for_each(|(id, value)| *id = VoterId(value));
    let nodes = (0u8..).take(REPLICAS_MAX).map(NodeId).zip(0x3001..);
    let in_sync = nodes.fold(InSyncSet::default(), |set, (node, run)| set.with(node, Incarnation(run)));
    MembershipRecord { term: TERM, version: 0x1103, primary: Some(NodeId(3)), in_sync, voters }
}

fn position() -> Position {
    Position { term: TERM, first_lsn: Lsn(0x4001), lsn: Lsn(0x4002), generation: GenerationId(0x4003) }
}

fn lineage() -> Lineage {
    let generation =
        |id| Generation { id: GenerationId(id), term: TERM, granted: true, first_lsn: Lsn(0x5001) };
    Lineage::parse(vec![generation(0x5002), generation(0x5003)]).expect("a lineage")
}

fn record_bytes() -> Vec<u8> {
    body(&Message::RecordStored(Box::new(record())))
}

fn position_bytes() -> Vec<u8> {
    u64s(&[TERM.number, TERM.taker, 0x4001, 0x4002, 0x4003])
}

fn lineage_bytes() -> Vec<u8> {
    let lineage = lineage();
    let generation = *lineage.newest().expect("two");
    body(&Message::NewGeneration { generation, lineage })
}

#[test]
fn the_frame_header_is_as_documented() {
    let table = byte_table("Frame header").into_iter();
    let table: Vec<_> = table.map(|(offset, length, name)| (name, offset, length.expect("fixed"))).collect();
    assert_eq!(table, FRAME_HEADER_FIELDS);
}

#[test]
fn the_messages_are_as_documented() {
    let table = rows("## Messages").into_iter();
    let table: Vec<_> = table.map(|cells| (cells[0].parse().expect("a number"), cells[1])).collect();
    assert_eq!(table, MessageType::ALL.map(|(_, code, name)| (code, name)));
    let bodies = table.iter().filter(|(_, name)| !byte_table(name).is_empty());
    assert_eq!(bodies.count(), MessageType::ALL.len(), "every message has a byte table");
}

#[test]
fn the_parts_of_bodies_are_as_documented() {
    let runs = u64s(&(0x3001..0x3009).collect::<Vec<_>>());
    let voters = u64s(&(0x2001..).take(VOTERS_MAX).collect::<Vec<_>>());
    let term = [("term_number", u64s(&[TERM.number])), ("term_taker", u64s(&[TERM.taker]))];
    let fields = [("version", u64s(&[0x1103])), ("primary", vec![3]), ("in_sync", runs), ("voters", voters)];
    check("Voters' record", &record_bytes(), &[&term[..], &fields].concat());
    let fields = [("first_lsn", u64s(&[0x4001])), ("lsn", u64s(&[0x4002])), ("generation", u64s(&[0x4003]))];
    check("Position", &position_bytes(), &[&term[..], &fields].concat());
    let generations = lineage_bytes()[8..].to_vec();
    let last = generations[40..].to_vec();
    check("Lineage", &lineage_bytes(), &[("length", vec![2, 0, 0, 0]), ("generations", generations)]);
    let fields = [("generation", u64s(&[0x5003])), ("first_lsn", u64s(&[0x5001])), ("granted", vec![1])];
    check("Generation", &last, &[&term[..], &fields].concat());
}

#[test]
fn the_bodies_of_the_stream_are_as_documented() {
    let state = Message::State(Box::new(PeerState {
        introduction: 0x6001,
        node: NodeId(4),
        volume_bytes: 0x7_0000_0000,
        role: Role::Secondary,
        disk: DiskState::Outdated,
        lineage: lineage(),
        end: Lsn(0x600b),
        flushed: Lsn(0x6008),
        stable: Lsn(0x600a),
        oldest_kept: Lsn(0x6007),
        base: (GenerationId(0x6006), Lsn(0x6005)),
        has_dirty_bits: true,
        follows_another: true,
        discards: Discards::Everything,
        is_tentative: true,
        record: record(),
        incarnation: Incarnation(0x6004),
        continues: Some(Incarnation(0x6003)),
        resync_from: Some(NodeId(3)),
        configuration_digest: 0x6002,
    }));
    let fields = [
        ("volume_bytes", u64s(&[0x7_0000_0000])),
        ("role", vec![2]),
        ("disk", vec![4]),
        ("has_dirty_bits", vec![1]),
        ("follows_another", vec![1]),
        ("introduction", vec![1, 0x60, 0, 0]),
        ("end", u64s(&[0x600b])),
        ("flushed", u64s(&[0x6008])),
        ("stable", u64s(&[0x600a])),
        ("oldest_kept", u64s(&[0x6007])),
        ("base_generation", u64s(&[0x6006])),
        ("base_lsn", u64s(&[0x6005])),
        ("incarnation", u64s(&[0x6004])),
        ("continues", u64s(&[0x6003])),
        ("configuration_digest", u64s(&[0x6002])),
        ("resync_from", vec![3]),
        ("node", vec![4]),
        ("discards", vec![2]),
        ("is_tentative", vec![1]),
        ("record", record_bytes()),
        ("lineage", lineage_bytes()),
    ];
    check("State", &body(&state), &fields);

    let (role, disk, flushed) = (Role::Primary, DiskState::UpToDate, [1, 2, 3, 4, 5, 6, 7, 8]);
    let beat = Message::Heartbeat { role, disk, stable_up_to: Lsn(9), flushed: flushed.map(Lsn) };
    let fields =
        [("role", vec![1]), ("disk", vec![6]), ("stable_up_to", u64s(&[9])), ("flushed", u64s(&flushed))];
    check("Heartbeat", &body(&beat), &fields);

    check("NewGeneration", &lineage_bytes(), &[("lineage", lineage_bytes())]);
    let progress = Message::Progress(Progress {
        received: Lsn(4),
        journaled: Lsn(3),
        flushed: Lsn(2),
        data_flushed: Lsn(1),
        window_bytes: 5,
    });
    let names = ["received", "journaled", "flushed", "data_flushed", "window_bytes"];
    let values = [4, 3, 2, 1, 5].map(|value| u64s(&[value]));
    check("Progress", &body(&progress), &names.into_iter().zip(values).collect::<Vec<_>>());
    check("Flush", &body(&Message::Flush { up_to: Lsn(7) }), &[("up_to", u64s(&[7]))]);
    check("CatchUpFrom", &body(&Message::CatchUpFrom { end: Lsn(7) }), &[("end", u64s(&[7]))]);
    let farewell = Message::Farewell { reason: FarewellReason::Disconnected };
    check("Farewell", &body(&farewell), &[("reason", vec![2])]);
}

#[test]
fn the_bodies_of_a_resync_are_as_documented() {
    let runs = vec![BlockRange::new(0x7001, 0x7002), BlockRange::new(0x7103, 0x7004)];
    let fields = [
        ("is_last", vec![1]),
        ("count", vec![2, 0, 0, 0]),
        ("runs", u64s(&[0x7001, 0x7002, 0x7103, 0x7004])),
    ];
    check("DirtyRuns", &body(&Message::DirtyRuns { runs, is_last: true }), &fields);
    let from = Message::ResyncFrom { start: Lsn(0x7005), lineage: lineage() };
    check("ResyncFrom", &body(&from), &[("start", u64s(&[0x7005])), ("lineage", lineage_bytes())]);
    let flushed = Message::CopiesFlushed { up_to: 0x7006 };
    check("CopiesFlushed", &body(&flushed), &[("up_to", u64s(&[0x7006]))]);
    let end = Message::ResyncEnd { consistent_at: Lsn(0x7007) };
    check("ResyncEnd", &body(&end), &[("consistent_at", u64s(&[0x7007]))]);
    let copy = Record::zero(Lsn(0x7008), RecordKind::Trim, BlockRange::new(0x7009, 0x7010));
    let table = [vec![3, 0, 0, 0, 0, 0, 0, 0], u64s(&[0x7009, 0x7010])].concat();
    let fields = [("first_piece", u64s(&[0x7008])), ("count", vec![1, 0, 0, 0]), ("table", table)];
    check("Copies", &body(&Message::Copies(vec![copy])), &fields);
    let digests = vec![BlockDigest([0x71; 32]), BlockDigest([0x72; 32])];
    let bytes = digests.iter().flat_map(|digest| digest.0).collect::<Vec<u8>>();
    let range = BlockRange::new(0x7012, 2);
    let question = Message::Compare(Comparison { number: 0x7011, range, digests });
    let fields = [
        ("number", u64s(&[0x7011])),
        ("first_block", u64s(&[0x7012])),
        ("count", vec![2, 0, 0, 0]),
        ("digests", bytes),
    ];
    check("Compare", &body(&question), &fields);
    let range = BlockRange::new(0x7014, 0x15);
    let wanted = Message::ReadBlocks(ReadRequest { number: 0x7016, range });
    let fields =
        [("number", u64s(&[0x7016])), ("first_block", u64s(&[0x7014])), ("count", vec![0x15, 0, 0, 0])];
    check("ReadBlocks", &body(&wanted), &fields);
    let blocks = Record::write(Lsn(0x7017), BlockRange::new(0x7018, 1), Bytes::from(vec![7; 4096]));
    let blocks = Message::BlocksRead(Box::new(blocks));
    let table = body(&blocks)[8..].to_vec();
    check("BlocksRead", &body(&blocks), &[("number", u64s(&[0x7017])), ("record_table", table)]);
    let compared = Message::Compared(Compared { number: 0x7013, differing: Differing([0x73; 32]) });
    check("Compared", &body(&compared), &[("number", u64s(&[0x7013])), ("differing", vec![0x73; 32])]);
    let counts = SyncCounts { done: 0x7014, left: 0x7015, same: 0x7016 };
    let fields = [
        ("done", u64s(&[0x7014])),
        ("left", u64s(&[0x7015])),
        ("same", u64s(&[0x7016])),
        ("is_paused", vec![1]),
    ];
    check("SyncStatus", &body(&Message::SyncStatus { counts, is_paused: true }), &fields);
}

#[test]
fn records_are_as_documented() {
    let payload = Bytes::from(vec![7; 4096]);
    let write = Record::write(Lsn(0x8001), BlockRange::new(0x8002, 1), payload);
    let sum = write.sums.as_slice()[0].0.to_le_bytes().to_vec();
    let trim = Record::zero(Lsn(0x8002), RecordKind::Trim, BlockRange::new(0x8003, 0x8004));
    let records = vec![write, trim];
    let batch = Message::Records(RecordBatch {
        generation: GenerationId(0x8005),
        stable_up_to: Lsn(0x8006),
        records,
    });
    let table = [u64s(&[1, 0x8002, 1]), u64s(&[3, 0x8003, 0x8004]), sum].concat();
    let fields = [
        ("generation", u64s(&[0x8005])),
        ("stable_up_to", u64s(&[0x8006])),
        ("first_lsn", u64s(&[0x8001])),
        ("count", vec![2, 0, 0, 0]),
        ("record_table", table),
    ];
    check("Records", &body(&batch), &fields);
}

#[test]
fn the_bodies_of_votes_are_as_documented() {
    let run = Incarnation(0x3004);
    let request = Message::VoteRequest(Box::new(VoteRequest {
        round: 0x9001,
        stage: VoteStage::Take,
        candidate: NodeId(3),
        incarnation: run,
        basis: Basis::Member { continues: Incarnation(0x9002) },
        position: position(),
        record: record(),
        peer_is_fenced: true,
    }));
    let fields = [
        ("round", u64s(&[0x9001])),
        ("stage", vec![2]),
        ("candidate", vec![3]),
        ("basis", vec![2]),
        ("peer_is_fenced", vec![1]),
        ("incarnation", u64s(&[run.0])),
        ("continues", u64s(&[0x9002])),
        ("position", position_bytes()),
        ("record", record_bytes()),
    ];
    check("VoteRequest", &body(&request), &fields);
    let fields = [
        ("round", u64s(&[0x9001])),
        ("stage", vec![1]),
        ("vote", vec![3]),
        ("vote_value", u64s(&[TERM.number])),
        ("vote_value_2", u64s(&[TERM.taker])),
        ("incarnation", u64s(&[0x9003])),
        ("continues", u64s(&[0x9004])),
        ("position", position_bytes()),
        ("record", record_bytes()),
    ];
    check("VoteReply", &body(&reply(Err(Denial::NotAMember { term: TERM }))), &fields);
    check("RecordUpdate", &body(&Message::RecordUpdate(Box::new(record()))), &[("record", record_bytes())]);
    check("RecordStored", &record_bytes(), &[("record", record_bytes())]);
    let passed_on = body(&Message::RecordPassedOn(Box::new(record())));
    check("RecordPassedOn", &passed_on, &[("record", record_bytes())]);
}

fn reply(vote: Result<(), Denial>) -> Message {
    Message::VoteReply(Box::new(VoteReply {
        round: 0x9001,
        stage: VoteStage::Ask,
        vote,
        record: record(),
        position: position(),
        incarnation: Incarnation(0x9003),
        continues: Some(Incarnation(0x9004)),
    }))
}

#[test]
fn the_reasons_not_to_vote_are_as_documented() {
    let denials = [
        Denial::Lease { remaining: Span(5) },
        Denial::PrimaryLives { primary: NodeId(5) },
        Denial::NotAMember { term: TERM },
        Denial::Behind { lsn: Lsn(5) },
        Denial::OlderTerm { term: TERM },
        Denial::EmptyRecord,
        Denial::OtherVoters,
        Denial::MemberLives { member: NodeId(5) },
        Denial::NotInSync { lsn: Lsn(5) },
    ];
    let encoded = denials.map(|denial| {
        let name = format!("{denial:?}").split(' ').next().unwrap_or_default().to_owned();
        (body(&reply(Err(denial)))[9].to_string(), name)
    });
    let table = rows("### VoteReply").into_iter().filter(|cells| cells.len() == 3);
    let table: Vec<_> = table.map(|cells| (cells[0].to_owned(), cells[1].to_owned())).collect();
    assert_eq!(table, encoded);
}

#[test]
fn the_handshake_is_as_documented() {
    let identity = LocalIdentity {
        resource: "mail".into(),
        node: NodeId(1),
        name: "beta".into(),
        voter: VoterId(0xa001),
        kind: VoterKind::Tiebreaker,
        volume_bytes: 0xa002,
        configuration_digest: 0xa003,
        versions: VersionRange { lowest: 1, highest: 0xa004 },
    };
    let peer = KnownPeer { node: NodeId(2), name: "gamma".into(), kind: VoterKind::Replica };
    let secret = Secret::new(vec![1; 16]).expect("long enough");
    let hello = Handshake::dial(identity, peer, secret, [0xab; 32]).first_bytes().expect("the dialer begins");
    let (header, body) = hello.split_at(HANDSHAKE_HEADER_BYTES);
    let fields = [
        ("magic", b"TBHS".to_vec()),
        ("layout", vec![1, 0]),
        ("kind", vec![1, 0]),
        ("body_length", u32::try_from(body.len()).expect("short").to_le_bytes().to_vec()),
        ("crc32c", header[12..].to_vec()),
    ];
    check("Handshake header", header, &fields);
    let fields = [
        ("version_lowest", vec![1, 0]),
        ("version_highest", vec![4, 0xa0]),
        ("kind", vec![2]),
        ("node", vec![1]),
        ("peer", vec![2]),
        ("voter", u64s(&[0xa001])),
        ("volume_bytes", u64s(&[0xa002])),
        ("configuration_digest", u64s(&[0xa003])),
        ("nonce", vec![0xab; 32]),
        ("resource_length", vec![4, 0]),
        ("resource", b"mail\x04\0beta".to_vec()),
    ];
    check("Hello", body, &fields);
    let kinds = rows("### Handshake header").into_iter().filter(|cells| cells.len() == 3);
    let kinds: Vec<_> = kinds.map(|cells| (cells[0].parse().expect("a number"), cells[1])).collect();
    assert_eq!(kinds, HANDSHAKE_KINDS);
    assert_eq!(HANDSHAKE_BYTES_MAX - HANDSHAKE_HEADER_BYTES, 1008);
}
