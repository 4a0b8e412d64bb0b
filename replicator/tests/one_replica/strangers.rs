//! Voters that are new in somebody's place, as a Primary hears them.

use replicator::peer::message::Denial;
use replicator::promotion::seats::NOBODY;

use super::candidate::{promoted, told};
use super::*;

/// The link of whoever is new in alpha's place.
const NEW_LINK: LinkId = LinkId(77);

fn new_alpha_says(bench: &mut Bench, message: &Message) {
    let frame = bench.frame(message);
    bench.happens(Event::FrameReceived { peer: ALPHA, link: NEW_LINK, frame });
    bench.store();
}

/// Somebody is linked under alpha's number, as another run than the recorded one.
fn alpha_returns(bench: &mut Bench, voter: VoterId) {
    bench.happens(Event::PeerConnected { peer: ALPHA, link: NEW_LINK, voter });
    bench.store();
    let introduction = bench.said_to(ALPHA).introduction;
    let other_run = PeerState { introduction, incarnation: Incarnation(50), ..state(Role::Secondary, 0) };
    new_alpha_says(bench, &Message::State(Box::new(other_run)));
}

/// Asks for a vote in the term after the record `before`.
fn question(
    candidate: NodeId,
    incarnation: Incarnation,
    continues: Incarnation,
    before: MembershipRecord,
) -> Message {
    let (term, in_sync) = (Term { number: 2, taker: 3 }, InSyncSet::of(candidate, incarnation));
    Message::VoteRequest(Box::new(VoteRequest {
        round: 1,
        stage: VoteStage::Ask,
        candidate,
        incarnation,
        basis: Basis::Member { continues },
        position: Position::default(),
        record: MembershipRecord { term, primary: Some(candidate), in_sync, ..before },
        peer_is_fenced: false,
    }))
}

/// Whether beta's I/O waits because no majority has stored a set without alpha.
fn waits_for_alpha(bench: &Bench) -> bool {
    let frozen = bench.replica.status(bench.now).frozen;
    frozen.is_some_and(|frozen| frozen.reason.contains("alpha is lost"))
}

/// Beta has proposed a set without alpha, in whose place another voter is linked by now.
fn alpha_replaced() -> Bench {
    let mut bench = promoted();
    bench.loses(ALPHA);
    bench.happens(Event::PeerConnected { peer: ALPHA, link: NEW_LINK, voter: VoterId(555) });
    bench.store();
    bench
}

pub(super) fn newest_proposal(bench: &Bench) -> MembershipRecord {
    let update = |(_, message): &(NodeId, Message)| match message {
        Message::RecordUpdate(record) => Some(**record),
        _ => None,
    };
    bench.sent.iter().rev().find_map(update).expect("a smaller set is proposed")
}

#[test]
fn what_a_new_voter_has_stored_makes_no_majority_for_the_one_whose_place_it_takes() {
    let mut bench = alpha_replaced();
    let proposal = newest_proposal(&bench);
    assert!(proposal.order() > told(&bench).order() && !proposal.in_sync.has_node(ALPHA));
    new_alpha_says(&mut bench, &Message::RecordStored(Box::new(proposal)));
    assert!(waits_for_alpha(&bench), "beta's copy alone is no majority");
    bench.hears(GAMMA, &Message::RecordStored(Box::new(proposal)));
    bench.store();
    assert!(!waits_for_alpha(&bench));
}

#[test]
fn a_seat_is_given_away_only_when_a_majority_has_stored_that_it_is_empty() {
    let mut bench = alpha_replaced();
    let stored = |bench: &mut Bench| {
        let newest = newest_proposal(bench);
        bench.hears(GAMMA, &Message::RecordStored(Box::new(newest)));
        bench.store();
    };
    stored(&mut bench);
    let introduction = bench.said_to(ALPHA).introduction;
    let new = PeerState { introduction, incarnation: Incarnation(50), ..state(Role::Secondary, 0) };
    new_alpha_says(&mut bench, &Message::State(Box::new(new)));
    assert_eq!(newest_proposal(&bench).voters.ids[0], NOBODY);
    stored(&mut bench);
    assert_eq!(newest_proposal(&bench).voters.ids[0], VoterId(555));
}

