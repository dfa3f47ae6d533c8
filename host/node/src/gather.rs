//! What all nodes have of something that goes on: read from each of them, and followed while nodes
//! come and go.
//!
//! Invariant: bounded memory, however slowly somebody reads. Readers slow down the reading: what a node
//! keeps no longer by then is missed.

mod places;
mod positions;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use futures_util::future::join_all;
use holdfast_model::{Incarnation, NodeId};
use serde::{Deserialize, Serialize};
use tokio::{sync::mpsc, task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

pub(crate) use self::places::{Place, Places};
pub(crate) use self::positions::Positions;

/// Where a reader is in what a node has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Position {
    /// Of which run of the node.
    pub(crate) incarnation: Incarnation,
    /// The number of the last item that was read or passed over.
    pub(crate) number: u64,
}

impl Position {
    /// Before the first item of any run: no run has the incarnation 0.
    pub(crate) const START: Self = Self {
        incarnation: Incarnation(0),
        number: 0,
    };

    /// Whatever there is: what comes after is new. A node's answer says where that is, at once.
    pub(crate) const NOW: Self = Self {
        incarnation: Incarnation(u64::MAX),
        number: 0,
    };
}

/// What a node has: the oldest items after a position.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Page<T> {
    pub(crate) items: Vec<T>,
    /// Where to read on.
    pub(crate) position: Position,
    /// Items before these were forgotten unread, and are not told of by any of them.
    pub(crate) missed: bool,
}

/// Reads what nodes have.
pub(crate) trait Reader: Clone + Send + Sync + 'static {
    /// What is read.
    type Item: Send + 'static;

    /// The nodes that answer now.
    fn nodes(&self) -> Vec<NodeId>;

    /// What a node has after this position; waits for it for [`WAIT`].
    fn read(
        &self,
        node: NodeId,
        after: Position,
    ) -> impl Future<Output = Result<Page<Self::Item>, String>> + Send;
}

/// What was read of a node, or why there is no more of it for now.
pub(crate) struct Read<T> {
    pub(crate) node: NodeId,
    pub(crate) page: Result<Page<T>, String>,
}

/// Reads on, wherever items are. The task ends when nobody receives any more, or with `stop`.
pub(crate) fn follow<R: Reader>(
    tasks: &mut JoinSet<()>,
    reader: R,
    positions: BTreeMap<NodeId, Position>,
    tell: mpsc::Sender<Read<R::Item>>,
    stop: CancellationToken,
) {
    tasks.spawn(async move {
        let followed = follow_all(reader, positions, tell);
        let _ = stop.run_until_cancelled(followed).await;
    });
}

/// Follows every node that answers, one task each.
async fn follow_all<R: Reader>(
    reader: R,
    mut positions: BTreeMap<NodeId, Position>,
    tell: mpsc::Sender<Read<R::Item>>,
) {
    let mut following: JoinSet<(NodeId, Position)> = JoinSet::new();
    let mut followed = BTreeSet::new();
    let mut look = tokio::time::interval(LOOK);
    loop {
        tokio::select! {
            _ = look.tick() => {
                for node in reader.nodes() {
                    if followed.insert(node) {
                        let position = positions.remove(&node).unwrap_or(Position::START);
                        following.spawn(follow_one(reader.clone(), node, position, tell.clone()));
                    }
                }
            }
            Some(lost) = following.join_next() => {
                // It is tried again after a moment, if it answers then.
                if let Ok((node, position)) = lost {
                    followed.remove(&node);
                    positions.insert(node, position);
                }
            }
            // Whoever followed has left.
            () = tell.closed() => return,
        }
    }
}

/// Goes on until the node does not answer or nobody listens.
async fn follow_one<R: Reader>(
    reader: R,
    node: NodeId,
    mut position: Position,
    tell: mpsc::Sender<Read<R::Item>>,
) -> (NodeId, Position) {
    loop {
        let (asked, before) = (Instant::now(), position);
        let page = reader.read(node, position).await;
        let is_lost = page.is_err();
        let is_empty = page
            .as_ref()
            .is_ok_and(|page| page.items.is_empty() && !page.missed);
        if let Ok(page) = &page {
            position = page.position;
        }
        // Where it is now is worth knowing to whoever goes on later.
        if is_empty && position == before {
            if asked.elapsed() < LOOK && before != Position::NOW {
                // It did not wait: it is about to end.
                tokio::time::sleep(LOOK).await;
            }
            continue;
        }
        if tell.send(Read { node, page }).await.is_err() || is_lost {
            return (node, position);
        }
    }
}

/// How often nodes that came are looked for.
const LOOK: Duration = Duration::from_secs(1);

/// Where each of these nodes is now; one that does not say so soon is at [`Position::NOW`].
pub(crate) async fn present<R: Reader>(reader: &R, nodes: Vec<NodeId>) -> Positions {
    let asked = nodes.into_iter().map(|node| async move {
        let asked = reader.read(node, Position::NOW);
        let page = tokio::time::timeout(PRESENT, asked).await;
        let position = page.ok().and_then(Result::ok).map(|page| page.position);
        (node, position.unwrap_or(Position::NOW))
    });
    Positions(join_all(asked).await.into_iter().collect())
}

/// How long a node may take to say where it is.
const PRESENT: Duration = Duration::from_secs(1);

/// How long a node is asked to wait for something to read.
pub(crate) const WAIT: Duration = Duration::from_secs(10);

/// How much later than that its answer may come.
pub(crate) const ASK: Duration = Duration::from_secs(2);

/// How many items one answer has at most.
pub(crate) const PAGE: usize = 1_000;

/// How many answers may wait for whoever follows.
pub(crate) const PAGES_WAITING: usize = 4;
