//! Voters that are new, or come back as somebody else: who has a seat, who is listened to meanwhile, and how a Primary
//! gives a seat to somebody new (docs/decisions 14).
//!
//! Rule: a voter counts as whom the record names, never as a number. Whoever is linked without a seat may be brought up
//! to date, and nothing that it says counts as a vote, as a report, or as a copy of the record.

use crate::effect::{Answer, Effect, Effects};
use crate::event::{LinkId, NoLink, OrderId};
use crate::notice::Notice;
use crate::peer::message::FarewellReason;
use crate::promotion::membership::{MembershipRecord, VoterList};
use crate::promotion::refusal::{RefusalCode, Refused};
use crate::promotion::seats::{self, Claimant, Seats};
use crate::state::Role;
use crate::units::{NodeId, VoterId};

use super::Replica;
use super::explanations;
use super::links::Peer;

impl Replica {
    /// The identity that has the seat of a voter, as far as this node knows; free if nobody has been met or named.
    fn seat_of(&self, node: NodeId) -> VoterId {
        seats::holder(self.record(), &self.superblock.content().pins, node)
    }

    /// Whether the voter that is linked under this number is the one that has the seat.
    pub(super) fn has_seat(&self, node: NodeId) -> bool {
        let link = self.configured_peer(node).and_then(|peer| peer.link.as_ref());
        link.is_some_and(|link| link.voter == self.seat_of(node))
    }

    /// Whether the linked peer is the very voter that a record names under its number.
    pub(super) fn is_holder(&self, record: &MembershipRecord, peer: &Peer) -> bool {
        let pins = &self.superblock.content().pins;
        peer.link.as_ref().is_some_and(|link| link.voter == seats::holder(record, pins, peer.node))
    }

    /// Whether whoever is linked is the voter that has the seat, and the member that every set means which may count: a
    /// list that nobody has stored yet makes no member of somebody new.
    pub(super) fn is_itself(&self, peer: &Peer) -> bool {
        let Some(reign) = self.reign.as_ref() else { return self.has_seat(peer.node) };
        self.has_seat(peer.node) && reign.records_with(peer.node).all(|record| self.is_holder(record, peer))
    }

    /// Members of a record in whose places others are linked.
    pub(super) fn replaced_members(&self, record: &MembershipRecord) -> impl Iterator<Item = NodeId> {
        let is_member = |peer: &&Peer| peer.link.is_some() && record.in_sync.has_node(peer.node);
        let members = self.peers.iter().filter(is_member);
        members.filter(|peer| !self.is_holder(record, peer)).map(|peer| peer.node)
    }

    /// Whether what a voter says counts. Where no majority decides, everybody's word does.
    pub(super) fn is_heard(&self, node: NodeId) -> bool {
        match self.config.on_peer_lost.asks_a_majority() {
            true => self.has_seat(node),
            false => self.configured_peer(node).is_some_and(|peer| peer.link.is_some()),
        }
    }

    /// Whether records are taken from a voter: also where its seat was emptied, and it may have got it meanwhile.
    pub(super) fn may_bring_records(&self, node: NodeId) -> bool {
        self.is_heard(node) || (!self.record().is_empty() && seats::is_free(self.seat_of(node)))
    }

    /// Whether a voter of this identity is another one than the one that has the seat.
    pub(super) fn is_stranger(&self, node: NodeId, voter: VoterId) -> bool {
        let seat = self.seat_of(node);
        !seats::is_free(seat) && seat != voter
    }

    /// Two voters cannot have one seat: whoever has it and is linked keeps it.
    pub(super) fn refuse_stranger(
        &mut self,
        node: NodeId,
        link: LinkId,
        voter: VoterId,
        effects: &mut Effects,
    ) {
        let why = explanations::second_voter(voter, self.seat_of(node));
        let text = format!("{}: {}", self.name_of(node), why.reason);
        effects.push(Effect::Notify(Notice::error("unknown-voter", text)));
        self.say_last(node, link, FarewellReason::UnknownVoter, effects);
    }

