//! The answer to `twinblk explain`: for each peer both sides, the verdict with its reasons and the ways that lead on;
//! whether a promotion would work; who voted what. Only puts into words what other parts have decided.

use crate::explain_report::{
    AloneReport, ExplainReport, GenerationReport, PeerExplanation, PromotionExplanation, RecordReport,
    RefutedReport, SideReport, VerdictReport, VoteReport, VoterExplanation,
};
use crate::generation::compare::{Course, StopReason, SyncAction, SyncMethod};
use crate::generation::lineage::Lineage;
use crate::generation::why::{Reasoning, reasoning};
use crate::peer::message::{PeerState, VoteStage};
use crate::promotion::membership::MembershipRecord;
use crate::state::{DiskState, Role};
use crate::units::{Lsn, NodeId, Tick};

use super::Replica;
use super::inquiry::Alone;
use super::links::{Link, Peer, Replication, Voted};
use super::ways::Outlook;

/// Two states and what follows from them.
pub(super) struct Encounter {
    /// What the peer said of itself, and what it has told since.
    pub(super) theirs: PeerState,
    told: Tick,
    /// The verdict and its reasons.
    pub(super) reasoning: Reasoning,
    /// Where the two stand now: up to where they have the same.
    now: Reasoning,
    point: Lsn,
    /// Whether the verdict was reached on just these; else it is what would follow now.
    pub(super) is_reached: bool,
}

impl Encounter {
    /// Whether it is the peer whose disk holds no usable copy.
    pub(super) fn is_peer_damaged(&self) -> bool {
        self.theirs.disk <= DiskState::Inconsistent
    }
}

impl Replica {
    /// Everything that an operator may want to know about why things are as they are.
    pub(super) fn explanation(&self, sides: &[Alone], trouble: Option<&str>) -> ExplainReport {
        let local = self.config.local;
        let explained = |side: &Alone| self.peer_explanation(self.peer(side.node), side, trouble);
        let voters = std::iter::once(local).chain(self.config.other_voters());
        ExplainReport {
            schema: 1,
            name: self.config.resource.clone(),
            running: true,
            node_name: self.name_of(local).to_owned(),
            role: self.role.to_string(),
            disk_state: self.disk.to_string(),
            peers: sides.iter().map(explained).collect(),
            promotion: self.promotion_explanation(),
            voters: voters.map(|node| self.voter_explanation(node)).collect(),
        }
    }

    fn peer_explanation(&self, peer: &Peer, side: &Alone, trouble: Option<&str>) -> PeerExplanation {
        let encounter = self.encounter(peer);
        let ours = self.state_for(peer.node, 1);
        let theirs = encounter.as_ref().map(|encounter| &encounter.theirs);
        let point = side.after;
        let alone = side.report(self.assigned(), trouble);
        let their_alone = theirs.map(|theirs| self.alone_there(peer, theirs, point));
        let names = (self.name_of(self.config.local), self.name_of(peer.node));
        let outlook = Outlook {
            resource: &self.config.resource,
            this_node: names.0,
            peer: names.1,
            point,
            ours: &alone,
            theirs: their_alone.as_ref(),
            encounter: encounter.as_ref(),
        };
        let told = encounter.as_ref().map(|encounter| self.now.since(encounter.told).as_millis());
        PeerExplanation {
            name: names.1.to_owned(),
            connection_state: super::status::connection_state(peer).to_string(),
            replication_state: self.replication_state(peer).to_string(),
            reason: peer.reason().map(str::to_owned),
            ways: self.ways(peer, &outlook),
            told_ms_ago: told,
            common: encounter
                .as_ref()
                .and_then(|encounter| encounter.reasoning.common)
                .map(|id| id.to_string()),
            fork: encounter.as_ref().and_then(|encounter| encounter.now.fork).map(|fork| fork.0),
            common_point: point.0,
            verdict: encounter.as_ref().map(|encounter| verdict_report(encounter, names)),
            ours: side_report(names.0, &ours, theirs.map(|theirs| &theirs.lineage), alone),
            theirs: theirs
                .zip(their_alone)
                .map(|(theirs, alone)| side_report(names.1, theirs, Some(&ours.lineage), alone)),
        }
    }

    /// What the peer has that this node lacks, by what it said of itself.
    fn alone_there(&self, peer: &Peer, theirs: &PeerState, point: Lsn) -> AloneReport {
        let name = self.name_of(peer.node);
        let marks = match theirs.has_dirty_bits {
            true => format!("; {name} has also marked blocks in which this node may differ"),
            false => String::new(),
        };
        AloneReport {
            writes: theirs.end.since(point),
            note: format!("by the state that it sent; `twinblk explain` on {name} knows the blocks{marks}"),
            ..AloneReport::default()
        }
    }

