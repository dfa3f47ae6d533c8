//! Resources: allocate, describe, list, deallocate.

use std::{collections::BTreeMap, ops::Bound, time::Duration};

use axum::{
    Json,
    extract::{Request, State},
    http::StatusCode,
    response::IntoResponse,
};
use futures_util::future::join_all;
use holdfast_cluster::state::{self, Allocation, Command, Resource as Stored, SlotState};
use holdfast_model::{
    ModuleName, NodeId, ResourceId, Spec, Token,
    api::{
        AllocateQuery, DeallocateQuery, Owner,
        ProblemKind::{
            self, Conflict, Internal, NoLeader, Quarantined, Superseded, Timeout, TooLarge,
            Unavailable, UnknownModule, UnknownResource,
        },
        ResourceInfo, ResourceList, ResourceStatus, ResourcesQuery,
    },
    call,
};
use tokio::time::Instant;

use super::{
    Admin, body, cursor,
    describe::{Problems, usual},
    error::{Error, Result},
    extract::{Asked, Module, NoQuery, Resource},
    modules::deadline,
};
use crate::{
    dispatch::{AwaitHeld, Report, Reports},
    rpc,
};

/// Allocate a resource, or change its spec
///
/// It is durable when it is answered. With `wait=held` a resource that its handler refuses answers `quarantined`; it
/// is allocated all the same then.
#[utoipa::path(
    put,
    path = "/v1/modules/{module}/resources/{id}",
    operation_id = "allocate_resource",
    tag = "resources",
    params(Resource, AllocateQuery),
    request_body(content = Spec, description = "What it is to do; an empty body is `{}`"),
    responses(
        (status = CREATED, description = "It is new", body = ResourceInfo),
        (status = OK, description = "It was there; another spec restarts its instance once", body = ResourceInfo),
        Problems<{ usual(&[TooLarge, UnknownModule, Conflict, Superseded, Quarantined, Unavailable, NoLeader, Timeout, Internal]) }>,
    )
)]
pub(super) async fn allocate(
    State(admin): State<Admin>,
    Resource(module, id): Resource,
    Asked(query): Asked<AllocateQuery>,
    request: Request,
) -> Result<impl IntoResponse> {
    let spec = body::spec(&admin.budget, request.into_body()).await?;
    let deadline = deadline(query.timeout_ms, query.wait.is_some());
    let late = |error: Error| error.unless_late(query.timeout_ms, deadline);
    let entries = vec![(id.clone(), spec.clone())];
    let allocated = admin.placement.allocate(&module, entries, deadline).await;
    let allocated = allocated.map_err(|error| late(error.into()))?;
    // What was acknowledged must be there to be described.
    let current = admin.control.read_index(deadline.into_std()).await;
    current.map_err(|error| late(Error::done_but(&error)))?;
    if query.wait.is_some() {
        await_held(&admin, &module, &id, &spec, deadline).await?;
    }
    let info = info(&admin, &module, &id).await.map_err(|error| {
        let undone = || undone(&module, &id, "it was deallocated since");
        let error = error.superseded(ProblemKind::UnknownResource, undone);
        error.superseded(ProblemKind::UnknownModule, undone)
    })?;
    let created = allocated.first() == Some(&Allocation::Created);
    let status = match created {
        true => StatusCode::CREATED,
        false => StatusCode::OK,
    };
    Ok((status, Json(info)))
}

async fn await_held(
    admin: &Admin,
    module: &ModuleName,
    id: &ResourceId,
    spec: &Spec,
    deadline: Instant,
) -> Result<()> {
    let key = || format!("{module}/{id}");
    loop {
        // What an instance of an earlier spec does is no answer, and with a later one that of the
        // caller is never held.
        let look = |state: &state::State| revision_with(state, module, id, spec);
        let superseded = |why| Error::new(ProblemKind::Superseded, undone(module, id, why));
        let revision = admin.control.read(look).map_err(superseded)?;
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            let detail = format!("{} is allocated, but not held yet", key());
            return Err(Error::new(ProblemKind::Timeout, detail));
        }
        let question = AwaitHeld {
            module: module.clone(),
            id: id.clone(),
            revision,
            // Short enough to notice that the resource went elsewhere.
            timeout: left.min(Duration::from_secs(1)),
        };
        let owner = admin.control.read(|state| owner_of(state, module, id));
        let status = match owner {
            None => None,
            Some(node) if node == admin.me => admin.dispatch.await_held(question).await,
            Some(node) => {
                let patience = left.min(Duration::from_secs(2));
                rpc::ask(&admin.peers, node, &question, patience)
                    .await
                    .ok()
                    .flatten()
            }
        };
        match status {
            Some(ResourceStatus::Held) => return Ok(()),
            Some(ResourceStatus::Quarantined) => {
                let info = info(admin, module, id).await?;
                let why = info
                    .last_error
                    .map(|error| error.message)
                    .unwrap_or_default();
                let detail = format!("{} is allocated, but {QUARANTINED}: {why}", key());
                return Err(Error::new(ProblemKind::Quarantined, detail));
            }
            _ => tokio::time::sleep(LOOK_AGAIN).await,
        }
    }
}

