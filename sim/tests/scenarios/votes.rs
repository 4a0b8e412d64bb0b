//! Voters whose records differ: what was told to some of them only, by a Primary or candidate that is gone.

use replicator::effect::Answer;
use replicator::event::{Order, Warrant};
use replicator::state::Role;
use replicator::units::{NodeId, Span};
use sim::node::NodeOptions;
use sim::world::{ALPHA, BETA, GAMMA, TIE, World, WorldOptions};

use crate::{in_sync, pass, promoted, promoted_with};

/// Beta was away and is in the set again, which only the replicas have stored: the tiebreaker is dead since before.
fn re_entered_without_the_tiebreaker(seed: u64) -> World {
    let mut world = promoted(seed);
    world.kill(BETA);
    world.write_now(ALPHA, 0, 4096);
    world.kill_tiebreaker();
    world.start(BETA);
    world.assert_converges();
    world.write_now(ALPHA, 4096, 4096);
    world
}

#[test]
fn a_member_that_re_entered_while_the_tiebreaker_was_away_is_promoted_when_the_primary_dies() {
    for seed in 0..10 {
        let mut world = re_entered_without_the_tiebreaker(seed);
        world.kill(ALPHA);
        world.start_tiebreaker();
        pass(&mut world, 1000);
        world.promote(BETA, 20_000).expect("it holds every completed write");
        world.read_everything(BETA);
        world.start(ALPHA);
        world.assert_converges();
    }
}

#[test]
fn a_smaller_set_that_only_its_dead_primary_stored_does_not_keep_the_other_member_from_being_promoted() {
    for seed in 0..10 {
        let mut world = re_entered_without_the_tiebreaker(seed);
        world.kill(BETA);
        pass(&mut world, 100);
        assert_eq!(in_sync(&world, ALPHA), ["alpha"], "it proposes, and nobody hears of it");
        world.cut_power(ALPHA);
        world.start_tiebreaker();
        world.start(ALPHA);
        world.start(BETA);
        pass(&mut world, 8000);
        world.promote(BETA, 20_000).expect("it is the only member that lost nothing");
        world.read_everything(BETA);
        world.assert_converges();
    }
}

#[test]
fn a_tiebreaker_that_died_before_it_stored_its_first_record_learns_it_from_a_living_member() {
    let mut cases = 0;
    for seed in 0..30 {
        let mut world = World::started(seed, WorldOptions::default());
        world.order(ALPHA, Order::Promote { wait: Span::from_millis(1000), warrant: Warrant::Known });
        assert!(world.run_until(Span::from_millis(2000), |world| world.role(ALPHA) == Role::Primary));
        world.kill_tiebreaker();
        assert!(world.run_until(Span::from_millis(5000), World::is_in_sync));
        world.write_now(ALPHA, 0, 4096);
        world.kill(ALPHA);
        world.start_tiebreaker();
        cases += u64::from(world.tiebreaker.running.as_ref().is_some_and(|it| it.record().is_empty()));
        world.promote(BETA, 20_000).expect("it holds every completed write");
        world.read_everything(BETA);
    }
    assert!(cases > 0, "none of them died early enough");
}

#[test]
fn a_candidate_that_gives_up_takes_nothing_back_that_a_majority_recorded_without_it() {
    for micros in (100..3000).step_by(100) {
        let mut world = promoted(micros);
        world.write_now(ALPHA, 0, 4096);
        // Alpha is alone until the tiebreaker no longer waits for its lease.
        world.set_cut_both([ALPHA, BETA], true);
        world.set_cut_both([ALPHA, TIE], true);
        pass(&mut world, 8000);
        // Beta asks, would be voted for, and then cannot be heard; meanwhile alpha goes on without it.
        let order =
            world.order(BETA, Order::Promote { wait: Span::from_millis(3000), warrant: Warrant::Known });
        world.run_for(Span(micros));
        if world.role(BETA) == Role::Primary {
            continue;
        }
        world.set_cut(BETA, TIE, true);
        world.set_cut_both([ALPHA, TIE], false);
        let write = world.write(ALPHA, 0, 4096);
        let is_alone = world.wait_for(write, 2000);
        world.set_cut(BETA, TIE, false);
        assert!(world.run_until(Span::from_millis(20_000), |world| world.answers.contains_key(&order)));
        if is_alone {
            assert!(matches!(world.answers[&order], Answer::Refused(_)), "{micros}: alpha wrote without it");
            // The tiebreaker must still know who holds the write.
            world.kill(ALPHA);
            pass(&mut world, 8000);
            assert!(world.promote(BETA, 5000).is_err(), "{micros}: it does not hold every completed write");
            world.start(ALPHA);
            pass(&mut world, 1000);
        }
        let primary = if world.promote(ALPHA, 20_000).is_ok() { ALPHA } else { BETA };
        world.set_cut_both([ALPHA, BETA], false);
        world.assert_converges();
        world.read_everything(primary);
    }
}

