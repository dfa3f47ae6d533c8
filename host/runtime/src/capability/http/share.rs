//! What the requests of one module may take of the node's connections and lookups.
//!
//! Invariant: no module takes more than a quarter of them, however many resources it has and
//! however slow the servers are that it talks to.

use std::sync::Arc;

use tokio::sync::Semaphore;

use super::client::{CONNECTIONS_MAX, LOOKUPS_MAX};

pub(crate) struct Share {
    /// Requests under way, until their answers have been read.
    pub(super) requests: Arc<Semaphore>,
    /// Names that are being looked up.
    pub(super) lookups: Arc<Semaphore>,
}

impl Default for Share {
    fn default() -> Self {
        Self {
            requests: Arc::new(Semaphore::new(CONNECTIONS_MAX / 4)),
            lookups: Arc::new(Semaphore::new(LOOKUPS_MAX / 4)),
        }
    }
}
