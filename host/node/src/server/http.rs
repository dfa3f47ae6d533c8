//! Serves the HTTP API: one task for each connection, all of them ended with the node.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, warn};

use crate::admin::Api;

/// Serves until stopped; then lets the requests in flight end, for a while.
pub(super) async fn serve(listener: TcpListener, api: Api, stop: CancellationToken) {
    let connections = TaskTracker::new();
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        // More connections than places wait in the listener's backlog.
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = accept(&listener, &places) => accepted,
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

async fn accept(listener: &TcpListener, places: &Arc<Semaphore>) -> Option<Accepted> {
    let place = Arc::clone(places).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, peer)) => Some((stream, peer, place)),
        Err(error) => {
            // Out of file descriptors, most likely: some time must pass for that to change.
            warn!(%error, "a connection could not be accepted");
            tokio::time::sleep(Duration::from_millis(100)).await;
            None
        }
    }
}

async fn connection(stream: TcpStream, peer: SocketAddr, api: Api, stop: CancellationToken) {
    // Without it answers wait for acknowledgements; with a broken socket nothing matters.
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| api.clone().answer(request));
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIME)
        .serve_connection(TokioIo::new(stream), service);
    let mut served = std::pin::pin!(served);
    let ended = tokio::select! {
        ended = served.as_mut() => ended,
        () = stop.cancelled() => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = ended {
        debug!(peer.addr = %peer, %error, "an HTTP connection broke");
    }
}

/// Connections at once. More wait to be accepted.
const CONNECTIONS_MAX: usize = 16_384;

/// How long a client may take to send a request's head, idle time between requests included.
const HEADER_TIME: Duration = Duration::from_secs(75);

/// How long requests in flight may take to end when the node stops.
const GRACE: Duration = Duration::from_secs(5);
