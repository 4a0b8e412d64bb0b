//! How a reign ends: a higher term is met, the node resigns, clients are let go.

use crate::effect::{Answer, Effect, Effects};
use crate::notice::Notice;
use crate::peer::message::Message;
use crate::state::{DiskState, Role};
use crate::units::{NodeId, Term};

use super::Replica;

impl Replica {
    /// A higher term exists: this node is no longer Primary. Clients hear ESHUTDOWN from it and nothing else.
    pub(super) fn step_down(&mut self, told_by: NodeId, term: Term, effects: &mut Effects) {
        let text = format!(
            "{} has stored term {term}; this node steps down from term {}",
            self.name_of(told_by),
            self.record().term
        );
        effects.push(Effect::Notify(Notice::error("stepped-down", text)));
        self.resign(effects);
        self.end_reign(effects);
    }

    /// Tells the voters that this node will not serve in the term that its record names it for, so that nobody
    /// waits for its lease while it lives on as Secondary.
    pub(super) fn resign(&mut self, effects: &mut Effects) {
        let record = *self.record();
        let local = self.config.local;
        // Only for this run: what an earlier one proposed may never have been recorded, and this one may not
        // hold what that one did.
        let is_own =
            record.primary == Some(local) && record.in_sync.incarnation_of(local) == Some(self.incarnation);
        if !is_own {
            return;
        }
        // Whatever its own disk still takes: another run never goes on with this reign.
        let record = record.ended();
        self.store_record(record);
        // Whoever never granted this term does not store its end either: it may never have been granted.
        self.send_to_voters(&Message::RecordUpdate(Box::new(record)), effects);
    }

    /// Primary no more. What clients had in flight is forgotten; its records stay in the journal's end.
    pub(super) fn end_reign(&mut self, effects: &mut Effects) {
        effects.push(Effect::DropClients);
        self.writes.forget();
        self.reads.forget();
        self.reign = None;
        self.diskless = None;
        self.frozen_since = None;
        if let Some(demotion) = self.demotion.take()
            && let Some(order) = demotion.order()
        {
            let text = format!("{} is Secondary{}", self.config.resource, demotion.cost());
            self.answer(order, Answer::Done { text }, effects);
        }
        self.set_role(Role::Secondary, effects);
        if self.disk == DiskState::UpToDate {
            self.set_disk(DiskState::Consistent, effects);
        }
        self.reintroduce();
    }
}
