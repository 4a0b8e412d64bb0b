//! When a write is answered, and what FLUSH, FUA and reads wait for.

use replicator::config::ReplicationProtocol;
use replicator::effect::Answer;
use replicator::event::{Durability, Order};
use replicator::state::ReplicationState;
use replicator::units::{ByteRange, Lsn, Span};
use sim::node::{DiskHealth, VOLUME_BYTES};
use sim::swarm::ClientMix;
use sim::workload::Ask;
use sim::world::{ALPHA, BETA, World};

use crate::{pass, promoted, with_protocol};

fn marks(world: &World, node: replicator::units::NodeId) -> replicator::status_report::LsnReport {
    world.status(node).lsn
}

#[test]
fn on_protocol_c_a_write_is_answered_only_when_both_journals_have_it() {
    for (slow, other) in [(ALPHA, BETA), (BETA, ALPHA)] {
        let mut world = promoted(3);
        world.set_health(slow, DiskHealth::Stuck);
        let write = world.write(ALPHA, 0, 4096);
        pass(&mut world, 500);
        assert!(!world.is_done(write), "the disk of {slow} has not answered");
        assert_eq!(marks(&world, other).journaled, Lsn(1));
        world.set_health(slow, DiskHealth::Good);
        assert!(world.wait_for(write, 1000));
        assert!(marks(&world, ALPHA).journaled >= Lsn(1) && marks(&world, BETA).journaled >= Lsn(1));
    }
}

#[test]
fn on_protocol_b_a_write_is_answered_when_the_peer_has_received_it() {
    let mut world = World::started(4, with_protocol(ReplicationProtocol::B));
    world.promote(ALPHA, 0).expect("nothing stands against it");
    pass(&mut world, 2000);
    world.set_health(BETA, DiskHealth::Stuck);
    let write = world.write(ALPHA, 0, 4096);
    assert!(world.wait_for(write, 1000), "{}", world.summaries());
    world.set_cut(ALPHA, BETA, true);
    let write = world.write(ALPHA, 0, 4096);
    pass(&mut world, 500);
    assert!(!world.is_done(write), "beta has not received it");
}

#[test]
fn on_protocol_a_a_write_is_answered_when_it_is_handed_to_the_socket() {
    let mut world = World::started(5, with_protocol(ReplicationProtocol::A));
    world.promote(ALPHA, 0).expect("nothing stands against it");
    pass(&mut world, 2000);
    world.set_cut(ALPHA, BETA, true);
    let write = world.write(ALPHA, 0, 4096);
    assert!(world.wait_for(write, 100), "{}", world.summaries());
}

#[test]
fn a_flush_waits_for_every_earlier_write_on_both_nodes() {
    for seed in 0..20 {
        let mut world = promoted(seed);
        for at in 0..10 {
            world.write_now(ALPHA, at * 4096, 4096);
        }
        world.ask_now(ALPHA, Ask::Flush);
        assert!(marks(&world, ALPHA).durable >= Lsn(10) && marks(&world, BETA).durable >= Lsn(10));
        for node in [ALPHA, BETA] {
            world.cut_power(node);
        }
        for node in [ALPHA, BETA] {
            world.start(node);
        }
        pass(&mut world, 1000);
        world.promote(ALPHA, 10_000).expect("both have reported");
        world.read_everything(ALPHA);
    }
}

#[test]
fn a_fua_write_makes_both_nodes_flush_at_once() {
    let mut world = promoted(6);
    for round in 0..20 {
        let write = world.ask(ALPHA, Ask::Write(ByteRange::new(round * 4096, 4096), Durability::Flushed));
        assert!(world.wait_for(write, 100), "round {round}: the background flush comes after 200 ms");
    }
}

#[test]
fn a_fua_write_on_a_node_alone_waits_for_its_own_flush_and_not_for_the_next_background_one() {
    let mut world = promoted(5);
    world.kill(BETA);
    world.write_now(ALPHA, 0, 4096);
    for round in 1..20 {
        let write = world.ask(ALPHA, Ask::Write(ByteRange::new(round * 4096, 4096), Durability::Flushed));
        assert!(
            world.wait_for(write, 100),
            "round {round}: nothing else would have made it flush for 200 ms"
        );
    }
}

#[test]
fn a_fua_write_survives_a_power_cut_of_both() {
    for seed in 0..20 {
        let mut world = promoted(seed);
        world.ask_now(ALPHA, Ask::Write(ByteRange::new(512, 9000 / 512 * 512), Durability::Flushed));
        for node in [ALPHA, BETA] {
            world.cut_power(node);
        }
        for node in [ALPHA, BETA] {
            world.start(node);
        }
        pass(&mut world, 1000);
        world.promote(BETA, 10_000).expect("both have reported");
        world.read_everything(BETA);
        world.assert_converges();
    }
}

