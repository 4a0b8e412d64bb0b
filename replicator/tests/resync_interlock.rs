//! One block, two client writes, and its copy or its comparison, in every order in which they can be read, written,
//! sent, received, answered and written back: at the end the target holds what the source holds, no two writes to the
//! block are ever under way at once, and whenever the source calls the block equal it is so, through a power cut of the
//! target, or the newest record of it is on its way.

use std::collections::{BTreeSet, VecDeque};

use bytes::Bytes;
use replicator::block_set::BlockSet;
use replicator::event::{AllocatedExtent, IoId};
use replicator::record::{Record, RecordKind};
use replicator::resync::digest::Comparison;
use replicator::resync::expectation::Expectation;
use replicator::resync::source::{Copying, Outgoing};
use replicator::resync::target::{Compared, Receiving};
use replicator::units::{BLOCK_SIZE, BlockRange, Lsn};

const BLOCK: BlockRange = BlockRange { first: 7, count: 1 };
/// I/Os of the source and of the target.
const READ: IoId = IoId(1);
const COPY: IoId = IoId(2);
const COMPARE: IoId = IoId(3);
/// Client writes during the resync; their number, which is never zero, is what they write.
const WRITES: u8 = 2;
/// What the source holds before, and something old.
const BEFORE: u8 = 50;
const OLD: u8 = 99;

/// What is on its way to the target, in the order in which it was sent.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Sent {
    Record(u8),
    Copy(u64, u8),
    Question(u64, u8),
    End,
}

/// What is on its way back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Answer {
    Compared(u64, bool),
    Flushed(u64),
}

/// A world as far as its future depends on it. The two parts under test are made anew from the steps that led here.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct World {
    /// What the source compares or copies, and what the target held before.
    is_compared: bool,
    accepted: u8,
    /// What is in the source's data area, and what a read that is under way has seen.
    source: u8,
    reading: Option<u8>,
    has_begun: bool,
    is_marked: bool,
    has_ended: bool,
    stream: VecDeque<Sent>,
    answers: VecDeque<Answer>,
    /// Records that have arrived, and those of them that are not written back.
    recorded: u8,
    pending: BTreeSet<u8>,
    /// What is being written to the target's data area, or compared there.
    copying: Option<u8>,
    writing_back: Option<u8>,
    comparing: Option<u8>,
    flushing: Option<(u64, u8)>,
    /// What the target's data area holds, and what of that a power cut leaves.
    target: u8,
    durable: u8,
    steps: Vec<Step>,
}

/// One thing that may happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    ClientWrites,
    SourceWritesBack,
    SourceReads,
    SourceHasRead,
    SourceHears,
    SourceEnds,
    TargetReceives,
    TargetCompares,
    CopyArrives,
    FlushBegins,
    FlushEnds,
    WriteBackBegins,
    WriteBackEnds,
}

const STEPS: [Step; 13] = [
    Step::ClientWrites,
    Step::SourceWritesBack,
    Step::SourceReads,
    Step::SourceHasRead,
    Step::SourceHears,
    Step::SourceEnds,
    Step::TargetReceives,
    Step::TargetCompares,
    Step::CopyArrives,
    Step::FlushBegins,
    Step::FlushEnds,
    Step::WriteBackBegins,
    Step::WriteBackEnds,
];

fn block(value: u8) -> Bytes {
    Bytes::from(vec![value; BLOCK_SIZE])
}

fn value(bytes: &[u8]) -> u8 {
    bytes[0]
}

fn record(lsn: u8) -> Record {
    Record::zero(Lsn(lsn.into()), RecordKind::Trim, BLOCK)
}

/// The parts under test.
struct Parts {
    copying: Copying,
    receiving: Receiving,
}

impl World {
    fn new(is_compared: bool, target: u8) -> Self {
        Self {
            is_compared,
            accepted: 0,
            source: BEFORE,
            reading: None,
            has_begun: false,
            is_marked: true,
            has_ended: false,
            stream: VecDeque::new(),
            answers: VecDeque::new(),
            recorded: 0,
            pending: BTreeSet::new(),
            copying: None,
            writing_back: None,
            comparing: None,
            flushing: None,
            target,
            durable: OLD,
            steps: Vec::new(),
        }
    }

    fn parts(&self) -> Parts {
        let mut todo = BlockSet::default();
        todo.add(BLOCK);
        let expectation = if self.is_compared { Expectation::Equal } else { Expectation::Different };
        Parts { copying: Copying::new(todo, Lsn(0), expectation), receiving: Receiving::default() }
    }

