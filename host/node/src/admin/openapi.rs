//! What the API is, as OpenAPI 3.1.
//!
//! Each handler says beside itself what it reads and what it answers, and the router that serves it
//! collects that (`admin::routes`): what is served is described. Here is the rest of the document, and
//! what holds for many routes: who needs a token, what may be stale, what is bounded.

use std::{collections::BTreeMap, sync::LazyLock};

use axum::response::IntoResponse;
use bytes::Bytes;
use holdfast_model::{
    Limits, ModuleName, NodeId, ResourceId, Spec,
    api::{
        BatchRequest, ChangeClusterSettings, ClusterSettings, PROBLEM_JSON, PlanRequest, Problem,
        STALE_HEADER,
    },
};
use http::header;
use utoipa::{
    OpenApi as _, PartialSchema, ToSchema,
    openapi::{
        ObjectBuilder, OpenApi, PathItem, Ref, RefOr, Required, Response, Schema,
        path::Operation,
        request_body::RequestBody,
        schema::AdditionalProperties,
        security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
    },
};

use super::{
    OPEN,
    describe::{Problems, open, response_header},
    extract::{Asked, NoQuery},
    plan,
    settings::{REPLACE_VOTERS_AFTER_MS_MAX, STABLE_AFTER_MS_MAX},
};

#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "Holdfast",
        description = ABOUT,
        license(name = "Apache License 2.0", identifier = "Apache-2.0")
    ),
    servers(
        (url = "/", description = "The node that gave this document"),
        (url = "http://127.0.0.1:7300", description = "A node at its default address")
    ),
    tags(
        (name = "modules", description = "Components, and the settings that they run with"),
        (name = "resources", description = "What modules hold; each on one node"),
        (name = "cluster", description = "The cluster, its settings and slots"),
        (name = "nodes", description = "The nodes of the cluster"),
        (name = "watching", description = "What happens, what is said and what is counted"),
        (name = "health", description = "Whether this node is fit for work"),
        (name = "description", description = "This document")
    ),
    security(("token" = []), ()),
    // Calls go past the router, and what these stand for is written by hand.
    paths(super::invoke::invoke),
    components(schemas(Problem, ModuleName, ResourceId, NodeId))
)]
struct Base;

/// Describe the API
///
/// This document: OpenAPI 3.1, as `holdfast openapi` prints it. It says nothing of the cluster, and
/// needs no token.
#[utoipa::path(
    get,
    path = "/v1/openapi.json",
    operation_id = "describe_api",
    tag = "description",
    responses(
        (status = OK, description = "An OpenAPI document", body = serde_json::Value),
        Problems<{ open(&[]) }>,
    )
)]
pub(super) async fn openapi(Asked(NoQuery {}): Asked<NoQuery>) -> impl IntoResponse {
    static DOCUMENT: LazyLock<Bytes> = LazyLock::new(|| super::openapi().into());
    (
        [(header::CONTENT_TYPE, "application/json")],
        DOCUMENT.clone(),
    )
}

/// What is known before any route is.
pub(super) fn base() -> OpenApi {
    Base::openapi()
}

/// Adds to what the handlers say what holds for many of them.
pub(super) fn complete(mut api: OpenApi) -> OpenApi {
    let components = api.components.get_or_insert_default();
    for (path, item) in &mut api.paths.paths {
        let is_open = OPEN.contains(&path.as_str());
        let question = if path == plan::PATH {
            &mut item.post
        } else {
            &mut item.get
        };
        if let (Some(question), false) = (question, is_open) {
            may_be_stale(question);
        }
        for operation in operations(item) {
            operation.security = is_open.then(Vec::new);
            may_lack_a_body(operation);
            share_problems(operation, &mut components.responses);
        }
    }
    let token = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some(TOKEN));
    components.add_security_scheme("token", SecurityScheme::Http(token.build()));
    bound(&mut components.schemas);
    refuse_unknown_members::<BatchRequest>(&mut components.schemas);
    api
}

/// Says within what numbers must be that are checked by a table or a constant: derives take figures
/// alone.
fn bound(schemas: &mut BTreeMap<String, RefOr<Schema>>) {
    for (name, min, max) in Limits::BOUNDS {
        if let Schema::Object(limit) = property::<Limits>(schemas, name) {
            *limit = ObjectBuilder::from(std::mem::take(limit))
                .minimum(Some(min as i64))
                .maximum(Some(max as i64))
                .build();
        }
    }
    for of in [ChangeClusterSettings::name(), ClusterSettings::name()] {
        if let Schema::Object(voters) = property_of(schemas, &of, "voters") {
            *voters = ObjectBuilder::from(std::mem::take(voters))
                .minimum(Option::<u64>::None)
                .enum_values(Some([1, 3, 5, 7]))
                .build();
        }
        for (name, max) in [
            ("stable_after_ms", STABLE_AFTER_MS_MAX),
            ("replace_voters_after_ms", REPLACE_VOTERS_AFTER_MS_MAX),
        ] {
            if let Schema::Object(time) = property_of(schemas, &of, name) {
                *time = ObjectBuilder::from(std::mem::take(time))
                    .maximum(Some(max))
                    .build();
            }
        }
    }
    if let Schema::Array(join) = property::<PlanRequest>(schemas, "join") {
        join.max_items = Some(PlanRequest::JOIN_MAX);
    }
}

