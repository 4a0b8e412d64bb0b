//! How far the journal counts as written and as flushed, whatever the order in which the disk answers.

use super::*;
use crate::layout::superblock::JournalAnchor;
use crate::units::{BLOCK_SIZE, BlockRange, VoterId, bytes_usize};

const RING: u64 = 64 << 20;
const GENERATION: GenerationId = GenerationId(7);

/// A writer, and the orders that the disk has not answered.
struct Bench {
    writer: JournalWriter,
    writes: VecDeque<IoId>,
    flushes: VecDeque<IoId>,
    last_io: u64,
    now: Tick,
}

impl Bench {
    fn new() -> Self {
        Self::with_ring(RING)
    }

    fn with_ring(bytes: u64) -> Self {
        let ring = Ring::new(bytes, VoterId(1), &JournalAnchor::empty(Lsn::ZERO, GENERATION));
        Self {
            writer: JournalWriter::new(ring, 4096, Lsn::ZERO),
            writes: VecDeque::new(),
            flushes: VecDeque::new(),
            last_io: 0,
            now: Tick(0),
        }
    }

    fn accept(&mut self, count: u64, blocks: u64) {
        for _ in 0..count {
            let lsn = self.writer.accepted().next();
            let payload = vec![9; bytes_usize(blocks) * BLOCK_SIZE];
            self.writer.accept(GENERATION, Record::write(lsn, BlockRange::new(0, blocks), payload.into()));
        }
    }

    fn advance(&mut self) {
        let mut effects = Effects::default();
        let last_io = &mut self.last_io;
        let mut next_io = || {
            *last_io += 1;
            IoId(*last_io)
        };
        self.writer.advance(self.now, Lsn::ZERO, &mut next_io, &mut effects);
        for effect in effects.drain() {
            match effect {
                Effect::WriteJournal { io, .. } => self.writes.push_back(io),
                Effect::FlushJournal { io } => self.flushes.push_back(io),
                other => panic!("{other:?} is no business of the journal"),
            }
        }
    }

    /// Accepts and starts one batch of one record.
    fn batch(&mut self) {
        self.accept(1, 1);
        self.advance();
    }

    fn written(&mut self, which: usize) {
        let io = self.writes.remove(which).expect("it is in flight");
        assert!(self.writer.on_io_completed(io, self.now));
    }

    fn flushed(&mut self) {
        let io = self.flushes.pop_front().expect("it is in flight");
        assert!(self.writer.on_io_completed(io, self.now));
    }

    fn want_flush(&mut self, up_to: u64) {
        self.writer.want_flush(Lsn(up_to));
        self.advance();
    }
}

#[test]
fn a_completion_out_of_order_moves_nothing_over_a_gap() {
    // Every order in which three batches may complete.
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let mut bench = Bench::new();
        (0..3).for_each(|_| bench.batch());
        let ios: Vec<IoId> = bench.writes.drain(..).collect();
        let mut is_written = [false; 3];
        for batch in order {
            assert!(bench.writer.on_io_completed(ios[batch], bench.now));
            is_written[batch] = true;
            let prefix = is_written.iter().take_while(|is_written| **is_written).count();
            assert_eq!(bench.writer.journaled(), Lsn(bytes_u64(prefix)), "{order:?} at {batch}");
        }
    }
}

#[test]
fn a_batch_behind_a_gap_keeps_its_slot() {
    let mut bench = Bench::new();
    (0..JOURNAL_WRITES_MAX).for_each(|_| bench.batch());
    bench.written(1);
    bench.batch();
    assert_eq!(
        bench.writes.len(),
        JOURNAL_WRITES_MAX - 1,
        "a gap must not let batches pile up without bound"
    );
    bench.written(0);
    bench.advance();
    assert_eq!(bench.writes.len(), JOURNAL_WRITES_MAX - 1);
}

#[test]
fn while_all_slots_are_busy_the_next_batch_gathers_what_comes() {
    let mut bench = Bench::new();
    (0..JOURNAL_WRITES_MAX).for_each(|_| bench.batch());
    bench.accept(10, 1);
    bench.advance();
    assert_eq!(bench.writes.len(), JOURNAL_WRITES_MAX);
    bench.written(0);
    bench.advance();
    assert_eq!(bench.writes.len(), JOURNAL_WRITES_MAX, "all that gathered goes in one batch");
    assert_eq!((bench.writer.queue_bytes(), bench.writer.ring().head_lsn()), (0, Lsn(14)));
}

#[test]
fn a_batch_ends_at_its_limits_and_where_another_generation_begins() {
    let started = |records: &[(GenerationId, u64)]| {
        let mut bench = Bench::new();
        for (at, (generation, blocks)) in (1..).zip(records) {
            let payload = vec![9; bytes_usize(*blocks) * BLOCK_SIZE];
            bench
                .writer
                .accept(*generation, Record::write(Lsn(at), BlockRange::new(0, *blocks), payload.into()));
        }
        bench.advance();
        bench.writes.len()
    };
    assert_eq!(started(&[(GENERATION, 1); BATCH_RECORDS_MAX]), 1);
    assert_eq!(started(&[(GENERATION, 1); BATCH_RECORDS_MAX + 1]), 2, "one record too many");
    assert_eq!(started(&[(GENERATION, 256); 4]), 1);
    assert_eq!(started(&[(GENERATION, 256); 5]), 2, "one block of payload too many");
    assert_eq!(started(&[(GENERATION, 1), (GenerationId(8), 1), (GenerationId(8), 1)]), 2);
}

