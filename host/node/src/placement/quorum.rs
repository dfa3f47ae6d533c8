//! Whether this node hears a majority of the voters, and how old its state may be.
//!
//! One task asks, again and again, for a state that is current (a read index). An answer says two
//! things: that a majority stands behind some leader, and that this node had everything that was
//! acknowledged when it asked. Both grow old; how old they may be before they count for nothing is
//! decided here alone. What the API says of it, what it refuses, and what the log says of it ask
//! here.

use std::{collections::BTreeSet, fmt, time::Duration};

use holdfast_model::{NodeId, api::ConditionKind};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use super::Placement;
use crate::{clock::boot_time, control::ReadError};

/// When this node heard of the others last, by the time since the machine was started.
#[derive(Clone, Copy, Debug)]
pub(super) struct Heard {
    /// Since when anything could be heard.
    began: Duration,
    /// A majority stood behind a leader.
    majority: Option<Duration>,
    /// This node's state was current.
    current: Option<Duration>,
}

/// No majority of the voters is heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LostQuorum {
    /// For how long; at most since the node was started.
    pub silent: Duration,
    /// The nodes whose majority decides.
    pub voters: BTreeSet<NodeId>,
    /// Those of them that this node does not reach.
    pub missing: BTreeSet<NodeId>,
}

/// The task that asks.
pub struct QuorumWatch(Placement);

impl Heard {
    pub(super) fn new(now: Duration) -> Self {
        Self {
            began: now,
            majority: None,
            current: None,
        }
    }

    /// Notes what came of a read index that was asked for at `asked`.
    fn note(&mut self, asked: Duration, answer: &Result<(), ReadError>) {
        match answer {
            Ok(()) => (self.majority, self.current) = (Some(asked), Some(asked)),
            // A leader was confirmed, and this node lacks some of what that one has.
            Err(ReadError::TimedOut) => self.majority = Some(asked),
            Err(ReadError::NoLeader { .. } | ReadError::Shutdown) => {}
        }
    }

    /// For how long no majority has been heard, if that is too long.
    fn silent(&self, now: Duration) -> Option<Duration> {
        let silent = now.saturating_sub(self.majority.unwrap_or(self.began));
        (silent > UNHEARD_MAX).then_some(silent)
    }

    /// How old the state may be, if that is too old. One that was never current since the node was
    /// started may be of any age.
    fn stale(&self, now: Duration) -> Option<Duration> {
        match self.current {
            Some(current) => Some(now.saturating_sub(current)).filter(|age| *age > UNHEARD_MAX),
            None => Some(now.saturating_sub(self.began)),
        }
    }
}

impl fmt::Display for LostQuorum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            silent,
            voters,
            missing,
        } = self;
        let (silent, all) = (silent.as_secs(), voters.len());
        write!(f, "no majority of the voters is heard, for {silent} s now")?;
        match missing.len() {
            0 => write!(
                f,
                "; each of the {all} answers, but they agree on no leader"
            ),
            n => {
                let names: Vec<String> = missing.iter().map(ToString::to_string).collect();
                let names = names.join(", ");
                write!(f, "; {n} of {all} voters cannot be reached: {names}")
            }
        }
    }
}

impl Placement {
    /// What asks whether a majority is there. It must run for this node to know.
    #[must_use]
    pub fn quorum_watch(&self) -> QuorumWatch {
        QuorumWatch(self.clone())
    }

    /// Whether nothing can be changed now, and why; none while a majority is heard.
    #[must_use]
    pub fn lost_quorum(&self) -> Option<LostQuorum> {
        let silent = self.0.heard.lock().silent(boot_time())?;
        // A node without a cluster has nobody to miss.
        self.0.control.read(|state| state.cluster().map(|_| ()))?;
        let voters = self.0.control.members().voters;
        let live = self.live();
        let missing = voters.difference(&live).copied().collect();
        Some(LostQuorum {
            silent,
            voters,
            missing,
        })
    }

