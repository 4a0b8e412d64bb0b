//! Giving way after a split brain: this node lists what it changed alone, has it saved, tells the peer that it discards
//! it, and becomes the peer's target by the verdict that follows.
//!
//! Rule: nothing here is changed before what is to be discarded is saved, on stable storage (unless the operator does
//! not want it); and nothing is discarded but by an order, of an operator or of a policy that one wrote (I8). Until the
//! marks and the cut of the resync are durable the old branch is whole, and a restart finds it as if nothing had been
//! ordered; from then on the resync goes on by itself.

use bytes::Bytes;

use crate::effect::{Answer, Effect, Effects};
use crate::event::{LinkId, OrderId};
use crate::generation::compare::{Divergence, StopReason, SyncAction, compare, divergence};
use crate::generation::split_brain::{Discards, Side, giving_way, loser};
use crate::journal::reader::RingReader;
use crate::notice::Notice;
use crate::peer::message::PeerState;
use crate::promotion::refusal::{RefusalCode, Refused};
use crate::rescue::{Changed, Giving, RescueStep, RescueWork, Save};
use crate::state::Role;
use crate::superblock_keeper::Revision;
use crate::units::{BlockRange, NodeId};

use super::Replica;
use super::links::Replication;

/// A node that gives way.
#[derive(Debug)]
pub(super) struct Discard {
    pub(super) number: u64,
    /// Who asked; nobody if it was a policy.
    pub(super) order: Option<OrderId>,
    pub(super) peer: NodeId,
    link: LinkId,
    pub(super) giving: Giving,
    pub(super) stage: Stage,
    /// Where the histories part, as found when the list was begun.
    pub(super) divergence: Option<Divergence>,
    pub(super) changed: Changed,
    /// The file that keeps it.
    pub(super) file: Option<String>,
    pub(super) saved_blocks: u64,
}

/// How far it has come.
#[derive(Debug)]
pub(super) enum Stage {
    /// The journal is at rest soon, and the verdict stands.
    Settling,
    /// Records after the fork are read.
    Listing { reader: Option<Box<RingReader>> },
    /// The shell looks whether what is discarded can be saved.
    Checking(RescueStep),
    /// The file is being made.
    Opening(RescueStep),
    /// Blocks are copied into it.
    Saving(Saving),
    /// It is being finished.
    Closing(RescueStep),
    /// The peer hears of it; the verdict makes it the source.
    Announced,
    /// The superblock that takes the old branch away is on its way to disk: there is no way back.
    Cutting(Revision),
}

/// Blocks on their way into the file.
#[derive(Debug)]
pub(super) enum Saving {
    /// They are being read: blocks, pieces, and how many of these are missing.
    Reading { range: BlockRange, pieces: Vec<Option<Vec<Bytes>>>, missing: usize },
    /// They are being written; what follows begins there.
    Writing { step: RescueStep, next: u64 },
}

impl Discard {
    /// Whether the old branch is about to go, so that nothing may be built on it.
    pub(super) fn is_in_earnest(&self) -> bool {
        !self.giving.is_rehearsal
    }

    /// What it is doing, for `status`.
    pub(super) fn stage_name(&self) -> &'static str {
        match self.stage {
            Stage::Settling | Stage::Listing { .. } => "listing",
            Stage::Checking(_) | Stage::Opening(_) | Stage::Saving(_) | Stage::Closing(_) => "saving",
            Stage::Announced | Stage::Cutting(_) => "announced",
        }
    }

    pub(super) fn awaits(&self, step: RescueStep) -> bool {
        match &self.stage {
            Stage::Checking(awaited) | Stage::Opening(awaited) | Stage::Closing(awaited) => *awaited == step,
            Stage::Saving(Saving::Writing { step: awaited, .. }) => *awaited == step,
            Stage::Settling
            | Stage::Listing { .. }
            | Stage::Saving(Saving::Reading { .. })
            | Stage::Announced
            | Stage::Cutting(_) => false,
        }
    }

    fn has_begun_a_file(&self) -> bool {
        match self.stage {
            Stage::Opening(_) | Stage::Saving(_) | Stage::Closing(_) => true,
            Stage::Settling
            | Stage::Listing { .. }
            | Stage::Checking(_)
            | Stage::Announced
            | Stage::Cutting(_) => false,
        }
    }
}

pub(super) fn refused(name: &'static str, reason: impl Into<String>, cure: impl Into<String>) -> Refused {
    Refused { code: RefusalCode::StateChange, name, reason: reason.into(), cure: cure.into() }
}