#[test]
fn a_flush_covers_what_was_written_when_it_began_and_no_more() {
    let mut bench = Bench::new();
    bench.batch();
    bench.written(0);
    bench.want_flush(1);
    bench.batch();
    bench.written(0);
    assert_eq!(bench.writer.journaled(), Lsn(2));
    bench.flushed();
    assert_eq!(bench.writer.flushed(), Lsn(1), "the second batch was written after the flush began");
    bench.want_flush(2);
    bench.flushed();
    assert_eq!(bench.writer.flushed(), Lsn(2));
}

#[test]
fn a_flush_waits_for_all_that_it_is_asked_to_cover() {
    let mut bench = Bench::new();
    bench.batch();
    bench.batch();
    bench.want_flush(2);
    bench.written(1);
    bench.advance();
    assert!(bench.flushes.is_empty(), "the first batch is a gap");
    bench.written(0);
    bench.advance();
    assert_eq!(bench.flushes.len(), 1);
    bench.want_flush(2);
    assert_eq!(bench.flushes.len(), 1, "one at a time");
    bench.flushed();
    bench.want_flush(2);
    assert!(bench.flushes.is_empty(), "nothing is left to flush");
}

#[test]
fn what_nobody_asks_to_flush_is_flushed_after_a_while() {
    let mut bench = Bench::new();
    bench.now = Tick(1_000_000);
    bench.batch();
    bench.written(0);
    bench.advance();
    assert!(bench.flushes.is_empty());
    let due = bench.writer.flush_due_at().expect("something is not flushed");
    assert_eq!(due, bench.now.plus(BACKGROUND_FLUSH_AFTER));
    bench.now = due;
    bench.advance();
    assert_eq!((bench.flushes.len(), bench.writer.flush_due_at()), (1, None));
}

#[test]
fn what_was_not_flushed_before_a_crash_does_not_count_as_flushed_after_it() {
    let ring = Ring::new(RING, VoterId(1), &JournalAnchor::empty(Lsn(9), GENERATION));
    let writer = JournalWriter::new(ring, 4096, Lsn(5));
    assert_eq!((writer.journaled(), writer.flushed()), (Lsn(9), Lsn(5)));
}

#[test]
fn a_full_ring_makes_batches_wait_and_a_moved_tail_lets_them_go() {
    let mut bench = Bench::with_ring(8 << 20);
    bench.accept(7, 256);
    for _ in 0..7 {
        bench.advance();
        (0..bench.writes.len()).for_each(|_| bench.written(0));
    }
    bench.accept(3, 256);
    bench.advance();
    assert!(bench.writer.is_short_of_room());
    assert!(bench.writes.is_empty());
    let kept = bench.writer.journaled();
    let tail = bench.writer.ring().next_tail(kept).expect("there is more than one batch");
    bench.writer.ring_mut().set_tail(tail);
    bench.advance();
    assert!(!bench.writes.is_empty());
}

#[test]
fn a_cut_takes_every_mark_back_and_numbering_goes_on_behind_it() {
    let mut bench = Bench::new();
    bench.accept(3, 1);
    bench.advance();
    bench.written(0);
    bench.want_flush(3);
    bench.flushed();
    bench.writer.cut(Lsn(2), 2);
    let writer = &bench.writer;
    assert_eq!((writer.journaled(), writer.flushed(), writer.accepted()), (Lsn(2), Lsn(2), Lsn(2)));
    assert!(writer.is_clean());
    bench.writer.ring_mut().note_session_recorded(2);
    bench.batch();
    bench.written(0);
    assert_eq!(bench.writer.journaled(), Lsn(3));
}

#[test]
#[should_panic(expected = "nothing is on its way")]
fn a_journal_with_a_write_on_its_way_is_never_cut() {
    let mut bench = Bench::new();
    bench.batch();
    bench.writer.cut(Lsn::ZERO, 2);
}

#[test]
fn a_dropped_queue_leaves_what_is_in_batches_and_wants_no_flush_beyond() {
    let mut bench = Bench::new();
    (0..JOURNAL_WRITES_MAX).for_each(|_| bench.batch());
    bench.accept(2, 1);
    bench.want_flush(6);
    bench.writer.drop_queue();
    assert_eq!((bench.writer.accepted(), bench.writer.queue_bytes()), (Lsn(4), 0));
    (0..JOURNAL_WRITES_MAX).for_each(|_| bench.written(0));
    bench.advance();
    bench.flushed();
    assert!(bench.writer.is_clean());
    assert_eq!(bench.writer.flushed(), Lsn(4));
}

#[test]
fn io_of_others_is_left_to_them() {
    let mut bench = Bench::new();
    bench.batch();
    assert!(!bench.writer.on_io_completed(IoId(999), bench.now));
    assert_eq!(bench.writer.journaled(), Lsn::ZERO);
}
