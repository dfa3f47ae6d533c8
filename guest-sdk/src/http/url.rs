//! The parts of a URL that a request needs (RFC 3986, RFC 9110 section 4.2).

use super::Error;

/// A URL of scheme `http` or `https`, cut into parts. The host checks them in full.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Url<'a> {
    pub(super) https: bool,
    pub(super) authority: &'a str,
    /// Begins with a slash; without the fragment.
    pub(super) path_with_query: String,
}

impl<'a> Url<'a> {
    pub(crate) fn parse(url: &'a str) -> Result<Self, Error> {
        cut(url).map_err(|problem| Error::Url {
            url: url.to_owned(),
            problem,
        })
    }
}

fn cut(url: &str) -> Result<Url<'_>, &'static str> {
    if url.bytes().any(|b| b <= b' ' || b == 0x7f) {
        return Err("it contains a space or a control character");
    }
    let (scheme, rest) = url
        .split_once("://")
        .ok_or("it must begin with http:// or https://")?;
    let https = match scheme {
        _ if scheme.eq_ignore_ascii_case("http") => false,
        _ if scheme.eq_ignore_ascii_case("https") => true,
        _ => return Err("it must begin with http:// or https://"),
    };
    let rest = rest.split('#').next().unwrap_or_default();
    let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    if authority.is_empty() || authority.starts_with(':') {
        return Err("it has no host");
    }
    if authority.contains('@') {
        return Err("it must not carry a user name or password");
    }
    let path_with_query = if path.starts_with('/') {
        path.to_owned()
    } else {
        format!("/{path}")
    };
    Ok(Url {
        https,
        authority,
        path_with_query,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_cut_into_their_parts() {
        for (url, https, authority, path_with_query) in [
            ("http://a", false, "a", "/"),
            ("HTTPS://a:1/b/c?d=/#e", true, "a:1", "/b/c?d=/"),
            ("http://[::1]:80?q", false, "[::1]:80", "/?q"),
            ("http://a#b", false, "a", "/"),
        ] {
            let expected = Url {
                https,
                authority,
                path_with_query: path_with_query.to_owned(),
            };
            assert_eq!(Url::parse(url), Ok(expected), "{url}");
        }
    }

    #[test]
    fn urls_that_cannot_be_used_are_refused() {
        for url in [
            "",
            "a",
            "/a",
            "ftp://a",
            "http:a",
            "http://",
            "http:///a",
            "http://:80",
            "http://user@a",
            "http://a b",
            "http://a\r\nx: y",
        ] {
            assert!(matches!(Url::parse(url), Err(Error::Url { .. })), "{url}");
            assert!(crate::http::check_url(url).is_err(), "{url}");
        }
    }
}
