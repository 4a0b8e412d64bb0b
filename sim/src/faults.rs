//! What fate and operators do in the safety phase: one kind of fault for each row, done to a world at any moment. What
//! may coincide, so that nothing is lost that nobody could have kept, is the fault budget's business.

use replicator::config::OnPeerLost;
use replicator::event::{ConnectedClients, Order, Warrant};
use replicator::generation::split_brain::Discards;
use replicator::journal::recovery_case::RecoveryCase;
use replicator::rescue::{Giving, Save};
use replicator::state::{DiskState, Role};
use replicator::units::{NodeId, Span};

use crate::fault_budget;
use crate::fence_command::FenceCommand;
use crate::node::{DiskHealth, NextFailure, Rot};
use crate::random::Random;
use crate::world::{Death, MS, TIE, World};

/// A kind of fault, or of its mending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// A daemon is killed, now or in the middle of what it does next.
    Kill,
    /// A machine loses power, now or in the middle of what its daemon does next.
    PowerCut,
    /// All machines lose power at once.
    PowerCutOfAll,
    /// What is down is started; a daemon whose disk failed is started anew.
    Start,
    /// One direction between two voters, or both, are cut or healed.
    LinkCut,
    /// A link breaks.
    LinkReset,
    /// All cuts heal.
    LinksHealed,
    /// The tiebreaker's daemon is killed.
    TiebreakerKilled,
    /// An operator promotes any node.
    Promote,
    /// A cluster manager promotes a node on the word that every other one is silent, which is true.
    PromoteAsFenced,
    /// An operator promotes a node whatever it lacks.
    PromoteByForce,
    /// An operator, or somebody's script, calls a copy outdated.
    Outdate,
    /// An operator has one side of a split brain give up what it wrote.
    ResolveSplitBrain,
    /// Somebody replaces a fence command by another one.
    FenceCommand,
    /// An operator demotes any node.
    Demote,
    /// The same by force.
    DemoteByForce,
    /// An operator disconnects a node from a peer, or from all.
    Disconnect,
    /// An operator connects a node to all.
    Connect,
    /// An operator pauses resyncs, or lets them go on.
    PauseResync,
    /// A daemon is stopped by order.
    Stop,
    /// A disk hangs.
    DiskHangs,
    /// The data area of a disk hangs.
    DataHangs,
    /// A write to a disk fails.
    WriteFails,
    /// A flush of a disk fails, and what it should have covered may be lost.
    FlushFails,
    /// Blocks rot, or went astray, while a daemon is down.
    Rot,
    /// A disk, or the tiebreaker's file, is replaced by a new one.
    Replaced,
    /// A process stands still.
    StandsStill,
    /// Nothing, for long enough that timeouts and leases end.
    TimePasses,
}

impl FaultKind {
    /// Every kind with its weight.
    pub const ALL: [(Self, u64); 28] = [
        (Self::Kill, 12),
        (Self::PowerCut, 10),
        (Self::PowerCutOfAll, 4),
        (Self::Start, 18),
        (Self::LinkCut, 15),
        (Self::LinkReset, 10),
        (Self::LinksHealed, 7),
        (Self::TiebreakerKilled, 4),
        (Self::Promote, 12),
        (Self::PromoteAsFenced, 4),
        (Self::PromoteByForce, 3),
        (Self::Outdate, 2),
        (Self::ResolveSplitBrain, 8),
        (Self::FenceCommand, 6),
        (Self::Demote, 4),
        (Self::DemoteByForce, 2),
        (Self::Disconnect, 4),
        (Self::Connect, 4),
        (Self::PauseResync, 3),
        (Self::Stop, 4),
        (Self::DiskHangs, 2),
        (Self::DataHangs, 2),
        (Self::WriteFails, 3),
        (Self::FlushFails, 3),
        (Self::Rot, 2),
        (Self::Replaced, 2),
        (Self::StandsStill, 2),
        (Self::TimePasses, 4),
    ];

