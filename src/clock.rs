//! This machine's clock, as leases are measured by it.

use replicator::units::Tick;
use rustix::time::{ClockId, clock_gettime};

/// This moment: counts while the machine sleeps, and never goes back.
#[must_use]
pub fn now() -> Tick {
    let time = clock_gettime(ClockId::Boottime);
    let unsigned = |part: i64| u64::try_from(part).expect("time since boot is positive");
    Tick(unsigned(time.tv_sec) * 1_000_000 + unsigned(time.tv_nsec) / 1000)
}
