//! New disks and new files: a machine or the tiebreaker comes back as a voter that remembers nothing.

use replicator::layout::superblock::{DurableDisk, Superblock};
use replicator::units::{NodeId, VoterId};

use super::{TIE, World};
use crate::node::SimNode;
use crate::tiebreaker::SimTiebreaker;

/// A disk that was taken out.
#[derive(Debug)]
pub struct OldDisk {
    voter: VoterId,
    metadata: crate::sim_disk::SimDisk,
    data: crate::sim_disk::SimDisk,
}

impl World {
    /// Replaces the disk of a node, whose daemon is killed, by a new one with new metadata; returns the old one. What was
    /// on it alone is lost.
    pub fn replace_disk(&mut self, node: NodeId) -> OldDisk {
        if self.is_up(node) {
            self.kill(node);
        }
        self.say(|| format!("-- {node} gets a new disk"));
        self.coverage.count("disk replaced");
        self.lose_unflushed(node);
        let made = SimNode::create(node, DurableDisk::Inconsistent, &self.options, &mut self.random);
        let machine = &mut self.nodes[node.index()];
        let old = OldDisk {
            voter: std::mem::replace(&mut machine.voter, made.voter),
            metadata: std::mem::replace(&mut machine.metadata, made.metadata),
            data: std::mem::replace(&mut machine.data, made.data),
        };
        machine.mark = None;
        self.watch.replaced(&self.nodes, node);
        old
    }

    /// Puts a disk back that was taken out of a node, whose daemon is killed.
    pub fn put_old_disk_back(&mut self, node: NodeId, old: OldDisk) {
        if self.is_up(node) {
            self.kill(node);
        }
        self.say(|| format!("-- {node} gets its old disk back"));
        let machine = &mut self.nodes[node.index()];
        (machine.voter, machine.metadata, machine.data) = (old.voter, old.metadata, old.data);
        machine.mark = None;
        self.watch.replaced(&self.nodes, node);
    }

    /// Makes the tiebreaker's file anew; its daemon is killed.
    pub fn reinstall_tiebreaker(&mut self) {
        if self.tiebreaker.running.is_some() {
            self.kill_tiebreaker();
        }
        self.say(|| "-- the tiebreaker is installed anew".to_owned());
        self.coverage.count("tiebreaker reinstalled");
        let voter = VoterId(self.random.draw() | 1);
        let mut made = SimTiebreaker::create(self.tiebreaker.config(), TIE, voter);
        made.run = self.tiebreaker.run;
        self.tiebreaker = made;
    }

    /// The superblock of a node, by its disk.
    #[must_use]
    pub fn superblock(&self, node: NodeId) -> Superblock {
        self.nodes[node.index()].superblock()
    }

    /// Whether a voter has stored a record that names it.
    #[must_use]
    pub fn has_vote(&self, node: NodeId) -> bool {
        let voter = self.nodes.get(node.index()).map_or(self.tiebreaker.voter, |node| node.voter);
        let mut stored = self.stored_records().into_iter();
        stored.any(|(other, record)| other == node && record.voters.ids[node.index()] == voter)
    }
}
