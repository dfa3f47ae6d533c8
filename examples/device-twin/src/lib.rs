//! A device twin: each resource stands for one device, as it should be and as it says that it is.

use std::time::{SystemTime, UNIX_EPOCH};

use holdfast_guest::{
    Ctx, Error, Invocation, InvokeError, Request, Resource, ResourceHandler, Response, Result,
    export,
    serde_json::{self, Map, Value},
};
use serde::{Deserialize, Serialize};

mod merge;

use merge::{delta, merge};

/// What is given when a twin is allocated.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// How the device should be at first.
    #[serde(default)]
    pub desired: Map<String, Value>,
}

/// What a request may ask for: `{"patch": {"desired": {"t": 21}}}` or `{"report": {"t": 20}}`. An
/// empty body asks for the twin as it is, and so does `"get"`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Operation {
    Get,
    Patch(Patch),
    /// A merge patch of the reported state, from the device.
    Report(Map<String, Value>),
}

/// A change of the desired state.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Patch {
    /// A merge patch.
    desired: Map<String, Value>,
    /// The `etag` of the answer that the change was made from. Whoever gives it never overwrites a
    /// change that they have not seen.
    if_match: Option<String>,
}

/// The answer to every request.
#[derive(Debug, Serialize)]
struct Answer<'a> {
    desired: &'a Map<String, Value>,
    reported: &'a Map<String, Value>,
    /// What the device has yet to do: a merge patch of what it reported.
    delta: Map<String, Value>,
    /// Names this desired state: another one has another name, after a move or a restart too.
    etag: String,
}

/// The state of one twin. It is kept in memory: a twin that moves begins anew with its spec.
#[derive(Debug)]
pub struct Twin {
    desired: Map<String, Value>,
    reported: Map<String, Value>,
    /// Tells the versions of this instance from those of others of the same resource.
    begun: String,
    version: u64,
}

impl ResourceHandler for Twin {
    type Spec = Spec;

    fn handle(ctx: &Ctx, resource: Resource<Spec>) -> Result<Self> {
        let desired = patched(&Map::new(), resource.spec.desired)
            .map_err(|too_large| Error::fatal(format!("the spec's desired state {too_large}")))?;
        ctx.info(format!(
            "{} is to have {} properties",
            resource.id,
            desired.len()
        ));
        // Owners have different tokens, and the instances of one owner begin one after the other.
        let began = SystemTime::now().duration_since(UNIX_EPOCH);
        let began = began.unwrap_or_default().as_nanos();
        Ok(Self {
            desired,
            reported: Map::new(),
            begun: format!("{:x}.{began:x}", resource.token),
            version: 1,
        })
    }
}

impl Invocation for Twin {
    fn invoke(&mut self, _ctx: &Ctx, request: Request) -> Result<Response, InvokeError> {
        let operation = match request.body.is_empty() {
            true => Operation::Get,
            false => request.json()?,
        };
        match operation {
            Operation::Get => {}
            Operation::Patch(patch) => self.patch(patch)?,
            Operation::Report(report) => {
                self.reported = patched(&self.reported, report)
                    .map_err(|why| InvokeError::invalid(format!("the reported state {why}")))?;
            }
        }
        Response::json(&Answer {
            desired: &self.desired,
            reported: &self.reported,
            delta: delta(&self.desired, &self.reported),
            etag: self.etag(),
        })
    }
}

impl Twin {
    fn patch(&mut self, patch: Patch) -> Result<(), InvokeError> {
        let etag = self.etag();
        if patch.if_match.is_some_and(|seen| seen != etag) {
            return Err(InvokeError::conflict(format!(
                "the desired state was changed meanwhile: look at it again, and patch {etag:?}"
            )));
        }
        let desired = patched(&self.desired, patch.desired)
            .map_err(|why| InvokeError::invalid(format!("the desired state {why}")))?;
        if desired != self.desired {
            self.desired = desired;
            self.version += 1;
        }
        Ok(())
    }

    fn etag(&self) -> String {
        format!("{}.{:x}", self.begun, self.version)
    }
}

/// The document with a patch applied; or why it must stay as it is. Patches could fill the memory
/// one by one otherwise, and an instance that traps has forgotten everything.
fn patched(
    document: &Map<String, Value>,
    patch: Map<String, Value>,
) -> Result<Map<String, Value>, String> {
    let mut document = document.clone();
    merge(&mut document, patch);
    let size = serde_json::to_vec(&document).map_or(usize::MAX, |text| text.len());
    match size > DOCUMENT_BYTES_MAX {
        true => Err(format!(
            "would have {size} bytes, more than {DOCUMENT_BYTES_MAX}"
        )),
        false => Ok(document),
    }
}

const DOCUMENT_BYTES_MAX: usize = 64 << 10;

export!(Twin with invocation);

#[cfg(test)]
mod tests;
