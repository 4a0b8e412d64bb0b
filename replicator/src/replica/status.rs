//! The snapshot that `twinblk status` prints, and the advice that goes with it.

use crate::config::{OnNoData, OnPeerLost};
use crate::generation::compare::divergence;
use crate::peer::message::PeerState;
use crate::promotion::ballot;
use crate::promotion::membership::{Member, MembershipRecord};
use crate::promotion::preconditions;
use crate::state::{ConnectionState, DiskState, ReplicationState, Role};
use crate::status_report::{
    Advice, CanPromote, ConnectionReport, DeviceReport, FrozenReport, InSyncReport, JournalReport, LsnReport,
    PathReport, PeerDeviceReport, SplitBrainReport, StatusReport, TiebreakerReport,
};
use crate::units::{BLOCK_BYTES, Lsn, NodeId, Tick, bytes_u64};

use super::Replica;
use super::discard::Discard;
use super::links::{Peer, Replication};

const SEE_FAILOVER: &str = "docs/operating/failover.md";
const SEE_SPLIT_BRAIN: &str = "docs/operating/split-brain.md";
const SEE_DISK: &str = "docs/operating/replace-disk.md";

impl Replica {
    /// A snapshot of everything that an operator can know.
    #[must_use]
    pub fn status(&self, now: Tick) -> StatusReport {
        let content = self.superblock.content();
        let record = &content.membership;
        let (frozen, has_no_data) = (self.frozen(), self.has_no_data());
        let in_sync = record.in_sync.iter().map(|(node, incarnation)| InSyncReport {
            name: self.name_of(node).to_owned(),
            member: Member { node, incarnation },
        });
        StatusReport {
            schema: 1,
            name: self.config.resource.clone(),
            node_id: self.config.local,
            node_name: self.name_of(self.config.local).to_owned(),
            role: self.role,
            suspended: frozen.is_some(),
            suspended_user: false,
            suspended_no_data: has_no_data,
            suspended_fencing: frozen.is_some()
                && !has_no_data
                && self.config.on_peer_lost == OnPeerLost::Fence,
            suspended_quorum: frozen.is_some()
                && !has_no_data
                && self.config.on_peer_lost == OnPeerLost::Quorum,
            serves_as_was: self.serves_as_was,
            force_io_failures: false,
            write_ordering: "flush",
            devices: vec![self.device_report()],
            connections: self
                .peers
                .iter()
                .filter(|peer| peer.is_replica())
                .map(|peer| self.connection_report(peer, now))
                .collect(),
            tiebreaker: self.peers.iter().find(|peer| !peer.is_replica()).map(|peer| TiebreakerReport {
                connection_state: connection_state(peer),
                reason: peer.reason().filter(|_| peer.link.is_none()).map(str::to_owned),
            }),
            term: record.term,
            record_version: record.version,
            record_primary: record.primary.map(|node| self.name_of(node).to_owned()),
            in_sync: in_sync.collect(),
            lineage: content.lineage.generations().to_vec(),
            lsn: LsnReport {
                assigned: self.assigned(),
                journaled: self.journal.journaled(),
                durable: self.journal.flushed(),
                complete: self.complete,
                stable: self.stable,
                // What is released without a disk is in no data area of this node.
                written_back: self.write_back.written_back().min(self.journal.flushed()),
                oldest_kept: self.journal.ring().oldest_kept(),
            },
            frozen: frozen.map(|(reason, ends_by)| FrozenReport {
                reason,
                since_ms: now.since(self.frozen_since.unwrap_or(now)).as_millis(),
                ends_by,
            }),
            can_promote: self.can_promote(),
            journal: JournalReport {
                size: self.journal.ring().capacity_bytes(),
                used: self.journal.ring().used_bytes(),
            },
            advice: self.advice(),
        }
    }

    fn device_report(&self) -> DeviceReport {
        let (journal_ios, batches) = self.journal.counters();
        let ios = bytes_u64(self.purposes.len() + self.reads.disk_reads());
        DeviceReport {
            volume: 0,
            disk_state: self.disk,
            client: false,
            open: self.clients > 0,
            clients: self.clients,
            quorum: self.has_quorum(),
            size: self.config.volume_bytes >> 10,
            read: self.reads.answered_bytes() >> 10,
            written: self.written_bytes >> 10,
            al_writes: batches,
            bm_writes: self.bitmap.pages_written(),
            upper_pending: bytes_u64(self.writes.len() + self.reads.len()),
            lower_pending: journal_ios + ios,
        }
    }

