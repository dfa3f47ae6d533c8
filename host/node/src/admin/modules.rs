//! Modules: deploy, describe, list, remove.

use std::{collections::BTreeMap, time::Duration};

use axum::{
    Json,
    extract::{Request, State},
    http::{HeaderMap, StatusCode},
    response::IntoResponse,
};
use futures_util::future::join_all;
use holdfast_cluster::{
    rollout::Compiled,
    state::{self, Command, Module as Deployed, ModuleAbout, Version},
};
use holdfast_model::{
    ModuleName, NodeId, Settings,
    api::{
        DeployQuery, FailedOn, FailedVersion, ModuleInfo, ModuleList, ModuleNode,
        ProblemKind::{
            self, Conflict, Internal, NoLeader, RejectedComponent, Superseded, Timeout, TooLarge,
            Unavailable, UnknownModule,
        },
        RemoveModuleQuery, RolloutInfo, SETTINGS_BYTES_MAX, SETTINGS_HEADER, VersionInfo, WASM,
    },
};
use tokio::time::Instant;
use utoipa::{
    IntoParams, ToSchema as _,
    openapi::{
        Content, Ref, Required,
        path::{Parameter, ParameterBuilder, ParameterIn},
    },
};

use super::{
    Admin, body,
    describe::{Problems, usual},
    error::{Error, Result},
    extract::{Asked, Module, NoQuery},
    resources::module_of,
};
use crate::{dispatch::CompiledYet, rpc};

/// Deploy a module
///
/// Makes a version of it. Every node that has some of its resources tries a new version on a few of them first,
/// and the cluster gives it up where it can hold none: `wait=serving` answers when that is decided. Look at `version` and `failed` then.
#[utoipa::path(
    put,
    path = "/v1/modules/{module}",
    operation_id = "deploy_module",
    tag = "modules",
    params(Module, DeployQuery, GivenSettings),
    request_body(content = serde_json::Value, content_type = WASM, description = "A component"),
    responses(
        (status = CREATED, description = "It made a version", body = ModuleInfo),
        (status = OK, description = "This very component and these settings serve or roll out already", body = ModuleInfo),
        Problems<{ usual(&[TooLarge, RejectedComponent, Conflict, Superseded, Unavailable, NoLeader, Timeout, Internal]) }>,
    )
)]
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
    let component = body::read(&admin.budget, None, request.into_body(), max, too_large).await?;
    let patience = query
        .timeout_ms
        .map_or(DEPLOY_DEFAULT, Duration::from_millis);
    let deadline = Instant::now() + patience.min(WAIT_MAX);
    let late = |error: Error| error.unless_late(query.timeout_ms, deadline);
    let deployed = admin.deploy.deploy(&name, component, settings, deadline);
    let deployed = deployed.await?;
    // What was acknowledged must be there to be described.
    let current = admin.control.read_index(deadline.into_std()).await;
    current.map_err(|error| late(Error::done_but(&error)))?;
    if query.wait.is_some() {
        await_rollout(&admin, &name, deployed.number, deadline).await?;
    }
    let mut info = info(&admin, &name).await.map_err(|error| {
        error.superseded(ProblemKind::UnknownModule, || {
            removed(&name, deployed.number)
        })
    })?;
    info.new = Some(deployed.new);
    info.deployed = Some(deployed.number);
    let status = if deployed.new {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    Ok((status, Json(info)))
}

/// The header with the settings of a deployment.
struct GivenSettings;

impl IntoParams for GivenSettings {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let content = Content::new(Some(Ref::from_schema_name(Settings::name())));
        let header = ParameterBuilder::new()
            .name(SETTINGS_HEADER)
            .parameter_in(ParameterIn::Header)
            .required(Required::False)
            .description(Some(format!(
                "The settings, in ASCII (other characters as `\\u` escapes) and at most \
                 {SETTINGS_BYTES_MAX} bytes. What they leave out has its default. Without the header \
                 the module keeps those that it has."
            )))
            .content("application/json", content);
        vec![header.build()]
    }
}

fn settings(headers: &HeaderMap) -> Result<Option<Settings>> {
    let Some(value) = headers.get(SETTINGS_HEADER) else {
        return Ok(None);
    };
    if value.len() > SETTINGS_BYTES_MAX {
        let detail = format!("header {SETTINGS_HEADER} has at most {SETTINGS_BYTES_MAX} bytes");
        return Err(Error::new(ProblemKind::TooLarge, detail));
    }
    body::json(&format!("header {SETTINGS_HEADER}"), value.as_bytes()).map(Some)
}

