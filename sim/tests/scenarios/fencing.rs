//! `on-peer-lost = "fence"`: nothing is completed without a peer, and nobody is promoted without it, until a command
//! proves that it is silent or outdated.

use replicator::config::OnPeerLost;
use replicator::event::{Order, Warrant};
use replicator::layout::superblock::DurableDisk;
use replicator::state::{ConnectionState, DiskState, Role};
use replicator::units::{ByteRange, NodeId, Span};
use sim::fence_command::FenceCommand;
use sim::node::{DiskHealth, NodeOptions};
use sim::workload::Ask;
use sim::world::{ALPHA, BETA, GAMMA, World, WorldOptions};

use crate::{in_sync, pass, promoted_with};

fn fencing() -> WorldOptions {
    WorldOptions {
        node: NodeOptions { on_peer_lost: OnPeerLost::Fence, ..NodeOptions::default() },
        ..WorldOptions::default()
    }
}

/// alpha is Primary, both are in sync, and both fence by this command.
fn promoted(seed: u64, command: &FenceCommand) -> World {
    let mut world = promoted_with(seed, fencing());
    for node in &mut world.nodes {
        node.fence_command = command.clone();
    }
    world
}

/// Whether a fence command was run.
fn has_fenced(world: &World) -> bool {
    world.notices.iter().any(|(_, name, _)| *name == "fencing")
}

#[test]
fn a_lost_secondary_is_fenced_and_only_then_anything_completes_without_it() {
    for seed in 0..10 {
        for status in [3, 4, 5, 7] {
            let mut world = promoted(seed, &FenceCommand::Exits(status));
            let generations = world.status(ALPHA).lineage.len();
            world.set_cut_both([ALPHA, BETA], true);
            let write = world.write(ALPHA, 0, 4096);
            pass(&mut world, 2500);
            assert!(!world.is_done(write), "the peer may be slow only");
            assert!(world.wait_for(write, 3000), "{status}\n{}", world.summaries());
            assert_eq!(in_sync(&world, ALPHA), ["alpha"]);
            let lineage = world.status(ALPHA).lineage;
            assert_eq!(lineage.len(), generations + 1);
            assert!(lineage.iter().rev().take(2).all(|generation| !generation.granted), "nobody granted it");
            world.set_cut_both([ALPHA, BETA], false);
            world.assert_converges();
            world.read_everything(ALPHA);
        }
    }
}

#[test]
fn a_fence_command_that_fails_or_hangs_or_is_missing_leaves_the_node_frozen() {
    let proves_nothing = [
        FenceCommand::Exits(0),
        FenceCommand::Exits(1),
        FenceCommand::Exits(127),
        FenceCommand::Hangs,
        FenceCommand::IsMissing,
    ];
    for command in proves_nothing {
        let mut world = promoted(1, &command);
        world.kill(BETA);
        let write = world.write(ALPHA, 0, 4096);
        let read = world.ask(ALPHA, Ask::Read(ByteRange::new(0, 4096)));
        pass(&mut world, 40_000);
        assert!(!world.is_done(write), "{command:?}");
        let status = world.status(ALPHA);
        let frozen = status.frozen.as_ref().expect("it is frozen");
        assert!(status.suspended_fencing && !status.suspended_quorum, "{command:?}");
        assert!(frozen.reason.contains("beta is lost, and the fence command"), "{}", frozen.reason);
        assert!(frozen.ends_by.contains("--peer-is-fenced"), "{}", frozen.ends_by);
        world.start(BETA);
        assert!(world.wait_for(write, 5000) && world.wait_for(read, 1000), "{}", world.summaries());
        world.assert_converges();
        world.read_everything(ALPHA);
    }
}

#[test]
fn an_operator_with_proof_thaws_a_primary_whose_fence_command_failed() {
    let mut world = promoted(1, &FenceCommand::Exits(1));
    world.kill(BETA);
    let write = world.write(ALPHA, 0, 4096);
    pass(&mut world, 10_000);
    assert!(!world.is_done(write));
    world.promote_with(ALPHA, 0, Warrant::PeerIsFenced).expect("it is Primary");
    assert!(world.wait_for(write, 1000), "{}", world.summaries());
    world.start(BETA);
    world.assert_converges();
}

