//! Modules: what a component is called, how it may be used, and what it is granted.

use std::{collections::BTreeMap, fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use utoipa::ToSchema;

use crate::schema::{schema, text};

/// SHA-256 of a component's bytes, written `sha256:` and 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

schema!(
    Digest,
    text("SHA-256 of a component's bytes.")
        .pattern(Some(format!("^{PREFIX}[0-9a-f]{{{HEX_DIGITS}}}$")))
        .examples([Digest::of(b"a component").to_string()])
);

impl Digest {
    /// The digest of these bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The 64 hexadecimal digits alone, fit for a file name.
    #[must_use]
    pub fn hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is no digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a digest is `sha256:` and 64 hexadecimal digits")]
pub struct InvalidDigest;

impl FromStr for Digest {
    type Err = InvalidDigest;
    fn from_str(text: &str) -> Result<Self, InvalidDigest> {
        let hex = text.strip_prefix(PREFIX).ok_or(InvalidDigest)?;
        if hex.len() != HEX_DIGITS || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(InvalidDigest);
        }
        let mut bytes = [0; 32];
        for (byte, at) in bytes.iter_mut().zip((0..HEX_DIGITS).step_by(2)) {
            *byte = u8::from_str_radix(&hex[at..at + 2], 16).map_err(|_| InvalidDigest)?;
        }
        Ok(Self(bytes))
    }
}

impl Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            return serializer.collect_str(self);
        }
        serde_bytes::serialize(&self.0, serializer)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            let text = String::deserialize(deserializer)?;
            return text.parse().map_err(serde::de::Error::custom);
        }
        serde_bytes::deserialize(deserializer).map(Self)
    }
}

/// How an instance's calls run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Lane {
    /// A plain synchronous call. Waiting for something that is not ready traps.
    Direct,
    /// A call on a stack of its own, which may wait. Costs about 8 KiB and three memory mappings
    /// per instance.
    Fiber,
}

/// The settings of a module, as `holdfast.toml` and the API give them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// What each instance may use.
    pub limits: Limits,
    /// What handlers may reach. Nothing is granted by default.
    pub grants: Grants,
    /// What handlers read through `wasi:config/store`.
    pub config: BTreeMap<String, String>,
    /// The lane of calls; chosen from the component's granted imports when absent.
    pub lane: Option<Lane>,
    /// What becomes of the instances of a node that can reach no majority of the voters.
    pub on_lost_quorum: OnLostQuorum,
}

/// What becomes of a module's instances when their node can reach no majority of the voters.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    ToSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum OnLostQuorum {
    /// They stop when the lease of their node is over: others may run them by then. At most one
    /// instance of a resource, at the price of none while there is no majority.
    #[default]
    Stop,
    /// They go on until a majority is heard again. At least one instance, at the price of several
    /// at a time: the majority, where there is one, runs the resources elsewhere.
    Continue,
}

/// Limits of every instance of a module. Durations are in milliseconds, sizes in bytes. What too low
/// and too high do is in docs/CONFIGURATION.md.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Linear memory and tables of one instance, added up. Default 64 MiB.
    pub memory_bytes_max: u64,
    /// Time for one `handle`. Default 30,000.
    pub handle_timeout_ms: u64,
    /// Time for one `terminate`, after which the instance is dropped. Default 10,000.
    pub terminate_timeout_ms: u64,
    /// Time for one call, and how long its caller waits unless it names a shorter time. Default
    /// 30,000. A call that a caller no longer waits for goes on.
    pub call_timeout_ms: u64,
    /// Calls that may wait for one resource. Default 128.
    pub queue_calls_max: u32,
    /// Body of one call or answer. Default 1 MiB.
    pub body_bytes_max: u64,
    /// Call stack of one call, in machine code. Default 1 MiB. It is rounded up to a power of two.
    pub stack_bytes_max: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory_bytes_max: 64 << 20,
            handle_timeout_ms: 30_000,
            terminate_timeout_ms: 10_000,
            call_timeout_ms: 30_000,
            queue_calls_max: 128,
            body_bytes_max: 1 << 20,
            stack_bytes_max: 1 << 20,
        }
    }
}

