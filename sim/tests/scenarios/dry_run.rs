//! `connect --dry-run`: it says the verdict that a connect would reach, and changes nothing on either side.

use replicator::config::OnPeerLost;
use replicator::event::Order;
use replicator::generation::split_brain::Policy;
use replicator::promotion::refusal::Refused;
use replicator::state::ConnectionState;
use replicator::units::{Lsn, NodeId};
use sim::node::NodeOptions;
use sim::world::{ALPHA, BETA, World, WorldOptions};

use crate::split_brain::{parted_with, with_policies, writes};
use crate::{disk_image, pass, promoted, promoted_with};

fn disconnected(world: &mut World, node: NodeId) {
    world.ask_operator(node, Order::Disconnect { peer: None }).expect("it is done");
    pass(world, 500);
}

/// Asks for the verdict and holds the disks of both nodes against what they were.
fn foresee(world: &mut World, node: NodeId) -> Result<String, Refused> {
    // Nothing is under way, so that every change is the fault of the question.
    pass(world, 10_000);
    let states = |world: &World| [ALPHA, BETA].map(|node| (world.role(node), world.disk(node)));
    let before = ([ALPHA, BETA].map(|node| disk_image(world, node)), states(world));
    let answer = world.ask_operator(node, Order::Foresee { peer: None });
    pass(world, 5000);
    assert_eq!(states(world), before.1, "a role or a disk has changed");
    for (node, before) in [ALPHA, BETA].into_iter().zip(before.0) {
        assert!(disk_image(world, node) == before, "the disk of {node} was written");
    }
    answer
}

#[test]
fn a_dry_run_says_what_a_connect_does_then_and_changes_nothing() {
    for (seed, asks) in (0..20).zip([ALPHA, BETA].into_iter().cycle()) {
        let mut world = promoted(seed);
        world.write_now(ALPHA, 0, 4096);
        disconnected(&mut world, asks);
        for block in 0..5 {
            world.write_now(ALPHA, block * 4096, 4096);
        }
        let text = foresee(&mut world, asks).expect("they would replicate");
        let rule = if asks == ALPHA { "WeMovedOn" } else { "PeerMovedOn" };
        assert!(text.contains(&format!("rule {rule}")) && text.contains("beta keeps what it has"), "{text}");
        let status = world.status(asks);
        assert_eq!(status.connections[0].connection_state, ConnectionState::StandAlone, "as before");
        assert_eq!(status.connections[0].reason.as_deref(), Some("disconnected by an operator"));
        assert_ne!(
            world.status(sim::world::other(asks)).connections[0].connection_state,
            ConnectionState::Connected
        );
        // It can be asked again, and the connect that follows does just that.
        assert_eq!(foresee(&mut world, asks).expect("the same"), text);
        world.ask_operator(asks, Order::Connect { peer: None }).expect("connecting");
        world.assert_converges();
        assert_eq!(world.status(asks).connections[0].rule.as_deref(), Some(rule));
    }
}

#[test]
fn a_dry_run_over_a_split_brain_is_refused_and_decides_nothing() {
    for seed in 0..10 {
        let options = NodeOptions { on_peer_lost: OnPeerLost::Continue, ..NodeOptions::default() };
        let mut world = promoted_with(seed, WorldOptions { node: options, ..WorldOptions::default() });
        world.set_cut_both([ALPHA, BETA], true);
        pass(&mut world, 4000);
        world.promote(BETA, 1000).expect("it was in sync to the end");
        world.write_now(ALPHA, 0, 4096);
        world.write_now(BETA, 8192, 4096);
        disconnected(&mut world, BETA);
        world.set_cut_both([ALPHA, BETA], false);
        let refused = foresee(&mut world, BETA).expect_err("each has writes of its own");
        assert_eq!((refused.name, refused.code.exit_status()), ("stand-alone", 11));
        assert!(refused.reason.contains("rule BothPrimary"), "{}", refused.reason);
        assert!(refused.cure.contains("twinblk explain"), "{}", refused.cure);
    }
}

