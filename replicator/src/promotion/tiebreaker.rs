//! The tiebreaker: a vote without data. Facts in, orders out, like a replica, and tiny.
//!
//! Rule: whatever it has agreed to is in both copies of its file and flushed before anybody hears of it.
//! While a store is under way it echoes clocks and takes no other decision: questions wait, in order, and
//! only a bounded number of them. It never asks for anything and never tells anybody what to do.

mod replaced;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};

use crate::event::LinkId;
use crate::generation::lineage::Position;
use crate::peer::codec::MessageError;
use crate::peer::frame::{FrameStamp, OutboundFrame, ReceivedFrame};
use crate::peer::message::{Denial, Message, VoteReply, VoteRequest, VoteStage};
use crate::peer::message_type::MessageType;
use crate::promotion::membership::MembershipRecord;
use crate::promotion::seats;
use crate::promotion::tiebreaker_file::TiebreakerState;
use crate::promotion::voting::{
    Reign, SeenPrimary, StoreDenial, Voter, VoterView, may_grant, may_replace, may_store,
};
use crate::state::{DiskState, Role};
use crate::units::{BLOCK_SIZE, Incarnation, Lsn, NodeId, REPLICAS_MAX, Span, Term, Tick, VoterId};

/// Most questions that wait for a store; a peer that asks more loses its link.
pub const QUESTIONS_MAX: usize = 32;

/// What a tiebreaker is told before it starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TiebreakerConfig {
    /// Number of replicas.
    pub replicas: usize,
    /// Time between two frames of an idle link.
    pub heartbeat: Span,
    /// Silence after which a link counts as lost; the lease of a Primary.
    pub peer_timeout: Span,
}

/// A fact that a tiebreaker is told.
#[derive(Clone, Debug)]
pub enum TiebreakerEvent {
    /// The daemon has started. Comes first, once.
    Started,
    /// Time has passed; nothing else.
    TimePassed,
    /// An authenticated link to a replica exists. It replaces an older one.
    LinkUp {
        /// Which replica.
        peer: NodeId,
        /// Its link.
        link: LinkId,
        /// The random identity that it proved to have.
        voter: VoterId,
    },
    /// A frame arrived whole.
    FrameReceived {
        /// From whom.
        peer: NodeId,
        /// On which link.
        link: LinkId,
        /// The frame.
        frame: ReceivedFrame,
    },
    /// A link ended.
    LinkLost {
        /// Whose.
        peer: NodeId,
        /// Which.
        link: LinkId,
    },
    /// The page of the newest `StoreRecord` is in both copies, flushed.
    RecordDurable,
}

/// An order of a tiebreaker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TiebreakerEffect {
    /// Write the page to the first copy, flush, write it to the second, flush. Answer: `RecordDurable`.
    /// There is never more than one under way. A failure ends the process: it must not vote any more.
    StoreRecord {
        /// The page.
        page: Box<[u8; BLOCK_SIZE]>,
    },
    /// Send a frame.
    Send {
        /// To whom.
        peer: NodeId,
        /// On which link.
        link: LinkId,
        /// The frame.
        frame: OutboundFrame,
    },
    /// End a link. No `LinkLost` is expected for it.
    DropLink {
        /// Whose.
        peer: NodeId,
        /// Which.
        link: LinkId,
        /// Why, for the log.
        reason: DropReason,
    },
}

/// Why a tiebreaker ends a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DropReason {
    /// No replica of this configuration.
    #[error("{0} is no replica of this resource")]
    NoReplica(NodeId),
    /// A voter that was replaced: another one has its place.
    #[error("it answers as voter {found}, but {known} has its place")]
    UnknownVoter {
        /// By its own word.
        found: VoterId,
        /// By the tiebreaker's memory.
        known: VoterId,
    },
    /// A frame without a message.
    #[error(transparent)]
    BadMessage(#[from] MessageError),
    /// A message that nobody sends to a tiebreaker.
    #[error("a {0} message is nothing for a tiebreaker")]
    NotForTiebreakers(MessageType),
    /// A candidate that asks for another.
    #[error("it asked for a vote for {0}")]
    AsksForAnother(NodeId),
    /// More questions than may wait.
    #[error("more than {QUESTIONS_MAX} questions wait for an answer")]
    TooManyQuestions,
    /// Nothing was heard for a whole timeout.
    #[error("nothing was heard for {0}")]
    Silent(Span),
}

