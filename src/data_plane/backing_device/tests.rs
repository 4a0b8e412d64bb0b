//! Orders to real files, and what comes back.

use std::path::Path;
use std::time::Duration;

use super::*;
use crate::data_plane::backing_device::start::{DiskPaths, MetadataPlace, OpenDisks};

const VOLUME_BYTES: u64 = 1 << 20;
const METADATA_BYTES: u64 = 256 << 10;

struct Bench {
    disks: BackingDevice,
    round: Round,
    folder: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let paths = DiskPaths {
            data: folder.path().join("data"),
            metadata: MetadataPlace::Own(folder.path().join("metadata")),
        };
        Device::prepare_file(&paths.data, VOLUME_BYTES).unwrap();
        Device::prepare_file(&folder.path().join("metadata"), METADATA_BYTES).unwrap();
        let disks = OpenDisks::open(&paths).unwrap().into_backing_device();
        Self { disks, round: Round::new().unwrap(), folder }
    }

    /// Lets the ring work until it is idle, and says what the replica would hear.
    fn finish(&mut self) -> Vec<Event> {
        let mut completions = Vec::new();
        while self.round.ring.in_flight() > 0 {
            self.round.ring.enter(Some(Duration::from_secs(10))).unwrap();
            self.round.ring.collect(&mut completions);
            for completion in completions.drain(..) {
                let Tag::Disk(tag) = completion.tag else { panic!("only disks are used here") };
                self.disks.on_completion(&mut self.round, tag, completion.outcome);
            }
        }
        self.round.events.drain(..).collect()
    }

    fn content(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.folder.path().join(name)).unwrap()
    }

    fn read_data(&mut self, range: BlockRange) -> Bytes {
        self.disks.read(&mut self.round, IoId(99), Disk::Data, range.byte_offset(), range.bytes());
        match self.finish().as_slice() {
            [Event::BytesRead { io: IoId(99), bytes }] => bytes.clone(),
            other => panic!("{other:?}"),
        }
    }

    /// Makes every later operation on the data file fail.
    fn break_data(&mut self) {
        let broken = std::fs::File::open(self.folder.path().join("data")).unwrap();
        self.disks.data.file = Arc::new(broken.into());
    }
}

fn completed(events: &[Event]) -> Vec<u64> {
    let completed = |event: &Event| match event {
        Event::IoCompleted { io } => io.0,
        other => panic!("{other:?}"),
    };
    events.iter().map(completed).collect()
}

fn failed(events: &[Event]) -> Vec<u64> {
    let failed = |event: &Event| match event {
        Event::IoFailed { io, .. } => io.0,
        other => panic!("{other:?}"),
    };
    events.iter().map(failed).collect()
}

#[test]
fn a_journal_batch_is_written_in_one_piece_even_from_unaligned_memory() {
    let mut bench = Bench::new();
    let unaligned = Bytes::from(vec![3; 4097]).slice(1..);
    let aligned = PoolBuffer::copy_of(&[2; 8192]).freeze();
    bench.disks.write_journal(&mut bench.round, IoId(1), 4096, &[1; 4096], vec![aligned, unaligned]);
    assert_eq!(completed(&bench.finish()), [1]);
    let content = bench.content("metadata");
    let byte_at = |block: usize| content[block * 4096];
    assert_eq!([0, 1, 2, 3, 4, 5].map(byte_at), [0, 1, 2, 2, 3, 0]);
}

#[test]
fn pages_are_reported_once_after_all_of_them_are_flushed() {
    let mut bench = Bench::new();
    let (first, second) = ([1; 4096], [2; 4096]);
    bench.disks.write_pages(&mut bench.round, IoId(1), &[(0, &first), (65_536, &second)]);
    assert_eq!(completed(&bench.finish()), [1]);
    let content = bench.content("metadata");
    assert_eq!((content[0], content[65_536]), (1, 2));
    assert!(bench.disks.writes_before_flush.is_empty());
}

#[test]
fn data_is_read_back_aligned_and_both_disks_flush() {
    let mut bench = Bench::new();
    let range = BlockRange::new(3, 2);
    let pieces = vec![Bytes::from(vec![5; 4096]), Bytes::from(vec![6; 4096])];
    bench.disks.write_data(&mut bench.round, IoId(1), range, pieces);
    assert_eq!(completed(&bench.finish()), [1]);
    let bytes = bench.read_data(range);
    assert!(is_aligned(&bytes));
    assert_eq!((bytes.len(), bytes[0], bytes[8191]), (8192, 5, 6));

    bench.disks.flush(&mut bench.round, IoId(2), Disk::Data);
    bench.disks.flush(&mut bench.round, IoId(3), Disk::Metadata);
    let mut flushed = completed(&bench.finish());
    flushed.sort_unstable();
    assert_eq!(flushed, [2, 3]);
}

