//! What scripts, operators, clients and fate do to the world.

use replicator::effect::Answer;
use replicator::event::{ConnectedClients, Durability, Event, Order, OrderId, Warrant};
use replicator::journal::recovery_case::RecoveryCase;
use replicator::layout::superblock::Superblock;
use replicator::promotion::membership::MembershipRecord;
use replicator::promotion::refusal::Refused;
use replicator::promotion::tiebreaker::TiebreakerEvent;
use replicator::state::{DiskState, ReplicationState, Role};
use replicator::status_report::StatusReport;
use replicator::units::{BLOCK_SIZE, ByteRange, NodeId, RequestId, Span};

use super::{ALPHA, BETA, Death, Doomed, Happening, MS, TIE, World};
use crate::checker::convergence;
use crate::fault_budget;
use crate::node::{DiskHealth, NextFailure};
use crate::workload::{Ask, Operation};

impl World {
    /// Starts a node's daemon.
    ///
    /// # Panics
    /// Recovery calls its journal corrupt, which no fault of this world makes it.
    pub fn start(&mut self, node: NodeId) {
        let verdict = self.start_whatever_it_holds(node);
        assert_ne!(verdict, RecoveryCase::Corrupt, "violation: a journal is corrupt that nobody damaged");
    }

    /// Starts a node's daemon on a disk that was damaged, and says what recovery made of it.
    pub fn start_whatever_it_holds(&mut self, node: NodeId) -> RecoveryCase {
        self.say(|| {
            let found = self.nodes[node.index()].superblock();
            let (disk, resync, anchor) = (found.disk, found.resync, found.journal);
            format!("-- {node} starts: was {disk:?}, resync {resync:?}, {anchor:?}")
        });
        let seed = self.random.draw();
        let found = self.nodes[node.index()].start(self.now, seed);
        self.watch.started(&self.nodes, node, &found);
        self.watch.seen[node.index()].is_damaged |= found.case == RecoveryCase::Corrupt;
        self.marks[node.index()].restart();
        self.spins[node.index()] = 0;
        self.tell(node, Event::TimePassed);
        found.case
    }

    /// Starts the tiebreaker's daemon.
    pub fn start_tiebreaker(&mut self) {
        self.say(|| "-- the tiebreaker starts".to_owned());
        self.tiebreaker.start();
        let run = self.tiebreaker.run;
        self.tell_tiebreaker(TiebreakerEvent::Started);
        self.at(self.now + 100 * MS, Happening::TiebreakerWakes { run });
    }

    /// Kills a node's daemon (SIGKILL).
    pub fn kill(&mut self, node: NodeId) {
        self.say(|| format!("-- {node} is killed"));
        self.coverage.count("kill");
        // What it served without a disk is in its memory, and in what the members have not lost.
        if self.disk(node) == DiskState::Diskless {
            self.lose_unflushed(node);
        }
        self.lose_clients(node);
        self.forget_links(node, true);
        self.nodes[node.index()].kill(&mut self.random);
        self.watch.stopped(&self.nodes, node);
        self.branches.forces_no_more(node);
        self.stops.retain(|(other, _)| *other != node);
    }

    /// Changes the superblock on a node's disk behind its back.
    pub fn forge_superblock(&mut self, node: NodeId, change: impl FnOnce(&mut Superblock)) {
        let machine = &mut self.nodes[node.index()];
        let mut forged = machine.superblock();
        change(&mut forged);
        let offset = forged.zones.superblocks()[forged.copy_index()].offset;
        machine.metadata.write_through(offset, &forged.encode()[..]);
    }

    /// Clears the marks on a node's disk behind its back.
    pub fn clear_marks(&mut self, node: NodeId) {
        let zones = self.nodes[node.index()].superblock().zones;
        let bitmap = zones.bitmap(0).expect("there is room for a peer");
        self.nodes[node.index()].metadata.write_through(bitmap.offset, &[0; BLOCK_SIZE]);
    }

