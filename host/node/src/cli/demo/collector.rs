//! Receives the handlers' reports over HTTP. Which process reported is asked of the kernel, not of
//! the report.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};

use super::{
    ledger::{Ledger, Pid, Report, Tally},
    owner,
};

/// A server on loopback that enters reports into a ledger. Ends when dropped.
pub(super) struct Collector {
    shared: Arc<Shared>,
    /// Holds the server, and is only ever dropped.
    _server: JoinSet<()>,
}

struct Shared {
    addr: SocketAddr,
    ledger: Mutex<Ledger>,
    /// How many reports there were.
    reports: watch::Sender<u64>,
}

impl Collector {
    pub(super) async fn start() -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let shared = Arc::new(Shared {
            addr: listener.local_addr()?,
            ledger: Mutex::default(),
            reports: watch::Sender::new(0),
        });
        // Nothing could be counted where the kernel keeps it to itself: better known now.
        let probe = TcpStream::connect(shared.addr).await?;
        if shared
            .process_of(probe.local_addr()?, &[std::process::id()])?
            .is_none()
        {
            return Err(io::Error::other(
                "the kernel does not tell whose connection is whose (sock_diag)",
            ));
        }
        let mut server = JoinSet::new();
        server.spawn(serve(listener, shared.clone()));
        Ok(Self {
            shared,
            _server: server,
        })
    }

    pub(super) fn addr(&self) -> SocketAddr {
        self.shared.addr
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}/reports", self.shared.addr)
    }

    pub(super) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.shared.ledger()
    }

    /// Waits until `total` resources are held exactly once, or an overlap shows that they never
    /// will be, at most `deadline`. Returns how it is then; `tell` hears of every change.
    pub(super) async fn until_exact(
        &self,
        total: u64,
        deadline: Duration,
        mut tell: impl FnMut(Tally),
    ) -> Tally {
        let mut reports = self.shared.reports.subscribe();
        let waiting = async {
            loop {
                let tally = self.ledger().tally(total);
                tell(tally);
                let settled = tally.is_exact() || tally.overlaps > 0;
                if settled || reports.changed().await.is_err() {
                    break;
                }
            }
        };
        // On time-out the tally says all there is to say.
        let _ = tokio::time::timeout(deadline, waiting).await;
        self.ledger().tally(total)
    }
}

impl Shared {
    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        // Entering a report does not panic half-way.
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The process among these that connected from an address.
    fn process_of(&self, from: SocketAddr, among: &[Pid]) -> io::Result<Option<Pid>> {
        owner::process_of(from, self.addr, among)
    }
}

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        // Further ones wait in the listener's backlog.
        while connections.len() >= CONNECTIONS_MAX {
            connections.join_next().await;
        }
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, from)) = accepted else { continue };
                let shared = shared.clone();
                connections.spawn(async move {
                    let living = shared.ledger().living();
                    // A process that the kernel does not tell has no say; the handler tries again.
                    let process = shared.process_of(from, &living).ok().flatten();
                    let service = service_fn(|request| answer(request, process, &shared));
                    let mut http = http1::Builder::new();
                    let http = http.timer(TokioTimer::new());
                    // A connection that breaks takes its report with it; the handler tries again.
                    let _ = http.serve_connection(TokioIo::new(stream), service).await;
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn answer(
    request: Request<Incoming>,
    process: Option<Pid>,
    shared: &Shared,
) -> Result<Response<Empty<Bytes>>, Infallible> {
    let status = match (receive(request).await, process) {
        (Some(report), Some(process)) => {
            let mut ledger = shared.ledger();
            let entered = ledger.record(report, process, Instant::now());
            shared.reports.send_replace(ledger.events());
            match entered {
                true => StatusCode::NO_CONTENT,
                false => StatusCode::FORBIDDEN,
            }
        }
        (Some(_), None) => StatusCode::FORBIDDEN,
        (None, _) => StatusCode::BAD_REQUEST,
    };
    let mut response = Response::new(Empty::new());
    *response.status_mut() = status;
    Ok(response)
}

async fn receive(request: Request<Incoming>) -> Option<Report> {
    if request.method() != Method::POST || request.uri().path() != "/reports" {
        return None;
    }
    let body = Limited::new(request.into_body(), REPORT_BYTES_MAX);
    let body = body.collect().await.ok()?.to_bytes();
    serde_json::from_slice(&body).ok()
}

const CONNECTIONS_MAX: usize = 512;
const REPORT_BYTES_MAX: usize = 16 << 10;

#[cfg(test)]
mod tests {
    use http_body_util::Full;
    use hyper_util::{client::legacy, rt::TokioExecutor};

    use super::*;

    /// Sends it over a connection of its own.
    async fn send(collector: &Collector, body: &'static str) -> StatusCode {
        let client = legacy::Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
        let request = Request::post(collector.url()).body(body.into()).unwrap();
        client.request(request).await.unwrap().status()
    }

    const A: &str = r#"{"event":"handle","id":"a","token":1}"#;
    const B: &str = r#"{"event":"handle","id":"b","token":1}"#;

    #[tokio::test]
    async fn reports_over_http_end_in_the_ledger() {
        let collector = Collector::start().await.unwrap();
        let this = std::process::id();
        collector.ledger().started(this);
        assert_eq!(send(&collector, A).await, StatusCode::NO_CONTENT);
        assert_eq!(collector.ledger().held_by(this), 1);
        assert_eq!(send(&collector, "nonsense").await, StatusCode::BAD_REQUEST);
        let mut told = Vec::new();
        let deadline = Duration::from_secs(10);
        let (tally, _) = tokio::join!(
            collector.until_exact(2, deadline, |tally| told.push(tally.held_once)),
            send(&collector, B),
        );
        assert!(tally.is_exact(), "{tally:?}");
        assert_eq!(told, [1, 2]);
        let late = collector
            .until_exact(3, Duration::from_millis(10), |_| {})
            .await;
        assert_eq!(late.not_held, 1);
    }

    #[tokio::test]
    async fn a_report_of_a_stranger_is_refused() {
        let collector = Collector::start().await.unwrap();
        assert_eq!(send(&collector, A).await, StatusCode::FORBIDDEN);
        assert_eq!(collector.ledger().tally(1).not_held, 1);
    }
}
