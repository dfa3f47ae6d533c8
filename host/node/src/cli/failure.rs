//! How a command fails: exit code, message, and a hint what to do.

use std::{fmt, io, process::ExitCode};

use holdfast_model::api::{Problem, ProblemKind};

use super::output::Format;
use crate::{client, server, telemetry};

/// How the process ends. The numbers are promised to scripts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Done = 0,
    /// It failed.
    Failed = 1,
    /// The command line makes no sense.
    Usage = 2,
    /// There is no such module, resource or node.
    NotFound = 3,
    /// The node, or the handler, refused the request.
    Refused = 4,
    /// The node cannot be reached, or cannot do it now.
    Unavailable = 5,
    /// It took too long.
    TimedOut = 6,
    /// Another process runs as this node; this one was started later.
    Twin = 7,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// An error with advice.
#[derive(Debug)]
pub(super) struct Failure {
    message: String,
    hint: Option<String>,
    exit: Exit,
    /// The node's own words.
    problem: Option<Box<Problem>>,
}

impl Failure {
    /// What a client's error means to the user.
    pub(super) fn of(error: &client::Error) -> Self {
        Self {
            message: error.to_string(),
            hint: hint_of(error),
            exit: exit_of(error),
            problem: error.problem().cloned().map(Box::new),
        }
    }

    /// The same of a node's problem, where more is to be said than its own words.
    pub(super) fn of_problem(message: impl Into<String>, problem: &Problem) -> Self {
        Self {
            message: message.into(),
            hint: hint_of_problem(problem).map(str::to_owned),
            exit: exit_of_problem(problem),
            problem: Some(Box::new(problem.clone())),
        }
    }

    pub(super) fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            hint: None,
            exit: Exit::Failed,
            problem: None,
        }
    }

    /// What to do about it.
    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub(super) fn exit(mut self, exit: Exit) -> Self {
        self.exit = exit;
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// Tells an error on standard error and chooses the exit code.
pub(super) fn report(error: &anyhow::Error, format: Format) -> Exit {
    if is_broken_pipe(error) {
        // Whoever read the output has seen enough: `holdfast resources list m | head`.
        return Exit::Done;
    }
    let told = Told::of(error);
    // Behind the log of a node that ends with it.
    match format {
        Format::Json => telemetry::write_last(&format!("{}\n", told.problem())),
        Format::Table => telemetry::write_last(&told.to_string()),
    }
    told.exit
}

/// An error in words, as it is told on standard error.
pub(super) fn told(error: &anyhow::Error) -> String {
    Told::of(error).to_string()
}

/// An error and its causes, without advice, for a line of a longer report.
pub(super) fn in_line(error: &anyhow::Error) -> String {
    message(error)
}

/// An error as a problem document.
pub(super) fn problem(error: &anyhow::Error) -> serde_json::Value {
    Told::of(error).problem()
}

/// What is told of an error.
struct Told {
    message: String,
    hint: Option<String>,
    exit: Exit,
    /// The node's own words.
    problem: Option<Problem>,
}

impl Told {
    fn of(error: &anyhow::Error) -> Self {
        let mut told = Self {
            message: message(error),
            hint: None,
            exit: Exit::Failed,
            problem: None,
        };
        if let Some(failure) = error.chain().find_map(|e| e.downcast_ref::<Failure>()) {
            told.hint.clone_from(&failure.hint);
            told.exit = failure.exit;
            told.problem = failure.problem.as_deref().cloned();
        } else if let Some(error) = error
            .chain()
            .find_map(|e| e.downcast_ref::<client::Error>())
        {
            told.hint = hint_of(error);
            told.exit = exit_of(error);
            told.problem = error.problem().cloned();
        } else if error.chain().any(is_twin) {
            told.exit = Exit::Twin;
        }
        told
    }

    /// The error as a problem document: the node's own, or one made up for it.
    fn problem(&self) -> serde_json::Value {
        let mut problem = self.problem.clone().unwrap_or_else(|| {
            let kind = match self.exit {
                Exit::Unavailable => ProblemKind::Unavailable,
                Exit::TimedOut => ProblemKind::Timeout,
                Exit::Refused | Exit::Usage => ProblemKind::InvalidRequest,
                Exit::NotFound => ProblemKind::NotFound,
                Exit::Twin => ProblemKind::Conflict,
                Exit::Done | Exit::Failed => ProblemKind::Other,
            };
            let mut problem = Problem::new(kind, self.message.clone());
            if kind == ProblemKind::Other {
                problem.title = "The command failed".to_owned();
            }
            problem
        });
        if let Some(hint) = &self.hint {
            problem = problem.with("hint", hint.clone());
        }
        serde_json::to_value(&problem).expect("a problem is JSON")
    }
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "error: {}", self.message)?;
        if let Some(reasons) = self.problem.as_ref().and_then(reasons) {
            for reason in reasons {
                writeln!(f, "  - {reason}")?;
            }
        }
        match &self.hint {
            Some(hint) => writeln!(f, "hint: {hint}"),
            None => Ok(()),
        }
    }
}

