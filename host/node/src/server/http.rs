//! Serves the HTTP API: one task for each connection, all of them ended with the node.

mod activity;
mod unread;

use std::{convert::Infallible, future, net::SocketAddr, sync::Arc, time::Duration};

use hyper::{
    Request,
    body::Incoming,
    header::{CONNECTION, HeaderValue},
    server::conn::http1,
    service::{HttpService, service_fn},
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{Level, debug, warn};

use self::{
    activity::{Activity, Answer},
    unread::Unread,
};
use crate::{
    admin::{Api, Body},
    telemetry::Repeated,
};

/// Serves until stopped; then lets the requests in flight end, for a while.
pub(super) async fn serve(listener: TcpListener, api: Api, stop: CancellationToken) {
    let connections = TaskTracker::new();
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let failures = Repeated::new(Level::WARN, "a connection could not be accepted");
    loop {
        // More connections than places wait in the listener's backlog.
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = accept(&listener, &places, &failures) => accepted,
        };
        let Some((stream, peer, place)) = accepted else {
            continue;
        };
        let (api, stop) = (api.clone(), stop.clone());
        connections.spawn(async move {
            connection(stream, peer, api, stop).await;
            drop(place);
        });
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

type Accepted = (TcpStream, SocketAddr, tokio::sync::OwnedSemaphorePermit);

async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
    failures: &Repeated,
) -> Option<Accepted> {
    let place = Arc::clone(places).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, peer)) => Some((stream, peer, place)),
        Err(error) => {
            // Out of file descriptors, most likely: some time must pass for that to change.
            if let Some(suppressed) = failures.pass() {
                warn!(%error, suppressed, "a connection could not be accepted");
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
            None
        }
    }
}

async fn connection(stream: TcpStream, peer: SocketAddr, api: Api, stop: CancellationToken) {
    // Without it answers wait for acknowledgements; with a broken socket nothing matters.
    let _ = stream.set_nodelay(true);
    let unread = Unread::default();
    let activity = Activity::default();
    let asked = activity.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let answering = asked.begin();
        let (api, unread) = (api.clone(), unread.clone());
        Box::pin(async move {
            let mut answer = api.answer(request.map(|body| unread.watch(body))).await;
            if unread.any() {
                let close = HeaderValue::from_static("close");
                answer.headers_mut().insert(CONNECTION, close);
            }
            Ok::<_, Infallible>(answer.map(|body| answering.with(body)))
        })
    });
    let mut served = http1::Builder::new()
        .header_read_timeout(None)
        .serve_connection(TokioIo::new(stream), service);
    let ended = tokio::select! {
        ended = answered(&mut served) => ended,
        () = activity.idle(IDLE_TIME) => {
            debug!(peer.addr = %peer, "an HTTP connection was idle for too long");
            return;
        }
        () = stopped(&stop, &activity) => {
            std::pin::Pin::new(&mut served).graceful_shutdown();
            answered(&mut served).await
        }
    };
    match ended {
        Ok(()) => linger(served.into_parts().io.into_inner()).await,
        Err(error) => debug!(peer.addr = %peer, %error, "an HTTP connection broke"),
    }
}

/// Waits until the connection is to end. Whoever has just connected is about to ask, and closing the
/// connection would seem to be the answer.
async fn stopped(stop: &CancellationToken, activity: &Activity) {
    stop.cancelled().await;
    let _ = tokio::time::timeout(FIRST_REQUEST, activity.first()).await;
}

/// Answers requests until the connection has no more of them, and leaves it open.
async fn answered<S>(served: &mut http1::Connection<TokioIo<TcpStream>, S>) -> hyper::Result<()>
where
    S: HttpService<Incoming, ResBody = Answer<Body>> + Unpin,
    S::Future: Unpin,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    future::poll_fn(|cx| served.poll_without_shutdown(cx)).await
}

/// Closes a connection so that its client gets the last answer, even one that came before the
/// request was read to its end: closing with bytes unread would reset the connection, and the
/// client's system would throw the answer away.
async fn linger(mut stream: TcpStream) {
    if stream.shutdown().await.is_err() {
        return;
    }
    let mut unread = [0; 16 * 1024];
    let mut left = LINGER_BYTES_MAX;
    let read_out = async {
        while left > 0 {
            match tokio::time::timeout(LINGER_SILENCE, stream.read(&mut unread)).await {
                Ok(Ok(read)) if read > 0 => left = left.saturating_sub(read),
                _ => break,
            }
        }
    };
    // Whatever is unread by then is worth a reset.
    let _ = tokio::time::timeout(LINGER_TIME, read_out).await;
}

/// Connections to the HTTP API at once. More wait to be accepted.
pub const CONNECTIONS_MAX: usize = 16_384;

/// How long a client may take to send a request's head, idle time between requests included; up to
/// twice that before it is noticed.
const IDLE_TIME: Duration = Duration::from_secs(75);

/// How much of a request nobody wants is read, so that its client reads the answer.
const LINGER_BYTES_MAX: usize = 64 << 20;

/// How long a client that was answered may send nothing, and may go on sending in all.
const LINGER_SILENCE: Duration = Duration::from_secs(2);
const LINGER_TIME: Duration = Duration::from_secs(30);

/// How long the first request of a connection is waited for when the node stops.
const FIRST_REQUEST: Duration = Duration::from_millis(100);

/// How long requests in flight may take to end when the node stops.
const GRACE: Duration = Duration::from_secs(5);
