//! Marks of blocks that may differ: what is read for them, and when they are forgotten.

use replicator::layout::superblock::PeerSlot;

use super::*;

/// Alpha, whose journal no longer holds what beta lacks.
fn far_ahead(introduction: u32) -> PeerState {
    PeerState { introduction, oldest_kept: Lsn(200), ..state(Role::Primary, 200) }
}

/// The first two reads come at the same moment, and whatever is ordered then at once.
fn two_reads_come(bench: &mut Bench) {
    bench.withholds_journal = false;
    assert_eq!(bench.withheld.len(), 2, "one read of either attempt: {:?}", bench.withheld);
    for read in std::mem::take(&mut bench.withheld) {
        bench.replica.handle(bench.now, read, &mut bench.effects);
    }
    bench.settle();
    while bench.store().is_some() {}
}

#[test]
fn a_target_that_marks_its_records_anew_takes_nothing_that_an_earlier_attempt_has_read() {
    let mut bench = Bench::following();
    bench.withholds_journal = true;
    for _ in 0..2 {
        bench.loses(ALPHA);
        bench.link(ALPHA);
        let introduction = bench.said_to(ALPHA).introduction;
        bench.hears(ALPHA, &Message::State(Box::new(far_ahead(introduction))));
        bench.store();
    }
    two_reads_come(&mut bench);
    assert_eq!(bench.durable(), Lsn(10));
    let marks = bench.sent.iter().rev().find_map(|(_, message)| match message {
        Message::DirtyRuns { runs, .. } => Some(runs.clone()),
        _ => None,
    });
    assert_eq!(marks.expect("it says what it forgets"), [BlockRange::new(1, 10)]);
}

#[test]
fn a_source_that_marks_a_targets_blocks_anew_takes_nothing_that_an_earlier_attempt_has_read() {
    let mut bench = Bench::following();
    let Message::Records(batch) = records(11..12) else { panic!("records") };
    bench.hears(ALPHA, &Message::Records(RecordBatch { stable_up_to: Lsn(10), ..batch }));
    bench.loses(ALPHA);
    bench.withholds_journal = true;
    bench.link(GAMMA);
    for introduction in 1..3 {
        let gamma =
            PeerState { node: GAMMA, introduction, has_dirty_bits: true, ..state(Role::Secondary, 3) };
        bench.hears(GAMMA, &Message::State(Box::new(gamma)));
        bench.store();
        bench.hears(GAMMA, &Message::DirtyRuns { runs: Vec::new(), is_last: true });
    }
    two_reads_come(&mut bench);
    assert!(bench.dropped.is_empty());
    assert_eq!(bench.sent_to(GAMMA, |message| matches!(message, Message::ResyncFrom { .. })), 1);
}

#[test]
fn what_a_target_is_about_to_forget_stays_marked_whatever_a_third_node_says_to_have() {
    // Gamma lacked some writes of the beginning.
    let mut bench = Bench::start_with(|content| {
        let (node, marked_up_to) = (Some(GAMMA), Lsn(3));
        content.peers[0] = PeerSlot { node, marked_up_to, has_dirty_bits: true, ..PeerSlot::default() };
    });
    bench = bench.follows();
    bench.loses(ALPHA);
    bench.link(ALPHA);
    bench.withholds_journal = true;
    let introduction = bench.said_to(ALPHA).introduction;
    bench.hears(ALPHA, &Message::State(Box::new(far_ahead(introduction))));
    bench.store();
    bench.link(GAMMA);
    assert!(bench.said_to(GAMMA).has_dirty_bits);
    // It has them by now. Beta has just read which blocks it will have to get anew, and marks them for gamma too: alpha may
    // be lost before it copies any.
    let read = bench.withheld.pop().expect("beta marks its own records");
    let gamma = PeerState { node: GAMMA, ..state(Role::Secondary, 10) };
    let frame = bench.frame(&Message::State(Box::new(gamma)));
    for event in [read, Event::FrameReceived { peer: GAMMA, link: link_to(GAMMA), frame }] {
        bench.replica.handle(bench.now, event, &mut bench.effects);
    }
    bench.settle();
    let stored = bench.store().expect("it calls its disk Inconsistent");
    assert_eq!(stored.disk, DurableDisk::Inconsistent);
    assert!(stored.peer(GAMMA).is_some_and(|slot| slot.has_dirty_bits));
}
