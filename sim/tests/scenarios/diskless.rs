//! A Primary whose disk fails: it serves through the members of the in-sync set that are left.

use replicator::config::OnNoData;
use replicator::event::{ConnectedClients, Durability, Order, Warrant};
use replicator::state::{DiskState, Role};
use replicator::units::{ByteRange, Span};
use sim::node::{DiskHealth, NextFailure, NodeOptions};
use sim::workload::Ask;
use sim::world::{ALPHA, BETA, GAMMA, TIE, World, WorldOptions};

use crate::{in_sync, lsn, pass, promoted, promoted_with};

fn is_served_without_disk(world: &World) -> bool {
    world.disk(ALPHA) == DiskState::Diskless && world.status(ALPHA).frozen.is_none()
}

/// The disk of alpha, Primary and in sync with beta, has failed, and beta alone is in the set.
fn without_disk(seed: u64) -> World {
    without_disk_in(promoted(seed))
}

fn without_disk_in(mut world: World) -> World {
    world.write_now(ALPHA, 0, 65_536);
    world.set_health(ALPHA, DiskHealth::Failing);
    let write = world.write(ALPHA, 8192, 4096);
    assert!(world.wait_for(write, 5000), "{}", world.summaries());
    assert!(is_served_without_disk(&world), "{}", world.summaries());
    assert!(!in_sync(&world, ALPHA).contains(&"alpha".to_owned()), "{}", world.summaries());
    world
}

#[test]
fn a_primary_whose_disk_fails_serves_reads_and_writes_through_its_peer() {
    for seed in 0..20 {
        let mut world = without_disk(seed);
        assert_eq!(in_sync(&world, ALPHA), ["beta"]);
        for at in 0..40 {
            world.write(ALPHA, at * 12_288, 9216);
        }
        world.ask_now(ALPHA, Ask::Zeroes(ByteRange::new(1 << 20, 3072), Durability::Flushed));
        world.ask_now(ALPHA, Ask::Trim(ByteRange::new(0, 1 << 17), Durability::Complete));
        world.ask_now(ALPHA, Ask::Flush);
        world.read_everything(ALPHA);
        assert!(world.has_noticed(ALPHA, "diskless"), "{}", world.summaries());
    }
}

#[test]
fn reads_that_the_failed_disk_owes_are_answered_by_the_peer() {
    let mut world = promoted(2);
    world.write_now(ALPHA, 0, 65_536);
    world.run_for(Span::from_millis(2000));
    world.set_health(ALPHA, DiskHealth::DataStuck);
    let owed: Vec<u64> =
        (0..8).map(|at| world.ask(ALPHA, Ask::Read(ByteRange::new(at * 5120, 5120)))).collect();
    let ragged = world.write(ALPHA, 512, 512);
    world.run_for(Span::from_millis(100));
    assert!(owed.iter().all(|read| !world.is_done(*read)));
    world.set_health(ALPHA, DiskHealth::Failing);
    for request in owed.into_iter().chain([ragged]) {
        assert!(world.wait_for(request, 5000), "{}", world.summaries());
    }
    world.read_everything(ALPHA);
}

#[test]
fn nothing_is_completed_without_the_disk_before_others_have_recorded_the_set_without_it() {
    let mut world = promoted(3);
    world.write_now(ALPHA, 0, 4096);
    world.set_cut_both([ALPHA, TIE], true);
    pass(&mut world, 5000);
    world.set_health(ALPHA, DiskHealth::Failing);
    let write = world.write(ALPHA, 4096, 4096);
    let read = world.ask(ALPHA, Ask::Read(ByteRange::new(0, 4096)));
    pass(&mut world, 5000);
    // Its own copy of the record would make a majority with beta's.
    assert!(!world.is_done(write) && !world.is_done(read), "{}", world.summaries());
    let frozen = world.status(ALPHA).frozen.expect("all I/O waits");
    assert!(frozen.reason.contains("not recorded yet"), "{}", frozen.reason);
    world.set_cut_both([ALPHA, TIE], false);
    assert!(world.wait_for(write, 8000) && world.wait_for(read, 8000), "{}", world.summaries());
}

