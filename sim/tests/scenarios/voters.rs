//! Voters that remember nothing: a new disk, a reinstalled tiebreaker, a disk that comes back. Who is taken in, by whom,
//! and who never makes a majority.

use replicator::config::OnPeerLost;
use replicator::event::{Order, Warrant};
use replicator::state::{DiskState, Role};
use replicator::units::{NodeId, Span, VoterId};
use sim::node::NodeOptions;
use sim::world::{ALPHA, BETA, GAMMA, TIE, World, WorldOptions};

use crate::{in_sync, lsn, pass, promoted, promoted_with};

/// Waits until a voter that was replaced votes.
fn wait_until_it_votes(world: &mut World, node: NodeId) {
    let votes = world.run_until(Span::from_millis(60_000), |world| world.has_vote(node));
    assert!(votes, "{node} is not taken in\n{}", world.summaries());
}

/// Waits until all are in sync, and lets the checkers look at a replaced disk again.
fn wait_until_whole(world: &mut World, node: NodeId) {
    wait_until_it_votes(world, node);
    let is_whole = world.run_until(Span::from_millis(60_000), World::is_in_sync);
    assert!(is_whole, "{}", world.summaries());
    world.watch.seen[node.index()].is_damaged = false;
    world.assert_converges();
}

fn advice(world: &World, node: NodeId) -> Vec<&'static str> {
    world.status(node).advice.iter().map(|advice| advice.state).collect()
}

#[test]
fn a_new_disk_in_the_secondary_is_brought_up_to_date_and_votes_without_an_order() {
    for seed in 0..10 {
        let mut world = promoted(seed);
        world.write_now(ALPHA, 0, 1 << 16);
        let old = world.superblock(BETA).voter;
        world.replace_disk(BETA);
        for at in 0..10 {
            world.write(ALPHA, at * 8192, 4096);
        }
        pass(&mut world, seed * 500);
        world.start(BETA);
        world.write_now(ALPHA, 1 << 17, 4096);
        wait_until_whole(&mut world, BETA);
        assert_eq!(in_sync(&world, ALPHA), ["alpha", "beta"]);
        assert!(!world.has_noticed(ALPHA, "stepped-down"));
        assert_ne!(world.tiebreaker.stored().voters.ids[BETA.index()], old);
        assert_eq!(world.superblock(ALPHA).pins.ids[BETA.index()], world.superblock(BETA).voter);
        world.cut_power(ALPHA);
        pass(&mut world, 100);
        world.promote(BETA, 20_000).expect("it is a member, and the tiebreaker knows it");
        world.read_everything(BETA);
        world.start(ALPHA);
        world.assert_converges();
    }
}

#[test]
fn a_tiebreaker_that_is_installed_anew_votes_again_without_an_order() {
    for seed in 0..10 {
        let mut world = promoted(seed);
        world.write_now(ALPHA, 0, 4096);
        world.reinstall_tiebreaker();
        pass(&mut world, seed * 300);
        world.start_tiebreaker();
        wait_until_it_votes(&mut world, TIE);
        // Its vote counts: for the Primary that loses its peer, and for the peer that takes over.
        world.kill(BETA);
        world.write_now(ALPHA, 0, 4096);
        world.start(BETA);
        world.assert_converges();
        world.cut_power(ALPHA);
        pass(&mut world, 100);
        world.promote(BETA, 20_000).unwrap_or_else(|refused| panic!("seed {seed}: {refused:?}"));
        world.read_everything(BETA);
    }
}

#[test]
fn the_other_node_takes_over_from_a_primary_whose_disk_is_gone_and_takes_its_new_disk_in() {
    for seed in 0..10 {
        let mut world = promoted(seed);
        world.write_now(ALPHA, 0, 1 << 16);
        pass(&mut world, 500);
        world.replace_disk(ALPHA);
        world.start(ALPHA);
        pass(&mut world, seed * 100);
        assert!(world.promote(ALPHA, 500).is_err(), "there is nothing on it");
        world.promote(BETA, 20_000).expect("the tiebreaker votes for it");
        world.write_now(BETA, 0, 4096);
        wait_until_whole(&mut world, ALPHA);
        world.read_everything(BETA);
    }
}

#[test]
fn a_reinstalled_tiebreaker_never_promotes_a_node_that_was_left_out() {
    for seed in 0..10 {
        let mut world = promoted(seed);
        world.set_cut_both([ALPHA, BETA], true);
        let write = world.write(ALPHA, 0, 4096);
        assert!(world.wait_for(write, 8000), "alpha and the tiebreaker record the set without beta");
        world.kill(ALPHA);
        world.reinstall_tiebreaker();
        world.start_tiebreaker();
        pass(&mut world, 10_000);
        assert!(
            world.promote(BETA, 10_000).is_err(),
            "seed {seed}: beta lacks a write that was acknowledged"
        );
        world.set_cut_both([ALPHA, BETA], false);
        world.start(ALPHA);
        pass(&mut world, 1000);
        assert!(world.promote(BETA, 5000).is_err());
        // Alpha and beta are a majority of those that remember.
        world.promote(ALPHA, 20_000).unwrap_or_else(|refused| panic!("seed {seed}: {refused:?}"));
        world.read_everything(ALPHA);
        wait_until_it_votes(&mut world, TIE);
        world.assert_converges();
    }
}

