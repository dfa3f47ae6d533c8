//! A webhook: each resource is a subscription, each request an event to deliver.

use holdfast_guest::{
    Classify as _, Ctx, Invocation, InvokeError, Request, Resource, ResourceHandler, Response,
    Result, export, http,
};
use serde::{Deserialize, Serialize};

/// What is given when a subscription is allocated.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// Where events go: `http://…` or `https://…`, granted in `holdfast.toml`.
    pub url: String,
    /// Sent as bearer token, so that the subscriber knows who calls.
    pub secret: Option<String>,
}

/// The answer to a delivered event.
#[derive(Debug, Serialize)]
struct Delivered {
    /// The status that the subscriber answered.
    status: u16,
    /// How many deliveries were tried since the last one that succeeded, this one included.
    attempt: u32,
    /// Events delivered since this node took the subscription.
    delivered: u64,
}

/// The state of one subscription.
#[derive(Debug)]
pub struct Webhook {
    resource: Resource<Spec>,
    failed_in_a_row: u32,
    delivered: u64,
}

impl ResourceHandler for Webhook {
    type Spec = Spec;

    fn handle(ctx: &Ctx, resource: Resource<Spec>) -> Result<Self> {
        // It never gets better by itself: quarantined until the spec is changed.
        http::check_url(&resource.spec.url).fatal()?;
        ctx.info(format!("delivers to {}", resource.spec.url));
        Ok(Self {
            resource,
            failed_in_a_row: 0,
            delivered: 0,
        })
    }
}

impl Invocation for Webhook {
    fn invoke(&mut self, ctx: &Ctx, event: Request) -> Result<Response, InvokeError> {
        let attempt = self.failed_in_a_row.saturating_add(1);
        self.failed_in_a_row = attempt;
        let status = self.deliver(ctx, event)?;
        self.failed_in_a_row = 0;
        self.delivered += 1;
        Response::json(&Delivered {
            status,
            attempt,
            delivered: self.delivered,
        })
    }
}

impl Webhook {
    /// Posts the event; the key lets a subscriber drop what it has seen before, the token lets it
    /// refuse an owner that has been replaced. A subscriber that hangs is given up before the
    /// host's own deadline, which would end the instance and lose its state.
    fn deliver(&self, ctx: &Ctx, event: Request) -> Result<u16, InvokeError> {
        let mut call = ctx
            .http()
            .post(&self.resource.spec.url)
            .timeout(event.time_left() * 9 / 10)
            .header("fencing-token", self.resource.token.to_string())
            .header("idempotency-key", event.idempotency_key.unwrap_or(event.id));
        if let Some(content_type) = event.content_type {
            call = call.header("content-type", content_type);
        }
        if let Some(secret) = &self.resource.spec.secret {
            call = call.header("authorization", format!("Bearer {secret}"));
        }
        let answer = match call.body(event.body).send() {
            // Only a change of spec or grants helps; whoever tries again is none the wiser.
            Err(
                error @ (http::Error::Url { .. }
                | http::Error::Header { .. }
                | http::Error::Denied { .. }),
            ) => return Err(error.into()),
            answer => answer.unavailable()?,
        };
        if !answer.is_success() {
            let text = format!("the subscriber answered {}", answer.status);
            return Err(InvokeError::unavailable(text));
        }
        Ok(answer.status)
    }
}

export!(Webhook with invocation);

#[cfg(test)]
mod tests;