#[test]
fn a_node_that_served_without_its_disk_is_not_promoted_by_what_that_disk_still_says() {
    // Attack 3: alpha reboots, its disk answers again, beta is unreachable.
    for seed in 0..10 {
        let mut world = without_disk(seed);
        world.write_now(ALPHA, 0, 4096);
        world.kill(ALPHA);
        world.set_health(ALPHA, DiskHealth::Good);
        world.set_cut_both([ALPHA, BETA], true);
        world.set_cut_both([BETA, TIE], true);
        world.start(ALPHA);
        world.run_for(Span::from_millis(5000));
        let refused = world.promote(ALPHA, 15_000).expect_err("alpha lacks what beta completed");
        assert_ne!(world.role(ALPHA), Role::Primary, "{refused:?}");
        world.set_cut_both([BETA, TIE], false);
        world.set_cut_both([ALPHA, BETA], false);
        world.promote(BETA, 20_000).expect("it is the member");
        world.read_everything(BETA);
        world.assert_converges();
    }
}

#[test]
fn the_peer_takes_over_from_a_primary_without_a_disk_that_dies() {
    for seed in 0..10 {
        let mut world = without_disk(seed);
        for at in 0..20 {
            world.write(ALPHA, at * 4096, 4096);
        }
        world.run_for(Span(seed * 300));
        world.kill(ALPHA);
        world.promote(BETA, 20_000).expect("it is the member");
        world.read_everything(BETA);
        // Also while the old one runs again, its disk good: it has restarted, so nobody waits for its lease.
        world.set_health(ALPHA, DiskHealth::Good);
        world.start(ALPHA);
        world.write_now(BETA, 0, 4096);
        world.assert_converges();
    }
}

#[test]
fn a_restarted_primary_without_a_disk_does_not_keep_the_tiebreaker_waiting_for_its_lease() {
    let mut world = without_disk(5);
    world.kill(ALPHA);
    world.set_health(ALPHA, DiskHealth::Good);
    world.start(ALPHA);
    world.run_for(Span::from_millis(1500));
    world.promote(BETA, 20_000).expect("it is the member");
    world.assert_converges();
}

#[test]
fn a_member_that_lost_its_link_gets_again_what_it_lacks_and_service_goes_on() {
    for seed in 0..20 {
        let mut world = without_disk(seed);
        let writes: Vec<u64> = (0..20).map(|at| world.write(ALPHA, at * 4096, 4096)).collect();
        let read = world.ask(ALPHA, Ask::Read(ByteRange::new(0, 1 << 20)));
        world.run_for(Span(seed * 50));
        world.reset([ALPHA, BETA]);
        for request in writes.into_iter().chain([read]) {
            assert!(world.wait_for(request, 10_000), "{}", world.summaries());
        }
        assert_eq!(in_sync(&world, ALPHA), ["beta"]);
        world.read_everything(ALPHA);
    }
}

#[test]
fn a_member_that_lost_power_gets_again_from_memory_what_it_had_not_flushed() {
    for seed in 0..20 {
        let mut world = without_disk(seed);
        world.write_now(ALPHA, 0, 4096);
        let run = |world: &World| world.status(ALPHA).in_sync[0].member;
        let before = run(&world);
        world.cut_power(BETA);
        let write = world.write(ALPHA, 4096, 4096);
        pass(&mut world, 5000);
        assert!(!world.is_done(write));
        assert!(world.status(ALPHA).suspended_no_data, "{}", world.summaries());
        world.start(BETA);
        assert!(world.wait_for(write, 10_000), "{}", world.summaries());
        assert_ne!(run(&world), before, "it has entered as another run");
        world.read_everything(ALPHA);
    }
}

#[test]
fn a_read_is_lent_only_behind_the_writes_of_its_blocks_that_every_member_has() {
    let node = NodeOptions { replicas: 3, ..NodeOptions::default() };
    let mut world = without_disk_in(promoted_with(7, WorldOptions { node, ..WorldOptions::default() }));
    assert_eq!(in_sync(&world, ALPHA), ["beta", "gamma"]);
    world.set_health(GAMMA, DiskHealth::Stuck);
    let write = world.write(ALPHA, 0, 4096);
    pass(&mut world, 100);
    let read = world.ask(ALPHA, Ask::Read(ByteRange::new(0, 4096)));
    pass(&mut world, 500);
    assert!(!world.is_done(write) && !world.is_done(read), "gamma lacks it\n{}", world.summaries());
    world.set_health(GAMMA, DiskHealth::Good);
    assert!(world.wait_for(write, 5000) && world.wait_for(read, 5000), "{}", world.summaries());
}

