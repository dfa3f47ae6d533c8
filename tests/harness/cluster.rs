//! A cluster of real processes in folders of their own, with an observer.
//!
//! Dropping it kills the processes it started, those and no others, and removes their folders.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::ExitStatus,
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use holdfast_model::{NodeId, api::Listening};
use rustix::process::Signal;

use crate::{
    Api, Collector,
    checker::Fact,
    folder::Folder,
    netns::Network,
    permit::Permit,
    process::{Launch, Process, tail},
    roster::Roster,
    wait::{LONG, SOON, wait_until},
};

/// Nodes that form one cluster. Nodes are named by their number, in the order of their first start.
#[derive(Debug)]
pub struct Cluster {
    // The order of the fields is the order of their end: processes, then what they stand on, then
    // the permit.
    nodes: Vec<Node>,
    network: Option<Network>,
    collector: Collector,
    roster: Roster,
    program: PathBuf,
    name: String,
    secret: String,
    token: bool,
    files_max: Option<u32>,
    folder: Folder,
    #[expect(dead_code, reason = "held as long as the cluster lives")]
    permit: Option<Permit>,
}

#[derive(Debug)]
struct Node {
    process: Option<Process>,
    listening: Listening,
    folder: PathBuf,
    join: Join,
    runs: Vec<Run>,
}

/// One process of a node, and where in the node's log it began to write.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// How long the log was before.
    pub log_from: u64,
    /// The process.
    pub pid: u32,
}

/// How a node starts.
#[derive(Clone, Debug, Default)]
pub struct Join {
    /// Whether it founds the cluster.
    pub bootstrap: bool,
    /// Addresses to join by, in this order. Empty: those of all nodes of the cluster.
    pub seeds: Vec<SocketAddr>,
    /// Another cluster name than the cluster's.
    pub name: Option<String>,
    /// Another secret than the cluster's. An empty one: none.
    pub secret: Option<String>,
    /// Further arguments.
    pub args: Vec<String>,
    /// Further environment.
    pub env: Vec<(String, String)>,
    /// Where its standard error goes, in place of the file that [`Cluster::log`] reads.
    pub log: Option<PathBuf>,
}

/// How a cluster is made.
#[derive(Debug)]
#[must_use = "nothing is started before `start`"]
pub struct Builder {
    program: PathBuf,
    nodes: usize,
    args: Vec<String>,
    token: bool,
    files_max: Option<u32>,
    share: Share,
    network: Option<Network>,
}

#[derive(Debug)]
enum Share {
    Shared,
    Alone,
    Beside(Roster),
}

impl Builder {
    /// How many nodes; one unless said otherwise.
    pub fn nodes(mut self, nodes: usize) -> Self {
        self.nodes = nodes;
        self
    }

    /// Further arguments of all nodes.
    pub fn args(mut self, args: &[&str]) -> Self {
        self.args = args.iter().map(|arg| (*arg).to_owned()).collect();
        self
    }

    /// Nodes want an API token, which the APIs of the cluster show.
    pub fn token(mut self) -> Self {
        self.token = true;
        self
    }

    /// How many files each process may open.
    pub fn files_max(mut self, files: u32) -> Self {
        self.files_max = Some(files);
        self
    }

    /// Runs while no other cluster does: for loads that fill a small machine, and for measuring.
    pub fn alone(mut self) -> Self {
        self.share = Share::Alone;
        self
    }

    /// Runs beside another cluster of the same test, under that one's permit. Either's observer
    /// takes reports from both.
    pub fn beside(mut self, other: &Cluster) -> Self {
        self.share = Share::Beside(other.roster.clone());
        self
    }

    /// Runs each node on a host of its own in this network, and the observer outside of them.
    pub fn network(mut self, network: Network) -> Self {
        self.network = Some(network);
        self
    }

