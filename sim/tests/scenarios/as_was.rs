//! One side of a split brain, served read-only as it was left: nothing changes by it, and it ends before anything does.

use replicator::event::Order;
use replicator::generation::split_brain::Policies;
use replicator::units::{BLOCK_BYTES, ByteRange};
use sim::workload::Ask;
use sim::world::{ALPHA, BETA, World};

use crate::pass;
use crate::split_brain::{converge, discard_mine, two_primaries};

fn serve_as_was() -> Order {
    Order::ServeAsWas { is_wanted: true }
}

/// Two Primaries of which beta has stepped down; beta's own writes are in blocks 60 to 68.
fn beta_stepped_down(seed: u64) -> World {
    let mut world = two_primaries(seed, Policies::default(), 7, 9);
    pass(&mut world, 5000);
    world.demote(BETA).expect("no clients");
    pass(&mut world, 2000);
    world
}

fn beta_side() -> ByteRange {
    ByteRange::new(60 * BLOCK_BYTES, 9 * BLOCK_BYTES)
}

#[test]
fn the_own_side_can_be_read_as_it_was_and_nothing_on_the_disk_changes_by_it() {
    for seed in 0..5 {
        let mut world = beta_stepped_down(seed);
        // After a restart most of it is in the journal alone.
        world.kill(BETA);
        world.start(BETA);
        pass(&mut world, 3000);
        world.ask_operator(BETA, serve_as_was()).expect("it is StandAlone");
        pass(&mut world, 2000);
        let superblock = world.nodes[1].superblock();
        // That it returns what beta's clients wrote is held against what they were promised.
        world.ask_now(BETA, Ask::Read(beta_side()));
        world.ask_now(BETA, Ask::Flush);
        assert!(world.status(BETA).serves_as_was);
        let write = world.write(BETA, 0, BLOCK_BYTES);
        pass(&mut world, 500);
        assert!(world.operations[&write].has_failed, "it is read-only");
        pass(&mut world, 2000);
        assert_eq!(world.nodes[1].superblock().sequence, superblock.sequence, "nothing was recorded");
        world.ask_operator(BETA, Order::ServeAsWas { is_wanted: false }).expect("any time");
        let read = world.ask(BETA, Ask::Read(beta_side()));
        pass(&mut world, 500);
        assert!(world.operations[&read].has_failed);
    }
}

#[test]
fn the_own_side_is_served_only_by_a_secondary_that_stands_alone_and_no_longer_than_that() {
    let mut world = beta_stepped_down(1);
    assert_eq!(world.ask_operator(ALPHA, serve_as_was()).expect_err("it serves").name, "is-primary");
    world.ask_operator(BETA, serve_as_was()).expect("it is StandAlone");
    // A link that comes and goes changes nothing; a promotion ends it, and so does giving way.
    world.set_cut_both([ALPHA, BETA], true);
    pass(&mut world, 5000);
    world.set_cut_both([ALPHA, BETA], false);
    pass(&mut world, 5000);
    assert!(world.status(BETA).serves_as_was);
    world.ask_operator(BETA, discard_mine()).expect("there is something to resolve");
    assert!(!world.status(BETA).serves_as_was && world.has_noticed(BETA, "as-was-ended"));
    converge(&mut world);
    assert_eq!(world.ask_operator(BETA, serve_as_was()).expect_err("they are one").name, "connected");
    world.kill(ALPHA);
    pass(&mut world, 5000);
    assert_eq!(world.ask_operator(BETA, serve_as_was()).expect_err("it may return").name, "not-stand-alone");
    world.ask_operator(BETA, Order::Disconnect { peer: None }).expect("any time");
    world.ask_operator(BETA, serve_as_was()).expect("it is StandAlone");
    world.promote(BETA, 1000).expect("it was in sync to the end");
    assert!(!world.status(BETA).serves_as_was);
}
