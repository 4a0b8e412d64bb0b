//! When to dial again. Pure arithmetic; waits for nothing.

use std::time::Duration;

/// Delay after the first failure, and after a link that lasted.
const DELAY_MIN: Duration = Duration::from_millis(100);
/// Longest delay.
const DELAY_MAX: Duration = Duration::from_secs(1);
/// A link that lived for so long has lasted. Shorter ones count as failures, so that two nodes which accept and
/// then drop each other do not spin.
const LASTED: Duration = Duration::from_secs(3);

/// Doubling delays with jitter.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    next: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { next: DELAY_MIN }
    }
}

impl Backoff {
    /// An attempt failed.
    pub fn on_failure(&mut self, chance: u64) -> Duration {
        let delay = with_jitter(self.next, chance);
        self.next = (self.next * 2).min(DELAY_MAX);
        delay
    }

    /// A link that lived for `lifetime` ended.
    pub fn on_lost(&mut self, lifetime: Duration, chance: u64) -> Duration {
        if lifetime >= LASTED {
            *self = Self::default();
        }
        self.on_failure(chance)
    }
}

/// Between half of `delay` and all of it, so that nodes that fail together do not dial together.
fn with_jitter(delay: Duration, chance: u64) -> Duration {
    const STEPS: u32 = 1024;
    let step = u32::try_from(chance % u64::from(STEPS)).expect("less than 1024");
    delay / 2 + delay / 2 / STEPS * step
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_longest_and_stay_within_half() {
        let mut backoff = Backoff::default();
        let longest: Vec<_> = (0..7).map(|_| backoff.on_failure(u64::MAX).as_millis()).collect();
        assert_eq!(longest, [99, 199, 399, 799, 999, 999, 999]);
        assert_eq!(backoff.on_failure(0), DELAY_MAX / 2);
    }

    #[test]
    fn only_a_link_that_lasted_starts_over() {
        let mut backoff = Backoff::default();
        backoff.on_failure(0);
        assert_eq!(backoff.on_lost(Duration::from_millis(10), 0), DELAY_MIN);
        assert_eq!(backoff.on_lost(LASTED, 0), DELAY_MIN / 2);
    }
}