/// What is known of a linked replica.
#[derive(Debug)]
struct Link {
    link: LinkId,
    /// The identity that it has proved to have.
    voter: VoterId,
    /// Whether it has shown that it never stored a record.
    is_new: bool,
    /// The newest clock value received on this link.
    echo: Tick,
    heard: Tick,
    sent: Tick,
    /// What it last said of itself, and the term of the record that it had stored then.
    role: Role,
    term: Term,
    /// The run that it introduced itself as, if as Secondary.
    secondary_run: Option<Incarnation>,
}

/// Something to decide once no store is under way.
#[derive(Debug)]
enum Question {
    /// A new link: what is stored?
    Introduction,
    /// A candidate asks.
    Vote(Box<VoteRequest>),
    /// A Primary tells.
    Update(Box<MembershipRecord>),
    /// Somebody passes on what a Primary told.
    PassedOn(Box<MembershipRecord>),
}

/// A question with the link that it came on.
#[derive(Debug)]
struct Waiting {
    peer: NodeId,
    link: LinkId,
    question: Question,
}

/// A store under way: what the file will say, and who hears what then.
#[derive(Debug)]
struct Store {
    state: TiebreakerState,
    answer: Option<(NodeId, LinkId, Message)>,
}

/// What a tiebreaker says to keep a link alive: it serves nobody and has no disk.
const HEARTBEAT: Message = Message::Heartbeat {
    role: Role::Secondary,
    disk: DiskState::Diskless,
    stable_up_to: Lsn::ZERO,
    flushed: [Lsn::ZERO; REPLICAS_MAX],
};

/// The third vote.
#[derive(Debug)]
pub struct Tiebreaker {
    config: TiebreakerConfig,
    /// What both copies of the file say.
    durable: TiebreakerState,
    store: Option<Store>,
    started: Option<Tick>,
    links: BTreeMap<NodeId, Link>,
    /// When the newest frame of each replica arrived in this run, whatever became of its link.
    last_frames: [Option<Tick>; REPLICAS_MAX],
    waiting: VecDeque<Waiting>,
}

impl Tiebreaker {
    /// A tiebreaker that remembers `state`. It must be told first that it has started.
    #[must_use]
    pub fn new(config: TiebreakerConfig, state: TiebreakerState) -> Self {
        assert!(config.replicas <= REPLICAS_MAX, "{} replicas are too many", config.replicas);
        assert_eq!(state.node.index(), config.replicas, "the tiebreaker's number follows the replicas'");
        Self {
            config,
            durable: state,
            store: None,
            started: None,
            links: BTreeMap::new(),
            last_frames: [None; REPLICAS_MAX],
            waiting: VecDeque::new(),
        }
    }

    /// The record that the tiebreaker has stored.
    #[must_use]
    pub fn record(&self) -> &MembershipRecord {
        &self.durable.record
    }

    /// When `TimePassed` is wanted at the latest, if nothing else happens.
    #[must_use]
    pub fn next_wake_up(&self) -> Option<Tick> {
        let wake_ups = self.links.values().map(|held| {
            let silent = held.heard.plus(self.config.peer_timeout);
            held.sent.plus(self.config.heartbeat).min(silent)
        });
        wake_ups.min()
    }

    /// Takes one fact; appends what must be done.
    pub fn handle(&mut self, now: Tick, event: TiebreakerEvent, effects: &mut Vec<TiebreakerEffect>) {
        match event {
            TiebreakerEvent::Started => {
                self.started = Some(now);
                // One copy may be torn or rotten: both say the same again before the first decision.
                self.start_store(self.durable.clone(), None, effects);
            }
            TiebreakerEvent::TimePassed => self.on_time_passed(now, effects),
            TiebreakerEvent::LinkUp { peer, link, voter } => self.on_link_up(now, peer, link, voter, effects),
            TiebreakerEvent::FrameReceived { peer, link, frame } if self.is_current(peer, link) => {
                self.on_frame(now, peer, &frame, effects);
            }
            TiebreakerEvent::LinkLost { peer, link } if self.is_current(peer, link) => self.forget_link(peer),
            // Of a link that was replaced or dropped.
            TiebreakerEvent::FrameReceived { .. } | TiebreakerEvent::LinkLost { .. } => (),
            TiebreakerEvent::RecordDurable => self.on_record_durable(now, effects),
        }
        self.answer_questions(now, effects);
    }

