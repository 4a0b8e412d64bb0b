//! A replica, its disk, and everything that a shell keeps for it: what is ordered and not reported, which links there
//! are, what was said on them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use replicator::config::{
    Address, Config, OnNoData, OnPeerLost, RESYNC_DEFAULT, ReplicaConfig, ReplicationProtocol,
};
use replicator::effect::{Answer, Effect, Effects};
use replicator::event::{Event, FenceRun, IoId, LinkId, LinkLoss, OrderId};
use replicator::generation::lineage::{Generation, Lineage};
use replicator::generation::split_brain::{Policies, Policy};
use replicator::journal::recovery::RecoveryScan;
use replicator::layout::bitmap_page::BitmapPage;
use replicator::layout::superblock::{DurableDisk, ResourceName, Superblock, choose_newest};
use replicator::layout::zones::Zones;
use replicator::peer::frame::{FRAME_HEADER_BYTES, FrameHeader, FrameStamp, OutboundFrame, ReceivedFrame};
use replicator::peer::message::Message;
use replicator::promotion::membership::{InSyncSet, MembershipRecord};
use replicator::replica::{ContinuityMark, Replica, Restored};
use replicator::rescue::RescueStep;
use replicator::units::{
    BLOCK_BYTES, GenerationId, Incarnation, Lsn, NodeId, Span, Term, Tick, VoterId, bytes_usize,
};

use super::disk::{Disk, Work, work_of};
use super::frames::{Known, usual_incarnation, voter_id};
use super::script::Script;

pub const VOLUME_BYTES: u64 = 1 << 20;
const JOURNAL_BYTES: u64 = 64 << 20;
/// A small ring is full soon, and looked through soon.
const RING_BYTES: u64 = 4 << 20;
/// Most messages of the replica that wait for an answer.
const HEARD_MAX: usize = 64;
/// Most that one event may bring about, however much had gathered.
const EFFECTS_MAX: usize = 4096;

pub struct Bench {
    pub replica: Replica,
    pub config: Config,
    pub now: Tick,
    effects: Effects,
    disk: Disk,
    pub works: BTreeMap<IoId, Work>,
    newest_io: IoId,
    links: BTreeMap<NodeId, LinkId>,
    last_link: u64,
    frames_sent: BTreeMap<LinkId, u64>,
    /// What the replica has said and nobody has answered, oldest first.
    pub heard: VecDeque<(NodeId, Message)>,
    said: BTreeMap<NodeId, Message>,
    pub fences: VecDeque<FenceRun>,
    pub rescues: VecDeque<RescueStep>,
    pub stops: BTreeSet<OrderId>,
    /// Whether the daemon has ended by order.
    pub is_over: bool,
    last_number: u64,
    mark: Option<ContinuityMark>,
    written: Superblock,
}

fn config(script: &mut Script<'_>) -> Config {
    let protocols =
        [ReplicationProtocol::C, ReplicationProtocol::C, ReplicationProtocol::B, ReplicationProtocol::A];
    let mut replica = |name: &str| ReplicaConfig {
        name: name.to_owned(),
        protocol: script.pick(&protocols),
        address: Address::default(),
    };
    let mut replicas = vec![replica("alpha"), replica("beta"), replica("gamma")];
    let on_peer_lost = script.pick(&[OnPeerLost::Quorum, OnPeerLost::Fence, OnPeerLost::Continue]);
    if script.flag() {
        replicas.pop();
    }
    let on_no_data = if replicas.len() == 2 { OnNoData::Fail } else { OnNoData::Freeze };
    let policies = [Policy::Disconnect, Policy::DiscardZeroChanges, Policy::DiscardLeastChanges];
    Config {
        resource: "mail".to_owned(),
        volume_bytes: VOLUME_BYTES,
        local: NodeId(script.below(2)),
        has_tiebreaker: replicas.len() == 2 && on_peer_lost.asks_a_majority(),
        replicas,
        on_peer_lost,
        on_no_data,
        heartbeat: Span::from_millis(1000),
        peer_timeout: Span::from_millis(3000),
        digest: 7,
        disk_timeout: Span::from_millis(30_000),
        split_brain: Policies {
            no_primary: script.pick(&policies),
            one_primary: script.pick(&[
                Policy::Disconnect,
                Policy::DiscardSecondary,
                Policy::DiscardZeroChanges,
                Policy::DiscardLeastChanges,
            ]),
            two_primaries: script.pick(&policies),
        },
        resync: RESYNC_DEFAULT,
    }
}

