//! How fast blocks are copied: as fast as clients do not feel it. Their write latency, second by second, decides; with
//! nobody writing there is no limit, and below a floor it never goes, so that every resync ends.

use crate::resync::IN_FLIGHT_BYTES_MAX;
use crate::units::{Span, Tick};

/// Time over which latencies are looked at before the rate changes.
const WINDOW: Span = Span::from_millis(1000);
/// Rate with which a resync begins beside clients, bytes a second.
const RATE_AT_FIRST: u64 = 64 << 20;
/// Beside clients a limit is at most so many times what was copied: that they are content with the one says nothing of
/// the other.
const RATE_HEADROOM: u64 = 2;
/// While more than one write in a hundred takes longer than these parts of what is aimed at, the rate does not grow: it
/// would do so until clients feel it.
const UNEASY_PARTS: (u64, u64) = (3, 4);
/// Rate above which there is no limit, bytes a second.
const RATE_MAX: u64 = 8 << 30;
/// Time for which leave to read may be saved up.
const BURST: Span = Span::from_millis(100);
/// One write in so many may be slower than what is aimed at: the 99th percentile is not above it then.
const SLOW_ONE_IN: u64 = 100;
/// Least bytes of copies that may be on their way while clients write, however low the rate.
const IN_FLIGHT_BYTES_MIN: u64 = 8 << 20;
/// The same while nobody writes.
const IN_FLIGHT_BYTES_MIN_ALONE: u64 = 16 << 20;
/// No more is on its way than may be copied in this part of a second: clients wait for the disks that it keeps busy.
const IN_FLIGHT_SECOND_PARTS: u64 = 16;
/// The same while nobody writes, of what was copied in the last second: whoever begins must not wait for long.
const IN_FLIGHT_SECOND_PARTS_ALONE: u64 = 8;
/// Shortest part of a second from which it is told how much the whole one will bring.
const GLIMPSE: Span = Span::from_millis(50);

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
    /// Writes that were answered in this window, those of them that took nearly as long as is aimed at or longer, and
    /// those that took longer.
    writes: u64,
    uneasy: u64,
    slow: u64,
    /// Bytes read in this window, and in the one before.
    read: u64,
    read_before: u64,
    /// Whether clients wrote in the last window that is over, or have written since.
    has_clients: bool,
    /// The rate at which clients have felt it last: near it, it grows slowly.
    felt: u64,
}

impl Throttle {
    /// Nobody has written yet.
    #[must_use]
    pub fn new(limits: ThrottleLimits, now: Tick) -> Self {
        Self {
            limits,
            rate: rate_at_first(limits),
            leave: 0,
            refilled: now,
            window_began: now,
            writes: 0,
            uneasy: 0,
            slow: 0,
            read: 0,
            read_before: 0,
            has_clients: false,
            felt: RATE_MAX,
        }
    }

    /// A client's write is answered, after so long. Windows that are over by now have been ended.
    pub fn on_write(&mut self, latency: Span) {
        if !self.has_clients {
            // Somebody begins to write: a second at full speed would be a second in which that one waits.
            self.has_clients = true;
            self.rate = self.rate.min(rate_at_first(self.limits));
        }
        let (parts, of) = UNEASY_PARTS;
        self.writes += 1;
        self.uneasy +=
            u64::from(latency.0.saturating_mul(of) > self.limits.write_latency.0.saturating_mul(parts));
        self.slow += u64::from(latency > self.limits.write_latency);
    }

    /// Since when a write must have waited to be slow, if a window is over: whoever asks counts them for
    /// [`Self::end_window`].
    #[must_use]
    pub fn slow_since(&self, now: Tick) -> Option<Tick> {
        let is_over = now >= self.window_began.plus(WINDOW);
        is_over.then(|| Tick(now.0.saturating_sub(self.limits.write_latency.0)))
    }