/// Whether an order to discard is the way out of this stop.
fn leads_out(reason: StopReason) -> bool {
    match reason {
        StopReason::SplitBrain
        | StopReason::DamagedBranch
        | StopReason::BothDiscard
        | StopReason::BlocksUnknown => true,
        StopReason::NothingDecided
        | StopReason::NoUsableDisk
        | StopReason::Unrelated
        | StopReason::SourceIsDiskless => false,
    }
}

impl Replica {
    /// Both states of a link that is StandAlone by a rule that an order to discard leads out of.
    pub(super) fn split_states(&self, node: NodeId) -> Option<(&PeerState, &PeerState)> {
        let link = self.peer(node).link.as_ref()?;
        let is_stopped = matches!(link.replication, Replication::Stopped) && !link.is_tentative;
        let (ours, theirs) = (link.introduction.sent.as_deref()?, link.introduction.received.as_deref()?);
        let stops = matches!(compare(ours, theirs).action, SyncAction::Stop(reason) if leads_out(reason));
        (is_stopped && stops && ours.configuration_digest == theirs.configuration_digest)
            .then_some((ours, theirs))
    }

    pub(super) fn on_resolve_split_brain(
        &mut self,
        order: OrderId,
        peer: Option<NodeId>,
        giving: Giving,
        effects: &mut Effects,
    ) {
        match self.may_discard(peer, giving.what) {
            Ok(node) => self.begin_discard(Some(order), node, giving),
            Err(refused) => self.answer(order, Answer::Refused(refused), effects),
        }
    }

    /// Towards whom this node may discard, on what it knows now.
    fn may_discard(&self, peer: Option<NodeId>, what: Discards) -> Result<NodeId, Refused> {
        let resource = &self.config.resource;
        if self.is_stopping {
            return Err(refused("stopping", "the daemon is stopping", "start it again"));
        }
        if self.discard.is_some() {
            let cure = format!("wait for it; `twinblk status {resource}` says how far it is");
            return Err(refused("discarding", "this node is discarding its changes already", cure));
        }
        if self.role == Role::Primary || self.candidacy.is_some() {
            let reason = "this node is Primary, and only a Secondary can discard what it wrote";
            return Err(refused("is-primary", reason, format!("`twinblk demote {resource}` first")));
        }
        if let Some(fault) = &self.disk_fault {
            let reason = format!("the local disk failed: {fault}");
            return Err(refused("disk-failed", reason, "replace the disk: everything is copied then"));
        }
        let split: Vec<NodeId> =
            self.config.peers().filter(|node| self.split_states(*node).is_some()).collect();
        let node = match (peer, &split[..]) {
            (Some(node), _) if split.contains(&node) => node,
            (None, [node]) => *node,
            (None, [_, _, ..]) => {
                let names: Vec<&str> = split.iter().map(|node| self.name_of(*node)).collect();
                let reason = format!("there is a split brain with {}", names.join(" and with "));
                return Err(refused("which-peer", reason, "say in whose favour, with --peer NAME"));
            }
            (Some(_), _) | (None, []) => {
                let reason = match peer {
                    Some(node) => {
                        format!("the link to {} is not StandAlone by a split brain", self.name_of(node))
                    }
                    None => "no link of this node is StandAlone by a split brain".to_owned(),
                };
                let cure = format!("`twinblk status {resource}` says what there is to do, if anything");
                return Err(refused("nothing-to-resolve", reason, cure));
            }
        };
        self.would_give_way(node, what).map(|()| node)
    }

    /// Whether the verdict would be that the peer brings this node up to date.
    fn would_give_way(&self, node: NodeId, what: Discards) -> Result<(), Refused> {
        let resource = &self.config.resource;
        let Some((ours, theirs)) = self.split_states(node) else { return Ok(()) };
        // A Primary that gives way steps down before.
        match giving_way(what, ours, theirs) {
            SyncAction::Target(_) => Ok(()),
            SyncAction::Stop(StopReason::BlocksUnknown) => {
                let reason = "which blocks this node changed alone is not known for certain: its disk is damaged, or \
                              one of the two went back in time";
                let cure = format!(
                    "`twinblk resolve-split-brain {resource} --discard-mine --full-resync` copies every block"
                );
                Err(refused("blocks-unknown", reason, cure))
            }
            SyncAction::Stop(StopReason::BothDiscard) => {
                let reason = format!("{} has orders to discard its writes, too", self.name_of(node));
                let cure =
                    format!("wait until that is over, or `twinblk connect {resource}` there takes it back");
                Err(refused("both-discard", reason, cure))
            }
            SyncAction::Stop(_) | SyncAction::NoSync | SyncAction::Source(_) => {
                let reason = format!("it is the disk of {} that has to give way", self.name_of(node));
                Err(refused("wrong-side", reason, "give the order there"))
            }
        }
    }

