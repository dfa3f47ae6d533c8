//! Nodes as processes of this very binary. None of them outlives the demo: each is killed when it
//! is dropped, and ends by itself when its standard input does.

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
    process::{Child, Command},
};

use crate::client::Client;

/// A node of the demo.
pub(super) struct Node {
    /// From 1.
    pub(super) number: usize,
    pub(super) listening: Listening,
    pub(super) client: Client,
    launch: Launch,
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
    ) -> anyhow::Result<Self> {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let launch = Launch {
            folder: folder.to_owned(),
            number,
            http: any,
            cluster: any,
            seed,
        };
        launch.go().await
    }

    /// Kills its process, as a crash would: nothing is handed over.
    pub(super) async fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill().await.context("kill a node")
    }

    /// Starts its process anew, with the same data and addresses.
    pub(super) async fn restart(&mut self) -> anyhow::Result<()> {
        let launch = Launch {
            folder: self.launch.folder.clone(),
            number: self.number,
            http: self.listening.http,
            cluster: self.listening.cluster,
            seed: self.launch.seed,
        };
        *self = launch.go().await?;
        Ok(())
    }

    /// Fails when the process has ended, which it must not.
    pub(super) fn check(&mut self) -> anyhow::Result<()> {
        if let Some(status) = self.child.try_wait().context("look after a node")? {
            anyhow::bail!("node {} ended with {status}", self.number);
        }
        Ok(())
    }
}

impl Launch {
    async fn go(self) -> anyhow::Result<Node> {
        let number = self.number;
        let started = async {
            let mut child = self.command()?.spawn().context("start its process")?;
            let stdout = child.stdout.take().expect("stdout is piped");
            // A node says one line, and nothing more that would need a reader.
            let mut lines = BufReader::new(stdout).lines();
            let line = tokio::time::timeout(START_TIMEOUT, lines.next_line())
                .await
                .context("it does not say where it listens")?
                .context("read its output")?
                .context("it ended at once")?;
            let NodeEvent::Listening(listening) =
                serde_json::from_str(&line).context("its first line is no event")?;
            Ok::<_, anyhow::Error>((child, listening))
        };
        let (child, listening) = started
            .await
            .with_context(|| format!("start node {number}; its log is {}", self.log().display()))?;
        Ok(Node {
            number,
            client: Client::new(&listening.http.to_string())?,
            listening,
            launch: self,
            child,
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
