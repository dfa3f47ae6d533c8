//! Brings about what the view asks of this node: runs, stops and releases its slots.
//!
//! One task follows the changes of the state and owns the [`Handover`]; entries run by
//! themselves and report when they have ended. What it writes to the tables, calls read.

mod drain;
mod modules;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use holdfast_cluster::{
    handover::{Action, Handover, SlotKey},
    state::{Changes, Command, Key, Outcome, Owner, Version},
};
use holdfast_model::{ModuleName, NodeId, ResourceId, Token};
use holdfast_runtime::TerminateReason;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use self::drain::Drain;
use super::{
    Shared,
    entry::{Entry, Host, Run},
    rollout::Others,
};
use crate::{control::Control, placement::Lease};

pub(super) struct Engine {
    me: Owner,
    shared: Arc<Shared>,
    control: Control,
    started: Instant,
    handover: Handover,
    /// Whether this node may run anything; until then, what it is to run.
    lease: watch::Receiver<Lease>,
    held_back: BTreeMap<SlotKey, Token>,
    /// The drain of this node, if it has a deadline.
    drain: Option<Drain>,
    /// Entries on this node, by slot.
    hosted: BTreeMap<SlotKey, BTreeSet<ResourceId>>,
    /// What the instances of each module run with here.
    versions: BTreeMap<ModuleName, Arc<Version>>,
    /// What they are to run with, as soon as it is compiled here.
    serving: BTreeMap<ModuleName, Arc<Version>>,
    /// There may be files that no module needs any more, and whether they are being removed.
    tidy_due: bool,
    tidying: bool,
    /// Whom trials ask whether they have compiled a version too.
    others: Others,
    /// How many resources of each module were taken away since the last log line.
    taken_away: BTreeMap<ModuleName, usize>,
    /// Slots whose release is to be proposed.
    to_release: BTreeMap<SlotKey, Token>,
    releasing: bool,
    /// Loads, releases and rollouts under way.
    tasks: JoinSet<Done>,
    rollouts: BTreeMap<ModuleName, Arc<Version>>,
    /// The rollout of each module that this node tries or has tried last.
    tried: BTreeMap<ModuleName, Arc<Version>>,
}

enum Done {
    Released,
    /// A load came to its end, and whether the version is ready.
    Loaded(ModuleName, Arc<Version>, bool),
    /// A rollout was tried, and whether that came to an end.
    Tried(ModuleName, Arc<Version>, bool),
    Tidied,
}

impl Engine {
    pub(super) fn new(
        me: Owner,
        shared: Arc<Shared>,
        control: Control,
        lease: watch::Receiver<Lease>,
        others: Others,
    ) -> Self {
        Self {
            me,
            others,
            shared,
            control,
            started: Instant::now(),
            handover: Handover::new(me, RELEASE_RETRY),
            lease,
            held_back: BTreeMap::new(),
            drain: None,
            hosted: BTreeMap::new(),
            versions: BTreeMap::new(),
            serving: BTreeMap::new(),
            tidy_due: false,
            tidying: false,
            taken_away: BTreeMap::new(),
            to_release: BTreeMap::new(),
            releasing: false,
            tasks: JoinSet::new(),
            rollouts: BTreeMap::new(),
            tried: BTreeMap::new(),
        }
    }

    /// Follows the state until stopped, then ends every instance. Gives how many it could not end.
    pub(super) async fn run(
        mut self,
        mut ended: mpsc::Receiver<(ModuleName, ResourceId)>,
        stop: CancellationToken,
    ) -> usize {
        let mut subscription = self.control.subscribe();
        let mut tick = tokio::time::interval(RELEASE_RETRY);
        loop {
            // Every branch only receives: what is cancelled is received the next time.
            tokio::select! {
                () = stop.cancelled() => break,
                Ok(()) = self.lease.changed() => self.lease_changed(),
                changes = subscription.changed() => self.changed(&changes),
                Some((module, id)) = ended.recv() => self.ended(&module, &id),
                () = drain::deadline(self.drain) => self.drain_is_late(),
                Some(done) = self.tasks.join_next() => self.done(done),
                _ = tick.tick() => {
                    let now = self.started.elapsed();
                    let actions = self.handover.tick(now);
                    self.act(actions);
                    self.try_rollouts();
                    self.tidy();
                }
            }
            self.log_taken_away();
            self.release();
        }
        self.end_all(&mut ended).await
    }

