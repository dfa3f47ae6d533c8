//! Goes on with what is said from now on.

use holdfast_model::{
    NodeId,
    api::{LogEntry, LogLine},
};
use tokio::{sync::mpsc, task::JoinSet};

use super::{Filter, Line, Logs, Page, ReadLogs, Tail, absent};
use crate::gather::{self, PAGE, PAGES_WAITING, Place, Position, Read, Reader, WAIT};

/// The lines that follow the newest ones, as they are said.
pub struct Followed {
    read: mpsc::Receiver<Read<Line>>,
    // Ends the tasks when it is dropped.
    _tasks: JoinSet<()>,
    place: Place,
}

impl Followed {
    /// The next lines; none when the node stops, or another has its place. Cancel-safe.
    pub async fn next(&mut self) -> Option<Vec<LogLine>> {
        self.place.came();
        let Read { node, page } = self.read.recv().await?;
        let said = |line: Line| -> LogEntry { line.said_on(node) };
        Some(match page {
            Ok(page) => page
                .items
                .into_iter()
                .map(said)
                .map(LogLine::Entry)
                .collect(),
            Err(error) => vec![absent(node, error)],
        })
    }
}

impl Logs {
    /// Goes on after a tail.
    pub(crate) fn follow(
        &self,
        filter: Filter,
        node: Option<NodeId>,
        tail: &Tail,
        place: Place,
    ) -> Followed {
        let (tell, read) = mpsc::channel(PAGES_WAITING);
        let mut tasks = JoinSet::new();
        let reader = Lines {
            logs: self.clone(),
            filter,
            node,
        };
        let stop = place.over();
        gather::follow(&mut tasks, reader, tail.positions.clone(), tell, stop);
        Followed {
            read,
            _tasks: tasks,
            place,
        }
    }
}

/// Reads the lines of nodes.
#[derive(Clone)]
struct Lines {
    logs: Logs,
    filter: Filter,
    /// Only of this node.
    node: Option<NodeId>,
}

impl Reader for Lines {
    type Item = Line;

    fn nodes(&self) -> Vec<NodeId> {
        self.logs.nodes(self.node)
    }

    async fn read(&self, node: NodeId, after: Position) -> Result<Page, String> {
        let question = ReadLogs {
            filter: self.filter.clone(),
            after: Some(after),
            limit: PAGE,
            wait: WAIT,
        };
        self.logs.0.read(node, question).await
    }
}