#[test]
fn when_the_peer_returns_first_the_frozen_writes_are_sent_again_and_no_generation_is_made() {
    for seed in 0..10 {
        let mut world = promoted(seed, &FenceCommand::Hangs);
        let lineage = world.status(ALPHA).lineage.len();
        world.set_cut_both([ALPHA, BETA], true);
        let write = world.write(ALPHA, 0, 4096);
        pass(&mut world, 8000);
        assert!(!world.is_done(write));
        world.set_cut_both([ALPHA, BETA], false);
        assert!(world.wait_for(write, 5000), "seed {seed}\n{}", world.summaries());
        assert_eq!(world.status(ALPHA).lineage.len(), lineage);
        pass(&mut world, 20_000);
        assert_eq!(in_sync(&world, ALPHA), ["alpha", "beta"], "what the command says later does not count");
    }
}

#[test]
fn a_fence_command_that_calls_the_peer_primary_ends_this_primary() {
    let mut world = promoted(1, &FenceCommand::Exits(6));
    world.set_cut_both([ALPHA, BETA], true);
    let write = world.write(ALPHA, 0, 4096);
    pass(&mut world, 10_000);
    assert!(!world.is_done(write));
    assert_eq!((world.role(ALPHA), world.disk(ALPHA)), (Role::Secondary, DiskState::Outdated));
    let refused = world.promote(ALPHA, 0).expect_err("it gave way");
    assert_eq!(refused.name, "disk-outdated");
}

#[test]
fn a_secondary_that_was_in_sync_to_the_end_is_promoted_when_the_primary_is_shot() {
    for seed in 0..10 {
        let mut world = promoted(seed, &FenceCommand::Shoots);
        world.write_now(ALPHA, 0, 65536);
        world.set_cut_both([ALPHA, BETA], true);
        // alpha shoots beta, or beta alpha, whoever is first; here alpha's command hangs.
        world.nodes[ALPHA.index()].fence_command = FenceCommand::Hangs;
        world.write(ALPHA, 0, 4096);
        pass(&mut world, 4000);
        world.promote(BETA, 10_000).expect("alpha is shot");
        world.set_cut_both([ALPHA, BETA], false);
        world.read_everything(BETA);
        world.start(ALPHA);
        world.assert_converges();
        assert_eq!(in_sync(&world, BETA), ["alpha", "beta"]);
    }
}

#[test]
fn a_fence_command_that_does_not_help_refuses_a_promotion() {
    for (command, name) in [
        (FenceCommand::Exits(1), "fence-failed"),
        (FenceCommand::IsMissing, "fence-failed"),
        (FenceCommand::Exits(6), "peer-is-primary"),
    ] {
        let mut world = promoted(1, &command);
        world.kill(ALPHA);
        pass(&mut world, 4000);
        let refused = world.promote(BETA, 5000).expect_err("nothing is proved");
        assert_eq!(refused.name, name);
    }
    let mut world = promoted(1, &FenceCommand::Exits(1));
    world.kill(ALPHA);
    pass(&mut world, 4000);
    world.promote_with(BETA, 5000, Warrant::PeerIsFenced).expect("beta was in sync to the end");
}

#[test]
fn a_node_that_was_down_while_the_other_went_on_alone_serves_no_old_data_though_the_other_is_silent() {
    for (seed, status) in [(0, 5), (1, 7), (2, 5), (3, 7)] {
        let mut world = promoted(seed, &FenceCommand::Exits(status));
        world.kill(BETA);
        world.write_now(ALPHA, 0, 4096);
        world.kill(ALPHA);
        world.start(BETA);
        pass(&mut world, 3000);
        assert_eq!(world.disk(BETA), DiskState::Consistent);
        for warrant in [Warrant::Known, Warrant::PeerIsFenced] {
            let refused = world.promote_with(BETA, 5000, warrant).expect_err("alpha went on alone");
            assert_eq!(refused.name, "disk-consistent", "{status}");
        }
        world.start(ALPHA);
        world.promote(ALPHA, 10_000).expect("it was last, and alone");
        world.assert_converges();
        world.read_everything(ALPHA);
    }
}

#[test]
fn whoever_wrote_last_and_alone_is_promoted_without_the_other_once_that_is_fenced() {
    let mut world = promoted(1, &FenceCommand::Exits(5));
    world.kill(BETA);
    world.write_now(ALPHA, 0, 4096);
    world.cut_power(ALPHA);
    world.start(ALPHA);
    pass(&mut world, 500);
    assert_eq!(world.disk(ALPHA), DiskState::UpToDate, "its superblock says that it was alone");
    world.promote(ALPHA, 5000).expect("beta is down");
}

