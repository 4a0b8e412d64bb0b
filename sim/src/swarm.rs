//! What a seed decides before its world begins. Every knob is drawn by itself, and most faults are off in most runs: a
//! run in which everything happens at once never gets far, so it finds less than many runs of few kinds each.

use replicator::config::{OnPeerLost, ReplicationProtocol};
use replicator::generation::split_brain::{Policies, Primaries};
use replicator::units::Span;

use crate::faults::FaultKind;
use crate::node::NodeOptions;
use crate::random::Random;
use crate::workload::UNIT_BYTES;
use crate::world::{Delays, MS, WorldOptions};

/// What clients like to ask for, in a hundred requests. The rest are writes.
#[derive(Clone, Copy, Debug)]
pub struct ClientMix {
    /// Reads.
    pub reads: u64,
    /// Flushes.
    pub flushes: u64,
    /// Trims and zeroes.
    pub zeroes: u64,
    /// In a hundred writes, those that must be flushed when they are answered.
    pub flushed_writes: u64,
    /// In a hundred requests, those that meet in a small part of the volume.
    pub hot: u64,
    /// Largest request, in units.
    pub largest_units: u64,
    /// Requests in flight at most.
    pub in_flight: u64,
}

/// The knobs.
#[derive(Clone, Debug)]
pub struct Knobs {
    /// What the nodes are made of.
    pub node: NodeOptions,
    /// How slow things are.
    pub delays: Delays,
    /// What clients do.
    pub clients: ClientMix,
    /// Deeds of the safety phase.
    pub steps: u64,
    /// Longest pause between two deeds.
    pub pause: Span,
    /// Faults in a thousand deeds.
    pub faults: u64,
    /// Whether fence commands may say what they have not done.
    pub lies: bool,
    /// The faults that happen at all, each with its weight.
    pub kinds: Vec<(FaultKind, u64)>,
    /// In a hundred deeds while nobody serves, how often somebody tries to promote a node.
    pub failovers: u64,
    /// Whether the run ends with a time of load in which nobody may wait for long.
    pub ends_with_load: bool,
}

/// Which worlds are drawn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scope {
    /// Those in which a majority decides and nothing is forced.
    #[default]
    Quorum,
    /// Those with fence commands, with nodes that go on alone, and with promotions by force too.
    Everything,
}

impl Knobs {
    /// Draws them.
    #[must_use]
    pub fn draw(random: &mut Random, scope: Scope) -> Self {
        let replicas = if random.chance(40) { 3 } else { 2 };
        let third = match random.below(3) {
            0 if replicas == 3 => ReplicationProtocol::A,
            _ => ReplicationProtocol::C,
        };
        let on_peer_lost = match random.below(10) {
            _ if scope == Scope::Quorum => OnPeerLost::Quorum,
            0..2 => OnPeerLost::Quorum,
            2..6 => OnPeerLost::Fence,
            _ => OnPeerLost::Continue,
        };
        let slow_disks = random.chance(20);
        let clients = ClientMix::draw(random);
        // What clients have in flight fits into the ring: two Secondaries whose rings are full of writes that nobody has
        // called stable cannot bring each other up to date.
        let in_flight_bytes = clients.in_flight * clients.largest_units * UNIT_BYTES;
        let has_large_ring = in_flight_bytes > 1 << 20 || random.chance(10);
        let node = NodeOptions {
            on_peer_lost,
            replicas,
            third,
            split_brain: draw_policies(random),
            volume_bytes: if random.chance(20) { 4 << 20 } else { 1 << 20 },
            ring_bytes: if has_large_ring { 16 << 20 } else { 4 << 20 },
            // Short enough for a disk that hangs, long enough for the slowest that works.
            disk_timeout: Span::from_millis([5000, 30_000][random.index(2)]),
            drift: if random.chance(30) { 50_000 } else { 0 },
            ..NodeOptions::default()
        };
        Self {
            node,
            delays: Delays {
                io: if slow_disks { 20 * MS } else { 300 },
                frame: if random.chance(20) { 30 * MS } else { 200 },
                straggler_factor: [1, 10, 100][random.index(3)],
                link_bytes_per_second: None,
            },
            clients,
            steps: random.between(100, 600),
            pause: Span([200, 2 * MS, 20 * MS][random.index(3)]),
            faults: [10, 40, 120][random.index(3)],
            kinds: draw_kinds(random, on_peer_lost, scope),
            lies: random.chance(20),
            failovers: [0, 5, 20, 40][random.index(4)],
            ends_with_load: random.chance(25),
        }
    }

    /// The world that they ask for.
    #[must_use]
    pub fn world_options(&self, trace: bool) -> WorldOptions {
        WorldOptions { node: self.node.clone(), delays: self.delays, trace, ..WorldOptions::default() }
    }
}

impl ClientMix {
    /// A little of everything.
    pub const MIXED: Self = Self {
        reads: 30,
        flushes: 7,
        zeroes: 8,
        flushed_writes: 10,
        hot: 50,
        largest_units: 40,
        in_flight: 24,
    };

    fn draw(random: &mut Random) -> Self {
        Self {
            reads: [0, 20, 60][random.index(3)],
            flushes: [0, 3, 15][random.index(3)],
            zeroes: [0, 8][random.index(2)],
            flushed_writes: [0, 10, 60][random.index(3)],
            hot: [10, 50, 100][random.index(3)],
            largest_units: [8, 64, 64, 512][random.index(4)],
            in_flight: random.between(1, 24),
        }
    }
}

/// In most worlds a split brain is left to the operator.
fn draw_policies(random: &mut Random) -> Policies {
    if random.chance(70) {
        return Policies::default();
    }
    let mut any = |case: Primaries| {
        let (_, _, sensible) =
            Primaries::ALL.iter().find(|(of, ..)| *of == case).expect("every case is there");
        sensible[random.index(sensible.len())]
    };
    Policies {
        no_primary: any(Primaries::None),
        one_primary: any(Primaries::One),
        two_primaries: any(Primaries::Two),
    }
}

/// Each fault is on in four of ten seeds, those after which less can be demanded in one of ten; what ends faults is
/// always on.
fn draw_kinds(random: &mut Random, on_peer_lost: OnPeerLost, scope: Scope) -> Vec<(FaultKind, u64)> {
    let mut is_on = |(kind, _): &(FaultKind, u64)| {
        let chance = if *kind == FaultKind::PromoteByForce { 10 } else { 40 };
        let is_drawn = random.chance(chance);
        let is_in_scope = *kind != FaultKind::PromoteByForce || scope == Scope::Everything;
        is_in_scope && kind.is_of(on_peer_lost) && (kind.mends() || is_drawn)
    };
    let mut kinds: Vec<(FaultKind, u64)> = FaultKind::ALL.into_iter().filter(&mut is_on).collect();
    for (_, weight) in &mut kinds {
        *weight *= [1, 1, 4][random.index(3)];
    }
    kinds
}
