//! The event stream: what the data plane notices goes to whoever watches, as lines that are encoded once.
//!
//! Rule: a watcher that is slow loses lines and is told how many; it delays nobody and costs no memory of its own.
//! Notices come at once. The state after them follows as a `change` line, once for all notices of a short while.

use std::sync::Arc;
use std::time::Duration;

use replicator::notice::Notice;
use tokio::sync::{Notify, broadcast};

use super::plane_link::PlaneLink;
use crate::control_protocol::{EVENT_LINES_MAX, EventLine, encode_line};

/// One encoded line.
#[derive(Clone, Debug)]
pub enum Line {
    /// Others follow.
    Event(Arc<[u8]>),
    /// The daemon ends.
    Last(Arc<[u8]>),
}

/// Notices of this long share one `change` line.
const CHANGE_DELAY: Duration = Duration::from_millis(20);
/// Time in which watchers take the last line.
const FAREWELL_LIMIT: Duration = Duration::from_millis(500);
/// Time between two looks whether they have.
const FAREWELL_INTERVAL: Duration = Duration::from_millis(5);

/// Where events come together.
#[derive(Debug)]
pub struct EventStream {
    lines: broadcast::Sender<Line>,
    changed: Notify,
}

impl Default for EventStream {
    fn default() -> Self {
        Self { lines: broadcast::channel(EVENT_LINES_MAX).0, changed: Notify::new() }
    }
}

impl EventStream {
    /// Watches from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<Line> {
        self.lines.subscribe()
    }

    /// The data plane noticed something.
    pub fn on_notice(&self, notice: &Notice) {
        self.publish(&EventLine::from(notice));
        self.changed.notify_one();
    }

    /// The daemon ends: the last line. Waits, not for long, until every watcher has taken it and left.
    pub async fn end(&self, why: &str) {
        let line = encode_line(&EventLine::Destroy { text: why.to_owned() });
        let _ = self.lines.send(Line::Last(line.into()));
        let everybody_left = async {
            while self.lines.receiver_count() > 0 {
                tokio::time::sleep(FAREWELL_INTERVAL).await;
            }
        };
        let _ = tokio::time::timeout(FAREWELL_LIMIT, everybody_left).await;
    }

    fn publish(&self, line: &EventLine) {
        if self.lines.receiver_count() > 0 {
            // It fails if nobody watches any more, which is as good.
            let _ = self.lines.send(Line::Event(encode_line(line).into()));
        }
    }

    /// Follows notices with the state that they led to, for ever. May be dropped.
    pub async fn follow_changes(&self, plane: &PlaneLink) {
        loop {
            self.changed.notified().await;
            tokio::time::sleep(CHANGE_DELAY).await;
            if self.lines.receiver_count() == 0 {
                continue;
            }
            // A data plane that does not answer is reported by the watchdog, not here.
            if let Ok(report) = plane.status().await {
                self.publish(&EventLine::change(&report));
            }
        }
    }
}
