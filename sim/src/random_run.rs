//! A whole run from one seed: in the first phase clients, operators and fate do what they like; in the second
//! everything is healed, and within bounded time the pair must be in sync, equal, and hold what was
//! acknowledged.

use replicator::config::ReplicationProtocol;
use replicator::event::{ConnectedClients, Order, Warrant};
use replicator::state::Role;
use replicator::units::{NodeId, Span};

use crate::node::{DiskHealth, NodeOptions};
use crate::random::Random;
use crate::workload::any_ask;
use crate::world::{ALPHA, BETA, Delays, MS, TIE, World, WorldOptions, other};

/// Requests that one run has in flight at most.
const REQUESTS_MAX: u64 = 24;

/// How long a client may wait while its node is Primary and a majority of voters is up. The slowest disk of a seed takes
/// two seconds for an I/O, and a lost peer three and a half to be missed.
const STALL_LIMIT: Span = Span::from_millis(30_000);

/// What a seed decides before the world begins.
#[derive(Clone, Debug)]
struct Knobs {
    steps: u64,
    /// Longest pause between two deeds, microseconds.
    pause: u64,
    /// Faults in a thousand steps.
    faults: u64,
    /// In a hundred steps without a Primary, how often somebody promotes a node.
    failovers: u64,
    largest_units: u64,
    requests: u64,
    delays: Delays,
    ring_bytes: u64,
}

impl Knobs {
    fn draw(random: &mut Random) -> Self {
        let pauses = [200, 2 * MS, 20 * MS];
        let largest = [8, 64, 512];
        let size = random.index(3);
        // Small rings for small writes, so that they wrap often and a batch always fits.
        let small_rings = [4 << 20, 4 << 20, 16 << 20];
        let ring_bytes = if random.chance(50) { 16 << 20 } else { small_rings[size] };
        let slow = random.chance(20);
        Self {
            steps: random.between(200, 1500),
            pause: pauses[random.index(3)],
            faults: [5, 20, 60][random.index(3)],
            failovers: [0, 5, 20][random.index(3)],
            largest_units: largest[size],
            requests: random.between(1, REQUESTS_MAX),
            delays: Delays {
                io: if slow { 20 * MS } else { 300 },
                frame: if random.chance(20) { 30 * MS } else { 200 },
                straggler_factor: [1, 10, 100][random.index(3)],
            },
            ring_bytes,
        }
    }
}

/// Runs one seed.
///
/// # Panics
/// A law is broken.
pub fn run(seed: u64, trace: bool) {
    let mut random = Random::new(seed ^ 0x5eed);
    let knobs = Knobs::draw(&mut random);
    let node = NodeOptions {
        protocol: ReplicationProtocol::C,
        ring_bytes: knobs.ring_bytes,
        ..NodeOptions::default()
    };
    let options = WorldOptions { node, delays: knobs.delays, trace, ..WorldOptions::default() };
    let mut world = World::started(seed, options);
    world.say(|| format!("-- {knobs:?}"));
    let first = any_node(&mut random);
    world.order(first, Order::Promote { wait: Span::from_millis(2000), warrant: Warrant::Known });
    world.run_for(Span::from_millis(1000));
    for _ in 0..knobs.steps {
        if random.below(1000) < knobs.faults {
            any_fault(&mut world, &mut random);
        } else {
            any_request(&mut world, &mut random, &knobs);
        }
        if random.below(100) < knobs.failovers {
            fail_over(&mut world, &mut random);
        }
        world.run_for(Span(random.below(knobs.pause) + 1));
    }
    heal(&mut world);
    if random.chance(50) {
        load_while_the_peer_comes_and_goes(&mut world, &mut random, &knobs);
    }
    agree(&mut world);
}

/// The one serving node has clients that always ask for more, while its peer or their link breaks and comes back.
/// The tiebreaker is there all the time, so nobody may wait for longer than the limit, at any moment.
fn load_while_the_peer_comes_and_goes(world: &mut World, random: &mut Random, knobs: &Knobs) {
    world.say(|| "-- load".to_owned());
    let Some(primary) = [ALPHA, BETA].into_iter().find(|node| world.role(*node) == Role::Primary) else {
        return;
    };
    let peer = other(primary);
    for _ in 0..random.between(3, 12) {
        for _ in 0..random.between(20, 300) {
            if world.role(primary) != Role::Primary {
                return;
            }
            any_request(world, random, knobs);
            world.run_for(Span(random.below(knobs.pause) + 1));
            assert_nobody_waits_too_long(world, primary);
        }
        let is_up = world.nodes[peer.index()].replica.is_some();
        match random.below(4) {
            0 if is_up => world.kill(peer),
            1 if is_up => world.cut_power(peer),
            2 => world.reset([ALPHA, BETA]),
            _ => start_what_is_down(world),
        }
    }
    start_what_is_down(world);
    for _ in 0..40 {
        world.run_for(Span::from_millis(1000));
        if world.role(primary) == Role::Primary {
            assert_nobody_waits_too_long(world, primary);
        }
    }
}

