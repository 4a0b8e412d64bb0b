//! Law I3: what is written to the data area is a record that is flushed in the journal of every member of the recorded
//! in-sync set, and in this node's own.

use replicator::promotion::membership::InSyncSet;
use replicator::units::NodeId;

use super::journal_view::Content;
use super::watch::Seen;

/// A node is about to put this into a block of its data area.
///
/// # Panics
/// It may not yet.
pub fn assert_stable(seen: &[Seen], node: NodeId, in_sync: &InSyncSet, block: u64, content: &Content) {
    let own = &seen[node.index()].journal;
    // What rots was flushed.
    let is_whole = |member: &NodeId| !seen[member.index()].is_damaged;
    let members = || in_sync.iter().map(|(member, _)| member).chain([node]).filter(is_whole);
    let mut matching = own.records().filter(|(_, held)| held.puts(block, content)).peekable();
    assert!(
        matching.peek().is_some(),
        "violation of I3: {node} writes to block {block} what no record holds"
    );
    // Whoever is being resynced had flushed everything up to where that began, and gives it up on its own disk alone.
    let durable = |member: NodeId| {
        let seen = &seen[member.index()];
        seen.superblock.resync.map_or(seen.journal.durable(), |resync| seen.journal.durable().max(resync.lsn))
    };
    let is_stable = matching.any(|(lsn, _)| members().all(|member| durable(member) >= lsn));
    let durable: Vec<_> = members().map(|member| (member, durable(member))).collect();
    assert!(
        is_stable,
        "violation of I3: {node} writes a record to block {block} that is not stable: {durable:?}"
    );
}
