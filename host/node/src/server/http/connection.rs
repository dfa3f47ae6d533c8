//! One connection: its requests, one after the other, and its end.

use std::{convert::Infallible, future, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{
    Request, Response,
    body::Incoming,
    header::{CONNECTION, HeaderValue},
    server::conn::http1,
    service::{HttpService, service_fn},
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::{
    state::{Answer, Answering, State, Verdict},
    wire::Wire,
};
use crate::admin::{Api, Body, ByteBudget, TurnedAway, Unadmitted};

/// What all connections need.
#[derive(Clone)]
pub(super) struct Service {
    pub(super) api: Api,
    pub(super) budget: ByteBudget,
    pub(super) stop: CancellationToken,
}

/// Serves a connection until either side ends it. A `spare` one is for what everybody may ask, once.
pub(super) async fn serve(
    stream: TcpStream,
    peer: SocketAddr,
    service: Service,
    state: Arc<State>,
    spare: bool,
) {
    // Also when this panics, or is cut off.
    let _end = End(Arc::clone(&state));
    let Service { api, budget, stop } = service;
    let asked = Arc::clone(&state);
    let answer = service_fn(move |request: Request<Incoming>| {
        let answering = Answering::begin(&asked);
        let api = api.clone();
        Box::pin(async move {
            let request = request.map(|body| answering.watch(body));
            let mut answer = match spare {
                false => api.answer(request).await,
                true => api.answer_without_room(request).await,
            };
            let state = answering.state();
            if state.is_unread() || spare {
                let close = HeaderValue::from_static("close");
                answer.headers_mut().insert(CONNECTION, close);
            }
            if answer.extensions().get::<Unadmitted>().is_none() {
                state.admit();
            }
            Ok::<_, Infallible>(answer.map(|body| answering.with(body)))
        })
    });
    let wire = Wire::new(stream, Arc::clone(&state), budget);
    let mut served = http1::Builder::new()
        .header_read_timeout(None)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_header_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(wire), answer);
    let ended = tokio::select! {
        ended = answered(&mut served) => Ok(ended),
        verdict = state.condemned() => Err(verdict),
        () = stopped(&stop, &state) => {
            std::pin::Pin::new(&mut served).graceful_shutdown();
            tokio::select! {
                ended = answered(&mut served) => Ok(ended),
                verdict = state.condemned() => Err(verdict),
            }
        }
    };
    let in_head = state.look().in_head;
    let wire = served.into_parts().io.into_inner();
    let turned_away = match &ended {
        Ok(Ok(())) => None,
        Ok(Err(error)) => {
            debug!(peer.addr = %peer, %error, "an HTTP connection broke");
            // Some of what is no HTTP/1.1 the parser does not answer at all.
            let silent = error.is_parse() && state.look().written == 0;
            match wire.refused().or(silent.then_some(TurnedAway::Malformed)) {
                Some(why) => Some(why),
                None => return,
            }
        }
        Err(verdict) => {
            debug!(peer.addr = %peer, ?verdict, "an HTTP connection was ended");
            match verdict {
                Verdict::SlowHead => Some(TurnedAway::HeadTooSlow),
                Verdict::NoMemory => Some(TurnedAway::NoMemory),
                Verdict::NoPlace if in_head => Some(TurnedAway::NoPlace),
                Verdict::Idle | Verdict::NoPlace | Verdict::SlowReader | Verdict::SlowBody => {
                    return;
                }
            }
        }
    };
    state.linger();
    let mut stream = wire.into_stream();
    let leave = async {
        if let Some(why) = turned_away {
            turn_away(&mut stream, why).await;
        }
        linger(stream).await;
    };
    match ended {
        // Its place is needed now.
        Err(Verdict::NoPlace) => drop(tokio::time::timeout(LAST_WORDS_TIME, leave).await),
        _ => tokio::select! {
            () = leave => {}
            () = state.evicted() => {}
        },
    }
}

/// Tells others that the connection has ended.
struct End(Arc<State>);

impl Drop for End {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// Waits until the connection is to end. Whoever has just connected is about to ask, and closing the
/// connection would seem to be the answer.
async fn stopped(stop: &CancellationToken, state: &State) {
    stop.cancelled().await;
    let _ = tokio::time::timeout(FIRST_REQUEST, state.first()).await;
}

/// Answers requests until the connection has no more of them, and leaves it open.
async fn answered<S>(served: &mut http1::Connection<TokioIo<Wire>, S>) -> hyper::Result<()>
where
    S: HttpService<Incoming, ResBody = Answer<Body>> + Unpin,
    S::Future: Unpin,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    future::poll_fn(|cx| served.poll_without_shutdown(cx)).await
}

/// Sends a problem in answer to what is no request.
async fn turn_away(stream: &mut TcpStream, why: TurnedAway) {
    let text = written_out(why.response()).await;
    // Who does not read has had the answer.
    let _ = tokio::time::timeout(LAST_WORDS_TIME, stream.write_all(&text)).await;
}

async fn written_out(response: Response<Full<Bytes>>) -> Vec<u8> {
    let (head, body) = response.into_parts();
    let Ok(body) = body.collect().await;
    let body = body.to_bytes();
    let date = httpdate::fmt_http_date(std::time::SystemTime::now());
    let mut text = format!(
        "HTTP/1.1 {}\r\nconnection: close\r\ncontent-length: {}\r\ndate: {date}\r\n",
        head.status,
        body.len()
    )
    .into_bytes();
    for (name, value) in &head.headers {
        text.extend_from_slice(name.as_str().as_bytes());
        text.extend_from_slice(b": ");
        text.extend_from_slice(value.as_bytes());
        text.extend_from_slice(b"\r\n");
    }
    text.extend_from_slice(b"\r\n");
    text.extend_from_slice(&body);
    text
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

/// Longest head of a request. What is read of a body at once is no longer.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// How long the answer to what is no request may take to be sent.
const LAST_WORDS_TIME: Duration = Duration::from_millis(500);

/// How much of a request nobody wants is read, so that its client reads the answer.
const LINGER_BYTES_MAX: usize = 64 << 20;

/// How long a client that was answered may send nothing, and may go on sending in all.
const LINGER_SILENCE: Duration = Duration::from_secs(2);
const LINGER_TIME: Duration = Duration::from_secs(30);

/// How long the first request of a connection is waited for when the node stops.
const FIRST_REQUEST: Duration = Duration::from_millis(100);