#[test]
fn a_new_disk_never_promotes_a_node_that_was_left_out() {
    for seed in 0..10 {
        let mut world = promoted(seed);
        world.set_cut_both([ALPHA, BETA], true);
        let write = world.write(ALPHA, 0, 4096);
        assert!(world.wait_for(write, 8000));
        world.kill_tiebreaker();
        world.replace_disk(ALPHA);
        world.set_cut_both([ALPHA, BETA], false);
        world.start(ALPHA);
        pass(&mut world, 10_000);
        assert!(world.promote(BETA, 10_000).is_err(), "seed {seed}: the set was alpha alone");
        assert!(world.promote(ALPHA, 10_000).is_err());
        world.start_tiebreaker();
        pass(&mut world, 8000);
        assert!(world.promote(BETA, 10_000).is_err(), "seed {seed}: the tiebreaker remembers");
        // What alpha wrote alone went with its disk: only an operator can say that.
        world.promote_with(BETA, 10_000, Warrant::Force).expect("by force");
        wait_until_it_votes(&mut world, ALPHA);
    }
}

#[test]
fn a_new_disk_does_not_report_for_the_member_that_was_on_the_old_one() {
    for seed in 0..10 {
        let mut world = promoted(seed);
        world.write_now(ALPHA, 0, 4096);
        // Nobody lives on as the run that the record names.
        world.cut_power(ALPHA);
        world.cut_power(BETA);
        world.replace_disk(ALPHA);
        world.start(ALPHA);
        world.start(BETA);
        pass(&mut world, 8000);
        let refused = world.promote(BETA, 5000).expect_err("alpha may have held more than beta");
        assert_eq!(refused.name, "member-missing", "seed {seed}: {refused:?}");
        world.promote_with(BETA, 10_000, Warrant::Force).expect("by force");
        wait_until_whole(&mut world, ALPHA);
    }
}

#[test]
fn a_new_disk_waits_for_a_majority_that_remembers_and_status_says_so() {
    let mut world = promoted(3);
    world.kill(BETA);
    world.write_now(ALPHA, 0, 1 << 16);
    world.kill_tiebreaker();
    world.replace_disk(BETA);
    world.start(BETA);
    pass(&mut world, 20_000);
    assert!(!world.has_vote(BETA));
    assert!(advice(&world, ALPHA).contains(&"new-voter"), "{:?}", world.status(ALPHA).advice);
    assert!(advice(&world, BETA).contains(&"voter-new"), "{:?}", world.status(BETA).advice);
    assert!(world.disk(BETA) > DiskState::Inconsistent, "it has the data already");
    assert_eq!(in_sync(&world, ALPHA), ["alpha"]);
    world.write_now(ALPHA, 0, 4096);
    world.start_tiebreaker();
    wait_until_whole(&mut world, BETA);
    assert!(!advice(&world, ALPHA).contains(&"new-voter") && !advice(&world, BETA).contains(&"voter-new"));
}

#[test]
fn an_operators_word_takes_a_new_disk_in_where_no_majority_remembers() {
    let mut world = promoted(4);
    world.kill_tiebreaker();
    pass(&mut world, 50);
    world.replace_disk(BETA);
    let write = world.write(ALPHA, 0, 4096);
    world.start(BETA);
    pass(&mut world, 20_000);
    assert!(
        !world.is_done(write),
        "beta may have been promoted by the tiebreaker before its disk was replaced"
    );
    let at = lsn(&world, ALPHA);
    assert!(at.durable == at.assigned && at.stable < at.assigned, "the new disk flushes for nobody: {at:?}");
    let voter = world.superblock(BETA).voter;
    let accept = |voter, is_rehearsal| Order::AcceptNewVoter { voter, is_rehearsal };
    let refused = world.ask_operator(ALPHA, accept(VoterId(5), false)).expect_err("nobody has this identity");
    assert_eq!(refused.name, "unknown-voter");
    assert_eq!(world.ask_operator(BETA, accept(voter, false)).expect_err("no Primary").name, "unknown-voter");
    let loss = world.ask_operator(ALPHA, accept(voter, true)).expect("what it may cost");
    assert!(loss.contains("tiebreaker") && loss.contains("is lost"), "{loss}");
    pass(&mut world, 5000);
    assert!(!world.is_done(write), "nothing was ordered yet");
    world.ask_operator(ALPHA, accept(voter, false)).expect("the order");
    assert!(world.wait_for(write, 5000), "{}", world.summaries());
    wait_until_whole(&mut world, BETA);
    assert_eq!(world.ask_operator(ALPHA, accept(voter, false)).expect_err("done").name, "voter-known");
    world.start_tiebreaker();
    let has_heard = |world: &World| world.tiebreaker.stored().voters.ids[BETA.index()] == voter;
    assert!(world.run_until(Span::from_millis(5000), has_heard), "the Primary tells it");
    world.kill(ALPHA);
    world.promote(BETA, 20_000).expect("the tiebreaker has heard of the list");
    world.read_everything(BETA);
}