/// What a disk may hold before the first write.
fn superblock(config: &Config, script: &mut Script<'_>) -> Superblock {
    let resource = ResourceName::parse("mail").expect("a name");
    let peers = u8::try_from(config.replicas.len() - 1).expect("few");
    let zones = Zones::for_volume(VOLUME_BYTES, JOURNAL_BYTES, peers).expect("legal sizes");
    let disk = script.pick(&[
        DurableDisk::UpToDate,
        DurableDisk::UpToDate,
        DurableDisk::Outdated,
        DurableDisk::Inconsistent,
    ]);
    let mut lineage = match disk {
        DurableDisk::UpToDate | DurableDisk::Outdated => Lineage::zeroed(),
        DurableDisk::Inconsistent => Lineage::default(),
    };
    let is_old = script.flag();
    let term = Term { number: 1, taker: 1 };
    if is_old {
        let generation = Generation { id: GenerationId(7), term, granted: script.flag(), first_lsn: Lsn(1) };
        lineage.append(generation, &[]);
    }
    let voter = voter_id(config.local);
    let mut superblock =
        Superblock::created(resource, config.local, voter, VOLUME_BYTES, zones, disk, lineage);
    if is_old {
        let mut record = MembershipRecord { term, version: 3, ..MembershipRecord::default() };
        for node in (0..config.voters()).map(|at| NodeId(u8::try_from(at).expect("few"))) {
            record.voters.ids[node.index()] = voter_id(node);
            superblock.pins.ids[node.index()] = voter_id(node);
        }
        let own = Incarnation(33);
        let other = NodeId(1 - config.local.0);
        record.in_sync = match script.below(3) {
            0 => InSyncSet::of(config.local, own),
            1 => InSyncSet::of(other, usual_incarnation(other)),
            _ => InSyncSet::of(config.local, own).with(other, usual_incarnation(other)),
        };
        record.primary = script.pick(&[None, Some(config.local), Some(other)]);
        superblock.membership = record;
        superblock.incarnation = own;
        superblock.incarnation_recorded = own;
        superblock.flags.stopped_cleanly = script.flag();
    }
    superblock
}

impl Bench {
    pub fn new(script: &mut Script<'_>) -> Self {
        let config = config(script);
        let written = superblock(&config, script);
        let now = Tick(1 + u64::from(script.byte()) * 1000);
        let mut disk = Disk::default();
        let at = written.zones.superblocks()[written.copy_index()].offset / BLOCK_BYTES;
        disk.metadata.write(at, &Bytes::copy_from_slice(&written.encode()[..]));
        let replica = restore(&config, &disk, now, 1, None);
        Self {
            replica,
            config,
            now,
            effects: Effects::default(),
            disk,
            works: BTreeMap::new(),
            newest_io: IoId(0),
            links: BTreeMap::new(),
            last_link: 0,
            frames_sent: BTreeMap::new(),
            heard: VecDeque::new(),
            said: BTreeMap::new(),
            fences: VecDeque::new(),
            rescues: VecDeque::new(),
            stops: BTreeSet::new(),
            is_over: false,
            last_number: 0,
            mark: None,
            written,
        }
    }

    /// The daemon dies and starts again; what was written before is there, of what was ordered nothing or everything.
    pub fn restart(&mut self, script: &mut Script<'_>) {
        for (io, work) in std::mem::take(&mut self.works) {
            if script.flag() {
                self.disk.carry_out(io, work, &mut Script::new(&[]));
            }
        }
        self.links.clear();
        self.frames_sent.clear();
        self.heard.clear();
        self.said.clear();
        self.fences.clear();
        self.rescues.clear();
        self.stops.clear();
        (self.is_over, self.newest_io) = (false, IoId(0));
        if script.flag() {
            self.mark = None;
        }
        // No two runs draw the same identities.
        let seed = self.next_number() << 16;
        self.replica = restore(&self.config, &self.disk, self.now, seed, self.mark);
    }

