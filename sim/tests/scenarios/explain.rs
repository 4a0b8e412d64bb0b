//! `twinblk explain`: what it says of two nodes is so, and asking changes nothing.

use replicator::effect::Answer;
use replicator::event::Order;
use replicator::explain_report::{ExplainReport, PeerExplanation, RANGES_MAX};
use replicator::units::{NodeId, Span};
use sim::world::{ALPHA, BETA, World};

use crate::{disk_image, pass, promoted};

fn explain(world: &mut World, node: NodeId) -> ExplainReport {
    let order = world.order(node, Order::Explain);
    assert!(world.run_until(Span::from_millis(60_000), |world| world.answers.contains_key(&order)));
    match &world.answers[&order] {
        Answer::Explained(report) => (**report).clone(),
        other => panic!("no explanation but {other:?}"),
    }
}

fn peer_of(report: &ExplainReport) -> &PeerExplanation {
    &report.peers[0]
}

#[test]
fn what_a_primary_wrote_while_its_peer_was_away_is_told_exactly() {
    for seed in 0..10 {
        let mut world = promoted(seed);
        world.write_now(ALPHA, 0, 65_536);
        pass(&mut world, 3000);
        world.kill(BETA);
        // Two blocks beside one another, one that is written twice, and one far away.
        for offset in [4096, 8192, 4096, 1 << 20] {
            world.write_now(ALPHA, offset, 4096);
        }
        let report = explain(&mut world, ALPHA);
        let beta = peer_of(&report);
        let alone = &beta.ours.alone;
        assert_eq!((alone.writes, alone.bytes, alone.is_exact), (4, Some(3 * 4096), true), "{beta:?}");
        let ranges: Vec<(u64, u64)> = alone.ranges.iter().map(|range| (range.offset, range.length)).collect();
        assert_eq!(ranges, [(4096, 8192), (1 << 20, 4096)]);
        let verdict = beta.verdict.as_ref().expect("they have met");
        assert_eq!((verdict.rule.as_str(), verdict.kind.as_str()), ("WeMovedOn", "expected"));
        assert_eq!(beta.ways.iter().map(|way| way.loses.as_str()).collect::<Vec<_>>(), ["nothing"]);
        let tiebreaker = report.voters.last().expect("the tiebreaker");
        assert_eq!(tiebreaker.record.as_ref().map(|record| record.in_sync.len()), Some(1), "{tiebreaker:?}");
        assert!(tiebreaker.voted.as_ref().is_some_and(|vote| vote.granted && vote.stage == "vote"));
    }
}

#[test]
fn what_the_journal_has_left_behind_is_an_upper_bound_and_ranges_are_limited() {
    let mut world = promoted(3);
    world.kill(BETA);
    for round in 0..3000 {
        world.write_now(ALPHA, round % 100 * 3 * 8192, 8192);
        if round % 16 == 0 {
            world.write_now(ALPHA, 1 << 21, 131_072);
        }
    }
    let mut rounds = 0;
    while !world.has_noticed(ALPHA, "journal-full") {
        world.write_now(ALPHA, 1 << 21, 131_072);
        rounds += 1;
        assert!(rounds < 5000, "the journal is not that large");
    }
    let report = explain(&mut world, ALPHA);
    let alone = &peer_of(&report).ours.alone;
    assert!(!alone.is_exact && alone.note.contains("upper bound"), "{}", alone.note);
    assert_eq!(alone.ranges.len(), RANGES_MAX);
    assert!(alone.ranges_more >= 30, "{}", alone.ranges_more);
    let told: u64 = alone.ranges.iter().map(|range| range.length).sum();
    assert_eq!(Some(told + alone.bytes_more), alone.bytes);
}

#[test]
fn asking_changes_nothing_and_both_sides_tell_the_same_story() {
    for seed in 0..10 {
        let mut world = promoted(seed);
        for block in 0..20 {
            world.write_now(ALPHA, block * 4096, 4096);
        }
        pass(&mut world, 5000);
        let before = [ALPHA, BETA].map(|node| disk_image(&world, node));
        let [alpha, beta] = [ALPHA, BETA].map(|node| explain(&mut world, node));
        assert!(
            before == [ALPHA, BETA].map(|node| disk_image(&world, node)),
            "seed {seed}: a disk was written"
        );
        let (of_beta, of_alpha) = (peer_of(&alpha), peer_of(&beta));
        assert_eq!((of_beta.ours.alone.writes, of_alpha.ours.alone.writes), (0, 0));
        assert_eq!(of_beta.common, of_alpha.common);
        assert_eq!(of_beta.theirs.as_ref().map(|side| &side.lineage), Some(&of_alpha.ours.lineage));
        assert!(!beta.promotion.yes);
        assert_eq!(beta.promotion.rule.as_deref(), Some("peer-is-primary"));
    }
}

#[test]
fn a_node_that_lost_its_primary_says_what_force_would_lose() {
    let mut world = promoted(1);
    world.kill(BETA);
    for block in 0..20 {
        world.write_now(ALPHA, block * 4096, 4096);
    }
    world.start(BETA);
    world.set_cut_both([ALPHA, BETA], true);
    pass(&mut world, 500);
    let never_met = explain(&mut world, BETA);
    assert!(peer_of(&never_met).theirs.is_none());
    assert!(never_met.promotion.force_loses.contains("was not heard"), "{}", never_met.promotion.force_loses);
    world.set_cut_both([ALPHA, BETA], false);
    assert!(world.run_until(Span::from_millis(20_000), World::is_in_sync), "{}", world.summaries());
    world.kill(ALPHA);
    pass(&mut world, 4000);
    let report = explain(&mut world, BETA);
    assert!(
        report.promotion.force_loses.contains("since it was last heard"),
        "{}",
        report.promotion.force_loses
    );
}
