//! A replica that was away is brought up to date by records.

use replicator::units::ByteRange;
use sim::workload::Ask;
use sim::world::{ALPHA, BETA};

use crate::{pass, promoted};

#[test]
fn a_replica_that_was_away_catches_up_from_memory_and_from_the_ring_on_disk() {
    for megabytes in [1, 5] {
        let mut world = promoted(megabytes);
        world.kill(BETA);
        for at in 0..megabytes * 8 {
            world.write_now(ALPHA, at % 32 * 131_072, 131_072);
        }
        pass(&mut world, 2000);
        let before = world.status(ALPHA).lsn;
        assert_eq!(before.written_back, before.assigned, "nothing of it is in memory any more");
        world.start(BETA);
        world.assert_converges();
        world.read_everything(ALPHA);
    }
}

#[test]
fn clients_write_on_while_a_replica_catches_up() {
    for seed in 0..5 {
        let mut world = promoted(seed);
        world.kill(BETA);
        for at in 0..20 {
            world.write_now(ALPHA, at * 131_072, 131_072);
        }
        pass(&mut world, 1000);
        world.start(BETA);
        for round in 0..200 {
            world.write(ALPHA, round % 50 * 8192, 4096);
            pass(&mut world, 2);
        }
        world.assert_converges();
        world.read_everything(ALPHA);
    }
}

#[test]
fn a_catch_up_goes_on_after_crashes_of_either_side() {
    for seed in 0..10 {
        let mut world = promoted(seed);
        world.kill(BETA);
        for at in 0..30 {
            world.write_now(ALPHA, at * 65_536, 65_536);
        }
        world.ask_now(ALPHA, Ask::Flush);
        pass(&mut world, 1000);
        for _ in 0..3 {
            world.start(BETA);
            pass(&mut world, seed * 3 + 5);
            world.cut_power(BETA);
        }
        world.start(BETA);
        world.assert_converges();
        world.ask_now(ALPHA, Ask::Read(ByteRange::new(0, 1 << 20)));
        world.kill(ALPHA);
        world.promote(BETA, 20_000).expect("it is in the set");
        world.read_everything(BETA);
    }
}
