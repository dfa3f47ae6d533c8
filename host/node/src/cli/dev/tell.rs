//! What `holdfast dev` tells: lines for people, or JSON objects.

use std::{path::Path, time::Duration};

use clap::builder::styling::AnsiColor;
use holdfast_model::{
    ModuleName, ResourceId,
    api::{LogLine, ResourceInfo},
};
use serde::Serialize;

use super::super::{
    build::{self, Built},
    failure, human, logs,
    output::{self, Output},
};

/// Something that happened.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub(super) enum Event<'a> {
    /// The node can be talked to.
    Listening { server: &'a str },
    /// There is a component.
    Built { size_bytes: u64, took_ms: u64 },
    /// Component and settings are those that serve.
    Unchanged,
    /// A version serves.
    Serves {
        module: &'a ModuleName,
        version: u64,
        took_ms: u64,
    },
    /// A resource of the manifest is held.
    Held { resource: &'a ResourceInfo },
    /// A resource is no longer in the manifest, and gone.
    Deallocated {
        module: &'a ModuleName,
        id: &'a ResourceId,
    },
    /// A file has changed.
    Changed,
    /// It does not build, or does not run.
    Failed {
        problem: &'a serde_json::Value,
        /// Whether a version serves all the same.
        serving: bool,
    },
    /// The handler says something.
    Said { line: &'a LogLine },
}

/// Tells it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Teller(Output);

impl Teller {
    pub(super) fn new(output: Output) -> Self {
        Self(output)
    }

    pub(super) fn tell(self, event: &Event<'_>) -> anyhow::Result<()> {
        if self.0.is_json() {
            return self.0.json(event);
        }
        let text = match event {
            Event::Listening { server } => {
                format!("A node listens on {server}. Ctrl-C ends it.")
            }
            Event::Built {
                size_bytes,
                took_ms,
            } => {
                let took = human::duration(Duration::from_millis(*took_ms));
                format!("built {} in {took}", human::bytes(*size_bytes))
            }
            Event::Unchanged => "nothing to deploy: it is the same component".to_owned(),
            Event::Serves {
                module,
                version,
                took_ms,
            } => {
                let took = human::duration(Duration::from_millis(*took_ms));
                format!("version {version} of {module} serves after {took}")
            }
            Event::Held { resource } => format!("{}/{} is held", resource.module, resource.id),
            Event::Deallocated { module, id } => format!("{module}/{id} is deallocated"),
            Event::Changed => "a file has changed".to_owned(),
            Event::Failed { .. } | Event::Said { .. } => return Ok(()),
        };
        let mark = self.0.coloured("::", AnsiColor::Cyan);
        self.0.say(format!("{mark} {text}"))
    }

    /// Builds the handler, and tells how.
    pub(super) async fn build(self, dir: &Path) -> anyhow::Result<Built> {
        let built = build::with_spinner(dir).await?;
        self.tell(&Event::Built {
            size_bytes: built.bytes.len() as u64,
            took_ms: built.took.as_millis() as u64,
        })?;
        Ok(built)
    }

    /// Tells what is wrong with the handler.
    ///
    /// # Errors
    /// When nobody can be told.
    pub(super) fn failed(self, error: anyhow::Error, serving: bool) -> anyhow::Result<()> {
        if failure::is_broken_pipe(&error) {
            return Err(error);
        }
        if self.0.is_json() {
            let problem = &failure::problem(&error);
            return self.tell(&Event::Failed { problem, serving });
        }
        eprint!("{}", failure::told(&error));
        let mark = self.0.coloured("::", AnsiColor::Yellow);
        self.0.say(match serving {
            true => format!("{mark} the version before goes on; waiting for a change"),
            false => format!("{mark} waiting for a change"),
        })
    }

    /// Tells what the handler says.
    pub(super) fn said(self, line: &LogLine) -> anyhow::Result<()> {
        match line {
            line if self.0.is_json() => self.tell(&Event::Said { line }),
            LogLine::Entry(entry) => output::write(logs::text(self.0, entry).as_bytes()),
            // Of the only node there is: it ends.
            LogLine::Missing(_) => Ok(()),
        }
    }
}