    /// Ends what still runs, and waits for it as long as its hooks may take; then drops what is
    /// left. Gives how many are left even so.
    async fn end_all(&mut self, ended: &mut mpsc::Receiver<(ModuleName, ResourceId)>) -> usize {
        let owns = self.control.read(|state| state.is_member(self.me));
        self.for_each_entry(|host, entry| match owns {
            true => entry.end(host, TerminateReason::Stopping),
            // Another node may run it already: no hook may run beside that.
            false => entry.drop_now(host),
        });
        let left = self.await_ended(ended, STOP_GRACE).await;
        if left == 0 {
            return 0;
        }
        warn!(resources = left, "dropped, their time is up");
        self.for_each_entry(|host, entry| entry.drop_now(host));
        self.await_ended(ended, DROP_GRACE).await
    }

    fn for_each_entry(&self, act: impl Fn(&Arc<Host>, &Arc<Entry>)) {
        for table in self.shared.tables.all() {
            for entry in table.entries.pin().values() {
                act(&self.shared.host, entry);
            }
        }
    }

    /// Waits until no entry is left, or time is up. Gives how many are left.
    async fn await_ended(
        &mut self,
        ended: &mut mpsc::Receiver<(ModuleName, ResourceId)>,
        grace: Duration,
    ) -> usize {
        let left = |engine: &Self| {
            let tables = engine.shared.tables.all();
            tables
                .iter()
                .map(|table| table.entries.len())
                .sum::<usize>()
        };
        let deadline = Instant::now() + grace;
        while left(self) > 0 {
            match tokio::time::timeout_at(deadline, ended.recv()).await {
                Ok(Some((module, id))) => {
                    if let Some(table) = self.shared.tables.get(module.as_str()) {
                        table.entries.pin().remove(&id);
                    }
                }
                Ok(None) | Err(_) => break,
            }
        }
        left(self)
    }

    fn changed(&mut self, changes: &Changes) {
        let mut slots: BTreeSet<SlotKey> = BTreeSet::new();
        let mut resources: Vec<(ModuleName, ResourceId)> = Vec::new();
        for key in changes {
            match key {
                Key::Node(node) if *node == self.me.node => self.drain_changed(),
                Key::Cluster | Key::Node(_) => {}
                Key::Module(module) => self.module_changed(module),
                Key::Slot(module, slot) => {
                    slots.insert((module.clone(), *slot));
                }
                Key::Resource(module, id) => resources.push((module.clone(), id.clone())),
            }
        }
        for key in slots {
            self.slot_changed(&key);
        }
        for (module, id) in resources {
            self.resource_changed(&module, &id);
        }
        self.shared.view.send_modify(|version| *version += 1);
    }

    fn slot_changed(&mut self, key: &SlotKey) {
        let (module, slot) = key;
        let state = self.control.read(|state| {
            let about = state
                .modules()
                .get(module)
                .map(|module| module.about.version.clone());
            about.zip(state.slot(module, *slot).cloned())
        });
        let now = self.started.elapsed();
        let Some((version, state)) = state else {
            if let Some(table) = self.shared.tables.get(module.as_str()) {
                self.shared.tables.set_route(&table, *slot, None);
            }
            let actions = self.handover.view(now, key, None);
            return self.act(actions);
        };
        let table = self.table(module, &version);
        let owner: Option<NodeId> = state.owner.map(|owner| owner.node);
        self.shared.tables.set_route(&table, *slot, owner);
        let actions = self.handover.view(now, key, Some(&state));
        self.act(actions);
    }