#[test]
fn without_any_copy_requests_wait_unless_they_are_to_fail() {
    for (on_no_data, is_answered) in [(OnNoData::Freeze, false), (OnNoData::Fail, true)] {
        let node = NodeOptions { on_no_data, ..NodeOptions::default() };
        let mut world = without_disk_in(promoted_with(6, WorldOptions { node, ..WorldOptions::default() }));
        world.kill(BETA);
        pass(&mut world, 500);
        let asked =
            [Ask::Read(ByteRange::new(0, 4096)), Ask::Write(ByteRange::new(0, 4096), Durability::Flushed)];
        let asked = asked.map(|ask| world.ask(ALPHA, ask));
        pass(&mut world, 1000);
        let status = world.status(ALPHA);
        assert!(status.suspended_no_data && !status.suspended_quorum, "{}", world.summaries());
        assert!(status.advice.iter().any(|advice| advice.state == "suspended-no-data"));
        let has_failed = |id: &u64| world.operations[id].has_failed;
        assert_eq!(asked.iter().all(has_failed), is_answered, "{on_no_data:?}");
        assert_eq!(asked.iter().any(has_failed), is_answered, "{on_no_data:?}");
        world.start(BETA);
        assert!(world.run_until(Span::from_millis(10_000), is_served_without_disk), "{}", world.summaries());
        world.write_now(ALPHA, 4096, 4096);
        world.read_everything(ALPHA);
    }
}

#[test]
fn the_last_members_disk_is_waited_for_and_nothing_is_completed_meanwhile() {
    // Attack 16: the last member's disk fails. The set stays what it is, and is never empty.
    let mut world = promoted(7);
    world.write_now(ALPHA, 0, 4096);
    world.ask_now(ALPHA, Ask::Flush);
    world.kill(BETA);
    pass(&mut world, 6000);
    assert_eq!(in_sync(&world, ALPHA), ["alpha"]);
    world.set_health(ALPHA, DiskHealth::Failing);
    let write = world.write(ALPHA, 4096, 4096);
    pass(&mut world, 5000);
    assert!(!world.is_done(write) && world.status(ALPHA).suspended_no_data, "{}", world.summaries());
    assert_eq!(world.disk(ALPHA), DiskState::Failed);
    assert_eq!(in_sync(&world, ALPHA), ["alpha"]);
    // What the peer lacks is still in memory: when it has it, flushed, it is the set.
    world.start(BETA);
    assert!(world.wait_for(write, 15_000), "{}", world.summaries());
    assert_eq!(in_sync(&world, ALPHA), ["beta"]);
    world.read_everything(ALPHA);
}

#[test]
fn a_peer_that_lacks_more_than_memory_holds_is_not_served_through() {
    let mut world = promoted(8);
    world.kill(BETA);
    for at in 0..60 {
        world.write_now(ALPHA, at * 16_384, 16_384);
    }
    // Written back: only the disk has it.
    world.run_for(Span::from_millis(3000));
    world.set_health(ALPHA, DiskHealth::Failing);
    let write = world.write(ALPHA, 4096, 4096);
    pass(&mut world, 1000);
    world.start(BETA);
    pass(&mut world, 10_000);
    assert!(!world.is_done(write), "{}", world.summaries());
    let status = world.status(ALPHA);
    assert!(status.suspended_no_data, "{}", world.summaries());
    let reason = status.connections[0].reason.clone().unwrap_or_default();
    assert!(reason.contains("has no disk"), "{reason}");
    // Its disk answers again: then nothing is lost.
    world.kill(ALPHA);
    world.set_health(ALPHA, DiskHealth::Good);
    world.start(ALPHA);
    world.run_for(Span::from_millis(8000));
    world.promote(ALPHA, 20_000).expect("it is the set");
    world.read_everything(ALPHA);
    world.assert_converges();
}

