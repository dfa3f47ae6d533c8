//! A world in memory, for native tests of handlers.

use std::{
    cell::RefCell,
    collections::{BTreeMap, VecDeque},
};

use crate::{Ctx, config, http, logging::Level};

#[derive(Debug, Default)]
pub(super) struct World {
    config: BTreeMap<String, String>,
    logs: RefCell<Vec<(Level, String)>>,
    answers: RefCell<VecDeque<Result<http::Response, http::Error>>>,
    sent: RefCell<Vec<http::Request>>,
}

impl World {
    pub(super) fn log(&self, level: Level, message: &str) {
        self.logs.borrow_mut().push((level, message.to_owned()));
    }

    #[expect(clippy::unnecessary_wraps, reason = "the host's world may fail")]
    pub(super) fn config(&self, key: &str) -> Result<Option<String>, config::Error> {
        Ok(self.config.get(key).cloned())
    }

    pub(super) fn send(&self, request: http::Request) -> Result<http::Response, http::Error> {
        let denied = http::Error::Denied {
            url: request.url.clone(),
        };
        http::Url::parse(&request.url)?;
        self.sent.borrow_mut().push(request);
        self.answers.borrow_mut().pop_front().unwrap_or(Err(denied))
    }
}

/// Off wasm: a world in memory.
impl Ctx {
    /// A world in memory: no settings, a log that is kept, and HTTP that is denied.
    #[must_use]
    pub fn test() -> Self {
        Self {
            world: World::default(),
        }
    }

    /// Adds a setting.
    #[must_use]
    pub fn with_config(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.world.config.insert(key.into(), value.into());
        self
    }

    /// Scripts the answer to the next HTTP request that has none yet. Requests beyond the script
    /// are denied.
    #[must_use]
    pub fn with_http(self, answer: Result<http::Response, http::Error>) -> Self {
        self.world.answers.borrow_mut().push_back(answer);
        self
    }

    /// What was logged, oldest first.
    #[must_use]
    pub fn logs(&self) -> Vec<(Level, String)> {
        self.world.logs.borrow().clone()
    }

    /// The HTTP requests that were sent, oldest first, denied ones included.
    #[must_use]
    pub fn sent(&self) -> Vec<http::Request> {
        self.world.sent.borrow().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_world_in_memory_answers_from_its_script_and_keeps_what_it_was_told() {
        let ctx = Ctx::test()
            .with_config("region", "eu")
            .with_http(Ok(http::Response::new(201)))
            .with_http(Err(http::Error::TimedOut));
        ctx.warn("late");
        assert_eq!(ctx.logs(), [(Level::Warn, "late".to_owned())]);
        assert_eq!(ctx.config("region"), Ok(Some("eu".to_owned())));
        assert_eq!(ctx.config("zone"), Ok(None));

        let get = |url: &str| ctx.http().get(url).send();
        assert_eq!(get("http://a/").map(|answer| answer.status), Ok(201));
        assert_eq!(get("http://b/"), Err(http::Error::TimedOut));
        assert!(matches!(get("http://c/"), Err(http::Error::Denied { .. })));
        assert!(matches!(get("c"), Err(http::Error::Url { .. })));
        let urls: Vec<_> = ctx.sent().into_iter().map(|request| request.url).collect();
        assert_eq!(urls, ["http://a/", "http://b/", "http://c/"]);
    }
}
