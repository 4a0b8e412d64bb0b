//! Listens to a candidate's events: since when does it wait for the lease of a dead Primary?

use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

use super::site::{RESOURCE, Side};
use crate::cli::args::Places;
use crate::cli::client::{ANSWER_TIMEOUT, Client};
use crate::control_protocol::{Command, EventLine};

/// The name of the notice with which a candidate says what it waits for.
const WAITS: &str = "promotion-waits";
/// What that is, in the words of the voters.
const LEASE: &str = "the lease of the last Primary";

/// Somebody who listens to a candidate.
#[derive(Debug)]
pub struct LeaseWatch {
    since: Receiver<Instant>,
}

impl LeaseWatch {
    /// Begins to listen to a candidate, before the order to promote is given.
    ///
    /// # Errors
    /// The daemon does not let anybody listen.
    pub fn begin(places: &Places, candidate: Side) -> anyhow::Result<Self> {
        let mut client = Client::connect(places, RESOURCE)?;
        client.ask(Command::Events { now: false }, Some(ANSWER_TIMEOUT))?;
        let (tell, since) = channel();
        // It ends at the first such notice, or with the daemon.
        std::thread::Builder::new().name("lease".to_owned()).spawn(move || {
            while let Ok(Some(event)) = client.next_event() {
                if waits_for_lease(&event, candidate.other()) {
                    // Nobody may want to know any more.
                    let _ = tell.send(Instant::now());
                    return;
                }
            }
        })?;
        Ok(Self { since })
    }

    /// Since when the candidate waits for the lease, if it has said so.
    pub fn since(&self) -> Option<Instant> {
        self.since.try_recv().ok()
    }
}

/// A voter that has not missed the dead Primary yet says that it lives; what is waited for is its lease all the same.
fn waits_for_lease(event: &EventLine, dead: Side) -> bool {
    let EventLine::Notice { name, text, .. } = event else { return false };
    name == WAITS && (text.contains(LEASE) || *text == format!("{} is Primary", dead.name()))
}

#[cfg(test)]
mod tests {
    use replicator::peer::message::Denial;
    use replicator::units::Span;

    use super::*;

    #[test]
    fn only_the_lease_is_taken_for_the_lease() {
        let notice = |text: String| EventLine::Notice { severity: "info".into(), name: WAITS.into(), text };
        let is_lease = |text: &str| waits_for_lease(&notice(text.to_owned()), Side::A);
        assert!(is_lease(&Denial::Lease { remaining: Span::from_millis(5) }.to_string()));
        assert!(is_lease("a is Primary"));
        assert!(!is_lease("b is Primary"));
        assert!(!is_lease("2 of 3 votes are needed; no answer from tiebreaker"));
    }
}
