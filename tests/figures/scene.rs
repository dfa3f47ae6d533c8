//! A cluster with resources of which the logs tell, as every measurement begins.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use holdfast_tests::{
    Cluster, Findings, Key, LONG, Logs, Probe,
    checker::{Event, Fact, Gap},
    netns::Network,
    probe::ids,
    wait_until,
};

/// A cluster in which every resource is held, and every node has its share.
pub(crate) struct Scene {
    pub(crate) cluster: Cluster,
    pub(crate) logs: Logs,
    /// Every resource.
    pub(crate) keys: Vec<Key>,
    /// From the beginning of the deployment, which compiles, until it served.
    pub(crate) deployed_in: Duration,
    /// From the request that allocated them until all were held.
    pub(crate) allocated_in: Duration,
    /// How many times each node was lost.
    pub(crate) losses: BTreeMap<usize, u32>,
}

impl Scene {
    /// Starts nodes and has them hold resources.
    pub(crate) fn start(
        program: &str,
        nodes: usize,
        resources: usize,
        node_args: &[String],
        network: Option<Network>,
    ) -> Self {
        let args: Vec<&str> = node_args.iter().map(String::as_str).collect();
        let mut cluster = Cluster::builder(program).nodes(nodes).args(&args).alone();
        if let Some(network) = network {
            cluster = cluster.network(network);
        }
        let cluster = cluster.start();
        let api = cluster.api(0);
        let answer = Probe::deploy_with(&api, MODULE, &Probe::settings_logging());
        let ids = ids("r", resources);
        let mut scene = Self {
            logs: Logs::of(&cluster),
            cluster,
            keys: ids.iter().map(|id| Key::new(MODULE, id)).collect(),
            deployed_in: answer.took,
            allocated_in: Duration::ZERO,
            losses: BTreeMap::new(),
        };
        let begun = scene.cluster.collector().now();
        api.allocate_all(MODULE, &ids);
        let by = scene.running();
        scene.wait_held(&by);
        scene.allocated_in = scene.last_since(begun);
        scene.settle();
        scene
    }

    /// A node that does not lead: the one that was lost the fewest times, for a node that was lost
    /// lately waits longer until it gets its share.
    pub(crate) fn follower(&self) -> usize {
        let leader = self.cluster.leader();
        let others = self.cluster.running().into_iter();
        let others = others.filter(|node| *node != leader);
        let follower = others.min_by_key(|node| self.losses.get(node).copied());
        follower.expect("there are several nodes")
    }

    /// The processes that run.
    pub(crate) fn running(&self) -> BTreeSet<u32> {
        let nodes = self.cluster.running().into_iter();
        nodes.map(|node| self.cluster.pid(node)).collect()
    }

    /// The resources that a process holds.
    pub(crate) fn held_by(&self, pid: u32) -> BTreeSet<Key> {
        let is_held = |key: &&Key| self.logs.holder(key) == Some(pid);
        self.keys.iter().filter(is_held).cloned().collect()
    }

    /// Waits until these processes hold everything, and judges all that happened.
    pub(crate) fn wait_held(&mut self, by: &BTreeSet<u32>) -> Findings {
        self.logs.wait_held(&self.cluster, &self.keys, by, LONG)
    }

    /// Waits until every node has its share and nothing moves any more.
    pub(crate) fn settle(&mut self) {
        let pids = self.running();
        let share = self.keys.len() / pids.len() * 97 / 100;
        wait_until("every node has its share", LONG * 3, || {
            self.logs.read(&self.cluster);
            let spread = self.logs.spread();
            let held = |pid: &u32| spread.get(pid).copied().unwrap_or(0);
            let even = pids.iter().all(|pid| held(pid) >= share);
            even.then_some(()).ok_or(format!("{spread:?}"))
        });
        self.wait_held(&pids);
        self.logs.wait_quiet(&self.cluster, QUIET);
    }

    /// What was handled since, when and by which process.
    pub(crate) fn handled_since(
        &self,
        since: Duration,
    ) -> impl Iterator<Item = (Duration, &Key, u32)> {
        let events = self.logs.told().iter();
        events.filter_map(move |Event { at, fact }| match fact {
            Fact::Handled { key, pid, .. } if *at >= since => Some((*at, key, *pid)),
            _ => None,
        })
    }

    /// How long it took since then until the last of what was handled was.
    pub(crate) fn last_since(&self, since: Duration) -> Duration {
        let last = self.handled_since(since).map(|(at, ..)| at).max();
        last.unwrap_or(since) - since
    }
}

/// How long the gaps were that ended since.
pub(crate) fn gaps_since(findings: &Findings, since: Duration) -> Vec<Duration> {
    let gaps = findings.gaps.iter().filter(|gap| gap.to >= since);
    gaps.map(|Gap { from, to, .. }| *to - *from).collect()
}

/// Says what goes on, on standard error.
pub(crate) fn progress(what: &str) {
    use std::sync::LazyLock;
    static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);
    eprintln!("{:6.1} s  {what}", BEGAN.elapsed().as_secs_f64());
}

const MODULE: &str = "probe";

/// When nothing was reported for so long, nothing goes on.
const QUIET: Duration = Duration::from_millis(1_500);
