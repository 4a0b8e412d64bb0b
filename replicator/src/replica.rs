//! One replica of a volume: routes each event to the part that owns it and lets everything follow.
//!
//! Facts come in through [`Replica::handle`] and gather; [`Event::TimePassed`] ends a round: from what is
//! known then, everything that can move on moves on (`settle`). So many requests that arrive together
//! become one batch, one frame, one flush. Nearly all progress is a number that only grows:
//!
//! assigned → journaled → flushed → complete (here and on the peers) → stable → written back → data flushed → tail
//!
//! The parts own their state and their rules; this module and its children only carry facts between them.

mod agreeing;
mod candidacy;
mod clients;
mod continuity;
mod cut;
mod discard;
mod discard_saving;
mod disk;
mod diskless;
mod explain;
mod explanations;
mod exporting;
mod fencing;
mod foresight;
mod freeze;
mod inquiry;
mod introductions;
mod io_numbers;
mod leaving;
mod lending;
mod links;
mod mark_reader;
mod new_voters;
mod orders;
mod overtaking;
mod own_generation;
mod passing_on;
mod receiving;
mod reign;
mod reign_end;
mod resync_source;
mod resync_target;
mod sending;
mod status;
mod syncing;
mod tail;
mod taking;
mod votes;
mod ways;

use std::collections::{BTreeMap, VecDeque};

use crate::bitmap::DirtyBitmap;
use crate::config::Config;
use crate::effect::{Answer, Effect, Effects, ExportState};
use crate::event::{Event, IoId, LinkId, OrderId};
use crate::journal::recovery::RecoveryPlan;
use crate::journal::recovery_case::RecoveryCase;
use crate::journal::writer::JournalWriter;
use crate::layout::bitmap_page::BitmapPage;
use crate::layout::superblock::{DurableDisk, Superblock};
use crate::notice::Notice;
use crate::peer::message::Message;
use crate::prng::Prng;
use crate::promotion::membership::MembershipRecord;
use crate::read::Reads;
use crate::resync::throttle::Throttle;
use crate::state::{DiskState, Role};
use crate::superblock_keeper::{Revision, SuperblockKeeper};
use crate::units::{Incarnation, Lsn, NodeId, Span, Tick, VoterId};
use crate::write::Writes;
use crate::write_back::WriteBack;

use candidacy::Candidacy;
use discard::Discard;
use diskless::Diskless;
use fencing::Fencing;
use foresight::Foresight;
use inquiry::Inquiry;
use io_numbers::{IoNumbers, IoPurpose};
use leaving::{Outdating, Parting};
use links::Peer;
use orders::{Demotion, Wait};
use overtaking::ClientShare;
use receiving::Inbound;
use reign::Reign;
use tail::TailMove;

/// What a node's earlier run left in a place that a reboot erases: proof that nothing was lost since.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContinuityMark {
    /// That run.
    pub incarnation: Incarnation,
    /// The run that it continues, until its superblock names itself.
    pub continues: Option<Incarnation>,
    /// The newest write that it said it had in its journal.
    pub acknowledged: Lsn,
}

/// Everything that a replica starts from.
#[derive(Debug)]
pub struct Restored {
    /// The newest valid superblock.
    pub superblock: Superblock,
    /// What the journal holds.
    pub recovery: RecoveryPlan,
    /// Pages of the dirty bitmaps: bitmap slot, page. Read only if the superblock says that bits are set.
    pub bitmap_pages: Vec<BitmapPage>,
    /// Seed of everything that is left to chance.
    pub seed: u64,
    /// The clock now.
    pub started: Tick,
    /// The mark of an earlier run in this boot, if there was one.
    pub continuity: Option<ContinuityMark>,
}

/// Waking up so much later than asked means that this process, or the machine, stood still.
const STANDSTILL: Span = Span::from_millis(500);
/// Time between two looks at something that is overdue.
const OVERDUE_PAUSE: Span = Span::from_millis(1);

/// A message that may be sent when a superblock is durable.
#[derive(Debug)]
struct AfterDurable {
    revision: Revision,
    peer: NodeId,
    link: LinkId,
    message: Message,
}

/// How far a start has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Start {
    /// What recovery found is being flushed, so that it counts.
    Flushing,
    /// The superblock with the new session and incarnation is being written.
    Recording(Revision),
    /// Ready for peers and clients.
    Done,
}

