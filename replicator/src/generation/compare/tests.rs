//! A test for each row of the table of verdicts, and for the accidents that its rows stand against.

use super::*;
use crate::promotion::membership::MembershipRecord;
use crate::units::{Incarnation, NodeId, Term};

pub(super) fn generation(id: u64, term: u64, granted: bool, first: u64) -> Generation {
    Generation { id: GenerationId(id), term: Term { number: term, taker: 1 }, granted, first_lsn: Lsn(first) }
}

pub(super) fn state(generations: &[Generation], end: u64) -> PeerState {
    PeerState {
        introduction: 1,
        node: NodeId(0),
        volume_bytes: 1 << 20,
        role: Role::Secondary,
        disk: DiskState::Consistent,
        lineage: Lineage::parse(generations.to_vec()).unwrap(),
        end: Lsn(end),
        flushed: Lsn(end),
        stable: Lsn(0),
        oldest_kept: Lsn(1),
        base: (GenerationId::default(), Lsn(0)),
        has_dirty_bits: false,
        follows_another: false,
        discards: Discards::Nothing,
        record: MembershipRecord::default(),
        incarnation: Incarnation(1),
        continues: None,
        resync_from: None,
        is_tentative: false,
        configuration_digest: 0,
    }
}

pub(super) fn zeroed() -> Generation {
    Lineage::zeroed().generations()[0]
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
fn a_primary_without_a_disk_brings_a_peer_up_to_date_by_records_or_not_at_all() {
    let primary = PeerState {
        role: Role::Primary,
        disk: DiskState::Diskless,
        oldest_kept: Lsn(5),
        has_dirty_bits: true,
        ..state(&[zeroed()], 9)
    };
    let action = |end| compare(&primary, &state(&[zeroed()], end)).action;
    assert!(matches!(action(4), SyncAction::Source(Course { method: SyncMethod::CatchUp, .. })));
    assert_eq!(action(3), SyncAction::Stop(StopReason::SourceIsDiskless));
    // Once it has stepped down, it is a node with a broken disk.
    let ended = PeerState { role: Role::Secondary, ..primary.clone() };
    let verdict = compare(&ended, &state(&[zeroed()], 4));
    assert_eq!(verdict.rule, SyncRule::Damaged);
    assert!(matches!(verdict.action, SyncAction::Target(_)));
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
    let member = PeerState { node: NodeId(1), ..state(&generations, 9) };
    for node in [0, 2] {
        outdated.node = NodeId(node);
        let verdict = compare(&member, &outdated);
        assert!(matches!(verdict.action, SyncAction::Source(_)), "{verdict:?}");
    }
}

#[test]
fn what_is_alike_in_everything_is_decided_by_the_node_and_not_by_the_run_of_its_daemon() {
    let generations = [zeroed(), generation(7, 1, true, 1)];
    let marked = PeerState { has_dirty_bits: true, ..state(&generations, 9) };
    for incarnations in [(1, 2), (2, 1)] {
        let first = PeerState { incarnation: Incarnation(incarnations.0), ..marked.clone() };
        let second =
            PeerState { node: NodeId(1), incarnation: Incarnation(incarnations.1), ..marked.clone() };
        assert!(matches!(compare(&first, &second).action, SyncAction::Source(_)));
    }
}

#[test]
fn a_volume_of_zeroes_that_was_half_overwritten_or_lost_is_not_equal_to_another() {
    for disk in [DiskState::Inconsistent, DiskState::Failed] {
        let damaged = PeerState { disk, ..state(&[zeroed()], 0) };
        let verdict = compare(&state(&[zeroed()], 0), &damaged);
        assert!(matches!(verdict.action, SyncAction::Stop(_)), "{verdict:?}");
    }
}

#[test]
fn blocks_marked_on_a_volume_of_zeroes_are_not_forgotten() {
    let marked = PeerState { has_dirty_bits: true, ..state(&[zeroed()], 0) };
    let verdict = compare(&marked, &state(&[zeroed()], 0));
    assert!(
        matches!(verdict.action, SyncAction::Source(course) if course.method == SyncMethod::BitmapResync)
    );
}

#[test]
fn a_node_that_ends_in_a_merged_generation_is_not_taken_for_a_rival_that_completed_nothing() {
    let entry = |number| generation(number, number, true, number);
    let mut lineage = Lineage::parse((1..=64).map(entry).collect()).unwrap();
    lineage.append(entry(65), &[GenerationId(1)]);
    let away = state(&[entry(1), entry(2)], 2);
    let verdict = compare(&away, &PeerState { lineage, ..state(&[], 65) });
    assert_eq!(verdict.action, SyncAction::Stop(StopReason::SplitBrain));
}

#[test]
fn what_was_stable_is_never_only_cut_off() {
    let old = [zeroed(), generation(1, 1, true, 1)];
    let new = [zeroed(), generation(1, 1, true, 1), generation(2, 2, true, 91)];
    let target = PeerState { stable: Lsn(95), ..state(&old, 100) };
    let verdict = compare(&target, &state(&new, 120));
    assert!(
        matches!(verdict.action, SyncAction::Target(course) if course.method == SyncMethod::BitmapResync)
    );
}

#[test]
fn an_idle_primary_without_a_new_generation_is_no_target_of_a_peer_that_was_promoted_meanwhile() {
    let old = [zeroed(), generation(1, 1, false, 1)];
    let new = [zeroed(), generation(1, 1, false, 1), generation(2, 2, false, 91)];
    let idle = PeerState { role: Role::Primary, ..state(&old, 90) };
    let verdict = compare(&idle, &state(&new, 90));
    assert_eq!(verdict.rule, SyncRule::SplitBrain);
    let both = compare(&idle, &PeerState { role: Role::Primary, ..state(&new, 90) });
    assert_eq!(both.rule, SyncRule::BothPrimary);
}

#[test]
fn a_damaged_disk_is_no_source_for_a_new_one() {
    let damaged =
        PeerState { disk: DiskState::Inconsistent, ..state(&[zeroed(), generation(1, 1, true, 1)], 9) };
    for new in [state(&[], 0), state(&[zeroed()], 0)] {
        let verdict = compare(&new, &damaged);
        assert_eq!(verdict.rule, SyncRule::BothDamaged);
        assert_eq!(verdict.action, SyncAction::Stop(StopReason::NoUsableDisk));
    }
}

fn discarding(state: PeerState, discards: Discards) -> PeerState {
    PeerState { discards, ..state }
}

fn split_brain() -> (PeerState, PeerState) {
    let common = generation(1, 1, true, 1);
    let ours = state(&[zeroed(), common, generation(2, 2, false, 101)], 110);
    (ours, state(&[zeroed(), common, generation(3, 2, false, 99)], 120))
}

#[test]
fn the_one_secondary_that_has_orders_to_discard_gives_way_by_bitmap_from_the_fork() {
    let (ours, theirs) = split_brain();
    let winner = PeerState { role: Role::Primary, ..theirs };
    let verdict = compare(&discarding(ours, Discards::Changes), &winner);
    let course = Course { common: GenerationId(1), target_keeps: Lsn(98), method: SyncMethod::BitmapResync };
    assert_eq!(verdict, Verdict { rule: SyncRule::SplitBrain, action: SyncAction::Target(course) });
}

#[test]
fn where_both_discard_or_a_primary_does_nothing_is_resolved() {
    let (ours, theirs) = split_brain();
    let both =
        compare(&discarding(ours.clone(), Discards::Changes), &discarding(theirs.clone(), Discards::Changes));
    assert_eq!(both.action, SyncAction::Stop(StopReason::BothDiscard));
    let primary = PeerState { role: Role::Primary, ..discarding(ours, Discards::Everything) };
    assert_eq!(compare(&primary, &theirs).action, SyncAction::Stop(StopReason::SplitBrain));
}

#[test]
fn a_full_resync_after_a_split_brain_is_asked_for_in_words() {
    let (mut ours, theirs) = split_brain();
    // The peer had flushed beyond the fork, as far as this node knows: what was changed since is not all known.
    ours.base = (GenerationId(1), Lsn(99));
    let unknown = compare(&discarding(ours.clone(), Discards::Changes), &theirs);
    assert_eq!(unknown.action, SyncAction::Stop(StopReason::BlocksUnknown));
    let verdict = compare(&discarding(ours, Discards::Everything), &theirs);
    assert!(
        matches!(verdict.action, SyncAction::Target(course) if course.method >= SyncMethod::FullResync),
        "{verdict:?}"
    );
}

#[test]
fn a_damaged_disk_that_wrote_alone_gives_way_only_to_a_full_resync_and_only_by_its_own_order() {
    let common = generation(1, 1, true, 1);
    let mut damaged = state(&[zeroed(), common, generation(2, 2, false, 101)], 200);
    damaged.disk = DiskState::Inconsistent;
    let whole = state(&[zeroed(), common], 100);
    let action = |damaged: &PeerState, whole: &PeerState| compare(whole, damaged).action;
    let stop = SyncAction::Stop(StopReason::DamagedBranch);
    assert_eq!(action(&damaged, &discarding(whole.clone(), Discards::Everything)), stop);
    let changes = discarding(damaged.clone(), Discards::Changes);
    assert_eq!(action(&changes, &whole), SyncAction::Stop(StopReason::BlocksUnknown));
    let everything = action(&discarding(damaged, Discards::Everything), &whole);
    assert!(
        matches!(everything, SyncAction::Source(course) if course.method == SyncMethod::FullResync),
        "{everything:?}"
    );
}
