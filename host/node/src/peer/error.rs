//! The ways in which handshakes and calls end without success.

use std::{io, net::SocketAddr, time::Duration};

use holdfast_model::{ClusterId, ClusterName, Incarnation, NodeId};
use serde::{Deserialize, Serialize};

use super::twin::Process;

/// Why one side of a handshake does not take the other as a peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// They speak different versions of the protocol.
    #[error(
        "the accepting node speaks version {acceptor} of the peer protocol, the dialing one \
         {dialer}: run the same release on both"
    )]
    Version {
        /// The accepting node's.
        acceptor: u16,
        /// The dialing node's.
        dialer: u16,
    },
    /// They belong to clusters of different names.
    #[error(
        "the accepting node belongs to cluster {acceptor}, the dialing one to cluster {dialer}"
    )]
    OtherCluster {
        /// The accepting node's.
        acceptor: ClusterName,
        /// The dialing node's.
        dialer: ClusterName,
    },
    /// Their clusters share a name but were founded separately.
    #[error(
        "two clusters have the same name: the accepting node's has the id {acceptor}, the dialing \
         one's {dialer}. A node joins another cluster, or its own that was founded anew, with an \
         empty data directory only"
    )]
    OtherClusterId {
        /// The accepting node's.
        acceptor: ClusterId,
        /// The dialing node's.
        dialer: ClusterId,
    },
    /// They do not have the same secret.
    #[error("the two nodes have different cluster secrets")]
    WrongSecret,
    /// The other side is this very process.
    #[error("both sides are node {0}: this is an address of its own")]
    SameNode(NodeId),
    /// An operator has removed the node from the cluster.
    #[error(
        "node {0} was removed from the cluster; it can come back as a new node, with an empty data \
         directory"
    )]
    Removed(NodeId),
    /// A later run of the node has been seen already.
    #[error("incarnation {offered} of node {node} is over: {seen} has been seen")]
    StaleIncarnation {
        /// The node.
        node: NodeId,
        /// The run that was offered.
        offered: Incarnation,
        /// The latest run seen.
        seen: Incarnation,
    },
    /// Two processes run as one node.
    #[error(
        "another process runs as node {node}, at {addr}: the data directory was copied. Start this \
         one with an empty data directory, and it joins as another node"
    )]
    Twin {
        /// The node.
        node: NodeId,
        /// The run of the process that is that node.
        incarnation: Incarnation,
        /// That process.
        first: Process,
        /// Where it says that it is reached.
        addr: SocketAddr,
        /// Whether it is the one that says so.
        met: bool,
    },
}

/// Why a node could not be reached and recognised.
#[derive(Debug, thiserror::Error)]
pub enum HelloError {
    /// No connection came about.
    #[error("connect to {addr}")]
    Connect {
        /// The address.
        addr: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The connection ended in the middle of the handshake.
    #[error("shake hands with {addr}")]
    Broken {
        /// The address.
        addr: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// It took too long.
    #[error("{addr} did not answer within {} ms", after.as_millis())]
    TimedOut {
        /// The address.
        addr: SocketAddr,
        /// The time given.
        after: Duration,
    },
    /// Something else listens there.
    #[error("what listens on {addr} is no cluster port of a Holdfast node")]
    NotHoldfast {
        /// The address.
        addr: SocketAddr,
    },
    /// One of the two sides refused the other.
    #[error("{addr} is no peer of this node")]
    Refused {
        /// The address.
        addr: SocketAddr,
        /// Why.
        #[source]
        reason: Refusal,
    },
    /// Another node than the expected one answered.
    #[error("node {found} answered on {addr}, not {expected}")]
    OtherNode {
        /// The address.
        addr: SocketAddr,
        /// Who was called.
        expected: NodeId,
        /// Who answered.
        found: NodeId,
    },
}

impl HelloError {
    /// Whether the address itself said that nobody listens.
    pub(super) fn is_refused_connect(&self) -> bool {
        matches!(self, Self::Connect { source, .. }
            if source.kind() == io::ErrorKind::ConnectionRefused)
    }

    /// Whether somebody took the connection and dropped it before the handshake was over, as a
    /// process does that is being torn down.
    pub(super) fn is_torn(&self) -> bool {
        let torn = |e: &io::Error| {
            use io::ErrorKind as Kind;
            matches!(
                e.kind(),
                Kind::ConnectionReset
                    | Kind::ConnectionAborted
                    | Kind::BrokenPipe
                    | Kind::UnexpectedEof
                    | Kind::NotConnected
            )
        };
        matches!(self, Self::Connect { source, .. } | Self::Broken { source, .. } if torn(source))
    }

    /// The error with its cause on one line.
    pub(super) fn line(&self) -> String {
        match std::error::Error::source(self) {
            Some(source) => format!("{self}: {source}"),
            None => self.to_string(),
        }
    }
}

/// Why a call brought no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The node is not in the address book. Nothing was sent.
    #[error("node {0} is not known")]
    UnknownPeer(NodeId),
    /// The request did not leave, or not whole: the peer has not acted on it.
    #[error("the request was not sent: {reason}")]
    NotSent {
        /// Why.
        reason: String,
    },
    /// Too much is going on, here or there: the peer has not acted on it.
    #[error("the connection to the peer is saturated")]
    Busy,
    /// The connection broke after the request: the peer may have acted on it.
    #[error("the connection broke before the answer came")]
    Lost,
    /// No answer came in time.
    #[error("no answer came in time")]
    TimedOut {
        /// Whether the peer may have acted on the request.
        sent: bool,
    },
    /// The peer acted on it and answered with an error.
    #[error("{0}")]
    Remote(String),
}

impl CallError {
    /// Whether the peer may have acted on the request: if not, it may be repeated without thought.
    #[must_use]
    pub fn may_have_run(&self) -> bool {
        match self {
            Self::UnknownPeer(_) | Self::NotSent { .. } | Self::Busy => false,
            Self::TimedOut { sent } => *sent,
            Self::Lost | Self::Remote(_) => true,
        }
    }
}
