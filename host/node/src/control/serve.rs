//! Answers to other nodes' messages.

use std::sync::Arc;

use bytes::Bytes;
use holdfast_cluster::codec::encode;
use holdfast_model::NodeId;
use openraft::{async_runtime::WatchReceiver, raft::VoteRequest};
use tokio::task::spawn_blocking;
use uuid::Uuid;

use super::{
    Core,
    machine::CACHE_BYTES,
    network::{Answer, Envelope, HandleError, Request, read_envelope},
    snapshot::{Copy, Row, StageError, Staged, StateCopy},
    types::{Peer, SnapshotMeta, Types, Vote},
};

impl Core {
    /// Answers a message.
    pub(crate) async fn handle(
        self: &Arc<Self>,
        from: NodeId,
        message: &[u8],
    ) -> Result<Bytes, HandleError> {
        let request = read_envelope(self.me, from, message)?;
        let body = self.answer(from, request).await;
        Ok(encode(&Envelope {
            to: from,
            from: self.me,
            body,
        })
        .into())
    }

    async fn answer(self: &Arc<Self>, from: NodeId, request: Request) -> Answer {
        match request {
            Request::Append(request) => {
                if *self.links.excluded.borrow() {
                    // Whoever replicates to this node counts it in, again.
                    self.links.excluded.send_replace(false);
                }
                or_failed(self.raft.append_entries(request).await.map(Answer::Append))
            }
            Request::Vote(request) if self.is_excluded(from, &request) => Answer::Excluded,
            Request::PreVote(request) if self.is_excluded(from, &request) => Answer::Excluded,
            Request::Vote(request) => or_failed(self.raft.vote(request).await.map(Answer::Vote)),
            Request::PreVote(request) => {
                or_failed(self.raft.pre_vote(request).await.map(Answer::Vote))
            }
            Request::Transfer(request) => or_failed(
                self.raft
                    .handle_transfer_leader(request)
                    .await
                    .map(Answer::Transfer),
            ),
            Request::SnapshotBegin { transfer, meta } => {
                or_failed(self.begin_snapshot(transfer, meta).await)
            }
            Request::SnapshotRows {
                transfer,
                piece,
                rows,
            } => or_failed(self.add_to_snapshot(transfer, piece, rows).await),
            Request::SnapshotEnd {
                transfer,
                piece,
                vote,
            } => or_failed(self.end_snapshot(transfer, piece, vote).await),
            Request::Propose { command, within_ms } => {
                self.serve_proposal(command, within_ms).await
            }
            Request::ReadIndex { within_ms } => self.serve_read_index(within_ms).await,
        }
    }

    /// Whether a candidate was removed by an entry that it does not have. It can then win no
    /// election, for a majority has that entry; but nobody else would ever tell it to stop, since
    /// nobody replicates to it any more.
    fn is_excluded(&self, candidate: NodeId, request: &VoteRequest<Types>) -> bool {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let config = &metrics.committed_membership_config;
        config.log_id().is_some()
            && config.get_node(&Peer(candidate)).is_none()
            && request.last_log_id < *config.log_id()
    }

    async fn begin_snapshot(&self, id: Uuid, meta: SnapshotMeta) -> Result<Answer, SnapshotError> {
        let (dir, me) = (self.options.dir.clone(), self.me);
        let staged = spawn_blocking(move || Staged::begin(&dir, me, CACHE_BYTES)).await??;
        self.incoming.begin(id, meta, staged);
        Ok(Answer::SnapshotPiece)
    }

    async fn add_to_snapshot(
        &self,
        id: Uuid,
        piece: u64,
        rows: Vec<Row>,
    ) -> Result<Answer, SnapshotError> {
        let transfer = self.incoming.take(id, piece).ok_or(SnapshotError::Ended)?;
        let transfer =
            spawn_blocking(move || transfer.staged.add(&rows).map(|()| transfer)).await??;
        self.incoming.put_back(transfer);
        Ok(Answer::SnapshotPiece)
    }

    async fn end_snapshot(
        &self,
        id: Uuid,
        piece: u64,
        vote: Vote,
    ) -> Result<Answer, SnapshotError> {
        let transfer = self.incoming.take(id, piece).ok_or(SnapshotError::Ended)?;
        let (meta, staged) = (transfer.meta, transfer.staged);
        let copy = StateCopy {
            meta,
            snapshot: Copy::Received(staged),
        };
        let installed = self.raft.install_full_snapshot(vote, copy).await;
        installed
            .map(Answer::Snapshot)
            .map_err(|error| SnapshotError::Install(error.to_string()))
    }
}

/// Why a piece of a snapshot was not taken.
#[derive(Debug, thiserror::Error)]
enum SnapshotError {
    #[error("this transfer has ended")]
    Ended,
    #[error("{error}: {}", chain(error))]
    Stage { error: StageError },
    #[error("the work was given up: {0}")]
    Work(#[from] tokio::task::JoinError),
    #[error("install the snapshot: {0}")]
    Install(String),
}

impl From<StageError> for SnapshotError {
    fn from(error: StageError) -> Self {
        Self::Stage { error }
    }
}

/// The causes of an error: only its text leaves this node.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    causes
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}

fn or_failed<E: std::error::Error>(result: Result<Answer, E>) -> Answer {
    result.unwrap_or_else(|error| Answer::Failed(error.to_string()))
}