#[test]
fn a_primary_without_a_disk_can_be_demoted_stopped_and_followed_by_its_peer() {
    for seed in 0..6 {
        let mut world = without_disk(seed);
        world.write(ALPHA, 0, 4096);
        match seed % 3 {
            0 => drop(world.demote(ALPHA).expect("nobody is connected")),
            1 => {
                let forced = Order::Demote { clients: ConnectedClients::Disconnect };
                world.ask_operator(ALPHA, forced).expect("by force");
            }
            _ => {
                world.order(ALPHA, Order::Stop);
                pass(&mut world, 3000);
                assert!(!world.is_up(ALPHA));
            }
        }
        world.promote(BETA, 20_000).expect("it holds everything");
        world.read_everything(BETA);
        if world.is_up(ALPHA) {
            assert_eq!(world.disk(ALPHA), DiskState::Diskless);
            let again = world.promote(ALPHA, 0).expect_err("it has no disk");
            assert_eq!(again.name, "disk-failed");
            world.kill(ALPHA);
        }
        world.set_health(ALPHA, DiskHealth::Good);
        world.start(ALPHA);
        world.assert_converges();
    }
}

#[test]
fn of_two_members_either_lends_what_is_read_and_a_lost_one_is_waited_for() {
    let node = NodeOptions { replicas: 3, ..NodeOptions::default() };
    let mut world = without_disk_in(promoted_with(9, WorldOptions { node, ..WorldOptions::default() }));
    assert_eq!(in_sync(&world, ALPHA), ["beta", "gamma"]);
    world.read_everything(ALPHA);
    for lost in [BETA, GAMMA] {
        let read = world.ask(ALPHA, Ask::Read(ByteRange::new(0, 65_536)));
        world.kill(lost);
        // Of three voters two have no disk to remember by: nobody can record the set without the lost one.
        let write = world.write(ALPHA, 0, 4096);
        pass(&mut world, 5000);
        assert!(!world.is_done(write), "{}", world.summaries());
        world.start(lost);
        assert!(world.wait_for(write, 10_000) && world.wait_for(read, 10_000), "{}", world.summaries());
        world.read_everything(ALPHA);
    }
    world.kill(ALPHA);
    world.set_health(ALPHA, DiskHealth::Good);
    world.start(ALPHA);
    world.promote(GAMMA, 20_000).expect("it is a member");
    world.assert_converges();
}

#[test]
fn a_tail_that_moves_on_the_peer_marks_what_the_failed_disk_lacks() {
    let node = NodeOptions { ring_bytes: 4 << 20, ..NodeOptions::default() };
    let mut world = without_disk_in(promoted_with(10, WorldOptions { node, ..WorldOptions::default() }));
    for round in 0..120 {
        world.write_now(ALPHA, round % 30 * 131_072, 131_072);
    }
    pass(&mut world, 2000);
    assert!(world.status(BETA).lsn.oldest_kept.0 > 20, "{}", world.summaries());
    world.kill(ALPHA);
    world.set_health(ALPHA, DiskHealth::Good);
    world.start(ALPHA);
    world.run_for(Span::from_millis(1500));
    world.promote(BETA, 20_000).expect("it is the member");
    world.assert_converges();
    world.read_everything(BETA);
}

#[test]
fn members_hear_what_the_others_have_flushed_and_mark_nothing_of_it() {
    let node = NodeOptions { replicas: 3, ring_bytes: 4 << 20, ..NodeOptions::default() };
    let mut world = without_disk_in(promoted_with(14, WorldOptions { node, ..WorldOptions::default() }));
    for round in 0..120 {
        world.write_now(ALPHA, round % 30 * 131_072, 131_072);
    }
    pass(&mut world, 3000);
    for (member, other) in [(BETA, GAMMA), (GAMMA, BETA)] {
        assert!(lsn(&world, member).oldest_kept.0 > 20, "{}", world.summaries());
        let connections = world.status(member).connections;
        let other = connections.into_iter().find(|connection| connection.peer_node_id == other);
        let marked = other.map(|connection| connection.peer_devices[0].out_of_sync);
        assert_eq!(marked, Some(0), "{}", world.summaries());
    }
}

