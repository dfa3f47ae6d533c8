//! Who may ask: whoever shows the API token, or, on a node without one, whoever is on its machine.
//!
//! A node without a token listens on a loopback address only, but a web page in a browser on that
//! machine gets there too: with a request to another origin than its own, or under a name of its
//! own that resolves to a loopback address. What a browser says of the page tells them apart.

use std::net::IpAddr;

use holdfast_model::api::ProblemKind;
use http::{HeaderMap, header, uri::Authority};

use super::error::{Error, Result};
use crate::token::Token;

/// Whether a request with these headers may be answered.
pub(super) fn admit(token: Option<&Token>, headers: &HeaderMap) -> Result<()> {
    match token {
        Some(token) => shows(token, headers),
        None => is_local(headers),
    }
}

fn shows(token: &Token, headers: &HeaderMap) -> Result<()> {
    let shown = headers.get(header::AUTHORIZATION);
    let shown = shown.and_then(|value| bearer(value.as_bytes()));
    let refused = |detail| Error::new(ProblemKind::Unauthorized, detail);
    match shown {
        Some(shown) if token.is(shown) => Ok(()),
        // The words of RFC 6750, section 3.1.
        Some(_) => Err(refused("the API token of this request is not the one of this node")
            .with("error", INVALID_TOKEN)
            .header(header::WWW_AUTHENTICATE, "Bearer error=\"invalid_token\"")),
        None => Err(refused(
            "this request shows no API token, and this node wants one: `Authorization: Bearer TOKEN`",
        )
        .header(header::WWW_AUTHENTICATE, "Bearer")),
    }
}

/// What stands behind the scheme, whose case does not count (RFC 9110, section 11.1).
fn bearer(credentials: &[u8]) -> Option<&[u8]> {
    const SCHEME: &[u8] = b"bearer ";
    let (scheme, token) = credentials.split_at_checked(SCHEME.len())?;
    let token = token.trim_ascii_start();
    scheme.eq_ignore_ascii_case(SCHEME).then_some(token)
}

fn is_local(headers: &HeaderMap) -> Result<()> {
    let text = |name| {
        let value = headers.get(name)?;
        Some(String::from_utf8_lossy(value.as_bytes()))
    };
    let host = text(header::HOST);
    // Every browser names the host.
    if let Some(host) = host.as_deref().filter(|host| !is_loopback(host)) {
        let detail = format!(
            "a node without an API token answers to localhost and loopback addresses, not to \
             {host:?}"
        );
        return Err(Error::new(ProblemKind::Forbidden, detail));
    }
    let is_own = |origin: &str| {
        let named = origin.get(.."http://".len());
        let scheme = named.is_some_and(|scheme| scheme.eq_ignore_ascii_case("http://"));
        scheme && host.is_some_and(|host| origin["http://".len()..].eq_ignore_ascii_case(&host))
    };
    match text(header::ORIGIN) {
        Some(origin) if !is_own(&origin) => {
            let detail = format!("a node without an API token takes nothing from {origin:?}");
            Err(Error::new(ProblemKind::Forbidden, detail))
        }
        _ => Ok(()),
    }
}

fn is_loopback(host: &str) -> bool {
    let Ok(authority) = host.parse::<Authority>() else {
        return false;
    };
    let name = authority.host();
    let bare = name
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    match bare.unwrap_or(name).parse::<IpAddr>() {
        Ok(ip) => ip.to_canonical().is_loopback(),
        Err(_) => name.eq_ignore_ascii_case("localhost"),
    }
}

/// The member `error` of a problem tells a wrong token apart from none.
const INVALID_TOKEN: &str = "invalid_token";

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    fn asked(token: Option<&Token>, headers: &[(HeaderName, &'static str)]) -> Option<u16> {
        let headers = headers
            .iter()
            .map(|(name, value)| (name.clone(), HeaderValue::from_static(value)))
            .collect();
        admit(token, &headers)
            .err()
            .map(|error| error.problem().status)
    }

    #[test]
    fn without_a_token_the_own_machine_is_admitted_by_any_of_its_names() {
        for host in [
            "127.0.0.1:7300",
            "127.8.9.1:7300",
            "localhost:7300",
            "LOCALHOST",
            "[::1]:7300",
            "[::ffff:127.0.0.1]:80",
        ] {
            assert_eq!(asked(None, &[(header::HOST, host)]), None, "{host}");
        }
        assert_eq!(asked(None, &[]), None);
        for host in [
            "evil.example:7300",
            "localhost.evil.example",
            "10.0.0.1:7300",
            "[::2]:7300",
            "127.0.0.1@evil.example",
            "",
        ] {
            assert_eq!(asked(None, &[(header::HOST, host)]), Some(403), "{host}");
        }
    }

    #[test]
    fn without_a_token_pages_of_other_origins_are_turned_away() {
        let of = |origin| {
            let host = (header::HOST, "127.0.0.1:7300");
            asked(None, &[host, (header::ORIGIN, origin)])
        };
        assert_eq!(of("http://127.0.0.1:7300"), None);
        for origin in [
            "https://evil.example",
            "http://127.0.0.1:3000",
            "http://localhost:7300",
            "null",
        ] {
            assert_eq!(of(origin), Some(403), "{origin}");
        }
        let nowhere = [(header::ORIGIN, "http://127.0.0.1:7300")];
        assert_eq!(asked(None, &nowhere), Some(403));
    }

    #[test]
    fn the_token_admits_from_anywhere_and_nothing_else_does() {
        let token = Token::new("0123456789abcdef").unwrap();
        let shown = (header::AUTHORIZATION, "Bearer 0123456789abcdef");
        let page = [
            (header::HOST, "node-1.example"),
            (header::ORIGIN, "https://console.example"),
            shown,
        ];
        assert_eq!(asked(Some(&token), &page), None);
        for shown in ["bearer 0123456789abcdef", "BEARER  0123456789abcdef"] {
            let shown = [(header::AUTHORIZATION, shown)];
            assert_eq!(asked(Some(&token), &shown), None);
        }
        for other in ["Bearer0123456789abcdef", "Basic 0123456789abcdef", "Bearer"] {
            let other = [(header::AUTHORIZATION, other)];
            assert_eq!(asked(Some(&token), &other), Some(401));
        }
        let local = [(header::HOST, "127.0.0.1:7300")];
        assert_eq!(asked(Some(&token), &local), Some(401));
    }

    #[test]
    fn a_wrong_token_is_told_apart_from_none() {
        let token = Token::new("0123456789abcdef").unwrap();
        let told = |headers: HeaderMap| {
            let answer = || admit(Some(&token), &headers).unwrap_err();
            let challenge = answer().response().headers()[header::WWW_AUTHENTICATE].clone();
            let problem = answer().problem();
            let error = problem.extensions.get("error").cloned();
            (
                problem.detail,
                error,
                challenge.to_str().unwrap().to_owned(),
            )
        };
        let (none, error, challenge) = told(HeaderMap::new());
        assert!(none.contains("shows no API token"), "{none}");
        assert_eq!((error, challenge.as_str()), (None, "Bearer"));
        let wrong = HeaderValue::from_static("Bearer 0123456789abcdeX");
        let wrong = HeaderMap::from_iter([(header::AUTHORIZATION, wrong)]);
        let (wrong, error, challenge) = told(wrong);
        assert!(wrong.contains("is not the one of this node"), "{wrong}");
        assert_eq!(error, Some("invalid_token".into()));
        assert_eq!(challenge, "Bearer error=\"invalid_token\"");
    }
}
