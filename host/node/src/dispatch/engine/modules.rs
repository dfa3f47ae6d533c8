//! Modules on this node: the version that serves, the one that is tried, and what is compiled.

use std::{sync::Arc, time::Duration};

use holdfast_cluster::{
    handover::SlotKey,
    state::{ModuleAbout, State, Version},
};
use holdfast_model::{ModuleName, OnLostQuorum};
use tracing::warn;

use super::{
    super::{
        entry::Entry,
        rollout,
        table::{Serving, Table},
    },
    Done, Engine,
};
use crate::placement::Lease;

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
            self.rollouts.remove(name);
            self.tried.remove(name);
            self.shared.tables.close(name);
            self.forget_unused();
            return;
        };
        let version = Arc::new(version);
        let table = self.table(name, &version);
        let known = self.versions.insert(name.clone(), Arc::clone(&version));
        // All of it: a module that was removed and deployed again counts from 1 again.
        if known.is_none_or(|known| known != version) {
            table.serving.store(Arc::new(self.serving(name, &version)));
            self.load(name, Arc::clone(&version));
            self.forget_unused();
            let keys: Vec<SlotKey> = self
                .hosted
                .keys()
                .filter(|(module, _)| module == name)
                .cloned()
                .collect();
            for key in keys {
                self.run_slot(&key, None);
            }
        }
        match rollout {
            Some(rollout) => self
                .rollouts
                .insert(name.clone(), Arc::new(rollout.version)),
            None => self.rollouts.remove(name),
        };
        self.try_rollouts();
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
            self.tried.insert(name.clone(), Arc::clone(&candidate));
            let (shared, control) = (Arc::clone(&self.shared), self.control.clone());
            let me = self.me.node;
            self.tasks.spawn(async move {
                let attempt = rollout::attempt(&shared, &control, me, &name, &candidate, entries);
                let settled = attempt.await;
                Done::Tried(name, candidate, settled)
            });
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

    /// Lets go of the components that no module needs any more.
    pub(super) fn forget_unused(&mut self) {
        let named =
            |(name, version): (&ModuleName, &Arc<Version>)| (name.clone(), Arc::clone(version));
        let used = self
            .versions
            .iter()
            .chain(&self.rollouts)
            .map(named)
            .collect();
        let modules = self.shared.host.modules.clone();
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

    /// Compiles a version ahead of need, so that a failover never waits for it; again and again for
    /// as long as it serves, for a node is given nothing that runs elsewhere before it has.
    pub(super) fn load(&mut self, name: &ModuleName, version: Arc<Version>) {
        let (modules, name) = (self.shared.host.modules.clone(), name.clone());
        let (control, teller) = (self.control.clone(), self.shared.host.teller.clone());
        self.tasks.spawn(async move {
            while let Err(error) = modules.get(&name, &version).await {
                warn!(module = %name, error = crate::modules::chain(&error), "not loaded ahead");
                tokio::time::sleep(LOAD_AGAIN).await;
                let serves = |state: &State| {
                    let found = state.modules().get(&name);
                    found.is_some_and(|module| module.about.version == *version)
                };
                if !control.read(serves) {
                    return Done::Loaded(name);
                }
            }
            teller.ready(&name, version.number);
            Done::Loaded(name)
        });
    }
}

fn goes_on(version: &Version) -> bool {
    version.settings.on_lost_quorum == OnLostQuorum::Continue
}

/// How soon a version is loaded again that could not be.
const LOAD_AGAIN: Duration = Duration::from_secs(2);

/// Among how many entries those for a trial are chosen.
const SAMPLE_FROM: usize = 64;
