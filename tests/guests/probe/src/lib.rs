//! Reports every `handle` and `terminate` to an observer, calls that ask for it, and misbehaves on
//! request.
//!
//! A report is the last thing before `handle` succeeds, the first thing in `terminate`, and the
//! last thing there: an observer that gets the reports of a whole cluster sees who held a resource,
//! and when. An owner whose report is not accepted does not hold the resource. The observer is at
//! `report_url` of the module's config; with `report_log` there instead, reports go to the node's
//! log, which costs next to nothing; without either nothing is reported. Every report and answer
//! carries a number that each instance draws for itself: no two of them can pass for one.

use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher as _, Hasher as _},
    hint, thread,
    time::Duration,
};

use holdfast_guest::{
    Context as _, Ctx, Error, Invocation, InvokeError, Request, Resource, ResourceHandler,
    Response, Result, TerminateReason,
    anyhow::{self, ensure},
    export, serde_json,
};
use serde::{Deserialize, Serialize};

/// How the resource is to misbehave. An empty object: not at all.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Spec {
    /// `handle` fails this many attempts, then succeeds.
    pub fail_handle: u32,
    /// `handle` fails for good.
    pub fatal: bool,
    /// `handle` panics.
    pub panic_in_handle: bool,
    /// `handle` takes this long, in milliseconds.
    pub handle_ms: u64,
    /// `terminate` takes this long, in milliseconds.
    pub terminate_ms: u64,
    /// `terminate` never ends.
    pub spin_in_terminate: bool,
}

/// What a request may ask for: `{"op": "echo"}`. An empty body means `echo`.
#[derive(Debug, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
enum Operation {
    /// Answer what came, with the token.
    Echo,
    /// Report the call to the observer, then answer as `echo` does.
    Observed,
    /// Panic.
    Panic,
    /// Never end.
    Spin,
    /// Take memory until it is refused.
    Alloc,
    /// Sleep `ms` milliseconds.
    SleepMs { ms: u64 },
    /// Fail with an error of this kind.
    Error { kind: Kind },
    /// Make a request, and answer with what came of it.
    Fetch(Fetch),
}

/// A GET request.
#[derive(Debug, Deserialize)]
struct Fetch {
    url: String,
    timeout_ms: u64,
    response_bytes_max: usize,
    /// Name and value of one more header.
    header: Option<(String, String)>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Invalid,
    NotFound,
    Conflict,
    Unavailable,
    Failed,
}

/// What an observer is told.
#[derive(Serialize)]
struct Report<'a> {
    event: &'static str,
    module: &'a str,
    id: &'a str,
    token: u64,
    instance: u64,
    attempt: u32,
    /// The module's config `node`.
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
}

/// The answer to `echo`, `observed` and `sleep_ms`.
#[derive(Serialize)]
struct Echo<'a> {
    id: &'a str,
    token: u64,
    instance: u64,
    /// Requests answered by this instance, this one included.
    calls: u64,
    body: &'a str,
}

/// The answer to `alloc`.
#[derive(Serialize)]
struct Allocated {
    bytes: usize,
}

/// The state of one probe.
#[derive(Debug)]
pub struct Probe {
    resource: Resource<Spec>,
    instance: u64,
    calls: u64,
}

impl ResourceHandler for Probe {
    type Spec = Spec;

    fn handle(ctx: &Ctx, resource: Resource<Spec>) -> Result<Self> {
        let spec = &resource.spec;
        assert!(!spec.panic_in_handle, "told to panic in handle");
        if spec.fatal {
            return Err(Error::fatal("told to fail for good"));
        }
        if resource.attempt <= spec.fail_handle {
            return Err(Error::retry("told to fail this attempt"));
        }
        thread::sleep(Duration::from_millis(spec.handle_ms));
        let probe = Self {
            resource,
            // The standard library's only source of chance: other keys in each instance.
            instance: RandomState::new().build_hasher().finish(),
            calls: 0,
        };
        probe.report(ctx, "handle", None)?;
        Ok(probe)
    }

