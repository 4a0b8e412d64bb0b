//! A whole run from one seed. In the safety phase clients, operators and fate do what they like, within the fault
//! budget; in the liveness phase a core of the nodes is healed and must agree, and hold what was acknowledged.

use replicator::event::{Order, Warrant};
use replicator::units::{NodeId, Span};

use crate::coverage::Coverage;
use crate::faults;
use crate::fence_command::FenceCommand;
use crate::liveness;
use crate::random::Random;
use crate::swarm::{ClientMix, Knobs, Scope};
use crate::workload::any_ask;
use crate::world::{MS, World};

/// Runs one seed. Returns what it got to.
///
/// # Panics
/// A law is broken.
pub fn run(seed: u64, scope: Scope, trace: bool) -> Coverage {
    let mut random = Random::new(seed ^ 0x5eed);
    let knobs = Knobs::draw(&mut random, scope);
    let mut world = World::started(seed, knobs.world_options(trace));
    world.say(|| format!("-- {knobs:?}"));
    world.late_frames = random.below(2) * 50;
    world.may_lie = knobs.lies;
    for node in &mut world.nodes {
        node.fence_command = FenceCommand::any_that_works(&mut random);
    }
    anything_goes(&mut world, &mut random, &knobs);
    liveness::demand(&mut world, &mut random, &knobs);
    world.coverage
}

/// The safety phase.
fn anything_goes(world: &mut World, random: &mut Random, knobs: &Knobs) {
    let first = NodeId(u8::try_from(random.index(world.nodes.len())).expect("at most three"));
    world.order(first, Order::Promote { wait: Span::from_millis(2000), warrant: Warrant::Known });
    world.run_for(Span::from_millis(1000));
    for _ in 0..knobs.steps {
        if random.below(1000) < knobs.faults {
            faults::any(world, random, &knobs.kinds);
        } else {
            any_request(world, random, &knobs.clients);
        }
        if random.below(100) < knobs.failovers {
            fail_over(world, random);
        }
        world.run_for(Span(random.below(knobs.pause.0) + 1));
    }
}

/// A request for every node that serves and whose clients have not too many in flight.
pub fn any_request(world: &mut World, random: &mut Random, clients: &ClientMix) {
    for node in world.replicas() {
        let is_serving = world.is_up(node) && world.nodes[node.index()].is_serving;
        if is_serving && world.waiting(node) < clients.in_flight {
            world.ask(node, any_ask(random, world.options.volume_bytes, clients));
        }
    }
}

/// What a cluster manager does: where nobody serves, it starts what is down and promotes somebody.
fn fail_over(world: &mut World, random: &mut Random) {
    let is_served = |world: &World| {
        world.replicas().any(|node| world.is_up(node) && world.nodes[node.index()].is_serving)
    };
    if is_served(world) {
        return;
    }
    let node = NodeId(u8::try_from(random.index(world.nodes.len())).expect("at most three"));
    if world.is_up(node) {
        world.order(node, Order::Promote { wait: Span::from_millis(10_000), warrant: Warrant::Known });
        let patience = Span(random.below(8000 * MS));
        world.run_until(patience, is_served);
    } else if random.chance(50) {
        world.coverage.count("start");
        world.start(node);
    }
}
