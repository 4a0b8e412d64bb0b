//! A Primary whose own disk has failed: it takes itself out of the in-sync set and serves through the members that are
//! left. Their acknowledgements complete writes, their flushes make them stable, and reads are asked of one of them.
//!
//! Rule: nothing is completed without this disk before the set without it is recorded by others; what this disk says
//! counts for nothing. Every record that is not flushed by every member stays in memory, so that a member that comes
//! back without it gets it again.

use bytes::Bytes;

use crate::config::{OnNoData, ReplicationProtocol, WRITE_BACK_BYTES_MAX};
use crate::effect::{Completion, Effect, Effects, RequestError};
use crate::event::{AllocatedExtent, IoId, LinkId};
use crate::notice::Notice;
use crate::peer::message::Message;
use crate::promotion::membership::InSyncSet;
use crate::record::Record;
use crate::remote_read::RemoteReads;
use crate::state::{DiskState, Role};
use crate::units::{BlockRange, ByteRange, Lsn, NodeId};

use super::links::Peer;
use super::reign::{Reign, Standing};
use super::sending::Outbound;
use super::{IoPurpose, Replica};

/// What a Primary without a disk keeps.
#[derive(Debug, Default)]
pub(super) struct Diskless {
    /// By what its disk says it was alone, where no majority knows better: started again it would serve what it holds, so
    /// that nobody else may complete anything before.
    was_left_alone: bool,
    lender: Option<Lender>,
    reads: RemoteReads,
}

/// Whom reads are asked of: a member, by one introduction on one link. What was asked of another is asked anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Lender {
    node: NodeId,
    link: LinkId,
    introduction: u32,
}

impl Replica {
    /// The disk of a Primary has failed.
    pub(super) fn begin_diskless(&mut self) {
        self.write_back.give_up_disk();
        self.tail_move = None;
        let (local, asks) = (self.config.local, self.config.on_peer_lost.asks_a_majority());
        let is_alone = |set: &InSyncSet| set.len() == 1 && set.has_node(local);
        let was_left_alone = !asks && self.reign.as_ref().is_some_and(|reign| reign.sets().any(is_alone));
        if let Some(reign) = &mut self.reign {
            reign.forget_untold();
        }
        self.diskless = Some(Box::new(Diskless { was_left_alone, ..Diskless::default() }));
        self.ask_reads_anew();
    }

    /// Whether members other than this node may make a set without it.
    pub(super) fn may_leave_the_set(&self) -> bool {
        self.diskless.as_ref().is_some_and(|diskless| !diskless.was_left_alone)
    }

    /// Whether this node has no disk and is out of the set: what the members have counts, and nothing else.
    pub(super) fn is_served_by_members(&self) -> bool {
        let has_left = |reign: &Reign| !reign.requires(self.config.local);
        self.may_leave_the_set() && self.reign.as_ref().is_some_and(has_left)
    }

    /// Whether a Primary can serve at all, as far as disks go.
    pub(super) fn has_a_copy(&self) -> bool {
        self.disk_fault.is_none() || self.is_served_by_members()
    }

    /// The oldest record that this node can ship.
    pub(super) fn oldest_kept(&self) -> Lsn {
        match self.diskless {
            Some(_) => self.write_back.written_back().next(),
            None => self.journal.ring().oldest_kept(),
        }
    }

    /// Up to where a peer's word counts that it has flushed: after a fork it may lose what this node had not flushed
    /// itself, or what some member had not if this node has no disk. Whoever hears of it keeps to what it has itself.
    pub(super) fn flushed_in_common(&self) -> Lsn {
        match self.is_served_by_members() {
            true => self.stable.max(self.journal.flushed()),
            false => self.journal.flushed(),
        }
    }

    /// Whether neither this disk nor any other copy can be reached.
    pub(super) fn has_no_data(&self) -> bool {
        let may_help = |peer: &Peer| {
            peer.protocol.is_some_and(ReplicationProtocol::can_be_in_sync) && self.is_following(peer)
        };
        self.diskless.is_some() && !(self.may_leave_the_set() && self.peers.iter().any(may_help))
    }