/// Law: while nothing is broken that must be waited for, every request is answered in bounded time.
fn assert_nobody_waits_too_long(world: &World, primary: NodeId) {
    let stalled = world.operations.iter().rev().take(500).find(|(_, operation)| {
        operation.node == primary && operation.is_waiting() && operation.asked_at + STALL_LIMIT.0 < world.now
    });
    if let Some((id, operation)) = stalled {
        let ask = operation.ask;
        panic!("violation: request {id} ({ask:?}) waits for {STALL_LIMIT}\n{}", world.summaries());
    }
}

/// What a cluster manager does: where nobody serves, it starts what is down and promotes somebody.
fn fail_over(world: &mut World, random: &mut Random) {
    let is_up = |world: &World, node: NodeId| world.nodes[node.index()].replica.is_some();
    if [ALPHA, BETA].into_iter().any(|node| is_up(world, node) && world.nodes[node.index()].is_serving) {
        return;
    }
    let node = any_node(random);
    if is_up(world, node) {
        world.order(node, Order::Promote { wait: Span::from_millis(10_000), warrant: Warrant::Known });
        world.run_for(Span(random.below(8000 * MS)));
    } else if random.chance(50) {
        world.start(node);
    }
}

fn any_node(random: &mut Random) -> NodeId {
    if random.chance(50) { ALPHA } else { BETA }
}

fn any_request(world: &mut World, random: &mut Random, knobs: &Knobs) {
    for node in [ALPHA, BETA] {
        let machine = &world.nodes[node.index()];
        if machine.replica.is_some() && machine.is_serving && world.waiting(node) < knobs.requests {
            world.ask(node, any_ask(random, knobs.largest_units));
        }
    }
}

fn any_fault(world: &mut World, random: &mut Random) {
    let node = any_node(random);
    let is_up = world.nodes[node.index()].replica.is_some();
    match random.below(100) {
        0..12 if is_up => world.kill(node),
        12..22 if is_up => world.cut_power(node),
        22..26 => {
            for node in [ALPHA, BETA] {
                if world.nodes[node.index()].replica.is_some() {
                    world.cut_power(node);
                }
            }
        }
        26..40 => start_what_is_down(world),
        40..55 => {
            let voters = [ALPHA, BETA, TIE];
            let (from, to) = (voters[random.index(3)], voters[random.index(3)]);
            if from != to {
                let is_cut = !world.network.cuts.contains(&(from, to));
                if random.chance(50) {
                    world.set_cut(from, to, is_cut);
                } else {
                    world.set_cut_both([from, to], is_cut);
                }
            }
        }
        55..62 => heal_links(world),
        62..70 => world.reset([ALPHA, BETA]),
        70..74 => world.reset([node, TIE]),
        74..78 if world.tiebreaker.running.is_some() => world.kill_tiebreaker(),
        78..90 if is_up => {
            let wait = Span::from_millis([0, 500, 10_000][random.index(3)]);
            world.order(node, Order::Promote { wait, warrant: Warrant::Known });
        }
        90..95 if is_up => {
            let clients =
                if random.chance(50) { ConnectedClients::Disconnect } else { ConnectedClients::Refuse };
            world.order(node, Order::Demote { clients });
        }
        95..97 if is_up => {
            // A disk that hangs, shorter or longer than peers wait for a sign of life.
            world.set_health(node, DiskHealth::Stuck);
            world.run_for(Span(random.below(5000 * MS)));
            world.set_health(node, DiskHealth::Good);
        }
        _ => {
            // Long enough for timeouts and leases.
            world.run_for(Span(random.below(10_000 * MS)));
        }
    }
}

fn start_what_is_down(world: &mut World) {
    for node in [ALPHA, BETA] {
        if world.nodes[node.index()].replica.is_none() {
            world.start(node);
        }
    }
    if world.tiebreaker.running.is_none() {
        world.start_tiebreaker();
    }
}

fn heal_links(world: &mut World) {
    for (from, to) in world.network.cuts.clone() {
        world.set_cut(from, to, false);
    }
}

fn heal(world: &mut World) {
    world.say(|| "-- everything heals".to_owned());
    heal_links(world);
    start_what_is_down(world);
    world.run_for(Span::from_millis(15_000));
}

/// Brings the pair to one Primary, in sync, and holds everything against what was acknowledged.
fn agree(world: &mut World) {
    let primaries = |world: &World| [ALPHA, BETA].into_iter().find(|node| world.role(*node) == Role::Primary);
    if primaries(world).is_none() {
        let mut refusals = Vec::new();
        for node in [ALPHA, BETA, ALPHA, BETA] {
            match world.promote(node, 10_000) {
                Ok(_) => break,
                Err(refused) => refusals.push((node, refused)),
            }
            world.run_for(Span::from_millis(2000));
        }
        assert!(
            primaries(world).is_some(),
            "violation: nobody can be promoted: {refusals:?}\n{}",
            world.summaries()
        );
    }
    let primary = primaries(world).expect("it was just found");
    let is_quiet = world.run_until(Span::from_millis(60_000), |world| {
        world.operations.values().all(|operation| !operation.is_waiting())
    });
    assert!(is_quiet, "violation: clients wait for ever\n{}", world.summaries());
    world.assert_converges();
    world.read_everything(primary);
    world.write_now(primary, 0, 4096);
    world.assert_converges();
}
