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
            body: b"body",
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
    let without = encode(&(module, id, request));
    assert_eq!(encode(&forwarded()).len(), without.len() + 1);
}
