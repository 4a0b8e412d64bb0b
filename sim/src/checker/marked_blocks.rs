//! Law I4: a block in which two replicas differ is in a dirty bitmap of one of them for the other, or in a record that
//! the journal of one of them still holds.

use std::collections::BTreeSet;

use replicator::units::{BLOCK_BYTES, NodeId, bytes_usize};

use super::watch::{Seen, marks};
use crate::node::SimNode;
use crate::workload::{UNIT_BYTES, writer_of};

/// Holds two nodes against each other, by what is on their disks now.
///
/// # Panics
/// They differ in a block that neither of them will ever send to the other.
pub fn assert_marked(nodes: [(NodeId, &SimNode, &Seen); 2]) {
    let [(first, first_node, first_seen), (second, second_node, second_seen)] = nodes;
    let differing = first_node.data.differences(&second_node.data);
    if differing.is_empty() {
        return;
    }
    let mut known: BTreeSet<u64> = BTreeSet::new();
    for seen in [first_seen, second_seen] {
        let ranges = seen.journal.records().map(|(_, held)| held.range);
        known.extend(ranges.flat_map(|range| range.first..range.end()));
    }
    let marked = [
        marks(&first_seen.superblock, first_node, second),
        marks(&second_seen.superblock, second_node, first),
    ];
    let unknown = differing
        .into_iter()
        .find(|block| !known.contains(block) && !marked.iter().any(|marked| marked.contains(block)));
    assert!(
        unknown.is_none(),
        "violation of I4: {first} and {second} differ in block {unknown:?}, and neither knows: {:?}",
        unknown.map(|block| [first_node, second_node].map(|node| writers(node, block)))
    );
}

/// Who wrote the units of a block.
fn writers(node: &SimNode, block: u64) -> Vec<Option<u64>> {
    let content = node.data.read(block * BLOCK_BYTES, BLOCK_BYTES);
    let first = block * (BLOCK_BYTES / UNIT_BYTES);
    (first..)
        .zip(content.chunks(bytes_usize(UNIT_BYTES)))
        .map(|(unit, bytes)| writer_of(bytes, unit))
        .collect()
}