    /// Whether a voter without a seat shows that it had one: its record is one that this node's has left behind.
    pub(super) fn is_left_behind(&self, node: NodeId, shown: &MembershipRecord) -> bool {
        let link = self.peer(node).link.as_ref().filter(|link| !link.is_tentative);
        let is_stranger = link.is_some_and(|link| self.is_stranger(node, link.voter));
        is_stranger && !shown.is_empty() && shown.order() < self.record().order()
    }

    /// Ends the link of a voter whose seat somebody else has.
    pub(super) fn send_away(&mut self, node: NodeId, effects: &mut Effects) {
        let Some((link, voter)) = self.peer(node).link.as_ref().map(|link| (link.id, link.voter)) else {
            return;
        };
        let why = explanations::unknown_voter(voter, self.seat_of(node));
        let text = format!("{}: {}", self.name_of(node), why.reason);
        effects.push(Effect::Notify(Notice::error("unknown-voter", text.clone())));
        self.say_last(node, link, FarewellReason::UnknownVoter, effects);
        self.on_peer_lost(node, link, &why.reason, effects);
        self.peer_mut(node).trouble = Some(why);
    }

    /// Who votes, as this node proposes it: as the record says. Where nobody counts votes, whoever is linked is a voter.
    pub(super) fn list_to_propose(&self) -> VoterList {
        let content = self.superblock.content();
        if content.membership.is_empty() {
            return self.voter_list();
        }
        let mut list = content.membership.voters;
        list.ids[self.config.local.index()] = content.voter;
        if !self.config.on_peer_lost.asks_a_majority() {
            for peer in &self.peers {
                if let Some(link) = peer.link.as_ref().filter(|link| !link.is_tentative) {
                    list.ids[peer.node.index()] = link.voter;
                }
            }
        }
        list
    }

    /// Before the first promotion a voter that was made anew is met anew, if everybody else is there and has no record
    /// either: nobody has promised anything.
    pub(super) fn advance_pins(&mut self, effects: &mut Effects) {
        if !self.record().is_empty() {
            return;
        }
        let shows_nothing = |peer: &Peer| {
            let shown = peer.link.as_ref().and_then(|link| link.record_shown.as_ref());
            shown.is_some_and(MembershipRecord::is_empty)
        };
        let others_are_met = |node: NodeId| {
            let mut others = self.peers.iter().filter(|peer| peer.node != node);
            others.all(|peer| self.has_seat(peer.node) && shows_nothing(peer))
        };
        let strangers = self.peers.iter().filter(|peer| !peer.is_tentative() && shows_nothing(peer));
        let met = strangers
            .filter_map(|peer| Some((peer.node, peer.link.as_ref()?.voter)))
            .find(|(node, voter)| self.is_stranger(*node, *voter) && others_are_met(*node));
        if let Some((node, voter)) = met {
            self.superblock.change(|content| content.pins.ids[node.index()] = voter);
            let text =
                format!("{} is met as voter {voter}: nobody has been promoted yet", self.name_of(node));
            effects.push(Effect::Notify(Notice::info("voter-met", text)));
        }
    }

    /// The Primary empties a seat whose voter was replaced, and gives an empty one to whoever is there.
    pub(super) fn advance_voters(&mut self, effects: &mut Effects) {
        if self.disk_fault.is_some() {
            return;
        }
        let Some(reign) = &self.reign else { return };
        let Some(list) = reign.settled_voters() else { return };
        let needed = if reign.is_granted() { self.config.majority() } else { 1 };
        let (record, linked) = (*reign.newest(), self.claimants());
        let seats = Seats { list, in_sync: &record.in_sync, linked: &linked, needed };
        let Some(next) = seats.next() else { return };
        for peer in &self.peers {
            let (before, after) = (record.voters.ids[peer.node.index()], next.ids[peer.node.index()]);
            if before != after {
                let name = self.name_of(peer.node);
                let text = match seats::is_free(after) {
                    true => format!("{name}: voter {before} was replaced and votes no more"),
                    false => format!("{name} votes as {after} from now on"),
                };
                effects.push(Effect::Notify(Notice::warning("voters-changed", text)));
            }
        }
        let record = MembershipRecord { version: record.version + 1, voters: next, ..record };
        self.publish(record, effects);
    }

