//! What a node is told when it starts, and which of it makes no sense.

mod http;

use std::{
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use holdfast_cluster::state::{ClusterSettings, Invalid};
use holdfast_model::{ClusterName, Labels, Weight, Zone};
use holdfast_runtime::CompilerProcess;

pub use self::http::HttpOptions;
use crate::{identity::Secret, telemetry::LogFilter, token, traces};

/// A node's configuration.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Where the node keeps its identity and its copy of the state.
    pub data_dir: PathBuf,
    /// Name of its cluster.
    pub cluster: ClusterName,
    /// Found the cluster, unless the data directory belongs to one.
    pub bootstrap: bool,
    /// Where peers reach it: TCP and UDP. Port 0 takes a free one.
    pub listen: SocketAddr,
    /// Where its HTTP API is. Port 0 takes a free one.
    pub http: SocketAddr,
    /// What its clients may take.
    pub http_options: HttpOptions,
    /// The address of `listen` that peers are told, where it differs.
    pub advertise: Option<SocketAddr>,
    /// Nodes of the cluster to join, `host:port`.
    pub seeds: Vec<String>,
    /// The cluster's secret. A founder makes one when there is none.
    pub secret: Option<Secret>,
    /// What callers of the API must show.
    pub token: token::Current,
    /// Share of the load, relative to the other nodes.
    pub weight: Weight,
    /// Failure domain.
    pub zone: Option<Zone>,
    /// What operators say of it.
    pub labels: Labels,
    /// Settings of the cluster that this node founds. Changed later through the API.
    pub founding: ClusterSettings,
    /// What becomes of resources when the process is told to stop. Default: other nodes get them.
    pub on_stop: OnStop,
    /// How many instances may be starting at once on this node, those of all modules together.
    /// Default 256. Too low: a failover takes long where `handle` waits for others. Too high: what
    /// they all wait for is hit by all, and calls wait for processor time.
    pub starts_max: u32,
    /// Memory that all guests of the node may have together, in bytes. Default: three quarters of what the
    /// process may have. Too low: starts fail though there is room. Too high: the kernel ends the
    /// process.
    pub guest_memory_bytes_max: Option<u64>,
    /// What compiles components in a process of its own. None compiles them in this one, where a hostile
    /// component can take any amount of memory.
    pub compiler: Option<CompilerProcess>,
    /// How long a stop waits for resources to move to other nodes. Default 30 s. Too low: they are
    /// terminated here first and held nowhere for a while. Too high: a supervisor loses patience.
    pub drain_timeout: Duration,
    /// The listener of the HTTP API that the run before has left, where there was one: its clients
    /// wait in it. None binds `http`.
    pub http_listener: Option<Arc<TcpListener>>,
    /// How long a port that is in use is waited for. Default 0: a mistake is told at once. A run that
    /// takes the place of another waits, for its ports may be somebody's for a moment.
    pub port_patience: Duration,
    /// The program that takes the place of this process in a restart; none where the process is
    /// not the node's own.
    pub program: Option<PathBuf>,
    /// What the process logs, where that can be changed through the API.
    pub log: Option<LogFilter>,
    /// Where traces go, and which; none keeps none.
    pub traces: Option<traces::Options>,
    /// Look for other nodes. Off only in tests that show what gossip is needed for.
    pub gossip: bool,
}

/// What becomes of a node's resources when its process is told to stop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum OnStop {
    /// The other nodes get them before it ends.
    #[default]
    HandOver,
    /// They end here, and are kept for the node's next run for 5 s; for a supervisor that starts the
    /// process again at once.
    Reserve,
}

/// What compiles components with this program, which is a `holdfast`.
pub(crate) fn compiler(holdfast: impl Into<PathBuf>) -> CompilerProcess {
    CompilerProcess {
        program: holdfast.into(),
        args: vec![COMPILE.into()],
    }
}

/// The first argument of a process that only compiles a component.
pub(crate) const COMPILE: &str = "compile-component";

/// A configuration with which a node would be unsafe or useless.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Anybody could deploy code.
    #[error(
        "the HTTP API at {0} would be open to whoever reaches it: give an API token with \
         --token-file or HOLDFAST_TOKEN, or listen on a loopback address"
    )]
    OpenApi(SocketAddr),
    /// Anybody could join.
    #[error(
        "peers could reach this node at {0}: give the cluster's secret with --secret-file or \
         HOLDFAST_SECRET, the same on all nodes, or listen on a loopback address"
    )]
    OpenCluster(SocketAddr),
    /// Belonging to a cluster needs its secret.
    #[error(
        "a node of a cluster needs its secret, at every start: give it with --secret-file or \
         HOLDFAST_SECRET. A founder that was given none made the file cluster.secret in its data \
         directory"
    )]
    NoSecret,
    /// Nobody could reach it.
    #[error("{0} is no address that others can reach: say with --advertise which one is")]
    Unspecified(SocketAddr),
    /// The cluster could not have these settings.
    #[error("the cluster cannot be founded with these settings")]
    Founding(#[from] Invalid),
    /// It would wait for ever.
    #[error(
        "this node belongs to no cluster yet: say with --seed where one of its nodes is, or with \
         --bootstrap that this one founds it"
    )]
    NoCluster,
}

