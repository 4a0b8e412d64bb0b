//! Who waits for whom while a peer is brought up to date: clients for the resync, the resync for clients, the journal's
//! tail for a slow peer; and what operators of both ends see of it.

use replicator::config::RESYNC_DEFAULT;
use replicator::event::Order;
use replicator::resync::throttle::ThrottleLimits;
use replicator::state::{DiskState, ReplicationState};
use replicator::status_report::PeerDeviceReport;
use replicator::units::{NodeId, Span};
use sim::node::{DiskHealth, NodeOptions};
use sim::world::{ALPHA, BETA, Delays, World, WorldOptions};

use crate::{pass, promoted_with};

const MIB: u64 = 1 << 20;

fn options(volume_bytes: u64, resync: ThrottleLimits) -> WorldOptions {
    WorldOptions {
        node: NodeOptions { volume_bytes, resync, ..NodeOptions::default() },
        ..WorldOptions::default()
    }
}

/// Beta was away while more was written to alpha than its journal holds; it comes back.
fn resyncing(seed: u64, megabytes: u64, resync: ThrottleLimits, delays: Delays) -> World {
    let mut world = promoted_with(seed, options(megabytes * MIB, resync));
    world.kill(BETA);
    pass(&mut world, 5000);
    for at in 0..megabytes {
        world.write_now(ALPHA, at * MIB, MIB);
    }
    pass(&mut world, 1000);
    world.delays = delays;
    // What clients feel now sets the rate with which it begins.
    write_for(&mut world, 6000);
    world.start(BETA);
    let has_begun = |world: &World| world.disk(BETA) == DiskState::Inconsistent;
    assert!(world.run_until(Span::from_millis(9000), has_begun), "{}", world.summaries());
    world
}

/// A client writes a block every ten milliseconds.
fn write_for(world: &mut World, milliseconds: u64) {
    for at in 0..milliseconds / 10 {
        world.write(ALPHA, 4096 * (at % 97), 4096);
        pass(world, 10);
    }
}

fn report(world: &World, node: NodeId) -> PeerDeviceReport {
    world.status(node).connections[0].peer_devices[0].clone()
}

fn over_a_link_of(megabytes: u64) -> Delays {
    Delays { link_bytes_per_second: Some(megabytes * MIB), ..Delays::default() }
}

#[test]
fn a_resync_never_falls_below_the_floor_however_long_clients_wait() {
    // Every I/O takes so long that no write is ever fast enough.
    let mut world = resyncing(2, 64, RESYNC_DEFAULT, Delays { io: 60_000, ..Delays::default() });
    let before = report(&world, ALPHA).out_of_sync;
    for _ in 0..4 {
        write_for(&mut world, 1000);
        let limit = report(&world, ALPHA).details.expect("it goes on").want;
        assert!((9.99..10.01).contains(&limit), "it is at the floor: {limit}");
    }
    let copied = before.saturating_sub(report(&world, ALPHA).out_of_sync);
    // As much as is on its way may not be counted yet.
    assert!(copied >= 32 << 10, "{copied} KiB in four seconds");
}

#[test]
fn writes_that_are_not_answered_at_all_do_not_set_a_resync_free() {
    let mut world = resyncing(3, 64, RESYNC_DEFAULT, over_a_link_of(8));
    for _ in 0..20 {
        world.write(ALPHA, 4096, 4096);
        pass(&mut world, 50);
    }
    world.set_health(ALPHA, DiskHealth::Stuck);
    world.write(ALPHA, 4096, 4096);
    pass(&mut world, 2500);
    let limit = report(&world, ALPHA).details.expect("it goes on").want;
    assert!(limit > 0.0 && limit <= 10.01, "silence is not content: {limit}");
}

#[test]
fn a_peer_that_takes_records_more_slowly_than_the_floor_is_overtaken_and_gets_blocks() {
    for seed in 0..4 {
        let world = hot_catch_up(seed, 2);
        assert!(world.has_noticed(ALPHA, "catch-up-overtaken"), "{}", world.summaries());
        assert!(world.has_noticed(BETA, "resync-begins"), "{}", world.summaries());
    }
}

#[test]
fn clients_are_slowed_for_a_peer_that_catches_up_faster_than_the_floor_and_it_is_not_overtaken() {
    for seed in 0..4 {
        let world = hot_catch_up(seed, 20);
        assert!(!world.has_noticed(ALPHA, "catch-up-overtaken"), "{}", world.summaries());
        assert!(!world.has_noticed(BETA, "resync-begins"), "{}", world.summaries());
    }
}

