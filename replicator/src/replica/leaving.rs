//! Leaving a Primary in order, where no majority keeps the record (`on-peer-lost` fence and continue): a Secondary
//! calls itself Outdated, durably, before it says goodbye. The Primary may go on without it at once then, and it
//! cannot be promoted to serve old data. Where a Primary that fences sends it away, the Primary waits for that goodbye.
//! And `outdate`, which is the same by order.

use crate::effect::{Answer, Effect, Effects};
use crate::event::{LinkId, OrderId};
use crate::layout::superblock::DurableDisk;
use crate::notice::Notice;
use crate::peer::message::{FarewellReason, Message};
use crate::promotion::refusal::{RefusalCode, Refused};
use crate::state::{DiskState, Role};
use crate::units::{NodeId, Tick};

use super::Replica;
use super::explanations;
use super::orders::Condition;

/// A link that ends in order, but not yet.
#[derive(Debug)]
pub(super) struct Parting {
    node: NodeId,
    awaited: Awaited,
}

/// What has to come first.
#[derive(Clone, Copy, Debug)]
enum Awaited {
    /// This node is Outdated on its disk: an operator here ends the link.
    OwnDisk,
    /// The same: the Primary ends this link, and waits for the goodbye.
    OwnDiskFor(LinkId),
    /// The goodbye of a Secondary that this Primary sends away. It comes, or the link is lost.
    Goodbye,
}

