//! What handlers say, as lines of JSON.

use std::time::Duration;

use axum::{Json, body::Body, extract::State, response::IntoResponse};
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use holdfast_model::{
    NodeId,
    api::{
        LogLine, LogsQuery, NDJSON, NodeLog,
        ProblemKind::{
            self, Conflict, NoLeader, TooLarge, Unavailable, UnknownModule, UnknownNode,
        },
    },
};
use http::header;

use super::{
    Admin, body,
    describe::{Problems, usual},
    error::{Error, Result},
    extract::{Asked, NoQuery, Node},
    resources::module_of,
};
use crate::{
    gather::Positions,
    logs::{ChangeLog, Filter, Followed, Tail},
};

/// Read what handlers say
///
/// What they write to stdout and stderr and log through `wasi:logging`, on all nodes.
#[utoipa::path(
    get,
    path = "/v1/logs",
    operation_id = "read_logs",
    tag = "watching",
    params(LogsQuery),
    responses(
        (status = OK, description = "Newline-delimited JSON, in order of time. Lines may be empty: they show that the connection stands", body = LogLine, content_type = NDJSON),
        Problems<{ usual(&[UnknownModule, Unavailable, NoLeader]) }>,
    )
)]
pub(super) async fn logs(
    State(admin): State<Admin>,
    Asked(query): Asked<LogsQuery>,
) -> Result<impl IntoResponse> {
    let LogsQuery {
        module,
        resource,
        node,
        level,
        limit,
        follow,
        after,
    } = query;
    if resource.is_some() && module.is_none() {
        return Err(Error::invalid(
            "a resource is named with its module: give module",
        ));
    }
    let limit = limit.unwrap_or(LogsQuery::LIMIT_DEFAULT);
    if limit > LogsQuery::LIMIT_MAX {
        let detail = format!("limit must be at most {}", LogsQuery::LIMIT_MAX);
        return Err(Error::invalid(detail));
    }
    if after.is_some() && !follow {
        return Err(Error::invalid("after goes on: give follow=true with it"));
    }
    let after = after.as_deref().map(str::parse::<Positions>).transpose();
    let after = after.map_err(|error| Error::invalid(format!("after: {error}")))?;
    match &module {
        Some(module) => {
            admin
                .look_up(|state| module_of(state, module).map(drop))
                .await?
        }
        None => admin.joined()?,
    }
    let place = match follow {
        true => Some(admin.logs.place().ok_or_else(too_many)?),
        false => None,
    };
    let filter = Filter {
        module,
        resource,
        level: level.unwrap_or_default(),
    };
    let mut tail = match after {
        Some(positions) => Tail::after(positions),
        None => admin.logs.tail(&filter, node, limit as usize).await,
    };
    let mut followed = place.map(|place| admin.logs.follow(filter, node, &tail, place));
    let cursor = followed.as_mut().and_then(Followed::cursor);
    tail.lines.extend(cursor);
    let first = encode(&tail.lines);
    let lines = stream::once(async { first }).chain(rest(followed));
    let lines = lines.map(Ok::<_, std::convert::Infallible>);
    Ok(([(header::CONTENT_TYPE, NDJSON)], Body::from_stream(lines)))
}

/// Describe what a node logs
#[utoipa::path(
    get,
    path = "/v1/cluster/nodes/{node}/log",
    operation_id = "describe_node_log",
    tag = "nodes",
    params(Node),
    responses(
        (status = OK, description = "What the log has", body = NodeLog),
        Problems<{ usual(&[UnknownNode, Conflict, Unavailable, NoLeader]) }>,
    )
)]
pub(super) async fn own(
    State(admin): State<Admin>,
    Node(node): Node,
    Asked(NoQuery {}): Asked<NoQuery>,
) -> Result<Json<NodeLog>> {
    changed(&admin, node, None).await
}

/// Change what a node logs
///
/// It holds until the node's process ends.
#[utoipa::path(
    put,
    path = "/v1/cluster/nodes/{node}/log",
    operation_id = "change_node_log",
    tag = "nodes",
    params(Node),
    request_body(content = NodeLog, description = "What the log is to have"),
    responses(
        (status = OK, description = "What the log has now", body = NodeLog),
        Problems<{ usual(&[TooLarge, UnknownNode, Conflict, Unavailable, NoLeader]) }>,
    )
)]
pub(super) async fn change_own(
    State(admin): State<Admin>,
    Node(node): Node,
    Asked(NoQuery {}): Asked<NoQuery>,
    body: Body,
) -> Result<Json<NodeLog>> {
    let too_large = || {
        let detail = format!("a log filter has at most {FILTER_BYTES_MAX} bytes");
        Error::new(ProblemKind::TooLarge, detail)
    };
    let body = body::read(&admin.budget, None, body, FILTER_BYTES_MAX, too_large).await?;
    let NodeLog { filter } = body::json("the body", &body)?;
    changed(&admin, node, Some(filter)).await
}

async fn changed(admin: &Admin, node: NodeId, filter: Option<String>) -> Result<Json<NodeLog>> {
    admin.known(node).await?;
    let filter = admin.logs.change(node, ChangeLog { filter }).await?;
    Ok(Json(NodeLog { filter }))
}

fn rest(followed: Option<Followed>) -> impl Stream<Item = Bytes> {
    stream::unfold(followed, |followed| async {
        let mut followed = followed?;
        let lines = match tokio::time::timeout(QUIET_MAX, followed.next()).await {
            Ok(lines) => encode(&lines?),
            // Both ends see then that the connection stands.
            Err(_) => match followed.cursor() {
                Some(cursor) => encode(&[cursor]),
                None => Bytes::from_static(b"\n"),
            },
        };
        Some((lines, Some(followed)))
    })
}

fn encode(lines: &[LogLine]) -> Bytes {
    let mut text = Vec::with_capacity(lines.len() * 256);
    for line in lines {
        serde_json::to_writer(&mut text, line).expect("texts and numbers; a Vec takes all");
        text.push(b'\n');
    }
    text.into()
}

fn too_many() -> Error {
    let detail = "as many as can be follow logs through this node: ask another, or later";
    Error::new(ProblemKind::Unavailable, detail)
}

/// Longest body that names a filter.
const FILTER_BYTES_MAX: u64 = 4 << 10;

/// How long nothing is sent at most.
const QUIET_MAX: Duration = Duration::from_secs(10);
