//! The exports of a handler as typed functions: the Rust side of `wit/*.wit`.
//!
//! Written by hand, because a generated world is either synchronous or asynchronous and these
//! functions are called both ways, and because the parameters here borrow: a body is copied once,
//! into the guest. The signatures are compared with the component's own when it is loaded.

use wasmtime::component::{ComponentType, Lift, Lower, TypedFunc};

/// Interface that every handler exports.
pub(crate) const RESOURCE_HANDLER: &str = "holdfast:handler/resource-handler@0.1.0";
/// Interface of handlers whose resources can be invoked.
pub(crate) const INVOCATION: &str = "holdfast:handler/invocation@0.1.0";

pub(crate) type Handle = TypedFunc<(ManagedResource<'static>,), (Result<(), HandlerError>,)>;
pub(crate) type Terminate =
    TypedFunc<(ManagedResource<'static>, TerminateReason), (Result<(), HandlerError>,)>;
pub(crate) type Invoke = TypedFunc<(Request<'static>,), (Result<Response, InvocationError>,)>;

/// `resource-handler.managed-resource`
#[derive(ComponentType, Lower, Clone, Copy)]
#[component(record)]
pub(crate) struct ManagedResource<'a> {
    pub(crate) module: &'a str,
    pub(crate) id: &'a str,
    pub(crate) spec: &'a str,
    pub(crate) token: u64,
    pub(crate) attempt: u32,
}

/// Why a resource is taken from an instance.
#[derive(ComponentType, Lower, Clone, Copy, Debug, PartialEq, Eq)]
#[component(enum)]
#[repr(u8)]
pub enum TerminateReason {
    /// Another node takes over.
    #[component(name = "moved")]
    Moved,
    /// The resource was deallocated.
    #[component(name = "removed")]
    Removed,
    /// A new version of the module, or a new spec, takes over on this node.
    #[component(name = "upgraded")]
    Upgraded,
    /// The node stops.
    #[component(name = "stopping")]
    Stopping,
    /// The health check failed; the resource is started anew.
    #[component(name = "unhealthy")]
    Unhealthy,
}

/// `resource-handler.error`
#[derive(ComponentType, Lift, Debug)]
#[component(variant)]
pub(crate) enum HandlerError {
    #[component(name = "retry")]
    Retry(String),
    #[component(name = "fatal")]
    Fatal(String),
}

/// `invocation.request`
#[derive(ComponentType, Lower, Clone, Copy)]
#[component(record)]
pub(crate) struct Request<'a> {
    pub(crate) id: &'a str,
    #[component(name = "created-at")]
    pub(crate) created_at: u64,
    pub(crate) deadline: u64,
    #[component(name = "idempotency-key")]
    pub(crate) idempotency_key: Option<&'a str>,
    #[component(name = "content-type")]
    pub(crate) content_type: Option<&'a str>,
    pub(crate) body: &'a [u8],
}

/// `invocation.response`
#[derive(ComponentType, Lift, Debug)]
#[component(record)]
pub(crate) struct Response {
    #[component(name = "content-type")]
    pub(crate) content_type: Option<String>,
    pub(crate) body: Vec<u8>,
}

/// `invocation.error`
#[derive(ComponentType, Lift, Debug)]
#[component(variant)]
pub(crate) enum InvocationError {
    #[component(name = "invalid")]
    Invalid(String),
    #[component(name = "not-found")]
    NotFound(String),
    #[component(name = "conflict")]
    Conflict(String),
    #[component(name = "unavailable")]
    Unavailable(String),
    #[component(name = "failed")]
    Failed(String),
}

/// The signatures above in WIT, for error messages.
pub(crate) const HANDLE_SIGNATURE: &str = "func(res: record { module: string, id: string, \
     spec: string, token: u64, attempt: u32 }) -> result<_, variant { retry(string), fatal(string) }>";
pub(crate) const TERMINATE_SIGNATURE: &str = "func(res: record { module: string, id: string, \
     spec: string, token: u64, attempt: u32 }, reason: enum { moved, removed, upgraded, stopping, \
     unhealthy }) -> result<_, variant { retry(string), fatal(string) }>";
pub(crate) const INVOKE_SIGNATURE: &str = "func(req: record { id: string, created-at: u64, \
     deadline: u64, idempotency-key: option<string>, content-type: option<string>, body: list<u8> }) \
     -> result<record { content-type: option<string>, body: list<u8> }, variant { invalid(string), \
     not-found(string), conflict(string), unavailable(string), failed(string) }>";
