//! Refuses what two readers could take for two different requests (RFC 9110, RFC 9112).
//!
//! A proxy in front of a node that reads the first of two headers, and the node the last, could be made to
//! disagree about who asks, for what, and where a request ends.

use http::{HeaderMap, Request, Uri, Version, header};

use super::error::{Error, Result};

/// Whether a request says one thing only.
pub(super) fn check<B>(request: &Request<B>) -> Result<()> {
    let mut seen = Seen::default();
    for (name, value) in request.headers() {
        let once = match *name {
            header::HOST => &mut seen.host,
            header::ORIGIN => &mut seen.origin,
            header::AUTHORIZATION => &mut seen.authorization,
            header::CONTENT_LENGTH => &mut seen.length,
            header::TRANSFER_ENCODING => {
                if !value.as_bytes().eq_ignore_ascii_case(b"chunked") {
                    let detail = "the only transfer coding that is known here is `chunked`";
                    let refused = Error::invalid(detail);
                    return Err(refused.status(http::StatusCode::NOT_IMPLEMENTED));
                }
                &mut seen.encoding
            }
            _ => continue,
        };
        if std::mem::replace(once, true) {
            return Err(Error::invalid(format!("the header {name} is there twice")));
        }
    }
    if !seen.host && request.version() == Version::HTTP_11 {
        return Err(Error::invalid("HTTP/1.1 wants the header Host"));
    }
    names_one_host(request.uri(), request.headers())?;
    for (what, text) in [
        ("path", request.uri().path()),
        ("query", request.uri().query().unwrap_or_default()),
    ] {
        if let Some(code) = bad_percent_code(text) {
            let detail = format!("the {what} has {code:?}, which is no percent code");
            return Err(Error::invalid(detail));
        }
    }
    Ok(())
}

#[derive(Default)]
struct Seen {
    host: bool,
    origin: bool,
    authorization: bool,
    length: bool,
    encoding: bool,
}

/// A target may name the host too.
fn names_one_host(uri: &Uri, headers: &HeaderMap) -> Result<()> {
    let (Some(named), Some(host)) = (uri.authority(), headers.get(header::HOST)) else {
        return Ok(());
    };
    match host
        .as_bytes()
        .eq_ignore_ascii_case(named.as_str().as_bytes())
    {
        true => Ok(()),
        false => Err(Error::invalid("the target and the header Host differ")),
    }
}

/// The first `%` that is not followed by two hexadecimal digits, with what stands there.
fn bad_percent_code(text: &str) -> Option<&str> {
    let mut from = 0;
    while let Some(at) = text.as_bytes()[from..]
        .iter()
        .position(|byte| *byte == b'%')
    {
        let at = from + at;
        let code = text.as_bytes().get(at + 1..at + 3);
        if !code.is_some_and(|code| code.iter().all(u8::is_ascii_hexdigit)) {
            return Some(text.get(at..at + 3).unwrap_or(&text[at..]));
        }
        from = at + 3;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(version: Version, uri: &str, headers: &[(&str, &str)]) -> Option<u16> {
        let mut request = Request::builder().version(version).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let refused = check(&request.body(()).unwrap()).err()?;
        Some(refused.problem().status)
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        const HOST: (&str, &str) = ("host", "a");
        let of = |headers: &[(&str, &str)]| status(Version::HTTP_11, "/", headers);
        assert_eq!(of(&[HOST]), None);
        assert_eq!(of(&[]), Some(400));
        assert_eq!(status(Version::HTTP_10, "/", &[]), None);
        for twice in ["host", "origin", "authorization"] {
            assert_eq!(
                of(&[HOST, (twice, "a"), (twice, "a")]),
                Some(400),
                "{twice}"
            );
        }
        let coding = |coding| of(&[HOST, ("transfer-encoding", coding)]);
        assert_eq!(coding("Chunked"), None);
        for other in ["gzip", "gzip, chunked", "chunked, chunked", "identity"] {
            assert_eq!(coding(other), Some(501), "{other}");
        }
        let twice = ("transfer-encoding", "chunked");
        assert_eq!(of(&[HOST, twice, twice]), Some(400));
    }

    #[test]
    fn a_target_names_the_same_host() {
        let of = |host| status(Version::HTTP_11, "http://a:80/x", &[("host", host)]);
        assert_eq!(of("A:80"), None);
        assert_eq!(of("b"), Some(400));
    }

    #[test]
    fn percent_codes_have_two_hexadecimal_digits() {
        let of = |uri| status(Version::HTTP_11, uri, &[("host", "a")]);
        for good in ["/", "/%41%c3%A9?x=%20"] {
            assert_eq!(of(good), None, "{good}");
        }
        for bad in ["/%", "/%4", "/%zz", "/%41%4g", "/?x=%", "/%%41"] {
            assert_eq!(of(bad), Some(400), "{bad}");
        }
    }
}
