//! A node as part of another program.
//!
//! [`Node::builder`] says what the node is to be, [`Builder::start`] runs it on threads of its own, and
//! [`Node`] is what the program has of it. Everything else goes through its HTTP API, for which
//! [`Node::client`] is.
//!
//! Nothing here touches what belongs to the whole process: signals, the log, the working directory.

use std::{io, net::SocketAddr, path::PathBuf, sync::mpsc as std_mpsc, thread, time::Duration};

use futures_util::stream;
use holdfast_cluster::state::ClusterSettings;
use holdfast_model::{ClusterName, Labels, Weight, Zone, api::Listening};
use tokio::sync::{mpsc, oneshot};

use crate::{
    client::{self, Client},
    config::{self, HttpOptions, NodeConfig, OnStop},
    identity::Secret,
    restart::Ending,
    server::{self, Why},
    token::{self, Token},
    traces,
};

/// A node that runs in this process.
///
/// Dropping it asks it to stop and does not wait for that: [`stop`](Self::stop) and
/// [`ended`](Self::ended) do.
#[derive(Debug)]
pub struct Node {
    listening: Listening,
    token: Option<String>,
    tell: mpsc::Sender<Ending>,
    ended: oneshot::Receiver<Result<server::Ended, server::Error>>,
}

/// How a node has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was asked to stop, and has handed over what it held, if there was anybody to take it.
    Stopped,
    /// It was asked through its API to restart, and has ended: its resources are kept for its next run
    /// for some seconds. Start it again.
    Restart,
    /// It has lost its lease, and others may run its resources by now. Nothing that it runs can reach
    /// anybody any more, but threads of it may still compute: **end the process**, and let whatever
    /// looks after it start it again.
    Fenced,
    /// Its copy of the state is wrong. As after [`Ended::Fenced`]; and before another run may use its
    /// folder, that has to begin anew: [`rejoin`](crate::rejoin).
    WrongCopy,
}

