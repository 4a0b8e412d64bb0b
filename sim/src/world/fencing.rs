//! Fence commands of the world: what they do to the peer, and when they end.

use replicator::effect::Answer;
use replicator::event::{Event, FenceEnd, FenceRun, OrderId};
use replicator::state::{DiskState, Role};
use replicator::units::NodeId;

use super::{MS, World};
use crate::fence_command::{self, FENCE_TIMEOUT, FenceCommand, Outdating};

impl World {
    pub(super) fn run_fence_command(
        &mut self,
        node: NodeId,
        peer: NodeId,
        run: FenceRun,
        knows_newest: bool,
    ) {
        let command = self.nodes[node.index()].fence_command.clone();
        self.say(|| format!("{node} runs its fence command against {peer}: {command:?}"));
        self.coverage.count("fence runs");
        let slowest = self.nodes[node.index()].fence_takes.max(1);
        let takes = if slowest == 1 { 200 * MS } else { self.random.below(slowest) };
        let is_up = self.is_up(peer);
        let end = match command {
            FenceCommand::Exits(status) => {
                self.note_lie(node, peer, status, knows_newest);
                FenceEnd::Exited(status)
            }
            FenceCommand::Shoots => {
                if is_up {
                    self.coverage.count("shot by a fence command");
                    self.cut_power(peer);
                }
                FenceEnd::Exited(7)
            }
            FenceCommand::Outdates if !is_up => FenceEnd::Exited(5),
            FenceCommand::Outdates if knows_newest => return self.begin_outdating(node, peer, run, takes),
            // Whoever may be behind outdates nobody: it looks whether the peer is outdated already.
            FenceCommand::Outdates => FenceEnd::Exited(match (self.role(peer), self.disk(peer)) {
                (Role::Primary, _) => 6,
                (_, DiskState::Outdated) => 4,
                (_, DiskState::Inconsistent) => 3,
                // A disk that has failed may hold what is missing here, and work again.
                (..) => 1,
            }),
            FenceCommand::Looks => FenceEnd::Exited(if is_up { 1 } else { 5 }),
            FenceCommand::Hangs => {
                self.coverage.count("fence commands that hang");
                let ends = self.now + FENCE_TIMEOUT.0;
                let end = FenceEnd::TimedOut(FENCE_TIMEOUT);
                return self.tell_at(ends, node, Event::FenceCommandEnded { run, end });
            }
            FenceCommand::Dies => FenceEnd::Signalled(9),
            FenceCommand::IsMissing => FenceEnd::NotRun("no such file".to_owned()),
        };
        self.tell_at(self.now + takes, node, Event::FenceCommandEnded { run, end });
    }

    /// A command says of a peer what it has not made true.
    fn note_lie(&mut self, node: NodeId, peer: NodeId, status: i32, knows_newest: bool) {
        let is_true = match status {
            3 | 4 if self.is_broken(peer) => knows_newest,
            3 => self.disk(peer) == DiskState::Inconsistent,
            4 => self.disk(peer) <= DiskState::Outdated,
            5 | 7 => !self.is_up(peer),
            6 => self.role(peer) == Role::Primary,
            _ => true,
        };
        if !is_true {
            self.say(|| format!("-- the fence command of {node} lies about {peer}"));
            self.coverage.count("fence commands that lie");
            self.branches.part_from_now_on();
        }
    }

    /// Whether a node's disk has failed: it cannot be promoted as it is, whatever it holds.
    fn is_broken(&self, node: NodeId) -> bool {
        matches!(self.disk(node), DiskState::Failed | DiskState::Diskless)
    }

    fn begin_outdating(&mut self, node: NodeId, peer: NodeId, run: FenceRun, takes: u64) {
        // Whatever becomes of the peer meanwhile, the command is killed in the end.
        let end = FenceEnd::TimedOut(FENCE_TIMEOUT);
        self.tell_at(self.now + FENCE_TIMEOUT.0, node, Event::FenceCommandEnded { run, end });
        let order = self.next_order();
        self.outdating.push(Outdating { order, node, run, takes });
        self.give(peer, order, fence_command::OUTDATE);
    }

    /// An order was answered: if a fence command has given it, that ends.
    pub(super) fn outdating_ends(&mut self, order: OrderId, answer: &Answer) {
        let ended = self.outdating.extract_if(.., |outdating| outdating.order == order).next();
        if let Some(Outdating { node, run, takes, .. }) = ended {
            let end = fence_command::said(answer);
            self.coverage.count("asked by a fence command to be outdated");
            self.tell_at(self.now + takes, node, Event::FenceCommandEnded { run, end });
        }
    }
}