    /// Whether this node and the voters that it is linked to are a majority.
    pub(super) fn has_quorum(&self) -> bool {
        if !self.config.on_peer_lost.asks_a_majority() {
            return true; // Nobody votes.
        }
        let linked = self.peers.iter().filter(|peer| self.has_seat(peer.node)).count();
        linked + 1 >= self.config.majority()
    }

    fn connection_report(&self, peer: &Peer, now: Tick) -> ConnectionReport {
        let outbound = peer.outbound();
        let is_equal = self.is_established(peer) && self.peer_disk(peer) == DiskState::UpToDate;
        // What is marked dirty is counted in blocks, the rest in records.
        let counted = peer.acknowledged.max(if peer.has_dirty_bits { peer.marked } else { Lsn::ZERO });
        let behind = match outbound {
            Some(outbound) => self.assigned().since(counted.max(outbound.progress().journaled)),
            // Nobody writes, and both hold the same.
            None if is_equal => 0,
            None => self.assigned().since(counted),
        };
        // Each write that it lacks is of a block at least; there are no more blocks than the volume has.
        let volume_kib = self.config.volume_bytes >> 10;
        let known = (self.records_bytes(behind) >> 10) + self.dirty_kib(peer);
        let told = self.lacks_of(peer).map(|bytes| bytes >> 10);
        let out_of_sync = told.unwrap_or(known).min(volume_kib);
        let details = self.sync_details(peer, now);
        let in_flight = outbound.map_or(0, super::sending::Outbound::unreceived_bytes);
        let is_sync_source = self.replication_state(peer) == ReplicationState::SyncSource;
        let unacked = self
            .inbound
            .as_ref()
            .filter(|inbound| inbound.from == peer.node)
            .map_or(0, |inbound| inbound.unacknowledged(self.journal.journaled()));
        let percent = 100.0 - 100.0 * as_f64(out_of_sync) / as_f64(volume_kib);
        ConnectionReport {
            peer_node_id: peer.node,
            name: self.name_of(peer.node).to_owned(),
            connection_state: connection_state(peer),
            congested: outbound.is_some_and(super::sending::Outbound::is_congested),
            peer_role: peer.role,
            tls: false,
            ap_in_flight: if is_sync_source { 0 } else { in_flight },
            rs_in_flight: if is_sync_source { in_flight } else { 0 },
            protocol: peer.protocol.unwrap_or_default(),
            reason: peer.reason().map(str::to_owned),
            paths: vec![PathReport {
                this_host: self.config.replicas[self.config.local.index()].address.clone(),
                remote_host: self.config.replicas[peer.node.index()].address.clone(),
                established: peer.link.is_some(),
            }],
            rule: peer.rule.map(|verdict| verdict.to_string()),
            split_brain: self.split_brain_report(peer),
            refused_frames: peer.refused_frames,
            peer_devices: vec![PeerDeviceReport {
                volume: 0,
                replication_state: self.replication_state(peer),
                peer_disk_state: self.peer_disk(peer),
                peer_client: false,
                resync_suspended: self.resync_suspended(peer),
                received: peer.received_bytes >> 10,
                sent: peer.sent_bytes >> 10,
                out_of_sync,
                caught_up: outbound.map_or(0, super::sending::Outbound::caught_up_bytes) >> 10,
                pending: outbound.map_or(0, |_| behind.min(in_flight / BLOCK_BYTES + 1)),
                unacked,
                has_sync_details: details.is_some(),
                details,
                has_online_verify_details: false,
                percent_in_sync: percent,
                acknowledged: peer.acknowledged,
                flushed: peer.flushed,
                has_dirty_bits: peer.has_dirty_bits,
            }],
        }
    }

    fn split_brain_report(&self, peer: &Peer) -> Option<SplitBrainReport> {
        let discard = self.discard.as_deref().filter(|discard| discard.peer == peer.node);
        let stopped = || self.split_states(peer.node).and_then(|(ours, theirs)| divergence(ours, theirs));
        let found = discard.and_then(|discard| discard.divergence).or_else(stopped)?;
        let kib = |blocks: u64| blocks * (BLOCK_BYTES >> 10);
        Some(SplitBrainReport {
            fork: found.fork,
            own_writes: found.our_writes,
            peer_writes: found.their_writes,
            discarding: discard.map(Discard::stage_name),
            saved: kib(discard.map_or(0, |discard| discard.saved_blocks)),
            to_save: kib(discard.map_or(0, |discard| discard.changed.count())),
            policy_failed: peer.link.as_ref().and_then(|link| link.policy_failed.clone()),
        })
    }

