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
    instance: u64,
    attempt: u32,
    reason: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Handle,
    Called,
    Terminating,
    Terminated,
}

impl Report {
    /// The fact, as this process reported it.
    pub(crate) fn fact(self, pid: u32) -> Fact {
        let key = Key::new(&self.module, &self.id);
        let Self {
            token, instance, ..
        } = self;
        match self.event {
            Kind::Handle => Fact::Handled {
                key,
                pid,
                token,
                instance,
                attempt: self.attempt,
            },
            Kind::Called => Fact::Called {
                key,
                pid,
                token,
                instance,
            },
            Kind::Terminating => Fact::Terminating {
                key,
                pid,
                token,
                instance,
            },
            Kind::Terminated => Fact::Terminated {
                key,
                pid,
                token,
                instance,
                reason: self.reason.unwrap_or_default(),
            },
        }
    }
}
