//! What this node would run at once if it were given it, and why not the rest.
//!
//! The leader is told with each question about the lease, and gives a node nothing of a module that it is
//! not ready for. Conditions tell people. Both come of one look, so that no node is passed over without a
//! reason that shows.

use std::collections::{BTreeMap, BTreeSet};

use holdfast_cluster::state::{State, Version};
use holdfast_model::{ModuleName, Slot, api::ConditionKind};
use serde::{Deserialize, Serialize};

use crate::{
    conditions::Conditions,
    modules::{self, Cause, Modules, chain},
    start_faults::{StartFault, StartFaults},
};

/// What a node would run at once if it were given it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Readiness {
    /// It may run things at all: it has a lease.
    pub(super) runs: bool,
    /// Modules that it has yet to get ready.
    pub(super) pending: Vec<ModuleName>,
    /// Modules that it cannot run, for its own reasons or theirs.
    pub(super) unable: Vec<ModuleName>,
    /// Modules that it is full of, and the slots of them that it cannot start, for its own reasons.
    /// They are pending too.
    pub(super) stranded: Vec<(ModuleName, BTreeSet<Slot>)>,
}

impl Readiness {
    /// Whether it would run whatever it is given.
    pub(super) fn is_full(&self) -> bool {
        self.runs && self.pending.is_empty() && self.unable.is_empty()
    }
}

/// What a look at the modules has found.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Without a word about the lease.
    pub(super) readiness: Readiness,
    /// What there is to say, by the kind of condition.
    texts: BTreeMap<ConditionKind, Vec<String>>,
}

impl Found {
    /// Looks at every version that serves or is about to.
    pub(super) fn look(state: &State, modules: &Modules, starts: &StartFaults) -> Self {
        let mut found = Self::default();
        let mut start_faults = starts.look();
        for (name, module) in state.modules() {
            let about = &module.about;
            let serving = found.look_at(modules, name, &about.version);
            match serving {
                None => {
                    if let Some(fault) = start_faults.remove(name) {
                        found.strand(name, fault);
                    }
                }
                Some(Want::Time) => found.readiness.pending.push(name.clone()),
                Some(Want::Cause) => found.readiness.unable.push(name.clone()),
            }
            // What is about to serve takes nothing from the node yet, but its faults show.
            if let Some(rollout) = &about.rollout
                && let modules::Readiness::Failed(_) = modules.readiness(name, &rollout.version)
            {
                found.look_at(modules, name, &rollout.version);
            }
        }
        found
    }

    /// It runs the module, and no more of it than it does.
    fn strand(&mut self, name: &ModuleName, fault: StartFault) {
        let StartFault { slots, why, .. } = fault;
        let text = match fault.resources {
            0 => format!("{name}: no more of it for now: {why}"),
            n => format!("{name}: {n} not started: {why}"),
        };
        let texts = self.texts.entry(ConditionKind::Full);
        texts.or_default().push(text);
        self.readiness.pending.push(name.clone());
        self.readiness.stranded.push((name.clone(), slots));
    }

    fn look_at(&mut self, modules: &Modules, name: &ModuleName, version: &Version) -> Option<Want> {
        let (kind, text, want) = match modules.readiness(name, version) {
            modules::Readiness::Ready => return None,
            modules::Readiness::Loading => (ConditionKind::Compiling, name.to_string(), Want::Time),
            modules::Readiness::Failed(error) => {
                let text = format!("{name}: {}", chain(&error));
                match error.cause() {
                    Cause::Node(fault) => (fault.condition(), text, Want::Cause),
                    Cause::Component => (ConditionKind::Unusable, text, Want::Cause),
                    Cause::Passing => (ConditionKind::Unusable, text, Want::Time),
                }
            }
        };
        self.texts.entry(kind).or_default().push(text);
        Some(want)
    }

    /// Shows what there is to say, and nothing else of these kinds.
    pub(super) fn show(&self, conditions: &Conditions) {
        for kind in KINDS {
            let text = self.texts.get(&kind).map(|texts| {
                let separator = match kind {
                    ConditionKind::Compiling => ", ",
                    _ => "; ",
                };
                let named = &texts[..texts.len().min(NAMED_MAX)];
                let mut text = named.join(separator);
                if texts.len() > NAMED_MAX {
                    text.push_str(&format!(" and {} more", texts.len() - NAMED_MAX));
                }
                match kind {
                    ConditionKind::Compiling => format!("compiling {text}"),
                    _ => text,
                }
            });
            conditions.put(kind, text);
        }
    }
}

/// What is missing for a version to be ready.
enum Want {
    /// It is on its way, or others that are needed for it are.
    Time,
    /// Its cause must go first.
    Cause,
}

/// The conditions that come of this.
const KINDS: [ConditionKind; 5] = [
    ConditionKind::Compiling,
    ConditionKind::Storage,
    ConditionKind::Exhausted,
    ConditionKind::Full,
    ConditionKind::Unusable,
];

/// How many modules a text names.
const NAMED_MAX: usize = 5;
