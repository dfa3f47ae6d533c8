//! One known peer and our connections to it: who dials when, how long to wait, when it is dead.
//!
//! The control connection is kept up for as long as the peer is known: only a connection that stood
//! can prove a death. Data connections are dialed when a call needs one.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use holdfast_model::{Incarnation, NodeId};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::{
    net::TcpStream,
    sync::{Notify, watch},
    time::{Instant, sleep, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{
    CallError, Event, HelloError, Lane, Options, PeerInfo, Refusal,
    caller::Caller,
    death::{Finding, Inquest},
    endpoint::{Endpoint, report},
    handshake::Purpose,
};
use crate::identity::random;

/// A peer in the address book.
pub(super) struct Peer {
    pub(super) node: NodeId,
    target: Mutex<Target>,
    /// Told when the target changes, so that nobody waits for the old one.
    changed: Notify,
    pub(super) control: Link,
    data: Box<[Link]>,
    next: AtomicUsize,
    pub(super) stop: CancellationToken,
}

#[derive(Clone, Copy)]
struct Target {
    incarnation: Incarnation,
    addr: SocketAddr,
}

/// One connection, or the lack of it.
pub(super) struct Link {
    status: watch::Sender<Status>,
    /// Failed attempts in a row.
    pub(super) failures: AtomicU32,
    /// Since when attempts fail, and why the last one did.
    trouble: Mutex<Option<(Instant, Arc<str>)>>,
}

/// Why a peer is not reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unreached {
    /// Where it was looked for.
    pub addr: SocketAddr,
    /// What came of the last attempt.
    pub reason: String,
    /// For how long, in milliseconds.
    pub for_ms: u64,
}

#[derive(Clone)]
enum Status {
    Idle,
    Dialing,
    Up(Arc<Caller>),
    /// The last attempt failed; the next comes no sooner than `until`.
    Waiting {
        until: Instant,
        reason: Arc<str>,
    },
}

impl Peer {
    pub(super) fn new(
        node: NodeId,
        incarnation: Incarnation,
        addr: SocketAddr,
        options: &Options,
        stop: CancellationToken,
    ) -> Self {
        Self {
            node,
            target: Mutex::new(Target { incarnation, addr }),
            changed: Notify::new(),
            // Dialed at once: a first call waits for that instead of failing.
            control: Link::new(Status::Dialing),
            data: (0..options.data_connections.get())
                .map(|_| Link::new(Status::Idle))
                .collect(),
            next: AtomicUsize::new(0),
            stop,
        }
    }

    /// Takes what others say about where the peer is. What is older than what is known is ignored.
    pub(super) fn retarget(&self, incarnation: Incarnation, addr: SocketAddr) {
        {
            let mut target = self.target.lock();
            let same = target.incarnation == incarnation && target.addr == addr;
            if same || incarnation < target.incarnation {
                return;
            }
            *target = Target { incarnation, addr };
        }
        for link in self.links() {
            link.failures.store(0, Relaxed);
            link.end_wait();
            if let Some(caller) = link.caller()
                && caller.info.incarnation < incarnation
            {
                caller.close();
            }
        }
        self.changed.notify_one();
    }

    /// Why the control connection does not stand.
    pub(super) fn unreached(&self) -> Option<Unreached> {
        let trouble = self.control.trouble.lock();
        let (since, reason) = trouble.as_ref()?;
        Some(Unreached {
            addr: self.target.lock().addr,
            reason: reason.as_ref().to_owned(),
            for_ms: since.elapsed().as_millis() as u64,
        })
    }

    /// Ends the data connections to a run of the peer, and to those before it.
    pub(super) fn ended(&self, incarnation: Incarnation) {
        let callers = self.data.iter().filter_map(Link::caller);
        for caller in callers.filter(|caller| caller.info.incarnation <= incarnation) {
            caller.close();
        }
    }

