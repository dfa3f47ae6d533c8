//! How the host hears of what guests send, so that it can be followed beyond the process.
//!
//! Absent: what following means. Whoever calls an instance says who follows the call.

use std::{error::Error, sync::Arc};

use http::{StatusCode, request};

/// Follows a call of a guest: hears of each request that the guest sends meanwhile.
pub trait Follow: Send + Sync {
    /// A request is about to leave, if it is granted; its head may be added to. What this gives hears
    /// how it ended.
    fn request(self: Arc<Self>, head: &mut request::Parts) -> Option<Box<dyn Followed>>;
}

/// A request on its way. Dropped when the guest does not wait for its answer any more.
pub trait Followed: Send {
    /// The head of the answer has come, or none will.
    fn ended(self: Box<Self>, outcome: Result<StatusCode, &dyn Error>);
}