#[test]
fn the_disk_that_was_replaced_is_turned_away_by_name_when_it_comes_back() {
    let mut world = promoted(5);
    world.write_now(ALPHA, 0, 4096);
    let old = world.replace_disk(BETA);
    world.start(BETA);
    wait_until_whole(&mut world, BETA);
    let new = world.replace_disk(BETA);
    world.put_old_disk_back(BETA, old);
    world.start(BETA);
    pass(&mut world, 10_000);
    assert!(world.has_noticed(ALPHA, "unknown-voter"));
    let connection = &world.status(BETA).connections[0];
    assert!(
        connection.reason.as_ref().is_some_and(|it| it.contains("another voter has the place")),
        "{connection:?}"
    );
    let told = world.status(BETA).advice;
    assert!(told.iter().any(|advice| advice.action.contains("create-metadata")), "{told:?}");
    world.write_now(ALPHA, 0, 4096);
    // It has no vote, and is no copy that anybody counts on.
    world.cut_power(ALPHA);
    pass(&mut world, 10_000);
    assert!(world.promote(BETA, 10_000).is_err());
    world.start(ALPHA);
    world.put_old_disk_back(BETA, new);
    world.start(BETA);
    pass(&mut world, 2000);
    world.promote(ALPHA, 20_000).expect("it is the set");
    world.read_everything(ALPHA);
    wait_until_whole(&mut world, BETA);
}

#[test]
fn before_the_first_promotion_everybody_may_be_made_anew() {
    let mut world = World::started(6, WorldOptions::default());
    world.reinstall_tiebreaker();
    world.start_tiebreaker();
    pass(&mut world, 3000);
    world.replace_disk(BETA);
    world.start(BETA);
    pass(&mut world, 3000);
    world.promote(ALPHA, 10_000).expect("nobody has promised anything");
    world.write_now(ALPHA, 0, 4096);
    wait_until_whole(&mut world, BETA);
    // Two of three that are new at once are refused no more than one.
    let mut world = World::started(7, WorldOptions::default());
    world.kill_tiebreaker();
    pass(&mut world, 4000);
    world.reinstall_tiebreaker();
    assert!(world.promote(ALPHA, 2000).is_err(), "the first promotion needs every voter");
    world.start_tiebreaker();
    pass(&mut world, 3000);
    world.promote(BETA, 10_000).expect("all are there");
}

#[test]
fn a_daemon_that_restarts_twice_before_its_run_was_recorded_is_still_the_member_it_was() {
    for seed in 0..10 {
        let mut world = promoted(seed);
        world.write_now(ALPHA, 0, 4096);
        world.set_cut_both([ALPHA, BETA], true);
        world.set_cut_both([BETA, TIE], true);
        for _ in 0..2 {
            world.kill(BETA);
            world.start(BETA);
            pass(&mut world, 200);
        }
        world.kill(ALPHA);
        world.set_cut_both([ALPHA, BETA], false);
        world.set_cut_both([BETA, TIE], false);
        world.promote(BETA, 20_000).unwrap_or_else(|refused| panic!("seed {seed}: {refused:?}"));
        world.read_everything(BETA);
        world.start(ALPHA);
        world.assert_converges();
    }
}

#[test]
fn a_primary_that_dies_in_the_middle_of_a_change_leaves_a_list_that_others_can_go_on_with() {
    for micros in (500..12_000).step_by(500) {
        let node = NodeOptions { replicas: 3, ..NodeOptions::default() };
        let mut world = promoted_with(micros, WorldOptions { node, ..WorldOptions::default() });
        world.write_now(ALPHA, 0, 4096);
        world.replace_disk(GAMMA);
        pass(&mut world, 4000);
        world.start(GAMMA);
        world.run_until(Span::from_millis(5000), |world| {
            world.superblock(ALPHA).membership.in_sync.len() == 2 && world.has_noticed(ALPHA, "new-voter")
        });
        world.run_for(Span(micros));
        world.kill(ALPHA);
        pass(&mut world, 8000);
        // Gamma votes, or it does not yet; then nobody is promoted without alpha.
        if world.promote(BETA, 10_000).is_err() {
            world.start(ALPHA);
            pass(&mut world, 2000);
            let is_promoted = world.promote(BETA, 20_000).is_ok() || world.promote(ALPHA, 20_000).is_ok();
            assert!(is_promoted, "{micros}: {}", world.summaries());
        } else {
            world.start(ALPHA);
        }
        wait_until_whole(&mut world, GAMMA);
        let primary = if world.role(ALPHA) == Role::Primary { ALPHA } else { BETA };
        world.read_everything(primary);
    }
}

