//! Follows the library: who leads, and whether it still runs.

use std::sync::Arc;

use holdfast_model::NodeId;
use openraft::{async_runtime::WatchReceiver, errors::Fatal};
use tokio::sync::watch;

use super::{
    Core,
    snapshot::IDLE_MAX,
    types::{Types, term},
};

/// Who leads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leadership {
    /// The leader, as far as this node knows.
    pub leader: Option<NodeId>,
    /// The term this node is in. Each has one leader at most.
    pub term: u64,
    /// This node leads in that term, and its state has everything that earlier leaders acknowledged.
    /// It may have lost the others without knowing.
    pub me: bool,
}

/// Why this node's copy of the control state has stopped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the control state of this node has stopped: {0}")]
pub struct Failure(Arc<str>);

impl Core {
    /// Tells who leads, whether the library runs, and stops a removed node's campaigns. It is
    /// stopped before the library is, so however that ends here is a failure.
    pub(super) async fn follow_raft(
        &self,
        leadership: watch::Sender<Leadership>,
        failure: watch::Sender<Option<Failure>>,
    ) {
        let why = self.follow_until_it_ends(&leadership).await;
        leadership.send_modify(|known| {
            *known = Leadership {
                term: known.term,
                ..Leadership::default()
            }
        });
        failure.send_replace(Some(Failure(why.into())));
    }

    /// Returns why the library has ended.
    async fn follow_until_it_ends(&self, leadership: &watch::Sender<Leadership>) -> String {
        let mut metrics = self.raft.metrics();
        let mut excluded = self.links.excluded.subscribe();
        let mut sweep = tokio::time::interval(IDLE_MAX / 4);
        loop {
            let (now, running) = {
                let metrics = metrics.borrow_watched();
                let applied = metrics.last_applied.as_ref().map(term);
                let now = Leadership {
                    leader: metrics.current_leader.map(|peer| peer.0),
                    term: metrics.current_term,
                    me: metrics.state.is_leader() && applied == Some(metrics.current_term),
                };
                (now, metrics.running_state.clone())
            };
            if let Err(fatal) = running {
                return describe(&fatal);
            }
            leadership.send_if_modified(|known| std::mem::replace(known, now) != now);
            tokio::select! {
                changed = metrics.changed() => if changed.is_err() {
                    // It says why it ends, unless its task panics.
                    return describe(&Fatal::Panicked);
                },
                // The sender is self's, so it is there.
                _ = excluded.changed() => {
                    let excluded = *excluded.borrow_and_update();
                    self.raft.runtime_config().elect(!excluded);
                    if excluded {
                        tracing::warn!(node.id = %self.me, "this node was removed from the cluster");
                    }
                }
                _ = sweep.tick() => self.incoming.expire(),
            }
        }
    }
}

fn describe(fatal: &Fatal<Types>) -> String {
    let mut text = fatal.to_string();
    let mut source = std::error::Error::source(fatal);
    while let Some(error) = source {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = error.source();
    }
    text
}