    /// Whether it mends what others break, or breaks nothing.
    #[must_use]
    pub fn mends(self) -> bool {
        let ends_faults = matches!(self, Self::Start | Self::LinksHealed | Self::Connect | Self::TimePasses);
        ends_faults || matches!(self, Self::ResolveSplitBrain | Self::FenceCommand)
    }

    /// Whether it can do anything where a lost peer is dealt with in this way.
    #[must_use]
    pub fn is_of(self, on_peer_lost: OnPeerLost) -> bool {
        match self {
            Self::FenceCommand => on_peer_lost == OnPeerLost::Fence,
            Self::TiebreakerKilled => on_peer_lost.asks_a_majority(),
            _ => true,
        }
    }
}

/// One fault of the kinds that are on.
pub fn any(world: &mut World, random: &mut Random, kinds: &[(FaultKind, u64)]) {
    let all: u64 = kinds.iter().map(|(_, weight)| weight).sum();
    let mut at = random.below(all);
    let chosen = kinds.iter().find(|(_, weight)| {
        let is_it = at < *weight;
        at = at.saturating_sub(*weight);
        is_it
    });
    let (kind, _) = chosen.expect("it is below the sum");
    happens(world, random, *kind);
}

fn any_node(world: &World, random: &mut Random) -> NodeId {
    let nodes: Vec<NodeId> = world.replicas().collect();
    nodes[random.index(nodes.len())]
}

fn any_two_voters(world: &World, random: &mut Random) -> [NodeId; 2] {
    let mut voters: Vec<NodeId> = world.voters().collect();
    random.shuffle(&mut voters);
    [voters[0], voters[1]]
}

fn happens(world: &mut World, random: &mut Random, kind: FaultKind) {
    let node = any_node(world, random);
    let is_up = world.is_up(node);
    match kind {
        FaultKind::Kill if is_up => dies(world, random, node, Death::Kill),
        FaultKind::PowerCut if is_up => dies(world, random, node, Death::PowerCut),
        FaultKind::PowerCutOfAll => {
            world.coverage.count("power cut of all");
            world.replicas().filter(|node| world.is_up(*node)).collect::<Vec<_>>().into_iter().for_each(
                |node| {
                    world.cut_power(node);
                },
            );
        }
        FaultKind::Start => start_what_is_down(world, random),
        FaultKind::LinkCut => cut_or_heal(world, random),
        FaultKind::LinkReset => {
            world.coverage.count("link reset");
            world.reset(any_two_voters(world, random));
        }
        FaultKind::LinksHealed => heal_links(world),
        FaultKind::TiebreakerKilled
            if world.options.has_tiebreaker() && world.tiebreaker.running.is_some() =>
        {
            world.coverage.count("tiebreaker killed");
            world.kill_tiebreaker();
        }
        FaultKind::Rot => rot(world, random),
        FaultKind::Replaced => replaced(world, random),
        FaultKind::TimePasses => world.run_for(Span(random.below(10_000 * MS))),
        _ if !is_up => {}
        FaultKind::ResolveSplitBrain => resolve_split_brain(world, random, node),
        FaultKind::FenceCommand => replace_fence_command(world, random, node),
        FaultKind::PromoteAsFenced if !fault_budget::is_proved_silent(world, node) => {}
        FaultKind::Outdate if !fault_budget::may_be_outdated(world, node) => {}
        FaultKind::Promote
        | FaultKind::PromoteAsFenced
        | FaultKind::PromoteByForce
        | FaultKind::Outdate
        | FaultKind::Demote
        | FaultKind::DemoteByForce
        | FaultKind::Disconnect
        | FaultKind::Connect
        | FaultKind::PauseResync
        | FaultKind::Stop => orders(world, random, kind, node),
        FaultKind::DiskHangs => hangs(world, random, node, DiskHealth::Stuck),
        FaultKind::DataHangs => hangs(world, random, node, DiskHealth::DataStuck),
        FaultKind::WriteFails => {
            world.coverage.count("write fails");
            world.fail_next(node, NextFailure::Write);
        }
        FaultKind::FlushFails => {
            world.coverage.count("flush fails");
            world.fail_next(node, NextFailure::Flush);
        }
        FaultKind::StandsStill => {
            world.coverage.count("process stands still");
            world.stand_still(node, random.below(8000));
        }
        FaultKind::Kill | FaultKind::PowerCut | FaultKind::TiebreakerKilled => {}
    }
}

