//! Introductions: the exchange of states with another replica, the verdict that follows from it, and what
//! the verdict starts. Repeated on a living link whenever something changes that a verdict depends on.

use crate::effect::{Effect, Effects};
use crate::event::NoLink;
use crate::generation::compare::{Course, StopReason, SyncAction, SyncMethod, SyncRule, compare, divergence};
use crate::generation::lineage::Lineage;
use crate::generation::split_brain::Discards;
use crate::layout::superblock::DurableDisk;
use crate::notice::Notice;
use crate::peer::message::{Message, PeerState};
use crate::resync::expectation::TargetBefore;
use crate::state::{DiskState, Role};
use crate::units::{GenerationId, Lsn, NodeId};

use super::Replica;
use super::explanations;
use super::foresight::are_configured_alike;
use super::links::{Meeting, Replication};
use super::resync_source::ResyncSource;
use super::sending::Outbound;

impl Replica {
    /// Starts a new introduction with every linked replica: something changed that verdicts depend on.
    pub(super) fn reintroduce(&mut self) {
        for node in self.config.peers().collect::<Vec<_>>() {
            self.reintroduce_to(node);
        }
        self.inbound = None;
    }

    /// Starts a new introduction with one replica, if it is linked.
    pub(super) fn reintroduce_to(&mut self, node: NodeId) {
        if let Some(link) = &mut self.peer_mut(node).link {
            if link.introduction.sent.is_some() {
                link.introduction.number += 1;
                link.introduction.sent = None;
            }
            link.replication = Replication::Introducing;
        }
        self.inbound.take_if(|inbound| inbound.from == node);
    }

    /// Sends states that are due and reaches verdicts where both are there.
    pub(super) fn advance_introductions(&mut self, effects: &mut Effects) {
        if !self.is_started() {
            return;
        }
        let nodes: Vec<NodeId> =
            self.peers.iter().filter(|peer| peer.link.is_some()).map(|peer| peer.node).collect();
        for node in nodes {
            self.renew_introduction(node);
            self.introduce(node, effects);
            self.reach_verdict(node, effects);
        }
    }

    /// Whether this node takes records from another one than `node`.
    fn follows_another(&self, node: NodeId) -> bool {
        self.inbound.as_ref().is_some_and(|inbound| inbound.from != node)
    }

    /// Begins anew if what this node said of itself does not hold any more: a verdict that rests on it would cut, or
    /// call equal, what the node does not hold any more, or holds besides.
    fn renew_introduction(&mut self, node: NodeId) {
        let peer = self.peer(node);
        let Some(link) = peer.link.as_ref().filter(|_| peer.is_replica()) else { return };
        let Some(said) = &link.introduction.sent else { return };
        let follows_another = self.follows_another(node);
        let is_at_rest = self.role != Role::Primary && !follows_another;
        let awaits_verdict = matches!(link.replication, Replication::Introducing);
        let has_moved =
            said.end != self.flushed_end() || said.lineage.newest_id() != self.lineage_to_show().newest_id();
        if said.follows_another != follows_another || (is_at_rest && awaits_verdict && has_moved) {
            self.reintroduce_to(node);
        }
    }

    fn introduce(&mut self, node: NodeId, effects: &mut Effects) {
        let is_replica = self.peer(node).is_replica();
        let Some(link) = &self.peer(node).link else { return };
        let (number, is_sent) = (link.introduction.number, link.introduction.sent.is_some());
        if is_sent || (is_replica && !self.may_introduce()) {
            return;
        }
        // A voter that was away during this reign may have missed records.
        self.send_record_to(node, effects);
        let state = Box::new(self.state_for(node, number));
        self.send(node, &Message::State(state.clone()), effects);
        if let Some(link) = &mut self.peer_mut(node).link {
            link.introduction.sent = Some(state);
        }
    }

    /// Whether what a state says would hold: nothing that it speaks of is in motion.
    fn may_introduce(&mut self) -> bool {
        // While a demotion drains, this node still is Primary: a member that returns is what it may wait for.
        let is_changing = self.candidacy_term().is_some() || self.is_ending() || self.is_cutting();
        if is_changing {
            return false;
        }
        match self.role {
            // Nothing that it says is of its disk.
            Role::Primary if self.disk_fault.is_some() => true,
            // What is said is on the disk: a peer that hears that nothing of it is dirty may become a member by that.
            Role::Primary => self.lineage_is_durable() && self.superblock.is_clean(),
            Role::Secondary | Role::Unknown => {
                self.journal.want_flush(self.journal.accepted());
                let is_durable = self.journal.is_clean() && self.superblock.is_clean();
                self.inbound.is_some() || is_durable || self.disk_fault.is_some()
            }
        }
    }

