//! Every change of a list by itself, and the two laws that make changes safe in a small world: majorities of lists that
//! follow one another have a voter in common, and no list gives a seat to somebody new while another holds it.

use super::*;
use crate::generation::lineage::Position;
use crate::peer::message::{Basis, Denial, VoteRequest, VoteStage};
use crate::promotion::voting::{
    Reign, SeenPrimary, StoreDenial, Voter, VoterView, may_grant, may_replace, may_store,
};
use crate::units::{Incarnation, Span, Term, Tick, VOTERS_MAX};

const A: NodeId = NodeId(0);
const B: NodeId = NodeId(1);
const T: NodeId = NodeId(2);

fn list(ids: &[u64]) -> VoterList {
    let mut list = VoterList::default();
    for (at, id) in ids.iter().enumerate() {
        list.ids[at] = VoterId(*id);
    }
    list
}

fn linked(node: NodeId, voter: u64) -> Claimant {
    Claimant { node, voter: VoterId(voter), is_new: false, is_accepted: false }
}

fn new(node: NodeId, voter: u64) -> Claimant {
    Claimant { is_new: true, ..linked(node, voter) }
}

/// The next list of Primary A, where two of three have to store it.
fn next(ids: &[u64], claimants: &[Claimant]) -> Option<VoterList> {
    let in_sync = InSyncSet::of(A, Incarnation(11));
    Seats { list: &list(ids), in_sync: &in_sync, linked: claimants, needed: 2 }.next()
}

#[test]
fn a_seat_is_emptied_first_and_given_away_only_then() {
    let nobody = NOBODY.0;
    assert_eq!(next(&[1, 2, 3], &[new(B, 20), linked(T, 3)]), Some(list(&[1, nobody, 3])));
    assert_eq!(next(&[1, nobody, 3], &[new(B, 20), linked(T, 3)]), Some(list(&[1, 20, 3])));
    assert_eq!(next(&[1, 20, 3], &[new(B, 20), linked(T, 3)]), None, "it has it");
}

#[test]
fn a_seat_is_emptied_only_for_somebody_new_and_while_enough_others_can_store_that() {
    assert_eq!(next(&[1, 2, 3], &[new(B, 20)]), None, "the tiebreaker is silent");
    assert_eq!(next(&[1, 2, 3], &[new(B, 20), new(T, 30)]), None, "two that forgot make no majority");
    assert_eq!(next(&[1, 2, 3], &[linked(B, 20), linked(T, 3)]), None, "it remembers another seat");
    assert_eq!(next(&[1, 2, 3], &[linked(B, 2), linked(T, 3)]), None, "nobody is new");
}

#[test]
fn a_seat_that_was_never_taken_is_given_to_whoever_is_there() {
    assert_eq!(next(&[1, 0, 0], &[linked(B, 2)]), Some(list(&[1, 2, 0])));
    assert_eq!(next(&[1, 2, 0], &[linked(B, 2), new(T, 3)]), Some(list(&[1, 2, 3])));
}

#[test]
fn the_seat_of_a_member_of_the_in_sync_set_is_not_emptied() {
    let in_sync = InSyncSet::of(A, Incarnation(11)).with(B, Incarnation(12));
    let claimants = [new(B, 20), linked(T, 3)];
    let seats = Seats { list: &list(&[1, 2, 3]), in_sync: &in_sync, linked: &claimants, needed: 2 };
    assert_eq!(seats.next(), None);
}

#[test]
fn an_operators_word_takes_a_new_voter_in_without_the_others() {
    let accepted = Claimant { is_accepted: true, ..new(B, 20) };
    assert_eq!(next(&[1, 2, 3], &[accepted]), Some(list(&[1, 20, 3])));
}

#[test]
fn a_list_fits_whoever_was_met_and_an_empty_seat_fits_everybody() {
    assert!(fits(&list(&[1, 2, 0]), &list(&[1, 2, 3])), "one was never met");
    assert!(!fits(&list(&[1, 2, 3]), &list(&[1, 9, 3])));
    assert!(fits(&list(&[1, 2, 3]), &list(&[1, NOBODY.0, 3])));
    assert_eq!(met_by(&list(&[1, NOBODY.0, 3])), list(&[1, 0, 3]));
    assert!(names(&list(&[1, 2, 3]), B, &list(&[0, 2, 0])));
    assert!(!names(&list(&[1, NOBODY.0, 3]), B, &list(&[0, NOBODY.0, 0])));
}

#[test]
fn a_configuration_with_more_or_fewer_voters_than_the_list_has_seats_is_noticed() {
    assert!(are_seats_of(&list(&[1, 2, 3]), 3));
    assert!(are_seats_of(&list(&[1, NOBODY.0, 3]), 3), "an empty seat is a seat");
    for voters in [0, 1, 2, 4, 5, VOTERS_MAX] {
        assert!(!are_seats_of(&list(&[1, 2, 3]), voters), "{voters}");
    }
}

/// Every set of seats that makes a majority of a list.
fn majorities(list: &VoterList, voters: usize) -> Vec<u32> {
    let has_seat = |set: u32| (0..voters).all(|at| set & (1 << at) == 0 || !is_free(list.ids[at]));
    let all = 0u32..1 << voters;
    all.filter(|set| has_seat(*set) && set.count_ones() as usize > voters / 2).collect()
}

