//! Carries out effects: I/O with a delay, frames, answers. A batch is shuffled, except what goes to one link.

use bytes::Bytes;
use replicator::effect::{Answer, Completion, Effect, Effects, ExportState};
use replicator::event::{AllocatedExtent, Durability, Event, IoId, LinkId};
use replicator::notice::Notice;
use replicator::peer::frame::OutboundFrame;
use replicator::promotion::membership::InSyncSet;
use replicator::promotion::tiebreaker::{TiebreakerEffect, TiebreakerEvent};
use replicator::units::{BLOCK_BYTES, BlockRange, ByteRange, Incarnation, NodeId, RequestId};

use super::{Happening, World};
use crate::checker::single_primary::Answered;
use crate::checker::watch::Done;
use crate::node::{DiskHealth, IoWork, NextFailure};
use crate::sim_network::{Item, over_the_wire};
use crate::workload::Ask;

impl World {
    pub(super) fn execute(&mut self, node: NodeId, effects: &mut Effects) {
        let (ordered, mut free): (Vec<_>, Vec<_>) = effects.drain().partition(|effect| {
            matches!(effect, Effect::SendToPeer { .. } | Effect::DropPeer { .. } | Effect::SetDialing { .. })
        });
        self.random.shuffle(&mut free);
        let links_first = self.random.chance(50);
        let (first, second) = if links_first { (ordered, free) } else { (free, ordered) };
        let mut is_over = false;
        for effect in first.into_iter().chain(second) {
            match &mut self.doomed {
                Some(doomed) if doomed.node == node && doomed.effects_left == 0 => break,
                Some(doomed) if doomed.node == node => doomed.effects_left -= 1,
                Some(_) | None => {}
            }
            is_over |= self.is_last(&effect);
            self.carry_out(node, effect);
        }
        if is_over {
            self.kill(node);
        }
        if let Some(doomed) = self.doomed.take_if(|doomed| doomed.node == node && doomed.effects_left == 0)
            && self.is_up(node)
        {
            self.die(node, doomed.death);
        }
    }

    /// Whether the daemon ends after this: a stop was carried out.
    fn is_last(&self, effect: &Effect) -> bool {
        let Effect::AnswerOperator { order, answer: Answer::Done { .. } } = effect else { return false };
        self.stops.iter().any(|(_, stop)| stop == order)
    }

    fn carry_out(&mut self, node: NodeId, effect: Effect) {
        match effect {
            Effect::WriteJournal { io, offset, descriptor, payloads } => {
                let pieces = std::iter::once(Bytes::from(descriptor)).chain(payloads).collect();
                self.start_io(node, io, IoWork::Journal(offset, pieces));
            }
            Effect::FlushJournal { io } => {
                let mark = self.nodes[node.index()].metadata.flush_mark();
                self.start_io(node, io, IoWork::FlushJournal(mark));
            }
            Effect::ReadJournal { io, offset, length } => {
                self.start_io(node, io, IoWork::ReadJournal(offset, length));
            }
            Effect::WriteSuperblock { io, offset, bytes } => {
                self.start_io(node, io, IoWork::Superblock(offset, bytes.into()));
            }
            Effect::WriteBitmapPages { io, pages } => {
                let pages = pages.into_iter().map(|(offset, bytes)| (offset, bytes.into())).collect();
                self.start_io(node, io, IoWork::BitmapPages(pages));
            }
            Effect::WriteData { io, range, pieces } => {
                self.start_io(node, io, IoWork::Data(range.byte_offset(), pieces));
            }
            Effect::ZeroData { io, range, method: _ } => self.start_io(node, io, IoWork::Zero(range)),
            Effect::ReadData { io, range } => self.start_io(node, io, IoWork::ReadData(range)),
            Effect::FlushData { io } => {
                let mark = self.nodes[node.index()].data.flush_mark();
                self.start_io(node, io, IoWork::FlushData(mark));
            }
            Effect::FindAllocated { io, range } => self.start_io(node, io, IoWork::FindAllocated(range)),
            Effect::SendToPeer { peer, link, frame } => self.send_frame(node, peer, link, &frame),
            Effect::DropPeer { peer: _, link } => self.close(node, link),
            Effect::SetDialing { peer, wanted } => {
                let machine = &mut self.nodes[node.index()];
                machine.unwanted.retain(|other| *other != peer);
                if !wanted {
                    machine.unwanted.push(peer);
                }
            }
            Effect::RunFenceCommand { run, peer, knows_newest, .. } => {
                self.run_fence_command(node, peer, run, knows_newest);
            }
            Effect::Rescue { step, work } => {
                let later = self.now + self.delay(self.delays.io);
                if let Some(event) = self.nodes[node.index()].rescues.carry_out(step, work) {
                    self.tell_at(later, node, event);
                }
            }
            Effect::CompleteRequest { id, outcome } => self.complete(node, id, outcome),
            Effect::SetExport { export } => self.set_export(node, &export),
            Effect::DropClients => self.lose_clients(node),
            Effect::AnswerOperator { order, answer } => {
                self.say(|| format!("{node} answers order {}: {answer:?}", order.0));
                self.outdating_ends(order, &answer);
                self.answers.insert(order, answer);
            }
            Effect::Notify(notice) => self.note(node, notice),
        }
    }

