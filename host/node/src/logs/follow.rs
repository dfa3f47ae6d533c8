//! Goes on with what is said from now on.

use holdfast_model::{
    NodeId,
    api::{LogLine, LogsCursor},
};
use tokio::{sync::mpsc, task::JoinSet};

use super::{Filter, GAP, Line, Logs, Page, ReadLogs, Tail, absent};
use crate::gather::{self, PAGE, PAGES_WAITING, Place, Position, Positions, Read, Reader, WAIT};

/// The lines that follow the newest ones, as they are said.
pub struct Followed {
    read: mpsc::Receiver<Read<Line>>,
    positions: Positions,
    /// How far was told to be read.
    told: Option<Positions>,
    // Ends the tasks when it is dropped.
    _tasks: JoinSet<()>,
    place: Place,
}

impl Followed {
    /// The next lines, and where to go on after them; none when the node stops, or another has its place.
    /// Cancel-safe.
    pub async fn next(&mut self) -> Option<Vec<LogLine>> {
        self.place.came();
        loop {
            let Read { node, page } = self.read.recv().await?;
            let mut lines = Vec::new();
            match page {
                Ok(page) => {
                    self.positions.0.insert(node, page.position);
                    if page.missed {
                        lines.push(absent(node, GAP.to_owned()));
                    }
                    let said = page.items.into_iter().map(|line| line.said_on(node));
                    lines.extend(said.map(LogLine::Entry));
                }
                Err(error) => lines.push(absent(node, error)),
            }
            if !lines.is_empty() {
                lines.extend(self.cursor());
                return Some(lines);
            }
        }
    }

    /// Where to go on; nothing where it was told already.
    pub(crate) fn cursor(&mut self) -> Option<LogLine> {
        if self.told.as_ref() == Some(&self.positions) {
            return None;
        }
        self.told = Some(self.positions.clone());
        let cursor = self.positions.to_string();
        Some(LogLine::Cursor(LogsCursor { cursor }))
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
        gather::follow(&mut tasks, reader, tail.positions.0.clone(), tell, stop);
        Followed {
            read,
            positions: tail.positions.clone(),
            told: None,
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
