//! Connects the exports of a component with the traits of its handler.

use std::time::{Duration, SystemTime};

use super::Exported;
use crate::{
    Ctx, Invocation, Resource, ResourceHandler, TerminateReason,
    bindings::{
        handler::exports::holdfast::handler::resource_handler as wit_resource,
        invocable::exports::holdfast::handler::invocation as wit_invocation,
    },
    invocation, resource,
};

impl<E: Exported> wit_resource::Guest for E {
    fn handle(res: wit_resource::ManagedResource) -> Result<(), wit_resource::Error> {
        report_panics();
        let resource = Resource::parse(Resource {
            module: res.module,
            id: res.id,
            spec: res.spec,
            token: res.token,
            attempt: res.attempt,
        })?;
        let state = E::Handler::handle(&Ctx::host(), resource)?;
        E::slot().replace(Some(state));
        Ok(())
    }

    fn terminate(
        _res: wit_resource::ManagedResource,
        reason: wit_resource::TerminateReason,
    ) -> Result<(), wit_resource::Error> {
        let reason = match reason {
            wit_resource::TerminateReason::Moved => TerminateReason::Moved,
            wit_resource::TerminateReason::Removed => TerminateReason::Removed,
            wit_resource::TerminateReason::Upgraded => TerminateReason::Upgraded,
            wit_resource::TerminateReason::Stopping => TerminateReason::Stopping,
            wit_resource::TerminateReason::Unhealthy => TerminateReason::Unhealthy,
        };
        match E::slot().take() {
            Some(state) => Ok(state.terminate(&Ctx::host(), reason)?),
            // `handle` failed before: there is nothing to let go of.
            None => Ok(()),
        }
    }
}

impl<E: Exported<Handler: Invocation>> wit_invocation::Guest for E {
    fn invoke(
        req: wit_invocation::Request,
    ) -> Result<wit_invocation::Response, wit_invocation::Error> {
        let at = |ms| SystemTime::UNIX_EPOCH + Duration::from_millis(ms);
        let request = invocation::Request {
            id: req.id,
            created_at: at(req.created_at),
            deadline: at(req.deadline),
            idempotency_key: req.idempotency_key,
            content_type: req.content_type,
            body: req.body,
        };
        let response = E::slot().with_borrow_mut(|state| match state {
            Some(state) => state.invoke(&Ctx::host(), request),
            None => Err(invocation::Error::failed("no resource is held")),
        })?;
        Ok(wit_invocation::Response {
            content_type: response.content_type,
            body: response.body,
        })
    }
}

/// Sends the message of a panic to the node's log before the instance traps.
fn report_panics() {
    std::panic::set_hook(Box::new(|panic| {
        Ctx::host().critical(panic.to_string());
    }));
}

impl From<resource::Error> for wit_resource::Error {
    fn from(error: resource::Error) -> Self {
        match error {
            resource::Error::Retry(text) => Self::Retry(text),
            resource::Error::Fatal(text) => Self::Fatal(text),
        }
    }
}

impl From<invocation::Error> for wit_invocation::Error {
    fn from(error: invocation::Error) -> Self {
        match error {
            invocation::Error::Invalid(text) => Self::Invalid(text),
            invocation::Error::NotFound(text) => Self::NotFound(text),
            invocation::Error::Conflict(text) => Self::Conflict(text),
            invocation::Error::Unavailable(text) => Self::Unavailable(text),
            invocation::Error::Failed(text) => Self::Failed(text),
        }
    }
}