    fn set_export(&mut self, node: NodeId, export: &ExportState) {
        let is_serving = *export == ExportState::Serving;
        if is_serving {
            self.watch.serves(node);
            let term = self.watch.seen[node.index()].superblock.membership.term;
            self.primaries.serves(node, term, self.now);
            if self.has_one_primary() {
                self.primaries.is_the_only_one(node);
            }
        }
        self.nodes[node.index()].is_serving = is_serving;
        if matches!(export, ExportState::Refused { .. }) {
            // The clients of this world do not count as connected; whoever still waits is let go.
            self.lose_clients(node);
        } else if is_serving && self.has_one_primary() {
            self.note_promotion(node);
        }
    }

    fn note(&mut self, node: NodeId, notice: Notice) {
        self.say(|| format!("{node} {}: {}", notice.name, notice.text));
        self.coverage.notice(&notice);
        self.note_history(node, &notice);
        if notice.name == "disk-state-changed" && notice.text.contains("Inconsistent") {
            // Its disk counts for nothing until it has been resynced, and begins anew then.
            self.marks[node.index()].restart();
        }
        self.notices.push((node, notice.name, notice.text));
    }

    fn send_frame(&mut self, node: NodeId, peer: NodeId, link: LinkId, frame: &OutboundFrame) {
        let frame = over_the_wire(frame);
        let frame = match self.sabotage {
            Some(sabotage) => sabotage.alters(frame),
            None => frame,
        };
        let Some(held) = self.network.links.get_mut(&link) else { return };
        let end = held.end_of(node);
        if !held.ends[end].is_open {
            return;
        }
        held.ends[end].frames_sent += 1;
        let frames = held.ends[end].frames_sent;
        self.send_item(node, link, Item::Frame(frame));
        let soon = self.now + self.random.below(50);
        self.tell_at(soon, node, Event::FramesSent { peer, link, frames });
    }

    pub(super) fn tell_at(&mut self, time: u64, node: NodeId, event: Event) {
        let run = self.nodes[node.index()].run;
        self.at(time, Happening::Tell { node, run, event: Box::new(event) });
    }

    fn start_io(&mut self, node: NodeId, io: IoId, work: IoWork) {
        let in_sync = self.recorded_in_sync(node);
        self.watch.ordered(node, io, &work, &in_sync);
        let done = self.now + self.delay(self.delays.io);
        let machine = &mut self.nodes[node.index()];
        let hangs = machine.health.holds(&work);
        machine.in_flight.insert(io, work);
        if !hangs {
            let run = machine.run;
            self.at(done, Happening::IoDone { node, run, io });
        }
    }

