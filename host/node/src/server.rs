//! A node: everything it is made of, started in order and ended in order.
//!
//! Two runtimes: on the control runtime run Raft, gossip and the connections that carry them; on
//! the data runtime HTTP, forwarded calls and the handlers. No handler can keep a node from
//! showing that it is alive.
//!
//! Invariant: the listener for peers is bound before anything runs and closed after the last
//! instance has ended, because peers take a closed one for the proof that it has.

mod answer;
mod descriptors;
mod ends;
mod error;
mod http;
mod join;
mod life;
mod ports;
mod reach;
mod services;
mod tasks;
#[cfg(test)]
mod tests;
mod twin;

use std::{
    net::SocketAddr,
    os::fd::{AsFd as _, OwnedFd},
    sync::Arc,
    time::Duration,
};

use futures_util::Stream;
use holdfast_cluster::{
    membership::{self, Member},
    state::{About, Owner},
};
use holdfast_model::api::Listening;
use tokio::net::{TcpListener, UdpSocket};
use tracing::{Instrument, error, info, info_span};

pub use self::{
    descriptors::{RESERVED as RESERVED_FILES, most_connections, raise_limit},
    error::Error,
};
use self::{
    ends::Phases,
    life::{Belonging, announce, belong, deaths, follow_members, follow_state, leave, name_taken},
    ports::Held,
    services::Services,
    tasks::{Ends, Tasks},
};
use crate::{
    config::NodeConfig,
    gossip::{self, Gossip},
    identity::{DataDir, Secret},
    modules::chain,
    peer::{NodeAbout, Runtimes},
    placement::{Leader, Lease},
    priority,
    restart::Ending,
    self_test::SelfTest,
    telemetry,
};

/// How a node has ended.
#[derive(Debug)]
pub enum Ended {
    /// It was told to stop, and has.
    Stopped,
    /// Another run is to take the place of this process at once.
    Replaced(Succession),
}

/// What the next run in this process gets from the one before.
#[derive(Debug)]
pub struct Succession {
    /// Why there is one.
    pub why: Why,
    /// Where peers have reached the node.
    pub cluster: SocketAddr,
    /// The listener of the HTTP API, which nobody serves: clients wait in it, and are not refused.
    pub http: std::net::TcpListener,
    /// The cluster's secret: the file that it came from may be gone.
    pub secret: Secret,
}

/// Why another run takes the place of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The restart was announced; all of this run has ended.
    Announced,
    /// This run has lost its lease. Threads of it are left; they end with the process.
    Fenced,
    /// This run's copy of the state is wrong. As after [`Why::Fenced`]; and the next run has to begin as
    /// another node.
    WrongCopy,
}

impl Why {
    /// Threads of this run are left.
    fn is_abrupt(self) -> bool {
        matches!(self, Self::Fenced | Self::WrongCopy)
    }
}

/// Runs a node until a signal, or the API, ends it; then hands over what others are to get, and
/// ends. Must not be called inside an async runtime.
///
/// # Errors
/// When the node cannot start, or can no longer run. After [`Error::Unended`] the process has to end,
/// for its threads do not.
pub fn run(
    config: NodeConfig,
    signals: impl Stream<Item = Ending> + Send + 'static,
    listening: impl FnOnce(Listening) + Send + 'static,
) -> Result<Ended, Error> {
    let build = |name: &str, threads: usize, started: fn()| {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads)
            .thread_name(name)
            .on_thread_start(started)
            .thread_stack_size(THREAD_STACK_BYTES)
            .enable_all()
            .build()
            .map_err(Error::Threads)
    };
    let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    // Before the runtimes, so that it ends after them, and so after the last instance, if this panics.
    let mut held = Held::default();
    let control = build("control", CONTROL_THREADS, priority::urgent)?;
    let data = build("data", cores.max(2), || {})?;
    let runtimes = Runtimes {
        control: control.handle().clone(),
        data: data.handle().clone(),
    };
    let tested = vec![
        ("control", control.handle().clone()),
        ("data", data.handle().clone()),
    ];
    let (self_test, testing) = SelfTest::start(tested).map_err(Error::Threads)?;
    let result = control.block_on(async {
        let node = Node::open(config, runtimes, self_test).await?;
        listening(node.listening());
        node.run(signals, &mut held).await
    });
    // Runtimes that end do not answer.
    drop(testing);
    let fenced = |ended: &Ended| match ended {
        Ended::Stopped => false,
        Ended::Replaced(succession) => succession.why.is_abrupt(),
    };
    if matches!(result, Err(Error::Unended(_))) || result.as_ref().is_ok_and(fenced) {
        // Ending the threads would close the listener for peers while guests run.
        std::mem::forget((control, data, held));
        return result;
    }
    // What is left has been told to stop and had its time.
    data.shutdown_timeout(THREADS_GRACE);
    control.shutdown_timeout(THREADS_GRACE);
    result
}

