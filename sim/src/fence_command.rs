//! What a node's fence command does, to the peer and to the node that waits for it. The honest ones say only what they have
//! done or seen; the others are within the fault budget, which says what may be demanded after a lie.

use replicator::effect::Answer;
use replicator::event::{FenceEnd, FenceRun, Order, OrderId};
use replicator::units::{NodeId, Span};

use crate::random::Random;

/// When a fence command that hangs is killed.
pub const FENCE_TIMEOUT: Span = Span::from_millis(20_000);

/// What a node's fence command does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FenceCommand {
    /// It ends with this status, and does nothing else.
    Exits(i32),
    /// It cuts the peer's power, and says so (7).
    Shoots,
    /// It tells the peer's daemon to call its copy outdated, and says what came of that (4, or 6 if the peer is Primary, 5
    /// if there is no daemon).
    Outdates,
    /// It looks whether the peer is down, and says so (5).
    Looks,
    /// It does not end by itself.
    Hangs,
    /// A signal ends it.
    Dies,
    /// It is not there.
    IsMissing,
}

/// An order to a peer that a fence command waits for.
#[derive(Clone, Copy, Debug)]
pub struct Outdating {
    /// The order.
    pub order: OrderId,
    /// Whose command.
    pub node: NodeId,
    /// Which run of it.
    pub run: FenceRun,
    /// How long it takes to say so, microseconds.
    pub takes: u64,
}

impl FenceCommand {
    /// One that says nothing but the truth, works or not.
    #[must_use]
    pub fn any_honest(random: &mut Random) -> Self {
        match random.below(10) {
            0..3 => Self::Shoots,
            3..6 => Self::Outdates,
            6 => Self::Looks,
            7 => Self::Exits([0, 1, 2, 20, 127][random.index(5)]),
            8 => Self::Hangs,
            _ => [Self::Dies, Self::IsMissing][random.index(2)].clone(),
        }
    }

    /// One that may say what it has not done.
    #[must_use]
    pub fn any_liar(random: &mut Random) -> Self {
        Self::Exits([3, 4, 5, 6, 7][random.index(5)])
    }

    /// One that works.
    #[must_use]
    pub fn any_that_works(random: &mut Random) -> Self {
        [Self::Shoots, Self::Outdates][random.index(2)].clone()
    }
}

/// The order that an outdating command gives.
pub const OUTDATE: Order = Order::Outdate;

/// What a command says after its order was answered.
#[must_use]
pub fn said(answer: &Answer) -> FenceEnd {
    FenceEnd::Exited(match answer {
        Answer::Refused(refused) if refused.name == "is-primary" => 6,
        Answer::Refused(refused) if refused.name == "disk-inconsistent" => 3,
        Answer::Refused(_) => 1,
        Answer::Done { .. } | Answer::Explained(_) => 4,
    })
}
