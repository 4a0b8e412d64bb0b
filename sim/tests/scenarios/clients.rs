//! What clients may see of each other's requests while those wait.

use replicator::event::{ConnectedClients, Order};
use replicator::units::{ByteRange, Span};
use sim::node::{DiskHealth, NodeOptions};
use sim::workload::Ask;
use sim::world::{ALPHA, BETA, World, WorldOptions};

use crate::{pass, promoted, promoted_with};

/// A read of block 0 waits for a write of it that beta cannot acknowledge, a second write waits for the read, and behind
/// that a write of block 40 has no record yet. Returns that last write.
fn a_write_without_a_record(world: &mut World) -> u64 {
    world.write(ALPHA, 0, 4096);
    world.ask(ALPHA, Ask::Read(ByteRange::new(0, 4096)));
    world.write(ALPHA, 0, 4096);
    world.write(ALPHA, 40 * 4096, 8192)
}

#[test]
fn a_read_waits_for_every_write_of_its_blocks_that_came_first_with_a_record_or_without() {
    for seed in 0..5 {
        let mut world = promoted(seed);
        world.set_health(BETA, DiskHealth::Stuck);
        let write = a_write_without_a_record(&mut world);
        let read = world.ask(ALPHA, Ask::Read(ByteRange::new(41 * 4096, 4096)));
        let apart = world.ask(ALPHA, Ask::Read(ByteRange::new(50 * 4096, 4096)));
        assert!(world.wait_for(apart, 1000), "seed {seed}: nothing stands against it");
        assert!(!world.is_done(read), "seed {seed}: it was told that the write did not happen");
        world.set_health(BETA, DiskHealth::Good);
        assert!(world.wait_for(read, 5000) && world.is_done(write), "{}", world.summaries());
    }
}

#[test]
fn a_write_of_a_client_that_is_gone_never_appears_after_a_later_client_has_read_without_it() {
    for seed in 0..5 {
        let patient = NodeOptions { disk_timeout: Span::from_millis(60_000), ..NodeOptions::default() };
        let mut world = promoted_with(seed, WorldOptions { node: patient, ..WorldOptions::default() });
        world.set_health(BETA, DiskHealth::Stuck);
        a_write_without_a_record(&mut world);
        // Their client is gone, or the demotion would be refused at once. When it finds no end, this Primary serves others.
        world.order(ALPHA, Order::Demote { clients: ConnectedClients::Refuse });
        pass(&mut world, 31_000);
        assert!(world.nodes[ALPHA.index()].is_serving, "seed {seed}\n{}", world.summaries());
        let later = world.ask(ALPHA, Ask::Read(ByteRange::new(40 * 4096, 8192)));
        pass(&mut world, 1000);
        world.set_health(BETA, DiskHealth::Good);
        assert!(world.wait_for(later, 10_000), "{}", world.summaries());
        pass(&mut world, 2000);
        world.read_everything(ALPHA);
    }
}
