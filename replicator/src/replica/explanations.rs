//! What an operator is told about a link that is refused, or that replicates nothing: why, and what to do.
//!
//! Rule: a reason begins with its name where it has one, and an action is something that this version can do.

use crate::event::NoLink;
use crate::generation::compare::{Divergence, StopReason};
use crate::peer::message::FarewellReason;
use crate::state::Role;
use crate::units::VoterId;

/// What to do where only a copy of the volume would help, which this version cannot make.
pub(super) const START_OVER: &str = "This version cannot copy a volume by itself: copy it over NBD from the node that is to be believed, \
     make every voter anew, and copy it back (\"Starting over\" on that page).";

/// What to do with a voter that came back as whom it was before it was replaced.
const NEW_METADATA_HERE: &str = "Stop the daemon here, make its metadata anew (`twinblk create-metadata`, or `twinblk tiebreaker --init`), and start it.";
const NEW_METADATA_THERE: &str = "Stop its daemon, make its metadata anew there (`twinblk create-metadata`, or `twinblk tiebreaker --init`), and start it.";

fn explained(reason: impl Into<String>, action: impl Into<String>) -> NoLink {
    NoLink { reason: reason.into(), action: Some(action.into()) }
}

/// What a peer says when it ends a link.
pub(super) fn farewell(reason: FarewellReason) -> NoLink {
    match reason {
        FarewellReason::Stopping | FarewellReason::StoppingOutdated => {
            NoLink { reason: "its daemon stops".to_owned(), action: None }
        }
        FarewellReason::Disconnected | FarewellReason::DisconnectedOutdated => explained(
            "an operator disconnected it there",
            "None; `twinblk connect` on that node reverses it.",
        ),
        FarewellReason::UnknownVoter => explained(
            "another voter has the place of this node: its metadata is that of a disk that was replaced, or the order of \
             [[node]] changed",
            NEW_METADATA_HERE,
        ),
    }
}

/// A voter whose seat somebody else has got since.
pub(super) fn unknown_voter(found: VoterId, holder: VoterId) -> NoLink {
    let reason = format!(
        "it answers as voter {found}, but {holder} has its place: it came back with metadata of before it was replaced, or \
         the order of [[node]] changed"
    );
    explained(reason, NEW_METADATA_THERE)
}

/// A second voter under one number.
pub(super) fn second_voter(found: VoterId, holder: VoterId) -> NoLink {
    let reason = format!("it answers as voter {found}, while {holder}, which has its place, is linked");
    explained(reason, "Find out which two daemons run as this node, and stop one of them.")
}

/// A voter that has no seat yet.
pub(super) fn new_voter(found: VoterId, resource: &str) -> NoLink {
    let reason = format!("it is new, voter {found}: its vote does not count until a Primary has taken it in");
    let action = format!(
        "None while a Primary and a majority of the other voters are linked. Else bring them up; or on the Primary \
         `twinblk accept-new-voter {resource} {found} --dry-run`, which says what may be lost."
    );
    explained(reason, action)
}

/// An operator of this node wants no link.
pub(super) fn disconnected_here(resource: &str) -> NoLink {
    explained("disconnected by an operator", format!("`twinblk connect {resource}` reverses it."))
}

/// The two nodes are not configured alike.
pub(super) fn other_configuration() -> NoLink {
    explained(
        "its configuration differs from the one here",
        "Make the configuration file the same on every node, then start the daemons again.",
    )
}

/// Why a verdict is to do nothing.
pub(super) fn stopped(reason: StopReason, resource: &str, role: Role, parted: Option<Divergence>) -> NoLink {
    let writes = parted.map_or(String::new(), |Divergence { fork, our_writes, their_writes, .. }| {
        format!(": {our_writes} writes here and {their_writes} there after write {fork}")
    });
    match reason {
        StopReason::NothingDecided => explained(
            "both volumes are new and nobody has said which content counts",
            "Make every voter anew, both volumes with `create-metadata --uptodate-zeroed` (\"Starting over\" on that page).",
        ),
        StopReason::NoUsableDisk => explained(
            "neither disk holds a usable copy",
            "Make every voter anew (\"Starting over\" on that page), then restore the volume from a backup.",
        ),
        StopReason::Unrelated => explained(
            "the two volumes have no common history",
            format!(
                "Find out which node has the disk of another pair, correct its configuration, then `twinblk connect {resource}`."
            ),
        ),
        StopReason::DamagedBranch => explained(
            "the damaged disk wrote on its own after the two parted; its writes would be lost",
            format!(
                "Repair it; or on the node with that disk `twinblk resolve-split-brain {resource} --discard-mine --full-resync \
                 --dry-run`, which says what would be lost."
            ),
        ),
        StopReason::SplitBrain => explained(
            format!("split brain: both sides wrote on their own{writes}"),
            split_brain_action(resource, role),
        ),
        StopReason::BothDiscard => explained(
            "split brain: both nodes have orders to discard their own writes",
            format!("`twinblk connect {resource}` on one of the two takes its order back."),
        ),
        StopReason::BlocksUnknown => explained(
            "split brain: which blocks the discarding node changed alone is not known for certain",
            format!(
                "`twinblk resolve-split-brain {resource} --discard-mine --full-resync` there copies every block."
            ),
        ),
        StopReason::SourceIsDiskless => explained(
            "the Primary has no disk, and no longer in memory what the other node lacks",
            format!(
                "`twinblk demote {resource}` on the Primary, with --force if its I/O is frozen; then `twinblk promote {resource}` on \
                 a node with a disk."
            ),
        ),
    }
}

/// An order to discard is given on the node whose writes are to go.
fn split_brain_action(resource: &str, role: Role) -> String {
    let order = format!("`twinblk resolve-split-brain {resource} --discard-mine`");
    let to_give_way = match role {
        Role::Primary => format!("`twinblk demote {resource}`, then {order}"),
        Role::Secondary | Role::Unknown => order,
    };
    format!(
        "Decide whose writes count. To give up those of this node: {to_give_way}, with --dry-run first; to keep them, \
         the same on the other node. On a Secondary `twinblk serve {resource} --read-only --as-was` shows its side."
    )
}

/// The peer has no disk that could be brought up to date.
pub(super) fn peers_disk_failed() -> NoLink {
    explained("its disk failed", "Replace the disk there, make its metadata anew, start its daemon again.")
}

/// The peer has generations that outrank those of a running Primary here, and no term that does: whoever was granted a
/// higher term says so with every frame, and this node had stepped down.
pub(super) fn primary_is_no_target() -> NoLink {
    explained(
        "it shows generations of a higher term, and a running Primary is no target",
        "Compare both sides by `twinblk explain`; to follow it, demote this node.",
    )
}

/// This node has no disk that could be brought up to date.
pub(super) fn own_disk_failed() -> NoLink {
    explained("the local disk failed", "Replace the disk, make its metadata anew, start the daemon again.")
}
