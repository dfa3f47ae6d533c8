//! The cluster: its summary, nodes and slots; draining and removing nodes.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use axum::{Json, body::Body, extract::State, http::StatusCode};
use futures_util::future::join_all;
use holdfast_cluster::{
    ring::Ring,
    state::{self, Command, Refused, Standing},
    voters,
};
use holdfast_model::{
    ClusterId, NodeId,
    api::{
        ChangeNode, ClusterInfo, DrainQuery, NoMajority, NodeCondition, NodeCounts, NodeInfo,
        NodeList, NodeStatus, Owner,
        ProblemKind::{
            self, Conflict, NoLeader, Superseded, Timeout, TooLarge, Unavailable, UnknownModule,
            UnknownNode,
        },
        RemoveNodeQuery, ResourceCounts, ResourceStatus, RestartQuery, SlotInfo, SlotList,
        SlotsQuery,
    },
};
use tokio::time::Instant;

use super::{
    Admin, body,
    describe::{Problems, usual},
    error::{Error, Result},
    extract::{Asked, NoQuery, Node},
    look_up::not_joined,
    modules::deadline,
    resources::module_of,
};
use crate::{
    clock::now_ms,
    dispatch::{Counts, CountsOf},
    placement::ConditionsOf,
    rpc,
};

/// Describe the cluster
///
/// Counts of resources come from their owners.
#[utoipa::path(
    get,
    path = "/v1/cluster",
    operation_id = "describe_cluster",
    tag = "cluster",
    responses(
        (status = OK, description = "The cluster at a glance", body = ClusterInfo),
        Problems<{ usual(&[Unavailable]) }>,
    )
)]
pub(super) async fn describe(
    State(admin): State<Admin>,
    Asked(NoQuery {}): Asked<NoQuery>,
) -> Result<Json<ClusterInfo>> {
    let nodes = node_infos(&admin).await;
    let counts = counts(&admin).await;
    let lead = *admin.control.leadership().borrow();
    let members = admin.control.members();
    let mut node_counts = NodeCounts::default();
    for node in &nodes {
        node_counts.add(node.status);
    }
    let stale = admin.placement.stale().is_some();
    let live = admin.placement.live();
    // During a change, both the old and the new voters have to be able to decide.
    let survived = members
        .quorums
        .iter()
        .map(|quorum| voters::survivable_losses(quorum.len(), quorum.intersection(&live).count()));
    let survived = survived.min().unwrap_or(0);
    let resources = resource_counts(&admin, &counts);
    admin.control.read(|state| {
        let cluster = state.cluster().ok_or_else(not_joined)?;
        Ok(Json(ClusterInfo {
            id: ClusterId(cluster.id.0),
            name: cluster.name.clone(),
            epoch: state.epoch(),
            leader: lead.leader,
            term: lead.term,
            losses_survived: u32::try_from(survived).unwrap_or(u32::MAX),
            failover_ms_max: admin.placement.failover_max().as_millis() as u64,
            voters: members.voters.iter().copied().collect(),
            nodes: node_counts,
            modules: state.modules().len() as u64,
            resources,
            stale,
            no_majority: no_majority(&admin),
        }))
    })
}

/// What every live node counts of its own resources.
async fn counts(admin: &Admin) -> BTreeMap<NodeId, Counts> {
    let asked = admin.placement.live().into_iter().map(|node| async move {
        let counts = if node == admin.me {
            Some(admin.dispatch.counts())
        } else {
            rpc::ask(&admin.peers, node, &CountsOf, ASK).await.ok()
        };
        Some((node, counts?))
    });
    join_all(asked).await.into_iter().flatten().collect()
}

/// Counts what nodes report, and by the state what none reports.
fn resource_counts(admin: &Admin, counts: &BTreeMap<NodeId, Counts>) -> ResourceCounts {
    let mut all = ResourceCounts::default();
    let mut reported: BTreeMap<NodeId, u64> = BTreeMap::new();
    for (node, counts) in counts {
        for (status, count) in counts {
            all.add(*status, *count);
            *reported.entry(*node).or_default() += count;
        }
    }
    let (owned, unowned) = owned(admin);
    all.add(ResourceStatus::Unowned, unowned);
    for (node, count) in owned {
        match reported.get(&node) {
            None => all.add(ResourceStatus::Unreachable, count),
            // What it owns and does not count yet is about to start.
            Some(known) => all.add(ResourceStatus::Starting, count.saturating_sub(*known)),
        }
    }
    all
}

