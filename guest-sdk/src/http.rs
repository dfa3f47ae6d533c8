//! Outgoing HTTP: one request, one answer, both whole in memory.
//!
//! A request waits for its answer, so a module that is granted HTTP runs in the fiber lane.
//! Redirects are not followed and nothing is repeated: an answer of any status is `Ok`.

use std::time::Duration;

use serde::{Serialize, de::DeserializeOwned};

use crate::Ctx;

#[cfg(not(target_family = "wasm"))]
pub(crate) mod header;
mod url;
#[cfg(target_family = "wasm")]
pub(crate) mod wasi;

pub(crate) use url::Url;

/// Makes requests. See [`Ctx::http`].
#[derive(Clone, Copy, Debug)]
pub struct Client<'ctx> {
    ctx: &'ctx Ctx,
}

impl<'ctx> Client<'ctx> {
    pub(crate) fn new(ctx: &'ctx Ctx) -> Self {
        Self { ctx }
    }

    /// A GET request.
    pub fn get(self, url: impl Into<String>) -> Call<'ctx> {
        self.request(Method::Get, url)
    }

    /// A POST request.
    pub fn post(self, url: impl Into<String>) -> Call<'ctx> {
        self.request(Method::Post, url)
    }

    /// A PUT request.
    pub fn put(self, url: impl Into<String>) -> Call<'ctx> {
        self.request(Method::Put, url)
    }

    /// A DELETE request.
    pub fn delete(self, url: impl Into<String>) -> Call<'ctx> {
        self.request(Method::Delete, url)
    }

    /// A request to `http://host[:port]/path` or `https://…`.
    pub fn request(self, method: Method, url: impl Into<String>) -> Call<'ctx> {
        Call {
            ctx: self.ctx,
            request: Request {
                method,
                url: url.into(),
                headers: Vec::new(),
                body: Vec::new(),
                timeout: TIMEOUT_DEFAULT,
                response_bytes_max: RESPONSE_BYTES_MAX_DEFAULT,
            },
        }
    }
}

/// A request being made; [`send`](Call::send) sends it.
#[derive(Debug)]
#[must_use = "a call is made by `send`"]
pub struct Call<'ctx> {
    ctx: &'ctx Ctx,
    request: Request,
}

impl Call<'_> {
    /// Adds a header. The host sets `host` and the connection's own headers.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.request.headers.push((name.into(), value.into()));
        self
    }

    /// Sets the body.
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.request.body = body.into();
        self
    }

    /// Sets the body to a value written as JSON, and the content type.
    ///
    /// # Errors
    /// When the value has no JSON form.
    pub fn json<T: Serialize + ?Sized>(self, value: &T) -> Result<Self, serde_json::Error> {
        let body = serde_json::to_vec(value)?;
        Ok(self.header("content-type", "application/json").body(body))
    }

    /// Time for the whole exchange, 30 seconds unless set. The call that makes the request has a
    /// limit of its own, which ends the instance: stay below it.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.request.timeout = timeout;
        self
    }

    /// Largest body of the answer in bytes, 1 MiB unless set.
    pub fn response_bytes_max(mut self, bytes: usize) -> Self {
        self.request.response_bytes_max = bytes;
        self
    }

    /// Sends the request and waits for the whole answer, of whatever status.
    ///
    /// # Errors
    /// When the request is not valid or not granted, when there is no whole answer in time, or
    /// when its body is too large.
    pub fn send(self) -> Result<Response, Error> {
        self.ctx.send(self.request)
    }
}

/// A request, as a test sees it in `Ctx::sent`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Request {
    /// The method.
    pub method: Method,
    /// The URL, as given.
    pub url: String,
    /// The headers, in the order given.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
    /// Time for the whole exchange.
    pub timeout: Duration,
    /// Largest body of the answer in bytes.
    pub response_bytes_max: usize,
}

impl Request {
    /// The first header of this name, in any letter case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        find(&self.headers, name)
    }
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// The headers. Bytes that are no UTF-8 are replaced.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Response {
    /// An answer of this status without headers and body, for the script of a test.
    #[must_use]
    pub fn new(status: u16) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: Vec::new(),
        }
    }

    /// Whether the status is 200 to 299.
    #[must_use]
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The first header of this name, in any letter case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        find(&self.headers, name)
    }

    /// The body, read as JSON.
    ///
    /// # Errors
    /// When it is no JSON, or not of this type.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_slice(&self.body)
    }

    /// The body, read as text. Bytes that are no UTF-8 are replaced.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// A method.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the names are those of RFC 9110")]
pub enum Method {
    Get,
    Head,
    Post,
    Put,
    Patch,
    Delete,
    Options,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The URL cannot be used. Nothing was sent.
    #[error("URL `{url}` cannot be used: {problem}")]
    Url {
        /// The URL, as given.
        url: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A header cannot be used. Nothing was sent.
    #[error("header `{name}` is not valid or not allowed")]
    Header {
        /// Its name, as given.
        name: String,
    },
    /// The module is not granted this destination. Nothing was sent.
    #[error(
        "outgoing HTTP to `{url}` is denied: name its host and port in the module's grants.http"
    )]
    Denied {
        /// The URL, as given.
        url: String,
    },
    /// No whole answer came in time. The request may have been received.
    #[error("no whole answer came in time")]
    TimedOut,
    /// The body of the answer is too large. The request was received.
    #[error("the answer is larger than {bytes_max} bytes")]
    TooLarge {
        /// The largest that was allowed.
        bytes_max: usize,
    },
    /// The exchange failed. The request may have been received.
    #[error("{0}")]
    Failed(String),
}

/// Whether a URL can be used for requests: for handlers that are given one in their spec and
/// refuse a bad one in `handle`. Nothing is sent, and grants are not asked.
///
/// # Errors
/// [`Error::Url`], which says what is wrong.
pub fn check_url(url: &str) -> Result<(), Error> {
    Url::parse(url).map(|_parts| ())
}

fn find<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers
        .iter()
        .find(|(header, _)| header.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.as_str())
}

const TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);
const RESPONSE_BYTES_MAX_DEFAULT: usize = 1 << 20;
