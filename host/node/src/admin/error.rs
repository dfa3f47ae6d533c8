//! Every error of the API: the one place where a status is chosen.

use std::time::Duration;

use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use holdfast_cluster::state::Refused;
use holdfast_model::{
    api::{PROBLEM_JSON, Problem, ProblemKind},
    call::{self, Refusal},
};
use holdfast_runtime::{Failure, LoadError};
use http::{HeaderName, HeaderValue, header};
use http_body_util::Full;
use tokio::time::Instant;

use super::budget::Exhausted;
use crate::{
    control::{ProposeError, ReadError},
    deploy,
    logs::ChangeLogError,
    modules,
    placement::AllocateError,
    restart::RestartError,
};

/// A problem on its way to the caller.
#[derive(Debug)]
pub(super) struct Error {
    problem: Box<Problem>,
    retry_after: Option<Duration>,
    /// Of a change: whether it was made.
    done: Option<&'static str>,
    header: Option<(HeaderName, &'static str)>,
}

pub(super) type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub(super) fn new(kind: ProblemKind, detail: impl Into<String>) -> Self {
        // Whoever is told to come back is told when.
        Self {
            problem: Box::new(Problem::new(kind, detail)),
            retry_after: comes_back(kind.status()).then_some(Duration::from_secs(1)),
            done: None,
            header: None,
        }
    }

    pub(super) fn invalid(detail: impl Into<String>) -> Self {
        Self::new(ProblemKind::InvalidRequest, detail)
    }

    /// A part of the request came too slowly.
    pub(super) fn slow(what: &str) -> Self {
        let detail = format!("{what} of the request came too slowly");
        Self::new(ProblemKind::RequestTimeout, detail)
    }

    /// A change was made, and then its state could not be read.
    pub(super) fn done_but(error: &ReadError) -> Self {
        Self::new(ProblemKind::NoLeader, format!("{DONE}; but {error}")).said(DONE)
    }

    /// The same when the time that the caller gave is over: that it was too short says more than what would
    /// have been waited for.
    pub(super) fn unless_late(self, timeout_ms: Option<u64>, deadline: Instant) -> Self {
        let (Some(ms), Some(done)) = (timeout_ms, self.done) else {
            return self;
        };
        if Instant::now() < deadline {
            return self;
        }
        let detail = format!("the {ms} ms that the request allows are over; {done}");
        Self::new(ProblemKind::Timeout, detail).said(done)
    }

    /// Says whether a change was made.
    fn said(mut self, done: &'static str) -> Self {
        self.done = Some(done);
        self
    }

    /// The same, of a change that was not begun.
    pub(super) fn not_done(mut self) -> Self {
        self.problem.detail = format!("{}; {NOT_DONE}", self.problem.detail);
        self
    }

    /// The same, unless it is of this kind: what was done, and acknowledged, a later change has undone.
    pub(super) fn superseded(self, by: ProblemKind, detail: impl FnOnce() -> String) -> Self {
        match self.problem.kind == by {
            true => Self::new(ProblemKind::Superseded, detail()),
            false => self,
        }
    }

    pub(super) fn status(self, status: http::StatusCode) -> Self {
        self.with_status(status.as_u16())
    }

    /// The same with one more header in its answer.
    pub(super) fn header(mut self, name: HeaderName, value: &'static str) -> Self {
        self.header = Some((name, value));
        self
    }

    fn with_status(mut self, status: u16) -> Self {
        self.problem.status = status;
        if comes_back(status) {
            self.retry_after = self.retry_after.or(Some(Duration::from_secs(1)));
        }
        self
    }

    fn after(mut self, pause: Duration) -> Self {
        self.retry_after = Some(pause);
        self
    }

    /// The same with one more member.
    pub(super) fn with(mut self, member: &str, value: impl Into<serde_json::Value>) -> Self {
        self.problem
            .extensions
            .insert(member.to_owned(), value.into());
        self
    }

    pub(super) fn as_problem(&self) -> &Problem {
        &self.problem
    }

    pub(super) fn problem(self) -> Problem {
        *self.problem
    }

