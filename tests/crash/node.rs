//! A node as far as journal and superblock go, on a fake disk, and the model that says what must survive.

use bytes::Bytes;
use replicator::generation::lineage::Lineage;
use replicator::journal::RingRead;
use replicator::journal::recovery::{RecoveryPlan, RecoveryScan};
use replicator::journal::recovery_case::RecoveryCase;
use replicator::journal::ring::{Ring, SegmentStart};
use replicator::layout::journal_batch::batch_blocks;
use replicator::layout::superblock::{DurableDisk, ResourceName, Superblock, choose_newest};
use replicator::layout::zones::Zones;
use replicator::record::{Record, RecordKind};
use replicator::units::{BLOCK_SIZE, BlockRange, GenerationId, Lsn, NodeId, VoterId, index_range};

use crate::fake_disk::{FakeDisk, Random};

/// Length of the ring: small, so that a short script laps it.
pub const RING: u64 = 32 * 4096;
const RING_START: u64 = 2 * 4096;

/// One thing that the node does.
#[derive(Clone, Copy, Debug)]
pub enum Action {
    /// Writes a batch; not flushed.
    Append { records: u64, blocks: u64 },
    /// Flushes the journal.
    Flush,
    /// Writes everything flushed back, says so in the superblock, and moves the tail as far as it goes.
    Trim,
    /// Discards the newest records.
    Cut { records: u64 },
    /// Ends without a power cut and starts again.
    Reopen,
}

/// What may be found after a power cut at some operation.
#[derive(Clone, Debug)]
pub struct Law {
    /// Every record up to here was flushed.
    pub floor: Lsn,
    /// What was appended and not discarded. Two while a cut is on its way to the disk.
    pub histories: Vec<Vec<Record>>,
    /// Superblocks of which one must be found.
    pub superblocks: Vec<u64>,
}

pub struct Node {
    pub disk: FakeDisk,
    pub superblock: Superblock,
    pub ring: Ring,
    pub history: Vec<Record>,
    pub flushed: Lsn,
    /// The law after each operation of the disk; the first is that of the disk as it was switched on.
    pub laws: Vec<Law>,
    /// Makes the content of every record different.
    fill: u64,
}

fn first_superblock() -> Superblock {
    let resource = ResourceName::parse("r0").expect("a legal name");
    let zones = Zones::for_volume(1 << 20, 16 << 20, 1).expect("legal sizes");
    let (disk, lineage) = (DurableDisk::UpToDate, Lineage::zeroed());
    Superblock::created(resource, NodeId(0), VoterId(1), 1 << 20, zones, disk, lineage)
}

/// The newest superblock of an image.
pub fn superblock_of(image: &[u8]) -> Superblock {
    let (copy_0, copy_1) = (&image[..BLOCK_SIZE], &image[BLOCK_SIZE..2 * BLOCK_SIZE]);
    choose_newest(copy_0, copy_1).expect("one copy is always whole").0
}

fn read(image: &[u8], read: RingRead) -> Bytes {
    let start = RING_START + read.ring_offset;
    Bytes::copy_from_slice(&image[index_range(start..start + read.length)])
}

/// What recovery makes of an image.
pub fn recover(image: &[u8]) -> (Superblock, RecoveryPlan) {
    let superblock = superblock_of(image);
    let mut scan = RecoveryScan::of_ring(RING, &superblock);
    while let Some(wanted) = scan.next_read() {
        scan.on_bytes(read(image, wanted));
    }
    let plan = scan.finish();
    (superblock, plan)
}

/// Everything that a reader gets out of a ring.
fn read_all(image: &[u8], ring: &Ring) -> Vec<Record> {
    let mut records = Vec::new();
    let Some(mut reader) = ring.reader(ring.oldest_kept(), ring.head_lsn(), 4096) else {
        return records;
    };
    while let Some(wanted) = reader.next_read() {
        let batch = reader.on_bytes(read(image, wanted)).expect("what recovery accepted can be read");
        records.extend(batch.into_iter().map(|(_, record)| record));
    }
    records
}

impl Node {
    /// A node whose disk was just created, its ring starting at `tail_offset`.
    pub fn create(tail_offset: u64) -> Self {
        let mut image = vec![0; usize::try_from(RING_START + RING).unwrap()];
        let mut superblock = first_superblock();
        superblock.journal.tail_offset = tail_offset;
        image[..BLOCK_SIZE].copy_from_slice(&superblock.encode()[..]);
        Self::start(image, Vec::new(), 0)
    }

