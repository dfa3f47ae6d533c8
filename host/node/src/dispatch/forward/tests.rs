use super::*;

#[test]
fn a_call_without_a_trace_is_one_byte_longer_for_it() {
    let forwarded = || Forwarded {
        module: "m",
        id: "a",
        request: Parts {
            id: "r",
            created_at_ms: 1,
            timeout_us: 2,
            idempotency_key: None,
            content_type: None,
        },
        trace: Scope::default().carried(),
    };
    let Forwarded {
        module,
        id,
        request,
        trace,
    } = forwarded();
    assert_eq!(trace, None);
    let without = encode(&(module, id, request), b"body");
    assert_eq!(encode(&forwarded(), b"body").len(), without.len() + 1);
}

#[test]
fn a_body_is_the_rest_of_its_frame_and_is_not_copied_when_it_is_read() {
    let body = vec![0xab; 64 << 10];
    let content_type = Some("application/octet-stream");
    let frame = encode(&Answered::Response { content_type }, &body);
    let (head, read) = decode::<Answered<'_>>(&frame).unwrap();
    assert!(
        matches!(head, Answered::Response { content_type: Some(kind) } if Some(kind) == content_type)
    );
    assert_eq!(read, body);
    assert!(frame.as_ptr_range().contains(&read.as_ptr()));
    assert!(frame.len() < body.len() + 64);
}