    /// The problem as an answer.
    pub(super) fn response(self) -> http::Response<Full<Bytes>> {
        let body = serde_json::to_vec(&self.problem)
            .expect("a problem is text and JSON values, which can always be written");
        let mut response = http::Response::new(Full::from(body));
        *response.status_mut() = http::StatusCode::from_u16(self.problem.status)
            .unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        if let Some(pause) = self.retry_after {
            headers.insert(
                header::RETRY_AFTER,
                HeaderValue::from(pause.as_secs().max(1)),
            );
        }
        if let Some((name, value)) = self.header {
            headers.insert(name, HeaderValue::from_static(value));
        }
        response
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        self.response().map(axum::body::Body::new)
    }
}

impl From<Exhausted> for Error {
    fn from(exhausted: Exhausted) -> Self {
        let error = Self::new(ProblemKind::Overloaded, exhausted.to_string());
        match exhausted {
            Exhausted::Node(_) => error,
            Exhausted::Module(_) => error.status(http::StatusCode::TOO_MANY_REQUESTS),
        }
    }
}

/// Why a connection is answered without a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TurnedAway {
    /// What came is no HTTP/1.1.
    Malformed,
    /// The path and the query are too long.
    TargetTooLong,
    /// The headers are too long, or too many.
    HeadTooLong,
    /// The head came too slowly.
    HeadTooSlow,
    /// The node has no connection left.
    NoPlace,
    /// The node has no memory left for unfinished heads.
    NoMemory,
}

impl TurnedAway {
    /// The problem as an answer.
    #[must_use]
    pub fn response(self) -> http::Response<Full<Bytes>> {
        Error::from(self).response()
    }
}

impl From<TurnedAway> for Error {
    fn from(why: TurnedAway) -> Self {
        let too_long = |what, status| {
            let detail = format!("the {what} of the request too long");
            Self::new(ProblemKind::TooLarge, detail).status(status)
        };
        match why {
            TurnedAway::Malformed => Self::invalid("what was sent is no HTTP/1.1 request"),
            TurnedAway::TargetTooLong => too_long("target is", http::StatusCode::URI_TOO_LONG),
            TurnedAway::HeadTooLong => too_long(
                "headers are",
                http::StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            ),
            TurnedAway::HeadTooSlow => Self::slow("the head"),
            TurnedAway::NoPlace => Self::new(
                ProblemKind::Overloaded,
                "this node has no connection left; others may have",
            ),
            TurnedAway::NoMemory => Self::new(
                ProblemKind::Overloaded,
                "this node has no memory left for unfinished requests; others may have",
            ),
        }
    }
}

impl From<call::Error> for Error {
    fn from(error: call::Error) -> Self {
        let detail = error.to_string();
        match error {
            call::Error::UnknownModule(name) => {
                Self::new(ProblemKind::UnknownModule, detail).with("module", name)
            }
            call::Error::UnknownResource(key) => {
                let (module, id) = key.split_once('/').unwrap_or_default();
                Self::new(ProblemKind::UnknownResource, detail)
                    .with("module", module)
                    .with("resource", id)
            }
            call::Error::NotInvocable(_) => Self::new(ProblemKind::NotInvocable, detail),
            call::Error::Refused { kind, .. } => {
                Self::new(ProblemKind::HandlerRefused, detail).with_status(refused(kind))
            }
            call::Error::Trapped { function, .. } => {
                Self::new(ProblemKind::Trap, detail).with("function", &*function)
            }
            call::Error::TimedOut(_) => Self::new(ProblemKind::Timeout, detail),
            call::Error::QueueFull { .. } => Self::new(ProblemKind::QueueFull, detail),
            call::Error::TooLarge { .. } => Self::new(ProblemKind::TooLarge, detail),
            call::Error::Unavailable { retry_after, .. } => {
                Self::new(ProblemKind::Unavailable, detail).after(retry_after)
            }
            call::Error::Interrupted => Self::new(ProblemKind::Interrupted, detail),
            call::Error::Quarantined { .. } => {
                Self::new(ProblemKind::Quarantined, detail).after(QUARANTINE_RETRY)
            }
        }
    }
}

