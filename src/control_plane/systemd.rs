//! Tells the service manager how the daemon fares. Without one (no `NOTIFY_SOCKET`) nothing happens.
//!
//! Rule: a failed notification is logged once and never stops the daemon; the watchdog is fed only by somebody who
//! has just seen the data plane answer.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use sd_notify::NotifyState;

/// The service manager.
#[derive(Debug, Default)]
pub struct ServiceManager {
    status: RefCell<String>,
    has_failed: Cell<bool>,
}

impl ServiceManager {
    /// Everything listens.
    pub fn ready(&self) {
        self.send(&NotifyState::Ready);
    }

    /// The end has begun.
    pub fn stopping(&self) {
        self.send(&NotifyState::Stopping);
    }

    /// The data plane is alive.
    pub fn feed_watchdog(&self) {
        self.send(&NotifyState::Watchdog);
    }

    /// One line for `systemctl status`; sent only if it differs from the last one.
    pub fn status(&self, line: &str) {
        if *self.status.borrow() != line {
            line.clone_into(&mut self.status.borrow_mut());
            self.send(&NotifyState::Status(line));
        }
    }

    fn send(&self, state: &NotifyState<'_>) {
        if let Err(error) = sd_notify::notify(std::slice::from_ref(state))
            && !self.has_failed.replace(true)
        {
            tracing::warn!(%error, "cannot tell the service manager");
        }
    }
}

/// How often the watchdog must be fed, if there is one: three times within its limit.
#[must_use]
pub fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|limit| limit / 3)
}
