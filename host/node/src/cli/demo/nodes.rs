//! The nodes of the demo. None of them outlives it: [`Processes::end`] ends them all.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use holdfast_model::api::Listening;

use super::{
    super::local_node::{self, Log},
    collector::Collector,
    ledger::Pid,
};
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
    process: local_node::Process,
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
    fn enter(&mut self, node: usize, process: local_node::Process) -> Pid {
        let pid = process.child.id().expect("nobody has waited for it yet");
        self.0.push(Process { pid, node, process });
        pid
    }

    /// Kills one, as a crash would: nothing is handed over. What is left of it ends later.
    pub(super) fn kill(&mut self, pid: Pid) -> anyhow::Result<Killed> {
        let at = self.0.iter().position(|process| process.pid == pid);
        let Process { mut process, .. } = self.0.remove(at.context("the node runs no more")?);
        process.child.start_kill().context("kill a node")?;
        Ok(Killed(process))
    }

    /// Fails when one has ended, which none must by itself.
    pub(super) fn check(&mut self) -> anyhow::Result<()> {
        for Process { node, process, .. } in &mut self.0 {
            if let Some(status) = process.child.try_wait().context("look after a node")? {
                anyhow::bail!("node {node} ended with {status}");
            }
        }
        Ok(())
    }

    /// Kills them all and waits until they are gone.
    pub(super) async fn end(&mut self) {
        for Process { mut process, .. } in self.0.drain(..) {
            // It fails for one that has ended already.
            let _ = process.child.kill().await;
        }
    }
}

/// A process that was killed.
#[must_use = "it may not be gone yet"]
pub(super) struct Killed(local_node::Process);

impl Killed {
    /// Waits until it is gone.
    pub(super) async fn gone(mut self) -> anyhow::Result<()> {
        let Self(process) = &mut self;
        process
            .child
            .wait()
            .await
            .context("wait for a killed node")?;
        Ok(())
    }
}

impl Launch {
    async fn go(self, processes: &mut Processes, collector: &Collector) -> anyhow::Result<Node> {
        let number = self.number;
        let log = self.folder.join(format!("node-{number}.log"));
        let started = async {
            let (process, announcement) = self.local().spawn(Log::File(&log))?;
            let pid = processes.enter(number, process);
            collector.ledger().started(pid);
            Ok::<_, anyhow::Error>((pid, announcement.listening().await?))
        };
        let (pid, listening) = started
            .await
            .with_context(|| format!("start node {number}; its log is {}", log.display()))?;
        Ok(Node {
            number,
            client: Client::new(&listening.http.to_string())?,
            listening,
            pid,
            launch: self,
        })
    }

    fn local(&self) -> local_node::Launch {
        let seed = self
            .seed
            .map(|seed| (seed, self.data(1).join("cluster.secret")));
        local_node::Launch {
            cluster_name: "demo",
            data_dir: self.data(self.number),
            http: self.http,
            listen: self.cluster,
            seed,
            log: "info",
        }
    }

    fn data(&self, number: usize) -> PathBuf {
        self.folder.join(format!("node-{number}"))
    }
}
