//! The Primary's side of the voters' record: who must have a write before it is complete, proposals that
//! change that, the lease, and what all I/O waits for (semantics §3).

use std::collections::VecDeque;

use crate::effect::{Effect, Effects};
use crate::notice::Notice;
use crate::peer::message::Message;
use crate::promotion::membership::{InSyncSet, MembershipRecord, VoterList};
use crate::promotion::seats;
use crate::state::{DiskState, Role};
use crate::superblock_keeper::Revision;
use crate::units::{Incarnation, Lsn, NodeId, Span, Term, Tick, VOTERS_MAX};

use super::Replica;
use super::links::Peer;
use super::own_generation::{Absence, OwnGeneration};
use super::sending::Outbound;

/// How long completions may be held back for a peer that is entering the in-sync set.
const JOIN_PATIENCE: Span = Span::from_millis(500);
/// Time between two attempts of one peer.
const JOIN_RETRY: Span = Span::from_millis(1000);

/// A node's own reign as Primary.
#[derive(Debug)]
pub(super) struct Reign {
    /// The newest record that a majority has stored.
    recorded: MembershipRecord,
    /// Newer ones, oldest first. Until a majority has stored a newer one, each of them counts.
    proposals: VecDeque<MembershipRecord>,
    /// When this node's own copy of the newest proposal is durable.
    own_revision: Revision,
    /// The newest record of this term that each voter is known to have stored, by version.
    stored: [u64; VOTERS_MAX],
    /// On whose word the set changes.
    authority: Authority,
    /// A proposal that the others hear of when this node's own copy is durable.
    untold: Option<MembershipRecord>,
    joining: Option<Joining>,
    /// Who was let in, or tried, last.
    joined_last: Option<NodeId>,
    join_again_at: Tick,
    generation: OwnGeneration,
}

/// On whose word the set changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Authority {
    /// A majority of the voters stores it.
    Majority,
    /// This node stores it: nobody votes, or the promotion was forced and no majority has been reached since.
    ThisNode,
}

/// A peer about to enter the set: nothing beyond `cap` is completed until it has flushed up to there.
#[derive(Clone, Copy, Debug)]
struct Joining {
    node: NodeId,
    cap: Lsn,
    since: Tick,
}

/// What has become of a member of the in-sync set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It is linked as the run that is recorded, or has not said yet which it is.
    Holds,
    /// It is another run by now, which has lost nothing.
    Renewed(Incarnation),
    /// It cannot be waited for, or may have lost something.
    Lost,
}

impl Reign {
    /// A reign that a majority has just granted; `stored` says who.
    pub(super) fn new(
        recorded: MembershipRecord,
        revision: Revision,
        voters: impl Iterator<Item = NodeId>,
        authority: Authority,
    ) -> Self {
        let mut stored = [0; VOTERS_MAX];
        for voter in voters {
            stored[voter.index()] = recorded.version;
        }
        Self {
            recorded,
            proposals: VecDeque::new(),
            own_revision: revision,
            stored,
            authority,
            untold: None,
            joining: None,
            joined_last: None,
            join_again_at: Tick(0),
            generation: OwnGeneration::Current,
        }
    }

    /// The newest record, stored by a majority or not.
    pub(super) fn newest(&self) -> &MembershipRecord {
        self.proposals.back().unwrap_or(&self.recorded)
    }

    /// Whether `node` must have a write before it is complete: it is in the recorded set, or in one that
    /// was proposed since (attack: a voter may have stored a proposal whose answer never came).
    pub(super) fn requires(&self, node: NodeId) -> bool {
        self.recorded.in_sync.has_node(node)
            || self.proposals.iter().any(|record| record.in_sync.has_node(node))
    }

    /// Every set that may count: the recorded one and those that were proposed since.
    pub(super) fn sets(&self) -> impl Iterator<Item = &InSyncSet> {
        [&self.recorded].into_iter().chain(&self.proposals).map(|record| &record.in_sync)
    }