    /// Starts the nodes and waits until they are one cluster.
    ///
    /// # Panics
    /// When they are not within a minute.
    #[track_caller]
    #[must_use]
    pub fn start(self) -> Cluster {
        static SERIAL: AtomicU32 = AtomicU32::new(0);
        // The guest first: building takes long, and its time must not count against a cluster.
        let _built = crate::component::probe();
        let (permit, roster) = match self.share {
            Share::Shared => (Some(Permit::shared()), Roster::default()),
            Share::Alone => (Some(Permit::alone()), Roster::default()),
            Share::Beside(roster) => (None, roster),
        };
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let name = format!("test-{}-{serial}", std::process::id());
        let observer = match self.network {
            Some(_) => Network::observer(),
            None => Ipv4Addr::LOCALHOST,
        };
        let mut cluster = Cluster {
            nodes: Vec::new(),
            network: self.network,
            collector: Collector::start_at(observer, roster.clone()),
            roster,
            program: self.program,
            secret: format!("secret-of-{name}-that-is-long-enough-for-anyone"),
            folder: Folder::new(&name),
            name,
            token: self.token,
            files_max: self.files_max,
            permit,
        };
        for i in 0..self.nodes {
            cluster.add(Join {
                bootstrap: i == 0,
                args: self.args.clone(),
                ..Join::default()
            });
        }
        cluster.wait_formed();
        cluster
    }
}

impl Cluster {
    /// A cluster of this binary.
    pub fn builder(program: &str) -> Builder {
        Builder {
            program: program.into(),
            nodes: 1,
            args: Vec::new(),
            token: false,
            files_max: None,
            share: Share::Shared,
            network: None,
        }
    }

    /// The API of a node.
    #[must_use]
    pub fn api(&self, node: usize) -> Api {
        let api = Api::new(&self.nodes[node].listening.http.to_string());
        match self.wants_token() {
            true => api.with_token(&self.secret),
            false => api,
        }
    }

    /// Beyond loopback there must be a token. Which, is all the same here: it is the secret.
    fn wants_token(&self) -> bool {
        self.token || self.network.is_some()
    }

    /// The network that the cluster was made with.
    ///
    /// # Panics
    /// When it was made without.
    #[must_use]
    pub fn network(&self) -> &Network {
        self.network.as_ref().expect("the test made one")
    }

    /// The observer.
    #[must_use]
    pub fn collector(&self) -> &Collector {
        &self.collector
    }

    /// The cluster's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The cluster's secret.
    #[must_use]
    pub fn secret(&self) -> &str {
        &self.secret
    }

    /// What a node said when it began to listen.
    #[must_use]
    pub fn listening(&self, node: usize) -> &Listening {
        &self.nodes[node].listening
    }

    /// The folder with everything of this cluster.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The data directory of a node.
    #[must_use]
    pub fn data_dir(&self, node: usize) -> PathBuf {
        self.nodes[node].folder.join("data")
    }

    /// The process id of a node that runs.
    ///
    /// # Panics
    /// When it does not.
    #[must_use]
    pub fn pid(&self, node: usize) -> u32 {
        self.process(node).pid()
    }

    /// The numbers of the nodes that run.
    #[must_use]
    pub fn running(&self) -> Vec<usize> {
        (0..self.nodes.len())
            .filter(|node| self.nodes[*node].process.is_some())
            .collect()
    }

    /// The number of the node with this identity.
    ///
    /// # Panics
    /// When it is none of ours.
    #[must_use]
    pub fn number_of(&self, id: NodeId) -> usize {
        let is_it = |node: &Node| node.listening.node == id;
        let number = self.nodes.iter().position(is_it);
        number.unwrap_or_else(|| panic!("{id} is no node of this cluster"))
    }

    /// The number of the leader.
    ///
    /// # Panics
    /// When there is none for long.
    #[track_caller]
    #[must_use]
    pub fn leader(&self) -> usize {
        let api = self.api(self.running()[0]);
        let (leader, _) = wait_until("there is a leader", SOON, || {
            api.cluster()?.leader.ok_or_else(|| "none".to_owned())
        });
        self.number_of(leader)
    }

    /// When a node that runs has listened again, after it lost its lease and began anew.
    #[must_use]
    pub fn begun_anew(&self, node: usize) -> Vec<Instant> {
        self.process(node).begun_anew()
    }

