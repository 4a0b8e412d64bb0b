//! Orders of operators and cluster managers, from the question to the answer.

use crate::effect::{Answer, Effect, Effects};
use crate::event::{ConnectedClients, Order, OrderId};
use crate::notice::Notice;
use crate::peer::message::{FarewellReason, Message};
use crate::promotion::refusal::{RefusalCode, Refused};
use crate::state::{DiskState, Role};
use crate::superblock_keeper::Revision;
use crate::units::{NodeId, Span, Tick};

use super::Replica;
use super::links::{Peer, Replication};

/// How long a demotion or a stop waits for writes in flight.
const DRAIN_PATIENCE: Span = Span::from_millis(30_000);
/// How long a stop may take: a demotion, then a flush of everything. Whoever asked waits a little longer than this.
const STOP_PATIENCE: Span = Span::from_millis(50_000);

/// A demotion in progress.
#[derive(Debug)]
pub(super) struct Demotion {
    order: Option<OrderId>,
    is_forced: bool,
    /// How many clients it has disconnected.
    dropped_clients: usize,
    deadline: Tick,
    stage: DemotionStage,
}

impl Demotion {
    pub(super) fn order(&self) -> Option<OrderId> {
        self.order
    }

    /// What it has cost, to be said behind the role.
    pub(super) fn cost(&self) -> String {
        if self.dropped_clients == 0 {
            return String::new();
        }
        format!(
            "; clients disconnected: {}, what they had in flight fails with ESHUTDOWN",
            self.dropped_clients
        )
    }
}

#[derive(Debug)]
enum DemotionStage {
    /// Writes in flight are being completed and flushed.
    Draining,
    /// The record without a Primary is on its way to disk.
    Recording(Revision),
}

/// Somebody who waits for a state.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wait {
    order: OrderId,
    deadline: Tick,
    condition: Condition,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Condition {
    Connected,
    InSync,
    Stopped(Option<Revision>),
    /// That this copy is outdated is on disk.
    Outdated(Revision),
}

impl Replica {
    pub(super) fn on_order(&mut self, order: OrderId, what: Order, effects: &mut Effects) {
        match what {
            Order::Promote { wait, warrant } => self.on_promote(order, wait, warrant, effects),
            Order::WeighForce => self.on_weigh_force(order, effects),
            Order::AcceptNewVoter { voter, is_rehearsal } => {
                self.on_accept_new_voter(order, voter, is_rehearsal, effects);
            }
            Order::Outdate => self.on_outdate(order, effects),
            Order::Demote { clients } => self.on_demote(order, clients, effects),
            Order::Connect { peer } => self.on_connect(order, peer, effects),
            Order::Foresee { peer } => self.on_foresee(order, peer, effects),
            Order::Disconnect { peer } => self.on_disconnect(order, peer, effects),
            Order::WaitConnect { wait } => self.wait_for(order, wait, Condition::Connected),
            Order::WaitSync { wait } => self.wait_for(order, wait, Condition::InSync),
            Order::PauseResync { is_paused } => self.on_pause_resync(order, is_paused, effects),
            Order::ResolveSplitBrain { peer, giving } => {
                self.on_resolve_split_brain(order, peer, giving, effects);
            }
            Order::ServeAsWas { is_wanted } => self.on_serve_as_was(order, is_wanted, effects),
            Order::Explain => self.on_explain(order, effects),
            Order::Stop => self.on_stop(order, effects),
        }
    }

    pub(super) fn wait_for(&mut self, order: OrderId, wait: Span, condition: Condition) {
        self.waits.push(Wait { order, deadline: self.now.plus(wait), condition });
    }

    fn on_demote(&mut self, order: OrderId, clients: ConnectedClients, effects: &mut Effects) {
        let refuse = |name, reason: String, cure: &str| {
            Answer::Refused(Refused { code: RefusalCode::StateChange, name, reason, cure: cure.to_owned() })
        };
        let is_forced = clients == ConnectedClients::Disconnect;
        if self.role != Role::Primary {
            let text = format!("{} is Secondary already", self.config.resource);
            self.answer(order, Answer::Done { text }, effects);
        } else if self.demotion.is_some() {
            self.answer(
                order,
                refuse("demoting", "a demotion is in progress".to_owned(), "wait for it"),
                effects,
            );
        } else if self.clients > 0 && !is_forced {
            let reason = format!("clients are connected: {}", self.clients);
            self.answer(
                order,
                refuse(
                    "in-use",
                    reason,
                    "disconnect them, or demote with --force: what they have in flight fails",
                ),
                effects,
            );
        } else if let (Some((reason, _)), false) = (self.frozen(), is_forced) {
            let cure = "wait for the end of the freeze, or demote with --force: what is in flight fails";
            self.answer(order, refuse("frozen", format!("all I/O waits: {reason}"), cure), effects);
        } else {
            self.begin_demotion(Some(order), is_forced, effects);
        }
    }

