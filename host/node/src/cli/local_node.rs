//! Nodes as processes of this very binary, on this machine. None of them outlives this process: each
//! is killed when it is dropped, and ends by itself when its standard input does.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::Context as _;
use holdfast_model::api::{Listening, NodeEvent};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, ChildStdin, ChildStdout, Command},
};

/// How a node is started.
#[derive(Clone, Debug)]
pub(super) struct Launch {
    pub(super) cluster_name: &'static str,
    pub(super) data_dir: PathBuf,
    pub(super) http: SocketAddr,
    pub(super) listen: SocketAddr,
    /// The node to join, and the file with its secret; none for one that founds the cluster.
    pub(super) seed: Option<(SocketAddr, PathBuf)>,
    /// What it logs.
    pub(super) log: &'static str,
}

/// Where a node's log goes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Log<'a> {
    /// At the end of this file.
    File(&'a Path),
    /// To whoever reads the standard error of the child, one JSON object a line.
    Read,
}

/// A node that was started.
pub(super) struct Process {
    pub(super) child: Child,
    /// Open as long as the node is to run: to wait for a child would close its own.
    _stdin: ChildStdin,
}

impl Launch {
    /// Starts the process.
    pub(super) fn spawn(&self, log: Log<'_>) -> anyhow::Result<(Process, Announcement)> {
        let program = std::env::current_exe().context("find the path of this program")?;
        let format = match log {
            Log::File(_) => "text",
            Log::Read => "json",
        };
        let log = match log {
            Log::File(path) => {
                let file = std::fs::File::options()
                    .create(true)
                    .append(true)
                    .open(path);
                file.with_context(|| format!("open {}", path.display()))?
                    .into()
            }
            Log::Read => Stdio::piped(),
        };
        let mut command = Command::new(program);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("HOLDFAST_") {
                command.env_remove(name);
            }
        }
        command
            .args(["start", "--format", "json", "--exit-with-stdin"])
            .args(["--cluster-name", self.cluster_name, "--data-dir"])
            .arg(&self.data_dir)
            .args(["--http", &self.http.to_string()])
            .args(["--listen", &self.listen.to_string()])
            .args(["--log", self.log, "--log-format", format]);
        match &self.seed {
            None => command.arg("--bootstrap"),
            Some((seed, secret)) => command
                .args(["--seed", &seed.to_string(), "--secret-file"])
                .arg(secret),
        };
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            // Ctrl-C is for this process alone.
            .process_group(0)
            .kill_on_drop(true);
        let mut child = command.spawn().context("start its process")?;
        let stdout = child.stdout.take().expect("stdout is piped");
        let stdin = child.stdin.take().expect("stdin is piped");
        let process = Process {
            child,
            _stdin: stdin,
        };
        Ok((process, Announcement(stdout)))
    }
}

/// What a node says when it begins to listen.
pub(super) struct Announcement(ChildStdout);

impl Announcement {
    /// Waits for it.
    pub(super) async fn listening(self) -> anyhow::Result<Listening> {
        // A node says one line, and nothing more that would need a reader.
        let mut lines = BufReader::new(self.0).lines();
        let line = tokio::time::timeout(START_TIMEOUT, lines.next_line())
            .await
            .context("it does not say where it listens")?
            .context("read its output")?
            .context("it ended at once")?;
        let NodeEvent::Listening(listening) =
            serde_json::from_str(&line).context("its first line is no event")?;
        Ok(listening)
    }
}

const START_TIMEOUT: Duration = Duration::from_secs(30);
