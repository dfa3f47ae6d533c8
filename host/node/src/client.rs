//! A typed client of the HTTP API, for the command line, the demo and tests.
//!
//! One method for each route; what goes over the wire is in [`holdfast_model::api`]. Nothing is
//! repeated here: a caller that gets an error knows from its kind whether the request may have
//! had its effect. Connections are kept alive and shared by clones.

use std::{
    convert::Infallible,
    error::Error as StdError,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use holdfast_model::api::{Problem, STALE_HEADER};
use http::{HeaderName, HeaderValue, Method, Request, Response, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited, combinators::UnsyncBoxBody};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{self, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use serde::{Serialize, de::DeserializeOwned};

mod batch;
mod component;
mod events;
mod lines;
mod logs;
mod routes;

pub use component::Download;
pub use routes::{Answer, Call};

/// A client of one node. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Client {
    http: legacy::Client<HttpConnector, RequestBody>,
    /// `http://host:port`, no path.
    server: String,
    token: Option<HeaderValue>,
    timeout: Duration,
    /// See [`Client::take_stale`].
    stale_ms: Arc<AtomicU64>,
}

/// Why there is no answer, or no good one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The URL of the server cannot be used. Nothing was sent.
    #[error("{given:?} is no URL of a node: {why}")]
    InvalidServer {
        /// What was given.
        given: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The token cannot be sent in a header. Nothing was sent.
    #[error("the API token has characters that a header cannot carry")]
    InvalidToken,
    /// A header cannot carry a text of the call. Nothing was sent.
    #[error("header {name} cannot carry {value:?}")]
    InvalidHeader {
        /// The header.
        name: &'static str,
        /// What it was to carry.
        value: String,
    },
    /// No connection. Nothing was sent.
    #[error("cannot reach a node at {url}")]
    Unreachable {
        /// The server.
        url: String,
        /// What the connection attempt said.
        #[source]
        source: Box<dyn StdError + Send + Sync>,
    },
    /// The connection broke. The request may have had its effect.
    #[error("the connection to {url} broke")]
    Broken {
        /// The server.
        url: String,
        /// How it broke.
        #[source]
        source: Box<dyn StdError + Send + Sync>,
    },
    /// No whole answer in time. The request may have had its effect.
    #[error("{url} gave no answer within {} s", .after.as_secs_f32())]
    TimedOut {
        /// The server.
        url: String,
        /// How long was waited.
        after: Duration,
    },
    /// The node answered with a problem.
    #[error("{0}")]
    Problem(Problem),
    /// The answer makes no sense: whatever listens there is no node, or a much newer one.
    #[error("the answer of {url} is not understood: {what}")]
    Malformed {
        /// The server.
        url: String,
        /// What is wrong with it.
        what: String,
    },
}

impl Error {
    /// The problem that the node answered with.
    #[must_use]
    pub fn problem(&self) -> Option<&Problem> {
        match self {
            Self::Problem(problem) => Some(problem),
            _ => None,
        }
    }
}

impl Client {
    /// A client of the node at `http://host:port`; the scheme may be left out.
    ///
    /// # Errors
    /// When the text is no such URL.
    pub fn new(server: &str) -> Result<Self, Error> {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let http = legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .build(connector);
        Ok(Self {
            http,
            server: parse_server(server)?,
            token: None,
            timeout: TIMEOUT,
            stale_ms: Arc::default(),
        })
    }

    /// The same with an API token.
    ///
    /// # Errors
    /// When a header cannot carry the token.
    pub fn with_token(mut self, token: &str) -> Result<Self, Error> {
        let mut value = HeaderValue::try_from(format!("Bearer {token}"))
            .map_err(|_invalid| Error::InvalidToken)?;
        value.set_sensitive(true);
        self.token = Some(value);
        Ok(self)
    }

    /// The same with another time limit for each exchange; 30 seconds unless set. Where the caller
    /// says how long the node may take, that counts alone, with a little for the way.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// A client of another node of the cluster, with the same token and the same limits.
    ///
    /// # Errors
    /// When the text is no URL of a node.
    pub fn at(&self, server: &str) -> Result<Self, Error> {
        let server = parse_server(server)?;
        Ok(Self {
            server,
            ..self.clone()
        })
    }

    /// Whether the node is named by an address of this machine itself.
    #[must_use]
    pub fn is_local(&self) -> bool {
        let uri = self.server.parse::<Uri>();
        let host = uri.ok().and_then(|uri| uri.host().map(str::to_owned));
        let host = host.unwrap_or_default();
        let address = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
        host == "localhost" || address.is_ok_and(|address| address.is_loopback())
    }

    /// How old the oldest of the answers may be that came since this was asked last, if a node said
    /// of one that it may be out of date.
    #[must_use]
    pub fn take_stale(&self) -> Option<Duration> {
        let age = self.stale_ms.swap(0, Ordering::Relaxed);
        (age > 0).then(|| Duration::from_millis(age))
    }

    /// The server, as `http://host:port`.
    #[must_use]
    pub fn server(&self) -> &str {
        &self.server
    }

    /// Sends a request and reads the answer as JSON.
    async fn json<T: DeserializeOwned>(&self, exchange: Exchange) -> Result<T, Error> {
        let (_, body) = self.whole(exchange).await?;
        serde_json::from_slice(&body).map_err(|error| self.malformed(error.to_string()))
    }

    /// Sends a request and reads the whole answer; one that is no success is an error.
    async fn whole(&self, exchange: Exchange) -> Result<(http::response::Parts, Bytes), Error> {
        let limit = self.limit(exchange.wait_ms);
        let whole = async {
            let response = self.start(exchange).await?;
            let (parts, body) = response.into_parts();
            Ok((parts, self.collect(body).await?))
        };
        self.within(limit, whole).await
    }

    /// Sends a request and waits for the head of the answer; one that is no success is an error.
    async fn start(&self, exchange: Exchange) -> Result<Response<Incoming>, Error> {
        let request = self.request(exchange)?;
        let response = self
            .http
            .request(request)
            .await
            .map_err(|error| self.failed(error))?;
        if response.status().is_success() {
            let age = response.headers().get(STALE_HEADER);
            let age = age.and_then(|age| age.to_str().ok()?.parse().ok());
            self.stale_ms.fetch_max(age.unwrap_or(0), Ordering::Relaxed);
            return Ok(response);
        }
        Err(self.refused(response).await)
    }

    fn request(&self, exchange: Exchange) -> Result<Request<RequestBody>, Error> {
        let uri: Uri = format!("{}{}", self.server, exchange.target)
            .parse()
            .map_err(|error: http::uri::InvalidUri| self.malformed(error.to_string()))?;
        let mut request = Request::new(exchange.body);
        *request.method_mut() = exchange.method;
        *request.uri_mut() = uri;
        request.headers_mut().extend(exchange.headers);
        if let Some(token) = &self.token {
            let authorization = token.clone();
            request
                .headers_mut()
                .insert(header::AUTHORIZATION, authorization);
        }
        Ok(request)
    }

    async fn refused(&self, response: Response<Incoming>) -> Error {
        let status = response.status();
        let body = match self.collect(response.into_body()).await {
            Ok(body) => body,
            Err(error) => return error,
        };
        match serde_json::from_slice::<Problem>(&body) {
            Ok(problem) => Error::Problem(problem.with_status(status.as_u16())),
            Err(_) => self.malformed(format!("status {status} without a problem document")),
        }
    }

    async fn collect(&self, body: Incoming) -> Result<Bytes, Error> {
        match Limited::new(body, ANSWER_BYTES_MAX).collect().await {
            Ok(collected) => Ok(collected.to_bytes()),
            Err(source) => Err(Error::Broken {
                url: self.server.clone(),
                source,
            }),
        }
    }

    async fn within<T>(
        &self,
        limit: Duration,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let timed_out = |_elapsed| Error::TimedOut {
            url: self.server.clone(),
            after: limit,
        };
        tokio::time::timeout(limit, work).await.map_err(timed_out)?
    }

    fn limit(&self, wait_ms: Option<u64>) -> Duration {
        wait_ms.map_or(self.timeout, |ms| {
            Duration::from_millis(ms).saturating_add(GRACE)
        })
    }

    fn failed(&self, error: legacy::Error) -> Error {
        let url = self.server.clone();
        let connecting = error.is_connect();
        // The outer error only says "client error (Connect)"; what matters is below it.
        let source: Box<dyn StdError + Send + Sync> = match innermost(&error) {
            Some(text) => text.into(),
            None => Box::new(error),
        };
        if connecting {
            Error::Unreachable { url, source }
        } else {
            Error::Broken { url, source }
        }
    }

    fn malformed(&self, what: impl Into<String>) -> Error {
        Error::Malformed {
            url: self.server.clone(),
            what: what.into(),
        }
    }
}

type RequestBody = UnsyncBoxBody<Bytes, Infallible>;

/// A request to be sent.
struct Exchange {
    method: Method,
    /// Path and query.
    target: String,
    headers: Vec<(HeaderName, HeaderValue)>,
    body: RequestBody,
    /// How long the node is asked to wait.
    wait_ms: Option<u64>,
}

impl Exchange {
    fn new(method: Method, target: impl Into<String>) -> Self {
        Self {
            method,
            target: target.into(),
            headers: Vec::new(),
            body: Full::default().boxed_unsync(),
            wait_ms: None,
        }
    }

    fn query(mut self, query: &impl Serialize) -> Self {
        let text = serde_urlencoded::to_string(query)
            .expect("queries are flat structs of texts and numbers");
        if !text.is_empty() {
            self.target.push('?');
            self.target.push_str(&text);
        }
        self
    }

    fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    fn body(mut self, media_type: &'static str, body: impl Into<Bytes>) -> Self {
        self.body = Full::new(body.into()).boxed_unsync();
        self.header(header::CONTENT_TYPE, HeaderValue::from_static(media_type))
    }

    fn waiting(mut self, wait_ms: Option<u64>) -> Self {
        self.wait_ms = wait_ms;
        self
    }
}

fn parse_server(given: &str) -> Result<String, Error> {
    let invalid = |why| Error::InvalidServer {
        given: given.to_owned(),
        why,
    };
    let text = given.trim();
    let text = if text.contains("://") {
        text.to_owned()
    } else {
        format!("http://{text}")
    };
    let uri: Uri = text
        .parse()
        .map_err(|_| invalid("it must look like http://127.0.0.1:7300"))?;
    if uri.scheme_str() == Some("https") {
        return Err(invalid(
            "nodes speak plain HTTP; where TLS is wanted, put a proxy or a tunnel before it",
        ));
    }
    if uri.scheme_str() != Some("http") {
        return Err(invalid("it must begin with http://"));
    }
    if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
        return Err(invalid("it must have no path"));
    }
    match uri.authority() {
        Some(authority) if !authority.host().is_empty() => Ok(format!("http://{authority}")),
        _ => Err(invalid("it names no host")),
    }
}

fn innermost(error: &(dyn StdError + 'static)) -> Option<String> {
    let mut below = error.source()?;
    while let Some(next) = below.source() {
        below = next;
    }
    Some(below.to_string())
}

/// Time for one exchange, unless the caller says otherwise.
const TIMEOUT: Duration = Duration::from_secs(30);
/// How much longer than the node an exchange waits, when the node is asked to wait.
const GRACE: Duration = Duration::from_secs(5);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest answer that is read whole: the longest body of a call, with some room.
const ANSWER_BYTES_MAX: usize = 80 << 20;

#[cfg(test)]
mod tests;