/// An order to call this copy Outdated, given while it followed a Primary that may be gone.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outdating {
    order: OrderId,
    since: Tick,
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
                self.partings.push(Parting { node, awaited: Awaited::OwnDisk });
            } else if self.sends_away(node) {
                // It has to be fenced unless it says that it is Outdated.
                self.send(node, &Message::Farewell { reason: FarewellReason::Disconnected }, effects);
                self.partings.push(Parting { node, awaited: Awaited::Goodbye });
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

    /// Whether this node is a Primary that would have to fence the peer if it just ended the link.
    fn sends_away(&self, node: NodeId) -> bool {
        let peer = self.peer(node);
        let is_linked = peer.link.is_some() && !peer.is_tentative();
        self.role == Role::Primary && self.fences() && peer.is_replica() && is_linked
    }

    fn is_durably_outdated(&self) -> bool {
        self.disk == DiskState::Outdated && self.superblock.content().disk == DurableDisk::Outdated
    }

    /// The last message on a link. If this copy is Outdated, and that is on disk, it says so.
    pub(super) fn say_goodbye(&mut self, node: NodeId, reason: FarewellReason, effects: &mut Effects) {
        let is_outdated = self.is_durably_outdated() && self.superblock.is_clean();
        let reason = if is_outdated { reason.outdated() } else { reason };
        self.send(node, &Message::Farewell { reason }, effects);
    }

    /// Says goodbye where nothing stands against it any more; not to whom `connect` has called back.
    pub(super) fn advance_partings(&mut self, effects: &mut Effects) {
        let (may_say_goodbye, peers) = (self.may_say_goodbye(), &self.peers);
        let is_linked = |node| peers.iter().any(|peer| peer.node == node && peer.link.is_some());
        let is_due = |parting: &mut Parting| match parting.awaited {
            Awaited::OwnDisk | Awaited::OwnDiskFor(_) => may_say_goodbye,
            Awaited::Goodbye => !is_linked(parting.node),
        };
        let due: Vec<Parting> = self.partings.extract_if(.., is_due).collect();
        for Parting { node, awaited } in due {
            match awaited {
                // This node takes nothing from that Primary any more, and is to follow it again.
                Awaited::OwnDisk if self.peer(node).wanted => self.reintroduce_to(node),
                Awaited::Goodbye if self.peer(node).wanted => {}
                Awaited::OwnDisk | Awaited::Goodbye => self.part(node, effects),
                Awaited::OwnDiskFor(link) if !self.is_linked_by(node, link) => {}
                Awaited::OwnDiskFor(_) => {
                    self.say_goodbye(node, FarewellReason::Disconnected, effects);
                    self.note_ended_by_peer(node, FarewellReason::Disconnected, effects);
                }
            }
        }
    }

    /// A peer ends the link on purpose.
    pub(super) fn on_farewell(&mut self, node: NodeId, reason: FarewellReason, effects: &mut Effects) {
        let (role, was_tentative) = (self.peer(node).role, self.peer(node).is_tentative());
        let goes_on = role == Role::Primary && reason == FarewellReason::Disconnected && !was_tentative;
        // A Primary goes on without this node, by an operator's order there.
        if goes_on && self.role != Role::Primary && !self.config.on_peer_lost.asks_a_majority() {
            self.outdate(effects);
            let link = self.peer(node).link.as_ref().map(|link| link.id);
            if let Some(link) = link.filter(|_| self.fences() && self.disk_fault.is_none()) {
                self.inbound.take_if(|inbound| inbound.from == node);
                self.partings.push(Parting { node, awaited: Awaited::OwnDiskFor(link) });
                return;
            }
        }
        self.note_ended_by_peer(node, reason, effects);
        if role == Role::Secondary && reason.is_of_an_outdated_copy() {
            self.note_farewell(node);
        }
    }

    fn note_ended_by_peer(&mut self, node: NodeId, reason: FarewellReason, effects: &mut Effects) {
        let why = explanations::farewell(reason);
        self.drop_link(node, &why.reason, effects);
        self.peer_mut(node).trouble = Some(why);
    }

    /// Whether the newest record names this node as the only one that holds everything.
    fn is_newest_alone(&self) -> bool {
        let mut members = self.record().in_sync.iter().map(|(node, _)| node);
        let is_only_member = members.next() == Some(self.config.local) && members.next().is_none();
        is_only_member && self.disk > DiskState::Outdated && !self.config.on_peer_lost.asks_a_majority()
    }

    /// The order that a fence command gives to the node that it is run against.
    pub(super) fn on_outdate(&mut self, order: OrderId, effects: &mut Effects) {
        self.outdating.push(Outdating { order, since: self.now });
        self.advance_outdating(effects);
    }

    /// Carries out, or refuses, what does not wait for a sign of life any more. A Primary that has lost this node gives
    /// that order long before this node has noticed that the link is dead.
    pub(super) fn advance_outdating(&mut self, effects: &mut Effects) {
        for outdating in std::mem::take(&mut self.outdating) {
            let followed = self.inbound.as_ref().map(|inbound| self.peer(inbound.from));
            let primary = followed.filter(|peer| peer.role == Role::Primary);
            if primary.is_some_and(|primary| !primary.has_lived_since(outdating.since)) {
                self.outdating.push(outdating);
                continue;
            }
            match self.may_outdate() {
                Ok(()) => self.outdate_by_order(outdating.order, effects),
                Err(refused) => self.answer(outdating.order, Answer::Refused(refused), effects),
            }
        }
    }

    fn outdate_by_order(&mut self, order: OrderId, effects: &mut Effects) {
        self.outdate(effects);
        effects.push(Effect::Notify(Notice::warning("outdated", "outdated by order".to_owned())));
        let revision = self.superblock.newest();
        self.wait_for(order, self.config.disk_timeout, Condition::Outdated(revision));
    }

    fn may_outdate(&self) -> Result<(), Refused> {
        let resource = &self.config.resource;
        let refuse = |code, name, reason: String, cure: String| Err(Refused { code, name, reason, cure });
        let follows = self.inbound.as_ref().map(|inbound| inbound.from);
        let follows = follows.filter(|from| self.peer(*from).role == Role::Primary);
        match (self.role, self.disk, follows) {
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
            _ if self.is_newest_alone() => refuse(
                RefusalCode::StateChange,
                "is-newest",
                "this node was the last to write, alone: no other copy holds all of that".to_owned(),
                "promote this node, or connect the others, so that they catch up".to_owned(),
            ),
            _ if self.candidacy.is_some() => refuse(
                RefusalCode::StateChange,
                "promoting",
                "a promotion is in progress".to_owned(),
                "wait for it".to_owned(),
            ),
            _ => Ok(()),
        }
    }
}
