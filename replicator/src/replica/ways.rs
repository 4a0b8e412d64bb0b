//! What leads on from where two nodes stand, and what each way loses, for `twinblk explain`. One row for each case; an
//! action is something that this version can do.

use crate::explain_report::{AloneReport, WayReport};
use crate::generation::compare::{Course, StopReason, SyncAction, SyncMethod};
use crate::units::{Lsn, bytes_u64};

use super::Replica;
use super::explain::Encounter;
use super::explanations;
use super::links::{Peer, Replication};

/// What the ways are judged by.
pub(super) struct Outlook<'a> {
    pub(super) resource: &'a str,
    pub(super) this_node: &'a str,
    pub(super) peer: &'a str,
    /// Both have the same writes up to here.
    pub(super) point: Lsn,
    pub(super) ours: &'a AloneReport,
    pub(super) theirs: Option<&'a AloneReport>,
    pub(super) encounter: Option<&'a Encounter>,
}

const NOTHING: &str = "nothing";

fn way(action: impl Into<String>, loses: impl Into<String>) -> WayReport {
    WayReport { action: action.into(), loses: loses.into() }
}

impl Replica {
    /// The ways that lead on from where this node and a peer stand.
    pub(super) fn ways(&self, peer: &Peer, outlook: &Outlook<'_>) -> Vec<WayReport> {
        let resource = outlook.resource;
        if !peer.wanted {
            let follows = match outlook.encounter {
                Some(encounter) => outlook.loss_of(&encounter.reasoning.verdict.action),
                None => "not known before the two have met; look with `--dry-run` first".to_owned(),
            };
            return vec![
                way(format!("`twinblk connect {resource} --dry-run` says what would follow."), NOTHING),
                way(format!("`twinblk connect {resource}` links the two again."), follows),
            ];
        }
        let Some(link) = &peer.link else {
            let known = peer.trouble.as_ref().and_then(|trouble| trouble.action.clone());
            let action = known.unwrap_or_else(|| {
                format!(
                    "Start {}, or mend the network between the two: they link by themselves.",
                    outlook.peer
                )
            });
            let loses = outlook.encounter.map_or_else(
                || "nothing that is known: the two have not met since this daemon started".to_owned(),
                |encounter| outlook.loss_of(&encounter.reasoning.verdict.action),
            );
            return vec![way(action, loses)];
        };
        match (&link.replication, outlook.encounter) {
            (Replication::Stopped, Some(encounter)) if encounter.is_reached => {
                outlook.ways_out(encounter.reasoning.verdict.action, peer)
            }
            // No verdict was reached: what two nodes may do that are not configured alike, none says.
            (Replication::Stopped, _) => {
                let known = peer.trouble.as_ref().and_then(|trouble| trouble.action.clone());
                known.map(|action| way(action, NOTHING)).into_iter().collect()
            }
            (Replication::Introducing, _) => {
                vec![way("None: the two are about to tell each other where they stand.", NOTHING)]
            }
            (Replication::Idle, _) => vec![way("None.", NOTHING)],
            (Replication::Source(_) | Replication::Target, encounter) => {
                let action = encounter.map(|encounter| encounter.reasoning.verdict.action);
                let loses = action.map_or(NOTHING.to_owned(), |action| outlook.loss_of(&action));
                vec![way(format!("None. `twinblk wait-sync {resource}` returns when both are alike."), loses)]
            }
        }
    }
}