    /// Adapts the rate to what clients felt in the window that ends. `still_slow` writes wait for longer than is aimed
    /// at, and are not answered: what has stopped altogether must not look like silence.
    pub fn end_window(&mut self, still_slow: u64, now: Tick) {
        if now >= self.window_began.plus(WINDOW.times(2)) {
            // Nobody has been answered in the second before this one.
            (self.writes, self.uneasy, self.slow) = (0, 0, 0);
        }
        let (writes, slow) = (self.writes + still_slow, self.slow + still_slow);
        let near = rate_at_first(self.limits).max(self.read.saturating_mul(RATE_HEADROOM));
        self.rate = match writes {
            0 => RATE_MAX,
            // Faster than it went it was not: from there it is halved.
            _ if slow * SLOW_ONE_IN > writes => {
                let felt = self.rate.min(self.read.max(1));
                // What clients feel at the floor says nothing of a higher rate: from there it grows as at first.
                self.felt = if felt / 2 > self.limits.rate_min { felt } else { RATE_MAX };
                felt / 2
            }
            _ if self.uneasy * SLOW_ONE_IN > writes => self.rate.min(near),
            _ if self.rate < self.felt / 8 * 6 => (self.rate + self.rate / 4).min(near),
            _ => (self.rate + self.rate / 32).min(near),
        }
        .clamp(self.limits.rate_min, RATE_MAX);
        self.has_clients = writes > 0;
        (self.read_before, self.read) = (self.read, 0);
        (self.writes, self.uneasy, self.slow, self.window_began) = (0, 0, 0, now);
    }

    /// Bytes of copies that may be on their way.
    #[must_use]
    pub fn in_flight_bytes_max(&self, now: Tick) -> u64 {
        if !self.has_clients {
            let copied = self.read_before.max(self.read_in_a_second(now)) / IN_FLIGHT_SECOND_PARTS_ALONE;
            return copied.clamp(IN_FLIGHT_BYTES_MIN_ALONE, IN_FLIGHT_BYTES_MAX);
        }
        (self.rate / IN_FLIGHT_SECOND_PARTS).clamp(IN_FLIGHT_BYTES_MIN, IN_FLIGHT_BYTES_MAX)
    }

    /// What this window will have brought if it goes on as it began, for whoever did not copy in the one before. What
    /// may still be on its way does not count: a disk gives that to a link of any speed.
    fn read_in_a_second(&self, now: Tick) -> u64 {
        let passed = now.since(self.window_began).max(GLIMPSE);
        let through = self.read.saturating_sub(IN_FLIGHT_BYTES_MAX);
        u64::try_from(u128::from(through) * u128::from(WINDOW.0) / u128::from(passed.0)).unwrap_or(u64::MAX)
    }

    /// The rate, bytes a second, where there is a limit.
    #[must_use]
    pub fn rate(&self) -> Option<u64> {
        Some(self.rate).filter(|rate| *rate < RATE_MAX)
    }

