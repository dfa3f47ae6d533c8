//! The library's side of the state machine: hands over what is committed, and waits until the process
//! has applied it.

use std::{io, sync::Arc};

use futures_util::{Stream, StreamExt as _};
use holdfast_cluster::state::Position;
use openraft::{
    EntryPayload, OptionalSend, RaftSnapshotBuilder,
    storage::{EntryResponder, RaftStateMachine},
    type_config::alias,
};
use tokio::sync::oneshot;

use super::{LeaderOfTerm, LogId, Membership, Process, Shared, Types, disk::Writer, lock, term};
use crate::log::{self, Checkpoint, Committed, Proposal, What};

/// A state, and what the library needs to know of it.
pub(crate) struct Kept {
    pub(super) checkpoint: Arc<Checkpoint>,
    pub(super) membership: Membership,
}

impl Kept {
    fn id(&self) -> Option<LogId> {
        let Position { index, term } = self.checkpoint.at;
        let index = index.checked_sub(1)?;
        Some(LogId::new(LeaderOfTerm::new(term), index))
    }
}

#[derive(Clone)]
pub(crate) struct Machine {
    core: Shared,
    writer: Writer,
}

impl Machine {
    pub(super) fn new(process: &Process) -> Self {
        Self {
            core: process.core.clone(),
            writer: process.writer.clone(),
        }
    }

    /// Hands over what is committed up to an index, and waits until it is applied.
    async fn hand_over(&self, index: u64, committed: Vec<Committed>) -> io::Result<()> {
        let (done, applied) = oneshot::channel();
        {
            let mut core = lock(&self.core);
            core.committed.extend(committed);
            core.applying.push((index, done));
        }
        applied.await.map_err(io::Error::other)
    }

    fn snapshot(&self) -> Snapshot {
        let kept = lock(&self.core).kept.clone();
        Snapshot {
            meta: openraft::storage::SnapshotMeta {
                last_log_id: kept.id(),
                last_membership: kept.membership.clone(),
            },
            snapshot: kept,
        }
    }
}

pub(super) type Snapshot = alias::SnapshotOf<Types, Arc<Kept>>;

impl RaftStateMachine<Types> for Machine {
    type SnapshotData = Arc<Kept>;
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, Membership)> {
        let kept = lock(&self.core).kept.clone();
        Ok((kept.id(), kept.membership.clone()))
    }

    async fn apply<S>(&mut self, entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<Types>>> + Unpin + OptionalSend,
    {
        let mut batches = entries.ready_chunks(TOGETHER);
        while let Some(batch) = batches.next().await {
            let (mut committed, mut responders, mut last) = (Vec::new(), Vec::new(), 0);
            for entry in batch {
                let (entry, responder) = entry?;
                let proposal = match entry.payload {
                    EntryPayload::Normal(payload) => payload.0,
                    EntryPayload::Blank => unnumbered(What::Blank),
                    EntryPayload::Membership(config) => {
                        unnumbered(What::Voters(config.get_joint_config().clone()))
                    }
                };
                let (index, term) = (entry.log_id.index + 1, term(&entry.log_id));
                let entry = log::Entry { term, proposal };
                committed.push(Committed::Entry(Position { index, term }, entry));
                responders.extend(responder);
                last = index;
            }
            self.hand_over(last, committed).await?;
            for responder in responders {
                responder.send(());
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn install_snapshot(
        &mut self,
        _: &alias::SnapshotMetaOf<Types>,
        kept: Arc<Kept>,
    ) -> io::Result<()> {
        self.writer.keep(kept.clone()).await?;
        let checkpoint = kept.checkpoint.clone();
        lock(&self.core).kept = kept;
        let index = checkpoint.at.index;
        self.hand_over(index, vec![Committed::State(checkpoint)])
            .await
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        let snapshot = self.build_snapshot().await?;
        Ok(snapshot.meta.last_log_id.is_some().then_some(snapshot))
    }
}

impl RaftSnapshotBuilder<Types> for Machine {
    type SnapshotData = Arc<Kept>;

    /// What it gives is on the disk: the log may be purged up to it.
    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        let snapshot = self.snapshot();
        self.writer.keep(snapshot.snapshot.clone()).await?;
        Ok(snapshot)
    }
}

/// What the library put into the log by itself.
fn unnumbered(what: What) -> Arc<Proposal> {
    Arc::new(Proposal { number: 0, what })
}

/// Entries that are applied together.
const TOGETHER: usize = 64;
