//! The processes of one cluster, as the observer must know them.
//!
//! Shared by the processes, which sign in and out, and by the collector, which asks whose
//! connection one is.

use std::{collections::BTreeSet, sync::Arc};

use parking_lot::Mutex;

/// Process ids that may report. Cheap to clone; clones share the list.
#[derive(Clone, Debug, Default)]
pub struct Roster {
    pids: Arc<Mutex<BTreeSet<u32>>>,
}

impl Roster {
    /// Adds a process.
    pub fn enter(&self, pid: u32) {
        self.pids.lock().insert(pid);
    }

    /// Removes a process that has ended: the kernel may give its id to another.
    pub fn leave(&self, pid: u32) {
        self.pids.lock().remove(&pid);
    }

    /// The processes at this moment.
    #[must_use]
    pub fn pids(&self) -> Vec<u32> {
        self.pids.lock().iter().copied().collect()
    }
}