    /// How old this node's state may be; none while it is known to be current, but for the moment
    /// that messages take.
    #[must_use]
    pub fn stale(&self) -> Option<Duration> {
        self.0.heard.lock().stale(boot_time())
    }
}

impl QuorumWatch {
    /// Asks until stopped.
    pub async fn run(self, stop: CancellationToken) {
        let Self(placement) = self;
        let mut leadership = placement.0.control.leadership();
        let mut lost = false;
        loop {
            let asked = boot_time();
            let deadline = (Instant::now() + PATIENCE).into_std();
            let answer = tokio::select! {
                () = stop.cancelled() => return,
                answer = placement.0.control.read_index(deadline) => answer,
            };
            placement.0.heard.lock().note(asked, &answer);
            let now_lost = placement.lost_quorum();
            match &now_lost {
                Some(why) if !lost => error!(
                    "{why}. Nothing can be changed, and what this node runs stops, until enough \
                     voters are back: start them, or repair the network between them. If they are \
                     lost for good, see `holdfast recover --help`"
                ),
                None if lost => info!("a majority of the voters is heard again"),
                _ => {}
            }
            lost = now_lost.is_some();
            let why = now_lost.map(|why| why.to_string());
            placement.0.conditions.put(ConditionKind::NoQuorum, why);
            let pause = match answer {
                Ok(()) => ASK_EVERY,
                Err(_) => ASK_AGAIN,
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
                // May be what was missing.
                Ok(()) = leadership.changed() => {}
            }
        }
    }
}

/// How long neither a majority nor a current state may be heard of. Shorter, and elections on a busy
/// machine would count as losses. Longer, and callers would wait for what cannot come.
const UNHEARD_MAX: Duration = Duration::from_secs(3);

/// How often a node asks that gets answers.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// How soon one asks again that got none.
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_state_is_stale_until_it_was_current_and_when_that_is_long_ago() {
        let mut heard = Heard::new(s(10));
        assert_eq!(heard.stale(s(11)), Some(s(1)), "from an earlier run");
        heard.note(s(11), &Ok(()));
        assert_eq!(heard.stale(s(14)), None);
        assert_eq!(heard.stale(s(15)), Some(s(4)));
        // An answer counts from when it was asked for.
        heard.note(s(12), &Ok(()));
        assert_eq!(heard.stale(s(16)), Some(s(4)));
    }

    #[test]
    fn a_majority_is_lost_when_none_was_heard_for_long_or_since_the_start() {
        let mut heard = Heard::new(s(10));
        assert_eq!(heard.silent(s(13)), None, "there was no time yet");
        assert_eq!(heard.silent(s(14)), Some(s(4)));
        heard.note(s(14), &Err(ReadError::NoLeader { leader: None }));
        assert_eq!(heard.silent(s(15)), Some(s(5)));
        heard.note(s(15), &Ok(()));
        assert_eq!(heard.silent(s(18)), None);
    }

    #[test]
    fn a_node_that_lags_hears_the_majority_and_is_stale() {
        let mut heard = Heard::new(s(0));
        heard.note(s(0), &Ok(()));
        heard.note(s(9), &Err(ReadError::TimedOut));
        assert_eq!(heard.silent(s(10)), None);
        assert_eq!(heard.stale(s(10)), Some(s(10)));
    }

    #[test]
    fn who_is_missing_is_named() {
        let [a, b, c] = [1, 2, 3].map(|n| NodeId(uuid::Uuid::from_u128(n)));
        let mut lost = LostQuorum {
            silent: s(12),
            voters: [a, b, c].into(),
            missing: [b, c].into(),
        };
        let text = lost.to_string();
        let says = |what: &str| assert!(lost.to_string().contains(what), "{text}");
        says("for 12 s");
        says("2 of 3 voters");
        says(&format!("{b}, {c}"));
        lost.missing.clear();
        assert!(lost.to_string().contains("agree on no leader"));
    }
}
