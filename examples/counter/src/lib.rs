//! A counter: each resource holds one number.

use holdfast_guest::{
    Ctx, Invocation, InvokeError, Request, Resource, ResourceHandler, Response, Result, export,
};
use serde::{Deserialize, Serialize};

/// What is given when a counter is allocated.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// The first value; 0 when absent.
    #[serde(default)]
    pub start: i64,
}

/// What a request may ask for: `{"add": 2}` or `{"set": 7}`. An empty body asks for the value.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Operation {
    Add(i64),
    Set(i64),
}

/// The answer to every request.
#[derive(Debug, Serialize)]
struct Answer {
    value: i64,
    /// Grows with every change of owner.
    token: u64,
}

/// The state of one counter. It is kept in memory: a counter that moves begins anew.
#[derive(Debug)]
pub struct Counter {
    value: i64,
    token: u64,
}

impl ResourceHandler for Counter {
    type Spec = Spec;

    fn handle(ctx: &Ctx, resource: Resource<Spec>) -> Result<Self> {
        let value = resource.spec.start;
        ctx.info(format!("{} counts from {value}", resource.id));
        Ok(Self {
            value,
            token: resource.token,
        })
    }
}

impl Invocation for Counter {
    fn invoke(&mut self, _ctx: &Ctx, request: Request) -> Result<Response, InvokeError> {
        if !request.body.is_empty() {
            self.value = match request.json()? {
                Operation::Add(amount) => self
                    .value
                    .checked_add(amount)
                    .ok_or_else(|| InvokeError::conflict("the counter is at its limit"))?,
                Operation::Set(value) => value,
            };
        }
        Response::json(&Answer {
            value: self.value,
            token: self.token,
        })
    }
}

export!(Counter with invocation);

#[cfg(test)]
mod tests;
