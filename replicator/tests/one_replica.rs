//! One replica among others that are played by the test: what it makes of their frames, and what it says when.

#[path = "one_replica/candidate.rs"]
mod candidate;
#[path = "one_replica/diskless.rs"]
mod diskless;
#[path = "one_replica/explanations.rs"]
mod explanations;
#[path = "one_replica/lending.rs"]
mod lending;
#[path = "one_replica/lies.rs"]
mod lies;
#[path = "one_replica/marks.rs"]
mod marks;
#[path = "one_replica/strangers.rs"]
mod strangers;
#[path = "one_replica/target.rs"]
mod target;

use std::collections::BTreeMap;

use bytes::Bytes;
use replicator::config::{
    Address, Config, OnNoData, OnPeerLost, RESYNC_DEFAULT, ReplicaConfig, ReplicationProtocol,
};
use replicator::effect::{Answer, Effect, Effects};
use replicator::event::{Event, IoId, LinkId, LinkLoss, Order, OrderId, Warrant};
use replicator::explain_report::ExplainReport;
use replicator::generation::lineage::{Generation, Lineage, Position};
use replicator::generation::split_brain::Discards;
use replicator::journal::recovery::RecoveryScan;
use replicator::layout::superblock::{DurableDisk, ResourceName, Superblock};
use replicator::layout::zones::Zones;
use replicator::peer::frame::{FRAME_HEADER_BYTES, FrameHeader, FrameStamp, OutboundFrame, ReceivedFrame};
use replicator::peer::message::{Basis, Message, PeerState, RecordBatch, VoteRequest, VoteStage};
use replicator::promotion::membership::{InSyncSet, MembershipRecord};
use replicator::record::Record;
use replicator::replica::{Replica, Restored};
use replicator::state::{ConnectionState, DiskState, Role};
use replicator::units::{
    BLOCK_SIZE, BlockRange, GenerationId, Incarnation, Lsn, NodeId, RequestId, Span, Term, Tick, VoterId,
    bytes_u64, bytes_usize,
};

const VOLUME_BYTES: u64 = 1 << 20;
const ALPHA: NodeId = NodeId(0);
const BETA: NodeId = NodeId(1);
const GAMMA: NodeId = NodeId(2);

/// Beta, one of three replicas, with a disk that completes superblock writes only when it is told to.
struct Bench {
    replica: Replica,
    now: Tick,
    effects: Effects,
    /// The superblock write under way.
    storing: Option<(IoId, Superblock)>,
    /// The superblock on the disk.
    stored: Superblock,
    sent: Vec<(NodeId, Message)>,
    /// Links that beta has ended.
    dropped: Vec<NodeId>,
    frames: u64,
    /// What the metadata area holds, block by block.
    journal: BTreeMap<u64, Bytes>,
    answers: Vec<Answer>,
    /// Requests of clients that were answered.
    completed: Vec<RequestId>,
    /// Whether reads of the data area take for ever.
    withholds_data: bool,
    /// Whether reads of the journal take their time, and those that do, with what they will bring.
    withholds_journal: bool,
    withheld: Vec<Event>,
}

fn config() -> Config {
    let replica = |name: &str| ReplicaConfig {
        name: name.to_owned(),
        protocol: ReplicationProtocol::C,
        address: Address::default(),
    };
    Config {
        resource: "mail".to_owned(),
        volume_bytes: VOLUME_BYTES,
        local: BETA,
        replicas: vec![replica("alpha"), replica("beta"), replica("gamma")],
        has_tiebreaker: false,
        on_peer_lost: OnPeerLost::Quorum,
        on_no_data: OnNoData::Freeze,
        heartbeat: Span::from_millis(1000),
        peer_timeout: Span::from_millis(3000),
        digest: 7,
        disk_timeout: Span::from_millis(30_000),
        split_brain: Default::default(),
        resync: RESYNC_DEFAULT,
    }
}

