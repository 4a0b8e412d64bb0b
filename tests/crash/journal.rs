//! The journal after power cuts: what was flushed is there, what was discarded never returns.

use replicator::journal::recovery_case::RecoveryCase;
use replicator::units::Lsn;

use crate::fake_disk::{Random, SECTOR};
use crate::node::{Action, Node, RING, check, recover};

use Action::{Append, Cut, Flush, Reopen, Trim};

/// Batches of all shapes, flushes, trims, cuts in the middle of a batch and at its edges, wraps.
const EVERYTHING: &[Action] = &[
    Append { records: 3, blocks: 1 },
    Append { records: 1, blocks: 3 },
    Flush,
    Append { records: 5, blocks: 0 },
    Append { records: 4, blocks: 1 },
    Cut { records: 2 },
    Append { records: 2, blocks: 1 },
    Append { records: 1, blocks: 2 },
    Trim,
    Append { records: 3, blocks: 1 },
    Reopen,
    Append { records: 2, blocks: 2 },
    Cut { records: 5 },
    Cut { records: 0 },
    Append { records: 6, blocks: 1 },
    Flush,
    Trim,
    Append { records: 2, blocks: 3 },
    Append { records: 7, blocks: 0 },
    Cut { records: 8 },
    Reopen,
    Append { records: 5, blocks: 1 },
    Append { records: 1, blocks: 1 },
    Append { records: 1, blocks: 1 },
    Flush,
];

#[test]
fn a_power_cut_at_any_moment_loses_nothing_flushed_and_brings_back_nothing_discarded() {
    let mut images = 0;
    for tail_offset in [0, RING - 4 * 4096, RING - 7 * 4096, RING - 12 * 4096] {
        let mut node = Node::create(tail_offset);
        node.run(EVERYTHING);
        images += node.cut_power_everywhere(4096, 40, |_, _| {});
    }
    assert!(images > 2000, "{images} images");
}

#[test]
fn a_batch_torn_at_any_sector_is_dropped_as_a_whole() {
    let mut node = Node::create(0);
    node.run(&[Append { records: 2, blocks: 1 }, Flush, Append { records: 1, blocks: 1 }, Trim]);
    node.cut_power_everywhere(SECTOR, 60, |_, _| {});
}

#[test]
fn a_second_power_cut_after_the_first_finds_the_same_laws() {
    let mut node = Node::create(RING - 6 * 4096);
    node.run(&[
        Append { records: 2, blocks: 1 },
        Flush,
        Append { records: 1, blocks: 1 },
        Append { records: 1, blocks: 1 },
        Append { records: 2, blocks: 1 },
        Cut { records: 3 },
        Append { records: 1, blocks: 1 },
    ]);
    let mut seconds = 0;
    node.cut_power_everywhere(4096, 4, |image, law| {
        // Records of the same size land in the same places as those that were dropped.
        let history = law.histories.iter().find(|history| history_fits(&image, history)).unwrap().clone();
        let mut again = Node::start(image, history, 1_000_000);
        again.run(&[Append { records: 1, blocks: 1 }, Append { records: 1, blocks: 1 }]);
        seconds += again.cut_power_everywhere(4096, 4, |_, _| {});
    });
    assert!(seconds > 2000, "{seconds} images");
}

/// Lives of a node, each of which ends in a power cut: the discarded batches of all of them lie in the ring.
#[test]
fn many_lives_of_one_ring_never_mix() {
    for seed in 1..=300 {
        println!("seed {seed}");
        let mut random = Random(seed << 32 | 0x5eed);
        let mut node = Node::create(random.below(RING / 4096) * 4096);
        for _ in 0..6 {
            for _ in 0..random.below(14) {
                node.act_at_random(&mut random);
            }
            node = node.after_a_power_cut(&mut random);
        }
    }
}

fn history_fits(image: &[u8], history: &[replicator::record::Record]) -> bool {
    let (_, plan) = recover(image);
    let unwritten =
        history.iter().filter(|record| record.lsn > plan.written_back_up_to && record.lsn <= plan.end);
    plan.replay.iter().map(|(_, record)| record).eq(unwritten)
}

/// Attack 7: 91 is torn, 92 to 95 are intact, all unflushed. Recovery drops them, a new 91 of equal size takes
/// the place of the old one.
#[test]
fn records_dropped_by_a_recovery_never_come_back() {
    let mut node = Node::create(0);
    node.run(&[Append { records: 2, blocks: 1 }, Flush]);
    let first_dropped = node.ring.locate(node.ring.head_lsn()).unwrap().ring_offset + 3 * 4096;
    node.run(&[Append { records: 1, blocks: 1 }; 5]);
    let torn = usize::try_from(first_dropped).unwrap() + 4096;
    node.ring_bytes()[torn] ^= 1;

    let mut again = Node::start(node.disk.live.clone(), node.history.clone(), 1000);
    assert_eq!(again.ring.head_lsn(), Lsn(2));
    again.append(1, 1);
    let (_, plan) = recover(&again.disk.live);
    assert_eq!((plan.end, plan.verdict), (Lsn(3), RecoveryCase::CutBySession));
    check(&again.disk.live, again.laws.last().unwrap());
}

