//! The settings of the cluster.

use std::time::Duration;

use axum::{Json, body::Body, extract::State};
use holdfast_cluster::state::{self, Command, SettingsChange};
use holdfast_model::api::{
    ChangeClusterSettings, ClusterSettings,
    ProblemKind::{self, NoLeader, TooLarge, Unavailable},
};

use super::{
    Admin, body,
    describe::{Problems, usual},
    error::{Error, Result},
    extract::{Asked, NoQuery},
    look_up::not_joined,
    modules::deadline,
};

/// Describe the settings of the cluster
#[utoipa::path(
    get,
    path = "/v1/cluster/settings",
    operation_id = "describe_settings",
    tag = "cluster",
    responses(
        (status = OK, description = "The settings", body = ClusterSettings),
        Problems<{ usual(&[Unavailable]) }>,
    )
)]
pub(super) async fn describe(
    State(admin): State<Admin>,
    Asked(NoQuery {}): Asked<NoQuery>,
) -> Result<Json<ClusterSettings>> {
    present(&admin).map(Json)
}

/// Change settings of the cluster
///
/// Settings that would not be safe are refused.
#[utoipa::path(
    patch,
    path = "/v1/cluster/settings",
    operation_id = "change_settings",
    tag = "cluster",
    request_body(content = ChangeClusterSettings, description = "Those that are to change"),
    responses(
        (status = OK, description = "All settings, after the change", body = ClusterSettings),
        Problems<{ usual(&[TooLarge, Unavailable, NoLeader]) }>,
    )
)]
pub(super) async fn change(
    State(admin): State<Admin>,
    Asked(NoQuery {}): Asked<NoQuery>,
    body: Body,
) -> Result<Json<ClusterSettings>> {
    let too_large = || {
        let detail = format!("a change of the settings has at most {BODY_BYTES_MAX} bytes");
        Error::new(ProblemKind::TooLarge, detail)
    };
    let body = body::read(&admin.budget, None, body, BODY_BYTES_MAX, too_large).await?;
    let change: ChangeClusterSettings = body::json("the body", &body)?;
    for (name, given, max) in [
        (
            "stable_after_ms",
            change.stable_after_ms,
            STABLE_AFTER_MS_MAX,
        ),
        (
            "replace_voters_after_ms",
            change.replace_voters_after_ms,
            REPLACE_VOTERS_AFTER_MS_MAX,
        ),
    ] {
        if given.is_some_and(|ms| ms > max) {
            return Err(Error::invalid(format!("{name} is at most {max}")));
        }
    }
    let deadline = deadline(None, false).into_std();
    let command = Command::Set(SettingsChange {
        voters_wanted: change.voters,
        lease_ttl: change.lease_ttl_ms.map(Duration::from_millis),
        lease_guard: change.lease_guard_ms.map(Duration::from_millis),
        replace_voters_after: change.replace_voters_after_ms.map(Duration::from_millis),
        fast_failover: change.fast_failover,
        stable_after: change.stable_after_ms.map(Duration::from_millis),
    });
    admin.control.propose(command, deadline).await?.accepted()?;
    let current = admin.control.read_index(deadline).await;
    current.map_err(|error| Error::done_but(&error))?;
    present(&admin).map(Json)
}

fn present(admin: &Admin) -> Result<ClusterSettings> {
    let settings = |state: &state::State| state.cluster().map(|cluster| cluster.settings);
    let settings = admin.control.read(settings).ok_or_else(not_joined)?;
    Ok(ClusterSettings {
        voters: settings.voters_wanted,
        lease_ttl_ms: settings.lease.ttl.as_millis() as u64,
        lease_guard_ms: settings.lease.guard.as_millis() as u64,
        replace_voters_after_ms: settings.replace_voters_after.as_millis() as u64,
        fast_failover: settings.fast_failover,
        stable_after_ms: settings.stable_after.as_millis() as u64,
    })
}

/// See [`state::ClusterSettings::STABLE_AFTER_MAX`].
pub(super) const STABLE_AFTER_MS_MAX: u64 =
    state::ClusterSettings::STABLE_AFTER_MAX.as_millis() as u64;

/// See [`state::ClusterSettings::REPLACE_VOTERS_AFTER_MAX`].
pub(super) const REPLACE_VOTERS_AFTER_MS_MAX: u64 =
    state::ClusterSettings::REPLACE_VOTERS_AFTER_MAX.as_millis() as u64;

const BODY_BYTES_MAX: u64 = 4 << 10;
