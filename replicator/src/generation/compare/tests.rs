//! Laws of the verdict: one rule for every pair, mirrored verdicts, and a test for each row.

use super::*;
use crate::promotion::membership::MembershipRecord;
use crate::units::{Incarnation, Term};

fn generation(id: u64, term: u64, granted: bool, first: u64) -> Generation {
    Generation { id: GenerationId(id), term: Term { number: term, taker: 1 }, granted, first_lsn: Lsn(first) }
}

fn state(generations: &[Generation], end: u64) -> PeerState {
    PeerState {
        introduction: 1,
        volume_bytes: 1 << 20,
        role: Role::Secondary,
        disk: DiskState::Consistent,
        lineage: Lineage::parse(generations.to_vec()).unwrap(),
        end: Lsn(end),
        flushed: Lsn(end),
        oldest_kept: Lsn(1),
        base: (GenerationId::default(), Lsn(0)),
        has_dirty_bits: false,
        follows_another: false,
        record: MembershipRecord::default(),
        incarnation: Incarnation(1),
        continues: None,
        resync_from: None,
        configuration_digest: 0,
    }
}

fn zeroed() -> Generation {
    Lineage::zeroed().generations()[0]
}

fn mirrored(verdict: Verdict) -> Verdict {
    let rule = match verdict.rule {
        SyncRule::NewSelf => SyncRule::NewPeer,
        SyncRule::NewPeer => SyncRule::NewSelf,
        SyncRule::PeerMovedOn => SyncRule::WeMovedOn,
        SyncRule::WeMovedOn => SyncRule::PeerMovedOn,
        other => other,
    };
    let action = match verdict.action {
        SyncAction::Source(course) => SyncAction::Target(course),
        SyncAction::Target(course) => SyncAction::Source(course),
        other => other,
    };
    Verdict { rule, action }
}

/// Every lineage of up to three generations over a small set, with every end, disk, role and flag.
fn small_world() -> Vec<PeerState> {
    let choices: [&[Generation]; 10] = [
        &[],
        &[zeroed()],
        &[zeroed(), generation(1, 1, true, 1)],
        &[zeroed(), generation(1, 1, true, 1), generation(2, 2, true, 4)],
        &[zeroed(), generation(1, 1, true, 1), generation(3, 3, true, 3)],
        &[zeroed(), generation(1, 1, true, 1), generation(4, 2, false, 4)],
        &[zeroed(), generation(1, 1, true, 1), generation(5, 1, true, 5)],
        &[zeroed(), generation(1, 1, true, 1), generation(2, 2, true, 4), generation(6, 4, true, 6)],
        &[generation(7, 0, true, 1)],
        &[generation(7, 0, true, 1), generation(8, 1, false, 2)],
    ];
    let mut world = Vec::new();
    for generations in choices {
        let first = generations.last().map_or(1, |newest| newest.first_lsn.0);
        for end in [first - 1, first + 3] {
            for disk in
                [DiskState::Diskless, DiskState::Inconsistent, DiskState::Outdated, DiskState::UpToDate]
            {
                for role in [Role::Primary, Role::Secondary] {
                    for (oldest, base, bits) in [(1, 0, false), (4, 0, true), (4, 3, false)] {
                        let mut one = state(generations, end);
                        one.disk = disk;
                        one.role = role;
                        one.oldest_kept = Lsn(oldest);
                        one.base.1 = Lsn(base);
                        one.has_dirty_bits = bits;
                        world.push(one);
                    }
                }
            }
        }
    }
    world
}

#[test]
fn both_ends_reach_mirrored_verdicts_for_every_pair_of_a_small_world() {
    let world = small_world();
    for ours in &world {
        for theirs in &world {
            let theirs = &PeerState { incarnation: Incarnation(2), ..theirs.clone() };
            let verdict = compare(ours, theirs);
            assert_eq!(mirrored(verdict), compare(theirs, ours), "{ours:?}\n{theirs:?}");
        }
    }
}

#[test]
fn a_target_never_keeps_more_than_the_source_has() {
    let world = small_world();
    for ours in &world {
        for theirs in &world {
            if let SyncAction::Source(course) = compare(ours, theirs).action {
                assert!(course.target_keeps <= ours.end);
                assert!(course.target_keeps <= theirs.end);
            }
        }
    }
}

#[test]
fn nothing_is_copied_between_two_volumes_of_zeroes() {
    let verdict = compare(&state(&[zeroed()], 0), &state(&[zeroed()], 0));
    assert_eq!(verdict, Verdict { rule: SyncRule::BothNew, action: SyncAction::NoSync });
}

#[test]
fn two_new_volumes_of_unknown_content_wait_for_a_decision() {
    let verdict = compare(&state(&[], 0), &state(&[zeroed()], 0));
    assert_eq!(verdict.action, SyncAction::Stop(StopReason::NothingDecided));
}

#[test]
fn a_returning_primary_cuts_what_the_new_reign_never_saw_and_catches_up() {
    let old = [zeroed(), generation(1, 1, true, 1)];
    let new = [zeroed(), generation(1, 1, true, 1), generation(2, 2, true, 119)];
    let mut promoted = state(&new, 300);
    promoted.role = Role::Primary;
    let verdict = compare(&state(&old, 120), &promoted);
    assert_eq!(verdict.rule, SyncRule::PeerMovedOn);
    let course = Course { common: GenerationId(1), target_keeps: Lsn(118), method: SyncMethod::CatchUp };
    assert_eq!(verdict.action, SyncAction::Target(course));
}