impl NodeConfig {
    /// Checks what can be known before anything is opened. `member` says that the data directory
    /// belongs to a cluster.
    ///
    /// # Errors
    /// Names what is wrong and the remedy.
    pub fn check(&self, member: bool) -> Result<(), ConfigError> {
        if !self.http.ip().is_loopback() && !self.token.is_some() {
            return Err(ConfigError::OpenApi(self.http));
        }
        if !self.listen.ip().is_loopback() && self.secret.is_none() {
            return Err(ConfigError::OpenCluster(self.listen));
        }
        if self.listen.ip().is_unspecified() && self.advertise.is_none() {
            return Err(ConfigError::Unspecified(self.listen));
        }
        if let Some(advertise) = self.advertise.filter(|addr| addr.ip().is_unspecified()) {
            return Err(ConfigError::Unspecified(advertise));
        }
        self.founding.check()?;
        if !member && !self.bootstrap && self.seeds.is_empty() {
            return Err(ConfigError::NoCluster);
        }
        // Only a founder may make a secret: another one's would shut the node out.
        let founds = self.bootstrap && !member;
        if !founds && self.secret.is_none() {
            return Err(ConfigError::NoSecret);
        }
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A founder on free ports of loopback.
    pub(crate) fn founder() -> NodeConfig {
        NodeConfig {
            data_dir: PathBuf::from("data"),
            cluster: "c".parse().unwrap(),
            bootstrap: true,
            listen: "127.0.0.1:0".parse().unwrap(),
            http: "[::1]:0".parse().unwrap(),
            http_options: HttpOptions::default(),
            advertise: None,
            seeds: Vec::new(),
            secret: None,
            token: token::Current::default(),
            weight: Weight::MAX,
            zone: None,
            labels: Labels::default(),
            founding: ClusterSettings::DEFAULT,
            on_stop: OnStop::default(),
            starts_max: 256,
            guest_memory_bytes_max: None,
            compiler: None,
            drain_timeout: Duration::from_secs(30),
            http_listener: None,
            port_patience: Duration::ZERO,
            program: None,
            log: None,
            traces: None,
            gossip: true,
        }
    }

    fn secret() -> Option<Secret> {
        Some("0123456789abcdef0123".parse().unwrap())
    }

    #[test]
    fn a_founder_on_loopback_needs_nothing() {
        assert!(founder().check(false).is_ok());
    }

    #[test]
    fn a_node_that_others_reach_needs_token_and_secret() {
        let public: SocketAddr = "10.0.0.1:1".parse().unwrap();
        let config = NodeConfig {
            http: public,
            ..founder()
        };
        assert!(matches!(config.check(false), Err(ConfigError::OpenApi(_))));
        let config = NodeConfig {
            listen: public,
            ..founder()
        };
        assert!(matches!(
            config.check(false),
            Err(ConfigError::OpenCluster(_))
        ));
        let config = NodeConfig {
            listen: public,
            secret: secret(),
            ..founder()
        };
        assert!(config.check(false).is_ok());
    }

    #[test]
    fn a_joiner_needs_a_seed_until_it_has_joined_and_the_secret_always() {
        let joiner = NodeConfig {
            bootstrap: false,
            ..founder()
        };
        assert!(matches!(joiner.check(false), Err(ConfigError::NoCluster)));
        assert!(matches!(joiner.check(true), Err(ConfigError::NoSecret)));
        let member = NodeConfig {
            secret: secret(),
            ..joiner.clone()
        };
        assert!(member.check(true).is_ok());
        let joiner = NodeConfig {
            seeds: vec!["a:1".to_owned()],
            ..joiner
        };
        assert!(matches!(joiner.check(false), Err(ConfigError::NoSecret)));
        assert!(
            NodeConfig {
                secret: secret(),
                ..joiner
            }
            .check(false)
            .is_ok()
        );
    }

    #[test]
    fn leases_that_would_not_be_safe_are_refused() {
        let mut config = founder();
        config.founding.lease.guard = Duration::from_millis(200);
        let refused = config.check(false).unwrap_err();
        assert!(matches!(refused, ConfigError::Founding(_)), "{refused}");
    }

    #[test]
    fn every_address_of_the_machine_is_none_to_tell_peers() {
        let any = "0.0.0.0:1".parse().unwrap();
        let config = NodeConfig {
            listen: any,
            secret: secret(),
            ..founder()
        };
        assert!(matches!(
            config.check(false),
            Err(ConfigError::Unspecified(_))
        ));
        let advertise = Some("10.0.0.1:1".parse().unwrap());
        assert!(
            NodeConfig {
                advertise,
                ..config
            }
            .check(false)
            .is_ok()
        );
    }
}
