//! The world: two replicas and a tiebreaker, and everything that happens to them, in the order of one queue.
//! `run` carries the world on; the children carry out effects, links, and what scripts and clients want.

mod deeds;
mod executing;
mod links;

pub use deeds::other;

use std::collections::BTreeMap;

use replicator::effect::{Answer, Effects};
use replicator::event::{Event, IoId, LinkId, OrderId};
use replicator::layout::superblock::DurableDisk;
use replicator::promotion::tiebreaker::{TiebreakerConfig, TiebreakerEvent};
use replicator::status_report::StatusReport;
use replicator::units::{NodeId, Span, VoterId};

use crate::checker::durability::Durability;
use crate::checker::marks::Marks;
use crate::checker::single_primary::SinglePrimary;
use crate::node::{NodeOptions, SimNode};
use crate::random::Random;
use crate::sim_network::SimNetwork;
use crate::tiebreaker::SimTiebreaker;
use crate::workload::Operation;

/// The first replica.
pub const ALPHA: NodeId = NodeId(0);
/// The second replica.
pub const BETA: NodeId = NodeId(1);
/// The tiebreaker.
pub const TIE: NodeId = NodeId(2);

/// Microseconds of a millisecond.
pub const MS: u64 = 1000;
/// Most wake-ups in a row that are due at once before a node counts as spinning.
const SPINS_MAX: u64 = 20_000;

/// Something that happens at a moment.
#[derive(Debug)]
pub(crate) enum Happening {
    /// A node is told a fact, if it is still the same run.
    Tell { node: NodeId, run: u64, event: Box<Event> },
    /// The facts of a round are told.
    RoundEnds { node: NodeId, run: u64 },
    /// A node wanted to wake up.
    Wakes { node: NodeId, run: u64 },
    /// An I/O is done.
    IoDone { node: NodeId, run: u64, io: IoId },
    /// Something arrives on a link.
    Arrives { node: NodeId, link: LinkId },
    /// Links that are missing are dialed.
    Dial,
    /// The tiebreaker's store is done.
    Stored { run: u64 },
    /// The tiebreaker wanted to wake up.
    TiebreakerWakes { run: u64 },
}

/// How slow things are, microseconds at most.
#[derive(Clone, Copy, Debug)]
pub struct Delays {
    /// An I/O.
    pub io: u64,
    /// A frame.
    pub frame: u64,
    /// One in a hundred takes this many times as long.
    pub straggler_factor: u64,
}

impl Default for Delays {
    fn default() -> Self {
        Self { io: 300, frame: 200, straggler_factor: 10 }
    }
}

/// What a world is made of.
#[derive(Clone, Debug)]
pub struct WorldOptions {
    /// The nodes.
    pub node: NodeOptions,
    /// The disks that they are made with.
    pub disks: [DurableDisk; 2],
    /// How slow things are.
    pub delays: Delays,
    /// Whether to print what happens.
    pub trace: bool,
}

impl Default for WorldOptions {
    fn default() -> Self {
        Self {
            node: NodeOptions::default(),
            disks: [DurableDisk::UpToDate; 2],
            delays: Delays::default(),
            trace: std::env::var_os("SIM_TRACE").is_some(),
        }
    }
}

