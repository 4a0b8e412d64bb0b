//! A resync with three replicas: one is brought up to date while the others go on, or are lost.

use replicator::config::{OnPeerLost, RESYNC_DEFAULT, ReplicationProtocol};
use replicator::event::Order;
use replicator::state::{DiskState, ReplicationState};
use replicator::units::{NodeId, Span};
use sim::node::NodeOptions;
use sim::world::{ALPHA, BETA, Delays, GAMMA, World, WorldOptions};

use crate::{pass, promoted_with};

const MIB: u64 = 1 << 20;

/// Alpha is Primary of three. So many MiB are written while those are away; then they come back, over links of 20 MiB a
/// second.
fn returning(seed: u64, on_peer_lost: OnPeerLost, megabytes: u64, away: &[NodeId], delays: Delays) -> World {
    let node =
        NodeOptions { replicas: 3, on_peer_lost, volume_bytes: megabytes * MIB, ..NodeOptions::default() };
    let mut world = promoted_with(seed, WorldOptions { node, ..WorldOptions::default() });
    for block in 0..20 {
        world.write_now(ALPHA, block * 65_536, 4096);
    }
    away.iter().for_each(|node| world.kill(*node));
    pass(&mut world, 6000);
    for at in 0..megabytes {
        world.write_now(ALPHA, at * MIB, MIB);
    }
    pass(&mut world, 1000);
    world.delays = delays;
    // What clients feel now sets the rate with which it begins.
    for at in 0..600 {
        world.write(ALPHA, 4096 * (at % 100), 4096);
        pass(&mut world, 10);
    }
    away.iter().for_each(|node| world.start(*node));
    let is_resynced = |world: &World| away.iter().all(|node| world.disk(*node) == DiskState::Inconsistent);
    assert!(world.run_until(Span::from_millis(9000), is_resynced), "{}", world.summaries());
    world
}

fn slow_links() -> Delays {
    Delays { link_bytes_per_second: Some(20 * MIB), ..Delays::default() }
}

#[test]
fn the_third_is_promoted_in_the_middle_of_a_resync_and_finishes_it() {
    for seed in 0..6 {
        let mut world = returning(seed, OnPeerLost::Quorum, 40, &[GAMMA], slow_links());
        for round in 0..8 {
            world.write(ALPHA, round * 13 * 4096, 8192);
            pass(&mut world, 20 + seed * 10);
        }
        match seed % 2 {
            0 => world.kill(ALPHA),
            _ => world.cut_power(ALPHA),
        }
        world.promote(BETA, 30_000).expect("it is in the set");
        for block in 0..20 {
            world.write(BETA, block * 3 * 4096, 4096);
        }
        let is_whole = |world: &World| world.disk(GAMMA) == DiskState::UpToDate;
        assert!(world.run_until(Span::from_millis(60_000), is_whole), "{}", world.summaries());
        world.read_everything(BETA);
        world.start(ALPHA);
        world.assert_converges();
        world.kill(BETA);
        world.promote(GAMMA, 30_000).expect("it holds every completed write");
        world.read_everything(GAMMA);
    }
}

#[test]
fn a_resync_goes_on_while_the_third_is_lost_and_comes_back() {
    for seed in 0..4 {
        let mut world = returning(seed, OnPeerLost::Quorum, 40, &[GAMMA], slow_links());
        pass(&mut world, 100 + seed * 100);
        world.kill(BETA);
        let writes: Vec<u64> = (0..20).map(|block| world.write(ALPHA, block * 8192, 4096)).collect();
        // Nobody but alpha holds everything, and it waits for a majority: gamma votes.
        pass(&mut world, 10_000);
        assert!(writes.iter().all(|write| world.is_done(*write)), "{}", world.summaries());
        world.start(BETA);
        world.assert_converges();
        world.kill(ALPHA);
        world.promote(GAMMA, 30_000).expect("it holds every completed write");
        world.read_everything(GAMMA);
    }
}

#[test]
fn two_nodes_are_resynced_at_once_and_neither_waits_for_the_other_to_be_done() {
    // Every I/O takes so long that the rate is at the floor while clients write.
    let delays = Delays { io: 60_000, ..Delays::default() };
    let mut world = returning(1, OnPeerLost::Continue, 64, &[BETA, GAMMA], delays);
    let left = |world: &World| {
        world.status(ALPHA).connections.iter().map(|it| it.peer_devices[0].out_of_sync).collect::<Vec<u64>>()
    };
    let write = |world: &mut World, seconds: u64| {
        for at in 0..100 * seconds {
            world.write(ALPHA, 4096 * (at % 100), 4096);
            pass(world, 10);
        }
    };
    write(&mut world, 1);
    let before = left(&world);
    write(&mut world, 3);
    let copied: Vec<u64> =
        before.iter().zip(left(&world)).map(|(before, left)| before.saturating_sub(left)).collect();
    let floor = RESYNC_DEFAULT.rate_min >> 10;
    assert!(copied.iter().all(|kib| *kib > floor), "{copied:?} KiB in three seconds");
    world.delays = Delays::default();
    world.assert_converges();
}

#[test]
fn a_third_on_protocol_a_or_b_that_is_resynced_beside_what_is_mirrored_is_no_mirror_and_its_pause_ends() {
    for third in [ReplicationProtocol::A, ReplicationProtocol::B] {
        let node = NodeOptions { replicas: 3, third, ring_bytes: 4 << 20, ..NodeOptions::default() };
        let mut world = promoted_with(1, WorldOptions { node, ..WorldOptions::default() });
        world.kill(GAMMA);
        for round in 0..400 {
            world.write_now(ALPHA, round % 32 * 16_384, 16_384);
        }
        world.start(GAMMA);
        world.ask_operator(GAMMA, Order::PauseResync { is_paused: true }).expect("any time");
        let is_resynced = |world: &World| world.disk(GAMMA) == DiskState::Inconsistent;
        assert!(world.run_until(Span::from_millis(9000), is_resynced), "{}", world.summaries());
        for block in 0..20 {
            world.write_now(ALPHA, block * 65_536, 4096);
        }
        pass(&mut world, 2000);
        let state = |world: &World| {
            let connections = world.status(GAMMA).connections;
            connections.iter().map(|it| it.peer_devices[0].replication_state).collect::<Vec<_>>()
        };
        assert!(is_resynced(&world) && state(&world).contains(&ReplicationState::SyncTarget), "{third:?}");
        world.ask_operator(GAMMA, Order::PauseResync { is_paused: false }).expect("any time");
        let is_whole = |world: &World| world.disk(GAMMA) > DiskState::Inconsistent;
        assert!(world.run_until(Span::from_millis(10_000), is_whole), "{third:?} {}", world.summaries());
        world.assert_converges();
    }
}
