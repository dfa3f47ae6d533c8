//! What a handler may use of the world around it.
//!
//! In a component this forwards to the host. Elsewhere it is the in-memory world of
//! [`Ctx::test`], so that a handler's tests run natively. Each capability costs a component its
//! import only when the handler calls it.

use crate::{config, http, logging::Level};

#[cfg(not(target_family = "wasm"))]
#[path = "context/memory.rs"]
mod world;
#[cfg(target_family = "wasm")]
#[path = "context/host.rs"]
mod world;

/// The world around a handler: its log, its config, and outgoing HTTP.
///
/// In tests, [`Ctx::test`] makes one that is kept in memory.
#[derive(Debug)]
pub struct Ctx {
    world: world::World,
}

impl Ctx {
    #[cfg(target_family = "wasm")]
    pub(crate) fn host() -> Self {
        Self {
            world: world::World,
        }
    }

    /// Writes a message to the node's log, which adds the module and the resource.
    pub fn log(&self, level: Level, message: impl AsRef<str>) {
        self.world.log(level, message.as_ref());
    }

    /// Logs at [`Level::Trace`].
    pub fn trace(&self, message: impl AsRef<str>) {
        self.log(Level::Trace, message);
    }

    /// Logs at [`Level::Debug`].
    pub fn debug(&self, message: impl AsRef<str>) {
        self.log(Level::Debug, message);
    }

    /// Logs at [`Level::Info`].
    pub fn info(&self, message: impl AsRef<str>) {
        self.log(Level::Info, message);
    }

    /// Logs at [`Level::Warn`].
    pub fn warn(&self, message: impl AsRef<str>) {
        self.log(Level::Warn, message);
    }

    /// Logs at [`Level::Error`].
    pub fn error(&self, message: impl AsRef<str>) {
        self.log(Level::Error, message);
    }

    /// Logs at [`Level::Critical`].
    pub fn critical(&self, message: impl AsRef<str>) {
        self.log(Level::Critical, message);
    }

    /// The value of a setting in the module's `config`; `None` when there is no such setting.
    ///
    /// # Errors
    /// When the host cannot read its settings.
    pub fn config(&self, key: &str) -> Result<Option<String>, config::Error> {
        self.world.config(key)
    }

    /// Outgoing HTTP, to the destinations that the module's `grants.http` names.
    #[must_use]
    pub fn http(&self) -> http::Client<'_> {
        http::Client::new(self)
    }

    pub(crate) fn send(&self, request: http::Request) -> Result<http::Response, http::Error> {
        self.world.send(request)
    }
}