    /// An I/O takes effect and is reported.
    pub(super) fn finish_io(&mut self, node: NodeId, io: IoId) {
        let machine = &mut self.nodes[node.index()];
        let health = machine.health;
        let std::collections::btree_map::Entry::Occupied(entry) = machine.in_flight.entry(io) else { return };
        if health.holds(entry.get()) {
            return;
        }
        let work = entry.remove();
        let fails = machine.next_failure.take_if(|failure| failure.is_of(&work));
        if let Some(failure) = fails {
            self.fail_io(node, failure, work);
            self.tell(node, Event::IoFailed { io, errno: 5 });
            return;
        }
        let event = match health {
            DiskHealth::Failing => Event::IoFailed { io, errno: 5 },
            DiskHealth::Good | DiskHealth::Stuck | DiskHealth::DataStuck | DiskHealth::FlushesStuck
                if self.sabotage.is_some_and(|sabotage| sabotage.swallows(node, &work)) =>
            {
                Event::IoCompleted { io }
            }
            DiskHealth::Good | DiskHealth::Stuck | DiskHealth::DataStuck | DiskHealth::FlushesStuck => {
                let done = Done::of(&work);
                let event = machine.finish(io, work);
                let before = self.watch.seen[node.index()].superblock.clone();
                self.watch.done(&self.nodes, node, io, &done, self.now);
                self.note_record(node, &before);
                event
            }
        };
        self.tell(node, event);
    }

    /// The in-sync set by which a node's writes to its data area are judged: what a majority has recorded; without one,
    /// or after a promotion by force, only the node itself.
    fn recorded_in_sync(&self, node: NodeId) -> InSyncSet {
        match self.options.on_peer_lost.asks_a_majority() && self.has_one_primary() {
            true => self.recorded().in_sync,
            false => InSyncSet::of(node, Incarnation(1)),
        }
    }

    /// What an I/O that fails leaves behind.
    fn fail_io(&mut self, node: NodeId, failure: NextFailure, work: IoWork) {
        self.say(|| format!("-- a {failure:?} of {node} fails"));
        match failure {
            NextFailure::Write => self.nodes[node.index()].finish_partly(work, &mut self.random),
            NextFailure::Flush => {
                self.lose_unflushed(node);
                let machine = &mut self.nodes[node.index()];
                machine.fail_flush(&work, &mut self.random);
            }
        }
    }

    fn complete(&mut self, node: NodeId, id: RequestId, outcome: Completion) {
        let now = self.now;
        let operation = self.operations.get_mut(&id.0).expect("clients know what they asked for");
        assert!(operation.answered_at.is_none(), "violation: request {} is answered twice", id.0);
        assert_eq!(operation.node, node, "an answer comes from the node that was asked");
        if operation.lost_at.is_some() {
            return; // Its connection is gone.
        }
        operation.answered_at = Some(now);
        self.say(|| format!("{node} answers {}", id.0));
        let operation = self.operations.get_mut(&id.0).expect("it was just there");
        let (ask, asked_at) = (operation.ask, operation.asked_at);
        if let Completion::Failed(_) = outcome {
            operation.has_failed = true;
            self.branches.lost(node, id.0, now);
            return;
        }
        let answered = match outcome {
            Completion::Bytes(_) => {
                self.watch.serves(node);
                Answered::Bytes
            }
            Completion::Done | Completion::Allocation(_) | Completion::Failed(_) => Answered::Done,
        };
        if self.has_one_primary() {
            self.primaries.answers(node, answered, asked_at, now);
        }
        if ask.changes().is_some() {
            self.watch.completed(node, asked_at);
        }
        self.coverage.count(match ask {
            Ask::Read(_) => "reads checked",
            Ask::Flush => "flushes completed",
            Ask::Write(..) | Ask::Trim(..) | Ask::Zeroes(..) => "writes completed",
        });
        let members = self.members_by(node);
        match (ask, outcome) {
            (Ask::Read(range), Completion::Bytes(bytes)) => {
                self.branches.read(node, range, &bytes.concat(), [asked_at, now], members);
            }
            (Ask::Flush, Completion::Done) => self.branches.flushed(node, asked_at, members),
            (Ask::Write(..) | Ask::Trim(..) | Ask::Zeroes(..), Completion::Done) => {
                let is_flushed = ask.durability() == Durability::Flushed;
                self.branches.completed(node, id.0, now, is_flushed, members);
            }
            (ask, outcome) => panic!("violation: {ask:?} was answered with {outcome:?}"),
        }
    }

