//! Why the verdict is what it is: for each row of the table before the one that decided, what keeps it from holding.
//! Decides nothing.

use crate::generation::compare::{
    Course, Pair, SyncAction, SyncMethod, Verdict, compare, is_damaged, is_new,
};
use crate::generation::lineage::Generation;
use crate::generation::rule::SyncRule;
use crate::peer::message::PeerState;
use crate::state::Role;
use crate::units::{GenerationId, Lsn};

/// A verdict with its reasons.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reasoning {
    /// What was decided.
    pub verdict: Verdict,
    /// The newest generation that both have.
    pub common: Option<GenerationId>,
    /// The last write before the first generation after it, on either side; none if neither has one.
    pub fork: Option<Lsn>,
    /// The rows that were checked before, and what keeps each of them from holding.
    pub refuted: Vec<(SyncRule, String)>,
    /// Why the target is brought up to date in this way and no cheaper one.
    pub method: Option<String>,
}

impl Reasoning {
    /// Up to where the two are known to have had the same writes: the lowest of the fork and both ends.
    #[must_use]
    pub fn common_point(&self, ours: &PeerState, theirs: &PeerState) -> Lsn {
        if self.common.is_none() {
            return Lsn::ZERO;
        }
        self.fork.unwrap_or(Lsn(u64::MAX)).min(ours.end).min(theirs.end)
    }
}

/// The verdict on two states, with its reasons.
#[must_use]
pub fn reasoning(ours: &PeerState, theirs: &PeerState) -> Reasoning {
    let pair = Pair::new(ours, theirs);
    let verdict = compare(ours, theirs);
    let before = SyncRule::IN_ORDER.into_iter().take_while(|rule| *rule != verdict.rule);
    let fork = Some(pair.fork()).filter(|fork| *fork < Lsn(u64::MAX));
    Reasoning {
        verdict,
        common: pair.common,
        fork,
        refuted: before.map(|rule| (rule, refutation(&pair, rule))).collect(),
        method: match verdict.action {
            SyncAction::Source(course) => Some(method(course, ("this node", ours), ("the peer", theirs))),
            SyncAction::Target(course) => Some(method(course, ("the peer", theirs), ("this node", ours))),
            SyncAction::NoSync | SyncAction::Stop(_) => None,
        },
    }
}

/// Why a target is brought up to date in this way and no cheaper one.
fn method(course: Course, source: (&str, &PeerState), target: (&str, &PeerState)) -> String {
    let keeps = course.target_keeps;
    match course.method {
        SyncMethod::CatchUp => format!(
            "the journal of {} holds every record after write {keeps} (the oldest it keeps is {})",
            source.0, source.1.oldest_kept
        ),
        SyncMethod::FullResync if course.common == GenerationId::default() => {
            "there is no common generation to begin from".to_owned()
        }
        SyncMethod::FullResync => format!("{} has orders to discard everything that it holds", target.0),
        SyncMethod::FullResyncWentBack => {
            let (knows, of, base) = match keeps < source.1.base.1 {
                true => (source.0, target.0, source.1.base.1),
                false => (target.0, source.0, target.1.base.1),
            };
            format!(
                "{knows} knows that {of} had flushed up to write {base}, but the two meet at write {keeps}: one disk is \
                 older than it was, restored from a backup perhaps"
            )
        }
        SyncMethod::BitmapResync if is_damaged(target.1) => {
            format!("the disk of {} is {}: records alone do not make it whole", target.0, target.1.disk)
        }
        SyncMethod::BitmapResync if source.1.has_dirty_bits || target.1.has_dirty_bits => {
            let who = if source.1.has_dirty_bits { source.0 } else { target.0 };
            format!("{who} has marked blocks in which the other may differ")
        }
        SyncMethod::BitmapResync if keeps.next() < source.1.oldest_kept => format!(
            "the journal of {} has left behind what comes after write {keeps}: the oldest it keeps is {}",
            source.0, source.1.oldest_kept
        ),
        SyncMethod::BitmapResync => format!(
            "what {} holds after write {keeps} may be in its data area already, so that its journal cannot take it back",
            target.0
        ),
    }
}

