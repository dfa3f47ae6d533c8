//! Modules on this node: the version that serves, the one that is tried, and what is compiled.

use std::{collections::HashSet, sync::Arc};

use holdfast_cluster::{
    handover::SlotKey,
    state::{ModuleAbout, State, Version},
};
use holdfast_model::{Digest, ModuleName, OnLostQuorum};
use tracing::warn;

use super::{
    super::{
        entry::Entry,
        rollout::{self, Trial},
        table::{Serving, Table},
    },
    Done, Engine,
};
use crate::{
    modules::{Cause, Readiness},
    placement::Lease,
};

impl Engine {
    pub(super) fn module_changed(&mut self, name: &ModuleName) {
        let about = self
            .control
            .read(|state| state.modules().get(name).map(|m| m.about.clone()));
        let Some(ModuleAbout {
            version, rollout, ..
        }) = about
        else {
            self.versions.remove(name);
            self.serving.remove(name);
            self.rollouts.remove(name);
            self.tried.remove(name);
            self.shared.tables.close(name);
            self.want(name);
            return;
        };
        let version = Arc::new(version);
        self.table(name, &version);
        self.serving.insert(name.clone(), version);
        match rollout {
            Some(rollout) => self
                .rollouts
                .insert(name.clone(), Arc::new(rollout.version)),
            None => self.rollouts.remove(name),
        };
        self.want(name);
        self.adopt(name);
        self.try_rollouts();
    }

    /// Has the versions loaded that the module's instances run with here, or are to: a version is
    /// compiled before anything ends for it, and a failover never waits for the compiler.
    fn want(&mut self, name: &ModuleName) {
        let versions = [&self.versions, &self.serving, &self.rollouts];
        let wanted = versions.iter().filter_map(|versions| versions.get(name));
        let wanted: Vec<Arc<Version>> = wanted.cloned().collect();
        for load in self.shared.host.modules.want(name, &wanted) {
            let (name, version) = (name.clone(), load.version());
            self.tasks
                .spawn(async move { Done::Loaded(name, version, load.run().await) });
        }
        self.tidy_due = true;
    }

    /// Runs the module's instances with the version that serves, unless that is not compiled here yet:
    /// what runs keeps the version that it has until then.
    fn adopt(&mut self, name: &ModuleName) {
        let Some(version) = self.serving.get(name).cloned() else {
            return;
        };
        let known = self.versions.get(name);
        // All of it: a module that was removed and deployed again counts from 1 again.
        if known == Some(&version) {
            return;
        }
        let is_hosted = self.hosted.keys().any(|(module, _)| module == name);
        if known.is_some() && is_hosted && self.shared.host.modules.ready(name, &version).is_none()
        {
            return;
        }
        self.versions.insert(name.clone(), Arc::clone(&version));
        self.show_serving(name, &version);
        let keys: Vec<SlotKey> = self
            .hosted
            .keys()
            .filter(|(module, _)| module == name)
            .cloned()
            .collect();
        for key in keys {
            self.run_slot(&key, None);
        }
        // The former one is of no more use.
        self.want(name);
    }

    /// A load has come to its end.
    pub(super) fn loaded(&mut self, name: &ModuleName, version: &Version, ready: bool) {
        if !ready {
            return;
        }
        self.shared.host.teller.ready(name, version.number);
        self.adopt(name);
        if let Some(present) = self.versions.get(name).cloned() {
            self.show_serving(name, &present);
        }
        self.try_rollouts();
    }

    fn show_serving(&self, name: &ModuleName, version: &Version) {
        let serving = Arc::new(self.serving(name, version));
        if let Some(table) = self.shared.tables.get(name.as_str()) {
            table.serving.store(serving);
        }
    }

    /// Whether the module's instances go on when no majority is heard.
    pub(super) fn goes_on(&self, name: &ModuleName) -> bool {
        let version = self.versions.get(name);
        version.is_some_and(|version| goes_on(version))
    }

