//! Why a node ends.

use std::{io, net::SocketAddr};

use holdfast_cluster::membership;
use holdfast_model::ClusterId;

use crate::{config::ConfigError, control, identity, modules, placement::WrongCopy, traces};

/// Why a node could not run, or had to end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration makes no sense.
    #[error("the configuration cannot be used")]
    Config(#[from] ConfigError),
    /// The data directory cannot be used.
    #[error("the data directory cannot be used")]
    DataDir(#[from] identity::Error),
    /// The secret that was made could not be written.
    #[error("write the cluster's new secret")]
    Secret(#[source] io::Error),
    /// The secret that an earlier start has made cannot be read.
    #[error("read the cluster's secret")]
    OldSecret(#[from] identity::InvalidSecret),
    /// A port could not be bound.
    #[error("listen on {addr} for {what}")]
    Listen {
        /// For whom.
        what: &'static str,
        /// Where.
        addr: SocketAddr,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A listener could not be kept for longer than the task that serves it.
    #[error("keep a listener open")]
    Spare(#[source] io::Error),
    /// The listener that the run before has left cannot be used.
    #[error("take over the listener of the HTTP API")]
    Inherited(#[source] io::Error),
    /// A runtime could not be made.
    #[error("start the threads of the node")]
    Threads(#[source] io::Error),
    /// WebAssembly cannot be run here.
    #[error("start the WebAssembly runtime")]
    Runtime(#[from] holdfast_runtime::NewError),
    /// Traces cannot be sent.
    #[error("start to follow calls")]
    Traces(#[from] traces::Error),
    /// The components cannot be kept.
    #[error("open the components")]
    Modules(#[from] modules::Error),
    /// The state cannot be opened.
    #[error("open the replicated state")]
    Open(#[from] control::OpenError),
    /// The cluster was not founded.
    #[error("found the cluster")]
    Found(#[from] control::FoundError),
    /// Gossip cannot run with these options.
    #[error("start gossip")]
    Gossip(#[from] membership::InvalidOptions),
    /// All seeds refused the node.
    #[error("no seed lets this node in: {0}")]
    Refused(String),
    /// A founder was told of a cluster to join.
    #[error(
        "{seed} belongs to the cluster {cluster} already: start this node without --bootstrap and \
         it joins"
    )]
    SeedFounded {
        /// The seed.
        seed: String,
        /// Its cluster.
        cluster: ClusterId,
    },
    /// The name belongs to another cluster.
    #[error(
        "another cluster has the name and secret of this one: {other}, heard from {from}. Two \
         nodes were started with --bootstrap; give one of them another name, or have it join"
    )]
    NameTaken {
        /// The other cluster.
        other: ClusterId,
        /// Who said so.
        from: SocketAddr,
    },
    /// The state failed.
    #[error("the replicated state failed")]
    Control(#[from] control::Failure),
    /// The cluster has given up this run of the node.
    #[error("{0}")]
    Expelled(String),
    /// This run of the node may not run anything any more; the next one may, and takes its place.
    #[error("this run of the node may not run anything any more: others may run its resources")]
    Fenced,
    /// This node's copy of the state is not what the others have.
    #[error("this node runs nothing any more: its copy of the state is wrong, and is begun anew")]
    WrongCopy(#[from] WrongCopy),
    /// Another process runs as this node, and this one is the one to end.
    #[error(
        "another process runs as this node, at {addr}: the data directory was copied, and this process \
         was started later. Start it with an empty data directory, and it joins as another node"
    )]
    Twin {
        /// Where the other process is.
        addr: SocketAddr,
    },
    /// Some resources could not be ended, or it is not known whether they have. Only the end of the
    /// process ends them; until then the listener for peers stays open.
    #[error("{0}; they end with this process")]
    Unended(String),
    /// A task that must not end has ended.
    #[error("the task `{0}` ended")]
    Task(&'static str),
}
