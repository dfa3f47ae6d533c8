use holdfast_model::NodeId;
use http::{HeaderMap, HeaderValue, Method, Uri, request};

use super::*;
use crate::metrics::Metrics;

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-";

/// Traces whose spans nobody brings anywhere.
fn traces(ratio: &str) -> (Traces, Metrics, Exporting) {
    let options = Options {
        endpoint: "http://127.0.0.1:1".parse().unwrap(),
        ratio: Some(ratio.parse().unwrap()),
    };
    let about = About {
        node: NodeId::default(),
        cluster: &"c".parse().unwrap(),
    };
    let metrics = Metrics::new();
    let (traces, exporting) = Traces::new(&options, &about, &metrics).unwrap();
    (traces, metrics, exporting)
}

fn request(traces: &Traces, flags: Option<&str>) -> Span {
    let mut headers = HeaderMap::new();
    if let Some(flags) = flags {
        let parent = HeaderValue::try_from(format!("{PARENT}{flags}")).unwrap();
        headers.insert("traceparent", parent);
    }
    traces.request(&Method::GET, &Uri::from_static("/a"), &headers, "/{}")
}

/// The `traceparent` of what a handler sends.
fn sent(scope: &Scope) -> Option<String> {
    let (mut head, ()) = request::Request::new(()).into_parts();
    drop(scope.follow()?.request(&mut head));
    let parent = head.headers.get("traceparent")?;
    Some(parent.to_str().unwrap().to_owned())
}

#[test]
fn where_traces_are_off_there_is_nothing_to_pay_for() {
    let off = Traces::default();
    let mut span = request(&off, Some("01"));
    assert!(span.recorded().is_none());
    assert!(!span.scope().is_recorded());
    assert!(span.scope().carried().is_none());
    assert!(span.scope().follow().is_none());
    let (on, ..) = traces("1");
    let carried = request(&on, Some("01")).scope().carried();
    assert!(off.carried(carried).0.is_none());
    assert_eq!(size_of::<Scope>(), size_of::<usize>());
    assert_eq!(size_of::<Span>(), 2 * size_of::<usize>());
}

#[test]
fn a_trace_that_is_not_kept_is_passed_on_and_not_recorded() {
    let (traces, ..) = traces("1");
    let mut span = request(&traces, Some("00"));
    assert!(span.recorded().is_none());
    let mut child = span.scope().child(Kind::Client, "hop");
    assert!(child.recorded().is_none());
    // The very same, so nothing was made for it.
    let same = |one: &Scope, other: &Scope| {
        let both = one.0.as_ref().zip(other.0.as_ref());
        both.is_some_and(|(one, other)| Arc::ptr_eq(one, other))
    };
    assert!(same(span.scope(), child.scope()));
    let there = traces.carried(child.scope().carried());
    assert_eq!(sent(&there), Some(format!("{PARENT}00")));
}

#[test]
fn what_begins_here_is_kept_as_the_ratio_says_and_has_a_context_either_way() {
    for (ratio, kept) in [("0", false), ("1", true)] {
        let (traces, ..) = traces(ratio);
        for mut begun in [request(&traces, None), traces.begin("start")] {
            assert_eq!(begun.recorded().is_some(), kept, "{ratio}");
            let parent = sent(begun.scope()).unwrap();
            let flags = if kept { "-01" } else { "-00" };
            assert!(parent.ends_with(flags), "{parent}");
        }
        // A caller's decision goes before.
        assert!(request(&traces, Some("01")).recorded().is_some());
    }
}

#[test]
fn what_a_child_sends_belongs_to_the_child() {
    let (traces, ..) = traces("0");
    let span = request(&traces, Some("01"));
    let child = span.scope().child(Kind::Internal, "invoke");
    let [of_span, of_child] = [&span, &child].map(|span| sent(span.scope()).unwrap());
    assert_ne!(of_span, of_child);
    let trace = &PARENT[..36];
    assert!(of_span.starts_with(trace) && of_child.starts_with(trace));
}

#[test]
fn spans_that_find_no_room_are_dropped_and_counted_and_nobody_waits() {
    let (traces, metrics, exporting) = traces("1");
    let counted = metrics.spans();
    for _ in 0..export::QUEUE_SPANS_MAX {
        drop(traces.begin("start"));
    }
    assert_eq!(counted.dropped.get(), 0);
    for _ in 0..3 {
        drop(traces.begin("start"));
    }
    assert_eq!(counted.dropped.get(), 3);
    // A node that has ended takes none either.
    drop(exporting);
    drop(traces.begin("start"));
    assert_eq!(counted.dropped.get(), 4);
    let told = "holdfast_spans_total{result=\"dropped\"} 4";
    assert!(metrics.encode(&[]).contains(told));
}
