//! Nodes as processes of this very binary. None of them outlives the demo: [`Processes::end`] ends
//! them all, each is killed when it is dropped, and ends by itself when its standard input does.

use std::{
    fs::File,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::Context as _;
use holdfast_model::api::{Listening, NodeEvent};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, ChildStdout, Command},
};

use super::{collector::Collector, ledger::Pid};
use crate::client::Client;

/// A node of the demo.
pub(super) struct Node {
    /// From 1.
    pub(super) number: usize,
    pub(super) listening: Listening,
    pub(super) client: Client,
    /// Its process, as the ledger knows it.
    pub(super) pid: Pid,
    launch: Launch,
}

/// The processes that run now. Whoever owns them can end them all, however far the demo got.
#[derive(Default)]
pub(super) struct Processes(Vec<Process>);

struct Process {
    pid: Pid,
    /// The node's number.
    node: usize,
    child: Child,
}

/// How a node is started.
struct Launch {
    folder: PathBuf,
    number: usize,
    http: SocketAddr,
    cluster: SocketAddr,
    /// The first node's address; none for the first itself, which founds the cluster.
    seed: Option<SocketAddr>,
}

impl Node {
    /// Starts node `number`; all but the first join the one at `seed`.
    pub(super) async fn start(
        folder: &Path,
        number: usize,
        seed: Option<SocketAddr>,
        processes: &mut Processes,
        collector: &Collector,
    ) -> anyhow::Result<Self> {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let launch = Launch {
            folder: folder.to_owned(),
            number,
            http: any,
            cluster: any,
            seed,
        };
        launch.go(processes, collector).await
    }

    /// Starts it anew, with the same data and addresses.
    pub(super) async fn restart(
        &mut self,
        processes: &mut Processes,
        collector: &Collector,
    ) -> anyhow::Result<()> {
        let launch = Launch {
            folder: self.launch.folder.clone(),
            number: self.number,
            http: self.listening.http,
            cluster: self.listening.cluster,
            seed: self.launch.seed,
        };
        *self = launch.go(processes, collector).await?;
        Ok(())
    }
}

impl Processes {
    fn spawn(&mut self, node: usize, mut command: Command) -> anyhow::Result<(Pid, ChildStdout)> {
        let mut child = command.spawn()?;
        let pid = child.id().expect("nobody has waited for it yet");
        let stdout = child.stdout.take().expect("stdout is piped");
        self.0.push(Process { pid, node, child });
        Ok((pid, stdout))
    }

    /// Kills one, as a crash would: nothing is handed over. What is left of it ends later.
    pub(super) fn kill(&mut self, pid: Pid) -> anyhow::Result<Killed> {
        let at = self.0.iter().position(|process| process.pid == pid);
        let mut process = self.0.remove(at.context("the node runs no more")?);
        process.child.start_kill().context("kill a node")?;
        Ok(Killed(process.child))
    }

    /// Fails when one has ended, which none must by itself.
    pub(super) fn check(&mut self) -> anyhow::Result<()> {
        for Process { node, child, .. } in &mut self.0 {
            if let Some(status) = child.try_wait().context("look after a node")? {
                anyhow::bail!("node {node} ended with {status}");
            }
        }
        Ok(())
    }

    /// Kills them all and waits until they are gone.
    pub(super) async fn end(&mut self) {
        for mut process in self.0.drain(..) {
            // It fails for one that has ended already.
            let _ = process.child.kill().await;
        }
    }
}

/// A process that was killed.
#[must_use = "it may not be gone yet"]
pub(super) struct Killed(Child);

impl Killed {
    /// Waits until it is gone.
    pub(super) async fn gone(mut self) -> anyhow::Result<()> {
        self.0.wait().await.context("wait for a killed node")?;
        Ok(())
    }
}

impl Launch {
    async fn go(self, processes: &mut Processes, collector: &Collector) -> anyhow::Result<Node> {
        let number = self.number;
        let started = async {
            let spawned = processes.spawn(number, self.command()?);
            let (pid, stdout) = spawned.context("start its process")?;
            collector.ledger().started(pid);
            // A node says one line, and nothing more that would need a reader.
            let mut lines = BufReader::new(stdout).lines();
            let line = tokio::time::timeout(START_TIMEOUT, lines.next_line())
                .await
                .context("it does not say where it listens")?
                .context("read its output")?
                .context("it ended at once")?;
            let NodeEvent::Listening(listening) =
                serde_json::from_str(&line).context("its first line is no event")?;
            Ok::<_, anyhow::Error>((pid, listening))
        };
        let (pid, listening) = started
            .await
            .with_context(|| format!("start node {number}; its log is {}", self.log().display()))?;
        Ok(Node {
            number,
            client: Client::new(&listening.http.to_string())?,
            listening,
            pid,
            launch: self,
        })
    }

    fn command(&self) -> anyhow::Result<Command> {
        let program = std::env::current_exe().context("find the path of this program")?;
        let log = File::options().create(true).append(true).open(self.log())?;
        let mut command = Command::new(program);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("HOLDFAST_") {
                command.env_remove(name);
            }
        }
        command
            .args(["start", "--format", "json", "--exit-with-stdin"])
            .args(["--cluster-name", "demo", "--data-dir"])
            .arg(self.data(self.number))
            .args(["--http", &self.http.to_string()])
            .args(["--listen", &self.cluster.to_string()]);
        match self.seed {
            None => command.arg("--bootstrap"),
            Some(seed) => command
                .args(["--seed", &seed.to_string(), "--secret-file"])
                .arg(self.data(1).join("cluster.secret")),
        };
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            // Ctrl-C is for the demo alone.
            .process_group(0)
            .kill_on_drop(true);
        Ok(command)
    }

    fn data(&self, number: usize) -> PathBuf {
        self.folder.join(format!("node-{number}"))
    }

    fn log(&self) -> PathBuf {
        self.folder.join(format!("node-{}.log", self.number))
    }
}

const START_TIMEOUT: Duration = Duration::from_secs(30);