/// The revision of a resource that has this spec; else why no instance will have it.
fn revision_with(
    state: &state::State,
    module: &ModuleName,
    id: &ResourceId,
    spec: &Spec,
) -> Result<u64, &'static str> {
    let found = state.modules().get(module);
    let found = found.filter(|found| !found.about.removing);
    let found = found.ok_or("its module was removed since")?;
    match found.resources.get(id) {
        None => Err("it was deallocated since"),
        Some(resource) if resource.spec != *spec => Err("its spec was changed again since"),
        Some(resource) => Ok(resource.revision),
    }
}

fn undone(module: &ModuleName, id: &ResourceId, why: &str) -> String {
    format!("{module}/{id} was allocated, and {why}")
}

fn owner_of(state: &state::State, module: &ModuleName, id: &ResourceId) -> Option<NodeId> {
    Some(state.slot(module, id.slot())?.owner?.node)
}

/// Describe a resource
#[utoipa::path(
    get,
    path = "/v1/modules/{module}/resources/{id}",
    operation_id = "describe_resource",
    tag = "resources",
    params(Resource),
    responses(
        (status = OK, description = "The resource", body = ResourceInfo),
        Problems<{ usual(&[UnknownModule, UnknownResource, Unavailable, NoLeader, Internal]) }>,
    )
)]
pub(super) async fn describe(
    State(admin): State<Admin>,
    Resource(module, id): Resource,
    Asked(NoQuery {}): Asked<NoQuery>,
) -> Result<Json<ResourceInfo>> {
    Ok(Json(info(&admin, &module, &id).await?))
}

async fn info(admin: &Admin, module: &ModuleName, id: &ResourceId) -> Result<ResourceInfo> {
    let look = |state: &state::State| {
        let found = module_of(state, module)?;
        let unknown = || call::Error::UnknownResource(format!("{module}/{id}"));
        let resource = found.resources.get(id).ok_or_else(unknown)?;
        Ok((id.clone(), resource.clone(), slot_of(found, id)))
    };
    let stored = admin.look_up(look).await?;
    let mut infos = infos(admin, module, vec![stored]).await;
    infos
        .pop()
        .ok_or_else(|| Error::new(ProblemKind::Internal, "the resource got lost"))
}

pub(super) fn module_of<'a>(
    state: &'a state::State,
    module: &ModuleName,
) -> Result<&'a state::Module, call::Error> {
    let found = state.modules().get(module);
    found.ok_or_else(|| call::Error::UnknownModule(module.to_string()))
}

/// What a slot says of its resources, without the resources.
#[derive(Clone, Copy)]
struct Ownership {
    owner: Option<state::Owner>,
    moving: bool,
    token: Token,
}

fn slot_of(module: &state::Module, id: &ResourceId) -> Ownership {
    let ownership = |state: &SlotState| Ownership {
        owner: state.owner,
        moving: state.next.is_some(),
        token: state.token,
    };
    let nobody = Ownership {
        owner: None,
        moving: false,
        token: Token(0),
    };
    module.slots.get(&id.slot()).map_or(nobody, ownership)
}

