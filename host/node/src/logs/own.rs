//! What the node's own log has.

use std::time::Duration;

use holdfast_model::NodeId;
use serde::{Deserialize, Serialize};

use super::Logs;
use crate::{
    modules::chain,
    peer::{Kind, Lane},
    rpc::{self, Question},
};

/// Asks a node what it logs, and to log by another filter from now on, if there is one.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ChangeLog {
    pub(crate) filter: Option<String>,
}

/// Why a node does not say what it logs, or does not change it.
#[derive(Clone, Debug, Serialize, Deserialize, thiserror::Error)]
pub(crate) enum ChangeLogError {
    /// The filter makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// The node is part of a program whose log is its own affair.
    #[error("the log of that node is not its own: it is part of another program")]
    NotOwn,
    /// It could not be asked, or did not answer.
    #[error("the node did not answer: {0}")]
    NotReached(String),
}

impl Question for ChangeLog {
    const KIND: Kind = Kind(13);
    const LANE: Lane = Lane::Control;
    /// The filter from now on.
    type Answer = Result<String, ChangeLogError>;
}

impl Logs {
    /// What a node logs from now on.
    pub(crate) async fn change(
        &self,
        node: NodeId,
        question: ChangeLog,
    ) -> Result<String, ChangeLogError> {
        if node == self.0.me.node {
            return self.answer_change(&question);
        }
        let asked = rpc::ask(&self.0.peers, node, &question, ANSWER).await;
        asked.unwrap_or_else(|error| Err(ChangeLogError::NotReached(chain(&error))))
    }

    /// Answers for this node.
    pub(crate) fn answer_change(&self, question: &ChangeLog) -> Result<String, ChangeLogError> {
        let own = self.0.own.as_ref().ok_or(ChangeLogError::NotOwn)?;
        if let Some(filter) = &question.filter {
            let changed = own.change(filter);
            changed.map_err(|error| ChangeLogError::Invalid(chain(&error)))?;
            tracing::info!(filter, "what is logged was changed");
        }
        Ok(own.text())
    }
}

/// How long a node may take to answer.
const ANSWER: Duration = Duration::from_secs(3);
