//! A machine of the world: a disk that outlives the daemon, a clock that outlives it too unless the power
//! fails, and the daemon's replica while it runs.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use replicator::config::{
    Address, Config, OnNoData, OnPeerLost, RESYNC_DEFAULT, ReplicaConfig, ReplicationProtocol,
};
use replicator::event::{IoId, LinkId};
use replicator::generation::lineage::Lineage;
use replicator::generation::split_brain::Policies;
use replicator::journal::recovery::{RecoveryPlan, RecoveryScan};
use replicator::journal::recovery_case::RecoveryCase;
use replicator::layout::bitmap_page::BitmapPage;
use replicator::layout::superblock::{DurableDisk, ResourceName, Superblock, choose_newest};
use replicator::layout::zones::{SUPERBLOCK_0_OFFSET, SUPERBLOCK_1_OFFSET, Zones};
use replicator::promotion::membership::VoterList;
use replicator::record::Record;
use replicator::replica::{ContinuityMark, Replica, Restored};
use replicator::resync::throttle::ThrottleLimits;
use replicator::units::{
    BLOCK_BYTES, BlockRange, GenerationId, Incarnation, Lsn, NodeId, Span, VOTERS_MAX, VoterId,
};

use crate::fence_command::FenceCommand;
use crate::random::Random;
use crate::rescue::Rescues;
use crate::sim_clock::SimClock;
use crate::sim_disk::SimDisk;

/// Size of a volume, unless something else is asked for.
pub const VOLUME_BYTES: u64 = 4 << 20;
const JOURNAL_BYTES: u64 = 16 << 20;
/// Where the superblock copies lie.
const SUPERBLOCKS: [u64; 2] = [SUPERBLOCK_0_OFFSET, SUPERBLOCK_1_OFFSET];

/// An I/O that was ordered.
#[derive(Debug)]
pub enum IoWork {
    /// A write to the metadata area.
    Journal(u64, Vec<Bytes>),
    /// A superblock copy, safe when reported.
    Superblock(u64, Bytes),
    /// Pages of bitmaps, safe when reported.
    BitmapPages(Vec<(u64, Bytes)>),
    /// A write to the data area.
    Data(u64, Vec<Bytes>),
    /// Zeroes in the data area.
    Zero(BlockRange),
    /// A read of the metadata area.
    ReadJournal(u64, u64),
    /// A read of the data area.
    ReadData(BlockRange),
    /// A flush of the metadata area that began at this mark.
    FlushJournal(u64),
    /// A flush of the data area that began at this mark.
    FlushData(u64),
    /// A question for holes.
    FindAllocated(BlockRange),
}

/// What a disk does with I/Os, to try what a node makes of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DiskHealth {
    /// It works.
    #[default]
    Good,
    /// Every I/O fails.
    Failing,
    /// No I/O is ever reported.
    Stuck,
    /// No I/O of the data area is ever reported.
    DataStuck,
    /// No flush of the journal is ever reported; everything else works.
    FlushesStuck,
}

/// What fails next on a disk, once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NextFailure {
    /// A write of any kind: parts of it may have reached the disk.
    Write,
    /// A flush: what it should have covered may be gone.
    Flush,
}

impl NextFailure {
    /// Whether an I/O is the one that fails.
    #[must_use]
    pub fn is_of(self, work: &IoWork) -> bool {
        match work {
            IoWork::Journal(..)
            | IoWork::Superblock(..)
            | IoWork::BitmapPages(_)
            | IoWork::Data(..)
            | IoWork::Zero(_) => self == Self::Write,
            IoWork::FlushJournal(_) | IoWork::FlushData(_) => self == Self::Flush,
            IoWork::ReadJournal(..) | IoWork::ReadData(_) | IoWork::FindAllocated(_) => false,
        }
    }
}

/// What becomes of blocks of the metadata area while nobody looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rot {
    /// A bit of a written block of the journal flips.
    JournalBit,
    /// A block of the journal turns up in the place of another.
    JournalAstray,
    /// A bit of the older superblock copy flips.
    OlderSuperblock,
    /// A bit of a page of a dirty bitmap flips.
    BitmapPage,
}

