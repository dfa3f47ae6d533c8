//! Compares this node's copy of the state with those of the others.
//!
//! Each node asks all others now and then for the digests of their copies, and compares them at equal
//! positions of the log (`cluster::copies`). A node whose copy is wrong says so and ends this run, so that
//! it runs nothing by a state that nobody else has.
//!
//! Absent: what becomes of the copy. The next run begins it anew: see `rejoin`.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use futures_util::future::join_all;
use holdfast_cluster::copies::{self, Mark, Verdict};
use holdfast_model::{NodeId, api::ConditionKind};
use serde::{Deserialize, Serialize};
use tracing::{debug, error};

use super::Placement;
use crate::{
    peer::{Kind, Lane},
    rpc::{self, Question},
};

/// Asks a node for the digests of its copy.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ReadDigests;

/// The digests of a copy.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct CopyDigests {
    /// Of the software. Another one may write the same rows in another form.
    version: String,
    marks: Vec<Mark>,
}

impl Question for ReadDigests {
    const KIND: Kind = Kind(17);
    const LANE: Lane = Lane::Control;
    type Answer = CopyDigests;
}

/// This node's copy of the state is not what a majority has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "this node's copy of the state differs from that of {} at entry {at} of the log, and they are a \
     majority",
    names(majority)
)]
pub struct WrongCopy {
    at: u64,
    majority: BTreeSet<NodeId>,
}

impl Placement {
    /// Answers a peer that compares its copy.
    pub(crate) fn answer_digests(&self) -> CopyDigests {
        CopyDigests {
            version: VERSION.to_owned(),
            marks: self.0.control.digests(),
        }
    }

    /// Compares until this node's copy is wrong.
    pub(crate) async fn compare_copies(&self) -> WrongCopy {
        let (mut unclear, mut wrong) = (false, false);
        loop {
            tokio::time::sleep(COMPARE_EVERY).await;
            let others = self.read_digests().await;
            // After the others were read, so that this copy is not behind them.
            let (me, own) = (self.0.me, self.0.control.digests());
            let quorums = self.0.control.members().quorums;
            let verdict = copies::judge(me, &own, &others, &quorums);
            let different = match &verdict {
                Verdict::Unknown | Verdict::Right => None,
                Verdict::Wrong {
                    at,
                    majority: nodes,
                }
                | Verdict::Unclear { at, others: nodes } => {
                    let nodes = names(nodes);
                    Some(format!(
                        "its copy of the state at entry {at} differs from that of {nodes}"
                    ))
                }
            };
            self.0.conditions.put(ConditionKind::WrongCopy, different);
            match verdict {
                Verdict::Unknown | Verdict::Right => (unclear, wrong) = (false, false),
                // What is decided on once only may be anything; a copy that is wrong stays so.
                Verdict::Wrong { .. } if !wrong => wrong = true,
                Verdict::Wrong { at, majority } => return WrongCopy { at, majority },
                // Said once, until it is well again.
                Verdict::Unclear { at, others } if !unclear => {
                    unclear = true;
                    error!(
                        log.index = at,
                        nodes = names(&others),
                        "copies of the state differ, and no majority of the voters agrees: compare what \
                         they show, and let the wrong one begin anew with `holdfast rejoin`"
                    );
                }
                Verdict::Unclear { .. } => {}
            }
        }
    }

    async fn read_digests(&self) -> BTreeMap<NodeId, Vec<Mark>> {
        let members = self.0.control.members();
        let live = self.0.live();
        let others = members.voters.iter().chain(&members.learners);
        let others = others.filter(|node| **node != self.0.me && live.contains(node));
        let asked = others.map(|node| async move {
            let answer = rpc::ask(&self.0.peers, *node, &ReadDigests, PATIENCE).await;
            let answer = answer.inspect_err(
                |error| debug!(node.id = %node, %error, "its copy of the state is not known"),
            );
            let answer = answer.ok().filter(|copy| copy.version == VERSION)?;
            Some((*node, answer.marks))
        });
        join_all(asked).await.into_iter().flatten().collect()
    }
}

fn names(nodes: &BTreeSet<NodeId>) -> String {
    let names: Vec<String> = nodes.iter().map(ToString::to_string).collect();
    names.join(", ")
}

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// How often. More often: messages for nothing. Less often: a wrong copy decides for that long.
const COMPARE_EVERY: Duration = Duration::from_secs(5);

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(1);