/// One replica.
#[derive(Debug)]
pub struct Replica {
    config: Config,
    now: Tick,
    started: Tick,
    start: Start,
    random: Prng,
    numbers: IoNumbers,
    purposes: BTreeMap<IoId, IoPurpose>,

    superblock: SuperblockKeeper,
    journal: JournalWriter,
    write_back: WriteBack,
    data_flushed: Lsn,
    data_flush_in_flight: bool,
    tail_move: Option<TailMove>,
    bitmap: DirtyBitmap,
    /// Why the disk is not used any more.
    disk_fault: Option<String>,
    /// A Primary whose disk failed.
    diskless: Option<Box<Diskless>>,

    role: Role,
    disk: DiskState,
    /// This run of the daemon.
    incarnation: Incarnation,
    /// The recorded incarnation that this run continues without loss.
    continues: Option<Incarnation>,
    /// The run that the superblock named at the start, if that was without loss.
    preceded_by: Option<Incarnation>,
    /// Newest write that is complete, as far as this node decides it.
    complete: Lsn,
    /// Newest write known to be flushed on every in-sync replica.
    stable: Lsn,

    writes: Writes,
    reads: Reads,
    throttle: Throttle,
    share: ClientShare,
    /// To whom a block was copied last.
    copied_last: Option<NodeId>,
    /// Whether an operator has stopped the copying of blocks from and to this node.
    is_resync_paused: bool,
    clients: usize,
    written_bytes: u64,

    peers: Vec<Peer>,
    inbound: Option<Inbound>,
    reign: Option<Reign>,
    candidacy: Option<Candidacy>,
    demotion: Option<Demotion>,
    /// What this node is about to throw away after a split brain.
    discard: Option<Box<Discard>>,
    /// Steps of rescues, and discards, that were numbered.
    rescue_steps: u64,
    is_stopping: bool,
    waits: Vec<Wait>,
    inquiries: VecDeque<Inquiry>,
    foresights: Vec<Foresight>,
    after_durable: Vec<AfterDurable>,
    partings: Vec<Parting>,
    outdating: Vec<Outdating>,
    export: Option<ExportState>,
    /// Whether clients may read this side of a split brain, as it was left.
    serves_as_was: bool,
    frozen_since: Option<Tick>,
    /// What fence commands have found out about lost peers.
    /// The new voter that an operator has ordered to take in at once.
    accepted_voter: Option<VoterId>,
    fencing: BTreeMap<NodeId, Fencing>,
    last_fence_run: u64,
}

impl Replica {
    /// A replica as its disk remembers it: always Secondary, its disk at best Consistent (semantics §5).
    #[must_use]
    pub fn restore(config: Config, restored: Restored) -> Self {
        let Restored { superblock, recovery, bitmap_pages, seed, started, continuity } = restored;
        assert_eq!(superblock.volume_bytes, config.volume_bytes, "the shell has compared the sizes");
        assert_eq!(superblock.node, config.local, "the shell has compared the node numbers");
        let mut random = Prng::new(seed);
        let is_corrupt = recovery.verdict == RecoveryCase::Corrupt;
        let disk = disk_as_remembered(superblock.disk, is_corrupt);
        let continues = continuity::continued(&superblock, recovery.end, continuity, is_corrupt);
        let mut write_back = WriteBack::new(recovery.written_back_up_to);
        for (_, record) in recovery.replay {
            write_back.accept(record, started);
        }
        let journal =
            JournalWriter::new(recovery.ring, superblock.zones.journal().offset, recovery.flushed_up_to);
        let peers = config.other_voters().map(|node| Peer::new(node, &config, &superblock)).collect();
        Self {
            now: started,
            started,
            start: Start::Flushing,
            incarnation: Incarnation(random.identity()),
            preceded_by: continues.map(|_| superblock.incarnation),
            random,
            numbers: IoNumbers::default(),
            purposes: BTreeMap::new(),
            data_flushed: recovery.written_back_up_to,
            stable: recovery.written_back_up_to,
            complete: recovery.written_back_up_to,
            superblock: SuperblockKeeper::new(superblock),
            journal,
            write_back,
            data_flush_in_flight: false,
            tail_move: None,
            bitmap: DirtyBitmap::new(bitmap_pages),
            disk_fault: None,
            diskless: None,
            role: Role::Secondary,
            disk,
            continues,
            writes: Writes::default(),
            reads: Reads::default(),
            throttle: Throttle::new(config.resync, started),
            share: ClientShare::default(),
            copied_last: None,
            is_resync_paused: false,
            clients: 0,
            written_bytes: 0,
            peers,
            inbound: None,
            reign: None,
            candidacy: None,
            demotion: None,
            discard: None,
            rescue_steps: 0,
            is_stopping: false,
            waits: Vec::new(),
            inquiries: VecDeque::new(),
            foresights: Vec::new(),
            after_durable: Vec::new(),
            partings: Vec::new(),
            outdating: Vec::new(),
            export: None,
            serves_as_was: false,
            frozen_since: None,
            accepted_voter: None,
            fencing: BTreeMap::new(),
            last_fence_run: 0,
            config,
        }
    }

