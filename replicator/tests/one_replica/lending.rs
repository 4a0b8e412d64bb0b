//! What a Primary without a disk reads from this replica.

use replicator::remote_read::ReadRequest;

use super::*;

fn wanted(number: u64, first: u64, count: u64) -> Message {
    Message::ReadBlocks(ReadRequest { number, range: BlockRange::new(first, count) })
}

#[test]
fn a_primary_reads_what_it_has_sent_and_nothing_that_comes_after() {
    let mut bench = Bench::following();
    bench.hears(ALPHA, &wanted(1, 3, 2));
    bench.hears(ALPHA, &wanted(2, 11, 1));
    bench.hears(ALPHA, &records(11..12));
    let read = |(_, message): &(NodeId, Message)| match message {
        Message::BlocksRead(blocks) => Some((blocks.lsn.0, blocks.range.first, blocks.payload[0])),
        _ => None,
    };
    let answers: Vec<_> = bench.sent.iter().filter_map(read).collect();
    assert_eq!(answers, [(1, 3, 1), (2, 11, 0)], "block 11 was zero when it was asked for");
}

#[test]
fn reads_beyond_a_limit_end_the_link() {
    let mut beyond = Bench::following();
    beyond.hears(ALPHA, &wanted(1, 255, 2));
    assert_eq!(beyond.dropped, [ALPHA], "the volume has 256 blocks");

    // Blocks that are in memory are answered at once; these have to be read, and the disk takes its time.
    let mut many = Bench::following();
    many.withholds_data = true;
    for number in 1..=8 {
        many.hears(ALPHA, &wanted(number, 0, 256));
    }
    assert!(many.dropped.is_empty(), "8 MiB may be on their way");
    many.hears(ALPHA, &wanted(9, 100, 1));
    assert_eq!(many.dropped, [ALPHA]);

    let mut twice = Bench::following();
    twice.withholds_data = true;
    twice.hears(ALPHA, &wanted(1, 100, 1));
    twice.hears(ALPHA, &wanted(1, 101, 1));
    assert_eq!(twice.dropped, [ALPHA]);
}

#[test]
fn reads_of_a_node_whose_records_are_not_taken_are_ignored() {
    let mut bench = Bench::following();
    bench.link(GAMMA);
    bench.hears(GAMMA, &wanted(1, 3, 1));
    for peer in [ALPHA, GAMMA] {
        assert_eq!(bench.sent_to(peer, |message| matches!(message, Message::BlocksRead(_))), 0);
    }
    assert!(bench.dropped.is_empty());
}

#[test]
fn half_a_copy_lends_nothing_and_ends_the_link_of_whoever_asks() {
    let asks = |oldest_kept, begin: fn(&mut Bench)| {
        let mut bench = Bench::following();
        is_lost(&mut bench, ALPHA);
        bench.link(ALPHA);
        let introduction = bench.said_to(ALPHA).introduction;
        let alpha = PeerState { introduction, oldest_kept: Lsn(oldest_kept), ..state(Role::Primary, 200) };
        bench.hears(ALPHA, &Message::State(Box::new(alpha)));
        begin(&mut bench);
        assert_eq!(bench.dropped, []);
        bench.hears(ALPHA, &wanted(1, 3, 1));
        assert_eq!(bench.sent_to(ALPHA, |message| matches!(message, Message::BlocksRead(_))), 0);
        assert_eq!(bench.dropped, [ALPHA]);
    };
    // It is about to catch up, about to be resynced, or in the middle of that.
    asks(1, |_| {});
    asks(200, |_| {});
    asks(200, |bench| {
        while bench.store().is_some() {}
        bench.hears(ALPHA, &Message::ResyncFrom { start: Lsn(200), lineage: Lineage::zeroed() });
        while bench.store().is_some() {}
        assert_eq!(bench.sent_to(ALPHA, |message| matches!(message, Message::CatchUpFrom { .. })), 2);
    });
}

#[test]
fn a_node_whose_disk_has_failed_lends_nothing() {
    let mut bench = Bench::following();
    bench.happens(Event::IoFailed { io: IoId(1), errno: 5 });
    bench.hears(ALPHA, &wanted(1, 3, 1));
    assert_eq!(bench.sent_to(ALPHA, |message| matches!(message, Message::BlocksRead(_))), 0);
}
