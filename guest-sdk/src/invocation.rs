//! Requests to a resource and their answers: the optional interface `invocation`.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use serde::{Serialize, de::DeserializeOwned};

use crate::{Ctx, ResourceHandler, json, resource};

/// Answers requests that come through the HTTP API or the command line.
///
/// Named in [`export!`](crate::export): `export!(Counter with invocation)`.
pub trait Invocation: ResourceHandler {
    /// Answers one request. Only called between a successful `handle` and `terminate`.
    ///
    /// # Errors
    /// Any error that comes through `?` is [`Error::Failed`]; [`Classify`](crate::Classify) gives
    /// it another kind. The text becomes the detail of the caller's problem report.
    fn invoke(&mut self, ctx: &Ctx, request: Request) -> Result<Response, Error>;
}

/// One request.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Request {
    /// Identifier of this request, given by the caller (`x-request-id`) or made by the host.
    pub id: String,
    /// When the host accepted it.
    pub created_at: SystemTime,
    /// When the caller stops waiting.
    pub deadline: SystemTime,
    /// Given by a caller that may repeat the request (`idempotency-key`): the same key means the
    /// same request, possibly seen before by this or an earlier owner.
    pub idempotency_key: Option<String>,
    /// Media type of `body` (`content-type`).
    pub content_type: Option<String>,
    /// The body, as sent.
    pub body: Vec<u8>,
}

impl Request {
    /// A request with this body that was accepted now and has 30 seconds: the usual start of a
    /// native test.
    pub fn new(body: impl Into<Vec<u8>>) -> Self {
        let created_at = SystemTime::now();
        Self {
            id: "test".to_owned(),
            created_at,
            deadline: created_at + Duration::from_secs(30),
            idempotency_key: None,
            content_type: None,
            body: body.into(),
        }
    }

    /// The body, read as JSON, whatever the content type.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the path of the field that does not parse.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Error> {
        json::parse(&self.body)
            .map_err(|error| Error::Invalid(format!("body is not valid: {error}")))
    }

    /// The body, read as UTF-8 text.
    ///
    /// # Errors
    /// [`Error::Invalid`] when it is no UTF-8.
    pub fn text(&self) -> Result<&str, Error> {
        std::str::from_utf8(&self.body)
            .map_err(|error| Error::Invalid(format!("body is no UTF-8 text: {error}")))
    }

    /// Time until the deadline, zero when it has passed.
    #[must_use]
    pub fn time_left(&self) -> Duration {
        self.deadline
            .duration_since(SystemTime::now())
            .unwrap_or_default()
    }
}

/// The answer to a request, sent with status 200.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Response {
    /// Media type of `body`; `application/octet-stream` when absent.
    pub content_type: Option<String>,
    /// The body, sent as it is.
    pub body: Vec<u8>,
}

impl Response {
    /// An answer without a body.
    #[must_use]
    pub fn empty() -> Self {
        Self::default()
    }

    /// An answer of this media type.
    pub fn bytes(content_type: impl Into<String>, body: impl Into<Vec<u8>>) -> Self {
        Self {
            content_type: Some(content_type.into()),
            body: body.into(),
        }
    }

    /// A text.
    pub fn text(text: impl Into<String>) -> Self {
        Self::bytes("text/plain; charset=utf-8", text.into())
    }

    /// A value, written as JSON.
    ///
    /// # Errors
    /// [`Error::Failed`] when the value has no JSON form, as a map whose keys are no texts.
    pub fn json<T: Serialize + ?Sized>(value: &T) -> Result<Self, Error> {
        Ok(Self::bytes("application/json", serde_json::to_vec(value)?))
    }
}

/// A refusal or failure of a request, with its text: the whole chain of causes.
///
/// Any error converts to [`Error::Failed`] through `?`. For that reason this is no
/// [`std::error::Error`] itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// The request makes no sense (400).
    Invalid(String),
    /// What it names does not exist (404).
    NotFound(String),
    /// It does not fit the resource's present state (409).
    Conflict(String),
    /// It cannot be done now; trying later may help (503).
    Unavailable(String),
    /// The handler failed (500).
    Failed(String),
}