    /// The sets that may count and have this node in them, each with who it means by that.
    pub(super) fn records_with(&self, node: NodeId) -> impl Iterator<Item = &MembershipRecord> {
        let records = [&self.recorded].into_iter().chain(&self.proposals);
        records.filter(move |record| record.in_sync.has_node(node))
    }

    /// The disk that was to hold a proposal before others hear of it has failed.
    pub(super) fn forget_untold(&mut self) {
        self.untold = None;
    }

    /// The set that a majority has stored.
    pub(super) fn in_sync(&self) -> &InSyncSet {
        &self.recorded.in_sync
    }

    /// The list of voters, unless a change of it is under way.
    pub(super) fn settled_voters(&self) -> Option<&VoterList> {
        (self.recorded.voters == self.newest().voters).then_some(&self.recorded.voters)
    }

    /// How many voters have stored this record, or a newer one of the reign: those that have a seat in it.
    fn stored_by(&self, record: &MembershipRecord) -> usize {
        let seats = self.stored.iter().zip(record.voters.ids);
        seats.filter(|(stored, voter)| **stored >= record.version && !seats::is_free(*voter)).count()
    }

    /// Whether a generation is on its way to disk: until it is there, nobody hears of it.
    pub(super) fn is_recording_generation(&self) -> bool {
        matches!(self.generation, OwnGeneration::Recording(_))
    }

    /// Whether a majority of the voters has recorded the term.
    pub(super) fn is_granted(&self) -> bool {
        self.authority == Authority::Majority
    }

    /// Whether what is written next has a generation that is durable.
    pub(super) fn has_its_generation(&self) -> bool {
        matches!(self.generation, OwnGeneration::Current)
    }

    /// Whether `node` is about to enter the set.
    pub(super) fn lets_in(&self, node: NodeId) -> bool {
        self.newest().in_sync.has_node(node) || self.joining.is_some_and(|joining| joining.node == node)
    }

    /// Whether what is written next has a generation.
    pub(super) fn generation_mut(&mut self) -> &mut OwnGeneration {
        &mut self.generation
    }

    fn cap(&self) -> Option<Lsn> {
        self.joining.map(|joining| joining.cap)
    }
}

impl Replica {
    /// Whether what is written next has a generation that is durable.
    pub(super) fn generation_is_durable(&self) -> bool {
        self.reign.as_ref().is_none_or(Reign::has_its_generation)
    }

    /// Whether every generation of the lineage is on disk, so that it may be announced.
    pub(super) fn lineage_is_durable(&self) -> bool {
        !self.reign.as_ref().is_some_and(Reign::is_recording_generation)
    }

    pub(super) fn advance_reign(&mut self, effects: &mut Effects) {
        if self.reign.is_none() || self.role != Role::Primary || self.is_ending() {
            return;
        }
        self.tell_what_is_durable(effects);
        self.count_stored(effects);
        self.note_granted_at_last(effects);
        self.advance_generation(effects);
        self.outrank_targets(effects);
        self.advance_joining(effects);
        self.propose_what_is_due(effects);
        self.advance_voters(effects);
        self.note_frozen(effects);
    }

    /// Where this node decides alone, the others hear of a change when it cannot forget it any more: whoever believes
    /// that it is a member must be one by what this node starts with after a crash.
    fn tell_what_is_durable(&mut self, effects: &mut Effects) {
        let Some(reign) = &self.reign else { return };
        if let Some(record) = reign.untold
            && self.superblock.is_durable(reign.own_revision)
        {
            self.send_to_voters(&Message::RecordUpdate(Box::new(record)), effects);
            if let Some(reign) = &mut self.reign {
                reign.untold = None;
            }
        }
    }

    /// A promotion was forced, and a majority has stored its record since: from now on it decides.
    fn note_granted_at_last(&mut self, effects: &mut Effects) {
        let majority = self.config.majority();
        let Some(reign) = &mut self.reign else { return };
        let by_majority = reign.stored_by(&reign.recorded) >= majority;
        let is_over = reign.authority == Authority::ThisNode && reign.proposals.is_empty() && by_majority;
        if is_over && self.config.on_peer_lost.asks_a_majority() {
            reign.authority = Authority::Majority;
            let text = format!("a majority has recorded term {}", reign.recorded.term);
            effects.push(Effect::Notify(Notice::info("granted", text)));
        }
    }

