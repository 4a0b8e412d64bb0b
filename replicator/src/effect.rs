//! What a replica wants done: orders, in the imperative. The only way out (`Effects`).
//!
//! The effects of one `handle` call are unordered, except that frames to one peer keep their order.
//! If B must follow A, the core orders B only when A's event has arrived.

use bytes::Bytes;

use crate::event::{AllocatedExtent, FenceRun, IoId, LinkId, OrderId};
use crate::explain_report::ExplainReport;
use crate::notice::Notice;
use crate::peer::frame::OutboundFrame;
use crate::promotion::refusal::Refused;
use crate::rescue::{RescueStep, RescueWork};
use crate::state::{DiskState, Role};
use crate::units::{BlockRange, NodeId, RequestId};

/// Effects in the order they were made. The shell drains it after every event.
#[derive(Debug, Default)]
pub struct Effects {
    list: Vec<Effect>,
}

impl Effects {
    /// Adds an effect.
    pub fn push(&mut self, effect: Effect) {
        self.list.push(effect);
    }

    /// Takes all effects out; the memory is kept for the next round.
    pub fn drain(&mut self) -> std::vec::Drain<'_, Effect> {
        self.list.drain(..)
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }
}

/// What zeroing does with the space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ZeroMethod {
    /// Blocks stay allocated (zero range).
    KeepSpace,
    /// Space is given back (punch hole); whole blocks read as zero afterwards, on a file and on a device.
    ReleaseSpace,
}

/// Why a request was not done. Mapped to an NBD error in one place, in the shell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The node stopped being Primary by order (ESHUTDOWN).
    #[error("the node was demoted")]
    Demoted,
    /// The local disk failed and no other copy can be reached (EIO).
    #[error("the disk failed")]
    DiskFailed,
    /// Such a request makes no sense here (EINVAL).
    #[error("invalid request")]
    Invalid,
}

/// The outcome of a client request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Completion {
    /// Done.
    Done,
    /// The bytes asked for, in pieces that follow one another.
    Bytes(Vec<Bytes>),
    /// Allocation of the range asked for, in order.
    Allocation(Vec<AllocatedExtent>),
    /// Not done.
    Failed(RequestError),
}

/// Whether clients are served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExportState {
    /// They are; a frozen node serves too, its requests wait.
    Serving,
    /// Only this node's own side, read-only and under another name: it is not the volume.
    AsWas {
        /// The export's name.
        name: String,
        /// Why the volume itself is not served here.
        text: String,
    },
    /// They are not; this text tells a client why.
    Refused {
        /// For example `mail is Secondary on alpha; Primary is beta`.
        text: String,
    },
}

/// An answer to an operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Done, or already so; the text says what was done.
    Done {
        /// For people.
        text: String,
    },
    /// Refused, with the reason and the cure.
    Refused(Refused),
    /// How things stand, and why.
    Explained(Box<ExplainReport>),
}

/// An order to the shell. Offsets in the metadata area and in the data area are bytes, 4 KiB aligned.
#[derive(Debug)]
pub enum Effect {
    /// Write to the metadata area from `offset` on: `descriptor`, then the payloads. Answer: `IoCompleted`.
    WriteJournal {
        /// Comes back.
        io: IoId,
        /// Byte offset in the metadata area.
        offset: u64,
        /// Whole blocks, not necessarily aligned in memory.
        descriptor: Vec<u8>,
        /// Whole blocks each; aligned in memory unless they came from an unaligned request.
        payloads: Vec<Bytes>,
    },
    /// Flush the metadata device. Covers every `WriteJournal` reported complete before. Answer: `IoCompleted`.
    FlushJournal {
        /// Comes back.
        io: IoId,
    },
    /// Read from the metadata area. Answer: `BytesRead`.
    ReadJournal {
        /// Comes back.
        io: IoId,
        /// Byte offset in the metadata area.
        offset: u64,
        /// Bytes, whole blocks.
        length: u64,
    },
    /// Write one block of the metadata area, flushed when reported: a superblock copy. Answer: `IoCompleted`.
    WriteSuperblock {
        /// Comes back.
        io: IoId,
        /// Byte offset in the metadata area.
        offset: u64,
        /// One block.
        bytes: Vec<u8>,
    },
    /// Write blocks of the metadata area, flushed when reported: bitmap pages. Answer: `IoCompleted`.
    WriteBitmapPages {
        /// Comes back.
        io: IoId,
        /// Byte offset in the metadata area and content (one block) of each page.
        pages: Vec<(u64, Vec<u8>)>,
    },
    /// Write to the data area. Answer: `IoCompleted`.
    WriteData {
        /// Comes back.
        io: IoId,
        /// Where.
        range: BlockRange,
        /// Pieces that follow one another and fill the range.
        pieces: Vec<Bytes>,
    },
    /// Zero blocks of the data area. Answer: `IoCompleted`.
    ZeroData {
        /// Comes back.
        io: IoId,
        /// Where.
        range: BlockRange,
        /// How.
        method: ZeroMethod,
    },
    /// Read from the data area. Answer: `BytesRead`.
    ReadData {
        /// Comes back.
        io: IoId,
        /// Which blocks.
        range: BlockRange,
    },
    /// Flush the data area's device. Covers every data write reported complete before. Answer: `IoCompleted`.
    FlushData {
        /// Comes back.
        io: IoId,
    },
    /// Find out which parts of the data area are holes. Answer: `AllocationFound`.
    FindAllocated {
        /// Comes back.
        io: IoId,
        /// Which blocks.
        range: BlockRange,
    },
    /// Send a frame to a voter.
    SendToPeer {
        /// To whom.
        peer: NodeId,
        /// On which link; dropped if that link is gone.
        link: LinkId,
        /// The frame.
        frame: OutboundFrame,
    },
    /// End a link. The shell reports `PeerLost` and dials again, unless `SetDialing` says otherwise.
    DropPeer {
        /// Whose.
        peer: NodeId,
        /// Which.
        link: LinkId,
    },
    /// Run the fence command against a peer, with the facts of the environment that scripts of DRBD expect. Answer:
    /// `FenceCommandEnded`, always: a command that does not end in time is killed.
    RunFenceCommand {
        /// Comes back.
        run: FenceRun,
        /// Against whom.
        peer: NodeId,
        /// State of the local disk, for the command.
        disk: DiskState,
        /// Whether no copy can be newer than the local one: else shooting the peer does not help, and only 3 and 4 do.
        knows_newest: bool,
        /// Role of this node, for the command.
        role: Role,
    },
    /// Whether links to this peer are wanted at all (StandAlone by order: not).
    SetDialing {
        /// Which.
        peer: NodeId,
        /// Whether to dial and accept.
        wanted: bool,
    },
    /// Do something to the file that keeps what is about to be discarded. Answer: `RescueDone` or `RescueFailed`.
    Rescue {
        /// Comes back.
        step: RescueStep,
        /// What.
        work: RescueWork,
    },
    /// Answer a client.
    CompleteRequest {
        /// The client's.
        id: RequestId,
        /// The outcome.
        outcome: Completion,
    },
    /// Begin or end serving clients.
    SetExport {
        /// Which.
        export: ExportState,
    },
    /// Disconnect every client: what is outstanding and what still comes gets ESHUTDOWN, then the connections
    /// close. The core has forgotten every request that was in flight.
    DropClients,
    /// Answer an operator.
    AnswerOperator {
        /// The operator's.
        order: OrderId,
        /// The answer.
        answer: Answer,
    },
    /// Tell whoever watches: log and event stream.
    Notify(Notice),
}
