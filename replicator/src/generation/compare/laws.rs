//! Laws of the verdict: held over every pair of a small world, and over pairs drawn from a larger one.

use proptest::prelude::*;

use super::tests::{generation, state, zeroed};
use super::*;
use crate::units::{NodeId, Term};

fn mirrored(verdict: Verdict) -> Verdict {
    let action = match verdict.action {
        SyncAction::Source(course) => SyncAction::Target(course),
        SyncAction::Target(course) => SyncAction::Source(course),
        SyncAction::NoSync | SyncAction::Stop(_) => verdict.action,
    };
    Verdict { rule: verdict.rule.mirrored(), action }
}

/// The table of semantics §4 read once more, row by row, in words of its own: which row holds for `a` meeting `b`.
fn row_by_the_book(a: &PeerState, b: &PeerState) -> SyncRule {
    let (a_after, b_after) = (after_common(a, b), after_common(b, a));
    let has_common = a.lineage.generations().iter().any(|entry| b.lineage.find(entry.id).is_some());
    let (a_new, b_new) = (just_created(a), just_created(b));
    let is_bad = |one: &PeerState| one.disk <= DiskState::Inconsistent && !serves_without_disk(one);
    let (a_bad, b_bad) = (is_bad(a), is_bad(b));
    let superseded = superseded(&a_after, &b_after);
    let rows = [
        (SyncRule::BothNew, a_new && b_new),
        (SyncRule::BothDamaged, (a_bad || a_new) && (b_bad || b_new)),
        (SyncRule::NewSelf, a_new),
        (SyncRule::NewPeer, b_new),
        (SyncRule::Unrelated, !has_common),
        (SyncRule::Damaged, a_bad || b_bad),
        (SyncRule::BothPrimary, a.role == Role::Primary && b.role == Role::Primary && !superseded),
        (SyncRule::SameGeneration, a_after.is_empty() && b_after.is_empty()),
        (SyncRule::PeerMovedOn, a_after.is_empty() && a.role != Role::Primary),
        (SyncRule::WeMovedOn, b_after.is_empty() && b.role != Role::Primary),
        (SyncRule::Superseded, superseded),
        (SyncRule::SplitBrain, true),
    ];
    rows.into_iter().find(|(_, holds)| *holds).expect("the last one").0
}

/// A Primary whose disk failed holds in memory what its members may lack.
fn serves_without_disk(one: &PeerState) -> bool {
    one.role == Role::Primary && matches!(one.disk, DiskState::Diskless | DiskState::Failed)
}

fn just_created(one: &PeerState) -> bool {
    let ids: Vec<_> = one.lineage.generations().iter().map(|entry| entry.id).collect();
    let untouched = ids == [GenerationId::ZEROED] && one.end == Lsn::ZERO && !one.has_dirty_bits;
    (ids.is_empty() || untouched) && one.role != Role::Primary
}

/// Generations of `a` after the newest one that `b` has too.
fn after_common(a: &PeerState, b: &PeerState) -> Vec<Generation> {
    let mut after = a.lineage.generations().to_vec();
    let known = after.iter().rposition(|entry| b.lineage.find(entry.id).is_some());
    after.drain(..known.map_or(0, |at| at + 1));
    after
}

fn superseded(a_after: &[Generation], b_after: &[Generation]) -> bool {
    let (Some(a), Some(b)) = (a_after.last(), b_after.last()) else { return false };
    a.term != b.term && [a_after, b_after].concat().iter().all(|entry| entry.granted)
}

/// Everything that must hold of the verdict on a pair, whoever computes it.
fn obey(ours: &PeerState, theirs: &PeerState) {
    let verdict = compare(ours, theirs);
    let context = || format!("{verdict:?}\n{ours:?}\n{theirs:?}");
    assert_eq!(mirrored(verdict), compare(theirs, ours), "both ends agree: {}", context());
    assert_eq!(verdict.rule, row_by_the_book(ours, theirs), "the row of the table: {}", context());
    match verdict.action {
        SyncAction::NoSync => obey_equality(ours, theirs, &context),
        SyncAction::Source(course) => obey_course(ours, theirs, verdict, course, &context),
        SyncAction::Target(course) => obey_course(theirs, ours, verdict, course, &context),
        SyncAction::Stop(_) => {}
    }
    obey_orders(ours, theirs, verdict, &context);
}

/// An order to discard changes no verdict but a stop for which it was given, and that only in the peer's favour.
fn obey_orders(ours: &PeerState, theirs: &PeerState, verdict: Verdict, context: &dyn Fn() -> String) {
    let plain = |state: &PeerState| PeerState { discards: Discards::Nothing, ..state.clone() };
    let without = compare(&plain(ours), &plain(theirs));
    assert_eq!(verdict.rule, without.rule, "{}", context());
    let leads_out = [StopReason::SplitBrain, StopReason::DamagedBranch].map(SyncAction::Stop);
    assert!(verdict.action == without.action || leads_out.contains(&without.action), "{}", context());
    if let SyncAction::Target(_) = verdict.action {
        assert!(verdict == without || gives_way(ours), "{}", context());
    }
}