/// What the handlers of a module may reach.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Grants {
    /// Destinations of outgoing HTTP.
    pub http: Vec<HttpGrant>,
}

/// A destination: `host:port`, where host is a name, `*.` and a domain, an address, or an address
/// range in CIDR notation, and port is a number or `*`. Addresses of loopback, private and
/// link-local ranges are reached only by a grant that names the address, a range, or `localhost`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HttpGrant {
    host: HostPattern,
    port: Option<u16>,
}

schema!(
    HttpGrant,
    text(
        "A destination of outgoing HTTP, `host:port`: host is a name, `*.` and a domain, an address, \
         or an address range in CIDR notation, and port is a number or `*`."
    )
    .examples(["api.example.com:443", "*.example.com:443", "10.0.0.0/8:*"])
);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum HostPattern {
    Name(String),
    /// Matches any name that ends in `.` and this.
    Below(String),
    Network(std::net::IpAddr, u8),
}

impl HttpGrant {
    /// Whether a request to this authority is granted by name. `host` is a name or an address
    /// literal, without brackets.
    #[must_use]
    pub fn allows(&self, host: &str, port: u16) -> bool {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        self.allows_port(port)
            && match &self.host {
                HostPattern::Name(name) => host == *name,
                HostPattern::Below(domain) => host
                    .strip_suffix(domain.as_str())
                    .is_some_and(|rest| rest.ends_with('.')),
                HostPattern::Network(net, prefix) => {
                    host.parse().is_ok_and(|addr| contains(*net, *prefix, addr))
                }
            }
    }

    /// Whether this grant names the address itself, as loopback and private ones need it:
    /// by address or range, or by `localhost` for loopback.
    #[must_use]
    pub fn names_address(&self, addr: std::net::IpAddr, port: u16) -> bool {
        self.allows_port(port)
            && match &self.host {
                HostPattern::Network(net, prefix) => contains(*net, *prefix, addr),
                HostPattern::Name(name) => name == "localhost" && addr.to_canonical().is_loopback(),
                HostPattern::Below(_) => false,
            }
    }

    fn allows_port(&self, port: u16) -> bool {
        self.port.is_none_or(|granted| granted == port)
    }
}

fn contains(net: std::net::IpAddr, prefix: u8, addr: std::net::IpAddr) -> bool {
    use std::net::IpAddr::{V4, V6};
    let (net, addr, width) = match (net, addr.to_canonical()) {
        (V4(net), V4(addr)) => (u128::from(net.to_bits()), u128::from(addr.to_bits()), 32),
        (V6(net), V6(addr)) => (net.to_bits(), addr.to_bits(), 128),
        _ => return false,
    };
    let ignored = width - u32::from(prefix);
    net.checked_shr(ignored).unwrap_or(0) == addr.checked_shr(ignored).unwrap_or(0)
}

/// A text that is no HTTP grant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "HTTP grant {0:?} is not valid: write `host:port`, for example `api.example.com:443`, \
     `*.example.com:443`, `127.0.0.1:8080`, `10.0.0.0/8:*` or `[::1]:80`"
)]
pub struct InvalidHttpGrant(pub String);

impl FromStr for HttpGrant {
    type Err = InvalidHttpGrant;
    fn from_str(text: &str) -> Result<Self, InvalidHttpGrant> {
        parse_grant(text).ok_or_else(|| InvalidHttpGrant(text.to_owned()))
    }
}