    /// Whether the last record of the reign is on its way to disk: nothing may follow it.
    pub(super) fn is_ending(&self) -> bool {
        let stage = self.demotion.as_ref().map(|demotion| &demotion.stage);
        matches!(stage, Some(DemotionStage::Recording(_)))
    }

    pub(super) fn begin_demotion(&mut self, order: Option<OrderId>, is_forced: bool, effects: &mut Effects) {
        let dropped_clients = if is_forced { self.clients } else { 0 };
        if is_forced {
            effects.push(Effect::DropClients);
            self.writes.forget();
            self.reads.forget();
        }
        let deadline = self.now.plus(DRAIN_PATIENCE);
        self.demotion =
            Some(Demotion { order, is_forced, dropped_clients, deadline, stage: DemotionStage::Draining });
    }

    pub(super) fn advance_demotion(&mut self, effects: &mut Effects) {
        let Some(demotion) = &self.demotion else { return };
        match demotion.stage {
            DemotionStage::Draining => self.drain(effects),
            DemotionStage::Recording(revision) => {
                if self.superblock.is_durable(revision) || self.disk_fault.is_some() {
                    self.finish_demotion(effects);
                }
            }
        }
    }

    fn drain(&mut self, effects: &mut Effects) {
        let Some(demotion) = &self.demotion else { return };
        let (is_forced, is_late) = (demotion.is_forced, self.now >= demotion.deadline);
        self.journal.want_flush(self.journal.accepted());
        let is_drained =
            self.writes.is_empty() && self.stable == self.assigned() && self.lineage_is_durable();
        let gives_up_waiting = is_forced && (self.frozen().is_some() || is_late);
        if is_drained || gives_up_waiting {
            let revision = self.store_record(self.record().ended());
            self.superblock.change(|content| content.flags.ended_as_primary = false);
            if let Some(demotion) = &mut self.demotion {
                demotion.stage = DemotionStage::Recording(revision);
            }
        } else if is_late {
            let order = self.demotion.take().and_then(|demotion| demotion.order);
            if let Some(order) = order {
                let refused = Refused {
                    code: RefusalCode::StateChange,
                    name: "busy",
                    reason: format!("writes in flight did not finish within {DRAIN_PATIENCE}"),
                    cure: "see `twinblk status` for what they wait for, or demote with --force".to_owned(),
                };
                self.answer(order, Answer::Refused(refused), effects);
            }
        }
    }

    fn finish_demotion(&mut self, effects: &mut Effects) {
        // Also to voters that missed the whole reign.
        let last = Message::RecordPassedOn(Box::new(*self.record()));
        self.send_to_voters(&last, effects);
        self.end_reign(effects);
    }

    pub(super) fn chosen(&self, peer: Option<NodeId>) -> Vec<NodeId> {
        match peer {
            Some(node) => vec![node],
            None => self.config.peers().collect(),
        }
    }

    fn on_connect(&mut self, order: OrderId, peer: Option<NodeId>, effects: &mut Effects) {
        for node in self.chosen(peer) {
            let peer = self.peer_mut(node);
            peer.wanted = true;
            if peer.link.is_none() {
                peer.trouble = None;
            }
            effects.push(Effect::SetDialing { peer: node, wanted: true });
            let is_stopped =
                self.peer(node).link.as_ref().is_some_and(|link| {
                    link.is_tentative || matches!(link.replication, Replication::Stopped)
                });
            if is_stopped {
                self.drop_link(node, "an operator asked for a new verdict", effects);
            }
        }
        self.answer(order, Answer::Done { text: "connecting".to_owned() }, effects);
    }

    fn on_pause_resync(&mut self, order: OrderId, is_paused: bool, effects: &mut Effects) {
        self.is_resync_paused = is_paused;
        let (name, text) = match is_paused {
            true => {
                ("resync-paused", "no blocks are copied from or to this node until `twinblk resume-resync`")
            }
            false => {
                ("resync-resumed", "resyncs from and to this node go on, unless the peer has paused them")
            }
        };
        effects.push(Effect::Notify(Notice::info(name, text.to_owned())));
        self.answer(order, Answer::Done { text: text.to_owned() }, effects);
    }

    fn on_stop(&mut self, order: OrderId, effects: &mut Effects) {
        if self.is_stopping {
            // It is answered with the first one, or that was.
            match self.waits.iter().find(|wait| matches!(wait.condition, Condition::Stopped(_))) {
                Some(first) => self.waits.push(Wait { order, ..*first }),
                None => self.answer(order, Answer::Done { text: "stopped".to_owned() }, effects),
            }
            return;
        }
        self.is_stopping = true;
        effects.push(Effect::Notify(Notice::info("stopping", "the daemon stops".to_owned())));
        if let Some(candidacy) = self.candidacy.take() {
            self.abandon_candidacy(candidacy, effects);
        }
        if self.role == Role::Primary && self.demotion.is_none() {
            self.begin_demotion(None, true, effects);
        }
        let deadline = self.now.plus(STOP_PATIENCE);
        self.waits.push(Wait { order, deadline, condition: Condition::Stopped(None) });
    }

