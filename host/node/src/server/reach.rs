//! Whether the other nodes reach this one, and whether somebody else runs as this node: asked of them,
//! for only they can tell.
//!
//! A node whose connections to others stand may be reached by none of them: a wrong `--advertise`, a
//! firewall, another family of addresses. It would wait to join for ever, and not know why.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use holdfast_cluster::membership::Blocked;
use holdfast_model::{NodeId, api::ConditionKind};
use serde::{Deserialize, Serialize};
use tokio::time::{MissedTickBehavior, interval};
use tracing::{error, info, warn};

use crate::{
    conditions::Conditions,
    gossip,
    peer::{Kind, Lane, Peers, Unreached},
    rpc::{self, Question},
};

/// Asks a peer how it gets on with the asker.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Reach;

/// How it does.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Reached {
    /// Why it does not reach the asker.
    unreached: Option<Unreached>,
    /// Where another process is that it has refused lately, for it runs as the asker.
    twin: Option<SocketAddr>,
}

impl Question for Reach {
    const KIND: Kind = Kind(23);
    const LANE: Lane = Lane::Control;
    type Answer = Reached;
}

/// Answers a peer.
pub(super) fn answer(peers: &Peers, asker: NodeId) -> Reached {
    Reached {
        unreached: peers.unreached(asker),
        twin: peers.refused_twin(asker),
    }
}

/// What was found, by node, in words.
type Findings = BTreeMap<NodeId, String>;

/// Asks all peers, again and again, and shows what comes of it as conditions of this node.
pub(super) async fn watch(peers: Peers, heard: gossip::Handle, conditions: Conditions) {
    let blocked = heard.blocked();
    let own_twin = peers.twin();
    let mut before = Findings::new();
    let mut twin_before = None;
    let mut tick = interval(AGAIN);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let mut now = Findings::new();
        let mut twin = None;
        let asked = peers.connected().into_iter().map(|contact| {
            let (peer, peers) = (contact.peer, peers.clone());
            async move {
                let answer = rpc::ask(&peers, peer.node, &Reach, ANSWER).await;
                (peer, answer)
            }
        });
        let mut asked: FuturesUnordered<_> = asked.collect();
        while let Some((peer, answer)) = asked.next().await {
            // Who does not answer is a matter of the connection to it.
            let Ok(Reached {
                unreached,
                twin: other,
            }) = answer
            else {
                continue;
            };
            twin = twin.or(other);
            if let Some(unreached) = unreached.filter(is_lasting) {
                let Unreached { addr, reason, .. } = unreached;
                let text = format!(
                    "node {} ({}) cannot connect to this node at {addr}: {reason}",
                    peer.node, peer.addr
                );
                now.insert(peer.node, text);
            }
        }
        for (node, unreached) in peers.one_sided() {
            if !is_lasting(&unreached) {
                continue;
            }
            let Unreached { addr, reason, .. } = unreached;
            let text = format!(
                "this node cannot connect to node {node} at {addr}, which is connected to it: {reason}"
            );
            now.entry(node).or_insert(text);
        }
        tell(&before, &now);
        if let Some(addr) = twin.filter(|_| twin_before.is_none()) {
            error!(
                peer.addr = %addr,
                "another process runs as this node: its data directory was copied. The other nodes \
                 refuse it; stop it, and start it with an empty data directory"
            );
        }
        let met = *own_twin.borrow();
        let met = met
            .filter(|twin| twin.at.elapsed() < TWIN_LASTS)
            .map(|twin| twin.addr);
        let words = |addr| format!("another process runs as this node, at {addr}");
        conditions.put(ConditionKind::DuplicateNode, twin.or(met).map(words));
        conditions.put(ConditionKind::Unreached, unreached_text(&now));
        let text = gossip_text(&Arc::clone(&blocked.borrow()));
        conditions.put(ConditionKind::Gossip, text);
        (before, twin_before) = (now, twin);
    }
}

fn unreached_text(found: &Findings) -> Option<String> {
    let first = found.values().next()?;
    Some(match found.len() - 1 {
        0 => first.clone(),
        more => format!("{first} (and {more} more)"),
    })
}

fn gossip_text(blocked: &[Blocked]) -> Option<String> {
    let first = blocked.first()?;
    let (node, addr) = (first.node, first.addr);
    let more = match blocked.len() - 1 {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    Some(format!(
        "UDP is lost between this node and node {node} ({addr}){more}; gossip goes over TCP"
    ))
}

/// Logs what is new. Words alone that differ are no news: addresses and reasons alternate.
fn tell(before: &Findings, now: &Findings) {
    for (node, text) in now {
        if !before.contains_key(node) {
            warn!(
                node.id = %node, reason = text,
                "connections go in one direction only: is what --advertise says reached from there?"
            );
        }
    }
    for node in before.keys().filter(|node| !now.contains_key(node)) {
        info!(node.id = %node, "connections go in both directions again, or in none");
    }
}

/// A node that has just started, or whose process was just replaced, is not reached for a moment.
fn is_lasting(unreached: &Unreached) -> bool {
    unreached.for_ms >= PATIENCE.as_millis() as u64
}

/// How long a twin counts that is not met again. Longer than one that lives stays silent.
const TWIN_LASTS: Duration = Duration::from_secs(15);

const PATIENCE: Duration = Duration::from_secs(2);
const AGAIN: Duration = Duration::from_secs(2);
const ANSWER: Duration = Duration::from_secs(1);
