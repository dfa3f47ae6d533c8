//! What becomes of a node of which there are two: a data directory was copied.
//!
//! Two processes under one id would both run its resources. Those that meet each other agree on
//! which of them is the later one, by incarnation and start; it ends. Where others tell a process that
//! they have met another one first, it ends unless it holds a lease: leases are granted by one node,
//! which takes one of the two only.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    sync::{broadcast::error::RecvError, watch},
    time::{Instant, timeout_at},
};
use tracing::error;

use super::Error;
use crate::{
    gossip,
    peer::{Peers, Twin},
    placement::Lease,
};

/// Waits until this process is the one that must end.
pub(super) async fn ends(
    mut twin: watch::Receiver<Option<Twin>>,
    lease: watch::Receiver<Lease>,
) -> Error {
    let mut told = None;
    loop {
        let found = *twin.borrow_and_update();
        if let Some(found) = found {
            if told != Some(found.addr) {
                told = Some(found.addr);
                error!(
                    peer.addr = %found.addr, this_is_later = found.this_is_later,
                    "another process runs as this node: its data directory was copied"
                );
            }
            if must_end(found, lease.clone()).await {
                return Error::Twin { addr: found.addr };
            }
        }
        if twin.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

async fn must_end(found: Twin, mut lease: watch::Receiver<Lease>) -> bool {
    if found.met {
        return found.this_is_later;
    }
    // It may be that each of the two was met first by somebody.
    let grace = if found.this_is_later {
        Duration::ZERO
    } else {
        GRACE
    };
    let granted = lease.wait_for(|lease| *lease != Lease::Waiting);
    timeout_at(Instant::now() + grace, granted).await.is_err()
}

/// Meets processes that gossip as this node, which tells both which of them is the later one.
pub(super) async fn meet(heard: gossip::Handle, peers: Peers) {
    let mut events = heard.events();
    loop {
        let addr: SocketAddr = match events.recv().await {
            Ok(gossip::Event::Twin { addr }) => addr,
            Ok(_) | Err(RecvError::Lagged(_)) => continue,
            Err(RecvError::Closed) => return std::future::pending().await,
        };
        // What comes of it is noted where handshakes are judged.
        let _ = peers.hello(addr).await;
    }
}

/// How long the earlier of two may go on without a lease.
const GRACE: Duration = Duration::from_secs(10);