/// Says of a type with several forms that none has other members than those described: derives say
/// that of structs alone.
fn refuse_unknown_members<T: ToSchema>(schemas: &mut BTreeMap<String, RefOr<Schema>>) {
    let Some(RefOr::T(Schema::OneOf(forms))) = schemas.get_mut(&*T::name()) else {
        panic!("{} is described by its forms", T::name());
    };
    for form in &mut forms.items {
        if let RefOr::T(Schema::Object(form)) = form {
            form.additional_properties = Some(Box::new(AdditionalProperties::FreeForm(false)));
        }
    }
}

/// Says of a body that nothing is one too: the empty spec, or no change.
fn may_lack_a_body(operation: &mut Operation) {
    if let Some(RefOr::T(body)) = &mut operation.request_body
        && (is_of::<Spec>(body) || is_of::<BatchRequest>(body))
    {
        body.required = Some(Required::False);
    }
}

/// Whether a body is one of these, or lines of them.
fn is_of<T: ToSchema>(body: &RequestBody) -> bool {
    let whole = RefOr::Ref(Ref::from_schema_name(T::name()));
    let mut media = body.content.values();
    media.any(|media| matches!(media, RefOr::T(media) if media.schema.as_ref() == Some(&whole)))
}

/// Names the problems that several operations answer with in the same way, in place of repeating them.
fn share_problems(operation: &mut Operation, shared: &mut BTreeMap<String, RefOr<Response>>) {
    for response in operation.responses.responses.values_mut() {
        let RefOr::T(inline) = response else { continue };
        if !inline.content.contains_key(PROBLEM_JSON) {
            continue;
        }
        let name = pascal_case(&inline.description);
        let known = shared.entry(name.clone()).or_insert(response.clone());
        if known == response {
            *response = RefOr::Ref(Ref::from_response_name(name));
        }
    }
}

/// `SomeWords` for "some words".
fn pascal_case(text: &str) -> String {
    let words = text.split(|c: char| !c.is_alphanumeric());
    let capital = |word: &str| {
        word.split_at_checked(1)
            .map(|(first, rest)| first.to_uppercase() + rest)
    };
    words.filter_map(capital).collect()
}

/// The schema of a field of a type.
fn property<'a, T: ToSchema>(
    schemas: &'a mut BTreeMap<String, RefOr<Schema>>,
    name: &str,
) -> &'a mut Schema {
    property_of(schemas, &T::name(), name)
}

fn property_of<'a>(
    schemas: &'a mut BTreeMap<String, RefOr<Schema>>,
    of: &str,
    name: &str,
) -> &'a mut Schema {
    let Some(RefOr::T(Schema::Object(object))) = schemas.get_mut(of) else {
        panic!("{of} is described as an object");
    };
    match object.properties.get_mut(name) {
        Some(RefOr::T(schema)) => schema,
        _ => panic!("{of} is described with its field {name}"),
    }
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    let all = [
        &mut item.get,
        &mut item.put,
        &mut item.post,
        &mut item.patch,
        &mut item.delete,
    ];
    all.into_iter().filter_map(Option::as_mut)
}

/// Says that a question may be answered from a state that is out of date.
fn may_be_stale(operation: &mut Operation) {
    for (status, response) in &mut operation.responses.responses {
        if let (true, RefOr::T(response)) = (status.starts_with('2'), response) {
            let age = response_header(
                "Present when the node could not make sure for some seconds that its copy of the state \
                 is current: for how long, in milliseconds.",
                u64::schema(),
            );
            response.headers.insert(STALE_HEADER.to_owned(), age.into());
        }
    }
}

const ABOUT: &str = "\
What people and programs ask of a cluster. Every node has the whole API, and any node answers for any resource.

Sizes are in bytes, durations in milliseconds (`_ms`), points in time in milliseconds since the Unix epoch (`_at_ms`, \
`_since_ms`). Unknown fields in queries and bodies are refused by name; answers may get new fields. An error is a problem \
(RFC 9457): tell problems apart by `type`. A method that a path does not take is answered with 405 and `Allow`, a path that \
is none with 404 `urn:holdfast:problem:not-found`.";

const TOKEN: &str = "\
The API token of the nodes. A node that has none is for its own machine alone, and keeps web pages of others out.";

#[cfg(test)]
mod tests;
