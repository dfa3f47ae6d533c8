//! Questions of one copy to another, and their answers, as messages of the simulated network.

use std::{fmt, sync::Arc, time::Duration};

use holdfast_model::NodeId;
use openraft::{
    EmptyNode,
    async_runtime::AsyncRuntime as _,
    errors::{RPCError, ReplicationClosed, StreamingError, Unreachable},
    network::{RPCOption, RaftNetworkFactory, RaftNetworkV2},
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
        TransferLeaderResponse, VoteRequest, VoteResponse,
    },
};
use tokio::sync::oneshot;

use super::{
    Raft, Shared, Types, Vote, lock,
    machine::{Kept, Snapshot},
    runtime::Runtime,
};
use crate::log::ELECTION_MAX;

/// A question under a number of its asker's, or the answer to it.
pub(super) enum Rpc {
    Ask(u64, Question),
    Answer(u64, Answer),
}

#[derive(Clone)]
pub(super) enum Question {
    Append(AppendEntriesRequest<Types>),
    Vote(VoteRequest<Types>),
    PreVote(VoteRequest<Types>),
    Transfer(TransferLeaderRequest<Types>),
    Install(Vote, Snapshot),
}

#[derive(Clone)]
pub(super) enum Answer {
    Append(AppendEntriesResponse<Types>),
    Vote(VoteResponse<Types>),
    Transfer(TransferLeaderResponse<Types>),
    Installed(SnapshotResponse<Types>),
    Failed(String),
}

impl Question {
    pub(super) async fn answer(self, raft: &Raft) -> Answer {
        let answer = match self {
            Self::Append(request) => raft.append_entries(request).await.map(Answer::Append),
            Self::Vote(request) => raft.vote(request).await.map(Answer::Vote),
            Self::PreVote(request) => raft.pre_vote(request).await.map(Answer::Vote),
            Self::Transfer(request) => {
                let handled = raft.handle_transfer_leader(request).await;
                return or_failed(handled.map(Answer::Transfer));
            }
            Self::Install(vote, snapshot) => {
                let installed = raft.install_full_snapshot(vote, snapshot).await;
                return or_failed(installed.map(Answer::Installed));
            }
        };
        or_failed(answer)
    }
}

fn or_failed<E: fmt::Display>(answer: Result<Answer, E>) -> Answer {
    answer.unwrap_or_else(|error| Answer::Failed(error.to_string()))
}

/// Why there is no answer that fits.
#[derive(Debug, thiserror::Error)]
enum NoAnswer {
    #[error("there was no answer in time")]
    Late,
    #[error("the node could not do it: {0}")]
    Failed(String),
    #[error("the answer is to another question")]
    Unexpected,
}

#[derive(Clone)]
pub(super) struct Links(pub(super) Shared);

pub(super) struct Link {
    core: Shared,
    to: NodeId,
}

impl RaftNetworkFactory<Types> for Links {
    type Network = Link;

    async fn new_client(&mut self, to: NodeId, _: &EmptyNode) -> Link {
        let core = self.0.clone();
        Link { core, to }
    }
}

impl Link {
    async fn ask(&self, question: Question, timeout: Duration) -> Result<Answer, NoAnswer> {
        let (waiting, answered) = oneshot::channel();
        let call = {
            let mut core = lock(&self.core);
            core.calls += 1;
            let call = core.calls;
            core.waiting.insert(call, waiting);
            core.out.push((self.to, Rpc::Ask(call, question)));
            call
        };
        let answer = Runtime::timeout(timeout, answered).await;
        lock(&self.core).waiting.remove(&call);
        match answer {
            Ok(Ok(Answer::Failed(why))) => Err(NoAnswer::Failed(why)),
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) | Err(_) => Err(NoAnswer::Late),
        }
    }

    async fn ballot(
        &self,
        question: Question,
        option: &RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        match self.ask(question, option.soft_ttl()).await {
            Ok(Answer::Vote(response)) => Ok(response),
            answer => Err(unreachable(answer.err())),
        }
    }
}

impl RaftNetworkV2<Types> for Link {
    type SnapshotData = Arc<Kept>;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        // As the node: entries may take longer than a heartbeat.
        let timeout = match request.entries.is_empty() {
            true => option.soft_ttl(),
            false => ELECTION_MAX.max(option.soft_ttl()),
        };
        match self.ask(Question::Append(request), timeout).await {
            Ok(Answer::Append(response)) => Ok(response),
            answer => Err(unreachable(answer.err())),
        }
    }

    async fn vote(
        &mut self,
        request: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.ballot(Question::Vote(request), &option).await
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.ballot(Question::PreVote(request), &option).await
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RPCError<Types>> {
        match self
            .ask(Question::Transfer(request), option.soft_ttl())
            .await
        {
            Ok(Answer::Transfer(response)) => Ok(response),
            answer => Err(unreachable(answer.err())),
        }
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let install = self.ask(Question::Install(vote, snapshot), INSTALL_MAX);
        let (install, cancel) = (std::pin::pin!(install), std::pin::pin!(cancel));
        match Runtime::select2(cancel, install).await {
            openraft::async_runtime::Select2::First(closed) => Err(StreamingError::Closed(closed)),
            openraft::async_runtime::Select2::Second(Ok(Answer::Installed(response))) => {
                Ok(response)
            }
            openraft::async_runtime::Select2::Second(answer) => {
                let error = answer.err().unwrap_or(NoAnswer::Unexpected);
                Err(StreamingError::Unreachable(Unreachable::new(&error)))
            }
        }
    }
}

fn unreachable(error: Option<NoAnswer>) -> RPCError<Types> {
    let error = error.unwrap_or(NoAnswer::Unexpected);
    RPCError::Unreachable(Unreachable::new(&error))
}

/// How long an installation may take.
const INSTALL_MAX: Duration = Duration::from_secs(5);
