//! A tiebreaker between two replicas: what it answers, when, and what it remembers.

use super::*;
use crate::layout::superblock::ResourceName;
use crate::peer::frame::{FRAME_HEADER_BYTES, FrameHeader};
use crate::peer::message::{Basis, Denial};
use crate::promotion::membership::{InSyncSet, VoterList};

const A: NodeId = NodeId(0);
const B: NodeId = NodeId(1);
const A_RUN: Incarnation = Incarnation(11);
const B_RUN: Incarnation = Incarnation(12);
const SECOND: u64 = 1_000_000;

fn term(number: u64) -> Term {
    Term { number, taker: 9 }
}

fn voters() -> VoterList {
    let mut voters = VoterList::default();
    voters.ids[..3].copy_from_slice(&[VoterId(100), VoterId(101), VoterId(102)]);
    voters
}

fn record(number: u64, version: u64, primary: NodeId, in_sync: InSyncSet) -> MembershipRecord {
    MembershipRecord { term: term(number), version, primary: Some(primary), in_sync, voters: voters() }
}

fn both() -> InSyncSet {
    InSyncSet::of(A, A_RUN).with(B, B_RUN)
}

fn fresh() -> TiebreakerState {
    TiebreakerState::new(ResourceName::parse("mail").expect("a name"), NodeId(2), VoterId(102))
}

/// The state of a tiebreaker in the reign of A, with this record.
fn remembering(record: MembershipRecord) -> TiebreakerState {
    TiebreakerState { record, known: voters(), ..fresh() }
}

/// A tiebreaker with its clock and its disk.
struct Bench {
    tiebreaker: Tiebreaker,
    now: Tick,
    effects: Vec<TiebreakerEffect>,
    links: u64,
}

impl Bench {
    /// Started at zero, its file made whole.
    fn new(state: TiebreakerState) -> Self {
        let (heartbeat, peer_timeout) = (Span(SECOND), Span(3 * SECOND));
        let config = TiebreakerConfig { replicas: 2, heartbeat, peer_timeout };
        let tiebreaker = Tiebreaker::new(config, state);
        let mut bench = Self { tiebreaker, now: Tick(0), effects: Vec::new(), links: 0 };
        bench.give(TiebreakerEvent::Started);
        bench.stored();
        bench
    }

    fn give(&mut self, event: TiebreakerEvent) {
        self.tiebreaker.handle(self.now, event, &mut self.effects);
    }

    /// The store under way, made durable.
    fn stored(&mut self) -> TiebreakerState {
        let at =
            self.effects.iter().position(|effect| matches!(effect, TiebreakerEffect::StoreRecord { .. }));
        let effect = self.effects.remove(at.expect("a store is under way"));
        let TiebreakerEffect::StoreRecord { page } = effect else { unreachable!("found above") };
        self.give(TiebreakerEvent::RecordDurable);
        TiebreakerState::parse(&page[..]).expect("a page")
    }

    /// A link of this replica, introduced.
    fn link(&mut self, peer: NodeId) -> LinkId {
        self.links += 1;
        let link = LinkId(self.links);
        let voter = VoterId(100 + u64::from(peer.0));
        self.give(TiebreakerEvent::LinkUp { peer, link, voter });
        link
    }

    fn receive(&mut self, peer: NodeId, link: LinkId, message: &Message) {
        let stamp = FrameStamp { term: term(5), clock: Tick(self.now.0 + 7), echo: Tick(0) };
        let frame = received(&message.encode(stamp));
        self.give(TiebreakerEvent::FrameReceived { peer, link, frame });
    }

    /// Everything sent since, with its stamp.
    fn sent(&mut self) -> Vec<(NodeId, FrameStamp, Message)> {
        let effects = std::mem::take(&mut self.effects);
        let sent = effects.into_iter().map(|effect| match effect {
            TiebreakerEffect::Send { peer, frame, .. } => {
                let frame = received(&frame);
                (peer, frame.stamp, Message::parse(&frame).expect("a message"))
            }
            other => panic!("not a frame: {other:?}"),
        });
        sent.collect()
    }

