//! The life of one resource: what a handler implements, and what it is told.

use std::fmt;

use serde::de::DeserializeOwned;

use crate::{Ctx, invocation, json};

/// The logic of one resource, with its state in `self`.
///
/// A component instance serves exactly one resource for its whole life: [`handle`] is called once
/// and makes the state, then the optional interfaces are called with it, then [`terminate`]
/// consumes it. Calls never overlap. After a panic the instance is dropped and the resource is
/// handled anew, by a new instance.
///
/// [`handle`]: ResourceHandler::handle
/// [`terminate`]: ResourceHandler::terminate
pub trait ResourceHandler: Sized + 'static {
    /// What is given when a resource is allocated: a JSON object, `{}` when nothing is. A spec that
    /// does not parse is refused as [`Error::Fatal`], with the path of the field at fault. A handler
    /// that needs nothing says `struct Spec {}`, which takes any object; `()` takes none.
    type Spec: DeserializeOwned;

    /// Takes charge of the resource. When this returns `Ok`, the resource is held.
    ///
    /// # Errors
    /// Any error that comes through `?` is tried again, with growing pauses; one marked with
    /// [`fatal`](crate::Classify::fatal) quarantines the resource until it is changed or redeployed.
    fn handle(ctx: &Ctx, resource: Resource<Self::Spec>) -> Result<Self>;

    /// Lets go of the resource. The instance is dropped afterwards, whatever this returns. It is
    /// not called after a panic, nor when the node died or lost its lease.
    ///
    /// # Errors
    /// An error is reported, nothing more.
    fn terminate(self, ctx: &Ctx, reason: TerminateReason) -> Result<()> {
        let _ = (ctx, reason);
        Ok(())
    }
}

/// A resource that an instance is to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Resource<Spec> {
    /// Name of the module that handles it.
    pub module: String,
    /// Identifier, unique within the module.
    pub id: String,
    /// What was given when it was allocated.
    pub spec: Spec,
    /// Fencing token. It grows with every change of owner: a third party that remembers the
    /// largest token it has seen for a resource can refuse writes of an owner that was replaced.
    pub token: u64,
    /// Number of this attempt, 1 for the first: how often `handle` was tried in a row.
    pub attempt: u32,
}

impl<Spec> Resource<Spec> {
    /// A resource of module `test`, with token 1, at its first attempt: the usual start of a
    /// native test.
    pub fn new(id: impl Into<String>, spec: Spec) -> Self {
        Self {
            module: "test".to_owned(),
            id: id.into(),
            spec,
            token: 1,
            attempt: 1,
        }
    }
}

impl<Spec: DeserializeOwned> Resource<Spec> {
    /// Reads the spec of a resource that came as JSON text.
    ///
    /// # Errors
    /// [`Error::Fatal`] with the path of the field that does not parse.
    pub fn parse(raw: Resource<String>) -> Result<Self> {
        let spec = json::parse(raw.spec.as_bytes())
            .map_err(|error| Error::fatal(format!("spec is not valid: {error}")))?;
        Ok(Self {
            module: raw.module,
            id: raw.id,
            spec,
            token: raw.token,
            attempt: raw.attempt,
        })
    }
}

/// Why a resource is taken from its instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TerminateReason {
    /// Another node takes over.
    Moved,
    /// The resource was deallocated.
    Removed,
    /// A new version of the module, or a new spec, takes over on this node.
    Upgraded,
    /// The node stops.
    Stopping,
    /// Reserved; nothing gives it yet.
    Unhealthy,
}

impl TerminateReason {
    /// The reason in one lower-case word, as the interface writes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Moved => "moved",
            Self::Removed => "removed",
            Self::Upgraded => "upgraded",
            Self::Stopping => "stopping",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// What [`ResourceHandler`]'s functions return.
pub type Result<T, E = Error> = core::result::Result<T, E>;

/// A failure of `handle` or `terminate`, with its text: the whole chain of causes.
///
/// Any error converts to [`Error::Retry`] through `?`. For that reason this is no
/// [`std::error::Error`] itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// It may succeed later: the host tries again, with growing pauses.
    Retry(String),
    /// It will not succeed: the host quarantines the resource until it is changed or redeployed.
    Fatal(String),
}

impl Error {
    /// A failure that may pass.
    pub fn retry(text: impl Into<String>) -> Self {
        Self::Retry(text.into())
    }

    /// A failure that will not pass by itself.
    pub fn fatal(text: impl Into<String>) -> Self {
        Self::Fatal(text.into())
    }

    /// The text of the failure.
    #[must_use]
    pub fn text(&self) -> &str {
        match self {
            Self::Retry(text) | Self::Fatal(text) => text,
        }
    }

    pub(crate) fn into_text(self) -> String {
        match self {
            Self::Retry(text) | Self::Fatal(text) => text,
        }
    }

    /// The same kind of failure, with another text.
    pub(crate) fn map_text(self, map: impl FnOnce(String) -> String) -> Self {
        match self {
            Self::Retry(text) => Self::Retry(map(text)),
            Self::Fatal(text) => Self::Fatal(map(text)),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

/// Lets `handle` and `invoke` share functions that return [`InvokeError`](crate::InvokeError).
impl From<invocation::Error> for Error {
    fn from(error: invocation::Error) -> Self {
        Self::Retry(error.into_text())
    }
}

impl<E: Into<anyhow::Error>> From<E> for Error {
    fn from(error: E) -> Self {
        Self::Retry(crate::classify::chain(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    struct Spec {
        #[serde(rename = "retry")]
        _retry: Retry,
    }

    #[derive(Debug, serde::Deserialize)]
    struct Retry {
        #[serde(rename = "times")]
        _times: u8,
    }

    #[test]
    fn a_spec_that_does_not_parse_is_fatal_and_names_the_field() {
        for (spec, expected) in [
            (r#"{"retry":{"times":"often"}}"#, "retry.times"),
            (r#"{"retry":{}}"#, "missing field `times`"),
            ("{}", "missing field `retry`"),
            ("not json", "expected"),
            (r#"{"retry":{"times":1}} more"#, "trailing characters"),
        ] {
            let raw = Resource::new("a", spec.to_owned());
            match Resource::<Spec>::parse(raw).unwrap_err() {
                Error::Fatal(text) => assert!(text.contains(expected), "{text}"),
                Error::Retry(text) => panic!("{spec}: retry: {text}"),
            }
        }
    }

    #[test]
    fn a_struct_without_fields_takes_the_empty_spec() {
        #[derive(Debug, serde::Deserialize)]
        struct Nothing {}
        let raw = |spec: &str| Resource::new("a", spec.to_owned());
        assert!(Resource::<Nothing>::parse(raw("{}")).is_ok());
        assert!(Resource::<()>::parse(raw("{}")).is_err());
    }

    #[test]
    fn an_error_through_the_question_mark_is_retried_with_its_whole_chain() {
        fn connect() -> Result<()> {
            let cause = "x".parse::<u8>().unwrap_err();
            Err(anyhow::Error::new(cause).context("read the port"))?;
            Ok(())
        }
        assert_eq!(
            connect(),
            Err(Error::retry("read the port: invalid digit found in string"))
        );
    }
}
