//! A machine of the world: a disk that outlives the daemon, a clock that outlives it too unless the power
//! fails, and the daemon's replica while it runs.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use replicator::config::{Address, Config, OnPeerLost, RESYNC_DEFAULT, ReplicaConfig, ReplicationProtocol};
use replicator::event::{IoId, LinkId};
use replicator::generation::lineage::Lineage;
use replicator::generation::split_brain::Policies;
use replicator::journal::recovery::{RecoveryPlan, RecoveryScan};
use replicator::layout::bitmap_page::BitmapPage;
use replicator::layout::superblock::{DurableDisk, ResourceName, Superblock, choose_newest};
use replicator::layout::zones::Zones;
use replicator::promotion::membership::VoterList;
use replicator::replica::{ContinuityMark, Replica, Restored};
use replicator::units::{BLOCK_BYTES, BlockRange, Incarnation, NodeId, Span, VOTERS_MAX, VoterId};

use crate::random::Random;
use crate::rescue::Rescues;
use crate::sim_clock::SimClock;
use crate::sim_disk::SimDisk;

/// Size of every volume.
pub const VOLUME_BYTES: u64 = 4 << 20;
const JOURNAL_BYTES: u64 = 16 << 20;

/// An I/O that was ordered.
#[derive(Debug)]
pub enum IoWork {
    /// A write to the metadata area.
    Journal(u64, Vec<Bytes>),
    /// Blocks of the metadata area that are safe when reported.
    WriteThrough(Vec<(u64, Bytes)>),
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
            | IoWork::WriteThrough(_)
            | IoWork::ReadJournal(..)
            | IoWork::FlushJournal(_) => false,
        };
        self == Self::Stuck || (self == Self::DataStuck && is_of_data)
    }
}

/// What a node's fence command does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FenceCommand {
    /// It ends with this status, and does nothing else.
    Exits(i32),
    /// It cuts the peer's power, and says so (7).
    Shoots,
    /// It does not end by itself.
    Hangs,
    /// It is not there.
    IsMissing,
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
    /// Whether the end of a round is on its way.
    pub round_ends: bool,
    /// The next time that its daemon wakes up by itself.
    pub wakes: Option<u64>,
    /// Whether clients are served.
    pub is_serving: bool,
    /// What its fence command does.
    pub fence_command: FenceCommand,
    /// Peers that it does not want links to.
    pub unwanted: Vec<NodeId>,
    /// Links that its replica knows of.
    pub links: Vec<LinkId>,
    ring_bytes: u64,
}

/// What all nodes of a world have in common.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// What a Primary does that loses its peer.
    pub on_peer_lost: OnPeerLost,
    /// Protocol between the two replicas.
    pub protocol: ReplicationProtocol,
    /// Length of the ring.
    pub ring_bytes: u64,
    /// What is done about a split brain without asking.
    pub split_brain: Policies,
    /// When a journal write counts as failed.
    pub disk_timeout: Span,
}

impl Default for NodeOptions {
    fn default() -> Self {
        Self {
            on_peer_lost: OnPeerLost::Quorum,
            protocol: ReplicationProtocol::C,
            ring_bytes: JOURNAL_BYTES,
            split_brain: Policies::default(),
            disk_timeout: Span::from_millis(30_000),
        }
    }
}

fn config(node: NodeId, options: &NodeOptions) -> Config {
    let replica = |name: &str| ReplicaConfig {
        name: name.to_owned(),
        protocol: options.protocol,
        address: Address::default(),
    };
    Config {
        resource: "sim".to_owned(),
        volume_bytes: VOLUME_BYTES,
        local: node,
        replicas: vec![replica("alpha"), replica("beta")],
        has_tiebreaker: options.on_peer_lost.asks_a_majority(),
        on_peer_lost: options.on_peer_lost,
        heartbeat: Span::from_millis(1000),
        peer_timeout: Span::from_millis(3000),
        digest: 7,
        disk_timeout: options.disk_timeout,
        split_brain: options.split_brain,
        resync: RESYNC_DEFAULT,
    }
}

