//! Questions between nodes that are neither Raft's nor calls of resources.
//!
//! A [`Question`] is plain data with a fixed kind and a fixed type of answer; both sides name the
//! same type, so they cannot disagree.

use std::time::Duration;

use bytes::Bytes;
use holdfast_cluster::codec;
use holdfast_model::NodeId;
use serde::{Serialize, de::DeserializeOwned};

use crate::peer::{CallError, Kind, Lane, Peers};

/// What one node asks another.
pub(crate) trait Question: Serialize + DeserializeOwned + Send {
    /// Number of the question on the wire; never reused for another.
    const KIND: Kind;
    /// On which connection it goes.
    const LANE: Lane;
    /// The answer.
    type Answer: Serialize + DeserializeOwned;
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    /// The peer was not reached, or did not answer.
    #[error("ask node {node}")]
    Call {
        /// Who was asked.
        node: NodeId,
        /// What happened.
        #[source]
        source: CallError,
    },
    /// The answer makes no sense.
    #[error("read the answer of node {node}")]
    Malformed {
        /// Who was asked.
        node: NodeId,
        /// What is wrong with it.
        #[source]
        source: codec::Error,
    },
}

/// Asks a node.
pub(crate) async fn ask<Q: Question>(
    peers: &Peers,
    node: NodeId,
    question: &Q,
    timeout: Duration,
) -> Result<Q::Answer, AskError> {
    let called = peers
        .call(node, Q::LANE, Q::KIND, encode(question), timeout)
        .await;
    let answer = called.map_err(|source| AskError::Call { node, source })?;
    codec::decode(&answer).map_err(|source| AskError::Malformed { node, source })
}

/// Reads a question.
pub(crate) fn read<Q: Question>(payload: &[u8]) -> Result<Q, codec::Error> {
    codec::decode(payload)
}

/// Plain data as bytes.
pub(crate) fn encode<T: Serialize>(value: &T) -> Bytes {
    codec::encode(value).into()
}
