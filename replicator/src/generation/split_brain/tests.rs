//! Laws of the policies: both ends choose the same loser, and never one that the case forbids.

use super::*;
use crate::generation::compare::compare;
use crate::generation::lineage::{Generation, Lineage};
use crate::promotion::membership::MembershipRecord;
use crate::units::{GenerationId, Incarnation, Lsn, NodeId, Term};

fn state(own: u64, first: u64, end: u64, role: Role) -> PeerState {
    let term = |number| Term { number, taker: 1 };
    let forced = Generation { id: GenerationId(own), term: term(2), granted: false, first_lsn: Lsn(first) };
    let lineage = Lineage::parse(vec![Lineage::zeroed().generations()[0], forced]).expect("in order");
    PeerState {
        introduction: 1,
        node: NodeId(0),
        volume_bytes: 1 << 20,
        role,
        disk: DiskState::Consistent,
        lineage,
        end: Lsn(end),
        flushed: Lsn(end),
        stable: Lsn(0),
        oldest_kept: Lsn(1),
        base: (GenerationId::default(), Lsn(0)),
        has_dirty_bits: false,
        follows_another: false,
        discards: Discards::Nothing,
        record: MembershipRecord::default(),
        incarnation: Incarnation(own),
        continues: None,
        resync_from: None,
        is_tentative: false,
        configuration_digest: 0,
    }
}

fn mirrored(chosen: Option<(Side, Policy)>) -> Option<(Side, Policy)> {
    chosen.map(|(side, policy)| match side {
        Side::Ours => (Side::Theirs, policy),
        Side::Theirs => (Side::Ours, policy),
    })
}

const ROLES: [Role; 2] = [Role::Primary, Role::Secondary];

/// Every pair of roles, forks and ends, with every policy, legal or not, in its case.
fn every_meeting(mut check: impl FnMut(Policies, &PeerState, &PeerState)) {
    for (our_role, their_role) in ROLES.into_iter().flat_map(|one| ROLES.map(|other| (one, other))) {
        for (policy, _) in Policy::ALL {
            let policies = Policies { no_primary: policy, one_primary: policy, two_primaries: policy };
            for (first, ends) in [(11, [10, 11, 14]), (9, [8, 10, 14])] {
                for our_end in ends {
                    for their_end in [10, 12, 14] {
                        let ours = state(7, first, our_end, our_role);
                        check(policies, &ours, &state(8, 11, their_end, their_role));
                    }
                }
            }
        }
    }
}

fn chosen(policies: &Policies, ours: &PeerState, theirs: &PeerState) -> Option<(Side, Policy)> {
    loser(policies, &compare(ours, theirs), ours, theirs)
}

#[test]
fn both_ends_choose_the_same_loser_or_neither_does() {
    every_meeting(|policies, ours, theirs| {
        let by_us = chosen(&policies, ours, theirs);
        assert_eq!(mirrored(by_us), chosen(&policies, theirs, ours), "{ours:?}\n{theirs:?}");
    });
}

#[test]
fn a_primary_gives_way_only_to_another_primary() {
    every_meeting(|policies, ours, theirs| {
        if ours.role == Role::Primary && theirs.role != Role::Primary {
            assert_ne!(chosen(&policies, ours, theirs).map(|(side, _)| side), Some(Side::Ours));
        }
    });
}

#[test]
fn equal_changes_resolve_nothing_unless_roles_decide() {
    every_meeting(|policies, ours, theirs| {
        let divergence = divergence(ours, theirs).expect("a common generation");
        if divergence.our_writes == divergence.their_writes {
            let by_role = chosen(&policies, ours, theirs);
            assert!(by_role.is_none_or(|(_, policy)| policy == Policy::DiscardSecondary), "{by_role:?}");
        }
    });
}

#[test]
fn each_policy_chooses_whom_it_says() {
    let (small, large) = (state(7, 11, 11, Role::Secondary), state(8, 11, 14, Role::Secondary));
    let unwritten = state(9, 11, 10, Role::Secondary);
    let with = |policy| Policies { no_primary: policy, one_primary: policy, two_primaries: policy };
    let least = with(Policy::DiscardLeastChanges);
    let zero = with(Policy::DiscardZeroChanges);
    let secondary = with(Policy::DiscardSecondary);
    assert_eq!(chosen(&Policies::default(), &small, &large), None);
    assert_eq!(chosen(&least, &small, &large), Some((Side::Ours, Policy::DiscardLeastChanges)));
    assert_eq!(chosen(&zero, &small, &large), None);
    assert_eq!(chosen(&zero, &large, &unwritten), Some((Side::Theirs, Policy::DiscardZeroChanges)));
    assert_eq!(chosen(&secondary, &small, &large), None, "there is no Primary whose Secondary it could be");
    let primary = PeerState { role: Role::Primary, ..small.clone() };
    assert_eq!(chosen(&secondary, &primary, &large), Some((Side::Theirs, Policy::DiscardSecondary)));
    assert_eq!(chosen(&least, &primary, &large), None, "the Primary has fewer");
    let both = [primary, PeerState { role: Role::Primary, ..large }];
    assert_eq!(chosen(&least, &both[0], &both[1]), Some((Side::Ours, Policy::DiscardLeastChanges)));
}

#[test]
fn a_damaged_disk_is_never_resolved_by_a_policy() {
    let policy = Policy::DiscardLeastChanges;
    let policies = Policies { no_primary: policy, one_primary: policy, two_primaries: policy };
    let damaged = PeerState { disk: DiskState::Inconsistent, ..state(7, 11, 11, Role::Secondary) };
    assert_eq!(chosen(&policies, &damaged, &state(8, 11, 14, Role::Secondary)), None);
}
