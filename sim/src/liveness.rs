//! The liveness phase: a core of the nodes is healed, and within bounded time it must have a Primary, answer every
//! client, be Established and UpToDate; then the rest comes back, and all must hold the same, and what was acknowledged.
//! There is no excuse but those that `may_be_left_out` names beforehand.

use replicator::config::OnPeerLost;
use replicator::event::{ConnectedClients, Order, Warrant};
use replicator::generation::split_brain::Discards;
use replicator::promotion::membership::MembershipRecord;
use replicator::rescue::{Giving, Save};
use replicator::state::{DiskState, Role};
use replicator::units::{NodeId, Span};

use crate::fault_budget;
use crate::faults::heal_links;
use crate::fence_command::FenceCommand;
use crate::node::DiskHealth;
use crate::random::Random;
use crate::random_run::any_request;
use crate::swarm::Knobs;
use crate::world::World;

/// How long a client may wait while its node is Primary and a majority of voters is up. The slowest disk of a seed takes
/// two seconds for an I/O, and a lost peer three and a half to be missed.
const STALL_LIMIT: Span = Span::from_millis(30_000);
/// How long a healed core may take to become one.
const AGREEMENT_LIMIT: Span = Span::from_millis(60_000);

/// Heals and demands.
///
/// # Panics
/// The core does not come to agree, or something is lost.
pub fn demand(world: &mut World, random: &mut Random, knobs: &Knobs) {
    let voters: Vec<NodeId> = world.voters().collect();
    // Where no majority decides, whoever is left out would have to be fenced first.
    let may_leave_out = world.options.on_peer_lost.asks_a_majority() && world.has_one_primary();
    let mut left_out = (may_leave_out && random.chance(40)).then(|| voters[random.index(voters.len())]);
    heal(world, left_out);
    for node in &mut world.nodes {
        (node.fence_command, node.fence_takes) = (FenceCommand::any_that_works(random), 0);
    }
    resolve_split_brains(world, random);
    // Now that nothing is under way any more.
    if let Some(voter) = left_out.take_if(|voter| !may_be_left_out(world, *voter)) {
        world.say(|| format!("-- {voter} is needed"));
        start(world, voter);
        world.run_for(Span::from_millis(5000));
    }
    let is_fenced = world.options.on_peer_lost == OnPeerLost::Fence;
    if is_fenced {
        // Whoever is frozen gets its peers back; load comes when it has.
        agree(world, random, left_out);
    }
    if left_out.is_none() && knobs.ends_with_load {
        load_while_peers_come_and_go(world, random, knobs);
    }
    agree(world, random, left_out);
    if let Some(voter) = left_out {
        start(world, voter);
    }
    let primary = primary_of(world).expect("the core has one");
    converge(world, random);
    world.read_everything(primary);
    world.write_now(primary, 0, 4096);
    converge(world, random);
}

/// All hold the same in the end. A frame that took long may have cost a peer its power.
fn converge(world: &mut World, random: &mut Random) {
    for _ in 0..3 {
        if world.options.on_peer_lost != OnPeerLost::Fence {
            break;
        }
        agree(world, random, None);
        if world.run_until(Span(AGREEMENT_LIMIT.0 / 6), World::is_idle) {
            break;
        }
    }
    world.assert_converges();
}

/// Whether the others can go on without a voter: one of them holds everything that was completed, and every record that
/// one of them has stored names somebody among them who lives on. Any of those records may be the one that counts: only
/// the voter that is left out could tell.
fn may_be_left_out(world: &World, left_out: NodeId) -> bool {
    let core: Vec<NodeId> = world.replicas().filter(|node| *node != left_out && world.is_up(*node)).collect();
    // An operator may have called the only other copy outdated.
    let is_usable = |node: &NodeId| world.disk(*node) > DiskState::Outdated;
    let holds = core.iter().any(|node| is_usable(node) && world.holds_everything(*node));
    let is_followable =
        |record: &MembershipRecord| core.iter().any(|node| is_usable(node) && world.lives_on(*node, record));
    let mut records = world.stored_records().into_iter().filter(|(voter, _)| *voter != left_out);
    holds && records.all(|(_, record)| is_followable(&record))
}

fn start(world: &mut World, voter: NodeId) {
    if world.is_up(voter) {
        return;
    }
    if world.is_tiebreaker(voter) {
        world.start_tiebreaker();
    } else {
        world.start(voter);
        world.order(voter, Order::Connect { peer: None });
    }
}

fn heal(world: &mut World, left_out: Option<NodeId>) {
    world.say(|| format!("-- everything heals, but for {left_out:?}"));
    world.doomed = None;
    heal_links(world);
    if let Some(voter) = left_out.filter(|voter| world.is_up(*voter)) {
        match world.is_tiebreaker(voter) {
            true => world.kill_tiebreaker(),
            false => world.kill(voter),
        }
    }
    for node in world.replicas().filter(|node| Some(*node) != left_out) {
        world.set_health(node, DiskHealth::Good);
        world.nodes[node.index()].next_failure = None;
        // A disk that has failed is not used again before its daemon has been started again.
        if world.is_up(node) && world.disk(node) <= DiskState::Failed {
            world.kill(node);
        }
        if world.is_up(node) {
            world.order(node, Order::PauseResync { is_paused: false });
            world.order(node, Order::Connect { peer: None });
        }
    }
    for voter in world.voters().filter(|voter| Some(*voter) != left_out) {
        start(world, voter);
    }
    world.run_for(Span::from_millis(15_000));
    // A daemon that was told to stop takes its time for what clients have in flight, and then gives up or ends.
    world.run_until(AGREEMENT_LIMIT, |world| !world.has_stops_under_way());
    for node in world.replicas().filter(|node| Some(*node) != left_out) {
        if world.is_up(node) && world.disk(node) <= DiskState::Failed {
            world.kill(node);
        }
        start(world, node);
    }
}