/// Beta comes back over a link of so many MiB a second while clients write as much as they can; then they stop.
fn hot_catch_up(seed: u64, link: u64) -> World {
    let mut world = promoted_with(seed, WorldOptions::default());
    world.kill(BETA);
    pass(&mut world, 5000);
    for at in 0..4 {
        world.write_now(ALPHA, at * MIB, MIB);
    }
    world.delays = over_a_link_of(link);
    world.start(BETA);
    let catches_up = |world: &World| report(world, ALPHA).replication_state == ReplicationState::SyncSource;
    assert!(world.run_until(Span::from_millis(5000), catches_up), "{}", world.summaries());
    let mut pending = Vec::new();
    let until = world.now + 8_000_000;
    while world.now < until {
        pending.retain(|write| !world.is_done(*write));
        while pending.len() < 16 {
            pending.push(world.write(ALPHA, world.now % 16 * 262_144, 262_144));
        }
        pass(&mut world, 1);
    }
    pass(&mut world, 10_000);
    assert!(
        pending.iter().all(|write| world.is_done(*write)),
        "nobody waits for ever\n{}",
        world.summaries()
    );
    world.assert_converges();
    world.read_everything(ALPHA);
    world.kill(ALPHA);
    world.promote(BETA, 20_000).expect("it holds every completed write");
    world.read_everything(BETA);
    world
}

#[test]
fn both_ends_of_a_resync_tell_how_far_it_has_come_how_fast_it_goes_and_when_it_ends() {
    let mut world = resyncing(5, 64, RESYNC_DEFAULT, over_a_link_of(8));
    pass(&mut world, 5000);
    for node in [ALPHA, BETA] {
        let shown = report(&world, node);
        let details = shown.details.expect("it goes on");
        assert!((6.0..9.0).contains(&details.recent_rate), "{node}: {details:?}");
        assert!(
            (1..8).contains(&details.estimated_seconds_to_finish.expect("there is an end")),
            "{details:?}"
        );
        assert!((40.0..90.0).contains(&details.percent_resync_done), "{node}: {details:?}");
        assert!(shown.has_sync_details && shown.out_of_sync > 16 << 10, "{node}: {}", shown.out_of_sync);
    }
    world.assert_converges();
    for node in [ALPHA, BETA] {
        let shown = report(&world, node);
        assert!(!shown.has_sync_details && shown.details.is_none() && shown.out_of_sync == 0);
    }
}

#[test]
fn both_ends_of_a_catch_up_tell_how_far_it_has_come() {
    let mut world = promoted_with(6, options(16 * MIB, RESYNC_DEFAULT));
    world.kill(BETA);
    pass(&mut world, 5000);
    for at in 0..6 {
        world.write_now(ALPHA, at * MIB, MIB);
    }
    world.delays = over_a_link_of(1);
    world.start(BETA);
    let is_half_way = |world: &World| {
        let shown = [ALPHA, BETA].map(|node| report(world, node).details);
        shown.iter().all(|it| it.as_ref().is_some_and(|details| details.percent_resync_done > 50.0))
    };
    assert!(world.run_until(Span::from_millis(10_000), is_half_way), "{}", world.summaries());
    for node in [ALPHA, BETA] {
        let details = report(&world, node).details.expect("it goes on");
        assert!((0.5..1.5).contains(&details.recent_rate), "{node}: {details:?}");
        assert!(
            (1..15).contains(&details.estimated_seconds_to_finish.expect("there is an end")),
            "{details:?}"
        );
        assert!((10.0..95.0).contains(&details.percent_resync_done), "{node}: {details:?}");
    }
    assert!(!world.has_noticed(BETA, "resync-begins"));
    world.assert_converges();
}

#[test]
fn either_end_pauses_a_resync_and_both_say_who_did() {
    let mut world = resyncing(7, 64, RESYNC_DEFAULT, over_a_link_of(20));
    let pause = |world: &mut World, node, is_paused| {
        world.ask_operator(node, Order::PauseResync { is_paused }).expect("any time");
    };
    let suspended = |world: &World| [ALPHA, BETA].map(|node| report(world, node).resync_suspended);
    pause(&mut world, BETA, true);
    pass(&mut world, 4500);
    assert_eq!(suspended(&world), ["peer", "user"]);
    let left = report(&world, ALPHA).out_of_sync;
    pause(&mut world, ALPHA, true);
    pass(&mut world, 3500);
    assert_eq!((suspended(&world), report(&world, ALPHA).out_of_sync), (["user,peer"; 2], left));
    for node in [ALPHA, BETA] {
        let details = report(&world, node).details.expect("it has not ended");
        assert_eq!(details.estimated_seconds_to_finish, None);
        assert!(details.rs_paused_ms >= 7000, "{node}: {details:?}");
    }
    pause(&mut world, BETA, false);
    pass(&mut world, 2000);
    assert_eq!((suspended(&world), report(&world, ALPHA).out_of_sync), (["user", "peer"], left));
    pause(&mut world, ALPHA, false);
    world.assert_converges();
    assert_eq!(suspended(&world), ["no"; 2]);
}
