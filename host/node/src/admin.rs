//! The HTTP API of a node: what people and programs ask of the cluster.
//!
//! Any node answers for any resource. A route reads the request, asks the part of the node that
//! knows, and says what came of it; what an error looks like is decided in `error` alone. Calls of
//! resources go past the router.
//!
//! Absent: decisions. Nothing here changes the state but through control, placement and deploy.

mod answer;
mod batch;
mod body;
mod budget;
mod cluster;
mod component;
mod cursor;
mod describe;
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
mod openapi;
mod plan;
mod resources;
mod settings;
mod strict;

use std::sync::Arc;

use axum::{Router, middleware, response::IntoResponse};
use bytes::Bytes;
use holdfast_model::{
    NodeId,
    api::{ProblemKind, STALE_HEADER},
};
use http::{HeaderValue, Method, Request, Response};
use tower::util::ServiceExt;
use utoipa_axum::{router::OpenApiRouter, routes};

use self::error::Error;
pub(crate) use self::invoke::CALLS;
pub use self::{
    answer::Body,
    batch::Batches,
    body::SlowBody,
    budget::{ByteBudget, Exhausted, Reservation},
    error::TurnedAway,
};
use crate::{
    conditions::Conditions, control::Control, deploy::Deploy, dispatch::Dispatch, events::Events,
    logs::Logs, metrics::Metrics, modules::Modules, peer::Peers, placement::Placement,
    restart::Restarts, self_test::SelfTest, token, traces::Traces,
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
    /// Why this node is given nothing, or is not well.
    pub conditions: Conditions,
    /// What follows requests.
    pub traces: Traces,
    /// Batches of resources under way.
    pub batches: Batches,
    /// What callers must show, if anything.
    pub token: token::Current,
    /// Whether the runtimes work.
    pub self_test: SelfTest,
    /// Largest component, in bytes.
    pub component_bytes_max: u64,
    /// What bodies may take of the node's memory.
    pub budget: ByteBudget,
}

/// Marks an answer to somebody who has not shown that the node is theirs to ask.
#[derive(Clone, Copy, Debug)]
pub struct Unadmitted;

/// The API of a node. Cheap to clone.
#[derive(Clone)]
pub struct Api {
    admin: Admin,
    router: Router,
}

type Admin = Arc<Parts>;

impl Api {
    /// Makes the API.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let admin: Admin = Arc::new(parts);
        let (router, _) = routes().split_for_parts();
        let router = router
            .fallback(no_route)
            .method_not_allowed_fallback(no_method)
            .layer(middleware::from_fn_with_state(
                Arc::clone(&admin),
                metrics::count,
            ))
            .with_state(Arc::clone(&admin));
        Self { admin, router }
    }

    /// Answers what everybody may ask for on a connection for which there is no room; turns away the rest.
    pub async fn answer_without_room<B>(self, request: Request<B>) -> Response<Body>
    where
        B: hyper::body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        match OPEN.contains(&request.uri().path()) {
            true => self.answer(request).await,
            false => TurnedAway::NoPlace.response().map(Body::from),
        }
    }

    /// Answers a request; every failure is an answer too. That it was not made by somebody who may ask,
    /// [`Unadmitted`] among the extensions of the answer says.
    pub async fn answer<B>(self, request: Request<B>) -> Response<Body>
    where
        B: hyper::body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let path = request.uri().path();
        let open = OPEN.contains(&path);
        let admitted = strict::check(&request).and_then(|()| match open {
            true => Ok(()),
            false => guard::admit(self.admin.token.load().as_deref(), request.headers()),
        });
        if let Err(error) = admitted {
            return unadmitted(error.response().map(Body::from));
        }
        if invoke::path(path).is_some() {
            let (parts, body) = request.into_parts();
            let (method, uri, headers) = (&parts.method, &parts.uri, &parts.headers);
            let traces = &self.admin.traces;
            let mut span = traces.request(method, uri, headers, invoke::ROUTE);
            let response = invoke::invoke(&self.admin, parts, body, span.scope()).await;
            span.answered(response.status());
            return response.map(Body::from);
        }
        let reads = matches!(*request.method(), Method::GET | Method::HEAD) || path == plan::PATH;
        // Nobody waits for what is known not to come.
        if !reads && let Err(error) = self.admin.may_change() {
            return error.response().map(Body::from);
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
        let response = response.map(Body::from);
        match open {
            true => unadmitted(response),
            false => response,
        }
    }
}

fn unadmitted(mut response: Response<Body>) -> Response<Body> {
    response.extensions_mut().insert(Unadmitted);
    response
}

/// What is served beside calls, and what is said of it.
fn routes() -> OpenApiRouter<Admin> {
    let resource = routes!(
        resources::allocate,
        resources::describe,
        resources::deallocate
    );
    let (_, _, resource_without_id) = resource.clone();
    OpenApiRouter::with_openapi(openapi::base())
        .routes(routes!(modules::list))
        .routes(routes!(modules::deploy, modules::describe, modules::remove))
        .routes(routes!(component::download))
        .routes(routes!(resources::list))
        .routes(routes!(batch::batch))
        // No segment matches an empty id, which is to be refused like any other that is none.
        .route("/v1/modules/{module}/resources/", resource_without_id)
        .routes(resource)
        .routes(routes!(cluster::describe))
        .routes(routes!(cluster::nodes))
        .routes(routes!(cluster::remove_node, cluster::change_node))
        .routes(routes!(cluster::drain))
        .routes(routes!(cluster::restart))
        .routes(routes!(logs::own, logs::change_own))
        .routes(routes!(settings::describe, settings::change))
        .routes(routes!(plan::plan))
        .routes(routes!(cluster::slots))
        .routes(routes!(events::events))
        .routes(routes!(logs::logs))
        .routes(routes!(metrics::metrics))
        .routes(routes!(health::healthz))
        .routes(routes!(health::readyz))
        .routes(routes!(openapi::openapi))
}

/// The API as an OpenAPI document, in JSON.
#[must_use]
pub fn openapi() -> String {
    let document = openapi::complete(routes().into_openapi());
    let json = document.to_pretty_json();
    json.expect("a description is text and numbers, which can always be written") + "\n"
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

/// What is answered to everybody, with a token or without: load balancers have none, and a description
/// of the API says nothing of the cluster.
const OPEN: [&str; 3] = ["/healthz", "/readyz", "/v1/openapi.json"];