    /// A connection of the lane: the one that stands, or the one that an attempt before the
    /// deadline brings. Fails at once while the last attempt's failure is fresh.
    pub(super) async fn reach(
        self: &Arc<Self>,
        endpoint: &Arc<Endpoint>,
        lane: Lane,
        deadline: Instant,
    ) -> Result<Arc<Caller>, CallError> {
        let index = match lane {
            Lane::Control => None,
            Lane::Data => Some(self.next.fetch_add(1, Relaxed) % self.data.len()),
        };
        let link = index.map_or(&self.control, |index| &self.data[index]);
        if let Some(caller) = link.caller() {
            return Ok(caller);
        }
        let mut status = link.status.subscribe();
        if let Some(index) = index
            && link.begin()
        {
            let (peer, endpoint) = (self.clone(), endpoint.clone());
            let data = endpoint.runtimes.data.clone();
            endpoint
                .tasks
                .clone()
                .spawn_on(async move { peer.visit(&endpoint, index).await }, &data);
        }
        let settled = status.wait_for(|s| matches!(s, Status::Up(_) | Status::Waiting { .. }));
        match timeout_at(deadline, settled).await {
            Err(_) => Err(CallError::TimedOut { sent: false }),
            Ok(Ok(status)) => match &*status {
                Status::Up(caller) => Ok(caller.clone()),
                Status::Waiting { reason, .. } => Err(CallError::NotSent {
                    reason: reason.as_ref().to_owned(),
                }),
                Status::Idle | Status::Dialing => unreachable!("waited until it was neither"),
            },
            Ok(Err(_)) => unreachable!("the link, which holds the sender, is borrowed"),
        }
    }

    /// Keeps the control connection up until the peer is forgotten.
    pub(super) async fn keep(&self, endpoint: &Endpoint) {
        self.stop.run_until_cancelled(self.keep_up(endpoint)).await;
        self.control.give_up();
    }

    async fn keep_up(&self, endpoint: &Endpoint) {
        let options = &endpoint.options;
        let mut inquest: Option<Inquest> = None;
        let mut flaps = 0;
        loop {
            self.control.status.send_replace(Status::Dialing);
            let addr = self.target.lock().addr;
            let pause = match self.connect(endpoint, addr, Purpose::Control).await {
                Ok((stream, peer)) => {
                    for link in &self.data {
                        link.end_wait();
                    }
                    let since = Instant::now();
                    self.stand(endpoint, stream, peer.clone()).await;
                    let now = Instant::now();
                    let subject = (peer.node, peer.incarnation);
                    inquest = peer.direct.then(|| {
                        let (time, tries) = (options.proof_time, options.proof_refusals);
                        Inquest::open(subject, addr, now, time, tries)
                    });
                    if now.duration_since(since) >= options.backoff_max {
                        flaps = 0;
                        self.control.failures.store(0, Relaxed);
                        continue;
                    }
                    // It broke as soon as it stood: at first a short pause, for a proof of death has
                    // little time; but do not go round in circles at full speed.
                    self.control.failures.store(flaps, Relaxed);
                    flaps = flaps.saturating_add(1);
                    self.control.fail("the connection broke", options)
                }
                Err(error) => {
                    let finding = inquest
                        .as_mut()
                        .map(|i| i.observe(addr, &error, Instant::now()));
                    let pause = self.control.fail(&error.line(), options);
                    match finding {
                        Some(Finding::Open) => options.proof_pause,
                        Some(Finding::Dead(evidence)) => {
                            inquest = None;
                            info!(node.id = %self.node, peer.addr = %addr, "node proven dead");
                            endpoint.tell(Event::Dead(evidence)).await;
                            pause
                        }
                        Some(Finding::Unproven) | None => {
                            inquest = None;
                            self.report_failure(&error);
                            pause
                        }
                    }
                }
            };
            tokio::select! {
                () = sleep(pause) => {}
                () = self.changed.notified() => {}
            }
        }
    }

    /// Has the control connection, from its handshake to its end.
    async fn stand(&self, endpoint: &Endpoint, stream: TcpStream, peer: PeerInfo) {
        debug!(node.id = %peer.node, peer.addr = %peer.addr, "peer connected");
        let (node, incarnation) = (peer.node, peer.incarnation);
        // Events may have to wait for room; the connection must not.
        let connected = Event::Connected(peer.clone());
        tokio::join!(
            endpoint.tell(connected),
            self.control.run(endpoint, stream, peer)
        );
        endpoint.tell(Event::Lost { node, incarnation }).await;
    }

    /// Has one data connection, from its dialing to its end.
    async fn visit(&self, endpoint: &Endpoint, index: usize) {
        let link = &self.data[index];
        let visit = async {
            let addr = self.target.lock().addr;
            match self.connect(endpoint, addr, Purpose::Data).await {
                Ok((stream, peer)) => {
                    link.failures.store(0, Relaxed);
                    link.run(endpoint, stream, peer).await;
                }
                Err(error) => {
                    link.fail(&error.line(), &endpoint.options);
                }
            }
        };
        if self.stop.run_until_cancelled(visit).await.is_none() {
            link.give_up();
        }
    }

