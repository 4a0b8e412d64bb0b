//! What leads out of a split brain: an order to throw one side's own changes away, given by an operator or by a policy
//! that the operator wrote (I8). Both ends judge alike, from the two states that were exchanged.

use serde::Serialize;

use crate::generation::compare::{StopReason, SyncAction, Verdict, compare, divergence};
use crate::peer::message::PeerState;
use crate::state::{DiskState, Role};

/// What a node has orders to throw away of what it changed alone, towards one peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Discards {
    /// Nothing.
    #[default]
    Nothing,
    /// The blocks that it changed after the fork, all of which must be known.
    Changes,
    /// Whatever it holds: every block is copied again.
    Everything,
}

impl Discards {
    /// Every choice with its number on the wire.
    pub const ALL: [(Self, u8); 3] = [(Self::Nothing, 0), (Self::Changes, 1), (Self::Everything, 2)];
}

/// What is done about a split brain without asking.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// Nothing: both sides stay StandAlone until an operator decides.
    #[default]
    Disconnect,
    /// The side that wrote nothing since the fork gives way, if exactly one did not.
    DiscardZeroChanges,
    /// The side with fewer writes since the fork gives way; if both have as many, neither does.
    DiscardLeastChanges,
    /// The Secondary gives way, whatever it wrote.
    DiscardSecondary,
}

impl Policy {
    /// Every policy with its name in the configuration.
    pub const ALL: [(Self, &str); 4] = [
        (Self::Disconnect, "disconnect"),
        (Self::DiscardZeroChanges, "discard-zero-changes"),
        (Self::DiscardLeastChanges, "discard-least-changes"),
        (Self::DiscardSecondary, "discard-secondary"),
    ];

    /// The name in the configuration.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(policy, _)| *policy == self).expect("the table has every policy").1
    }
}

/// How many of the two are Primary when they meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Primaries {
    /// Neither.
    None,
    /// One.
    One,
    /// Both.
    Two,
}

impl Primaries {
    /// Each case with its key in the configuration, and the policies that make sense in it. With one Primary none of
    /// them ever deposes it: where changes point at the Primary, nobody gives way. With two there is no Secondary.
    pub const ALL: [(Self, &str, &[Policy]); 3] = [
        (
            Self::None,
            "no-primary",
            &[Policy::Disconnect, Policy::DiscardZeroChanges, Policy::DiscardLeastChanges],
        ),
        (
            Self::One,
            "one-primary",
            &[
                Policy::Disconnect,
                Policy::DiscardZeroChanges,
                Policy::DiscardLeastChanges,
                Policy::DiscardSecondary,
            ],
        ),
        (
            Self::Two,
            "two-primaries",
            &[Policy::Disconnect, Policy::DiscardZeroChanges, Policy::DiscardLeastChanges],
        ),
    ];
}

/// What the operator wrote for each case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policies {
    /// Neither is Primary.
    pub no_primary: Policy,
    /// One of the two is.
    pub one_primary: Policy,
    /// Both are.
    pub two_primaries: Policy,
}

impl Policies {
    /// What was written for a case.
    #[must_use]
    pub fn of(&self, case: Primaries) -> Policy {
        match case {
            Primaries::None => self.no_primary,
            Primaries::One => self.one_primary,
            Primaries::Two => self.two_primaries,
        }
    }
}

/// One of the two nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// This one.
    Ours,
    /// The peer.
    Theirs,
}

/// Who gives way by the policies, and by which; nobody if they leave it to the operator. Only where both are whole: a
/// damaged disk that wrote on its own is for the operator, whatever the policies say.
#[must_use]
pub fn loser(
    policies: &Policies,
    verdict: &Verdict,
    ours: &PeerState,
    theirs: &PeerState,
) -> Option<(Side, Policy)> {
    if verdict.action != SyncAction::Stop(StopReason::SplitBrain) {
        return None;
    }
    let is_usable = |state: &PeerState| state.disk > DiskState::Inconsistent;
    let divergence = divergence(ours, theirs).filter(|_| is_usable(ours) && is_usable(theirs))?;
    let is_primary = |state: &PeerState| state.role == Role::Primary;
    let case = match (is_primary(ours), is_primary(theirs)) {
        (false, false) => Primaries::None,
        (true, false) | (false, true) => Primaries::One,
        (true, true) => Primaries::Two,
    };
    let policy = policies.of(case);
    let (own, their) = (divergence.our_writes, divergence.their_writes);
    let fewer = match own.cmp(&their) {
        std::cmp::Ordering::Less => Some(Side::Ours),
        std::cmp::Ordering::Greater => Some(Side::Theirs),
        std::cmp::Ordering::Equal => None,
    };
    let secondary = if is_primary(ours) { Side::Theirs } else { Side::Ours };
    let chosen = match policy {
        Policy::Disconnect => None,
        Policy::DiscardZeroChanges => fewer.filter(|_| own.min(their) == 0),
        Policy::DiscardLeastChanges => fewer,
        Policy::DiscardSecondary => (case == Primaries::One).then_some(secondary),
    };
    let chosen = chosen.filter(|side| case != Primaries::One || *side == secondary)?;
    Some((chosen, policy))
}

/// What follows if a node, which is Secondary by then, has orders to throw so much away in favour of another.
#[must_use]
pub fn giving_way(what: Discards, loser: &PeerState, winner: &PeerState) -> SyncAction {
    let asking = PeerState { discards: what, role: Role::Secondary, ..loser.clone() };
    compare(&asking, winner).action
}

#[cfg(test)]
mod tests;
