//! `on-peer-lost = "continue"`, and promotion by force: availability at a price that is said, never merged silently.

use replicator::config::OnPeerLost;
use replicator::effect::Answer;
use replicator::event::{Order, Warrant};
use replicator::layout::superblock::{DurableDisk, Superblock};
use replicator::state::{ConnectionState, DiskState, Role};
use replicator::units::Span;
use sim::node::{IoWork, NodeOptions};
use sim::world::{ALPHA, BETA, TIE, World, WorldOptions};

use crate::{in_sync, pass, promoted, promoted_with};

fn continuing(seed: u64) -> World {
    promoted_with(
        seed,
        WorldOptions {
            node: NodeOptions { on_peer_lost: OnPeerLost::Continue, ..NodeOptions::default() },
            ..WorldOptions::default()
        },
    )
}

#[test]
fn a_primary_that_may_continue_goes_on_as_soon_as_its_peer_is_lost() {
    for seed in 0..10 {
        let mut world = continuing(seed);
        world.kill(BETA);
        let write = world.write(ALPHA, 0, 4096);
        assert!(world.wait_for(write, 1000), "{}", world.summaries());
        assert_eq!(in_sync(&world, ALPHA), ["alpha"]);
        assert!(world.status(ALPHA).lineage.last().is_some_and(|generation| !generation.granted));
        world.start(BETA);
        world.assert_converges();
        assert_eq!(in_sync(&world, ALPHA), ["alpha", "beta"]);
        world.read_everything(ALPHA);
    }
}

#[test]
fn two_primaries_after_a_partition_are_told_apart_and_never_merged() {
    for seed in 0..10 {
        let mut world = continuing(seed);
        world.set_cut_both([ALPHA, BETA], true);
        pass(&mut world, 4000);
        world.promote(BETA, 1000).expect("it was in sync to the end");
        world.write_now(ALPHA, 0, 4096);
        world.write_now(BETA, 8192, 4096);
        world.set_cut_both([ALPHA, BETA], false);
        pass(&mut world, 5000);
        for node in [ALPHA, BETA] {
            let status = world.status(node);
            assert_eq!(status.role, Role::Primary, "each keeps serving as it may");
            assert_eq!(status.connections[0].connection_state, ConnectionState::StandAlone);
            assert_eq!(status.connections[0].rule.as_deref(), Some("BothPrimary"));
        }
        world.write_now(ALPHA, 0, 4096);
        world.write_now(BETA, 8192, 4096);
        world.demote(BETA).expect("no clients");
        pass(&mut world, 3000);
        assert_eq!(world.status(BETA).connections[0].connection_state, ConnectionState::StandAlone);
        assert_eq!(world.status(ALPHA).connections[0].rule.as_deref(), Some("SplitBrain"));
    }
}

#[test]
fn under_continue_a_restarted_secondary_is_not_promoted_alone_unless_by_force() {
    let mut world = continuing(1);
    world.kill(BETA);
    world.write_now(ALPHA, 0, 4096);
    world.kill(ALPHA);
    world.start(BETA);
    pass(&mut world, 1000);
    assert_eq!(world.promote(BETA, 1000).expect_err("alpha may hold more").name, "disk-consistent");
    let text = world.promote_with(BETA, 1000, Warrant::Force).expect("forced");
    assert!(text.contains("by force") && text.contains("alpha was not heard"), "{text}");
    assert_eq!(world.role(BETA), Role::Primary);
}

#[test]
fn a_promotion_by_force_needs_no_majority_says_what_it_costs_and_is_never_merged_silently() {
    for seed in 0..10 {
        let mut world = promoted(seed);
        world.write_now(ALPHA, 0, 4096);
        world.set_cut_both([ALPHA, BETA], true);
        world.set_cut_both([BETA, TIE], true);
        world.write_now(ALPHA, 0, 4096);
        pass(&mut world, 8000);
        world.kill(ALPHA);
        assert!(world.promote(BETA, 1000).is_err(), "no majority");
        let cost = world.ask_operator(BETA, Order::WeighForce).expect("a question");
        let text = world.promote_with(BETA, 1000, Warrant::Force).expect("forced");
        assert!(text.contains("by force") && cost.contains("alpha has completed"), "{cost} {text}");
        world.write_now(BETA, 8192, 4096);
        let newest = *world.status(BETA).lineage.last().expect("a generation");
        assert!(!newest.granted, "no majority has recorded it");
        world.set_cut_both([ALPHA, BETA], false);
        world.start(ALPHA);
        pass(&mut world, 5000);
        let status = world.status(ALPHA);
        assert_eq!(status.connections[0].rule.as_deref(), Some("SplitBrain"), "seed {seed}");
        assert_eq!(status.connections[0].connection_state, ConnectionState::StandAlone);
    }
}

#[test]
fn force_does_not_depose_a_primary_that_a_voter_knows_to_live() {
    let mut world = promoted(1);
    world.set_cut_both([ALPHA, BETA], true);
    world.write_now(ALPHA, 0, 4096);
    pass(&mut world, 8000);
    let refused = world.promote_with(BETA, 1000, Warrant::Force).expect_err("alpha lives");
    assert_eq!(refused.name, "peer-is-primary");
    assert_eq!(world.role(ALPHA), Role::Primary);
}

#[test]
fn force_waits_for_a_voter_that_is_linked_and_may_know_a_primary() {
    let mut world = promoted(1);
    world.set_cut_both([ALPHA, BETA], true);
    world.write_now(ALPHA, 0, 4096);
    pass(&mut world, 8000);
    world.set_cut(TIE, BETA, true);
    let order = world.order(BETA, Order::Promote { wait: Span::default(), warrant: Warrant::Force });
    pass(&mut world, 1500);
    assert!(!world.answers.contains_key(&order), "the answer of the tiebreaker is on its way");
    world.set_cut(TIE, BETA, false);
    pass(&mut world, 500);
    assert!(matches!(&world.answers[&order], Answer::Refused(refused) if refused.name == "peer-is-primary"));
}

