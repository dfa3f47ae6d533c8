//! Tries a new version on a few resources before it replaces the one that serves.
//!
//! It is tried once it is compiled here, and serves once it is compiled wherever it will run
//! ([`cluster::rollout`](holdfast_cluster::rollout)).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use futures_util::future::join_all;
use holdfast_cluster::{
    rollout::{Compiled, awaited},
    state::{Command, Outcome, State, Version},
};
use holdfast_model::{ModuleName, NodeId};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tracing::{Level, debug, info, warn};

use super::{Dispatch, Shared, backoff, entry::Entry};
use crate::{
    control::Control,
    modules::{Readiness, chain},
    peer::{Kind, Lane, Peers},
    placement::Placement,
    rpc::{self, Question},
    telemetry::Repeated,
};

/// How many resources a node tries a version on before it speaks against it.
pub(super) const SAMPLE: usize = 3;

/// The other nodes, as a trial needs them.
#[derive(Clone)]
pub(super) struct Others {
    pub(super) peers: Peers,
    pub(super) placement: Placement,
}

/// A version that is rolled out, on this node.
pub(super) struct Trial {
    pub(super) shared: Arc<Shared>,
    pub(super) control: Control,
    pub(super) others: Others,
    pub(super) me: NodeId,
    pub(super) module: ModuleName,
    pub(super) candidate: Arc<Version>,
}

/// Asks a node whether it has compiled a version.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct CompiledYet {
    pub(crate) module: ModuleName,
    pub(crate) number: u64,
}

impl Question for CompiledYet {
    const KIND: Kind = Kind(16);
    const LANE: Lane = Lane::Data;
    /// With the reason, where it is unable.
    type Answer = (Compiled, Option<String>);
}

impl Dispatch {
    /// Whether this node has compiled a version of a module.
    pub(crate) fn compiled_yet(&self, question: &CompiledYet) -> (Compiled, Option<String>) {
        let CompiledYet { module, number } = question;
        let find = |state: &State| {
            let about = &state.modules().get(module)?.about;
            let rollout = about.rollout.as_ref().map(|rollout| &rollout.version);
            let mut versions = rollout.into_iter().chain([&about.version]);
            versions.find(|version| version.number == *number).cloned()
        };
        let Some(version) = self.0.control.read(find) else {
            return (Compiled::NotYet, None);
        };
        match self.0.shared.host.modules.readiness(module, &version) {
            Readiness::Ready => (Compiled::Yes, None),
            Readiness::Loading => (Compiled::NotYet, None),
            Readiness::Failed(error) => (Compiled::Unable, Some(chain(&error))),
        }
    }
}

impl Trial {
    /// Tries the version on these entries, one after the other, until one is held by it; puts those
    /// that failed back on the version that serves; and tells the cluster. False when none of them
    /// came to an end, because all went elsewhere meanwhile.
    pub(super) async fn attempt(self, entries: Vec<Arc<Entry>>) -> bool {
        let (shared, module, number) = (&self.shared, &self.module, self.candidate.number);
        let mut verdict = None;
        let mut held = None;
        for entry in entries {
            if !entry.begin_trial(&shared.host, &self.candidate) {
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
                    verdict = Some(Err(format!("{}: {failed}", entry.id())));
                }
            }
        }
        let Some(verdict) = verdict else { return false };
        info!(%module, number, accepted = verdict.is_ok(), "tried the new version");
        if verdict.is_ok() {
            self.compiled_everywhere().await;
        }
        let fate = self.decide(verdict.err()).await;
        // The engine brings the entries to a version that serves; a trial that led to none is undone.
        if let (Fate::Superseded, Some(entry)) = (fate, held) {
            entry.end_trial(&shared.host, number);
        }
        true
    }

    /// Tells the cluster that the version cannot even be loaded here.
    pub(super) async fn refuse(self, error: String) -> bool {
        let (module, number) = (&self.module, self.candidate.number);
        warn!(%module, number, error, "the new version cannot be loaded");
        self.decide(Some(error)).await;
        true
    }

    /// Waits until the version is compiled wherever the module has resources, as far as that is to be
    /// waited for; or until it is not rolled out any more.
    async fn compiled_everywhere(&self) {
        let (module, number) = (&self.module, self.candidate.number);
        let began = Instant::now();
        let mut told = BTreeSet::new();
        loop {
            let owners = self.control.read(|state| {
                let module = state.modules().get(module)?;
                let rollout = module.about.rollout.as_ref()?;
                (rollout.version.number == number).then(|| module.owners())
            });
            let Some(mut owners) = owners else { return };
            let live = self.others.placement.live();
            owners.retain(|node| *node != self.me && live.contains(node));
            let said = self.ask(&owners).await;
            let slow = awaited(&owners, &said, began.elapsed());
            if slow.is_empty() {
                let late: Vec<String> = owners
                    .iter()
                    .filter(|node| said.get(*node) != Some(&Compiled::Yes))
                    .map(ToString::to_string)
                    .collect();
                if !late.is_empty() {
                    let late = late.join(", ");
                    warn!(%module, number, nodes = late, "the new version serves though some have not compiled it; they keep the former one until they have");
                }
                return;
            }
            if slow != told {
                let nodes: Vec<String> = slow.iter().map(ToString::to_string).collect();
                info!(%module, number, nodes = nodes.join(", "), "waiting for them to compile the new version");
                told = slow;
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }

    /// What these nodes say of the version; those that do not answer are left out.
    async fn ask(&self, nodes: &BTreeSet<NodeId>) -> BTreeMap<NodeId, Compiled> {
        let asked = nodes.iter().map(|node| async move {
            let question = CompiledYet {
                module: self.module.clone(),
                number: self.candidate.number,
            };
            let asked = rpc::ask(&self.others.peers, *node, &question, ASK).await;
            Some((*node, asked.ok()?.0))
        });
        join_all(asked).await.into_iter().flatten().collect()
    }

    /// Gives the verdict until it is heard, or of no more use.
    async fn decide(&self, error: Option<String>) -> Fate {
        let verdict = Command::Tried {
            module: self.module.clone(),
            number: self.candidate.number,
            node: self.me,
            error,
        };
        decide(&self.control, &self.module, self.candidate.number, verdict).await
    }
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

/// How soon the others are asked again.
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// How long one of them may take to answer.
const ASK: Duration = Duration::from_secs(1);
