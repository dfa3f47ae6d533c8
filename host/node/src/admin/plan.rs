//! What would move if nodes came, went or had other weights.

use axum::{Json, body::Body, extract::State};
use holdfast_cluster::placement::forecast::Present;
use holdfast_model::api::{
    ClusterPlan, PlanRequest,
    ProblemKind::{self, Internal, NoLeader, TooLarge, Unavailable, UnknownNode},
};

use super::{
    Admin, body,
    describe::{Problems, usual},
    error::{Error, Result},
    extract::{Asked, NoQuery},
};

/// A question for all that it is a POST: it changes nothing.
pub(super) const PATH: &str = "/v1/cluster/plan";

/// Plan a change of nodes
///
/// Says what would move if nodes joined, left or had other weights. Nothing is changed: it is a question like a GET,
/// answered from the node's own copy of the state by the planner that the leader uses.
#[utoipa::path(
    post,
    path = PATH,
    operation_id = "plan",
    tag = "cluster",
    request_body(content = PlanRequest, description = "What to imagine"),
    responses(
        (status = OK, description = "What would move", body = ClusterPlan),
        Problems<{ usual(&[TooLarge, UnknownNode, Unavailable, NoLeader, Internal]) }>,
    )
)]
pub(super) async fn plan(
    State(admin): State<Admin>,
    Asked(NoQuery {}): Asked<NoQuery>,
    body: Body,
) -> Result<Json<ClusterPlan>> {
    let too_large = || {
        let detail = format!("what to plan for has at most {BODY_BYTES_MAX} bytes");
        Error::new(ProblemKind::TooLarge, detail)
    };
    let body = body::read(&admin.budget, None, body, BODY_BYTES_MAX, too_large).await?;
    let imagined: PlanRequest = body::json("the body", &body)?;
    if imagined.join.len() > PlanRequest::JOIN_MAX {
        let detail = format!("at most {} nodes may join at once", PlanRequest::JOIN_MAX);
        return Err(Error::invalid(detail));
    }
    let weighed = imagined.weights.keys();
    if let Some(node) = weighed.clone().find(|node| imagined.leave.contains(node)) {
        let detail = format!("node {node} leaves: it has no weight then");
        return Err(Error::invalid(detail));
    }
    admin.joined()?;
    for node in imagined.leave.iter().chain(weighed) {
        admin.known(*node).await?;
    }
    let present = admin.control.read(Present::of);
    // Long for a thread that serves calls, where there are many modules and nodes.
    let plan = tokio::task::spawn_blocking(move || present.forecast(&imagined)).await;
    let failed = |error| Error::new(ProblemKind::Internal, format!("plan: {error}"));
    plan.map(Json).map_err(failed)
}

/// Longest body: as many nodes as may join, and some hundred others.
const BODY_BYTES_MAX: u64 = 64 << 10;
