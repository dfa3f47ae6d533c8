use super::*;

/// The form of a forwarded call, byte for byte: what it lacks is not named.
#[test]
fn a_forwarded_call_is_the_length_of_its_head_the_head_and_the_body() {
    let forwarded = Forwarded {
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
    let head = b"\x01\x83\xa6module\xa1m\xa2id\xa1a\xa7request\
        \x83\xa2id\xa1r\xadcreated_at_ms\x01\xaatimeout_us\x02";
    let frame = encode(&forwarded, b"body");
    assert_eq!(frame, [&[57, 0, 0, 0][..], head, b"body"].concat());
    let (read, body) = decode::<Forwarded<'_>>(&frame).unwrap();
    assert_eq!((read.module, read.request.timeout_us), ("m", 2));
    assert_eq!(body, "body");
}

#[test]
fn a_frame_that_ends_within_its_head_is_refused() {
    for frame in [&b""[..], &[9, 0, 0], &[9, 0, 0, 0, 1, 0x80]] {
        let frame = Bytes::copy_from_slice(frame);
        assert!(decode::<Forwarded<'_>>(&frame).is_err(), "{frame:?}");
    }
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