fn parse_grant(text: &str) -> Option<HttpGrant> {
    let (host, port) = text.rsplit_once(':')?;
    let port = match port {
        "*" => None,
        number => Some(number.parse().ok().filter(|port| *port != 0)?),
    };
    let bare = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    if bare.is_none() && host.contains(':') {
        return None;
    }
    let host = bare.unwrap_or(host).to_ascii_lowercase();
    let (address, prefix) = match host.split_once('/') {
        Some((address, prefix)) => (address, Some(prefix.parse::<u8>().ok()?)),
        None => (host.as_str(), None),
    };
    if let Ok(address) = address.parse::<std::net::IpAddr>() {
        let width = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.unwrap_or(width);
        let host = HostPattern::Network(address, prefix);
        return (prefix <= width).then_some(HttpGrant { host, port });
    }
    let (domain, below) = match host.strip_prefix("*.") {
        Some(domain) => (domain, true),
        None => (host.as_str(), false),
    };
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    // What looks like an address but is none (`10.0.0.300`) must not pass for a name.
    let named = domain.split('.').all(label)
        && domain.len() <= 253
        && domain
            .rsplit('.')
            .next()
            .is_some_and(|top| !top.bytes().all(|b| b.is_ascii_digit()));
    let domain = domain.to_owned();
    let host = if below {
        HostPattern::Below(domain)
    } else {
        HostPattern::Name(domain)
    };
    (named && prefix.is_none()).then_some(HttpGrant { host, port })
}

impl fmt::Display for HttpGrant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            HostPattern::Name(name) => f.write_str(name)?,
            HostPattern::Below(domain) => write!(f, "*.{domain}")?,
            HostPattern::Network(net, prefix) => {
                let whole = *prefix == if net.is_ipv4() { 32 } else { 128 };
                let range = if whole {
                    String::new()
                } else {
                    format!("/{prefix}")
                };
                match net {
                    std::net::IpAddr::V4(net) => write!(f, "{net}{range}")?,
                    std::net::IpAddr::V6(net) => write!(f, "[{net}{range}]")?,
                }
            }
        }
        match self.port {
            Some(port) => write!(f, ":{port}"),
            None => f.write_str(":*"),
        }
    }
}

impl TryFrom<String> for HttpGrant {
    type Error = InvalidHttpGrant;
    fn try_from(text: String) -> Result<Self, InvalidHttpGrant> {
        text.parse()
    }
}

impl From<HttpGrant> for String {
    fn from(grant: HttpGrant) -> Self {
        grant.to_string()
    }
}

/// A setting outside its bounds.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("limits.{field} is {given}; it must be {min} to {max}")]
pub struct OutOfBounds {
    /// Name of the field.
    pub field: &'static str,
    /// What was given.
    pub given: u64,
    /// Smallest value allowed.
    pub min: u64,
    /// Largest value allowed.
    pub max: u64,
}

impl Limits {
    /// Name, smallest and largest value of each limit.
    pub const BOUNDS: [(&'static str, u64, u64); 7] = [
        ("memory_bytes_max", 64 << 10, 4 << 30),
        ("handle_timeout_ms", 1, DAY_MS),
        ("terminate_timeout_ms", 1, DAY_MS),
        ("call_timeout_ms", 1, DAY_MS),
        ("queue_calls_max", 1, 1 << 20),
        ("body_bytes_max", 1, 64 << 20),
        ("stack_bytes_max", 64 << 10, 16 << 20),
    ];

    /// Checks that every limit is within the bounds that a node can honour.
    ///
    /// # Errors
    /// Names the first field that is out of bounds.
    pub fn check(&self) -> Result<(), OutOfBounds> {
        let given = [
            self.memory_bytes_max,
            self.handle_timeout_ms,
            self.terminate_timeout_ms,
            self.call_timeout_ms,
            u64::from(self.queue_calls_max),
            self.body_bytes_max,
            self.stack_bytes_max,
        ];
        for ((field, min, max), given) in Self::BOUNDS.into_iter().zip(given) {
            if !(min..=max).contains(&given) {
                return Err(OutOfBounds {
                    field,
                    given,
                    min,
                    max,
                });
            }
        }
        Ok(())
    }
}

const PREFIX: &str = "sha256:";
const HEX_DIGITS: usize = 64;

const DAY_MS: u64 = 24 * 60 * 60 * 1000;

#[cfg(test)]
mod tests;
