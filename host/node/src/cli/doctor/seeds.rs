//! The nodes that a node is told to join.

use std::{io, net::SocketAddr, time::Duration};

use holdfast_model::ClusterName;
use tokio::time::timeout;

use super::Finding;
use crate::peer::{self, HelloError};

/// A node to join, and what came of asking it.
#[derive(Debug)]
pub(super) struct Seed {
    given: String,
    outcome: Outcome,
}

#[derive(Debug)]
enum Outcome {
    Reached(SocketAddr, ClusterName),
    /// Its name leads to no address.
    Unknown(io::Error),
    /// None of its addresses has a node; this is what the last one said.
    Unreached(HelloError),
}

pub(super) async fn look(seeds: &[String]) -> Vec<Seed> {
    let asked = seeds.iter().map(|given| async {
        Seed {
            given: given.clone(),
            outcome: reach(given).await,
        }
    });
    futures_util::future::join_all(asked).await
}

async fn reach(given: &str) -> Outcome {
    let found = timeout(LOOKUP_PATIENCE, tokio::net::lookup_host(given)).await;
    let found = match found {
        Ok(Ok(found)) => found,
        Ok(Err(error)) => return Outcome::Unknown(error),
        Err(_elapsed) => return Outcome::Unknown(io::ErrorKind::TimedOut.into()),
    };
    let mut last = Outcome::Unknown(io::Error::other("it has no address"));
    for addr in found.take(ADDRESSES_MAX) {
        match recognize(addr).await {
            Ok(cluster) => return Outcome::Reached(addr, cluster),
            Err(error) => last = Outcome::Unreached(error),
        }
    }
    last
}

/// The cluster of the node whose port for peers this is.
pub(super) async fn recognize(addr: SocketAddr) -> Result<ClusterName, HelloError> {
    let pretended = PRETENDED.parse().expect("it is a name of a cluster");
    peer::recognize(addr, &pretended).await
}

/// Where the HTTP APIs of the seeds are if they have the usual port, the same on all nodes.
pub(super) fn api_addresses(seeds: &[String], port: u16) -> Vec<String> {
    let hosts = seeds.iter().filter_map(|seed| seed.rsplit_once(':'));
    hosts.map(|(host, _)| format!("{host}:{port}")).collect()
}

/// One seed that answers is enough for a node to join.
pub(super) fn judge(seeds: &[Seed]) -> Vec<Finding> {
    let reached = |seed: &Seed| matches!(seed.outcome, Outcome::Reached(..));
    let any = seeds.iter().any(reached);
    seeds.iter().map(|seed| judge_one(seed, any)).collect()
}

fn judge_one(Seed { given, outcome }: &Seed, any_reached: bool) -> Finding {
    const CHECK: &str = "seed";
    let (what, remedy) = match outcome {
        Outcome::Reached(addr, cluster) => {
            return Finding::ok(
                CHECK,
                format!("{given}: a node of cluster {cluster} at {addr}"),
            );
        }
        Outcome::Unknown(error) => (
            format!("no address is found: {error}"),
            "correct the name, or the name service; an address does as well",
        ),
        Outcome::Unreached(error) => (cause(error), remedy(error)),
    };
    let found = format!("{given}: {what}");
    match any_reached {
        true => Finding::warning(CHECK, found, format!("{given}: {remedy}. Another answers")),
        false => Finding::failure(CHECK, found, format!("{given}: {remedy}")),
    }
}

fn cause(error: &HelloError) -> String {
    match error {
        HelloError::Connect { source, .. } | HelloError::Broken { source, .. } => {
            source.to_string()
        }
        HelloError::Refused { reason, .. } => reason.to_string(),
        other => other.to_string(),
    }
}

fn remedy(error: &HelloError) -> &'static str {
    match error {
        HelloError::Connect { source, .. } if source.kind() == io::ErrorKind::ConnectionRefused => {
            "start the node there, or correct the port: that of its --listen, 7301 by default"
        }
        HelloError::Connect { .. } => "see that this machine has a route to it",
        HelloError::TimedOut { .. } => {
            "is the machine up? Let firewalls pass the port, TCP and UDP, in both directions"
        }
        HelloError::Refused { .. } => "run the same release of Holdfast on all nodes",
        _ => "name the port of its --listen, 7301 by default, not the one of its HTTP API",
    }
}

/// What a node that is asked logs as the name of the cluster that it refused.
const PRETENDED: &str = "holdfast-doctor";
const LOOKUP_PATIENCE: Duration = Duration::from_secs(5);
const ADDRESSES_MAX: usize = 4;

#[cfg(test)]
mod tests {
    use super::{super::Status, *};

    fn seed(outcome: Outcome) -> Seed {
        Seed {
            given: "node-1:7301".to_owned(),
            outcome,
        }
    }

    fn addr() -> SocketAddr {
        "10.0.0.1:7301".parse().unwrap()
    }

    fn refused() -> Seed {
        let source = io::ErrorKind::ConnectionRefused.into();
        seed(Outcome::Unreached(HelloError::Connect {
            addr: addr(),
            source,
        }))
    }

    #[test]
    fn a_seed_that_is_not_reached_is_a_failure_unless_another_is() {
        let office = seed(Outcome::Reached(addr(), "office".parse().unwrap()));
        let findings = judge(&[office, refused()]);
        assert_eq!(findings[0].status, Status::Ok);
        assert!(findings[0].found.contains("cluster office"), "{findings:?}");
        assert_eq!(findings[1].status, Status::Warning);
        assert_eq!(judge(&[refused()])[0].status, Status::Failure);
        assert_eq!(judge(&[]), []);
    }

    #[test]
    fn each_way_not_to_be_reached_has_its_remedy() {
        let after = Duration::from_secs(2);
        let timed_out = HelloError::TimedOut {
            addr: addr(),
            after,
        };
        let foreign = HelloError::NotHoldfast { addr: addr() };
        let reason = peer::Refusal::Version {
            acceptor: 2,
            dialer: 1,
        };
        let version = HelloError::Refused {
            addr: addr(),
            reason,
        };
        for (outcome, remedy) in [
            (refused().outcome, "start the node"),
            (Outcome::Unreached(timed_out), "firewalls"),
            (Outcome::Unreached(foreign), "not the one of its HTTP API"),
            (Outcome::Unreached(version), "same release"),
            (
                Outcome::Unknown(io::Error::other("no such name")),
                "name service",
            ),
        ] {
            let findings = judge(&[seed(outcome)]);
            let said = findings[0].remedy.as_deref().unwrap();
            assert!(said.contains(remedy), "{findings:?}");
        }
    }

    #[test]
    fn the_apis_of_seeds_are_looked_for_beside_their_ports_for_peers() {
        let seeds = ["a:7301".to_owned(), "[::1]:7311".to_owned()];
        assert_eq!(api_addresses(&seeds, 7300), ["a:7300", "[::1]:7300"]);
    }
}
