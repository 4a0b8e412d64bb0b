//! The source's half of a resync.

mod search;

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use crate::block_set::BlockSet;
use crate::event::{AllocatedExtent, IoId};
use crate::record::{Record, RecordKind};
use crate::resync::digest::Comparison;
use crate::resync::expectation::{Expectation, Judgement, Treatment};
use crate::resync::pace::SyncCounts;
use crate::resync::{COPY_BLOCKS_MAX, Differing, IN_FLIGHT_BYTES_MAX, ZERO_BLOCKS_MAX, cost};
use crate::units::{BLOCK_BYTES, BLOCK_SIZE, BlockRange, Lsn, bytes_u64, bytes_usize, index_range};
use search::Search;

/// Reads of the local disk at a time.
const READS_MAX: usize = 16;
/// Shortest run of zeroes within other blocks that is worth a copy of its own.
const ZERO_RUN_BLOCKS_MIN: u64 = 16;

/// Blocks that are being read.
#[derive(Clone, Copy, Debug)]
struct Reading {
    range: BlockRange,
    treatment: Treatment,
}

/// A copy or a question that was sent.
#[derive(Debug)]
struct Sent {
    number: u64,
    /// The blocks that are equal when the target has flushed everything up to here.
    ranges: Vec<BlockRange>,
    blocks: u64,
    cost: u64,
    /// What was read of the blocks, until the target has said which of them differ.
    asked: Option<(BlockRange, Bytes)>,
}

/// What goes to the target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outgoing {
    /// Blocks.
    Copies(Vec<Record>),
    /// Digests of blocks.
    Question(Comparison),
}

/// What follows from something that was found out about blocks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// This goes to the target.
    pub outgoing: Option<Outgoing>,
    /// These are proved equal.
    pub equal: Vec<BlockRange>,
}

/// Why what a target says makes no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnswerRefusal {
    /// Nobody asked.
    #[error("it compared {0}, which it was not asked to")]
    NotAsked(u64),
    /// It has not said which blocks differ.
    #[error("it has flushed up to {up_to}, but has not compared {number}")]
    NotCompared {
        /// What it says it has flushed.
        up_to: u64,
        /// The question.
        number: u64,
    },
}

/// What is left to copy, and what is on its way.
#[derive(Debug)]
pub struct Copying {
    /// From here on the target receives records.
    start: Lsn,
    todo: BlockSet,
    /// Blocks that were to be copied at first.
    total: u64,
    cursor: u64,
    /// How far the data area was when this pass was begun; nothing during the first.
    begun_at: Option<Lsn>,
    search: Search,
    expectation: Expectation,
    judgement: Judgement,
    /// Blocks that the target had already.
    same: u64,
    /// Marked dirty again since the start, by records that the journal has left behind: their marks must stay.
    marked_anew: BlockSet,
    reading: BTreeMap<IoId, Reading>,
    sent: VecDeque<Sent>,
    in_flight_bytes: u64,
    in_flight_blocks: u64,
    /// Most bytes that may be on their way now.
    in_flight_bytes_max: u64,
    newest_number: u64,
    /// Newest record that may be in a copy, or have come instead of one.
    consistent_at: Lsn,
}

impl Copying {
    /// Everything in `todo` is to be copied; records after `start` go to the target besides.
    #[must_use]
    pub fn new(todo: BlockSet, start: Lsn, expectation: Expectation) -> Self {
        Self {
            start,
            total: todo.count(),
            todo,
            cursor: 0,
            begun_at: None,
            search: Search::default(),
            expectation,
            judgement: Judgement::new(expectation),
            same: 0,
            marked_anew: BlockSet::default(),
            reading: BTreeMap::new(),
            sent: VecDeque::new(),
            in_flight_bytes: 0,
            in_flight_blocks: 0,
            in_flight_bytes_max: IN_FLIGHT_BYTES_MAX,
            newest_number: 0,
            consistent_at: start,
        }
    }

    /// From where on the target receives records.
    #[must_use]
    pub fn start(&self) -> Lsn {
        self.start
    }

