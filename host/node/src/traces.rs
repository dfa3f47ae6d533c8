//! Follows calls through the cluster: spans for OpenTelemetry, and the W3C trace context from callers,
//! over the hop between nodes, into what handlers send.
//!
//! A [`Scope`] says what a piece of work belongs to and is handed from place to place; a [`Span`] is the
//! record of one, where it is recorded. What a caller decided about sampling is followed: of a trace
//! that is not sampled nothing is recorded, but its context is passed on.
//!
//! Invariants: where traces are off, all of this is a null pointer and a branch; a span that ends never
//! waits, it is dropped and counted when too many wait to be exported.
//!
//! Absent: anything of the whole process. Several nodes may be in one, each with its own traces.

mod context;
mod endpoint;
mod export;
mod outgoing;
#[cfg(test)]
mod tests;

use std::{fmt, sync::Arc};

use holdfast_model::{ClusterName, NodeId};
use holdfast_runtime::Follow;
use http::{HeaderMap, Method, StatusCode, Uri};
use opentelemetry::{
    Context, InstrumentationScope, KeyValue, Value,
    trace::{
        Span as _, SpanBuilder, SpanContext, SpanKind, Status, TraceContextExt as _, Tracer as _,
        TracerProvider as _,
    },
};
use opentelemetry_sdk::{
    Resource,
    resource::{EnvResourceDetector, TelemetryResourceDetector},
    trace::{Sampler, SdkTracer, SdkTracerProvider},
};

pub(crate) use self::context::Carried;
pub use self::{
    endpoint::{Endpoint, InvalidEndpoint, InvalidRatio, Ratio},
    export::{Error, Exporting},
};
use crate::metrics::Metrics;

/// The traces of a node. Clones are the same thing; the default is off.
#[derive(Clone, Default)]
pub struct Traces(Option<Arc<Inner>>);

struct Inner {
    tracer: SdkTracer,
}

/// Where traces go, and which are begun.
#[derive(Clone, Debug)]
pub struct Options {
    /// The collector.
    pub endpoint: Endpoint,
    /// How many of the traces that no caller has begun are recorded. None: what `OTEL_TRACES_SAMPLER`
    /// says, and without it all.
    pub ratio: Option<Ratio>,
}

/// Who records: attributes of all spans of a node.
#[derive(Debug)]
pub struct About<'a> {
    /// The node.
    pub node: NodeId,
    /// Its cluster.
    pub cluster: &'a ClusterName,
}

/// What a piece of work belongs to. Cheap to clone: a pointer, null where traces are off.
#[derive(Clone, Default)]
pub struct Scope(Option<Arc<Inside>>);

struct Inside {
    traces: Arc<Inner>,
    context: SpanContext,
}

/// A piece of work. Ends when it is dropped.
#[derive(Default)]
pub struct Span {
    scope: Scope,
    recorded: Option<Box<Recorded>>,
}

/// What is recorded of a piece of work.
pub struct Recorded(opentelemetry_sdk::trace::Span);

impl Traces {
    /// Follows calls from now on, and gives the task that must run so that traces arrive.
    ///
    /// # Errors
    /// When the collector cannot be talked to in the way that the environment says.
    pub fn new(
        options: &Options,
        about: &About<'_>,
        metrics: &Metrics,
    ) -> Result<(Self, Exporting), Error> {
        let resource = resource(about);
        let (queue, exporting) = export::queue(&options.endpoint, &resource, metrics.spans())?;
        let mut provider = SdkTracerProvider::builder()
            .with_resource(resource)
            .with_span_processor(queue);
        if let Some(ratio) = options.ratio {
            let begun = Sampler::TraceIdRatioBased(ratio.get());
            provider = provider.with_sampler(Sampler::ParentBased(Box::new(begun)));
        }
        let scope = InstrumentationScope::builder("holdfast").with_version(VERSION);
        let tracer = provider.build().tracer_with_scope(scope.build());
        Ok((Self(Some(Arc::new(Inner { tracer }))), exporting))
    }

    /// A request of the HTTP API, which belongs to its caller's trace, or to a new one. The route is
    /// the pattern that its path fits.
    #[must_use]
    pub fn request(&self, method: &Method, uri: &Uri, headers: &HeaderMap, route: &str) -> Span {
        let Some(inner) = &self.0 else {
            return Span::default();
        };
        let mut span = match context::read(headers) {
            Some(caller) => inner.enter(caller).child(Kind::Server, "HTTP"),
            None => inner.begin(Kind::Server, "HTTP", None),
        };
        if let Some(recorded) = span.recorded() {
            let method = outgoing::known(method);
            recorded.name(format!("{method} {route}"));
            recorded.set("http.request.method", method);
            recorded.set("http.route", route.to_owned());
            recorded.set("url.scheme", "http");
            recorded.set("url.path", uri.path().to_owned());
        }
        span
    }