    pub(super) fn state_for(&self, node: NodeId, introduction: u32) -> PeerState {
        let content = self.superblock.content();
        let peer = self.peer(node);
        let end = match self.role {
            Role::Primary => self.assigned(),
            Role::Secondary | Role::Unknown => self.flushed_end(),
        };
        let lineage = self.lineage_to_show();
        // Until a resync ends, nothing is known of anybody beyond where it began.
        let base = content.resync.map_or(peer.flushed, |resync| peer.flushed.min(resync.lsn));
        let base_generation = lineage.generation_of(base).map_or(GenerationId::default(), |entry| entry.id);
        PeerState {
            introduction,
            node: self.config.local,
            is_tentative: peer.is_tentative(),
            volume_bytes: content.volume_bytes,
            role: self.role,
            disk: if self.disk_fault.is_some() { self.disk.min(DiskState::Failed) } else { self.disk },
            lineage,
            end,
            flushed: self.flushed_end(),
            stable: self.stable.max(content.consistent_at).min(end),
            oldest_kept: content.resync.map_or(self.oldest_kept(), |resync| resync.lsn.next()),
            base: (base_generation, base),
            has_dirty_bits: peer.has_dirty_bits,
            resync_from: content.resync.and_then(|resync| resync.source),
            follows_another: self.follows_another(node),
            discards: peer.link.as_ref().map_or(Discards::Nothing, |link| link.discards),
            record: content.membership,
            incarnation: self.incarnation,
            continues: self.continues,
            configuration_digest: self.config.digest,
        }
    }

    /// Newest write that is flushed here, as others may count on it: during a resync what there was before it.
    pub(super) fn flushed_end(&self) -> Lsn {
        self.superblock.content().resync.map_or(self.journal.flushed(), |resync| resync.lsn)
    }

    /// The generations of this node's data; during a resync up to where it began.
    pub(super) fn lineage_to_show(&self) -> Lineage {
        let content = self.superblock.content();
        let mut lineage = content.lineage.clone();
        if let Some(resync) = content.resync {
            match resync.generation == GenerationId::default() {
                true => lineage = Lineage::default(),
                // A journal that begins anew further back knows no generation that is as new.
                false if lineage.find(resync.generation).is_none() => {}
                false => lineage.cut_after(resync.generation),
            }
        }
        lineage
    }

    pub(super) fn on_state(&mut self, node: NodeId, state: Box<PeerState>, effects: &mut Effects) {
        if state.node != node {
            let reason = format!("it calls itself {} in its state", state.node);
            self.drop_link(node, &reason, effects);
            return;
        }
        if let Some(link) = self.peer_mut(node).link.as_mut().filter(|_| state.is_tentative) {
            link.is_tentative = true;
        }
        if !self.peer(node).is_tentative() {
            self.note_resync_over(node, &state, effects);
        }
        let peer = self.peer_mut(node);
        peer.role = state.role;
        peer.disk = state.disk;
        peer.told_end = peer.told_end.max(state.end);
        let Some(link) = &mut peer.link else { return };
        if state.introduction < link.introduction.number {
            return; // Overtaken by an introduction that this node has begun.
        }
        if state.introduction > link.introduction.number {
            link.introduction.number = state.introduction;
            link.introduction.sent = None;
        }
        link.introduction.received = Some(state);
        link.replication = Replication::Introducing;
        self.end_inbound_from(node, effects);
    }

    pub(super) fn reach_verdict(&mut self, node: NodeId, effects: &mut Effects) {
        self.renew_introduction(node);
        let Some(link) = &self.peer(node).link else { return };
        if !matches!(link.replication, Replication::Introducing) {
            return;
        }
        let number = link.introduction.number;
        let is_answered =
            link.introduction.received.as_ref().is_some_and(|state| state.introduction == number);
        let has_said_marks = link.introduction.sent.as_ref().is_some_and(|state| state.has_dirty_bits);
        // A dry run proves as much, but changes nothing.
        let may_forget = is_answered && has_said_marks && !link.is_tentative;
        if may_forget && self.forget_marks_by_introduction(node) {
            return self.reintroduce_to(node);
        }
        let Some(link) = &self.peer(node).link else { return };
        let (Some(ours), Some(theirs)) = (&link.introduction.sent, &link.introduction.received) else {
            return;
        };
        // What this node is about to reign with must not be cut, nor added to, by a verdict of before.
        if theirs.introduction != number || !self.peer(node).is_replica() || self.candidacy_term().is_some() {
            return;
        }
        if link.is_tentative {
            return self.foresee(node);
        }
        if !are_configured_alike(ours, theirs) {
            self.peer_mut(node).rule = None;
            self.stop_replication(node, None, explanations::other_configuration(), effects);
            return;
        }
        if ours.follows_another || theirs.follows_another {
            return self.put_off_verdict(node);
        }
        let (ours, theirs) = (ours.clone(), theirs.clone());
        self.follow_verdict(node, ours, theirs, effects);
    }