    fn terminate(self, ctx: &Ctx, reason: TerminateReason) -> Result<()> {
        let spec = &self.resource.spec;
        self.report(ctx, "terminating", Some(reason.as_str()))?;
        if spec.spin_in_terminate {
            spin();
        }
        thread::sleep(Duration::from_millis(spec.terminate_ms));
        self.report(ctx, "terminated", Some(reason.as_str()))?;
        Ok(())
    }
}

impl Invocation for Probe {
    fn invoke(&mut self, ctx: &Ctx, request: Request) -> Result<Response, InvokeError> {
        self.calls += 1;
        let operation = if request.body.is_empty() {
            Operation::Echo
        } else {
            request.json()?
        };
        match operation {
            Operation::Echo => {}
            Operation::Observed => self.report(ctx, "called", None)?,
            Operation::Panic => panic!("told to panic"),
            Operation::Spin => spin(),
            Operation::Alloc => return Response::json(&Allocated { bytes: allocate() }),
            Operation::SleepMs { ms } => thread::sleep(Duration::from_millis(ms)),
            Operation::Error { kind } => return Err(kind.error()),
            Operation::Fetch(fetch) => return Ok(Response::text(fetch.outcome(ctx))),
        }
        Response::json(&Echo {
            id: &self.resource.id,
            token: self.resource.token,
            instance: self.instance,
            calls: self.calls,
            body: request.text()?,
        })
    }
}

impl Probe {
    fn report(
        &self,
        ctx: &Ctx,
        event: &'static str,
        reason: Option<&'static str>,
    ) -> anyhow::Result<()> {
        let report = Report {
            event,
            module: &self.resource.module,
            id: &self.resource.id,
            token: self.resource.token,
            instance: self.instance,
            attempt: self.resource.attempt,
            node: ctx.config("node")?,
            reason,
        };
        let Some(url) = ctx.config("report_url")? else {
            if ctx.config("report_log")?.is_some() {
                ctx.info(serde_json::to_string(&report)?);
            }
            return Ok(());
        };
        let answer = ctx
            .http()
            .post(url)
            .timeout(REPORT_TIMEOUT)
            .json(&report)?
            .send()
            .with_context(|| format!("report {event}"))?;
        ensure!(
            answer.is_success(),
            "the observer answered {} to the report of {event}",
            answer.status
        );
        Ok(())
    }
}

impl Fetch {
    /// The status and the length of the answer, or the error as it is written in code.
    fn outcome(self, ctx: &Ctx) -> String {
        let mut call = ctx
            .http()
            .get(self.url)
            .timeout(Duration::from_millis(self.timeout_ms))
            .response_bytes_max(self.response_bytes_max);
        if let Some((name, value)) = self.header {
            call = call.header(name, value);
        }
        match call.send() {
            Ok(answer) => format!("{}, {} bytes", answer.status, answer.body.len()),
            Err(error) => format!("{error:?}"),
        }
    }
}

impl Kind {
    fn error(&self) -> InvokeError {
        let text = "told to fail";
        match self {
            Self::Invalid => InvokeError::invalid(text),
            Self::NotFound => InvokeError::not_found(text),
            Self::Conflict => InvokeError::conflict(text),
            Self::Unavailable => InvokeError::unavailable(text),
            Self::Failed => InvokeError::failed(text),
        }
    }
}

fn spin() -> ! {
    loop {
        hint::black_box(());
    }
}

/// Takes memory in steps of 1 MiB until no more is given, and says how much it was.
fn allocate() -> usize {
    let mut taken: Vec<Vec<u8>> = Vec::new();
    loop {
        let mut step: Vec<u8> = Vec::new();
        if taken.try_reserve(1).is_err() || step.try_reserve_exact(ALLOC_STEP_BYTES).is_err() {
            return taken.len() * ALLOC_STEP_BYTES;
        }
        step.resize(ALLOC_STEP_BYTES, 1);
        taken.push(hint::black_box(step));
    }
}

const ALLOC_STEP_BYTES: usize = 1 << 20;

/// Ample: on a slow machine an owner must not seem to fail because its observer is late.
const REPORT_TIMEOUT: Duration = Duration::from_secs(20);

export!(Probe with invocation);

#[cfg(test)]
mod tests;
