//! Reigns that follow one another, overlap, or were never granted: leases, terms, force.

use replicator::config::{OnPeerLost, ReplicationProtocol};
use replicator::event::{ConnectedClients, Durability, Order, Warrant};
use replicator::state::{ConnectionState, DiskState, Role};
use replicator::units::{ByteRange, NodeId, Span};
use sim::node::NodeOptions;
use sim::workload::Ask;
use sim::world::{ALPHA, BETA, TIE, World, WorldOptions};

use crate::{lsn, pass, promoted, promoted_with, rule, with_protocol};

fn read_at(world: &mut World, node: NodeId) -> u64 {
    world.ask(node, Ask::Read(ByteRange::new(0, 4096)))
}

fn continuing(seed: u64) -> World {
    let node = NodeOptions { on_peer_lost: OnPeerLost::Continue, ..NodeOptions::default() };
    promoted_with(seed, WorldOptions { node, ..WorldOptions::default() })
}

fn stand_alone(world: &World, node: NodeId) -> bool {
    world.status(node).connections[0].connection_state == ConnectionState::StandAlone
}

#[test]
fn a_reign_that_ended_before_its_first_write_is_superseded_and_no_split_brain() {
    let mut superseded = 0;
    for seed in 0..20 {
        let mut world = promoted(seed);
        world.write_now(ALPHA, 0, 4096);
        world.demote(ALPHA).expect("no client is connected");
        pass(&mut world, 500);
        world.order(BETA, Order::Promote { wait: Span::from_millis(5000), warrant: Warrant::Known });
        let is_granted = |world: &World| world.role(BETA) == Role::Primary;
        assert!(world.run_until(Span::from_millis(6000), is_granted), "{}", world.summaries());
        world.kill(BETA);
        let Ok(_) = world.promote(ALPHA, 20_000) else { continue };
        world.write_now(ALPHA, 4096, 4096);
        world.start(BETA);
        pass(&mut world, 300);
        superseded += u64::from(rule(&world, ALPHA, BETA).as_deref() == Some("Superseded"));
        world.assert_converges();
        world.read_everything(ALPHA);
    }
    assert!(superseded > 0, "alpha always heard of the other reign");
}

#[test]
fn what_the_old_primary_alone_held_is_cut_also_where_the_new_one_has_written_more_since() {
    for seed in 0..10 {
        let mut world = promoted(seed);
        world.write_now(ALPHA, 0, 4096);
        pass(&mut world, 500);
        world.set_cut(ALPHA, BETA, true);
        for block in 1..9 {
            world.write(ALPHA, block * 4096, 4096);
        }
        pass(&mut world, 300);
        world.kill(ALPHA);
        world.promote(BETA, 20_000).expect("it is a member");
        world.set_cut(ALPHA, BETA, false);
        for block in 20..40 {
            world.write_now(BETA, block * 4096, 4096);
        }
        world.start(ALPHA);
        world.assert_converges();
        assert!(world.has_noticed(ALPHA, "journal-cut"), "seed {seed}");
        world.demote(BETA).expect("no client is connected");
        world.promote(ALPHA, 10_000).expect("it is in sync");
        world.read_everything(ALPHA);
    }
}

#[test]
fn a_write_waits_for_a_peer_whose_entry_into_the_set_nobody_has_confirmed_yet() {
    for seed in 0..20 {
        let mut world = promoted(seed);
        world.write_now(ALPHA, 0, 4096);
        pass(&mut world, 500);
        world.kill(BETA);
        world.write_now(ALPHA, 4096, 4096);
        world.start(BETA);
        let is_proposed =
            |world: &World| world.watch.seen[ALPHA.index()].superblock.membership.in_sync.has_node(BETA);
        assert!(world.run_until(Span::from_millis(5000), is_proposed), "{}", world.summaries());
        // Both will have stored it; alpha does not hear of it, and beta of nothing else.
        world.set_cut(BETA, ALPHA, true);
        world.set_cut(TIE, ALPHA, true);
        world.run_for(Span(5000));
        world.set_cut(ALPHA, BETA, true);
        let write = world.ask(ALPHA, Ask::Write(ByteRange::new(8192, 4096), Durability::Flushed));
        pass(&mut world, 500);
        assert!(!world.is_done(write), "seed {seed}: beta may be promoted without it");
        world.kill(ALPHA);
        world.set_cut_both([ALPHA, BETA], false);
        world.set_cut(TIE, ALPHA, false);
        world.promote(BETA, 20_000).expect("it is recorded as a member");
        world.read_everything(BETA);
        world.start(ALPHA);
        world.assert_converges();
    }
}

