//! Deploys components: checks them, spreads them, and only then tells the cluster.
//!
//! Invariant: a deployment is acknowledged only when a majority of the voters have the component
//! on disk, so that it survives whatever the state that names it survives.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{
    future::BoxFuture,
    stream::{FuturesUnordered, StreamExt},
};
use holdfast_cluster::{
    state::{Command, Outcome, Refused},
    voters,
};
use holdfast_model::{Digest, ModuleName, NodeId, Settings, module::OutOfBounds};
use holdfast_runtime::LoadError;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, timeout_at};
use tracing::{info, warn};

use crate::{
    clock::now_ms,
    control::{Control, ProposeError},
    modules::{self, Fetch, Modules},
    peer::{Kind, Lane, Peers},
    rpc::{self, Question},
};

/// Deploys from this node.
#[derive(Clone)]
pub struct Deploy {
    me: NodeId,
    control: Control,
    peers: Peers,
    modules: Modules,
}

/// What became of a deployment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deployed {
    /// The version's number.
    pub number: u64,
    /// Whether the module or the version is new.
    pub new: bool,
}

/// Why nothing was deployed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A limit is out of bounds.
    #[error("the settings cannot be honoured")]
    Settings(#[from] OutOfBounds),
    /// The runtime refuses the component.
    #[error("the component cannot be run here")]
    Component(#[from] Arc<LoadError>),
    /// The component could not be written here: the fault of this node, another one may take it.
    #[error("this node cannot keep the component; another node may")]
    Keep(#[from] modules::Error),
    /// Too few voters have the component.
    #[error("only {kept} of {voters} voters could keep the component, a majority must: {reasons}")]
    Spread {
        /// How many have it.
        kept: usize,
        /// How many there are.
        voters: usize,
        /// What the others said.
        reasons: String,
    },
    /// The caller's time is over. Nothing was deployed.
    #[error(
        "the component is still being {0}; nothing was deployed. Deploy it again, with more time: what is \
         done by then is not done again"
    )]
    Late(&'static str),
    /// The command was not acknowledged.
    #[error("the deployment was not acknowledged")]
    Propose(#[from] ProposeError),
    /// The state refuses it.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The state answered something else: a mistake of the program.
    #[error("the state answered a deployment with {0:?}, which is none; it may have been deployed")]
    Unexpected(Outcome),
}

impl Deploy {
    /// Deploys from this node.
    #[must_use]
    pub fn new(me: NodeId, control: Control, peers: Peers, modules: Modules) -> Self {
        Self {
            me,
            control,
            peers,
            modules,
        }
    }

    /// Deploys a component under this name. Without settings the module keeps those it has. What is not
    /// done at the deadline goes on for the next who deploys the same.
    ///
    /// # Errors
    /// When nothing was deployed; except that after [`Error::Propose`] it may have been.
    pub async fn deploy(
        &self,
        name: &ModuleName,
        component: Bytes,
        settings: Option<Settings>,
        deadline: Instant,
    ) -> Result<Deployed, Error> {
        let settings = settings.map_or_else(|| self.present_settings(name), Arc::new);
        settings.limits.check()?;
        let size = component.len() as u64;
        // A task of its own: whoever waits may leave, and comes back for what it has made.
        let compiling = tokio::spawn({
            let (modules, name) = (self.modules.clone(), name.clone());
            let (component, settings) = (component.clone(), Arc::clone(&settings));
            async move { modules.check(&name, component, &settings).await }
        });
        match timeout_at(deadline, compiling).await {
            Ok(Ok(checked)) => checked?,
            Ok(Err(failed)) => match failed.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_stopping) => return Err(Error::Late("compiled")),
            },
            Err(_late) => return Err(Error::Late("compiled")),
        };
        let digest = self.modules.keep(component).await?;
        let spread = timeout_at(deadline, self.spread(digest)).await;
        spread.map_err(|_late| Error::Late("spread"))??;
        let command = Command::Deploy {
            module: name.clone(),
            digest,
            size,
            settings,
            at_ms: now_ms(),
        };
        let outcome = self.control.propose(command, deadline.into_std()).await?;
        match outcome.accepted()? {
            Outcome::Deployed { number, new } => {
                info!(module = %name, module.digest = %digest, number, new, "deployed");
                Ok(Deployed { number, new })
            }
            other => Err(Error::Unexpected(other)),
        }
    }

    fn present_settings(&self, name: &ModuleName) -> Arc<Settings> {
        self.control.read(|state| {
            let present = state.modules().get(name).map(|module| &module.about);
            let newest = present.map(|about| {
                about
                    .rollout
                    .as_ref()
                    .map_or(&about.version, |rollout| &rollout.version)
            });
            newest
                .map(|version| Arc::clone(&version.settings))
                .unwrap_or_default()
        })
    }

    /// Has every node that can be reached keep the component; returns once enough voters did.
    async fn spread(&self, digest: Digest) -> Result<(), Error> {
        let mut kept = BTreeSet::from([self.me]);
        let nodes = self
            .control
            .read(|state| state.nodes().keys().copied().collect::<Vec<_>>());
        let mut asked: FuturesUnordered<_> = nodes
            .into_iter()
            .filter(|node| *node != self.me)
            .map(|node| {
                let peers = self.peers.clone();
                // A task of its own: what is not needed for the answer goes on after it.
                let asking = tokio::spawn(async move {
                    rpc::ask(&peers, node, &KeepComponent { digest }, SPREAD).await
                });
                async move { (node, asking.await) }
            })
            .collect();
        let mut reasons = Vec::new();
        // While the voters change, a majority of the former ones and one of the next must have it. Which
        // they are is read anew each time, for that may end or begin meanwhile.
        let enough =
            |kept: &BTreeSet<NodeId>| voters::is_quorum(&self.control.members().quorums, kept);
        while !enough(&kept) {
            let Some((node, asked)) = asked.next().await else {
                break;
            };
            let reason = match asked {
                Ok(Ok(Ok(()))) => {
                    kept.insert(node);
                    continue;
                }
                Ok(Ok(Err(reason))) => reason,
                Ok(Err(error)) => modules::chain(&error),
                Err(failed) => failed.to_string(),
            };
            warn!(node.id = %node, reason, "a node did not keep the component");
            reasons.push(format!("{node}: {reason}"));
        }
        if enough(&kept) {
            return Ok(());
        }
        let voters = self.control.members().voters;
        Err(Error::Spread {
            kept: voters.intersection(&kept).count(),
            voters: voters.len(),
            reasons: reasons.join("; "),
        })
    }
}