fn first_superblock(node: NodeId, voter: VoterId, disk: DurableDisk) -> Superblock {
    let lineage = match disk {
        DurableDisk::UpToDate | DurableDisk::Outdated => Lineage::zeroed(),
        DurableDisk::Inconsistent => Lineage::default(),
    };
    let mut pins = VoterList { ids: [VoterId::default(); VOTERS_MAX] };
    pins.ids[node.index()] = voter;
    let resource = ResourceName::parse("sim").expect("a legal name");
    let zones = Zones::for_volume(VOLUME_BYTES, JOURNAL_BYTES, 1).expect("legal sizes");
    let created = Superblock::created(resource, node, voter, VOLUME_BYTES, zones, disk, lineage);
    Superblock { pins, ..created }
}

impl SimNode {
    /// A machine with new metadata, its daemon not running.
    #[must_use]
    pub fn create(node: NodeId, disk: DurableDisk, options: &NodeOptions, random: &mut Random) -> Self {
        let voter = VoterId(random.draw() | 1);
        let superblock = first_superblock(node, voter, disk);
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
            stands_still_until: 0,
            replica: None,
            run: 0,
            mark: None,
            broken: BTreeSet::new(),
            clock: SimClock::boot(0, random.below(1 << 30)),
            in_flight: BTreeMap::new(),
            round_ends: false,
            wakes: None,
            is_serving: false,
            fence_command: FenceCommand::IsMissing,
            unwanted: Vec::new(),
            links: Vec::new(),
            ring_bytes: options.ring_bytes,
        }
    }

    /// The newest superblock on its disk.
    #[must_use]
    pub fn superblock(&self) -> Superblock {
        let zones = Zones::for_volume(VOLUME_BYTES, JOURNAL_BYTES, 1).expect("legal sizes").superblocks();
        let copy = |at: usize| self.metadata.read(zones[at].offset, BLOCK_BYTES);
        choose_newest(&copy(0), &copy(1)).expect("one copy is always whole").0
    }

    fn recover(&self, superblock: &Superblock) -> RecoveryPlan {
        let ring_start = superblock.zones.journal().offset;
        let (voter, anchor) = (superblock.voter, &superblock.journal);
        let mut scan = RecoveryScan::over(self.ring_bytes, voter, anchor, &superblock.lineage);
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
                    pages.push(BitmapPage::parse(&block, slot.bitmap_slot, page).expect("a whole page"));
                }
            }
        }
        pages
    }

    /// Starts the daemon at world time `now`. Returns what recovery made of the journal.
    pub fn start(&mut self, now: u64, seed: u64) -> replicator::journal::recovery_case::RecoveryCase {
        assert!(self.replica.is_none(), "it runs already");
        let superblock = self.superblock();
        let recovery = self.recover(&superblock);
        let verdict = recovery.verdict;
        let bitmap_pages = self.bitmap_pages(&superblock);
        let started = self.clock.read(now);
        let continuity = self.mark;
        let restored = Restored { superblock, recovery, bitmap_pages, seed, started, continuity };
        self.replica = Some(Replica::restore(self.config.clone(), restored));
        self.run += 1;
        self.round_ends = false;
        self.wakes = None;
        self.unwanted.clear();
        verdict
    }

    /// The daemon dies. Parts of what it had in flight reach the disk; what was reported stays.
    pub fn kill(&mut self, random: &mut Random) {
        self.replica = None;
        self.is_serving = false;
        self.links.clear();
        self.rescues.kill();
        for (_, work) in std::mem::take(&mut self.in_flight) {
            match work {
                IoWork::Journal(offset, pieces) => {
                    self.metadata.write_partly(offset, pieces.iter().map(|piece| &piece[..]), random);
                }
                IoWork::WriteThrough(blocks) => {
                    for (offset, bytes) in blocks {
                        self.metadata.write_partly(offset, [&bytes[..]], random);
                    }
                }
                IoWork::Data(offset, pieces) => {
                    self.data.write_partly(offset, pieces.iter().map(|piece| &piece[..]), random);
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
    }

    /// The power fails and comes back at `now`.
    pub fn cut_power(&mut self, now: u64, random: &mut Random) {
        self.broken.insert(self.superblock().incarnation_recorded);
        self.broken.extend(self.mark.map(|mark| mark.incarnation));
        self.kill(random);
        self.metadata.cut_power(random);
        self.data.cut_power(random);
        self.mark = None;
        self.clock = SimClock::boot(now, random.below(1 << 30));
    }
}