#[test]
fn a_term_that_was_given_up_before_the_votes_for_it_arrived_keeps_nobody_waiting() {
    let mut cases = 0;
    for micros in (100..3000).step_by(100) {
        let mut world = promoted(micros);
        world.demote(ALPHA).expect("no client is connected");
        pass(&mut world, 100);
        let order =
            world.order(BETA, Order::Promote { wait: Span::from_millis(1000), warrant: Warrant::Known });
        world.run_for(Span(micros));
        for voter in [ALPHA, TIE] {
            world.set_cut(voter, BETA, true);
        }
        assert!(world.run_until(Span::from_millis(5000), |world| world.answers.contains_key(&order)));
        let is_late = matches!(world.answers[&order], Answer::Refused(_))
            && world.status(ALPHA).record_primary.as_deref() == Some("beta");
        for voter in [ALPHA, TIE] {
            world.set_cut(voter, BETA, false);
        }
        if !is_late {
            continue;
        }
        cases += 1;
        pass(&mut world, 1000);
        assert_eq!(world.status(ALPHA).record_primary, None, "{micros}: beta lives, and never reigned");
        // Both hold the same; who is asked for depends on whom the end of beta's term names.
        let is_promoted = world.promote(ALPHA, 5000).is_ok() || world.promote(BETA, 5000).is_ok();
        assert!(is_promoted, "{micros}: {}", world.summaries());
        world.assert_converges();
    }
    assert!(cases > 0, "every vote arrived, or was never asked for");
}

#[test]
fn a_candidate_that_learns_from_others_that_it_is_in_the_set_again_is_up_to_date() {
    for seed in 0..60 {
        let mut world = promoted(seed);
        world.kill(BETA);
        world.write_now(ALPHA, 0, 4096);
        world.set_cut_both([ALPHA, BETA], true);
        world.start(BETA);
        world.order(BETA, Order::Promote { wait: Span::from_millis(10_000), warrant: Warrant::Known });
        pass(&mut world, 1000 + seed * 7);
        // Alpha lets it in, and the tiebreaker's word arrives before alpha's own.
        world.set_cut_both([ALPHA, BETA], false);
        let is_proposed = |world: &World| in_sync(world, ALPHA) == ["alpha", "beta"];
        assert!(world.run_until(Span::from_millis(5000), is_proposed));
        world.set_cut(ALPHA, BETA, true);
        pass(&mut world, 1500);
        world.set_cut(ALPHA, BETA, false);
        world.assert_converges();
    }
}

#[test]
fn of_two_candidates_at_once_one_is_promoted_and_stays() {
    for seed in 0..40 {
        let mut world = promoted(seed);
        world.demote(ALPHA).expect("no client is connected");
        pass(&mut world, 50);
        let orders = [ALPHA, BETA].map(|node| {
            world.run_for(Span(seed * 20));
            world.order(node, Order::Promote { wait: Span::from_millis(5000), warrant: Warrant::Known })
        });
        let are_answered = |world: &World| orders.iter().all(|order| world.answers.contains_key(order));
        assert!(world.run_until(Span::from_millis(20_000), are_answered));
        let done = orders.iter().filter(|order| matches!(world.answers[order], Answer::Done { .. })).count();
        assert_eq!(done, 1, "seed {seed}: {:?}", world.answers);
        pass(&mut world, 3000);
        for node in [ALPHA, BETA] {
            assert!(!world.has_noticed(node, "stepped-down"), "seed {seed}: the winner was deposed");
        }
        world.assert_converges();
    }
}