/// Puts together what the state says of these resources and what their owners report.
async fn infos(
    admin: &Admin,
    module: &ModuleName,
    stored: Vec<(ResourceId, Stored, Ownership)>,
) -> Vec<ResourceInfo> {
    let mut by_owner: BTreeMap<NodeId, Vec<ResourceId>> = BTreeMap::new();
    for (id, _, ownership) in &stored {
        if let Some(owner) = ownership.owner {
            by_owner.entry(owner.node).or_default().push(id.clone());
        }
    }
    let live = admin.placement.live();
    let live = &live;
    let asked = by_owner.into_iter().map(|(node, ids)| async move {
        let question = Reports {
            module: module.clone(),
            ids,
        };
        let answer = if node == admin.me {
            Some(admin.dispatch.reports(&question))
        } else if live.contains(&node) {
            rpc::ask(&admin.peers, node, &question, REPORT).await.ok()
        } else {
            None
        };
        question
            .ids
            .into_iter()
            .zip(answer.into_iter().flatten())
            .collect::<Vec<_>>()
    });
    let reports: BTreeMap<ResourceId, Option<Report>> =
        join_all(asked).await.into_iter().flatten().collect();
    let describe = |(id, resource, ownership): (ResourceId, Stored, Ownership)| {
        let report = reports.get(&id);
        let status = match (ownership.owner, report) {
            (None, _) => ResourceStatus::Unowned,
            (Some(_), None) => ResourceStatus::Unreachable,
            (Some(_), Some(Some(report))) => report.status,
            (Some(_), Some(None)) if ownership.moving => ResourceStatus::Moving,
            (Some(_), Some(None)) => ResourceStatus::Starting,
        };
        let report = report.cloned().flatten();
        let report = report.as_ref();
        ResourceInfo {
            module: module.clone(),
            slot: id.slot(),
            spec: resource.spec,
            allocated_at_ms: resource.allocated_at_ms,
            owner: ownership.owner.map(|o| Owner {
                node: o.node,
                incarnation: o.incarnation,
            }),
            token: ownership.token,
            status,
            attempt: report.map_or(0, |report| report.attempt),
            restarts: report.map_or(0, |report| report.restarts),
            held_since_ms: report.and_then(|report| report.held_since_ms),
            last_error: report.and_then(|report| report.last_error.clone()),
            version: report.and_then(|report| report.version),
            in_flight: report.map_or(0, |report| report.in_flight),
            waiting: report.map_or(0, |report| report.waiting),
            id,
        }
    };
    stored.into_iter().map(describe).collect()
}

/// List resources
///
/// A page may have fewer than `limit` before the last, even none: where few resources pass a filter, it ends after
/// a bounded search.
#[utoipa::path(
    get,
    path = "/v1/modules/{module}/resources",
    operation_id = "list_resources",
    tag = "resources",
    params(Module, ResourcesQuery),
    responses(
        (status = OK, description = "A page of resources, in the order of their ids", body = ResourceList),
        Problems<{ usual(&[UnknownModule, Unavailable, NoLeader]) }>,
    )
)]
pub(super) async fn list(
    State(admin): State<Admin>,
    Module(module): Module,
    Asked(query): Asked<ResourcesQuery>,
) -> Result<Json<ResourceList>> {
    let limit = query.limit.unwrap_or(ResourcesQuery::LIMIT_DEFAULT);
    if !(1..=ResourcesQuery::LIMIT_MAX).contains(&limit) {
        let detail = format!(
            "limit must be 1 to {}, not {limit}",
            ResourcesQuery::LIMIT_MAX
        );
        return Err(Error::invalid(detail));
    }
    let limit = limit as usize;
    let mut after = match &query.cursor {
        None => Bound::Unbounded,
        Some(cursor) => Bound::Excluded(cursor::read(cursor)?),
    };
    // A filter by status is applied to what owners report: few may pass, so many are asked for.
    let statuses = query.status.as_ref();
    let asked_for = statuses.map_or(limit, |_| limit.max(REPORTS_MIN));
    let mut resources: Vec<ResourceInfo> = Vec::new();
    // The last resource looked at, while there are more.
    let mut last = None;
    for _ in 0..ROUNDS_MAX {
        let look = |state: &state::State| page(state, &module, &after, query.node, asked_for);
        let (stored, end) = admin.look_up(look).await?;
        last = end;
        let found = infos(&admin, &module, stored).await;
        let wanted =
            |info: &ResourceInfo| statuses.is_none_or(|wanted| wanted.contains(info.status));
        let mut found = found.into_iter().filter(wanted);
        resources.extend(found.by_ref().take(limit - resources.len()));
        if found.next().is_some() {
            last = resources.last().map(|info| info.id.clone());
        }
        match &last {
            Some(last) if resources.len() < limit => after = Bound::Excluded(last.clone()),
            _ => break,
        }
    }
    let next_cursor = last.as_ref().map(cursor::after);
    Ok(Json(ResourceList {
        resources,
        next_cursor,
    }))
}

