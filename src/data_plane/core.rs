//! What the event loop needs of a replica. The one implementation is [`Replica`]; tests put a volume in memory in
//! its place, to drive the plane without peers and promotions.

use replicator::effect::Effects;
use replicator::event::Event;
use replicator::replica::{ContinuityMark, Replica};
use replicator::status_report::StatusReport;
use replicator::units::Tick;

/// Decides. Facts go in by `handle`; [`Event::TimePassed`] ends a round.
pub trait Core {
    /// Takes in a fact, and orders what follows from it.
    fn handle(&mut self, now: Tick, event: Event, effects: &mut Effects);
    /// When something becomes due by time alone.
    fn next_wakeup(&self) -> Option<Tick>;
    /// What must be published before the effects of a round are carried out.
    fn continuity_mark(&self) -> ContinuityMark;
    /// A snapshot for operators.
    fn status(&self, now: Tick) -> StatusReport;
}

impl Core for Replica {
    fn handle(&mut self, now: Tick, event: Event, effects: &mut Effects) {
        Self::handle(self, now, event, effects);
    }

    fn next_wakeup(&self) -> Option<Tick> {
        Self::next_wakeup(self)
    }

    fn continuity_mark(&self) -> ContinuityMark {
        Self::continuity_mark(self)
    }

    fn status(&self, now: Tick) -> StatusReport {
        Self::status(self, now)
    }
}