    /// The vote in the only frame sent since.
    fn vote(&mut self) -> Result<(), Denial> {
        match &self.sent()[..] {
            [(_, _, Message::VoteReply(reply))] => reply.vote,
            other => panic!("not a vote: {other:?}"),
        }
    }

    fn drop_reason(&mut self) -> DropReason {
        match std::mem::take(&mut self.effects).pop() {
            Some(TiebreakerEffect::DropLink { reason, .. }) => reason,
            other => panic!("not dropped: {other:?}"),
        }
    }
}

fn received(frame: &OutboundFrame) -> ReceivedFrame {
    let (header, body) = frame.head.split_at(FRAME_HEADER_BYTES);
    let header = FrameHeader::parse(header.try_into().expect("64 bytes")).expect("a header");
    let payload = frame.payloads.concat().into();
    ReceivedFrame::assemble(header, body.to_vec().into(), payload).expect("a frame")
}

fn ask(candidate: NodeId, run: Incarnation, number: u64, stage: VoteStage) -> Message {
    Message::VoteRequest(Box::new(VoteRequest {
        round: 1,
        stage,
        candidate,
        incarnation: run,
        basis: Basis::Member { continues: run },
        position: Position::default(),
        record: record(number, 0, candidate, InSyncSet::of(candidate, run)),
        peer_is_fenced: false,
    }))
}

fn heartbeat(role: Role) -> Message {
    let flushed = [Lsn::ZERO; REPLICAS_MAX];
    Message::Heartbeat { role, disk: DiskState::UpToDate, stable_up_to: Lsn::ZERO, flushed }
}

#[test]
fn a_vote_leaves_only_after_it_is_durable() {
    let mut bench = Bench::new(remembering(record(5, 1, A, both())));
    bench.now = Tick(6 * SECOND);
    let link = bench.link(B);
    bench.sent();
    bench.receive(B, link, &ask(B, B_RUN, 6, VoteStage::Take));
    assert!(matches!(bench.effects[..], [TiebreakerEffect::StoreRecord { .. }]), "{:?}", bench.effects);
    assert_eq!(bench.tiebreaker.record().term, term(5));
    let stored = bench.stored();
    assert_eq!(stored.record, record(6, 0, B, InSyncSet::of(B, B_RUN)));
    let sent = bench.sent();
    let [(B, stamp, Message::VoteReply(reply))] = &sent[..] else { panic!("{sent:?}") };
    assert_eq!((stamp.term, reply.vote, reply.record), (term(6), Ok(()), stored.record));
}

#[test]
fn an_opinion_changes_nothing() {
    let mut bench = Bench::new(remembering(record(5, 1, A, both())));
    bench.now = Tick(6 * SECOND);
    let link = bench.link(B);
    bench.sent();
    bench.receive(B, link, &ask(B, B_RUN, 6, VoteStage::Ask));
    assert_eq!(bench.vote(), Ok(()));
    assert_eq!(bench.tiebreaker.record(), &record(5, 1, A, both()));
}

#[test]
fn a_question_during_a_store_is_answered_by_what_was_stored() {
    let mut bench = Bench::new(remembering(record(5, 1, A, both())));
    let (a, b) = (bench.link(A), bench.link(B));
    bench.now = Tick(10 * SECOND);
    bench.sent();
    bench.receive(A, a, &Message::RecordUpdate(Box::new(record(5, 2, A, InSyncSet::of(A, A_RUN)))));
    bench.receive(B, b, &ask(B, B_RUN, 6, VoteStage::Take));
    let alone = bench.stored();
    let sent = bench.sent();
    let [(A, _, Message::RecordStored(stored)), (B, _, Message::VoteReply(reply))] = &sent[..] else {
        panic!("{sent:?}")
    };
    assert_eq!(**stored, alone.record);
    assert_eq!(reply.vote, Err(Denial::NotAMember { term: term(5) }));
}

