//! Decides for how long the loop looks for completions before it goes to sleep.
//!
//! A sleeping thread costs every write the time that its processor needs to wake: a few microseconds on a desk, tens
//! of them in a virtual machine, five times on the way of one mirrored write. So while completions follow one
//! another closely the loop looks for them itself. It does so only with time that nobody else wants: as soon as
//! another thread runs in its place it sleeps as everybody does, and a node that has nothing to do never looks.

use std::time::Duration;

use replicator::units::{Span, Tick};

/// Waits in a row that outlast the limit, after which nothing is expected soon any more.
const MISSES_MAX: u32 = 8;
/// A pause of this length, while others were let pass, means that somebody needs the processor.
pub const CROWDED_AFTER: Duration = Duration::from_micros(300);
/// Time without looking after that.
const REST: Span = Span::from_millis(100);

/// The decision, from how the last waits went.
#[derive(Debug)]
pub struct BusyPoll {
    limit: Duration,
    /// Waits in a row that were longer than the limit.
    misses: u32,
    rests_until: Tick,
}

impl BusyPoll {
    /// Looks for at most `limit` before each sleep; zero never looks.
    #[must_use]
    pub fn new(limit: Duration) -> Self {
        Self { limit, misses: MISSES_MAX, rests_until: Tick(0) }
    }

    /// For how long to look before the next sleep.
    #[must_use]
    pub fn window(&self, now: Tick) -> Duration {
        if self.misses < MISSES_MAX && now >= self.rests_until { self.limit } else { Duration::ZERO }
    }

    /// Takes in how long a wait was, looking and sleeping together.
    pub fn on_waited(&mut self, waited: Duration) {
        self.misses = if waited <= self.limit { 0 } else { self.misses.saturating_add(1) };
    }

    /// Somebody else needed the processor meanwhile.
    pub fn on_crowded(&mut self, now: Tick) {
        self.rests_until = now.plus(REST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_micros(100);
    const NOW: Tick = Tick(1_000_000);

    #[test]
    fn an_idle_loop_never_looks_and_a_busy_one_always_does() {
        let mut poll = BusyPoll::new(LIMIT);
        assert_eq!(poll.window(NOW), Duration::ZERO);
        poll.on_waited(Duration::from_secs(1));
        assert_eq!(poll.window(NOW), Duration::ZERO);
        poll.on_waited(LIMIT);
        assert_eq!(poll.window(NOW), LIMIT);
    }

    #[test]
    fn a_few_long_waits_between_short_ones_do_not_end_the_looking_but_many_in_a_row_do() {
        let mut poll = BusyPoll::new(LIMIT);
        poll.on_waited(LIMIT);
        for _ in 1..MISSES_MAX {
            poll.on_waited(2 * LIMIT);
        }
        assert_eq!(poll.window(NOW), LIMIT);
        poll.on_waited(2 * LIMIT);
        assert_eq!(poll.window(NOW), Duration::ZERO);
    }

    #[test]
    fn whoever_needs_the_processor_has_it_for_a_while() {
        let mut poll = BusyPoll::new(LIMIT);
        poll.on_waited(LIMIT);
        poll.on_crowded(NOW);
        assert_eq!(poll.window(NOW.plus(Span::from_millis(99))), Duration::ZERO);
        assert_eq!(poll.window(NOW.plus(REST)), LIMIT);
    }

    #[test]
    fn a_limit_of_zero_never_looks() {
        let mut poll = BusyPoll::new(Duration::ZERO);
        poll.on_waited(Duration::ZERO);
        assert_eq!(poll.window(NOW), Duration::ZERO);
    }
}
