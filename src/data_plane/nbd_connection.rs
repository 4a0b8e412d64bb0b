//! The transmission phase of one NBD client: takes requests off its socket as fast as they are answered, and sends
//! the answers in the order in which they come.
//!
//! Bounded in everything that a client can make it hold: requests, bytes, unsent replies, and the time for which it
//! may leave replies lying. Whatever is over a bound waits on the client's side of the socket. What requests mean is
//! the replica's business; what bytes mean is `nbd_server`'s.

mod translate;

use std::os::fd::OwnedFd;
use std::sync::Arc;

use bytes::Bytes;
use nbd_server::{Command, Decoded, Failure, Negotiated, ReplyEncoder, ReplyTo, Request, Session};
use replicator::effect::Completion;
use replicator::event::Event;
use replicator::units::{RequestId, Span, Tick, bytes_u64};
use rustix::net::Shutdown;
use tracing::debug;

use crate::data_plane::inflow::{Inflow, TooEarly};
use crate::data_plane::memory_budget::MemoryBudget;
use crate::data_plane::outflow::Outflow;
use crate::data_plane::ring::{Operation, Outcome};
use crate::data_plane::round::{ClientId, Round, Tag};
use crate::data_plane::send_now::send_now;

/// Most requests of a connection that are not answered, the answer sent.
pub const REQUESTS_MAX: usize = 128;
/// Time in which a client has to take [`PROGRESS_BYTES`] of its replies, or all of them, lest it be cut off. The same
/// holds for a payload that it sends while others wait for the memory.
pub const STALL_LIMIT: Span = Span::from_millis(30_000);
/// What counts as progress: a client that moves a byte now and then would hold its memory for ever.
const PROGRESS_BYTES: u64 = 256 << 10;
/// Time in which a client that was told to go may read its last replies.
const FAREWELL_LIMIT: Span = Span::from_millis(2_000);
/// Bytes of the staging buffer.
const STAGING_BYTES: usize = 64 << 10;
/// Bytes of a short receive: several headers.
const SHORT_RECEIVE_BYTES: usize = 512;
/// Bits of a [`RequestId`] that number the request within its connection.
const SLOT_BITS: u32 = 16;

const _: () = assert!(REQUESTS_MAX <= 1 << SLOT_BITS);

/// Whether bytes move fast enough in one direction.
#[derive(Clone, Copy, Debug)]
struct Pace {
    since: Tick,
    moved: u64,
}

impl Pace {
    fn begun(now: Tick) -> Self {
        Self { since: now, moved: 0 }
    }

    fn note(&mut self, bytes: usize, now: Tick) {
        self.moved += bytes_u64(bytes);
        if self.moved >= PROGRESS_BYTES {
            *self = Self::begun(now);
        }
    }

    fn deadline(self) -> Tick {
        self.since.plus(STALL_LIMIT)
    }
}

/// How far a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Requests are taken.
    Serving,
    /// The client said that it is done: no more requests are taken, and it ends when every reply is out.
    Finishing,
    /// The node no longer serves: requests are taken and refused, and it ends when every reply is out.
    ShuttingDown { until: Tick },
    /// Every reply is out and the client is told so; what it still sends is thrown away until it leaves.
    Farewell { until: Tick },
    /// Over: to be forgotten.
    Closed,
}

/// A request that the replica works on.
#[derive(Clone, Copy, Debug)]
struct Executing {
    request: Request,
    /// Bytes of the budget that it holds.
    held: u64,
}

/// A decoded request that is not with the replica yet.
#[derive(Clone, Copy, Debug)]
enum Arriving {
    /// It waits for room in the budget.
    WithoutRoom(Request, u32),
    /// It waits for its payload, `held` bytes of the budget in hand.
    InPart(Request, u64),
    /// It is refused; its payload is being thrown away, then this is answered.
    Refused(ReplyTo, Failure),
}

