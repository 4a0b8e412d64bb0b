//! Laws of the ring against a model: a list of records, and a disk that never loses anything.

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::generation::lineage::Lineage;
use crate::journal::recovery::{RecoveryPlan, RecoveryScan};
use crate::journal::recovery_case::RecoveryCase;
use crate::layout::superblock::{DurableDisk, ResourceName, Superblock};
use crate::layout::zones::Zones;
use crate::record::RecordKind;
use crate::units::{BLOCK_SIZE, BlockRange, NodeId, bytes_usize, index_range};

const RING: u64 = 16 << 20;

/// A ring, its bytes on disk, its superblock, and what it should hold.
struct Node {
    ring: Ring,
    disk: Vec<u8>,
    superblock: Superblock,
    model: Vec<(GenerationId, Record)>,
    generation: GenerationId,
}

fn superblock() -> Superblock {
    let resource = ResourceName::parse("r0").expect("a legal name");
    let zones = Zones::for_volume(1 << 20, RING, 1).expect("legal sizes");
    let (disk, lineage) = (DurableDisk::UpToDate, Lineage::zeroed());
    Superblock::created(resource, NodeId(0), VoterId(1), 1 << 20, zones, disk, lineage)
}

fn recover(superblock: &Superblock, disk: &[u8]) -> RecoveryPlan {
    let mut scan = RecoveryScan::new(superblock);
    while let Some(read) = scan.next_read() {
        let range = index_range(read.ring_offset..read.ring_offset + read.length);
        scan.on_bytes(Bytes::copy_from_slice(&disk[range]));
    }
    scan.finish()
}

impl Node {
    fn new() -> Self {
        let superblock = superblock();
        let disk = vec![0; bytes_usize(RING)];
        let ring = Ring::new(RING, superblock.voter, &superblock.journal);
        let mut node = Self { ring, disk, superblock, model: Vec::new(), generation: GenerationId::ZEROED };
        node.reopen();
        node
    }

    fn records(&self, count: u64, blocks: u64) -> Vec<Record> {
        let record = |at: u64| {
            let lsn = self.ring.head_lsn().plus(at);
            if blocks == 0 {
                return Record::zero(lsn, RecordKind::Trim, BlockRange::new(0, 256));
            }
            let fill = u8::try_from((lsn.0 * 7 + self.ring.session()) % 251).expect("below 251");
            Record::write(
                lsn,
                BlockRange::new(lsn.0 % 100, blocks),
                vec![fill; bytes_usize(blocks) * BLOCK_SIZE].into(),
            )
        };
        (1..=count).map(record).collect()
    }

    fn append(&mut self, count: u64, blocks: u64) {
        let records = self.records(count, blocks);
        let size = batch_blocks(&records);
        if !self.ring.fits(size) {
            let tail = self.ring.nearest_tail(self.superblock.journal.data_flushed, size * BLOCK_BYTES);
            if let Some(tail) = tail {
                self.record_anchor(tail, self.superblock.journal.data_flushed);
                self.ring.set_tail(tail);
            }
        }
        if !self.ring.fits(size) {
            return;
        }
        let head = self.ring.head_lsn();
        let written_back = self.superblock.journal.data_flushed;
        let placed = self.ring.append(self.generation, &records, head, written_back);
        let mut bytes = placed.descriptor.clone();
        records.iter().for_each(|record| bytes.extend_from_slice(&record.payload));
        assert_eq!(bytes_usize(placed.total_bytes), bytes.len());
        let start = bytes_usize(placed.ring_offset);
        self.disk[start..start + bytes.len()].copy_from_slice(&bytes);
        self.model.extend(records.into_iter().map(|record| (self.generation, record)));
    }

    fn record_anchor(&mut self, tail: SegmentStart, data_flushed: Lsn) {
        self.superblock.journal = self.ring.anchor(tail, data_flushed);
        self.superblock.sequence += 1;
        let again = Superblock::parse(&self.superblock.encode()[..]).expect("what is written is read");
        assert_eq!(again, self.superblock);
        self.ring.note_session_recorded(self.ring.session());
    }

    fn write_back(&mut self, share: u64) {
        let unwritten = self.ring.head_lsn().since(self.superblock.journal.data_flushed);
        let up_to = self.superblock.journal.data_flushed.plus(unwritten * share / 4);
        self.ring.note_written_back(up_to);
        self.record_anchor(self.ring.tail(), up_to);
    }