/// At once, or after any of the effects that its daemon orders next.
fn dies(world: &mut World, random: &mut Random, node: NodeId, death: Death) {
    if random.chance(50) {
        world.doom(node, death, random.below(300));
    } else {
        world.die(node, death);
    }
}

/// Starts whatever does not run; a daemon whose disk failed is started anew now and then.
fn start_what_is_down(world: &mut World, random: &mut Random) {
    for node in world.replicas() {
        if world.is_up(node) && world.disk(node) <= DiskState::Failed && random.chance(50) {
            world.kill(node);
        }
        if !world.is_up(node) && random.chance(80) {
            world.coverage.count("start");
            world.start(node);
        }
    }
    if world.options.has_tiebreaker() && world.tiebreaker.running.is_none() {
        world.start_tiebreaker();
    }
}

fn cut_or_heal(world: &mut World, random: &mut Random) {
    world.coverage.count("link cut");
    let [from, to] = any_two_voters(world, random);
    let is_cut = !world.network.cuts.contains(&(from, to));
    if random.chance(50) {
        world.set_cut(from, to, is_cut);
    } else {
        world.set_cut_both([from, to], is_cut);
    }
}

/// Heals every cut.
pub fn heal_links(world: &mut World) {
    world.coverage.count("links healed");
    for (from, to) in world.network.cuts.clone() {
        world.set_cut(from, to, false);
    }
}

fn orders(world: &mut World, random: &mut Random, kind: FaultKind, node: NodeId) {
    let peers: Vec<NodeId> = world.replicas().filter(|peer| *peer != node).collect();
    let any_peer = random.chance(50).then(|| peers[random.index(peers.len())]);
    let (name, order) = match kind {
        FaultKind::Promote => {
            let wait = Span::from_millis([0, 500, 10_000][random.index(3)]);
            ("promote", Order::Promote { wait, warrant: Warrant::Known })
        }
        // Only as long as what was said is true.
        FaultKind::PromoteAsFenced => {
            ("promote as fenced", Order::Promote { wait: Span(0), warrant: Warrant::PeerIsFenced })
        }
        FaultKind::PromoteByForce => {
            ("promote by force", Order::Promote { wait: Span(0), warrant: Warrant::Force })
        }
        FaultKind::Outdate => ("outdate", Order::Outdate),
        FaultKind::Demote => ("demote", Order::Demote { clients: ConnectedClients::Refuse }),
        FaultKind::DemoteByForce => {
            ("demote by force", Order::Demote { clients: ConnectedClients::Disconnect })
        }
        FaultKind::Disconnect => ("disconnect", Order::Disconnect { peer: any_peer }),
        FaultKind::Connect => ("connect", Order::Connect { peer: None }),
        FaultKind::PauseResync => ("pause-resync", Order::PauseResync { is_paused: random.chance(50) }),
        _ => ("stop", Order::Stop),
    };
    world.coverage.count(name);
    world.order(node, order);
}

/// One side gives way, if it is Secondary and apart; else the order is refused.
fn resolve_split_brain(world: &mut World, random: &mut Random, node: NodeId) {
    // Where nothing is split it is refused.
    if !world.is_split(node) && !random.chance(2) {
        return;
    }
    if !world.replicas().all(|to| to == node || fault_budget::may_give_way(world, node, to)) {
        return;
    }
    world.coverage.count("resolve-split-brain");
    let save = if random.chance(50) { Save::ByDefault } else { Save::No };
    let giving = Giving { what: Discards::Changes, save, is_rehearsal: random.chance(10) };
    world.order(node, Order::ResolveSplitBrain { peer: None, giving });
}