    /// Why a Primary without a disk does not serve, and what ends that; nothing if members let it.
    pub(super) fn frozen_without_disk(&self, fault: &str) -> Option<(String, String)> {
        let local = format!("the local disk failed: {fault}");
        if self.has_no_data() {
            let ends = "the return of the other member of the in-sync set, with what it held; or demote this node with \
                        `--force` and promote that one";
            return Some((format!("{local}; no other copy can be reached"), ends.to_owned()));
        }
        let reign = self.reign.as_ref()?;
        if reign.requires(self.config.local) {
            let reason = format!("{local}; the in-sync set without this node is not recorded yet");
            let ends = match self.config.on_peer_lost.asks_a_majority() {
                true => "a flush of the other members and the votes of a majority without this disk",
                false => "a flush of the other members, which then record it",
            };
            return Some((reason, ends.to_owned()));
        }
        let entering = self.members_by_name().find(|peer| self.is_following(peer) && self.is_lost(peer))?;
        let name = self.name_of(entering.node);
        let reason = format!("{local}; {name} has restarted and may lack what this node has in memory");
        Some((reason, format!("its entry into the in-sync set: {name} is sent what it lacks")))
    }

    /// Members of the newest set, whatever has become of them.
    fn members_by_name(&self) -> impl Iterator<Item = &Peer> {
        self.peers.iter().filter(|peer| self.reign.as_ref().is_some_and(|reign| reign.requires(peer.node)))
    }

    /// Whether a member cannot be counted on: it is not linked, or another run, which may have lost something.
    pub(super) fn is_lost(&self, peer: &Peer) -> bool {
        let recorded = self.reign.as_ref().and_then(|reign| reign.newest().in_sync.incarnation_of(peer.node));
        recorded.is_none_or(|recorded| self.standing(peer.node, recorded) == Standing::Lost)
    }

    /// Up to where the members that stay have to flush before another one, or this node, leaves the set.
    pub(super) fn flush_wanted_of_the_rest(&self) -> Option<Lsn> {
        let reign = self.reign.as_ref().filter(|_| self.diskless.is_some())?;
        let leaves =
            reign.requires(self.config.local) || self.members_by_name().any(|peer| self.is_lost(peer));
        leaves.then_some(self.complete)
    }

    /// Whether those who stay in a set have flushed all that was completed.
    pub(super) fn have_flushed_what_is_complete(&self, in_sync: &InSyncSet) -> bool {
        let mut staying = self.peers.iter().filter(|peer| in_sync.has_node(peer.node) && !self.is_lost(peer));
        let has_flushed = |peer: &Peer| {
            peer.outbound().is_some_and(|it| it.is_started() && it.progress().flushed >= self.complete)
        };
        staying.all(has_flushed)
    }

    /// Says so when the set without this node counts, frees memory, and asks for what clients want to read.
    pub(super) fn advance_diskless(&mut self, effects: &mut Effects) {
        if self.diskless.is_none() {
            return;
        }
        if self.is_served_by_members() && self.disk != DiskState::Diskless {
            self.set_disk(DiskState::Diskless, effects);
            let names: Vec<&str> = self.members_by_name().map(|peer| self.name_of(peer.node)).collect();
            let text = format!("clients are served without the local disk, through {}", names.join(", "));
            effects.push(Effect::Notify(Notice::warning("diskless", text)));
        }
        self.release_memory();
        let lender = self.lender();
        if self.diskless.as_ref().is_some_and(|diskless| diskless.lender != lender) {
            self.ask_reads_anew();
            if let Some(diskless) = &mut self.diskless {
                diskless.lender = lender;
            }
        }
        if lender.is_some() {
            self.read_from_lender(effects);
        }
        if self.has_no_data() && self.config.on_no_data == OnNoData::Fail {
            self.fail_requests(effects);
        }
    }

    /// What every member has flushed need not be kept, once those that follow have been sent it. Some of it is, for peers
    /// that return: there is no disk to bring them up to date from.
    fn release_memory(&mut self) {
        if self.write_back.pending_bytes() <= WRITE_BACK_BYTES_MAX / 2 {
            return;
        }
        let started = self.peers.iter().filter_map(Peer::outbound).filter(|outbound| outbound.is_started());
        let sent = started.map(|outbound| outbound.next().previous()).min().unwrap_or(Lsn(u64::MAX));
        self.write_back.release(self.stable.min(sent), WRITE_BACK_BYTES_MAX / 4);
    }