    /// Takes in a fact. [`Event::TimePassed`] ends a round: the shell sends it after the facts that came
    /// together, and whenever [`Self::next_wakeup`] says so.
    pub fn handle(&mut self, now: Tick, event: Event, effects: &mut Effects) {
        assert!(now >= self.now, "the clock never goes back");
        if now > self.now.plus(STANDSTILL) {
            self.forgive_standstill(now, effects);
        }
        self.now = now;
        self.numbers.now = now;
        match &event {
            Event::IoCompleted { io }
            | Event::BytesRead { io, .. }
            | Event::AllocationFound { io, .. }
            | Event::IoFailed { io, .. } => {
                self.numbers.ordered.remove(io);
            }
            Event::TimePassed
            | Event::RequestReceived { .. }
            | Event::ClientsCounted { .. }
            | Event::PeerConnected { .. }
            | Event::FrameReceived { .. }
            | Event::FramesSent { .. }
            | Event::PeerLost { .. }
            | Event::PeerUnreachable { .. }
            | Event::FenceCommandEnded { .. }
            | Event::RescueDone { .. }
            | Event::RescueFailed { .. }
            | Event::OperatorAsked { .. } => {}
        }
        match event {
            Event::TimePassed => self.settle(effects),
            Event::RequestReceived { id, request } => self.on_request(id, request, effects),
            Event::ClientsCounted { clients } => self.clients = clients,
            Event::IoCompleted { io } => self.on_io_completed(io, effects),
            Event::BytesRead { io, bytes } => self.on_bytes_read(io, bytes, effects),
            Event::AllocationFound { io, extents } => self.on_allocation_found(io, &extents, effects),
            Event::IoFailed { io, errno } => self.on_io_failed(io, errno, effects),
            Event::PeerConnected { peer, link, voter } => self.on_peer_connected(peer, link, voter, effects),
            Event::FrameReceived { peer, link, frame } => self.on_frame(peer, link, &frame, effects),
            Event::FramesSent { peer, link, frames } => self.on_frames_sent(peer, link, frames),
            Event::PeerLost { peer, link, reason } => {
                self.on_peer_lost(peer, link, &reason.to_string(), effects)
            }
            Event::PeerUnreachable { peer, reason } => self.on_peer_unreachable(peer, reason),
            Event::FenceCommandEnded { run, end } => self.on_fence_command_ended(run, &end, effects),
            Event::RescueDone { step, file } => self.on_rescue_done(step, file, effects),
            Event::RescueFailed { step, reason } => self.on_rescue_failed(step, &reason, effects),
            Event::OperatorAsked { order, what } => self.on_order(order, what, effects),
        }
    }

    /// A process that stood still has not heard what its disks and peers said meanwhile: that they said nothing is
    /// not held against them. Leases are not touched: others go by their own clocks.
    fn forgive_standstill(&mut self, now: Tick, effects: &mut Effects) {
        let late = self.next_wakeup().map_or(Span::default(), |due| now.since(due));
        if late <= STANDSTILL {
            return;
        }
        effects.push(Effect::Notify(Notice::warning(
            "stood-still",
            format!("this process stood still for {late}"),
        )));
        for ordered in self.numbers.ordered.values_mut() {
            *ordered = ordered.plus(late);
        }
        for outbound in self.peers.iter_mut().filter_map(Peer::outbound_mut) {
            outbound.wait_longer(late);
        }
    }

