//! The deadline of a drain: what has not ended by then is dropped.
//!
//! The state says how long the node may take; the node counts that itself, from when it applied it.
//! Only what is to go elsewhere is dropped: what nobody can take goes on.

use std::time::Duration;

use tokio::time::Instant;
use tracing::warn;

use super::Engine;

/// A drain with a deadline.
#[derive(Clone, Copy)]
pub(super) struct Drain {
    within: Duration,
    ends: Instant,
    /// The deadline has passed: what is told to stop is dropped.
    pub(super) late: bool,
}

/// Waits for the deadline, if there is one to come.
pub(super) async fn deadline(drain: Option<Drain>) {
    match drain {
        Some(Drain { ends, late, .. }) if !late => tokio::time::sleep_until(ends).await,
        _ => std::future::pending().await,
    }
}

impl Engine {
    /// Takes note of what the state says of this node.
    pub(super) fn drain_changed(&mut self) {
        let deadline_ms = self.control.read(|state| {
            let node = state.nodes().get(&self.me.node);
            let own = node.filter(|node| node.incarnation == self.me.incarnation);
            own?.drain_deadline_ms
        });
        let within = deadline_ms.map(Duration::from_millis);
        // What is told twice counts from the first time.
        if within == self.drain.map(|drain| drain.within) {
            return;
        }
        self.drain = within.and_then(|within| {
            let ends = Instant::now().checked_add(within)?;
            let late = false;
            Some(Drain { within, ends, late })
        });
    }

    /// Drops what is still ending.
    pub(super) fn drain_is_late(&mut self) {
        let Some(drain) = &mut self.drain else { return };
        drain.late = true;
        let within_ms = drain.within.as_millis() as u64;
        let stopping = self
            .hosted
            .keys()
            .filter(|key| !self.handover.is_running(key));
        let entries: Vec<_> = stopping.flat_map(|key| self.entries_of(key)).collect();
        if !entries.is_empty() {
            let resources = entries.len();
            warn!(
                resources,
                within_ms, "dropped, for the deadline of the drain has passed"
            );
        }
        for entry in entries {
            entry.drop_now(&self.shared.host);
        }
    }
}