/// Where some stand apart, an operator has all others give way to one of them: to a Primary, if one of them is one.
fn resolve_split_brains(world: &mut World, random: &mut Random) {
    for _ in 0..12 {
        let split: Vec<NodeId> = world.replicas().filter(|node| world.is_split(*node)).collect();
        let Some(first) = split.first() else { return };
        let any = if random.chance(50) { *first } else { split[split.len() - 1] };
        let may_stay = |stays: &NodeId| {
            split.iter().all(|node| node == stays || fault_budget::may_give_way(world, *node, *stays))
        };
        let chosen = [any].into_iter().chain(split.iter().copied()).find(may_stay);
        let stays = primary_of(world).or(chosen).unwrap_or(any);
        world.say(|| format!("-- all others are to give way to {stays}"));
        for node in world.replicas().filter(|node| *node != stays) {
            if world.is_up(node) && world.split_from(node).is_some() {
                give_way(world, node, stays);
            }
        }
        start_all(world);
        world.run_for(Span::from_millis(10_000));
    }
    let split = world.replicas().find(|node| world.is_split(*node));
    assert!(split.is_none(), "violation: a split brain does not end by order\n{}", world.summaries());
}

fn give_way(world: &mut World, node: NodeId, to: NodeId) {
    if world.role(node) == Role::Primary {
        let _ = world.ask_operator(node, Order::Demote { clients: ConnectedClients::Disconnect });
    }
    for what in [Discards::Changes, Discards::Changes, Discards::Everything] {
        let giving = Giving { what, save: Save::ByDefault, is_rehearsal: false };
        let is_up = world.is_up(node);
        if !is_up || world.ask_operator(node, Order::ResolveSplitBrain { peer: Some(to), giving }).is_ok() {
            return;
        }
        // The verdict may have been under way again.
        world.run_for(Span::from_millis(1000));
    }
}

/// Starts whoever is down - a fence command may have shot somebody - and has everybody connect.
fn start_all(world: &mut World) {
    for node in world.replicas() {
        match world.is_up(node) {
            true => {
                world.order(node, Order::Connect { peer: None });
            }
            false => start(world, node),
        }
    }
}

fn primary_of(world: &World) -> Option<NodeId> {
    world.replicas().find(|node| world.role(*node) == Role::Primary)
}

/// The one serving node has clients that always ask for more, while its peers or their links break and come back, one at
/// a time. A majority is there all the time, so nobody may wait for longer than the limit, at any moment.
fn load_while_peers_come_and_go(world: &mut World, random: &mut Random, knobs: &Knobs) {
    world.say(|| "-- load".to_owned());
    let Some(primary) = primary_of(world) else { return };
    let peers: Vec<NodeId> = world.replicas().filter(|node| *node != primary).collect();
    for _ in 0..random.between(2, 6) {
        for _ in 0..random.between(20, 150) {
            if world.role(primary) != Role::Primary {
                return;
            }
            any_request(world, random, &knobs.clients);
            world.run_for(Span(random.below(knobs.pause.0) + 1));
            assert_nobody_waits_too_long(world, primary);
        }
        let peer = peers[random.index(peers.len())];
        let are_up = world.replicas().all(|node| world.is_up(node));
        match random.below(4) {
            0 if are_up => world.kill(peer),
            1 if are_up => world.cut_power(peer),
            2 => world.reset([primary, peer]),
            _ => peers.iter().for_each(|peer| start(world, *peer)),
        }
    }
    peers.iter().for_each(|peer| start(world, *peer));
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

/// Brings the core to one Primary, in sync, every client answered.
fn agree(world: &mut World, random: &mut Random, left_out: Option<NodeId>) {
    if primary_of(world).is_none() {
        let mut refusals = Vec::new();
        for node in world.replicas().chain(world.replicas()).filter(|node| Some(*node) != left_out) {
            start(world, node);
            if !world.options.on_peer_lost.asks_a_majority() {
                // They meet first: whoever was shot as it came back could prove nothing, for ever.
                start_all(world);
                world.run_for(Span::from_millis(2000));
            }
            match world.promote(node, 10_000) {
                Ok(_) => break,
                Err(refused) => refusals.push((node, refused)),
            }
            world.run_for(Span::from_millis(2000));
        }
        // What was called outdated, or lost by order, takes force: an operator has said so before.
        let may_force = !world.has_one_primary();
        for node in world.replicas() {
            let is_needed = may_force && primary_of(world).is_none() && world.is_up(node);
            if is_needed && world.promote_with(node, 10_000, Warrant::Force).is_ok() {
                world.coverage.count("forced at last");
            }
        }
        assert!(
            primary_of(world).is_some(),
            "violation: nobody can be promoted: {refusals:?}\n{}",
            world.summaries()
        );
    }
    let is_quiet = world.run_until(AGREEMENT_LIMIT, |world| {
        world.operations.values().all(|operation| !operation.is_waiting())
    });
    assert!(is_quiet, "violation: clients wait for ever\n{}", world.summaries());
    let is_one = (0..12).any(|_| {
        // A fence command may have shot somebody.
        for voter in world.voters().filter(|voter| Some(*voter) != left_out) {
            start(world, voter);
        }
        let is_one =
            world.run_until(Span(AGREEMENT_LIMIT.0 / 12), |world| world.is_in_sync_without(left_out));
        if !is_one && !world.options.on_peer_lost.asks_a_majority() {
            // A reign that came to nothing is a branch too.
            resolve_split_brains(world, random);
        }
        is_one
    });
    assert!(is_one, "violation: the core does not agree in time\n{}", world.summaries());
}
