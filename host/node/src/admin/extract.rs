//! Reads paths, queries and bodies, and says what is wrong with them.

use axum::{
    extract::{FromRequestParts, Query, RawPathParams},
    http::{Uri, request::Parts},
};
use holdfast_model::{ModuleName, NodeId, ResourceId};
use serde::{Deserialize, de::DeserializeOwned};
use utoipa::{
    IntoParams,
    openapi::path::{Parameter, ParameterIn},
};

use super::{describe::path_segment, error::Error};

/// The module named in the path.
pub(super) struct Module(pub(super) ModuleName);

/// The module and the resource named in the path.
pub(super) struct Resource(pub(super) ModuleName, pub(super) ResourceId);

/// The node named in the path.
pub(super) struct Node(pub(super) NodeId);

/// The query, in which unknown fields are refused by name.
pub(super) struct Asked<Q>(pub(super) Q);

/// The query of a route that has none: any field is unknown.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NoQuery {}

impl<S: Send + Sync> FromRequestParts<S> for Module {
    type Rejection = Error;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Error> {
        let module = param(parts, state, "module").await?;
        Ok(Self(
            module
                .parse()
                .map_err(|error| Error::invalid(format!("{error}")))?,
        ))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Resource {
    type Rejection = Error;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Error> {
        let Module(module) = Module::from_request_parts(parts, state).await?;
        // From the raw path: what the router decoded cannot tell bad UTF-8 from a bad id.
        let segment = parts.uri.path().rsplit('/').next().unwrap_or_default();
        let id = ResourceId::from_path_segment(segment);
        Ok(Self(
            module,
            id.map_err(|error| Error::invalid(error.to_string()))?,
        ))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Node {
    type Rejection = Error;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Error> {
        let node = param(parts, state, "node").await?;
        let invalid = |_| Error::invalid(format!("{node:?} is no node id: it must be a UUID"));
        Ok(Self(node.parse().map_err(invalid)?))
    }
}

impl IntoParams for Module {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        vec![path_segment::<ModuleName>("module", "The module.")]
    }
}

impl IntoParams for Resource {
    fn into_params(within: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let mut both = Module::into_params(within);
        let about = "The resource: its id, as one percent-encoded segment.";
        both.push(path_segment::<ResourceId>("id", about));
        both
    }
}

impl IntoParams for Node {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        vec![path_segment::<NodeId>("node", "The node.")]
    }
}

impl<S: Send + Sync, Q: DeserializeOwned> FromRequestParts<S> for Asked<Q> {
    type Rejection = Error;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Error> {
        Self::of(&parts.uri)
    }
}

impl<Q: DeserializeOwned> Asked<Q> {
    /// The query of this URI.
    pub(super) fn of(uri: &Uri) -> Result<Self, Error> {
        match Query::<Q>::try_from_uri(uri) {
            Ok(Query(asked)) => Ok(Self(asked)),
            Err(error) => Err(Error::invalid(error.body_text())),
        }
    }
}

async fn param<S: Send + Sync>(parts: &mut Parts, state: &S, name: &str) -> Result<String, Error> {
    let params = RawPathParams::from_request_parts(parts, state).await;
    let params = params.map_err(|error| Error::invalid(error.body_text()))?;
    let found = params
        .iter()
        .find(|(key, _)| *key == name)
        .map(|(_, value)| value.to_owned());
    found.ok_or_else(|| Error::invalid(format!("the path names no {name}")))
}