impl DiskHealth {
    /// Whether an I/O hangs.
    #[must_use]
    pub fn holds(self, work: &IoWork) -> bool {
        let is_of_data = match work {
            IoWork::Data(..)
            | IoWork::Zero(_)
            | IoWork::ReadData(_)
            | IoWork::FlushData(_)
            | IoWork::FindAllocated(_) => true,
            IoWork::Journal(..)
            | IoWork::Superblock(..)
            | IoWork::BitmapPages(_)
            | IoWork::ReadJournal(..)
            | IoWork::FlushJournal(_) => false,
        };
        match self {
            Self::Good | Self::Failing => false,
            Self::Stuck => true,
            Self::DataStuck => is_of_data,
            Self::FlushesStuck => matches!(work, IoWork::FlushJournal(_)),
        }
    }
}

/// A machine.
#[derive(Debug)]
pub struct SimNode {
    /// What its daemon is told.
    pub config: Config,
    /// Random identity of its metadata.
    pub voter: VoterId,
    /// Its metadata area.
    pub metadata: SimDisk,
    /// Its data area.
    pub data: SimDisk,
    /// What it keeps of what it discards.
    pub rescues: Rescues,
    /// What its disk does.
    pub health: DiskHealth,
    /// What fails next, once.
    pub next_failure: Option<NextFailure>,
    /// Until when its daemon stands still (SIGSTOP, or a machine that is frozen).
    pub stands_still_until: u64,
    /// Its replica, while the daemon runs.
    pub replica: Option<Replica>,
    /// How often its daemon was started.
    pub run: u64,
    /// What the daemon left for its next run in the same boot.
    pub mark: Option<ContinuityMark>,
    /// Runs that a power cut ended, or broke the proof of: what they had not flushed may be lost.
    pub broken: BTreeSet<Incarnation>,
    /// Its clock.
    pub clock: SimClock,
    /// I/Os that are not reported yet.
    pub in_flight: BTreeMap<IoId, IoWork>,
    /// Rounds of its daemon.
    pub rounds: u64,
    /// Whether the end of a round is on its way.
    pub round_ends: bool,
    /// The next time that its daemon wakes up by itself.
    pub wakes: Option<u64>,
    /// Whether clients are served.
    pub is_serving: bool,
    /// What its fence command does.
    pub fence_command: FenceCommand,
    /// How long it takes at most, microseconds; a little while, if it is not said.
    pub fence_takes: u64,
    /// Peers that it does not want links to.
    pub unwanted: Vec<NodeId>,
    /// Whether an operator has paused resyncs from it.
    pub is_resync_paused: bool,
    /// Links that its replica knows of.
    pub links: Vec<LinkId>,
    ring_bytes: u64,
}

/// What a daemon finds when it starts.
#[derive(Debug)]
pub struct Found {
    /// What recovery made of the journal.
    pub case: RecoveryCase,
    /// The last record.
    pub end: Lsn,
    /// The records that are to be written back.
    pub replay: Vec<(GenerationId, Record)>,
    /// Whether the machine has lost power since its last run.
    pub lost_power: bool,
}

/// What all nodes of a world have in common.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// What a Primary does that loses its peer.
    pub on_peer_lost: OnPeerLost,
    /// What a Primary does that can reach no copy.
    pub on_no_data: OnNoData,
    /// How many replicas there are. Two have a tiebreaker; three need none.
    pub replicas: u8,
    /// Protocol between the first two replicas.
    pub protocol: ReplicationProtocol,
    /// Protocol between a third replica and the others.
    pub third: ReplicationProtocol,
    /// Size of the volume.
    pub volume_bytes: u64,
    /// Length of the ring.
    pub ring_bytes: u64,
    /// What is done about a split brain without asking.
    pub split_brain: Policies,
    /// When a journal write counts as failed.
    pub disk_timeout: Span,
    /// What clients may be made to feel of a resync.
    pub resync: ThrottleLimits,
    /// How fast or slow a clock may run, microseconds in a million.
    pub drift: u64,
}

impl Default for NodeOptions {
    fn default() -> Self {
        Self {
            on_peer_lost: OnPeerLost::Quorum,
            on_no_data: OnNoData::Freeze,
            replicas: 2,
            protocol: ReplicationProtocol::C,
            third: ReplicationProtocol::C,
            volume_bytes: VOLUME_BYTES,
            ring_bytes: JOURNAL_BYTES,
            split_brain: Policies::default(),
            disk_timeout: Span::from_millis(30_000),
            resync: RESYNC_DEFAULT,
            drift: 0,
        }
    }
}

/// Names of the replicas.
pub const NAMES: [&str; 3] = ["alpha", "beta", "gamma"];

impl NodeOptions {
    /// The replicas.
    pub fn nodes(&self) -> impl Iterator<Item = NodeId> + use<> {
        (0..self.replicas).map(NodeId)
    }