    /// Whether another pass may find what this one did not: the data area holds more by now. Without that a pass ends as
    /// it begins, and whoever looks again at once never gets to write anything back.
    pub fn may_find_more(&mut self, written_back: Lsn) -> bool {
        let is_over = self.todo.next_run(self.cursor, 1).is_none();
        let may = is_over && self.begun_at < Some(written_back);
        if may {
            self.begun_at = Some(written_back);
        }
        may
    }

    /// From now on no more than this is to be on its way.
    pub fn limit_in_flight(&mut self, bytes_max: u64) {
        self.in_flight_bytes_max = bytes_max.min(IN_FLIGHT_BYTES_MAX);
    }

    /// Begins another pass over the volume if this one is over: for what could not be read then.
    pub fn begin_pass(&mut self) {
        let is_over = self.todo.next_run(self.cursor, 1).is_none();
        if is_over && !self.search.is_under_way() {
            self.cursor = 0;
            self.search = Search::default();
        }
    }

    /// Blocks of which should be found out first whether they are holes.
    #[must_use]
    pub fn next_search(&mut self) -> Option<BlockRange> {
        if !self.has_room() {
            return None;
        }
        self.search.next(&self.todo, self.cursor)
    }

    /// It is being found out. Nothing but `gaps` is looked at: what is in memory is not in the data area yet.
    pub fn on_search_ordered(&mut self, io: IoId, range: BlockRange, gaps: Vec<BlockRange>) {
        self.search.on_ordered(io, range, gaps);
    }

    /// The holes of the data area were found while `newest` was the newest record taken in.
    pub fn on_found(&mut self, io: IoId, extents: &[AllocatedExtent], newest: Lsn) -> Outcome {
        let Some(holes) = self.search.on_found(io, extents) else { return Outcome::default() };
        self.consistent_at = self.consistent_at.max(newest);
        let mut zeroes = Vec::new();
        for hole in holes {
            let mut from = hole.first;
            while from < hole.end()
                && let Some(run) = self.todo.next_run(from, hole.end() - from)
                && run.first < hole.end()
            {
                from = run.end().min(hole.end());
                zeroes.push(BlockRange::new(run.first, from - run.first));
            }
        }
        for run in &zeroes {
            self.todo.remove(*run);
        }
        self.zeroes(zeroes)
    }

    /// The next blocks to read; `None` while as much is under way as may be, and at the end of a pass.
    pub fn next_run(&mut self) -> Option<BlockRange> {
        if !self.has_room() {
            return None;
        }
        let run = self.todo.next_run(self.cursor, COPY_BLOCKS_MAX)?;
        let run = self.search.known_part(run)?;
        self.cursor = run.end();
        Some(run)
    }

    /// Whether more may be under way than is.
    #[must_use]
    pub fn has_room(&self) -> bool {
        let is_left = !self.todo.is_empty();
        is_left && self.reading.len() < READS_MAX && self.in_flight_bytes < self.in_flight_bytes_max
    }

    /// These blocks are being read.
    pub fn on_read_ordered(&mut self, io: IoId, range: BlockRange) {
        self.todo.remove(range);
        self.in_flight_bytes += range.bytes();
        self.in_flight_blocks += range.count;
        let treatment = self.judgement.next(range.count);
        self.reading.insert(io, Reading { range, treatment });
    }

    /// A record that the target receives, `lsn`, brings these blocks.
    pub fn leave_to_records(&mut self, range: BlockRange, lsn: Lsn) {
        self.todo.remove(range);
        self.consistent_at = self.consistent_at.max(lsn);
    }

    /// Blocks were read while `newest` was the newest record taken in. Nothing follows if the read belongs to another
    /// resync.
    pub fn on_read(&mut self, io: IoId, bytes: &Bytes, newest: Lsn) -> Outcome {
        let Some(Reading { range, treatment }) = self.reading.remove(&io) else { return Outcome::default() };
        self.consistent_at = self.consistent_at.max(newest);
        self.in_flight_bytes -= range.bytes();
        self.in_flight_blocks -= range.count;
        let parts = parts(range, bytes);
        if let [(_, Part::Zeroes)] = parts[..] {
            return self.zeroes(vec![range]);
        }
        match treatment {
            Treatment::Compare => {
                let number = self.next_number();
                let question = Comparison::of(number, range, bytes);
                self.note_sent(Sent {
                    number,
                    ranges: Vec::new(),
                    blocks: range.count,
                    cost: range.bytes(),
                    asked: Some((range, bytes.clone())),
                });
                Outcome { outgoing: Some(Outgoing::Question(question)), equal: Vec::new() }
            }
            Treatment::Copy => self.copies(range, bytes, parts),
        }
    }

