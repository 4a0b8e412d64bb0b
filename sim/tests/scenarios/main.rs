//! Scripted scenarios: one law of the product each, in a world where everything else is left to chance.

mod advice;
mod alone;
mod as_was;
mod catch_up;
mod clients;
mod diskless;
mod disks;
mod dry_run;
mod explain;
mod failover;
mod fencing;
mod journal;
mod old_copies;
mod old_disks;
mod pace;
mod promote;
mod protocol_abc;
mod quorum;
mod reigns;
mod resync;
mod resync_of_three;
mod split_brain;
mod three;
mod unflushed;
mod verdicts;
mod voters;
mod votes;
mod went_back;

use std::collections::BTreeMap;

use bytes::Bytes;

use replicator::config::ReplicationProtocol;
use replicator::status_report::LsnReport;
use replicator::units::{NodeId, Span};
use sim::node::NodeOptions;
use sim::world::{ALPHA, World, WorldOptions};

/// A world with alpha as Primary, both in sync.
fn promoted(seed: u64) -> World {
    promoted_with(seed, WorldOptions::default())
}

/// The same with other options.
fn promoted_with(seed: u64, options: WorldOptions) -> World {
    let mut world = World::started(seed, options);
    world.promote(ALPHA, 0).expect("nothing stands against it");
    assert!(world.run_until(Span::from_millis(5000), World::is_in_sync), "{}", world.summaries());
    world
}

fn with_protocol(protocol: ReplicationProtocol) -> WorldOptions {
    WorldOptions { node: NodeOptions { protocol, ..NodeOptions::default() }, ..WorldOptions::default() }
}

/// Everything on a node's disk, metadata and data.
fn disk_image(world: &World, node: NodeId) -> [BTreeMap<u64, Bytes>; 2] {
    let node = &world.nodes[node.index()];
    [node.metadata.image(), node.data.image()]
}

/// Carries the world on for some milliseconds.
fn pass(world: &mut World, milliseconds: u64) {
    world.run_for(Span::from_millis(milliseconds));
}

/// Names of the members of the in-sync set as a node has stored it.
fn in_sync(world: &World, node: NodeId) -> Vec<String> {
    world.status(node).in_sync.into_iter().map(|member| member.name).collect()
}

/// How far a node has come.
fn lsn(world: &World, node: NodeId) -> LsnReport {
    world.status(node).lsn
}

/// The rule that a node's last verdict on a peer rests on.
fn rule(world: &World, node: NodeId, peer: NodeId) -> Option<String> {
    let connections = world.status(node).connections;
    connections.into_iter().find(|connection| connection.peer_node_id == peer)?.rule
}