    /// Whether anything may be read now.
    pub fn may_read(&mut self, now: Tick) -> bool {
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
        self.read += bytes;
        self.leave = self.leave.saturating_sub(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// When something may be read again.
    #[must_use]
    pub fn next_leave(&self) -> Tick {
        let owed = u64::try_from(-self.leave).unwrap_or(0) + 1;
        self.refilled.plus(Span((owed * 1_000_000).div_ceil(self.rate).max(1000)))
    }
}

/// The rate with which a resync begins, which is no less than the floor.
fn rate_at_first(limits: ThrottleLimits) -> u64 {
    RATE_AT_FIRST.max(limits.rate_min)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: ThrottleLimits =
        ThrottleLimits { write_latency: Span::from_millis(20), rate_min: 10 << 20 };

    /// A second of writes, each answered after `latency`, of a resync that reads as much as it may, 64 KiB at a time
    /// but `capacity` bytes at most. Returns what it read.
    fn second(throttle: &mut Throttle, now: &mut Tick, latency: Option<Span>, capacity: u64) -> u64 {
        let mut read = 0;
        for millisecond in 1..=1000 {
            *now = now.plus(Span::from_millis(1));
            if throttle.slow_since(*now).is_some() {
                throttle.end_window(0, *now);
            }
            latency.into_iter().for_each(|latency| throttle.on_write(latency));
            while throttle.may_read(*now) && read < capacity / 1000 * millisecond {
                throttle.on_read(64 << 10);
                read += 64 << 10;
            }
        }
        read
    }

    /// Seconds of the same; what the last one read.
    fn seconds(throttle: &mut Throttle, now: &mut Tick, count: u64, latency: Option<Span>) -> u64 {
        (0..count).map(|_| second(throttle, now, latency, 1 << 40)).last().expect("some")
    }

    #[test]
    fn clients_that_wait_too_long_slow_a_resync_down_to_the_floor_and_no_further() {
        let (mut throttle, mut now) = (Throttle::new(LIMITS, Tick(0)), Tick(0));
        let read = seconds(&mut throttle, &mut now, 10, Some(Span::from_millis(50)));
        assert_eq!(throttle.rate, LIMITS.rate_min);
        assert!(read.abs_diff(LIMITS.rate_min) < 1 << 20, "{read}");
        // They are content: it grows again, step by step.
        seconds(&mut throttle, &mut now, 10, Some(Span::from_millis(2)));
        assert!(throttle.rate > 5 * LIMITS.rate_min, "{}", throttle.rate);
        // Nobody writes: there is no limit, and a second later as much is on its way as may be.
        seconds(&mut throttle, &mut now, 2, None);
        assert_eq!(throttle.rate(), None);
        seconds(&mut throttle, &mut now, 1, None);
        assert_eq!(throttle.in_flight_bytes_max(now), IN_FLIGHT_BYTES_MAX);
    }

    #[test]
    fn no_more_is_on_its_way_than_a_slow_link_carries_in_a_moment() {
        let (mut throttle, mut now) = (Throttle::new(LIMITS, Tick(0)), Tick(0));
        assert_eq!(throttle.in_flight_bytes_max(now), 16 << 20);
        for _ in 0..3 {
            second(&mut throttle, &mut now, None, 200 << 20);
        }
        assert!(throttle.in_flight_bytes_max(now).abs_diff(25 << 20) < 1 << 20);
        for _ in 0..20 {
            second(&mut throttle, &mut now, Some(Span::from_millis(30)), 200 << 20);
        }
        assert_eq!(throttle.in_flight_bytes_max(now), 8 << 20, "they share the disks");
    }

    #[test]
    fn a_resync_that_nobody_minds_need_not_wait_a_second_until_a_fast_disk_is_busy() {
        let (mut throttle, mut now) = (Throttle::new(LIMITS, Tick(0)), Tick(0));
        seconds(&mut throttle, &mut now, 2, None);
        now = now.plus(WINDOW.times(10));
        throttle.end_window(0, now);
        throttle.end_window(0, now);
        // A link of any speed gets that much at once.
        throttle.on_read(IN_FLIGHT_BYTES_MAX);
        assert_eq!(throttle.in_flight_bytes_max(now.plus(Span::from_millis(60))), 16 << 20);
        throttle.on_read(150 << 20);
        assert_eq!(throttle.in_flight_bytes_max(now.plus(Span::from_millis(200))), IN_FLIGHT_BYTES_MAX);
    }

    #[test]
    fn whoever_begins_to_write_does_not_wait_for_a_second_until_a_resync_at_full_speed_makes_way() {
        let (mut throttle, mut now) = (Throttle::new(LIMITS, Tick(0)), Tick(0));
        seconds(&mut throttle, &mut now, 3, None);
        throttle.on_write(Span::from_millis(60));
        assert!(throttle.may_read(now.plus(Span::from_millis(1))), "it goes on");
        assert_eq!((throttle.rate(), throttle.in_flight_bytes_max(now)), (Some(RATE_AT_FIRST), 8 << 20));
        assert!(throttle.leave <= 7 << 20, "what was saved up at full speed is gone");
    }

    #[test]
    fn a_floor_above_the_rate_of_the_beginning_is_a_floor_from_the_beginning() {
        let limits = ThrottleLimits { rate_min: 100 << 20, ..LIMITS };
        let (mut throttle, mut now) = (Throttle::new(limits, Tick(0)), Tick(0));
        assert_eq!(throttle.rate, limits.rate_min);
        seconds(&mut throttle, &mut now, 3, None);
        throttle.on_write(Span::from_millis(60));
        assert_eq!(throttle.rate, limits.rate_min);
    }

    #[test]
    fn a_resync_that_begins_beside_contented_clients_begins_slowly() {
        let (mut throttle, mut now) = (Throttle::new(LIMITS, Tick(0)), Tick(0));
        for _ in 0..60 {
            second(&mut throttle, &mut now, Some(Span::from_millis(2)), 0);
        }
        let read = second(&mut throttle, &mut now, Some(Span::from_millis(2)), 1 << 40);
        assert!(read < 80 << 20, "{read}: nothing was copied yet that they could be content with");
    }

    #[test]
    fn a_limit_is_never_far_above_what_clients_were_content_with() {
        let (mut throttle, mut now) = (Throttle::new(LIMITS, Tick(0)), Tick(0));
        seconds(&mut throttle, &mut now, 3, None);
        for _ in 0..30 {
            second(&mut throttle, &mut now, Some(Span::from_millis(2)), 200 << 20);
        }
        assert!(throttle.rate <= 401 << 20, "{}", throttle.rate);
        assert!(throttle.in_flight_bytes_max(now) <= 26 << 20, "the disk has no more to do at a time");
    }

    #[test]
    fn a_rate_at_which_clients_nearly_feel_it_does_not_grow() {
        let (mut throttle, mut now) = (Throttle::new(LIMITS, Tick(0)), Tick(0));
        seconds(&mut throttle, &mut now, 10, Some(Span::from_millis(16)));
        assert_eq!(throttle.rate, RATE_AT_FIRST);
        seconds(&mut throttle, &mut now, 10, Some(Span::from_millis(14)));
        assert!(throttle.rate > 2 * RATE_AT_FIRST, "{}", throttle.rate);
    }

    #[test]
    fn what_clients_felt_long_ago_does_not_slow_a_resync() {
        let mut throttle = Throttle::new(LIMITS, Tick(0));
        throttle.on_write(Span::from_millis(500));
        throttle.end_window(0, Tick(60_000_000));
        assert_eq!(throttle.rate, RATE_MAX);
    }

    #[test]
    fn writes_that_are_never_answered_are_not_taken_for_silence() {
        let mut throttle = Throttle::new(LIMITS, Tick(0));
        throttle.end_window(0, Tick(1_000_000));
        assert_eq!(throttle.slow_since(Tick(1_500_000)), None, "the window is not over");
        assert_eq!(throttle.slow_since(Tick(2_000_000)), Some(Tick(1_980_000)));
        throttle.end_window(1, Tick(2_000_000));
        assert_eq!(throttle.rate, LIMITS.rate_min, "nothing was read either");
    }

    #[test]
    fn the_rate_is_halved_from_what_was_really_copied() {
        let (mut throttle, mut now) = (Throttle::new(LIMITS, Tick(0)), Tick(0));
        for _ in 0..3 {
            second(&mut throttle, &mut now, None, 400 << 20);
        }
        assert_eq!(throttle.rate, RATE_MAX);
        for _ in 0..2 {
            second(&mut throttle, &mut now, Some(Span::from_millis(30)), 400 << 20);
        }
        assert!(
            throttle.rate <= 200 << 20,
            "{}: a halved limit that nothing reaches helps nobody",
            throttle.rate
        );
    }

    #[test]
    fn one_write_in_a_hundred_may_be_slow_and_no_more() {
        let slowed = |fast: u64, slow: u64| {
            let mut throttle = Throttle::new(LIMITS, Tick(0));
            (0..fast).for_each(|_| throttle.on_write(LIMITS.write_latency));
            (0..slow).for_each(|_| throttle.on_write(LIMITS.write_latency.plus(Span(1))));
            throttle.end_window(0, Tick(1_000_000));
            throttle.rate < RATE_AT_FIRST
        };
        assert!(!slowed(99, 1) && slowed(98, 2));
        assert!(!slowed(9900, 100) && slowed(9899, 101));
        assert!(slowed(20, 1), "of so few, one is more than one in a hundred");
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