impl Error {
    /// The request makes no sense.
    pub fn invalid(text: impl Into<String>) -> Self {
        Self::Invalid(text.into())
    }

    /// What the request names does not exist.
    pub fn not_found(text: impl Into<String>) -> Self {
        Self::NotFound(text.into())
    }

    /// The request does not fit the resource's present state.
    pub fn conflict(text: impl Into<String>) -> Self {
        Self::Conflict(text.into())
    }

    /// It cannot be done now; trying later may help.
    pub fn unavailable(text: impl Into<String>) -> Self {
        Self::Unavailable(text.into())
    }

    /// The handler failed.
    pub fn failed(text: impl Into<String>) -> Self {
        Self::Failed(text.into())
    }

    /// The text of the refusal or failure.
    #[must_use]
    pub fn text(&self) -> &str {
        match self {
            Self::Invalid(text)
            | Self::NotFound(text)
            | Self::Conflict(text)
            | Self::Unavailable(text)
            | Self::Failed(text) => text,
        }
    }

    /// The same kind of refusal, with another text.
    pub(crate) fn map_text(self, map: impl FnOnce(String) -> String) -> Self {
        match self {
            Self::Invalid(text) => Self::Invalid(map(text)),
            Self::NotFound(text) => Self::NotFound(map(text)),
            Self::Conflict(text) => Self::Conflict(map(text)),
            Self::Unavailable(text) => Self::Unavailable(map(text)),
            Self::Failed(text) => Self::Failed(map(text)),
        }
    }

    pub(crate) fn into_text(self) -> String {
        match self {
            Self::Invalid(text)
            | Self::NotFound(text)
            | Self::Conflict(text)
            | Self::Unavailable(text)
            | Self::Failed(text) => text,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl<E: Into<anyhow::Error>> From<E> for Error {
    fn from(error: E) -> Self {
        Self::Failed(crate::classify::chain(error))
    }
}

/// Lets `handle` and `invoke` share functions that return [`crate::Result`].
impl From<resource::Error> for Error {
    fn from(error: resource::Error) -> Self {
        Self::Failed(error.into_text())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Classify as _, Context as _};

    #[test]
    fn a_body_that_does_not_parse_is_invalid_and_names_the_field() {
        #[derive(Debug, serde::Deserialize)]
        struct Body {
            #[serde(rename = "add")]
            _add: u8,
        }
        let error = Request::new(r#"{"add":300}"#).json::<Body>().unwrap_err();
        match error {
            Error::Invalid(text) => assert!(text.contains("add: invalid value"), "{text}"),
            other => panic!("{other:?}"),
        }
        assert!(matches!(
            Request::new([0xff]).text(),
            Err(Error::Invalid(_))
        ));
    }

    #[test]
    fn an_error_is_failed_unless_it_is_classified() {
        fn parse(text: &str) -> anyhow::Result<u8> {
            text.parse().context("read the amount")
        }
        fn plain() -> Result<u8, Error> {
            Ok(parse("x")?)
        }
        let text = "read the amount: invalid digit found in string";
        assert_eq!(plain(), Err(Error::failed(text)));
        assert_eq!(parse("x").invalid(), Err(Error::invalid(text)));
        assert_eq!(parse("x").not_found(), Err(Error::not_found(text)));
        assert_eq!(parse("x").conflict(), Err(Error::conflict(text)));
        assert_eq!(parse("x").unavailable(), Err(Error::unavailable(text)));
        assert_eq!(Error::from(resource::Error::fatal("a")), Error::failed("a"));
    }

    #[test]
    fn a_request_past_its_deadline_has_no_time_left() {
        let mut request = Request::new("");
        assert!(request.time_left() > Duration::from_secs(20));
        request.deadline = SystemTime::UNIX_EPOCH;
        assert_eq!(request.time_left(), Duration::ZERO);
    }

    #[test]
    fn answers_carry_their_media_type() {
        let json = Response::json(&[1, 2]).unwrap();
        assert_eq!(json, Response::bytes("application/json", "[1,2]"));
        assert_eq!(Response::text("a").body, b"a");
        assert_eq!(Response::empty().content_type, None);
    }
}