    async fn connect(
        &self,
        endpoint: &Endpoint,
        addr: SocketAddr,
        purpose: Purpose,
    ) -> Result<(TcpStream, PeerInfo), HelloError> {
        let (stream, peer) = endpoint.connect(addr, purpose).await?;
        if peer.node != self.node {
            return Err(HelloError::OtherNode {
                addr,
                expected: self.node,
                found: peer.node,
            });
        }
        let mut target = self.target.lock();
        if peer.incarnation < target.incarnation {
            let (offered, seen) = (peer.incarnation, target.incarnation);
            let reason = Refusal::StaleIncarnation {
                node: self.node,
                offered,
                seen,
            };
            return Err(HelloError::Refused { addr, reason });
        }
        target.incarnation = peer.incarnation;
        drop(target);
        Ok((stream, peer))
    }

    fn report_failure(&self, error: &HelloError) {
        let failures = self.control.failures.load(Relaxed);
        let (node, error) = (self.node, error.line());
        // The first tells the operator, and a rare reminder; the rest would drown the log.
        if failures == 1 || failures.is_multiple_of(REMINDER) {
            warn!(node.id = %node, error, failures, "peer not reached");
        } else {
            debug!(node.id = %node, error, failures, "peer not reached");
        }
    }

    fn links(&self) -> impl Iterator<Item = &Link> {
        std::iter::once(&self.control).chain(&self.data)
    }
}

impl Link {
    fn new(status: Status) -> Self {
        Self {
            status: watch::Sender::new(status),
            failures: AtomicU32::new(0),
            trouble: Mutex::default(),
        }
    }

    pub(super) fn caller(&self) -> Option<Arc<Caller>> {
        match &*self.status.borrow() {
            Status::Up(caller) => Some(caller.clone()),
            _ => None,
        }
    }

    /// Has a connection until it is over.
    async fn run(&self, endpoint: &Endpoint, stream: TcpStream, peer: PeerInfo) {
        let stream = Arc::new(stream);
        let caller = Arc::new(Caller::new(peer, stream.clone(), &endpoint.options));
        *self.trouble.lock() = None;
        self.status.send_replace(Status::Up(caller.clone()));
        if let Err(error) = caller.run(stream).await {
            report(&error, &caller.info, "the connection to a peer ended");
        }
        self.status.send_replace(Status::Idle);
    }

    /// Whether the one who asks is to dial.
    fn begin(&self) -> bool {
        self.status.send_if_modified(|status| {
            let due = match status {
                Status::Idle => true,
                Status::Waiting { until, .. } => *until <= Instant::now(),
                Status::Dialing | Status::Up(_) => false,
            };
            if due {
                *status = Status::Dialing;
            }
            due
        })
    }

    /// Notes a failed attempt, and returns how long to wait before the next.
    fn fail(&self, reason: &str, options: &Options) -> Duration {
        let failures = self.failures.fetch_add(1, Relaxed).min(31);
        let longest = options
            .backoff_min
            .saturating_mul(1 << failures)
            .min(options.backoff_max);
        // Spread over half of it, so that the nodes of a cluster do not knock in step.
        let pause = longest.mul_f64(0.5 + f64::from(random::<1>()[0]) / 512.0);
        let now = Instant::now();
        let until = now + pause;
        {
            let mut trouble = self.trouble.lock();
            let since = trouble.as_ref().map_or(now, |(since, _)| *since);
            *trouble = Some((since, reason.into()));
        }
        self.status.send_replace(Status::Waiting {
            until,
            reason: reason.into(),
        });
        pause
    }

    /// Lets the next call dial at once.
    fn end_wait(&self) {
        self.status.send_if_modified(|status| {
            let waiting = matches!(status, Status::Waiting { .. });
            if waiting {
                *status = Status::Idle;
            }
            waiting
        });
    }

    /// Fails whoever still waits, after the peer was forgotten.
    fn give_up(&self) {
        let reason = "the peer was forgotten, or this node stops".into();
        self.status.send_replace(Status::Waiting {
            until: Instant::now(),
            reason,
        });
    }
}

/// Every so many failed attempts in a row are reported again: about every five minutes.
const REMINDER: u32 = 400;