type Page = (Vec<(ResourceId, Stored, Ownership)>, Option<ResourceId>);

/// The next resources in the order of their ids, and the last one looked at if there are more.
fn page(
    state: &state::State,
    module: &ModuleName,
    after: &Bound<ResourceId>,
    node: Option<NodeId>,
    limit: usize,
) -> Result<Page, call::Error> {
    let found = module_of(state, module)?;
    let mut stored = Vec::new();
    let mut range = found.resources.range((after.clone(), Bound::Unbounded));
    let mut last = None;
    for (id, resource) in range.by_ref().take(SCAN_MAX) {
        last = Some(id.clone());
        let ownership = slot_of(found, id);
        if node.is_none_or(|node| ownership.owner.is_some_and(|owner| owner.node == node)) {
            stored.push((id.clone(), resource.clone(), ownership));
        }
        if stored.len() == limit {
            break;
        }
    }
    let more = range.next().is_some();
    Ok((stored, last.filter(|_| more)))
}

/// Deallocate a resource
#[utoipa::path(
    delete,
    path = "/v1/modules/{module}/resources/{id}",
    operation_id = "deallocate_resource",
    tag = "resources",
    params(Resource, DeallocateQuery),
    responses(
        (status = NO_CONTENT, description = "It is no more, and with `wait` neither is its instance; also when there was none"),
        Problems<{ usual(&[UnknownModule, Superseded, Unavailable, NoLeader, Timeout]) }>,
    )
)]
pub(super) async fn deallocate(
    State(admin): State<Admin>,
    Resource(module, id): Resource,
    Asked(query): Asked<DeallocateQuery>,
) -> Result<StatusCode> {
    let deadline = deadline(query.timeout_ms, query.wait.is_some());
    let late = |error: Error| error.unless_late(query.timeout_ms, deadline);
    let command = Command::Deallocate {
        module: module.clone(),
        ids: vec![id.clone()],
    };
    admin
        .control
        .propose(command, deadline.into_std())
        .await
        .map_err(|error| late(error.into()))?
        .accepted()?;
    if query.wait.is_some() {
        let gone = await_gone(&admin, &module, &id, deadline).await;
        gone.map_err(late)?;
    }
    Ok(StatusCode::NO_CONTENT)
}

/// Waits until the instance of a deallocated resource has ended: the slot's owner, whoever that is
/// by then, has none. A slot changes its owner only after the instances in it have ended, or died
/// with their node.
async fn await_gone(
    admin: &Admin,
    module: &ModuleName,
    id: &ResourceId,
    deadline: Instant,
) -> Result<()> {
    let question = Reports {
        module: module.clone(),
        ids: vec![id.clone()],
    };
    // Before that the state may name an owner of old, or none yet.
    let current = admin.control.read_index(deadline.into_std()).await;
    current.map_err(|error| Error::done_but(&error))?;
    loop {
        let (present, owner) = admin.control.read(|state| {
            let present = state.resource(module, id).is_some();
            (present, owner_of(state, module, id))
        });
        let reports = match owner {
            None => Some(Vec::new()),
            Some(owner) if owner == admin.me => Some(admin.dispatch.reports(&question)),
            Some(owner) => {
                let left = deadline.saturating_duration_since(Instant::now());
                let asked = rpc::ask(&admin.peers, owner, &question, left.min(REPORT));
                asked.await.ok()
            }
        };
        // Its instance is not told from the one before, which may have ended or may be replaced.
        if present {
            let detail = format!("{module}/{id} was deallocated, and was allocated again since");
            return Err(Error::new(ProblemKind::Superseded, detail));
        }
        if reports.is_some_and(|reports| reports.iter().all(Option::is_none)) {
            return Ok(());
        }
        if Instant::now() + LOOK_AGAIN >= deadline {
            let detail = format!("{module}/{id} is deallocated, but has not ended yet");
            return Err(Error::new(ProblemKind::Timeout, detail));
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// What becomes of a resource that its handler has refused for good.
const QUARANTINED: &str = "quarantined until its spec or its module changes";

/// How long an owner may take to report.
const REPORT: Duration = Duration::from_secs(2);

/// How soon to look again for something that nobody announces.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// For how many resources at least owners are asked at once when a list wants a certain status.
const REPORTS_MIN: usize = 1_000;

/// How many times owners are asked for one page, which is short then.
const ROUNDS_MAX: usize = 10;

/// How many resources one look at the state passes over at most.
const SCAN_MAX: usize = 10_000;
