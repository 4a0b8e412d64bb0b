//! How fast blocks are copied: as fast as clients do not feel it. Their write latency, second by second, decides; with
//! nobody writing there is no limit, and below a floor it never goes, so that every resync ends.

use crate::units::{Span, Tick};

/// Time over which latencies are looked at before the rate changes.
const WINDOW: Span = Span::from_millis(1000);
/// Rate with which a resync begins, bytes a second.
const RATE_AT_FIRST: u64 = 64 << 20;
/// Rate above which there is no limit, bytes a second.
const RATE_MAX: u64 = 8 << 30;
/// Time for which leave to read may be saved up.
const BURST: Span = Span::from_millis(100);
/// Latencies that are kept of one window: more of them are sampled.
const SAMPLES_MAX: usize = 4096;

/// What clients may be made to feel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThrottleLimits {
    /// The 99th percentile of the latency of client writes over one second that is aimed at.
    pub write_latency: Span,
    /// Bytes a second below which a resync never falls.
    pub rate_min: u64,
}

/// The rate and what is left of it.
#[derive(Debug)]
pub struct Throttle {
    limits: ThrottleLimits,
    rate: u64,
    /// Bytes that may be read now; what was read too much is owed.
    leave: i64,
    refilled: Tick,
    window_began: Tick,
    latencies: Vec<Span>,
    seen: u64,
}

impl Throttle {
    /// Nobody has written yet.
    #[must_use]
    pub fn new(limits: ThrottleLimits, now: Tick) -> Self {
        Self {
            limits,
            rate: RATE_AT_FIRST,
            leave: 0,
            refilled: now,
            window_began: now,
            latencies: Vec::new(),
            seen: 0,
        }
    }

    /// A client's write is complete, after so long.
    pub fn on_write(&mut self, latency: Span, now: Tick) {
        self.end_window_if_due(now);
        self.seen += 1;
        if self.latencies.len() < SAMPLES_MAX {
            self.latencies.push(latency);
        } else {
            let at = usize::try_from(self.seen).unwrap_or(usize::MAX) % SAMPLES_MAX;
            self.latencies[at] = latency;
        }
    }

    /// Whether anything may be read now.
    pub fn may_read(&mut self, now: Tick) -> bool {
        self.end_window_if_due(now);
        let passed = now.since(self.refilled).min(BURST);
        self.refilled = now;
        let earned =
            i64::try_from(u128::from(self.rate) * u128::from(passed.0) / 1_000_000).unwrap_or(i64::MAX);
        let most = i64::try_from(u128::from(self.rate) * u128::from(BURST.0) / 1_000_000).unwrap_or(i64::MAX);
        self.leave = self.leave.saturating_add(earned).min(most);
        self.leave > 0
    }

    /// So much is being read.
    pub fn on_read(&mut self, bytes: u64) {
        self.leave = self.leave.saturating_sub(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// When something may be read again.
    #[must_use]
    pub fn next_leave(&self) -> Tick {
        let owed = u64::try_from(-self.leave).unwrap_or(0) + 1;
        self.refilled.plus(Span((owed * 1_000_000).div_ceil(self.rate).max(1000)))
    }

    /// Adapts the rate to what clients felt in the window that ends.
    fn end_window_if_due(&mut self, now: Tick) {
        if now < self.window_began.plus(WINDOW) {
            return;
        }
        if now >= self.window_began.plus(WINDOW.times(2)) {
            self.latencies.clear(); // Nobody has written since.
        }
        self.rate = match percentile_99(&mut self.latencies) {
            None => RATE_MAX,
            Some(latency) if latency > self.limits.write_latency => self.rate.min(RATE_MAX) / 2,
            Some(_) => self.rate + self.rate / 4,
        }
        .clamp(self.limits.rate_min, RATE_MAX);
        self.latencies.clear();
        (self.seen, self.window_began) = (0, now);
    }
}

/// The latency that one write in a hundred exceeds.
fn percentile_99(latencies: &mut [Span]) -> Option<Span> {
    let at = latencies.len().checked_sub(1)? * 99 / 100;
    Some(*latencies.select_nth_unstable(at).1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: ThrottleLimits =
        ThrottleLimits { write_latency: Span::from_millis(20), rate_min: 10 << 20 };

    /// Reads 64 KiB at a time for so many seconds in which clients see this latency; bytes of the last second.
    fn run(throttle: &mut Throttle, from: Tick, seconds: u64, latency: Option<Span>) -> (u64, Tick) {
        let (mut now, mut read) = (from, 0);
        for _ in 0..seconds {
            read = 0;
            for _ in 0..1000 {
                now = now.plus(Span::from_millis(1));
                latency.into_iter().for_each(|latency| throttle.on_write(latency, now));
                while throttle.may_read(now) && read < 1 << 40 {
                    throttle.on_read(64 << 10);
                    read += 64 << 10;
                }
            }
        }
        (read, now)
    }

    #[test]
    fn clients_that_wait_too_long_slow_a_resync_down_to_the_floor_and_no_further() {
        let mut throttle = Throttle::new(LIMITS, Tick(0));
        let (read, now) = run(&mut throttle, Tick(0), 10, Some(Span::from_millis(50)));
        assert_eq!(throttle.rate, LIMITS.rate_min);
        assert!(read.abs_diff(LIMITS.rate_min) < 1 << 20, "{read}");
        // They are content: it grows again, step by step.
        let (_, now) = run(&mut throttle, now, 10, Some(Span::from_millis(2)));
        assert!(throttle.rate > 5 * LIMITS.rate_min, "{}", throttle.rate);
        // Nobody writes: there is no limit.
        run(&mut throttle, now, 2, None);
        assert_eq!(throttle.rate, RATE_MAX);
    }

    #[test]
    fn what_clients_felt_long_ago_does_not_slow_a_resync() {
        let mut throttle = Throttle::new(LIMITS, Tick(0));
        throttle.on_write(Span::from_millis(500), Tick(0));
        assert!(throttle.may_read(Tick(60_000_000)));
        assert_eq!(throttle.rate, RATE_MAX);
    }

    #[test]
    fn one_slow_write_in_a_hundred_does_not_count() {
        let mut latencies = vec![Span(5); 200];
        latencies[7] = Span(900);
        assert_eq!(percentile_99(&mut latencies), Some(Span(5)));
        assert_eq!(percentile_99(&mut []), None);
        latencies.truncate(20);
        assert_eq!(percentile_99(&mut latencies), Some(Span(5)));
    }

    #[test]
    fn whoever_has_read_too_much_waits_for_as_long_as_that_takes() {
        let mut throttle = Throttle::new(LIMITS, Tick(0));
        assert!(throttle.may_read(Tick(1000)));
        throttle.on_read(64 << 20);
        assert!(!throttle.may_read(Tick(2000)));
        let again = throttle.next_leave();
        assert!(again > Tick(900_000) && again < Tick(1_100_000), "{again:?}");
    }
}
