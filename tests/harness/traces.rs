//! A collector of traces: takes spans over OTLP/HTTP, as an OpenTelemetry collector does.

use std::{
    collections::BTreeMap,
    fmt,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{AnyValue, KeyValue, any_value::Value},
    trace::v1::{Span as Sent, span::SpanKind, status::StatusCode},
};
use parking_lot::Mutex;
use prost::Message as _;
use tokio::{net::TcpListener, task::JoinHandle};

use crate::{
    executor,
    wait::{SOON, wait_until},
};

/// A collector of traces on loopback. Stops listening when dropped.
#[derive(Debug)]
pub struct Traces {
    addr: SocketAddr,
    taken: Arc<Taken>,
    listening: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Taken {
    spans: Mutex<Vec<Span>>,
    refuses: AtomicBool,
}

/// A span that has arrived.
#[derive(Clone, Debug)]
pub struct Span {
    /// Its trace, as `traceparent` has it.
    pub trace: String,
    /// Itself, as `traceparent` has it.
    pub id: String,
    /// The span that it belongs to; empty at the root.
    pub parent: String,
    /// What tracing systems have added to the trace.
    pub state: String,
    /// Its name.
    pub name: String,
    /// `server`, `client` or `internal`.
    pub kind: &'static str,
    /// Whether it failed.
    pub failed: bool,
    /// What is said about it, as text.
    pub attributes: Texts,
    /// What is said about who sent it, as text.
    pub resource: Texts,
    /// The headers that it was sent with.
    pub headers: Texts,
}

impl Traces {
    /// Listens on loopback.
    ///
    /// # Panics
    /// When it cannot.
    #[must_use]
    pub fn start() -> Self {
        let listener = executor()
            .block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
            .expect("loopback has a free port");
        let addr = listener.local_addr().expect("it is bound");
        let taken = Arc::default();
        let listening = executor().spawn(listen(listener, Arc::clone(&taken)));
        Self {
            addr,
            taken,
            listening,
        }
    }

    /// Where nodes are to send their spans: `--otlp-endpoint`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Refuses what comes from now on, with 503, or takes it again.
    pub fn refuse(&self, refuses: bool) {
        self.taken.refuses.store(refuses, Ordering::Relaxed);
    }

    /// Everything that has arrived so far.
    #[must_use]
    pub fn spans(&self) -> Vec<Span> {
        self.taken.spans.lock().clone()
    }

    /// Everything of a trace that has arrived so far.
    #[must_use]
    pub fn of(&self, trace: &str) -> Vec<Span> {
        let mut spans = self.spans();
        spans.retain(|span| span.trace == trace);
        spans
    }

    /// Waits until as many spans of a trace are there, and gives them.
    ///
    /// # Panics
    /// When they do not arrive.
    #[track_caller]
    pub fn wait(&self, trace: &str, count: usize) -> Vec<Span> {
        let what = format!("{count} spans of {trace} arrive");
        let (spans, _) = wait_until(&what, SOON, || {
            let spans = self.of(trace);
            match spans.len() >= count {
                true => Ok(spans),
                false => Err(Listed(spans)),
            }
        });
        spans
    }
}

impl Drop for Traces {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

impl Span {
    /// What is said about it under this name.
    ///
    /// # Panics
    /// When nothing is.
    #[track_caller]
    #[must_use]
    pub fn says(&self, key: &str) -> &str {
        let said = self.attributes.get(key);
        said.unwrap_or_else(|| panic!("{} says nothing of {key}: {self:?}", self.name))
    }

    /// The node that recorded it.
    ///
    /// # Panics
    /// When it does not say.
    #[track_caller]
    #[must_use]
    pub fn node(&self) -> &str {
        &self.resource["service.instance.id"]
    }

    fn of(span: Sent, resource: &Texts, headers: &Texts) -> Self {
        let status = span.status.clone().unwrap_or_default();
        Self {
            trace: hex(&span.trace_id),
            id: hex(&span.span_id),
            parent: hex(&span.parent_span_id),
            kind: match span.kind() {
                SpanKind::Server => "server",
                SpanKind::Client => "client",
                SpanKind::Internal => "internal",
                _ => "odd",
            },
            state: span.trace_state,
            name: span.name,
            failed: status.code() == StatusCode::Error,
            attributes: texts(span.attributes),
            resource: resource.clone(),
            headers: headers.clone(),
        }
    }
}

type Texts = BTreeMap<String, String>;

/// Spans, for people.
struct Listed(Vec<Span>);

impl fmt::Display for Listed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "there are {}", self.0.len())?;
        self.0
            .iter()
            .try_for_each(|span| write!(f, "\n  {} {}", span.kind, span.name))
    }
}

async fn listen(listener: TcpListener, taken: Arc<Taken>) {
    // An error of `accept` concerns one connection that is gone already.
    loop {
        if let Ok((stream, _)) = listener.accept().await {
            let taken = Arc::clone(&taken);
            let service = service_fn(move |request| {
                let taken = Arc::clone(&taken);
                async move { Ok::<_, hyper::Error>(take(request, &taken).await) }
            });
            let serve = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            // It breaks when the node ends.
            tokio::spawn(async move { drop(serve.await) });
        }
    }
}

async fn take(request: Request<Incoming>, taken: &Taken) -> Response<Full<Bytes>> {
    let kind = request.headers().get("content-type");
    let is_fine = request.method() == "POST"
        && request.uri().path() == "/v1/traces"
        && kind.is_some_and(|kind| kind == "application/x-protobuf");
    let headers = request.headers().iter().map(|(name, value)| {
        let value = String::from_utf8_lossy(value.as_bytes());
        (name.to_string(), value.into_owned())
    });
    let headers = headers.collect();
    let mut answer = Response::new(Full::default());
    let body = request.into_body().collect().await.map(|it| it.to_bytes());
    match body
        .ok()
        .and_then(|it| ExportTraceServiceRequest::decode(it).ok())
    {
        _ if taken.refuses.load(Ordering::Relaxed) => {
            *answer.status_mut() = hyper::StatusCode::SERVICE_UNAVAILABLE;
        }
        Some(sent) if is_fine => taken.spans.lock().extend(read(sent, &headers)),
        _ => *answer.status_mut() = hyper::StatusCode::BAD_REQUEST,
    }
    answer
}

fn read(sent: ExportTraceServiceRequest, headers: &Texts) -> impl Iterator<Item = Span> {
    sent.resource_spans
        .into_iter()
        .flat_map(move |of_resource| {
            let resource = texts(of_resource.resource.unwrap_or_default().attributes);
            let spans = of_resource.scope_spans.into_iter();
            let spans = spans.flat_map(|of_scope| of_scope.spans);
            spans
                .map(|span| Span::of(span, &resource, headers))
                .collect::<Vec<_>>()
        })
}

fn texts(attributes: Vec<KeyValue>) -> Texts {
    let text = |value: Option<AnyValue>| match value.and_then(|value| value.value) {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        Some(Value::DoubleValue(number)) => number.to_string(),
        other => format!("{other:?}"),
    };
    attributes
        .into_iter()
        .map(|said| (said.key, text(said.value)))
        .collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
