//! Tries a new version on a few resources before it replaces the one that serves.

use std::{sync::Arc, time::Duration};

use holdfast_cluster::state::{Command, Version};
use holdfast_model::{ModuleName, NodeId};
use tokio::time::Instant;
use tracing::{info, warn};

use super::{Shared, entry::Entry};
use crate::control::Control;

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
    serving: &Arc<Version>,
    entries: Vec<Arc<Entry>>,
) -> bool {
    let number = candidate.number;
    let mut verdict = None;
    for entry in entries {
        if !entry.switch(&shared.host, serving, candidate) {
            continue;
        }
        match entry.tried(number).await {
            None => {}
            Some(Ok(())) => {
                verdict = Some(Ok(()));
                break;
            }
            Some(Err(failed)) => {
                warn!(%module, number, error = failed, "the new version could not hold a resource");
                entry.switch(&shared.host, candidate, serving);
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
    loop {
        match control
            .propose(command.clone(), (Instant::now() + PROPOSAL).into_std())
            .await
        {
            Ok(_) => return true,
            Err(error) => warn!(%module, number, %error, "the verdict was not heard; trying again"),
        }
        let rollout = |state: &holdfast_cluster::state::State| {
            let rollout = state.modules().get(module)?.about.rollout.as_ref()?;
            Some(rollout.version.number)
        };
        if control.read(rollout) != Some(number) {
            return true;
        }
    }
}

const PROPOSAL: Duration = Duration::from_secs(5);
