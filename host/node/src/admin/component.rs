//! Downloads of components: what was deployed, byte by byte.

use axum::{
    body::Body,
    extract::State,
    http::HeaderMap,
    response::{IntoResponse, Response},
};
use holdfast_cluster::state::{Module as Deployed, Version};
use holdfast_model::{
    ModuleName,
    api::{
        ComponentQuery,
        ProblemKind::{self, Internal, NoLeader, NotFound, Unavailable, UnknownModule},
        VERSION_HEADER, WASM,
    },
};
use http::{HeaderValue, StatusCode, header};
use tokio_util::io::ReaderStream;
use utoipa::{
    IntoParams, PartialSchema as _,
    openapi::path::{Parameter, ParameterIn},
};

use super::{
    Admin,
    describe::{Problems, request_header, usual},
    error::{Error, Result},
    extract::{Asked, Module},
    resources::module_of,
};
use crate::modules;

/// Download a component
///
/// The very bytes that were deployed, from whichever node has them. `ETag` is their digest, in quotes.
#[utoipa::path(
    get,
    path = "/v1/modules/{module}/component",
    operation_id = "download_component",
    tag = "modules",
    params(Module, ComponentQuery, Known),
    responses(
        (status = OK, description = "The component", body = serde_json::Value, content_type = WASM,
            headers(
                ("ETag" = String, description = "Its digest, in quotes"),
                ("holdfast-version" = u64, description = "The number of the version that it is")
            )),
        (status = NOT_MODIFIED, description = "It is one of those named in `If-None-Match`",
            headers(
                ("ETag" = String, description = "Its digest, in quotes"),
                ("holdfast-version" = u64, description = "The number of the version that it is")
            )),
        Problems<{ usual(&[UnknownModule, NotFound, Unavailable, NoLeader, Internal]) }>,
    )
)]
pub(super) async fn download(
    State(admin): State<Admin>,
    Module(name): Module,
    Asked(query): Asked<ComponentQuery>,
    headers: HeaderMap,
) -> Result<Response> {
    let look = |state: &holdfast_cluster::state::State| {
        let module = module_of(state, &name)?;
        Ok(wanted(module, &query).cloned().ok_or_else(|| known(module)))
    };
    let version = admin.look_up(look).await?;
    let version = version.map_err(|known| unknown_version(&name, &query, &known))?;
    let tag = format!("\"{}\"", version.digest);
    let tag = HeaderValue::try_from(tag).expect("a digest is ASCII letters, digits and a colon");
    let about = [
        (header::ETAG, tag.clone()),
        (
            header::HeaderName::from_static(VERSION_HEADER),
            HeaderValue::from(version.number),
        ),
    ];
    if is_known(&headers, &tag) {
        return Ok((StatusCode::NOT_MODIFIED, about).into_response());
    }
    let found = admin.modules.component(version.digest).await;
    let (file, len) = found.map_err(|error| not_to_be_had(&error))?;
    let pieces = ReaderStream::with_capacity(tokio::fs::File::from_std(file), PIECE_BYTES);
    let content = [
        (header::CONTENT_TYPE, HeaderValue::from_static(WASM)),
        (header::CONTENT_LENGTH, HeaderValue::from(len)),
    ];
    Ok((about, content, Body::from_stream(pieces)).into_response())
}

/// The header of a client that has components already.
struct Known;

impl IntoParams for Known {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let about = "The `ETag` of what the client has: it is not sent again.";
        vec![request_header("If-None-Match", about, String::schema())]
    }
}

/// The versions whose components are kept, the one that serves first.
fn versions(module: &Deployed) -> impl Iterator<Item = &Version> {
    let about = &module.about;
    let tried = about.rollout.as_ref().map(|rollout| &rollout.version);
    [&about.version].into_iter().chain(tried)
}

fn wanted<'a>(module: &'a Deployed, query: &ComponentQuery) -> Option<&'a Version> {
    versions(module).find(|version| {
        query.version.is_none_or(|number| number == version.number)
            && query.digest.is_none_or(|digest| digest == version.digest)
    })
}

fn known(module: &Deployed) -> Vec<u64> {
    versions(module).map(|version| version.number).collect()
}

fn unknown_version(name: &ModuleName, query: &ComponentQuery, known: &[u64]) -> Error {
    let known: Vec<String> = known.iter().map(u64::to_string).collect();
    let wanted = match (query.version, query.digest) {
        (Some(number), Some(digest)) => format!("version {number} with digest {digest}"),
        (Some(number), None) => format!("version {number}"),
        (None, Some(digest)) => format!("version with digest {digest}"),
        (None, None) => "version".to_owned(),
    };
    let detail = format!(
        "{name} has no {wanted}; its versions whose components are kept: {}",
        known.join(", ")
    );
    Error::new(ProblemKind::NotFound, detail)
}

/// Whether the client says that it has what this tag stands for (RFC 9110, 13.1.2).
fn is_known(headers: &HeaderMap, tag: &HeaderValue) -> bool {
    let tag = tag.to_str().unwrap_or_default();
    let named = headers.get_all(header::IF_NONE_MATCH).into_iter();
    let mut named = named
        .filter_map(|value| value.to_str().ok())
        .flat_map(|list| list.split(','));
    named.any(|one| {
        let one = one.trim();
        one == "*" || one.strip_prefix("W/").unwrap_or(one) == tag
    })
}

fn not_to_be_had(error: &modules::Error) -> Error {
    let kind = match error {
        modules::Error::Fetch { .. } => ProblemKind::Unavailable,
        _ => ProblemKind::Internal,
    };
    Error::new(kind, modules::chain(error))
}

/// How much of a file is read at once.
const PIECE_BYTES: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_has_is_not_sent_again() {
        let tag = HeaderValue::from_static("\"sha256:ab\"");
        for (named, known) in [
            ("\"sha256:ab\"", true),
            ("W/\"sha256:ab\"", true),
            ("\"x\", \"sha256:ab\"", true),
            ("*", true),
            ("sha256:ab", false),
            ("\"sha256:abc\"", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::IF_NONE_MATCH, HeaderValue::from_static(named));
            assert_eq!(is_known(&headers, &tag), known, "{named}");
        }
        assert!(!is_known(&HeaderMap::new(), &tag));
    }
}