fn gives_way(one: &PeerState) -> bool {
    one.discards != Discards::Nothing && one.role != Role::Primary
}

fn obey_equality(ours: &PeerState, theirs: &PeerState, context: &dyn Fn() -> String) {
    assert_eq!(ours.end, theirs.end, "{}", context());
    assert_eq!(ours.lineage.newest_id(), theirs.lineage.newest_id(), "{}", context());
    for one in [ours, theirs] {
        assert!(one.role != Role::Primary, "a Primary is mirrored: {}", context());
        assert!(one.disk > DiskState::Inconsistent, "{}", context());
        assert!(!one.has_dirty_bits, "bits are never dropped: {}", context());
    }
}

fn obey_course(
    source: &PeerState,
    target: &PeerState,
    verdict: Verdict,
    course: Course,
    context: &dyn Fn() -> String,
) {
    let (after, before) = (after_common(source, target), after_common(target, source));
    let is_superseded = superseded(&after, &before);
    let wins = after.last().map(|entry| entry.term) > before.last().map(|entry| entry.term);
    let target_is_usable = target.disk > DiskState::Inconsistent;
    // The source.
    let ships_from_memory = serves_without_disk(source) && course.method == SyncMethod::CatchUp;
    assert!(source.disk > DiskState::Inconsistent || ships_from_memory, "{}", context());
    assert!(!just_created(source), "{}", context());
    // The target.
    if target.role == Role::Primary && target_is_usable {
        assert!(is_superseded && wins, "a Primary gives way to a granted higher term only: {}", context());
    }
    let ungranted = |branch: &[Generation]| branch.iter().any(|entry| !entry.granted);
    let by_order = gives_way(target) && !(gives_way(source) && verdict.rule == SyncRule::SplitBrain);
    assert!(!(ungranted(&after) && ungranted(&before)) || by_order, "I8: {}", context());
    let may_drop = just_created(target) || (is_superseded && wins) || by_order;
    assert!(before.is_empty() || may_drop, "I8, no history is dropped unasked: {}", context());
    // Where it begins.
    let keeps = course.target_keeps;
    let fork = [after.first(), before.first()].into_iter().flatten().map(|entry| entry.first_lsn.previous());
    let fork = fork.min().unwrap_or(Lsn(u64::MAX));
    assert!(keeps <= source.end && keeps <= target.end, "{}", context());
    let has_common = course.common != GenerationId::default();
    assert!(keeps <= fork || !has_common, "{}", context());
    // How.
    let is_below_a_base = keeps < source.base.1 || keeps < target.base.1;
    let went_back = course.method == SyncMethod::FullResyncWentBack;
    assert_eq!(went_back, has_common && is_below_a_base, "{}", context());
    assert_eq!(went_back, verdict.to_string().ends_with("WentBack"), "it is told: {}", context());
    if course.method == SyncMethod::CatchUp {
        assert!(target_is_usable && has_common, "{}", context());
        assert!(keeps.next() >= source.oldest_kept, "the source keeps the records: {}", context());
        let has_bits = source.has_dirty_bits || target.has_dirty_bits;
        assert!(!has_bits || ships_from_memory, "{}", context());
        assert!(target.stable <= keeps, "I3: {}", context());
        assert!(target.end <= keeps || !ungranted(&after), "what is cut was never stable: {}", context());
    }
}

/// Lineages of up to four generations: every legal choice of a few, behind volumes of zeroes and adopted ones.
fn small_lineages() -> Vec<Vec<Generation>> {
    let other_taker = Generation { term: Term { number: 3, taker: 2 }, ..generation(16, 3, true, 3) };
    let pool = [
        generation(10, 1, true, 1),
        generation(11, 1, true, 2),
        generation(12, 2, false, 2),
        generation(13, 2, true, 3),
        generation(14, 3, true, 2),
        generation(15, 3, false, 3),
        other_taker,
    ];
    let mut lineages = vec![vec![], vec![generation(20, 0, true, 1)]];
    lineages.push(vec![generation(20, 0, true, 1), generation(21, 1, false, 2)]);
    for choice in 0..1_u32 << pool.len() {
        let chosen = pool.iter().enumerate().filter(|(at, _)| choice >> at & 1 == 1).map(|(_, entry)| *entry);
        let lineage: Vec<_> = [zeroed()].into_iter().chain(chosen).collect();
        if lineage.len() <= 4 && Lineage::parse(lineage.clone()).is_ok() {
            lineages.push(lineage);
        }
    }
    lineages
}