    fn is_current(&self, peer: NodeId, link: LinkId) -> bool {
        self.links.get(&peer).is_some_and(|held| held.link == link)
    }

    fn forget_link(&mut self, peer: NodeId) {
        self.links.remove(&peer);
        self.waiting.retain(|waiting| waiting.peer != peer);
    }

    fn drop_link(&mut self, peer: NodeId, reason: DropReason, effects: &mut Vec<TiebreakerEffect>) {
        let link = self.links[&peer].link;
        self.forget_link(peer);
        effects.push(TiebreakerEffect::DropLink { peer, link, reason });
    }

    fn on_time_passed(&mut self, now: Tick, effects: &mut Vec<TiebreakerEffect>) {
        let (timeout, heartbeat) = (self.config.peer_timeout, self.config.heartbeat);
        let peers: Vec<_> = self.links.keys().copied().collect();
        for peer in peers {
            let held = &self.links[&peer];
            if now.since(held.heard) >= timeout {
                self.drop_link(peer, DropReason::Silent(timeout), effects);
            } else if now.since(held.sent) >= heartbeat {
                self.send(now, peer, &HEARTBEAT, effects);
            }
        }
    }

    fn on_link_up(
        &mut self,
        now: Tick,
        peer: NodeId,
        link: LinkId,
        voter: VoterId,
        effects: &mut Vec<TiebreakerEffect>,
    ) {
        if peer.index() >= self.config.replicas {
            effects.push(TiebreakerEffect::DropLink { peer, link, reason: DropReason::NoReplica(peer) });
            return;
        }
        self.forget_link(peer);
        let (role, term, secondary_run) = (Role::Unknown, Term::ZERO, None);
        let (echo, heard, sent, is_new) = (Tick(0), now, now, false);
        let held = Link { link, voter, is_new, echo, heard, sent, role, term, secondary_run };
        self.links.insert(peer, held);
        self.ask(peer, Question::Introduction, effects);
    }

    fn on_frame(
        &mut self,
        now: Tick,
        peer: NodeId,
        frame: &ReceivedFrame,
        effects: &mut Vec<TiebreakerEffect>,
    ) {
        // What somebody new says does not make the lease of whoever had the seat before last longer.
        if self.has_seat(peer) {
            self.last_frames[peer.index()] = Some(now);
        }
        let held = self.links.get_mut(&peer).expect("the caller checked the link");
        held.heard = now;
        held.echo = held.echo.max(frame.stamp.clock);
        held.term = frame.stamp.term;
        match Message::parse(frame) {
            Ok(message) => self.on_message(now, peer, message, effects),
            Err(error) => self.drop_link(peer, error.into(), effects),
        }
    }

    fn on_message(&mut self, now: Tick, peer: NodeId, message: Message, effects: &mut Vec<TiebreakerEffect>) {
        let message_type = message.message_type();
        let held = self.links.get_mut(&peer).expect("the caller checked the link");
        match message {
            Message::State(state) => {
                held.role = state.role;
                held.is_new = state.record.is_empty();
                held.secondary_run = (state.role == Role::Secondary).then_some(state.incarnation);
                if self.is_left_behind(peer, &state.record) {
                    self.send_away(now, peer, effects);
                }
            }
            Message::Heartbeat { role, .. } => {
                held.role = role;
                if role == Role::Primary {
                    held.secondary_run = None; // It said so before it was promoted.
                }
                // A Primary's lease is as young as the echo it gets. Half a heartbeat apart, so that two
                // nodes that both answer do not keep each other busy.
                if now.since(held.sent).times(2) >= self.config.heartbeat {
                    self.send(now, peer, &HEARTBEAT, effects);
                }
            }
            Message::VoteRequest(request) if request.candidate != peer => {
                self.drop_link(peer, DropReason::AsksForAnother(request.candidate), effects);
            }
            Message::VoteRequest(request) => self.ask(peer, Question::Vote(request), effects),
            Message::RecordUpdate(record) => self.ask(peer, Question::Update(record), effects),
            Message::RecordPassedOn(record) => self.ask(peer, Question::PassedOn(record), effects),
            // The peer closes the link itself.
            Message::Farewell { reason: _ } => (),
            Message::Records(_)
            | Message::NewGeneration { .. }
            | Message::Progress(_)
            | Message::Flush { .. }
            | Message::CatchUpFrom { .. }
            | Message::DirtyRuns { .. }
            | Message::ResyncFrom { .. }
            | Message::Copies(_)
            | Message::CopiesFlushed { .. }
            | Message::ResyncEnd { .. }
            | Message::Compare(_)
            | Message::Compared(_)
            | Message::ReadBlocks(_)
            | Message::BlocksRead(_)
            | Message::SyncStatus { .. }
            | Message::VoteReply(_)
            | Message::RecordStored(_) => {
                self.drop_link(peer, DropReason::NotForTiebreakers(message_type), effects);
            }
        }
    }