    /// Carries out what the operator wrote for this case, if that makes this node give way.
    pub(super) fn apply_split_brain_policy(&mut self, node: NodeId, effects: &mut Effects) {
        let is_free = self.discard.is_none() && self.candidacy.is_none() && !self.is_stopping;
        let Some((ours, theirs)) = self.split_states(node).filter(|_| is_free) else { return };
        let chosen = loser(&self.config.split_brain, &compare(ours, theirs), ours, theirs);
        let Some((Side::Ours, policy)) = chosen else { return };
        let Some(link) = self.peer(node).link.as_ref().filter(|link| link.policy_failed.is_none()) else {
            return;
        };
        let link = link.id;
        if let Err(refused) = self.would_give_way(node, Discards::Changes) {
            return self.note_policy_failed(node, link, &refused.reason);
        }
        let (policy, name) = (policy.name(), self.name_of(node));
        let text =
            format!("by the policy {policy} this node gives way to {name} and discards its own writes");
        effects.push(Effect::Notify(Notice::warning("split-brain-policy", text)));
        if self.role == Role::Primary && self.demotion.is_none() {
            self.begin_demotion(None, true, effects);
        }
        let giving = Giving { what: Discards::Changes, save: Save::ByDefault, is_rehearsal: false };
        self.begin_discard(None, node, giving);
    }

    /// A policy is not tried twice on one link.
    fn note_policy_failed(&mut self, node: NodeId, link: LinkId, reason: &str) {
        if let Some(link) = self.peer_mut(node).link.as_mut().filter(|current| current.id == link) {
            link.policy_failed = Some(reason.to_owned());
        }
    }

    /// Begins to give way to `node`.
    pub(super) fn begin_discard(&mut self, order: Option<OrderId>, node: NodeId, giving: Giving) {
        let Some(link) = self.peer(node).link.as_ref().map(|link| link.id) else { return };
        self.rescue_steps += 1;
        self.discard = Some(Box::new(Discard {
            number: self.rescue_steps,
            order,
            peer: node,
            link,
            giving,
            stage: Stage::Settling,
            divergence: None,
            changed: Changed::default(),
            file: None,
            saved_blocks: 0,
        }));
    }

    /// Whatever can be done for it now.
    pub(super) fn advance_discard(&mut self, effects: &mut Effects) {
        if let Some(reason) = self.discard_is_void() {
            self.give_up_discard(&reason, effects);
        }
        let Some(discard) = &self.discard else { return };
        match discard.stage {
            Stage::Settling => self.list_when_settled(effects),
            Stage::Listing { .. } => self.list_on(effects),
            Stage::Cutting(revision) if self.superblock.is_durable(revision) => self.note_discarded(effects),
            Stage::Cutting(_)
            | Stage::Checking(_)
            | Stage::Opening(_)
            | Stage::Saving(_)
            | Stage::Closing(_)
            | Stage::Announced => {}
        }
    }

    /// Why it cannot go on, if it cannot.
    fn discard_is_void(&self) -> Option<String> {
        let discard = self.discard.as_ref()?;
        if matches!(discard.stage, Stage::Cutting(_)) {
            return self.disk_fault.is_some().then(|| "the local disk failed".to_owned());
        }
        let peer = self.peer(discard.peer);
        let name = self.name_of(discard.peer);
        let link = peer.link.as_ref().filter(|link| link.id == discard.link);
        let Some(link) = link else { return Some(format!("the link to {name} was lost")) };
        let is_announced = matches!(discard.stage, Stage::Announced);
        match &link.replication {
            _ if self.disk_fault.is_some() => Some("the local disk failed".to_owned()),
            _ if self.is_stopping => Some("the daemon stops".to_owned()),
            Replication::Introducing => None,
            Replication::Target if is_announced => None,
            Replication::Stopped if !is_announced => self.split_has_changed(discard),
            Replication::Stopped => {
                Some(format!("{name} does not take it up: {}", peer.reason().unwrap_or_default()))
            }
            Replication::Idle | Replication::Source(_) | Replication::Target => {
                Some(format!("the verdict with {name} is another one by now"))
            }
        }
    }

    fn split_has_changed(&self, discard: &Discard) -> Option<String> {
        let name = self.name_of(discard.peer);
        let Some((ours, theirs)) = self.split_states(discard.peer) else {
            return Some(format!("there is no split brain with {name} any more"));
        };
        let now = divergence(ours, theirs);
        let is_same = match (now, discard.divergence) {
            (Some(now), Some(then)) => (now.common, now.fork) == (then.common, then.fork),
            (_, None) => true,
            (None, Some(_)) => false,
        };
        (!is_same).then(|| format!("the histories part from {name}'s elsewhere by now"))
    }