/// Another command, or the same at another speed.
fn replace_fence_command(world: &mut World, random: &mut Random, node: NodeId) {
    let lies = world.may_lie && random.chance(40);
    let machine = &mut world.nodes[node.index()];
    machine.fence_command =
        if lies { FenceCommand::any_liar(random) } else { FenceCommand::any_honest(random) };
    machine.fence_takes = [0, 20 * MS, 8000 * MS][random.index(3)];
}

/// Shorter or longer than peers wait for a sign of life, or than a disk may take.
fn hangs(world: &mut World, random: &mut Random, node: NodeId, health: DiskHealth) {
    world.coverage.count(if health == DiskHealth::Stuck { "disk hangs" } else { "data area hangs" });
    world.set_health(node, health);
    world.run_for(Span(random.below(8000 * MS)));
    world.set_health(node, DiskHealth::Good);
}

/// A node goes down, blocks of its metadata rot or turn up in the wrong place, and it comes back. Nothing else happens
/// until it is in sync again: two losses at once are more than two copies stand.
fn rot(world: &mut World, random: &mut Random) {
    let node = any_node(world, random);
    if !fault_budget::may_rot(world, node) {
        return;
    }
    world.coverage.count("rot");
    world.die(node, if random.chance(50) { Death::Kill } else { Death::PowerCut });
    let rot = [Rot::JournalBit, Rot::JournalAstray, Rot::OlderSuperblock, Rot::BitmapPage][random.index(4)];
    world.say(|| format!("-- {node} rots: {rot:?}"));
    world.watch.seen[node.index()].is_damaged = true;
    world.nodes[node.index()].rot(rot, random);
    if random.chance(50) {
        world.run_for(Span(random.below(5000 * MS)));
    }
    if world.start_whatever_it_holds(node) == RecoveryCase::Corrupt {
        world.coverage.count("journals found corrupt");
    }
    mend(world, random, node, World::is_in_sync);
    world.watch.seen[node.index()].is_damaged = false;
}

/// A node, or the tiebreaker, comes back with nothing but an identity that nobody knows. Nothing else happens until it
/// is in sync and votes again.
fn replaced(world: &mut World, random: &mut Random) {
    if world.options.has_tiebreaker() && random.chance(30) {
        if !fault_budget::is_whole(world) {
            return;
        }
        world.reinstall_tiebreaker();
        world.run_for(Span(random.below(5000 * MS)));
        mend(world, random, TIE, |world| world.has_vote(TIE) && world.is_in_sync());
        return;
    }
    let node = any_node(world, random);
    if !fault_budget::may_rot(world, node) {
        return;
    }
    world.replace_disk(node);
    world.run_for(Span(random.below(5000 * MS)));
    mend(world, random, node, |world| world.has_vote(node) && world.is_in_sync());
    world.watch.seen[node.index()].is_damaged = false;
}

/// Waits until nothing is missing any more; whoever has lost something is not asked to lead.
fn mend(world: &mut World, random: &mut Random, lost: NodeId, is_whole: impl Fn(&World) -> bool) {
    let is_mended = (0..6).any(|_| {
        start_what_is_down(world, random);
        if !world.replicas().any(|node| world.role(node) == Role::Primary) {
            let peers = world.replicas().filter(|peer| *peer != lost && world.is_up(*peer));
            for peer in peers.collect::<Vec<_>>() {
                world
                    .order(peer, Order::Promote { wait: Span::from_millis(10_000), warrant: Warrant::Known });
                world.run_for(Span::from_millis(100));
            }
        }
        world.run_until(Span::from_millis(10_000), &is_whole)
    });
    assert!(is_mended, "violation: what was lost is not mended within a minute\n{}", world.summaries());
}
