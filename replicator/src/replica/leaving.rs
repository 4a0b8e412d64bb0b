//! Leaving a Primary in order, where no majority keeps the record (`on-peer-lost` fence and continue): a Secondary
//! calls itself Outdated, durably, before it says goodbye. The Primary may go on without it at once then, and it
//! cannot be promoted to serve old data. And `outdate`, which is the same by order.

use crate::effect::{Answer, Effect, Effects};
use crate::event::OrderId;
use crate::layout::superblock::DurableDisk;
use crate::notice::Notice;
use crate::peer::message::{FarewellReason, Message};
use crate::promotion::refusal::{RefusalCode, Refused};
use crate::state::{DiskState, Role};
use crate::superblock_keeper::Revision;
use crate::units::NodeId;

use super::Replica;
use super::explanations;
use super::orders::Condition;

/// A peer that hears goodbye when this node is Outdated on its disk.
#[derive(Debug)]
pub(super) struct Parting {
    node: NodeId,
    revision: Revision,
}

impl Replica {
    /// The Primary that this node follows, if it has to call itself Outdated before it leaves.
    fn left_primary(&self) -> Option<NodeId> {
        let from = self.inbound.as_ref()?.from;
        let has_to = !self.config.on_peer_lost.asks_a_majority() && self.peer(from).role == Role::Primary;
        has_to.then_some(from)
    }

    /// Calls itself Outdated if it follows a Primary. What arrives from it now is not taken any more.
    pub(super) fn leave_primary(&mut self, effects: &mut Effects) {
        if self.left_primary().is_some() {
            self.inbound = None;
            self.outdate(effects);
        }
    }

    /// Whether everything that a goodbye promises is on disk.
    pub(super) fn may_say_goodbye(&self) -> bool {
        self.config.on_peer_lost.asks_a_majority() || self.disk_fault.is_some() || self.superblock.is_clean()
    }

    pub(super) fn on_disconnect(&mut self, order: OrderId, peer: Option<NodeId>, effects: &mut Effects) {
        for node in self.chosen(peer) {
            self.peer_mut(node).wanted = false;
            self.peer_mut(node).rule = None;
            effects.push(Effect::SetDialing { peer: node, wanted: false });
            if self.left_primary() == Some(node) && self.disk_fault.is_none() {
                self.leave_primary(effects);
                self.partings.push(Parting { node, revision: self.superblock.newest() });
            } else {
                self.part(node, effects);
            }
        }
        self.answer(order, Answer::Done { text: "disconnected".to_owned() }, effects);
    }

    fn part(&mut self, node: NodeId, effects: &mut Effects) {
        self.say_goodbye(node, FarewellReason::Disconnected, effects);
        self.drop_link(node, "an operator disconnected it", effects);
        self.peer_mut(node).trouble = Some(explanations::disconnected_here(&self.config.resource));
    }

    /// The last message on a link. If this copy is Outdated, and that is on disk, it says so.
    pub(super) fn say_goodbye(&mut self, node: NodeId, reason: FarewellReason, effects: &mut Effects) {
        let is_outdated = self.disk == DiskState::Outdated
            && self.superblock.content().disk == DurableDisk::Outdated
            && self.superblock.is_clean();
        let reason = if is_outdated { reason.outdated() } else { reason };
        self.send(node, &Message::Farewell { reason }, effects);
    }

    /// Says goodbye where nothing stands against it any more; not to whom `connect` has called back.
    pub(super) fn advance_partings(&mut self, effects: &mut Effects) {
        let (keeper, has_failed) = (&self.superblock, self.disk_fault.is_some());
        let is_due = |parting: &mut Parting| has_failed || keeper.is_durable(parting.revision);
        let due: Vec<Parting> = self.partings.extract_if(.., is_due).collect();
        for parting in due {
            if !self.peer(parting.node).wanted {
                self.part(parting.node, effects);
            }
        }
    }

    /// The Primary goes on without this node, by an operator's order there.
    pub(super) fn note_sent_away(&mut self, by: Role, reason: FarewellReason, effects: &mut Effects) {
        let goes_on = by == Role::Primary && reason == FarewellReason::Disconnected;
        if goes_on && self.role != Role::Primary && !self.config.on_peer_lost.asks_a_majority() {
            self.outdate(effects);
        }
    }

    /// The order that a fence command gives to the node that it is run against.
    pub(super) fn on_outdate(&mut self, order: OrderId, effects: &mut Effects) {
        let resource = self.config.resource.clone();
        let refuse =
            |code, name, reason: String, cure: String| Answer::Refused(Refused { code, name, reason, cure });
        let follows = self.inbound.as_ref().map(|inbound| inbound.from);
        let follows = follows.filter(|from| self.peer(*from).role == Role::Primary);
        let answer = match (self.role, self.disk, follows) {
            (Role::Primary, ..) => refuse(
                RefusalCode::NoUpToDateData,
                "is-primary",
                "this node is Primary".to_owned(),
                "demote it first".to_owned(),
            ),
            (_, DiskState::Diskless | DiskState::Failed | DiskState::Inconsistent, _) => refuse(
                RefusalCode::DiskUnusable,
                "disk-inconsistent",
                format!("the local disk is {}", self.disk),
                "nothing: it cannot be promoted in any case".to_owned(),
            ),
            (.., Some(primary)) => refuse(
                RefusalCode::StateChange,
                "connected",
                format!("this node is connected to {}, which is Primary", self.name_of(primary)),
                format!("`twinblk disconnect {resource}` first"),
            ),
            _ if self.candidacy.is_some() => refuse(
                RefusalCode::StateChange,
                "promoting",
                "a promotion is in progress".to_owned(),
                "wait for it".to_owned(),
            ),
            _ => {
                self.outdate(effects);
                effects.push(Effect::Notify(Notice::warning("outdated", "outdated by order".to_owned())));
                let revision = self.superblock.newest();
                self.wait_for(order, self.config.disk_timeout, Condition::Outdated(revision));
                return;
            }
        };
        self.answer(order, answer, effects);
    }
}
