//! What calls look up: the entries of this node, and which node owns each slot.
//!
//! Written by the engine alone, read by every call without a lock.

use std::sync::{
    Arc,
    atomic::{AtomicU16, Ordering},
};

use arc_swap::ArcSwap;
use holdfast_model::{ModuleName, NodeId, ResourceId, Settings, Slot};
use tokio::sync::Notify;

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
    changes: Changes,
}

/// Tells calls that wait of what changes in their slots.
struct Changes {
    /// How often something has changed in each slot.
    counts: Box<[AtomicU16]>,
    /// Each wakes those who wait for one of some slots.
    wakes: [Notify; WAKES],
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
                changes: Changes::new(),
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
        table.changed(slot);
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

impl Table {
    /// Something has changed in a slot: its owner, or what of it is here.
    pub(super) fn changed(&self, slot: Slot) {
        let at = usize::from(slot.0);
        self.changes.counts[at].fetch_add(1, Ordering::Release);
        self.changes.wakes[at % WAKES].notify_waiters();
    }

    /// How often something has changed in a slot.
    pub(super) fn changes(&self, slot: Slot) -> u16 {
        self.changes.counts[usize::from(slot.0)].load(Ordering::Acquire)
    }

    /// Waits until the count of a slot's changes is another one than this.
    pub(super) async fn await_change(&self, slot: Slot, seen: u16) {
        let wake = &self.changes.wakes[usize::from(slot.0) % WAKES];
        loop {
            let mut woken = std::pin::pin!(wake.notified());
            // Listens before it looks.
            woken.as_mut().enable();
            if self.changes(slot) != seen {
                return;
            }
            woken.await;
        }
    }
}

impl Changes {
    fn new() -> Self {
        Self {
            counts: (0..Slot::COUNT).map(|_| AtomicU16::new(0)).collect(),
            wakes: std::array::from_fn(|_| Notify::new()),
        }
    }
}

const NOBODY: u16 = 0;

/// Who waits for a slot is woken for one of so many besides, and goes on waiting.
const WAKES: usize = 64;

#[cfg(test)]
mod tests {
    use futures_util::poll;

    use super::*;

    #[tokio::test]
    async fn who_waits_for_a_slot_is_woken_by_its_changes_and_by_no_other() {
        let tables = Tables::new(NodeTurns::new(1), Metrics::new());
        let serving = || Serving {
            settings: Arc::default(),
            invocable: None,
        };
        let table = tables.open(&"m".parse().unwrap(), serving);
        let (slot, node) = (Slot(7), NodeId(uuid::Uuid::from_u128(1)));
        let seen = table.changes(slot);
        let mut waits = std::pin::pin!(table.await_change(slot, seen));
        assert!(poll!(waits.as_mut()).is_pending());
        // One of those that share its wake is another slot all the same.
        for other in [8, 7 + WAKES as u16] {
            tables.set_route(&table, Slot(other), Some(node));
            assert!(poll!(waits.as_mut()).is_pending());
        }
        tables.set_route(&table, slot, Some(node));
        assert!(poll!(waits.as_mut()).is_ready());
        // What happened before it began to wait is not missed.
        assert!(poll!(std::pin::pin!(table.await_change(slot, seen))).is_ready());
    }
}
