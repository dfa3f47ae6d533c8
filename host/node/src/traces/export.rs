//! Brings spans to the collector, in batches, on a task of its own.
//!
//! Nobody waits for it: what finds the queue full is dropped and counted, and so is a batch that the
//! collector does not take. A collector that is not there is told of once in a while.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{self, connect::HttpConnector},
    rt::TokioExecutor,
};
use opentelemetry::Context;
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{
    ExporterBuildError, Protocol, RetryPolicy, SpanExporter, WithExportConfig as _,
    WithHttpConfig as _,
};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{Span, SpanData, SpanExporter as _, SpanProcessor},
};
use parking_lot::Mutex;
use tokio::{sync::mpsc, time::timeout};
use tokio_rustls::rustls;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::Endpoint;
use crate::metrics::Spans;

/// Why spans cannot be exported.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// TLS is not to be had.
    #[error("prepare TLS for the collector of traces")]
    Tls(#[from] rustls::Error),
    /// A variable of the environment asks for what there is not.
    #[error("prepare to send traces as the environment says (OTEL_EXPORTER_OTLP_…)")]
    Exporter(#[from] ExporterBuildError),
}

/// Where ended spans wait.
pub(super) struct Queue {
    waiting: mpsc::Sender<SpanData>,
    counted: Spans,
}

/// The task that brings them to the collector.
pub struct Exporting {
    waiting: mpsc::Receiver<SpanData>,
    exporter: SpanExporter,
    endpoint: Endpoint,
    client: Client,
    counted: Spans,
    refused: Option<Refused>,
}

/// A collector that takes nothing, and what became of that.
struct Refused {
    told: Instant,
    /// Spans lost since then.
    lost: u64,
}

pub(super) fn queue(
    endpoint: &Endpoint,
    resource: &Resource,
    counted: Spans,
) -> Result<(Queue, Exporting), Error> {
    let client = Client::new()?;
    let mut exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(client.clone())
        .with_endpoint(endpoint.to_string())
        .with_protocol(Protocol::HttpBinary)
        // It would sleep on its thread between two attempts.
        .with_retry_policy(RetryPolicy::default().with_max_retries(0))
        .build()?;
    exporter.set_resource(resource);
    let (sender, receiver) = mpsc::channel(QUEUE_SPANS_MAX);
    let queue = Queue {
        waiting: sender,
        counted: counted.clone(),
    };
    let exporting = Exporting {
        waiting: receiver,
        exporter,
        endpoint: endpoint.clone(),
        client,
        counted,
        refused: None,
    };
    Ok((queue, exporting))
}

impl Exporting {
    /// Exports until stopped, and then what is there yet, for a while.
    pub async fn run(mut self, stop: CancellationToken) {
        let over = async {
            stop.cancelled().await;
            tokio::time::sleep(FLUSH).await;
        };
        let is_over = tokio::select! {
            () = self.export(&stop) => false,
            () = over => true,
        };
        if is_over {
            warn!(
                collector = %self.endpoint,
                spans = self.waiting.len(),
                "the node ends before the collector has taken its last spans"
            );
        }
    }

    async fn export(&mut self, stop: &CancellationToken) {
        let mut batch = Vec::with_capacity(BATCH_SPANS_MAX);
        loop {
            let gathered = stop.run_until_cancelled(self.gather(&mut batch)).await;
            if gathered.is_none() {
                // What ends from now on is dropped.
                self.waiting.close();
            }
            if batch.is_empty() && self.waiting.recv_many(&mut batch, BATCH_SPANS_MAX).await == 0 {
                // Nobody makes any more; but the node takes the end of this for its own.
                return stop.cancelled().await;
            }
            self.send(std::mem::take(&mut batch)).await;
        }
    }

    /// Waits for a span, and for others of the same traces, which are about to end.
    async fn gather(&mut self, batch: &mut Vec<SpanData>) {
        self.waiting.recv_many(batch, BATCH_SPANS_MAX).await;
        let more = async {
            while (1..BATCH_SPANS_MAX).contains(&batch.len()) {
                let room = BATCH_SPANS_MAX - batch.len();
                if self.waiting.recv_many(batch, room).await == 0 {
                    break;
                }
            }
        };
        let _ = timeout(GATHER, more).await;
    }

    async fn send(&mut self, batch: Vec<SpanData>) {
        let spans = batch.len() as u64;
        match self.exporter.export(batch).await {
            Ok(()) => {
                self.counted.exported.inc_by(spans);
                if let Some(Refused { lost, .. }) = self.refused.take() {
                    info!(collector = %self.endpoint, lost, "the collector takes spans again");
                }
            }
            Err(error) => {
                self.counted.failed.inc_by(spans);
                // The exporter does not say what happened on the way.
                let failure = self.client.failure.lock().take();
                self.refused(spans, &failure.unwrap_or_else(|| error.to_string()));
            }
        }
    }

    fn refused(&mut self, spans: u64, error: &str) {
        let lost = match &mut self.refused {
            Some(Refused { told, lost }) if told.elapsed() < TELL_AGAIN => {
                *lost += spans;
                return;
            }
            Some(Refused { lost, .. }) => *lost + spans,
            None => spans,
        };
        warn!(
            collector = %self.endpoint,
            error,
            lost,
            "the collector takes no spans; calls go on without it, see --otlp-endpoint"
        );
        self.refused = Some(Refused {
            told: Instant::now(),
            lost: 0,
        });
    }
}

impl SpanProcessor for Queue {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        if self.waiting.try_send(span).is_err() {
            self.counted.dropped.inc();
        }
    }

    // Both are the task's, which is stopped with its node.

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue").finish_non_exhaustive()
    }
}