fn arrived(frame: &OutboundFrame) -> ReceivedFrame {
    let (header, body) = frame.head.split_at(FRAME_HEADER_BYTES);
    let header = FrameHeader::parse(header.try_into().expect("64 bytes")).expect("a header");
    let payload = Bytes::from(frame.payloads.concat());
    ReceivedFrame::assemble(header, Bytes::copy_from_slice(body), payload).expect("a frame")
}

impl Bench {
    fn start() -> Self {
        Self::start_with(|_| {})
    }

    /// The same with something else in its superblock.
    fn start_with(change: impl FnOnce(&mut Superblock)) -> Self {
        let resource = ResourceName::parse("mail").expect("a name");
        let zones = Zones::for_volume(VOLUME_BYTES, 64 << 20, 2).expect("legal sizes");
        let mut superblock = Superblock::created(
            resource,
            BETA,
            VoterId(101),
            VOLUME_BYTES,
            zones,
            DurableDisk::UpToDate,
            Lineage::zeroed(),
        );
        change(&mut superblock);
        let mut scan = RecoveryScan::new(&superblock);
        while let Some(read) = scan.next_read() {
            scan.on_bytes(Bytes::from(vec![0; bytes_usize(read.length)]));
        }
        let restored = Restored {
            superblock,
            recovery: scan.finish(),
            bitmap_pages: Vec::new(),
            seed: 1,
            started: Tick(1),
            continuity: None,
        };
        let stored = restored.superblock.clone();
        let replica = Replica::restore(config(), restored);
        let mut bench = Self {
            replica,
            stored,
            now: Tick(1),
            effects: Effects::default(),
            storing: None,
            sent: Vec::new(),
            dropped: Vec::new(),
            frames: 0,
            journal: BTreeMap::new(),
            answers: Vec::new(),
            completed: Vec::new(),
            withholds_data: false,
            withholds_journal: false,
            withheld: Vec::new(),
        };
        bench.settle();
        bench.store();
        bench
    }

    fn happens(&mut self, event: Event) {
        self.replica.handle(self.now, event, &mut self.effects);
        self.settle();
    }

    /// Lets rounds follow until nothing more is ordered. Everything but a superblock write is done at once.
    fn settle(&mut self) {
        loop {
            self.now = self.now.plus(Span::from_millis(1));
            self.replica.handle(self.now, Event::TimePassed, &mut self.effects);
            let mut done = Vec::new();
            for effect in self.effects.drain() {
                match effect {
                    Effect::WriteSuperblock { io, bytes, .. } => {
                        let content = Superblock::parse(&bytes).expect("whole");
                        assert!(self.storing.replace((io, content)).is_none(), "one write at a time");
                    }
                    Effect::FlushJournal { io }
                    | Effect::WriteBitmapPages { io, .. }
                    | Effect::WriteData { io, .. }
                    | Effect::FlushData { io } => done.push(Event::IoCompleted { io }),
                    Effect::WriteJournal { io, offset, descriptor, payloads } => {
                        let bytes = Bytes::from([&descriptor[..], &payloads.concat()].concat());
                        for at in (0..bytes.len()).step_by(BLOCK_SIZE) {
                            self.journal.insert(offset + bytes_u64(at), bytes.slice(at..at + BLOCK_SIZE));
                        }
                        done.push(Event::IoCompleted { io });
                    }
                    Effect::ReadJournal { io, offset, length } => {
                        let blocks = (offset..offset + length).step_by(BLOCK_SIZE);
                        let zeroes = Bytes::from_static(&[0; BLOCK_SIZE]);
                        let blocks: Vec<Bytes> =
                            blocks.map(|at| self.journal.get(&at).unwrap_or(&zeroes).clone()).collect();
                        let read = Event::BytesRead { io, bytes: Bytes::from(blocks.concat()) };
                        if self.withholds_journal { self.withheld.push(read) } else { done.push(read) }
                    }
                    Effect::ReadData { io, range } if !self.withholds_data => {
                        let bytes = Bytes::from(vec![0; bytes_usize(range.bytes())]);
                        done.push(Event::BytesRead { io, bytes });
                    }
                    Effect::CompleteRequest { id, .. } => self.completed.push(id),
                    Effect::AnswerOperator { answer, .. } => self.answers.push(answer),
                    Effect::SendToPeer { peer, frame, .. } => {
                        self.sent.push((peer, Message::parse(&arrived(&frame)).expect("a message")));
                    }
                    Effect::DropPeer { peer, .. } => self.dropped.push(peer),
                    _ => {}
                }
            }
            if done.is_empty() {
                return;
            }
            for event in done {
                self.replica.handle(self.now, event, &mut self.effects);
            }
        }
    }