/// Why a node does not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no thread for it.
    #[error("start the thread of the node")]
    Thread(#[source] io::Error),
    /// It could not start, or could no longer run.
    #[error("run the node")]
    Node(#[from] server::Error),
    /// It panicked, which is a defect.
    #[error("the node panicked")]
    Panicked,
}

/// What a node is to be. Made by [`Node::builder`].
#[derive(Clone, Debug)]
#[must_use = "nothing runs before `start`"]
pub struct Builder {
    config: NodeConfig,
    token: Option<String>,
}

impl Node {
    /// A node of the cluster of this name that keeps what it has to in this folder.
    ///
    /// Unless said otherwise its HTTP API is at 127.0.0.1:7300 and its address for peers
    /// 127.0.0.1:7301, as those of `holdfast start` are.
    pub fn builder(data_dir: impl Into<PathBuf>, cluster: ClusterName) -> Builder {
        let local = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let config = NodeConfig {
            data_dir: data_dir.into(),
            cluster,
            bootstrap: false,
            listen: local(7301),
            http: local(7300),
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
        };
        Builder {
            config,
            token: None,
        }
    }

    /// Which node it is, and where it listens.
    #[must_use]
    pub fn listening(&self) -> &Listening {
        &self.listening
    }

    /// A client of its HTTP API, with its token.
    ///
    /// # Errors
    /// When a header cannot carry the token.
    pub fn client(&self) -> Result<Client, client::Error> {
        let client = Client::new(&self.listening.http.to_string())?;
        match &self.token {
            Some(token) => client.with_token(token),
            None => Ok(client),
        }
    }

    /// Asks it to stop, and waits until it has: first the other nodes get what it holds.
    ///
    /// # Errors
    /// See [`Error`]. After `Node(`[`server::Error::Unended`]`)` the process has to end, for threads
    /// of the node do not.
    pub async fn stop(mut self) -> Result<Ended, Error> {
        self.ask_to_stop();
        self.ended().await
    }

    /// Waits until it has ended, for whatever reason. Cancel-safe; to be awaited to its end once.
    ///
    /// # Errors
    /// See [`stop`](Self::stop).
    pub async fn ended(&mut self) -> Result<Ended, Error> {
        let ended = (&mut self.ended).await.map_err(|_gone| Error::Panicked)?;
        Ok(match ended? {
            server::Ended::Stopped => Ended::Stopped,
            server::Ended::Replaced(succession) => match succession.why {
                Why::Announced => Ended::Restart,
                Why::Fenced => Ended::Fenced,
                Why::WrongCopy => Ended::WrongCopy,
            },
        })
    }

    fn ask_to_stop(&self) {
        // Full: it was asked before. Closed: it has ended.
        let _ = self.tell.try_send(Ending::Stop);
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.ask_to_stop();
    }
}

impl Builder {
    /// It founds the cluster, unless its folder belongs to one.
    pub fn bootstrap(mut self) -> Self {
        self.config.bootstrap = true;
        self
    }

    /// Settings of the cluster, where it founds one.
    pub fn founding(mut self, settings: ClusterSettings) -> Self {
        self.config.founding = settings;
        self
    }

    /// A node of the cluster to join, `host:port`. Can be given several times.
    pub fn seed(mut self, addr: impl Into<String>) -> Self {
        self.config.seeds.push(addr.into());
        self
    }

    /// The cluster's secret. Only a founder on loopback does without: it makes one.
    pub fn secret(mut self, secret: Secret) -> Self {
        self.config.secret = Some(secret);
        self
    }

    /// What clients of the HTTP API must show.
    ///
    /// # Errors
    /// When it is no token.
    pub fn token(mut self, token: &str) -> Result<Self, crate::token::Error> {
        self.config.token = token::Current::new(Some(Token::new(token)?));
        self.token = Some(token.to_owned());
        Ok(self)
    }

    /// Where peers reach it, TCP and UDP; port 0 takes any free one.
    pub fn listen(mut self, addr: SocketAddr) -> Self {
        self.config.listen = addr;
        self
    }

    /// The address that peers are told, where it is another.
    pub fn advertise(mut self, addr: SocketAddr) -> Self {
        self.config.advertise = Some(addr);
        self
    }

    /// Where its HTTP API is; port 0 takes any free one.
    pub fn http(mut self, addr: SocketAddr) -> Self {
        self.config.http = addr;
        self
    }

    /// Its share of the load, from 0 (it votes and holds nothing) to 100, which it is unless set.
    pub fn weight(mut self, weight: Weight) -> Self {
        self.config.weight = weight;
        self
    }

    /// Its failure domain.
    pub fn zone(mut self, zone: Zone) -> Self {
        self.config.zone = Some(zone);
        self
    }

    /// What else is to be known of it.
    pub fn labels(mut self, labels: Labels) -> Self {
        self.config.labels = labels;
        self
    }

    /// Memory that all guests may have together, in bytes; three quarters of what the process may have
    /// unless set.
    pub fn guest_memory_bytes_max(mut self, bytes: u64) -> Self {
        self.config.guest_memory_bytes_max = Some(bytes);
        self
    }

    /// The `holdfast` program of this very version, which compiles components in processes of its own.
    /// Unless set they are compiled in this one: what a hostile component makes the compiler take is
    /// this program's then, and what the compiler took stays with its allocator.
    pub fn compile_with(mut self, holdfast: impl Into<PathBuf>) -> Self {
        self.config.compiler = Some(config::compiler(holdfast));
        self
    }

    /// How long a stop waits for resources to move to other nodes; 30 s unless set.
    pub fn drain_timeout(mut self, timeout: Duration) -> Self {
        self.config.drain_timeout = timeout;
        self
    }

    /// Sends traces of its calls to a collector; it keeps none unless told to. The standard's variables
    /// `OTEL_…` say how, as for `holdfast start`, but do not turn it on.
    pub fn traces(mut self, options: traces::Options) -> Self {
        self.config.traces = Some(options);
        self
    }

    /// Runs it, on threads of its own, and waits until it listens; it joins or founds its cluster after
    /// that: [`Client::ready`] says when it has. Blocks for some milliseconds, and longer while another
    /// process has the ports.
    ///
    /// # Errors
    /// When it cannot start.
    pub fn start(self) -> Result<Node, Error> {
        let Self { config, token } = self;
        let (tell, told) = mpsc::channel(1);
        let signals = stream::unfold(told, async |mut told| match told.recv().await {
            Some(ending) => Some((ending, told)),
            // The program has let go of it, which asks it to stop, too.
            None => std::future::pending().await,
        });
        let (say, said) = std_mpsc::sync_channel(1);
        let (end, mut ended) = oneshot::channel();
        let run = move || {
            let listening = move |listening| drop(say.send(listening));
            // Nobody may wait for it any more.
            let _ = end.send(server::run(config, signals, listening));
        };
        let thread = thread::Builder::new().name("holdfast".to_owned());
        let thread = thread.spawn(run).map_err(Error::Thread)?;
        match said.recv() {
            Ok(listening) => Ok(Node {
                listening,
                token,
                tell,
                ended,
            }),
            Err(_) => {
                // It ends, and has said why by then.
                thread.join().map_err(|_panic| Error::Panicked)?;
                match ended.try_recv() {
                    Ok(Err(error)) => Err(error.into()),
                    Ok(Ok(_)) | Err(_) => Err(Error::Panicked),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