#[test]
fn majorities_of_lists_that_follow_one_another_have_a_voter_in_common_that_remembers() {
    for voters in [3usize, 5, 7] {
        let full: Vec<u64> = (1..=u64::try_from(voters).expect("few")).collect();
        let mut emptied = full.clone();
        emptied[1] = NOBODY.0;
        let mut filled = full.clone();
        filled[1] = 20;
        for (before, after) in [(&full, &emptied), (&emptied, &filled), (&full, &full)] {
            let (before, after) = (list(before), list(after));
            for one in majorities(&before, voters) {
                for other in majorities(&after, voters) {
                    let same = |at: &usize| before.ids[*at] == after.ids[*at] && one & other & (1 << at) != 0;
                    assert!((0..voters).any(|at| same(&at)), "{voters} voters: {one:b} and {other:b}");
                }
            }
        }
        // In one step they would not: this is what the empty seat is for.
        let (full, filled) = (list(&full), list(&filled));
        let meet = |one: u32, other: u32| (0..voters).any(|at| at != 1 && one & other & (1 << at) != 0);
        let is_unsafe = majorities(&full, voters)
            .into_iter()
            .any(|one| majorities(&filled, voters).into_iter().any(|other| !meet(one, other)));
        assert!(is_unsafe, "{voters} voters");
    }
}

fn record(number: u64, primary: NodeId, voters: VoterList) -> MembershipRecord {
    let in_sync = InSyncSet::of(A, Incarnation(11)).with(B, Incarnation(12));
    let term = Term { number, taker: 9 };
    MembershipRecord { term, version: 3, primary: Some(primary), in_sync, voters }
}

/// A voter of three that has heard nothing from the Primary for a long time.
fn voter(node: NodeId, record: &MembershipRecord, known: VoterList) -> VoterView<'_> {
    VoterView {
        record,
        node,
        position: None,
        incarnation: Incarnation(u64::from(node.0) + 11),
        continues: None,
        now: Tick(60_000_000),
        started: Tick(0),
        last_primary_frame: None,
        reign: Reign::MayLast,
        seen_primary: SeenPrimary::Nobody,
        peer_timeout: Span::from_millis(3000),
        asks_a_majority: true,
        has_usable_disk: true,
        is_settled: true,
        voters: 3,
        known,
    }
}

/// B, a member by its own record, asks for term 6 by this list.
fn asks(voters: VoterList) -> VoteRequest {
    let record = record(6, B, voters);
    VoteRequest {
        round: 1,
        stage: VoteStage::Take,
        candidate: B,
        incarnation: Incarnation(12),
        basis: Basis::Member { continues: Incarnation(12) },
        position: Position::default(),
        record: MembershipRecord { in_sync: InSyncSet::of(B, Incarnation(12)), ..record },
        peer_is_fenced: false,
    }
}

#[test]
fn a_reinstalled_tiebreaker_promotes_no_stale_replica() {
    let empty = MembershipRecord::default();
    let known = list(&[0, 0, 30]);
    let reinstalled = voter(T, &empty, known);
    assert_eq!(may_grant(&reinstalled, &asks(list(&[1, 2, 3]))), Err(Denial::OtherVoters));
    let adapted = asks(list(&[1, 2, 30]));
    assert_eq!(may_grant(&reinstalled, &adapted), Err(Denial::EmptyRecord));
    // The replica that remembers refuses the new identity in the list.
    let stale = record(5, A, list(&[1, 2, 3]));
    assert_eq!(may_grant(&voter(B, &stale, list(&[1, 2, 3])), &adapted), Err(Denial::OtherVoters));
    // And it is no place to record anything before a record names it.
    let storing = Voter { node: T, known: &known, asks_a_majority: true };
    assert_eq!(may_store(&empty, storing, &stale, A), Err(StoreDenial::OtherVoters));
    assert_eq!(may_replace(&empty, storing, &record(5, A, list(&[1, 2, 30]))), Ok(()));
}

#[test]
fn while_two_nodes_become_three_old_and_new_configuration_make_no_two_majorities() {
    // A and the tiebreaker have the old configuration, B and C, in the tiebreaker's place, the new one.
    let (known, as_new) = (list(&[1, 2, 3]), list(&[1, 2, 30]));
    let (stored, empty) = (record(5, A, known), MembershipRecord::default());
    let c = voter(T, &empty, as_new);
    for request in [asks(known), asks(as_new)] {
        assert!(may_grant(&c, &request).is_err(), "C is no voter yet, so B has no majority with it");
    }
    assert_eq!(
        may_grant(&voter(B, &stored, known), &asks(as_new)),
        Err(Denial::OtherVoters),
        "nor with itself"
    );
    // Where the number of voters changes too, whoever is configured for another one does not vote at all.
    for voters in [2, 4, 5] {
        let view = VoterView { voters, ..voter(A, &stored, known) };
        assert_eq!(may_grant(&view, &asks(known)), Err(Denial::OtherVoters), "{voters} voters");
    }
    assert_eq!(may_grant(&voter(A, &stored, known), &asks(known)), Ok(()), "A and B agree on who votes");
}