    fn resource_changed(&mut self, module: &ModuleName, id: &ResourceId) {
        let key = (module.clone(), id.slot());
        if !self.may_run(module) || !self.handover.is_running(&key) {
            return;
        }
        match self.run_of(module, id, None) {
            Some(run) => self.run_entry(&key, id, run),
            None => {
                let table = self.shared.tables.get(module.as_str());
                let entry = table.and_then(|table| table.entries.pin().get(id).cloned());
                if let Some(entry) = entry {
                    entry.end(&self.shared.host, TerminateReason::Removed);
                }
            }
        }
    }

    fn lease_changed(&mut self) {
        let lease = *self.lease.borrow_and_update();
        match lease {
            // What had to wait for it.
            Lease::Runs => {
                for (key, token) in std::mem::take(&mut self.held_back) {
                    self.run_slot(&key, Some(token));
                }
            }
            Lease::Lost => self.drop_what_stops(),
            Lease::Waiting | Lease::Over => {}
        }
    }

    /// Whether instances of the module may run and start. Without a majority the last applied state
    /// is as good as any other: what goes on is run as it says.
    fn may_run(&self, module: &ModuleName) -> bool {
        match *self.lease.borrow() {
            Lease::Runs => true,
            Lease::Lost => self.goes_on(module),
            Lease::Waiting | Lease::Over => false,
        }
    }

