//! Ctrl-C, SIGTERM and SIGHUP: whoever waits notices at once, so that no process is left behind.
//!
//! Rule: every wait of the demo is a condition with a deadline, and goes through here.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::exit::{Ended, Status};

/// How often a condition is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// What a shell says of a process that Ctrl-C ended.
const STATUS_INTERRUPTED: u8 = 130;

/// Whether somebody wants the demo to end.
#[derive(Clone, Debug, Default)]
pub struct Interruption {
    shared: Arc<(Mutex<bool>, Condvar)>,
}

impl Interruption {
    /// Begins to watch for signals.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn watch() -> anyhow::Result<Self> {
        let interruption = Self::default();
        let watched = interruption.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let signals = runtime.block_on(async {
            let interrupt = signal(SignalKind::interrupt())?;
            let terminate = signal(SignalKind::terminate())?;
            Ok::<_, std::io::Error>((interrupt, terminate, signal(SignalKind::hangup())?))
        });
        let (mut interrupt, mut terminate, mut hangup) = signals.context("cannot wait for signals")?;
        std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                    _ = hangup.recv() => {}
                }
            });
            watched.raise();
        })?;
        Ok(interruption)
    }

    fn raise(&self) {
        *self.lock() = true;
        self.shared.1.notify_all();
    }

    /// Whether it has come.
    pub fn has_come(&self) -> bool {
        *self.lock()
    }

    /// Waits this long, or until the interruption.
    ///
    /// # Errors
    /// It came.
    pub fn pause(&self, duration: Duration) -> anyhow::Result<()> {
        let deadline = Instant::now() + duration;
        let mut has_come = self.lock();
        loop {
            if *has_come {
                return Err(Ended::with(Status::Given(STATUS_INTERRUPTED), "interrupted"));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            let waited = self.shared.1.wait_timeout(has_come, left);
            has_come = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits until `is_met` says so; `what` is named if it takes longer than `within`.
    ///
    /// # Errors
    /// It took too long, the interruption came, or `is_met` failed.
    pub fn wait_until(
        &self,
        what: &str,
        within: Duration,
        mut is_met: impl FnMut() -> anyhow::Result<bool>,
    ) -> anyhow::Result<()> {
        let deadline = Instant::now() + within;
        while !is_met()? {
            if Instant::now() >= deadline {
                anyhow::bail!("{what}: not within {} s", within.as_secs());
            }
            self.pause(LOOK_EVERY)?;
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, bool> {
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interruption_ends_a_wait_at_once() {
        let interruption = Interruption::default();
        let waiting = interruption.clone();
        let waiter =
            std::thread::spawn(move || waiting.wait_until("never", Duration::from_secs(60), || Ok(false)));
        interruption.raise();
        let error = waiter.join().expect("no panic").expect_err("interrupted");
        assert_eq!(error.to_string(), "interrupted");
    }

    #[test]
    fn a_condition_that_never_holds_is_named_at_its_deadline() {
        let error = Interruption::default().wait_until("pigs fly", Duration::from_millis(1), || Ok(false));
        assert_eq!(error.expect_err("too late").to_string(), "pigs fly: not within 0 s");
    }
}