#[test]
fn frames_that_were_held_up_on_the_way_make_no_lease_longer() {
    for seed in 0..10 {
        let mut world = promoted(seed);
        world.write_now(ALPHA, 0, 4096);
        pass(&mut world, 2000);
        world.set_cut(BETA, ALPHA, true);
        world.set_cut_both([ALPHA, TIE], true);
        pass(&mut world, 100);
        world.set_cut(ALPHA, BETA, true);
        pass(&mut world, 1700);
        // Beta's frames of these seconds arrive now. Beta has heard nothing of alpha for nearly as long.
        world.set_cut(BETA, ALPHA, false);
        pass(&mut world, 100);
        world.set_cut(BETA, ALPHA, true);
        pass(&mut world, 1300);
        assert_eq!(world.status(ALPHA).connections[0].connection_state, ConnectionState::Connected);
        let read = read_at(&mut world, ALPHA);
        pass(&mut world, 1300);
        assert!(!world.is_done(read), "seed {seed}: the lease began when the echoed frame was sent");
        world.promote(BETA, 20_000).expect("beta and the tiebreaker are a majority");
        world.write_now(BETA, 0, 4096);
        assert!(!world.is_done(read));
        world.set_cut_both([ALPHA, BETA], false);
        world.set_cut_both([ALPHA, TIE], false);
        world.assert_converges();
        world.read_everything(BETA);
    }
}

#[test]
fn voters_that_restart_during_a_partition_wait_for_the_lease_that_they_do_not_know_of() {
    for seed in 0..10 {
        let mut world = promoted(seed);
        world.write_now(ALPHA, 0, 4096);
        pass(&mut world, 1000);
        world.kill(BETA);
        world.kill_tiebreaker();
        world.set_cut_both([ALPHA, BETA], true);
        world.set_cut_both([ALPHA, TIE], true);
        world.start(BETA);
        world.start_tiebreaker();
        let began = world.now;
        let read = read_at(&mut world, ALPHA);
        assert!(world.wait_for(read, 1000) || !world.is_done(read), "its lease may last");
        world.promote(BETA, 30_000).expect("beta and the tiebreaker are a majority");
        assert!(world.now - began >= 5_900_000, "seed {seed}: promoted after {} us", world.now - began);
        world.read_everything(BETA);
    }
}

#[test]
fn a_deposed_primary_steps_down_by_itself_and_lets_its_clients_go_without_an_answer() {
    for seed in 0..10 {
        let mut world = promoted(seed);
        world.write_now(ALPHA, 0, 4096);
        world.set_cut_both([ALPHA, BETA], true);
        world.set_cut_both([ALPHA, TIE], true);
        pass(&mut world, 4000);
        let write = world.write(ALPHA, 0, 4096);
        let read = read_at(&mut world, ALPHA);
        world.promote(BETA, 20_000).expect("beta and the tiebreaker are a majority");
        world.write_now(BETA, 8192, 4096);
        assert!(world.operations[&write].is_waiting() && world.operations[&read].is_waiting(), "frozen");
        world.set_cut_both([ALPHA, BETA], false);
        world.set_cut_both([ALPHA, TIE], false);
        pass(&mut world, 3000);
        assert_eq!(world.role(ALPHA), Role::Secondary, "seed {seed}");
        assert!(world.has_noticed(ALPHA, "stepped-down"));
        for request in [write, read] {
            let request = &world.operations[&request];
            assert!(request.answered_at.is_none() && request.lost_at.is_some(), "it hangs, or was answered");
        }
        world.assert_converges();
        world.read_everything(BETA);
    }
}

