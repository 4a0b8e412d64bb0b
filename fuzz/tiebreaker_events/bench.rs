//! A tiebreaker with its file and its links, and what it may never do: take back what somebody has heard, grant a term
//! number to two candidates, speak of what is not in both copies.

use std::collections::BTreeMap;

use bytes::Bytes;
use replicator::event::LinkId;
use replicator::generation::lineage::Lineage;
use replicator::layout::superblock::ResourceName;
use replicator::peer::frame::{FRAME_HEADER_BYTES, FrameHeader, FrameStamp, OutboundFrame, ReceivedFrame};
use replicator::peer::message::{Message, VoteReply, VoteRequest, VoteStage};
use replicator::promotion::membership::MembershipRecord;
use replicator::promotion::tiebreaker::{
    QUESTIONS_MAX, Tiebreaker, TiebreakerConfig, TiebreakerEffect, TiebreakerEvent,
};
use replicator::promotion::tiebreaker_file::{TiebreakerState, choose_newest};
use replicator::units::{
    BLOCK_SIZE, Incarnation, Lsn, NodeId, REPLICAS_MAX, Span, Term, Tick, VoterId, bytes_usize,
};

use super::frames::{Known, voter_id};
use super::script::Script;

/// What peers say of the volume's size.
pub const VOLUME_BYTES: u64 = 1 << 20;
/// Most effects of one event: each question that waits is answered once, each link gets a heartbeat or its end.
const EFFECTS_MAX: usize = QUESTIONS_MAX + 2 * REPLICAS_MAX + 2;

/// One copy, or what is written to both.
type Page = Box<[u8; BLOCK_SIZE]>;

pub struct Bench {
    tiebreaker: Tiebreaker,
    config: TiebreakerConfig,
    node: NodeId,
    pub now: Tick,
    copies: [Page; 2],
    /// What is being stored.
    storing: Option<Page>,
    links: BTreeMap<NodeId, LinkId>,
    last_link: u64,
    /// The newest record that anybody has heard of.
    heard: MembershipRecord,
    /// Who was granted which term number, by what name of that term.
    granted: BTreeMap<u64, (NodeId, Term)>,
    /// What was asked and may still be answered, by candidate and round.
    asked: BTreeMap<(NodeId, u64), Vec<VoteRequest>>,
}

fn state_in(copies: &[Page; 2]) -> TiebreakerState {
    choose_newest(&copies[0][..], &copies[1][..]).expect("one copy is whole")
}

impl Bench {
    pub fn new(script: &mut Script<'_>) -> Self {
        let replicas = if script.flag() { 2 } else { 4 };
        let node = NodeId(replicas);
        let config = TiebreakerConfig {
            replicas: replicas.into(),
            heartbeat: Span::from_millis(1000),
            peer_timeout: Span::from_millis(3000),
        };
        let resource = ResourceName::parse("mail").expect("a name");
        let page = TiebreakerState::new(resource, node, voter_id(node)).encode();
        let copies = [page.clone(), page];
        let mut bench = Self {
            tiebreaker: Tiebreaker::new(config, state_in(&copies)),
            config,
            node,
            now: Tick(1 + u64::from(script.byte()) * 1000),
            copies,
            storing: None,
            links: BTreeMap::new(),
            last_link: 0,
            heard: MembershipRecord::default(),
            granted: BTreeMap::new(),
            asked: BTreeMap::new(),
        };
        bench.happens(TiebreakerEvent::Started);
        bench
    }

    pub fn happens(&mut self, event: TiebreakerEvent) {
        let mut effects = Vec::new();
        self.tiebreaker.handle(self.now, event, &mut effects);
        assert!(effects.len() <= EFFECTS_MAX, "{} effects of one event", effects.len());
        for effect in effects {
            match effect {
                TiebreakerEffect::StoreRecord { page } => self.begins_to_store(page),
                TiebreakerEffect::Send { peer, link, frame } => {
                    assert_eq!(self.links.get(&peer), Some(&link), "{peer} has no such link");
                    self.is_heard(peer, &received(&frame));
                }
                TiebreakerEffect::DropLink { peer, link, .. } => {
                    if self.links.get(&peer) == Some(&link) {
                        self.links.remove(&peer);
                    }
                }
            }
        }
        assert_eq!(self.tiebreaker.record(), &self.stored(), "it remembers what is on disk");
    }