    fn act(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Run(key, token) if self.may_run(&key.0) => {
                    self.run_slot(&key, Some(token));
                }
                Action::Run(key, token) => {
                    self.held_back.insert(key, token);
                }
                Action::Stop(key, _) => {
                    self.held_back.remove(&key);
                    self.stop_slot(&key);
                }
                Action::Release(key, token) => {
                    self.to_release.insert(key, token);
                }
                Action::Drop(key) => {
                    self.held_back.remove(&key);
                    self.drop_slot(&key);
                }
            }
        }
    }

    fn run_slot(&mut self, key: &SlotKey, token: Option<Token>) {
        let (module, slot) = key;
        let ids: Vec<ResourceId> = self.control.read(|state| {
            let slot = state.slot(module, *slot);
            slot.map(|slot| slot.resources.iter().cloned().collect())
                .unwrap_or_default()
        });
        if !self.may_run(module) || !self.handover.is_running(key) {
            return;
        }
        for id in ids {
            if let Some(run) = self.run_of(module, &id, token) {
                self.run_entry(key, &id, run);
            }
        }
    }

    fn run_entry(&mut self, key: &SlotKey, id: &ResourceId, run: Run) {
        let table = self.table(&key.0, &run.version);
        let entry = {
            let entries = table.entries.pin();
            let fresh = || Entry::new(key.0.clone(), id.clone(), Arc::clone(&table.turns));
            Arc::clone(entries.get_or_insert_with(id.clone(), fresh))
        };
        self.hosted
            .entry(key.clone())
            .or_default()
            .insert(id.clone());
        entry.run(&self.shared.host, run);
        table.changed(id.slot());
    }

    /// How a resource is to run now, if it is to.
    fn run_of(&self, module: &ModuleName, id: &ResourceId, token: Option<Token>) -> Option<Run> {
        let version = self.versions.get(module).cloned();
        self.control.read(|state| {
            let resource = state.resource(module, id)?;
            let slot = state.slot(module, id.slot())?;
            let present = || Arc::new(state.modules()[module].about.version.clone());
            Some(Run {
                token: token.unwrap_or(slot.token),
                revision: resource.revision,
                spec: resource.spec.clone(),
                version: version.unwrap_or_else(present),
            })
        })
    }

    fn stop_slot(&mut self, key: &SlotKey) {
        let (module, _) = key;
        let late = self.drain.is_some_and(|drain| drain.late);
        for entry in self.entries_of(key) {
            if late {
                entry.drop_now(&self.shared.host);
                continue;
            }
            let stays = self
                .control
                .read(|state| state.resource(module, entry.id()).is_some());
            let reason = if stays {
                TerminateReason::Moved
            } else {
                TerminateReason::Removed
            };
            entry.end(&self.shared.host, reason);
        }
        self.settle_stopped(key);
    }

    fn drop_slot(&mut self, key: &SlotKey) {
        let entries = self.entries_of(key);
        if !entries.is_empty() {
            *self.taken_away.entry(key.0.clone()).or_default() += entries.len();
        }
        for entry in entries {
            entry.drop_now(&self.shared.host);
        }
    }

    /// A line for each module: a lost lease takes hundreds of slots at once.
    fn log_taken_away(&mut self) {
        for (module, resources) in std::mem::take(&mut self.taken_away) {
            warn!(%module, resources, "resources taken away; instances dropped");
        }
    }

    fn entries_of(&self, key: &SlotKey) -> Vec<Arc<Entry>> {
        let Some(table) = self.shared.tables.get(key.0.as_str()) else {
            return Vec::new();
        };
        let entries = table.entries.pin();
        let ids = self.hosted.get(key).into_iter().flatten();
        ids.filter_map(|id| entries.get(id).cloned()).collect()
    }

    fn ended(&mut self, module: &ModuleName, id: &ResourceId) {
        let key: SlotKey = (module.clone(), id.slot());
        let Some(table) = self.shared.tables.get(module.as_str()) else {
            self.forget(&key, id);
            return;
        };
        let entry = table.entries.pin().get(id).cloned();
        if entry.is_some_and(|entry| !entry.has_ended()) {
            // It was wanted again meanwhile; its driver reports the next end.
            return;
        }
        table.entries.pin().remove(id);
        table.changed(id.slot());
        self.forget(&key, id);
        // Deallocated and allocated again while it ended: only now may it start anew.
        if self.may_run(module)
            && self.handover.is_running(&key)
            && let Some(run) = self.run_of(module, id, None)
        {
            self.run_entry(&key, id, run);
        }
    }

    fn forget(&mut self, key: &SlotKey, id: &ResourceId) {
        if let Some(ids) = self.hosted.get_mut(key) {
            ids.remove(id);
        }
        self.settle_stopped(key);
    }

    /// Goes on with the release of a slot once nothing of it is left.
    fn settle_stopped(&mut self, key: &SlotKey) {
        if self.hosted.get(key).is_some_and(|ids| !ids.is_empty()) {
            return;
        }
        self.hosted.remove(key);
        let now = self.started.elapsed();
        let actions = self.handover.stopped(now, key);
        self.act(actions);
    }

    /// Proposes what is to be released, all of it in one command; more gathers meanwhile.
    fn release(&mut self) {
        if self.releasing || self.to_release.is_empty() {
            return;
        }
        self.releasing = true;
        let slots = std::mem::take(&mut self.to_release);
        let slots = slots
            .into_iter()
            .map(|((module, slot), token)| (module, slot, token))
            .collect();
        let Owner { node, incarnation } = self.me;
        let command = Command::Release {
            node,
            incarnation,
            slots,
        };
        let control = self.control.clone();
        self.tasks.spawn(async move {
            let deadline = (Instant::now() + RELEASE_RETRY).into_std();
            match control.propose(command, deadline).await {
                Ok(Outcome::Released(_)) => {}
                Ok(outcome) => warn!(?outcome, "a release was answered with something else"),
                // Proposed again by the handover's tick.
                Err(error) => debug!(%error, "a release was not answered"),
            }
            Done::Released
        });
    }

    fn done(&mut self, done: Result<Done, tokio::task::JoinError>) {
        match done {
            Ok(Done::Released) => self.releasing = false,
            Ok(Done::Loaded(name, version, ready)) => self.loaded(&name, &version, ready),
            Ok(Done::Tried(name, version, settled)) => {
                if !settled && self.tried.get(&name) == Some(&version) {
                    self.tried.remove(&name);
                }
            }
            Ok(Done::Tidied) => self.tidying = false,
            Err(failed) if failed.is_panic() => std::panic::resume_unwind(failed.into_panic()),
            Err(_) => {}
        }
    }
}

/// How long a proposed release may stay unanswered before it is proposed again.
const RELEASE_RETRY: Duration = Duration::from_millis(500);

/// How long a stopping node waits for its resources to terminate.
const STOP_GRACE: Duration = Duration::from_secs(15);

/// How long it waits for those that it drops then.
const DROP_GRACE: Duration = Duration::from_secs(5);