    /// Cuts a node's power.
    pub fn cut_power(&mut self, node: NodeId) {
        self.say(|| format!("-- {node} loses power"));
        self.coverage.count("power cut");
        self.lose_unflushed(node);
        self.lose_clients(node);
        self.forget_links(node, false);
        self.nodes[node.index()].cut_power(self.now, &mut self.random);
        self.watch.stopped(&self.nodes, node);
        self.branches.forces_no_more(node);
        self.stops.retain(|(other, _)| *other != node);
    }

    /// Ends a node's daemon now.
    pub fn die(&mut self, node: NodeId, death: Death) {
        match death {
            Death::Kill => self.kill(node),
            Death::PowerCut => self.cut_power(node),
        }
    }

    /// Ends a node's daemon after so many of the effects that it orders from now on: in the middle of a batch of them,
    /// or between two.
    pub fn doom(&mut self, node: NodeId, death: Death, effects_left: u64) {
        self.say(|| format!("-- {node} has {effects_left} effects left"));
        self.doomed = Some(Doomed { node, death, effects_left });
    }

    /// The next write or flush of a node's disk fails.
    pub fn fail_next(&mut self, node: NodeId, failure: NextFailure) {
        self.say(|| format!("-- the next {failure:?} of {node} fails"));
        self.nodes[node.index()].next_failure = Some(failure);
    }

    /// Kills the tiebreaker's daemon.
    pub fn kill_tiebreaker(&mut self) {
        self.say(|| "-- the tiebreaker is killed".to_owned());
        self.forget_links(TIE, true);
        let reached = self.random.index(3);
        self.tiebreaker.kill(reached);
    }

    /// The record that every voter has stored, going by its disk.
    #[must_use]
    pub fn stored_records(&self) -> Vec<(NodeId, MembershipRecord)> {
        let of = |voter: NodeId| match self.nodes.get(voter.index()) {
            Some(_) => (voter, self.watch.seen[voter.index()].superblock.membership),
            None => (voter, self.tiebreaker.stored()),
        };
        self.voters().map(of).collect()
    }

    /// The newest record that a majority of the voters has stored, or has replaced by a newer one: going by what is
    /// on their disks, whoever runs.
    #[must_use]
    pub fn recorded(&self) -> MembershipRecord {
        let mut stored: Vec<_> = self.stored_records().into_iter().map(|(_, record)| record).collect();
        stored.sort_by_key(|record| std::cmp::Reverse(record.order()));
        // Where no majority is asked, each change counts as soon as whoever makes it has stored it.
        stored[if self.options.on_peer_lost.asks_a_majority() { stored.len() / 2 } else { 0 }]
    }

    /// What a node has not flushed is lost, or may be.
    pub(super) fn lose_unflushed(&mut self, node: NodeId) {
        let was_last = fault_budget::last_copy_goes(self, node);
        self.branches.loses_unflushed(node, was_last);
    }

    /// Whether a node is a member of the recorded in-sync set in the run that is named there, or a later one
    /// of the same boot: then every completed write is in its journal.
    #[must_use]
    pub fn holds_everything(&self, node: NodeId) -> bool {
        self.lives_on(node, &self.recorded())
    }

    /// Whether a node lives on as the run that a record names as a member, or as one that can prove to continue it.
    #[must_use]
    pub fn lives_on(&self, node: NodeId, record: &MembershipRecord) -> bool {
        let recorded = record.in_sync.incarnation_of(node);
        let superblock = self.nodes[node.index()].superblock();
        let mark = self.nodes[node.index()].mark;
        // A node that has just come back from a power cut still has the old run in its superblock.
        let is_unbroken = |recorded| !self.nodes[node.index()].broken.contains(&recorded);
        recorded.is_some_and(|recorded| {
            is_unbroken(recorded)
                && (mark.is_some_and(|mark| mark.incarnation == recorded)
                    || (mark.is_some() && superblock.incarnation_recorded == recorded))
        })
    }

