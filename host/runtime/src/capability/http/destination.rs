//! Where a request goes, and which addresses are not for everybody.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use holdfast_model::module::HttpGrant;
use wasmtime_wasi_http::Error;

/// Scheme, host and port of a request.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Destination {
    pub(super) tls: bool,
    /// A name or an address, without brackets.
    pub(super) host: String,
    pub(super) port: u16,
}

impl Destination {
    pub(super) fn of(uri: &http::Uri) -> Result<Self, Error> {
        let authority = uri.authority().ok_or(Error::HttpRequestUriInvalid)?;
        let tls = uri.scheme() == Some(&http::uri::Scheme::HTTPS);
        Self::of_authority(tls, authority)
    }

    /// The destination of a request that has not been put together yet.
    pub(super) fn at(tls: bool, authority: &str) -> Result<Self, Error> {
        let authority = authority
            .parse()
            .map_err(|_| Error::HttpRequestUriInvalid)?;
        Self::of_authority(tls, &authority)
    }

    fn of_authority(tls: bool, authority: &http::uri::Authority) -> Result<Self, Error> {
        // `https://granted@elsewhere` invites mistakes about who is meant.
        if authority.as_str().contains('@') {
            return Err(Error::HttpRequestUriInvalid);
        }
        let host = authority.host();
        let literal = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
        let host = literal.unwrap_or(host);
        if host.is_empty() {
            return Err(Error::HttpRequestUriInvalid);
        }
        Ok(Self {
            tls,
            host: host.to_owned(),
            port: authority.port_u16().unwrap_or(if tls { 443 } else { 80 }),
        })
    }

    /// Whether a grant names it.
    pub(super) fn is_granted(&self, grants: &[HttpGrant]) -> bool {
        grants
            .iter()
            .any(|grant| grant.allows(&self.host, self.port))
    }

    /// The address, if it is given by address.
    pub(super) fn literal(&self) -> Option<SocketAddr> {
        let addr: IpAddr = self.host.parse().ok()?;
        Some(SocketAddr::new(addr, self.port))
    }
}

/// Whether a connection to this address is allowed: public ones are for whoever was granted the
/// name, all others need a grant that names the address.
pub(super) fn is_allowed(addr: SocketAddr, grants: &[HttpGrant]) -> bool {
    is_public(addr.ip())
        || grants
            .iter()
            .any(|grant| grant.names_address(addr.ip(), addr.port()))
}

fn is_public(addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(addr) => is_public_v4(addr),
        IpAddr::V6(addr) => match embedded_v4(addr) {
            Some(addr) => is_public_v4(addr),
            None => is_public_v6(addr),
        },
    }
}

/// IANA's registry of special-purpose addresses (RFC 6890), and what clouds use.
fn is_public_v4(addr: Ipv4Addr) -> bool {
    !RESERVED_V4.iter().any(|(network, prefix)| {
        let ignored = 32 - prefix;
        addr.to_bits() >> ignored == network.to_bits() >> ignored
    })
}

fn is_public_v6(addr: Ipv6Addr) -> bool {
    let head = addr.segments()[0];
    // Only 2000::/3 is handed out; in it 2001::/23 and 2001:db8::/32 are special, 3fff::/20 too.
    let special = head == 0x2001 && addr.segments()[1] < 0x200;
    let documentation = (head == 0x2001 && addr.segments()[1] == 0xdb8)
        || (head == 0x3fff && addr.segments()[1] < 0x1000);
    head & 0xe000 == 0x2000 && !special && !documentation
}

/// The IPv4 address that a packet to this IPv6 address ends up at.
fn embedded_v4(addr: Ipv6Addr) -> Option<Ipv4Addr> {
    let s = addr.segments();
    let pair =
        |high: u16, low: u16| Some(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)));
    match s {
        // IPv4-mapped, and the same in hardware translation (RFC 2765).
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0, 0, 0, 0, 0xffff, 0, high, low] => pair(high, low),
        // NAT64 (RFC 6052).
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => pair(high, low),
        // 6to4 (RFC 3056).
        [0x2002, high, low, ..] => pair(high, low),
        _ => None,
    }
}

const RESERVED_V4: [(Ipv4Addr, u32); 16] = [
    (Ipv4Addr::new(0, 0, 0, 0), 8),
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    (Ipv4Addr::new(100, 64, 0, 0), 10),
    (Ipv4Addr::new(127, 0, 0, 0), 8),
    (Ipv4Addr::new(168, 63, 129, 16), 32), // Azure's wire server
    (Ipv4Addr::new(169, 254, 0, 0), 16),   // most clouds' metadata
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    (Ipv4Addr::new(192, 0, 0, 0), 24),
    (Ipv4Addr::new(192, 0, 2, 0), 24),
    (Ipv4Addr::new(192, 88, 99, 0), 24),
    (Ipv4Addr::new(192, 168, 0, 0), 16),
    (Ipv4Addr::new(198, 18, 0, 0), 15),
    (Ipv4Addr::new(198, 51, 100, 0), 24),
    (Ipv4Addr::new(203, 0, 113, 0), 24),
    (Ipv4Addr::new(224, 0, 0, 0), 4),
    (Ipv4Addr::new(240, 0, 0, 0), 4),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_public_addresses_are_for_everybody() {
        for private in [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "127.0.0.1",
            "127.255.0.1",
            "168.63.129.16",
            "169.254.169.254",
            "172.31.255.255",
            "192.168.0.1",
            "192.0.0.192",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::7f00:1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "64:ff9b::a00:1",
            "64:ff9b:1::1",
            "2002:7f00:1::",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "2001:db8::1",
            "2001::1",
            "3fff::1",
        ] {
            assert!(!is_public(private.parse().unwrap()), "{private}");
        }
        for public in [
            "1.1.1.1",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "172.32.0.1",
            "168.63.129.17",
            "::ffff:8.8.8.8",
            "64:ff9b::808:808",
            "2606:4700::1111",
            "2a00:1450::1",
            "2001:4860::8888",
        ] {
            assert!(is_public(public.parse().unwrap()), "{public}");
        }
    }

    #[test]
    fn a_private_address_needs_a_grant_that_names_it() {
        let grant = |text: &str| [text.parse::<HttpGrant>().unwrap()];
        let addr = "10.0.0.1:80".parse().unwrap();
        assert!(!is_allowed(addr, &grant("inside.example:80")));
        assert!(!is_allowed(addr, &grant("10.0.0.1:81")));
        assert!(is_allowed(addr, &grant("10.0.0.0/8:80")));
        let mapped = "[::ffff:10.0.0.1]:80".parse().unwrap();
        assert!(!is_allowed(mapped, &grant("inside.example:80")));
        assert!(is_allowed(mapped, &grant("10.0.0.1:*")));
    }

    #[test]
    fn a_destination_is_read_from_the_authority() {
        let of = |uri: &str| Destination::of(&uri.parse().unwrap());
        let found = of("https://a.example/x").unwrap();
        assert_eq!(
            (found.tls, found.host.as_str(), found.port),
            (true, "a.example", 443)
        );
        let found = of("http://[::1]:8080/").unwrap();
        assert_eq!((found.host.as_str(), found.port), ("::1", 8080));
        assert_eq!(found.literal(), Some("[::1]:8080".parse().unwrap()));
        assert!(of("http://granted.example@10.0.0.1/").is_err());
        assert!(of("/path").is_err());
    }
}
