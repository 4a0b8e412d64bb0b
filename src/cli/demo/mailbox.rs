//! What one writer has put where: its region of the volume, filled round and round, and which messages in it are
//! acknowledged and not overwritten since. Pure: knows neither sockets nor threads.
//!
//! Rule: a place counts as lost to its old message the moment a new one is sent there, and as the new one's only
//! when that is acknowledged. In between its bytes may be old, new or torn. What is about to be overwritten can be
//! asked for, so that no acknowledged message goes away unread.

use std::collections::BTreeMap;
use std::ops::Range;

use replicator::prng::Prng;

use super::message::{self, Message};

/// Messages begin on any sector, not on whole blocks: neighbours share blocks.
const SECTOR_BYTES: u64 = 512;

/// A writer's region.
#[derive(Clone, Debug)]
pub struct Mailbox {
    writer: u32,
    region: Range<u64>,
    next_offset: u64,
    sequence: u64,
    chance: Prng,
    kept: BTreeMap<u64, Message>,
}

/// A message and its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    /// First byte on the volume.
    pub offset: u64,
    /// What is there.
    pub message: Message,
}

impl Placed {
    fn end(&self) -> u64 {
        self.offset + u64::from(self.message.length)
    }
}

impl Mailbox {
    /// An empty region for a writer.
    pub fn new(writer: u32, region: Range<u64>, seed: u64) -> Self {
        let room = region.end - region.start;
        assert!(room >= 2 * message::MESSAGE_BYTES_MAX, "a region of {room} bytes is too small");
        let next_offset = region.start;
        Self { writer, region, next_offset, sequence: 0, chance: Prng::new(seed), kept: BTreeMap::new() }
    }

    /// The next message to send.
    pub fn next(&mut self) -> Placed {
        self.sequence += 1;
        let message = message::draw(self.writer, self.sequence, &mut self.chance);
        if self.next_offset + u64::from(message.length) > self.region.end {
            self.next_offset = self.region.start;
        }
        let placed = Placed { offset: self.next_offset, message };
        self.next_offset = placed.end().next_multiple_of(SECTOR_BYTES).min(self.region.end);
        placed
    }

    /// What a message goes over.
    pub fn overwritten_by(&self, placed: Placed) -> Vec<Placed> {
        // No message is longer than this, so none that begins earlier reaches in here.
        let earliest = placed.offset.saturating_sub(message::MESSAGE_BYTES_MAX);
        let near = self.kept.range(earliest..placed.end());
        let hit = near.filter(|(offset, old)| *offset + u64::from(old.length) > placed.offset);
        hit.map(|(offset, message)| Placed { offset: *offset, message: *message }).collect()
    }

    /// The message is sent from now on. What it overwrites is not kept any more.
    pub fn overwrite(&mut self, placed: Placed) {
        for old in self.overwritten_by(placed) {
            self.kept.remove(&old.offset);
        }
    }

    /// The message is on the volume for good.
    pub fn acknowledge(&mut self, placed: Placed) {
        self.kept.insert(placed.offset, placed.message);
    }

    /// Every acknowledged message that was not overwritten.
    pub fn kept(&self) -> impl Iterator<Item = Placed> + '_ {
        self.kept.iter().map(|(offset, message)| Placed { offset: *offset, message: *message })
    }

    /// The newest acknowledged messages, at most so many.
    pub fn newest(&self, count: usize) -> Vec<Placed> {
        let mut newest: Vec<Placed> = self.kept().collect();
        newest.sort_by_key(|placed| std::cmp::Reverse(placed.message.sequence));
        newest.truncate(count);
        newest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kept_messages_never_overlap_and_stay_in_the_region() {
        let mut mailbox = Mailbox::new(0, 4096..4096 + (1 << 20), 5);
        for _ in 0..500 {
            let placed = mailbox.next();
            mailbox.overwrite(placed);
            mailbox.acknowledge(placed);
            let mut free_from = 4096;
            for kept in mailbox.kept() {
                assert!(kept.offset >= free_from, "overlap at {}", kept.offset);
                free_from = kept.end();
            }
            assert!(free_from <= 4096 + (1 << 20));
        }
        assert_eq!(
            mailbox.newest(3).iter().map(|placed| placed.message.sequence).collect::<Vec<_>>(),
            [500, 499, 498]
        );
    }

    #[test]
    fn a_message_that_was_sent_and_not_acknowledged_is_not_kept_nor_is_what_it_may_have_overwritten() {
        let mut mailbox = Mailbox::new(0, 0..256 << 10, 5);
        let first = mailbox.next();
        mailbox.acknowledge(first);
        let mut placed = mailbox.next();
        while mailbox.overwritten_by(placed).is_empty() {
            mailbox.overwrite(placed);
            placed = mailbox.next();
        }
        assert_eq!(mailbox.overwritten_by(placed), [first]);
        assert_eq!(mailbox.kept().collect::<Vec<_>>(), [first], "nothing was sent there yet");
        mailbox.overwrite(placed);
        assert_eq!(mailbox.kept().count(), 0);
    }
}
