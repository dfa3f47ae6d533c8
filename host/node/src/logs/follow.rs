//! Goes on with what is said from now on, on nodes that come and go.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use holdfast_model::{NodeId, api::LogLine};
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc},
    task::JoinSet,
    time::Instant,
};

use super::{Filter, Inner, Logs, Position, ReadLogs, Tail, absent};

/// The lines that follow a [`Tail`], as they are said.
pub struct Followed {
    lines: mpsc::Receiver<Vec<LogLine>>,
    // Ends the tasks when it is dropped.
    _tasks: JoinSet<()>,
    _place: OwnedSemaphorePermit,
}

impl Followed {
    /// The next lines; none when the node stops. Cancel-safe.
    pub async fn next(&mut self) -> Option<Vec<LogLine>> {
        self.lines.recv().await
    }
}

impl Logs {
    /// Goes on after a tail.
    pub(crate) fn follow(
        &self,
        filter: Filter,
        node: Option<NodeId>,
        tail: &Tail,
        place: OwnedSemaphorePermit,
    ) -> Followed {
        let (tell, lines) = mpsc::channel(PAGES_WAITING);
        let mut tasks = JoinSet::new();
        let logs = self.clone();
        let positions = tail.positions.clone();
        tasks.spawn(async move {
            let followed = logs.follow_all(filter, node, positions, tell);
            let _ = logs.0.stop.run_until_cancelled(followed).await;
        });
        Followed {
            lines,
            _tasks: tasks,
            _place: place,
        }
    }

    /// Follows every node that answers, one task each.
    async fn follow_all(
        &self,
        filter: Filter,
        node: Option<NodeId>,
        mut positions: BTreeMap<NodeId, Position>,
        tell: mpsc::Sender<Vec<LogLine>>,
    ) {
        let mut following: JoinSet<(NodeId, Option<Position>)> = JoinSet::new();
        let mut followed = BTreeSet::new();
        let mut look = tokio::time::interval(LOOK);
        loop {
            tokio::select! {
                _ = look.tick() => {
                    for node in self.nodes(node) {
                        if !followed.insert(node) {
                            continue;
                        }
                        let one = One {
                            node,
                            filter: filter.clone(),
                            position: positions.remove(&node),
                            tell: tell.clone(),
                        };
                        let inner = self.0.clone();
                        following.spawn(async move { one.follow(&inner).await });
                    }
                }
                Some(lost) = following.join_next() => {
                    // It is tried again after a moment, if it answers then.
                    if let Ok((node, position)) = lost {
                        followed.remove(&node);
                        positions.extend(position.map(|position| (node, position)));
                    }
                }
                // Whoever followed has left.
                () = tell.closed() => return,
            }
        }
    }
}

/// One node that is followed.
struct One {
    node: NodeId,
    filter: Filter,
    /// None: nothing of it was read, and all that it keeps is new.
    position: Option<Position>,
    tell: mpsc::Sender<Vec<LogLine>>,
}

impl One {
    /// Goes on until the node does not answer or nobody listens.
    async fn follow(mut self, inner: &Inner) -> (NodeId, Option<Position>) {
        loop {
            let asked = Instant::now();
            let question = ReadLogs {
                filter: self.filter.clone(),
                after: Some(self.position.unwrap_or(START)),
                limit: PAGE_LINES,
                wait: WAIT,
            };
            let lines = match inner.read(self.node, question).await {
                Ok(page) => {
                    self.position = Some(page.position);
                    let lines = page.lines.into_iter();
                    lines
                        .map(|line| LogLine::Entry(line.said_on(self.node)))
                        .collect()
                }
                Err(error) => {
                    let _ = self.tell.send(vec![absent(self.node, error)]).await;
                    return (self.node, self.position);
                }
            };
            // Slow readers slow down the reading: what is not kept until then is gone.
            if !Vec::is_empty(&lines) {
                if self.tell.send(lines).await.is_err() {
                    return (self.node, self.position);
                }
            } else if asked.elapsed() < LOOK {
                // It did not wait: it is about to end.
                tokio::time::sleep(LOOK).await;
            }
        }
    }
}

/// Before the first line of any run: no run has the incarnation 0.
const START: Position = Position {
    incarnation: holdfast_model::Incarnation(0),
    line: 0,
};

/// How often nodes that came are looked for.
const LOOK: Duration = Duration::from_secs(1);

/// How long a node is asked to wait for something to be said.
const WAIT: Duration = Duration::from_secs(10);

/// How many lines one answer has at most.
const PAGE_LINES: usize = 1_000;

/// How many answers may wait for whoever follows.
const PAGES_WAITING: usize = 4;