    pub fn next_number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    pub fn voters(&self) -> u8 {
        u8::try_from(self.config.voters()).expect("few")
    }

    /// Another voter.
    pub fn a_peer(&self, script: &mut Script<'_>) -> NodeId {
        let others: Vec<NodeId> = self.config.other_voters().collect();
        script.pick(&others)
    }

    pub fn happens(&mut self, event: Event) {
        self.replica.handle(self.now, event, &mut self.effects);
        self.take_effects();
    }

    /// Ends a round.
    pub fn settle(&mut self) {
        self.happens(Event::TimePassed);
        self.mark = Some(self.replica.continuity_mark());
    }

    pub fn passes(&mut self, span: Span) {
        self.now = self.now.plus(span);
        self.settle();
    }

    fn take_effects(&mut self) {
        let effects: Vec<Effect> = self.effects.drain().collect();
        assert!(effects.len() <= EFFECTS_MAX, "{} effects of one event", effects.len());
        for effect in effects {
            if let Effect::WriteSuperblock { bytes, .. } = &effect {
                self.written = Superblock::parse(bytes).expect("a superblock that can be read again");
            }
            match work_of(effect) {
                Ok((io, work)) => {
                    // A later one has a greater number, though effects are not in order.
                    assert!(!self.works.contains_key(&io), "an I/O has a number of its own");
                    self.newest_io = self.newest_io.max(io);
                    self.works.insert(io, work);
                }
                Err(effect) => self.take(effect),
            }
        }
    }

    fn take(&mut self, effect: Effect) {
        match effect {
            Effect::SendToPeer { peer, link, frame } => {
                let message = Message::parse(&received(&frame)).expect("what is sent can be read");
                *self.frames_sent.entry(link).or_default() += 1;
                if self.links.get(&peer) == Some(&link) {
                    self.heard.push_back((peer, message.clone()));
                    if self.heard.len() > HEARD_MAX {
                        self.heard.pop_front();
                    }
                    if matches!(message, Message::State(_)) {
                        self.said.insert(peer, message);
                    }
                }
            }
            Effect::DropPeer { peer, link } => {
                if self.links.get(&peer) == Some(&link) {
                    self.links.remove(&peer);
                }
            }
            Effect::RunFenceCommand { run, .. } => self.fences.push_back(run),
            Effect::Rescue { step, .. } => self.rescues.push_back(step),
            Effect::AnswerOperator { order, answer } => {
                self.is_over |= self.stops.contains(&order) && matches!(answer, Answer::Done { .. });
            }
            // What the shell does with the rest comes back as nothing that it would not tell anyhow.
            _ => {}
        }
    }

    /// Some I/O is reported, or all of them are.
    pub fn complete(&mut self, at: u8, script: &mut Script<'_>) {
        let Some(io) = self.works.keys().copied().nth(usize::from(at) % self.works.len().max(1)) else {
            return;
        };
        self.complete_one(io, script);
    }

    pub fn complete_one(&mut self, io: IoId, script: &mut Script<'_>) {
        if let Some(work) = self.works.remove(&io) {
            let event = self.disk.carry_out(io, work, script);
            self.happens(event);
        }
    }

    /// Everything that is ordered is done, and what follows from it, for so many rounds.
    pub fn complete_all(&mut self, rounds: usize) {
        for _ in 0..rounds {
            let ordered: Vec<IoId> = self.works.keys().copied().collect();
            for io in &ordered {
                self.complete_one(*io, &mut Script::new(&[]));
            }
            self.passes(Span::from_millis(1));
            if ordered.is_empty() {
                return;
            }
        }
    }

    pub fn fail(&mut self, at: u8) {
        let Some(io) = self.works.keys().copied().nth(usize::from(at) % self.works.len().max(1)) else {
            return;
        };
        self.works.remove(&io);
        self.happens(Event::IoFailed { io, errno: 5 });
    }

    pub fn connect(&mut self, peer: NodeId, voter: VoterId) {
        self.last_link += 1;
        let link = LinkId(self.last_link);
        self.links.insert(peer, link);
        self.said.remove(&peer);
        self.happens(Event::PeerConnected { peer, link, voter });
    }

