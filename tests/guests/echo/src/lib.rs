//! Answers each request with its body: about the least that a handler written with the SDK does, so
//! that benches measure the node and not the handler.

use holdfast_guest::{
    Ctx, Invocation, InvokeError, Request, Resource, ResourceHandler, Response, Result, export,
};
use serde::Deserialize;

/// Any object will do.
#[derive(Debug, Deserialize)]
pub struct Spec {}

/// A resource without a state.
#[derive(Debug)]
pub struct Echo;

impl ResourceHandler for Echo {
    type Spec = Spec;

    fn handle(_ctx: &Ctx, _resource: Resource<Spec>) -> Result<Self> {
        Ok(Self)
    }
}

impl Invocation for Echo {
    fn invoke(&mut self, _ctx: &Ctx, request: Request) -> Result<Response, InvokeError> {
        Ok(Response {
            content_type: request.content_type,
            body: request.body,
        })
    }
}

export!(Echo with invocation);