    /// Reaches the verdict on two states, and begins what it says.
    fn follow_verdict(
        &mut self,
        node: NodeId,
        ours: Box<PeerState>,
        theirs: Box<PeerState>,
        effects: &mut Effects,
    ) {
        let verdict = compare(&ours, &theirs);
        let parted = divergence(&ours, &theirs);
        let peer_is_primary = theirs.role == Role::Primary;
        let target_before = self.target_before(node, &theirs);
        let broken = [target_is_broken(&ours), target_is_broken(&theirs)];
        let text = format!("{}: rule {verdict}, {}", self.name_of(node), action_text(&verdict.action));
        effects.push(Effect::Notify(Notice::info("verdict", text)));
        let met = Meeting { action: Some(verdict.action), ours, theirs };
        let rule = Some(verdict.rule);
        let peer = self.peer_mut(node);
        (peer.rule, peer.trouble, peer.met) = (Some(verdict), None, Some(met));
        match verdict.action {
            SyncAction::NoSync => self.start_idle(node, effects),
            SyncAction::Stop(reason) => {
                let why = explanations::stopped(reason, &self.config.resource, self.role, parted);
                self.note_split_brain(node, reason, &why, effects);
                self.stop_replication(node, rule, why, effects);
                self.apply_split_brain_policy(node, effects);
            }
            SyncAction::Source(_) if broken[1] => {
                self.stop_replication(node, rule, explanations::peers_disk_failed(), effects);
            }
            SyncAction::Target(_) if broken[0] => {
                self.stop_replication(node, rule, explanations::own_disk_failed(), effects);
            }
            SyncAction::Target(_) if self.role == Role::Primary => {
                self.stop_replication(node, rule, explanations::primary_is_no_target(), effects);
            }
            SyncAction::Source(course) => self.start_source(node, verdict.rule, course, target_before),
            SyncAction::Target(course) => {
                self.start_target_unless_a_primary_comes_first(node, course, peer_is_primary, effects)
            }
        }
    }

    /// One of the two takes records from a third node. Between Secondaries there is nothing to do meanwhile; a
    /// Primary is turned to.
    fn put_off_verdict(&mut self, node: NodeId) {
        match (self.role, self.peer(node).role) {
            (Role::Primary, _) => {} // It turns to this node, and says so.
            // One of an older reign steps down as soon as it hears of the newer, and says so: until then there is nothing
            // to do with it, and whom this node follows goes on.
            (Role::Secondary | Role::Unknown, Role::Primary) if self.is_of_an_older_reign(node) => {
                self.leave_idle(node);
            }
            (Role::Secondary | Role::Unknown, Role::Primary) => {
                // Whom this node leaves must hear of it: else it would wait for progress that never comes.
                if let Some(left) = self.inbound.as_ref().map(|inbound| inbound.from) {
                    self.reintroduce_to(left);
                }
                self.reintroduce_to(node);
            }
            (Role::Secondary | Role::Unknown, Role::Secondary | Role::Unknown) => self.leave_idle(node),
        }
    }

    fn is_of_an_older_reign(&self, node: NodeId) -> bool {
        self.peer(node).link.as_ref().is_some_and(|link| link.term < self.record().term)
    }

    fn leave_idle(&mut self, node: NodeId) {
        let peer = self.peer_mut(node);
        peer.rule = None;
        if let Some(link) = &mut peer.link {
            link.replication = Replication::Idle;
        }
    }

