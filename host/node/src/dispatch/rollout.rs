//! Tries a new version on a few resources before it replaces the one that serves.

use std::{sync::Arc, time::Duration};

use holdfast_cluster::state::{Command, Outcome, State, Version};
use holdfast_model::{ModuleName, NodeId};
use tokio::time::Instant;
use tracing::{Level, debug, info, warn};

use super::{Shared, backoff, entry::Entry};
use crate::{control::Control, telemetry::Repeated};

/// How many resources a node tries a version on before it speaks against it.
pub(super) const SAMPLE: usize = 3;

/// Tries the candidate on these entries, one after the other, until one is held by it; puts those
/// that failed back on the version that serves; and tells the cluster. False when none of them
/// came to an end, because all went elsewhere meanwhile.
pub(super) async fn attempt(
    shared: &Shared,
    control: &Control,
    me: NodeId,
    module: &ModuleName,
    candidate: &Arc<Version>,
    entries: Vec<Arc<Entry>>,
) -> bool {
    let number = candidate.number;
    let mut verdict = None;
    let mut held = None;
    for entry in entries {
        if !entry.begin_trial(&shared.host, candidate) {
            continue;
        }
        match entry.tried(number).await {
            None => {}
            Some(Ok(())) => {
                verdict = Some(Ok(()));
                held = Some(entry);
                break;
            }
            Some(Err(failed)) => {
                warn!(%module, number, error = failed, "the new version could not hold a resource");
                entry.end_trial(&shared.host, number);
                verdict = Some(Err(failed));
            }
        }
    }
    let Some(verdict) = verdict else { return false };
    info!(%module, number, accepted = verdict.is_ok(), "tried the new version");
    let command = Command::Tried {
        module: module.clone(),
        number,
        node: me,
        error: verdict.err(),
    };
    let fate = decide(control, module, number, command).await;
    // The engine brings the entries to a version that serves; a trial that led to none is undone.
    if let (Fate::Superseded, Some(entry)) = (fate, held) {
        entry.end_trial(&shared.host, number);
    }
    true
}

/// What became of a version that was rolled out.
enum Fate {
    /// It serves, or a later one does, or it is given up after what this node said.
    Decided,
    /// It never served, and will not.
    Superseded,
}

/// Gives the verdict until it is heard, or of no more use.
async fn decide(control: &Control, module: &ModuleName, number: u64, verdict: Command) -> Fate {
    let unheard = Repeated::new(Level::WARN, "the verdict was not heard; trying again");
    let mut failures = 0;
    loop {
        if failures > 0 {
            tokio::time::sleep(backoff::pause(failures)).await;
        }
        failures += 1;
        let deadline = (Instant::now() + PROPOSAL).into_std();
        match control.propose(verdict.clone(), deadline).await {
            Ok(Outcome::Done) => return Fate::Decided,
            Ok(outcome) => debug!(%module, number, ?outcome, "the rollout was over before"),
            Err(error) => {
                if let Some(suppressed) = unheard.pass() {
                    warn!(
                        %module, number, %error, suppressed,
                        "the verdict was not heard; trying again"
                    );
                }
            }
        }
        // Another node may have been heard first, or another version deployed: what counts is the
        // state, and none that is older than the refusal.
        let deadline = (Instant::now() + PROPOSAL).into_std();
        if control.read_index(deadline).await.is_err() {
            continue;
        }
        let fate = |state: &State| {
            let Some(found) = state.modules().get(module) else {
                return Some(Fate::Superseded);
            };
            let rollout = found.about.rollout.as_ref();
            if rollout.is_some_and(|rollout| rollout.version.number == number) {
                return None;
            }
            if found.about.version.number >= number {
                return Some(Fate::Decided);
            }
            Some(Fate::Superseded)
        };
        if let Some(fate) = control.read(fate) {
            return fate;
        }
    }
}

const PROPOSAL: Duration = Duration::from_secs(5);