    /// Looks whether a newer record counts by now.
    fn count_stored(&mut self, effects: &mut Effects) {
        let majority = self.config.majority();
        let asks_a_majority = self.config.on_peer_lost.asks_a_majority();
        let has_disk = self.disk_fault.is_none();
        let local = self.config.local;
        let keeper = &self.superblock;
        let Some(reign) = &mut self.reign else { return };
        if keeper.is_durable(reign.own_revision) {
            reign.stored[local.index()] = reign.newest().version;
        }
        let (stored, authority) = (reign.stored, reign.authority);
        let stored_by = |record: &MembershipRecord| reign.stored_by(record);
        let recorded = reign.recorded.in_sync;
        let is_stored = |record: &MembershipRecord| {
            let has_stored = |node: NodeId| stored[node.index()] >= record.version;
            let by_whom_it_takes = match authority {
                Authority::Majority => stored_by(record) >= majority,
                Authority::ThisNode if has_disk => has_stored(local),
                // What this node stores now it will not remember.
                Authority::ThisNode if asks_a_majority => stored_by(record) >= majority,
                Authority::ThisNode => record.in_sync.iter().all(|(node, _)| has_stored(node)),
            };
            // Whoever enters has its own copy too: a member that cannot prove after a crash that it is one would be a
            // member in name only.
            let mut members = record.in_sync.iter();
            by_whom_it_takes
                && members.all(|(node, run)| recorded.incarnation_of(node) == Some(run) || has_stored(node))
        };
        let Some(at) = reign.proposals.iter().rposition(is_stored) else { return };
        let before = reign.recorded.in_sync;
        reign.recorded = reign.proposals[at];
        reign.proposals.drain(..=at);
        let after = reign.recorded.in_sync;
        let version = reign.recorded.version;
        reign.generation = reign.generation.of_another_set(&before, &after);
        let names: Vec<&str> = after.iter().map(|(node, _)| self.config.name_of(node)).collect();
        let text =
            format!("in-sync set of term {} version {version}: {}", self.record().term, names.join(", "));
        effects.push(Effect::Notify(Notice::info("in-sync-set", text)));
    }

    /// A voter says what it has stored.
    pub(super) fn on_record_stored(
        &mut self,
        node: NodeId,
        record: &MembershipRecord,
        effects: &mut Effects,
    ) {
        if self.is_deposed_by(record.term) {
            self.step_down(node, record.term, effects);
        }
        if self.is_heard(node) {
            self.note_granted(node, record);
        }
        let term = self.record().term;
        let is_heard = self.is_heard(node);
        let Some(reign) = self.reign.as_mut().filter(|_| is_heard) else { return };
        if record.term == term {
            let stored = &mut reign.stored[node.index()];
            *stored = (*stored).max(record.version);
        }
    }

    /// Before anything is completed that a lost peer has not seen, a new generation is durable (semantics §4).
    fn advance_generation(&mut self, effects: &mut Effects) {
        let Some(reign) = &self.reign else { return };
        match reign.generation {
            OwnGeneration::Current => {}
            OwnGeneration::Recording(revision) => {
                // Without a disk it is the members who record it, before its first write.
                if (self.superblock.is_durable(revision) || self.disk_fault.is_some())
                    && let Some(reign) = &mut self.reign
                {
                    reign.generation = OwnGeneration::Current;
                }
            }
            OwnGeneration::Due(_) => {
                let is_due = self.writes.has_unfinished_writes() || self.complete < self.assigned();
                if is_due && !self.awaits_return() {
                    self.begin_generation(effects);
                }
            }
        }
    }

    fn begin_generation(&mut self, effects: &mut Effects) {
        // I5: everything before the generation is flushed first.
        self.journal.want_flush(self.journal.accepted());
        if self.disk_fault.is_none() && !self.journal.is_clean() {
            return;
        }
        let is_granted = self.reign.as_ref().is_some_and(Reign::is_granted);
        let revision = self.append_generation(is_granted, effects);
        if let Some(reign) = &mut self.reign {
            reign.generation = OwnGeneration::Recording(revision);
        }
    }