    fn cut(&mut self, back: u64) {
        let floor = self.superblock.journal.data_flushed;
        let last = Lsn(self.ring.head_lsn().0.saturating_sub(back).max(floor.0));
        self.ring.cut(last, self.ring.session() + 1);
        self.record_anchor(self.ring.tail(), floor);
        self.model.retain(|(_, record)| record.lsn <= last);
        self.generation = GenerationId(self.generation.0 + 1);
    }

    fn reopen(&mut self) {
        let plan = recover(&self.superblock, &self.disk);
        assert_ne!(plan.verdict, RecoveryCase::Corrupt);
        assert_eq!(plan.end, self.ring.head_lsn());
        assert_eq!(plan.ring.oldest_kept(), self.ring.oldest_kept());
        assert_eq!(plan.ring.used_bytes(), self.ring.used_bytes());
        let from = plan.written_back_up_to;
        let expected = self.model.iter().filter(|(_, record)| record.lsn > from);
        assert!(expected.eq(plan.replay.iter()), "recovery returns exactly the model's records");
        self.ring = plan.ring;
        self.record_anchor(self.ring.tail(), self.superblock.journal.data_flushed);
    }

    fn read_from(&self, from: Lsn, read_bytes: u64) -> Vec<(GenerationId, Record)> {
        let head = self.ring.head_lsn();
        // The limit moves on twice, as it does while a peer catches up.
        let limits = [Lsn(from.0.midpoint(head.0)), head];
        let Some(mut reader) = self.ring.reader(from, limits[0], read_bytes) else {
            return Vec::new();
        };
        let mut records = Vec::new();
        for limit in limits {
            records.extend(reader.extend(limit));
            while let Some(read) = reader.next_read() {
                let range = index_range(read.ring_offset..read.ring_offset + read.length);
                records.extend(
                    reader.on_bytes(Bytes::copy_from_slice(&self.disk[range])).expect("the ring is whole"),
                );
            }
        }
        assert_eq!(reader.next_lsn(), head.next());
        records
    }
}

