//! Carries out the orders of the replica: one arm for each effect, and nothing that decides.

use nbd_server::Access;
use replicator::effect::{Answer, Effect, ExportState};
use replicator::event::{LinkLoss, OrderId};
use replicator::notice::{Notice, Severity};
use replicator::units::Tick;

use super::{EventLoop, Life};
use crate::border::FromDataPlane;
use crate::data_plane::backing_device::Disk;
use crate::data_plane::core::Core;
use crate::data_plane::nbd_connection::NbdConnection;

impl<C: Core> EventLoop<C> {
    /// Carries out one order.
    pub(super) fn execute(&mut self, effect: Effect, now: Tick) {
        match effect {
            Effect::WriteJournal { .. }
            | Effect::FlushJournal { .. }
            | Effect::ReadJournal { .. }
            | Effect::WriteSuperblock { .. }
            | Effect::WriteBitmapPages { .. }
            | Effect::WriteData { .. }
            | Effect::ZeroData { .. }
            | Effect::ReadData { .. }
            | Effect::FlushData { .. }
            | Effect::FindAllocated { .. } => self.execute_on_disk(effect),
            Effect::SendToPeer { peer, link, frame } => {
                if let Some((connection, _)) = self.peer(peer, link) {
                    connection.push(frame);
                }
            }
            Effect::DropPeer { peer, link } => {
                if let Some((connection, round)) = self.peer(peer, link) {
                    connection.end(round, LinkLoss::Dropped);
                }
            }
            Effect::Rescue { step, work } => {
                self.round.events.extend(self.parts.rescue.order(step, work));
            }
            Effect::SetDialing { peer, wanted } => self.tell(FromDataPlane::Dialing { peer, wanted }),
            Effect::RunFenceCommand { run, peer, disk, knows_newest, role } => {
                self.tell(FromDataPlane::Fence { run, peer, disk, knows_newest, role });
            }
            Effect::CompleteRequest { id, outcome } => {
                let client = NbdConnection::client_of(id);
                self.budget.on_request_ended(id);
                // A client that is gone left its requests behind.
                if let Some(connection) = self.clients.get_mut(&client) {
                    connection.complete(id, outcome, now);
                    if self.touched.last() != Some(&client) {
                        self.touched.push(client);
                    }
                }
            }
            Effect::SetExport { export } => {
                self.serves = match export {
                    ExportState::Serving => Some(Access::ReadWrite),
                    ExportState::AsWas { .. } => Some(Access::ReadOnly),
                    ExportState::Refused { .. } => None,
                };
                self.tell(FromDataPlane::Export(export));
            }
            Effect::DropClients => {
                self.budget.on_requests_forgotten();
                for (id, connection) in &mut self.clients {
                    connection.end(now);
                    self.touched.push(*id);
                }
            }
            Effect::AnswerOperator { order, answer } => self.answers.push((order, answer)),
            Effect::Notify(notice) => self.notify(notice),
        }
    }

    fn execute_on_disk(&mut self, effect: Effect) {
        let (disks, round) = (&mut self.parts.disks, &mut self.round);
        match effect {
            Effect::WriteJournal { io, offset, descriptor, payloads } => {
                disks.write_journal(round, io, offset, &descriptor, payloads);
            }
            Effect::FlushJournal { io } => disks.flush(round, io, Disk::Metadata),
            Effect::ReadJournal { io, offset, length } => {
                disks.read(round, io, Disk::Metadata, offset, length)
            }
            Effect::WriteSuperblock { io, offset, bytes } => {
                disks.write_pages(round, io, &[(offset, &bytes)])
            }
            Effect::WriteBitmapPages { io, pages } => {
                let pages: Vec<_> = pages.iter().map(|(offset, bytes)| (*offset, bytes.as_slice())).collect();
                disks.write_pages(round, io, &pages);
            }
            Effect::WriteData { io, range, pieces } => disks.write_data(round, io, range, pieces),
            Effect::ZeroData { io, range, method } => disks.zero_data(round, io, range, method),
            Effect::ReadData { io, range } => {
                disks.read(round, io, Disk::Data, range.byte_offset(), range.bytes())
            }
            Effect::FlushData { io } => disks.flush(round, io, Disk::Data),
            Effect::FindAllocated { io, range } => disks.find_allocated(round, io, range),
            Effect::SendToPeer { .. }
            | Effect::DropPeer { .. }
            | Effect::SetDialing { .. }
            | Effect::RunFenceCommand { .. }
            | Effect::Rescue { .. }
            | Effect::CompleteRequest { .. }
            | Effect::SetExport { .. }
            | Effect::DropClients
            | Effect::AnswerOperator { .. }
            | Effect::Notify(_) => panic!("{effect:?} is no order to a disk"),
        }
    }

    /// Routes an answer to whoever asked. The answer to an order to stop ends the loop, unless it is a refusal.
    pub(super) fn answer(&mut self, order: OrderId, answer: Answer) {
        if self.life == Life::Stopping(order) {
            self.life = match answer {
                Answer::Done { .. } => Life::Stopped,
                Answer::Refused(_) | Answer::Explained(_) => Life::Running,
            };
        }
        if let Some(asker) = self.orders.remove(&order) {
            // Whoever asked may have given up.
            let _ = asker.send(answer);
        }
    }

    fn notify(&mut self, notice: Notice) {
        let (resource, name, text) = (&self.parts.resource, notice.name, &notice.text);
        match notice.severity {
            Severity::Info => tracing::info!(resource, name, "{text}"),
            Severity::Warning => tracing::warn!(resource, name, "{text}"),
            Severity::Error => tracing::error!(resource, name, "{text}"),
        }
        self.tell(FromDataPlane::Notice(notice));
    }
}