    /// The target has compared blocks while `newest` was the newest record taken in, which may have brought some of them:
    /// what differs is copied, the rest is equal when the target has flushed it.
    ///
    /// # Errors
    /// It was not asked.
    pub fn on_compared(
        &mut self,
        number: u64,
        differing: &Differing,
        newest: Lsn,
    ) -> Result<Vec<Record>, AnswerRefusal> {
        let not_asked = AnswerRefusal::NotAsked(number);
        let at = self.sent.binary_search_by_key(&number, |sent| sent.number).map_err(|_| not_asked)?;
        let sent = &mut self.sent[at];
        let (range, bytes) = sent.asked.take().ok_or(not_asked)?;
        let (equal, different) = differing.split(range);
        let equal_blocks = equal.iter().map(|run| run.count).sum::<u64>();
        let moved = sent.blocks - equal_blocks;
        if moved != differing.count() {
            return Err(not_asked); // It speaks of blocks that are not in question.
        }
        self.consistent_at = self.consistent_at.max(newest);
        sent.ranges = equal;
        sent.blocks = equal_blocks;
        sent.cost -= moved * BLOCK_BYTES;
        self.in_flight_bytes -= moved * BLOCK_BYTES;
        self.in_flight_blocks -= moved;
        self.same += equal_blocks;
        self.judgement.on_compared(range.count, equal_blocks);
        let mut copies = Vec::new();
        for run in different {
            let skip = (run.first - range.first) * BLOCK_BYTES;
            let part = bytes.slice(index_range(skip..skip + run.bytes()));
            let parts = parts(run, &part);
            if let Some(Outgoing::Copies(records)) = self.copies(run, &part, parts).outgoing {
                copies.extend(records);
            }
        }
        Ok(copies)
    }

    /// Blocks were marked dirty again: a copy that was made before does not make them equal.
    pub fn mark_anew(&mut self, range: BlockRange) {
        self.marked_anew.add(range);
    }

    /// The target has flushed every copy up to this one. Returns the blocks that are proved equal by it.
    ///
    /// # Errors
    /// It has not said yet which blocks of a question before that differ.
    pub fn on_flushed(&mut self, up_to: u64) -> Result<Vec<BlockRange>, AnswerRefusal> {
        let mut equal = Vec::new();
        while let Some(sent) = self.sent.pop_front_if(|sent| sent.number <= up_to) {
            if sent.asked.is_some() {
                return Err(AnswerRefusal::NotCompared { up_to, number: sent.number });
            }
            self.in_flight_bytes -= sent.cost;
            self.in_flight_blocks -= sent.blocks;
            equal.extend(sent.ranges.iter().flat_map(|range| self.marked_anew.missing(*range)));
        }
        Ok(equal)
    }

    /// When every block is copied: up to where the target's journal must reach for its disk to be consistent.
    #[must_use]
    pub fn finished(&self) -> Option<Lsn> {
        let is_over = self.reading.is_empty()
            && self.sent.is_empty()
            && self.todo.is_empty()
            && !self.search.is_under_way();
        is_over.then_some(self.consistent_at)
    }

    /// Blocks that are not flushed by the target yet.
    #[must_use]
    pub fn left(&self) -> u64 {
        self.todo.count() + self.in_flight_blocks
    }

    /// How far it has come.
    #[must_use]
    pub fn counts(&self) -> SyncCounts {
        let left = self.left();
        SyncCounts {
            done: self.total.saturating_sub(left) * BLOCK_BYTES,
            left: left * BLOCK_BYTES,
            same: self.same * BLOCK_BYTES,
        }
    }

    fn next_number(&mut self) -> u64 {
        self.newest_number += 1;
        self.newest_number
    }

