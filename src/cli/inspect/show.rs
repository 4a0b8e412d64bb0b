//! Metadata in words and as JSON. Both show every field of the superblock; identities are hexadecimal.

use std::fmt::Write;

use replicator::journal::recovery::RecoveryPlan;
use replicator::journal::recovery_case::RecoveryCase;
use replicator::layout::superblock::{DurableDisk, PeerSlot, Superblock, SuperblockError};
use replicator::layout::zones::{Zone, ZoneKind, ZoneState};
use replicator::promotion::membership::VoterList;
use replicator::units::VoterId;
use serde_json::{Value, json};

use super::Found;
use crate::config_file::values::show_size;

/// Version of the JSON.
const SCHEMA: u32 = 1;

/// As JSON.
pub fn json(found: &Found) -> Value {
    let copies: Vec<Value> = found
        .copies
        .iter()
        .map(|wrong| {
            json!({
                "valid": wrong.is_none(),
                "reason": wrong.as_ref().map(SuperblockError::to_string),
            })
        })
        .collect();
    json!({
        "schema": SCHEMA,
        "path": found.path,
        "offset": found.offset,
        "copies": copies,
        "superblock": superblock_json(&found.superblock),
        "journal": match &found.journal {
            Ok(plan) => journal_json(plan),
            Err(reason) => json!({ "unreadable": reason }),
        },
    })
}

fn superblock_json(superblock: &Superblock) -> Value {
    let Superblock {
        sequence,
        resource,
        node,
        voter,
        volume_bytes,
        max_peers,
        zones,
        disk,
        flags,
        resync,
        consistent_at,
        membership,
        incarnation_recorded,
        incarnation,
        pins,
        lineage,
        peers,
        journal,
    } = superblock;
    let zones: Vec<Value> = zones.all().iter().map(|zone| json!({
        "kind": zone_name(zone), "state": state_name(zone.state), "offset": zone.offset, "length": zone.length,
    })).collect();
    let members: Vec<Value> = membership
        .in_sync
        .iter()
        .map(|(node, incarnation)| json!({"node": node, "incarnation": incarnation}))
        .collect();
    json!({
        "sequence": sequence,
        "resource": resource.as_str(),
        "node": node,
        "voter": voter,
        "volume-bytes": volume_bytes,
        "max-peers": max_peers,
        "zones": zones,
        "disk": disk_name(*disk),
        "flags": {
            "ended-as-primary": flags.ended_as_primary,
            "stopped-cleanly": flags.stopped_cleanly,
            "journal-nonvolatile": flags.journal_nonvolatile,
        },
        "resync": resync.as_ref().map(|resync| json!({
            "generation": resync.generation, "lsn": resync.lsn, "source": resync.source,
        })),
        "consistent-at": consistent_at,
        "record": {
            "term": membership.term,
            "version": membership.version,
            "primary": membership.primary,
            "in-sync": members,
            "voters": voters_json(&membership.voters),
        },
        "incarnation": incarnation,
        "incarnation-recorded": incarnation_recorded,
        "pins": voters_json(pins),
        "lineage": lineage,
        "peers": peers.iter().filter(|peer| peer.node.is_some()).map(peer_json).collect::<Vec<_>>(),
        "journal": {
            "tail-offset": journal.tail_offset,
            "tail-lsn": journal.tail_lsn,
            "tail-generation": journal.tail_generation,
            "predecessor": format!("{:08x}", journal.predecessor.0),
            "session": journal.session,
            "session-first-lsn": journal.session_first_lsn,
            "data-flushed": journal.data_flushed,
        },
    })
}

fn voters_json(list: &VoterList) -> Value {
    let known = list.ids.iter().enumerate().filter(|(_, id)| **id != VoterId::default());
    known.map(|(node, id)| json!({ "node": node, "voter": id })).collect()
}

fn peer_json(peer: &PeerSlot) -> Value {
    json!({
        "node": peer.node,
        "base-generation": peer.base_generation,
        "base-lsn": peer.base_lsn,
        "acknowledged": peer.acknowledged,
        "bitmap-slot": peer.bitmap_slot,
        "has-dirty-bits": peer.has_dirty_bits,
        "has-cleared": peer.has_cleared,
    })
}

fn journal_json(plan: &RecoveryPlan) -> Value {
    json!({
        "case": case_name(plan.verdict),
        "end": plan.end,
        "end-generation": plan.end_generation,
        "flushed-up-to": plan.flushed_up_to,
        "written-back-up-to": plan.written_back_up_to,
        "records-to-replay": plan.replay.len(),
        "blocks-to-replay": plan.replay.iter().map(|(_, record)| record.range.count).sum::<u64>(),
    })
}

