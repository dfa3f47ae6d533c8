//! The requests that handlers send: each one a span, and each tells its receiver the context.

use std::{error::Error, sync::Arc};

use holdfast_runtime::{Follow, Followed};
use http::{Method, StatusCode, Uri, request};

use super::{Inside, Kind, Scope, Span, context};

impl Follow for Inside {
    fn request(self: Arc<Self>, head: &mut request::Parts) -> Option<Box<dyn Followed>> {
        let mut span = Scope(Some(self)).child(Kind::Client, "HTTP");
        // A handler that has traces of its own knows better what its request belongs to.
        if !context::is_in(&head.headers)
            && let Some(inside) = &span.scope().0
        {
            context::write(&inside.context, &mut head.headers);
        }
        let recorded = span.recorded()?;
        let method = known(&head.method);
        recorded.name(method.to_owned());
        recorded.set("http.request.method", method);
        if let Some(host) = head.uri.host() {
            recorded.set("server.address", host.to_owned());
        }
        if let Some(port) = port(&head.uri) {
            recorded.set("server.port", i64::from(port));
        }
        recorded.set("url.full", without_secrets(&head.uri));
        Some(Box::new(Sent(span)))
    }
}

/// A request whose answer has not come yet.
struct Sent(Span);

impl Followed for Sent {
    fn ended(mut self: Box<Self>, outcome: Result<StatusCode, &dyn Error>) {
        match outcome {
            Ok(status) => {
                if let Some(recorded) = self.0.recorded() {
                    recorded.status(status);
                }
                if status.is_client_error() || status.is_server_error() {
                    self.0.failed(status.as_str(), "");
                }
            }
            Err(error) => self.0.failed(name(error), error),
        }
    }
}

/// A method of HTTP by its name: others are for everybody to choose, and have one name.
pub(super) fn known(method: &Method) -> &'static str {
    let known = METHODS.into_iter().find(|known| *known == method.as_str());
    known.unwrap_or("_OTHER")
}

/// The name of an error, as code has it: there are few.
fn name(error: &dyn Error) -> String {
    let mut name = format!("{error:?}");
    let end = name.find(|c: char| !c.is_alphanumeric());
    name.truncate(end.unwrap_or(name.len()));
    name
}

fn port(uri: &Uri) -> Option<u16> {
    uri.port_u16().or(match uri.scheme_str() {
        Some("http") => Some(80),
        Some("https") => Some(443),
        _ => None,
    })
}

/// The URL without what may be nobody's business: its query.
fn without_secrets(uri: &Uri) -> String {
    let (scheme, path) = (uri.scheme_str().unwrap_or("http"), uri.path());
    let authority = uri.authority().map_or("", |authority| {
        let text = authority.as_str();
        text.rsplit_once('@').map_or(text, |(_, host)| host)
    });
    format!("{scheme}://{authority}{path}")
}

const METHODS: [&str; 9] = [
    "GET", "HEAD", "PUT", "POST", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE",
];
