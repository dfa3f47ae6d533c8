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
        let bytes_max = request.response_bytes_max;
        http::Url::parse(&request.url)?;
        http::header::check(&request.headers)?;
        self.sent.borrow_mut().push(request);
        let answer = self.answers.borrow_mut().pop_front();
        let answer = answer.unwrap_or(Err(denied))?;
        if answer.body.len() > bytes_max {
            return Err(http::Error::TooLarge { bytes_max });
        }
        Ok(answer)
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
    /// are denied; requests that a node would refuse, and answers larger than the request allows,
    /// fail here as they do there.
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

    #[test]
    fn what_fails_on_a_node_fails_in_memory() {
        let mut answer = http::Response::new(200);
        answer.body = b"12345".to_vec();
        let ctx = Ctx::test()
            .with_http(Ok(answer.clone()))
            .with_http(Ok(answer.clone()));
        let get = |bytes_max| {
            let call = ctx.http().get("http://a/").response_bytes_max(bytes_max);
            call.send()
        };
        assert_eq!(get(4), Err(http::Error::TooLarge { bytes_max: 4 }));
        assert_eq!(get(5), Ok(answer));

        for (name, value) in [
            ("", "x"),
            ("a b", "x"),
            ("a", "line\nbreak"),
            ("a", "\u{7f}"),
            ("Connection", "close"),
            ("host", "other"),
        ] {
            let call = ctx.http().get("http://a/").header(name, value);
            let name = name.to_owned();
            assert_eq!(call.send(), Err(http::Error::Header { name }));
        }
        assert_eq!(ctx.sent().len(), 2, "nothing was sent");
    }
}