/// What a node can say of itself with one of these lineages: every end up to 4 with disks, roles and bits, and with
/// what is kept, known of the peer, and stable.
pub(in crate::generation) fn small_world() -> Vec<PeerState> {
    let mut world = Vec::new();
    for generations in small_lineages() {
        let first = generations.last().map_or(1, |newest| newest.first_lsn.0);
        for end in first - 1..=(first + 1).min(4) {
            for (disk, role, has_dirty_bits) in [
                (DiskState::Inconsistent, Role::Secondary, false),
                (DiskState::Inconsistent, Role::Secondary, true),
                (DiskState::Failed, Role::Primary, false),
                (DiskState::Outdated, Role::Secondary, false),
                (DiskState::Consistent, Role::Secondary, false),
                (DiskState::Consistent, Role::Secondary, true),
                (DiskState::UpToDate, Role::Primary, false),
                (DiskState::UpToDate, Role::Primary, true),
            ] {
                for (oldest_kept, base, stable) in [(1, 0, 0), (end + 1, end.min(2), end.min(1)), (2, 1, end)]
                {
                    let mut one = state(&generations, end);
                    (one.disk, one.role, one.has_dirty_bits) = (disk, role, has_dirty_bits);
                    one.oldest_kept = Lsn(oldest_kept.min(end + 1));
                    one.base.1 = Lsn(base.min(end));
                    one.stable = Lsn(stable);
                    // Not with everything else, but each choice with each lineage, end and disk.
                    one.discards = Discards::ALL[(world.len() / 3 + world.len()) % 3].0;
                    world.push(one);
                }
            }
        }
    }
    world
}

#[test]
fn every_pair_of_a_small_world_obeys() {
    let world = small_world();
    let others: Vec<_> = world.iter().map(|one| PeerState { node: NodeId(1), ..one.clone() }).collect();
    let mut rules = std::collections::BTreeSet::new();
    for ours in &world {
        for theirs in &others {
            obey(ours, theirs);
            rules.insert(compare(ours, theirs).rule);
        }
    }
    assert_eq!(rules.len(), SyncRule::IN_ORDER.len(), "every row is reached: {rules:?}");
}

/// A lineage that goes on from a common beginning for a while, its own way then.
fn branch(common: usize, own: Vec<(u64, bool, u64)>, own_ids: u64) -> Vec<Generation> {
    let mut generations = vec![zeroed()];
    let mut newest = (1, 1);
    for at in 0..common {
        let number = u64::try_from(at).expect("small") + 1;
        newest = (number, number * 10);
        generations.push(generation(number, number, !number.is_multiple_of(5), number * 10));
    }
    for (at, (terms, granted, writes)) in (1..).zip(own) {
        newest = (newest.0 + terms, newest.1 + writes);
        generations.push(generation(own_ids + at, newest.0, granted, newest.1));
    }
    generations
}

fn any_state(own_ids: u64) -> impl Strategy<Value = (usize, PeerState)> {
    let own = proptest::collection::vec((0..3_u64, any::<bool>(), 0..9_u64), 0..8);
    let disk = proptest::sample::select(vec![
        DiskState::Diskless,
        DiskState::Failed,
        DiskState::Inconsistent,
        DiskState::Outdated,
        DiskState::Consistent,
        DiskState::UpToDate,
    ]);
    let marks = (0..40_u64, 0..40_u64, 0..40_u64, 0..40_u64, 0..3_usize);
    (0..50_usize, own, disk, any::<[bool; 2]>(), marks).prop_map(
        move |(common, own, disk, [is_primary, has_dirty_bits], (beyond, kept, base, stable, order))| {
            let generations = branch(common, own, own_ids);
            let end = generations.last().map_or(0, |newest| newest.first_lsn.0 - 1) + beyond / 4;
            let one = PeerState {
                disk,
                has_dirty_bits,
                role: if is_primary { Role::Primary } else { Role::Secondary },
                oldest_kept: Lsn((end + 1).saturating_sub(kept).max(1)),
                base: (GenerationId::default(), Lsn(end.saturating_sub(base))),
                stable: Lsn(end.saturating_sub(stable)),
                discards: Discards::ALL[order].0,
                ..state(&generations, end)
            };
            (common, one)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn pairs_with_long_lineages_obey((_, ours) in any_state(1000), (_, theirs) in any_state(2000)) {
        obey(&ours, &PeerState { node: NodeId(1), ..theirs });
    }

    #[test]
    fn a_node_that_meets_what_it_was_before_obeys((common, ours) in any_state(1000), cut in 0..9_usize) {
        // The peer stopped somewhere on this node's own way.
        let kept = ours.lineage.generations().len().saturating_sub(cut).max(1);
        let earlier = ours.lineage.generations()[..kept].to_vec();
        let end = ours.lineage.generations().get(kept).map_or(ours.end, |next| next.first_lsn.previous());
        let theirs = PeerState { node: NodeId(1), role: Role::Secondary, ..state(&earlier, end.0) };
        obey(&ours, &theirs);
        let verdict = compare(&ours, &theirs);
        let moves_on = matches!(verdict.rule, SyncRule::WeMovedOn | SyncRule::SameGeneration | SyncRule::NewPeer);
        prop_assert!(moves_on || ours.disk <= DiskState::Inconsistent || common == 0, "{verdict:?}");
    }
}