    /// The protocol between two replicas.
    #[must_use]
    pub fn protocol_between(&self, one: NodeId, other: NodeId) -> ReplicationProtocol {
        if one.index().max(other.index()) < 2 { self.protocol } else { self.third }
    }

    /// Whether there is a tiebreaker: two replicas have no majority without one.
    #[must_use]
    pub fn has_tiebreaker(&self) -> bool {
        self.replicas == 2 && self.on_peer_lost.asks_a_majority()
    }

    fn rate(&self, random: &mut Random) -> u64 {
        let most = 2 * self.drift;
        1_000_000 - self.drift + if most == 0 { 0 } else { random.below(most) }
    }

    fn zones(&self) -> Zones {
        Zones::for_volume(self.volume_bytes, JOURNAL_BYTES, self.replicas - 1).expect("legal sizes")
    }
}

fn config(node: NodeId, options: &NodeOptions) -> Config {
    let replica = |other: NodeId| ReplicaConfig {
        name: NAMES[other.index()].to_owned(),
        protocol: options.protocol_between(node, other),
        address: Address::default(),
    };
    Config {
        resource: "sim".to_owned(),
        volume_bytes: options.volume_bytes,
        local: node,
        replicas: options.nodes().map(replica).collect(),
        has_tiebreaker: options.has_tiebreaker(),
        on_peer_lost: options.on_peer_lost,
        on_no_data: options.on_no_data,
        heartbeat: Span::from_millis(1000),
        peer_timeout: Span::from_millis(3000),
        digest: 7,
        disk_timeout: options.disk_timeout,
        split_brain: options.split_brain,
        resync: options.resync,
    }
}

fn first_superblock(node: NodeId, voter: VoterId, disk: DurableDisk, options: &NodeOptions) -> Superblock {
    let lineage = match disk {
        DurableDisk::UpToDate | DurableDisk::Outdated => Lineage::zeroed(),
        DurableDisk::Inconsistent => Lineage::default(),
    };
    let mut pins = VoterList { ids: [VoterId::default(); VOTERS_MAX] };
    pins.ids[node.index()] = voter;
    let resource = ResourceName::parse("sim").expect("a legal name");
    let (zones, volume_bytes) = (options.zones(), options.volume_bytes);
    let created = Superblock::created(resource, node, voter, volume_bytes, zones, disk, lineage);
    Superblock { pins, ..created }
}

impl SimNode {
    /// A machine with new metadata, its daemon not running.
    #[must_use]
    pub fn create(node: NodeId, disk: DurableDisk, options: &NodeOptions, random: &mut Random) -> Self {
        let voter = VoterId(random.draw() | 1);
        let superblock = first_superblock(node, voter, disk, options);
        let mut metadata = SimDisk::default();
        let offset = superblock.zones.superblocks()[superblock.copy_index()].offset;
        metadata.write_through(offset, &superblock.encode()[..]);
        Self {
            config: config(node, options),
            voter,
            metadata,
            data: SimDisk::default(),
            rescues: Rescues::default(),
            health: DiskHealth::Good,
            next_failure: None,
            stands_still_until: 0,
            replica: None,
            run: 0,
            mark: None,
            broken: BTreeSet::new(),
            clock: SimClock::boot(0, random.below(1 << 30)).at_rate(options.rate(random)),
            in_flight: BTreeMap::new(),
            rounds: 0,
            round_ends: false,
            wakes: None,
            is_serving: false,
            fence_command: FenceCommand::IsMissing,
            fence_takes: 0,
            unwanted: Vec::new(),
            is_resync_paused: false,
            links: Vec::new(),
            ring_bytes: options.ring_bytes,
        }
    }

    /// The newest superblock on its disk.
    #[must_use]
    pub fn superblock(&self) -> Superblock {
        let copy = |at: usize| self.metadata.read(SUPERBLOCKS[at], BLOCK_BYTES);
        choose_newest(&copy(0), &copy(1)).expect("one copy is always whole").0
    }

    fn recover(&self, superblock: &Superblock) -> RecoveryPlan {
        let ring_start = superblock.zones.journal().offset;
        let mut scan = RecoveryScan::of_ring(self.ring_bytes, superblock);
        while let Some(read) = scan.next_read() {
            scan.on_bytes(self.metadata.read(ring_start + read.ring_offset, read.length));
        }
        scan.finish()
    }