/// How many resources each node owns by the state, and how many nobody does.
fn owned(admin: &Admin) -> (BTreeMap<NodeId, u64>, u64) {
    admin.control.read(|state| {
        let mut owned = BTreeMap::new();
        let mut unowned = 0;
        for slot in state
            .modules()
            .values()
            .flat_map(|module| module.slots.values())
        {
            let resources = slot.resources.len() as u64;
            match slot.owner {
                Some(owner) => *owned.entry(owner.node).or_default() += resources,
                None => unowned += resources,
            }
        }
        (owned, unowned)
    })
}

/// List nodes
#[utoipa::path(
    get,
    path = "/v1/cluster/nodes",
    operation_id = "list_nodes",
    tag = "nodes",
    responses(
        (status = OK, description = "All nodes, dead ones included until they are removed", body = NodeList),
        Problems<{ usual(&[Unavailable]) }>,
    )
)]
pub(super) async fn nodes(
    State(admin): State<Admin>,
    Asked(NoQuery {}): Asked<NoQuery>,
) -> Result<Json<NodeList>> {
    admin.joined()?;
    let nodes = node_infos(&admin).await;
    Ok(Json(NodeList {
        nodes,
        no_majority: no_majority(&admin),
    }))
}

fn no_majority(admin: &Admin) -> Option<NoMajority> {
    let lost = admin.placement.lost_quorum()?;
    Some(NoMajority {
        since_ms: now_ms().saturating_sub(lost.silent.as_millis() as u64),
        missing: lost.missing.into_iter().collect(),
    })
}

async fn node_infos(admin: &Admin) -> Vec<NodeInfo> {
    let live = admin.placement.live();
    let (counts, mut conditions) = tokio::join!(counts(admin), conditions(admin, &live));
    let (owned, _) = owned(admin);
    let leader = admin.control.leadership().borrow().leader;
    let members = admin.control.members();
    let nodes = admin.control.read(|state| state.nodes().clone());
    let present = nodes
        .into_iter()
        .filter(|(_, node)| node.standing != Standing::Removed);
    present
        .map(|(id, node)| NodeInfo {
            node: id,
            incarnation: node.incarnation,
            status: status(node.standing, live.contains(&id)),
            addr: node.about.addr,
            http: node.about.http,
            weight: node.weight,
            zone: node.about.zone,
            labels: node.about.labels,
            version: node.about.version.to_string(),
            voter: members.voters.contains(&id),
            leader: leader == Some(id),
            this: id == admin.me,
            resources: owned.get(&id).copied().unwrap_or(0),
            held: counts
                .get(&id)
                .map(|counts| counts.get(&ResourceStatus::Held).copied().unwrap_or(0)),
            joined_at_ms: node.joined_at_ms,
            conditions: conditions.remove(&id).unwrap_or_default(),
        })
        .collect()
}

/// The conditions of every node: as it says itself, else as the leader does.
async fn conditions(
    admin: &Admin,
    live: &BTreeSet<NodeId>,
) -> BTreeMap<NodeId, Vec<NodeCondition>> {
    let asked = live.iter().map(|node| async move {
        let told = if *node == admin.me {
            Some(admin.placement.conditions())
        } else {
            rpc::ask(&admin.peers, *node, &ConditionsOf, ASK).await.ok()
        };
        Some((*node, told?))
    });
    let told: Vec<_> = join_all(asked).await.into_iter().flatten().collect();
    let mut conditions = BTreeMap::new();
    let of_others = told.iter().flat_map(|(_, told)| &told.others);
    for (node, condition) in of_others {
        conditions.insert(*node, vec![condition.clone()]);
    }
    for (node, told) in told {
        conditions.insert(node, told.own);
    }
    conditions
}

fn status(standing: Standing, live: bool) -> NodeStatus {
    match (standing, live) {
        (Standing::Down | Standing::Removed, _) => NodeStatus::Down,
        (Standing::Restarting, _) => NodeStatus::Restarting,
        (_, false) => NodeStatus::Unreachable,
        (Standing::Draining, true) => NodeStatus::Draining,
        (Standing::Active, true) => NodeStatus::Active,
    }
}

