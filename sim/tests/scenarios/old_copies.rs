//! Copies that were left behind where nobody votes (`on-peer-lost` fence and continue): that two of them hold the same makes
//! neither the newest.

use replicator::config::OnPeerLost;
use replicator::event::{Durability, Order};
use replicator::layout::superblock::DurableDisk;
use replicator::state::DiskState;
use replicator::units::{ByteRange, Lsn, NodeId, Span};
use sim::fence_command::FenceCommand;
use sim::node::NodeOptions;
use sim::workload::Ask;
use sim::world::{ALPHA, BETA, GAMMA, World, WorldOptions};

use crate::{in_sync, lsn, pass, promoted_with, rule};

/// alpha is Primary of three that are in sync; whoever is fenced is shot.
fn three(seed: u64, on_peer_lost: OnPeerLost) -> World {
    let node = NodeOptions { replicas: 3, on_peer_lost, ..NodeOptions::default() };
    let mut world = promoted_with(seed, WorldOptions { node, ..WorldOptions::default() });
    for node in &mut world.nodes {
        node.fence_command = FenceCommand::Shoots;
    }
    world
}

fn durable_disk(world: &World, node: NodeId) -> DurableDisk {
    world.nodes[node.index()].superblock().disk
}

fn refuses_to_promote(world: &mut World, node: NodeId) {
    let refused =
        world.promote(node, 2000).expect_err("alpha went on alone, and nobody here has what it wrote");
    assert!(["disk-outdated", "disk-consistent"].contains(&refused.name), "{refused:?}");
}

/// A write that stays, whatever loses power.
fn write_for_good(world: &mut World) {
    world.ask_now(ALPHA, Ask::Write(ByteRange::new(0, 65_536), Durability::Flushed));
}

/// alpha comes back, and is found to hold what clients were told.
fn alpha_returns(world: &mut World) {
    world.start(ALPHA);
    world.promote(ALPHA, 10_000).expect("it was last, and alone");
    for node in [BETA, GAMMA] {
        if !world.is_up(node) {
            world.start(node); // It was shot.
        }
        world.order(node, Order::Connect { peer: None });
    }
    world.assert_converges();
    world.read_everything(ALPHA);
}

#[test]
fn two_old_copies_that_hold_the_same_are_old_still_when_whoever_went_on_without_them_is_silent() {
    for on_peer_lost in [OnPeerLost::Fence, OnPeerLost::Continue] {
        for seed in 0..5 {
            let mut world = three(seed, on_peer_lost);
            world.ask_operator(ALPHA, Order::Disconnect { peer: None }).expect("nothing stands against it");
            pass(&mut world, 500);
            assert_eq!(in_sync(&world, ALPHA), ["alpha"]);
            write_for_good(&mut world);
            world.cut_power(ALPHA);
            // They meet again and again: once equal, always equal.
            for _ in 0..3 {
                world.reset([BETA, GAMMA]);
                pass(&mut world, 1000);
                for node in [BETA, GAMMA] {
                    assert_eq!(durable_disk(&world, node), DurableDisk::Outdated, "seed {seed}");
                    refuses_to_promote(&mut world, node);
                }
            }
            alpha_returns(&mut world);
        }
    }
}

#[test]
fn an_old_copy_is_old_still_when_it_equals_one_that_was_left_behind_later_and_does_not_know() {
    for on_peer_lost in [OnPeerLost::Fence, OnPeerLost::Continue] {
        for seed in 0..5 {
            let mut world = three(seed, on_peer_lost);
            world.ask_operator(GAMMA, Order::Disconnect { peer: None }).expect("nothing stands against it");
            pass(&mut world, 500);
            world.cut_power(BETA);
            pass(&mut world, 5000);
            write_for_good(&mut world);
            world.cut_power(ALPHA);
            world.start(BETA);
            world.ask_operator(GAMMA, Order::Connect { peer: None }).expect("nothing stands against it");
            pass(&mut world, 2000);
            world.cut_power(BETA);
            pass(&mut world, 4000);
            assert_eq!(durable_disk(&world, GAMMA), DurableDisk::Outdated, "seed {seed}");
            refuses_to_promote(&mut world, GAMMA);
            alpha_returns(&mut world);
        }
    }
}

#[test]
fn an_old_copy_is_old_no_more_when_it_equals_another_and_everybody_who_may_hold_more_is_there() {
    for on_peer_lost in [OnPeerLost::Fence, OnPeerLost::Continue] {
        let mut world = three(1, on_peer_lost);
        world.ask_operator(ALPHA, Order::Disconnect { peer: None }).expect("nothing stands against it");
        pass(&mut world, 500);
        write_for_good(&mut world);
        world.demote(ALPHA).expect("no clients");
        world.ask_operator(ALPHA, Order::Connect { peer: None }).expect("nothing stands against it");
        let is_current = |world: &World| {
            world.replicas().all(|node| {
                world.disk(node) == DiskState::UpToDate && durable_disk(world, node) == DurableDisk::UpToDate
            })
        };
        assert!(world.run_until(Span::from_millis(20_000), is_current), "{}", world.summaries());
        world.promote(GAMMA, 10_000).expect("they all hold the same");
        world.assert_converges();
        world.read_everything(GAMMA);
    }
}

#[test]
fn whoever_follows_the_one_that_went_on_alone_is_old_until_it_has_caught_up_though_that_one_is_primary_no_more()
 {
    for on_peer_lost in [OnPeerLost::Fence, OnPeerLost::Continue] {
        for seed in 0..10 {
            let mut world = three(seed, on_peer_lost);
            world.kill(GAMMA);
            pass(&mut world, 1000);
            // beta does not know that it is left behind.
            world.nodes[ALPHA.index()].fence_command = FenceCommand::Exits(4);
            world.set_cut_both([ALPHA, BETA], true);
            pass(&mut world, 8000);
            assert!(
                in_sync(&world, ALPHA) == ["alpha"] && in_sync(&world, BETA).contains(&"beta".to_owned())
            );
            write_for_good(&mut world);
            world.demote(ALPHA).expect("no clients");
            world.set_cut_both([ALPHA, BETA], false);
            let has_met = |world: &World| rule(world, BETA, ALPHA).as_deref() == Some("PeerMovedOn");
            assert!(world.run_until(Span::from_millis(10_000), has_met), "{}", world.summaries());
            world.cut_power(ALPHA);
            pass(&mut world, 5000);
            if lsn(&world, BETA).durable < Lsn(1) {
                refuses_to_promote(&mut world, BETA);
            }
            world.start(ALPHA);
            world.promote(ALPHA, 10_000).expect("it was last, and alone");
            world.start(GAMMA);
            if !world.is_up(BETA) {
                world.start(BETA);
            }
            world.assert_converges();
            world.read_everything(ALPHA);
        }
    }
}
