//! Calls from node to node: one hop, never more.

use std::borrow::Cow;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use holdfast_cluster::codec;
use holdfast_model::{
    ModuleName, NodeId, ResourceId,
    call::{self, Request, Response},
};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::{Attempt, Dispatch, entry::Called, table::Table};
use crate::{
    metrics::kind,
    peer::{CallError, Kind, Lane, Peers},
    traces::{Carried, Kind as Side, Recorded, Scope},
};

/// Kind of a forwarded call's frame.
pub(crate) const CALL: Kind = Kind(2);

/// What goes before the body of a forwarded call. The body is the rest of the frame: nothing looks at
/// its bytes one by one.
#[derive(Serialize, Deserialize)]
struct Forwarded<'a> {
    module: &'a str,
    id: &'a str,
    #[serde(borrow)]
    request: Parts<'a>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    trace: Option<Carried<'a>>,
}

/// A request without its body, whose text stays where it is.
#[derive(Serialize, Deserialize)]
struct Parts<'a> {
    id: &'a str,
    created_at_ms: u64,
    timeout_us: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    idempotency_key: Option<&'a str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    content_type: Option<&'a str>,
}

/// What goes before the body of an answer, which is the rest of the frame.
#[derive(Serialize, Deserialize)]
enum Answered<'a> {
    Response {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        content_type: Option<&'a str>,
    },
    Failed(call::Error),
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
        },
        trace: scope.carried(),
    };
    let frame = encode(&forwarded, &request.body);
    let failed = |error| Attempt::Answered(owner, Err(error));
    let patience = timeout + ANSWER_TIME;
    match peers.call(owner, Lane::Data, CALL, frame, patience).await {
        Ok(answer) => match decode::<Answered<'_>>(&answer) {
            Ok((Answered::Response { content_type }, body)) => {
                let response = Response {
                    content_type: content_type.map(str::to_owned),
                    body,
                };
                Attempt::Answered(owner, Ok(response))
            }
            Ok((Answered::Failed(error), _)) => failed(error),
            Ok((Answered::NotHere, _)) => Attempt::Elsewhere("the resource is on the move"),
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
        match dispatch.answer(&frame).await {
            Some(Ok(Response { content_type, body })) => {
                let content_type = content_type.as_deref();
                encode(&Answered::Response { content_type }, &body)
            }
            Some(Err(error)) => encode(&Answered::Failed(error), &[]),
            None => encode(&Answered::NotHere, &[]),
        }
    })
}

impl Dispatch {
    async fn answer(&self, frame: &Bytes) -> Option<Result<Response, call::Error>> {
        let (forwarded, body) = decode::<Forwarded<'_>>(frame).ok()?;
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
            body,
        };
        let scope = self.0.traces.carried(forwarded.trace);
        let mut span = scope.child(Side::Server, HOP);
        if let Some(recorded) = span.recorded() {
            describe(recorded, table.name.as_str(), &id);
        }
        let result = self
            .take(&table, &id, request, deadline, span.scope())
            .await;
        match &result {
            Some(Ok(_)) => {}
            Some(Err(error)) => span.failed(kind(error), error),
            None => span.failed("not-here", "the resource is not, or no longer, here"),
        }
        result
    }
}

impl Dispatch {
    /// Calls a resource that a peer takes for this node's, waiting for a moment where it is about to
    /// be: the peer would have to send it again.
    async fn take(
        &self,
        table: &Table,
        id: &ResourceId,
        request: Request,
        deadline: Instant,
        scope: &Scope,
    ) -> Option<Result<Response, call::Error>> {
        let until = deadline.min(Instant::now() + ARRIVAL);
        loop {
            let seen = table.changes(id.slot());
            let request = Cow::Borrowed(&request);
            match self.call_here(table, id, request, deadline, scope).await {
                Some(Called::Answered(result)) => return Some(result),
                Some(Called::NotHere) | None => {}
            }
            let owner = self.0.shared.tables.route(table, id.slot());
            if owner != Some(self.0.me.node) {
                return None;
            }
            let changed = table.await_change(id.slot(), seen);
            tokio::time::timeout_at(until, changed).await.ok()?;
        }
    }
}

fn describe(recorded: &mut Recorded, module: &str, id: &ResourceId) {
    recorded.set("rpc.system", "holdfast");
    recorded.set("rpc.service", "Resources");
    recorded.set("rpc.method", "Invoke");
    recorded.set("holdfast.module", module.to_owned());
    recorded.set("holdfast.resource", id.to_string());
}

/// The length of a head, the head, and a body behind it.
fn encode<T: Serialize>(head: &T, body: &[u8]) -> Bytes {
    let mut frame = Vec::with_capacity(HEAD_BYTES + body.len());
    frame.extend_from_slice(&[0; HEAD_LENGTH]);
    codec::encode_to(&mut frame, head);
    let length = u32::try_from(frame.len() - HEAD_LENGTH).expect("a head is shorter than 4 GiB");
    frame[..HEAD_LENGTH].copy_from_slice(&length.to_le_bytes());
    frame.extend_from_slice(body);
    frame.into()
}

/// A head and the body behind it, a part of the frame itself: nothing of it is copied.
fn decode<'a, T: Deserialize<'a>>(frame: &'a Bytes) -> Result<(T, Bytes), codec::Error> {
    let (length, rest) = frame.split_first_chunk().ok_or(codec::Error::Empty)?;
    let length = u32::from_le_bytes(*length) as usize;
    let head = rest.get(..length).ok_or(codec::Error::Empty)?;
    let body = frame.slice(HEAD_LENGTH + length..);
    Ok((codec::decode_borrowed(head)?, body))
}

/// Bytes of the length of a head.
const HEAD_LENGTH: usize = size_of::<u32>();

/// Room for a head of the usual size.
const HEAD_BYTES: usize = 256;

/// How long a call of a peer may wait for a resource that is about to be here. Far less than a node that
/// ends gives to what it has begun: what only waits here must not be interrupted by that.
const ARRIVAL: std::time::Duration = std::time::Duration::from_millis(100);

/// The name of both spans of a hop.
const HOP: &str = "Resources/Invoke";

/// How long after the deadline the owner's answer may come: it knows best how far the call got.
const ANSWER_TIME: std::time::Duration = std::time::Duration::from_millis(100);

/// Longest time that a peer's call may take here, whatever it says.
const FORWARDED_MAX: std::time::Duration = std::time::Duration::from_secs(24 * 60 * 60);

#[cfg(test)]
mod tests;