/// All that is wrong with a rejected component.
fn reasons(problem: &Problem) -> Option<impl Iterator<Item = &str>> {
    let reasons = problem.extensions.get("reasons")?.as_array()?;
    Some(reasons.iter().filter_map(|reason| reason.as_str()))
}

/// An error and its causes on one line, none of them twice.
pub(super) fn message(error: &anyhow::Error) -> String {
    let mut parts: Vec<String> = Vec::new();
    for cause in error.chain() {
        let text = cause.to_string();
        // Some libraries repeat their source's text.
        if parts.last().is_none_or(|last| !last.contains(&text)) {
            parts.push(text);
        }
    }
    parts.join(": ")
}

fn is_twin(cause: &(dyn std::error::Error + 'static)) -> bool {
    matches!(cause.downcast_ref(), Some(server::Error::Twin { .. }))
}

fn exit_of(error: &client::Error) -> Exit {
    use client::Error;
    match error {
        Error::Unreachable { .. } | Error::Broken { .. } => Exit::Unavailable,
        Error::TimedOut { .. } => Exit::TimedOut,
        Error::Problem(problem) => exit_of_problem(problem),
        Error::InvalidServer { .. } | Error::InvalidToken | Error::InvalidHeader { .. } => {
            Exit::Usage
        }
        Error::Malformed { .. } => Exit::Failed,
    }
}

fn exit_of_problem(problem: &Problem) -> Exit {
    match (problem.kind, problem.status) {
        // Whatever status a handler chooses: that something does not exist is said of what it knows.
        (ProblemKind::Quarantined, _) => Exit::Refused,
        // It was done; what was waited for does not come.
        (ProblemKind::Superseded, _) => Exit::Failed,
        (ProblemKind::HandlerRefused, status) if status != 503 => Exit::Refused,
        (_, status) => exit_of_status(status),
    }
}

fn exit_of_status(status: u16) -> Exit {
    match status {
        404 => Exit::NotFound,
        429 | 503 => Exit::Unavailable,
        400..=499 | 501 => Exit::Refused,
        504 => Exit::TimedOut,
        _ => Exit::Failed,
    }
}

fn hint_of(error: &client::Error) -> Option<String> {
    use client::Error;
    let hint = match error {
        Error::Unreachable { .. } => {
            "is a node running there? Name another with --server URL or HOLDFAST_SERVER; \
             `holdfast demo` starts a cluster to play with"
        }
        Error::Broken { .. } => "the request may have had its effect; look before you repeat it",
        Error::TimedOut { .. } => {
            "the request may have had its effect; `holdfast status` tells \
                                   how the cluster is"
        }
        Error::Malformed { .. } => {
            "does --server name the HTTP address of a node, 7300 by default?"
        }
        Error::InvalidServer { .. } | Error::InvalidToken | Error::InvalidHeader { .. } => {
            return None;
        }
        Error::Problem(problem) => hint_of_problem(problem)?,
    };
    Some(hint.to_owned())
}

fn hint_of_problem(problem: &Problem) -> Option<&'static str> {
    Some(match problem.kind {
        ProblemKind::Unauthorized if problem.extensions.contains_key("error") => {
            "--token-file, --token or HOLDFAST_TOKEN holds another token; in that order, the first \
             one that is given counts"
        }
        ProblemKind::HandlerRefused if problem.status == 503 => {
            "the handler says that it cannot do it now: try again in a moment"
        }
        ProblemKind::HandlerRefused => {
            "the handler refused this call; the resource stays as it was"
        }
        ProblemKind::Quarantined => {
            "it stays allocated, and nothing is tried: allocate it with another spec, deploy the \
             module anew, or deallocate it"
        }
        ProblemKind::Trap => "a new instance is started; `holdfast logs` shows what it said",
        ProblemKind::Unauthorized => "give the API token with --token-file FILE or HOLDFAST_TOKEN",
        ProblemKind::UnknownModule => "`holdfast modules` lists the modules",
        ProblemKind::UnknownResource => "`holdfast resources list MODULE` lists the resources",
        ProblemKind::UnknownNode => "`holdfast nodes` lists the nodes",
        ProblemKind::Interrupted => {
            "the call may have had its effect; with --idempotency-key it can be repeated"
        }
        ProblemKind::NoLeader => {
            "a majority of the voters must be up; `holdfast status` says who is missing"
        }
        ProblemKind::Unavailable | ProblemKind::QueueFull | ProblemKind::Overloaded => {
            "try again in a moment"
        }
        _ => return None,
    })
}