impl Outlook<'_> {
    fn own_loss(&self) -> String {
        let (point, alone) = (self.point, self.ours);
        let at_most = if alone.is_exact { "" } else { "at most " };
        let ranges = bytes_u64(alone.ranges.len()) + alone.ranges_more;
        let kib = alone.bytes.unwrap_or_default() >> 10;
        format!(
            "on {}: {} after write {point}, {at_most}{kib} KiB in {}",
            self.this_node,
            writes(alone.writes),
            if ranges == 1 { "1 range".to_owned() } else { format!("{ranges} ranges") }
        )
    }

    fn peers_loss(&self) -> String {
        match self.theirs {
            Some(alone) => format!("on {}: {} after write {}", self.peer, writes(alone.writes), self.point),
            None => format!("on {}: not known here", self.peer),
        }
    }

    /// What carrying out a verdict takes back.
    fn loss_of(&self, action: &SyncAction) -> String {
        match action {
            SyncAction::NoSync => NOTHING.to_owned(),
            SyncAction::Stop(_) => "nothing by itself: there would be no replication".to_owned(),
            SyncAction::Source(course) => {
                self.cut(*course, self.peers_loss(), self.theirs.map(|alone| alone.writes))
            }
            SyncAction::Target(course) => self.cut(*course, self.own_loss(), Some(self.ours.writes)),
        }
    }

    /// What a target gives up: what it holds beyond the point from which it is brought up to date.
    fn cut(&self, course: Course, loss: String, writes: Option<u64>) -> String {
        match (course.method, writes) {
            (SyncMethod::FullResyncWentBack, _) => format!("{loss}, and whatever else differs there"),
            (_, Some(0)) => NOTHING.to_owned(),
            (SyncMethod::CatchUp, _) => format!("{loss}: none of them was ever completed"),
            (SyncMethod::BitmapResync | SyncMethod::FullResync, _) => {
                format!("{loss}: they are replaced by what the other has")
            }
        }
    }

    /// Where replication has stopped by a verdict.
    fn ways_out(&self, action: SyncAction, peer: &Peer) -> Vec<WayReport> {
        let resource = self.resource;
        let known = peer.trouble.as_ref().and_then(|trouble| trouble.action.clone()).unwrap_or_default();
        let reason = match action {
            SyncAction::Stop(reason) => reason,
            // The verdict has a direction, but the target has no disk.
            SyncAction::NoSync | SyncAction::Source(_) | SyncAction::Target(_) => {
                return vec![way(known, "what only the failed disk held")];
            }
        };
        let discard = format!("`twinblk resolve-split-brain {resource} --discard-mine`");
        let give_up = |loser: &str, winner: &str, and: &str| {
            format!(
                "Believe {winner}. On {loser} {discard}{and}, with --dry-run first. It must be Secondary, and saves what \
                 it discards unless told otherwise."
            )
        };
        let mine = |and: &str| way(give_up(self.this_node, self.peer, and), self.own_loss());
        let theirs = |and: &str| way(give_up(self.peer, self.this_node, and), self.peers_loss());
        match reason {
            StopReason::SplitBrain => vec![mine(""), theirs("")],
            StopReason::BlocksUnknown => vec![mine(" --full-resync"), theirs(" --full-resync")],
            StopReason::BothDiscard => {
                vec![way(
                    format!("`twinblk connect {resource}` on the node to believe takes its order back."),
                    NOTHING,
                )]
            }
            StopReason::DamagedBranch => {
                let is_theirs = self.encounter.is_some_and(Encounter::is_peer_damaged);
                let older = if is_theirs { theirs(" --full-resync") } else { mine(" --full-resync") };
                vec![way("Repair the damaged disk.", NOTHING), older]
            }
            StopReason::NoUsableDisk => {
                vec![way(known, "what was written since that backup")]
            }
            StopReason::Unrelated => {
                vec![way(known, NOTHING), way(explanations::START_OVER, "one of the two volumes, whole")]
            }
            StopReason::SourceIsDiskless => {
                vec![way(known, "what the Primary has completed and no copy that can be reached holds")]
            }
            StopReason::NothingDecided => {
                vec![way(
                    known,
                    format!("nothing that went through {resource}: neither volume was ever written"),
                )]
            }
        }
    }
}

fn writes(count: u64) -> String {
    if count == 1 { "1 write".to_owned() } else { format!("{count} writes") }
}
