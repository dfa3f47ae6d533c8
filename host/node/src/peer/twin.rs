//! Tells processes apart that run under one node id: somebody copied a data directory.
//!
//! Each process has a random number, which handshakes prove with the rest of its identity. Of two
//! processes with one id and incarnation a node takes the one that it met first, and refuses the
//! other one for as long as it runs.

use std::{
    collections::HashMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use holdfast_model::{Incarnation, NodeId};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tracing::{Level, error};

use crate::{clock::now_ms, identity::random, telemetry::Repeated};

/// One process. The greater of two was started later, as far as their clocks agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Process {
    started_at_ms: u64,
    nonce: u64,
}

/// Another process that runs under this node's id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Twin {
    /// Where it says that it is reached.
    pub addr: SocketAddr,
    /// Whether the two have met. Otherwise a third node says so, which met the other one first and
    /// refuses this one.
    pub met: bool,
    /// Whether this process is the later one.
    pub this_is_later: bool,
    /// When it was found last.
    pub at: Instant,
}

/// What is known of twins.
pub(super) struct Twins {
    /// This process, and its incarnation.
    this: (Incarnation, Process),
    own: watch::Sender<Option<Twin>>,
    /// The twins of other nodes that were refused: when last, and where they are.
    refused: Mutex<HashMap<NodeId, (Instant, SocketAddr)>>,
    reports: Repeated,
}

impl Process {
    fn this() -> Self {
        Self {
            started_at_ms: now_ms(),
            nonce: u64::from_le_bytes(random()),
        }
    }

    #[cfg(test)]
    pub(super) fn of_test(nonce: u64) -> Self {
        Self {
            started_at_ms: nonce,
            nonce,
        }
    }
}

impl Twins {
    pub(super) fn new(incarnation: Incarnation) -> Self {
        Self {
            this: (incarnation, Process::this()),
            own: watch::Sender::new(None),
            refused: Mutex::default(),
            reports: Repeated::new(Level::ERROR, "two processes run as one node"),
        }
    }

    /// This process.
    pub(super) fn this(&self) -> Process {
        self.this.1
    }

    /// Takes note of a process under this node's id.
    pub(super) fn found(&self, other: (Incarnation, Process), addr: SocketAddr, met: bool) {
        self.own.send_replace(Some(Twin {
            addr,
            met,
            this_is_later: self.this > other,
            at: Instant::now(),
        }));
    }

    /// The process under this node's id that was found last.
    pub(super) fn own(&self) -> watch::Receiver<Option<Twin>> {
        self.own.subscribe()
    }

    /// Takes note that a process was refused, for another one is that node.
    pub(super) fn refuse(&self, node: NodeId, addr: SocketAddr, first: SocketAddr) {
        self.refused.lock().insert(node, (Instant::now(), addr));
        if let Some(suppressed) = self.reports.pass() {
            error!(
                node.id = %node, peer.addr = %addr, first.addr = %first, suppressed,
                "two processes run as one node: its data directory was copied. The one that was met \
                 first stays; stop the other one, and start it with an empty data directory"
            );
        }
    }

    /// Where the twin of a node is that was refused lately.
    pub(super) fn refused(&self, node: NodeId) -> Option<SocketAddr> {
        let refused = self.refused.lock();
        let (at, addr) = refused.get(&node)?;
        (at.elapsed() < REMEMBERED).then_some(*addr)
    }

    pub(super) fn forget(&self, node: NodeId) {
        self.refused.lock().remove(&node);
    }
}

/// How long a twin counts that does not come back. Longer than it takes one that was refused to try
/// again.
const REMEMBERED: Duration = Duration::from_secs(10);
