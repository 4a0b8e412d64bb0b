//! Every change of a list by itself, and the two laws that make changes safe in a small world: majorities of lists that
//! follow one another have a voter in common, and no list gives a seat to somebody new while another holds it.

use super::*;
use crate::units::{Incarnation, VOTERS_MAX};

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
