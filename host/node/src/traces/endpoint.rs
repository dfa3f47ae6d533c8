//! Where the collector is, and how many traces it gets: what a node is told about traces.

use std::{fmt, str::FromStr};

use http::{Uri, uri::Authority};

/// Where spans are sent: the URL of the traces of a collector that speaks OTLP over HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint(Box<str>);

/// A text that is no endpoint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no URL of a collector: write one like http://127.0.0.1:4318, with http or https and \
     without a query"
)]
pub struct InvalidEndpoint(String);

/// A share of the traces, from 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ratio(f64);

/// A text that is no ratio.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no ratio: write a number from 0 to 1, like 0.01")]
pub struct InvalidRatio(String);

impl Endpoint {
    /// The endpoint that was given, else the one that the standard's variables name; none where they
    /// say that nothing is to be sent.
    ///
    /// # Errors
    /// When the variable that counts has no endpoint in it.
    pub fn given_or_standard(
        given: Option<Self>,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<Self>, InvalidEndpoint> {
        // An empty one is as good as none.
        let variable = |name| variable(name).filter(|value| !value.is_empty());
        let is_off =
            variable("OTEL_SDK_DISABLED").is_some_and(|it| it.eq_ignore_ascii_case("true"));
        if is_off {
            return Ok(None);
        }
        if given.is_some() {
            return Ok(given);
        }
        if variable("OTEL_TRACES_EXPORTER").is_some_and(|it| it == "none") {
            return Ok(None);
        }
        if let Some(text) = variable("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") {
            return parse(&text, "").map(Some);
        }
        let base = variable("OTEL_EXPORTER_OTLP_ENDPOINT");
        base.map(|text| text.parse()).transpose()
    }
}

impl FromStr for Endpoint {
    type Err = InvalidEndpoint;

    /// Reads the URL of a collector, below which its traces are.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text, "/v1/traces")
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Ratio {
    /// From 0 to 1.
    #[must_use]
    pub fn get(self) -> f64 {
        self.0
    }
}

impl FromStr for Ratio {
    type Err = InvalidRatio;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.parse() {
            Ok(ratio) if (0.0..=1.0).contains(&ratio) => Ok(Self(ratio)),
            _ => Err(InvalidRatio(text.to_owned())),
        }
    }
}

fn parse(text: &str, below: &str) -> Result<Endpoint, InvalidEndpoint> {
    let invalid = || InvalidEndpoint(text.to_owned());
    let base: Uri = text.parse().map_err(|_| invalid())?;
    let is_http = matches!(base.scheme_str(), Some("http" | "https"));
    let is_at = |at: &Authority| at.as_str() == at.host() || at.port_u16().is_some();
    // A password in it would be in the log; headers are for that.
    let is_open = |at: &Authority| !at.as_str().contains('@');
    let is_host = base.authority().is_some_and(|at| is_at(at) && is_open(at));
    let is_bare = base.query().is_none() && !text.contains('#');
    if !is_http || !is_host || !is_bare {
        return Err(invalid());
    }
    let full = match below {
        "" => text.to_owned(),
        below => format!("{}{below}", text.trim_end_matches('/')),
    };
    Ok(Endpoint(full.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traces_are_below_the_collector() {
        for (given, full) in [
            ("http://127.0.0.1:4318", "http://127.0.0.1:4318/v1/traces"),
            ("http://[::1]:4318/", "http://[::1]:4318/v1/traces"),
            (
                "https://otlp.example/tenant/",
                "https://otlp.example/tenant/v1/traces",
            ),
        ] {
            assert_eq!(given.parse::<Endpoint>().unwrap().to_string(), full);
        }
    }

    #[test]
    fn what_is_no_url_of_a_collector_is_refused() {
        for text in [
            "",
            "127.0.0.1:4318",
            "localhost",
            "/v1/traces",
            "grpc://a:4317",
            "http://",
            "http://a:b",
            "http://a?b",
            "http://a#b",
            "http://me:secret@a",
        ] {
            let refused = text.parse::<Endpoint>().unwrap_err();
            assert_eq!(refused, InvalidEndpoint(text.to_owned()));
        }
    }

    #[test]
    fn a_ratio_is_from_0_to_1() {
        for text in ["0", "0.01", "1", "1e-3"] {
            assert!(text.parse::<Ratio>().is_ok(), "{text}");
        }
        for text in ["", "-0.1", "1.1", "10%", "NaN", "inf"] {
            assert!(text.parse::<Ratio>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_variables_of_the_standard_turn_traces_on_and_off() {
        let of = |given: Option<&str>, variables: &[(&str, &str)]| {
            let variable = |name: &str| {
                let found = variables.iter().find(|(known, _)| *known == name);
                found.map(|(_, value)| (*value).to_owned())
            };
            let given = given.map(|text| text.parse().unwrap());
            let endpoint = Endpoint::given_or_standard(given, variable);
            endpoint.map(|endpoint| endpoint.map(|endpoint| endpoint.to_string()))
        };
        let base = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://a:4318");
        let exact = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://b/c");
        let none = ("OTEL_TRACES_EXPORTER", "none");
        let disabled = ("OTEL_SDK_DISABLED", "True");
        let own = Some("http://own");
        let found = |url: &str| Ok(Some(url.to_owned()));
        assert_eq!(of(None, &[]), Ok(None));
        assert_eq!(of(None, &[base]), found("http://a:4318/v1/traces"));
        assert_eq!(of(None, &[base, exact]), found("http://b/c"));
        assert_eq!(of(None, &[base, none]), Ok(None));
        assert_eq!(of(own, &[base, exact, none]), found("http://own/v1/traces"));
        assert_eq!(of(own, &[disabled]), Ok(None));
        assert_eq!(of(None, &[(base.0, "")]), Ok(None));
        assert!(of(None, &[(base.0, "a:4317")]).is_err());
    }
}
