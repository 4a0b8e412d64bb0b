//! This replica as a candidate: whom it names in sync, when it gives up, and what ends the reign that it has won.

use replicator::peer::message::{Denial, VoteReply};
use replicator::units::REPLICAS_MAX;

use super::*;

const VOTERS: [NodeId; 2] = [ALPHA, GAMMA];

/// The newest question for a vote.
pub(super) fn asked(bench: &Bench) -> VoteRequest {
    let question = |(_, message): &(NodeId, Message)| match message {
        Message::VoteRequest(request) => Some(**request),
        _ => None,
    };
    bench.sent.iter().rev().find_map(question).expect("it asks for votes")
}

/// The record that a Primary has told.
pub(super) fn told(bench: &Bench) -> MembershipRecord {
    asked(bench).record
}

/// The run of a voter.
fn run_of(voter: NodeId) -> Incarnation {
    Incarnation(u64::from(voter.0) + 5)
}

/// A voter that stands where the candidate does answers its newest question.
fn answers(bench: &mut Bench, voter: NodeId, vote: Result<(), Denial>) {
    let request = asked(bench);
    let is_stored = request.stage == VoteStage::Take && vote.is_ok();
    let reply = VoteReply {
        round: request.round,
        stage: request.stage,
        vote,
        record: if is_stored { request.record } else { MembershipRecord::default() },
        position: request.position,
        incarnation: run_of(voter),
        continues: None,
    };
    bench.hears(voter, &Message::VoteReply(Box::new(reply)));
}

/// Beta is linked to both others, whose disks are as said, and asks for the first term.
fn asking(disks: [DiskState; 2]) -> Bench {
    let mut bench = Bench::start();
    for (voter, disk) in VOTERS.into_iter().zip(disks) {
        bench.link(voter);
        lives(&mut bench, voter, disk);
    }
    let what = Order::Promote { wait: Span::from_millis(5000), warrant: Warrant::Known };
    bench.happens(Event::OperatorAsked { order: OrderId(1), what });
    bench.store();
    bench
}

/// A voter says that it lives.
fn lives(bench: &mut Bench, voter: NodeId, disk: DiskState) {
    let (stable_up_to, flushed) = (Lsn::ZERO, [Lsn::ZERO; REPLICAS_MAX]);
    bench.hears(voter, &Message::Heartbeat { role: Role::Secondary, disk, stable_up_to, flushed });
}

/// Both would vote for it: it asks them to store a record.
fn would_be_voted_for(bench: &mut Bench) -> MembershipRecord {
    assert_eq!(asked(bench).stage, VoteStage::Ask);
    VOTERS.into_iter().for_each(|voter| answers(bench, voter, Ok(())));
    bench.store();
    let request = asked(bench);
    assert_eq!(request.stage, VoteStage::Take);
    request.record
}

/// Lets time pass until beta asks for an opinion again.
fn next_round(bench: &mut Bench, milliseconds: u32) {
    let before = asked(bench).round;
    for _ in 0..milliseconds {
        bench.settle();
        bench.store();
        if asked(bench).round != before {
            return;
        }
    }
    panic!("it does not ask again within {milliseconds} ms");
}

/// Beta is Primary by the votes of alpha and gamma, and is linked to both.
pub(super) fn promoted() -> Bench {
    let mut bench = asking([DiskState::UpToDate; 2]);
    would_be_voted_for(&mut bench);
    VOTERS.into_iter().for_each(|voter| answers(&mut bench, voter, Ok(())));
    bench.store();
    assert_eq!(bench.replica.status(bench.now).role, Role::Primary);
    bench
}

#[test]
fn a_candidate_does_not_name_in_sync_whose_disk_is_in_the_middle_of_a_resync() {
    let mut bench = asking([DiskState::UpToDate, DiskState::Inconsistent]);
    let in_sync = would_be_voted_for(&mut bench).in_sync;
    assert_eq!(in_sync, InSyncSet::of(BETA, asked(&bench).incarnation).with(ALPHA, run_of(ALPHA)));
}

#[test]
fn whoever_denies_to_be_in_sync_is_not_named_in_the_next_round() {
    let mut bench = asking([DiskState::UpToDate; 2]);
    let first = would_be_voted_for(&mut bench).in_sync;
    assert!(VOTERS.into_iter().all(|voter| first.has_node(voter)));
    answers(&mut bench, ALPHA, Err(Denial::NotInSync { lsn: Lsn(3) }));
    // At once: no attempt more is made to have that record stored.
    next_round(&mut bench, 200);
    let second = would_be_voted_for(&mut bench).in_sync;
    assert!(!second.has_node(ALPHA) && second.has_node(GAMMA), "{second:?}");
}

#[test]
fn a_candidate_whom_everybody_would_vote_for_and_nobody_does_is_refused_when_its_time_is_up() {
    let mut bench = asking([DiskState::UpToDate; 2]);
    let denial = Denial::Lease { remaining: Span::from_millis(100) };
    let mut answered = 0;
    for millisecond in 0..10_000 {
        if millisecond % 500 == 0 {
            VOTERS.into_iter().for_each(|voter| lives(&mut bench, voter, DiskState::UpToDate));
        }
        let request = asked(&bench);
        if request.round != answered {
            answered = request.round;
            let vote = if request.stage == VoteStage::Take { Err(denial) } else { Ok(()) };
            VOTERS.into_iter().for_each(|voter| answers(&mut bench, voter, vote));
        }
        bench.settle();
        bench.store();
    }
    let [Answer::Refused(refused)] = &bench.answers[..] else { panic!("{:?}", bench.answers) };
    assert_eq!(refused.name, "not-granted");
}

#[test]
fn a_reign_that_a_majority_granted_outlives_a_vote_for_another_term_of_its_number() {
    let mut bench = promoted();
    let own = told(&bench);
    let rival = Term::asked(own.term.number, u64::MAX);
    assert!(rival > own.term);
    let vote = MembershipRecord { term: rival, version: 1, primary: Some(ALPHA), ..own };
    let shown = Message::RecordStored(Box::new(vote));
    let frame = bench.frame_of(rival, &shown);
    bench.happens(Event::FrameReceived { peer: GAMMA, link: link_to(GAMMA), frame });
    bench.store();
    let status = bench.replica.status(bench.now);
    assert_eq!((status.role, status.term), (Role::Primary, own.term));
    // A later one ends it.
    let later = Term::asked(own.term.number + 1, 0);
    let frame = bench.frame_of(later, &shown);
    bench.happens(Event::FrameReceived { peer: GAMMA, link: link_to(GAMMA), frame });
    assert_eq!(bench.replica.status(bench.now).role, Role::Secondary);
}