/// What keeps a row from holding, where it does not hold.
fn refutation(pair: &Pair<'_>, rule: SyncRule) -> String {
    let (ours, theirs) = (pair.ours, pair.theirs);
    let sides = [("this node", ours, pair.our_branch), ("the peer", theirs, pair.their_branch)];
    let usable = |state: &PeerState| !is_damaged(state) && !is_new(state);
    match rule {
        SyncRule::BothNew => {
            let (who, state, _) = first(&sides, |state| !is_new(state));
            format!("the volume of {who} was written: {}", content(state))
        }
        SyncRule::BothDamaged => {
            let (who, state, _) = first(&sides, usable);
            format!("{who} has a usable copy: its disk is {}", state.disk)
        }
        SyncRule::NewSelf => format!("this volume was written: {}", content(ours)),
        SyncRule::NewPeer => format!("the peer's volume was written: {}", content(theirs)),
        SyncRule::Unrelated => {
            format!("both have generation {}", pair.common.unwrap_or_default())
        }
        SyncRule::Damaged => {
            format!("both disks hold a usable copy: {} here, {} there", ours.disk, theirs.disk)
        }
        SyncRule::BothPrimary => match sides.iter().find(|(_, state, _)| state.role != Role::Primary) {
            Some((who, state, _)) => format!("{who} is {}", state.role),
            None => "a majority granted one of them a later reign".to_owned(),
        },
        SyncRule::SameGeneration => {
            let has_branch = sides.iter().filter(|(_, _, branch)| !branch.is_empty());
            let counts: Vec<String> = has_branch
                .map(|(who, _, branch)| format!("{who} has {} after the common one", count(branch)))
                .collect();
            counts.join("; ")
        }
        SyncRule::PeerMovedOn => moved_on(&sides[0]),
        SyncRule::WeMovedOn => moved_on(&sides[1]),
        SyncRule::Superseded => not_superseded(&sides),
        SyncRule::SplitBrain => "it always holds".to_owned(),
    }
}

type Side<'a> = (&'static str, &'a PeerState, &'a [Generation]);

/// The first side of which something is true that must be true of one.
fn first<'s, 'a>(sides: &'s [Side<'a>; 2], is_so: impl Fn(&PeerState) -> bool) -> &'s Side<'a> {
    sides.iter().find(|(_, state, _)| is_so(state)).unwrap_or(&sides[1])
}

/// What a node that should stand at the common generation has against it.
fn moved_on((who, state, branch): &Side<'_>) -> String {
    match branch {
        [] if state.role == Role::Primary => {
            format!("{who} stands at the common generation, but runs as Primary and may write at any moment")
        }
        _ => format!("{who} has {} after the common one", count(branch)),
    }
}

fn not_superseded(sides: &[Side<'_>; 2]) -> String {
    if let Some((who, _, _)) = sides.iter().find(|(_, _, branch)| branch.is_empty()) {
        return format!("{who} has no generation after the common one");
    }
    let ungranted = |(who, _, branch): &Side<'_>| {
        let entry = branch.iter().find(|entry| !entry.granted)?;
        Some(format!("no majority granted generation {} of {who}", entry.id))
    };
    let found: Vec<String> = sides.iter().filter_map(ungranted).collect();
    match found.is_empty() {
        true => "both end in the same term".to_owned(),
        false => found.join("; "),
    }
}

fn count(branch: &[Generation]) -> String {
    match branch.len() {
        1 => "a generation".to_owned(),
        many => format!("{many} generations"),
    }
}

/// What a volume that is not new has.
fn content(state: &PeerState) -> String {
    match (state.end, state.lineage.newest()) {
        _ if state.role == Role::Primary => "it runs as Primary".to_owned(),
        (Lsn::ZERO, Some(_)) if state.has_dirty_bits => "it has marked blocks as dirty".to_owned(),
        (Lsn::ZERO, Some(newest)) => format!("its history begins with generation {}", newest.id),
        (end, _) => format!("up to write {end}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generation::compare::laws::small_world;
    use crate::generation::lineage::Lineage;
    use crate::generation::split_brain::Discards;
    use crate::state::DiskState;
    use crate::units::{NodeId, Term};

    #[test]
    fn each_row_before_the_one_that_decided_is_refuted_and_none_behind_it() {
        let world = small_world();
        for (ours, theirs) in world
            .iter()
            .step_by(7)
            .flat_map(|ours| world.iter().step_by(11).map(move |theirs| (ours, theirs)))
        {
            let theirs = PeerState { node: NodeId(1), ..theirs.clone() };
            let Reasoning { verdict, refuted, .. } = reasoning(ours, &theirs);
            let rules: Vec<SyncRule> = refuted.iter().map(|(rule, _)| *rule).collect();
            let at = SyncRule::IN_ORDER.iter().position(|rule| *rule == verdict.rule).expect("a row");
            assert_eq!(rules, SyncRule::IN_ORDER[..at]);
            assert!(refuted.iter().all(|(_, why)| !why.is_empty()), "{refuted:?}");
        }
    }

    #[test]
    fn a_full_resync_by_order_is_not_said_to_be_for_want_of_a_common_generation() {
        let lineage = |id| {
            let generation =
                Generation { id: GenerationId(id), granted: false, first_lsn: Lsn(5), term: Term::ZERO };
            Lineage::parse(vec![Lineage::zeroed().generations()[0], generation]).expect("two")
        };
        let mut world = small_world().into_iter().filter(|one| one.disk == DiskState::Consistent);
        let one = world.next().expect("there are some");
        let state = |node, id, discards| PeerState {
            node: NodeId(node),
            lineage: lineage(id),
            end: Lsn(6),
            discards,
            ..one.clone()
        };
        let ours = state(0, 77, Discards::Everything);
        let method = reasoning(&ours, &state(1, 78, Discards::Nothing)).method.expect("it is the target");
        assert!(method.contains("this node has orders to discard"), "{method}");
    }
}