    /// Every client of a node loses its connection.
    pub(super) fn lose_clients(&mut self, node: NodeId) {
        let now = self.now;
        for (id, operation) in &mut self.operations {
            if operation.node == node && operation.is_waiting() {
                if operation.ask.changes().is_some() {
                    self.coverage.count("writes in doubt");
                }
                operation.lost_at = Some(now);
                self.branches.lost(node, *id, now);
            }
        }
    }

    pub(super) fn tell_tiebreaker(&mut self, event: TiebreakerEvent) {
        let Some(running) = &mut self.tiebreaker.running else { return };
        let mut effects = Vec::new();
        // Its clock is the world's, a little on: a tick of zero would stand for none.
        running.handle(replicator::units::Tick(self.now + 1_000_000), event, &mut effects);
        for effect in effects {
            match effect {
                TiebreakerEffect::StoreRecord { page } => {
                    self.tiebreaker.storing = Some(page);
                    let (run, done) = (self.tiebreaker.run, self.now + self.delay(self.delays.io * 4));
                    self.at(done, Happening::Stored { run });
                }
                TiebreakerEffect::Send { peer: _, link, frame } => {
                    self.send_item(self.tiebreaker.id, link, Item::Frame(over_the_wire(&frame)));
                }
                TiebreakerEffect::DropLink { peer, link, reason } => {
                    self.say(|| format!("tiebreaker drops {peer}: {reason}"));
                    self.close(self.tiebreaker.id, link);
                }
            }
        }
    }
}

impl crate::node::SimNode {
    /// Carries out an I/O on a disk that works; returns the report.
    fn finish(&mut self, io: IoId, work: IoWork) -> Event {
        match work {
            IoWork::Journal(offset, pieces) => {
                self.metadata.write(offset, &pieces);
            }
            IoWork::Superblock(offset, bytes) => self.metadata.write_through(offset, &bytes),
            IoWork::BitmapPages(pages) => {
                for (offset, bytes) in pages {
                    self.metadata.write_through(offset, &bytes);
                }
            }
            IoWork::Data(offset, pieces) => self.data.write(offset, &pieces),
            IoWork::Zero(range) => self.data.zero(range),
            IoWork::FlushJournal(mark) => self.metadata.flush(mark),
            IoWork::FlushData(mark) => self.data.flush(mark),
            IoWork::ReadJournal(offset, length) => {
                return Event::BytesRead { io, bytes: self.metadata.read(offset, length) };
            }
            IoWork::ReadData(range) => {
                return Event::BytesRead { io, bytes: self.data.read(range.byte_offset(), range.bytes()) };
            }
            IoWork::FindAllocated(range) => {
                return Event::AllocationFound { io, extents: self.extents(range) };
            }
        }
        Event::IoCompleted { io }
    }

    fn extents(&self, range: BlockRange) -> Vec<AllocatedExtent> {
        let extent = |block: u64| AllocatedExtent {
            range: ByteRange::new(block * BLOCK_BYTES, BLOCK_BYTES),
            is_hole: self.data.is_hole(block),
        };
        (range.first..range.end()).map(extent).collect()
    }
}
