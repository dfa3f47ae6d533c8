//! Modules: deploy, describe, list, remove.

use std::{collections::BTreeMap, time::Duration};

use axum::{
    Json,
    extract::{Request, State},
    http::{HeaderMap, StatusCode},
    response::IntoResponse,
};
use holdfast_cluster::state::{Command, Module as Deployed, Version};
use holdfast_model::{
    ModuleName, NodeId, Settings,
    api::{
        DeployQuery, FailedOn, FailedVersion, ModuleInfo, ModuleList, ModuleNode, ProblemKind,
        RemoveModuleQuery, RolloutInfo, SETTINGS_BYTES_MAX, SETTINGS_HEADER, VersionInfo,
    },
    call,
};
use tokio::time::Instant;

use super::{
    Admin, body,
    error::{Error, Result},
    extract::{Asked, Module},
};

/// `PUT /v1/modules/{module}`
pub(super) async fn deploy(
    State(admin): State<Admin>,
    Module(name): Module,
    Asked(query): Asked<DeployQuery>,
    headers: HeaderMap,
    request: Request,
) -> Result<impl IntoResponse> {
    let settings = settings(&headers)?;
    let max = admin.component_bytes_max;
    let too_large = || {
        let detail = format!("a component has at most {max} bytes here");
        Error::new(ProblemKind::TooLarge, detail)
    };
    let component = body::read(request.into_body(), max, too_large).await?;
    let deployed = admin.deploy.deploy(&name, component, settings).await?;
    let deadline = deadline(query.timeout_ms, query.wait.is_some());
    // What was acknowledged must be there to be described.
    admin.control.read_index(deadline.into_std()).await?;
    if query.wait.is_some() {
        await_rollout(&admin, &name, deployed.number, deadline).await?;
    }
    let mut info = info(&admin, &name)?;
    info.new = Some(deployed.new);
    let status = if deployed.new {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    Ok((status, Json(info)))
}

fn settings(headers: &HeaderMap) -> Result<Option<Settings>> {
    let Some(value) = headers.get(SETTINGS_HEADER) else {
        return Ok(None);
    };
    if value.len() > SETTINGS_BYTES_MAX {
        let detail = format!("header {SETTINGS_HEADER} has at most {SETTINGS_BYTES_MAX} bytes");
        return Err(Error::new(ProblemKind::TooLarge, detail));
    }
    let mut json = serde_json::Deserializer::from_slice(value.as_bytes());
    let settings = serde_path_to_error::deserialize(&mut json);
    let settings =
        settings.map_err(|error| Error::invalid(format!("header {SETTINGS_HEADER}: {error}")))?;
    json.end()
        .map_err(|error| Error::invalid(format!("header {SETTINGS_HEADER}: {error}")))?;
    Ok(Some(settings))
}

async fn await_rollout(
    admin: &Admin,
    name: &ModuleName,
    number: u64,
    deadline: Instant,
) -> Result<()> {
    let mut applied = admin.control.applied();
    loop {
        let rolling = admin.control.read(|state| {
            let rollout = state.modules().get(name)?.about.rollout.as_ref()?;
            Some(rollout.version.number)
        });
        if rolling != Some(number) {
            return Ok(());
        }
        let changed = tokio::time::timeout_at(deadline, applied.changed()).await;
        if changed.is_err() {
            let detail = format!("version {number} of {name} is still being rolled out");
            return Err(Error::new(ProblemKind::Timeout, detail));
        }
    }
}

/// `GET /v1/modules/{module}`
pub(super) async fn describe(
    State(admin): State<Admin>,
    Module(name): Module,
) -> Result<Json<ModuleInfo>> {
    Ok(Json(info(&admin, &name)?))
}

/// `GET /v1/modules`
pub(super) async fn list(State(admin): State<Admin>) -> Json<ModuleList> {
    let names: Vec<ModuleName> = admin
        .control
        .read(|state| state.modules().keys().cloned().collect());
    let modules = names
        .iter()
        .filter_map(|name| info(&admin, name).ok())
        .collect();
    Json(ModuleList { modules })
}

/// `DELETE /v1/modules/{module}`
pub(super) async fn remove(
    State(admin): State<Admin>,
    Module(module): Module,
    Asked(query): Asked<RemoveModuleQuery>,
) -> Result<StatusCode> {
    let command = Command::RemoveModule {
        module,
        resources_too: query.force,
    };
    let outcome = admin
        .control
        .propose(command, deadline(None, false).into_std())
        .await?;
    outcome.accepted()?;
    Ok(StatusCode::NO_CONTENT)
}

fn info(admin: &Admin, name: &ModuleName) -> Result<ModuleInfo> {
    let module = admin.control.read(|state| {
        state
            .modules()
            .get(name)
            .map(|module| (module.about.clone(), counts(module)))
    });
    let unknown = || Error::from(call::Error::UnknownModule(name.to_string()));
    let (about, counts) = module.ok_or_else(unknown)?;
    let version = |version: &Version| version_info(admin, name, version);
    let nodes = counts.nodes.into_iter();
    Ok(ModuleInfo {
        module: name.clone(),
        version: version(&about.version),
        rollout: about.rollout.map(|rollout| RolloutInfo {
            version: version(&rollout.version),
            failed_on: rollout
                .failed_on
                .into_iter()
                .map(|(node, error)| FailedOn { node, error })
                .collect(),
        }),
        failed: about.failed.map(|failed| FailedVersion {
            version: version(&failed.version),
            error: failed.error,
        }),
        removing: about.removing,
        resources: counts.resources,
        slots: counts.slots,
        nodes: nodes
            .map(|(node, resources)| ModuleNode { node, resources })
            .collect(),
        new: None,
    })
}

struct Counts {
    resources: u64,
    slots: u64,
    nodes: BTreeMap<NodeId, u64>,
}

fn counts(module: &Deployed) -> Counts {
    let mut nodes = BTreeMap::new();
    for slot in module.slots.values() {
        if let Some(owner) = slot.owner {
            *nodes.entry(owner.node).or_default() += slot.resources.len() as u64;
        }
    }
    Counts {
        resources: module.resources.len() as u64,
        slots: module.slots.len() as u64,
        nodes,
    }
}

fn version_info(admin: &Admin, name: &ModuleName, version: &Version) -> VersionInfo {
    let module = admin.modules.ready(name, version);
    let module = module.as_ref();
    VersionInfo {
        number: version.number,
        digest: version.digest,
        size_bytes: version.size,
        deployed_at_ms: version.deployed_at_ms,
        settings: Settings::clone(&version.settings),
        lane: module.map(holdfast_runtime::Module::lane),
        exports: module.map(exports).unwrap_or_default(),
        imports: module
            .map(|module| module.imports().to_vec())
            .unwrap_or_default(),
    }
}

fn exports(module: &holdfast_runtime::Module) -> Vec<String> {
    let optional = [("invocation", module.exports().invocation)];
    let present = optional
        .into_iter()
        .filter_map(|(name, present)| present.then_some(name));
    ["resource-handler"]
        .into_iter()
        .chain(present)
        .map(str::to_owned)
        .collect()
}

/// When to stop waiting: what the caller says, within reason.
///
/// By default a change has time for an election or two; what a caller asked to wait for has more.
pub(super) fn deadline(timeout_ms: Option<u64>, waits: bool) -> Instant {
    let default = if waits { WAIT_DEFAULT } else { CHANGE_DEFAULT };
    Instant::now()
        + timeout_ms
            .map_or(default, Duration::from_millis)
            .min(WAIT_MAX)
}

const CHANGE_DEFAULT: Duration = Duration::from_secs(5);
const WAIT_DEFAULT: Duration = Duration::from_secs(30);
const WAIT_MAX: Duration = Duration::from_secs(600);