    /// Drops every instance but those that go on without a majority.
    pub(super) fn drop_what_stops(&mut self) {
        let (mut dropped, mut kept) = (0, 0);
        for table in self.shared.tables.all() {
            let candidate = self.rollouts.get(&table.name);
            for entry in table.entries.pin().values() {
                if !self.goes_on(&table.name) {
                    entry.drop_now(&self.shared.host);
                    dropped += 1;
                    continue;
                }
                kept += 1;
                // A trial of one that stops would leave the resource behind a shut fence.
                if let Some(candidate) = candidate.filter(|version| !goes_on(version)) {
                    entry.end_trial(&self.shared.host, candidate.number);
                }
            }
        }
        warn!(
            dropped,
            kept, "no majority is heard; what goes on without one is kept"
        );
    }

    /// Tries each version that is being rolled out once, as soon as this node has resources to
    /// try it on. Without a lease nobody could be told the result.
    pub(super) fn try_rollouts(&mut self) {
        if *self.lease.borrow() != Lease::Runs {
            return;
        }
        for (name, candidate) in self.rollouts.clone() {
            if self.tried.get(&name) == Some(&candidate) {
                continue;
            }
            let Some(table) = self.shared.tables.get(name.as_str()) else {
                continue;
            };
            let entries = Self::sample(&table);
            if entries.is_empty() {
                continue;
            }
            let readiness = self.shared.host.modules.readiness(&name, &candidate);
            let refused = match readiness {
                Readiness::Ready => None,
                Readiness::Loading => continue,
                // What is this node's own fault says nothing against the version.
                Readiness::Failed(error) if error.cause() != Cause::Component => continue,
                Readiness::Failed(error) => Some(crate::modules::chain(&error)),
            };
            self.tried.insert(name.clone(), Arc::clone(&candidate));
            let trial = self.trial(&name, &candidate);
            self.tasks.spawn(async move {
                let settled = match refused {
                    Some(error) => trial.refuse(error).await,
                    None => trial.attempt(entries).await,
                };
                Done::Tried(name, candidate, settled)
            });
        }
    }

    fn trial(&self, name: &ModuleName, candidate: &Arc<Version>) -> Trial {
        Trial {
            shared: Arc::clone(&self.shared),
            control: self.control.clone(),
            others: self.others.clone(),
            me: self.me.node,
            module: name.clone(),
            candidate: Arc::clone(candidate),
        }
    }

    /// A few entries to try a new version on, those that are held first.
    fn sample(table: &Table) -> Vec<Arc<Entry>> {
        let entries = table.entries.pin();
        let mut chosen: Vec<&Arc<Entry>> = entries.values().take(SAMPLE_FROM).collect();
        chosen.sort_by_key(|entry| entry.status());
        chosen.into_iter().take(rollout::SAMPLE).cloned().collect()
    }

    pub(super) fn serving(&self, name: &ModuleName, version: &Version) -> Serving {
        let module = self.shared.host.modules.ready(name, version);
        let invocable = module.map(|module| module.exports().invocation);
        Serving {
            settings: Arc::clone(&version.settings),
            invocable,
        }
    }

    pub(super) fn table(&self, name: &ModuleName, version: &Version) -> Arc<Table> {
        self.shared
            .tables
            .open(name, || self.serving(name, version))
    }

    /// Lets go of the files that no module needs any more, if there may be any: one pass at a time.
    pub(super) fn tidy(&mut self) {
        if !self.tidy_due || self.tidying {
            return;
        }
        (self.tidy_due, self.tidying) = (false, true);
        let (modules, control) = (self.shared.host.modules.clone(), self.control.clone());
        let used = move || control.read(digests);
        self.tasks.spawn(async move {
            if let Err(error) = modules.retain(used).await {
                warn!(
                    error = crate::modules::chain(&error),
                    "old components were not removed"
                );
            }
            Done::Tidied
        });
    }
}

/// The components that the state names.
fn digests(state: &State) -> HashSet<Digest> {
    let versions = state.modules().values().flat_map(|module| {
        let about = &module.about;
        let rollout = about.rollout.as_ref().map(|rollout| &rollout.version);
        std::iter::once(&about.version).chain(rollout)
    });
    versions.map(|version| version.digest).collect()
}

fn goes_on(version: &Version) -> bool {
    version.settings.on_lost_quorum == OnLostQuorum::Continue
}

/// Among how many entries those for a trial are chosen.
const SAMPLE_FROM: usize = 64;