#[test]
fn a_proposal_that_comes_late_is_answered_with_the_newer_record() {
    let alone = record(5, 3, A, InSyncSet::of(A, A_RUN));
    let mut bench = Bench::new(remembering(alone));
    let link = bench.link(A);
    bench.sent();
    bench.receive(A, link, &Message::RecordUpdate(Box::new(record(5, 2, A, both()))));
    let sent = bench.sent();
    let [(A, _, Message::RecordStored(stored))] = &sent[..] else { panic!("{sent:?}") };
    assert_eq!(**stored, alone);
}

#[test]
fn the_lease_runs_from_the_last_frame_of_the_recorded_primary_even_if_its_link_is_gone() {
    let mut bench = Bench::new(remembering(record(5, 1, A, both())));
    let (a, b) = (bench.link(A), bench.link(B));
    bench.now = Tick(20 * SECOND);
    bench.receive(A, a, &heartbeat(Role::Primary));
    bench.give(TiebreakerEvent::LinkLost { peer: A, link: a });
    bench.effects.clear();
    for (after, remaining) in [(1, Some(5)), (5, Some(1)), (6, None)] {
        bench.now = Tick((20 + after) * SECOND);
        bench.receive(B, b, &ask(B, B_RUN, 6, VoteStage::Ask));
        let denial = remaining.map(|seconds| Denial::Lease { remaining: Span(seconds * SECOND) });
        assert_eq!(bench.vote(), denial.map_or(Ok(()), Err), "after {after} s");
    }
}

#[test]
fn a_tiebreaker_that_restarted_waits_for_the_lease_it_may_have_forgotten() {
    let mut bench = Bench::new(remembering(record(5, 1, A, both())));
    let link = bench.link(B);
    bench.sent();
    bench.now = Tick(2 * SECOND);
    bench.receive(B, link, &ask(B, B_RUN, 6, VoteStage::Take));
    assert_eq!(bench.vote(), Err(Denial::Lease { remaining: Span(4 * SECOND) }));
}

#[test]
fn a_living_primary_is_not_deposed_and_a_deposed_one_hinders_nobody() {
    let mut bench = Bench::new(remembering(record(5, 1, A, both())));
    let (a, b) = (bench.link(A), bench.link(B));
    bench.now = Tick(20 * SECOND);
    bench.receive(A, a, &heartbeat(Role::Primary));
    bench.effects.clear();
    bench.receive(B, b, &ask(B, B_RUN, 6, VoteStage::Take));
    assert_eq!(bench.vote(), Err(Denial::PrimaryLives { primary: A }));

    // The same Primary of term 5 beside a record of term 6.
    let mut bench = Bench::new(remembering(record(6, 1, B, InSyncSet::of(B, B_RUN))));
    let (a, b) = (bench.link(A), bench.link(B));
    bench.now = Tick(20 * SECOND);
    bench.receive(A, a, &heartbeat(Role::Primary));
    bench.effects.clear();
    bench.receive(B, b, &ask(B, B_RUN, 7, VoteStage::Ask));
    assert_eq!(bench.vote(), Ok(()));
}

/// What a replica says of itself as Secondary.
fn hello(node: NodeId, run: Incarnation) -> Message {
    Message::State(Box::new(crate::peer::message::PeerState {
        introduction: 1,
        node,
        volume_bytes: 1 << 20,
        role: Role::Secondary,
        disk: DiskState::Consistent,
        lineage: crate::generation::lineage::Lineage::zeroed(),
        end: Lsn(0),
        flushed: Lsn(0),
        stable: Lsn(0),
        oldest_kept: Lsn(1),
        base: Default::default(),
        has_dirty_bits: false,
        follows_another: false,
        discards: crate::generation::split_brain::Discards::Nothing,
        record: record(5, 1, A, both()),
        incarnation: run,
        continues: None,
        resync_from: None,
        is_tentative: false,
        configuration_digest: 0,
    }))
}

