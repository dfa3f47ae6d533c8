//! What `holdfast dev` tells: lines for people, or JSON objects.

use std::{path::Path, time::Duration};

use clap::builder::styling::AnsiColor;
use holdfast_model::{
    ModuleName, ResourceId,
    api::{LogLine, ResourceInfo},
};
use serde::Serialize;

use super::{
    super::{
        build::{self, Built},
        failure, human, logs,
        output::{self, Output},
    },
    node_log::Called,
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
    /// A resource of the manifest is allocated, and not held.
    NotHeld {
        module: &'a ModuleName,
        id: &'a ResourceId,
        problem: &'a serde_json::Value,
    },
    /// A resource could not be started, or its instance died.
    ResourceFailed {
        module: &'a ModuleName,
        id: &'a ResourceId,
        error: &'a str,
        /// Whether nothing is tried until it is changed.
        quarantined: bool,
    },
    /// A call has ended.
    Called(Called),
    /// What can be done now.
    Next { commands: &'a [String] },
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
            Event::ResourceFailed {
                module,
                id,
                error,
                quarantined,
            } => {
                let fate = match quarantined {
                    true => "is quarantined until its spec or its module changes",
                    false => "failed, and is started again",
                };
                format!("{module}/{id} {fate}: {}", output::printable(error))
            }
            Event::Called(call) => called(call),
            Event::Next { commands } => {
                let lines = commands.iter().map(|command| format!("\n     {command}"));
                format!("next, in another terminal:{}", lines.collect::<String>())
            }
            Event::Failed { .. } | Event::NotHeld { .. } | Event::Said { .. } => return Ok(()),
        };
        let colour = match event {
            Event::ResourceFailed { .. } => AnsiColor::Red,
            Event::Called(call) if call.status >= 400 => AnsiColor::Yellow,
            _ => AnsiColor::Cyan,
        };
        let mark = self.0.coloured("::", colour);
        self.0.say(format!("{mark} {text}"))
    }

    /// Builds the handler, and tells how.
    ///
    /// # Errors
    /// When nobody can be told. That it does not build is no such error.
    pub(super) async fn build(self, dir: &Path) -> anyhow::Result<Result<Built, build::Error>> {
        let built = build::shown(dir).await;
        if let Ok(built) = &built {
            self.tell(&Event::Built {
                size_bytes: built.bytes.len() as u64,
                took_ms: built.took.as_millis() as u64,
            })?;
        }
        Ok(built)
    }

    /// Tells that a resource is not held, and why.
    pub(super) fn failed_resource(
        self,
        module: &ModuleName,
        id: &ResourceId,
        error: anyhow::Error,
    ) -> anyhow::Result<()> {
        if self.0.is_json() {
            let problem = &failure::problem(&error);
            return self.tell(&Event::NotHeld {
                module,
                id,
                problem,
            });
        }
        eprint!("{}", failure::told(&error));
        Ok(())
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
            // Nobody goes on from there.
            LogLine::Cursor(_) => Ok(()),
            line if self.0.is_json() => self.tell(&Event::Said { line }),
            LogLine::Entry(entry) => output::write(logs::text(self.0, entry).as_bytes()),
            // Of the only node there is: it ends.
            LogLine::Missing(_) => Ok(()),
        }
    }
}

/// A call, and how it ended.
fn called(call: &Called) -> String {
    let Called {
        module,
        id,
        status,
        took_ms,
        error,
    } = call;
    let took = match took_ms {
        ms if *ms < 10.0 => format!("{ms:.1} ms"),
        ms => human::duration(Duration::from_secs_f64(ms / 1e3)),
    };
    let why = error
        .as_ref()
        .map_or_else(String::new, |error| format!(": {error}"));
    output::printable(&format!("{module}/{id} answered {status} in {took}{why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_told_with_its_status_and_its_time() {
        let call = |status, took_ms, error: Option<&str>| {
            called(&Called {
                module: "my-bot".to_owned(),
                id: "ada".to_owned(),
                status,
                took_ms,
                error: error.map(str::to_owned),
            })
        };
        assert_eq!(call(200, 0.31, None), "my-bot/ada answered 200 in 0.3 ms");
        let refused = call(400, 1_500.0, Some("the body must be a name"));
        assert_eq!(
            refused,
            "my-bot/ada answered 400 in 1.5 s: the body must be a name"
        );
    }
}
