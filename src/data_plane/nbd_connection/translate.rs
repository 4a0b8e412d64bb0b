//! Between the words of NBD and those of the replica. One function for each direction and nothing else.

use bytes::Bytes;
use nbd_server::{Allocation as Status, Command, Durability as Fua, Extent, Failure, Holes, Request};
use replicator::effect::RequestError;
use replicator::event::{self, AllocatedExtent, Allocation, Durability};
use replicator::units::{ByteRange, bytes_u64};

use crate::data_plane::buffers::memory_for;

/// What the replica is asked. Requests that are done by themselves never come here.
pub(super) fn request(request: &Request, payload: Bytes) -> event::Request {
    let range = ByteRange::new(request.offset, request.length);
    let durability = match request.durability {
        Fua::OnFlush => Durability::Complete,
        Fua::BeforeReply => Durability::Flushed,
    };
    match request.command {
        Command::Read { .. } => event::Request::Read { range },
        Command::Write => event::Request::Write { offset: request.offset, payload, durability },
        Command::Flush => event::Request::Flush,
        Command::Trim => event::Request::Trim { range, durability },
        // Zeroing is a record without payload, so it is always fast.
        Command::WriteZeroes { holes, speed: _ } => {
            let allocation = match holes {
                Holes::Allowed => Allocation::Release,
                Holes::Forbidden => Allocation::Keep,
            };
            event::Request::WriteZeroes { range, allocation, durability }
        }
        Command::BlockStatus { .. } => event::Request::BlockStatus { range },
        Command::Cache => panic!("a hint is answered without the replica"),
    }
}

/// Whether the answer is known without the replica: a hint, or an order about no bytes at all.
pub(super) fn is_done_by_itself(request: &Request) -> bool {
    match request.command {
        Command::Cache => true,
        Command::Flush | Command::BlockStatus { .. } => false,
        Command::Read { .. } | Command::Write | Command::Trim | Command::WriteZeroes { .. } => {
            request.length == 0
        }
    }
}

/// Bytes that a request keeps in memory until its reply is out, at most. One without a payload takes room too, in this
/// node's lists and for a reply of extents: it counts as the smallest buffer.
pub(super) fn bytes_in_memory(request: &Request) -> u64 {
    let length = match request.command {
        Command::Read { .. } | Command::Write => request.length,
        Command::Flush
        | Command::Trim
        | Command::WriteZeroes { .. }
        | Command::Cache
        | Command::BlockStatus { .. } => 0,
    };
    bytes_u64(memory_for(usize::try_from(length).expect("usize has 64 bits")))
}

/// What a client is told about a request that was not done.
pub(super) fn failure(error: RequestError) -> Failure {
    match error {
        RequestError::Demoted => Failure::ShuttingDown,
        RequestError::DiskFailed => Failure::IoFault,
        RequestError::Invalid => Failure::InvalidRequest,
    }
}

/// What a client is told about allocation.
pub(super) fn extents(extents: &[AllocatedExtent]) -> impl Iterator<Item = Extent> + '_ {
    extents.iter().map(|extent| {
        let allocation = if extent.is_hole { Status::Hole } else { Status::Data };
        Extent { length: extent.range.length, allocation }
    })
}
