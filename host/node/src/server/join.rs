//! How a node comes to belong to a cluster: it founds one, remembers one, or asks its seeds.

use std::{collections::BTreeMap, time::Duration};

use futures_util::{StreamExt as _, future::join_all, stream::FuturesUnordered};
use holdfast_model::ClusterId;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::Error;
use crate::{
    config::NodeConfig,
    modules::chain,
    peer::{HelloError, Peers},
};

/// Asks the seeds, again and again, until one of them says which cluster it belongs to; none when
/// stopped before.
///
/// A seed that is down may come up later, so only seeds that all refuse this node by name end it:
/// trying again would not change that.
pub(super) async fn ask_seeds(
    config: &NodeConfig,
    peers: &Peers,
    stop: &CancellationToken,
) -> Result<Option<ClusterId>, Error> {
    let mut pause = FIRST_PAUSE;
    let mut told: BTreeMap<String, String> = BTreeMap::new();
    loop {
        let mut refusals = Vec::new();
        // All at once: a seed that does not answer is not to hold up the others.
        let asked = config
            .seeds
            .iter()
            .map(|seed| async move { (seed, ask(seed, peers).await) });
        let mut asked: FuturesUnordered<_> = asked.collect();
        loop {
            let next = tokio::select! {
                () = stop.cancelled() => return Ok(None),
                next = asked.next() => next,
            };
            let Some((seed, answer)) = next else { break };
            let reason = match answer {
                Ok(Some(cluster)) => {
                    info!(seed, cluster.id = %cluster, "found the cluster");
                    return Ok(Some(cluster));
                }
                Ok(None) => "it belongs to no cluster yet itself".to_owned(),
                Err(Failed::Refused(reason)) => {
                    refusals.push(format!("{seed}: {reason}"));
                    reason
                }
                Err(Failed::Silent(reason)) => reason,
            };
            // The same words again and again would hide the news.
            if told.get(seed) != Some(&reason) {
                warn!(seed, reason, "this seed did not let us in");
                told.insert(seed.clone(), reason);
            }
        }
        if !refusals.is_empty() && refusals.len() == config.seeds.len() {
            return Err(Error::Refused(refusals.join("; ")));
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(None),
            () = tokio::time::sleep(pause) => {}
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Asks each seed once, and logs who refuses this node and why. Gives the first that belongs to a
/// cluster, and which.
pub(super) async fn greet(seeds: &[String], peers: &Peers) -> Option<(String, ClusterId)> {
    let mut first = None;
    let asked = seeds
        .iter()
        .map(async |seed| (seed, ask(seed, peers).await));
    for (seed, answer) in join_all(asked).await {
        match answer {
            Ok(Some(cluster)) => first = first.or_else(|| Some((seed.clone(), cluster))),
            Err(Failed::Refused(reason)) => warn!(seed, reason, "this seed does not let us in"),
            Ok(None) | Err(Failed::Silent(_)) => {}
        }
    }
    first
}

enum Failed {
    /// It answered, and trying again will not change the answer.
    Refused(String),
    Silent(String),
}

async fn ask(seed: &str, peers: &Peers) -> Result<Option<ClusterId>, Failed> {
    let found = tokio::time::timeout(LOOKUP, tokio::net::lookup_host(seed)).await;
    let addresses = match found {
        Ok(Ok(addresses)) => addresses,
        Ok(Err(error)) => return Err(Failed::Silent(format!("look up its name: {error}"))),
        Err(_) => {
            return Err(Failed::Silent(
                "its name could not be looked up in time".to_owned(),
            ));
        }
    };
    let mut last = Failed::Silent("its name has no address".to_owned());
    for addr in addresses.take(ADDRESSES_MAX) {
        match peers.hello(addr).await {
            Ok(peer) => {
                if peer.cluster_id.is_some() {
                    // Gossip may have no way to it but the connection.
                    peers.update(peer.node, peer.incarnation, addr);
                }
                return Ok(peer.cluster_id);
            }
            Err(error @ HelloError::Refused { .. }) => last = Failed::Refused(chain(&error)),
            Err(error) => last = Failed::Silent(chain(&error)),
        }
    }
    Err(last)
}

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
const LOOKUP: Duration = Duration::from_secs(2);

/// How many of a name's addresses are tried.
const ADDRESSES_MAX: usize = 8;