    /// What `twinblk explain` says now.
    fn explain(&mut self) -> ExplainReport {
        self.happens(Event::OperatorAsked { order: OrderId(77), what: Order::Explain });
        match self.answers.pop() {
            Some(Answer::Explained(report)) => *report,
            other => panic!("no explanation but {other:?}"),
        }
    }

    /// Superblocks reach the disk until none is under way; the last one.
    fn store(&mut self) -> Option<Superblock> {
        let mut last = None;
        while let Some((io, content)) = self.storing.take() {
            self.stored = content.clone();
            last = Some(content);
            self.happens(Event::IoCompleted { io });
        }
        last
    }

    fn stored_messages(&self) -> Vec<MembershipRecord> {
        let stored = |(_, message): &(NodeId, Message)| match message {
            Message::RecordStored(record) => Some(**record),
            _ => None,
        };
        self.sent.iter().filter_map(stored).collect()
    }

    fn link(&mut self, peer: NodeId) {
        let voter = VoterId(100 + u64::from(peer.0));
        self.happens(Event::PeerConnected { peer, link: link_to(peer), voter });
        self.store();
    }

    /// A frame of a peer, of the newest term that beta knows.
    fn frame(&mut self, message: &Message) -> ReceivedFrame {
        self.frame_of(self.replica.status(self.now).term, message)
    }

    fn frame_of(&mut self, term: Term, message: &Message) -> ReceivedFrame {
        self.frames += 1;
        let stamp = FrameStamp { term, clock: Tick(self.frames), echo: self.now };
        arrived(&message.encode(stamp))
    }

    fn hears(&mut self, peer: NodeId, message: &Message) {
        let frame = self.frame(message);
        self.happens(Event::FrameReceived { peer, link: link_to(peer), frame });
    }

    /// What beta has last said of itself to a peer.
    fn said_to(&self, peer: NodeId) -> &PeerState {
        let said = |(to, message): &'_ (NodeId, Message)| matches!(message, Message::State(_)) && *to == peer;
        let message = self.sent.iter().rev().find(|sent| said(sent)).map(|(_, message)| message);
        match message {
            Some(Message::State(state)) => state,
            _ => panic!("nothing was said to {peer}"),
        }
    }

    fn sent_to(&self, peer: NodeId, is_it: fn(&Message) -> bool) -> usize {
        self.sent.iter().filter(|(to, message)| *to == peer && is_it(message)).count()
    }

    fn durable(&self) -> Lsn {
        self.replica.status(self.now).lsn.durable
    }

    fn loses(&mut self, peer: NodeId) {
        self.happens(Event::PeerLost { peer, link: link_to(peer), reason: LinkLoss::Closed });
        self.store();
    }

    /// Alpha is Primary, beta follows it and has its first ten writes.
    fn following() -> Self {
        Self::start().follows()
    }

    fn follows(mut self) -> Self {
        let bench = &mut self;
        bench.link(ALPHA);
        bench.hears(ALPHA, &Message::State(Box::new(state(Role::Primary, 10))));
        bench.store();
        assert_eq!(bench.sent_to(ALPHA, |message| matches!(message, Message::CatchUpFrom { .. })), 1);
        bench.hears(ALPHA, &records(1..11));
        bench.store();
        bench.hears(ALPHA, &Message::Flush { up_to: Lsn(10) });
        assert_eq!(bench.durable(), Lsn(10));
        self
    }
}

fn is_lost(bench: &mut Bench, peer: NodeId) {
    bench.happens(Event::PeerLost { peer, link: link_to(peer), reason: LinkLoss::Closed });
    bench.store();
}

