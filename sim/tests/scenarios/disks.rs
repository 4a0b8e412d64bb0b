//! Disks that fail or hang.

use replicator::effect::Answer;
use replicator::event::{ConnectedClients, Order, Warrant};
use replicator::journal::recovery_case::RecoveryCase;
use replicator::state::DiskState;
use replicator::units::{ByteRange, Lsn, Span};
use sim::node::{DiskHealth, NodeOptions};
use sim::workload::Ask;
use sim::world::{ALPHA, BETA, World, WorldOptions};

use crate::{in_sync, pass, promoted, promoted_with};

#[test]
fn a_secondary_whose_disk_fails_leaves_the_set_and_io_goes_on() {
    let mut world = promoted(1);
    world.set_health(BETA, DiskHealth::Failing);
    let write = world.write(ALPHA, 0, 4096);
    assert!(world.wait_for(write, 5000), "{}", world.summaries());
    assert_eq!(in_sync(&world, ALPHA), ["alpha"]);
    assert_eq!(world.disk(BETA), DiskState::Failed);
    world.read_everything(ALPHA);
}

#[test]
fn a_primary_whose_disk_fails_and_that_has_no_peer_freezes_and_names_it() {
    let mut world = promoted(2);
    world.kill(BETA);
    world.write_now(ALPHA, 0, 4096);
    world.set_health(ALPHA, DiskHealth::Failing);
    let write = world.write(ALPHA, 0, 4096);
    pass(&mut world, 5000);
    assert!(!world.is_done(write));
    assert_eq!(world.disk(ALPHA), DiskState::Failed);
    let frozen = world.status(ALPHA).frozen.expect("all I/O waits");
    assert!(frozen.reason.contains("disk failed"), "{}", frozen.reason);
}

fn impatient(seed: u64) -> World {
    let node = NodeOptions { disk_timeout: Span::from_millis(5000), ..NodeOptions::default() };
    promoted_with(seed, WorldOptions { node, ..WorldOptions::default() })
}

#[test]
fn a_journal_write_that_is_overdue_counts_as_failed_on_the_primary() {
    let mut world = impatient(3);
    world.set_health(ALPHA, DiskHealth::Stuck);
    let write = world.write(ALPHA, 0, 4096);
    pass(&mut world, 7000);
    assert_eq!(world.disk(ALPHA), DiskState::Diskless);
    assert!(world.is_done(write), "the peer has it");
}

#[test]
fn a_journal_write_that_is_overdue_on_the_secondary_costs_it_its_membership() {
    let mut world = impatient(4);
    world.set_health(BETA, DiskHealth::Stuck);
    let write = world.write(ALPHA, 0, 4096);
    assert!(world.wait_for(write, 8000), "{}", world.summaries());
    assert_eq!(in_sync(&world, ALPHA), ["alpha"]);
}

#[test]
fn a_data_area_that_hangs_counts_as_failed_on_either_node() {
    let mut world = impatient(5);
    world.set_health(ALPHA, DiskHealth::DataStuck);
    world.ask(ALPHA, Ask::Read(ByteRange::new(0, 4096)));
    pass(&mut world, 7000);
    assert_eq!(world.disk(ALPHA), DiskState::Diskless);

    let mut world = impatient(6);
    world.set_health(BETA, DiskHealth::DataStuck);
    world.write_now(ALPHA, 0, 4096);
    pass(&mut world, 7000);
    assert_eq!(world.disk(BETA), DiskState::Failed, "it was to be written back");
    world.write_now(ALPHA, 0, 4096);
    assert_eq!(in_sync(&world, ALPHA), ["alpha"]);
}

#[test]
fn a_journal_damaged_below_what_the_data_area_holds_makes_the_disk_inconsistent_until_it_is_resynced() {
    let mut world = promoted(7);
    for round in 0..400 {
        world.write_now(ALPHA, round % 30 * 131_072, 131_072);
    }
    pass(&mut world, 2000);
    let status = world.status(BETA);
    assert!(status.lsn.oldest_kept > Lsn(1), "a tail was recorded, and with it what the data area holds");
    world.kill(BETA);
    let journal = world.nodes[BETA.index()].superblock().zones.journal();
    let tail = world.nodes[BETA.index()].superblock().journal.tail_offset;
    world.nodes[BETA.index()].metadata.write_through(journal.offset + tail, &[0; 4096]);
    assert_eq!(world.start_whatever_it_holds(BETA), RecoveryCase::Corrupt);
    assert_eq!(world.disk(BETA), DiskState::Inconsistent);
    world.write_now(ALPHA, 0, 4096);
    world.read_everything(ALPHA);
    // Its peer makes it whole.
    world.assert_converges();
    assert!(world.has_noticed(BETA, "resync-ended"), "{}", world.summaries());
}

#[test]
fn a_candidate_whose_disk_fails_is_refused_and_says_why() {
    let mut world = promoted(8);
    world.kill(ALPHA);
    let order =
        world.order(BETA, Order::Promote { wait: Span::from_millis(20_000), warrant: Warrant::Known });
    pass(&mut world, 1000);
    world.set_health(BETA, DiskHealth::Failing);
    pass(&mut world, 7000);
    let Some(Answer::Refused(refused)) = world.answers.get(&order) else {
        panic!("{}", world.summaries());
    };
    assert_eq!(refused.name, "disk-failed", "{refused:?}");
}

#[test]
fn a_process_that_stood_still_does_not_take_its_disk_for_a_hung_one() {
    for seed in 0..20 {
        let mut world = impatient(seed);
        for at in 0..10 {
            world.write(ALPHA, at * 4096, 4096);
        }
        world.run_for(Span(seed * 40));
        world.stand_still(ALPHA, 20_000);
        pass(&mut world, 22_000);
        assert_ne!(world.disk(ALPHA), DiskState::Failed, "seed {seed}: {}", world.summaries());
        assert!(world.has_noticed(ALPHA, "stood-still"), "seed {seed}");
        world.assert_converges();
    }
}

#[test]
fn the_peer_of_a_primary_whose_disk_failed_can_take_over_even_if_the_link_was_lost_meanwhile() {
    let mut world = promoted(9);
    world.write_now(ALPHA, 0, 4096);
    world.set_health(ALPHA, DiskHealth::Failing);
    world.write(ALPHA, 4096, 4096);
    assert!(world.run_until(Span::from_millis(5000), |world| world.disk(ALPHA) == DiskState::Failed));
    world.set_cut_both([ALPHA, BETA], true);
    pass(&mut world, 5000);
    world.set_cut_both([ALPHA, BETA], false);
    pass(&mut world, 5000);
    let forced = Order::Demote { clients: ConnectedClients::Disconnect };
    world.ask_operator(ALPHA, forced).expect("by force");
    world.promote(BETA, 20_000).expect("it holds everything that was completed");
    world.read_everything(BETA);
}