/// Asks a node to keep a component, which it fetches from the asker.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct KeepComponent {
    digest: Digest,
}

impl Question for KeepComponent {
    const KIND: Kind = Kind(6);
    const LANE: Lane = Lane::Data;
    type Answer = Result<(), String>;
}

/// Asks a node for a component.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct FetchComponent {
    digest: Digest,
}

impl Question for FetchComponent {
    const KIND: Kind = Kind(7);
    const LANE: Lane = Lane::Data;
    type Answer = Option<Bytes>;
}

/// Answers a peer that wants a component kept.
pub(crate) async fn answer_keep(
    modules: &Modules,
    peers: &Peers,
    asker: NodeId,
    question: KeepComponent,
) -> Result<(), String> {
    let digest = question.digest;
    let found = modules
        .bytes(digest)
        .await
        .map_err(|error| modules::chain(&error))?;
    if found.is_some() {
        return Ok(());
    }
    let component = fetch_from(peers, asker, digest).await?;
    if Digest::of(&component) != digest {
        return Err("the bytes that came have another digest".to_owned());
    }
    modules
        .keep(component)
        .await
        .map(|_| ())
        .map_err(|error| modules::chain(&error))
}

/// Answers a peer that wants a component.
pub(crate) async fn answer_fetch(modules: &Modules, question: FetchComponent) -> Option<Bytes> {
    match modules.bytes(question.digest).await {
        Ok(found) => found,
        Err(error) => {
            warn!(
                error = modules::chain(&error),
                "a component could not be read"
            );
            None
        }
    }
}

async fn fetch_from(peers: &Peers, node: NodeId, digest: Digest) -> Result<Bytes, String> {
    match rpc::ask(peers, node, &FetchComponent { digest }, SPREAD).await {
        Ok(Some(component)) => Ok(component),
        Ok(None) => Err(format!("node {node} does not have it")),
        Err(error) => Err(modules::chain(&error)),
    }
}

/// Fetches components from whichever peer has them.
pub(crate) struct FromPeers(pub(crate) Peers);

impl Fetch for FromPeers {
    fn fetch(&self, digest: Digest) -> BoxFuture<'static, Result<Bytes, String>> {
        let peers = self.0.clone();
        Box::pin(async move {
            let mut reasons = Vec::new();
            for contact in peers.connected() {
                match fetch_from(&peers, contact.peer.node, digest).await {
                    Ok(component) => return Ok(component),
                    Err(reason) => reasons.push(reason),
                }
            }
            if reasons.is_empty() {
                reasons.push("no peer is connected".to_owned());
            }
            Err(reasons.join("; "))
        })
    }
}

/// How long a node may take to fetch and write a component.
const SPREAD: Duration = Duration::from_secs(30);