#[test]
fn one_of_two_equal_secondaries_is_promoted_when_the_other_is_shot() {
    let mut world = promoted(1, &FenceCommand::Exits(7));
    world.write_now(ALPHA, 0, 4096);
    world.cut_power(ALPHA);
    world.cut_power(BETA);
    world.start(ALPHA);
    world.start(BETA);
    assert!(world.run_until(Span::from_millis(10_000), World::is_in_sync), "{}", world.summaries());
    world.kill(BETA);
    pass(&mut world, 1000);
    world.promote(ALPHA, 5000).expect("they were equal, and beta is silent");
}

#[test]
fn whoever_was_last_and_alone_forgets_it_before_the_other_counts_as_equal() {
    for seed in 0..20 {
        let mut world = promoted(seed, &FenceCommand::Shoots);
        world.kill(BETA);
        world.write_now(ALPHA, 0, 4096);
        world.demote(ALPHA).expect("no clients");
        world.start(BETA);
        // In the middle of their finding out that they hold the same.
        pass(&mut world, 5 * seed + 20);
        assert!(world.run_until(Span::from_millis(5000), |world| world.disk(BETA) == DiskState::UpToDate));
        pass(&mut world, seed % 4);
        world.cut_power(ALPHA);
        if world.promote(BETA, 10_000).is_err() {
            continue; // alpha had not said that it has forgotten.
        }
        world.write_now(BETA, 8192, 4096);
        world.cut_power(BETA);
        world.start(ALPHA);
        pass(&mut world, 1000);
        let refused = world.promote(ALPHA, 5000).expect_err("beta went on alone");
        assert_eq!(refused.name, "disk-consistent", "seed {seed}");
        world.start(BETA);
        assert!(world.run_until(Span::from_millis(10_000), World::is_in_sync), "{}", world.summaries());
    }
}

#[test]
fn nobody_believes_to_be_a_member_before_the_primary_can_forget_it_no_more() {
    for seed in 0..50 {
        let mut world = promoted(seed, &FenceCommand::Exits(7));
        world.kill(BETA);
        world.write_now(ALPHA, 0, 4096);
        world.start(BETA);
        let recorded = |world: &World, node: NodeId| world.nodes[node.index()].superblock().membership;
        let before = recorded(&world, BETA).order();
        let is_told = world.run_until(Span::from_millis(10_000), |world| {
            recorded(world, BETA).order() > before && recorded(world, BETA).in_sync.has_node(BETA)
        });
        assert!(is_told, "{}", world.summaries());
        assert_eq!(recorded(&world, ALPHA), recorded(&world, BETA), "seed {seed}");
    }
}

#[test]
fn after_both_lost_power_one_alone_cannot_prove_to_be_the_newest() {
    let mut world = promoted(1, &FenceCommand::Exits(7));
    world.write_now(ALPHA, 0, 4096);
    world.cut_power(ALPHA);
    world.cut_power(BETA);
    world.start(ALPHA);
    pass(&mut world, 1000);
    let refused = world.promote(ALPHA, 5000).expect_err("beta may hold more");
    assert_eq!(refused.name, "disk-consistent");
    world.start(BETA);
    assert!(world.run_until(Span::from_millis(10_000), World::is_in_sync), "{}", world.summaries());
    world.promote(ALPHA, 10_000).expect("both have compared what they hold");
    world.assert_converges();
}

#[test]
fn a_secondary_that_stops_in_order_is_not_fenced_and_cannot_be_promoted_alone() {
    for seed in 0..10 {
        let mut world = promoted(seed, &FenceCommand::Shoots);
        world.order(BETA, Order::Stop);
        pass(&mut world, 500);
        let write = world.write(ALPHA, 0, 4096);
        assert!(world.wait_for(write, 1000), "{}", world.summaries());
        assert!(!has_fenced(&world), "nobody is shot");
        world.kill(BETA);
        world.kill(ALPHA);
        world.start(BETA);
        pass(&mut world, 1000);
        assert_eq!(world.disk(BETA), DiskState::Outdated);
        let refused = world.promote(BETA, 1000).expect_err("it left");
        assert_eq!(refused.name, "disk-outdated");
        world.start(ALPHA);
        world.ask_operator(ALPHA, Order::WaitConnect { wait: Span::from_millis(5000) }).expect("linked");
        world.promote(ALPHA, 10_000).expect("it was last");
        world.assert_converges();
    }
}