/// The status by which a handler's refusal is told.
pub(super) fn refused(kind: Refusal) -> u16 {
    match kind {
        Refusal::Invalid => 400,
        Refusal::NotFound => 404,
        Refusal::Conflict => 409,
        Refusal::Unavailable => 503,
        Refusal::Failed => 500,
    }
}

/// Whether whoever gets this status is told when to come back.
pub(super) fn comes_back(status: u16) -> bool {
    matches!(status, 429 | 503)
}

impl From<Refused> for Error {
    fn from(refused: Refused) -> Self {
        let kind = match refused {
            Refused::UnknownNode(_) => ProblemKind::UnknownNode,
            Refused::UnknownModule(_) => ProblemKind::UnknownModule,
            Refused::Founded(_)
            | Refused::OtherIncarnation { .. }
            | Refused::Dead { .. }
            | Refused::Removed(_)
            | Refused::Removing(_)
            | Refused::HasResources { .. }
            | Refused::NoRollout { .. } => ProblemKind::Conflict,
            Refused::Invalid(_) => ProblemKind::InvalidRequest,
            Refused::OtherTerm { .. } | Refused::Unfounded => ProblemKind::Unavailable,
        };
        let error = Self::new(kind, refused.to_string());
        match refused {
            Refused::UnknownModule(name) => error.with("module", name.as_str()),
            _ => error,
        }
    }
}

// Each says whether the change may have been made: who asked can tell by nothing else.
impl From<ProposeError> for Error {
    fn from(error: ProposeError) -> Self {
        let (what, done) = match error {
            ProposeError::NoLeader { .. } => (error.to_string(), NOT_DONE),
            ProposeError::TimedOut => {
                let what = "the change was not acknowledged in time";
                (what.to_owned(), MAYBE_DONE)
            }
            ProposeError::Shutdown => (error.to_string(), MAYBE_DONE),
        };
        Self::new(ProblemKind::NoLeader, format!("{what}; {done}")).said(done)
    }
}

impl From<ReadError> for Error {
    fn from(error: ReadError) -> Self {
        Self::new(ProblemKind::NoLeader, modules::chain(&error))
    }
}

impl From<AllocateError> for Error {
    fn from(error: AllocateError) -> Self {
        match error {
            AllocateError::Refused(refused) => refused.into(),
            AllocateError::NotTaken(_) => {
                Self::new(ProblemKind::NoLeader, format!("{error}; {NOT_DONE}")).said(NOT_DONE)
            }
            AllocateError::NotAcknowledged(_) => {
                Self::new(ProblemKind::NoLeader, format!("{error}; {MAYBE_DONE}")).said(MAYBE_DONE)
            }
        }
    }
}

impl From<RestartError> for Error {
    fn from(error: RestartError) -> Self {
        match error {
            RestartError::Refused(refused) => refused.into(),
            RestartError::NotAnnounced(_) => Self::new(
                ProblemKind::NoLeader,
                format!("{error}; it goes on as it is"),
            ),
            RestartError::Unknown => {
                Self::new(ProblemKind::NoLeader, format!("{error}; {MAYBE_DONE}"))
            }
            RestartError::NotReached(_) => Self::new(ProblemKind::Unavailable, error.to_string()),
            RestartError::Program(_) => Self::new(
                ProblemKind::Conflict,
                format!("{error}; it goes on as it is"),
            ),
        }
    }
}

impl From<ChangeLogError> for Error {
    fn from(error: ChangeLogError) -> Self {
        let kind = match error {
            ChangeLogError::Invalid(_) => ProblemKind::InvalidRequest,
            ChangeLogError::NotOwn => ProblemKind::Conflict,
            ChangeLogError::NotReached(_) => ProblemKind::Unavailable,
        };
        Self::new(kind, error.to_string())
    }
}

impl From<modules::Error> for Error {
    fn from(error: modules::Error) -> Self {
        let detail = modules::chain(&error);
        tracing::error!(error = detail, "a component could not be kept");
        match error.cause() {
            // Another node may well take it.
            modules::Cause::Node(_) => Self::new(ProblemKind::Unavailable, detail),
            modules::Cause::Component | modules::Cause::Passing => {
                Self::new(ProblemKind::Internal, detail)
            }
        }
    }
}

