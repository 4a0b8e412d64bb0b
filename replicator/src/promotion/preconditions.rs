//! What must hold before a promotion is even tried: one row per condition, with the reason and the cure.

use crate::promotion::refusal::{RefusalCode, Refused};
use crate::state::DiskState;

/// What the table looks at.
#[derive(Clone, Debug)]
pub struct Preconditions {
    /// The local disk.
    pub disk: DiskState,
    /// A linked peer that is Primary.
    pub primary: Option<String>,
    /// Whether a promotion is in progress.
    pub is_promoting: bool,
    /// Whether this node is about to discard what it wrote.
    pub is_discarding: bool,
    /// Whether the daemon stops.
    pub is_stopping: bool,
    /// The node that brings this one up to date.
    pub catches_up_from: Option<String>,
    /// Whether any link of this node lets it into the in-sync set: protocols A and B do not.
    pub can_be_in_sync: bool,
}

/// Name of the row that a living Primary elsewhere makes true. It may be dead without this node knowing yet.
pub const PEER_IS_PRIMARY: &str = "peer-is-primary";

/// Name of the row that an old copy makes true. It may be about to become a new one.
pub const DISK_OUTDATED: &str = "disk-outdated";

/// The first row that forbids the promotion, if one does.
///
/// # Errors
/// The row.
pub fn check(on: &Preconditions) -> Result<(), Refused> {
    let row =
        |code, name, reason: String, cure: &str| Err(Refused { code, name, reason, cure: cure.to_owned() });
    if on.is_stopping {
        return row(
            RefusalCode::StateChange,
            "stopping",
            "the daemon is stopping".to_owned(),
            "start it again",
        );
    }
    if on.is_promoting {
        return row(
            RefusalCode::StateChange,
            "promoting",
            "a promotion is in progress".to_owned(),
            "wait for it",
        );
    }
    if on.is_discarding {
        return row(
            RefusalCode::StateChange,
            "discarding",
            "this node is discarding what it wrote, after a split brain".to_owned(),
            "wait until the other node has brought it up to date",
        );
    }
    match on.disk {
        DiskState::UpToDate | DiskState::Consistent | DiskState::DUnknown => {}
        DiskState::Diskless | DiskState::Failed => {
            let reason = format!("the local disk is {}", on.disk);
            return row(
                RefusalCode::NoUpToDateData,
                "disk-failed",
                reason,
                "promote another node; replace the disk",
            );
        }
        DiskState::Inconsistent => {
            let cure =
                "connect to a node with data, or make the metadata with --uptodate-zeroed on every node";
            return row(
                RefusalCode::NoUpToDateData,
                "disk-inconsistent",
                "the local disk is Inconsistent".to_owned(),
                cure,
            );
        }
        DiskState::Outdated => {
            let reason = match &on.catches_up_from {
                Some(source) => format!("the local disk is Outdated; it catches up from {source}"),
                None => "the local disk is Outdated: newer data exists elsewhere".to_owned(),
            };
            let cure = match on.can_be_in_sync {
                true => "`twinblk wait-sync`, or promote another node",
                false => {
                    "promote the node that was Primary: on protocol A or B this one may lack its last writes"
                }
            };
            return row(RefusalCode::NoUpToDateData, DISK_OUTDATED, reason, cure);
        }
    }
    match &on.primary {
        Some(primary) => {
            row(RefusalCode::StateChange, PEER_IS_PRIMARY, format!("{primary} is Primary"), "demote it first")
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fine() -> Preconditions {
        Preconditions {
            disk: DiskState::UpToDate,
            primary: None,
            is_promoting: false,
            is_discarding: false,
            is_stopping: false,
            catches_up_from: None,
            can_be_in_sync: true,
        }
    }

    #[test]
    fn each_row_forbids_what_it_says() {
        assert_eq!(check(&fine()), Ok(()));
        let name = |on: Preconditions| check(&on).expect_err("a row forbids it").name;
        assert_eq!(name(Preconditions { is_stopping: true, ..fine() }), "stopping");
        assert_eq!(name(Preconditions { is_promoting: true, ..fine() }), "promoting");
        assert_eq!(name(Preconditions { is_discarding: true, ..fine() }), "discarding");
        assert_eq!(name(Preconditions { disk: DiskState::Failed, ..fine() }), "disk-failed");
        assert_eq!(name(Preconditions { disk: DiskState::Inconsistent, ..fine() }), "disk-inconsistent");
        assert_eq!(name(Preconditions { disk: DiskState::Outdated, ..fine() }), "disk-outdated");
        assert_eq!(name(Preconditions { primary: Some("a".to_owned()), ..fine() }), "peer-is-primary");
    }

    #[test]
    fn waiting_is_no_cure_for_a_node_that_is_mirrored_to_by_protocol_a_or_b() {
        let outdated = Preconditions { disk: DiskState::Outdated, ..fine() };
        let refused = check(&outdated).expect_err("old");
        assert!(refused.cure.contains("wait-sync"), "{}", refused.cure);
        let refused = check(&Preconditions { can_be_in_sync: false, ..outdated }).expect_err("old");
        assert!(!refused.cure.contains("wait-sync"), "{}", refused.cure);
    }

    #[test]
    fn an_inconsistent_disk_is_never_promoted() {
        let refused = check(&Preconditions { disk: DiskState::Inconsistent, ..fine() }).expect_err("I6");
        assert_eq!(refused.code.exit_status(), 17);
    }
}
