//! What calls look up: the entries of this node, and which node owns each slot.
//!
//! Written by the engine alone, read by every call without a lock.

use std::sync::{
    Arc,
    atomic::{AtomicU16, Ordering},
};

use arc_swap::ArcSwap;
use holdfast_model::{ModuleName, NodeId, ResourceId, Settings, Slot};

use super::{
    entry::Entry,
    turns::{NodeTurns, Turns},
};
use crate::metrics::{Calls, Metrics};

type Map<K, V> = papaya::HashMap<K, V, foldhash::fast::RandomState>;

/// All modules, by name.
pub(super) struct Tables {
    turns: NodeTurns,
    metrics: Metrics,
    modules: Map<ModuleName, Arc<Table>>,
    /// Nodes by the number that routes use for them, from 1.
    nodes: ArcSwap<Vec<NodeId>>,
}

/// One module.
pub(super) struct Table {
    pub(super) name: ModuleName,
    pub(super) entries: Map<ResourceId, Arc<Entry>>,
    pub(super) serving: ArcSwap<Serving>,
    pub(super) turns: Arc<Turns>,
    pub(super) calls: Calls,
    routes: Box<[AtomicU16]>,
}

/// What calls need to know of the version that serves.
pub(super) struct Serving {
    pub(super) settings: Arc<Settings>,
    /// Whether it exports `invocation`. Unknown until the module is compiled here.
    pub(super) invocable: Option<bool>,
}

impl Tables {
    pub(super) fn new(turns: NodeTurns, metrics: Metrics) -> Self {
        Self {
            turns,
            metrics,
            modules: Map::default(),
            nodes: ArcSwap::default(),
        }
    }

    pub(super) fn get(&self, module: &str) -> Option<Arc<Table>> {
        self.modules.pin().get(module).cloned()
    }

    /// The module's table, made when there is none.
    pub(super) fn open(&self, name: &ModuleName, serving: impl FnOnce() -> Serving) -> Arc<Table> {
        let fresh = || {
            Arc::new(Table {
                name: name.clone(),
                entries: Map::default(),
                serving: ArcSwap::from_pointee(serving()),
                turns: Turns::new(self.turns.clone()),
                calls: self.metrics.begin(name),
                routes: (0..Slot::COUNT).map(|_| AtomicU16::new(NOBODY)).collect(),
            })
        };
        let modules = self.modules.pin();
        if let Some(known) = modules.get(name.as_str()) {
            return Arc::clone(known);
        }
        let table = fresh();
        modules.insert(name.clone(), Arc::clone(&table));
        table
    }

    pub(super) fn close(&self, name: &ModuleName) {
        self.modules.pin().remove(name.as_str());
        self.metrics.forget(name);
    }

    pub(super) fn all(&self) -> Vec<Arc<Table>> {
        self.modules.pin().values().cloned().collect()
    }

    /// The owner of a slot, as far as this node knows.
    pub(super) fn route(&self, table: &Table, slot: Slot) -> Option<NodeId> {
        let number = table.routes[usize::from(slot.0)].load(Ordering::Acquire);
        let at = usize::from(number).checked_sub(1)?;
        self.nodes.load().get(at).copied()
    }

    pub(super) fn set_route(&self, table: &Table, slot: Slot, owner: Option<NodeId>) {
        let number = owner.map_or(NOBODY, |owner| self.number(owner));
        table.routes[usize::from(slot.0)].store(number, Ordering::Release);
    }

    fn number(&self, node: NodeId) -> u16 {
        let nodes = self.nodes.load();
        if let Some(at) = nodes.iter().position(|known| *known == node) {
            return at as u16 + 1;
        }
        let mut more = Vec::clone(&nodes);
        more.push(node);
        // Numbers are never reused, so a node that keeps losing its identity could use them up;
        // the slots of the 65,535th are then found by asking, not by number.
        let number = u16::try_from(more.len()).unwrap_or(NOBODY);
        if number != NOBODY {
            self.nodes.store(Arc::new(more));
        }
        number
    }
}

const NOBODY: u16 = 0;