    /// What is marked dirty for a peer, or left to be copied to it, KiB.
    fn dirty_kib(&self, peer: &Peer) -> u64 {
        let left = peer.outbound().and_then(|outbound| outbound.resync()?.left());
        let marked = || {
            let slot = self.superblock.content().peer(peer.node).filter(|_| peer.has_dirty_bits);
            slot.map_or(0, |slot| self.bitmap.count(slot.bitmap_slot))
        };
        left.unwrap_or_else(marked) * (BLOCK_BYTES >> 10)
    }

    /// What goes on with a peer, in DRBD's words.
    pub(super) fn replication_state(&self, peer: &Peer) -> ReplicationState {
        let Some(link) = &peer.link else { return ReplicationState::Off };
        match &link.replication {
            Replication::Introducing | Replication::Stopped => ReplicationState::Off,
            Replication::Idle => ReplicationState::Established,
            Replication::Source(_)
                if self.reign.as_ref().is_some_and(|reign| reign.in_sync().has_node(peer.node)) =>
            {
                ReplicationState::Established
            }
            Replication::Source(outbound) if !self.can_be_in_sync(peer) && outbound.is_live() => {
                ReplicationState::Established
            }
            Replication::Source(_) => ReplicationState::SyncSource,
            Replication::Target if self.disk == DiskState::UpToDate || self.is_mirrored_by(peer) => {
                ReplicationState::Established
            }
            Replication::Target => ReplicationState::SyncTarget,
        }
    }

    pub(super) fn can_be_in_sync(&self, peer: &Peer) -> bool {
        peer.protocol.is_some_and(crate::config::ReplicationProtocol::can_be_in_sync)
    }

    /// Whether this node follows a Primary on protocol A or B, and has what that one held when they met. It is never in
    /// the in-sync set, and its disk is never called UpToDate.
    pub(super) fn is_mirrored_by(&self, peer: &Peer) -> bool {
        // What is mirrored beside a resync makes no whole copy.
        let is_whole = self.disk > DiskState::Inconsistent && self.superblock.content().resync.is_none();
        let has_caught_up =
            |state: &PeerState| state.role == Role::Primary && self.journal.journaled() >= state.end;
        let is_asynchronous = peer.is_source_of_us() && !self.can_be_in_sync(peer);
        is_asynchronous && is_whole && peer.introduced().is_some_and(has_caught_up)
    }

    pub(super) fn is_established(&self, peer: &Peer) -> bool {
        self.replication_state(peer) == ReplicationState::Established
    }

    /// The peer's disk as the peer says, or as the record of this reign knows better.
    pub(super) fn peer_disk(&self, peer: &Peer) -> DiskState {
        let is_member = self.reign.as_ref().is_some_and(|reign| reign.in_sync().has_node(peer.node));
        match peer.disk {
            DiskState::Consistent | DiskState::Outdated if is_member && peer.link.is_some() => {
                DiskState::UpToDate
            }
            other => other,
        }
    }

    pub(super) fn can_promote(&self) -> CanPromote {
        if self.role == Role::Primary {
            return CanPromote { yes: false, because: "it is Primary already".to_owned() };
        }
        if let Err(refused) = self.may_try_promotion() {
            return CanPromote { yes: false, because: refused.reason };
        }
        if !self.config.on_peer_lost.asks_a_majority() {
            return self.can_promote_without_votes();
        }
        let record = self.record_to_follow();
        let own = record.in_sync.incarnation_of(self.config.local);
        let is_member = record.is_empty()
            || record.in_sync.is_continued_by(self.config.local, self.incarnation, self.continues);
        match (self.has_quorum(), is_member) {
            (false, _) => CanPromote { yes: false, because: "no majority of the voters can be reached".to_owned() },
            (true, true) => CanPromote { yes: true, because: "this node is in the in-sync set and a majority can be reached".to_owned() },
            (true, false) if own.is_none() => CanPromote {
                yes: false,
                because: "by the voters' record this node is not in the in-sync set: another one may hold newer writes".to_owned(),
            },
            (true, false) if self.living_member(record).is_some() => CanPromote {
                yes: false,
                because: "this node cannot prove that it lost nothing, and another member of the in-sync set lives".to_owned(),
            },
            (true, false) => CanPromote {
                yes: true,
                because: "this node cannot prove that it lost nothing; the other members of the in-sync set must report".to_owned(),
            },
        }
    }

