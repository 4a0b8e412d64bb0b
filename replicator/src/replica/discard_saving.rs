//! Before a node gives way after a split brain: which blocks it changed alone, and their way into a file, as this node's
//! clients have last seen them. Nothing is changed on its disk meanwhile.

use bytes::Bytes;

use crate::config::CATCH_UP_READ_BYTES;
use crate::effect::{Answer, Effect, Effects};
use crate::generation::compare::{Divergence, divergence};
use crate::generation::split_brain::Discards;
use crate::layout::rescue_image::RescueHead;
use crate::notice::Notice;
use crate::rescue::{Changed, Giving, RescueStep, RescueWork, Save, with_what_is_not_zero};
use crate::state::{DiskState, Role};
use crate::units::{BLOCK_BYTES, BlockRange, NodeId, index_range};
use crate::write_back::ContentBytes;
use crate::write_back::extent_map::Piece;

use super::discard::{Saving, Stage, refused};
use super::{IoPurpose, Replica};

/// Blocks that are saved at a time.
const SAVED_AT_A_TIME: u64 = 256;
/// What an index takes for each range, and the last block and its padding; a little more than that.
const INDEX_BYTES: u64 = 2 * BLOCK_BYTES;

impl Replica {
    pub(super) fn list_when_settled(&mut self, effects: &mut Effects) {
        self.journal.want_flush(self.journal.accepted());
        let Some(discard) = &self.discard else { return };
        let is_settled = self.role == Role::Secondary && self.inbound.is_none() && self.journal.is_clean();
        let Some((ours, theirs)) = self.split_states(discard.peer).filter(|_| is_settled) else { return };
        let Some(found) = divergence(ours, theirs) else { return };
        let slot = self.superblock.content().peer(discard.peer).map(|slot| slot.bitmap_slot);
        let marked = slot.map(|slot| self.bitmap.blocks(slot)).unwrap_or_default();
        let (first, end) = (found.fork.next().max(self.journal.ring().oldest_kept()), self.journal.flushed());
        let reader = match first <= end {
            true => self.journal.ring().reader(first, end, CATCH_UP_READ_BYTES).map(Box::new),
            false => None,
        };
        if let Some(discard) = &mut self.discard {
            discard.divergence = Some(found);
            discard.changed = Changed::marked(marked);
            discard.stage = Stage::Listing { reader };
        }
        self.list_on(effects);
    }

    pub(super) fn list_on(&mut self, effects: &mut Effects) {
        let end = self.journal.flushed();
        let Some(discard) = &mut self.discard else { return };
        let Stage::Listing { reader } = &mut discard.stage else { return };
        let number = discard.number;
        if reader.as_ref().is_none_or(|reader| reader.next_lsn() > end) {
            self.note_listed(effects);
        } else if let Some(read) = reader.as_mut().and_then(|reader| reader.next_read()) {
            let io = self.numbers.next();
            self.purposes.insert(io, IoPurpose::DiscardList(number));
            let offset = self.journal.zone_offset() + read.ring_offset;
            effects.push(Effect::ReadJournal { io, offset, length: read.length });
        }
    }

    pub(super) fn on_discard_list_read(&mut self, number: u64, bytes: Bytes, effects: &mut Effects) {
        let Some(discard) = self.discard.as_deref_mut().filter(|discard| discard.number == number) else {
            return;
        };
        let Stage::Listing { reader: Some(reader) } = &mut discard.stage else { return };
        match reader.on_bytes(bytes) {
            Ok(records) => records.iter().for_each(|(_, record)| discard.changed.on_record(record)),
            Err(error) => self.fail_disk(format!("the journal cannot be read back: {error}"), effects),
        }
    }

    /// Everything that would be discarded is known.
    fn note_listed(&mut self, effects: &mut Effects) {
        let Some(discard) = &self.discard else { return };
        let (number, Giving { what, save, is_rehearsal }) = (discard.number, discard.giving.clone());
        let blocks = discard.changed.count();
        let is_something = blocks > 0 || what == Discards::Everything;
        if !is_something || save == Save::No {
            return match is_rehearsal {
                true => self.answer_rehearsal(effects),
                false => self.announce_discard(),
            };
        }
        let bytes = match what {
            // How much of the volume is not zero is not known before it is read.
            Discards::Everything => blocks.max(1) * BLOCK_BYTES + INDEX_BYTES,
            Discards::Changes | Discards::Nothing => blocks * (BLOCK_BYTES + 24) + INDEX_BYTES,
        };
        let step = self.next_rescue_step(number);
        let (work, stage) = match is_rehearsal {
            true => (RescueWork::Check { save, bytes }, Stage::Checking(step)),
            false => {
                let Some(head) = self.rescue_head().map(Box::new) else { return };
                (RescueWork::Begin { save, bytes, head }, Stage::Opening(step))
            }
        };
        effects.push(Effect::Rescue { step, work });
        self.set_discard_stage(stage);
    }

    fn rescue_head(&self) -> Option<RescueHead> {
        let discard = self.discard.as_ref()?;
        let Divergence { common, fork, .. } = discard.divergence?;
        let named = |node: NodeId| (node, self.name_of(node).to_owned());
        let content = self.superblock.content();
        Some(RescueHead {
            resource: content.resource.clone(),
            volume_bytes: content.volume_bytes,
            node: named(self.config.local),
            peer: named(discard.peer),
            common,
            fork,
            end: self.journal.flushed(),
            is_damaged: self.disk <= DiskState::Inconsistent,
            lineage: content.lineage.clone(),
        })
    }