    /// Lets everything follow from what is known. Two passes: what the first one decides about peers and
    /// membership, the second one carries out.
    fn settle(&mut self, effects: &mut Effects) {
        for _ in 0..2 {
            self.advance_start(effects);
            self.check_timeouts(effects);
            self.send_after_durable(effects);
            self.advance_partings(effects);
            self.advance_outdating(effects);
            self.advance_introductions(effects);
            self.advance_inbound(effects);
            self.advance_equals();
            self.advance_pins(effects);
            self.advance_candidacy(effects);
            self.advance_reign(effects);
            self.admit_requests(effects);
            self.advance_journal(effects);
            self.advance_outbound(effects);
            self.pace_resyncs();
            self.advance_resyncs(effects);
            self.advance_resync_target(effects);
            self.advance_discard(effects);
            self.advance_as_was(effects);
            self.advance_marks();
            self.advance_diskless(effects);
            self.answer_clients(effects);
            self.advance_demotion(effects);
            self.advance_stop(effects);
        }
        self.advance_write_back(effects);
        self.advance_tail(effects);
        self.report_progress(effects);
        self.advance_sync_views(effects);
        self.send_heartbeats(effects);
        // A disk that has failed is not used any more: what waits for it to be durable waits for ever.
        if self.disk_fault.is_none() {
            self.superblock.advance(&mut || self.numbers.next(), effects);
            let zones = &self.superblock.content().zones;
            self.bitmap.advance(zones, &mut || self.numbers.next(), effects);
        }
        self.answer_waits(effects);
        self.advance_inquiries(effects);
        self.advance_foresights(effects);
        self.update_export(effects);
        self.check_invariants();
    }

    /// Draws the line under the last run: what recovery found is flushed, then the new session and
    /// incarnation are recorded. Only then does the node speak to anyone.
    fn advance_start(&mut self, effects: &mut Effects) {
        match self.start {
            Start::Done => {}
            Start::Recording(revision) => {
                if self.superblock.is_durable(revision) {
                    self.start = Start::Done;
                    if self.was_last_alone() && self.disk == DiskState::Consistent {
                        self.set_disk(DiskState::UpToDate, effects);
                    }
                }
            }
            Start::Flushing => {
                self.journal.want_flush(self.journal.accepted());
                if self.journal.is_clean() {
                    let ring = self.journal.ring();
                    let anchor = ring.anchor(ring.tail(), self.data_flushed);
                    let (incarnation, continues) = (self.incarnation, self.continues);
                    let is_damaged = self.disk == DiskState::Inconsistent;
                    let revision = self.superblock.change(|content| {
                        content.journal = anchor;
                        content.incarnation = incarnation;
                        // Without proof of continuity the membership of the recorded incarnation is over.
                        content.incarnation_recorded = continues.unwrap_or_default();
                        content.flags.stopped_cleanly = false;
                        if is_damaged {
                            content.disk = DurableDisk::Inconsistent;
                        }
                    });
                    self.start = Start::Recording(revision);
                }
            }
        }
    }

    /// Whether this node wrote last, and alone, where no majority knows it better (semantics §5).
    fn was_last_alone(&self) -> bool {
        let in_sync = self.record().in_sync;
        !self.config.on_peer_lost.asks_a_majority()
            && in_sync.len() == 1
            && in_sync.has_node(self.config.local)
    }

    /// The mark to publish before the effects of a round are carried out: whatever they acknowledge, a
    /// later run in this boot must find in its journal.
    #[must_use]
    pub fn continuity_mark(&self) -> ContinuityMark {
        // A daemon that dies before its superblock names it has lost nothing either.
        let continues = self.preceded_by.filter(|_| !self.is_started());
        ContinuityMark { incarnation: self.incarnation, continues, acknowledged: self.journal.journaled() }
    }