    /// The two states that count between this node and a peer; none if they have not met in this run.
    pub(super) fn encounter(&self, peer: &Peer) -> Option<Encounter> {
        let is_settled = |link: &Link| !matches!(link.replication, Replication::Introducing);
        let is_reached = peer.link.as_ref().is_some_and(is_settled) && peer.rule.is_some();
        let said = peer.introduced().or(peer.met.as_ref().map(|met| &*met.theirs))?;
        let ours = self.state_for(peer.node, 1);
        let theirs = self.as_it_was_heard_last(peer, said);
        let now = reasoning(&ours, &theirs);
        Some(Encounter {
            told: peer.last_heard.unwrap_or(self.now),
            point: now.common_point(&ours, &theirs),
            reasoning: match &peer.met {
                Some(met) if is_reached => reasoning(&met.ours, &met.theirs),
                Some(_) | None => now.clone(),
            },
            now,
            theirs,
            is_reached,
        })
    }

    /// A peer that shipped records to this node, or took them from it, has told more than it said of itself.
    fn as_it_was_heard_last(&self, peer: &Peer, said: &PeerState) -> PeerState {
        let mut state = said.clone();
        if peer.link.is_some() {
            (state.role, state.disk) = (peer.role, self.peer_disk(peer));
        }
        let own = &self.superblock.content().lineage;
        let end = match peer.last_action() {
            Some(SyncAction::Source(_)) => peer.acknowledged,
            Some(SyncAction::Target(_)) => self.assigned(),
            Some(SyncAction::NoSync | SyncAction::Stop(_)) | None => return state,
        };
        if end < said.end || own.find(said.lineage.newest_id()).is_none() {
            return state;
        }
        // Of a generation without a record it may not have heard before the link was lost.
        let heard = if peer.link.is_some() { end.next() } else { end };
        let known = own.generations().iter().take_while(|entry| entry.first_lsn <= heard);
        state.lineage = Lineage::parse(known.copied().collect()).expect("a prefix of a lineage is one");
        (state.end, state.flushed) = (end, peer.flushed.max(said.flushed));
        state
    }

    /// Up to where both have the same writes, as far as their states tell.
    pub(super) fn common_point_with(&self, peer: &Peer) -> Lsn {
        self.encounter(peer).map_or(peer.flushed, |encounter| encounter.point)
    }

    fn promotion_explanation(&self) -> PromotionExplanation {
        let can = self.can_promote();
        let refused = if self.role == Role::Primary { None } else { self.may_try_promotion().err() };
        let rule = match &refused {
            _ if can.yes || self.role == Role::Primary => None,
            Some(refused) => Some(refused.name),
            None if !self.has_quorum() => Some("no-quorum"),
            None => Some("not-in-sync"),
        };
        PromotionExplanation {
            yes: can.yes,
            rule: rule.map(str::to_owned),
            because: can.because,
            cure: refused.map(|refused| refused.cure),
            force_loses: self.force_loses(),
        }
    }

    /// What a promotion against the rules would lose, as far as this node can know.
    fn force_loses(&self) -> String {
        if self.role == Role::Primary {
            return "nothing: it is Primary already".to_owned();
        }
        if self.disk <= DiskState::Inconsistent {
            return format!("everything: the local disk is {}", self.disk);
        }
        format!(
            "{}; the last write that is known to be complete everywhere is {}",
            self.loss_by_force(),
            self.stable
        )
    }

    fn voter_explanation(&self, node: NodeId) -> VoterExplanation {
        let name = self.name_of(node).to_owned();
        if node == self.config.local {
            let record = Some(self.record_report(self.record()));
            let link = "this node".to_owned();
            return VoterExplanation { name, link, heard_ms_ago: None, record, voted: None, was_voted: None };
        }
        let peer = self.peer(node);
        let shown = peer.link.as_ref().and_then(|link| link.record_shown.as_ref());
        VoterExplanation {
            name,
            link: match (&peer.link, self.waits_for_a_seat(peer)) {
                (None, _) => "not linked",
                (Some(_), None) => "linked",
                (Some(_), Some(_)) => "linked, new, without a vote yet",
            }
            .to_owned(),
            heard_ms_ago: peer.last_heard.map(|heard| self.now.since(heard).as_millis()),
            record: shown.map(|record| self.record_report(record)),
            voted: peer.voted.as_ref().map(|voted| self.vote_report(voted)),
            was_voted: peer.was_voted.as_ref().map(|voted| self.vote_report(voted)),
        }
    }