    fn lender(&self) -> Option<Lender> {
        if !self.is_served_by_members() {
            return None;
        }
        // Nobody is being resynced: a node without a disk copies nothing (`give_up_shipping_from_disk`).
        let lends = |peer: &&Peer| !self.is_lost(peer) && peer.outbound().is_some_and(Outbound::is_started);
        let peer = self.members_by_name().find(lends)?;
        let link = peer.link.as_ref()?;
        Some(Lender { node: peer.node, link: link.id, introduction: link.introduction.number })
    }

    /// What was asked of the disk, or of a member that is gone, is asked anew: a read waits again for the writes that it
    /// overlaps, because by now its blocks may hold some that are not complete.
    fn ask_reads_anew(&mut self) {
        self.reads.restart();
        let forgotten = self.diskless.as_mut().map_or(Vec::new(), |diskless| diskless.reads.forget());
        for io in forgotten {
            self.numbers.ordered.remove(&io);
        }
        self.purposes.retain(|_, purpose| !matches!(purpose, IoPurpose::Edge(..)));
    }

    /// Orders what can start, over the wire instead of from the disk.
    fn read_from_lender(&mut self, effects: &mut Effects) {
        let mut orders = Effects::default();
        let numbers = &mut self.numbers;
        self.reads.advance(self.complete, &self.write_back, &mut || numbers.next(), &mut orders);
        self.read_edges(&mut orders);
        for order in orders.drain() {
            match order {
                Effect::ReadData { io, range } => self.want_blocks(io, range),
                // What a member has allocated is not asked for: all of it, as far as anybody may rely on.
                Effect::FindAllocated { io, range } => {
                    self.numbers.ordered.remove(&io);
                    let range = ByteRange::new(range.byte_offset(), range.bytes());
                    let extent = AllocatedExtent { range, is_hole: false };
                    self.reads.on_allocation(io, &[extent], self.complete, &self.write_back);
                }
                other => effects.push(other),
            }
        }
        while let Some(diskless) = &mut self.diskless
            && let Some(lender) = diskless.lender
            && let Some(request) = diskless.reads.next_request()
        {
            self.send(lender.node, &Message::ReadBlocks(request), effects);
        }
    }

    fn want_blocks(&mut self, io: IoId, range: BlockRange) {
        if let Some(diskless) = &mut self.diskless {
            diskless.reads.want(io, range);
        }
    }

    /// A member has answered a read.
    pub(super) fn on_blocks_read(&mut self, node: NodeId, blocks: &Record, effects: &mut Effects) {
        let link = self.peer(node).link.as_ref().map(|link| link.id);
        let Some(diskless) = &mut self.diskless else { return };
        if diskless.lender.is_none_or(|lender| lender.node != node || Some(lender.link) != link) {
            return; // Another one is asked by now.
        }
        match diskless.reads.on_blocks(blocks) {
            Ok(None) => {}
            Ok(Some((io, pieces))) => self.on_remote_bytes(io, pieces),
            Err(wrong) => self.drop_link(node, &wrong.to_string(), effects),
        }
    }

    fn on_remote_bytes(&mut self, io: IoId, pieces: Vec<Bytes>) {
        self.numbers.ordered.remove(&io);
        if let Some(IoPurpose::Edge(id, block)) = self.purposes.remove(&io) {
            let content = pieces.into_iter().next().expect("an edge is one block");
            self.on_edge_read(id, block, content);
        } else {
            self.reads.on_bytes(io, pieces);
        }
    }

    /// Nothing can be read or written, and clients are to hear of it. What has a number may still come to be.
    fn fail_requests(&mut self, effects: &mut Effects) {
        let writes = self.writes.take_all();
        for id in writes.into_iter().chain(self.reads.take_all()) {
            let outcome = Completion::Failed(RequestError::DiskFailed);
            effects.push(Effect::CompleteRequest { id, outcome });
        }
    }

    /// Shipping to a peer that needs something which only the disk held: the verdict is reached anew.
    pub(super) fn give_up_shipping_from_disk(&mut self, node: NodeId) {
        let is_void = |outbound: &Outbound| {
            outbound.resync().is_some() || (outbound.is_started() && outbound.next() < self.oldest_kept())
        };
        if self.role == Role::Primary && self.peer(node).outbound().is_some_and(is_void) {
            self.reintroduce_to(node);
        }
    }
}