    /// Where nobody votes: whether this copy is known to be the newest, and what has to happen to a lost peer.
    fn can_promote_without_votes(&self) -> CanPromote {
        let unreachable: Vec<&str> = self.unreachable_replicas().map(|node| self.name_of(node)).collect();
        let knows_newest = self.knows_newest(self.record());
        let is_somebody_gone = self.replaced_members(self.record()).next().is_some();
        let (yes, because) = match (&knows_newest, unreachable.is_empty(), self.config.on_peer_lost) {
            (Err(why), true, _) if is_somebody_gone => (false, why.clone()),
            (_, true, _) => (true, "every other replica is linked, and will be asked".to_owned()),
            (Ok(()), false, OnPeerLost::Fence) => {
                (true, format!("no copy is newer; {} will be fenced first", unreachable.join(", ")))
            }
            (Ok(()), false, _) => (true, "no copy is newer, as far as this node can know".to_owned()),
            (Err(why), false, OnPeerLost::Fence) => (
                false,
                format!("{why}, unless the fence command says that {} is outdated", unreachable.join(", ")),
            ),
            (Err(why), false, _) => (false, why.clone()),
        };
        CanPromote { yes, because }
    }

    /// The record that a promotion would have to follow, as far as linked voters have shown theirs.
    pub(super) fn record_to_follow(&self) -> &MembershipRecord {
        let heard = self.peers.iter().filter(|peer| self.is_heard(peer.node));
        let shown = heard.filter_map(|peer| peer.link.as_ref()?.record_shown.as_ref());
        ballot::record_to_follow(&self.config, shown.chain([self.record()]))
    }

    /// A linked node that a record names and that has lost nothing since: it alone may be promoted.
    fn living_member(&self, record: &MembershipRecord) -> Option<NodeId> {
        let lives = |peer: &&Peer| {
            peer.introduced().is_some_and(|state| {
                record.in_sync.is_continued_by(peer.node, state.incarnation, state.continues)
            })
        };
        self.peers.iter().find(lives).map(|peer| peer.node)
    }

    /// Whether the voters' record names others only.
    fn is_left_out(&self) -> bool {
        !self.record().is_empty() && !self.record().in_sync.has_node(self.config.local)
    }

    fn advice(&self) -> Vec<Advice> {
        let mut advice = Vec::new();
        advice.extend(self.disk_fault.as_ref().map(|fault| self.advice_on_failed_disk(fault)));
        advice.extend(self.frozen().map(|(reason, ends_by)| self.advice_on_freeze(&reason, &ends_by)));
        if !self.has_quorum() && self.frozen().is_none() {
            advice.push(Advice {
                state: "quorum-lost",
                status: "No majority of the voters can be reached from here; nothing can be promoted."
                    .to_owned(),
                action: "Start the other node or the tiebreaker, or mend the network.".to_owned(),
                see: SEE_FAILOVER,
            });
        }
        for peer in &self.peers {
            advice.extend(self.advice_on_new_voter(peer));
            advice.extend(self.advice_on(peer));
        }
        if self.is_new_here() {
            advice.push(Advice {
                state: "voter-new",
                status:
                    "This node has new metadata: its vote does not count until a Primary has taken it in."
                        .to_owned(),
                action: "None while a Primary and a majority of the other voters run.".to_owned(),
                see: SEE_DISK,
            });
        }
        advice.extend(self.advice_on_own_disk());
        advice
    }

    fn advice_on_failed_disk(&self, fault: &str) -> Advice {
        let status = format!("The local disk failed and is not used any more: {fault}.");
        let (served, not_served) = (
            "Demote this node when it suits, promote another, replace the disk.",
            "Promote another node, replace the disk, make new metadata.",
        );
        match self.is_served_by_members() {
            true => Advice { state: "diskless", status, action: served.to_owned(), see: SEE_DISK },
            false => Advice { state: "disk-failed", status, action: not_served.to_owned(), see: SEE_DISK },
        }
    }

    fn advice_on_freeze(&self, reason: &str, ends_by: &str) -> Advice {
        let action = format!("It ends by {ends_by}.");
        let status = match self.config.on_no_data {
            OnNoData::Fail if self.has_no_data() => format!("Every request fails with EIO: {reason}."),
            OnNoData::Fail | OnNoData::Freeze => format!("All I/O waits; nothing fails: {reason}."),
        };
        match self.has_no_data() {
            true => Advice { state: "suspended-no-data", status, action, see: SEE_DISK },
            false => Advice { state: "frozen", status, action, see: SEE_FAILOVER },
        }
    }