#[test]
fn between_linked_nodes_the_verdict_of_the_present_is_told_at_once_and_without_a_peer_none() {
    let mut world = promoted(1);
    world.write_now(ALPHA, 0, 4096);
    let text = foresee(&mut world, BETA).expect("they replicate");
    assert!(text.contains("rule SameGeneration"), "{text}");
    world.kill(ALPHA);
    pass(&mut world, 4000);
    let refused = world.ask_operator(BETA, Order::Foresee { peer: None }).expect_err("nobody is there");
    assert_eq!((refused.name, refused.code.exit_status()), ("not-connected", 5));
    disconnected(&mut world, BETA);
    let refused = world.ask_operator(BETA, Order::Foresee { peer: None }).expect_err("nobody comes");
    assert_eq!(refused.name, "not-connected");
}

#[test]
fn a_connect_in_earnest_is_not_held_up_by_a_dry_run() {
    for seed in 0..20 {
        let mut world = promoted(seed);
        disconnected(&mut world, BETA);
        world.write_now(ALPHA, 0, 4096);
        let question = world.order(BETA, Order::Foresee { peer: None });
        pass(&mut world, seed * 7);
        world.ask_operator(BETA, Order::Connect { peer: None }).expect("connecting");
        world.assert_converges();
        assert!(world.answers.contains_key(&question));
    }
}

#[test]
fn a_dry_run_says_so_where_a_policy_cannot_resolve_a_split_brain() {
    let options = with_policies(Policy::DiscardLeastChanges);
    for (is_unknown, ends) in [(false, Ok(())), (true, Err("stand-alone"))] {
        let mut world = parted_with(3, &options, writes(ALPHA, 50, 20), writes(BETA, 60, 8));
        // One of the two has gone back in time, as far as alpha knows: what beta changed alone is not all known then.
        world.forge_superblock(ALPHA, |content| {
            content.peers[0].base_lsn = if is_unknown { Lsn(45) } else { content.peers[0].base_lsn };
        });
        world.set_cut_both([ALPHA, BETA], true);
        world.start(ALPHA);
        world.start(BETA);
        pass(&mut world, 1000);
        disconnected(&mut world, BETA);
        world.set_cut_both([ALPHA, BETA], false);
        let answer = world.ask_operator(BETA, Order::Foresee { peer: None });
        let text = answer.as_ref().map_or_else(|refused| refused.reason.clone(), Clone::clone);
        assert!(text.contains("the policy `discard-least-changes`"), "{text}");
        assert_eq!(answer.map(|_| ()).map_err(|refused| refused.name), ends, "{text}");
        // And so it is.
        world.ask_operator(BETA, Order::Connect { peer: None }).expect("connecting");
        pass(&mut world, 10_000);
        assert_eq!(world.has_noticed(BETA, "split-brain-resolved"), ends.is_ok());
    }
}

#[test]
fn a_dry_run_takes_back_no_marks_even_if_it_proves_them_needless() {
    let mut world = promoted(1);
    world.write_now(ALPHA, 0, 4096);
    pass(&mut world, 5000);
    world.kill(ALPHA);
    world.forge_superblock(ALPHA, |content| {
        let slot = &mut content.peers[0];
        (slot.has_dirty_bits, slot.marked_up_to) = (true, Lsn(1));
    });
    world.set_cut_both([ALPHA, BETA], true);
    world.start(ALPHA);
    pass(&mut world, 1000);
    disconnected(&mut world, ALPHA);
    world.set_cut_both([ALPHA, BETA], false);
    let _ = foresee(&mut world, ALPHA);
    assert!(world.nodes[0].superblock().peers[0].has_dirty_bits);
    world.ask_operator(ALPHA, Order::Connect { peer: None }).expect("connecting");
    pass(&mut world, 5000);
    assert!(!world.nodes[0].superblock().peers[0].has_dirty_bits, "it is proved by a link in earnest");
}
