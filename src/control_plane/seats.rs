//! Seats for connections that have proved nothing yet: bounded in number, and nobody keeps one for ever.
//!
//! Rule: while every seat is taken, the connection that has held one the longest gives way to a newcomer, but not
//! before its grace is over. So half-open connections, however many, keep nobody out, and a flood of them cannot
//! push out somebody who speaks at once. What is said during the conversation is none of its business.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

/// Time in which nobody has to give way: several round trips, also on a slow network.
pub const GRACE: Duration = Duration::from_millis(250);

/// The seats of one listener. Dropping them ends every conversation under way.
#[derive(Debug)]
pub struct Seats {
    count: usize,
    grace: Duration,
    conversations: JoinSet<()>,
    /// Since when each seat is taken, the oldest first.
    taken: VecDeque<(Instant, AbortHandle)>,
}

impl Seats {
    /// So many seats, all free.
    #[must_use]
    pub fn new(count: usize, grace: Duration) -> Self {
        assert!(count > 0, "without a seat nobody gets in");
        Self { count, grace, conversations: JoinSet::new(), taken: VecDeque::new() }
    }

    /// Waits for a free seat; true if somebody had to give way. May be dropped.
    pub async fn vacate(&mut self) -> bool {
        let mut has_evicted = false;
        while self.conversations.try_join_next().is_some() {}
        while self.conversations.len() >= self.count {
            self.taken.retain(|(_, conversation)| !conversation.is_finished());
            let oldest_may_stay_until = self.taken.front().map(|(since, _)| *since + self.grace);
            tokio::select! {
                biased;
                _ = self.conversations.join_next() => {}
                () = until(oldest_may_stay_until) => {
                    if let Some((_, conversation)) = self.taken.pop_front() {
                        conversation.abort();
                        has_evicted = true;
                    }
                    // Its connection is closed when the task has ended, and only then is the seat free.
                    let _ = self.conversations.join_next().await;
                }
            }
        }
        has_evicted
    }

    /// Seats a newcomer. There must be a free seat.
    pub fn take(&mut self, conversation: impl Future<Output = ()> + 'static) {
        assert!(self.conversations.len() < self.count, "every one of {} seats is taken", self.count);
        self.taken.retain(|(_, conversation)| !conversation.is_finished());
        let handle = self.conversations.spawn_local(conversation);
        self.taken.push_back((Instant::now(), handle));
    }
}

/// Waits until then; for ever if there is no such time.
async fn until(then: Option<Instant>) {
    match then {
        Some(then) => tokio::time::sleep_until(then).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use super::*;

    /// Counts itself while it lives, and never ends.
    async fn stay(present: Rc<Cell<usize>>) {
        struct Guest(Rc<Cell<usize>>);
        impl Drop for Guest {
            fn drop(&mut self) {
                self.0.set(self.0.get() - 1);
            }
        }
        present.set(present.get() + 1);
        let _guest = Guest(present);
        std::future::pending().await
    }

    #[test]
    fn never_more_than_the_seats_are_taken_however_many_come() {
        tokio_uring::start(async {
            let present = Rc::new(Cell::new(0));
            let mut seats = Seats::new(3, Duration::ZERO);
            for newcomer in 0..20 {
                let has_evicted = seats.vacate().await;
                assert_eq!(has_evicted, newcomer >= 3, "newcomer {newcomer}");
                assert!(present.get() < 3, "the one who gave way is gone");
                seats.take(stay(Rc::clone(&present)));
                tokio::task::yield_now().await;
            }
            drop(seats);
            tokio::task::yield_now().await;
            assert_eq!(present.get(), 0, "all end with the seats");
        });
    }

    #[test]
    fn nobody_gives_way_before_the_grace_is_over_and_a_seat_that_becomes_free_is_taken_at_once() {
        tokio_uring::start(async {
            let mut seats = Seats::new(1, Duration::from_secs(3600));
            let (leave, left) = tokio::sync::oneshot::channel::<()>();
            seats.take(async move { drop(left.await) });
            let waited = tokio::time::timeout(Duration::from_millis(20), seats.vacate()).await;
            assert!(waited.is_err(), "it may stay");
            leave.send(()).expect("it stays");
            assert!(!seats.vacate().await, "nobody had to give way");
        });
    }
}