    /// When something becomes due by time alone.
    #[must_use]
    pub fn next_wakeup(&self) -> Option<Tick> {
        let stuck = self.oldest_io().map(|since| since.plus(self.config.disk_timeout));
        if !self.is_started() || self.is_cutting() {
            // Only the disk can move anything on.
            let due = [self.order_deadline(), stuck].into_iter().flatten().min();
            return due.map(|due| due.max(self.now.plus(OVERDUE_PAUSE)));
        }
        let heartbeat = self.peers.iter().filter_map(|peer| peer.heartbeat_due(self.config.heartbeat)).min();
        let is_writing = self.disk_fault.is_none();
        let write_back = self.write_back.due_at(self.write_back_limit()).filter(|_| is_writing);
        let orders = self.order_deadline();
        let lease = self.reign_wakeup();
        let flush = self.journal.flush_due_at().filter(|_| is_writing);
        let resync = self.resync_wakeup();
        let due = [heartbeat, write_back, orders, lease, flush, resync, stuck].into_iter().flatten().min();
        // What is overdue waits for something else; looking again every so often is enough.
        due.map(|due| due.max(self.now.plus(OVERDUE_PAUSE)))
    }

    /// When the oldest I/O under way was ordered, if the disk still counts.
    fn oldest_io(&self) -> Option<Tick> {
        self.numbers.oldest().filter(|_| self.disk_fault.is_none())
    }

    /// The newest write that has a number.
    fn assigned(&self) -> Lsn {
        self.write_back.newest()
    }

    /// The voters' record as this node has it.
    fn record(&self) -> &MembershipRecord {
        &self.superblock.content().membership
    }

    fn is_started(&self) -> bool {
        self.start == Start::Done
    }

    /// The name of a voter.
    fn name_of(&self, node: NodeId) -> &str {
        self.config.name_of(node)
    }

    fn set_disk(&mut self, disk: DiskState, effects: &mut Effects) {
        if self.disk != disk {
            let text = format!("disk {} -> {disk}", self.disk);
            self.disk = disk;
            effects.push(Effect::Notify(Notice::info("disk-state-changed", text)));
        }
    }

    fn set_role(&mut self, role: Role, effects: &mut Effects) {
        if self.role != role {
            let text = format!("role {} -> {role} in term {}", self.role, self.record().term);
            self.role = role;
            effects.push(Effect::Notify(Notice::info("role-changed", text)));
        }
    }

    fn answer(&self, order: OrderId, answer: Answer, effects: &mut Effects) {
        effects.push(Effect::AnswerOperator { order, answer });
    }

    /// The order of the marks. A violation stops the node: its peer takes over.
    fn check_invariants(&self) {
        let (journaled, flushed) = (self.journal.journaled(), self.journal.flushed());
        assert!(flushed <= journaled, "what is flushed is written: {flushed} > {journaled}");
        assert!(journaled <= self.assigned(), "what is written was accepted");
        let content = self.superblock.content();
        let is_resynced = content.resync.is_some();
        assert!(!is_resynced || content.disk == DurableDisk::Inconsistent, "I6: a resync of a usable disk");
        assert!(
            !is_resynced || self.disk <= DiskState::Inconsistent,
            "I6: a resync of a disk called {}",
            self.disk
        );
        // While its last record is on its way to disk, it names nobody.
        let is_named = self.record().primary == Some(self.config.local);
        assert!(
            self.role != Role::Primary || is_named || self.demotion.is_some(),
            "I2: a Primary's record names it"
        );
        if self.disk_fault.is_some() {
            return; // Its marks are not moved any more: others hold what is written now.
        }
        assert!(
            self.write_back.written_back() <= flushed,
            "I3: written back {} > flushed {flushed}",
            self.write_back.written_back()
        );
        assert!(
            self.data_flushed <= self.write_back.written_back(),
            "what is flushed in the data area is written there"
        );
        assert!(self.journal.accepted() == self.assigned(), "journal and write-back hold the same records");
        if self.role == Role::Primary {
            assert!(self.complete <= journaled, "I1: complete {} > journaled {journaled}", self.complete);
        }
    }
}

/// The state of a disk after a start: at best Consistent, for nobody has confirmed yet that it is the newest.
fn disk_as_remembered(durable: DurableDisk, is_corrupt: bool) -> DiskState {
    match durable {
        DurableDisk::Inconsistent => DiskState::Inconsistent,
        _ if is_corrupt => DiskState::Inconsistent,
        DurableDisk::Outdated => DiskState::Outdated,
        DurableDisk::UpToDate => DiskState::Consistent,
    }
}