    fn bitmap_pages(&self, superblock: &Superblock) -> Vec<BitmapPage> {
        let mut pages = Vec::new();
        for slot in superblock.peers.iter().filter(|slot| slot.has_dirty_bits) {
            let zone = superblock.zones.bitmap(slot.bitmap_slot).expect("every slot has a zone");
            for page in 0..zone.length / BLOCK_BYTES {
                let block = self.metadata.read(zone.offset + page * BLOCK_BYTES, BLOCK_BYTES);
                if block.iter().any(|byte| *byte != 0) {
                    pages.push(BitmapPage::recover(&block, slot.bitmap_slot, page).expect("a page"));
                }
            }
        }
        pages
    }

    /// Starts the daemon at world time `now`. Returns what recovery made of the journal.
    pub fn start(&mut self, now: u64, seed: u64) -> Found {
        assert!(self.replica.is_none(), "it runs already");
        let superblock = self.superblock();
        let recovery = self.recover(&superblock);
        let found = Found {
            case: recovery.verdict,
            end: recovery.end,
            replay: recovery.replay.clone(),
            lost_power: self.mark.is_none(),
        };
        let bitmap_pages = self.bitmap_pages(&superblock);
        let started = self.clock.read(now);
        let continuity = self.mark;
        let restored = Restored { superblock, recovery, bitmap_pages, seed, started, continuity };
        self.replica = Some(Replica::restore(self.config.clone(), restored));
        self.run += 1;
        self.round_ends = false;
        self.wakes = None;
        self.unwanted.clear();
        self.is_resync_paused = false;
        self.next_failure = None;
        found
    }

    /// The daemon dies. Parts of what it had in flight reach the disk; what was reported stays.
    pub fn kill(&mut self, random: &mut Random) {
        self.replica = None;
        self.is_serving = false;
        self.links.clear();
        self.rescues.kill();
        for (_, work) in std::mem::take(&mut self.in_flight) {
            self.finish_partly(work, random);
        }
    }

    /// Parts of an I/O reach the disk.
    pub fn finish_partly(&mut self, work: IoWork, random: &mut Random) {
        match work {
            IoWork::Journal(offset, pieces) => {
                self.metadata.write_partly(offset, &pieces, random);
            }
            IoWork::Superblock(offset, bytes) => self.metadata.write_partly(offset, [&bytes], random),
            IoWork::BitmapPages(pages) => {
                for (offset, bytes) in pages {
                    self.metadata.write_partly(offset, [&bytes], random);
                }
            }
            IoWork::Data(offset, pieces) => {
                self.data.write_partly(offset, &pieces, random);
            }
            IoWork::Zero(range) => {
                if random.chance(50) {
                    self.data.zero(range);
                }
            }
            IoWork::ReadJournal(..)
            | IoWork::ReadData(_)
            | IoWork::FlushJournal(_)
            | IoWork::FlushData(_)
            | IoWork::FindAllocated(_) => {}
        }
    }

    /// What a flush should have covered may be gone, and with it the proof that nothing was lost.
    pub fn fail_flush(&mut self, work: &IoWork, random: &mut Random) {
        self.broken.insert(self.superblock().incarnation_recorded);
        self.broken.extend(self.mark.map(|mark| mark.incarnation));
        if matches!(work, IoWork::FlushData(_)) {
            self.data.fail_flush(random);
        } else {
            self.metadata.fail_flush(random);
        }
    }

    /// The power fails and comes back at `now`.
    pub fn cut_power(&mut self, now: u64, random: &mut Random) {
        self.broken.insert(self.superblock().incarnation_recorded);
        self.broken.extend(self.mark.map(|mark| mark.incarnation));
        self.kill(random);
        self.metadata.cut_power(random);
        self.data.cut_power(random);
        self.mark = None;
        self.clock = self.clock.reboot(now, random.below(1 << 30));
    }

    /// Blocks of its metadata area go bad while its daemon is down.
    pub fn rot(&mut self, rot: Rot, random: &mut Random) {
        let superblock = self.superblock();
        let (journal, zones) = (superblock.zones.journal(), &superblock.zones);
        let bitmaps = zones.bitmap(0).map_or(0..0, |zone| zone.offset..zone.end());
        let journal = journal.offset..journal.offset + self.ring_bytes;
        match rot {
            Rot::JournalBit => self.metadata.flip_a_bit(journal, random),
            Rot::JournalAstray => self.metadata.misplace_a_block(journal, random),
            Rot::BitmapPage => self.metadata.flip_a_bit(bitmaps, random),
            Rot::OlderSuperblock => {
                let offset = SUPERBLOCKS[1 - superblock.copy_index()];
                self.metadata.flip_a_bit(offset..offset + BLOCK_BYTES, random);
            }
        }
    }
}
