//! A voter's word: what a replica says that it has stored is on its disk, flushed.

use bytes::Bytes;
use replicator::config::{Address, Config, OnPeerLost, ReplicaConfig, ReplicationProtocol};
use replicator::effect::{Effect, Effects};
use replicator::event::{Event, IoId, LinkId};
use replicator::generation::lineage::Lineage;
use replicator::journal::recovery::RecoveryScan;
use replicator::layout::superblock::{DurableDisk, ResourceName, Superblock};
use replicator::layout::zones::Zones;
use replicator::peer::frame::{FRAME_HEADER_BYTES, FrameHeader, FrameStamp, OutboundFrame, ReceivedFrame};
use replicator::peer::message::Message;
use replicator::promotion::membership::{InSyncSet, MembershipRecord};
use replicator::replica::{Replica, Restored};
use replicator::units::{Incarnation, NodeId, Span, Term, Tick, VoterId, bytes_usize};

const VOLUME_BYTES: u64 = 1 << 20;
const ALPHA: NodeId = NodeId(0);
const BETA: NodeId = NodeId(1);
const LINK: LinkId = LinkId(1);

/// Beta, with a disk that completes superblock writes only when it is told to.
struct Bench {
    replica: Replica,
    now: Tick,
    effects: Effects,
    /// The superblock write under way.
    storing: Option<(IoId, Superblock)>,
    sent: Vec<Message>,
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
        replicas: vec![replica("alpha"), replica("beta")],
        has_tiebreaker: true,
        on_peer_lost: OnPeerLost::Quorum,
        heartbeat: Span::from_millis(1000),
        peer_timeout: Span::from_millis(3000),
        digest: 7,
        disk_timeout: Span::from_millis(30_000),
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
        let resource = ResourceName::parse("mail").expect("a name");
        let zones = Zones::for_volume(VOLUME_BYTES, 16 << 20, 1).expect("legal sizes");
        let superblock = Superblock::created(
            resource,
            BETA,
            VoterId(101),
            VOLUME_BYTES,
            zones,
            DurableDisk::UpToDate,
            Lineage::zeroed(),
        );
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
        let replica = Replica::restore(config(), restored);
        let mut bench =
            Self { replica, now: Tick(1), effects: Effects::default(), storing: None, sent: Vec::new() };
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
                    Effect::FlushJournal { io } | Effect::WriteJournal { io, .. } => done.push(io),
                    Effect::SendToPeer { frame, .. } => {
                        self.sent.push(Message::parse(&arrived(&frame)).expect("a message"));
                    }
                    _ => {}
                }
            }
            if done.is_empty() {
                return;
            }
            for io in done {
                self.replica.handle(self.now, Event::IoCompleted { io }, &mut self.effects);
            }
        }
    }

    /// Superblocks reach the disk until none is under way; the last one.
    fn store(&mut self) -> Option<Superblock> {
        let mut last = None;
        while let Some((io, content)) = self.storing.take() {
            last = Some(content);
            self.happens(Event::IoCompleted { io });
        }
        last
    }

    fn stored_messages(&self) -> Vec<MembershipRecord> {
        let stored = |message: &'_ Message| -> Option<MembershipRecord> {
            match message {
                Message::RecordStored(record) => Some(**record),
                _ => None,
            }
        };
        self.sent.iter().filter_map(stored).collect()
    }
}

fn update(record: &MembershipRecord, clock: u64) -> Event {
    let stamp = FrameStamp { term: record.term, clock: Tick(clock), echo: Tick(0) };
    let frame = arrived(&Message::RecordUpdate(Box::new(*record)).encode(stamp));
    Event::FrameReceived { peer: ALPHA, link: LINK, frame }
}

#[test]
fn a_voter_says_that_a_record_is_stored_only_when_it_is_on_its_disk() {
    let mut bench = Bench::start();
    bench.happens(Event::PeerConnected { peer: ALPHA, link: LINK, voter: VoterId(100) });
    bench.store();
    let mut record = MembershipRecord {
        term: Term { number: 1, taker: 9 },
        version: 1,
        primary: Some(ALPHA),
        in_sync: InSyncSet::of(ALPHA, Incarnation(5)),
        ..MembershipRecord::default()
    };
    record.voters.ids[..3].copy_from_slice(&[VoterId(100), VoterId(101), VoterId(102)]);

    bench.happens(update(&record, 1));
    // Asked again meanwhile: what is stored already by its memory is not stored yet.
    bench.happens(update(&record, 2));
    assert!(bench.storing.is_some(), "it is on its way to the disk");
    assert!(bench.stored_messages().is_empty(), "and not there yet");

    let on_disk = bench.store().expect("a superblock");
    assert_eq!(on_disk.membership, record);
    assert_eq!(bench.stored_messages(), [record, record]);
}
