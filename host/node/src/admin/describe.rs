//! What handlers are described with: problems, headers, and parts of paths.

use std::collections::BTreeMap;

use holdfast_model::api::{
    PROBLEM_JSON, Problem,
    ProblemKind::{
        self, Forbidden, Interrupted, InvalidRequest, Overloaded, RequestTimeout, TooLarge,
        Unauthorized,
    },
};
use utoipa::{
    IntoResponses, PartialSchema as _, ToSchema,
    openapi::{
        AllOfBuilder, Content, Header, HeaderBuilder, ObjectBuilder, Ref, RefOr, Required,
        Response, ResponseBuilder, Schema,
        path::{Parameter, ParameterBuilder, ParameterIn},
        schema::Type,
    },
};

use super::error::comes_back;

/// The problems of these kinds, as responses of an operation: `Problems<{ usual(&[…]) }>`.
pub(super) struct Problems<const KINDS: u32>;

/// These kinds, and those that every route may answer with: a query that it does not know, somebody
/// who may not ask, and a node that starts anew meanwhile.
pub(super) const fn usual(kinds: &[ProblemKind]) -> u32 {
    open(kinds) | only(&[Unauthorized, Forbidden, Interrupted])
}

/// These kinds, and those that even who needs no token may get: a request that is none, one that comes too
/// slowly, and a node that has no room for it.
pub(super) const fn open(kinds: &[ProblemKind]) -> u32 {
    only(kinds) | only(&[InvalidRequest, RequestTimeout, Overloaded])
}

/// These kinds alone.
pub(super) const fn only(kinds: &[ProblemKind]) -> u32 {
    let (mut all, mut at) = (0, 0);
    while at < kinds.len() {
        all |= 1 << kinds[at] as u32;
        at += 1;
    }
    all
}

impl<const KINDS: u32> IntoResponses for Problems<KINDS> {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        let kinds = ProblemKind::ALL.iter().copied();
        let kinds = kinds.filter(|kind| KINDS & only(&[*kind]) != 0);
        let kinds = kinds.map(|kind| (kind.status(), kind));
        match KINDS & only(&[RequestTimeout]) {
            0 => problems(kinds),
            _ => problems(kinds.chain(TOO_LONG)),
        }
    }
}

/// What is told of a head that is too long, by its target or by its headers.
pub(super) const TOO_LONG: [(u16, ProblemKind); 2] = [(414, TooLarge), (431, TooLarge)];

/// Problems by their status.
pub(super) fn problems(
    all: impl IntoIterator<Item = (u16, ProblemKind)>,
) -> BTreeMap<String, RefOr<Response>> {
    let mut by_status = BTreeMap::<u16, Vec<ProblemKind>>::new();
    for (status, kind) in all {
        by_status.entry(status).or_default().push(kind);
    }
    by_status
        .into_iter()
        .map(|(status, kinds)| (status.to_string(), problem(status, &kinds).into()))
        .collect()
}

fn problem(status: u16, kinds: &[ProblemKind]) -> Response {
    let titles: Vec<&str> = kinds.iter().map(|kind| kind.title()).collect();
    let one_of = ObjectBuilder::new()
        .schema_type(Type::String)
        .enum_values(Some(kinds.iter().map(|kind| kind.urn())));
    let schema = AllOfBuilder::new()
        .item(Ref::from_schema_name(Problem::name()))
        .item(ObjectBuilder::new().property("type", one_of));
    let mut response = ResponseBuilder::new()
        .description(titles.join(", or "))
        .content(PROBLEM_JSON, Content::new(Some(schema)));
    if comes_back(status) {
        let pause = response_header("When to try again, in seconds.", u64::schema());
        response = response.header("Retry-After", pause);
    }
    if kinds.contains(&Unauthorized) {
        let scheme = response_header("`Bearer`", String::schema());
        response = response.header("WWW-Authenticate", scheme);
    }
    response.build()
}

/// A header of a response.
pub(super) fn response_header(description: &str, schema: impl Into<RefOr<Schema>>) -> Header {
    HeaderBuilder::new()
        .schema(Some(schema))
        .description(Some(description))
        .build()
}

/// A header of a request, which may be absent.
pub(super) fn request_header(
    name: &str,
    description: &str,
    schema: impl Into<RefOr<Schema>>,
) -> Parameter {
    ParameterBuilder::new()
        .name(name)
        .parameter_in(ParameterIn::Header)
        .required(Required::False)
        .description(Some(description))
        .schema(Some(schema))
        .build()
}

/// A part of the path.
pub(super) fn path_segment<T: ToSchema>(name: &str, description: &str) -> Parameter {
    ParameterBuilder::new()
        .name(name)
        .parameter_in(ParameterIn::Path)
        .required(Required::True)
        .description(Some(description))
        .schema(Some(Ref::from_schema_name(T::name())))
        .build()
}