    /// The log of a node, over all its runs.
    #[must_use]
    pub fn log(&self, node: usize) -> String {
        fs::read_to_string(self.log_file(node)).unwrap_or_default()
    }

    /// The file of that log.
    #[must_use]
    pub fn log_file(&self, node: usize) -> PathBuf {
        log_of(&self.nodes[node].folder)
    }

    /// The processes of a node, in order; several where it was restarted.
    #[must_use]
    pub fn runs(&self, node: usize) -> &[Run] {
        &self.nodes[node].runs
    }

    /// How many nodes there were in all. They are numbered from 0.
    #[must_use]
    pub fn nodes(&self) -> usize {
        self.nodes.len()
    }

    /// Waits until a node has lost its lease and begun a new run in the same process: what it held
    /// ended with the old one.
    ///
    /// # Panics
    /// When that takes more than a minute.
    #[track_caller]
    pub fn wait_started_anew(&self, node: usize) {
        wait_until("the node has lost its lease", LONG, || {
            let anew = !self.begun_anew(node).is_empty();
            anew.then_some(()).ok_or("it has not")
        });
    }

    /// Starts one more node and waits until it listens; it may not have joined yet.
    ///
    /// # Panics
    /// When it ends instead.
    #[track_caller]
    pub fn add(&mut self, join: Join) -> usize {
        let folder = self
            .folder
            .path()
            .join(format!("node-{}", self.nodes.len()));
        fs::create_dir_all(&folder).expect("the temp folder is writable");
        let launch = self.launch(Some(self.nodes.len()), &folder, &join, None);
        let (process, listening, run) = self.start(&launch);
        self.nodes.push(Node {
            process: Some(process),
            listening,
            folder,
            join,
            runs: vec![run],
        });
        self.nodes.len() - 1
    }

    /// Starts a process beside the cluster's nodes, which is expected to end by itself or to get
    /// nowhere. `label` names its folder.
    ///
    /// # Panics
    /// When the cluster has a network of its own, where every process has its host.
    #[must_use]
    pub fn try_join(&self, label: &str, join: &Join) -> Process {
        assert!(self.network.is_none(), "there is no host for it");
        let folder = self.folder.path().join(label);
        fs::create_dir_all(&folder).expect("the temp folder is writable");
        let launch = self.launch(None, &folder, join, None);
        Process::start(&launch, &self.roster)
    }

    /// Starts a process with exactly these arguments after `start`.
    #[must_use]
    pub fn try_start(&self, label: &str, args: &[&str], env: &[(&str, &str)]) -> Process {
        let own = |text: &&str| (*text).to_owned();
        let launch = Launch {
            program: self.program.clone(),
            args: START.iter().chain(args).map(own).collect(),
            env: env.iter().map(|(k, v)| (own(k), own(v))).collect(),
            log: self.folder.path().join(format!("{label}.log")),
            addr: None,
        };
        Process::start(&launch, &self.roster)
    }

    /// Kills a node without warning.
    ///
    /// # Panics
    /// When it does not run.
    #[track_caller]
    pub fn kill9(&mut self, node: usize) {
        let process = self.nodes[node].process.take().expect("the node runs");
        let pid = process.pid();
        // Noted first: others may take over before the kernel has told us of its end.
        self.collector.note(Fact::Ended { pid });
        drop(process);
    }

    /// Asks a node to stop (SIGTERM) and waits for its end.
    ///
    /// # Panics
    /// When it goes on for a minute.
    #[track_caller]
    pub fn stop(&mut self, node: usize) -> ExitStatus {
        let mut process = self.nodes[node].process.take().expect("the node runs");
        let pid = process.pid();
        process.signal(Signal::TERM);
        let status = process.ended(LONG);
        self.collector.note(Fact::Ended { pid });
        status.unwrap_or_else(|| {
            panic!(
                "node {node} runs {} s after SIGTERM; its log:\n{}",
                LONG.as_secs(),
                process.log_tail()
            )
        })
    }