#[test]
fn clients_are_slowed_and_memory_stays_bounded_when_the_peer_flushes_nothing() {
    let mut world = without_disk(11);
    world.set_health(BETA, DiskHealth::Stuck);
    for at in 0..200 {
        world.write(ALPHA, (at % 4) << 20, 1 << 20);
    }
    pass(&mut world, 5000);
    let marks = world.status(ALPHA).lsn;
    assert!(marks.assigned.since(marks.stable) < 50, "48 MiB in records of one: {marks:?}");
    world.set_health(BETA, DiskHealth::Good);
    assert!(
        world.run_until(Span::from_millis(30_000), |world| world.waiting(ALPHA) == 0),
        "{}",
        world.summaries()
    );
}

#[test]
fn where_no_majority_is_asked_the_peers_durable_record_lets_the_primary_go_on_without_its_disk() {
    use replicator::config::OnPeerLost;
    for on_peer_lost in [OnPeerLost::Fence, OnPeerLost::Continue] {
        let node = NodeOptions { on_peer_lost, ..NodeOptions::default() };
        let options = || WorldOptions { node: node.clone(), ..WorldOptions::default() };
        let mut world = without_disk_in(promoted_with(12, options()));
        world.write_now(ALPHA, 0, 4096);
        world.read_everything(ALPHA);
        // Its disk answers again, and says that both were in sync: it may not go by that alone.
        world.kill(ALPHA);
        world.kill(BETA);
        world.set_health(ALPHA, DiskHealth::Good);
        world.start(ALPHA);
        world.run_for(Span::from_millis(2000));
        assert!(world.promote(ALPHA, 2000).is_err(), "{on_peer_lost:?}: {}", world.summaries());
        world.start(BETA);
        world.run_for(Span::from_millis(8000));
        world.promote(BETA, 5000).expect("it holds everything");
        world.assert_converges();
        world.read_everything(BETA);
    }
}

#[test]
fn where_no_majority_is_asked_a_disk_that_says_it_was_alone_is_not_left() {
    use replicator::config::OnPeerLost;
    let node = NodeOptions { on_peer_lost: OnPeerLost::Continue, ..NodeOptions::default() };
    let mut world = promoted_with(13, WorldOptions { node, ..WorldOptions::default() });
    world.kill(BETA);
    world.write_now(ALPHA, 0, 4096);
    world.set_health(ALPHA, DiskHealth::Failing);
    let write = world.write(ALPHA, 4096, 4096);
    pass(&mut world, 1000);
    world.start(BETA);
    pass(&mut world, 8000);
    // Started again, alpha would serve at once by what its disk says.
    assert!(!world.is_done(write), "{}", world.summaries());
    assert!(world.status(ALPHA).suspended_no_data);
}

#[test]
fn a_ragged_write_in_flight_when_the_lender_is_lost_loses_no_byte() {
    for seed in 0..20 {
        let mut world = without_disk(seed);
        world.run_for(Span::from_millis(1500));
        let ragged: Vec<u64> = (0..10).map(|at| world.write(ALPHA, at * 8192 + 512, 1024)).collect();
        world.run_for(Span(seed * 20));
        world.reset([ALPHA, BETA]);
        for write in ragged {
            assert!(world.wait_for(write, 10_000), "{}", world.summaries());
        }
        world.read_everything(ALPHA);
        world.promote_with(BETA, 0, Warrant::Known).expect_err("alpha lives");
    }
}

#[test]
fn a_candidate_whose_disk_fails_while_it_takes_a_term_keeps_nobody_waiting_for_its_lease() {
    for seed in 0..4 {
        let mut world = promoted(seed);
        world.write_now(ALPHA, 0, 4096);
        world.demote(ALPHA).expect("no clients");
        world.run_for(Span::from_millis(3000));
        world.fail_next(ALPHA, NextFailure::Write);
        world.promote(ALPHA, 5000).expect_err("its own copy of the record is not stored");
        assert_eq!(world.disk(ALPHA), DiskState::Failed);
        // It lives on, and its frames go on to arrive.
        world.promote(BETA, 20_000).unwrap_or_else(|refused| panic!("seed {seed}: {refused:?}"));
        world.write_now(BETA, 0, 4096);
        world.read_everything(BETA);
    }
}
