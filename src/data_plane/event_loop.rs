//! The loop of the data plane: waits, takes everything that is done, tells the replica, carries out its orders.
//!
//! One round is one system call to the ring, and one for each connection that has something to send. All that came
//! together is told to the replica before it is asked what follows, so that requests that arrive together are
//! journaled, sent and flushed together. No locks; commands of the control plane wake the loop by an eventfd.

mod effects;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::{Duration, Instant};

use nbd_server::{Access, Negotiated};
use replicator::effect::{Answer, Effects};
use replicator::event::{Event, LinkId, LinkLoss, Order, OrderId};
use replicator::status_report::StatusReport;
use replicator::units::{NodeId, Span, Tick, VoterId};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};
use tracing::{debug, warn};

use crate::border::{FromDataPlane, ToDataPlane};
use crate::clock;
use crate::data_plane::backing_device::BackingDevice;
use crate::data_plane::busy_poll::BusyPoll;
use crate::data_plane::continuity::{Continuity, ContinuityError};
use crate::data_plane::core::Core;
use crate::data_plane::memory_budget::MemoryBudget;
use crate::data_plane::nbd_connection::NbdConnection;
use crate::data_plane::peer_connection::PeerConnection;
use crate::data_plane::rescue_writer::RescueWriter;
use crate::data_plane::ring::{Completion, Look, Operation, Outcome};
use crate::data_plane::round::{ClientId, Round, Tag};

/// Shortest sleep, so that a deadline that cannot be met is no busy loop.
const SLEEP_MIN: Duration = Duration::from_micros(100);
/// Time in which the last frames and replies may leave after an order to stop was answered.
const LAST_WORDS_LIMIT: Duration = Duration::from_secs(1);

/// Why the loop cannot go on.
#[derive(Debug, Error)]
pub enum LoopError {
    /// The ring is broken.
    #[error("io_uring failed: {0}")]
    Ring(std::io::Error),
    /// A later run could take an old mark for proof.
    #[error(transparent)]
    Continuity(#[from] ContinuityError),
    /// Nobody is left who could give an order.
    #[error("the control plane is gone")]
    ControlPlaneGone,
}

/// What a loop is made of.
pub struct Parts<C> {
    /// Name of the resource, for log lines.
    pub resource: String,
    /// How long to look for completions before each sleep, while they follow one another closely.
    pub busy_poll: Span,
    /// Who decides.
    pub core: C,
    /// The disks.
    pub disks: BackingDevice,
    /// Where marks are published.
    pub continuity: Continuity,
    /// Commands.
    pub from_control: Receiver<ToDataPlane>,
    /// Added to after each command.
    pub counter: Arc<OwnedFd>,
    /// Writes what is discarded into files.
    pub rescue: RescueWriter,
    /// What the control plane hears.
    pub to_control: mpsc::UnboundedSender<FromDataPlane>,
}

/// How long the loop goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    /// Until somebody orders a stop.
    Running,
    /// This order to stop is being carried out.
    Stopping(OrderId),
    /// It is carried out.
    Stopped,
}

/// The loop.
pub struct EventLoop<C> {
    parts: Parts<C>,
    round: Round,
    effects: Effects,
    /// Answers to operators; they leave when the other effects of their round are carried out.
    answers: Vec<(OrderId, Answer)>,
    /// Who asked for the status; answered when everything that was told before has been taken in.
    questions: Vec<oneshot::Sender<Box<StatusReport>>>,
    clients: BTreeMap<ClientId, NbdConnection>,
    /// Clients with something to send or to decode.
    touched: Vec<ClientId>,
    last_client: u64,
    /// What clients may do here, if they are served at all.
    serves: Option<Access>,
    budget: MemoryBudget,
    peers: BTreeMap<NodeId, PeerConnection>,
    last_link: u64,
    orders: BTreeMap<OrderId, oneshot::Sender<Answer>>,
    last_order: u64,
    life: Life,
    busy_poll: BusyPoll,
}

impl<C: Core> EventLoop<C> {
    /// A loop for the calling thread.
    ///
    /// # Errors
    /// There is no `io_uring`.
    pub fn new(parts: Parts<C>) -> Result<Self, LoopError> {
        let mut round = Round::new().map_err(LoopError::Ring)?;
        round.ring.submit(Tag::Wake, Operation::WaitForWake { counter: parts.counter.clone() });
        let busy_poll = BusyPoll::new(Duration::from_micros(parts.busy_poll.0));
        Ok(Self {
            parts,
            round,
            effects: Effects::default(),
            answers: Vec::new(),
            questions: Vec::new(),
            clients: BTreeMap::new(),
            touched: Vec::new(),
            last_client: 0,
            serves: None,
            budget: MemoryBudget::default(),
            peers: BTreeMap::new(),
            last_link: 0,
            orders: BTreeMap::new(),
            last_order: 0,
            life: Life::Running,
            busy_poll,
        })
    }

    /// Runs until an order to stop is carried out.
    ///
    /// # Errors
    /// The loop cannot go on.
    pub fn run(mut self) -> Result<(), LoopError> {
        let mut completions = Vec::new();
        self.settle(clock::now())?;
        while self.life != Life::Stopped {
            self.run_once(&mut completions)?;
        }
        self.say_last_words(&mut completions)
    }

