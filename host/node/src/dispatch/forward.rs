//! Calls from node to node: one hop, never more.

use std::borrow::Cow;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use holdfast_model::{
    ModuleName, NodeId, ResourceId,
    call::{self, Request, Response},
};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::{Attempt, Dispatch, entry::Called};
use crate::{
    metrics::kind,
    peer::{CallError, Kind, Lane, Peers},
    traces::{Carried, Kind as Side, Recorded, Scope},
};

/// Kind of a forwarded call's frame.
pub(crate) const CALL: Kind = Kind(2);

#[derive(Serialize, Deserialize)]
struct Forwarded<'a> {
    module: &'a str,
    id: &'a str,
    #[serde(borrow)]
    request: Parts<'a>,
    #[serde(borrow)]
    trace: Option<Carried<'a>>,
}

/// A request whose text and body stay where they are.
#[derive(Serialize, Deserialize)]
struct Parts<'a> {
    id: &'a str,
    created_at_ms: u64,
    timeout_us: u64,
    idempotency_key: Option<&'a str>,
    content_type: Option<&'a str>,
    body: &'a [u8],
}

#[derive(Serialize, Deserialize)]
enum Answered {
    Result(Result<Response, call::Error>),
    /// Not this node's resource: the request had no effect.
    NotHere,
}

/// Forwards a call to the owner of its slot.
pub(super) async fn call(
    peers: &Peers,
    owner: NodeId,
    module: &ModuleName,
    id: &ResourceId,
    request: &Request,
    deadline: Instant,
    scope: &Scope,
) -> Attempt {
    let mut span = scope.child(Side::Client, HOP);
    if let Some(recorded) = span.recorded() {
        describe(recorded, module.as_str(), id);
        recorded.set("holdfast.owner", owner.to_string());
    }
    let attempt = ask(peers, owner, module, id, request, deadline, span.scope()).await;
    match &attempt {
        Attempt::Answered(_, Ok(_)) => {}
        Attempt::Answered(_, Err(error)) => span.failed(kind(error), error),
        Attempt::Elsewhere(why) => span.failed("not-taken", why),
        Attempt::Lost => span.failed("lost", "the owner was lost during the call"),
    }
    attempt
}

async fn ask(
    peers: &Peers,
    owner: NodeId,
    module: &ModuleName,
    id: &ResourceId,
    request: &Request,
    deadline: Instant,
    scope: &Scope,
) -> Attempt {
    let timeout = deadline.saturating_duration_since(Instant::now());
    let forwarded = Forwarded {
        module: module.as_str(),
        id: id.as_str(),
        request: Parts {
            id: &request.id,
            created_at_ms: request.created_at_ms,
            timeout_us: u64::try_from(timeout.as_micros()).unwrap_or(u64::MAX),
            idempotency_key: request.idempotency_key.as_deref(),
            content_type: request.content_type.as_deref(),
            body: &request.body,
        },
        trace: scope.carried(),
    };
    let frame = encode(&forwarded);
    let failed = |error| Attempt::Answered(owner, Err(error));
    let patience = timeout + ANSWER_TIME;
    match peers.call(owner, Lane::Data, CALL, frame, patience).await {
        Ok(answer) => match postcard::from_bytes(&answer) {
            Ok(Answered::Result(result)) => Attempt::Answered(owner, result),
            Ok(Answered::NotHere) => Attempt::Elsewhere("the resource is on the move"),
            Err(_) => failed(call::Error::Interrupted),
        },
        Err(CallError::UnknownPeer(_) | CallError::NotSent { .. } | CallError::Busy) => {
            Attempt::Elsewhere("its owner cannot be reached")
        }
        Err(CallError::TimedOut { sent: false }) => {
            Attempt::Elsewhere("its owner cannot be reached")
        }
        Err(CallError::TimedOut { sent: true }) => failed(call::Error::TimedOut(request.timeout)),
        // The same key means the same request: whoever is asked next can tell.
        Err(CallError::Lost) if request.idempotency_key.is_some() => Attempt::Lost,
        Err(CallError::Lost | CallError::Remote(_)) => failed(call::Error::Interrupted),
    }
}

/// Answers a call that a peer forwarded.
pub(crate) fn answer_call(dispatch: &Dispatch, frame: Bytes) -> BoxFuture<'static, Bytes> {
    let dispatch = dispatch.clone();
    Box::pin(async move {
        let answered = match dispatch.answer(&frame).await {
            Some(result) => Answered::Result(result),
            None => Answered::NotHere,
        };
        encode(&answered)
    })
}

impl Dispatch {
    async fn answer(&self, frame: &Bytes) -> Option<Result<Response, call::Error>> {
        let forwarded: Forwarded<'_> = postcard::from_bytes(frame).ok()?;
        let parts = forwarded.request;
        let table = self.0.shared.tables.get(forwarded.module)?;
        let id: ResourceId = forwarded.id.parse().ok()?;
        let timeout = std::time::Duration::from_micros(parts.timeout_us);
        let deadline = Instant::now() + timeout.min(FORWARDED_MAX);
        let request = Request {
            id: parts.id.to_owned(),
            created_at_ms: parts.created_at_ms,
            timeout,
            idempotency_key: parts.idempotency_key.map(str::to_owned),
            content_type: parts.content_type.map(str::to_owned),
            // A part of the frame itself: nothing is copied.
            body: frame.slice_ref(parts.body),
        };
        let scope = self.0.traces.carried(forwarded.trace);
        let mut span = scope.child(Side::Server, HOP);
        if let Some(recorded) = span.recorded() {
            describe(recorded, table.name.as_str(), &id);
        }
        let called = self.call_here(&table, &id, Cow::Owned(request), deadline, span.scope());
        let result = match called.await {
            Some(Called::Answered(result)) => Some(result),
            Some(Called::NotHere) | None => None,
        };
        match &result {
            Some(Ok(_)) => {}
            Some(Err(error)) => span.failed(kind(error), error),
            None => span.failed("not-here", "the resource is not, or no longer, here"),
        }
        result
    }
}

fn describe(recorded: &mut Recorded, module: &str, id: &ResourceId) {
    recorded.set("rpc.system", "holdfast");
    recorded.set("rpc.service", "Resources");
    recorded.set("rpc.method", "Invoke");
    recorded.set("holdfast.module", module.to_owned());
    recorded.set("holdfast.resource", id.to_string());
}

fn encode<T: Serialize>(value: &T) -> Bytes {
    postcard::to_stdvec(value)
        .expect("plain data, which postcard can always write")
        .into()
}

/// The name of both spans of a hop.
const HOP: &str = "Resources/Invoke";

/// How long after the deadline the owner's answer may come: it knows best how far the call got.
const ANSWER_TIME: std::time::Duration = std::time::Duration::from_millis(100);

/// Longest time that a peer's call may take here, whatever it says.
const FORWARDED_MAX: std::time::Duration = std::time::Duration::from_secs(24 * 60 * 60);

#[cfg(test)]
mod tests;
