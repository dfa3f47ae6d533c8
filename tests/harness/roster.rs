//! The processes of one cluster, as the observer must know them.
//!
//! Shared by the processes, which sign in and out, and by the collector, which asks whose
//! connection one is.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use parking_lot::Mutex;

/// Process ids that may report. Cheap to clone; clones share the list.
#[derive(Clone, Debug, Default)]
pub struct Roster {
    /// Each with the address that is its own, if it has one.
    pids: Arc<Mutex<BTreeMap<u32, Option<IpAddr>>>>,
}

impl Roster {
    /// Adds a process, and the address that no process but this one ever has.
    pub fn enter(&self, pid: u32, addr: Option<IpAddr>) {
        self.pids.lock().insert(pid, addr);
    }

    /// Removes a process that has ended: the kernel may give its id to another.
    pub fn leave(&self, pid: u32) {
        self.pids.lock().remove(&pid);
    }

    /// The processes at this moment.
    #[must_use]
    pub fn pids(&self) -> Vec<u32> {
        self.pids.lock().keys().copied().collect()
    }

    /// The process that has this address to itself.
    #[must_use]
    pub fn at(&self, addr: IpAddr) -> Option<u32> {
        let pids = self.pids.lock();
        let mut all = pids.iter();
        all.find(|(_, its)| **its == Some(addr))
            .map(|(pid, _)| *pid)
    }
}