    /// What a node's disk does from now on.
    pub fn set_health(&mut self, node: NodeId, health: DiskHealth) {
        self.say(|| format!("-- the disk of {node} is {health:?}"));
        let machine = &mut self.nodes[node.index()];
        machine.health = health;
        let (run, late) = (machine.run, machine.in_flight.keys().copied().collect::<Vec<_>>());
        for io in late {
            // Whatever hung comes to its end in any order.
            let done = self.now + self.delay(self.delays.io);
            self.at(done, Happening::IoDone { node, run, io });
        }
    }

    /// Lets a node's daemon stand still for some milliseconds.
    pub fn stand_still(&mut self, node: NodeId, milliseconds: u64) {
        self.say(|| format!("-- {node} stands still for {milliseconds} ms"));
        self.nodes[node.index()].stands_still_until = self.now + milliseconds * 1000;
    }

    /// Gives an order.
    pub fn order(&mut self, node: NodeId, what: Order) -> OrderId {
        let order = self.next_order();
        self.give(node, order, what);
        order
    }

    pub(super) fn next_order(&mut self) -> OrderId {
        self.orders += 1;
        OrderId(self.orders)
    }

    pub(super) fn give(&mut self, node: NodeId, order: OrderId, what: Order) {
        self.say(|| format!("-- order {} to {node}: {what:?}", order.0));
        if let Order::PauseResync { is_paused } = &what {
            self.nodes[node.index()].is_resync_paused = *is_paused;
        }
        self.note_warrant(node, &what);
        if what == Order::Stop {
            self.stops.push((node, order));
        }
        self.tell(node, Event::OperatorAsked { order, what });
    }

    /// Whether a daemon that runs was told to stop, and has not answered yet.
    #[must_use]
    pub fn has_stops_under_way(&self) -> bool {
        let is_pending =
            |(node, order): &(NodeId, OrderId)| self.is_up(*node) && !self.answers.contains_key(order);
        self.stops.iter().any(is_pending)
    }

    /// Gives an order and waits for the answer.
    ///
    /// # Errors
    /// It was refused.
    ///
    /// # Panics
    /// There is no answer within a minute.
    pub fn ask_operator(&mut self, node: NodeId, what: Order) -> Result<String, Refused> {
        let order = self.order(node, what);
        let is_answered =
            self.run_until(Span::from_millis(60_000), |world| world.answers.contains_key(&order));
        assert!(is_answered, "violation: {node} does not answer order {}", order.0);
        match self.answers[&order].clone() {
            Answer::Done { text } => Ok(text),
            Answer::Explained(report) => Ok(format!("{report:?}")),
            Answer::Refused(refused) => Err(refused),
        }
    }

    /// Promotes a node, waiting at most `wait` milliseconds for leases and voters.
    ///
    /// # Errors
    /// It was refused.
    pub fn promote(&mut self, node: NodeId, wait: u64) -> Result<String, Refused> {
        self.promote_with(node, wait, Warrant::Known)
    }

    /// Promotes a node by more than what the nodes know.
    ///
    /// # Errors
    /// It was refused.
    pub fn promote_with(&mut self, node: NodeId, wait: u64, warrant: Warrant) -> Result<String, Refused> {
        let answer = self.ask_operator(node, Order::Promote { wait: Span::from_millis(wait), warrant });
        if answer.is_ok() && self.has_one_primary() {
            self.note_promotion(node);
        }
        answer
    }

    /// What clients of the other node still wait for either happened before or never does.
    pub fn note_promotion(&mut self, node: NodeId) {
        let now = self.now;
        let waiting =
            self.operations.iter().filter(|(_, operation)| operation.node != node && operation.is_waiting());
        for (id, operation) in waiting {
            self.branches.lost(operation.node, *id, now);
        }
    }

