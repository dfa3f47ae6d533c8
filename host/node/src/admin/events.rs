//! What happens in the cluster, as server-sent events.

use std::{convert::Infallible, fmt::Write as _, time::Duration};

use axum::{body::Body, extract::State, response::IntoResponse};
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use holdfast_model::api::{
    EVENT_STREAM, Event, EventsQuery,
    ProblemKind::{self, Unavailable},
};
use http::{HeaderMap, header};
use utoipa::{
    IntoParams, PartialSchema as _,
    openapi::path::{Parameter, ParameterIn},
};

use super::{
    Admin,
    describe::{Problems, request_header, usual},
    error::{Error, Result},
    extract::Asked,
};
use crate::events::{Cursor, Filter, From, Item, Watched};

/// Watch what happens
///
/// The stream goes on until one side ends, or another takes its place. It begins with an `id` alone, which says where it is; while nothing happens,
/// one is sent every 10 s.
#[utoipa::path(
    get,
    path = "/v1/events",
    operation_id = "watch_events",
    tag = "watching",
    params(EventsQuery, GoOn),
    responses(
        (status = OK, description = "Server-sent events: `event` is the type, `data` is described here, and `id` is for `Last-Event-ID`", body = Event, content_type = EVENT_STREAM),
        Problems<{ usual(&[Unavailable]) }>,
    )
)]
pub(super) async fn events(
    State(admin): State<Admin>,
    Asked(query): Asked<EventsQuery>,
    headers: HeaderMap,
) -> Result<impl IntoResponse> {
    let EventsQuery {
        kind,
        module,
        resource,
        replay,
    } = query;
    if resource.is_some() && module.is_none() {
        let detail = "a resource is named with its module: give module";
        return Err(Error::invalid(detail));
    }
    let from = match headers.get(LAST_EVENT_ID) {
        Some(id) => From::After(cursor(id)?),
        None if replay => From::Oldest,
        None => From::Now,
    };
    admin.joined()?;
    let filter = Filter {
        kind,
        module,
        resource,
    };
    let watched = admin.events.watch(filter, from).await;
    let watched = watched.ok_or_else(too_many)?;
    // The head goes out with it, so that the client knows that it is heard; and where it begins, so
    // that one that loses the connection before anything happens can go on too.
    let first = format!(": events\n\nid: {}\n\n", watched.cursor());
    let first = stream::once(async { Bytes::from(first) });
    let events = first.chain(rest(watched)).map(Ok::<_, Infallible>);
    let headers = [
        (header::CONTENT_TYPE, EVENT_STREAM),
        (header::CACHE_CONTROL, "no-store"),
    ];
    Ok((headers, Body::from_stream(events)))
}

/// The header with which a watcher goes on.
struct GoOn;

impl IntoParams for GoOn {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let about =
            "Goes on after this event, through any node: the `id` of the last one that was heard.";
        vec![request_header("Last-Event-ID", about, String::schema())]
    }
}

fn cursor(id: &http::HeaderValue) -> Result<Cursor> {
    let text = id.to_str().unwrap_or_default();
    let cursor = text.parse();
    cursor.map_err(|error| Error::invalid(format!("header Last-Event-ID: {error}")))
}

fn rest(watched: Watched) -> impl Stream<Item = Bytes> {
    stream::unfold(watched, |mut watched| async {
        let text = match tokio::time::timeout(QUIET_MAX, watched.next()).await {
            Ok(events) => encode(&events?),
            // Both ends see then that the connection stands.
            Err(_) => format!(":\nid: {}\n\n", watched.cursor()).into(),
        };
        Some((text, watched))
    })
}

fn encode(events: &[(Item, String)]) -> Bytes {
    let mut text = String::with_capacity(events.len() * 256);
    for (item, id) in events {
        // JSON has no line breaks of its own here, which would end the data.
        let _ = write!(
            text,
            "id: {id}\nevent: {}\ndata: {}\n\n",
            item.kind, item.json
        );
    }
    text.into()
}

fn too_many() -> Error {
    let detail = "as many as can be watch events through this node: ask another, or later";
    Error::new(ProblemKind::Unavailable, detail)
}

const LAST_EVENT_ID: &str = "last-event-id";

/// How long nothing is sent at most.
const QUIET_MAX: Duration = Duration::from_secs(10);
