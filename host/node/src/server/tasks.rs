//! The tasks of a node, each of which must run until the node ends.

use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, error, info_span, warn};

use crate::peer::Runtimes;

/// When each layer ends.
#[derive(Default)]
pub(super) struct Ends {
    /// The instances.
    pub(super) resources: CancellationToken,
    /// The API.
    pub(super) http: CancellationToken,
    /// What works for them.
    pub(super) rest: CancellationToken,
    /// The listener and the connections to peers.
    pub(super) peers: CancellationToken,
}

pub(super) struct Tasks {
    pub(super) runtimes: Runtimes,
    running: JoinSet<&'static str>,
}

impl Tasks {
    pub(super) fn new(runtimes: Runtimes) -> Self {
        Self {
            runtimes,
            running: JoinSet::new(),
        }
    }

    /// Runs a task beside Raft and gossip.
    pub(super) fn control(
        &mut self,
        name: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        let named = async move {
            task.await;
            name
        };
        let span = info_span!("task", name);
        self.running
            .spawn_on(named.instrument(span), &self.runtimes.control.clone());
    }

    /// Runs a task beside Raft and gossip that has nothing to put in order when it ends.
    pub(super) fn follow(
        &mut self,
        name: &'static str,
        stop: &CancellationToken,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        let stop = stop.clone();
        self.control(name, async move {
            // Cut off wherever it waits, or ended by itself: both end it.
            let _ = stop.run_until_cancelled(task).await;
        });
    }

    /// Runs a task beside the handlers.
    pub(super) fn data(
        &mut self,
        name: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        let named = async move {
            task.await;
            name
        };
        let span = info_span!("task", name);
        self.running
            .spawn_on(named.instrument(span), &self.runtimes.data.clone());
    }

    /// Waits for the first task that ends, and names it.
    pub(super) async fn first(&mut self) -> &'static str {
        match self.running.join_next().await {
            Some(Ok(name)) => name,
            Some(Err(failed)) => {
                error!(error = %failed, "a task panicked");
                "a task that panicked"
            }
            None => std::future::pending().await,
        }
    }

    /// Waits for all tasks, which have been told to end; ends those that do not.
    pub(super) async fn end(mut self) {
        let ended = async { while self.running.join_next().await.is_some() {} };
        if tokio::time::timeout(GRACE, ended).await.is_err() {
            warn!(
                tasks = self.running.len(),
                "tasks were ended that would not end themselves"
            );
            self.running.shutdown().await;
        }
    }
}

const GRACE: Duration = Duration::from_secs(8);