/// One client.
#[derive(Debug)]
pub struct NbdConnection {
    id: ClientId,
    socket: Arc<OwnedFd>,
    session: Session,
    replies: ReplyEncoder,
    inflow: Inflow,
    outflow: Outflow,
    phase: Phase,
    arriving: Option<Arriving>,
    executing: Vec<Option<Executing>>,
    executing_count: usize,
    /// Bytes of the budget that this connection holds.
    held: u64,
    /// Header bytes that the decoder misses.
    needed: usize,
    is_receiving: bool,
    /// How fast the client takes its replies.
    taking: Pace,
    /// How fast it sends a payload.
    giving: Pace,
}

impl NbdConnection {
    /// A connection that has just finished negotiation.
    ///
    /// # Errors
    /// The client sent more before the transmission phase began than may lie here.
    pub fn new(id: ClientId, socket: OwnedFd, negotiated: &Negotiated, now: Tick) -> Result<Self, TooEarly> {
        let session = Session::new(negotiated);
        let replies = session.replies();
        let mut inflow = Inflow::new(STAGING_BYTES, SHORT_RECEIVE_BYTES);
        inflow.prepend(&negotiated.leftover)?;
        Ok(Self {
            id,
            socket: Arc::new(socket),
            session,
            replies,
            inflow,
            outflow: Outflow::default(),
            phase: Phase::Serving,
            arriving: None,
            executing: Vec::new(),
            executing_count: 0,
            held: 0,
            needed: 0,
            is_receiving: false,
            taking: Pace::begun(now),
            giving: Pace::begun(now),
        })
    }

