//! Client writes between arrival and answer: what waits to be admitted, what waits for the rest of a
//! ragged block, what waits to be complete, what waits to be flushed. Knows nothing of peers or journals:
//! it is told how far writes are complete and stable.
//!
//! Rule: a read waits in the same queue behind a write of its blocks that came first and has no record yet. The client
//! of that write may be gone: whoever is told that it did not happen must never see it happen later.

pub mod edit;
pub mod protocol_abc;

use std::collections::VecDeque;

use crate::event::{Durability, Request};
use crate::units::{BlockRange, ByteRange, Lsn, RequestId, Tick, bytes_u64};
use edit::Edit;

/// An accepted write whose answer is due when its last record is complete.
#[derive(Clone, Copy, Debug)]
struct InFlight {
    id: RequestId,
    last_lsn: Lsn,
    durability: Durability,
    since: Tick,
}

/// An answer that is due when everything up to `lsn` is stable.
#[derive(Clone, Copy, Debug)]
struct FlushWaiter {
    id: RequestId,
    lsn: Lsn,
    /// Since when a write that is answered then has waited.
    since: Option<Tick>,
}

/// Client requests that change data, and flushes.
#[derive(Debug, Default)]
pub struct Writes {
    /// Arrived, in order, and when; no record yet. Reads are among them that came behind a write of their blocks.
    waiting: VecDeque<(RequestId, Request, Tick)>,
    /// Ragged writes that wait for the rest of their edge blocks.
    edits: Vec<Edit>,
    /// In Lsn order.
    in_flight: VecDeque<InFlight>,
    flush_waiters: Vec<FlushWaiter>,
    /// Up to where anybody has asked for a flush so far.
    flush_wanted: Lsn,
}

impl Writes {
    /// A request arrived.
    pub fn arrive(&mut self, id: RequestId, request: Request, now: Tick) {
        self.waiting.push_back((id, request, now));
    }

    /// The request that is next to be admitted.
    #[must_use]
    pub fn next_waiting(&self) -> Option<&Request> {
        self.waiting.front().map(|(_, request, _)| request)
    }

    /// Takes out the request that is next to be admitted, and since when it has waited.
    pub fn take_waiting(&mut self) -> Option<(RequestId, Request, Tick)> {
        self.waiting.pop_front()
    }

    /// Whether a write of some of these blocks has arrived that has no record yet.
    #[must_use]
    pub fn is_about_to_change(&self, blocks: BlockRange) -> bool {
        let overlaps = |(_, request, _): &(RequestId, Request, Tick)| {
            let range = request.range().filter(|_| request.is_write());
            range.and_then(ByteRange::covering_blocks).is_some_and(|range| range.overlaps(blocks))
        };
        self.waiting.iter().any(overlaps) || self.edits.iter().any(|edit| edit.blocks().overlaps(blocks))
    }

    /// Ragged writes that wait for their edges.
    pub fn edits(&mut self) -> &mut Vec<Edit> {
        &mut self.edits
    }

    /// A request's records are accepted now; `last_lsn` is the newest of them. It has waited since `since`.
    pub fn submitted(&mut self, id: RequestId, last_lsn: Lsn, durability: Durability, since: Tick) {
        self.in_flight.push_back(InFlight { id, last_lsn, durability, since });
        if durability == Durability::Flushed {
            // The flush starts as soon as the journals hold the write, not when it is complete.
            self.flush_wanted = self.flush_wanted.max(last_lsn);
        }
    }

    /// The answer to `id` waits until everything up to `lsn` is stable.
    pub fn wait_for_flush(&mut self, id: RequestId, lsn: Lsn) {
        self.flush_waiters.push(FlushWaiter { id, lsn, since: None });
        self.flush_wanted = self.flush_wanted.max(lsn);
    }

    /// Answers that are due now that writes are complete up to `complete`; those that must also be flushed
    /// go over to the waiters. `took` hears since when each answered one has waited.
    pub fn completed(
        &mut self,
        complete: Lsn,
        mut took: impl FnMut(Tick),
        mut answer: impl FnMut(RequestId),
    ) {
        while let Some(request) = self.in_flight.pop_front_if(|request| request.last_lsn <= complete) {
            let InFlight { id, last_lsn: lsn, durability, since } = request;
            match durability {
                Durability::Complete => {
                    took(since);
                    answer(id);
                }
                Durability::Flushed => {
                    self.flush_waiters.push(FlushWaiter { id, lsn, since: Some(since) });
                }
            }
        }
    }

    /// Answers that are due now that writes are stable up to `stable`. `took` hears of writes as above.
    pub fn flushed(&mut self, stable: Lsn, mut took: impl FnMut(Tick), mut answer: impl FnMut(RequestId)) {
        self.flush_waiters.retain(|waiter| {
            let is_due = waiter.lsn <= stable;
            if is_due {
                waiter.since.into_iter().for_each(&mut took);
                answer(waiter.id);
            }
            !is_due
        });
    }

    /// How many writes have waited for their answer since before this moment.
    #[must_use]
    pub fn waiting_since_before(&self, moment: Tick) -> u64 {
        let waiting =
            self.waiting.iter().filter(|(_, request, _)| request.is_write()).map(|(_, _, since)| *since);
        let edits = self.edits.iter().map(|edit| edit.since);
        let in_flight = self.in_flight.iter().map(|request| request.since);
        let unflushed = self.flush_waiters.iter().filter_map(|waiter| waiter.since);
        let all = waiting.chain(edits).chain(in_flight).chain(unflushed);
        bytes_u64(all.filter(|since| *since < moment).count())
    }

    /// Up to where anybody has asked for a flush so far.
    #[must_use]
    pub fn flush_wanted(&self) -> Lsn {
        self.flush_wanted
    }

    /// Whether a write waits for its completion or to be admitted.
    #[must_use]
    pub fn has_unfinished_writes(&self) -> bool {
        !self.in_flight.is_empty() || !self.waiting.is_empty() || !self.edits.is_empty()
    }

    /// Number of unanswered requests.
    #[must_use]
    pub fn len(&self) -> usize {
        self.waiting.len() + self.edits.len() + self.in_flight.len() + self.flush_waiters.len()
    }

    /// Whether there is no unanswered request.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets every request, and says whose they were.
    pub fn take_all(&mut self) -> Vec<RequestId> {
        let waiting = self.waiting.drain(..).map(|(id, ..)| id);
        let edits = self.edits.drain(..).map(|edit| edit.id);
        let in_flight = self.in_flight.drain(..).map(|request| request.id);
        let flushes = self.flush_waiters.drain(..).map(|waiter| waiter.id);
        waiting.chain(edits).chain(in_flight).chain(flushes).collect()
    }

    /// Forgets every request: the clients are gone, or get no answer from this node any more.
    pub fn forget(&mut self) {
        *self = Self::default();
    }
}