#[test]
fn a_read_that_overlaps_an_uncompleted_write_waits_for_it() {
    let mut world = promoted(6);
    world.set_cut(ALPHA, BETA, true);
    let write = world.write(ALPHA, 4096, 4096);
    pass(&mut world, 10);
    let overlaps = world.ask(ALPHA, Ask::Read(ByteRange::new(0, 8192)));
    let apart = world.ask(ALPHA, Ask::Read(ByteRange::new(8192, 4096)));
    assert!(world.wait_for(apart, 100), "it overlaps nothing");
    pass(&mut world, 100);
    assert!(!world.is_done(overlaps) && !world.is_done(write));
    world.set_cut(ALPHA, BETA, false);
    assert!(world.wait_for(overlaps, 1000));
    assert!(world.is_done(write));
}

#[test]
fn ragged_writes_trims_and_zeroes_read_back_right_on_both_replicas() {
    for seed in 0..20 {
        let mut world = promoted(seed);
        for step in 0..200 {
            let ask = sim::workload::any_ask(&mut world.random, VOLUME_BYTES, &ClientMix::MIXED);
            world.ask(ALPHA, ask);
            if step % 7 == 0 {
                pass(&mut world, 3);
            }
        }
        world.ask_now(ALPHA, Ask::Flush);
        world.assert_converges();
        world.read_everything(ALPHA);
        world.demote(ALPHA).expect("no client is connected");
        pass(&mut world, 50);
        world.promote(BETA, 2000).expect("it is in sync");
        world.read_everything(BETA);
    }
}

#[test]
fn a_peer_on_a_or_b_that_catches_up_holds_no_client_back() {
    for protocol in [ReplicationProtocol::A, ReplicationProtocol::B] {
        let mut world = World::started(6, with_protocol(protocol));
        world.promote(ALPHA, 0).expect("nothing stands against it");
        pass(&mut world, 2000);
        world.kill(BETA);
        for round in 0..60 {
            world.write_now(ALPHA, round % 30 * 131_072, 131_072);
        }
        world.start(BETA);
        let state = |world: &World| world.status(ALPHA).connections[0].peer_devices[0].replication_state;
        let is_source = |world: &World| state(world) == ReplicationState::SyncSource;
        assert!(world.run_until(Span::from_millis(5000), is_source), "{}", world.summaries());
        world.delays.frame = 500_000;
        let is_catching_up =
            |world: &World| world.status(ALPHA).connections[0].peer_devices[0].out_of_sync > 100;
        assert!(is_catching_up(&world), "{}", world.summaries());
        let write = world.write(ALPHA, 0, 4096);
        assert!(world.wait_for(write, 50), "{}", world.summaries());
        assert!(is_catching_up(&world), "{}", world.summaries());
    }
}

#[test]
fn waiting_for_sync_ends_when_a_peer_on_a_or_b_follows_along() {
    for protocol in [ReplicationProtocol::A, ReplicationProtocol::B] {
        let mut world = World::started(7, with_protocol(protocol));
        world.promote(ALPHA, 0).expect("nothing stands against it");
        world.set_cut_both([ALPHA, BETA], true);
        pass(&mut world, 5000);
        world.write_now(ALPHA, 0, 4096);
        let wait = Order::WaitSync { wait: Span::from_millis(20_000) };
        let order = world.order(ALPHA, wait);
        pass(&mut world, 1000);
        assert!(!world.answers.contains_key(&order), "beta is away");
        world.set_cut_both([ALPHA, BETA], false);
        pass(&mut world, 10_000);
        assert!(matches!(world.answers.get(&order), Some(Answer::Done { .. })), "{}", world.summaries());
    }
}

#[test]
fn a_request_beyond_the_end_of_the_volume_is_refused_and_changes_nothing() {
    let mut world = promoted(1);
    for ask in [
        Ask::Write(ByteRange::new(VOLUME_BYTES - 512, 4096), Durability::Complete),
        Ask::Read(ByteRange::new(VOLUME_BYTES, 1)),
    ] {
        let id = world.ask(ALPHA, ask);
        pass(&mut world, 1000);
        assert!(world.operations[&id].has_failed, "{ask:?}");
    }
    assert_eq!(marks(&world, ALPHA).assigned, Lsn::ZERO);
}