#[test]
fn a_forced_demotion_of_a_frozen_primary_fails_what_is_in_flight_and_nothing_of_it_returns() {
    for seed in 0..10 {
        let mut world = promoted(seed);
        world.write_now(ALPHA, 0, 4096);
        world.set_cut_both([ALPHA, BETA], true);
        world.set_cut_both([ALPHA, TIE], true);
        let write = world.write(ALPHA, 0, 4096);
        pass(&mut world, 6000);
        assert!(world.status(ALPHA).frozen.is_some());
        let forced = Order::Demote { clients: ConnectedClients::Disconnect };
        world.ask_operator(ALPHA, forced).expect("force waits for nobody");
        assert_eq!(world.role(ALPHA), Role::Secondary);
        assert!(!world.is_done(write) && !world.operations[&write].is_waiting());
        world.promote(BETA, 20_000).expect("it is a member");
        world.read_everything(BETA);
        world.set_cut_both([ALPHA, BETA], false);
        world.set_cut_both([ALPHA, TIE], false);
        world.assert_converges();
        world.read_everything(BETA);
    }
}

#[test]
fn proof_that_the_primary_is_fenced_replaces_no_majority() {
    for seed in 0..5 {
        let mut world = promoted(seed);
        world.write_now(ALPHA, 0, 4096);
        pass(&mut world, 1000);
        world.set_cut_both([BETA, TIE], true);
        world.cut_power(ALPHA);
        let refused = world.promote_with(BETA, 10_000, Warrant::PeerIsFenced).expect_err("one of three");
        assert_eq!(refused.name, "no-quorum", "seed {seed}");
        assert_eq!(world.role(BETA), Role::Secondary);
        world.start(ALPHA);
        world.set_cut_both([BETA, TIE], false);
        pass(&mut world, 2000);
        world.promote(BETA, 20_000).expect("it is a living member");
        world.read_everything(BETA);
        world.assert_converges();
    }
}

#[test]
fn a_forced_reign_and_a_granted_one_with_the_same_number_are_not_taken_for_one() {
    for seed in 0..10 {
        let mut world = promoted(seed);
        world.write_now(ALPHA, 0, 4096);
        pass(&mut world, 1000);
        world.set_cut_both([ALPHA, BETA], true);
        world.set_cut_both([BETA, TIE], true);
        pass(&mut world, 4000);
        world.kill(ALPHA);
        world.promote_with(BETA, 1000, Warrant::Force).expect("forced");
        world.write_now(BETA, 8192, 4096);
        let forced = world.status(BETA).term;
        world.kill(BETA);
        world.start(ALPHA);
        world.promote(ALPHA, 20_000).expect("alpha and the tiebreaker are a majority");
        world.write_now(ALPHA, 16_384, 4096);
        let granted = world.status(ALPHA).term;
        assert_eq!(granted.number, forced.number, "nobody told alpha of the other one");
        assert_ne!(granted, forced);
        world.start(BETA);
        world.set_cut_both([ALPHA, BETA], false);
        world.set_cut_both([BETA, TIE], false);
        pass(&mut world, 5000);
        for (node, peer) in [(ALPHA, BETA), (BETA, ALPHA)] {
            assert_eq!(rule(&world, node, peer).as_deref(), Some("SplitBrain"), "{}", world.summaries());
            assert!(stand_alone(&world, node));
        }
        // Of two terms with one number the later identity is the later term: alpha may have had to step down.
        world.promote(ALPHA, 20_000).expect("alpha and the tiebreaker are a majority");
        pass(&mut world, 2000);
        assert!(stand_alone(&world, ALPHA), "seed {seed}\n{}", world.summaries());
        assert!(!world.has_noticed(BETA, "journal-cut"), "seed {seed}: its reign is thrown away unasked");
    }
}

#[test]
fn a_split_under_continue_stays_one_when_the_configuration_changes_to_quorum() {
    for seed in 0..5 {
        let mut world = continuing(seed);
        world.write_now(ALPHA, 0, 4096);
        world.set_cut_both([ALPHA, BETA], true);
        pass(&mut world, 4000);
        world.promote(BETA, 1000).expect("it was in sync to the end");
        world.write_now(ALPHA, 4096, 4096);
        world.write_now(BETA, 8192, 4096);
        pass(&mut world, 2000);
        world.kill(ALPHA);
        world.kill(BETA);
        world.reconfigure(OnPeerLost::Quorum);
        world.set_cut_both([ALPHA, BETA], false);
        world.start_tiebreaker();
        world.start(ALPHA);
        world.start(BETA);
        pass(&mut world, 10_000);
        for (node, peer) in [(ALPHA, BETA), (BETA, ALPHA)] {
            assert_eq!(rule(&world, node, peer).as_deref(), Some("SplitBrain"), "{}", world.summaries());
            assert!(stand_alone(&world, node), "seed {seed}");
            assert!(!world.has_noticed(node, "journal-cut"), "seed {seed}: a side was thrown away unasked");
        }
    }
}

