//! The world: two replicas and a tiebreaker, or three replicas, and everything that happens to them, in the order of one queue.
//! `run` carries the world on; the children carry out effects, links, and what scripts and clients want.

mod deeds;
mod executing;
mod fencing;
mod histories;
mod links;
mod new_disks;
mod replacing;

pub use deeds::other;
pub use replacing::BackUp;

use std::collections::BTreeMap;

use replicator::config::OnPeerLost;
use replicator::effect::{Answer, Effects};
use replicator::event::{Event, IoId, LinkId, OrderId};
use replicator::generation::split_brain::Policies;
use replicator::layout::superblock::DurableDisk;
use replicator::promotion::tiebreaker::{TiebreakerConfig, TiebreakerEvent};
use replicator::status_report::StatusReport;
use replicator::units::{NodeId, Span, VoterId};

use crate::checker::branches::Branches;
use crate::checker::marks::Marks;
use crate::checker::single_primary::SinglePrimary;
use crate::checker::watch::Watch;
use crate::coverage::Coverage;
use crate::fence_command::Outdating;
use crate::node::{NodeOptions, SimNode};
use crate::random::Random;
use crate::sabotage::Sabotage;
use crate::sim_network::SimNetwork;
use crate::tiebreaker::SimTiebreaker;
use crate::workload::Operation;

/// The first replica.
pub const ALPHA: NodeId = NodeId(0);
/// The second replica.
pub const BETA: NodeId = NodeId(1);
/// The third replica, where there are three.
pub const GAMMA: NodeId = NodeId(2);
/// The tiebreaker, where there are two replicas.
pub const TIE: NodeId = NodeId(2);

/// Microseconds of a millisecond.
pub const MS: u64 = 1000;
/// Most wake-ups in a row that are due at once before a node counts as spinning.
const SPINS_MAX: u64 = 20_000;
/// Of so many rounds of a node one is looked at.
const ROUNDS_BETWEEN_LOOKS: u64 = 8;

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

/// How a daemon ends that does not end by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    /// SIGKILL.
    Kill,
    /// Its machine loses power.
    PowerCut,
}

/// A node that dies in the middle of what it does.
#[derive(Clone, Copy, Debug)]
pub struct Doomed {
    node: NodeId,
    death: Death,
    /// Effects that it still gets to.
    effects_left: u64,
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
    /// Bytes that a link carries in a second, each way, if there is a limit.
    pub link_bytes_per_second: Option<u64>,
}

impl Default for Delays {
    fn default() -> Self {
        Self { io: 300, frame: 200, straggler_factor: 10, link_bytes_per_second: None }
    }
}

