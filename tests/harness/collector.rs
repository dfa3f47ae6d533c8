//! The observer: handlers report to it over HTTP, and it notes who did what, when.
//!
//! The order of the events is causal: an event is noted before the report is answered, and the
//! probe goes on only then. Which process reported is asked of the kernel, not of the report.
//! Ends and pauses of processes, which nobody reports, are noted by whoever causes them.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use holdfast::cli::demo::owner;
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

use crate::{
    checker::{self, Event, Fact, Findings, Key},
    executor,
    report::Report,
    roster::Roster,
    wait::{LONG, wait_until},
};

/// An observer of one cluster. Stops listening when dropped.
#[derive(Debug)]
pub struct Collector {
    addr: SocketAddr,
    notes: Arc<Notes>,
    listening: JoinHandle<()>,
}

impl Collector {
    /// Listens on loopback for reports of the processes of `roster`.
    ///
    /// # Panics
    /// When it cannot listen.
    #[must_use]
    pub fn start(roster: Roster) -> Self {
        Self::start_at(Ipv4Addr::LOCALHOST, roster)
    }

    /// Listens at this address for reports of the processes of `roster`.
    ///
    /// # Panics
    /// When it cannot listen.
    #[must_use]
    pub fn start_at(addr: Ipv4Addr, roster: Roster) -> Self {
        let listener = executor()
            .block_on(TcpListener::bind((addr, 0)))
            .expect("an address of this host has a free port");
        let addr = listener
            .local_addr()
            .expect("a bound listener has an address");
        let notes = Arc::new(Notes {
            start: Instant::now(),
            roster,
            events: Mutex::default(),
        });
        let listening = executor().spawn(listen(listener, addr, Arc::clone(&notes)));
        Self {
            addr,
            notes,
            listening,
        }
    }

    /// Where probes are to report: `report_url` of their config.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}/reports", self.addr)
    }

    /// Notes something that nobody reports, as of now.
    pub fn note(&self, fact: Fact) {
        self.notes.add(fact);
    }

    /// What notes each new run of a process that goes on as another one.
    pub(crate) fn notes_new_runs(&self, pid: u32) -> impl Fn() + Send + 'static {
        let notes = Arc::clone(&self.notes);
        move || notes.add(Fact::StartedAnew { pid })
    }

    /// The address that probes report to, for their grants.
    #[must_use]
    pub fn ip(&self) -> IpAddr {
        self.addr.ip()
    }

    /// When the observer began: zero of the times of its events.
    #[must_use]
    pub fn zero(&self) -> Instant {
        self.notes.start
    }

    /// Time since the observer began; events are dated by it.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.notes.start.elapsed()
    }

    /// Everything noted so far, in order.
    #[must_use]
    pub fn events(&self) -> Vec<Event> {
        self.notes.events.lock().clone()
    }

    /// Everything noted since the first `seen` events.
    #[must_use]
    pub fn events_after(&self, seen: usize) -> Vec<Event> {
        self.notes.events.lock()[seen..].to_vec()
    }

    /// The checker's judgement of everything noted so far.
    #[must_use]
    pub fn findings(&self) -> Findings {
        checker::check(&self.events())
    }

    /// Waits until exactly these resources of a module are held, and gives the findings of then.
    ///
    /// # Panics
    /// When that is not so within `deadline`.
    #[track_caller]
    pub fn wait_held(&self, module: &str, ids: &[String], deadline: Duration) -> Findings {
        let expected: BTreeSet<Key> = ids.iter().map(|id| Key::new(module, id)).collect();
        let what = format!("all {} resources of {module} are held", ids.len());
        let (findings, _) = wait_until(&what, deadline, || {
            let findings = self.findings();
            findings.holds_exactly(module, &expected).map(|()| findings)
        });
        findings
    }

    /// Waits until nothing has been noted for this long, and gives the findings of then: what was
    /// going on is over.
    ///
    /// # Panics
    /// When something goes on for minutes.
    #[track_caller]
    pub fn wait_quiet(&self, period: Duration) -> Findings {
        wait_until("nothing is reported any more", LONG + LONG, || {
            let last = self.notes.events.lock().last().map(|event| event.at);
            let quiet = self.now().saturating_sub(last.unwrap_or_default());
            (quiet >= period)
                .then_some(())
                .ok_or_else(|| format!("the last report is {quiet:?} old"))
        });
        self.findings()
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

#[derive(Debug)]
struct Notes {
    start: Instant,
    roster: Roster,
    events: Mutex<Vec<Event>>,
}

impl Notes {
    fn add(&self, fact: Fact) {
        let mut events = self.events.lock();
        // Read under the lock: the order of events is the order of their times.
        let at = self.start.elapsed();
        events.push(Event { at, fact });
    }
}

async fn listen(listener: TcpListener, here: SocketAddr, notes: Arc<Notes>) {
    // An error of `accept` concerns one connection that is gone already.
    loop {
        if let Ok((stream, there)) = listener.accept().await {
            tokio::spawn(serve(stream, here, there, Arc::clone(&notes)));
        }
    }
}

async fn serve(stream: TcpStream, here: SocketAddr, there: SocketAddr, notes: Arc<Notes>) {
    let pid = if here.ip().is_loopback() {
        owner::process_of(there, here, &notes.roster.pids())
            .expect("the kernel tells whose socket one is (sock_diag)")
    } else {
        // The sockets of another network namespace are not to be seen. There, every process has an
        // address of its own.
        notes.roster.at(there.ip())
    };
    let service = service_fn(|request| {
        let notes = Arc::clone(&notes);
        async move { Ok::<_, hyper::Error>(take(request, pid, &notes).await) }
    });
    // Only a connection that broke ends with an error; its process ended, and that is noted.
    let _ = http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

async fn take(
    request: Request<Incoming>,
    pid: Option<u32>,
    notes: &Notes,
) -> Response<Full<Bytes>> {
    let Ok(body) = request.into_body().collect().await else {
        return answer(400, "the body broke off");
    };
    let Some(pid) = pid else {
        // Its process was killed between sending and now, and will never see an answer.
        return answer(403, "not a process of this cluster");
    };
    match serde_json::from_slice::<Report>(&body.to_bytes()) {
        Ok(report) => {
            notes.add(report.fact(pid));
            answer(200, "noted")
        }
        Err(error) => answer(400, &error.to_string()),
    }
}

fn answer(status: u16, text: &str) -> Response<Full<Bytes>> {
    Response::builder()
        .status(status)
        .body(Full::new(Bytes::copy_from_slice(text.as_bytes())))
        .expect("a status and text make a response")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::http::Connection;

    fn report(collector: &Collector) -> u16 {
        let body = json!({"event": "handle", "module": "m", "id": "a", "token": 7, "instance": 9, "attempt": 1});
        Connection::new(&collector.addr.to_string())
            .ask("POST", "/reports")
            .json(&body)
            .answer()
            .status
    }

    #[test]
    fn a_report_is_noted_with_the_process_that_sent_it() {
        let roster = Roster::default();
        roster.enter(std::process::id(), None);
        let collector = Collector::start(roster);
        assert_eq!(report(&collector), 200);
        let expected = Fact::Handled {
            key: Key::new("m", "a"),
            pid: std::process::id(),
            token: 7,
            instance: 9,
            attempt: 1,
        };
        assert_eq!(collector.events()[0].fact, expected);
    }

    #[test]
    fn a_report_of_a_stranger_is_refused() {
        let collector = Collector::start(Roster::default());
        assert_eq!(report(&collector), 403);
        assert!(collector.events().is_empty());
    }
}