#[test]
fn force_is_refused_when_the_primary_returns_while_the_voters_are_asked() {
    for seed in 0..5 {
        let mut world = promoted(seed);
        world.set_cut_both([ALPHA, BETA], true);
        pass(&mut world, 5000);
        // It is linked to beta, and silent.
        world.set_cut(TIE, BETA, true);
        let order = world.order(BETA, Order::Promote { wait: Span::default(), warrant: Warrant::Force });
        world.set_cut_both([ALPHA, BETA], false);
        pass(&mut world, 5000);
        assert!(
            matches!(&world.answers[&order], Answer::Refused(refused) if refused.name == "peer-is-primary"),
            "{:?}",
            world.answers[&order]
        );
        assert_eq!(world.role(ALPHA), Role::Primary);
    }
}

#[test]
fn a_target_whose_source_dies_as_its_resync_begins_is_not_promoted_by_force() {
    let is_inconsistent = |work: &IoWork| {
        let IoWork::Superblock(_, block) = work else { return false };
        Superblock::parse(block).expect("its own").disk == DurableDisk::Inconsistent
    };
    let mut world = promoted(1);
    world.kill(BETA);
    for round in 0..256 {
        world.write_now(ALPHA, (round * 7) % 8 * 131_072, 131_072);
    }
    world.start(BETA);
    let is_on_its_way = world.run_until(Span::from_millis(5000), |world| {
        world.nodes[BETA.index()].in_flight.values().any(is_inconsistent)
    });
    assert!(is_on_its_way, "{}", world.summaries());
    world.kill(ALPHA);
    pass(&mut world, 5000);
    let refused = world.promote_with(BETA, 1000, Warrant::Force).expect_err("I6");
    assert_eq!(refused.name, "disk-inconsistent");
}

#[test]
fn a_forced_primary_follows_the_majority_again_once_it_has_recorded_its_term() {
    for seed in 0..10 {
        let mut world = promoted(seed);
        world.kill_tiebreaker();
        pass(&mut world, 100);
        world.kill(ALPHA);
        pass(&mut world, 4000);
        world.promote_with(BETA, 1000, Warrant::Force).expect("forced");
        world.write_now(BETA, 0, 4096);
        world.start_tiebreaker();
        pass(&mut world, 3000);
        let recorded = *world.tiebreaker.running.as_ref().expect("it runs").record();
        assert_eq!((recorded.primary, recorded.term), (Some(BETA), world.status(BETA).term), "seed {seed}");
        world.start(ALPHA);
        world.assert_converges();
        assert_eq!(in_sync(&world, BETA), ["alpha", "beta"]);
        world.read_everything(BETA);
    }
}

#[test]
fn an_inconsistent_disk_is_not_promoted_by_force() {
    let disks = [DurableDisk::UpToDate, DurableDisk::Inconsistent];
    let mut world = World::started(1, WorldOptions { disks, ..WorldOptions::default() });
    world.kill(ALPHA);
    pass(&mut world, 4000);
    if world.disk(BETA) == DiskState::Inconsistent {
        let refused = world.promote_with(BETA, 1000, Warrant::Force).expect_err("I6");
        assert_eq!(refused.name, "disk-inconsistent");
    }
}

#[test]
fn a_primary_that_is_heard_of_again_takes_back_the_proof_that_it_is_fenced() {
    let mut world = promoted(1);
    world.set_cut_both([ALPHA, TIE], true);
    world.set_cut_both([BETA, TIE], true);
    world.set_cut_both([ALPHA, BETA], true);
    pass(&mut world, 4000);
    let warrant = Warrant::PeerIsFenced;
    let order = world.order(BETA, Order::Promote { wait: Span::from_millis(60_000), warrant });
    pass(&mut world, 500);
    world.set_cut_both([ALPHA, BETA], false);
    let is_back = |world: &World| {
        world.status(BETA).connections[0].connection_state == ConnectionState::Connected
            && world.status(BETA).connections[0].peer_role == Role::Primary
    };
    assert!(world.run_until(Span::from_millis(3000), is_back), "{}", world.summaries());
    pass(&mut world, 200);
    world.set_cut_both([ALPHA, BETA], true);
    world.set_cut_both([BETA, TIE], false);
    let began = world.now;
    assert!(world.run_until(Span::from_millis(60_000), |world| world.answers.contains_key(&order)));
    assert!(matches!(world.answers[&order], Answer::Done { .. }), "{:?}", world.answers[&order]);
    assert!(world.now - began > 5_000_000, "its lease was not waited for: {} us", world.now - began);
}

#[test]
fn proof_that_the_peer_is_fenced_ends_the_wait_for_its_lease_and_nothing_else() {
    let mut world = promoted(1);
    world.kill(ALPHA);
    pass(&mut world, 100);
    let began = world.now;
    world.promote_with(BETA, 20_000, Warrant::PeerIsFenced).expect("beta is a member");
    assert!(world.now - began < 1_500_000, "the lease was waited for: {} us", world.now - began);

    let mut world = promoted(2);
    world.set_cut_both([ALPHA, BETA], true);
    world.write_now(ALPHA, 0, 4096);
    pass(&mut world, 5000);
    world.kill(ALPHA);
    pass(&mut world, 100);
    let refused =
        world.promote_with(BETA, 1000, Warrant::PeerIsFenced).expect_err("alpha went on without it");
    assert_ne!(refused.name, "lease");
}
