//! `on-peer-lost = "continue"`, and promotion by force: availability at a price that is said, never merged silently.

use replicator::config::OnPeerLost;
use replicator::event::{Order, Warrant};
use replicator::state::{ConnectionState, DiskState, Role};
use sim::node::NodeOptions;
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
    use replicator::layout::superblock::DurableDisk;
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