    /// Whether this connection is over and only to be forgotten.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.phase == Phase::Closed
    }

    /// Whether replies are queued that the kernel has not taken.
    #[must_use]
    pub fn has_unsent(&self) -> bool {
        !self.is_closed() && !self.outflow.is_empty()
    }

    /// Which connection a request belongs to.
    #[must_use]
    pub fn client_of(id: RequestId) -> ClientId {
        ClientId(id.0 >> SLOT_BITS)
    }

    /// Takes what a receive brought.
    pub fn on_received(&mut self, round: &mut Round, budget: &mut MemoryBudget, now: Tick, outcome: Outcome) {
        self.is_receiving = false;
        match outcome {
            Outcome::Received { buffer, bytes } if bytes > 0 => {
                self.giving.note(bytes, now);
                self.inflow.on_received(buffer, bytes);
            }
            Outcome::Received { .. } | Outcome::Failed(_) => {
                return self.close(budget, "the client closed it");
            }
            other => panic!("a receive ended as {other:?}"),
        }
        self.advance(round, budget, now);
    }

    /// Takes what a send did.
    pub fn on_sent(&mut self, round: &mut Round, budget: &mut MemoryBudget, now: Tick, outcome: Outcome) {
        let (pieces, bytes) = match outcome {
            Outcome::Sent { pieces, bytes } => (pieces, bytes),
            Outcome::Failed(_) => return self.close(budget, "it takes no more replies"),
            other => panic!("a send ended as {other:?}"),
        };
        if self.is_closed() {
            return;
        }
        self.note_sent(round, budget, now, pieces, bytes);
        self.advance(round, budget, now);
    }

    /// Counts what the socket took; the ring sends the rest when there is room again.
    fn note_sent(
        &mut self,
        round: &mut Round,
        budget: &mut MemoryBudget,
        now: Tick,
        pieces: Vec<Bytes>,
        bytes: usize,
    ) {
        self.taking.note(bytes, now);
        let (sent, rest) = self.outflow.on_sent(pieces, bytes);
        self.held -= sent.weight;
        budget.release(sent.weight);
        if let Some(pieces) = rest {
            self.send_by_ring(round, pieces);
        }
    }

    fn send_by_ring(&self, round: &mut Round, pieces: Vec<Bytes>) {
        let operation = Operation::Send { socket: self.socket.clone(), pieces };
        round.ring.submit(Tag::ClientSend(self.id), operation);
    }

    /// Takes the replica's answer to a request, to be sent with the next [`Self::advance`]. An answer to a request
    /// that is no longer known is dropped.
    pub fn complete(&mut self, id: RequestId, outcome: Completion, now: Tick) {
        let slot = usize::try_from(id.0 & ((1 << SLOT_BITS) - 1)).expect("16 bits");
        let Some(executing) = self.executing.get_mut(slot).and_then(Option::take) else { return };
        self.executing_count -= 1;
        self.note_reply_queued(now);
        let Executing { request, held } = executing;
        let (replies, reply_to) = (self.replies, request.reply_to());
        match outcome {
            Completion::Done => self.outflow.push(|header| replies.done(reply_to, header), [], held),
            Completion::Bytes(pieces) => {
                let length: usize = pieces.iter().map(Bytes::len).sum();
                assert_eq!(
                    u64::try_from(length),
                    Ok(request.length),
                    "a read is answered with as much as it asked for"
                );
                self.outflow.push(|header| replies.read_header(&request, header), pieces, held);
            }
            Completion::Allocation(extents) => {
                let extents = translate::extents(&extents);
                self.outflow.push(|header| replies.block_status(&request, extents, header), [], held);
            }
            Completion::Failed(error) => {
                let failure = translate::failure(error);
                self.outflow.push(|header| replies.error(reply_to, failure, header), [], held);
            }
        }
    }

    /// Ends the connection because the node no longer serves: what is outstanding and what comes gets ESHUTDOWN.
    /// Takes effect with the next [`Self::advance`].
    pub fn end(&mut self, now: Tick) {
        self.session.shut_down();
        for slot in 0..self.executing.len() {
            if let Some(executing) = self.executing[slot].take() {
                self.executing_count -= 1;
                self.refuse(executing.request.reply_to(), Failure::ShuttingDown, executing.held, now);
            }
        }
        if self.phase == Phase::Serving {
            self.phase = Phase::ShuttingDown { until: now.plus(STALL_LIMIT) };
        }
    }

    /// When this connection wants to be looked at, whatever happens.
    #[must_use]
    pub fn deadline(&self, budget: &MemoryBudget) -> Option<Tick> {
        let taking = (!self.outflow.is_empty()).then(|| self.taking.deadline());
        // Nobody minded until somebody else waited.
        let others_wait = budget.waits_since().filter(|_| self.inflow.is_in_payload());
        let giving = others_wait.map(|since| self.giving.deadline().max(since.plus(STALL_LIMIT)));
        match self.phase {
            Phase::Serving | Phase::Finishing => taking.into_iter().chain(giving).min(),
            Phase::Closed => None,
            Phase::ShuttingDown { until } | Phase::Farewell { until } => Some(until),
        }
    }

    /// Does whatever can be done now: decodes, receives, sends, closes.
    pub fn advance(&mut self, round: &mut Round, budget: &mut MemoryBudget, now: Tick) {
        if self.deadline(budget).is_some_and(|deadline| deadline <= now) {
            return self.close(budget, "the client does not move on");
        }
        self.decode(round, budget, now);
        while !self.is_closed()
            && let Some(pieces) = self.outflow.next_send()
        {
            if matches!(self.phase, Phase::ShuttingDown { .. }) {
                // By way of the ring: a request that it has received already is seen, and refused, before the end.
                self.send_by_ring(round, pieces);
                break;
            }
            match send_now(&self.socket, &pieces) {
                Ok(bytes) => self.note_sent(round, budget, now, pieces, bytes),
                Err(_) => return self.close(budget, "it takes no more replies"),
            }
            // Replies that are out make room for requests that have arrived already.
            self.decode(round, budget, now);
        }
        if self.has_said_everything() {
            // Closing at once would make TCP drop replies that the client has not read yet.
            let _ = rustix::net::shutdown(&*self.socket, Shutdown::Write);
            self.phase = Phase::Farewell { until: now.plus(FAREWELL_LIMIT) };
            self.inflow.begin_unwanted(u64::MAX);
        }
        self.receive(round);
    }

    /// Whether nothing more will be sent.
    fn has_said_everything(&self) -> bool {
        match self.phase {
            Phase::Finishing => self.has_answered_everything(),
            // A request that is here in part gets its answer too.
            Phase::ShuttingDown { .. } => self.has_answered_everything() && !self.inflow.holds_bytes(),
            Phase::Serving | Phase::Farewell { .. } | Phase::Closed => false,
        }
    }

    fn has_answered_everything(&self) -> bool {
        self.executing_count == 0 && self.outflow.is_empty() && self.arriving.is_none()
    }

    /// Whether requests are taken off the stream, be it to refuse them.
    fn takes_requests(&self) -> bool {
        match self.phase {
            Phase::Serving | Phase::ShuttingDown { .. } => true,
            Phase::Finishing | Phase::Farewell { .. } | Phase::Closed => false,
        }
    }

    /// Cuts the connection. What the replica still works on is answered to nobody, and keeps its bytes until then.
    fn close(&mut self, budget: &mut MemoryBudget, why: &str) {
        if self.is_closed() {
            return;
        }
        debug!(client = self.id.0, "client connection ends: {why}");
        self.phase = Phase::Closed;
        // Ends what the ring is doing on the socket; its memory comes back with the completions.
        let _ = rustix::net::shutdown(&*self.socket, Shutdown::Both);
        budget.leave_line(self.id);
        for slot in 0..self.executing.len() {
            if let Some(Executing { held, .. }) = self.executing[slot].take() {
                self.held -= held;
                budget.leave_behind(self.request_id(slot), held);
            }
        }
        budget.release(std::mem::take(&mut self.held));
    }

    /// Takes requests off the staged bytes until more bytes, memory or replies are needed.
    fn decode(&mut self, round: &mut Round, budget: &mut MemoryBudget, now: Tick) {
        while self.takes_requests() && !self.is_full() {
            let is_stuck = match self.arriving.take() {
                Some(Arriving::WithoutRoom(request, payload)) => {
                    !self.admit(round, budget, request, payload, now)
                }
                Some(Arriving::InPart(request, held)) => match self.inflow.take_payload() {
                    Some(payload) => {
                        self.execute(round, request, payload, held, now);
                        false
                    }
                    None => {
                        self.arriving = Some(Arriving::InPart(request, held));
                        true
                    }
                },
                Some(Arriving::Refused(reply_to, failure)) if self.inflow.is_at_header() => {
                    self.refuse(reply_to, failure, 0, now);
                    false
                }
                Some(waiting @ Arriving::Refused(..)) => {
                    self.arriving = Some(waiting);
                    true
                }
                None => !self.decode_header(budget),
            };
            if is_stuck {
                break;
            }
        }
    }

    /// Decodes one header; false if there is none.
    fn decode_header(&mut self, budget: &mut MemoryBudget) -> bool {
        match self.session.decode(self.inflow.bytes()) {
            Decoded::NeedBytes(needed) => {
                self.needed = needed;
                return false;
            }
            Decoded::Request { consumed, request, payload_bytes } => {
                self.inflow.consume(consumed);
                self.arriving = Some(Arriving::WithoutRoom(request, payload_bytes));
            }
            Decoded::Refused { consumed, drain_bytes, reply_to, refusal } => {
                self.inflow.consume(consumed);
                self.inflow.begin_unwanted(u64::from(drain_bytes));
                self.arriving = Some(Arriving::Refused(reply_to, refusal.failure()));
            }
            Decoded::Disconnect { consumed } => {
                self.inflow.consume(consumed);
                self.phase = Phase::Finishing;
            }
            Decoded::Broken(violation) => {
                self.close(budget, &violation.to_string());
                return false;
            }
        }
        self.needed = 0;
        true
    }

    /// Lets a decoded request in if the budget has room for it; false if it has to wait.
    fn admit(
        &mut self,
        round: &mut Round,
        budget: &mut MemoryBudget,
        request: Request,
        payload_bytes: u32,
        now: Tick,
    ) -> bool {
        if self.phase != Phase::Serving {
            // It is refused whatever it brings, and needs no memory for that.
            budget.leave_line(self.id);
            self.inflow.begin_unwanted(u64::from(payload_bytes));
            self.arriving = Some(Arriving::Refused(request.reply_to(), Failure::ShuttingDown));
            return true;
        }
        let held = translate::bytes_in_memory(&request);
        if !budget.try_reserve(self.id, self.held, held, now) {
            self.arriving = Some(Arriving::WithoutRoom(request, payload_bytes));
            return false;
        }
        self.held += held;
        if payload_bytes > 0 {
            self.giving = Pace::begun(now);
            self.inflow.begin_payload(usize::try_from(payload_bytes).expect("usize has 64 bits"));
            self.arriving = Some(Arriving::InPart(request, held));
        } else if translate::is_done_by_itself(&request) {
            self.note_reply_queued(now);
            let replies = self.replies;
            match request.command {
                Command::Read { .. } => {
                    self.outflow.push(|header| replies.read_header(&request, header), [], held)
                }
                Command::Write
                | Command::Flush
                | Command::Trim
                | Command::WriteZeroes { .. }
                | Command::Cache
                | Command::BlockStatus { .. } => {
                    self.outflow.push(|header| replies.done(request.reply_to(), header), [], held);
                }
            }
        } else {
            self.execute(round, request, Bytes::new(), held, now);
        }
        true
    }

    /// Hands a request to the replica, unless that serves no longer.
    fn execute(&mut self, round: &mut Round, request: Request, payload: Bytes, held: u64, now: Tick) {
        if self.phase != Phase::Serving {
            return self.refuse(request.reply_to(), Failure::ShuttingDown, held, now);
        }
        let slot = self.executing.iter().position(Option::is_none).unwrap_or_else(|| {
            self.executing.push(None);
            self.executing.len() - 1
        });
        assert!(slot < REQUESTS_MAX, "decode() bounds the requests");
        self.executing[slot] = Some(Executing { request, held });
        self.executing_count += 1;
        let id = self.request_id(slot);
        round.events.push_back(Event::RequestReceived { id, request: translate::request(&request, payload) });
    }

    fn request_id(&self, slot: usize) -> RequestId {
        RequestId(self.id.0 << SLOT_BITS | bytes_u64(slot))
    }

    fn refuse(&mut self, reply_to: ReplyTo, failure: Failure, held: u64, now: Tick) {
        self.note_reply_queued(now);
        let replies = self.replies;
        self.outflow.push(|header| replies.error(reply_to, failure, header), [], held);
    }

    /// The time for which a client may leave replies lying begins with the first of them.
    fn note_reply_queued(&mut self, now: Tick) {
        if self.outflow.is_empty() {
            self.taking = Pace::begun(now);
        }
    }

    /// Receives, if what arrives has a place to go.
    fn receive(&mut self, round: &mut Round) {
        let wants_bytes = match (self.phase, self.arriving) {
            (Phase::Closed | Phase::Finishing, _) => false,
            (Phase::Farewell { .. }, _) => true,
            (Phase::Serving | Phase::ShuttingDown { .. }, Some(Arriving::WithoutRoom(..))) => false,
            (Phase::Serving | Phase::ShuttingDown { .. }, Some(_) | None) => !self.is_full(),
        };
        if wants_bytes && !self.is_receiving {
            self.is_receiving = true;
            let (buffer, into) = self.inflow.next_receive(self.needed);
            let operation = Operation::Receive { socket: self.socket.clone(), buffer, into };
            round.ring.submit(Tag::ClientReceive(self.id), operation);
        }
    }

    fn is_full(&self) -> bool {
        self.executing_count + self.outflow.messages() >= REQUESTS_MAX
    }
}

#[cfg(test)]
mod tests;