#[test]
fn records_cut_at_a_fork_never_come_back_before_the_next_write() {
    let mut node = Node::create(0);
    node.run(&[Append { records: 4, blocks: 1 }, Append { records: 1, blocks: 1 }, Cut { records: 3 }]);
    for _ in 0..3 {
        let (_, plan) = recover(&node.disk.live);
        assert_eq!((plan.end, plan.verdict), (Lsn(2), RecoveryCase::CutBySession));
        node.reopen();
    }
    node.run(&[Append { records: 1, blocks: 0 }, Reopen, Reopen]);
    assert_eq!(node.ring.head_lsn(), Lsn(3));
}

/// The cut batch fitted before the ring's end, its successor does not: the old one stays in the place where
/// the chain goes on, whole, with the right predecessor.
#[test]
fn a_cut_batch_whose_successor_wraps_never_comes_back() {
    let mut node = Node::create(RING - 5 * 4096);
    node.run(&[Append { records: 2, blocks: 1 }, Append { records: 1, blocks: 1 }, Cut { records: 1 }]);
    node.run(&[Append { records: 1, blocks: 3 }, Flush]);
    assert_eq!(node.ring.locate(Lsn(3)).unwrap().ring_offset, 0);
    // With the next session the old batch is no longer told by its session alone.
    node.run(&[Reopen, Reopen, Append { records: 1, blocks: 1 }, Flush, Reopen]);
    check(&node.disk.live, node.laws.last().unwrap());
    node.cut_power_everywhere(4096, 20, |_, _| {});
}

#[test]
fn a_hole_below_a_flushed_record_is_corruption() {
    let mut node = Node::create(0);
    node.run(&[Append { records: 1, blocks: 1 }, Append { records: 1, blocks: 1 }, Flush]);
    let hole = usize::try_from(node.ring.locate(Lsn(2)).unwrap().ring_offset).unwrap();
    node.run(&[Append { records: 1, blocks: 1 }, Append { records: 1, blocks: 1 }]);
    node.ring_bytes()[hole + 5000] ^= 1;
    let (_, plan) = recover(&node.disk.live);
    assert_eq!((plan.end, plan.verdict, plan.flushed_up_to), (Lsn(1), RecoveryCase::Corrupt, Lsn(2)));
    node.ring_bytes()[hole] ^= 1;
    let (_, plan) = recover(&node.disk.live);
    assert_eq!((plan.end, plan.verdict), (Lsn(1), RecoveryCase::Corrupt));
}

#[test]
fn a_hole_that_nobody_called_flushed_is_an_unflushed_batch() {
    let mut node = Node::create(0);
    node.run(&[Append { records: 1, blocks: 1 }, Flush]);
    node.run(&[Append { records: 1, blocks: 1 }, Append { records: 1, blocks: 1 }]);
    let hole = usize::try_from(node.ring.locate(Lsn(2)).unwrap().ring_offset).unwrap();
    node.ring_bytes()[hole] ^= 1;
    let (_, plan) = recover(&node.disk.live);
    assert_eq!((plan.end, plan.verdict), (Lsn(1), RecoveryCase::UnflushedBatch));
}

/// Attack 13: a new generation is durable only after the journal is flushed up to the write before it, so a
/// journal that ends below the start of its session has lost something.
#[test]
fn a_journal_that_ends_before_its_session_began_is_corruption() {
    let mut node = Node::create(0);
    node.run(&[Append { records: 2, blocks: 1 }, Append { records: 2, blocks: 1 }, Reopen]);
    let last = usize::try_from(node.ring.locate(Lsn(3)).unwrap().ring_offset).unwrap();
    node.ring_bytes()[last] ^= 1;
    let (_, plan) = recover(&node.disk.live);
    assert_eq!((plan.end, plan.verdict), (Lsn(2), RecoveryCase::Corrupt));
}

/// Attacks 2 and 13: the superblock went back in time, the journal did not.
#[test]
fn a_journal_of_a_later_session_than_the_superblock_knows_is_corruption() {
    let mut node = Node::create(0);
    node.run(&[Append { records: 2, blocks: 1 }, Flush]);
    let old = node.disk.live[..2 * 4096].to_vec();
    node.run(&[Reopen, Reopen, Append { records: 1, blocks: 1 }, Flush]);
    node.disk.live[..2 * 4096].copy_from_slice(&old);
    let (_, plan) = recover(&node.disk.live);
    assert_eq!(plan.verdict, RecoveryCase::Corrupt);
}

/// A guest may write anything, a copy of this very journal included.
#[test]
fn a_copy_of_a_descriptor_in_another_place_proves_nothing() {
    let mut node = Node::create(0);
    node.run(&[Append { records: 1, blocks: 1 }, Append { records: 1, blocks: 1 }, Flush]);
    node.append(1, 1);
    let copied: Vec<u8> = node.ring_bytes()[4 * 4096..6 * 4096].to_vec();
    // The copy lies where it was not written: behind the end, as the payload of a batch that was lost.
    node.ring_bytes()[8 * 4096..10 * 4096].copy_from_slice(&copied);
    node.ring_bytes()[2 * 4096] ^= 1;
    node.ring_bytes()[4 * 4096] ^= 1;
    let (_, plan) = recover(&node.disk.live);
    assert_eq!(plan.end, Lsn(1));
    assert_ne!(plan.verdict, RecoveryCase::Corrupt);
}
