//! Stands in for the data plane in tests of the control plane.

use replicator::effect::Answer;
use replicator::state::Role;
use replicator::status_report::{CanPromote, JournalReport, LsnReport, StatusReport};
use replicator::units::{Lsn, NodeId, Term};

use super::plane_link::PlaneLink;
use crate::border::ToDataPlane;

/// How it behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behaviour {
    /// Every question and every order is answered at once.
    Answers,
    /// Questions are answered, orders never.
    NeverAnswersOrders,
    /// It has ended.
    Ended,
}

/// A link to a fake.
pub fn start(behaviour: Behaviour) -> PlaneLink {
    let kept = std::cell::RefCell::new(Vec::new());
    PlaneLink::new(move |what| match (behaviour, what) {
        (Behaviour::Ended, _) => false,
        (_, ToDataPlane::Status { answer }) => {
            let _ = answer.send(Box::new(report()));
            true
        }
        (Behaviour::Answers, ToDataPlane::Order { what, answer }) => {
            let _ = answer.send(Answer::Done { text: format!("{what:?}") });
            true
        }
        (_, other) => {
            kept.borrow_mut().push(other);
            true
        }
    })
}

/// A snapshot of a node that does nothing.
pub fn report() -> StatusReport {
    StatusReport {
        schema: 1,
        name: "mail".into(),
        node_id: NodeId(0),
        node_name: "alpha".into(),
        role: Role::Secondary,
        suspended: false,
        suspended_user: false,
        suspended_no_data: false,
        suspended_fencing: false,
        suspended_quorum: false,
        serves_as_was: false,
        force_io_failures: false,
        write_ordering: "flush",
        devices: Vec::new(),
        connections: Vec::new(),
        tiebreaker: None,
        term: Term::ZERO,
        record_version: 0,
        record_primary: None,
        in_sync: Vec::new(),
        lineage: Vec::new(),
        lsn: LsnReport {
            assigned: Lsn::ZERO,
            journaled: Lsn::ZERO,
            durable: Lsn::ZERO,
            complete: Lsn::ZERO,
            stable: Lsn::ZERO,
            written_back: Lsn::ZERO,
            oldest_kept: Lsn::ZERO,
        },
        frozen: None,
        can_promote: CanPromote { yes: false, because: String::new() },
        journal: JournalReport { size: 0, used: 0 },
        advice: Vec::new(),
    }
}
