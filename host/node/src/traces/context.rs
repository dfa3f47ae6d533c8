//! The W3C trace context, as headers and as nodes tell one another.
//!
//! What is malformed is as good as absent, as <https://www.w3.org/TR/trace-context/> has it. Read here
//! and not by the SDK's propagator, which takes shapes that the standard does not, looks at the first
//! `tracestate` only, and writes an empty one.

use std::borrow::Cow;

use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceId, TraceState};
use serde::{Deserialize, Serialize};

/// A trace context on its way to another node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Carried<'a> {
    trace: [u8; 16],
    span: [u8; 8],
    sampled: bool,
    #[serde(borrow)]
    state: Cow<'a, str>,
}

impl Carried<'_> {
    pub(super) fn of(context: &SpanContext) -> Carried<'static> {
        Carried {
            trace: context.trace_id().to_bytes(),
            span: context.span_id().to_bytes(),
            sampled: context.is_sampled(),
            state: context.trace_state().header().into(),
        }
    }

    /// None when there is no such context.
    pub(super) fn context(&self) -> Option<SpanContext> {
        let context = SpanContext::new(
            TraceId::from_bytes(self.trace),
            SpanId::from_bytes(self.span),
            TraceFlags::NOT_SAMPLED.with_sampled(self.sampled),
            true,
            self.state.parse().unwrap_or_default(),
        );
        context.is_valid().then_some(context)
    }
}

/// The context of whoever sent a request with these headers, if it names one.
pub(super) fn read(headers: &HeaderMap) -> Option<SpanContext> {
    let mut parents = headers.get_all(TRACEPARENT).iter();
    let parent = parents.next()?.to_str().ok()?;
    if parents.next().is_some() {
        return None;
    }
    let (trace, span, flags) = parent_of(parent)?;
    let context = SpanContext::new(trace, span, flags, true, state_of(headers));
    context.is_valid().then_some(context)
}

/// Whether the sender of a request with these headers has said itself what it belongs to.
pub(super) fn is_in(headers: &HeaderMap) -> bool {
    headers.contains_key(TRACEPARENT)
}

/// Says in these headers what a request belongs to.
pub(super) fn write(context: &SpanContext, headers: &mut HeaderMap) {
    let parent = format!(
        "00-{}-{}-{:02x}",
        context.trace_id(),
        context.span_id(),
        context.trace_flags() & TraceFlags::SAMPLED
    );
    let parent = HeaderValue::try_from(parent).expect("hexadecimal digits and dashes");
    headers.insert(TRACEPARENT, parent);
    // Without its parent it means nothing.
    headers.remove(TRACESTATE);
    match HeaderValue::try_from(context.trace_state().header()) {
        Ok(state) if !state.is_empty() => drop(headers.insert(TRACESTATE, state)),
        _ => {}
    }
}

/// Reads `version-trace-parent-flags`. Versions to come may have more behind it.
fn parent_of(text: &str) -> Option<(TraceId, SpanId, TraceFlags)> {
    let mut parts = text.splitn(5, '-');
    let [version, trace, span, flags] = [2, 32, 16, 2].map(|digits| {
        let part = parts.next()?;
        let is_hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        (part.len() == digits && part.bytes().all(is_hex)).then_some(part)
    });
    let is_known = match version? {
        "00" => parts.next().is_none(),
        version => version != "ff",
    };
    if !is_known {
        return None;
    }
    let flags = TraceFlags::new(u8::from_str_radix(flags?, 16).ok()?);
    let (trace, span) = (
        TraceId::from_hex(trace?).ok()?,
        SpanId::from_hex(span?).ok()?,
    );
    Some((trace, span, flags & TraceFlags::SAMPLED))
}

/// Reads what tracing systems add; as much of it as everybody is to pass on.
fn state_of(headers: &HeaderMap) -> TraceState {
    let mut members = Vec::new();
    for value in headers.get_all(TRACESTATE) {
        let Ok(text) = value.to_str() else {
            return TraceState::NONE;
        };
        let found = text
            .split(',')
            .map(|member| member.trim_matches([' ', '\t']));
        members.extend(found.filter(|member| !member.is_empty()));
    }
    if members.len() > STATE_MEMBERS_MAX {
        return TraceState::NONE;
    }
    let len = |members: &[&str]| members.iter().map(|member| member.len() + 1).sum::<usize>();
    if len(&members) > STATE_BYTES_MAX + 1 {
        members.retain(|member| member.len() <= STATE_MEMBER_BYTES_LONG);
    }
    while len(&members) > STATE_BYTES_MAX + 1 {
        members.pop();
    }
    members.join(",").parse().unwrap_or_default()
}

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// More are malformed (section 3.3.1.1).
const STATE_MEMBERS_MAX: usize = 32;

/// Everybody passes on as much. Of more, long members go first, then the last ones (section 3.3.1.5).
const STATE_BYTES_MAX: usize = 512;
const STATE_MEMBER_BYTES_LONG: usize = 128;

#[cfg(test)]
mod tests;
