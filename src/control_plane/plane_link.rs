//! The control plane's end of the border: how its parts reach the data plane.
//!
//! Rule: whoever asks waits for a bounded time, and a data plane that has ended is an answer like any other.
//! Nothing that passes here is client data.

use std::rc::Rc;
use std::time::Duration;

use replicator::effect::Answer;
use replicator::event::Order;
use replicator::status_report::StatusReport;
use thiserror::Error;
use tokio::sync::oneshot;

use crate::border::ToDataPlane;

/// Time in which a living data plane gives a snapshot.
pub const STATUS_LIMIT: Duration = Duration::from_secs(5);

/// Why the data plane does not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PlaneError {
    /// It has ended.
    #[error("the data plane has ended")]
    Ended,
    /// It took longer than that.
    #[error("the data plane did not answer within {} ms", limit.as_millis())]
    Late {
        /// The limit.
        limit: Duration,
    },
}

/// Tells the data plane things; cheap to clone.
#[derive(Clone)]
pub struct PlaneLink {
    send: Rc<dyn Fn(ToDataPlane) -> bool>,
}

impl std::fmt::Debug for PlaneLink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PlaneLink")
    }
}

impl PlaneLink {
    /// A link over `send`, which says whether the data plane still listens. It must not block.
    pub fn new(send: impl Fn(ToDataPlane) -> bool + 'static) -> Self {
        Self { send: Rc::new(send) }
    }

    /// Tells it something that has no answer.
    ///
    /// # Errors
    /// It has ended.
    pub fn tell(&self, what: ToDataPlane) -> Result<(), PlaneError> {
        if (self.send)(what) { Ok(()) } else { Err(PlaneError::Ended) }
    }

    /// Asks for a snapshot.
    ///
    /// # Errors
    /// It has ended, or does not answer in time.
    pub async fn status(&self) -> Result<Box<StatusReport>, PlaneError> {
        let (answer, report) = oneshot::channel();
        self.tell(ToDataPlane::Status { answer })?;
        let answered = tokio::time::timeout(STATUS_LIMIT, report).await;
        answered.map_err(|_| PlaneError::Late { limit: STATUS_LIMIT })?.map_err(|_| PlaneError::Ended)
    }

    /// Gives an operator's order and waits for its answer; the order itself says how long it may take.
    ///
    /// # Errors
    /// It has ended.
    pub async fn order(&self, what: Order) -> Result<Answer, PlaneError> {
        let (answer, outcome) = oneshot::channel();
        self.tell(ToDataPlane::Order { what, answer })?;
        outcome.await.map_err(|_| PlaneError::Ended)
    }
}
