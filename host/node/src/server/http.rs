//! Serves the HTTP API: one task for each connection, all of them ended with the node.
//!
//! What clients may take is bounded: places by [`Places`], memory by the API's budget, time by one sweep over all
//! connections. Nothing of it costs a request a timer or a lock.

mod connection;
mod patience;
mod places;
mod state;
mod wire;

use std::{io, time::Duration};

use rustix::net::sockopt;
use tokio::{net::TcpListener, time::MissedTickBehavior};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{Level, warn};

use self::{connection::Service, places::Places, state::Verdict};
use crate::{
    admin::{Api, ByteBudget},
    config::HttpOptions,
    metrics::Connections,
    telemetry::Repeated,
};

/// What serves the API.
pub(super) struct Server {
    pub(super) api: Api,
    pub(super) options: HttpOptions,
    pub(super) budget: ByteBudget,
    pub(super) metrics: Connections,
}

impl Server {
    /// Serves until stopped; then lets the requests in flight end, for a while.
    pub(super) async fn run(self, listener: TcpListener, stop: CancellationToken) {
        if let Err(error) = prepare(&listener) {
            warn!(%error, "the HTTP listener's options could not be set");
        }
        let connections = TaskTracker::new();
        let service = Service {
            api: self.api,
            budget: self.budget,
            stop: stop.clone(),
        };
        // What has not happened yet is 0, and not unknown.
        for why in Verdict::ALL {
            self.metrics.ended(reason(why), 0);
        }
        self.metrics.ended(REFUSED, 0);
        let mut places = Places::new(self.options);
        let mut sweep = tokio::time::interval(places.sweep_interval());
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let failures = Repeated::new(Level::WARN, "a connection could not be accepted");
        let full = Repeated::new(Level::WARN, FULL);
        loop {
            let room = places.has_room();
            let accepted = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                _ = sweep.tick() => {
                    for ended in places.sweep(std::time::Instant::now()) {
                        self.metrics.ended(reason(ended.why), ended.count);
                    }
                    self.metrics.open.set(places.len() as i64);
                    continue;
                }
                accepted = listener.accept(), if room => accepted,
                // They wait in the listener's queue until those that were told to go have gone.
                () = tokio::time::sleep(ROOM_PAUSE), if !room => continue,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of file descriptors, most likely: some time must pass for that to change.
                    if let Some(suppressed) = failures.pass() {
                        warn!(%error, suppressed, "a connection could not be accepted");
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let (place, evicted) = places.take(peer.ip(), std::time::Instant::now());
            if evicted > 0 {
                self.metrics.ended(reason(Verdict::NoPlace), evicted as u64);
            }
            let is_full = evicted > 0 || place.as_ref().is_none_or(|place| place.spare);
            if is_full && let Some(suppressed) = full.pass() {
                warn!(connections = places.len(), suppressed, "{FULL}");
            }
            let Some(place) = place else {
                self.metrics.ended(REFUSED, 1);
                continue;
            };
            let serve = connection::serve(stream, peer, service.clone(), place.state, place.spare);
            connections.spawn(serve);
        }
        drop(listener);
        connections.close();
        if tokio::time::timeout(GRACE, connections.wait())
            .await
            .is_err()
        {
            warn!(
                connections = connections.len(),
                "HTTP connections were cut off"
            );
        }
    }
}

/// What accepted sockets inherit: answers do not wait for acknowledgements, and a client that is gone without a
/// word is noticed.
fn prepare(listener: &TcpListener) -> io::Result<()> {
    sockopt::set_tcp_nodelay(listener, true)?;
    sockopt::set_socket_keepalive(listener, true)?;
    sockopt::set_tcp_keepidle(listener, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(listener, KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(listener, KEEPALIVE_PROBES)?;
    // Also one that a former run has left: the queue may be made longer at any time.
    rustix::net::listen(listener, BACKLOG)?;
    Ok(())
}

fn reason(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Idle => "idle",
        Verdict::SlowHead => "slow-head",
        Verdict::SlowBody => "slow-body",
        Verdict::SlowReader => "slow-reader",
        Verdict::NoPlace => "no-place",
        Verdict::NoMemory => "no-memory",
    }
}

const FULL: &str = "HTTP connections are at a limit: those that are idle are closed for others";

const REFUSED: &str = "refused";

/// How many connections may wait to be accepted. The system's net.core.somaxconn may allow fewer.
const BACKLOG: i32 = 4_096;

/// How long a connection may be silent before its client is asked whether it lives, how often, and how many
/// times in vain.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
const KEEPALIVE_PROBES: u32 = 4;

const ROOM_PAUSE: Duration = Duration::from_millis(5);
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long requests in flight may take to end when the node stops.
const GRACE: Duration = Duration::from_secs(5);