#[derive(Clone, Debug)]
enum Step {
    Append { count: u64, blocks: u64 },
    WriteBack { share: u64 },
    Cut { back: u64 },
    Reopen,
    Read { share: u64, read_bytes: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1u64..=4, 0u64..=256).prop_map(|(count, blocks)| Step::Append { count, blocks }),
        4 => (1u64..=200, 0u64..=3).prop_map(|(count, blocks)| Step::Append { count, blocks }),
        3 => (1u64..=4).prop_map(|share| Step::WriteBack { share }),
        2 => (0u64..=300).prop_map(|back| Step::Cut { back }),
        2 => Just(Step::Reopen),
        2 => (0u64..=4, 0u32..=11).prop_map(|(share, shift)| Step::Read { share, read_bytes: 4096 << shift }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn recovery_and_readers_return_exactly_what_was_appended_and_not_cut(
        steps in proptest::collection::vec(step(), 1..60)
    ) {
        let mut node = Node::new();
        for step in steps {
            match step {
                Step::Append { count, blocks } => node.append(count, blocks),
                Step::WriteBack { share } => node.write_back(share),
                Step::Cut { back } => node.cut(back),
                Step::Reopen => node.reopen(),
                Step::Read { share, read_bytes } => {
                    let (oldest, head) = (node.ring.oldest_kept(), node.ring.head_lsn());
                    let from = oldest.plus(head.next().since(oldest) * share / 4);
                    let expected: Vec<_> =
                        node.model.iter().filter(|(_, record)| record.lsn >= from).cloned().collect();
                    prop_assert_eq!(node.read_from(from, read_bytes), expected);
                }
            }
        }
        node.reopen();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn recovery_ends_in_a_prefix_whatever_happened_to_the_bytes(
        steps in proptest::collection::vec((1u64..=6, 0u64..=4), 1..40),
        damage in proptest::collection::vec((0usize..400, 0usize..4096, any::<u8>()), 0..6),
        copies in proptest::collection::vec((0usize..400, 0usize..400), 0..6),
    ) {
        let mut node = Node::new();
        for (count, blocks) in steps {
            node.append(count, blocks);
        }
        for (block, at, value) in damage {
            node.disk[block * BLOCK_SIZE + at] = value;
        }
        for (from, to) in copies {
            node.disk.copy_within(from * BLOCK_SIZE..(from + 1) * BLOCK_SIZE, to * BLOCK_SIZE);
        }
        let plan = recover(&node.superblock, &node.disk);
        prop_assert!(node.model.starts_with(&plan.replay));
        let end = plan.replay.last().map_or(Lsn::ZERO, |(_, record)| record.lsn);
        prop_assert_eq!(plan.end, end);
    }
}

#[test]
fn a_batch_that_does_not_fit_before_the_end_starts_at_the_beginning() {
    let mut node = Node::new();
    for _ in 0..4 {
        node.append(4, 255);
    }
    node.write_back(4);
    node.append(4, 256);
    assert_eq!(node.ring.locate(node.ring.head_lsn()).map(|start| start.ring_offset), Some(0));
    assert!(node.ring.oldest_kept() > Lsn(1), "the tail has moved to make room");
    node.reopen();
}

#[test]
fn a_full_ring_takes_nothing_until_the_tail_moves() {
    let mut node = Node::new();
    while node.ring.fits(1025) {
        node.append(4, 256);
    }
    let head = node.ring.head_lsn();
    node.append(4, 256);
    assert_eq!(node.ring.head_lsn(), head);
    node.write_back(4);
    node.append(4, 256);
    assert!(node.ring.head_lsn() > head);
}

#[test]
fn the_indexes_stay_small_whatever_the_ring_holds() {
    let ring_bytes = 64 << 30;
    let mut ring = Ring::new(ring_bytes, VoterId(1), &JournalAnchor::empty(Lsn::ZERO, GenerationId(1)));
    let payload = Bytes::from(vec![0; 256 * BLOCK_SIZE]);
    let sums = crate::checksum::BlockSums::of(&payload);
    let range = BlockRange::new(0, 256);
    let record =
        |lsn| Record { lsn, kind: RecordKind::Write, range, payload: payload.clone(), sums: sums.clone() };
    while ring.fits(1026) {
        let next = ring.head_lsn().next();
        let records = [record(next), record(next.plus(1)), record(next.plus(2)), record(next.plus(3))];
        let _ = ring.append(GenerationId(1), &records, next.previous(), next.previous());
        ring.note_written_back(next.previous());
    }
    assert!(ring.used_bytes() > ring_bytes - (8 << 20));
    assert!(ring.index_entries() <= 1100, "{} entries", ring.index_entries());
    assert!(ring.locate(Lsn(5)).is_some_and(|start| start.first_lsn <= Lsn(5)));
}

#[test]
#[should_panic(expected = "is durable before its first append")]
fn a_cut_ring_takes_nothing_before_its_session_is_durable() {
    let mut node = Node::new();
    node.append(2, 1);
    node.ring.cut(Lsn(1), node.ring.session() + 1);
    let records = node.records(1, 1);
    let _ = node.ring.append(node.generation, &records, Lsn(1), Lsn::ZERO);
}

#[test]
#[should_panic(expected = "I3: cut to 1, written back 2")]
fn what_is_written_back_is_never_cut() {
    let mut node = Node::new();
    node.append(2, 1);
    node.ring.note_written_back(Lsn(2));
    node.ring.cut(Lsn(1), node.ring.session() + 1);
}

#[test]
fn a_restarted_ring_goes_on_behind_its_new_start() {
    let mut node = Node::new();
    node.append(9, 1);
    node.ring.restart(Lsn(500), GenerationId(9), node.ring.session() + 1);
    node.record_anchor(node.ring.tail(), Lsn(500));
    node.model.clear();
    node.reopen();
    node.append(2, 1);
    node.reopen();
    assert_eq!((node.ring.oldest_kept(), node.ring.head_lsn()), (Lsn(501), Lsn(502)));
}

#[test]
fn a_journal_that_ends_before_what_a_resync_left_to_it_is_corrupt() {
    let mut node = Node::new();
    node.append(3, 1);
    let second = bytes_usize(node.ring.used_bytes());
    node.append(3, 1);
    let verdict = |node: &Node, consistent_at| {
        let superblock = Superblock { consistent_at: Lsn(consistent_at), ..node.superblock.clone() };
        recover(&superblock, &node.disk).verdict
    };
    assert_eq!(verdict(&node, 6), RecoveryCase::EndOfJournal, "all of it is there");
    // Nothing tells that the second batch was flushed, and only the end of the resync may have needed it.
    node.disk[second..second + BLOCK_SIZE].fill(0);
    assert_eq!(verdict(&node, 3), RecoveryCase::EndOfJournal);
    for needed in 4..=6 {
        assert_eq!(verdict(&node, needed), RecoveryCase::Corrupt, "the disk needs write {needed}");
    }
}