    /// Lets a peer into the set: completions pause until it has flushed what is complete, then it is proposed.
    fn advance_joining(&mut self, effects: &mut Effects) {
        let (now, complete, stable) = (self.now, self.complete, self.stable);
        let may_change = self.disk_fault.is_none() || self.may_leave_the_set();
        let Some(reign) = self.reign.as_ref().filter(|_| may_change) else { return };
        if let Some(joining) = reign.joining {
            let flushed = self.peer(joining.node).outbound().map(|outbound| outbound.progress().flushed);
            let is_there = flushed.is_some_and(|flushed| flushed >= joining.cap.max(stable));
            if is_there {
                let incarnation = self.peer_incarnation(joining.node);
                let in_sync = self.without_own_disk(self.reign_newest_in_sync());
                self.propose(in_sync.with(joining.node, incarnation), effects);
            }
            let is_over = is_there || flushed.is_none() || now >= joining.since.plus(JOIN_PATIENCE);
            if is_over && let Some(reign) = &mut self.reign {
                reign.joining = None;
                reign.join_again_at = now.plus(JOIN_RETRY);
            }
            return;
        }
        let is_awaited = reign.generation.absence().is_some_and(Absence::is_awaited);
        if now < reign.join_again_at && self.writes.has_unfinished_writes() && !is_awaited {
            return;
        }
        let assigned = self.assigned();
        let is_near = |outbound: &Outbound| {
            let is_close = outbound.next() > assigned && outbound.unreceived_bytes() < (1 << 20);
            outbound.is_started() && outbound.resync().is_none() && is_close
        };
        let may_join = |peer: &&Peer| {
            peer.protocol.is_some_and(|protocol| protocol.can_be_in_sync())
                && peer.disk != DiskState::Inconsistent
                && peer.outbound().is_some_and(is_near)
                && (!reign.requires(peer.node) || (self.disk_fault.is_some() && self.is_lost(peer)))
                && self.is_holder(reign.newest(), peer)
        };
        // Those behind the one that was tried last come first: a slow one keeps nobody out.
        let candidates = self.peers.iter().filter(may_join).map(|peer| peer.node);
        if let Some(node) = candidates.min_by_key(|node| (Some(*node) <= reign.joined_last, *node))
            && let Some(reign) = &mut self.reign
        {
            reign.joining = Some(Joining { node, cap: complete, since: now });
            reign.joined_last = Some(node);
        }
    }

    fn peer_incarnation(&self, node: NodeId) -> Incarnation {
        self.peer(node).introduced().expect("a target has introduced itself").incarnation
    }

    fn reign_newest_in_sync(&self) -> InSyncSet {
        self.reign.as_ref().map(|reign| reign.newest().in_sync).expect("asked during a reign")
    }

    /// Up to where a target should flush: what a client waits for, or what its entry into the set waits for.
    pub(super) fn flush_wanted_from(&self, node: NodeId) -> Option<Lsn> {
        let reign = self.reign.as_ref()?;
        let joining =
            reign.joining.filter(|joining| joining.node == node).map(|joining| joining.cap.max(self.stable));
        let staying = self.flush_wanted_of_the_rest().filter(|_| reign.requires(node));
        let clients = Some(self.writes.flush_wanted()).filter(|_| reign.requires(node));
        joining.max(clients).max(staying)
    }

