use super::*;

fn grant(text: &str) -> HttpGrant {
    text.parse().unwrap()
}

#[test]
fn a_grant_allows_what_it_names_and_nothing_else() {
    for (text, host, port, allowed) in [
        ("api.example.com:443", "API.example.com.", 443, true),
        ("api.example.com:443", "api.example.com", 80, false),
        ("api.example.com:443", "xapi.example.com", 443, false),
        ("*.example.com:*", "a.b.example.com", 1, true),
        ("*.example.com:*", "example.com", 1, false),
        ("*.example.com:*", "badexample.com", 1, false),
        ("10.0.0.0/8:80", "10.255.0.1", 80, true),
        ("10.0.0.0/8:80", "11.0.0.1", 80, false),
        ("[::1]:80", "::1", 80, true),
        ("127.0.0.1:80", "::ffff:127.0.0.1", 80, true),
        ("0.0.0.0/0:80", "8.8.8.8", 80, true),
        ("0.0.0.0/0:80", "example.com", 80, false),
    ] {
        assert_eq!(
            grant(text).allows(host, port),
            allowed,
            "{text} {host}:{port}"
        );
    }
}

#[test]
fn a_name_does_not_grant_a_private_address() {
    let loopback = "127.0.0.1".parse().unwrap();
    assert!(!grant("evil.example.com:80").names_address(loopback, 80));
    assert!(grant("localhost:80").names_address(loopback, 80));
    assert!(grant("127.0.0.0/8:80").names_address(loopback, 80));
    assert!(!grant("localhost:80").names_address("10.0.0.1".parse().unwrap(), 80));
}

#[test]
fn grants_are_written_as_they_are_read() {
    for text in [
        "a.example:443",
        "*.a.example:*",
        "10.0.0.0/8:*",
        "127.0.0.1:1",
        "[::1]:80",
        "[fd00::/8]:*",
    ] {
        assert_eq!(grant(text).to_string(), text);
    }
    for bad in [
        "",
        "a",
        "a:",
        "a:0",
        "a:65536",
        "::1:80",
        "10.0.0.300:80",
        "10.0.0.0/33:1",
        "*:80",
        "a b:1",
        "http://a:80",
    ] {
        assert!(bad.parse::<HttpGrant>().is_err(), "{bad}");
    }
}

#[test]
fn unknown_settings_are_refused_by_name() {
    let error = serde_json::from_str::<Settings>(r#"{"limits":{"memory":1}}"#).unwrap_err();
    assert!(error.to_string().contains("`memory`"), "{error}");
}

#[test]
fn limits_out_of_bounds_are_named() {
    let with = |field: &str, value: u64| -> Limits {
        serde_json::from_value(serde_json::json!({ field: value })).unwrap()
    };
    for (field, min, max) in Limits::BOUNDS {
        assert_eq!(with(field, min).check(), Ok(()));
        assert_eq!(with(field, max).check(), Ok(()));
        for given in [min - 1, max + 1] {
            let expected = OutOfBounds {
                field,
                given,
                min,
                max,
            };
            assert_eq!(with(field, given).check(), Err(expected));
        }
    }
    assert!(Limits::default().check().is_ok());
}

#[test]
fn digests_are_read_as_they_are_written() {
    let digest = Digest::of(b"x");
    assert_eq!(digest.to_string().parse(), Ok(digest));
    assert!("sha256:zz".parse::<Digest>().is_err());
}