    fn ask(&mut self, peer: NodeId, question: Question, effects: &mut Vec<TiebreakerEffect>) {
        if self.waiting.len() == QUESTIONS_MAX {
            self.drop_link(peer, DropReason::TooManyQuestions, effects);
            return;
        }
        let link = self.links[&peer].link;
        self.waiting.push_back(Waiting { peer, link, question });
    }

    /// Decides one question after the other, until one of them starts a store.
    fn answer_questions(&mut self, now: Tick, effects: &mut Vec<TiebreakerEffect>) {
        while self.store.is_none() {
            if self.meet_anew(effects) {
                return;
            }
            let Some(Waiting { peer, link, question }) = self.waiting.pop_front() else { return };
            assert!(self.is_current(peer, link), "questions go with their link");
            match question {
                Question::Introduction => self.on_introduction(now, peer, effects),
                Question::Vote(request) => self.on_vote_request(now, peer, &request, effects),
                Question::Update(record) => {
                    let may = may_store(&self.durable.record, self.as_voter(), &record, peer);
                    self.on_update(now, peer, &record, may, effects);
                }
                Question::PassedOn(record) => {
                    let may = may_replace(&self.durable.record, self.as_voter(), &record);
                    self.on_update(now, peer, &record, may, effects);
                }
            }
        }
    }

