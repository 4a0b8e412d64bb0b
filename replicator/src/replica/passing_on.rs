//! The record of a reign is passed on: a candidate learns the newest one, and tells it to voters that missed it
//! (docs/decisions 5 and 8).

use std::collections::BTreeMap;

use crate::effect::Effects;
use crate::peer::message::{Basis, Message, VoteReply};
use crate::promotion::membership::MembershipRecord;
use crate::promotion::voting;
use crate::state::Role;
use crate::units::NodeId;

use super::Replica;
use super::candidacy::Candidacy;

impl Replica {
    /// Whether it is known that the Primary of a record began its reign: a majority had granted it, so that the
    /// record stands above everything that a majority had stored before.
    pub(super) fn has_reigned<'a>(
        &self,
        record: &MembershipRecord,
        mut replies: impl Iterator<Item = &'a VoteReply>,
    ) -> bool {
        let generations = self.superblock.content().lineage.generations();
        // A candidate votes last: that it has stored its own term says that the others made a majority with it.
        let is_own_term = record.primary == Some(self.config.local) && record == self.record();
        voting::shows_a_reign(record)
            || is_own_term
            || generations.iter().any(|generation| generation.term == record.term)
            || replies.any(|reply| reply.position.term == record.term)
    }

    /// Stores a record that a voter showed: a candidate votes for itself by the newest one that there is, even
    /// if its Primary could not tell everybody any more.
    pub(super) fn learn_record(&mut self, record: &MembershipRecord, effects: &mut Effects) {
        let may = voting::may_replace(self.record(), self.as_voter(&self.voter_list()), record).is_ok();
        let is_free =
            self.candidacy.is_some() && self.candidacy_term().is_none() && self.role != Role::Primary;
        // Only one that names this node: a set that it was to leave is for its Primary alone to bring about.
        let names_it = record.in_sync.has_node(self.config.local);
        if may && is_free && names_it {
            self.store_record(*record);
            self.judge_own_disk(effects);
        }
    }

    /// Tells the record that counts to voters that have stored an older one, once for each record: they may have been
    /// away when its Primary told it, and it cannot tell them any more. Returns whether somebody was told.
    pub(super) fn pass_on(
        &mut self,
        candidacy: &mut Candidacy,
        replies: &BTreeMap<NodeId, VoteReply>,
        effects: &mut Effects,
    ) -> bool {
        let record = candidacy.newest;
        let is_living_member = match self.basis_on(&record) {
            Basis::Member { .. } => true,
            // Whoever does not live on as a member makes sure first that no newer record is hidden.
            Basis::AllReported => replies.len() + 1 == self.config.voters(),
            Basis::First | Basis::Agreement => false,
        };
        if !is_living_member || candidacy.passed_on >= Some(record.order()) {
            return false;
        }
        let has_reigned = self.has_reigned(&record, replies.values());
        // A voter that never stored a record has promised nothing, so whatever there is is safe for it.
        let lags = |reply: &VoteReply| {
            reply.record.order() < record.order() && (has_reigned || reply.record.is_empty())
        };
        let behind: Vec<NodeId> =
            replies.iter().filter(|(_, reply)| lags(reply)).map(|(node, _)| *node).collect();
        for node in &behind {
            self.send(*node, &Message::RecordPassedOn(Box::new(record)), effects);
        }
        if !behind.is_empty() {
            candidacy.passed_on = Some(record.order());
        }
        !behind.is_empty()
    }
}