fn without_votes(on_peer_lost: OnPeerLost) -> WorldOptions {
    let node = NodeOptions { on_peer_lost, ..NodeOptions::default() };
    WorldOptions { node, ..WorldOptions::default() }
}

#[test]
fn a_node_that_was_promoted_by_force_before_it_met_the_other_takes_it_in() {
    for on_peer_lost in [OnPeerLost::Fence, OnPeerLost::Continue, OnPeerLost::Quorum] {
        let mut world = World::new(8, without_votes(on_peer_lost));
        world.start(ALPHA);
        world.promote_with(ALPHA, 0, Warrant::Force).expect("an operator has said so");
        world.write_now(ALPHA, 0, 4096);
        if world.options.has_tiebreaker() {
            world.start_tiebreaker();
            wait_until_it_votes(&mut world, TIE);
        }
        world.start(BETA);
        wait_until_it_votes(&mut world, BETA);
        world.assert_converges();
        assert_eq!(in_sync(&world, ALPHA), ["alpha", "beta"], "{on_peer_lost:?}");
    }
}

#[test]
fn without_votes_a_new_disk_is_brought_up_to_date_and_enters_the_set() {
    for on_peer_lost in [OnPeerLost::Fence, OnPeerLost::Continue] {
        let mut world = promoted_with(9, without_votes(on_peer_lost));
        world.write_now(ALPHA, 0, 1 << 16);
        world.ask_operator(BETA, Order::Stop).expect("it says goodbye");
        world.write_now(ALPHA, 1 << 17, 4096);
        world.replace_disk(BETA);
        world.start(BETA);
        wait_until_whole(&mut world, BETA);
        assert_eq!(in_sync(&world, ALPHA), ["alpha", "beta"], "{on_peer_lost:?}");
        world.demote(ALPHA).expect("no clients");
        world.promote(BETA, 10_000).expect("alpha agrees");
        world.read_everything(BETA);
    }
}

#[test]
fn without_votes_a_new_disk_does_not_make_an_old_copy_the_newest() {
    for on_peer_lost in [OnPeerLost::Fence, OnPeerLost::Continue] {
        let mut world = promoted_with(10, without_votes(on_peer_lost));
        world.write_now(ALPHA, 0, 4096);
        world.ask_operator(BETA, Order::Stop).expect("it says goodbye");
        world.write_now(ALPHA, 0, 4096);
        world.kill(ALPHA);
        world.replace_disk(ALPHA);
        world.start(ALPHA);
        world.start(BETA);
        pass(&mut world, 5000);
        assert!(world.promote(BETA, 2000).is_err(), "{on_peer_lost:?}: alpha wrote alone on the old disk");
        world.promote_with(BETA, 0, Warrant::Force).expect("an operator names the loss");
        wait_until_it_votes(&mut world, ALPHA);
        let is_whole = world.run_until(Span::from_millis(20_000), World::is_in_sync);
        assert!(is_whole, "{on_peer_lost:?}: {}", world.summaries());
    }
}

#[test]
fn an_operators_word_takes_in_two_voters_that_have_met_each_other_before_the_primary_took_either_in() {
    for first in [BETA, TIE] {
        let mut world = promoted(11);
        world.write_now(ALPHA, 0, 4096);
        world.kill_tiebreaker();
        pass(&mut world, 50);
        world.replace_disk(BETA);
        world.reinstall_tiebreaker();
        let write = world.write(ALPHA, 0, 4096);
        world.start(BETA);
        world.start_tiebreaker();
        pass(&mut world, 10_000);
        assert!(!world.is_done(write), "nobody else remembers");
        let second = if first == BETA { TIE } else { BETA };
        for node in [first, second] {
            let voter = if node == BETA { world.superblock(BETA).voter } else { world.tiebreaker.voter };
            let accept = Order::AcceptNewVoter { voter, is_rehearsal: false };
            let answer = world.ask_operator(ALPHA, accept);
            assert!(answer.is_ok() || world.has_vote(node), "{answer:?}");
            pass(&mut world, 5000);
        }
        assert!(world.is_done(write), "{first}: {}", world.summaries());
        wait_until_it_votes(&mut world, TIE);
        wait_until_whole(&mut world, BETA);
    }
}