    fn as_voter(&self) -> Voter<'_> {
        Voter { node: self.durable.node, known: &self.durable.known, asks_a_majority: true }
    }

    fn on_introduction(&mut self, now: Tick, peer: NodeId, effects: &mut Vec<TiebreakerEffect>) {
        let voter = self.links[&peer].voter;
        let stored = Message::RecordStored(Box::new(self.durable.record));
        // Whoever is new under its number is told what is stored, and waits until a Primary takes it in.
        if !seats::is_free(self.durable.known.ids[peer.index()]) {
            self.send(now, peer, &stored, effects);
            return;
        }
        let mut state = self.next_state();
        state.known.ids[peer.index()] = voter;
        self.start_store(state, Some((peer, stored)), effects);
    }

    fn on_vote_request(
        &mut self,
        now: Tick,
        peer: NodeId,
        request: &VoteRequest,
        effects: &mut Vec<TiebreakerEffect>,
    ) {
        let vote = match self.has_seat(peer) {
            true => may_grant(&self.view(now), request),
            false => Err(Denial::OtherVoters),
        };
        let (round, stage) = (request.round, request.stage);
        let takes = vote.is_ok() && stage == VoteStage::Take;
        let record = if takes { request.record } else { self.durable.record };
        let (position, incarnation, continues) = (Position::default(), Incarnation(0), None);
        let reply = VoteReply { round, stage, vote, record, position, incarnation, continues };
        let reply = Message::VoteReply(Box::new(reply));
        if takes {
            self.store_record(record, peer, reply, effects)
        } else {
            self.send(now, peer, &reply, effects)
        }
    }

    fn on_update(
        &mut self,
        now: Tick,
        peer: NodeId,
        update: &MembershipRecord,
        may: Result<(), StoreDenial>,
        effects: &mut Vec<TiebreakerEffect>,
    ) {
        match may {
            Ok(()) if self.may_bring_records(peer) => {
                let stored = Message::RecordStored(Box::new(*update));
                self.store_record(*update, peer, stored, effects);
            }
            // The answer says what is stored instead, and the frame's term what reign it is.
            Ok(()) | Err(_) => {
                self.send(now, peer, &Message::RecordStored(Box::new(self.durable.record)), effects)
            }
        }
    }

    fn view(&self, now: Tick) -> VoterView<'_> {
        let record = &self.durable.record;
        VoterView {
            asks_a_majority: true,
            has_usable_disk: false,
            record,
            node: self.durable.node,
            position: None,
            incarnation: Incarnation(0),
            continues: None,
            is_settled: true,
            now,
            started: self.started.expect("it was told first that it has started"),
            last_primary_frame: record.primary.and_then(|primary| self.last_frames[primary.index()]),
            reign: self.reign(),
            seen_primary: self.seen_primary(now),
            peer_timeout: self.config.peer_timeout,
            voters: self.config.replicas + 1,
            known: self.durable.known,
        }
    }

    /// Over if the recorded Primary's daemon runs again, as Secondary. A Secondary in the recorded run may
    /// be one that is about to serve: it has the vote, and its next heartbeat will say Primary. One that has left the
    /// set, because its disk failed, did serve: a Secondary of that name has restarted.
    fn reign(&self) -> Reign {
        let record = &self.durable.record;
        let over = record.primary.filter(|primary| self.has_seat(*primary)).is_some_and(|primary| {
            let held = self.links.get(&primary).filter(|held| held.role == Role::Secondary);
            let run = held.and_then(|held| held.secondary_run);
            let recorded = record.in_sync.incarnation_of(primary);
            run.is_some() && run != recorded
        });
        if over { Reign::Over } else { Reign::MayLast }
    }

    /// A Primary of an older reign than the one stored is none.
    fn seen_primary(&self, now: Tick) -> SeenPrimary {
        let lives = |held: &Link| {
            let is_heard = now.since(held.heard) < self.config.peer_timeout;
            held.role == Role::Primary && held.term.number >= self.durable.record.term.number && is_heard
        };
        let primary = self.links.iter().find(|(_, held)| lives(held));
        primary.map_or(SeenPrimary::Nobody, |(peer, _)| SeenPrimary::Linked(*peer))
    }

    fn next_state(&self) -> TiebreakerState {
        let sequence = self.durable.sequence.checked_add(1).expect("2^64 stores are never reached");
        TiebreakerState { sequence, ..self.durable.clone() }
    }

    fn store_record(
        &mut self,
        record: MembershipRecord,
        peer: NodeId,
        answer: Message,
        effects: &mut Vec<TiebreakerEffect>,
    ) {
        let own = &self.durable.record;
        assert!(own.may_give_way_to(&record), "I2: a record is replaced by a newer one only");
        let mut state = self.next_state();
        // Nobody has a vote under another identity than the one recorded.
        state.known = seats::met_by(&record.voters);
        state.record = record;
        self.start_store(state, Some((peer, answer)), effects);
    }

    fn start_store(
        &mut self,
        state: TiebreakerState,
        answer: Option<(NodeId, Message)>,
        effects: &mut Vec<TiebreakerEffect>,
    ) {
        assert!(self.store.is_none(), "one store at a time");
        effects.push(TiebreakerEffect::StoreRecord { page: state.encode() });
        let answer = answer.map(|(peer, message)| (peer, self.links[&peer].link, message));
        self.store = Some(Store { state, answer });
    }

    fn on_record_durable(&mut self, now: Tick, effects: &mut Vec<TiebreakerEffect>) {
        let Store { state, answer } = self.store.take().expect("a store was under way");
        self.durable = state;
        let answer = answer.filter(|(peer, link, _)| self.is_current(*peer, *link));
        if let Some((peer, _, message)) = answer {
            self.send(now, peer, &message, effects);
        }
    }

    fn send(&mut self, now: Tick, peer: NodeId, message: &Message, effects: &mut Vec<TiebreakerEffect>) {
        let held = self.links.get_mut(&peer).expect("frames go to linked peers");
        held.sent = now;
        let stamp = FrameStamp { term: self.durable.record.term, clock: now, echo: held.echo };
        effects.push(TiebreakerEffect::Send { peer, link: held.link, frame: message.encode(stamp) });
    }
}