    fn claimants(&self) -> Vec<Claimant> {
        let claims = |peer: &Peer| {
            let link = peer.link.as_ref().filter(|link| !link.is_tentative)?;
            let is_new = link.record_shown.as_ref().is_some_and(MembershipRecord::is_empty);
            let is_accepted = self.accepted_voter == Some(link.voter);
            Some(Claimant { node: peer.node, voter: link.voter, is_new, is_accepted })
        };
        self.peers.iter().filter_map(claims).collect()
    }

    /// Why a linked voter does not count yet, for status.
    pub(super) fn waits_for_a_seat(&self, peer: &Peer) -> Option<NoLink> {
        let voter = peer.link.as_ref().filter(|link| !link.is_tentative)?.voter;
        let has_seat = voter == self.seat_of(peer.node);
        (!has_seat).then(|| explanations::new_voter(voter, &self.config.resource))
    }

    /// Whether this node is a voter that nobody has taken in yet: others have a record, and it has none.
    pub(super) fn is_new_here(&self) -> bool {
        let shown = self.peers.iter().filter_map(|peer| peer.link.as_ref()?.record_shown.as_ref());
        self.record().is_empty() && shown.into_iter().any(|record| !record.is_empty())
    }

    /// What taking this voter in at once may lose.
    ///
    /// # Errors
    /// Nobody of this identity needs the order, or this node cannot carry it out.
    fn weigh_new_voter(&self, voter: VoterId) -> Result<String, Refused> {
        let refuse = |name, reason: String, cure: &str| {
            Err(Refused { code: RefusalCode::StateChange, name, reason, cure: cure.to_owned() })
        };
        let claims = |peer: &&Peer| peer.link.as_ref().is_some_and(|link| link.voter == voter);
        let Some(peer) = self.peers.iter().find(claims) else {
            let reason = format!("no voter {voter} is linked");
            return refuse("unknown-voter", reason, "see `twinblk status` for the identity of the new voter");
        };
        let name = self.name_of(peer.node);
        if self.has_seat(peer.node) {
            let reason = format!("{name} votes as {voter} already");
            return refuse("voter-known", reason, "nothing");
        }
        if self.role != Role::Primary {
            let reason = "only a Primary changes who votes, and this node is Secondary".to_owned();
            let cure =
                "give the order on the Primary; if there is none, promote a node, by force if it has to be";
            return refuse("not-primary", reason, cure);
        }
        if self.disk_fault.is_some() {
            return refuse("disk-failed", "the local disk failed".to_owned(), "promote another node");
        }
        let silent: Vec<&str> = self
            .peers
            .iter()
            .filter(|other| other.node != peer.node && !self.has_seat(other.node))
            .map(|other| self.name_of(other.node))
            .collect();
        let before = self.seat_of(peer.node);
        let others = match silent.is_empty() {
            true => String::new(),
            false => format!(" together with {}", silent.join(" and ")),
        };
        Ok(format!(
            "{name} votes as {voter} instead of {before} without being asked what {before} had recorded: if that one{others} \
             has made another node Primary, what was written there is lost, or a split brain follows"
        ))
    }

    pub(super) fn on_accept_new_voter(
        &mut self,
        order: OrderId,
        voter: VoterId,
        is_rehearsal: bool,
        effects: &mut Effects,
    ) {
        let answer = match self.weigh_new_voter(voter) {
            Err(refused) => Answer::Refused(refused),
            Ok(text) => {
                if !is_rehearsal {
                    self.accepted_voter = Some(voter);
                    effects.push(Effect::Notify(Notice::error("voter-accepted", text.clone())));
                }
                Answer::Done { text }
            }
        };
        self.answer(order, answer, effects);
    }
}