/// In words.
pub fn text(found: &Found) -> String {
    let mut lines = Vec::new();
    let superblock = &found.superblock;
    lines.push(format!(
        "resource: {}   node number: {}   disk: {}   size: {}",
        superblock.resource,
        superblock.node.0,
        disk_name(superblock.disk),
        show_size(superblock.volume_bytes)
    ));
    lines.push(format!(
        "metadata: {} from byte {}   voter: {}",
        found.path.display(),
        found.offset,
        superblock.voter
    ));
    for (number, wrong) in found.copies.iter().enumerate() {
        match wrong {
            None if superblock.copy_index() == number => {
                lines.push(format!("superblock copy {number}: sequence {}, the newest", superblock.sequence));
            }
            None => lines.push(format!("superblock copy {number}: valid, older")),
            Some(wrong) => lines.push(format!("superblock copy {number}: {wrong}")),
        }
    }
    lines.extend(state_lines(superblock));
    lines.extend(record_lines(superblock));
    lines.push("generations, oldest first:".to_owned());
    if superblock.lineage.is_empty() {
        lines.push("  none: this disk never held data".to_owned());
    }
    for generation in superblock.lineage.generations() {
        let granted = if generation.granted { "granted" } else { "not granted" };
        lines.push(format!(
            "  {}   term {}, {granted}   from Lsn {}",
            generation.id, generation.term, generation.first_lsn
        ));
    }
    lines.extend(peer_lines(superblock));
    lines.extend(journal_lines(found));
    lines.push("zones:".to_owned());
    lines.extend(superblock.zones.all().iter().map(zone_line));
    lines.join("\n") + "\n"
}

fn state_lines(superblock: &Superblock) -> Vec<String> {
    let flags = superblock.flags;
    let named = [
        (flags.ended_as_primary, "ended as Primary"),
        (flags.stopped_cleanly, "stopped cleanly"),
        (flags.journal_nonvolatile, "journal non-volatile"),
    ];
    let set: Vec<&str> = named.iter().filter(|(set, _)| *set).map(|(_, name)| *name).collect();
    let flags = if set.is_empty() { "none".to_owned() } else { set.join(", ") };
    let mut lines = vec![
        format!("flags: {flags}"),
        format!("incarnation: {}   recorded: {}", superblock.incarnation, superblock.incarnation_recorded),
    ];
    if let Some(resync) = superblock.resync {
        let source =
            resync.source.map_or("a node that has copied nothing yet".to_owned(), |node| node.to_string());
        lines.push(format!(
            "resync: not finished, from {source}; counts as Lsn {} of generation {}",
            resync.lsn, resync.generation
        ));
    }
    lines
}

fn record_lines(superblock: &Superblock) -> Vec<String> {
    let record = &superblock.membership;
    if record.is_empty() {
        return vec!["voters' record: empty, nobody was ever promoted".to_owned()];
    }
    let primary = record.primary.map_or("nobody".to_owned(), |node| node.to_string());
    let members: Vec<String> =
        record.in_sync.iter().map(|(node, incarnation)| format!("{node} ({incarnation})")).collect();
    vec![
        format!("voters' record: term {} version {}   Primary: {primary}", record.term, record.version),
        format!("  in sync: {}", members.join(", ")),
        format!("  voters: {}", voters_text(&record.voters)),
        format!("  pinned here: {}", voters_text(&superblock.pins)),
    ]
}

fn voters_text(list: &VoterList) -> String {
    let known = list.ids.iter().enumerate().filter(|(_, id)| **id != VoterId::default());
    let known: Vec<String> = known.map(|(node, id)| format!("{node}={id}")).collect();
    if known.is_empty() { "none".to_owned() } else { known.join(" ") }
}

fn peer_lines(superblock: &Superblock) -> Vec<String> {
    let mut lines = vec![format!("peers: room for {}", superblock.max_peers)];
    for peer in &superblock.peers {
        let Some(node) = peer.node else { continue };
        let dirty = if peer.has_dirty_bits { "has dirty blocks" } else { "no dirty blocks" };
        lines.push(format!(
            "  {node}: flushed up to Lsn {} of generation {}, acknowledged {}; bitmap {}, {dirty}",
            peer.base_lsn, peer.base_generation, peer.acknowledged, peer.bitmap_slot
        ));
    }
    lines
}