/// What a world is made of.
#[derive(Clone, Debug)]
pub struct WorldOptions {
    /// The nodes.
    pub node: NodeOptions,
    /// The disks that the first two are made with; a third one's is UpToDate.
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
    pub nodes: Vec<SimNode>,
    /// What they have in common.
    pub options: NodeOptions,
    /// The tiebreaker; it never runs where there are three replicas.
    pub tiebreaker: SimTiebreaker,
    /// The links.
    pub network: SimNetwork,
    /// How slow things are.
    pub delays: Delays,
    /// What clients asked for.
    pub operations: BTreeMap<u64, Operation>,
    /// What they may see.
    pub branches: Branches,
    /// What operators were answered.
    pub answers: BTreeMap<OrderId, Answer>,
    /// Names of the notices of each node.
    pub notices: Vec<(NodeId, &'static str, String)>,
    /// What the checkers have seen.
    pub watch: Watch,
    /// What is wrong with the world itself, to try the checkers.
    pub sabotage: Option<Sabotage>,
    /// What was reached.
    pub coverage: Coverage,
    /// Who dies next, and when.
    pub doomed: Option<Doomed>,
    /// Whether fence commands may say what they have not done.
    pub may_lie: bool,
    /// Frames of links that were replaced or dropped reach their node now and then; by chance in a hundred.
    pub late_frames: u64,
    queue: BTreeMap<(u64, u64), Happening>,
    sequence: u64,
    orders: u64,
    /// Orders to stop; a daemon ends when one is carried out.
    stops: Vec<(NodeId, OrderId)>,
    /// Orders of fence commands to call a peer outdated.
    outdating: Vec<Outdating>,
    effects: Effects,
    primaries: SinglePrimary,
    marks: [Marks; 3],
    spins: [u64; 3],
    trace: bool,
}

impl World {
    /// A world with new nodes, none of them running.
    #[must_use]
    pub fn new(seed: u64, options: WorldOptions) -> Self {
        let mut random = Random::new(seed);
        let disk = |node: NodeId| options.disks.get(node.index()).copied().unwrap_or(DurableDisk::UpToDate);
        let create = |node: NodeId| SimNode::create(node, disk(node), &options.node, &mut random);
        let nodes: Vec<SimNode> = options.node.nodes().map(create).collect();
        let mut watch = Watch::new(&nodes);
        let mut branches = Branches::new(options.node.on_peer_lost == OnPeerLost::Continue);
        if options.node.split_brain != Policies::default() {
            watch.loss_named(); // A policy that an operator wrote is an order.
            branches.resolved_by_policy();
        }
        let config = &nodes[0].config;
        let (heartbeat, peer_timeout) = (config.heartbeat, config.peer_timeout);
        let voter = VoterId(random.draw() | 1);
        let tiebreaker =
            SimTiebreaker::create(TiebreakerConfig { replicas: 2, heartbeat, peer_timeout }, TIE, voter);
        let mut world = Self {
            now: 0,
            random,
            nodes,
            options: options.node,
            tiebreaker,
            network: SimNetwork::default(),
            delays: options.delays,
            operations: BTreeMap::new(),
            branches,
            answers: BTreeMap::new(),
            notices: Vec::new(),
            watch,
            sabotage: None,
            coverage: Coverage::default(),
            doomed: None,
            may_lie: false,
            late_frames: 0,
            queue: BTreeMap::new(),
            sequence: 0,
            orders: 0,
            stops: Vec::new(),
            outdating: Vec::new(),
            effects: Effects::default(),
            primaries: SinglePrimary::default(),
            marks: [Marks::default(); 3],
            spins: [0; 3],
            trace: options.trace,
        };
        world.at(0, Happening::Dial);
        world
    }

    /// The replicas.
    pub fn replicas(&self) -> impl Iterator<Item = NodeId> + use<> {
        let count = u8::try_from(self.nodes.len()).expect("at most three");
        (0..count).map(NodeId)
    }

    /// Everybody who votes: the replicas, and the tiebreaker if there is one.
    pub fn voters(&self) -> impl Iterator<Item = NodeId> + use<> {
        self.replicas().chain(self.options.has_tiebreaker().then_some(TIE))
    }

    /// Whether this number is the tiebreaker's.
    #[must_use]
    pub fn is_tiebreaker(&self, node: NodeId) -> bool {
        node.index() == self.nodes.len()
    }

    /// Whether a node's daemon runs.
    #[must_use]
    pub fn is_up(&self, node: NodeId) -> bool {
        match self.nodes.get(node.index()) {
            Some(node) => node.replica.is_some(),
            None => self.tiebreaker.running.is_some(),
        }
    }

    /// A world whose three voters run and are linked.
    #[must_use]
    pub fn started(seed: u64, options: WorldOptions) -> Self {
        let mut world = Self::new(seed, options);
        if world.options.has_tiebreaker() {
            world.start_tiebreaker();
        }
        for node in world.replicas() {
            world.start(node);
        }
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

    /// Looks at what a node says of itself; not every time, because that costs more than what it does.
    fn observe(&mut self, node: NodeId) {
        let machine = &mut self.nodes[node.index()];
        machine.rounds += 1;
        if machine.replica.is_none() || !machine.rounds.is_multiple_of(ROUNDS_BETWEEN_LOOKS) {
            return;
        }
        let status = self.status(node);
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
