//! A node's clock: the world's time with an offset of its own, starting near zero at every boot, and running a little
//! fast or slow.

use replicator::units::Tick;

const MILLION: u64 = 1_000_000;

/// The clock of one boot.
#[derive(Clone, Copy, Debug)]
pub struct SimClock {
    booted: u64,
    offset: u64,
    /// Its microseconds in a million of the world's.
    rate: u64,
}

impl SimClock {
    /// A clock of a machine that boots at `now` and has run for `offset` microseconds before it is first read.
    #[must_use]
    pub fn boot(now: u64, offset: u64) -> Self {
        Self { booted: now, offset, rate: MILLION }
    }

    /// The same at another rate: microseconds in a million of the world's.
    #[must_use]
    pub fn at_rate(self, rate: u64) -> Self {
        Self { rate, ..self }
    }

    /// The same clock after its machine has booted again.
    #[must_use]
    pub fn reboot(self, now: u64, offset: u64) -> Self {
        Self { booted: now, offset, ..self }
    }

    /// What the clock shows at world time `now`.
    #[must_use]
    pub fn read(&self, now: u64) -> Tick {
        Tick((now - self.booted) * self.rate / MILLION + self.offset)
    }

    /// The first world time at which the clock shows `tick` or later.
    #[must_use]
    pub fn world_time(&self, tick: Tick) -> u64 {
        let shown = tick.0.saturating_sub(self.offset).min(u64::MAX / MILLION / 2);
        (shown * MILLION).div_ceil(self.rate).saturating_add(self.booted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_shows_what_it_was_waited_for_and_never_goes_back() {
        for rate in [950_000, 1_000_000, 1_050_000] {
            let clock = SimClock::boot(77, 1000).at_rate(rate);
            for tick in (1000..2000).map(Tick) {
                assert!(clock.read(clock.world_time(tick)) >= tick);
                assert!(clock.read(tick.0 + 1) >= clock.read(tick.0));
            }
        }
    }
}
