//! The world as the host offers it to a component.

use crate::{
    bindings::handler::wasi::{config::store, logging::logging},
    config, http,
    logging::Level,
};

#[derive(Debug)]
pub(super) struct World;

impl World {
    pub(super) fn log(&self, level: Level, message: &str) {
        let level = match level {
            Level::Trace => logging::Level::Trace,
            Level::Debug => logging::Level::Debug,
            Level::Info => logging::Level::Info,
            Level::Warn => logging::Level::Warn,
            Level::Error => logging::Level::Error,
            Level::Critical => logging::Level::Critical,
        };
        logging::log(level, "", message);
    }

    pub(super) fn config(&self, key: &str) -> Result<Option<String>, config::Error> {
        store::get(key).map_err(|error| match error {
            store::Error::Upstream(text) => config::Error::Upstream(text),
            store::Error::Io(text) => config::Error::Io(text),
        })
    }

    pub(super) fn send(&self, request: http::Request) -> Result<http::Response, http::Error> {
        http::wasi::send(&request)
    }
}