#[test]
fn a_disconnected_secondary_is_outdated_and_not_fenced_whoever_disconnects_it() {
    for (seed, node) in (0..10).zip([ALPHA, BETA].into_iter().cycle()) {
        let mut world = promoted(seed, &FenceCommand::Shoots);
        world.ask_operator(node, Order::Disconnect { peer: None }).expect("nothing stands against it");
        let write = world.write(ALPHA, 0, 4096);
        assert!(world.wait_for(write, 1000), "{}", world.summaries());
        assert_eq!(world.disk(BETA), DiskState::Outdated);
        assert!(!has_fenced(&world), "nobody is shot");
        let reason = world.status(node).connections[0].reason.clone();
        assert_eq!(reason.as_deref(), Some("disconnected by an operator"));
        world.ask_operator(node, Order::Connect { peer: None }).expect("nothing stands against it");
        world.assert_converges();
        assert_eq!(in_sync(&world, ALPHA), ["alpha", "beta"]);
    }
}

#[test]
fn two_secondaries_that_are_sent_away_at_once_are_outdated_and_not_fenced() {
    for seed in 0..10 {
        let options = NodeOptions { replicas: 3, ..fencing().node };
        let mut world = promoted_with(seed, WorldOptions { node: options, ..fencing() });
        // It hears of the set without beta, and with itself, before it can say goodbye.
        world.set_health(GAMMA, DiskHealth::Stuck);
        world.ask_operator(ALPHA, Order::Disconnect { peer: None }).expect("nothing stands against it");
        pass(&mut world, 100);
        assert_eq!(in_sync(&world, ALPHA), ["alpha", "gamma"]);
        world.set_health(GAMMA, DiskHealth::Good);
        let write = world.write(ALPHA, 0, 4096);
        assert!(world.wait_for(write, 1000), "{}", world.summaries());
        for node in [BETA, GAMMA] {
            assert_eq!(world.nodes[node.index()].superblock().disk, DurableDisk::Outdated, "{node}");
        }
        assert!(!has_fenced(&world), "nobody is shot");
    }
}

#[test]
fn a_secondary_that_is_sent_away_and_does_not_answer_is_fenced() {
    let mut world = promoted(1, &FenceCommand::Exits(7));
    world.stand_still(BETA, 60_000);
    world.ask_operator(ALPHA, Order::Disconnect { peer: None }).expect("nothing stands against it");
    let write = world.write(ALPHA, 0, 4096);
    pass(&mut world, 2000);
    assert!(!world.is_done(write) && !has_fenced(&world), "its goodbye may be on its way");
    assert!(world.wait_for(write, 5000), "{}", world.summaries());
    assert!(has_fenced(&world));
}

#[test]
fn a_link_for_a_dry_run_neither_thaws_a_primary_nor_outdates_its_peer() {
    for seed in 0..5 {
        let mut world = promoted(seed, &FenceCommand::Exits(1));
        world.set_cut_both([ALPHA, BETA], true);
        let write = world.write(ALPHA, 0, 4096);
        pass(&mut world, 8000);
        world.ask_operator(ALPHA, Order::Disconnect { peer: None }).expect("nothing stands against it");
        pass(&mut world, 500);
        world.set_cut_both([ALPHA, BETA], false);
        world.ask_operator(ALPHA, Order::Foresee { peer: None }).expect("they would replicate");
        pass(&mut world, 5000);
        assert!(!world.is_done(write), "nothing was proved\n{}", world.summaries());
        assert_eq!(
            (in_sync(&world, ALPHA), world.disk(BETA)),
            (in_sync(&world, BETA), DiskState::Consistent)
        );
        world.ask_operator(ALPHA, Order::Connect { peer: None }).expect("nothing stands against it");
        assert!(world.wait_for(write, 5000), "{}", world.summaries());
        world.assert_converges();
    }
}

#[test]
fn a_secondary_whose_disk_fails_says_so_and_is_not_fenced() {
    for health in [DiskHealth::Failing, DiskHealth::Stuck] {
        let mut world = promoted(1, &FenceCommand::Shoots);
        world.set_health(BETA, health);
        let write = world.write(ALPHA, 0, 4096);
        assert!(world.wait_for(write, 60_000), "{}", world.summaries());
        assert!(!has_fenced(&world), "{health:?}");
    }
}

#[test]
fn outdate_waits_until_it_is_known_whether_the_primary_lives() {
    for seed in 0..5 {
        let mut world = promoted(seed, &FenceCommand::Hangs);
        world.set_cut_both([ALPHA, BETA], true);
        pass(&mut world, 200 * seed);
        assert_eq!(world.status(BETA).connections[0].connection_state, ConnectionState::Connected);
        world.ask_operator(BETA, Order::Outdate).expect("alpha is gone, as it turns out");
        assert_eq!(world.disk(BETA), DiskState::Outdated);
    }
}

