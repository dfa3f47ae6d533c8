//! Messages between the copies of the control state.
//!
//! Every message names the node it is for and the node it is from. A receiver refuses one that is
//! for another node, or that comes over another node's connection: an address can change hands, and
//! a vote of the wrong node would count as two.

use std::{io, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use holdfast_cluster::{
    codec::{self, decode, encode},
    state::{Command, Outcome},
};
use holdfast_model::NodeId;
use openraft::{
    EmptyNode,
    errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable},
    network::{RPCOption, RPCTypes, RaftNetworkFactory, RaftNetworkV2},
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
        TransferLeaderResponse, VoteRequest, VoteResponse,
    },
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::{sync::watch, task::spawn_blocking};
use uuid::Uuid;

use super::{
    snapshot::{Copy, PIECE_BYTES, Row, StateCopy, rows_after},
    types::{Peer, SnapshotMeta, Types, Vote},
};

/// Carries messages of the control state to other nodes.
pub trait Transport: Send + Sync + 'static {
    /// Delivers a message to [`Control::handle`](super::Control::handle) of a node and brings back
    /// the answer.
    ///
    /// # Errors
    /// When there is no answer: the error says whether the message may have arrived.
    fn call(
        &self,
        to: NodeId,
        message: Bytes,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<Bytes, TransportError>>;
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransportError {
    /// The message never left this node.
    #[error("the node cannot be reached")]
    NotSent,
    /// The connection broke: the message may have arrived, or not.
    #[error("the connection broke before the answer")]
    Lost,
    /// There was no answer in time: the message may have arrived, or arrive yet.
    #[error("the node did not answer in time")]
    TimedOut,
}

/// What one node asks of another.
#[derive(Serialize, Deserialize)]
pub(crate) enum Request {
    Append(AppendEntriesRequest<Types>),
    Vote(VoteRequest<Types>),
    PreVote(VoteRequest<Types>),
    Transfer(TransferLeaderRequest<Types>),
    SnapshotBegin {
        transfer: Uuid,
        meta: SnapshotMeta,
    },
    SnapshotRows {
        transfer: Uuid,
        piece: u64,
        rows: Vec<Row>,
    },
    SnapshotEnd {
        transfer: Uuid,
        piece: u64,
        vote: Vote,
    },
    Propose {
        command: Command,
        within_ms: u32,
    },
    ReadIndex {
        within_ms: u32,
    },
}

/// What comes back.
#[derive(Serialize, Deserialize)]
pub(crate) enum Answer {
    Append(AppendEntriesResponse<Types>),
    Vote(VoteResponse<Types>),
    /// The candidate was removed from the cluster by an entry it does not have.
    Excluded,
    Transfer(TransferLeaderResponse<Types>),
    SnapshotPiece,
    Snapshot(SnapshotResponse<Types>),
    Proposed(Outcome),
    ReadIndex(u64),
    /// Only a leader can do this. The log was not touched.
    NotLeader {
        leader: Option<NodeId>,
    },
    /// The command was in a log that another leader's replaced: it may be applied, or not.
    Uncertain {
        leader: Option<NodeId>,
    },
    /// It did not work, and this node cannot say more.
    Failed(String),
}

/// A message: whose, for whom, what.
#[derive(Serialize, Deserialize)]
pub(crate) struct Envelope<T> {
    pub(crate) to: NodeId,
    pub(crate) from: NodeId,
    pub(crate) body: T,
}

/// Why a message got no answer.
#[derive(Debug, thiserror::Error)]
pub enum HandleError {
    /// The message is for another node.
    #[error("the message is for node {to}, this is {me}")]
    NotForMe {
        /// The addressee.
        to: NodeId,
        /// This node.
        me: NodeId,
    },
    /// The message says it is from another node than the one that sent it.
    #[error("the message says it is from node {claimed}, but node {from} sent it")]
    OtherSender {
        /// The sender, as the message says.
        claimed: NodeId,
        /// The sender.
        from: NodeId,
    },
    /// The message cannot be read: most likely another version's.
    #[error("the message cannot be read")]
    Unreadable(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// The way to all other nodes.
#[derive(Clone)]
pub(crate) struct Links {
    pub(crate) me: NodeId,
    pub(crate) transport: Arc<dyn Transport>,
    /// Whether this node was told that it is no longer part of the cluster.
    pub(crate) excluded: watch::Sender<bool>,
    /// How long entries may take to be answered.
    pub(crate) append_timeout: Duration,
}

/// Why a call has no usable answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    #[error(transparent)]
    Transport(#[from] TransportError),
    #[error("the answer cannot be read")]
    Unreadable(#[source] codec::Error),
    #[error("node {0} answered in the place of another")]
    OtherNode(NodeId),
    #[error("the node could not do it: {0}")]
    Failed(String),
    #[error("the answer is to another question")]
    Unexpected,
}

impl Links {
    /// Asks a node something.
    pub(crate) async fn call(
        &self,
        to: NodeId,
        request: Request,
        timeout: Duration,
    ) -> Result<Answer, CallError> {
        let message = Envelope {
            to,
            from: self.me,
            body: request,
        };
        let bytes = self
            .transport
            .call(to, encode(&message).into(), timeout)
            .await?;
        let answer: Envelope<Answer> = decode(&bytes).map_err(CallError::Unreadable)?;
        if answer.from != to || answer.to != self.me {
            return Err(CallError::OtherNode(answer.from));
        }
        match answer.body {
            Answer::Failed(why) => Err(CallError::Failed(why)),
            body => Ok(body),
        }
    }
}

/// Reads a message and checks whose it is.
pub(crate) fn read_envelope<T: DeserializeOwned>(
    me: NodeId,
    from: NodeId,
    message: &[u8],
) -> Result<T, HandleError> {
    let envelope: Envelope<T> =
        decode(message).map_err(|error| HandleError::Unreadable(error.into()))?;
    if envelope.to != me {
        return Err(HandleError::NotForMe {
            to: envelope.to,
            me,
        });
    }
    if envelope.from != from {
        return Err(HandleError::OtherSender {
            claimed: envelope.from,
            from,
        });
    }
    Ok(envelope.body)
}

/// The way to one node.
pub(crate) struct Link {
    links: Links,
    to: NodeId,
}

impl RaftNetworkFactory<Types> for Links {
    type Network = Link;

    async fn new_client(&mut self, target: Peer, _: &EmptyNode) -> Link {
        Link {
            links: self.clone(),
            to: target.0,
        }
    }
}

impl Link {
    async fn rpc(
        &self,
        action: RPCTypes,
        request: Request,
        timeout: Duration,
    ) -> Result<Answer, RPCError<Types>> {
        self.links
            .call(self.to, request, timeout)
            .await
            .map_err(|error| match error {
                CallError::Transport(TransportError::TimedOut) => RPCError::Timeout(Timeout {
                    action,
                    id: Peer(self.links.me),
                    target: Peer(self.to),
                    timeout,
                }),
                CallError::Transport(TransportError::Lost) => {
                    RPCError::Network(NetworkError::new(&error))
                }
                // Unreachable makes the library wait before it tries again.
                error => RPCError::Unreachable(Unreachable::new(&error)),
            })
    }

    async fn ballot(
        &self,
        request: Request,
        option: &RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        match self.rpc(RPCTypes::Vote, request, option.soft_ttl()).await? {
            Answer::Vote(response) => Ok(response),
            Answer::Excluded => {
                self.links.excluded.send_replace(true);
                let error = io::Error::other("this node was removed from the cluster");
                Err(RPCError::Unreachable(Unreachable::new(&error)))
            }
            _ => Err(unexpected()),
        }
    }

    async fn send_snapshot(
        &self,
        vote: Vote,
        snapshot: StateCopy,
        timeout: Duration,
    ) -> Result<SnapshotResponse<Types>, SnapshotSendError> {
        let Copy::Stored(copy) = snapshot.snapshot else {
            return Err(SnapshotSendError::NotStored);
        };
        let transfer = Uuid::new_v4();
        let begin = Request::SnapshotBegin {
            transfer,
            meta: snapshot.meta,
        };
        self.send_piece(begin, timeout).await?;
        let (mut piece, mut after) = (0, None::<Bytes>);
        loop {
            let rows = spawn_blocking({
                let (copy, after) = (copy.clone(), after.clone());
                move || rows_after(&copy, after.as_deref(), PIECE_BYTES)
            });
            let rows = rows.await.map_err(io::Error::other)??;
            let Some((last, _)) = rows.last() else { break };
            after = Some(last.clone());
            self.send_piece(
                Request::SnapshotRows {
                    transfer,
                    piece,
                    rows,
                },
                timeout,
            )
            .await?;
            piece += 1;
        }
        match self
            .links
            .call(
                self.to,
                Request::SnapshotEnd {
                    transfer,
                    piece,
                    vote,
                },
                timeout,
            )
            .await?
        {
            Answer::Snapshot(response) => Ok(response),
            _ => Err(CallError::Unexpected.into()),
        }
    }

    async fn send_piece(&self, piece: Request, timeout: Duration) -> Result<(), CallError> {
        match self.links.call(self.to, piece, timeout).await? {
            Answer::SnapshotPiece => Ok(()),
            _ => Err(CallError::Unexpected),
        }
    }
}

impl RaftNetworkV2<Types> for Link {
    type SnapshotData = Copy;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        // The library allows one heartbeat, which entries on a slow link would outlast for ever.
        let timeout = match request.entries.is_empty() {
            true => option.soft_ttl(),
            false => self.links.append_timeout.max(option.soft_ttl()),
        };
        match self
            .rpc(RPCTypes::AppendEntries, Request::Append(request), timeout)
            .await?
        {
            Answer::Append(response) => Ok(response),
            _ => Err(unexpected()),
        }
    }

    async fn vote(
        &mut self,
        request: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.ballot(Request::Vote(request), &option).await
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.ballot(Request::PreVote(request), &option).await
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RPCError<Types>> {
        let request = Request::Transfer(request);
        match self
            .rpc(RPCTypes::TransferLeader, request, option.soft_ttl())
            .await?
        {
            Answer::Transfer(response) => Ok(response),
            _ => Err(unexpected()),
        }
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: StateCopy,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        tokio::select! {
            closed = cancel => Err(StreamingError::Closed(closed)),
            sent = self.send_snapshot(vote, snapshot, option.soft_ttl()) => {
                sent.map_err(|error| StreamingError::Unreachable(Unreachable::new(&error)))
            }
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum SnapshotSendError {
    #[error("send a piece of the snapshot")]
    Call(#[from] CallError),
    #[error("read the snapshot")]
    Read(#[from] redb::Error),
    #[error("read the snapshot on another thread")]
    Thread(#[from] io::Error),
    #[error("only a stored snapshot can be sent")]
    NotStored,
}

fn unexpected() -> RPCError<Types> {
    RPCError::Unreachable(Unreachable::new(&CallError::Unexpected))
}