/// Everything.
#[derive(Debug)]
pub struct World {
    /// Microseconds since the beginning.
    pub now: u64,
    /// Everything that is left to chance.
    pub random: Random,
    /// The replicas.
    pub nodes: [SimNode; 2],
    /// The tiebreaker.
    pub tiebreaker: SimTiebreaker,
    /// The links.
    pub network: SimNetwork,
    /// How slow things are.
    pub delays: Delays,
    /// What clients asked for.
    pub operations: BTreeMap<u64, Operation>,
    /// What they may see.
    pub durability: Durability,
    /// What operators were answered.
    pub answers: BTreeMap<OrderId, Answer>,
    /// Names of the notices of each node.
    pub notices: Vec<(NodeId, &'static str, String)>,
    queue: BTreeMap<(u64, u64), Happening>,
    sequence: u64,
    orders: u64,
    effects: Effects,
    primaries: SinglePrimary,
    marks: [Marks; 2],
    spins: [u64; 2],
    trace: bool,
}

impl World {
    /// A world with new nodes, none of them running.
    #[must_use]
    pub fn new(seed: u64, options: WorldOptions) -> Self {
        let mut random = Random::new(seed);
        let nodes = [ALPHA, BETA]
            .map(|node| SimNode::create(node, options.disks[node.index()], &options.node, &mut random));
        let config = &nodes[0].config;
        let (heartbeat, peer_timeout) = (config.heartbeat, config.peer_timeout);
        let voter = VoterId(random.draw() | 1);
        let tiebreaker =
            SimTiebreaker::create(TiebreakerConfig { replicas: 2, heartbeat, peer_timeout }, TIE, voter);
        let mut world = Self {
            now: 0,
            random,
            nodes,
            tiebreaker,
            network: SimNetwork::default(),
            delays: options.delays,
            operations: BTreeMap::new(),
            durability: Durability::default(),
            answers: BTreeMap::new(),
            notices: Vec::new(),
            queue: BTreeMap::new(),
            sequence: 0,
            orders: 0,
            effects: Effects::default(),
            primaries: SinglePrimary::default(),
            marks: [Marks::default(); 2],
            spins: [0; 2],
            trace: options.trace,
        };
        world.at(0, Happening::Dial);
        world
    }

    /// A world whose three voters run and are linked.
    #[must_use]
    pub fn started(seed: u64, options: WorldOptions) -> Self {
        let mut world = Self::new(seed, options);
        if world.nodes[0].config.has_tiebreaker {
            world.start_tiebreaker();
        }
        world.start(ALPHA);
        world.start(BETA);
        world.run_for(Span::from_millis(1500));
        world
    }

    /// Prints a line, if that is wanted.
    pub fn say(&self, text: impl FnOnce() -> String) {
        if self.trace {
            let (seconds, micros) = (self.now / 1_000_000, self.now % 1_000_000);
            println!("{seconds:4}.{micros:06} {}", text());
        }
    }

    /// A replica's status.
    ///
    /// # Panics
    /// Its daemon does not run.
    #[must_use]
    pub fn status(&self, node: NodeId) -> StatusReport {
        let node = &self.nodes[node.index()];
        node.replica.as_ref().expect("it runs").status(node.clock.read(self.now))
    }

    pub(crate) fn at(&mut self, time: u64, happening: Happening) {
        self.sequence += 1;
        self.queue.insert((time.max(self.now), self.sequence), happening);
    }

    /// A delay of at most `most`, now and then much longer.
    pub(crate) fn delay(&mut self, most: u64) -> u64 {
        let delay = self.random.between(most / 10, most.max(1));
        if self.random.chance(1) { delay * self.delays.straggler_factor } else { delay }
    }

    /// Carries on until `span` has passed.
    pub fn run_for(&mut self, span: Span) {
        let until = self.now + span.0;
        self.run_until(span, |_| false);
        self.now = until;
    }

    /// Carries on until `condition` holds. Returns whether it does before `patience` is over.
    pub fn run_until(&mut self, patience: Span, condition: impl Fn(&Self) -> bool) -> bool {
        let deadline = self.now + patience.0;
        while !condition(self) {
            match self.queue.first_key_value() {
                Some(((time, _), _)) if *time <= deadline => self.step(),
                Some(_) | None => return false,
            }
        }
        true
    }

