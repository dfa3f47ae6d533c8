//! `holdfast doctor`: whether this machine has what a node needs, and whoever writes handlers.
//!
//! Each check is in two parts: facts are gathered, and a pure function judges them. All of them are
//! bounded in time, and run at once.
//!
//! Invariant: nothing on the machine is changed. Ports are free again at once, the file by which a
//! disk is measured has no name, and nothing is installed.

use std::{collections::BTreeSet, fmt, net::SocketAddr, path::PathBuf};

use clap::Args;
use comfy_table::{Cell, Color};
use serde::Serialize;

use super::{Session, failure::Exit, output::Output, start::host_port};

mod clock;
mod disk;
mod machine;
mod ports;
mod seeds;
mod toolchain;

/// Check what this machine has for a node and for building handlers
///
/// Says for each check whether it is well, what was found, and what to do where it is not. Changes
/// nothing on the machine. A failure keeps a node, or a build, from working, and ends the command
/// with exit code 1; a warning is about what works, but not as well as it could.
///
/// Beside its own options it takes --server of a node on another machine, to compare clocks. A node
/// that is asked over its port for peers logs that it refused one of the cluster holdfast-doctor.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct DoctorArgs {
    /// Where the HTTP API of the node would be, or is.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7300")]
    http: SocketAddr,

    /// Where peers would reach the node, or do: TCP and UDP.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7301")]
    listen: SocketAddr,

    /// The data directory of the node: is it writable, how much fits, how fast is its disk?
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,

    /// A node to join: does its name resolve, does it answer? Can be given several times.
    ///
    /// Only TCP is tried: gossip, over UDP, answers only to who has the secret.
    #[arg(long = "seed", value_name = "HOST:PORT", value_parser = host_port)]
    seeds: Vec<String>,
}

/// What came of a check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Finding {
    check: &'static str,
    status: Status,
    found: String,
    /// What to do about it; null where all is well.
    remedy: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    Ok,
    /// It works, but not as well as it could.
    Warning,
    /// It does not work.
    Failure,
}

impl Finding {
    fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self {
            check,
            status: Status::Ok,
            found: found.into(),
            remedy: None,
        }
    }

    fn warning(check: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            check,
            status: Status::Warning,
            found: found.into(),
            remedy: Some(remedy.into()),
        }
    }

    fn failure(check: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            status: Status::Failure,
            ..Self::warning(check, found, remedy)
        }
    }
}

pub(super) async fn run(
    args: &DoctorArgs,
    session: &Session,
    output: &Output,
) -> anyhow::Result<Exit> {
    let client = session.client()?;
    let token = session.token()?;
    let (mut findings, ports, disk, seeds) = tokio::join!(
        toolchain::check(),
        ports::look(args.http, args.listen, token.as_deref()),
        disk::look(args.data_dir.as_deref()),
        seeds::look(&args.seeds),
    );
    // Nodes whose clocks say something: the one that commands talk to, those that a node here
    // knows, and those to join, should their API have the port that this one's has.
    let mut servers: BTreeSet<String> = ports.others.iter().map(ToString::to_string).collect();
    servers.extend(client.server().strip_prefix("http://").map(str::to_owned));
    servers.extend(seeds::api_addresses(&args.seeds, args.http.port()));
    let wall = clock::look(servers).await;

    findings.extend(ports.judge());
    findings.push(machine::judge_mappings(machine::mappings()));
    findings.push(machine::judge_open_files(machine::open_files()));
    findings.push(clock::judge_boot(crate::clock::has_boot_time()));
    findings.push(wall.judge());
    findings.extend(disk.iter().flat_map(disk::Disk::judge));
    findings.extend(seeds::judge(&seeds));

    output.show(&findings, |findings| describe(*output, findings))?;
    Ok(exit_of(&findings))
}

fn exit_of(findings: &[Finding]) -> Exit {
    let worst = findings.iter().map(|finding| finding.status).max();
    match worst {
        Some(Status::Failure) => Exit::Failed,
        _ => Exit::Done,
    }
}

fn describe(output: Output, findings: &[Finding]) -> String {
    let rows = findings.iter().map(|finding| {
        let colour = match finding.status {
            Status::Ok => Color::Green,
            Status::Warning => Color::Yellow,
            Status::Failure => Color::Red,
        };
        vec![
            Cell::new(finding.check),
            Cell::new(finding.status).fg(colour),
            Cell::new(&finding.found),
        ]
    });
    let mut text = output.table(&["CHECK", "STATUS", "FOUND"], rows);
    for finding in findings {
        if let Some(remedy) = &finding.remedy {
            let remedy = output.paragraph(&format!("{}: {remedy}", finding.check));
            text.push_str(&format!("\n{remedy}\n"));
        }
    }
    text
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Failure => "failure",
        })
    }
}

const AFTER_HELP: &str = "\
Examples:
  What a newcomer needs:
    holdfast doctor

  Before a node is started:
    holdfast doctor --data-dir /var/lib/holdfast --listen 10.0.0.2:7301 \\
      --http 10.0.0.2:7300 --seed 10.0.0.1:7301

  What failed, in a script:
    holdfast doctor --format json | jq '.[] | select(.status == \"failure\")'";

#[cfg(test)]
mod tests;
