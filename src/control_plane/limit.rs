//! Keeps what strangers can cause within bounds: log lines, and clients of the data plane as counted from here.
//! Bounds of one listener are constants of that listener.

use std::cell::Cell;
use std::time::Duration;

use tokio::time::Instant;

/// Time between two log lines of one kind.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Lets one log line pass in [`LOG_INTERVAL`] and counts the others.
#[derive(Debug, Default)]
pub struct LogLimit {
    last: Cell<Option<Instant>>,
    suppressed: Cell<u64>,
}

impl LogLimit {
    /// Whether a line may be logged now; if so, how many were not since the last one.
    pub fn permits(&self) -> Option<u64> {
        let now = Instant::now();
        if self.last.get().is_some_and(|last| now.duration_since(last) < LOG_INTERVAL) {
            self.suppressed.set(self.suppressed.get() + 1);
            return None;
        }
        self.last.set(Some(now));
        Some(self.suppressed.take())
    }
}

/// How many clients the data plane has at most, known without asking it for each one: its last count, and
/// everybody handed over since that was taken. Never less than the truth, because the data plane takes clients
/// and answers questions in the order in which it is told.
#[derive(Debug, Default)]
pub struct ClientCount {
    /// By the newest answer.
    answered: Cell<usize>,
    /// Handed over before the question that is on its way, and after the one that was answered.
    before_question: Cell<usize>,
    /// Handed over since.
    since: Cell<usize>,
}

impl ClientCount {
    /// At most so many are connected.
    pub fn at_most(&self) -> usize {
        self.answered.get() + self.before_question.get() + self.since.get()
    }

    /// One more is handed over.
    pub fn on_handed_over(&self) {
        self.since.set(self.since.get() + 1);
    }

    /// The data plane is asked, after everybody who was handed over so far.
    pub fn on_asked(&self) {
        self.before_question.set(self.before_question.get() + self.since.take());
    }

    /// It has answered.
    pub fn on_answered(&self, clients: usize) {
        self.answered.set(clients);
        self.before_question.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_handed_over_while_the_data_plane_counts_is_never_forgotten() {
        let count = ClientCount::default();
        count.on_handed_over();
        count.on_asked();
        count.on_handed_over();
        assert_eq!(count.at_most(), 2);
        count.on_answered(1);
        assert_eq!(count.at_most(), 2, "the second came after the question");
        count.on_asked();
        count.on_answered(0);
        assert_eq!(count.at_most(), 0);
    }

    #[test]
    fn the_second_line_within_the_interval_is_counted_and_not_logged() {
        let limit = LogLimit::default();
        assert_eq!(limit.permits(), Some(0));
        assert_eq!(limit.permits(), None);
        limit.last.set(Instant::now().checked_sub(LOG_INTERVAL));
        assert_eq!(limit.permits(), Some(1));
    }
}