struct Node {
    config: NodeConfig,
    dir: Arc<DataDir>,
    secret: Secret,
    runtimes: Runtimes,
    self_test: SelfTest,
    http: (TcpListener, SocketAddr),
    peers_at: (TcpListener, Arc<UdpSocket>, SocketAddr),
    advertise: SocketAddr,
    about: NodeAbout,
}

impl Node {
    async fn open(
        config: NodeConfig,
        runtimes: Runtimes,
        self_test: SelfTest,
    ) -> Result<Self, Error> {
        let waiting = || {
            let data_dir = config.data_dir.display();
            let patience_s = LOCK_PATIENCE.as_secs();
            info!(%data_dir, patience_s, "waiting for another process to let go of the data directory");
        };
        // A directory of before first: another node that uses it says more than its ports do. A new one
        // last: what keeps the node from starting leaves nothing behind.
        let former = match DataDir::is_used(&config.data_dir) {
            true => Some(DataDir::open_within(
                &config.data_dir,
                LOCK_PATIENCE,
                waiting,
            )?),
            false => None,
        };
        let made = config.data_dir.join(SECRET_FILE);
        let mut config = config;
        if config.secret.is_none() && made.exists() {
            config.secret = Some(Secret::read(&made)?);
        }
        config.check(former.as_ref().is_some_and(|dir| dir.cluster().is_some()))?;
        let (listener, socket, cluster_addr) = ports::peers(&config).await?;
        let (http, http_addr) = ports::http(&config).await?;
        let dir = match former {
            Some(dir) => dir,
            None => DataDir::open(&config.data_dir)?,
        };
        let dir = Arc::new(dir);
        ends::tell_last(&dir);
        let secret = match &config.secret {
            Some(secret) => secret.clone(),
            None => {
                let secret = Secret::generate();
                secret.write(&made).map_err(Error::Secret)?;
                info!(file = %made.display(), "made the cluster's secret; nodes that join need it");
                secret
            }
        };
        let advertise = config.advertise.unwrap_or(cluster_addr);
        dir.run_begins()?;
        ends::tell_begin(&dir, http_addr, advertise);
        let about = NodeAbout {
            http: http_addr,
            weight: config.weight,
            zone: config.zone.clone(),
            labels: config.labels.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        Ok(Self {
            config,
            dir,
            secret,
            runtimes,
            self_test,
            http: (http, http_addr),
            peers_at: (listener, Arc::new(socket), cluster_addr),
            advertise,
            about,
        })
    }

    fn listening(&self) -> Listening {
        Listening {
            node: self.dir.node(),
            incarnation: self.dir.incarnation(),
            http: self.http.1,
            cluster: self.peers_at.2,
            pid: std::process::id(),
        }
    }

    async fn run(
        self,
        signals: impl Stream<Item = Ending> + Send + 'static,
        held: &mut Held,
    ) -> Result<Ended, Error> {
        let me = Owner {
            node: self.dir.node(),
            incarnation: self.dir.incarnation(),
        };
        // Ended one after the other: first what uses, then what is used.
        let ends = Ends::default();
        let services = Services::start(&self, me, &ends).await?;
        let Self {
            config,
            dir,
            secret,
            runtimes,
            http,
            peers_at,
            about,
            advertise,
            ..
        } = self;
        let (listener, socket, cluster_addr) = peers_at;
        let spare = http.0.as_fd().try_clone_to_owned().map_err(Error::Spare)?;
        held.hold(&listener).map_err(Error::Spare)?;
        let mut tasks = Tasks::new(runtimes);
        let Services {
            cluster_id,
            peers,
            answers,
            events,
            control,
            placement,
            members,
            delivered,
            ..
        } = services;
        let dispatch_task = services.engine.run(ends.resources.clone());
        let mut resources = tasks
            .runtimes
            .data
            .spawn(dispatch_task.instrument(info_span!("resources")));
        tasks.data("http", services.http.run(http.0, ends.http.clone()));
        if let Some(exporting) = services.exporting {
            tasks.data("traces", exporting.run(ends.peers.clone()));
        }
        let state_about = About {
            addr: advertise,
            http: about.http,
            weight: about.weight,
            zone: about.zone.clone(),
            labels: about.labels.clone(),
            boot_id: dir.boot_id().to_string().into(),
            version: about.version.as_str().into(),
        };
        let leader = Leader::new(placement.clone(), me.incarnation, state_about);
        tasks.control("placement", leader.run(ends.rest.clone()));
        tasks.control("allocations", services.allocations.run(ends.rest.clone()));
        tasks.control("lease", services.renewals.run(ends.peers.clone()));
        tasks.control("quorum", placement.quorum_watch().run(ends.rest.clone()));
        tasks.control("contact", placement.contacts().run(ends.rest.clone()));
        tasks.follow("deaths", &ends.rest, deaths(events, placement.clone()));
        tasks.control("peers", peers.clone().run(listener, ends.peers.clone()));
        let follow = follow_state(me, control.clone(), peers.clone());
        let mut follow = tasks.runtimes.control.spawn(follow);

        let belong = async {
            let joined = belong(&config, &dir, &control, &peers, &ends.rest).await?;
            cluster_id.send_replace(joined.map(|belonging| belonging.cluster));
            Ok(joined)
        };
        let ending = services.restarts.ending(Box::pin(signals), services.asked);
        let mut ending = std::pin::pin!(ending);
        let joined = tokio::select! {
            joined = belong => joined.map(Ok),
            ending = ending.as_mut() => Ok(Err(ending)),
        };
        let mut over = services.lease.clone();
        let mut ended = None;
        let outcome = match joined {
            Err(error) => Err(error),
            // Told to end, or about to be told, before it belonged to a cluster.
            Ok(Ok(None)) => Ok(ending.await),
            Ok(Err(ending)) => Ok(ending),
            Ok(Ok(Some(Belonging { cluster, founded }))) => 'belongs: {
                let own = Member {
                    node: me.node,
                    incarnation: me.incarnation,
                    addr: advertise,
                };
                let key = secret.gossip_key(&config.cluster);
                let options = membership::Options::default();
                let gossip = Gossip::new(
                    socket,
                    own,
                    &config.cluster,
                    cluster,
                    &key,
                    options,
                    gossip::Connections {
                        peers: peers.clone(),
                        delivered,
                    },
                );
                let (gossip, heard) = match gossip {
                    Ok(made) => made,
                    // Instances may run already: they end before anything else does.
                    Err(error) => break 'belongs Err(error.into()),
                };
                if config.gossip {
                    tasks.control("gossip", gossip.run(ends.rest.clone()));
                }
                let seeds = config.seeds.clone();
                let seeds = announce(seeds, heard.clone(), control.clone(), peers.clone());
                tasks.follow("seeds", &ends.rest, seeds);
                let found = follow_members(heard.clone(), peers.clone(), members);
                tasks.follow("members", &ends.rest, found);
                let meet = twin::meet(heard.clone(), peers.clone());
                tasks.follow("twins", &ends.rest, meet);
                let reach = reach::watch(peers.clone(), heard.clone(), services.conditions);
                tasks.follow("reach", &ends.rest, reach);
                tokio::select! {
                    ending = ending.as_mut() => Ok(ending),
                    left = &mut resources => {
                        ended = Some(left);
                        Err(Error::Task("resources"))
                    }
                    failure = control.failed() => Err(failure.into()),
                    _ = over.wait_for(|lease| *lease == Lease::Over) => Err(Error::Fenced),
                    error = &mut follow => Err(error.unwrap_or(Error::Task("state"))),
                    wrong = placement.compare_copies() => Err(wrong.into()),
                    error = twin::ends(peers.twin(), services.lease.clone()) => Err(error),
                    error = name_taken(heard, control.clone(), founded) => Err(error),
                    name = tasks.first() => Err(Error::Task(name)),
                }
            }
        };
        let replaced = |why, http: OwnedFd| {
            Ended::Replaced(Succession {
                why,
                cluster: cluster_addr,
                http: http.into(),
                secret: secret.clone(),
            })
        };
        let mut phases = Phases::begin();
        if outcome.is_ok() {
            telemetry::ending();
        }
        let abrupt = match &outcome {
            Err(Error::Fenced) => Some((Why::Fenced, "lease lost")),
            Err(Error::WrongCopy(wrong)) => {
                error!(
                    "{wrong}; it runs nothing any more, and joins as another node with a copy of theirs"
                );
                Some((Why::WrongCopy, "wrong copy of the state"))
            }
            _ => None,
        };
        if let Some((why, note)) = abrupt {
            services.fences.end();
            services.dispatch.give_up();
            // Whoever waits for an answer is told that there is none here, and nobody else is let in.
            ends.http.cancel();
            tokio::time::sleep(FENCED_GRACE).await;
            ends::note(&dir, note).await;
            std::mem::forget(tasks);
            return Ok(replaced(why, spare));
        }
        if let Ok(ending) = &outcome {
            leave(
                *ending,
                &config,
                me,
                &control,
                &placement,
                &services.restarts,
            )
            .await;
            phases.over("hand over");
        }
        ends.resources.cancel();
        let ended = match ended {
            Some(ended) => ended,
            None => resources.await,
        };
        let unended = match ended {
            Ok(0) => None,
            Ok(left) => Some(format!("{left} resources could not be ended in time")),
            Err(failed) => Some(format!("the task of the resources failed: {failed}")),
        };
        if let Some(why) = unended {
            // The tasks hold the listener, whose end peers would take for that of the resources.
            std::mem::forget(tasks);
            return Err(Error::Unended(why));
        }
        phases.over("end instances");
        // Unless it is for the next run, it is closed with the API and not with the process.
        let spare = matches!(outcome, Ok(Ending::Restart)).then_some(spare);
        ends.http.cancel();
        ends.rest.cancel();
        follow.abort();
        control.shutdown().await;
        phases.over("leave consensus");
        // Nothing runs any more.
        held.release();
        ends.peers.cancel();
        tasks.end().await;
        answers.close();
        phases.over("close connections");
        let how = match &outcome {
            Ok(Ending::Stop) => "stop".to_owned(),
            Ok(Ending::Restart) => "restart".to_owned(),
            Err(error) => chain(error),
        };
        ends::note(&dir, &how).await;
        outcome.map(|_| spare.map_or(Ended::Stopped, |http| replaced(Why::Announced, http)))
    }
}

/// Threads for Raft, gossip and connections: enough that one slow commit delays nobody else.
const CONTROL_THREADS: usize = 2;

/// A guest's call stack of up to 1 MiB and what is around it. Only what is touched takes memory.
const THREAD_STACK_BYTES: usize = 4 << 20;

/// How long threads may take to end once the node has.
const THREADS_GRACE: Duration = Duration::from_secs(2);

/// How long a node whose lease is over answers that it is.
const FENCED_GRACE: Duration = Duration::from_millis(200);

/// How long another process may have the data directory yet: one that was killed takes a moment to give
/// back much memory.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);

/// The secret that a founder makes, in its data directory.
const SECRET_FILE: &str = "cluster.secret";