/// What has become of a version while somebody waits for it.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    /// It is being tried.
    Open,
    /// It serves, or was given up: the module's description says which.
    Decided,
    /// Another version was deployed, which took its place whether it served before or not.
    Replaced(u64),
    /// The module is gone, or about to be.
    Removed,
}

impl Fate {
    fn of(module: Option<&ModuleAbout>, number: u64) -> Self {
        let Some(about) = module.filter(|about| !about.removing) else {
            return Self::Removed;
        };
        let failed = about.failed.as_ref().map(|failed| failed.version.number);
        let tried = about.rollout.as_ref().map(|tried| tried.version.number);
        let later = [Some(about.version.number), tried, failed].into_iter();
        match later.flatten().filter(|later| *later > number).max() {
            _ if about.version.number == number || failed == Some(number) => Self::Decided,
            Some(later) => Self::Replaced(later),
            None if tried == Some(number) => Self::Open,
            // A module that was removed and deployed again counts anew.
            None => Self::Removed,
        }
    }
}

async fn await_rollout(
    admin: &Admin,
    name: &ModuleName,
    number: u64,
    deadline: Instant,
) -> Result<()> {
    let mut applied = admin.control.applied();
    let superseded = |detail| Err(Error::new(ProblemKind::Superseded, detail));
    loop {
        let fate = admin.control.read(|state| {
            let module = state.modules().get(name);
            Fate::of(module.map(|module| &module.about), number)
        });
        match fate {
            Fate::Open => {}
            Fate::Decided => return Ok(()),
            Fate::Replaced(later) => {
                return superseded(format!(
                    "version {number} of {name} is deployed, and version {later} has taken its place"
                ));
            }
            Fate::Removed => return superseded(removed(name, number)),
        }
        let changed = tokio::time::timeout_at(deadline, applied.changed()).await;
        if changed.is_err() {
            let detail = format!("version {number} of {name} is still being rolled out");
            return Err(Error::new(ProblemKind::Timeout, detail));
        }
    }
}

fn removed(name: &ModuleName, number: u64) -> String {
    format!("version {number} of {name} was deployed, and the module has been removed since")
}

/// Describe a module
#[utoipa::path(
    get,
    path = "/v1/modules/{module}",
    operation_id = "describe_module",
    tag = "modules",
    params(Module),
    responses(
        (status = OK, description = "The module", body = ModuleInfo),
        Problems<{ usual(&[UnknownModule, Unavailable, NoLeader]) }>,
    )
)]
pub(super) async fn describe(
    State(admin): State<Admin>,
    Module(name): Module,
    Asked(NoQuery {}): Asked<NoQuery>,
) -> Result<Json<ModuleInfo>> {
    Ok(Json(info(&admin, &name).await?))
}

/// List modules
#[utoipa::path(
    get,
    path = "/v1/modules",
    operation_id = "list_modules",
    tag = "modules",
    responses(
        (status = OK, description = "All modules, by name", body = ModuleList),
        Problems<{ usual(&[Unavailable]) }>,
    )
)]
pub(super) async fn list(
    State(admin): State<Admin>,
    Asked(NoQuery {}): Asked<NoQuery>,
) -> Result<Json<ModuleList>> {
    admin.joined()?;
    let found: Vec<_> = admin.control.read(|state| {
        let modules = state.modules().iter();
        modules
            .map(|(name, module)| (name.clone(), Found::of(module)))
            .collect()
    });
    let modules = found
        .into_iter()
        .map(|(name, found)| found.describe(&admin, &name))
        .collect();
    Ok(Json(ModuleList { modules }))
}

/// Remove a module
///
/// It is shown as `removing` until its last instance has ended, and takes neither allocations nor deployments
/// meanwhile.
#[utoipa::path(
    delete,
    path = "/v1/modules/{module}",
    operation_id = "remove_module",
    tag = "modules",
    params(Module, RemoveModuleQuery),
    responses(
        (status = NO_CONTENT, description = "It is decided, and with `wait` the module is gone"),
        Problems<{ usual(&[UnknownModule, Conflict, Unavailable, NoLeader, Timeout]) }>,
    )
)]
pub(super) async fn remove(
    State(admin): State<Admin>,
    Module(module): Module,
    Asked(query): Asked<RemoveModuleQuery>,
) -> Result<StatusCode> {
    let deadline = deadline(query.timeout_ms, query.wait.is_some());
    let late = |error: Error| error.unless_late(query.timeout_ms, deadline);
    let command = Command::RemoveModule {
        module: module.clone(),
        resources_too: query.force,
    };
    let outcome = admin.control.propose(command, deadline.into_std()).await;
    let outcome = outcome.map_err(|error| late(error.into()))?;
    outcome.accepted()?;
    if query.wait.is_some() {
        let gone = await_gone(&admin, &module, deadline).await;
        gone.map_err(late)?;
    }
    Ok(StatusCode::NO_CONTENT)
}

