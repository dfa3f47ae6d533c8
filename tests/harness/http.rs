//! A raw HTTP client: one request, one answer, nothing hidden.
//!
//! Absent: redirects, decoding, repeats of what a server may have seen. An answer with an error
//! status is an answer.

use std::{
    fmt,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{HeaderMap, Request, header::HeaderName};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{
    contract::{Contract, Exchange},
    executor,
    wait::SOON,
};

/// Connections to one server, kept open between requests.
#[derive(Clone, Debug)]
pub struct Connection {
    base: String,
    token: Option<String>,
    client: Client<HttpConnector, Full<Bytes>>,
    contract: Option<&'static Contract>,
}

impl Connection {
    /// A client of the server at `addr`, such as `127.0.0.1:7300`.
    #[must_use]
    pub fn new(addr: &str) -> Self {
        Self {
            base: format!("http://{addr}"),
            token: None,
            client: Client::builder(TokioExecutor::new()).build_http(),
            contract: None,
        }
    }

    /// The same, whose server answers as this says: a test in which it does not fails.
    #[must_use]
    pub fn held_to(mut self, contract: &'static Contract) -> Self {
        self.contract = Some(contract);
        self
    }

    /// The same with an API token in every request.
    #[must_use]
    pub fn with_token(mut self, token: &str) -> Self {
        self.token = Some(token.to_owned());
        self
    }

    /// Begins a request. `path` is sent as it is: percent-encode what needs it.
    pub fn ask(&self, method: &str, path: &str) -> Ask {
        let ask = Ask {
            connection: self.clone(),
            method: method.to_owned(),
            path: path.to_owned(),
            headers: Vec::new(),
            body: Bytes::new(),
            patience: SOON,
            until: None,
        };
        match &self.token {
            Some(token) => ask.header("authorization", format!("Bearer {token}")),
            None => ask,
        }
    }
}

/// A request that is being made up.
#[derive(Debug)]
#[must_use = "nothing is sent before `send` or `answer`"]
pub struct Ask {
    connection: Connection,
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    body: Bytes,
    patience: Duration,
    until: Option<&'static str>,
}

impl Ask {
    /// Adds a header.
    pub fn header(mut self, name: &str, value: impl fmt::Display) -> Self {
        self.headers.push((name.to_owned(), value.to_string()));
        self
    }

    /// Sets the body.
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    /// Sets a JSON body.
    pub fn json(self, body: &Value) -> Self {
        self.header("content-type", "application/json")
            .body(body.to_string())
    }

    /// How long to wait for the whole answer; [`SOON`] unless said otherwise.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Leaves an answer that goes on once it has said this.
    pub fn until(mut self, said: &'static str) -> Self {
        self.until = Some(said);
        self
    }

    /// Sends it and waits for the answer.
    ///
    /// # Errors
    /// When there is none: the connection failed, or patience ran out.
    ///
    /// # Panics
    /// When the test made up something that is no HTTP request, or the answer is not one that the server
    /// is held to.
    pub fn send(self) -> Result<Answer, Unanswered> {
        executor().block_on(self.exchange())
    }

    /// The same for tasks: the clients that are many.
    ///
    /// # Errors
    /// When there is none: the connection failed, or patience ran out.
    ///
    /// # Panics
    /// When the test made up something that is no HTTP request, or the answer is not one that the server
    /// is held to.
    pub async fn exchange(self) -> Result<Answer, Unanswered> {
        let what = format!("{} {}", self.method, self.path);
        let start = Instant::now();
        let mut request = Request::builder()
            .method(self.method.as_str())
            .uri(format!("{}{}", self.connection.base, self.path));
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let request = request
            .body(Full::new(self.body.clone()))
            .unwrap_or_else(|error| panic!("{what}: the test's request is malformed: {error}"));
        let exchange = async {
            let answer = self.connection.client.request(request).await;
            let (head, mut body) = answer.map_err(|error| chain(&error))?.into_parts();
            let mut read = Vec::new();
            while let Some(frame) = body.frame().await {
                let frame = frame.map_err(|error| chain(&error))?;
                read.extend_from_slice(frame.data_ref().map_or(&[], |data| data));
                if self.until.is_some_and(|said| has(&read, said)) {
                    break;
                }
            }
            Ok::<_, String>((head, Bytes::from(read)))
        };
        let patience = self.patience;
        let reason = match tokio::time::timeout(patience, exchange).await {
            Ok(Ok((head, body))) => {
                let took = start.elapsed();
                let mut answer = Answer {
                    what,
                    operation: None,
                    status: head.status.as_u16(),
                    headers: head.headers,
                    body,
                    took,
                };
                if let Some(contract) = self.connection.contract {
                    let exchange = Exchange {
                        method: &self.method,
                        target: &self.path,
                        asked: &self.headers,
                        sent: &self.body,
                        status: answer.status,
                        headers: &answer.headers,
                        body: &answer.body,
                    };
                    answer.operation = match contract.check(&exchange) {
                        Ok(operation) => operation,
                        Err(why) => {
                            panic!("docs/openapi.json does not have this: {why}\nin {answer}")
                        }
                    };
                }
                return Ok(answer);
            }
            Ok(Err(reason)) => Reason::Broken(reason),
            Err(_) => Reason::Patience(patience),
        };
        Err(Unanswered { what, reason })
    }

    /// Sends it and gives the answer.
    ///
    /// # Panics
    /// When there is none.
    #[track_caller]
    pub fn answer(self) -> Answer {
        match self.send() {
            Ok(answer) => answer,
            Err(error) => panic!("{error}"),
        }
    }
}

/// An answer, whatever its status.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Method and path of the request.
    pub what: String,
    /// Which operation it was, by the contract that the server is held to.
    pub operation: Option<String>,
    /// Status code.
    pub status: u16,
    /// Headers.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
    /// From before the request to the end of the body.
    pub took: Duration,
}

