//! The leader's last plan, until it is known what became of it.
//!
//! Invariant: in one term at most one plan is out. A majority may be slow to acknowledge it: on a
//! state without it the same slots, or others in their place, would be moved once more, and twice
//! as much would be on the move as may be.

use std::time::Duration;

use futures_util::future::BoxFuture;
use holdfast_cluster::state::Outcome;

use crate::control::DecideError;

/// What becomes of a plan that was proposed. It has no deadline: as long as the term lasts, the
/// plan may be applied.
pub(super) type Proposed = BoxFuture<'static, Result<Outcome, DecideError>>;

#[derive(Default)]
pub(super) struct Placing(Option<(u64, Proposed)>);

/// How a round of planning went.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Round {
    /// There was nothing to place.
    Idle,
    /// What was placed, in this round or an earlier one, came to this.
    Heard(Result<Outcome, DecideError>),
    /// It was proposed just now, and nobody knows yet.
    Unheard,
    /// The same, of a plan of an earlier round. Nothing new was planned.
    StillUnheard,
}

impl Placing {
    /// Proposes what `plan` finds, and waits for the outcome for `patience` at most; or looks what
    /// became of the plan before, if that is not known yet.
    pub(super) async fn round(
        &mut self,
        term: u64,
        patience: Duration,
        plan: impl FnOnce() -> Option<Proposed>,
    ) -> Round {
        // A decision of an earlier term is refused wherever it is applied now.
        let Self(out) = self;
        let before = out.take().filter(|(of, _)| *of == term);
        let (patience, unheard, proposed) = match before {
            Some((_, proposed)) => (Duration::ZERO, Round::StillUnheard, proposed),
            None => match plan() {
                Some(proposed) => (patience, Round::Unheard, proposed),
                None => return Round::Idle,
            },
        };
        let (_, proposed) = out.insert((term, proposed));
        match tokio::time::timeout(patience, proposed).await {
            Ok(outcome) => {
                *out = None;
                Round::Heard(outcome)
            }
            Err(_) => unheard,
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    type Acknowledge = oneshot::Sender<Result<Outcome, DecideError>>;

    const PATIENCE: Duration = Duration::from_millis(10);

    fn proposed() -> (Acknowledge, Proposed) {
        let (acknowledge, outcome) = oneshot::channel();
        let outcome = async { outcome.await.unwrap_or(Err(DecideError::TimedOut)) };
        (acknowledge, Box::pin(outcome))
    }

    fn must_not_plan() -> Option<Proposed> {
        panic!("it plans while a plan is out")
    }

    #[tokio::test]
    async fn nothing_is_planned_while_it_is_unknown_what_became_of_the_last_plan() {
        let mut placing = Placing::default();
        let (acknowledge, outcome) = proposed();
        let round = placing.round(1, PATIENCE, || Some(outcome)).await;
        assert_eq!(round, Round::Unheard);
        for _ in 0..3 {
            let round = placing.round(1, PATIENCE, must_not_plan).await;
            assert_eq!(round, Round::StillUnheard);
        }
        acknowledge.send(Ok(Outcome::Done)).unwrap();
        let round = placing.round(1, PATIENCE, must_not_plan).await;
        assert_eq!(round, Round::Heard(Ok(Outcome::Done)));
        assert_eq!(placing.round(1, PATIENCE, || None).await, Round::Idle);
    }

    #[tokio::test]
    async fn a_plan_that_failed_is_followed_by_another() {
        let mut placing = Placing::default();
        let (lost, outcome) = proposed();
        drop(lost);
        let round = placing.round(1, PATIENCE, || Some(outcome)).await;
        assert_eq!(round, Round::Heard(Err(DecideError::TimedOut)));
        assert_eq!(placing.round(1, PATIENCE, || None).await, Round::Idle);
    }

    #[tokio::test]
    async fn the_plan_of_a_former_term_is_not_waited_for() {
        let mut placing = Placing::default();
        let (_former, outcome) = proposed();
        let round = placing.round(1, PATIENCE, || Some(outcome)).await;
        assert_eq!(round, Round::Unheard);
        let (acknowledge, outcome) = proposed();
        acknowledge.send(Ok(Outcome::Done)).unwrap();
        let round = placing.round(2, PATIENCE, || Some(outcome)).await;
        assert_eq!(round, Round::Heard(Ok(Outcome::Done)));
    }
}
