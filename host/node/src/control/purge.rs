//! Keeps the log short in bytes. The library counts entries, of which some have megabytes.

use std::time::Duration;

use openraft::async_runtime::WatchReceiver;

use super::{Core, log::LogStore};

impl Core {
    /// Has the log purged whenever it takes more than it may, as far as a durable state has its entries.
    /// Ends with the library.
    pub(super) async fn keep_log_short(&self, log: LogStore) {
        let mut metrics = self.raft.metrics();
        let trigger = self.raft.trigger();
        loop {
            let (snapshot, applied) = {
                let metrics = metrics.borrow_watched();
                let index =
                    |id: &Option<_>| id.as_ref().map_or(0, |id: &super::types::LogId| id.index);
                (index(&metrics.snapshot), index(&metrics.last_applied))
            };
            if log.bytes_after(snapshot) >= self.options.snapshot_every_bytes && applied > snapshot
            {
                if trigger.snapshot().await.is_err() {
                    return;
                }
            } else if let Some(through) = log.excess(self.options.log_kept_bytes)
                && snapshot > 0
                // Asked again when more is written: a node that is being sent entries has them kept.
                && trigger.purge_log(through.min(snapshot)).await.is_err()
            {
                return;
            }
            tokio::select! {
                () = log.grown() => {}
                changed = metrics.changed() => if changed.is_err() { return },
            }
            // Not for each entry.
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

/// The shortest pause between two looks. Longer: more is written meanwhile.
const LOOK_EVERY: Duration = Duration::from_millis(250);
