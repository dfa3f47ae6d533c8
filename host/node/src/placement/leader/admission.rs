//! Who becomes part of the cluster.

use holdfast_cluster::state::{About, Decision, Owner, Standing};
use holdfast_model::{Incarnation, NodeId};
use tokio::time::Instant;
use tracing::{info, warn};

use super::{DECISION, Leader, Unheard};
use crate::{
    clock::{boot_time, now_ms},
    modules::chain,
    peer::PeerInfo,
};

impl Leader {
    /// Makes nodes that membership found part of the cluster, and new runs of known ones.
    pub(super) async fn admit(&self, term: u64) -> Result<(), Unheard> {
        let inner = &self.placement.0;
        let members = inner.members.borrow().clone();
        let mut found = vec![(inner.me, self.incarnation, self.about.clone())];
        for contact in inner.peers.connected() {
            let peer = contact.peer;
            if members
                .iter()
                .any(|m| (m.node, m.incarnation) == (peer.node, peer.incarnation))
            {
                found.push((peer.node, peer.incarnation, about(&peer)));
            }
        }
        let raft = inner.control.members();
        for (node, incarnation, about) in found {
            let news = inner.control.read(|state| match state.nodes().get(&node) {
                None => true,
                Some(known) if known.standing == Standing::Removed => false,
                Some(known) if known.incarnation == incarnation => {
                    known.standing != Standing::Down && known.about != about
                }
                Some(known) => known.incarnation < incarnation,
            });
            if !news {
                continue;
            }
            if !self.has_ended_before(term, node, incarnation, &about) {
                continue;
            }
            if !raft.voters.contains(&node) && !raft.learners.contains(&node) {
                let deadline = (Instant::now() + DECISION).into_std();
                if let Err(error) = inner.control.add_learner(node, deadline).await {
                    if let Some(suppressed) = self.reports.cannot_follow.pass(&node) {
                        warn!(
                            node.id = %node, error = chain(&error), suppressed,
                            "the node cannot follow yet"
                        );
                    }
                    continue;
                }
            }
            let join = Decision::Join {
                node,
                incarnation,
                about,
                at_ms: now_ms(),
            };
            if self.decide(term, join).await? {
                info!(node.id = %node, node.incarnation = %incarnation, "joined");
            }
        }
        Ok(())
    }

    /// Whether the former run of a node surely runs nothing any more. Under one boot of one kernel
    /// the lock of the data directory says so; under another one only the end of its lease does.
    fn has_ended_before(
        &self,
        term: u64,
        node: NodeId,
        incarnation: Incarnation,
        about: &About,
    ) -> bool {
        let former = self.placement.0.control.read(|state| {
            let known = state.nodes().get(&node)?;
            let run = Owner {
                node,
                incarnation: known.incarnation,
            };
            let other_boot = known.about.boot_id != about.boot_id;
            (known.incarnation < incarnation && other_boot && state.is_member(run)).then_some(run)
        });
        let Some(former) = former else { return true };
        let control = &self.placement.0.control;
        let ended = self.placement.with_grants(term, |grantor| {
            grantor.condemn(former);
            control.read(|state| grantor.has_expired(boot_time(), former, state))
        });
        ended.unwrap_or(false)
    }
}

/// What a peer's handshake says of it.
fn about(peer: &PeerInfo) -> About {
    About {
        addr: peer.addr,
        http: peer.about.http,
        weight: peer.about.weight,
        zone: peer.about.zone.clone(),
        labels: peer.about.labels.clone(),
        boot_id: peer.boot_id.to_string().into(),
        version: peer.about.version.as_str().into(),
    }
}