impl Answer {
    /// The same answer, if it has this status.
    ///
    /// # Panics
    /// With the whole answer, if it has another.
    #[track_caller]
    #[must_use]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "status of {self}");
        self
    }

    /// The same answer, if it has this status: for polling.
    ///
    /// # Errors
    /// The whole answer as text, if it has another.
    pub fn is(self, status: u16) -> Result<Self, String> {
        match self.status == status {
            true => Ok(self),
            false => Err(self.to_string()),
        }
    }

    /// The body as JSON of this shape.
    ///
    /// # Panics
    /// With the whole answer, when it is none.
    #[track_caller]
    #[must_use]
    pub fn json<T: DeserializeOwned>(&self) -> T {
        match serde_json::from_slice(&self.body) {
            Ok(value) => value,
            Err(error) => panic!("{error} in {self}"),
        }
    }

    /// A header's text, if it is there.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let name: HeaderName = name.parse().ok()?;
        self.headers.get(name)?.to_str().ok()
    }

    /// Makes sure that this is a problem of this status and kind (RFC 9457), and gives its detail.
    ///
    /// # Panics
    /// With the whole answer, when it is not.
    #[track_caller]
    pub fn problem(&self, status: u16, kind: &str) -> Problem {
        assert_eq!(self.status, status, "status of {self}");
        assert_eq!(
            self.header("content-type"),
            Some("application/problem+json"),
            "media type of {self}"
        );
        let members: Value = self.json();
        assert_eq!(
            members["type"],
            format!("urn:holdfast:problem:{kind}"),
            "type in {self}"
        );
        assert_eq!(members["status"], status, "status member of {self}");
        assert!(members["title"].is_string(), "title in {self}");
        let detail = members["detail"].as_str().unwrap_or_default().to_owned();
        assert!(!detail.is_empty(), "detail in {self}");
        Problem { detail, members }
    }

    /// Seconds after which the server wants to be asked again.
    ///
    /// # Panics
    /// When the header is missing or less than one second.
    #[track_caller]
    pub fn retry_after(&self) -> Duration {
        let seconds = self.header("retry-after").and_then(|s| s.parse().ok());
        match seconds {
            Some(seconds @ 1..) => Duration::from_secs(seconds),
            _ => panic!("a Retry-After of at least 1 is missing in {self}"),
        }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let body: String = String::from_utf8_lossy(&self.body)
            .chars()
            .take(2000)
            .collect();
        write!(f, "{}: {} {body}", self.what, self.status)
    }
}

/// A problem that an answer told.
#[derive(Clone, Debug)]
pub struct Problem {
    /// What happened.
    pub detail: String,
    /// All members.
    pub members: Value,
}

impl Problem {
    /// Makes sure that the problem says each of these somewhere.
    ///
    /// # Panics
    /// When it does not.
    #[track_caller]
    pub fn names(&self, parts: &[&str]) {
        let text = self.members.to_string();
        for part in parts {
            assert!(text.contains(part), "{part:?} is not named in: {text}");
        }
    }
}

/// A request without an answer.
#[derive(Clone, Debug)]
pub struct Unanswered {
    /// Method and path.
    pub what: String,
    /// Why.
    pub reason: Reason,
}

/// Why there is no answer.
#[derive(Clone, Debug)]
pub enum Reason {
    /// It took longer than the caller was ready to wait.
    Patience(Duration),
    /// The connection could not be made, or broke.
    Broken(String),
}

impl Unanswered {
    /// Whether nobody listened.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        matches!(&self.reason, Reason::Broken(why) if why.contains("Connection refused"))
    }
}

impl fmt::Display for Unanswered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.reason {
            Reason::Patience(patience) => {
                write!(f, "{}: no answer within {patience:?}", self.what)
            }
            Reason::Broken(reason) => write!(f, "{}: {reason}", self.what),
        }
    }
}

/// Whether bytes have this text somewhere.
fn has(bytes: &[u8], text: &str) -> bool {
    let mut windows = bytes.windows(text.len());
    windows.any(|window| window == text.as_bytes())
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}
