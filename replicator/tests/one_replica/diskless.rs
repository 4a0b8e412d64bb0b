//! A Primary whose disk has failed: whom it reads from, and what it keeps in memory for whom.

use std::ops::RangeInclusive;

use replicator::event::{Durability, Request};
use replicator::peer::message::Progress;
use replicator::remote_read::ReadRequest;
use replicator::units::ByteRange;

use super::candidate::promoted;
use super::strangers::newest_proposal;
use super::*;

const MUCH: u64 = 64 << 20;

fn progress(journaled: u64, flushed: u64, window_bytes: u64) -> Message {
    let (received, data_flushed) = (Lsn(journaled), Lsn::ZERO);
    let (journaled, flushed) = (Lsn(journaled), Lsn(flushed));
    Message::Progress(Progress { received, journaled, flushed, data_flushed, window_bytes })
}

/// What a peer says that is brought up to date from here on.
fn introduces_itself(bench: &Bench, peer: NodeId, run: u64, end: u64, window_bytes: u64) -> [Message; 3] {
    let PeerState { introduction, lineage, record, .. } = bench.said_to(peer).clone();
    let incarnation = Incarnation(run);
    let state =
        PeerState { node: peer, introduction, lineage, record, incarnation, ..state(Role::Secondary, end) };
    let catch_up = Message::CatchUpFrom { end: Lsn(end) };
    [Message::State(Box::new(state)), catch_up, progress(end, end, window_bytes)]
}

fn follows(bench: &mut Bench, peer: NodeId, run: u64, window_bytes: u64) {
    for message in introduces_itself(bench, peer, run, 0, window_bytes) {
        bench.hears(peer, &message);
        bench.store();
    }
}

/// The run as which each is a member.
fn run_of(peer: NodeId) -> u64 {
    u64::from(peer.0) + 5
}

/// The disk fails, and both others store that it does not count any more.
fn disk_fails(bench: &mut Bench) {
    bench.happens(Event::IoFailed { io: IoId(1), errno: 5 });
    for peer in [ALPHA, GAMMA] {
        let proposal = newest_proposal(bench);
        bench.hears(peer, &Message::RecordStored(Box::new(proposal)));
    }
    let status = bench.replica.status(bench.now);
    assert!(status.role == Role::Primary && status.frozen.is_none(), "{:?}", status.frozen);
    assert!(!newest_proposal(bench).in_sync.has_node(BETA));
}

/// Beta is Primary without a disk, alpha and gamma are the members.
fn diskless() -> Bench {
    let mut bench = promoted();
    [ALPHA, GAMMA].into_iter().for_each(|peer| follows(&mut bench, peer, run_of(peer), MUCH));
    disk_fails(&mut bench);
    bench
}

fn is_read(bench: &mut Bench, block: u64) -> RequestId {
    let id = RequestId(1000 + block);
    let request = Request::Read { range: ByteRange::new(block * 4096, 4096) };
    bench.happens(Event::RequestReceived { id, request });
    id
}

fn is_written(bench: &mut Bench, lsn: u64, length: usize) {
    let payload = Bytes::from(vec![7; length]);
    let request = Request::Write { offset: 0, payload, durability: Durability::Complete };
    bench.happens(Event::RequestReceived { id: RequestId(lsn), request });
    bench.store();
}

/// Writes from the beginning of the volume on, which some say to have.
fn are_written(
    bench: &mut Bench,
    lsns: RangeInclusive<u64>,
    length: usize,
    who: &[NodeId],
    flushed: fn(u64) -> u64,
) {
    for lsn in lsns.clone() {
        is_written(bench, lsn, length);
        who.iter().for_each(|peer| bench.hears(*peer, &progress(lsn, flushed(lsn), MUCH)));
    }
    assert_eq!(bench.completed.last(), Some(&RequestId(*lsns.end())), "they are complete");
}

fn asked(bench: &Bench, peer: NodeId) -> Vec<ReadRequest> {
    let question = |(to, message): &(NodeId, Message)| match message {
        Message::ReadBlocks(request) if *to == peer => Some(*request),
        _ => None,
    };
    bench.sent.iter().filter_map(question).collect()
}

/// The writes that a peer was sent, in order.
fn shipped_to(bench: &Bench, peer: NodeId) -> Vec<u64> {
    let records = bench.sent.iter().filter_map(|(to, message)| match message {
        Message::Records(batch) if *to == peer => Some(&batch.records),
        _ => None,
    });
    records.flatten().map(|record| record.lsn.0).collect()
}

#[test]
fn an_answer_of_a_member_that_was_not_asked_is_not_taken() {
    let mut bench = diskless();
    let read = is_read(&mut bench, 3);
    let question = asked(&bench, ALPHA)[0];
    assert_eq!(asked(&bench, GAMMA), []);
    let blocks = Record::write(Lsn(question.number), question.range, Bytes::from(vec![9; 4096]));
    for (peer, expected) in [(GAMMA, &[][..]), (ALPHA, &[read][..])] {
        bench.hears(peer, &Message::BlocksRead(Box::new(blocks.clone())));
        assert_eq!(bench.completed, expected, "{peer} answers");
    }
}

