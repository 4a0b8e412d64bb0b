//! What `twinblk explain` says of peers that are linked, away, or split off.

use replicator::explain_report::RangeReport;

use super::*;

/// Gamma, whose history goes on in its own way after write 4.
fn forked() -> PeerState {
    let mut lineage = Lineage::zeroed();
    let term = Term { number: 9, taker: 9 };
    lineage.append(Generation { id: GenerationId(99), term, granted: false, first_lsn: Lsn(5) }, &[]);
    let record = record_of_alpha();
    PeerState { node: GAMMA, lineage, record, ..state(Role::Secondary, 7) }
}

/// Beta has writes 1 to 10, of which 6 to 10 are of a generation of its own that nobody granted.
fn with_a_history_of_its_own() -> Bench {
    let mut bench = Bench::start();
    bench.link(ALPHA);
    bench.hears(ALPHA, &Message::State(Box::new(state(Role::Primary, 5))));
    bench.store();
    bench.hears(ALPHA, &records(1..6));
    let generation = Generation {
        id: GenerationId(55),
        term: Term { number: 1, taker: 1 },
        granted: false,
        first_lsn: Lsn(6),
    };
    let mut lineage = Lineage::zeroed();
    lineage.append(generation, &[]);
    bench.hears(ALPHA, &Message::NewGeneration { generation, lineage });
    bench.store();
    let Message::Records(batch) = records(6..11) else { panic!("records") };
    bench.hears(ALPHA, &Message::Records(RecordBatch { generation: GenerationId(55), ..batch }));
    bench.hears(ALPHA, &Message::Flush { up_to: Lsn(10) });
    assert_eq!(bench.durable(), Lsn(10));
    bench.loses(ALPHA);
    bench
}

#[test]
fn a_split_brain_is_explained_with_what_each_side_would_lose() {
    let mut bench = with_a_history_of_its_own();
    bench.link(GAMMA);
    bench.hears(GAMMA, &Message::State(Box::new(forked())));
    bench.store();
    let before = format!("{:?}", bench.replica.status(bench.now));
    let report = bench.explain();
    assert_eq!(format!("{:?}", bench.replica.status(bench.now)), before, "asking changes nothing");
    let alpha = &report.peers[0].ours.alone;
    assert_eq!((alpha.writes, alpha.bytes), (0, Some(0)), "alpha shipped them all: {alpha:?}");
    let gamma = report.peers.iter().find(|peer| peer.name == "gamma").expect("gamma");
    assert_eq!((gamma.fork, gamma.common_point, gamma.connection_state.as_str()), (Some(4), 4, "StandAlone"));
    let verdict = gamma.verdict.as_ref().expect("a verdict");
    assert_eq!((verdict.rule.as_str(), verdict.kind.as_str()), ("SplitBrain", "reached"));
    assert_eq!(verdict.not.len(), 11, "every row before the last is refuted: {:?}", verdict.not);
    // Writes 5 to 10 touch blocks 5 to 10.
    let alone = &gamma.ours.alone;
    assert_eq!((alone.writes, alone.bytes, alone.is_exact), (6, Some(6 * 4096), true));
    assert_eq!(alone.ranges, [RangeReport { offset: 5 * 4096, length: 6 * 4096 }]);
    assert_eq!(gamma.theirs.as_ref().map(|side| side.alone.writes), Some(3));
    let losses: Vec<&str> = gamma.ways.iter().map(|way| way.loses.as_str()).collect();
    assert_eq!(
        losses,
        ["on beta: 6 writes after write 4, 24 KiB in 1 range", "on gamma: 3 writes after write 4"]
    );
}

#[test]
fn a_peer_that_is_away_is_explained_by_what_was_heard_of_it_last() {
    let mut bench = Bench::following();
    bench.loses(ALPHA);
    let report = bench.explain();
    let alpha = &report.peers[0];
    let verdict = alpha.verdict.as_ref().expect("one to be expected");
    assert_eq!(verdict.kind, "expected");
    // It shipped ten writes, so that it had as many.
    assert_eq!(alpha.theirs.as_ref().map(|side| (side.end, side.alone.writes)), Some((10, 0)));
    assert_eq!(alpha.ours.alone.writes, 0);
    let gamma = &report.peers[1];
    assert_eq!((&gamma.verdict, &gamma.theirs), (&None, &None), "it was never met");
    assert_eq!(gamma.ours.alone.writes, 10, "nothing is known of it");
}

#[test]
fn an_explanation_comes_without_the_journal_when_the_disk_has_failed() {
    let mut bench = with_a_history_of_its_own();
    bench.replica.handle(bench.now, Event::IoFailed { io: IoId(1), errno: 5 }, &mut bench.effects);
    let report = bench.explain();
    assert_eq!(report.disk_state, "Failed");
    let alone = &report.peers[1].ours.alone;
    assert!(!alone.is_exact && alone.note.contains("was not read"), "{}", alone.note);
    assert_eq!(report.promotion.rule.as_deref(), Some("disk-failed"));
    assert!(report.promotion.force_loses.starts_with("everything"), "{}", report.promotion.force_loses);
}