#[test]
fn only_another_run_of_the_primarys_daemon_ends_its_lease_by_saying_secondary() {
    let mut bench = Bench::new(remembering(record(5, 1, A, both())));
    let (a, b) = (bench.link(A), bench.link(B));
    bench.effects.clear();
    // A has the vote and is about to serve: it says Secondary in the run that was voted for.
    bench.receive(A, a, &hello(A, A_RUN));
    bench.receive(B, b, &ask(B, B_RUN, 6, VoteStage::Ask));
    assert_eq!(bench.vote(), Err(Denial::Lease { remaining: Span(6 * SECOND) }));
    bench.receive(A, a, &hello(A, Incarnation(99)));
    bench.receive(B, b, &ask(B, B_RUN, 6, VoteStage::Ask));
    assert_eq!(bench.vote(), Ok(()));
}

#[test]
fn a_voter_is_pinned_at_first_contact_and_another_under_its_number_has_no_vote() {
    let mut bench = Bench::new(fresh());
    bench.link(A);
    assert_eq!(bench.stored().known.ids[0], VoterId(100));
    assert!(matches!(&bench.sent()[..], [(A, _, Message::RecordStored(_))]));
    let link = LinkId(50);
    bench.give(TiebreakerEvent::LinkUp { peer: A, link, voter: VoterId(7) });
    assert!(matches!(&bench.sent()[..], [(A, _, Message::RecordStored(_))]), "it is told, and not pinned");
    bench.receive(A, link, &ask(A, A_RUN, 1, VoteStage::Take));
    assert_eq!(bench.vote(), Err(Denial::OtherVoters));
    bench.give(TiebreakerEvent::LinkUp { peer: NodeId(2), link: LinkId(51), voter: VoterId(7) });
    assert_eq!(bench.drop_reason(), DropReason::NoReplica(NodeId(2)));
}

#[test]
fn two_voters_under_one_number_are_told_apart_even_while_the_first_is_being_pinned() {
    let mut bench = Bench::new(fresh());
    bench.link(A);
    let link = LinkId(50);
    bench.give(TiebreakerEvent::LinkUp { peer: A, link, voter: VoterId(7) });
    bench.receive(A, link, &ask(A, A_RUN, 1, VoteStage::Take));
    bench.stored();
    let sent = bench.sent();
    let vote = sent.iter().find_map(|(_, _, message)| match message {
        Message::VoteReply(reply) => Some(reply.vote),
        _ => None,
    });
    assert_eq!(vote, Some(Err(Denial::OtherVoters)));
    assert!(bench.tiebreaker.record().is_empty());
}

/// What a replica says of itself, with this record.
fn state_of(node: NodeId, record: MembershipRecord) -> Message {
    let Message::State(mut state) = hello(node, Incarnation(99)) else { panic!("a state") };
    state.record = record;
    Message::State(state)
}

#[test]
fn a_replica_with_a_new_disk_has_no_vote_until_a_record_names_it() {
    let mut bench = Bench::new(remembering(record(5, 1, A, InSyncSet::of(A, A_RUN))));
    let a = bench.link(A);
    let link = LinkId(50);
    bench.give(TiebreakerEvent::LinkUp { peer: B, link, voter: VoterId(7) });
    bench.sent();
    bench.receive(B, link, &state_of(B, MembershipRecord::default()));
    bench.receive(B, link, &ask(B, B_RUN, 6, VoteStage::Take));
    assert_eq!(bench.vote(), Err(Denial::OtherVoters));
    bench.receive(B, link, &Message::RecordPassedOn(Box::new(record(6, 3, B, both()))));
    assert!(matches!(&bench.sent()[..], [(B, _, Message::RecordStored(stored))] if stored.term == term(5)));
    // The Primary empties the seat, then gives it to the one that is there.
    for voter in [seats::NOBODY, VoterId(7)] {
        let version = bench.tiebreaker.record().version + 1;
        let mut next = record(5, version, A, InSyncSet::of(A, A_RUN));
        next.voters.ids[1] = voter;
        bench.receive(A, a, &Message::RecordUpdate(Box::new(next)));
        assert_eq!(bench.stored().record.voters.ids[1], voter);
    }
    bench.sent();
    // The one that was replaced comes back with its memory.
    let link = LinkId(51);
    bench.give(TiebreakerEvent::LinkUp { peer: B, link, voter: VoterId(101) });
    bench.sent();
    bench.receive(B, link, &state_of(B, record(5, 1, A, both())));
    let (found, known) = (VoterId(101), VoterId(7));
    let effects = std::mem::take(&mut bench.effects);
    let [TiebreakerEffect::Send { .. }, TiebreakerEffect::DropLink { reason, .. }] = &effects[..] else {
        panic!("not told and dropped: {effects:?}")
    };
    assert_eq!(*reason, DropReason::UnknownVoter { found, known });
}