    /// Both hold the same, and nobody writes.
    fn start_idle(&mut self, node: NodeId, effects: &mut Effects) {
        if let Some(link) = &mut self.peer_mut(node).link {
            link.replication = Replication::Idle;
        }
        let disk = match self.disk {
            DiskState::Consistent => DiskState::UpToDate,
            DiskState::Outdated if !self.is_old_no_more() => DiskState::Outdated,
            // Equal to a copy that nobody called outdated is as good as that copy.
            DiskState::Outdated if self.peer(node).disk > DiskState::Outdated => DiskState::UpToDate,
            // Nobody linked is newer; the voters' record tells which of the two may be promoted.
            DiskState::Outdated => DiskState::Consistent,
            other @ (DiskState::Diskless
            | DiskState::Failed
            | DiskState::Inconsistent
            | DiskState::DUnknown
            | DiskState::UpToDate) => other,
        };
        self.set_disk(disk, effects);
        if disk == DiskState::UpToDate && self.superblock.content().disk == DurableDisk::Outdated {
            self.superblock.change(|content| content.disk = DurableDisk::UpToDate);
        }
    }

    /// What a peer is that may become the target of a resync from here.
    fn target_before(&self, node: NodeId, theirs: &PeerState) -> TargetBefore {
        let peer = self.peer(node);
        // A target that had more by the end of a resync, and says now that it is in the middle of one, went back in time.
        let is_resumed = theirs.resync_from == Some(self.config.local)
            && peer.has_dirty_bits
            && peer.flushed <= theirs.end;
        let is_whole = theirs.resync_from.is_none() && theirs.disk > DiskState::Inconsistent;
        let is_zeroed = theirs.lineage.newest_id() == GenerationId::ZEROED && theirs.end == Lsn::ZERO;
        match () {
            () if is_resumed => TargetBefore::Interrupted,
            () if is_zeroed && is_whole => TargetBefore::Zeroed,
            () => TargetBefore::Other,
        }
    }

    fn start_source(&mut self, node: NodeId, rule: SyncRule, course: Course, target: TargetBefore) {
        // Beside a Primary two Secondaries need nothing from one another: the target may leave it at that.
        let deadline_from = (self.role == Role::Primary).then_some(self.now);
        if let Some(link) = &mut self.peer_mut(node).link {
            let outbound = match course.method {
                SyncMethod::CatchUp => Outbound::new(course, deadline_from),
                SyncMethod::BitmapResync | SyncMethod::FullResync | SyncMethod::FullResyncWentBack => {
                    Outbound::with_resync(course, ResyncSource::new(rule, course, target))
                }
            };
            link.replication = Replication::Source(Box::new(outbound));
        }
    }

    /// A target takes records from one source at a time, and from a running Primary before all others.
    fn start_target_unless_a_primary_comes_first(
        &mut self,
        node: NodeId,
        course: Course,
        peer_is_primary: bool,
        effects: &mut Effects,
    ) {
        let another_is_primary =
            self.peers.iter().any(|peer| peer.node != node && peer.role == Role::Primary);
        if !peer_is_primary && (another_is_primary || self.inbound.is_some()) {
            if let Some(link) = &mut self.peer_mut(node).link {
                link.replication = Replication::Idle;
            }
            return;
        }
        self.start_target(node, course, effects);
    }

    /// What users of DRBD look for in the log.
    fn note_split_brain(&self, node: NodeId, reason: StopReason, why: &NoLink, effects: &mut Effects) {
        if reason == StopReason::SplitBrain {
            let text = format!("split brain with {} detected: {}", self.name_of(node), why.reason);
            effects.push(Effect::Notify(Notice::error("split-brain", text)));
        }
    }

    fn stop_replication(&mut self, node: NodeId, rule: Option<SyncRule>, why: NoLink, effects: &mut Effects) {
        let rule = rule.map_or(String::new(), |rule| format!("rule {rule}: "));
        let reason = format!("{rule}{}", why.reason);
        let text = format!("no replication with {}: {reason}", self.name_of(node));
        effects.push(Effect::Notify(Notice::error("stand-alone", text)));
        let peer = self.peer_mut(node);
        peer.trouble = Some(NoLink { reason, ..why });
        if let Some(link) = &mut peer.link {
            link.replication = Replication::Stopped;
        }
    }
}

/// Whether there is no disk that could be brought up to date.
fn target_is_broken(target: &PeerState) -> bool {
    target.disk < DiskState::Inconsistent
}

fn action_text(action: &SyncAction) -> String {
    match action {
        SyncAction::NoSync => "both hold the same".to_owned(),
        SyncAction::Source(course) => format!(
            "this node brings it up to date from write {} by {:?}",
            course.target_keeps, course.method
        ),
        SyncAction::Target(course) => format!(
            "it brings this node up to date from write {} by {:?}",
            course.target_keeps, course.method
        ),
        SyncAction::Stop(reason) => format!("no replication: {reason:?}"),
    }
}