    /// What another node said that a call belongs to.
    pub(crate) fn carried(&self, carried: Option<Carried<'_>>) -> Scope {
        match (&self.0, carried) {
            (Some(inner), Some(carried)) => carried
                .context()
                .map_or_else(Scope::default, |context| inner.enter(context)),
            _ => Scope::default(),
        }
    }

    /// Work that nobody has asked for: it begins a trace.
    #[must_use]
    pub fn begin(&self, name: &'static str) -> Span {
        let begun = self.0.as_ref();
        begun.map_or_else(Span::default, |inner| {
            inner.begin(Kind::Internal, name, None)
        })
    }
}

/// On which side of what a piece of work is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Asks another process, and waits for its answer.
    Client,
    /// Answers another process.
    Server,
    /// Neither.
    Internal,
}

impl Inner {
    fn enter(self: &Arc<Self>, context: SpanContext) -> Scope {
        let traces = Arc::clone(self);
        Scope(Some(Arc::new(Inside { traces, context })))
    }

    /// Begins a span, which is recorded if the sampler says so: without a parent by chance.
    fn begin(
        self: &Arc<Self>,
        kind: Kind,
        name: &'static str,
        parent: Option<SpanContext>,
    ) -> Span {
        let parent = match parent {
            // It takes local ones as well, and leaves them so.
            Some(parent) => Context::new().with_remote_span_context(parent),
            None => Context::new(),
        };
        let kind = match kind {
            Kind::Client => SpanKind::Client,
            Kind::Server => SpanKind::Server,
            Kind::Internal => SpanKind::Internal,
        };
        let builder = SpanBuilder::from_name(name).with_kind(kind);
        let span = self.tracer.build_with_context(builder, &parent);
        Span {
            scope: self.enter(span.span_context().clone()),
            recorded: span.is_recording().then(|| Box::new(Recorded(span))),
        }
    }
}

impl Scope {
    /// A piece of work that belongs to this. In a trace that is not sampled it is the same scope.
    #[must_use]
    pub fn child(&self, kind: Kind, name: &'static str) -> Span {
        match &self.0 {
            Some(inside) if inside.context.is_sampled() => {
                let parent = Some(inside.context.clone());
                inside.traces.begin(kind, name, parent)
            }
            _ => Span {
                scope: self.clone(),
                recorded: None,
            },
        }
    }

    /// Whether work in it is recorded.
    #[must_use]
    pub fn is_recorded(&self) -> bool {
        let inside = self.0.as_ref();
        inside.is_some_and(|inside| inside.context.is_sampled())
    }

    /// What another node is told of it.
    pub(crate) fn carried(&self) -> Option<Carried<'static>> {
        let inside = self.0.as_ref()?;
        Some(Carried::of(&inside.context))
    }

    /// What follows the requests that a handler sends meanwhile.
    pub(crate) fn follow(&self) -> Option<Arc<dyn Follow>> {
        let inside = self.0.clone()?;
        Some(inside)
    }
}

impl Span {
    /// What work that this one causes belongs to.
    #[must_use]
    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    /// The record, if there is one.
    pub fn recorded(&mut self) -> Option<&mut Recorded> {
        self.recorded.as_deref_mut()
    }

    /// Notes that it did not succeed: of what kind the failure is, out of a few, and what else there is
    /// to say.
    pub fn failed(&mut self, kind: impl fmt::Display, why: impl fmt::Display) {
        if let Some(recorded) = self.recorded() {
            recorded.set("error.type", kind.to_string());
            recorded.0.set_status(Status::error(why.to_string()));
        }
    }

    /// Notes how a request of the HTTP API was answered.
    pub fn answered(&mut self, status: StatusCode) {
        if let Some(recorded) = self.recorded() {
            recorded.status(status);
        }
        // What the caller did wrong is no failure of the node.
        if status.is_server_error() {
            self.failed(status.as_str(), "");
        }
    }
}

impl Recorded {
    /// Says something about it.
    pub fn set(&mut self, key: &'static str, value: impl Into<Value>) {
        self.0.set_attribute(KeyValue::new(key, value));
    }

    fn name(&mut self, name: String) {
        self.0.update_name(name);
    }

    fn status(&mut self, status: StatusCode) {
        self.set("http.response.status_code", i64::from(status.as_u16()));
    }
}

/// Who records. What the environment says goes before.
fn resource(about: &About<'_>) -> Resource {
    let own = [
        KeyValue::new("service.name", "holdfast"),
        KeyValue::new("service.version", VERSION),
        KeyValue::new("service.instance.id", about.node.to_string()),
        KeyValue::new("holdfast.cluster", about.cluster.to_string()),
    ];
    let resource = Resource::builder_empty()
        .with_attributes(own)
        .with_detectors(&[
            Box::new(TelemetryResourceDetector),
            Box::new(EnvResourceDetector::new()),
        ]);
    match std::env::var("OTEL_SERVICE_NAME") {
        Ok(name) if !name.is_empty() => resource.with_service_name(name).build(),
        _ => resource.build(),
    }
}

const VERSION: &str = env!("CARGO_PKG_VERSION");
