//! By which way packets reach each member: datagrams, and the connection that stands beside them.
//!
//! Every packet goes as a datagram. It goes over the connection too where datagrams are known not to
//! get through: a ping that no datagram answered in time is sent again that way, and so is all that
//! follows until a datagram is heard; and what the other side hears no datagrams of. Each side says
//! to the other what it hears, so that both notice a way that is blocked in one direction only.
//!
//! Suspicion stays as it was: who answers on neither way is suspected after the same time.

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    time::Duration,
};

use bytes::Bytes;
use holdfast_model::NodeId;

/// A member to which datagrams do not get through, or whose datagrams do not, while its connection
/// does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Blocked {
    /// The member.
    pub node: NodeId,
    /// Where its datagrams go.
    pub addr: SocketAddr,
    /// Since when.
    pub since: Duration,
    /// Whether its datagrams do not arrive here. Otherwise it says that ours do not arrive there.
    pub inwards: bool,
}

/// What is known of every way.
pub(super) struct Paths {
    answer_time: Duration,
    /// The nodes to which connections stand, and where their datagrams go.
    connected: BTreeMap<NodeId, Path>,
    /// Pings under way to them, the oldest first: a few, for each is looked at after `answer_time`.
    pings: VecDeque<(Duration, NodeId, Bytes)>,
}

struct Path {
    addr: SocketAddr,
    /// When a datagram of it came last.
    heard: Option<Duration>,
    /// When something came over its connection last.
    delivered: Option<Duration>,
    /// Since when no datagram of it answers.
    deaf_since: Option<Duration>,
    /// Since when it says that no datagram of ours arrives.
    unheard_since: Option<Duration>,
    /// What it was told last of whether its datagrams arrive.
    told_deaf: bool,
}

impl Path {
    fn new(addr: SocketAddr) -> Self {
        Self {
            addr,
            heard: None,
            delivered: None,
            deaf_since: None,
            unheard_since: None,
            told_deaf: false,
        }
    }
}

impl Paths {
    /// A datagram that was not answered within `answer_time` is taken for lost.
    pub(super) fn new(answer_time: Duration) -> Self {
        Self {
            answer_time,
            connected: BTreeMap::new(),
            pings: VecDeque::new(),
        }
    }

    /// These connections stand, in place of those before.
    pub(super) fn connect(&mut self, connections: Vec<(NodeId, SocketAddr)>) {
        let mut before = std::mem::take(&mut self.connected);
        for (node, addr) in connections {
            let path = before.remove(&node).filter(|path| path.addr == addr);
            self.connected
                .insert(node, path.unwrap_or_else(|| Path::new(addr)));
        }
    }

    /// The nodes to which connections stand.
    pub(super) fn connections(&self) -> impl Iterator<Item = (NodeId, SocketAddr)> {
        self.connected.iter().map(|(node, path)| (*node, path.addr))
    }

    /// A datagram of this node came.
    pub(super) fn heard(&mut self, now: Duration, node: NodeId) {
        if let Some(path) = self.connected.get_mut(&node) {
            path.heard = Some(now);
            path.deaf_since = None;
        }
    }

    /// Something came over a connection of this node, which says whether it hears our datagrams.
    pub(super) fn delivered(&mut self, now: Duration, node: NodeId, deaf: bool) {
        if let Some(path) = self.connected.get_mut(&node) {
            path.delivered = Some(now);
            path.unheard_since = if deaf {
                path.unheard_since.or(Some(now))
            } else {
                None
            };
        }
    }

    /// A packet goes to this node. Gives whether it goes over the connection too, and then what
    /// it is to say of the node's datagrams.
    pub(super) fn send(
        &mut self,
        now: Duration,
        node: NodeId,
        packet: &Bytes,
        is_ping: impl FnOnce() -> bool,
    ) -> Option<bool> {
        let path = self.connected.get_mut(&node)?;
        let deaf = path.deaf_since.is_some();
        let both = deaf || path.unheard_since.is_some() || path.told_deaf;
        if both {
            path.told_deaf = deaf;
        } else if is_ping() {
            self.pings.push_back((now, node, packet.clone()));
        }
        both.then_some(deaf)
    }

    /// When a ping is next looked at.
    pub(super) fn next(&self) -> Option<Duration> {
        self.pings.front().map(|(at, ..)| *at + self.answer_time)
    }

    /// The pings that no datagram has answered in time: they are to go over the connection.
    pub(super) fn unanswered(&mut self, now: Duration) -> Vec<(NodeId, Bytes)> {
        let mut unanswered = Vec::new();
        let due = |(at, ..): &mut (Duration, NodeId, Bytes)| *at + self.answer_time <= now;
        while let Some((at, node, packet)) = self.pings.pop_front_if(due) {
            let Some(path) = self.connected.get_mut(&node) else {
                continue;
            };
            if path.heard.is_none_or(|heard| heard < at) {
                path.deaf_since.get_or_insert(now);
                path.told_deaf = true;
                unanswered.push((node, packet));
            }
        }
        unanswered
    }

    /// Whom datagrams do not reach, or whose do not arrive, for some time, though the connection
    /// carries what they say.
    pub(super) fn blocked(&self, now: Duration) -> impl Iterator<Item = Blocked> {
        self.connected.iter().filter_map(move |(node, path)| {
            let fresh = |at: Duration| now.saturating_sub(at) < FRESH;
            if !path.delivered.is_some_and(fresh) {
                return None;
            }
            let since = path.deaf_since.or(path.unheard_since)?;
            (now.saturating_sub(since) >= PATIENCE).then_some(Blocked {
                node: *node,
                addr: path.addr,
                since,
                inwards: path.deaf_since.is_some(),
            })
        })
    }
}

/// How long a way is blocked before that is said. Sooner: a few lost datagrams look like it.
const PATIENCE: Duration = Duration::from_secs(2);

/// How old what a connection carried may be. Longer than it takes a node of a large cluster to
/// probe each of the others.
const FRESH: Duration = Duration::from_secs(120);
