//! Whether the node lives, and whether it is fit for work.

use std::time::Duration;

use axum::{extract::State, http::StatusCode, response::IntoResponse};
use holdfast_cluster::state::Standing;
use holdfast_model::api::{
    ConditionKind, NodeCondition,
    ProblemKind::{self, Interrupted, Unavailable},
};

use tokio::time::Instant;

use super::{
    Admin,
    describe::{Problems, open},
    error::Error,
    look_up::not_joined,
};

/// Say whether the process serves
///
/// It does when its runtimes answer the node's own test of them. It needs no token.
#[utoipa::path(
    get,
    path = "/healthz",
    operation_id = "is_alive",
    tag = "health",
    responses(
        (status = OK, description = "`ok`", body = String),
        Problems<{ open(&[Unavailable, Interrupted]) }>,
    )
)]
pub(super) async fn healthz(State(admin): State<Admin>) -> Result<impl IntoResponse, Error> {
    match admin.self_test.unfit() {
        None => Ok((StatusCode::OK, "ok\n")),
        Some(unfit) => Err(Error::new(ProblemKind::Unavailable, unfit.to_string())),
    }
}

/// Say whether the node is ready
///
/// It is an active member of the cluster, has all that its leader has, and is given what there is to
/// run. What is deployed later is compiled while it is ready. It needs no token.
#[utoipa::path(
    get,
    path = "/readyz",
    operation_id = "is_ready",
    tag = "health",
    responses(
        (status = OK, description = "`ready`, and a line for each condition", body = String),
        Problems<{ open(&[Unavailable, Interrupted]) }>,
    )
)]
pub(super) async fn readyz(State(admin): State<Admin>) -> Result<impl IntoResponse, Error> {
    let not_ready = |why: &str| Error::new(ProblemKind::Unavailable, why);
    let standing = admin.control.read(|state| {
        let node = state.nodes().get(&admin.me);
        node.map(|node| node.standing)
    });
    match standing {
        None => return Err(not_joined()),
        Some(Standing::Draining) => return Err(not_ready("the node is draining")),
        Some(Standing::Restarting) => return Err(not_ready("the node is restarting")),
        Some(Standing::Down | Standing::Removed) => {
            return Err(not_ready("the cluster takes this run of the node for dead"));
        }
        Some(Standing::Active) => {}
    }
    if let Some(unfit) = admin.self_test.unfit() {
        return Err(not_ready(&unfit.to_string()));
    }
    if let Some(lost) = admin.placement.lost_quorum() {
        return Err(not_ready(&lost.to_string()));
    }
    let soon = (Instant::now() + CATCH_UP).into_std();
    if admin.control.read_index(soon).await.is_err() {
        return Err(not_ready(
            "the node has no contact with a leader, or is behind it",
        ));
    }
    let (settled, conditions) = (admin.conditions.settled(), admin.conditions.all());
    let keeps_out = |condition: &&NodeCondition| match condition.kind {
        ConditionKind::Compiling | ConditionKind::Stabilizing => !settled,
        _ => condition.gets_nothing,
    };
    let why: Vec<String> = conditions
        .iter()
        .filter(keeps_out)
        .map(ToString::to_string)
        .collect();
    if !why.is_empty() {
        return Err(not_ready(&why.join("; ")));
    }
    let mut text = "ready\n".to_owned();
    for condition in conditions {
        text.push_str(&format!("{condition}\n"));
    }
    Ok((StatusCode::OK, text))
}

/// How long the node may take to hear from the leader.
const CATCH_UP: Duration = Duration::from_secs(1);
