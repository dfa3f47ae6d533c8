//! What nodes tell each other about themselves in the handshake.

use std::net::SocketAddr;

use holdfast_model::{ClusterId, Incarnation, Labels, NodeId, Weight, Zone};
use serde::{Deserialize, Serialize};

use super::twin::Process;
use crate::identity::BootId;

/// What a node says about itself beyond its identity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeAbout {
    /// Where its HTTP API is reached.
    pub http: SocketAddr,
    /// Its share of the resources relative to other nodes, as it was started.
    pub weight: Weight,
    /// The failure zone it is in, if any.
    pub zone: Option<Zone>,
    /// What operators say of it.
    pub labels: Labels,
    /// The version of the program.
    pub version: String,
}

/// One run of a node, as its handshake showed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerInfo {
    /// The node.
    pub node: NodeId,
    /// The run.
    pub incarnation: Incarnation,
    /// The kernel's boot it runs under.
    pub boot_id: BootId,
    /// Where it says that other nodes reach it.
    pub addr: SocketAddr,
    /// Its HTTP address, weight, zone, labels and version.
    pub about: NodeAbout,
    /// Its cluster; `None` for a node that has not joined yet.
    pub cluster_id: Option<ClusterId>,
    /// Whether we dialed it and the address that we dialed is its own socket's: nothing that
    /// answers in its place stands between. Always false where it dialed us.
    pub direct: bool,
}

/// The identity that a handshake proves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Identity {
    pub(super) node: NodeId,
    pub(super) incarnation: Incarnation,
    pub(super) boot_id: BootId,
    pub(super) process: Process,
    pub(super) cluster_id: Option<ClusterId>,
    pub(super) advertise: SocketAddr,
    pub(super) about: NodeAbout,
}

impl PeerInfo {
    pub(super) fn new(identity: Identity, direct: bool) -> Self {
        Self {
            node: identity.node,
            incarnation: identity.incarnation,
            boot_id: identity.boot_id,
            addr: identity.advertise,
            about: identity.about,
            cluster_id: identity.cluster_id,
            direct,
        }
    }
}
