use holdfast_cluster::codec;

use super::*;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN: &str = "00f067aa0ba902b7";

fn headers(all: &[(&'static str, &str)]) -> HeaderMap {
    let header = |(name, value): &(&'static str, &str)| {
        let name = HeaderName::from_static(name);
        (name, HeaderValue::from_str(value).unwrap())
    };
    all.iter()
        .map(header)
        .fold(HeaderMap::new(), |mut all, (name, value)| {
            all.append(name, value);
            all
        })
}

fn read_parent(parent: &str) -> Option<SpanContext> {
    read(&headers(&[("traceparent", parent)]))
}

/// What is passed on of this `tracestate`.
fn state(states: &[&str]) -> String {
    let parent = format!("00-{TRACE}-{SPAN}-01");
    let states = states.iter().map(|state| ("tracestate", *state));
    let all: Vec<_> = states.chain([("traceparent", &*parent)]).collect();
    read(&headers(&all)).unwrap().trace_state().header()
}

#[test]
fn a_context_is_read_and_written_as_the_standard_has_it() {
    for (flags, sampled, written) in [
        ("00", false, "00"),
        ("01", true, "01"),
        // Others are of standards to come, and not passed on.
        ("ff", true, "01"),
        ("02", false, "00"),
    ] {
        let context = read_parent(&format!("00-{TRACE}-{SPAN}-{flags}")).unwrap();
        assert_eq!(context.is_sampled(), sampled, "{flags}");
        assert!(context.is_remote());
        let mut to = headers(&[("traceparent", "former"), ("tracestate", "former=1")]);
        write(&context, &mut to);
        assert_eq!(to["traceparent"], format!("00-{TRACE}-{SPAN}-{written}"));
        assert_eq!(to.get("tracestate"), None);
    }
}

#[test]
fn a_version_to_come_is_read_as_far_as_it_is_known() {
    for more in ["", "-", "-what-ever"] {
        let parent = format!("cc-{TRACE}-{SPAN}-01{more}");
        assert!(read_parent(&parent).is_some(), "{parent}");
    }
    assert_eq!(read_parent(&format!("cc-{TRACE}-{SPAN}-01.what")), None);
}

#[test]
fn what_is_malformed_is_as_good_as_absent() {
    assert_eq!(read(&HeaderMap::new()), None);
    let zeros = "0".repeat(32);
    for parent in [
        String::new(),
        "-".to_owned(),
        "nonsense".to_owned(),
        format!("{TRACE}-{SPAN}-01"),
        format!("00-{TRACE}-{SPAN}"),
        format!("00-{TRACE}-{SPAN}-"),
        format!("00-{TRACE}-{SPAN}-1"),
        format!("00-{TRACE}-{SPAN}-001"),
        format!("00-{TRACE}-{SPAN}-0g"),
        format!("00-{TRACE}-{SPAN}-+1"),
        format!("00-{TRACE}-{SPAN}-01-"),
        format!("00-{TRACE}-{SPAN}-01-more"),
        format!("0-{TRACE}-{SPAN}-01"),
        format!("+0-{TRACE}-{SPAN}-01"),
        format!("ff-{TRACE}-{SPAN}-01"),
        format!("00-{}-{SPAN}-01", TRACE.to_uppercase()),
        format!("00-{TRACE}-{}-01", SPAN.to_uppercase()),
        format!("00-{}-{SPAN}-01", &TRACE[1..]),
        format!("00-{TRACE}0-{SPAN}-01"),
        format!("00-{TRACE}-{}-01", &SPAN[1..]),
        format!("00-{zeros}-{SPAN}-01"),
        format!("00-{TRACE}-{}-01", &zeros[..16]),
        format!("00_{TRACE}_{SPAN}_01"),
        format!("00-{TRACE}-{SPAN}-01,00-{TRACE}-{SPAN}-01"),
    ] {
        assert_eq!(read_parent(&parent), None, "{parent}");
    }
    let parent = format!("00-{TRACE}-{SPAN}-01");
    let twice = headers(&[("traceparent", &parent), ("traceparent", &parent)]);
    assert_eq!(read(&twice), None);
    let odd = HeaderValue::from_bytes(b"00-\xff").unwrap();
    assert_eq!(read(&HeaderMap::from_iter([(TRACEPARENT, odd)])), None);
}

#[test]
fn what_others_add_is_passed_on_in_its_order_and_never_spoils_its_trace() {
    assert_eq!(state(&[]), "");
    assert_eq!(state(&["a=1,b@c=2"]), "a=1,b@c=2");
    assert_eq!(state(&["a=1 ,\tb=2", "", ",c=3,"]), "a=1,b=2,c=3");
    for malformed in ["a", "A=1", "a=1,b", "a=1=2,=", "ü=1"] {
        assert_eq!(state(&[malformed]), "", "{malformed}");
    }
}

#[test]
fn what_others_add_is_bounded() {
    let members = |count: usize| {
        let all: Vec<String> = (0..count).map(|number| format!("k{number}=v")).collect();
        all.join(",")
    };
    assert_eq!(state(&[&members(32)]), members(32));
    assert_eq!(state(&[&members(33)]), "");
    // As much as everybody is to pass on, to the byte.
    let of = |key: &str, bytes: usize| format!("{key}={}", "x".repeat(bytes - key.len() - 1));
    let four = ["a", "b", "c", "d"].map(|key| of(key, 127)).join(",");
    assert_eq!(four.len(), 511);
    assert_eq!(state(&[&four]), four);
    let exact = four.replacen('x', "xx", 1);
    assert_eq!(state(&[&exact]), exact);
    // The last goes where there is too much, and a long one before it.
    let more = format!("{four},e=1");
    assert_eq!(state(&[&more]), four);
    let long = format!("{},b=2,{}", of("a", 200), vec![of("c", 100); 4].join(","));
    let kept = format!("b=2,{}", vec![of("c", 100); 4].join(","));
    assert_eq!(state(&[&long]).len(), kept.len());
    assert_eq!(state(&[&long]), kept);
}

#[test]
fn a_context_gets_to_another_node_as_it_is() {
    for (flags, state) in [("01", "a=1,b=2"), ("00", "")] {
        let mut all = headers(&[("traceparent", &format!("00-{TRACE}-{SPAN}-{flags}"))]);
        all.insert(TRACESTATE, HeaderValue::from_str(state).unwrap());
        let context = read(&all).unwrap();
        let bytes = codec::encode(&Carried::of(&context));
        let carried: Carried<'_> = codec::decode_borrowed(&bytes).unwrap();
        assert_eq!(carried.context(), Some(context));
    }
    let nothing = Carried {
        trace: [0; 16],
        span: [1; 8],
        sampled: true,
        state: "".into(),
    };
    assert_eq!(nothing.context(), None);
}