/// Whether it is that nobody reads the output any more.
pub(super) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause
            .downcast_ref::<io::Error>()
            .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
            // A connection can break that way too.
            && error.downcast_ref::<client::Error>().is_none()
    })
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    fn problem(kind: ProblemKind) -> anyhow::Error {
        anyhow!(client::Error::Problem(Problem::new(kind, "detail")))
    }

    #[test]
    fn exit_codes_follow_the_status() {
        for (kind, exit) in [
            (ProblemKind::UnknownModule, Exit::NotFound),
            (ProblemKind::Conflict, Exit::Refused),
            (ProblemKind::QueueFull, Exit::Unavailable),
            (ProblemKind::NotInvocable, Exit::Refused),
            (ProblemKind::NoLeader, Exit::Unavailable),
            (ProblemKind::Timeout, Exit::TimedOut),
            (ProblemKind::Trap, Exit::Failed),
            (ProblemKind::Quarantined, Exit::Refused),
            (ProblemKind::HandlerRefused, Exit::Refused),
        ] {
            assert_eq!(Told::of(&problem(kind)).exit, exit, "{kind}");
            let wrapped = problem(kind).context("deploy counter");
            assert_eq!(Told::of(&wrapped).exit, exit, "{kind}");
        }
        assert_eq!(Told::of(&anyhow!("x")).exit, Exit::Failed);
        for (status, exit) in [
            (400, Exit::Refused),
            (404, Exit::Refused),
            (409, Exit::Refused),
            (503, Exit::Unavailable),
            (500, Exit::Refused),
        ] {
            let refused = Problem::new(ProblemKind::HandlerRefused, "no").with_status(status);
            let error = anyhow!(client::Error::Problem(refused));
            assert_eq!(Told::of(&error).exit, exit, "{status}");
        }
    }

    #[test]
    fn a_wrong_token_is_told_apart_from_none() {
        let none = Problem::new(ProblemKind::Unauthorized, "none");
        let wrong = none.clone().with("error", "invalid_token");
        let hint = |problem| Told::of(&anyhow!(client::Error::Problem(problem))).hint;
        assert!(hint(none).unwrap().starts_with("give the API token"));
        assert!(hint(wrong).unwrap().contains("holds another token"));
    }

    #[test]
    fn what_a_handler_refuses_is_said_to_leave_the_resource_where_it_is() {
        for kind in [ProblemKind::HandlerRefused, ProblemKind::Quarantined] {
            let told = Told::of(&problem(kind)).to_string();
            assert!(told.contains("stays"), "{told}");
        }
    }

    #[test]
    fn errors_are_told_with_their_causes_and_a_hint() {
        let error = anyhow!(client::Error::Unreachable {
            url: "http://a:1".into(),
            source: "Connection refused".into(),
        });
        let told = Told::of(&error).to_string();
        let first = "error: cannot reach a node at http://a:1: Connection refused\nhint: is a node";
        assert!(told.starts_with(first), "{told}");
    }

    #[test]
    fn json_errors_are_problem_documents() {
        let told = Told::of(&problem(ProblemKind::UnknownModule)).problem();
        assert_eq!(told["type"], "urn:holdfast:problem:unknown-module");
        assert_eq!(told["detail"], "detail");
        assert!(told["hint"].is_string());
        let told = Told::of(&anyhow!(Failure::new("no").hint("do"))).problem();
        assert_eq!(told["detail"], "no");
        assert_eq!(told["hint"], "do");
    }

    #[test]
    fn all_reasons_of_a_rejection_are_listed() {
        let problem = Problem::new(ProblemKind::RejectedComponent, "2 imports are unknown")
            .with("reasons", vec!["no a", "no b"]);
        let told = Told::of(&anyhow!(client::Error::Problem(problem))).to_string();
        assert!(told.ends_with("\n  - no a\n  - no b\n"), "{told}");
    }
}