    /// Asks a node to stop (SIGTERM), and does not wait for its end: see [`Cluster::ended`].
    #[track_caller]
    pub fn tell_to_stop(&self, node: usize) {
        let process = self.nodes[node].process.as_ref().expect("the node runs");
        process.signal(Signal::TERM);
    }

    /// Asks a node to replace its process by a new run (SIGUSR2).
    #[track_caller]
    pub fn tell_to_restart(&self, node: usize) {
        let process = self.nodes[node].process.as_ref().expect("the node runs");
        process.signal(Signal::USR2);
    }

    /// Sends a node a signal that does not end it at once.
    #[track_caller]
    pub fn signal(&self, node: usize, signal: Signal) {
        self.process(node).signal(signal);
    }

    /// Waits for a node to end by itself.
    ///
    /// # Panics
    /// When it goes on for a minute.
    #[track_caller]
    pub fn ended(&mut self, node: usize) -> ExitStatus {
        let mut process = self.nodes[node].process.take().expect("the node runs");
        let status = process.ended(LONG);
        self.collector.note(Fact::Ended { pid: process.pid() });
        status.unwrap_or_else(|| panic!("node {node} runs; its log:\n{}", process.log_tail()))
    }

    /// Stops a node's process (SIGSTOP): it lives and does nothing.
    #[track_caller]
    pub fn pause(&mut self, node: usize) {
        let process = self.process(node);
        process.signal(Signal::STOP);
        self.collector.note(Fact::Paused { pid: process.pid() });
    }

    /// Lets a stopped process go on (SIGCONT).
    #[track_caller]
    pub fn resume(&mut self, node: usize) {
        let process = self.process(node);
        // Noted first: what it does next must not seem to be done by a stopped process.
        self.collector.note(Fact::Resumed { pid: process.pid() });
        process.signal(Signal::CONT);
    }

    /// Starts a node again with its data and its addresses, and waits until it listens.
    ///
    /// # Panics
    /// When it runs, or ends instead.
    #[track_caller]
    pub fn restart(&mut self, node: usize) {
        assert!(self.nodes[node].process.is_none(), "the node runs");
        let Node {
            folder,
            join,
            listening,
            ..
        } = &self.nodes[node];
        let launch = self.launch(Some(node), folder, join, Some(listening));
        let (process, listening, run) = self.start(&launch);
        let node = &mut self.nodes[node];
        node.process = Some(process);
        node.listening = listening;
        node.runs.push(run);
    }

    /// Gives a node other arguments, from its next start on.
    pub fn set_args(&mut self, node: usize, args: &[&str]) {
        self.nodes[node].join.args = args.iter().map(|arg| (*arg).to_owned()).collect();
    }

    /// Deletes the data of a node that does not run. Started again it is a new node, which joins
    /// by the others.
    ///
    /// # Panics
    /// When it runs.
    #[track_caller]
    pub fn wipe(&mut self, node: usize) {
        assert!(self.nodes[node].process.is_none(), "the node runs");
        fs::remove_dir_all(self.data_dir(node)).expect("a node that ran has data");
        self.nodes[node].join.bootstrap = false;
    }

    /// Waits until the running nodes are ready, know each other, and have as many voters as they
    /// should.
    ///
    /// # Panics
    /// When that takes more than a minute.
    #[track_caller]
    pub fn wait_formed(&self) {
        let running = self.running();
        let voters = if running.len() >= 3 { 3 } else { 1 };
        wait_until("the nodes are one cluster", LONG, || {
            for node in &running {
                let api = self.api(*node);
                api.ready()?;
                let info = api.cluster()?;
                let formed = info.leader.is_some()
                    && !info.stale
                    && info.nodes.active == running.len() as u64
                    && info.voters.len() >= voters;
                if !formed {
                    return Err(format!("node {node} says {info:?}"));
                }
            }
            Ok(())
        });
    }

    fn process(&self, node: usize) -> &Process {
        self.nodes[node].process.as_ref().expect("the node runs")
    }

