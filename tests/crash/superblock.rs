//! The superblock after power cuts: the state before or the state after, whatever becomes of the write.

use crate::fake_disk::SECTOR;
use crate::node::{Action, Node, superblock_of};

#[test]
fn a_torn_superblock_write_leaves_the_state_before_or_the_state_after() {
    let mut node = Node::create(0);
    node.run(&[Action::Append { records: 1, blocks: 1 }, Action::Flush, Action::Trim, Action::Reopen]);
    let newest = node.superblock.sequence;
    let mut seen = std::collections::BTreeSet::new();
    // Eight sectors of one block: every subset of them.
    node.cut_power_everywhere(SECTOR, 20, |image, law| {
        let sequence = superblock_of(&image).sequence;
        assert!(law.superblocks.contains(&sequence));
        seen.insert(sequence);
    });
    assert_eq!(seen, (0..=newest).collect());
}
