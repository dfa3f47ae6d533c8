//! The handler of `holdfast demo`: each resource counts its calls, and reports to the demo when it
//! is held and when it is let go.

use std::time::Duration;

use holdfast_guest::{
    Context as _, Ctx, Invocation, InvokeError, Request, Resource, ResourceHandler, Response,
    Result, TerminateReason, anyhow, export,
};
use serde::{Deserialize, Serialize};

/// What is given when a resource is allocated: nothing that matters here.
#[derive(Deserialize)]
pub struct Spec {}

/// The state of one resource.
pub struct Demo {
    resource: Resource<Spec>,
    calls: u64,
}

#[derive(Serialize)]
struct Report<'a> {
    event: &'static str,
    id: &'a str,
    token: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
}

#[derive(Serialize)]
struct Counted<'a> {
    id: &'a str,
    calls: u64,
}

impl ResourceHandler for Demo {
    type Spec = Spec;

    fn handle(ctx: &Ctx, resource: Resource<Spec>) -> Result<Self> {
        // A resource whose report is not accepted is not held: the host tries again.
        report(ctx, &resource, "handle", None)?;
        Ok(Self { resource, calls: 0 })
    }

    fn terminate(self, ctx: &Ctx, reason: TerminateReason) -> Result<()> {
        Ok(report(
            ctx,
            &self.resource,
            "terminate",
            Some(reason.as_str()),
        )?)
    }
}

impl Invocation for Demo {
    fn invoke(&mut self, _ctx: &Ctx, _request: Request) -> Result<Response, InvokeError> {
        self.calls += 1;
        Response::json(&Counted {
            id: &self.resource.id,
            calls: self.calls,
        })
    }
}

fn report(
    ctx: &Ctx,
    resource: &Resource<Spec>,
    event: &'static str,
    reason: Option<&'static str>,
) -> anyhow::Result<()> {
    let url = ctx
        .config("report_url")?
        .context("the module has no config report_url")?;
    let answer = ctx
        .http()
        .post(url)
        .timeout(Duration::from_secs(5))
        .json(&Report {
            event,
            id: &resource.id,
            token: resource.token,
            reason,
        })?
        .send()?;
    anyhow::ensure!(answer.is_success(), "the demo answered {}", answer.status);
    Ok(())
}

export!(Demo with invocation);