    /// Demotes a node that has no clients.
    ///
    /// # Errors
    /// It was refused.
    pub fn demote(&mut self, node: NodeId) -> Result<String, Refused> {
        self.ask_operator(node, Order::Demote { clients: ConnectedClients::Refuse })
    }

    /// So many clients are connected to a node now.
    pub fn clients_connect(&mut self, node: NodeId, clients: usize) {
        self.tell(node, Event::ClientsCounted { clients });
    }

    /// A client asks a node for something.
    pub fn ask(&mut self, node: NodeId, ask: Ask) -> u64 {
        let id = u64::try_from(self.operations.len()).expect("64 bits") + 1;
        let now = self.now;
        let operation =
            Operation { node, ask, asked_at: now, answered_at: None, has_failed: false, lost_at: None };
        self.operations.insert(id, operation);
        self.branches.asked(node, id, ask, now);
        self.say(|| format!("{node} is asked {id}: {ask:?}"));
        self.tell(node, Event::RequestReceived { id: RequestId(id), request: ask.request(id) });
        id
    }

    /// How many requests wait at a node.
    #[must_use]
    pub fn waiting(&self, node: NodeId) -> u64 {
        let waiting = self.operations.values().rev().take(200);
        let count = waiting.filter(|operation| operation.node == node && operation.is_waiting()).count();
        u64::try_from(count).expect("64 bits")
    }

    /// A client writes `length` bytes at `offset`.
    pub fn write(&mut self, node: NodeId, offset: u64, length: u64) -> u64 {
        self.ask(node, Ask::Write(ByteRange::new(offset, length), Durability::Complete))
    }

    /// Whether a request was answered without an error.
    #[must_use]
    pub fn is_done(&self, operation: u64) -> bool {
        let operation = &self.operations[&operation];
        operation.answered_at.is_some() && !operation.has_failed
    }

    /// Waits until a request is answered; says whether it was within `patience` milliseconds.
    pub fn wait_for(&mut self, operation: u64, patience: u64) -> bool {
        self.run_until(Span::from_millis(patience), |world| world.is_done(operation))
    }

    /// Writes and waits.
    ///
    /// # Panics
    /// There is no answer within ten seconds.
    pub fn write_now(&mut self, node: NodeId, offset: u64, length: u64) {
        let write = self.write(node, offset, length);
        let is_answered = self.wait_for(write, 10_000);
        assert!(is_answered, "violation: a write to {node} is not answered\n{}", self.summaries());
    }

    /// Asks for something and waits.
    ///
    /// # Panics
    /// There is no answer within ten seconds.
    pub fn ask_now(&mut self, node: NodeId, ask: Ask) {
        let id = self.ask(node, ask);
        assert!(self.wait_for(id, 10_000), "violation: {ask:?} to {node} is not answered");
    }

    /// A node's role; Unknown while its daemon does not run.
    #[must_use]
    pub fn role(&self, node: NodeId) -> Role {
        if self.nodes[node.index()].replica.is_some() { self.status(node).role } else { Role::Unknown }
    }

    /// A node's disk; unknown while its daemon does not run.
    #[must_use]
    pub fn disk(&self, node: NodeId) -> DiskState {
        match &self.nodes[node.index()].replica {
            Some(_) => self.status(node).devices[0].disk_state,
            None => DiskState::DUnknown,
        }
    }

    /// The most telling parts of both statuses.
    #[must_use]
    pub fn summaries(&self) -> String {
        let running = self.replicas().filter(|node| self.is_up(*node));
        running.map(|node| summary(&self.status(node))).collect::<Vec<_>>().join("\n")
    }

    /// Whether all run, everybody who can be in the in-sync set is UpToDate, and all are Established with the Primary,
    /// or with each other where there is none.
    #[must_use]
    pub fn is_in_sync(&self) -> bool {
        self.is_in_sync_without(None)
    }