#[test]
fn an_outdated_node_stays_so_over_a_restart_and_a_primary_is_not_outdated() {
    let mut world = promoted(1, &FenceCommand::Exits(4));
    let refused = world.ask_operator(ALPHA, Order::Outdate).expect_err("it is Primary");
    assert_eq!((refused.name, refused.code.exit_status()), ("is-primary", 17));
    let refused = world.ask_operator(BETA, Order::Outdate).expect_err("it follows a Primary");
    assert_eq!(refused.name, "connected");
    world.kill(ALPHA);
    pass(&mut world, 4000);
    world.ask_operator(BETA, Order::Outdate).expect("nothing stands against it");
    world.kill(BETA);
    world.start(BETA);
    pass(&mut world, 1000);
    assert_eq!(world.disk(BETA), DiskState::Outdated);
    assert_eq!(world.promote(BETA, 1000).expect_err("outdated").name, "disk-outdated");
    world.start(ALPHA);
    assert!(world.run_until(Span::from_millis(10_000), World::is_in_sync), "{}", world.summaries());
    world.promote(BETA, 10_000).expect("they hold the same");
}

#[test]
fn whoever_wrote_last_and_alone_is_not_outdated_in_favour_of_an_older_copy() {
    let mut world = promoted(1, &FenceCommand::Exits(5));
    world.kill(BETA);
    world.write_now(ALPHA, 0, 4096);
    world.demote(ALPHA).expect("no clients");
    let refused = world.ask_operator(ALPHA, Order::Outdate).expect_err("beta lacks what it wrote");
    assert_eq!((refused.name, refused.code.exit_status()), ("is-newest", 11));
    world.cut_power(ALPHA);
    world.start(ALPHA);
    pass(&mut world, 500);
    assert_eq!(world.ask_operator(ALPHA, Order::Outdate).expect_err("the same").name, "is-newest");
    world.start(BETA);
    assert!(world.run_until(Span::from_millis(10_000), World::is_in_sync), "{}", world.summaries());
    world.set_cut_both([ALPHA, BETA], true);
    pass(&mut world, 4000);
    world.ask_operator(ALPHA, Order::Outdate).expect("beta holds the same by now");
}

#[test]
fn a_new_disk_under_the_name_of_a_lost_member_does_not_stand_for_the_proof_that_the_old_one_is_silent() {
    for seed in 0..4 {
        let mut world = promoted(seed, &FenceCommand::Exits(1));
        world.write_now(ALPHA, 0, 65_536);
        world.kill(BETA);
        let write = world.write(ALPHA, 0, 4096);
        pass(&mut world, 10_000);
        world.replace_disk(BETA);
        world.start(BETA);
        // Also not when it has been brought up to date, and acknowledges.
        pass(&mut world, 20_000);
        assert!(!world.is_done(write), "the old machine may go on with the old disk: {}", world.summaries());
        assert_eq!(in_sync(&world, ALPHA), ["alpha", "beta"]);
        let frozen = world.status(ALPHA).frozen.expect("all I/O waits");
        assert!(frozen.ends_by.contains("--peer-is-fenced"), "{}", frozen.ends_by);
        world.promote_with(ALPHA, 0, Warrant::PeerIsFenced).expect("it is Primary");
        assert!(world.wait_for(write, 5000), "{}", world.summaries());
        assert!(world.run_until(Span::from_millis(60_000), World::is_in_sync), "{}", world.summaries());
        world.read_everything(ALPHA);
    }
}

#[test]
fn a_secondary_that_is_connected_again_before_it_has_said_goodbye_follows_again() {
    for on_peer_lost in [OnPeerLost::Fence, OnPeerLost::Continue] {
        for node in [ALPHA, BETA] {
            let options = NodeOptions { on_peer_lost, ..NodeOptions::default() };
            let mut world = promoted_with(1, WorldOptions { node: options, ..WorldOptions::default() });
            // What a goodbye promises is not on the disk yet.
            world.set_health(BETA, DiskHealth::Stuck);
            world.order(node, Order::Disconnect { peer: None });
            pass(&mut world, 20);
            world.order(node, Order::Connect { peer: None });
            world.set_health(BETA, DiskHealth::Good);
            let write = world.write(ALPHA, 0, 4096);
            assert!(world.wait_for(write, 5000), "{}", world.summaries());
            world.assert_converges();
            assert_eq!(in_sync(&world, ALPHA), ["alpha", "beta"]);
        }
    }
}
