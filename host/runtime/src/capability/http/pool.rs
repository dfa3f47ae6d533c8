//! Connections that wait for their next request.
//!
//! Keyed by the address as well as the name: a connection that one module was allowed to make is
//! no way around the grants of another. Bounded in number and time.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use hyper::client::conn::http1::SendRequest;
use parking_lot::Mutex;
use wasmtime_wasi_http::WasiBody;

use super::destination::Destination;

#[derive(Default)]
pub(super) struct Pool(Mutex<Idle>);

#[derive(Default)]
struct Idle {
    by_key: HashMap<Key, Vec<Connection>>,
    count: usize,
    swept: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) destination: Destination,
    pub(super) addr: SocketAddr,
}

struct Connection {
    sender: SendRequest<WasiBody>,
    since: Instant,
}

impl Pool {
    /// The connection used last, if one still lives.
    pub(super) fn take(&self, key: &Key) -> Option<SendRequest<WasiBody>> {
        let mut idle = self.0.lock();
        loop {
            let connection = idle.by_key.get_mut(key)?.pop()?;
            idle.count -= 1;
            if connection.sender.is_ready() && connection.since.elapsed() < IDLE_MAX {
                return Some(connection.sender);
            }
        }
    }

    /// Keeps a connection for the next request; closes it when there are enough.
    pub(super) fn put(self: &Arc<Self>, key: Key, sender: SendRequest<WasiBody>) {
        let mut idle = self.0.lock();
        if idle.count >= CONNECTIONS_MAX {
            return;
        }
        let connections = idle.by_key.entry(key).or_default();
        if connections.len() >= CONNECTIONS_PER_KEY_MAX {
            return;
        }
        connections.push(Connection {
            sender,
            since: Instant::now(),
        });
        idle.count += 1;
        if !std::mem::replace(&mut idle.swept, true) {
            // Ends by itself when nothing is left to close or the pool is gone.
            tokio::spawn(sweep(Arc::downgrade(self)));
        }
    }

    /// Forgets what has been idle for too long or was closed; false when nothing is left.
    pub(super) fn close_old(&self) -> bool {
        let mut idle = self.0.lock();
        idle.by_key.retain(|_, connections| {
            connections.retain(|c| c.since.elapsed() < IDLE_MAX && !c.sender.is_closed());
            !connections.is_empty()
        });
        idle.count = idle.by_key.values().map(Vec::len).sum();
        idle.swept = idle.count > 0;
        idle.swept
    }
}

async fn sweep(pool: Weak<Pool>) {
    loop {
        tokio::time::sleep(IDLE_MAX / 2).await;
        match pool.upgrade() {
            Some(pool) if pool.close_old() => {}
            _ => return,
        }
    }
}

/// Less than the 60 s after which common servers and proxies close.
const IDLE_MAX: Duration = Duration::from_secs(30);
const CONNECTIONS_MAX: usize = 256;
const CONNECTIONS_PER_KEY_MAX: usize = 16;