    /// The world after a step, if the step is possible.
    fn step(&mut self, step: Step, parts: &mut Parts) -> bool {
        let is_possible = match step {
            Step::ClientWrites if self.accepted < WRITES => {
                self.accepted += 1;
                self.stream.push_back(Sent::Record(self.accepted));
                true
            }
            // Each record by itself, or all of them together: the newest wins.
            Step::SourceWritesBack if self.source != self.accepted && self.accepted > 0 => {
                self.source = self.accepted;
                true
            }
            Step::SourceReads if !self.has_begun => {
                self.has_begun = true;
                // What is in memory only is left to its record.
                let is_held = self.accepted > 0 && self.source != self.accepted;
                parts.copying.begin_pass();
                assert_eq!(parts.copying.next_search(), None);
                assert_eq!(parts.copying.next_run(), Some(BLOCK));
                if is_held {
                    parts.copying.leave_to_records(BLOCK, Lsn(self.accepted.into()));
                } else {
                    parts.copying.on_read_ordered(READ, BLOCK);
                    self.reading = Some(self.source);
                }
                true
            }
            Step::SourceHasRead => self.source_has_read(parts),
            Step::SourceHears => self.source_hears(parts),
            Step::SourceEnds if self.has_begun && !self.has_ended => match parts.copying.finished() {
                Some(_) => {
                    self.has_ended = true;
                    self.stream.push_back(Sent::End);
                    true
                }
                None => false,
            },
            Step::TargetReceives => self.target_receives(parts),
            Step::TargetCompares => self.target_compares(parts),
            Step::CopyArrives => self.copying.take().is_some_and(|copied| {
                self.target = copied;
                parts.receiving.on_written(COPY)
            }),
            Step::FlushBegins if self.flushing.is_none() => match parts.receiving.flush_wanted() {
                Some(up_to) => {
                    self.flushing = Some((up_to, self.target));
                    true
                }
                None => false,
            },
            Step::FlushEnds => self.flushing.take().is_some_and(|(up_to, flushed)| {
                self.durable = flushed;
                parts.receiving.on_flushed(up_to);
                self.answers.push_back(Answer::Flushed(up_to));
                true
            }),
            Step::WriteBackBegins if self.writing_back.is_none() => self.write_back_begins(parts),
            Step::WriteBackEnds => self.writing_back.take().is_some_and(|written| {
                self.target = written;
                self.pending.retain(|pending| *pending > written);
                true
            }),
            Step::ClientWrites
            | Step::SourceWritesBack
            | Step::SourceReads
            | Step::SourceEnds
            | Step::FlushBegins
            | Step::WriteBackBegins => false,
        };
        if is_possible {
            self.steps.push(step);
        }
        is_possible
    }

    fn source_has_read(&mut self, parts: &mut Parts) -> bool {
        let Some(read) = self.reading.take() else { return false };
        let outcome = parts.copying.on_read(READ, &block(read), Lsn(self.accepted.into()));
        assert_eq!(outcome.equal, [], "nothing is proved yet");
        match outcome.outgoing {
            Some(Outgoing::Copies(copies)) => self.send_copies(&copies),
            Some(Outgoing::Question(question)) => {
                self.stream.push_back(Sent::Question(question.number, read));
            }
            None => panic!("a block that was read is sent or asked about"),
        }
        true
    }

    fn send_copies(&mut self, copies: &[Record]) {
        let copies = copies.iter().map(|copy| Sent::Copy(copy.lsn.0, value(&copy.payload)));
        self.stream.extend(copies);
    }

    fn source_hears(&mut self, parts: &mut Parts) -> bool {
        match self.answers.pop_front() {
            None => false,
            Some(Answer::Compared(number, differs)) => {
                let compared = compared(number, differs);
                let newest = Lsn(self.accepted.into());
                let compared = parts.copying.on_compared(number, &compared.differing, newest);
                let copies = compared.expect("it was asked");
                self.send_copies(&copies);
                true
            }
            Some(Answer::Flushed(up_to)) => {
                if !parts.copying.on_flushed(up_to).expect("it was answered").is_empty() {
                    self.is_marked = false;
                    self.check_proof();
                }
                true
            }
        }
    }

    /// A mark is cleared: the block is equal, whatever is lost with the power, or a record brings the newest content of
    /// it, which is in the journal that the target is shipped.
    fn check_proof(&self) {
        let is_equal = self.durable == BEFORE && self.accepted == 0;
        assert!(is_equal || self.accepted > 0, "{self:?}");
    }

