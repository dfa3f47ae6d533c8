//! Calls of resources over HTTP: the one route that does not go through the router, because it is
//! the one that is hot.

use std::time::Duration;

use bytes::Bytes;
use holdfast_model::{
    ModuleName, ResourceId,
    api::{IDEMPOTENCY_KEY_HEADER, NODE_HEADER, ProblemKind, REQUEST_ID_HEADER, TIMEOUT_HEADER},
    call::{self, Request},
};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header, request::Parts,
};
use http_body_util::Full;
use hyper::body::Body;

use super::{
    Admin, body,
    error::{Error, Result},
    extract::{Asked, NoQuery},
};
use crate::{clock::now_ms, dispatch::Answer, traces::Scope};

/// The module and the id in the path of an invoke, still encoded; none for any other path.
pub(super) fn path(path: &str) -> Option<(&str, &str)> {
    let rest = path.strip_prefix("/v1/modules/")?.strip_suffix("/invoke")?;
    let (module, rest) = rest.split_once('/')?;
    let id = rest.strip_prefix("resources/")?;
    (!id.contains('/')).then_some((module, id))
}

/// Answers an invoke.
pub(super) async fn invoke<B>(
    admin: &Admin,
    parts: Parts,
    body: B,
    scope: &Scope,
) -> Response<Full<Bytes>>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let request_id = match text(&parts.headers, REQUEST_ID_HEADER) {
        Ok(Some(id)) => id,
        Ok(None) => fresh_id(),
        Err(error) => return error.response(),
    };
    let called = call(admin, &parts, body, request_id.clone(), scope).await;
    let mut response = match called {
        Ok(Answer { response, node }) => {
            let mut answer = Response::new(Full::from(response.body));
            let kind = response.content_type.map(HeaderValue::try_from);
            let kind = match kind {
                Some(Ok(kind)) => kind,
                // What the handler gave is no header value: say what is surely true.
                Some(Err(_)) | None => HeaderValue::from_static("application/octet-stream"),
            };
            answer.headers_mut().insert(header::CONTENT_TYPE, kind);
            if let Ok(node) = HeaderValue::try_from(node.to_string()) {
                answer
                    .headers_mut()
                    .insert(HeaderName::from_static(NODE_HEADER), node);
            }
            answer
        }
        Err(error) => error.response(),
    };
    if let Ok(id) = HeaderValue::try_from(request_id) {
        response
            .headers_mut()
            .insert(HeaderName::from_static(REQUEST_ID_HEADER), id);
    }
    response
}

/// An id for a request that came without. From the thread's own generator: one of the system's for
/// each call would be a visible part of it.
fn fresh_id() -> String {
    let id = uuid::Builder::from_random_bytes(rand::random());
    id.into_uuid().to_string()
}

async fn call<B>(
    admin: &Admin,
    parts: &Parts,
    body: B,
    request_id: String,
    scope: &Scope,
) -> Result<Answer>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let (module, id) = path(parts.uri.path()).expect("the caller looked at the path");
    if parts.method != Method::POST {
        let error = Error::invalid(format!("invoke is a POST, not a {}", parts.method))
            .status(StatusCode::METHOD_NOT_ALLOWED)
            .header(header::ALLOW, "POST");
        return Err(error);
    }
    let module =
        ModuleName::from_path_segment(module).map_err(|e| Error::invalid(e.to_string()))?;
    let id = ResourceId::from_path_segment(id).map_err(|e| Error::invalid(e.to_string()))?;
    if parts.uri.query().is_some() {
        let Asked(NoQuery {}) = Asked::of(&parts.uri)?;
    }
    let limits = admin
        .dispatch
        .settings(module.as_str())
        .map(|settings| settings.limits.clone());
    let limits = limits.unwrap_or_default();
    let timeout = match text(&parts.headers, TIMEOUT_HEADER)? {
        None => limits.call_timeout_ms,
        Some(text) => match text.parse::<u64>() {
            Ok(ms) if ms > 0 => ms.min(limits.call_timeout_ms),
            _ => {
                let detail = format!("{TIMEOUT_HEADER} must be a number of milliseconds from 1");
                return Err(Error::invalid(detail));
            }
        },
    };
    let content_type = match parts.headers.get(header::CONTENT_TYPE) {
        Some(_) => text(&parts.headers, header::CONTENT_TYPE.as_str())?,
        None => None,
    };
    let too_large = || {
        Error::from(call::Error::TooLarge {
            max: limits.body_bytes_max,
        })
    };
    let request = Request {
        id: request_id,
        created_at_ms: now_ms(),
        timeout: Duration::from_millis(timeout),
        idempotency_key: text(&parts.headers, IDEMPOTENCY_KEY_HEADER)?,
        content_type,
        body: body::read(body, limits.body_bytes_max, too_large).await?,
    };
    Ok(admin.dispatch.invoke(&module, &id, request, scope).await?)
}

fn text(headers: &HeaderMap, name: &str) -> Result<Option<String>> {
    let Some(value) = headers.get(name) else {
        return Ok(None);
    };
    match value.to_str() {
        Ok(text) if !text.is_empty() && text.len() <= HEADER_BYTES_MAX => Ok(Some(text.to_owned())),
        _ => Err(Error::new(
            ProblemKind::InvalidRequest,
            format!("header {name} must be 1 to {HEADER_BYTES_MAX} printable ASCII characters"),
        )),
    }
}

const HEADER_BYTES_MAX: usize = 512;

/// What the paths of invokes have in common, in traces.
pub(super) const ROUTE: &str = "/v1/modules/{module}/resources/{id}/invoke";

#[cfg(test)]
mod tests {
    use super::path;

    #[test]
    fn only_invokes_of_one_resource_are_taken() {
        assert_eq!(
            path("/v1/modules/m/resources/a%2Fb/invoke"),
            Some(("m", "a%2Fb"))
        );
        assert_eq!(path("/v1/modules/m/resources//invoke"), Some(("m", "")));
        for other in [
            "/v1/modules/m/invoke",
            "/v1/modules/m/resources/invoke",
            "/v1/modules/m/resources/a/b/invoke",
            "/v1/modules/m/resources/a",
            "/v1/cluster",
        ] {
            assert_eq!(path(other), None, "{other}");
        }
    }
}