    /// Proposes a set without the members that are lost, and with those that came back without a loss as who
    /// they are now.
    fn propose_what_is_due(&mut self, effects: &mut Effects) {
        let newest = self.reign_newest_in_sync();
        let local = self.config.local;
        // The set is never empty: whoever cannot be waited for stays in it if nobody else is left.
        let is_there = |(node, run)| node != local && self.standing(node, run) != Standing::Lost;
        if self.disk_fault.is_some() && !(self.may_leave_the_set() && newest.iter().any(is_there)) {
            return;
        }
        let mut in_sync = self.without_own_disk(newest);
        for (node, recorded) in newest.iter().filter(|(node, _)| *node != local) {
            match self.standing(node, recorded) {
                Standing::Holds => {}
                Standing::Renewed(incarnation) => in_sync = in_sync.with(node, incarnation),
                Standing::Lost if self.may_go_on_without(node, recorded, effects) => {
                    in_sync = in_sync.without(node);
                }
                Standing::Lost => {}
            }
        }
        if in_sync == newest {
            return;
        }
        // What is complete may be flushed on the lost member alone: it is flushed here before it goes.
        let drops_a_member = newest.iter().any(|(node, _)| !in_sync.has_node(node));
        let is_flushed = match self.disk_fault {
            None => self.journal.flushed() >= self.complete,
            Some(_) => self.have_flushed_what_is_complete(&in_sync),
        };
        if drops_a_member && !is_flushed {
            self.journal.want_flush(self.complete);
            return;
        }
        self.propose(in_sync, effects);
    }

    /// The set without this node, if its disk has failed.
    fn without_own_disk(&self, in_sync: InSyncSet) -> InSyncSet {
        if self.disk_fault.is_some() { in_sync.without(self.config.local) } else { in_sync }
    }

    /// What has become of a member. A run that cannot prove to continue the recorded one may have lost what
    /// that one acknowledged: it is not the member, however soon it is linked again.
    pub(super) fn standing(&self, node: NodeId, recorded: Incarnation) -> Standing {
        let peer = self.peer(node);
        match peer.introduced() {
            _ if !self.is_following(peer) => Standing::Lost,
            None => Standing::Holds,
            Some(state) if state.incarnation == recorded => Standing::Holds,
            Some(state) if state.continues == Some(recorded) => Standing::Renewed(state.incarnation),
            Some(_) => Standing::Lost,
        }
    }

    fn propose(&mut self, in_sync: InSyncSet, effects: &mut Effects) {
        assert!(!in_sync.is_empty(), "the in-sync set is never empty");
        let Some(reign) = &self.reign else { return };
        let record = MembershipRecord { version: reign.newest().version + 1, in_sync, ..*reign.newest() };
        self.publish(record, effects);
    }

    /// Stores a record of this reign here and sends it to every voter.
    pub(super) fn publish(&mut self, record: MembershipRecord, effects: &mut Effects) {
        let revision = self.store_record(record);
        let Some(reign) = &mut self.reign else { return };
        // Whoever gets a seat has stored nothing yet.
        let before = reign.newest().voters.ids;
        let seats = before.iter().zip(record.voters.ids).zip(&mut reign.stored);
        seats.filter(|((before, after), _)| **before != *after).for_each(|(_, stored)| *stored = 0);
        reign.proposals.push_back(record);
        reign.own_revision = revision;
        match reign.authority {
            Authority::ThisNode if self.disk_fault.is_none() => reign.untold = Some(record),
            Authority::Majority | Authority::ThisNode => {
                self.send_to_voters(&Message::RecordUpdate(Box::new(record)), effects);
            }
        }
    }

    /// A target that reigned itself in a higher term, and has given that up, takes nothing from a lower one: where no
    /// majority hands out terms, this Primary takes a higher one.
    fn outrank_targets(&mut self, effects: &mut Effects) {
        if self.config.on_peer_lost.asks_a_majority() {
            return;
        }
        let targets = self.peers.iter().filter(|peer| peer.is_target_of_us() && peer.role == Role::Secondary);
        let highest = targets.filter_map(|peer| Some(peer.introduced()?.record.term)).max();
        let Some(highest) = highest.filter(|highest| *highest > self.record().term) else { return };
        let term = Term::asked(highest.number + 1, self.random.identity());
        let Some(reign) = &mut self.reign else { return };
        reign.stored = [0; VOTERS_MAX];
        let record = MembershipRecord { term, version: 1, ..*reign.newest() };
        self.publish(record, effects);
    }