    fn target_receives(&mut self, parts: &mut Parts) -> bool {
        match self.stream.pop_front() {
            None => return false,
            Some(Sent::Record(lsn)) => {
                parts.receiving.on_record(&record(lsn));
                self.recorded = lsn;
                self.pending.insert(lsn);
            }
            Some(Sent::Copy(number, copied)) => {
                let copy = Record::write(Lsn(number), BLOCK, block(copied));
                if !parts.receiving.on_copy(&copy).expect("in order").is_empty() {
                    assert_eq!(self.writing_back, None, "two writes to one block are under way");
                    assert_eq!(self.recorded, 0, "a record wins");
                    parts.receiving.on_write_ordered(COPY, BLOCK);
                    self.copying = Some(copied);
                }
            }
            Some(Sent::Question(number, asked)) => {
                let question = Comparison::of(number, BLOCK, &block(asked));
                if !parts.receiving.on_comparison(question).expect("in order").is_empty() {
                    parts.receiving.on_read_ordered(COMPARE, BLOCK);
                    self.comparing = Some(self.target);
                }
                self.answer(parts);
            }
            Some(Sent::End) => parts.receiving.on_end(Lsn(self.accepted.into())),
        }
        true
    }

    fn target_compares(&mut self, parts: &mut Parts) -> bool {
        let Some(read) = self.comparing.take() else { return false };
        parts.receiving.on_read(COMPARE, &block(read));
        self.answer(parts);
        true
    }

    fn answer(&mut self, parts: &mut Parts) {
        while let Some(Compared { number, differing }) = parts.receiving.answer() {
            self.answers.push_back(Answer::Compared(number, differing.has(0)));
        }
    }

    fn write_back_begins(&mut self, parts: &mut Parts) -> bool {
        let limit = parts.receiving.oldest_held().map_or(u64::MAX, |held| held.0 - 1);
        let due = self.pending.iter().copied().filter(|lsn| u64::from(*lsn) <= limit).max();
        if due.is_some() {
            assert_eq!(self.copying, None, "two writes to one block are under way");
            self.writing_back = due;
        }
        due.is_some()
    }
}

fn compared(number: u64, differs: bool) -> Compared {
    let mut compared = Compared { number, differing: replicator::resync::Differing::default() };
    if differs {
        compared.differing.insert(0);
    }
    compared
}

/// Goes through every order of steps that lead to different worlds; returns how many ends there are.
fn try_every_order(first: World) -> u64 {
    let (mut ends, mut worlds) = (0, vec![first.clone()]);
    let mut seen = BTreeSet::new();
    while let Some(world) = worlds.pop() {
        let mut has_next = false;
        for step in STEPS {
            let (mut next, mut parts) = (first.clone(), first.parts());
            for step in &world.steps {
                assert!(next.step(*step, &mut parts), "it was possible");
            }
            if next.step(step, &mut parts) {
                has_next = true;
                let steps = std::mem::take(&mut next.steps);
                let state = format!("{next:?} {:?} {:?}", parts.copying, parts.receiving);
                next.steps = steps;
                if seen.insert(state) {
                    worlds.push(next);
                }
            }
        }
        if !has_next {
            ends += 1;
            assert_eq!((world.target, world.source), (WRITES, WRITES), "{world:?}");
            assert!(world.has_ended, "{world:?}");
        }
    }
    ends
}

#[test]
fn whatever_the_order_of_copies_and_writes_the_newest_bytes_win_on_the_target() {
    assert!(try_every_order(World::new(false, OLD)) > 0);
}

#[test]
fn whatever_the_order_of_a_comparison_and_writes_the_newest_bytes_win_and_equal_is_what_is_equal() {
    // It differs; it is equal; it is equal to what a client is about to write.
    for target in [OLD, BEFORE, 1] {
        assert!(try_every_order(World::new(true, target)) > 0);
    }
}

#[test]
fn a_hole_that_a_client_fills_meanwhile_is_left_to_its_record() {
    let mut todo = BlockSet::default();
    todo.add(BlockRange::new(0, 1000));
    let mut copying = Copying::new(todo, Lsn(0), Expectation::Equal);
    let range = copying.next_search().expect("it is worth asking");
    copying.on_search_ordered(READ, range, vec![BlockRange::new(0, 7), BlockRange::new(8, 992)]);
    // The record that was in memory then is in the data area now, and the disk had not seen it.
    let hole = AllocatedExtent { range: replicator::units::ByteRange::new(0, 1000 * 4096), is_hole: true };
    let Some(Outgoing::Copies(copies)) = copying.on_found(READ, &[hole], Lsn(5)).outgoing else {
        panic!("holes are given back")
    };
    assert!(copies.iter().all(|copy| !copy.range.overlaps(BLOCK)), "{copies:?}");
    assert_eq!(copying.next_run(), Some(BLOCK), "it is read");
}