/// Sends what the exporter has encoded.
#[derive(Clone, Debug)]
struct Client {
    http: legacy::Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    /// What went wrong last.
    failure: Arc<Mutex<Option<String>>>,
}

impl Client {
    fn new() -> Result<Self, rustls::Error> {
        let provider = rustls::crypto::ring::default_provider();
        let connector = HttpsConnectorBuilder::new()
            .with_provider_and_webpki_roots(provider)?
            .https_or_http()
            .enable_http1()
            .build();
        Ok(Self {
            http: legacy::Client::builder(TokioExecutor::new()).build(connector),
            failure: Arc::default(),
        })
    }

    async fn answer(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let answer = self.http.request(request.map(Full::new)).await?;
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await?;
        Ok(Response::from_parts(head, body.to_bytes()))
    }
}

impl HttpClient for Client {
    // As `async_trait` has it.
    fn send_bytes<'a, 'b>(
        &'a self,
        request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'b>>
    where
        'a: 'b,
        Self: 'b,
    {
        Box::pin(async move {
            let answered = match timeout(ANSWER_TIME, self.answer(request)).await {
                Ok(answered) => answered,
                Err(_) => Err(format!("no answer within {} s", ANSWER_TIME.as_secs()).into()),
            };
            if let Err(error) = &answered {
                *self.failure.lock() = Some(chain(error.as_ref()));
            }
            answered
        })
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let texts: Vec<String> = causes.map(ToString::to_string).collect();
    texts.join(": ")
}

/// Spans that wait at most, of 1 to 2 KiB each.
pub(super) const QUEUE_SPANS_MAX: usize = 8_192;

/// Spans of one request to the collector.
const BATCH_SPANS_MAX: usize = 512;

/// How long the first span of a batch waits for others.
const GATHER: Duration = Duration::from_secs(1);

/// How long the collector may take to answer.
const ANSWER_TIME: Duration = Duration::from_secs(10);
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// How long a node that ends waits for the collector.
const FLUSH: Duration = Duration::from_secs(2);

/// How often a collector that takes nothing is told of.
const TELL_AGAIN: Duration = Duration::from_secs(60);