#[test]
fn a_new_disk_under_the_number_of_the_primary_does_not_end_the_lease_of_whoever_had_it() {
    let mut bench = Bench::new(remembering(record(5, 1, A, both())));
    let b = bench.link(B);
    let link = LinkId(50);
    bench.give(TiebreakerEvent::LinkUp { peer: A, link, voter: VoterId(7) });
    bench.sent();
    bench.receive(A, link, &state_of(A, MembershipRecord::default()));
    bench.receive(B, b, &ask(B, B_RUN, 6, VoteStage::Ask));
    assert_eq!(bench.vote(), Err(Denial::Lease { remaining: Span(6 * SECOND) }));
    // Nor does it make it longer.
    bench.now = Tick(5 * SECOND);
    bench.receive(A, link, &heartbeat(Role::Secondary));
    bench.sent();
    bench.receive(B, b, &ask(B, B_RUN, 6, VoteStage::Ask));
    assert_eq!(bench.vote(), Err(Denial::Lease { remaining: Span(SECOND) }));
}

#[test]
fn before_the_first_promotion_a_replica_that_was_made_anew_is_met_anew() {
    let mut bench = Bench::new(TiebreakerState { known: voters(), ..fresh() });
    let a = bench.link(A);
    let link = LinkId(50);
    bench.give(TiebreakerEvent::LinkUp { peer: B, link, voter: VoterId(7) });
    bench.sent();
    bench.receive(B, link, &state_of(B, MembershipRecord::default()));
    assert!(bench.effects.is_empty(), "A has not shown that it has no record either");
    bench.receive(A, a, &state_of(A, MembershipRecord::default()));
    assert_eq!(bench.stored().known.ids[1], VoterId(7));
}

#[test]
fn the_first_promotion_needs_both_replicas_to_have_been_met() {
    let mut bench = Bench::new(fresh());
    let a = bench.link(A);
    bench.stored();
    bench.sent();
    let first = |voters| {
        let Message::VoteRequest(mut request) = ask(A, A_RUN, 1, VoteStage::Take) else {
            panic!("a request")
        };
        request.basis = Basis::First;
        request.record.voters = voters;
        Message::VoteRequest(request)
    };
    let mut unmet = voters();
    unmet.ids[1] = VoterId(0);
    bench.receive(A, a, &first(unmet));
    assert_eq!(bench.vote(), Err(Denial::OtherVoters));
    bench.receive(A, a, &first(voters()));
    let stored = bench.stored();
    assert_eq!((stored.record.term, stored.known), (term(1), voters()), "B's identity is known from now on");
    assert_eq!(bench.vote(), Ok(()));
}

#[test]
fn clocks_are_echoed_even_while_a_store_is_under_way() {
    let mut bench = Bench::new(remembering(record(5, 1, A, both())));
    let link = bench.link(A);
    bench.sent();
    bench.receive(A, link, &Message::RecordUpdate(Box::new(record(5, 2, A, InSyncSet::of(A, A_RUN)))));
    bench.now = Tick(2 * SECOND);
    bench.receive(A, link, &heartbeat(Role::Primary));
    let store = bench.effects.remove(0);
    assert!(matches!(store, TiebreakerEffect::StoreRecord { .. }));
    let sent = bench.sent();
    let [(A, stamp, Message::Heartbeat { .. })] = &sent[..] else { panic!("{sent:?}") };
    assert_eq!((stamp.echo, stamp.clock), (Tick(2 * SECOND + 7), Tick(2 * SECOND)));
}