#[test]
fn every_way_of_zeroing_leaves_zeroes_and_nothing_else() {
    for attempt in [ZeroAttempt::PunchHole, ZeroAttempt::ZeroRange, ZeroAttempt::Write { done: 0 }] {
        let mut bench = Bench::new();
        std::fs::write(bench.folder.path().join("data"), vec![9; 1 << 20]).unwrap();
        bench.disks.zero_by(&mut bench.round, IoId(1), BlockRange::new(1, 100), attempt);
        assert_eq!(completed(&bench.finish()), [1], "{attempt:?}");
        let content = bench.content("data");
        assert!(content[..4096].iter().all(|byte| *byte == 9));
        assert!(content[4096..101 * 4096].iter().all(|byte| *byte == 0), "{attempt:?}");
        assert!(content[101 * 4096..].iter().all(|byte| *byte == 9));
    }
}

#[test]
fn a_disk_that_cannot_zero_gets_zeroes_written_in_bounded_pieces() {
    let mut bench = Bench::new();
    let range = BlockRange::new(0, 5000);
    for attempt in [ZeroAttempt::PunchHole, ZeroAttempt::ZeroRange] {
        let tag = DiskTag { io: IoId(1), disk: Disk::Data, step: Step::Zero { attempt, range } };
        bench.disks.on_completion(&mut bench.round, tag, Outcome::Failed(Errno::OPNOTSUPP));
        assert_eq!(completed(&bench.finish()), [1]);
    }
    assert_eq!(bench.content("data").len(), 5000 * 4096);
    assert!(zero_write_blocks(range, 0) == 2048 && zero_write_blocks(range, 4096) == 904);
}

#[test]
fn holes_and_data_are_told_apart_on_a_file_and_cover_the_range() {
    let mut bench = Bench::new();
    let piece = || vec![PoolBuffer::copy_of(&[1; 65_536]).freeze()];
    for (io, block) in [(1, 16), (2, 64)] {
        bench.disks.write_data(&mut bench.round, IoId(io), BlockRange::new(block, 16), piece());
    }
    bench.finish();
    bench.disks.find_allocated(&mut bench.round, IoId(3), BlockRange::new(8, 100));
    let events = bench.finish();
    let [Event::AllocationFound { io: IoId(3), extents }] = events.as_slice() else { panic!("{events:?}") };
    let blocks = |extent: &AllocatedExtent| {
        (extent.range.offset / BLOCK_BYTES, extent.range.end() / BLOCK_BYTES, extent.is_hole)
    };
    assert_eq!(
        extents.iter().map(blocks).collect::<Vec<_>>(),
        [(8, 16, true), (16, 32, false), (32, 64, true), (64, 80, false), (80, 108, true)]
    );
}

#[test]
fn the_first_failure_poisons_a_disk_and_leaves_the_other_alone() {
    let mut bench = Bench::new();
    bench.break_data();
    let range = BlockRange::new(0, 1);
    let piece = || vec![PoolBuffer::copy_of(&[1; 4096]).freeze()];
    bench.disks.write_data(&mut bench.round, IoId(1), range, piece());
    assert_eq!(failed(&bench.finish()), [1]);

    bench.disks.flush(&mut bench.round, IoId(2), Disk::Data);
    bench.disks.read(&mut bench.round, IoId(3), Disk::Data, 0, 4096);
    bench.disks.zero_data(&mut bench.round, IoId(4), range, ZeroMethod::KeepSpace);
    bench.disks.find_allocated(&mut bench.round, IoId(5), range);
    assert_eq!(bench.round.ring.in_flight(), 0);
    assert_eq!(failed(&bench.finish()), [2, 3, 4, 5]);

    bench.disks.flush(&mut bench.round, IoId(6), Disk::Metadata);
    assert_eq!(completed(&bench.finish()), [6]);
}

#[test]
fn a_flush_that_was_under_way_when_a_write_failed_counts_as_failed() {
    let mut bench = Bench::new();
    bench.disks.flush(&mut bench.round, IoId(1), Disk::Data);
    let write = DiskTag { io: IoId(2), disk: Disk::Data, step: Step::Last };
    bench.disks.on_completion(&mut bench.round, write, Outcome::Failed(Errno::IO));
    assert_eq!(failed(&bench.finish()), [2, 1]);
}

#[test]
fn an_order_of_several_writes_fails_once() {
    let mut bench = Bench::new();
    let broken = std::fs::File::open(Path::new("/dev/null")).unwrap();
    bench.disks.metadata.file = Arc::new(broken.into());
    bench.disks.write_pages(&mut bench.round, IoId(1), &[(0, &[1; 4096]), (4096, &[2; 4096])]);
    assert_eq!(failed(&bench.finish()), [1]);
    bench.disks.write_pages(&mut bench.round, IoId(2), &[(0, &[1; 4096])]);
    assert_eq!(failed(&bench.finish()), [2]);
}
