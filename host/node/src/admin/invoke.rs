//! Calls of resources over HTTP: the one route that does not go through the router, because it is
//! the one that is hot.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use bytes::Bytes;
use holdfast_model::{
    ModuleName, NodeId, ResourceId,
    api::{
        IDEMPOTENCY_KEY_HEADER, NODE_HEADER,
        ProblemKind::{
            self, Forbidden, HandlerRefused, Interrupted, InvalidRequest, NotInvocable, Overloaded,
            Quarantined, QueueFull, RequestTimeout, Timeout, TooLarge, Trap, Unauthorized,
            Unavailable, UnknownModule, UnknownResource,
        },
        REQUEST_ID_HEADER, TIMEOUT_HEADER,
    },
    call::{self, Refusal, Request},
};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header, request::Parts,
};
use http_body_util::Full;
use hyper::body::Body;
use serde_json::Value;
use utoipa::{
    IntoParams, IntoResponses, PartialSchema, ToSchema as _,
    openapi::{
        Content, ObjectBuilder, Ref, RefOr, ResponseBuilder,
        path::{Parameter, ParameterIn},
        schema::{Object, Type},
    },
};

use super::{
    Admin, body,
    describe::{TOO_LONG, problems, request_header, response_header},
    error::{self, Error, Result},
    extract::{Asked, NoQuery, Resource},
};
use crate::{clock::now_ms, dispatch::Answer, traces::Scope};

/// The module and the id in the path of an invoke, still encoded; none for any other path.
pub(super) fn path(path: &str) -> Option<(&str, &str)> {
    let rest = path.strip_prefix("/v1/modules/")?.strip_suffix("/invoke")?;
    let (module, rest) = rest.split_once('/')?;
    let id = rest.strip_prefix("resources/")?;
    (!id.contains('/')).then_some((module, id))
}

/// Call a resource
///
/// Wherever it is. Calls of one resource run one after the other. A call whose caller's time is up goes on in the
/// handler.
#[utoipa::path(
    post,
    path = ROUTE,
    operation_id = "invoke_resource",
    tag = "resources",
    params(Resource, CallHeaders),
    request_body(content(("*/*")), description = "Goes to the handler as it is, with its `Content-Type`"),
    responses(
        Called,
    )
)]
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
    let begun = tracing::enabled!(target: CALLS, tracing::Level::DEBUG).then(Instant::now);
    let called = call(admin, &parts, body, request_id.clone(), scope).await;
    if let Some(begun) = begun {
        log(parts.uri.path(), &called, begun.elapsed());
    }
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

/// Writes a line to the log for a call that has ended, for whoever wants one for each.
fn log(at: &str, called: &Result<Answer>, took: Duration) {
    let (module, id) = path(at).unwrap_or_default();
    let id = ResourceId::from_path_segment(id);
    let id = id.as_ref().map_or("?", ResourceId::as_str);
    let took_ms = took.as_secs_f64() * 1e3;
    match called {
        Ok(answer) => tracing::debug!(
            target: CALLS,
            module,
            resource.id = id,
            status = 200,
            took_ms,
            node = %answer.node,
            "called"
        ),
        Err(error) => tracing::debug!(
            target: CALLS,
            module,
            resource.id = id,
            status = error.as_problem().status,
            took_ms,
            error = error.as_problem().detail,
            "called"
        ),
    }
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
        Some(text) => match milliseconds(&text) {
            Some(ms) if ms > 0 => ms.min(limits.call_timeout_ms),
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
        body: body::read(
            &admin.budget,
            Some(&module),
            body,
            limits.body_bytes_max,
            too_large,
        )
        .await?,
    };
    Ok(admin.dispatch.invoke(&module, &id, request, scope).await?)
}

/// A whole number however large, of which nothing is meant that is too large for one.
fn milliseconds(text: &str) -> Option<u64> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    (digits && !text.is_empty()).then(|| text.parse().unwrap_or(u64::MAX))
}

/// The headers of a call.
struct CallHeaders;

impl IntoParams for CallHeaders {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let ms = ObjectBuilder::new()
            .schema_type(Type::Integer)
            .minimum(Some(1));
        vec![
            request_header(
                TIMEOUT_HEADER,
                "How long to wait, in milliseconds; at most, and by default, the module's \
                 `call_timeout_ms`.",
                ms,
            ),
            request_header(
                IDEMPOTENCY_KEY_HEADER,
                "Says that the call may be repeated: if the owner is lost during the call, the next one is \
                 called. Given to the handler, which is to know it again.",
                header_text(),
            ),
            request_header(
                REQUEST_ID_HEADER,
                "Given to the handler; made when absent.",
                header_text(),
            ),
        ]
    }
}

/// What comes of a call.
struct Called;

impl IntoResponses for Called {
    fn responses() -> BTreeMap<String, RefOr<utoipa::openapi::Response>> {
        let told = [
            InvalidRequest,
            UnknownModule,
            UnknownResource,
            RequestTimeout,
            TooLarge,
            QueueFull,
            Quarantined,
            Overloaded,
            Trap,
            NotInvocable,
            Unavailable,
            Interrupted,
            Timeout,
        ];
        let by_kind = |kind: ProblemKind| (kind.status(), kind);
        let refused = Refusal::ALL.map(|kind| (error::refused(kind), HandlerRefused));
        let share = (StatusCode::TOO_MANY_REQUESTS.as_u16(), Overloaded);
        let told = told.map(by_kind).into_iter();
        let mut all = problems(told.chain([share]).chain(TOO_LONG).chain(refused));
        let ran = ResponseBuilder::new()
            .description(
                "What the handler answered, as it is, with its `Content-Type`; \
                 `application/octet-stream` when it gives none",
            )
            .content("*/*", Content::new(Some(Value::schema())))
            .header(
                NODE_HEADER,
                response_header("Where it ran.", Ref::from_schema_name(NodeId::name())),
            );
        all.insert(StatusCode::OK.as_u16().to_string(), ran.into());
        for response in all.values_mut() {
            if let RefOr::T(response) = response {
                let id = response_header("As given, or made.", header_text());
                response
                    .headers
                    .insert(REQUEST_ID_HEADER.to_owned(), id.into());
            }
        }
        // Who may not ask is told so before anything is read.
        all.extend(problems([Unauthorized, Forbidden].map(by_kind)));
        all
    }
}

fn header_text() -> Object {
    ObjectBuilder::new()
        .schema_type(Type::String)
        .min_length(Some(1))
        .max_length(Some(HEADER_BYTES_MAX))
        .build()
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

/// The target of the log's lines for calls, at the level debug.
pub(crate) const CALLS: &str = "calls";

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
