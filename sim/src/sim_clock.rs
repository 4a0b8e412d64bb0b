//! A node's clock: the world's time with an offset of its own, starting near zero at every boot.

use replicator::units::Tick;

/// The clock of one boot.
#[derive(Clone, Copy, Debug)]
pub struct SimClock {
    booted: u64,
    offset: u64,
}

impl SimClock {
    /// A clock of a machine that boots at `now` and has run for `offset` microseconds before it is first read.
    #[must_use]
    pub fn boot(now: u64, offset: u64) -> Self {
        Self { booted: now, offset }
    }

    /// What the clock shows at world time `now`.
    #[must_use]
    pub fn read(&self, now: u64) -> Tick {
        Tick(now - self.booted + self.offset)
    }

    /// The world time at which the clock shows `tick`.
    #[must_use]
    pub fn world_time(&self, tick: Tick) -> u64 {
        tick.0.saturating_sub(self.offset).saturating_add(self.booted)
    }
}
