//! The HTTP API of a node: what people and programs ask of the cluster.
//!
//! Any node answers for any resource. A route reads the request, asks the part of the node that
//! knows, and says what came of it; what an error looks like is decided in `error` alone. Calls of
//! resources go past the router.
//!
//! Absent: decisions. Nothing here changes the state but through control, placement and deploy.

mod batch;
mod body;
mod cluster;
mod cursor;
mod error;
mod events;
mod extract;
mod guard;
mod health;
mod invoke;
mod logs;
mod look_up;
mod metrics;
mod modules;
mod plan;
mod resources;
mod settings;

use std::sync::Arc;

use axum::{
    Router, middleware,
    response::IntoResponse,
    routing::{delete, get, post, put},
};
use bytes::Bytes;
use holdfast_model::{
    NodeId,
    api::{ProblemKind, STALE_HEADER},
};
use http::{HeaderValue, Method, Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use tower::util::ServiceExt;

use self::error::Error;
use crate::{
    control::Control, deploy::Deploy, dispatch::Dispatch, events::Events, logs::Logs,
    metrics::Metrics, modules::Modules, peer::Peers, placement::Placement, restart::Restarts,
    token::Token, traces::Traces,
};

/// What the API needs of its node.
pub struct Parts {
    /// This node.
    pub me: NodeId,
    /// The state.
    pub control: Control,
    /// Who answers.
    pub peers: Peers,
    /// Components.
    pub modules: Modules,
    /// Allocations.
    pub placement: Placement,
    /// Resources and calls.
    pub dispatch: Dispatch,
    /// Deployments.
    pub deploy: Deploy,
    /// Restarts.
    pub restarts: Restarts,
    /// What handlers say.
    pub logs: Logs,
    /// What happens.
    pub events: Events,
    /// What is counted.
    pub metrics: Metrics,
    /// What follows requests.
    pub traces: Traces,
    /// What callers must show, if anything.
    pub token: Option<Token>,
    /// Largest component, in bytes.
    pub component_bytes_max: u64,
}

/// The API of a node. Cheap to clone.
#[derive(Clone)]
pub struct Api {
    admin: Admin,
    router: Router,
}

type Admin = Arc<Parts>;

/// Body of every answer.
pub type Body = UnsyncBoxBody<Bytes, axum::Error>;

impl Api {
    /// Makes the API.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let admin: Admin = Arc::new(parts);
        let resource = put(resources::allocate)
            .get(resources::describe)
            .delete(resources::deallocate);
        let module = put(modules::deploy)
            .get(modules::describe)
            .delete(modules::remove);
        let router = Router::new()
            .route("/v1/modules", get(modules::list))
            .route("/v1/modules/{module}", module)
            .route("/v1/modules/{module}/resources", get(resources::list))
            .route("/v1/modules/{module}/resources:batch", post(batch::batch))
            // No segment matches an empty id, which is to be refused like any other that is none.
            .route("/v1/modules/{module}/resources/", resource.clone())
            .route("/v1/modules/{module}/resources/{id}", resource)
            .route("/v1/cluster", get(cluster::describe))
            .route("/v1/cluster/nodes", get(cluster::nodes))
            .route(
                "/v1/cluster/nodes/{node}",
                delete(cluster::remove_node).patch(cluster::change_node),
            )
            .route("/v1/cluster/nodes/{node}/drain", post(cluster::drain))
            .route("/v1/cluster/nodes/{node}/restart", post(cluster::restart))
            .route(
                "/v1/cluster/nodes/{node}/log",
                get(logs::own).put(logs::change_own),
            )
            .route(
                "/v1/cluster/settings",
                get(settings::describe).patch(settings::change),
            )
            .route(plan::PATH, post(plan::plan))
            .route("/v1/cluster/slots", get(cluster::slots))
            .route("/v1/events", get(events::events))
            .route("/v1/logs", get(logs::logs))
            .route("/metrics", get(metrics::metrics))
            .route("/healthz", get(health::healthz))
            .route("/readyz", get(health::readyz))
            .fallback(no_route)
            .method_not_allowed_fallback(no_method)
            .layer(middleware::from_fn_with_state(
                Arc::clone(&admin),
                metrics::count,
            ))
            .with_state(Arc::clone(&admin));
        Self { admin, router }
    }

    /// Answers a request; every failure is an answer too.
    pub async fn answer<B>(self, request: Request<B>) -> Response<Body>
    where
        B: hyper::body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        use http_body_util::BodyExt;
        let path = request.uri().path();
        let open = matches!(path, "/healthz" | "/readyz");
        if !open && let Err(error) = guard::admit(self.admin.token.as_ref(), request.headers()) {
            let response = error.response();
            return response.map(|body| body.map_err(|never| match never {}).boxed_unsync());
        }
        if invoke::path(path).is_some() {
            let (parts, body) = request.into_parts();
            let (method, uri, headers) = (&parts.method, &parts.uri, &parts.headers);
            let traces = &self.admin.traces;
            let mut span = traces.request(method, uri, headers, invoke::ROUTE);
            let response = invoke::invoke(&self.admin, parts, body, span.scope()).await;
            span.answered(response.status());
            return response.map(|body| body.map_err(|never| match never {}).boxed_unsync());
        }
        let reads = matches!(*request.method(), Method::GET | Method::HEAD) || path == plan::PATH;
        // Nobody waits for what is known not to come.
        if !reads && let Err(error) = self.admin.may_change() {
            let response = error.response();
            return response.map(|body| body.map_err(|never| match never {}).boxed_unsync());
        }
        // Before it is read: it does not get younger meanwhile.
        let stale = self.admin.placement.stale();
        let request = request.map(axum::body::Body::new);
        let dispatch = self.admin.dispatch.clone();
        let mut response = tokio::select! {
            biased;
            Ok(response) = self.router.oneshot(request) => response,
            // The connection ends with this run of the node.
            () = dispatch.over() => starting_anew().into_response(),
        };
        if let Some(age) = stale.filter(|_| reads && !open && response.status().is_success()) {
            let age = HeaderValue::from(age.as_millis() as u64);
            response.headers_mut().insert(STALE_HEADER, age);
        }
        response.map(|body| body.boxed_unsync())
    }
}

fn starting_anew() -> Error {
    let detail = "the node has lost its lease and starts anew; a change may have been made";
    Error::new(ProblemKind::Interrupted, detail)
}

async fn no_route(method: Method, uri: http::Uri) -> impl IntoResponse {
    Error::new(
        ProblemKind::NotFound,
        format!("there is no {method} {}", uri.path()),
    )
}

async fn no_method(method: Method, uri: http::Uri) -> impl IntoResponse {
    let detail = format!("{} does not take {method}", uri.path());
    Error::invalid(detail).status(http::StatusCode::METHOD_NOT_ALLOWED)
}