#[test]
fn whoever_is_new_under_a_primarys_number_does_not_end_the_wait_for_its_lease() {
    for (voter, waits) in [(100, false), (555, true)] {
        let mut bench = Bench::start();
        [ALPHA, GAMMA].iter().for_each(|peer| bench.link(*peer));
        let mut record = record_of_alpha();
        record.in_sync = record.in_sync.with(GAMMA, Incarnation(7));
        bench.hears(ALPHA, &Message::RecordUpdate(Box::new(record)));
        bench.store();
        bench.happens(Event::PeerLost { peer: ALPHA, link: link_to(ALPHA), reason: LinkLoss::Closed });
        alpha_returns(&mut bench, VoterId(voter));
        bench.hears(GAMMA, &question(GAMMA, Incarnation(7), Incarnation(7), record));
        bench.store();
        let vote = vote(&bench);
        assert_eq!(matches!(vote, Err(Denial::Lease { .. })), waits, "voter {voter}: {vote:?}");
    }
}

/// What beta answered when it was asked for its vote last.
fn vote(bench: &Bench) -> Result<(), Denial> {
    let mut votes = bench.sent.iter().filter_map(|(_, message)| match message {
        Message::VoteReply(reply) => Some(reply.vote),
        _ => None,
    });
    votes.next_back().expect("it answers")
}

#[test]
fn whoever_is_new_under_a_members_number_gets_no_vote_by_what_that_member_is() {
    for (voter, expected) in [(100, Ok(())), (555, Err(Denial::OtherVoters))] {
        let mut bench = Bench::start();
        [ALPHA, GAMMA].iter().for_each(|peer| bench.link(*peer));
        let record = record_of_alpha();
        bench.hears(ALPHA, &Message::RecordUpdate(Box::new(record)));
        bench.store();
        bench.happens(Event::PeerLost { peer: ALPHA, link: link_to(ALPHA), reason: LinkLoss::Closed });
        // No lease of the last reign lasts so long.
        bench.now = bench.now.plus(Span::from_millis(60_000));
        alpha_returns(&mut bench, VoterId(voter));
        new_alpha_says(&mut bench, &question(ALPHA, Incarnation(50), Incarnation(5), record));
        assert_eq!(vote(&bench), expected, "voter {voter}");
    }
}

#[test]
fn a_voter_stores_who_got_a_seat_that_was_emptied_though_it_has_met_another_one_there() {
    let mut bench = Bench::start();
    [ALPHA, GAMMA].iter().for_each(|peer| bench.link(*peer));
    is_lost(&mut bench, ALPHA);
    let mut record = record_of_alpha();
    (record.primary, record.in_sync) = (Some(GAMMA), InSyncSet::of(GAMMA, Incarnation(7)));
    for seat in [VoterId(100), NOBODY, VoterId(555)] {
        record.version += 1;
        record.voters.ids[0] = seat;
        bench.hears(GAMMA, &Message::RecordUpdate(Box::new(record)));
        bench.store();
        assert_eq!(bench.stored_messages().last(), Some(&record), "voter {seat}");
    }
}

#[test]
fn whoever_has_a_seat_and_is_linked_keeps_it_when_another_one_comes() {
    let mut bench = Bench::start();
    bench.link(ALPHA);
    bench.happens(Event::PeerConnected { peer: ALPHA, link: NEW_LINK, voter: VoterId(555) });
    bench.store();
    let record = record_of_alpha();
    bench.hears(ALPHA, &Message::RecordUpdate(Box::new(record)));
    bench.store();
    assert_eq!(bench.stored_messages(), [record]);
}

#[test]
fn whoever_was_made_anew_is_met_anew_only_while_the_others_show_that_nobody_has_promised_anything() {
    let empty = MembershipRecord::default();
    for (gamma, is_met) in [(Some(empty), true), (Some(record_of_alpha()), false), (None, false)] {
        let mut bench = Bench::start();
        [ALPHA, GAMMA].iter().for_each(|peer| bench.link(*peer));
        match gamma {
            Some(record) => {
                let introduction = bench.said_to(GAMMA).introduction;
                let gamma = PeerState { node: GAMMA, introduction, record, ..state(Role::Secondary, 0) };
                bench.hears(GAMMA, &Message::State(Box::new(gamma)));
            }
            None => is_lost(&mut bench, GAMMA),
        }
        is_lost(&mut bench, ALPHA);
        bench.happens(Event::PeerConnected { peer: ALPHA, link: NEW_LINK, voter: VoterId(555) });
        bench.store();
        let introduction = bench.said_to(ALPHA).introduction;
        let new = PeerState { introduction, incarnation: Incarnation(50), ..state(Role::Secondary, 0) };
        let frame = bench.frame(&Message::State(Box::new(new)));
        bench.happens(Event::FrameReceived { peer: ALPHA, link: NEW_LINK, frame });
        let pinned = bench.store().map(|content| content.pins.ids[0]);
        assert_eq!(pinned == Some(VoterId(555)), is_met, "{gamma:?}: {pinned:?}");
    }
}