fn link_to(peer: NodeId) -> LinkId {
    LinkId(1 + u64::from(peer.0))
}

/// A replica that has what beta was made with, and writes up to `end`.
fn state(role: Role, end: u64) -> PeerState {
    PeerState {
        introduction: 1,
        node: ALPHA,
        volume_bytes: VOLUME_BYTES,
        role,
        disk: if role == Role::Primary { DiskState::UpToDate } else { DiskState::Consistent },
        lineage: Lineage::zeroed(),
        end: Lsn(end),
        flushed: Lsn(end),
        stable: Lsn::ZERO,
        oldest_kept: Lsn(1),
        base: (GenerationId::default(), Lsn::ZERO),
        has_dirty_bits: false,
        follows_another: false,
        discards: Discards::Nothing,
        record: MembershipRecord::default(),
        incarnation: Incarnation(5),
        continues: None,
        resync_from: None,
        is_tentative: false,
        configuration_digest: 7,
    }
}

fn records(lsns: std::ops::Range<u64>) -> Message {
    let write = |lsn| Record::write(Lsn(lsn), BlockRange::new(lsn % 256, 1), Bytes::from(vec![1; 4096]));
    let records = lsns.map(write).collect();
    Message::Records(RecordBatch { generation: GenerationId::ZEROED, stable_up_to: Lsn::ZERO, records })
}

fn record_of_alpha() -> MembershipRecord {
    let mut record = MembershipRecord {
        term: Term { number: 1, taker: 9 },
        version: 1,
        primary: Some(ALPHA),
        in_sync: InSyncSet::of(ALPHA, Incarnation(5)),
        ..MembershipRecord::default()
    };
    record.voters.ids[..3].copy_from_slice(&[VoterId(100), VoterId(101), VoterId(102)]);
    record
}

#[test]
fn a_voter_says_that_a_record_is_stored_only_when_it_is_on_its_disk() {
    let mut bench = Bench::start();
    bench.link(ALPHA);
    let record = record_of_alpha();
    let update = Message::RecordUpdate(Box::new(record));
    bench.hears(ALPHA, &update);
    // Asked again meanwhile: what is stored already by its memory is not stored yet.
    bench.hears(ALPHA, &update);
    assert!(bench.storing.is_some(), "it is on its way to the disk");
    assert!(bench.stored_messages().is_empty(), "and not there yet");

    let on_disk = bench.store().expect("a superblock");
    assert_eq!(on_disk.membership, record);
    assert_eq!(bench.stored_messages(), [record, record]);
}

#[test]
fn no_verdict_rests_on_what_a_third_node_has_overtaken() {
    let mut bench = Bench::start();
    bench.link(GAMMA);
    assert_eq!((bench.said_to(GAMMA).end, bench.said_to(GAMMA).follows_another), (Lsn(0), false));
    bench.link(ALPHA);
    bench.hears(ALPHA, &Message::State(Box::new(state(Role::Primary, 10))));
    bench.store();
    assert!(bench.said_to(GAMMA).follows_another, "what it said does not hold any more");
    bench.hears(ALPHA, &records(1..11));
    bench.hears(ALPHA, &Message::Flush { up_to: Lsn(10) });
    assert_eq!(bench.durable(), Lsn(10));
    // What gamma says now was said to what beta was in the beginning; then alpha is Primary no more.
    let gamma = PeerState { node: GAMMA, ..state(Role::Secondary, 5) };
    bench.hears(GAMMA, &Message::State(Box::new(gamma.clone())));
    let demoted = PeerState { introduction: 2, ..state(Role::Secondary, 10) };
    bench.hears(ALPHA, &Message::State(Box::new(demoted)));
    bench.hears(GAMMA, &Message::State(Box::new(gamma.clone())));
    bench.store();
    assert_eq!(bench.durable(), Lsn(10), "nothing was cut");
    assert_eq!(bench.sent_to(GAMMA, |message| matches!(message, Message::CatchUpFrom { .. })), 0);
    let said = bench.said_to(GAMMA);
    assert_eq!((said.end, said.follows_another), (Lsn(10), false));
    // The verdict that holds: beta brings gamma up to date.
    let introduction = said.introduction;
    bench.hears(GAMMA, &Message::State(Box::new(PeerState { introduction, ..gamma })));
    bench.hears(GAMMA, &Message::CatchUpFrom { end: Lsn(5) });
    let window = replicator::peer::message::Progress {
        received: Lsn(5),
        journaled: Lsn(5),
        flushed: Lsn(5),
        data_flushed: Lsn(5),
        window_bytes: 1 << 20,
    };
    bench.hears(GAMMA, &Message::Progress(window));
    assert_eq!(bench.sent_to(GAMMA, |message| matches!(message, Message::Records(_))), 1);
}