    fn start(&self, launch: &Launch) -> (Process, Listening, Run) {
        let mut attempt = 1;
        loop {
            let log_from = fs::metadata(&launch.log).map_or(0, |log| log.len());
            let mut process = Process::start(launch, &self.roster);
            match process.listening(LONG) {
                Ok(listening) => {
                    let pid = process.pid();
                    process.each_new_run(self.collector.notes_new_runs(pid));
                    return (process, listening, Run { log_from, pid });
                }
                // Between two runs of a node another process may have got its port for a
                // connection of its own, for a moment.
                Err(_) if attempt < 20 && process.log_tail().contains("in use") => {
                    attempt += 1;
                    thread::sleep(Duration::from_millis(250));
                }
                Err(status) => panic!(
                    "a node ended ({status}) instead of listening; its log:\n{}",
                    process.log_tail()
                ),
            }
        }
    }

    /// `node` is the number of the node that it is to be, if any.
    fn launch(
        &self,
        node: Option<usize>,
        folder: &Path,
        join: &Join,
        again: Option<&Listening>,
    ) -> Launch {
        let host = self.network.as_ref().zip(node);
        let mut args: Vec<String> = host
            .map(|(network, node)| {
                [
                    network.enter(node),
                    vec![self.program.display().to_string()],
                ]
                .concat()
            })
            .unwrap_or_default();
        args.extend(START.iter().map(|arg| (*arg).to_owned()));
        let mut option = |name: &str, value: String| args.extend([name.to_owned(), value]);
        option("--data-dir", folder.join("data").display().to_string());
        option(
            "--cluster-name",
            join.name.as_ref().unwrap_or(&self.name).clone(),
        );
        let port_0 = || "127.0.0.1:0".to_owned();
        let outside = host.map(|(network, node)| network.readdress(node));
        let (http, cluster) = match (host, outside, again) {
            (Some((network, node)), Some(outside), _) => (
                format!("{outside}:7300"),
                format!("{}:7301", network.cluster(node)),
            ),
            (_, _, Some(listening)) => (listening.http.to_string(), listening.cluster.to_string()),
            _ => (port_0(), port_0()),
        };
        option("--http", http);
        option("--listen", cluster);
        if join.bootstrap {
            args.push("--bootstrap".to_owned());
        } else {
            let this = again.map(|listening| listening.cluster);
            let others = self.nodes.iter().map(|node| node.listening.cluster);
            let others: Vec<_> = others.filter(|addr| Some(*addr) != this).collect();
            let seeds = if join.seeds.is_empty() {
                &others
            } else {
                &join.seeds
            };
            for seed in seeds {
                args.extend(["--seed".to_owned(), seed.to_string()]);
            }
        }
        args.extend(join.args.iter().cloned());
        let mut env = join.env.clone();
        let secret = join.secret.as_ref().unwrap_or(&self.secret);
        if !secret.is_empty() {
            env.push(("HOLDFAST_SECRET".to_owned(), secret.clone()));
        }
        if self.wants_token() {
            env.push(("HOLDFAST_TOKEN".to_owned(), self.secret.clone()));
        }
        let mut program = match host {
            Some(_) => args.remove(0).into(),
            None => self.program.clone(),
        };
        if let Some(files) = self.files_max {
            // The shell becomes the program, whose process is still the test's child.
            let limit = format!("ulimit -n {files} && exec \"$0\" \"$@\"");
            let program = std::mem::replace(&mut program, "/bin/sh".into());
            let shell = ["-c".to_owned(), limit, program.display().to_string()];
            args.splice(0..0, shell);
        }
        Launch {
            program,
            args,
            env,
            log: join.log.clone().unwrap_or_else(|| log_of(folder)),
            addr: outside.map(IpAddr::V4),
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if thread::panicking() {
            for (i, node) in self.nodes.iter().enumerate() {
                eprintln!("--- log of node {i} ({}):", node.listening.node);
                eprintln!("{}", tail(&log_of(&node.folder)));
            }
        }
        self.nodes.clear();
    }
}

fn log_of(folder: &Path) -> PathBuf {
    folder.join("log")
}

/// Ends with its standard input, which the test holds: whatever binary this is, even a killed test
/// leaves no node behind.
const START: &[&str] = &["--format", "json", "start", "--exit-with-stdin"];
