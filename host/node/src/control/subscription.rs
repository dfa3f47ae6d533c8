//! Tells subscribers which rows of the state have changed.
//!
//! A change is united with what the subscriber has not taken yet, so publishing never waits, and a
//! slow subscriber costs one key for each row that changed, however often it did.

use std::sync::{Arc, Weak};

use holdfast_cluster::state::Changes;
use parking_lot::Mutex;
use tokio::sync::Notify;

/// Where changes are published.
#[derive(Default)]
pub(crate) struct Feed {
    subscribers: Mutex<Vec<Weak<Inbox>>>,
}

#[derive(Default)]
struct Inbox {
    waiting: Mutex<Changes>,
    arrived: Notify,
}

/// The rows that changed since they were last asked for; at first, all of them.
pub struct Subscription {
    inbox: Arc<Inbox>,
}

impl Feed {
    /// Adds a subscriber. It is told of everything published from now on.
    pub(crate) fn subscribe(&self) -> Subscription {
        let inbox = Arc::default();
        self.subscribers.lock().push(Arc::downgrade(&inbox));
        Subscription { inbox }
    }

    /// Tells all subscribers.
    pub(crate) fn publish(&self, changes: Changes) {
        if changes.is_empty() {
            return;
        }
        self.subscribers.lock().retain(|inbox| {
            let Some(inbox) = inbox.upgrade() else {
                return false;
            };
            inbox.add(changes.clone());
            true
        });
    }
}

impl Inbox {
    fn add(&self, mut changes: Changes) {
        let mut waiting = self.waiting.lock();
        if waiting.len() < changes.len() {
            std::mem::swap(&mut *waiting, &mut changes);
        }
        waiting.extend(changes);
        drop(waiting);
        self.arrived.notify_one();
    }
}

impl Subscription {
    /// Waits until something has changed, and takes it. A key whose row is gone was removed.
    ///
    /// Cancel safe: what was not returned is returned by the next call.
    pub async fn changed(&mut self) -> Changes {
        loop {
            // A permit is stored when something arrives between these two lines.
            let changes = std::mem::take(&mut *self.inbox.waiting.lock());
            if !changes.is_empty() {
                return changes;
            }
            self.inbox.arrived.notified().await;
        }
    }

    /// Counts rows as changed.
    pub(crate) fn add(&self, changes: Changes) {
        self.inbox.add(changes);
    }
}