    fn step(&mut self) {
        let Some(((time, _), happening)) = self.queue.pop_first() else { return };
        self.now = time;
        if let Some(until) = self.put_off(&happening) {
            self.at(until, happening);
            return;
        }
        match happening {
            Happening::Tell { node, run, event } => {
                if self.is_run(node, run) {
                    self.tell(node, *event);
                }
            }
            Happening::RoundEnds { node, run } => {
                if self.is_run(node, run) {
                    self.nodes[node.index()].round_ends = false;
                    self.tell(node, Event::TimePassed);
                }
            }
            Happening::Wakes { node, run } => {
                if self.is_run(node, run) && self.nodes[node.index()].wakes == Some(time) {
                    self.nodes[node.index()].wakes = None;
                    self.tell(node, Event::TimePassed);
                }
            }
            Happening::IoDone { node, run, io } => {
                if self.is_run(node, run) {
                    self.finish_io(node, io);
                }
            }
            Happening::Arrives { node, link } => self.arrive(node, link),
            Happening::Dial => self.dial(),
            Happening::Stored { run } => {
                if self.tiebreaker.run == run && self.tiebreaker.running.is_some() {
                    self.tiebreaker.store();
                    self.tell_tiebreaker(TiebreakerEvent::RecordDurable);
                }
            }
            Happening::TiebreakerWakes { run } => {
                if self.tiebreaker.run == run {
                    self.tell_tiebreaker(TiebreakerEvent::TimePassed);
                    self.at(time + 100 * MS, Happening::TiebreakerWakes { run });
                }
            }
        }
    }

    /// When a node that stands still will notice this.
    fn put_off(&mut self, happening: &Happening) -> Option<u64> {
        let node = match happening {
            Happening::Tell { node, .. }
            | Happening::RoundEnds { node, .. }
            | Happening::Wakes { node, .. }
            | Happening::IoDone { node, .. }
            | Happening::Arrives { node, .. } => *node,
            Happening::Dial | Happening::Stored { .. } | Happening::TiebreakerWakes { .. } => return None,
        };
        let now = self.now;
        let machine = self.nodes.get_mut(node.index()).filter(|machine| machine.stands_still_until > now)?;
        let until = machine.stands_still_until;
        if matches!(happening, Happening::Wakes { .. }) && machine.wakes == Some(now) {
            machine.wakes = Some(until);
        }
        Some(until)
    }

    fn is_run(&self, node: NodeId, run: u64) -> bool {
        let node = &self.nodes[node.index()];
        node.run == run && node.replica.is_some()
    }

    /// Tells a replica a fact and carries out what it wants.
    pub(crate) fn tell(&mut self, node: NodeId, event: Event) {
        let ends_round = matches!(event, Event::TimePassed);
        let mut effects = std::mem::take(&mut self.effects);
        let machine = &mut self.nodes[node.index()];
        let now = machine.clock.read(self.now);
        let Some(replica) = &mut machine.replica else { return };
        replica.handle(now, event, &mut effects);
        // Whatever the effects acknowledge, a later run in this boot must find.
        machine.mark = Some(replica.continuity_mark());
        self.execute(node, &mut effects);
        self.effects = effects;
        if ends_round {
            self.observe(node);
            self.plan_wake_up(node);
        } else if !self.nodes[node.index()].round_ends && self.nodes[node.index()].replica.is_some() {
            let (run, soon) = (self.nodes[node.index()].run, self.now + self.random.below(20));
            self.nodes[node.index()].round_ends = true;
            self.at(soon, Happening::RoundEnds { node, run });
        }
    }

    fn observe(&mut self, node: NodeId) {
        if self.nodes[node.index()].replica.is_none() {
            return;
        }
        let status = self.status(node);
        if self.nodes[node.index()].config.on_peer_lost.asks_a_majority() {
            self.primaries.observe(node, status.role, status.term);
        }
        if status.devices[0].disk_state == replicator::state::DiskState::Inconsistent {
            self.marks[node.index()].restart();
        }
        self.marks[node.index()].observe(status.lsn);
    }

    fn plan_wake_up(&mut self, node: NodeId) {
        let machine = &mut self.nodes[node.index()];
        let Some(tick) = machine.replica.as_ref().and_then(replicator::replica::Replica::next_wakeup) else {
            return;
        };
        let wanted = machine.clock.world_time(tick);
        let spins = &mut self.spins[node.index()];
        *spins = if wanted <= self.now { *spins + 1 } else { 0 };
        assert!(*spins < SPINS_MAX, "violation: {node} wants to wake up at once, again and again");
        let time = wanted.max(self.now + 100);
        if machine.wakes.is_none_or(|planned| time < planned) {
            machine.wakes = Some(time);
            let run = machine.run;
            self.at(time, Happening::Wakes { node, run });
        }
    }
}