#[test]
fn records_beyond_the_window_end_the_link_and_are_not_taken_in() {
    let mut bench = Bench::following();
    let granted = bench.sent.iter().rev().find_map(|(_, message)| match message {
        Message::Progress(progress) => Some(progress.window_bytes),
        _ => None,
    });
    let granted = granted.expect("a window was granted");
    // Nothing that this disk is asked for is done any more, so the window does not open again.
    let cost = 4096 + 256;
    let mut next = 11;
    let mut sent = 0;
    while sent < granted {
        let frame = bench.frame(&records(next..next + 200));
        bench.replica.handle(
            bench.now,
            Event::FrameReceived { peer: ALPHA, link: link_to(ALPHA), frame },
            &mut bench.effects,
        );
        assert!(
            !bench.effects.drain().any(|effect| matches!(effect, Effect::DropPeer { .. })),
            "{sent} of {granted} bytes"
        );
        (next, sent) = (next + 200, sent + 200 * cost);
    }
    bench.hears(ALPHA, &records(next..next + 1));
    assert_eq!(bench.dropped, [ALPHA]);
}

#[test]
fn a_damaged_block_ends_the_link_is_counted_and_reaches_no_disk() {
    let mut bench = Bench::following();
    let mut frame = bench.frame(&records(11..12));
    let mut payload = frame.payload.to_vec();
    payload[100] ^= 4;
    frame.payload = Bytes::from(payload);
    bench.happens(Event::FrameReceived { peer: ALPHA, link: link_to(ALPHA), frame });
    assert_eq!(bench.dropped, [ALPHA]);
    let status = bench.replica.status(bench.now);
    assert_eq!(status.connections[0].refused_frames, 1);
    assert!(
        status.connections[0].reason.as_ref().is_some_and(|reason| reason.contains("checksum")),
        "{status:?}"
    );
    assert_eq!(status.lsn.assigned, Lsn(10));
}

#[test]
fn a_vote_is_asked_for_by_the_candidate_itself() {
    let mut bench = Bench::start();
    bench.link(ALPHA);
    bench.link(GAMMA);
    let request = VoteRequest {
        round: 1,
        stage: VoteStage::Ask,
        candidate: ALPHA,
        incarnation: Incarnation(5),
        basis: Basis::First,
        position: Position::default(),
        record: record_of_alpha(),
        peer_is_fenced: false,
    };
    bench.hears(GAMMA, &Message::VoteRequest(Box::new(request)));
    assert_eq!(bench.dropped, [GAMMA]);
}

#[test]
fn a_record_that_names_a_node_which_is_not_configured_leads_to_a_refusal_and_not_to_an_end() {
    let mut bench = Bench::start();
    bench.link(ALPHA);
    let mut record = record_of_alpha();
    record.primary = Some(NodeId(5));
    record.voters.ids[5] = VoterId(105);
    bench.hears(ALPHA, &Message::RecordPassedOn(Box::new(record)));
    bench.store();
    bench.link(GAMMA);
    let what = Order::Promote { wait: Span::from_millis(1000), warrant: Warrant::Known };
    bench.happens(Event::OperatorAsked { order: OrderId(1), what });
    for _ in 0..3000 {
        bench.settle();
    }
    assert_eq!(bench.replica.status(bench.now).role, Role::Secondary);
}