    /// The last thing that a daemon writes: that it ended cleanly, with everything flushed.
    pub(super) fn advance_stop(&mut self, effects: &mut Effects) {
        if !self.is_stopping || self.role == Role::Primary || !self.is_started() {
            return;
        }
        let is_recording =
            self.waits.iter().any(|wait| matches!(wait.condition, Condition::Stopped(Some(_))));
        if is_recording {
            return;
        }
        self.leave_primary(effects);
        if !self.may_say_goodbye() {
            return;
        }
        let nodes: Vec<NodeId> = self.peers.iter().map(|peer| peer.node).collect();
        for node in nodes {
            self.say_goodbye(node, FarewellReason::Stopping, effects);
            self.drop_link(node, "this daemon stops", effects);
        }
        self.journal.want_flush(self.journal.accepted());
        if self.disk_fault.is_none() && self.journal.is_clean() {
            self.remember_peers();
            let revision = self.superblock.change(|content| content.flags.stopped_cleanly = true);
            for wait in &mut self.waits {
                if wait.condition == Condition::Stopped(None) {
                    wait.condition = Condition::Stopped(Some(revision));
                }
            }
        }
    }

    pub(super) fn answer_waits(&mut self, effects: &mut Effects) {
        let waits = std::mem::take(&mut self.waits);
        for wait in waits {
            if self.is_met(wait.condition) {
                let text = match wait.condition {
                    Condition::Connected => "all peers are connected",
                    Condition::InSync => "all replicas are UpToDate",
                    Condition::Stopped(_) => "stopped",
                    Condition::Outdated(_) => "the local disk is Outdated",
                };
                self.answer(wait.order, Answer::Done { text: text.to_owned() }, effects);
            } else if self.now >= wait.deadline && !matches!(wait.condition, Condition::Stopped(Some(_))) {
                if wait.condition == Condition::Stopped(None) {
                    self.is_stopping = false; // Nothing was said to be clean: it can be asked again.
                }
                let refused = Refused {
                    code: RefusalCode::TimedOut,
                    name: "timed-out",
                    reason: self.missing(wait.condition),
                    cure: "see `twinblk status`".to_owned(),
                };
                self.answer(wait.order, Answer::Refused(refused), effects);
            } else {
                self.waits.push(wait);
            }
        }
    }

    fn is_met(&self, condition: Condition) -> bool {
        let mut replicas = self.peers.iter().filter(|peer| peer.is_replica());
        match condition {
            Condition::Connected => replicas.all(|peer| peer.link.is_some() && !peer.is_tentative()),
            Condition::InSync => {
                let is_mirrored = self.peers.iter().any(|peer| self.is_mirrored_by(peer));
                (self.disk == DiskState::UpToDate || is_mirrored)
                    && replicas.all(|peer| self.follows_along(peer))
            }
            Condition::Stopped(revision) => {
                self.disk_fault.is_some()
                    || revision.is_some_and(|revision| self.superblock.is_durable(revision))
            }
            Condition::Outdated(revision) => self.superblock.is_durable(revision),
        }
    }

    /// Whether a replica has all that its protocol promises: on A and B its disk is never called UpToDate.
    fn follows_along(&self, peer: &Peer) -> bool {
        let has_all = self.peer_disk(peer) == DiskState::UpToDate || !self.can_be_in_sync(peer);
        self.is_established(peer) && has_all
    }

    fn missing(&self, condition: Condition) -> String {
        let missing: Vec<&str> = self
            .peers
            .iter()
            .filter(|peer| peer.is_replica())
            .filter(|peer| match condition {
                Condition::Connected => peer.link.is_none(),
                Condition::InSync => !self.follows_along(peer),
                Condition::Stopped(_) | Condition::Outdated(_) => false,
            })
            .map(|peer| self.name_of(peer.node))
            .collect();
        match condition {
            Condition::Connected => format!("not connected: {}", missing.join(", ")),
            Condition::InSync if missing.is_empty() => format!("the local disk is {}", self.disk),
            Condition::InSync => format!("not UpToDate: {}", missing.join(", ")),
            Condition::Stopped(_) => "the journal could not be flushed in time".to_owned(),
            Condition::Outdated(_) => "the superblock could not be written in time".to_owned(),
        }
    }

    pub(super) fn order_deadline(&self) -> Option<Tick> {
        // The last superblock of a daemon has the disk's time limit instead.
        let is_limited = |wait: &&Wait| !matches!(wait.condition, Condition::Stopped(Some(_)));
        let waits = self.waits.iter().filter(is_limited).map(|wait| wait.deadline).min();
        let demotion = self.demotion.as_ref().map(|demotion| demotion.deadline);
        [waits, demotion, self.candidacy_deadline(), self.foresight_deadline()].into_iter().flatten().min()
    }
}