    fn record_report(&self, record: &MembershipRecord) -> RecordReport {
        let shown = self.peers.iter().filter_map(|peer| peer.link.as_ref()?.record_shown.as_ref());
        let newest = shown.chain([self.record()]).map(MembershipRecord::order).max();
        RecordReport {
            term: record.term.number,
            version: record.version,
            primary: record.primary.map(|node| self.name_of(node).to_owned()),
            in_sync: record.in_sync.iter().map(|(node, _)| self.name_of(node).to_owned()).collect(),
            is_newest: Some(record.order()) >= newest,
        }
    }

    fn vote_report(&self, voted: &Voted) -> VoteReport {
        VoteReport {
            ms_ago: self.now.since(voted.at).as_millis(),
            stage: match voted.stage {
                VoteStage::Ask => "asked",
                VoteStage::Take => "vote",
            }
            .to_owned(),
            granted: voted.vote.is_ok(),
            reason: voted.vote.err().map(|denial| denial.to_string()),
        }
    }
}

fn verdict_report(encounter: &Encounter, names: (&str, &str)) -> VerdictReport {
    let Reasoning { verdict, refuted, method, .. } = &encounter.reasoning;
    let refuted = refuted.iter();
    VerdictReport {
        rule: verdict.to_string(),
        condition: verdict.rule.condition().to_owned(),
        not: refuted.map(|(rule, why)| RefutedReport { rule: rule.to_string(), why: why.clone() }).collect(),
        text: text_of(&verdict.action, names),
        because: method.clone(),
        kind: if encounter.is_reached { "reached" } else { "expected" }.to_owned(),
    }
}

/// What a verdict asks for, with the names of this node and of the peer.
pub(super) fn text_of(action: &SyncAction, (this_node, peer): (&str, &str)) -> String {
    let brought = |source: &str, target: &str, course: &Course| {
        let keeps = course.target_keeps;
        match course.method {
            SyncMethod::CatchUp => {
                format!(
                    "{target} keeps what it has up to write {keeps} and gets the records after it from {source}"
                )
            }
            SyncMethod::BitmapResync => format!(
                "{target} gets from {source} every block that either of them marked or wrote after write {keeps}; it is \
                 Inconsistent until that ends"
            ),
            SyncMethod::FullResync => {
                format!("{target} gets every block from {source}; it is Inconsistent until that ends")
            }
            SyncMethod::FullResyncWentBack => format!(
                "{target} gets every block from {source}, because one of the two disks is older than it was; it is \
                 Inconsistent until that ends"
            ),
        }
    };
    match action {
        SyncAction::NoSync => "both hold the same; nothing is sent".to_owned(),
        SyncAction::Source(course) => brought(this_node, peer, course),
        SyncAction::Target(course) => brought(peer, this_node, course),
        SyncAction::Stop(reason) => {
            let why = match reason {
                StopReason::NothingDecided => "nobody has said whose content counts",
                StopReason::NoUsableDisk => "neither has a usable copy",
                StopReason::Unrelated => "the volumes have nothing to do with each other",
                StopReason::DamagedBranch => {
                    "the damaged disk wrote on its own, and that would be lost without anybody having said so"
                }
                StopReason::BothDiscard => "both have orders to discard their own writes",
                StopReason::BlocksUnknown => {
                    "the side that is to give way does not know for certain which blocks it changed alone"
                }
                StopReason::SourceIsDiskless => {
                    "the Primary has no disk, and no longer in memory what the other side lacks"
                }
                StopReason::SplitBrain => {
                    "each has writes that the other lacks; to bring one up to date would lose some of them, and nobody \
                     has said which"
                }
            };
            format!("no replication: {why}")
        }
    }
}

fn side_report(node: &str, state: &PeerState, other: Option<&Lineage>, alone: AloneReport) -> SideReport {
    let is_shared = |id| other.is_some_and(|other| other.find(id).is_some());
    let generations = state.lineage.generations().iter();
    SideReport {
        node: node.to_owned(),
        role: state.role.to_string(),
        disk_state: state.disk.to_string(),
        end: state.end.0,
        oldest_kept: state.oldest_kept.0,
        base: state.base.1.0,
        lineage: generations
            .map(|entry| GenerationReport {
                id: entry.id.to_string(),
                term: entry.term.number,
                granted: entry.granted,
                first_lsn: entry.first_lsn.0,
                is_shared: is_shared(entry.id),
            })
            .collect(),
        alone,
    }
}