    /// Tells one voter the newest record of this reign, if there is a reign.
    pub(super) fn send_record_to(&mut self, node: NodeId, effects: &mut Effects) {
        if let Some(record) = self.reign.as_ref().map(|reign| *reign.newest()) {
            self.send(node, &Message::RecordUpdate(Box::new(record)), effects);
        }
    }

    /// Up to where every member, and every other connected replica by its protocol, has the Primary's writes.
    pub(super) fn complete_by_peers(&self) -> Lsn {
        let Some(reign) = &self.reign else { return Lsn::ZERO };
        let mut complete = reign.cap().unwrap_or(Lsn(u64::MAX)).max(self.complete);
        for peer in self.peers.iter().filter(|peer| peer.is_replica()) {
            let protocol = peer.protocol.expect("a replica has a protocol");
            let acknowledged = peer.outbound().filter(|it| it.is_started() && self.counts(peer));
            let acknowledged = acknowledged.map(Outbound::acknowledged);
            // A peer outside the set holds clients back only once it follows along, not while it catches up.
            let is_mirrored = peer.outbound().is_some_and(Outbound::is_live);
            let is_required = reign.requires(peer.node);
            let is_waited_for = is_required || (is_mirrored && !protocol.can_be_in_sync());
            // Whoever is new in the place of a member does not acknowledge for it.
            match acknowledged.filter(|_| !is_required || self.is_itself(peer)) {
                Some(acknowledged) if is_waited_for => {
                    complete = complete.min(protocol.complete_up_to(acknowledged))
                }
                None if is_required => complete = complete.min(self.complete),
                Some(_) | None => {}
            }
        }
        if reign.has_its_generation() { complete } else { complete.min(self.complete) }
    }

    /// Whether what a peer acknowledges counts: where there is no other copy, only from the run that is the member.
    fn counts(&self, peer: &Peer) -> bool {
        let is_required = self.reign.as_ref().is_some_and(|reign| reign.requires(peer.node));
        self.disk_fault.is_none() || !is_required || !self.is_lost(peer)
    }

    /// Up to where every member has flushed the Primary's writes.
    pub(super) fn stable_by_peers(&self) -> Lsn {
        let Some(reign) = &self.reign else { return Lsn::ZERO };
        let required = self.peers.iter().filter(|peer| reign.requires(peer.node));
        let counts = |peer: &Peer, flushed| if self.counts(peer) { flushed } else { None };
        let flushed = |peer: &Peer| {
            peer.outbound()
                .filter(|outbound| outbound.is_started() && self.is_itself(peer))
                .map(|outbound| outbound.progress().flushed)
        };
        required.map(|peer| counts(peer, flushed(peer)).unwrap_or(self.stable)).min().unwrap_or(Lsn(u64::MAX))
    }

    pub(super) fn reign_wakeup(&self) -> Option<Tick> {
        let joining = self
            .reign
            .as_ref()
            .and_then(|reign| reign.joining)
            .map(|joining| joining.since.plus(JOIN_PATIENCE));
        let absence = self.reign.as_ref().and_then(|reign| reign.generation.absence()?.awaited_until());
        let absence = absence.filter(|until| *until > self.now);
        let lease = self.lease_ends().filter(|ends| *ends > self.now);
        let silence = self
            .peers
            .iter()
            .filter_map(|peer| peer.link.as_ref())
            .map(|link| link.last_received.plus(self.config.peer_timeout));
        joining.into_iter().chain(absence).chain(lease).chain(silence).min()
    }

    /// Whether this node's reign ends because somebody has stored a record of this term: never where no majority decides,
    /// and not by a term that has the number of its own, which can never be granted as well. A reign by force was granted
    /// by nobody: it gives way to any term of its number that was put to the voters.
    pub(super) fn is_deposed_by(&self, term: Term) -> bool {
        let own = self.record().term;
        let overrules_force = own.is_forced() && !term.is_forced() && term.number == own.number;
        let is_above = term.number > own.number || overrules_force;
        is_above && self.reign.is_some() && self.config.on_peer_lost.asks_a_majority()
    }
}
