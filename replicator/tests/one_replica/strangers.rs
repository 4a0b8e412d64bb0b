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

fn newest_proposal(bench: &Bench) -> MembershipRecord {
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
        bench.happens(Event::PeerConnected { peer: ALPHA, link: NEW_LINK, voter: VoterId(voter) });
        bench.store();
        let introduction = bench.said_to(ALPHA).introduction;
        let other_run = PeerState { introduction, incarnation: Incarnation(50), ..state(Role::Secondary, 0) };
        new_alpha_says(&mut bench, &Message::State(Box::new(other_run)));
        let term = Term { number: 2, taker: 3 };
        let in_sync = InSyncSet::of(GAMMA, Incarnation(7));
        let request = VoteRequest {
            round: 1,
            stage: VoteStage::Ask,
            candidate: GAMMA,
            incarnation: Incarnation(7),
            basis: Basis::Member { continues: Incarnation(7) },
            position: Position::default(),
            record: MembershipRecord { term, primary: Some(GAMMA), in_sync, ..record },
            peer_is_fenced: false,
        };
        bench.hears(GAMMA, &Message::VoteRequest(Box::new(request)));
        bench.store();
        let mut votes = bench.sent.iter().filter_map(|(_, message)| match message {
            Message::VoteReply(reply) => Some(reply.vote),
            _ => None,
        });
        let vote = votes.next_back().expect("it answers");
        assert_eq!(matches!(vote, Err(Denial::Lease { .. })), waits, "voter {voter}: {vote:?}");
    }
}