/// Promotes beta until this holds, and kills it at that moment.
fn beta_dies_when(world: &mut World, condition: impl Fn(&World) -> bool) {
    world.order(BETA, Order::Promote { wait: Span::from_millis(20_000), warrant: Warrant::Known });
    assert!(world.run_until(Span::from_millis(20_000), condition), "{}", world.summaries());
    world.kill(BETA);
}

#[test]
fn a_candidate_that_dies_in_two_of_its_own_terms_can_be_promoted_in_a_third() {
    for seed in 0..10 {
        let mut world = promoted(seed);
        world.kill(ALPHA);
        // Another run than the one that alpha's record names.
        world.kill(BETA);
        world.start(BETA);
        let term_of = |world: &World, voter: NodeId| {
            let records = world.stored_records();
            records.iter().find(|(other, _)| *other == voter).expect("everybody has one").1.term.number
        };
        // Granted, and its own vote is on its disk; no generation was begun.
        beta_dies_when(&mut world, |world| term_of(world, BETA) == 2);
        world.start(BETA);
        // Granted by the tiebreaker alone.
        beta_dies_when(&mut world, |world| term_of(world, TIE) == 3);
        assert_eq!([ALPHA, BETA, TIE].map(|voter| term_of(&world, voter)), [1, 2, 3]);
        world.start(ALPHA);
        world.start(BETA);
        pass(&mut world, 8000);
        world.promote(BETA, 20_000).expect("it is the only member of the newest set that counts");
        world.assert_converges();
    }
}

/// Beta is promoted in a term that alpha alone has voted for, and dies; alpha is away, and gamma is promoted in a term of
/// the same number. Says whether beta's term is the higher of the two.
fn two_terms_of_one_number(seed: u64) -> (World, bool) {
    let node = NodeOptions { replicas: 3, ..NodeOptions::default() };
    let mut world = promoted_with(seed, WorldOptions { node, ..WorldOptions::default() });
    world.write_now(ALPHA, 0, 4096);
    world.demote(ALPHA).expect("no client is connected");
    pass(&mut world, 1000);
    let record_of = |world: &World, voter: NodeId| world.stored_records()[voter.index()].1;
    let before = record_of(&world, BETA);
    // Gamma hears of nothing, and alpha's vote does not get back.
    world.order(BETA, Order::Promote { wait: Span::from_millis(20_000), warrant: Warrant::Known });
    let is_asked = |world: &World| record_of(world, ALPHA).term.number > before.term.number;
    world.set_cut(BETA, GAMMA, true);
    assert!(world.run_until(Span::from_millis(5000), is_asked), "{}", world.summaries());
    world.kill(BETA);
    world.kill(ALPHA);
    // Gamma closes its link before the question gets through.
    pass(&mut world, 8000);
    world.set_cut(BETA, GAMMA, false);
    world.start(BETA);
    pass(&mut world, 1000);
    world.promote(GAMMA, 20_000).expect("it holds every completed write");
    let (lonely, reign) = (record_of(&world, ALPHA), record_of(&world, GAMMA));
    assert!(lonely.is_rival_of(&reign), "{lonely:?} {reign:?}");
    let is_higher = lonely.order() > reign.order();
    (world, is_higher)
}

#[test]
fn a_reign_outlives_the_vote_that_one_voter_alone_gave_in_a_term_of_the_same_number() {
    let mut cases = 0;
    for seed in 0..10 {
        let (mut world, is_higher) = two_terms_of_one_number(seed);
        cases += u64::from(is_higher);
        let reign = world.status(GAMMA).term;
        world.start(ALPHA);
        pass(&mut world, 5000);
        assert_eq!((world.role(GAMMA), world.status(GAMMA).term), (Role::Primary, reign), "seed {seed}");
        assert_eq!(world.status(ALPHA).term, reign, "seed {seed}: nobody granted the other");
        world.write_now(GAMMA, 4096, 4096);
        world.assert_converges();
    }
    assert!(cases > 0, "the vote was never for the higher term");
}