/// Waits until a module that is being removed is gone; one that was deployed anew under its name
/// is another.
async fn await_gone(admin: &Admin, name: &ModuleName, deadline: Instant) -> Result<()> {
    let current = admin.control.read_index(deadline.into_std()).await;
    current.map_err(|error| Error::done_but(&error))?;
    let mut applied = admin.control.applied();
    loop {
        let left = admin.control.read(|state| {
            let module = state.modules().get(name)?;
            module.about.removing.then_some(module.slots.len())
        });
        let Some(left) = left else {
            return Ok(());
        };
        let changed = tokio::time::timeout_at(deadline, applied.changed()).await;
        if changed.is_err() {
            let detail =
                format!("{name} is being removed, and instances of {left} slots still end");
            return Err(Error::new(ProblemKind::Timeout, detail));
        }
    }
}

async fn info(admin: &Admin, name: &ModuleName) -> Result<ModuleInfo> {
    let look = |state: &state::State| module_of(state, name).map(Found::of);
    let mut info = admin.look_up(look).await?.describe(admin, name);
    let behind = join_all(
        info.nodes
            .iter()
            .map(|owner| behind(admin, &info, owner.node)),
    );
    let behind = behind.await;
    for (owner, behind) in info.nodes.iter_mut().zip(behind) {
        owner.behind = behind;
    }
    Ok(info)
}

/// Why an owner does not run the version that serves, if it says so.
async fn behind(admin: &Admin, info: &ModuleInfo, owner: NodeId) -> Option<String> {
    let question = CompiledYet {
        module: info.module.clone(),
        number: info.version.number,
    };
    let (compiled, why) = if owner == admin.me {
        admin.dispatch.compiled_yet(&question)
    } else {
        rpc::ask(&admin.peers, owner, &question, ASK).await.ok()?
    };
    match compiled {
        Compiled::Yes => None,
        Compiled::NotYet => Some("it is being compiled there".to_owned()),
        Compiled::Unable => why,
    }
}

/// What the state says of a module.
struct Found {
    about: ModuleAbout,
    resources: u64,
    slots: u64,
    nodes: BTreeMap<NodeId, u64>,
}

impl Found {
    fn of(module: &Deployed) -> Self {
        let mut nodes = BTreeMap::new();
        for slot in module.slots.values() {
            if let Some(owner) = slot.owner {
                *nodes.entry(owner.node).or_default() += slot.resources.len() as u64;
            }
        }
        Self {
            about: module.about.clone(),
            resources: module.resources.len() as u64,
            slots: module.slots.len() as u64,
            nodes,
        }
    }

    fn describe(self, admin: &Admin, name: &ModuleName) -> ModuleInfo {
        let version = |version: &Version| version_info(admin, name, version);
        let nodes = self.nodes.into_iter();
        ModuleInfo {
            module: name.clone(),
            version: version(&self.about.version),
            rollout: self.about.rollout.map(|rollout| RolloutInfo {
                version: version(&rollout.version),
                failed_on: rollout
                    .failed_on
                    .into_iter()
                    .map(|(node, error)| FailedOn { node, error })
                    .collect(),
            }),
            failed: self.about.failed.map(|failed| FailedVersion {
                version: version(&failed.version),
                error: failed.error,
            }),
            removing: self.about.removing,
            resources: self.resources,
            slots: self.slots,
            nodes: nodes
                .map(|(node, resources)| ModuleNode {
                    node,
                    resources,
                    behind: None,
                })
                .collect(),
            new: None,
            deployed: None,
        }
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

/// How long an owner may take to say whether it runs the version that serves.
const ASK: Duration = Duration::from_secs(1);

/// How long a deployment may take: it compiles, and the machine may have others to compile.
const DEPLOY_DEFAULT: Duration = Duration::from_secs(300);
const CHANGE_DEFAULT: Duration = Duration::from_secs(5);
const WAIT_DEFAULT: Duration = Duration::from_secs(30);
const WAIT_MAX: Duration = Duration::from_secs(600);

#[cfg(test)]
mod tests;