    /// The same of all nodes but one.
    #[must_use]
    pub fn is_in_sync_without(&self, left_out: Option<NodeId>) -> bool {
        let core = || self.replicas().filter(|node| Some(*node) != left_out);
        if !core().all(|node| self.is_up(node)) {
            return false;
        }
        let primary = core().find(|node| self.role(*node) == Role::Primary);
        core().all(|node| {
            let status = self.status(node);
            let is_there = self.disk(node) == DiskState::UpToDate || !self.can_be_in_sync(node);
            let is_with = |peer: NodeId| {
                Some(peer) != left_out && primary.is_none_or(|primary| primary == peer || primary == node)
            };
            is_there
                && status.connections.iter().all(|connection| {
                    !is_with(connection.peer_node_id)
                        || connection.peer_devices[0].replication_state == ReplicationState::Established
                })
        })
    }

    /// Whether a node can be in the in-sync set: not behind a link of protocol A or B.
    #[must_use]
    pub fn can_be_in_sync(&self, node: NodeId) -> bool {
        let primary = self.replicas().find(|other| self.role(*other) == Role::Primary);
        let Some(primary) = primary.filter(|primary| *primary != node) else { return true };
        self.options.protocol_between(node, primary).can_be_in_sync()
    }

    /// Whether all are in sync, nothing is in flight, and everything is in every data area.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        let marks = |node| self.status(node).lsn;
        self.is_in_sync()
            && self.replicas().all(|node| {
                marks(node).assigned == marks(ALPHA).assigned
                    && marks(node).written_back == marks(node).assigned
            })
    }

    /// Waits until all are in sync and idle, then holds them against each other.
    ///
    /// # Panics
    /// They do not come to that within a minute, or differ.
    pub fn assert_converges(&mut self) {
        let is_idle = self.run_until(Span::from_millis(60_000), Self::is_idle);
        if !is_idle {
            panic!("violation: no agreement within a minute\n{}", self.summaries());
        }
        self.watch.compare(&self.nodes);
        for nodes in self.nodes.windows(2) {
            convergence::assert_equal(&nodes[0], &nodes[1]);
        }
    }

    /// Reads the whole volume from a Primary and holds it against what was acknowledged.
    ///
    /// # Panics
    /// A part is not answered, or is not what it must be.
    pub fn read_everything(&mut self, node: NodeId) {
        let piece = 1 << 20;
        for offset in (0..self.options.volume_bytes).step_by(piece) {
            let length = u64::try_from(piece).expect("64 bits");
            self.ask_now(node, Ask::Read(ByteRange::new(offset, length)));
        }
    }

    /// Whether a node gave a notice of this name.
    #[must_use]
    pub fn has_noticed(&self, node: NodeId, name: &str) -> bool {
        self.notices.iter().any(|(from, notice, _)| *from == node && *notice == name)
    }
}

/// The other one of two replicas.
#[must_use]
pub fn other(node: NodeId) -> NodeId {
    if node == ALPHA { BETA } else { ALPHA }
}

/// The most telling parts of a status, in a few lines.
#[must_use]
pub fn summary(status: &StatusReport) -> String {
    let (connection, marks) = (&status.connections[0], &status.lsn);
    let peer = &connection.peer_devices[0];
    format!(
        "{} {} {} {:?}/{:?} peer {} rule {:?} reason {:?}\n  {marks:?}\n  acknowledged {} flushed {} behind {} KiB congested {} bits {}\n  term {} version {} in sync {:?} ring {:?} waiting {} io {} frozen {:?}",
        status.node_name,
        status.role,
        status.devices[0].disk_state,
        connection.connection_state,
        peer.replication_state,
        peer.peer_disk_state,
        connection.rule,
        connection.reason,
        peer.acknowledged,
        peer.flushed,
        peer.out_of_sync,
        connection.congested,
        peer.has_dirty_bits,
        status.term,
        status.record_version,
        status.in_sync.iter().map(|member| member.name.as_str()).collect::<Vec<_>>(),
        status.journal,
        status.devices[0].upper_pending,
        status.devices[0].lower_pending,
        status.frozen,
    )
}