/// Change a node while it runs
///
/// Resources move by a new weight at once.
#[utoipa::path(
    patch,
    path = "/v1/cluster/nodes/{node}",
    operation_id = "change_node",
    tag = "nodes",
    params(Node),
    request_body(content = ChangeNode, description = "What is to change"),
    responses(
        (status = OK, description = "The node", body = NodeInfo),
        Problems<{ usual(&[TooLarge, UnknownNode, Conflict, Unavailable, NoLeader]) }>,
    )
)]
pub(super) async fn change_node(
    State(admin): State<Admin>,
    Node(node): Node,
    Asked(NoQuery {}): Asked<NoQuery>,
    body: Body,
) -> Result<Json<NodeInfo>> {
    let too_large = || {
        let detail = format!("a change of a node has at most {CHANGE_BYTES_MAX} bytes");
        Error::new(ProblemKind::TooLarge, detail)
    };
    let body = body::read(&admin.budget, None, body, CHANGE_BYTES_MAX, too_large).await?;
    let ChangeNode { weight } = body::json("the body", &body)?;
    if let Some(weight) = weight {
        let deadline = deadline(None, false).into_std();
        let command = Command::Weigh { node, weight };
        admin.control.propose(command, deadline).await?.accepted()?;
        let current = admin.control.read_index(deadline).await;
        current.map_err(|error| Error::done_but(&error))?;
    }
    admin.known(node).await?;
    info(&admin, node).await.map(Json)
}

/// Drain a node
///
/// Moves everything away from it and gives it nothing new. What was said last counts.
#[utoipa::path(
    post,
    path = "/v1/cluster/nodes/{node}/drain",
    operation_id = "drain_node",
    tag = "nodes",
    params(Node, DrainQuery),
    responses(
        (status = OK, description = "The node", body = NodeInfo),
        Problems<{ usual(&[UnknownNode, Conflict, Superseded, Unavailable, NoLeader, Timeout]) }>,
    )
)]
pub(super) async fn drain(
    State(admin): State<Admin>,
    Node(node): Node,
    Asked(query): Asked<DrainQuery>,
) -> Result<Json<NodeInfo>> {
    if query.cancel && query.deadline_ms.is_some() {
        return Err(Error::invalid(
            "a drain that ends has no deadline: give cancel or deadline_ms",
        ));
    }
    let deadline = deadline(query.timeout_ms, query.wait.is_some());
    let late = |error: Error| error.unless_late(query.timeout_ms, deadline);
    let command = Command::Drain {
        node,
        draining: !query.cancel,
        deadline_ms: query.deadline_ms,
    };
    admin
        .control
        .propose(command, deadline.into_std())
        .await
        .map_err(|error| late(error.into()))?
        .accepted()?;
    let current = admin.control.read_index(deadline.into_std()).await;
    current.map_err(|error| late(Error::done_but(&error)))?;
    if query.wait.is_some() && !query.cancel {
        await_empty(&admin, node, deadline).await?;
    }
    info(&admin, node).await.map(Json)
}

/// Restart a node
///
/// It ends what it holds, puts a new run of its program in the place of its process, and takes back what it had. The
/// program is the file that its command line named, as it is now. One that cannot be started is a `conflict`, and the
/// node goes on as it is.
#[utoipa::path(
    post,
    path = "/v1/cluster/nodes/{node}/restart",
    operation_id = "restart_node",
    tag = "nodes",
    params(Node, RestartQuery),
    responses(
        (status = ACCEPTED, description = "The node as it was: it is back when its `incarnation` is larger", body = NodeInfo),
        Problems<{ usual(&[UnknownNode, Conflict, Unavailable, NoLeader]) }>,
    )
)]
pub(super) async fn restart(
    State(admin): State<Admin>,
    Node(node): Node,
    Asked(query): Asked<RestartQuery>,
) -> Result<(StatusCode, Json<NodeInfo>)> {
    let version = query.expect_version.as_deref();
    let version = version.map(semver::Version::parse).transpose();
    let version = version.map_err(|error| Error::invalid(format!("expect_version: {error}")))?;
    admin.known(node).await?;
    let before = info(&admin, node).await?;
    admin.restarts.restart(node, version).await?;
    Ok((StatusCode::ACCEPTED, Json(before)))
}

async fn info(admin: &Admin, node: NodeId) -> Result<NodeInfo> {
    let found = node_infos(admin)
        .await
        .into_iter()
        .find(|info| info.node == node);
    found.ok_or_else(|| Refused::UnknownNode(node).into())
}