    pub(super) fn give_up_discard(&mut self, reason: &str, effects: &mut Effects) {
        let Some(discard) = self.discard.take() else { return };
        if discard.has_begun_a_file() {
            let step = self.next_rescue_step(discard.number);
            effects.push(Effect::Rescue { step, work: RescueWork::Drop });
        }
        if let Some(link) = &mut self.peer_mut(discard.peer).link
            && link.discards != Discards::Nothing
        {
            link.discards = Discards::Nothing;
            self.reintroduce_to(discard.peer);
        }
        let kept = match &discard.file {
            Some(file) if matches!(discard.stage, Stage::Announced | Stage::Cutting(_)) => {
                format!("; {file} stays")
            }
            Some(_) | None => String::new(),
        };
        let outcome = match discard.stage {
            Stage::Cutting(_) => "whether anything was discarded is not known",
            Stage::Settling
            | Stage::Listing { .. }
            | Stage::Checking(_)
            | Stage::Opening(_)
            | Stage::Saving(_)
            | Stage::Closing(_)
            | Stage::Announced => "nothing was discarded",
        };
        let text = format!("{outcome}: {reason}{kept}");
        effects.push(Effect::Notify(Notice::warning("discard-given-up", text.clone())));
        match discard.order {
            Some(order) => {
                let cure =
                    format!("see `twinblk status {}`, then give the order again", self.config.resource);
                self.answer(order, Answer::Refused(refused("interrupted", text, cure)), effects);
            }
            // Whatever stopped it stops it again: an operator has to look.
            None => self.note_policy_failed(discard.peer, discard.link, reason),
        }
    }

    pub(super) fn next_rescue_step(&mut self, rescue: u64) -> RescueStep {
        self.rescue_steps += 1;
        RescueStep { rescue, step: self.rescue_steps }
    }

    /// What would be lost is safe, or nobody wants it: the peer is told.
    pub(super) fn announce_discard(&mut self) {
        self.set_discard_stage(Stage::Announced);
        let Some((node, what)) = self.discard.as_ref().map(|discard| (discard.peer, discard.giving.what))
        else {
            return;
        };
        if let Some(link) = &mut self.peer_mut(node).link {
            link.discards = what;
        }
        self.reintroduce_to(node);
    }

    /// A resync from `source` is being recorded: if it is for this that the node gives way, the branch goes with it.
    pub(super) fn note_discard_under_way(&mut self, source: NodeId, revision: Revision) {
        if let Some(discard) = self.discard.as_mut().filter(|discard| discard.peer == source)
            && matches!(discard.stage, Stage::Announced)
        {
            discard.stage = Stage::Cutting(revision);
        }
    }

    /// The marks and the cut are durable: the branch is gone, and the resync goes on whatever happens.
    fn note_discarded(&mut self, effects: &mut Effects) {
        let Some(discard) = self.discard.take() else { return };
        if let Some(link) = &mut self.peer_mut(discard.peer).link {
            link.discards = Discards::Nothing;
        }
        let text = format!(
            "discarded {}{}; {} brings this node up to date",
            self.loss_text(&discard),
            saved_text(&discard, "saved in"),
            self.name_of(discard.peer)
        );
        effects.push(Effect::Notify(Notice::warning("split-brain-resolved", text.clone())));
        if let Some(order) = discard.order {
            self.answer(order, Answer::Done { text }, effects);
        }
    }

    pub(super) fn answer_rehearsal(&mut self, effects: &mut Effects) {
        let Some(discard) = self.discard.take() else { return };
        let theirs = discard.divergence.map_or(0, |divergence| divergence.their_writes);
        let text = format!(
            "would discard {}{}; {} keeps its own {theirs} writes since then",
            self.loss_text(&discard),
            saved_text(&discard, "which would be saved in"),
            self.name_of(discard.peer)
        );
        if let Some(order) = discard.order {
            self.answer(order, Answer::Done { text }, effects);
        }
    }

    fn loss_text(&self, discard: &Discard) -> String {
        let Some(Divergence { fork, our_writes, .. }) = discard.divergence else { return String::new() };
        let own = self.name_of(self.config.local);
        let summary = discard.changed.summary();
        let whole = match discard.giving.what {
            Discards::Everything => ", and copy every block anew",
            Discards::Changes | Discards::Nothing => "",
        };
        format!("{our_writes} writes of {own} after write {fork}, {summary}{whole}")
    }
}

fn saved_text(discard: &Discard, words: &str) -> String {
    match &discard.file {
        Some(file) => format!("; {words} {file}"),
        None if discard.giving.save == Save::No => "; saved nowhere".to_owned(),
        None => String::new(),
    }
}
