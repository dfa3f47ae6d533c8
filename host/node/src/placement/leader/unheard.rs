//! Decisions that are not heard: without a majority every one of them, round after round.
//!
//! A leader that is not heard says so now and then, and waits longer and longer between its rounds:
//! it is woken by every change, and each round would fail as the one before.

use std::time::Duration;

use holdfast_model::NodeId;
use tokio::time::Instant;
use tracing::Level;

use crate::telemetry::{Repeated, RepeatedBy};

/// A decision whose outcome is not known. Those that were to follow it are made anew later.
pub(super) struct Unheard;

/// What a leader without a majority would say again and again.
pub(super) struct Reports {
    pub(super) cannot_follow: RepeatedBy<NodeId>,
    pub(super) plan: Repeated,
    pub(super) refused: Repeated,
    pub(super) unheard: Repeated,
    pub(super) voters: Repeated,
}

/// When the next round begins.
#[derive(Default)]
pub(super) struct Patience {
    /// Rounds in a row that were not heard.
    unheard: u32,
    again_at: Option<Instant>,
}

impl Patience {
    pub(super) fn is_over(&self, now: Instant) -> bool {
        self.again_at.is_none_or(|again| now >= again)
    }

    /// Takes how a round went.
    pub(super) fn note(&mut self, heard: &Result<(), Unheard>, now: Instant) {
        if heard.is_ok() {
            *self = Self::default();
            return;
        }
        let pause = FIRST_PAUSE.saturating_mul(1 << self.unheard.min(8));
        self.again_at = Some(now + pause.min(LONGEST_PAUSE));
        self.unheard = self.unheard.saturating_add(1);
    }
}

impl Default for Reports {
    fn default() -> Self {
        let warning = |message| Repeated::new(Level::WARN, message);
        Self {
            cannot_follow: RepeatedBy::new(Level::WARN, "the node cannot follow yet"),
            plan: warning("a plan was refused or not heard"),
            refused: warning("a decision was refused"),
            unheard: warning("a decision was not heard"),
            voters: warning("the voters were not changed"),
        }
    }
}

/// The pauses of a leader that is not heard. The longest one delays what it decides once it is heard
/// again, which a person should not notice.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_that_are_not_heard_become_rare_until_one_is() {
        let mut now = Instant::now();
        let mut patience = Patience::default();
        let end = now + Duration::from_secs(60);
        let mut rounds = 0;
        while now < end {
            if patience.is_over(now) {
                rounds += 1;
                patience.note(&Err(Unheard), now);
            }
            // Something wakes it all the time.
            now += Duration::from_millis(1);
        }
        assert!((50..80).contains(&rounds), "{rounds}");
        assert!(!patience.is_over(now));
        patience.note(&Ok(()), now);
        assert!(patience.is_over(now));
    }
}