#[test]
fn a_daemon_that_is_restarted_again_before_anybody_heard_of_it_is_still_a_member() {
    for seed in 0..10 {
        let mut world = promoted(seed);
        for block in 0..5 {
            world.write_now(ALPHA, block * 4096, 4096);
        }
        world.kill(ALPHA);
        world.kill(BETA);
        for _ in 0..3 {
            world.start(BETA);
            world.run_for(Span(seed * 500));
            world.kill(BETA);
        }
        world.start(BETA);
        world.promote(BETA, 20_000).expect("no start of it lost anything");
        world.read_everything(BETA);
        world.start(ALPHA);
        world.assert_converges();
    }
}

#[test]
fn one_start_among_many_that_may_have_lost_something_ends_a_membership() {
    for seed in 0..10 {
        let mut world = promoted(seed);
        world.write_now(ALPHA, 0, 4096);
        world.kill(ALPHA);
        world.kill(BETA);
        world.start(BETA);
        world.run_for(Span(seed * 500));
        world.cut_power(BETA);
        for _ in 0..2 {
            world.start(BETA);
            world.run_for(Span(seed * 500));
            world.kill(BETA);
        }
        world.start(BETA);
        let refused = world.promote(BETA, 10_000).expect_err("alpha may hold more");
        assert_eq!(refused.name, "member-missing", "seed {seed}");
        world.start(ALPHA);
        pass(&mut world, 1000);
        world.promote(ALPHA, 20_000).expect("it is a living member");
        world.assert_converges();
    }
}

#[test]
fn an_idle_primary_under_continue_is_nobodys_target() {
    for seed in 0..10 {
        let mut world = continuing(seed);
        world.write_now(ALPHA, 0, 4096);
        pass(&mut world, 1000);
        world.set_cut_both([ALPHA, BETA], true);
        pass(&mut world, 4000);
        world.promote(BETA, 1000).expect("it was in sync to the end");
        world.write_now(BETA, 8192, 4096);
        let end = lsn(&world, ALPHA).assigned;
        world.set_cut_both([ALPHA, BETA], false);
        pass(&mut world, 5000);
        assert_eq!(world.role(ALPHA), Role::Primary, "seed {seed}");
        assert_eq!(lsn(&world, ALPHA).assigned, end, "it took nothing in");
        assert_eq!(rule(&world, ALPHA, BETA).as_deref(), Some("BothPrimary"));
        assert!(stand_alone(&world, ALPHA) && stand_alone(&world, BETA));
    }
}

#[test]
fn what_a_dead_primary_had_written_back_alone_is_undone_after_a_promotion_by_force() {
    for protocol in [ReplicationProtocol::A, ReplicationProtocol::B] {
        for seed in 0..10 {
            let mut world = World::started(seed, with_protocol(protocol));
            world.promote(ALPHA, 0).expect("nothing stands against it");
            pass(&mut world, 2000);
            for block in 0..10 {
                world.write_now(ALPHA, block * 4096, 4096);
            }
            pass(&mut world, 2000);
            world.set_cut(ALPHA, BETA, true);
            if protocol == ReplicationProtocol::B {
                pass(&mut world, 4000);
            }
            for block in 5..20 {
                world.write_now(ALPHA, block * 4096, 4096);
            }
            world.ask_now(ALPHA, Ask::Flush);
            pass(&mut world, 2000);
            assert_eq!(lsn(&world, ALPHA).written_back, lsn(&world, ALPHA).assigned, "stable on alpha alone");
            world.kill(ALPHA);
            world.set_cut(ALPHA, BETA, false);
            pass(&mut world, 4000);
            assert!(world.promote(BETA, 2000).is_err(), "it is no member");
            world.promote_with(BETA, 1000, Warrant::Force).expect("forced");
            world.write_now(BETA, 0, 4096);
            world.start(ALPHA);
            let is_there =
                |world: &World| world.disk(ALPHA) >= DiskState::Outdated && !stand_alone(world, ALPHA);
            assert!(world.run_until(Span::from_millis(20_000), is_there), "{}", world.summaries());
            world.assert_converges();
        }
    }
}