    pub fn lose(&mut self, peer: NodeId, reason: LinkLoss) {
        if let Some(link) = self.links.remove(&peer) {
            self.happens(Event::PeerLost { peer, link, reason });
        }
    }

    pub fn note_frames_sent(&mut self, peer: NodeId) {
        if let Some(link) = self.links.get(&peer).copied() {
            let frames = self.frames_sent.get(&link).copied().unwrap_or(0);
            self.happens(Event::FramesSent { peer, link, frames });
        }
    }

    pub fn known(&self, node: NodeId) -> Known {
        let lsn = self.replica.status(self.now).lsn;
        Known {
            node,
            replica: self.config.local,
            voters: self.voters(),
            said: match self.said.get(&node) {
                Some(Message::State(state)) => Some((**state).clone()),
                _ => None,
            },
            record: self.written.membership,
            incarnation: self.written.incarnation,
            lineage: self.written.lineage.clone(),
            marks: [lsn.assigned, lsn.durable, lsn.stable, lsn.oldest_kept.previous()],
        }
    }

    /// A frame arrives, if there is a link. Bytes of its body that are not what the encoder wrote come in a frame with
    /// the right checksum.
    pub fn hears(&mut self, peer: NodeId, message: &Message, script: &mut Script<'_>) {
        let Some(link) = self.links.get(&peer).copied() else { return };
        let term = self.known(peer).frame_term(script);
        let echo = if script.rarely(8) { Tick(script.number()) } else { self.now };
        let stamp = FrameStamp { term, clock: Tick(self.now.0 + u64::from(script.byte())), echo };
        let mut frame = received(&message.encode(stamp));
        if script.rarely(24) && !frame.body.is_empty() {
            let mut body = frame.body.to_vec();
            for _ in 0..=script.below(3) {
                let at = bytes_usize(script.number()) % body.len().min(256);
                body[at] = script.byte();
            }
            frame.body = Bytes::from(body);
        }
        self.happens(Event::FrameReceived { peer, link, frame });
    }
}

fn restore(
    config: &Config,
    disk: &Disk,
    started: Tick,
    seed: u64,
    continuity: Option<ContinuityMark>,
) -> Replica {
    let block = |offset: u64| disk.metadata.read(offset / BLOCK_BYTES, 1);
    let zones = Zones::for_volume(VOLUME_BYTES, JOURNAL_BYTES, 1).expect("legal sizes");
    let [first, second] = zones.superblocks();
    let (superblock, _) =
        choose_newest(&block(first.offset), &block(second.offset)).expect("one copy is always whole");
    let ring_start = superblock.zones.journal().offset / BLOCK_BYTES;
    let mut scan = RecoveryScan::of_ring(RING_BYTES, &superblock);
    while let Some(read) = scan.next_read() {
        let first = ring_start + read.ring_offset / BLOCK_BYTES;
        scan.on_bytes(disk.metadata.read(first, read.length / BLOCK_BYTES));
    }
    let mut bitmap_pages = Vec::new();
    for slot in superblock.peers.iter().filter(|slot| slot.has_dirty_bits) {
        let zone = superblock.zones.bitmap(slot.bitmap_slot).expect("every slot has a zone");
        for page in 0..zone.length / BLOCK_BYTES {
            let bytes = block(zone.offset + page * BLOCK_BYTES);
            if bytes.iter().any(|byte| *byte != 0) {
                bitmap_pages.push(BitmapPage::recover(&bytes, slot.bitmap_slot, page).expect("a page"));
            }
        }
    }
    let recovery = scan.finish();
    let restored = Restored { superblock, recovery, bitmap_pages, seed, started, continuity };
    Replica::restore(config.clone(), restored)
}

fn received(frame: &OutboundFrame) -> ReceivedFrame {
    let (header, body) = frame.head.split_at(FRAME_HEADER_BYTES);
    let header = FrameHeader::parse(header.try_into().expect("64 bytes")).expect("a header");
    let payload = Bytes::from(frame.payloads.concat());
    ReceivedFrame::assemble(header, Bytes::copy_from_slice(body), payload).expect("a frame")
}
