//! Asks whichever node of the cluster answers: what goes on for long outlives the node that it began with.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use holdfast_model::{
    NodeId,
    api::{NodeInfo, ProblemKind},
};

use crate::client::{self, Client};

/// The nodes that can be asked, the one that was named first.
pub(super) struct Nodes {
    /// The one that answered last.
    present: Client,
    named: Client,
    others: Vec<(NodeId, SocketAddr)>,
}

impl Nodes {
    /// The node that was named, and those that it knows. Where it does not answer, it alone.
    pub(super) async fn of(client: &Client) -> Self {
        let mut nodes = Self {
            present: client.clone(),
            named: client.clone(),
            others: Vec::new(),
        };
        if let Ok(list) = client.nodes().await {
            nodes.learn(&list.nodes);
        }
        nodes
    }

    /// The node that answered last.
    pub(super) fn present(&self) -> &Client {
        &self.present
    }

    /// Remembers where nodes are.
    pub(super) fn learn(&mut self, nodes: &[NodeInfo]) {
        let is_local = self.named.is_local();
        let others = nodes.iter().filter(|info| !info.this);
        let at = |info: &NodeInfo| {
            let mut http = info.http;
            if http.ip().is_unspecified() {
                http.set_ip(info.addr.ip());
            }
            // Of another machine, that address would be one of ours.
            (is_local || !http.ip().is_loopback()).then_some((info.node, http))
        };
        self.others = others.filter_map(at).collect();
    }

    /// Asks the node that answered last, and each of the others where it does not answer. Only for
    /// what may be asked twice.
    pub(super) async fn ask<T>(
        &mut self,
        ask: impl AsyncFn(&Client) -> Result<T, client::Error>,
    ) -> Result<T, client::Error> {
        let error = match ask(&self.present).await {
            Err(error) if is_lost(&error) => error,
            answered => return answered,
        };
        for (node, client) in self.others() {
            if let Some(node) = node
                && !is_node(&client, node).await
            {
                continue;
            }
            match ask(&client).await {
                Err(error) if is_lost(&error) => {}
                answered => {
                    self.present = client;
                    return answered;
                }
            }
        }
        // What the one said that was asked first.
        Err(error)
    }

    /// Waits until a node answers, the present one or another, and makes it the present one.
    ///
    /// # Errors
    /// When none has answered for long: there is no such cluster any more.
    pub(super) async fn again(&mut self) -> anyhow::Result<()> {
        let begun = Instant::now();
        loop {
            tokio::time::sleep(AGAIN).await;
            match self.ask(async |client| client.nodes().await).await {
                Ok(list) => {
                    self.learn(&list.nodes);
                    return Ok(());
                }
                Err(error) if is_lost(&error) && begun.elapsed() < SILENCE_MAX => {}
                Err(error) => return Err(error).context("find a node that answers"),
            }
        }
    }

    /// All but the present one, each with the node that it is to be; the named one may be any.
    fn others(&self) -> Vec<(Option<NodeId>, Client)> {
        let others = self.others.iter().filter_map(|(node, http)| {
            let client = self.named.at(&http.to_string()).ok()?;
            Some((Some(*node), client))
        });
        let all = [(None, self.named.clone())].into_iter().chain(others);
        all.filter(|(_, client)| client.server() != self.present.server())
            .collect()
    }
}

/// Whether the node behind this address is the one that is meant: behind an address of this machine, or of
/// a translated network, may be a stranger.
async fn is_node(client: &Client, node: NodeId) -> bool {
    let asked = client.clone().with_timeout(WHO).nodes().await;
    let Ok(list) = asked else {
        return false;
    };
    list.nodes.iter().any(|info| info.this && info.node == node)
}

/// Whether another node may answer what this one did not.
pub(super) fn is_lost(error: &client::Error) -> bool {
    match error {
        client::Error::Unreachable { .. }
        | client::Error::Broken { .. }
        | client::Error::TimedOut { .. } => true,
        client::Error::Problem(problem) => matches!(
            problem.kind,
            ProblemKind::Interrupted | ProblemKind::Unavailable | ProblemKind::NoLeader
        ),
        _ => false,
    }
}

/// How soon nodes are asked again.
const AGAIN: Duration = Duration::from_secs(1);

/// How long all nodes may be silent.
const SILENCE_MAX: Duration = Duration::from_secs(600);

/// How long a node may take to say who it is.
const WHO: Duration = Duration::from_secs(5);