    /// One round: waits until something is done or due, and lets everything follow.
    fn run_once(&mut self, completions: &mut Vec<Completion<Tag>>) -> Result<(), LoopError> {
        let now = self.wait().map_err(LoopError::Ring)?;
        self.round.ring.collect(completions);
        for completion in completions.drain(..) {
            self.on_completion(completion, now)?;
        }
        for (id, client) in &self.clients {
            if client.deadline(&self.budget).is_some_and(|deadline| deadline <= now) {
                self.touched.push(*id);
            }
        }
        // A reply that the kernel took is often all that happened; nothing follows from it.
        let is_due = self.parts.core.next_wakeup().is_some_and(|due| due <= now);
        let nobody_waits =
            self.touched.is_empty() && self.questions.is_empty() && self.budget.next_in_line().is_none();
        if self.round.events.is_empty() && nobody_waits && !is_due {
            return Ok(());
        }
        self.settle(now)
    }

    /// Waits until something is done or due: awake while it is expected soon, then asleep. Returns the time it is.
    fn wait(&mut self) -> std::io::Result<Tick> {
        let begun = clock::now();
        let window = self.busy_poll.window(begun);
        if !window.is_zero() && self.round.ring.look(window)? == Look::Crowded {
            self.busy_poll.on_crowded(begun);
        }
        self.round.ring.enter(self.time_to_sleep(clock::now()))?;
        let ended = clock::now();
        self.busy_poll.on_waited(Duration::from_micros(ended.since(begun).0));
        Ok(ended)
    }

    /// Tells the replica everything, and carries out what it orders, until nothing more follows.
    fn settle(&mut self, now: Tick) -> Result<(), LoopError> {
        loop {
            while let Some(event) = self.round.events.pop_front() {
                self.forget_lost_link(&event);
                self.parts.core.handle(now, event, &mut self.effects);
            }
            self.parts.core.handle(now, Event::TimePassed, &mut self.effects);
            self.parts.continuity.publish(self.parts.core.continuity_mark())?;
            let mut effects = std::mem::take(&mut self.effects);
            for effect in effects.drain() {
                self.execute(effect, now);
            }
            // Whoever hears that a node is Primary may connect at once: the control plane hears of the export first.
            for (order, answer) in std::mem::take(&mut self.answers) {
                self.answer(order, answer);
            }
            self.effects = effects;
            self.advance_connections(now);
            if self.round.events.is_empty() {
                self.answer_questions(now);
                return Ok(());
            }
        }
    }

    fn answer_questions(&mut self, now: Tick) {
        for question in self.questions.drain(..) {
            // Whoever asked may have given up; nobody is left to be told then.
            let _ = question.send(Box::new(self.parts.core.status(now)));
        }
    }

    /// Lets clients and peers send what is queued, and take what there is room for.
    fn advance_connections(&mut self, now: Tick) {
        for peer in self.peers.values_mut() {
            peer.advance(&mut self.round);
        }
        // Memory that became free is for whoever has waited longest.
        let mut was_next = None;
        loop {
            while let Some(id) = self.touched.pop() {
                if let Some(client) = self.clients.get_mut(&id) {
                    client.advance(&mut self.round, &mut self.budget, now);
                }
                self.forget_closed_client(id);
            }
            match self.budget.next_in_line() {
                Some(next) if was_next != Some(next) => {
                    was_next = Some(next);
                    self.touched.push(next);
                }
                Some(_) | None => return,
            }
        }
    }

    fn on_completion(&mut self, completion: Completion<Tag>, now: Tick) -> Result<(), LoopError> {
        let Completion { tag, outcome } = completion;
        match tag {
            Tag::Disk(tag) => self.parts.disks.on_completion(&mut self.round, tag, outcome),
            // The completions of a connection that is over come late and mean nothing.
            Tag::ClientReceive(id) => {
                if let Some(client) = self.clients.get_mut(&id) {
                    client.on_received(&mut self.round, &mut self.budget, now, outcome);
                    self.forget_closed_client(id);
                }
            }
            Tag::ClientSend(id) => {
                if let Some(client) = self.clients.get_mut(&id) {
                    client.on_sent(&mut self.round, &mut self.budget, now, outcome);
                    self.forget_closed_client(id);
                }
            }
            Tag::PeerReceive(peer, link) => {
                if let Some(connection) = self.peer(peer, link) {
                    connection.0.on_received(connection.1, outcome);
                }
            }
            Tag::PeerSend(peer, link) => {
                if let Some(connection) = self.peer(peer, link) {
                    connection.0.on_sent(connection.1, outcome);
                }
            }
            Tag::Wake => {
                if let Outcome::Failed(errno) = outcome {
                    return Err(LoopError::Ring(errno.into()));
                }
                let counter = self.parts.counter.clone();
                self.round.ring.submit(Tag::Wake, Operation::WaitForWake { counter });
                self.round.events.extend(self.parts.rescue.outcomes());
                self.take_commands(now)?;
            }
        }
        Ok(())
    }