    pub(super) fn set_discard_stage(&mut self, stage: Stage) {
        if let Some(discard) = &mut self.discard {
            discard.stage = stage;
        }
    }

    /// The shell has done a step.
    pub(super) fn on_rescue_done(&mut self, step: RescueStep, file: String, effects: &mut Effects) {
        let Some(discard) = self.discard.as_mut().filter(|discard| discard.awaits(step)) else { return };
        match &discard.stage {
            Stage::Checking(_) => {
                discard.file = Some(file);
                self.answer_rehearsal(effects);
            }
            Stage::Opening(_) => {
                discard.file = Some(file);
                self.save_from(0, effects);
            }
            Stage::Saving(Saving::Writing { next, .. }) => {
                let next = *next;
                self.save_from(next, effects);
            }
            Stage::Closing(_) => {
                let text = format!("what {} is about to discard is saved in {file}", self.config.resource);
                effects.push(Effect::Notify(Notice::info("discard-saved", text)));
                self.announce_discard();
            }
            Stage::Settling
            | Stage::Listing { .. }
            | Stage::Saving(Saving::Reading { .. })
            | Stage::Announced
            | Stage::Cutting(_) => {}
        }
    }

    pub(super) fn on_rescue_failed(&mut self, step: RescueStep, reason: &str, effects: &mut Effects) {
        if self.discard.as_ref().is_none_or(|discard| !discard.awaits(step)) {
            return;
        }
        let Some(order) = self.discard.as_mut().and_then(|discard| discard.order.take()) else {
            return self.give_up_discard(&format!("it cannot be saved: {reason}"), effects);
        };
        self.give_up_discard(&format!("it cannot be saved: {reason}"), effects);
        let cure = "name another file with --save FILE, make room, or say --no-save: then it is lost";
        let reason = format!("nothing was discarded: it cannot be saved: {reason}");
        self.answer(order, Answer::Refused(refused("cannot-save", reason, cure)), effects);
    }

    /// Reads what is next to be saved from block `from` on, as this node's clients have last seen it.
    fn save_from(&mut self, from: u64, effects: &mut Effects) {
        let volume_blocks = self.config.volume_bytes / BLOCK_BYTES;
        let Some(discard) = &mut self.discard else { return };
        let number = discard.number;
        let range = match discard.giving.what {
            Discards::Everything if from < volume_blocks => {
                Some(BlockRange::new(from, SAVED_AT_A_TIME.min(volume_blocks - from)))
            }
            Discards::Everything => None,
            Discards::Changes | Discards::Nothing => discard.changed.next_run(from, SAVED_AT_A_TIME),
        };
        let Some(range) = range else {
            let step = self.next_rescue_step(number);
            effects.push(Effect::Rescue { step, work: RescueWork::End });
            return self.set_discard_stage(Stage::Closing(step));
        };
        let mut pieces = Vec::new();
        for piece in self.write_back.pieces(range) {
            pieces.push(match piece {
                Piece::Held(range, content) => Some(match content.bytes {
                    ContentBytes::Payload(bytes) => vec![bytes],
                    ContentBytes::Zero(_) => vec![Bytes::from(vec![0; index_range(0..range.bytes()).len()])],
                }),
                Piece::Gap(range) => {
                    let io = self.numbers.next();
                    self.purposes.insert(io, IoPurpose::RescueRead(number, pieces.len()));
                    effects.push(Effect::ReadData { io, range });
                    None
                }
            });
        }
        let missing = pieces.iter().filter(|piece| piece.is_none()).count();
        self.set_discard_stage(Stage::Saving(Saving::Reading { range, pieces, missing }));
        self.write_what_was_read(effects);
    }

    pub(super) fn on_rescue_read(&mut self, number: u64, at: usize, bytes: Bytes, effects: &mut Effects) {
        let Some(discard) = self.discard.as_deref_mut().filter(|discard| discard.number == number) else {
            return;
        };
        let Stage::Saving(Saving::Reading { pieces, missing, .. }) = &mut discard.stage else { return };
        pieces[at] = Some(vec![bytes]);
        *missing -= 1;
        self.write_what_was_read(effects);
    }

    fn write_what_was_read(&mut self, effects: &mut Effects) {
        let Some(discard) = &mut self.discard else { return };
        let Stage::Saving(Saving::Reading { range, pieces, missing: 0 }) = &mut discard.stage else { return };
        let (number, range) = (discard.number, *range);
        let pieces: Vec<Bytes> = std::mem::take(pieces).into_iter().flatten().flatten().collect();
        let changed = discard.changed.ranges_in(range);
        let ranges = match discard.giving.what {
            Discards::Everything => with_what_is_not_zero(range, changed, &pieces),
            Discards::Changes | Discards::Nothing => changed,
        };
        discard.saved_blocks += ranges.iter().map(|range| range.blocks.count).sum::<u64>();
        let step = self.next_rescue_step(number);
        effects.push(Effect::Rescue { step, work: RescueWork::Write { range, pieces, ranges } });
        self.set_discard_stage(Stage::Saving(Saving::Writing { step, next: range.end() }));
    }
}