    /// The record in both copies; while it is being stored, the one before it.
    fn stored(&self) -> MembershipRecord {
        state_in(&self.copies).record
    }

    fn begins_to_store(&mut self, page: Page) {
        let (before, after) =
            (state_in(&self.copies), TiebreakerState::parse(&page[..]).expect("it can be read back"));
        assert!(may_follow(&before.record, &after.record), "I2: it goes back");
        let is_same = after.record.order() == before.record.order();
        assert!(!is_same || after.record == before.record, "two records of one version");
        assert_eq!(after.voter, before.voter, "it is nobody else by now");
        assert!(self.storing.replace(page).is_none(), "one store at a time");
    }

    /// Whatever it says of its record is in both copies.
    fn is_heard(&mut self, peer: NodeId, frame: &ReceivedFrame) {
        let stored = self.stored();
        assert_eq!(frame.stamp.term, stored.term);
        let record = match Message::parse(frame).expect("whole") {
            Message::VoteReply(reply) => {
                self.note_vote(peer, &reply);
                reply.record
            }
            Message::RecordStored(record) => *record,
            Message::Heartbeat { .. } | Message::Farewell { .. } => return,
            other => panic!("a tiebreaker does not say {other:?}"),
        };
        assert!(self.storing.is_none(), "no decision while it stores");
        assert_eq!(self.copies[0], self.copies[1], "nobody hears of what is in one copy only");
        assert_eq!(record, stored, "it says what is stored, and nothing else");
        assert!(may_follow(&self.heard, &record), "I2: it takes back what was heard");
        self.heard = record;
    }

    fn note_vote(&mut self, candidate: NodeId, reply: &VoteReply) {
        if reply.vote.is_err() {
            return;
        }
        let mut asked = self.asked.get(&(candidate, reply.round)).into_iter().flatten();
        let is_of_it =
            |request: &&VoteRequest| request.stage == reply.stage && request.candidate == candidate;
        match reply.stage {
            VoteStage::Ask => assert!(asked.any(|request| is_of_it(&request)), "nobody has asked"),
            VoteStage::Take => {
                let is_taken = |request: &VoteRequest| is_of_it(&request) && request.record == reply.record;
                assert!(asked.any(is_taken), "a term that was not asked for");
                let term = reply.record.term;
                let one = self.granted.insert(term.number, (candidate, term));
                assert!(one.is_none(), "term {term} of {candidate} was granted before, to {one:?}");
                let newest = self.granted.last_key_value().map(|(number, _)| *number);
                assert_eq!(newest, Some(term.number), "I2: a higher term was granted before");
            }
        }
    }

    /// Both copies say what was to be stored.
    pub fn stores(&mut self) {
        if let Some(page) = self.storing.take() {
            self.copies = [page.clone(), page];
            self.happens(TiebreakerEvent::RecordDurable);
        }
    }

    /// The daemon dies at any moment, perhaps while it stores, and runs again.
    pub fn restart(&mut self, script: &mut Script<'_>) {
        if let Some(page) = self.storing.take() {
            match script.below(4) {
                0 => {}
                // What is written over itself cannot be torn.
                1 if self.copies[0] != page => self.copies[0].fill(7),
                1 | 2 => self.copies[0] = page,
                _ => self.copies = [page.clone(), page],
            }
            // The second copy is written when the first is whole.
            if self.copies[0] == self.copies[1] || state_in(&self.copies).encode() != self.copies[0] {
                // Nothing more can be torn.
            } else if script.rarely(3) {
                self.copies[1].fill(7);
            }
        }
        self.links.clear();
        self.asked.clear();
        self.now = self.now.plus(Span::from_millis(1));
        self.tiebreaker = Tiebreaker::new(self.config, state_in(&self.copies));
        let found = state_in(&self.copies).record;
        assert!(may_follow(&self.heard, &found), "what was heard survives");
        self.started();
    }