    fn take_commands(&mut self, now: Tick) -> Result<(), LoopError> {
        loop {
            match self.parts.from_control.try_recv() {
                Ok(ToDataPlane::NbdClient { socket, negotiated }) => {
                    self.add_client(socket, &negotiated, now)
                }
                Ok(ToDataPlane::PeerLink { peer, socket, voter }) => self.add_link(peer, socket, voter),
                Ok(ToDataPlane::PeerUnreachable { peer, reason }) => {
                    self.round.events.push_back(Event::PeerUnreachable { peer, reason });
                }
                Ok(ToDataPlane::FenceEnded { run, end }) => {
                    self.round.events.push_back(Event::FenceCommandEnded { run, end });
                }
                Ok(ToDataPlane::Order { what, answer }) => self.add_order(what, answer),
                Ok(ToDataPlane::Status { answer }) => self.questions.push(answer),
                Err(TryRecvError::Empty) => return Ok(()),
                Err(TryRecvError::Disconnected) => return Err(LoopError::ControlPlaneGone),
            }
        }
    }

    fn add_client(&mut self, socket: OwnedFd, negotiated: &Negotiated, now: Tick) {
        self.last_client += 1;
        let id = ClientId(self.last_client);
        let mut client = match NbdConnection::new(id, socket, negotiated, now) {
            Ok(client) => client,
            Err(error) => return warn!(resource = self.parts.resource, "client refused: {error}"),
        };
        if self.serves != Some(negotiated.export.access) {
            // The role changed while the client negotiated: it must not see data that may be old, nor take the volume
            // for something that it may only read.
            client.end(now);
        }
        self.clients.insert(id, client);
        self.touched.push(id);
        self.count_clients();
    }

    fn add_link(&mut self, peer: NodeId, socket: OwnedFd, voter: VoterId) {
        if let Some(older) = self.peers.get_mut(&peer) {
            older.end(&mut self.round, LinkLoss::Dropped);
        }
        self.last_link += 1;
        let link = LinkId(self.last_link);
        self.peers.insert(peer, PeerConnection::new(peer, link, socket));
        self.round.events.push_back(Event::PeerConnected { peer, link, voter });
    }

    fn add_order(&mut self, what: Order, answer: oneshot::Sender<Answer>) {
        self.last_order += 1;
        let order = OrderId(self.last_order);
        if what == Order::Stop && self.life == Life::Running {
            self.life = Life::Stopping(order);
        }
        self.orders.insert(order, answer);
        self.round.events.push_back(Event::OperatorAsked { order, what });
    }

    /// The connection of this very link, and the round to work in.
    fn peer(&mut self, peer: NodeId, link: LinkId) -> Option<(&mut PeerConnection, &mut Round)> {
        let connection = self.peers.get_mut(&peer).filter(|connection| connection.link() == link)?;
        Some((connection, &mut self.round))
    }

    /// A link that was lost makes room for the next one; one that has been replaced already does not.
    fn forget_lost_link(&mut self, event: &Event) {
        if let Event::PeerLost { peer, link, reason } = event
            && self.peers.get(peer).is_some_and(|connection| connection.link() == *link)
        {
            debug!(resource = self.parts.resource, peer = peer.0, "link lost: {reason}");
            self.peers.remove(peer);
            self.tell(FromDataPlane::PeerLost { peer: *peer });
        }
    }

    fn forget_closed_client(&mut self, id: ClientId) {
        if self.clients.get(&id).is_some_and(NbdConnection::is_closed) {
            self.clients.remove(&id);
            self.count_clients();
        }
    }

    fn count_clients(&mut self) {
        self.round.events.push_back(Event::ClientsCounted { clients: self.clients.len() });
    }

    fn tell(&self, what: FromDataPlane) {
        // A control plane that has ended needs to hear nothing.
        let _ = self.parts.to_control.send(what);
    }

    /// How long nothing is due; for ever if nothing is.
    fn time_to_sleep(&self, now: Tick) -> Option<Duration> {
        let clients = self.clients.values().filter_map(|client| client.deadline(&self.budget));
        let due = clients.chain(self.parts.core.next_wakeup()).min()?;
        Some(Duration::from_micros(due.since(now).0).max(SLEEP_MIN))
    }

    /// Lets the last frames and replies leave, but does not wait long for anybody.
    fn say_last_words(&mut self, completions: &mut Vec<Completion<Tag>>) -> Result<(), LoopError> {
        let begun = Instant::now();
        let mut has_unsent = true;
        while has_unsent && begun.elapsed() < LAST_WORDS_LIMIT {
            self.round.ring.enter(Some(Duration::from_millis(10))).map_err(LoopError::Ring)?;
            self.round.ring.collect(completions);
            for completion in completions.drain(..) {
                let is_send = matches!(completion.tag, Tag::ClientSend(_) | Tag::PeerSend(..));
                if is_send {
                    self.on_completion(completion, clock::now())?;
                }
            }
            let peers = self.peers.values().any(PeerConnection::has_unsent);
            has_unsent = peers || self.clients.values().any(NbdConnection::has_unsent);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
