//! What handlers say: kept for a while on the node where they say it, and read from all nodes. And
//! what a node says itself: which of it is in its own log can be changed from any node.
//!
//! Each node keeps the newest lines of each module ([`Kept`]). Whoever asks any node gets those of
//! all: it asks the others for what they keep, and waits with them for more when it follows.
//!
//! Invariant: bounded memory, whatever handlers say and however slowly somebody reads. What a reader
//! is too slow for is gone when it comes.

mod follow;
mod kept;
mod own;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::future::join_all;
use holdfast_cluster::state::Owner;
use holdfast_model::{
    ModuleName, NodeId, ResourceId,
    api::{LogEntry, LogLevel, LogLine, LogsMissing},
};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

pub(crate) use self::own::{ChangeLog, ChangeLogError};
pub use self::{follow::Followed, kept::Kept};
use crate::{
    gather::{self, Place, Places, Position, Positions},
    modules::chain,
    peer::{Kind, Lane, Peers},
    placement::Placement,
    rpc::{self, Question},
    telemetry::LogFilter,
};

/// The lines of all nodes. Cheap to clone.
#[derive(Clone)]
pub struct Logs(Arc<Inner>);

struct Inner {
    me: Owner,
    kept: Arc<Kept>,
    own: Option<LogFilter>,
    peers: Peers,
    placement: Placement,
    followers: Places,
    /// Nobody follows any longer then.
    stop: CancellationToken,
}

/// Which lines are wanted.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Filter {
    pub(crate) module: Option<ModuleName>,
    pub(crate) resource: Option<ResourceId>,
    pub(crate) level: LogLevel,
}

/// Asks a node for lines that it keeps.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ReadLogs {
    filter: Filter,
    /// Lines after this one, the oldest first; none: the newest ones.
    after: Option<Position>,
    /// How many at most.
    limit: usize,
    /// How long to wait until there is any; only with `after`.
    wait: Duration,
}

/// What a node answers: lines in the order in which they were said.
type Page = gather::Page<Line>;

/// A line as it travels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Line {
    at_ms: u64,
    module: ModuleName,
    resource: ResourceId,
    level: LogLevel,
    source: holdfast_model::api::LogSource,
    context: Box<str>,
    message: Box<str>,
}

impl Question for ReadLogs {
    const KIND: Kind = Kind(12);
    const LANE: Lane = Lane::Data;
    type Answer = Page;
}

/// The newest lines of all nodes, and where each of them was read to.
pub(crate) struct Tail {
    pub(crate) lines: Vec<LogLine>,
    positions: Positions,
}

impl Tail {
    /// No lines, and those that come after this.
    pub(crate) fn after(positions: Positions) -> Self {
        let unknown = positions.unknown();
        let missing = unknown.map(|node| absent(node, GAP.to_owned()));
        Self {
            lines: missing.collect(),
            positions,
        }
    }
}

impl Logs {
    /// The lines that `kept` takes on this node, and those of the others; `own` is what the log of
    /// this process has. Nobody follows any longer once `stop` is cancelled.
    #[must_use]
    pub fn new(
        me: Owner,
        kept: Arc<Kept>,
        own: Option<LogFilter>,
        peers: Peers,
        placement: Placement,
        stop: CancellationToken,
    ) -> Self {
        Self(Arc::new(Inner {
            me,
            kept,
            own,
            peers,
            placement,
            followers: Places::new(FOLLOWERS_MAX),
            stop,
        }))
    }

    /// The newest lines of all nodes, or of one.
    pub(crate) async fn tail(&self, filter: &Filter, node: Option<NodeId>, limit: usize) -> Tail {
        let nodes = self.nodes(node);
        let pages = nodes.into_iter().map(|node| async move {
            let question = ReadLogs {
                filter: filter.clone(),
                after: None,
                limit,
                wait: Duration::ZERO,
            };
            (node, self.0.read(node, question).await)
        });
        let mut entries = Vec::new();
        let mut missing = Vec::new();
        let mut positions = BTreeMap::new();
        for (node, page) in join_all(pages).await {
            match page {
                Ok(page) => {
                    positions.insert(node, page.position);
                    entries.extend(page.items.into_iter().map(|line| line.said_on(node)));
                }
                Err(error) => missing.push(absent(node, error)),
            }
        }
        // Stable: lines of a node stay in their order even if its clock was set back.
        entries.sort_by_key(|entry| entry.at_ms);
        let newest = entries.split_off(entries.len().saturating_sub(limit));
        let entries = newest.into_iter().map(LogLine::Entry);
        Tail {
            lines: missing.into_iter().chain(entries).collect(),
            positions: Positions(positions),
        }
    }

    /// A place among those who follow; none when there are too many that came a moment ago.
    pub(crate) fn place(&self) -> Option<Place> {
        self.0.followers.take(&self.0.stop)
    }

    /// Answers a peer.
    pub(crate) async fn answer(&self, question: ReadLogs) -> Page {
        self.0.answer(question).await
    }

    fn nodes(&self, node: Option<NodeId>) -> Vec<NodeId> {
        match node {
            Some(node) => vec![node],
            None => self.0.placement.live().into_iter().collect(),
        }
    }
}

impl Inner {
    async fn read(&self, node: NodeId, question: ReadLogs) -> Result<Page, String> {
        if node == self.me.node {
            return Ok(self.answer(question).await);
        }
        let patience = question.wait + gather::ASK;
        let asked = rpc::ask(&self.peers, node, &question, patience).await;
        asked.map_err(|error| chain(&error))
    }

    async fn answer(&self, question: ReadLogs) -> Page {
        let ReadLogs {
            filter,
            after,
            limit,
            wait,
        } = question;
        let limit = limit.min(PAGE_LINES_MAX);
        let incarnation = self.me.incarnation;
        let (items, number, missed) = match after {
            None => {
                let (items, number) = self.kept.newest(&filter, limit);
                (items, number, false)
            }
            Some(position) => {
                // Of another run nothing was read yet of this one.
                let is_ours = position.incarnation == incarnation;
                let line = if is_ours { position.number } else { 0 };
                // The run that was read before is over, with what it had not told yet.
                let is_over = !is_ours && position != Position::START;
                let wait = if is_over { Duration::ZERO } else { wait };
                let lines = self.kept.after(&filter, line, limit, wait);
                let read = self.stop.run_until_cancelled(lines).await;
                let (items, number, missed) = read.unwrap_or((Vec::new(), line, false));
                (items, number, missed || is_over)
            }
        };
        Page {
            items,
            position: Position {
                incarnation,
                number,
            },
            missed,
        }
    }
}

impl Line {
    fn said_on(self, node: NodeId) -> LogEntry {
        LogEntry {
            at_ms: self.at_ms,
            node,
            module: self.module,
            resource: self.resource,
            level: self.level,
            source: self.source,
            context: self.context,
            message: self.message,
        }
    }
}

fn absent(node: NodeId, missing: String) -> LogLine {
    LogLine::Missing(LogsMissing { node, missing })
}

/// What is said of lines that nobody has any more.
const GAP: &str = "what it said before this is not kept any more, or ended with a former run of it";

/// How many may follow through one node: each of them has a question at every other.
const FOLLOWERS_MAX: usize = 32;

/// How many lines a page has at most.
const PAGE_LINES_MAX: usize = holdfast_model::api::LogsQuery::LIMIT_MAX as usize;