fn journal_lines(found: &Found) -> Vec<String> {
    let anchor = &found.superblock.journal;
    let mut lines = vec![format!(
        "journal: {} from Lsn {} at byte {}   session {} from Lsn {}   data flushed up to Lsn {}",
        show_size(found.superblock.zones.journal().length),
        anchor.tail_lsn,
        anchor.tail_offset,
        anchor.session,
        anchor.session_first_lsn,
        anchor.data_flushed
    )];
    match &found.journal {
        Err(reason) => lines.push(format!("  cannot be read: {reason}")),
        Ok(plan) => {
            lines.push(format!(
                "  recovery: {}, ends at Lsn {} of generation {}",
                case_name(plan.verdict),
                plan.end,
                plan.end_generation
            ));
            lines.push(format!(
                "  flushed up to Lsn {}   written back up to Lsn {}   to replay: {} records",
                plan.flushed_up_to,
                plan.written_back_up_to,
                plan.replay.len()
            ));
        }
    }
    lines
}

fn zone_line(zone: &Zone) -> String {
    let mut line = String::new();
    write!(line, "  {:<18} {:<7}", zone_name(zone), state_name(zone.state))
        .expect("a string takes everything");
    write!(line, " {:>14} bytes from {:>14}", zone.length, zone.offset).expect("a string takes everything");
    line
}

fn zone_name(zone: &Zone) -> String {
    match zone.kind {
        ZoneKind::Bitmap(slot) => format!("{} {slot}", zone.kind.name()),
        ZoneKind::Superblock0
        | ZoneKind::Superblock1
        | ZoneKind::ActivityLog
        | ZoneKind::Checksums
        | ZoneKind::Journal
        | ZoneKind::Locator => zone.kind.name().to_owned(),
    }
}

fn state_name(state: ZoneState) -> &'static str {
    match state {
        ZoneState::Used => "used",
        ZoneState::Unused => "unused",
        ZoneState::Absent => "absent",
    }
}

/// The word for what a disk was.
pub fn disk_name(disk: DurableDisk) -> &'static str {
    match disk {
        DurableDisk::Inconsistent => "Inconsistent",
        DurableDisk::Outdated => "Outdated",
        DurableDisk::UpToDate => "UpToDate",
    }
}

fn case_name(case: RecoveryCase) -> &'static str {
    match case {
        RecoveryCase::Replay => "Replay",
        RecoveryCase::EndOfJournal => "EndOfJournal",
        RecoveryCase::UnflushedBatch => "UnflushedBatch",
        RecoveryCase::Corrupt => "Corrupt",
        RecoveryCase::PreviousLap => "PreviousLap",
        RecoveryCase::CutBySession => "CutBySession",
    }
}

#[cfg(test)]
pub mod tests {
    use replicator::generation::lineage::Lineage;
    use replicator::layout::superblock::{ResourceName, ResyncPosition, SuperblockFlags};
    use replicator::layout::zones::Zones;
    use replicator::promotion::membership::{InSyncSet, MembershipRecord};
    use replicator::units::{GenerationId, Incarnation, Lsn, NodeId, Term};

    use super::*;

    /// The superblock of a small new volume of zeroes.
    pub fn superblock() -> Superblock {
        let created = Superblock::created(
            ResourceName::parse("mail").expect("a name"),
            NodeId(1),
            VoterId(77),
            1 << 20,
            Zones::for_volume(1 << 20, 16 << 20, 2).expect("legal"),
            DurableDisk::UpToDate,
            Lineage::zeroed(),
        );
        Superblock { sequence: 2, ..created }
    }

    #[test]
    fn everything_that_a_used_superblock_holds_is_shown() {
        let mut superblock = superblock();
        superblock.flags =
            SuperblockFlags { ended_as_primary: true, stopped_cleanly: true, journal_nonvolatile: true };
        superblock.resync =
            Some(ResyncPosition { generation: GenerationId(9), lsn: Lsn(41), source: Some(NodeId(0)) });
        superblock.peers[0] = PeerSlot {
            node: Some(NodeId(0)),
            base_lsn: Lsn(33),
            has_dirty_bits: true,
            ..PeerSlot::default()
        };
        superblock.membership = MembershipRecord {
            term: Term { number: 3, taker: 5 },
            version: 4,
            primary: Some(NodeId(0)),
            in_sync: InSyncSet::of(NodeId(0), Incarnation(0xabc)),
            voters: VoterList::default(),
        };
        let journal = Err("input/output error".to_owned());
        let found = Found { path: "/dev/x".into(), offset: 0, copies: [None, None], superblock, journal };
        let text = text(&found);
        for part in [
            "ended as Primary, stopped cleanly, journal non-volatile",
            "not finished, from node 0; counts as Lsn 41",
            "term 3 version 4   Primary: node 0",
            "node 0 (0000000000000abc)",
            "flushed up to Lsn 33",
            "has dirty blocks",
            "cannot be read: input/output error",
            "dirty bitmap 1",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
        let value = json(&found);
        assert_eq!(value["superblock"]["record"]["term"]["taker"], "0000000000000005");
        assert_eq!(value["superblock"]["peers"][0]["base-lsn"], 33);
    }
}