/// Waits until a draining node owns nothing. One that dies meanwhile loses the rest to others.
async fn await_empty(admin: &Admin, node: NodeId, deadline: Instant) -> Result<()> {
    let mut applied = admin.control.applied();
    let superseded = |why| {
        let detail = format!("node {node} was told to drain, and {why}");
        Err(Error::new(ProblemKind::Superseded, detail))
    };
    loop {
        let standing = admin
            .control
            .read(|state| state.nodes().get(&node).map(|known| known.standing));
        let left = owned(admin).0.get(&node).copied().unwrap_or(0);
        match standing {
            None | Some(Standing::Removed) => return superseded("was removed since"),
            Some(Standing::Draining | Standing::Down) if left == 0 => return Ok(()),
            Some(Standing::Draining | Standing::Down) => {}
            Some(Standing::Active) => return superseded("its drain was ended since"),
            Some(Standing::Restarting) => return superseded("restarts, which ends its drain"),
        }
        if tokio::time::timeout_at(deadline, applied.changed())
            .await
            .is_err()
        {
            let detail = format!("node {node} is draining, and still has {left} resources");
            return Err(Error::new(ProblemKind::Timeout, detail));
        }
    }
}

/// Remove a node for good
///
/// Without `confirm_dead` only a node that is draining, restarting or down and owns nothing is removed. The node itself ends
/// when it hears of it.
#[utoipa::path(
    delete,
    path = "/v1/cluster/nodes/{node}",
    operation_id = "remove_node",
    tag = "nodes",
    params(Node, RemoveNodeQuery),
    responses(
        (status = NO_CONTENT, description = "It is removed for good"),
        Problems<{ usual(&[UnknownNode, Conflict, Unavailable, NoLeader]) }>,
    )
)]
pub(super) async fn remove_node(
    State(admin): State<Admin>,
    Node(node): Node,
    Asked(query): Asked<RemoveNodeQuery>,
) -> Result<StatusCode> {
    let deadline = deadline(None, false).into_std();
    admin.control.read_index(deadline).await?;
    let known = admin.control.read(|state| {
        let known = state.nodes().get(&node);
        known.map(|known| (known.standing, known.incarnation))
    });
    let (standing, incarnation) = known.ok_or(Refused::UnknownNode(node))?;
    let empty = owned(&admin).0.get(&node).copied().unwrap_or(0) == 0;
    let is_safe = empty && standing != Standing::Active;
    if node == admin.me {
        let detail = "a node cannot remove itself; ask another node";
        return Err(Error::new(ProblemKind::Conflict, detail));
    }
    if !is_safe && !query.confirm_dead {
        let detail = format!(
            "node {node} is not known to be dead. Drain it first; or, if its process has surely \
             ended, say so with confirm_dead=true. Its resources start elsewhere once its \
             lease is over"
        );
        return Err(Error::invalid(detail));
    }
    if query.confirm_dead && admin.placement.live().contains(&node) && !is_safe {
        let detail = format!("node {node} is alive: it answers. Drain it first");
        return Err(Error::new(ProblemKind::Conflict, detail));
    }
    admin
        .control
        .propose(Command::Remove { node, incarnation }, deadline)
        .await?
        .accepted()?;
    Ok(StatusCode::NO_CONTENT)
}

/// List the slots of a module
#[utoipa::path(
    get,
    path = "/v1/cluster/slots",
    operation_id = "list_slots",
    tag = "cluster",
    params(SlotsQuery),
    responses(
        (status = OK, description = "The slots that exist, by number", body = SlotList),
        Problems<{ usual(&[UnknownModule, Unavailable, NoLeader]) }>,
    )
)]
pub(super) async fn slots(
    State(admin): State<Admin>,
    Asked(query): Asked<SlotsQuery>,
) -> Result<Json<SlotList>> {
    let live: BTreeSet<NodeId> = admin.placement.live();
    let look = |state: &state::State| {
        let module = module_of(state, &query.module)?;
        let ring = Ring::new(&query.module, &state.members(&live));
        let slots = module.slots.iter().map(|(slot, state)| SlotInfo {
            slot: *slot,
            resources: state.resources.len() as u64,
            preferred: ring.owners(*slot).next(),
            owner: state.owner.map(|o| Owner {
                node: o.node,
                incarnation: o.incarnation,
            }),
            next: state.next,
            token: state.token,
        });
        Ok(slots.collect())
    };
    let slots = admin.look_up(look).await?;
    let module = query.module;
    Ok(Json(SlotList { module, slots }))
}

/// Longest body that changes a node.
const CHANGE_BYTES_MAX: u64 = 4 << 10;

/// How long a node may take to count its resources.
const ASK: Duration = Duration::from_secs(1);