    /// What is out of the ordinary about the local copy; a failed disk has its advice already.
    fn advice_on_own_disk(&self) -> Option<Advice> {
        let resource = &self.config.resource;
        let is_target = |peer: &&Peer| self.replication_state(peer) == ReplicationState::SyncTarget;
        if let Some(source) = self.peers.iter().find(is_target) {
            return Some(Advice {
                state: "sync-target",
                status: format!(
                    "This node catches up from {} and cannot be promoted before it has.",
                    self.name_of(source.node)
                ),
                action: format!("None. `twinblk wait-sync {resource}` returns when it is done."),
                see: SEE_FAILOVER,
            });
        }
        if self.peers.iter().any(|peer| self.is_mirrored_by(peer)) {
            return None; // As good as a copy on protocol A or B can be.
        }
        let (state, status, action, see) = match self.disk {
            DiskState::UpToDate | DiskState::Failed | DiskState::Diskless | DiskState::DUnknown => {
                return None;
            }
            DiskState::Inconsistent => (
                "disk-inconsistent",
                "The local disk holds no usable copy.",
                "Connect to a node that has one.".to_owned(),
                SEE_DISK,
            ),
            DiskState::Consistent if self.is_left_out() => (
                preconditions::DISK_OUTDATED,
                "By the voters' record this node is not in the in-sync set: another one may hold newer writes.",
                "Connect to that node; this one then catches up by itself.".to_owned(),
                SEE_FAILOVER,
            ),
            DiskState::Outdated => (
                "disk-outdated",
                "The local disk lacks completed writes that another node holds.",
                "Connect to that node; this one then catches up by itself.".to_owned(),
                SEE_FAILOVER,
            ),
            DiskState::Consistent => (
                "disk-consistent",
                "Whether the local disk holds every completed write is not known without the other nodes.",
                format!("Connect to them; or `twinblk promote {resource}`, which asks the voters."),
                SEE_FAILOVER,
            ),
        };
        Some(Advice { state, status: status.to_owned(), action, see })
    }

    fn advice_on_new_voter(&self, peer: &Peer) -> Option<Advice> {
        let why = self.waits_for_a_seat(peer)?;
        Some(Advice {
            state: "new-voter",
            status: format!("{}: {}.", self.name_of(peer.node), why.reason),
            action: why.action.unwrap_or_default(),
            see: SEE_DISK,
        })
    }

    fn advice_on(&self, peer: &Peer) -> Option<Advice> {
        let name = self.name_of(peer.node);
        let reason = peer.reason().unwrap_or("it has not answered yet");
        let known = peer.trouble.as_ref().and_then(|trouble| trouble.action.clone());
        match connection_state(peer) {
            ConnectionState::StandAlone => Some(Advice {
                state: "stand-alone",
                status: match peer.link.as_ref().and_then(|link| link.policy_failed.as_ref()) {
                    Some(failed) => format!(
                        "No replication with {name}: {reason}. The policy could not be carried out: {failed}."
                    ),
                    None => format!("No replication with {name}: {reason}."),
                },
                action: known.unwrap_or_else(|| {
                    format!("Remove the cause, then `twinblk connect {}`.", self.config.resource)
                }),
                see: SEE_SPLIT_BRAIN,
            }),
            ConnectionState::Connecting => Some(Advice {
                state: "not-connected",
                status: format!("No link to {name}: {reason}."),
                see: if known.is_some() { SEE_SPLIT_BRAIN } else { SEE_FAILOVER },
                action: known.unwrap_or_else(|| {
                    "None if it is down on purpose; else look at its log and at the network.".to_owned()
                }),
            }),
            ConnectionState::Connected if self.replication_state(peer) == ReplicationState::SyncSource => {
                Some(Advice {
                    state: "catching-up",
                    status: format!("{name} is catching up; its disk is an older consistent state."),
                    action: format!(
                        "None. `twinblk wait-sync {}` returns when it is done.",
                        self.config.resource
                    ),
                    see: SEE_FAILOVER,
                })
            }
            ConnectionState::Connected => None,
        }
    }
}

/// The state of a link, in DRBD's words.
pub(super) fn connection_state(peer: &Peer) -> ConnectionState {
    match &peer.link {
        _ if !peer.wanted => ConnectionState::StandAlone,
        None => ConnectionState::Connecting,
        Some(link) if matches!(link.replication, Replication::Stopped) => ConnectionState::StandAlone,
        Some(_) => ConnectionState::Connected,
    }
}

/// For percentages only.
#[expect(clippy::cast_precision_loss, reason = "a percentage needs no more")]
fn as_f64(number: u64) -> f64 {
    number as f64
}
