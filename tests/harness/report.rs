//! What a probe reports, in whatever way the report comes.

use serde::Deserialize;

use crate::checker::{Fact, Key};

/// What a probe reports.
#[derive(Debug, Deserialize)]
pub(crate) struct Report {
    event: Kind,
    module: String,
    id: String,
    token: u64,
    attempt: u32,
    reason: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Handle,
    Terminating,
    Terminated,
}

impl Report {
    /// The fact, as this process reported it.
    pub(crate) fn fact(self, pid: u32) -> Fact {
        let key = Key::new(&self.module, &self.id);
        match self.event {
            Kind::Handle => Fact::Handled {
                key,
                pid,
                token: self.token,
                attempt: self.attempt,
            },
            Kind::Terminating => Fact::Terminating { key, pid },
            Kind::Terminated => Fact::Terminated {
                key,
                pid,
                token: self.token,
                reason: self.reason.unwrap_or_default(),
            },
        }
    }
}
