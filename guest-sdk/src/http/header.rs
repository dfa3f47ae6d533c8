//! Which headers a node takes, for the world in memory: there no host refuses them.

use super::Error;

/// What the host would say of the headers of a request.
pub(crate) fn check(headers: &[(String, String)]) -> Result<(), Error> {
    let refused = headers
        .iter()
        .find(|(name, value)| !is_name(name) || is_the_hosts(name) || !is_value(value));
    match refused {
        Some((name, _)) => Err(Error::Header { name: name.clone() }),
        None => Ok(()),
    }
}

/// A token (RFC 9110, section 5.6.2).
fn is_name(name: &str) -> bool {
    let is_token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    !name.is_empty() && name.bytes().all(is_token)
}

/// No control characters but the tab (RFC 9110, section 5.5).
fn is_value(value: &str) -> bool {
    value.bytes().all(|b| b == b'\t' || b >= b' ' && b != 0x7f)
}

/// Whether it belongs to the connection, which is the host's.
fn is_the_hosts(name: &str) -> bool {
    HOSTS.iter().any(|ours| name.eq_ignore_ascii_case(ours))
}

/// As wasmtime-wasi-http forbids them.
const HOSTS: [&str; 9] = [
    "connection",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "transfer-encoding",
    "upgrade",
];