    fn note_sent(&mut self, sent: Sent) {
        self.in_flight_bytes += sent.cost;
        self.in_flight_blocks += sent.blocks;
        self.sent.push_back(sent);
    }

    /// Blocks of zeroes: nothing to do where the target is known to hold zeroes.
    fn zeroes(&mut self, ranges: Vec<BlockRange>) -> Outcome {
        if self.expectation == Expectation::Zero {
            self.same += ranges.iter().map(|range| range.count).sum::<u64>();
            let equal = ranges.iter().flat_map(|range| self.marked_anew.missing(*range)).collect();
            return Outcome { outgoing: None, equal };
        }
        let mut copies = Vec::new();
        for range in ranges {
            for first in (range.first..range.end()).step_by(bytes_usize(ZERO_BLOCKS_MAX)) {
                let count = ZERO_BLOCKS_MAX.min(range.end() - first);
                copies.push(self.copy_of_zeroes(BlockRange::new(first, count)));
            }
        }
        let outgoing = (!copies.is_empty()).then_some(Outgoing::Copies(copies));
        Outcome { outgoing, equal: Vec::new() }
    }

    fn copies(&mut self, range: BlockRange, bytes: &Bytes, parts: Vec<(BlockRange, Part)>) -> Outcome {
        let mut outcome = Outcome::default();
        let mut copies = Vec::new();
        for (part, kind) in parts {
            match kind {
                Part::Zeroes if self.expectation == Expectation::Zero => {
                    self.same += part.count;
                    outcome.equal.extend(self.marked_anew.missing(part));
                }
                Part::Zeroes => copies.push(self.copy_of_zeroes(part)),
                Part::Bytes => {
                    let skip = (part.first - range.first) * BLOCK_BYTES;
                    let bytes = bytes.slice(index_range(skip..skip + part.bytes()));
                    let number = self.next_number();
                    copies.push(self.note_copy(Record::write(Lsn(number), part, bytes)));
                }
            }
        }
        outcome.outgoing = (!copies.is_empty()).then_some(Outgoing::Copies(copies));
        outcome
    }

    fn copy_of_zeroes(&mut self, range: BlockRange) -> Record {
        let number = self.next_number();
        self.note_copy(Record::zero(Lsn(number), RecordKind::Trim, range))
    }

    fn note_copy(&mut self, copy: Record) -> Record {
        let (number, cost) = (copy.lsn.0, cost(&copy));
        self.note_sent(Sent {
            number,
            ranges: vec![copy.range],
            blocks: copy.range.count,
            cost,
            asked: None,
        });
        copy
    }
}

/// What some blocks hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Zeroes,
    Bytes,
}

/// Blocks cut into what is zero and what is not; short runs of zeroes between other blocks count as bytes.
fn parts(range: BlockRange, bytes: &[u8]) -> Vec<(BlockRange, Part)> {
    let mut runs: Vec<(BlockRange, Part)> = Vec::new();
    for (block, content) in (range.first..).zip(bytes.chunks_exact(BLOCK_SIZE)) {
        let part = if is_zero(content) { Part::Zeroes } else { Part::Bytes };
        match runs.last_mut() {
            Some((run, last)) if *last == part => run.count += 1,
            Some(_) | None => runs.push((BlockRange::new(block, 1), part)),
        }
    }
    let is_alone = runs.len() == 1;
    let mut parts: Vec<(BlockRange, Part)> = Vec::new();
    for (run, part) in runs {
        let is_long = run.count >= ZERO_RUN_BLOCKS_MIN || is_alone;
        let part = if part == Part::Zeroes && is_long { Part::Zeroes } else { Part::Bytes };
        match parts.last_mut() {
            Some((last_run, last)) if *last == part => last_run.count += run.count,
            Some(_) | None => parts.push((run, part)),
        }
    }
    assert_eq!(parts.iter().map(|(run, _)| run.count).sum::<u64>(), bytes_u64(bytes.len()) / BLOCK_BYTES);
    parts
}

fn is_zero(block: &[u8]) -> bool {
    // Sixteen bytes at a time: most blocks show in the first few that they are not.
    let (words, rest) = block.as_chunks::<16>();
    words.iter().all(|word| u128::from_ne_bytes(*word) == 0) && rest.iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests;