#[test]
fn a_member_that_introduces_itself_anew_on_its_link_is_asked_anew() {
    let mut bench = diskless();
    is_read(&mut bench, 3);
    for mut message in introduces_itself(&bench, ALPHA, run_of(ALPHA), 0, MUCH) {
        if let Message::State(state) = &mut message {
            state.introduction += 1;
        }
        bench.hears(ALPHA, &message);
    }
    let questions = asked(&bench, ALPHA);
    assert_eq!(questions.len(), 2, "it has forgotten the first one");
    assert_eq!(questions[0].range, questions[1].range);
}

#[test]
fn a_member_that_has_restarted_lends_nothing_before_it_has_entered_again() {
    let mut bench = diskless();
    are_written(&mut bench, 1..=2, BLOCK_SIZE, &[ALPHA, GAMMA], |_| 0);
    is_read(&mut bench, 3);
    is_lost(&mut bench, ALPHA);
    bench.link(ALPHA);
    follows(&mut bench, ALPHA, 50, 1);
    let questions = [ALPHA, GAMMA].map(|peer| asked(&bench, peer).len());
    assert_eq!(questions, [1, 1], "what alpha owed is asked of gamma, and of nobody else after that");
}

#[test]
fn what_a_member_that_has_restarted_acknowledges_counts_only_when_it_has_flushed_what_is_complete() {
    let mut bench = diskless();
    are_written(&mut bench, 1..=2, BLOCK_SIZE, &[ALPHA, GAMMA], |_| 0);
    is_written(&mut bench, 3, BLOCK_SIZE);
    bench.hears(GAMMA, &progress(3, 3, MUCH));
    is_lost(&mut bench, ALPHA);
    bench.link(ALPHA);
    follows(&mut bench, ALPHA, 50, MUCH);
    bench.hears(ALPHA, &progress(3, 1, MUCH));
    // Clients are not held back for its entry any more.
    bench.now = bench.now.plus(Span::from_millis(600));
    bench.settle();
    assert_eq!(bench.completed, [1, 2].map(RequestId));
    assert_eq!(bench.replica.status(bench.now).lsn.stable, Lsn(0));
    bench.now = bench.now.plus(Span::from_millis(1000));
    bench.hears(ALPHA, &progress(3, 3, MUCH));
    assert_eq!(bench.completed, [1, 2, 3].map(RequestId));
}

#[test]
fn a_failed_disk_leaves_the_set_only_when_the_others_have_flushed_what_is_complete() {
    let mut bench = promoted();
    [ALPHA, GAMMA].into_iter().for_each(|peer| follows(&mut bench, peer, run_of(peer), MUCH));
    are_written(&mut bench, 1..=1, BLOCK_SIZE, &[ALPHA, GAMMA], |_| 0);
    bench.happens(Event::IoFailed { io: IoId(1), errno: 5 });
    let has_left = |bench: &Bench| {
        let is_without = |message: &Message| matches!(message, Message::RecordUpdate(record) if !record.in_sync.has_node(BETA));
        bench.sent.iter().any(|(_, message)| is_without(message))
    };
    bench.hears(ALPHA, &progress(1, 1, MUCH));
    assert!(!has_left(&bench), "gamma may lose it with its power");
    bench.hears(GAMMA, &progress(1, 1, MUCH));
    assert!(has_left(&bench));
}

#[test]
fn what_is_complete_and_not_flushed_everywhere_is_kept_for_a_member_that_loses_power() {
    let mut bench = diskless();
    are_written(&mut bench, 1..=30, 1 << 20, &[ALPHA, GAMMA], |_| 0);
    is_lost(&mut bench, ALPHA);
    bench.link(ALPHA);
    let before = shipped_to(&bench, ALPHA).len();
    follows(&mut bench, ALPHA, 50, MUCH);
    assert_eq!(bench.dropped, []);
    assert_eq!(shipped_to(&bench, ALPHA)[before..], Vec::from_iter(1..=30)[..], "all of it is sent again");
}

#[test]
fn what_a_peer_has_not_been_sent_is_kept_though_every_member_has_flushed_it() {
    let mut bench = promoted();
    follows(&mut bench, ALPHA, run_of(ALPHA), MUCH);
    is_lost(&mut bench, GAMMA);
    let without_gamma = newest_proposal(&bench);
    bench.hears(ALPHA, &Message::RecordStored(Box::new(without_gamma)));
    are_written(&mut bench, 1..=1, 1 << 20, &[ALPHA], |lsn| lsn);
    bench.link(GAMMA);
    follows(&mut bench, GAMMA, run_of(GAMMA), 1);
    disk_fails(&mut bench);
    assert!(!newest_proposal(&bench).in_sync.has_node(GAMMA));
    are_written(&mut bench, 2..=30, 1 << 20, &[ALPHA], |lsn| lsn);
    assert!(shipped_to(&bench, GAMMA).len() < 3, "its window is closed");
    bench.hears(GAMMA, &progress(0, 0, MUCH));
    assert_eq!(shipped_to(&bench, GAMMA), Vec::from_iter(1..=30));
}