#[test]
fn heartbeats_are_answered_no_faster_than_twice_their_rate() {
    let mut bench = Bench::new(remembering(record(5, 1, A, both())));
    let link = bench.link(A);
    bench.effects.clear();
    let mut answers = 0;
    for tenth in 1..=20 {
        bench.now = Tick(tenth * SECOND / 10);
        bench.receive(A, link, &heartbeat(Role::Primary));
        answers += bench.sent().len();
    }
    assert_eq!(answers, 4);
}

#[test]
fn an_idle_link_gets_heartbeats_and_a_silent_one_ends() {
    let mut bench = Bench::new(remembering(record(5, 1, A, both())));
    let link = bench.link(A);
    bench.sent();
    assert_eq!(bench.tiebreaker.next_wake_up(), Some(Tick(SECOND)));
    for second in 1..=2 {
        bench.now = Tick(second * SECOND);
        bench.give(TiebreakerEvent::TimePassed);
        assert!(matches!(&bench.sent()[..], [(A, _, Message::Heartbeat { role: Role::Secondary, .. })]));
    }
    bench.now = Tick(3 * SECOND);
    bench.give(TiebreakerEvent::TimePassed);
    assert_eq!(bench.drop_reason(), DropReason::Silent(Span(3 * SECOND)));
    bench.receive(A, link, &heartbeat(Role::Primary));
    assert!(bench.effects.is_empty(), "a dropped link is over");
    assert_eq!(bench.tiebreaker.next_wake_up(), None);
}

#[test]
fn questions_that_wait_are_bounded() {
    let mut bench = Bench::new(remembering(record(5, 1, A, both())));
    let (a, b) = (bench.link(A), bench.link(B));
    bench.sent();
    bench.receive(A, a, &Message::RecordUpdate(Box::new(record(5, 2, A, InSyncSet::of(A, A_RUN)))));
    for _ in 0..QUESTIONS_MAX {
        bench.receive(B, b, &ask(B, B_RUN, 6, VoteStage::Ask));
    }
    assert_eq!(bench.effects.len(), 1, "they wait for the store");
    bench.receive(B, b, &ask(B, B_RUN, 6, VoteStage::Ask));
    assert_eq!(bench.drop_reason(), DropReason::TooManyQuestions);
}

#[test]
fn what_is_nothing_for_a_tiebreaker_ends_the_link() {
    let mut bench = Bench::new(remembering(record(5, 1, A, both())));
    let link = bench.link(A);
    bench.receive(A, link, &Message::Flush { up_to: Lsn(4) });
    assert_eq!(bench.drop_reason(), DropReason::NotForTiebreakers(MessageType::Flush));
    let link = bench.link(A);
    bench.receive(A, link, &ask(B, B_RUN, 6, VoteStage::Take));
    assert_eq!(bench.drop_reason(), DropReason::AsksForAnother(B));
    let link = bench.link(A);
    let frame = received(&heartbeat(Role::Primary).encode(FrameStamp {
        term: term(5),
        clock: Tick(1),
        echo: Tick(0),
    }));
    let frame = ReceivedFrame { message_type: MessageType::State, ..frame };
    bench.give(TiebreakerEvent::FrameReceived { peer: A, link, frame });
    assert!(matches!(bench.drop_reason(), DropReason::BadMessage(_)));
}

#[test]
fn nothing_is_decided_before_both_copies_of_the_file_are_whole() {
    let (heartbeat, peer_timeout) = (Span(SECOND), Span(3 * SECOND));
    let config = TiebreakerConfig { replicas: 2, heartbeat, peer_timeout };
    let state = remembering(record(5, 1, A, both()));
    let tiebreaker = Tiebreaker::new(config, state.clone());
    let mut bench = Bench { tiebreaker, now: Tick(0), effects: Vec::new(), links: 0 };
    bench.give(TiebreakerEvent::Started);
    bench.link(A);
    assert_eq!(bench.effects.len(), 1, "nobody is told what one copy says");
    assert_eq!(bench.stored(), state, "the same page again, with the same number");
    assert_eq!(bench.sent().len(), 1);
}
