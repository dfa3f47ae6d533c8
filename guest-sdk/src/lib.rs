//! Write resource handlers for Holdfast.
//!
//! A *handler* is the logic of one kind of resource, compiled to a WebAssembly component. Holdfast
//! makes one instance of it for each resource and keeps exactly one of them running in the cluster:
//! it calls [`handle`](ResourceHandler::handle) when a node takes a resource and
//! [`terminate`](ResourceHandler::terminate) when the node lets it go. Between the two, the instance
//! may keep whatever it likes in `self`.
//!
//! ```
//! use holdfast_guest::{
//!     Ctx, Invocation, InvokeError, Request, Resource, ResourceHandler, Response, Result, export,
//! };
//! use serde::{Deserialize, Serialize};
//!
//! /// What is given when a resource is allocated.
//! #[derive(Deserialize)]
//! struct Spec {
//!     greeting: String,
//! }
//!
//! struct Greeter {
//!     greeting: String,
//!     greeted: u64,
//! }
//!
//! impl ResourceHandler for Greeter {
//!     type Spec = Spec;
//!
//!     fn handle(ctx: &Ctx, resource: Resource<Spec>) -> Result<Self> {
//!         ctx.info(format!("{} says {}", resource.id, resource.spec.greeting));
//!         let greeting = resource.spec.greeting;
//!         Ok(Self { greeting, greeted: 0 })
//!     }
//! }
//!
//! #[derive(Deserialize)]
//! struct Who {
//!     name: String,
//! }
//!
//! #[derive(Serialize)]
//! struct Greeted {
//!     text: String,
//!     greeted: u64,
//! }
//!
//! impl Invocation for Greeter {
//!     fn invoke(&mut self, _ctx: &Ctx, request: Request) -> Result<Response, InvokeError> {
//!         let Who { name } = request.json()?;
//!         if name.is_empty() {
//!             return Err(InvokeError::invalid("name must not be empty"));
//!         }
//!         self.greeted += 1;
//!         let text = format!("{}, {name}!", self.greeting);
//!         Response::json(&Greeted { text, greeted: self.greeted })
//!     }
//! }
//!
//! export!(Greeter with invocation);
//!
//! // Off wasm, a `Ctx` lives in memory: a handler's tests run natively.
//! fn main() {
//!     let ctx = Ctx::test();
//!     let spec = Spec { greeting: "Hello".to_owned() };
//!     let mut greeter = Greeter::handle(&ctx, Resource::new("a", spec)).unwrap();
//!     assert_eq!(ctx.logs()[0].1, "a says Hello");
//!
//!     let answer = greeter.invoke(&ctx, Request::new(r#"{"name":"Ada"}"#)).unwrap();
//!     assert_eq!(answer.body, br#"{"text":"Hello, Ada!","greeted":1}"#);
//! }
//! ```
//!
//! # Errors
//!
//! Functions of a handler return any error with `?`; its whole chain of causes goes into the text.
//! In `handle` such an error is tried again, in `invoke` it means that the handler failed.
//! [`Classify`] says otherwise: `spec.parse().fatal()`, `lookup(id).not_found()`. Helpers return
//! [`Result`], `Result<T, InvokeError>` or [`anyhow::Result`]: each goes through `?`, is classified,
//! and takes a [`Context`] in every function of a handler.
//!
//! # Size
//!
//! Nothing that a handler does not use ends up in its component: one that makes no HTTP request
//! imports no HTTP.

mod causes;
mod classify;
pub mod config;
mod context;
#[doc(hidden)]
pub mod export;
pub mod http;
pub mod invocation;
mod json;
mod logging;
mod resource;

#[cfg(target_family = "wasm")]
#[doc(hidden)]
pub mod bindings;

pub use anyhow;
pub use causes::Context;
pub use classify::Classify;
pub use context::Ctx;
pub use invocation::{Error as InvokeError, Invocation, Request, Response};
pub use logging::Level;
pub use resource::{Error, Resource, ResourceHandler, Result, TerminateReason};
pub use serde_json;