impl From<deploy::Error> for Error {
    fn from(error: deploy::Error) -> Self {
        let detail = modules::chain(&error);
        match error {
            deploy::Error::Settings(_) => Self::invalid(detail),
            deploy::Error::Component(source) => rejected(&source, detail),
            deploy::Error::Keep(error) => error.into(),
            deploy::Error::Spread { .. } => {
                Self::new(ProblemKind::Unavailable, detail).said(NOT_DONE)
            }
            deploy::Error::Late(_) => Self::new(ProblemKind::Timeout, detail),
            deploy::Error::Propose(error) => error.into(),
            deploy::Error::Refused(refused) => refused.into(),
            deploy::Error::Unexpected(_) => {
                tracing::error!(error = detail, "a deployment has no outcome");
                Self::new(ProblemKind::Internal, detail)
            }
        }
    }
}

fn rejected(error: &LoadError, detail: String) -> Error {
    match error {
        LoadError::TooLarge { .. } => Error::new(ProblemKind::TooLarge, detail),
        // The node's own fault, or its lack of room: another may take it, or this one later.
        LoadError::CompilerBusy(_)
        | LoadError::System(_)
        | LoadError::CompilerNotRun(_)
        | LoadError::NotKept(_)
        | LoadError::Start(
            Failure::NodeOutOfMemory { .. }
            | Failure::TooManyFibers { .. }
            | Failure::System(_)
            | Failure::Dead,
        ) => Error::new(ProblemKind::Unavailable, detail),
        LoadError::UnknownImports(imports) => {
            let reasons = imports
                .iter()
                .map(|import| format!("unknown import {import}"));
            let reasons: Vec<String> = reasons.collect();
            Error::new(ProblemKind::RejectedComponent, detail).with("reasons", reasons)
        }
        error => {
            let reasons = vec![modules::chain(error)];
            Error::new(ProblemKind::RejectedComponent, detail).with("reasons", reasons)
        }
    }
}

/// When it may make sense to ask a quarantined resource again: somebody has to change it first.
const QUARANTINE_RETRY: Duration = Duration::from_secs(60);
const DONE: &str = "it is done";
const NOT_DONE: &str = "it was not done";
const MAYBE_DONE: &str = "it may have been done: repeat it";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_of_the_callers_own_that_is_over_is_told_as_such() {
        let late = Instant::now();
        let early = late + Duration::from_secs(60);
        let error = || Error::from(ProposeError::NoLeader { leader: None });
        let problem = error().unless_late(Some(1), late).problem();
        assert_eq!(problem.status, 504);
        assert!(problem.detail.contains("1 ms"), "{problem}");
        assert!(problem.detail.contains(NOT_DONE), "{problem}");
        for kept in [
            error().unless_late(None, late),
            error().unless_late(Some(1), early),
        ] {
            assert_eq!(kept.problem().kind, ProblemKind::NoLeader);
        }
        // What has nothing to do with time stays.
        let other = Error::invalid("x").unless_late(Some(1), late);
        assert_eq!(other.problem().status, 400);
    }

    #[test]
    fn a_change_without_an_answer_says_whether_it_may_have_been_made() {
        let no_leader = || ProposeError::NoLeader { leader: None };
        for (error, says) in [
            (Error::from(no_leader()), NOT_DONE),
            (deploy::Error::Propose(no_leader()).into(), NOT_DONE),
            (AllocateError::NotTaken("x".to_owned()).into(), NOT_DONE),
            (ProposeError::TimedOut.into(), MAYBE_DONE),
            (ProposeError::Shutdown.into(), MAYBE_DONE),
            (
                AllocateError::NotAcknowledged("x".to_owned()).into(),
                MAYBE_DONE,
            ),
            (Error::done_but(&ReadError::TimedOut), "it is done"),
        ] {
            let problem = error.problem();
            assert_eq!(problem.kind, ProblemKind::NoLeader);
            assert!(problem.detail.contains(says), "{problem}");
        }
    }
}
