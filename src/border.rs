//! The border between the two threads: everything that the control plane tells the data plane of a
//! resource, and everything that it hears back. Client data never crosses it.

use std::os::fd::OwnedFd;

use nbd_server::Negotiated;
use replicator::effect::{Answer, ExportState};
use replicator::event::{FenceEnd, FenceRun, NoLink, Order};
use replicator::notice::Notice;
use replicator::state::{DiskState, Role};
use replicator::status_report::StatusReport;
use replicator::units::{NodeId, VoterId};
use tokio::sync::oneshot;

/// Control plane to data plane.
#[derive(Debug)]
pub enum ToDataPlane {
    /// A client has finished negotiation; its transmission phase begins.
    NbdClient {
        /// Its socket, blocking mode or not: the ring does not care.
        socket: OwnedFd,
        /// What was agreed, with bytes that the client sent too early.
        negotiated: Negotiated,
    },
    /// A link to a voter is authenticated.
    PeerLink {
        /// Which voter.
        peer: NodeId,
        /// Its socket.
        socket: OwnedFd,
        /// The identity that it proved to have.
        voter: VoterId,
    },
    /// A link could not be made; for status.
    PeerUnreachable {
        /// Which voter.
        peer: NodeId,
        /// Why, and what to do.
        reason: NoLink,
    },
    /// A fence command has ended.
    FenceEnded {
        /// Which run.
        run: FenceRun,
        /// How.
        end: FenceEnd,
    },
    /// An operator's order.
    Order {
        /// What.
        what: Order,
        /// Where the answer goes.
        answer: oneshot::Sender<Answer>,
    },
    /// Somebody wants a snapshot.
    Status {
        /// Where it goes.
        answer: oneshot::Sender<Box<StatusReport>>,
    },
}

/// Data plane to control plane.
#[derive(Debug)]
pub enum FromDataPlane {
    /// Whether clients are served, and what the others are told.
    Export(ExportState),
    /// Whether links to this voter are wanted.
    Dialing {
        /// Which voter.
        peer: NodeId,
        /// Whether.
        wanted: bool,
    },
    /// Run the fence command.
    Fence {
        /// Comes back.
        run: FenceRun,
        /// Against whom.
        peer: NodeId,
        /// State of the local disk.
        disk: DiskState,
        /// Whether no copy can be newer than the local one.
        knows_newest: bool,
        /// Role of this node.
        role: Role,
    },
    /// The link to this voter ended; dial again if links are wanted.
    PeerLost {
        /// Which voter.
        peer: NodeId,
    },
    /// One line of the event stream; already logged.
    Notice(Notice),
    /// The data plane has ended: cleanly after an order to stop, or for this reason.
    Ended {
        /// What went wrong, if anything did.
        error: Option<String>,
    },
}