    /// A node that starts on this image, whose content is already known to follow `history`.
    pub fn start(image: Vec<u8>, mut history: Vec<Record>, fill: u64) -> Self {
        let (superblock, plan) = recover(&image);
        let end = usize::try_from(plan.end.0).unwrap();
        history.truncate(end);
        let law =
            Law { floor: plan.end, histories: vec![history.clone()], superblocks: vec![superblock.sequence] };
        let mut node = Self {
            disk: FakeDisk::new(image),
            superblock,
            ring: plan.ring,
            history,
            flushed: plan.end,
            laws: vec![law],
            fill,
        };
        node.begin_session();
        node
    }

    /// Flushes what recovery found and makes the new session durable: the order is the rule.
    fn begin_session(&mut self) {
        self.flush();
        self.write_superblock(self.ring.tail(), self.superblock.journal.data_flushed, self.history.clone());
    }

    pub fn run(&mut self, actions: &[Action]) {
        for action in actions {
            match *action {
                Action::Append { records, blocks } => self.append(records, blocks),
                Action::Flush => self.flush(),
                Action::Trim => self.trim(),
                Action::Cut { records } => self.cut(records),
                Action::Reopen => self.reopen(),
            }
        }
    }

    /// Does something that is legal now.
    pub fn act_at_random(&mut self, random: &mut Random) {
        let unwritten = self.ring.head_lsn().since(self.superblock.journal.data_flushed);
        match random.below(16) {
            0..=7 => {
                let (records, blocks) = (1 + random.below(6), random.below(4));
                if self.ring.fits(1 + records * blocks) { self.append(records, blocks) } else { self.trim() }
            }
            8..=9 => self.flush(),
            10..=11 => self.trim(),
            12..=14 => self.cut(random.below(unwritten + 1)),
            _ => self.reopen(),
        }
    }

    /// The node after a power cut at some operation, with some of what was not flushed.
    pub fn after_a_power_cut(&self, random: &mut Random) -> Self {
        let cut = usize::try_from(random.below(u64::try_from(self.laws.len()).unwrap())).unwrap();
        let mut images = Vec::new();
        self.disk.images(cut, 4096, 1, random, |image| images.push(image));
        let chosen = usize::try_from(random.below(u64::try_from(images.len()).unwrap())).unwrap();
        let (image, law) = (images.swap_remove(chosen), &self.laws[cut]);
        check(&image, law);
        let (_, plan) = recover(&image);
        let recovered = read_all(&image, &plan.ring);
        let end = usize::try_from(plan.end.0).unwrap();
        let continues =
            |history: &&Vec<Record>| history.get(..end).is_some_and(|history| history.ends_with(&recovered));
        let history = law.histories.iter().find(continues).expect("check() found it").clone();
        Self::start(image, history, self.fill)
    }

    pub fn append(&mut self, records: u64, blocks: u64) {
        let records: Vec<Record> =
            (1..=records).map(|at| self.record(self.ring.head_lsn().plus(at), blocks)).collect();
        assert!(self.ring.fits(batch_blocks(&records)), "the script fits the ring");
        let data_flushed = self.superblock.journal.data_flushed;
        let placed = self.ring.append(GenerationId::ZEROED, &records, self.flushed, data_flushed);
        let payloads: Vec<u8> = records.iter().flat_map(|record| record.payload.to_vec()).collect();
        self.history.extend(records);
        self.disk.write(RING_START + placed.ring_offset, &[placed.descriptor, payloads].concat());
        let law = self.laws.last().expect("the first law is there").clone();
        self.laws.push(Law { histories: vec![self.history.clone()], ..law });
    }

    fn record(&mut self, lsn: Lsn, blocks: u64) -> Record {
        self.fill += 1;
        if blocks == 0 {
            return Record::zero(lsn, RecordKind::Trim, BlockRange::new(self.fill, 1));
        }
        let length = usize::try_from(blocks).unwrap() * BLOCK_SIZE;
        let payload: Vec<u8> = self.fill.to_le_bytes().into_iter().cycle().take(length).collect();
        Record::write(lsn, BlockRange::new(0, blocks), payload.into())
    }