    /// Until both copies are the same again it remembers by the newer one.
    fn started(&mut self) {
        let mut effects = Vec::new();
        self.tiebreaker.handle(self.now, TiebreakerEvent::Started, &mut effects);
        let [TiebreakerEffect::StoreRecord { page }] = &effects[..] else {
            panic!("it stores first, and does nothing else: {effects:?}");
        };
        self.storing = Some(page.clone());
    }

    pub fn passes(&mut self, span: Span) {
        self.now = self.now.plus(span);
        self.happens(TiebreakerEvent::TimePassed);
    }

    pub fn connect(&mut self, peer: NodeId, voter: VoterId) {
        self.last_link += 1;
        let link = LinkId(self.last_link);
        self.links.insert(peer, link);
        self.happens(TiebreakerEvent::LinkUp { peer, link, voter });
    }

    /// A link ends; perhaps one that is no more.
    pub fn lose(&mut self, peer: NodeId, script: &mut Script<'_>) {
        let link = match self.links.get(&peer).copied() {
            Some(link) if !script.rarely(8) => {
                self.links.remove(&peer);
                link
            }
            _ => LinkId(script.byte().into()),
        };
        if self.links.get(&peer) != Some(&link) {
            self.happens(TiebreakerEvent::LinkLost { peer, link });
        }
    }

    pub fn a_peer(&self, script: &mut Script<'_>) -> NodeId {
        NodeId(script.below(u8::try_from(self.config.replicas).expect("few")))
    }

    /// What a peer knows: mostly the tiebreaker's own record.
    pub fn known(&self, peer: NodeId) -> Known {
        let mut record = self.stored();
        if record.is_empty() {
            for node in 0..=self.node.0 {
                record.voters.ids[usize::from(node)] = voter_id(NodeId(node));
            }
        }
        Known {
            node: peer,
            replica: self.node,
            voters: self.node.0 + 1,
            said: None,
            record,
            incarnation: Incarnation(9),
            lineage: Lineage::zeroed(),
            marks: [Lsn(0), Lsn(3), Lsn(10), Lsn(100)],
        }
    }

    /// A frame arrives, if there is a link. Bytes of its body that are not what the encoder wrote come in a frame with
    /// the right checksum.
    pub fn hears(&mut self, peer: NodeId, message: &Message, script: &mut Script<'_>) {
        let Some(link) = self.links.get(&peer).copied() else { return };
        let term = self.known(peer).frame_term(script);
        let stamp = FrameStamp { term, clock: Tick(self.now.0 + u64::from(script.byte())), echo: self.now };
        let mut frame = received(&message.encode(stamp));
        if script.rarely(24) && !frame.body.is_empty() {
            let mut body = frame.body.to_vec();
            let at = bytes_usize(script.number()) % body.len().min(256);
            body[at] = script.byte();
            frame.body = Bytes::from(body);
        }
        if let Ok(Message::VoteRequest(request)) = Message::parse(&frame) {
            self.asked.entry((peer, request.round)).or_default().push(*request);
        }
        self.happens(TiebreakerEvent::FrameReceived { peer, link, frame });
    }
}

fn received(frame: &OutboundFrame) -> ReceivedFrame {
    let (header, body) = frame.head.split_at(FRAME_HEADER_BYTES);
    let header = FrameHeader::parse(header.try_into().expect("64 bytes")).expect("a header");
    let payload = Bytes::from(frame.payloads.concat());
    ReceivedFrame::assemble(header, Bytes::copy_from_slice(body), payload).expect("a frame")
}

/// Whether a voter that has stored one record may have stored the other since.
fn may_follow(before: &MembershipRecord, after: &MembershipRecord) -> bool {
    before == after || before.may_give_way_to(after)
}
