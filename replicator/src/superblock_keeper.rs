//! Keeps the superblock: one write at a time, changes in between gathered into the next one.
//! Whoever must wait until a change is durable keeps its [`Revision`] and asks.

use crate::effect::{Effect, Effects};
use crate::event::IoId;
use crate::layout::superblock::Superblock;

/// Number of a change. Durable once a superblock that contains it has been written and flushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Revision(u64);

/// A superblock on its way to disk.
#[derive(Clone, Copy, Debug)]
struct InFlight {
    io: IoId,
    revision: Revision,
    session: u64,
}

/// The superblock in memory and how much of it is on disk.
#[derive(Debug)]
pub struct SuperblockKeeper {
    content: Superblock,
    revision: Revision,
    durable: Revision,
    in_flight: Option<InFlight>,
    durable_session: u64,
    writes: u64,
}

impl SuperblockKeeper {
    /// `content` is what the disk holds.
    #[must_use]
    pub fn new(content: Superblock) -> Self {
        let durable_session = content.journal.session;
        Self {
            content,
            revision: Revision(0),
            durable: Revision(0),
            in_flight: None,
            durable_session,
            writes: 0,
        }
    }

    /// The newest content, durable or not.
    #[must_use]
    pub fn content(&self) -> &Superblock {
        &self.content
    }

    /// Changes the content; the change is on its way to disk with the next [`Self::advance`].
    pub fn change(&mut self, change: impl FnOnce(&mut Superblock)) -> Revision {
        change(&mut self.content);
        self.revision = Revision(self.revision.0 + 1);
        self.revision
    }

    /// Whether the change with this number is on disk, flushed.
    #[must_use]
    pub fn is_durable(&self, revision: Revision) -> bool {
        self.durable >= revision
    }

    /// The journal session that the superblock on disk names.
    #[must_use]
    pub fn durable_session(&self) -> u64 {
        self.durable_session
    }

    /// The newest change.
    #[must_use]
    pub fn newest(&self) -> Revision {
        self.revision
    }

    /// Whether everything is on disk.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.durable == self.revision
    }

    /// Whether a write is on its way.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.in_flight.is_some()
    }

    /// Superblock writes since the start.
    #[must_use]
    pub fn writes(&self) -> u64 {
        self.writes
    }

    /// Writes the content if it has changed and no write is on its way.
    pub fn advance(&mut self, next_io: &mut impl FnMut() -> IoId, effects: &mut Effects) {
        if self.in_flight.is_some() || self.revision == self.durable {
            return;
        }
        self.content.sequence += 1;
        let io = next_io();
        let session = self.content.journal.session;
        self.in_flight = Some(InFlight { io, revision: self.revision, session });
        let bytes = self.content.encode().to_vec();
        let offset = self.content.zones.superblocks()[self.content.copy_index()].offset;
        effects.push(Effect::WriteSuperblock { io, offset, bytes });
    }

    /// Reports an I/O done. Returns whether it was the superblock's.
    pub fn on_io_completed(&mut self, io: IoId) -> bool {
        match self.in_flight {
            Some(write) if write.io == io => {
                self.in_flight = None;
                self.durable = write.revision;
                self.durable_session = write.session;
                self.writes += 1;
                true
            }
            Some(_) | None => false,
        }
    }
}

#[cfg(test)]
mod tests;