    pub fn flush(&mut self) {
        self.disk.flush();
        self.flushed = self.ring.head_lsn();
        let law = self.laws.last().expect("the first law is there").clone();
        self.laws.push(Law { floor: self.flushed, ..law });
    }

    /// Writes a superblock and flushes it; `history` is what counts once it is durable.
    fn write_superblock(&mut self, tail: SegmentStart, data_flushed: Lsn, history: Vec<Record>) {
        let before = self.laws.last().expect("the first law is there").clone();
        self.superblock.sequence += 1;
        self.superblock.journal = self.ring.anchor(tail, data_flushed);
        let copy = u64::try_from(self.superblock.copy_index()).unwrap();
        self.disk.write(copy * 4096, &self.superblock.encode()[..]);
        let floor = before.floor.min(self.ring.head_lsn());
        let histories = before.histories.iter().cloned().chain([history.clone()]).collect();
        let superblocks = vec![self.superblock.sequence - 1, self.superblock.sequence];
        self.laws.push(Law { floor, histories, superblocks });
        self.disk.flush();
        self.flushed = self.ring.head_lsn();
        let superblocks = vec![self.superblock.sequence];
        self.laws.push(Law { floor: self.flushed, histories: vec![history], superblocks });
        self.ring.note_session_recorded(self.superblock.journal.session);
    }

    fn trim(&mut self) {
        let data_flushed = self.flushed;
        self.ring.note_written_back(data_flushed);
        let tail = self.ring.next_tail(data_flushed).unwrap_or_else(|| self.ring.tail());
        self.write_superblock(tail, data_flushed, self.history.clone());
        self.ring.set_tail(tail);
    }

    pub fn cut(&mut self, records: u64) {
        self.flush();
        let last = Lsn(self.ring.head_lsn().0 - records);
        self.ring.cut(last, self.ring.session() + 1);
        let kept = self.history.iter().filter(|record| record.lsn <= last).cloned().collect::<Vec<_>>();
        self.history.clone_from(&kept);
        self.write_superblock(self.ring.tail(), self.superblock.journal.data_flushed, kept);
    }

    pub fn reopen(&mut self) {
        let (superblock, plan) = recover(&self.disk.live);
        assert_eq!(superblock, self.superblock);
        assert_eq!(plan.end, self.ring.head_lsn(), "without a power cut everything is there");
        self.ring = plan.ring;
        self.begin_session();
    }

    /// The bytes of the ring from `offset` on as the running node sees them.
    pub fn ring_bytes(&mut self) -> &mut [u8] {
        &mut self.disk.live[usize::try_from(RING_START).unwrap()..]
    }

    /// Cuts the power at every operation, in every way, and holds what is recovered against the law there.
    pub fn cut_power_everywhere(
        &self,
        group: usize,
        samples: usize,
        mut also: impl FnMut(Vec<u8>, &Law),
    ) -> usize {
        assert_eq!(self.laws.len(), self.disk.ops.len() + 1, "a law after each operation");
        let mut random = Random(0x7477_696e_626c_6b00);
        let mut images = 0;
        for (cut, law) in self.laws.iter().enumerate() {
            self.disk.images(cut, group, samples, &mut random, |image| {
                images += 1;
                check(&image, law);
                also(image, law);
            });
        }
        images
    }
}

/// Holds an image against its law.
pub fn check(image: &[u8], law: &Law) {
    let (superblock, plan) = recover(image);
    assert!(law.superblocks.contains(&superblock.sequence), "superblock {} of {law:?}", superblock.sequence);
    assert_ne!(plan.verdict, RecoveryCase::Corrupt, "a power cut is no corruption");
    assert!(plan.end >= law.floor, "flushed up to {}, recovered up to {}: {law:?}", law.floor, plan.end);
    let records = read_all(image, &plan.ring);
    let kept = records.first().map_or(plan.end, |record| record.lsn.previous());
    let is_prefix = |history: &Vec<Record>| {
        let start = usize::try_from(kept.0).unwrap();
        let end = usize::try_from(plan.end.0).unwrap();
        history.get(start..end) == Some(&records[..])
    };
    assert!(law.histories.iter().any(is_prefix), "recovered {records:?} is no prefix of {law:?}");
    let replay = plan.replay.iter().map(|(_, record)| record);
    let unwritten = records.iter().filter(|record| record.lsn > plan.written_back_up_to);
    assert!(replay.eq(unwritten), "everything that is not written back is replayed");
}