#[test]
fn a_cut_is_not_enough_below_a_reign_that_no_majority_granted() {
    let old = [zeroed(), generation(1, 1, true, 1)];
    let forced = [zeroed(), generation(1, 1, true, 1), generation(2, 2, false, 91)];
    let verdict = compare(&state(&old, 100), &state(&forced, 95));
    assert!(
        matches!(verdict.action, SyncAction::Target(course) if course.method == SyncMethod::BitmapResync)
    );
    let verdict = compare(&state(&old, 90), &state(&forced, 95));
    assert!(matches!(verdict.action, SyncAction::Target(course) if course.method == SyncMethod::CatchUp));
}

#[test]
fn a_running_primary_is_the_source_even_if_its_peer_was_faster_to_its_disk() {
    let generations = [zeroed(), generation(1, 1, true, 1)];
    let mut primary = state(&generations, 100);
    primary.role = Role::Primary;
    let verdict = compare(&primary, &state(&generations, 98));
    assert!(matches!(verdict.action, SyncAction::Source(course) if course.target_keeps == Lsn(98)));
}

#[test]
fn a_damaged_disk_is_the_target_whatever_its_lsn() {
    let generations = [zeroed(), generation(1, 1, true, 1)];
    let mut damaged = state(&generations, 200);
    damaged.disk = DiskState::Inconsistent;
    let verdict = compare(&damaged, &state(&generations, 100));
    assert_eq!(verdict.rule, SyncRule::Damaged);
    assert!(
        matches!(verdict.action, SyncAction::Target(course) if course.method == SyncMethod::BitmapResync)
    );
}

#[test]
fn a_damaged_disk_that_wrote_alone_is_not_overwritten_unasked() {
    let common = generation(1, 1, true, 1);
    let mut damaged = state(&[zeroed(), common, generation(2, 2, true, 101)], 200);
    damaged.disk = DiskState::Inconsistent;
    let verdict = compare(&state(&[zeroed(), common], 100), &damaged);
    assert_eq!(verdict.action, SyncAction::Stop(StopReason::DamagedBranch));
}

#[test]
fn of_two_granted_reigns_the_later_one_wins() {
    let common = generation(1, 1, true, 1);
    let earlier = state(&[zeroed(), common, generation(2, 2, true, 101)], 100);
    let later = state(&[zeroed(), common, generation(3, 3, true, 99)], 120);
    let verdict = compare(&earlier, &later);
    assert_eq!(verdict.rule, SyncRule::Superseded);
    assert!(matches!(verdict.action, SyncAction::Target(course) if course.target_keeps == Lsn(98)));
}

#[test]
fn two_branches_of_which_one_was_forced_are_a_split_brain() {
    let common = generation(1, 1, true, 1);
    let forced = state(&[zeroed(), common, generation(2, 2, false, 101)], 110);
    let granted = state(&[zeroed(), common, generation(3, 3, true, 99)], 120);
    assert_eq!(compare(&forced, &granted).action, SyncAction::Stop(StopReason::SplitBrain));
}

#[test]
fn a_disk_older_than_its_peer_knows_it_to_be_went_back_in_time() {
    let generations = [zeroed(), generation(1, 1, true, 1)];
    let mut source = state(&generations, 100);
    source.role = Role::Primary;
    source.base = (GenerationId(1), Lsn(90));
    let verdict = compare(&source, &state(&generations, 60));
    assert!(
        matches!(verdict.action, SyncAction::Source(course) if course.method == SyncMethod::FullResyncWentBack)
    );
}

#[test]
fn volumes_of_different_origin_never_meet() {
    let ours = state(&[generation(7, 0, true, 1)], 5);
    let theirs = state(&[generation(9, 0, true, 1)], 5);
    assert_eq!(compare(&ours, &theirs).action, SyncAction::Stop(StopReason::Unrelated));
}

#[test]
fn a_volume_of_zeroes_can_catch_up_as_long_as_every_record_is_kept() {
    let mut primary = state(&[zeroed(), generation(1, 1, true, 1)], 50);
    primary.role = Role::Primary;
    let verdict = compare(&primary, &state(&[zeroed()], 0));
    assert_eq!(verdict.rule, SyncRule::NewPeer);
    assert!(matches!(verdict.action, SyncAction::Source(course) if course.method == SyncMethod::CatchUp));
    primary.oldest_kept = Lsn(2);
    let verdict = compare(&primary, &state(&[zeroed()], 0));
    assert!(matches!(verdict.action, SyncAction::Source(course) if course.method != SyncMethod::CatchUp));
}

#[test]
fn of_two_equal_ends_the_copy_that_was_called_outdated_is_the_target_whoever_holds_the_marks() {
    let generations = [zeroed(), generation(7, 1, true, 1)];
    let mut outdated =
        PeerState { disk: DiskState::Outdated, has_dirty_bits: true, ..state(&generations, 9) };
    let member =
        PeerState { disk: DiskState::Consistent, incarnation: Incarnation(1), ..state(&generations, 9) };
    for incarnation in [1, 9] {
        outdated.incarnation = Incarnation(incarnation);
        let verdict = compare(&member, &outdated);
        assert!(matches!(verdict.action, SyncAction::Source(_)), "{verdict:?}");
    }
}
