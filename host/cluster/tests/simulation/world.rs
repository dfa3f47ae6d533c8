//! A whole cluster on virtual time: machines, wires, clients, and what goes wrong.
//!
//! Invariant: the same [`Config`] gives the same run. Nothing here reads a clock or a global.

mod harm;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use holdfast_cluster::{
    handover::{Now, SlotKey},
    state::{Cluster, ClusterSettings, Command, Decision, Owner},
};
use holdfast_model::{ClusterId, Digest, Incarnation, NodeId, Token};
use rand::{RngExt, SeedableRng, rngs::ChaCha8Rng};

use crate::{
    checker::{Checker, Violation, module},
    clients::{Clients, Pool},
    faults::{Fault, Faults, Schedule, Silence},
    leader::about,
    log::{Logs, Proposal, What, model::Model},
    network::{Envelope, Message, Network, To},
    node::{Bug, Disk, Out, Place, Process, TERMS},
    story::{self, Story},
};

#[derive(Clone)]
pub(crate) struct Config {
    pub(crate) seed: u64,
    pub(crate) nodes: usize,
    pub(crate) steps: u64,
    /// The step from which on nothing goes wrong any more.
    pub(crate) calm_from: u64,
    pub(crate) faults: Faults,
    /// Of what goes wrong only this, by number; or all.
    pub(crate) keep: Option<BTreeSet<u64>>,
    pub(crate) bug: Option<Bug>,
    /// Which logs.
    pub(crate) logs: fn(u64) -> Box<dyn Logs>,
}

impl Config {
    /// A run whose last part is long enough to see everything held again.
    pub(crate) fn new(seed: u64, nodes: usize, steps: u64, faults: Faults) -> Self {
        Self {
            seed,
            nodes,
            steps,
            calm_from: steps.saturating_sub(CALM),
            faults,
            keep: None,
            bug: None,
            logs: |_| Box::new(Model),
        }
    }
}

/// What came of a run.
pub(crate) struct Run {
    pub(crate) violation: Option<Violation>,
    /// What went wrong, by number and in order, with its time.
    pub(crate) blows: Vec<(u64, Duration)>,
    pub(crate) steps: u64,
    pub(crate) story: Story,
    pub(crate) committed: usize,
}

struct Host {
    node: NodeId,
    clock: Clock,
    addr: SocketAddr,
    machine: Machine,
    boot: u64,
    /// Until when its process stands still.
    paused: Option<Duration>,
    /// Until when it applies late.
    lags: Duration,
    /// Until when its disk is slow.
    stalls: Duration,
    inbox: Vec<Envelope>,
}

/// Shows another time than others, and runs at another rate.
struct Clock {
    offset: Duration,
    /// Millionths that it runs faster than 0.99 of the true rate.
    ppm: u64,
}

impl Clock {
    fn now(&self, at: Duration) -> Now {
        let nanos = at.as_nanos() as u64;
        let fast = u128::from(nanos) * u128::from(990_000 + self.ppm) / 1_000_000;
        self.offset + Duration::from_nanos(fast as u64)
    }

    /// The true time at which it showed that.
    fn at(&self, shown: Now) -> Duration {
        let fast = u128::from(shown.saturating_sub(self.offset).as_nanos() as u64);
        Duration::from_nanos((fast * 1_000_000 / u128::from(990_000 + self.ppm)) as u64)
    }
}

enum Machine {
    Up(Box<Process>),
    Down {
        /// None only while it is being started.
        disk: Option<Disk>,
        until: Duration,
        /// The run that ended here, in whose name the port refuses connections; when it did last.
        refuses: Option<(Owner, Duration)>,
    },
}

/// A run that says that it restarts.
#[derive(Clone, Copy)]
struct Restart {
    host: usize,
    run: Owner,
    /// Under which it says so.
    number: u64,
    said: Duration,
    /// How long it will be away.
    after: Duration,
}

#[derive(Clone, Copy)]
struct Removal {
    /// Whether it is to own nothing first.
    drained: bool,
    asked: bool,
}

pub(crate) struct World<'a> {
    config: Config,
    now: Duration,
    hosts: Vec<Host>,
    network: Network,
    cuts: Vec<(Duration, BTreeSet<(usize, usize)>)>,
    /// Of datagrams alone. They go on when nothing else goes wrong any more.
    cuts_of_datagrams: Vec<(Duration, BTreeSet<(usize, usize)>)>,
    drains: Vec<(Duration, usize)>,
    /// Nodes that an operator takes out of the cluster.
    removals: BTreeMap<NodeId, Removal>,
    /// When a disk was lost last.
    lost: Duration,
    restarts: Vec<Restart>,
    schedule: Schedule,
    blows: Vec<(u64, Duration)>,
    silences: Vec<(Silence, Option<Owner>)>,
    /// Leaders that are about to be killed.
    doomed: Vec<(Duration, usize)>,
    /// Since when nothing is done to the cluster, if so.
    calm_since: Option<Duration>,
    logs: Box<dyn Logs>,
    clients: Clients<'a>,
    checker: Checker,
    story: Story,
    rng: ChaCha8Rng,
    nodes: usize,
}

impl<'a> World<'a> {
    pub(crate) fn new(config: Config, pool: &'a Pool) -> Self {
        let rng = |stream| {
            let mut rng = ChaCha8Rng::seed_from_u64(config.seed);
            rng.set_stream(stream);
            rng
        };
        let hosts_max = HOSTS_MAX.min(config.nodes + JOINERS);
        let schedule = Schedule::new(rng(2), config.faults.clone(), config.nodes, hosts_max);
        let mut world = Self {
            now: Duration::ZERO,
            hosts: Vec::new(),
            network: Network::new(rng(1)),
            cuts: Vec::new(),
            cuts_of_datagrams: Vec::new(),
            drains: Vec::new(),
            removals: BTreeMap::new(),
            lost: Duration::ZERO,
            restarts: Vec::new(),
            schedule,
            blows: Vec::new(),
            silences: Vec::new(),
            doomed: Vec::new(),
            calm_since: None,
            logs: (config.logs)(config.seed),
            clients: Clients::new(rng(3), pool),
            checker: Checker::default(),
            story: Story::default(),
            rng: rng(4),
            nodes: 0,
            config,
        };
        let first = world.founding();
        for _ in 0..world.config.nodes {
            let disk = world.disk(&first);
            world.add(disk);
        }
        world
    }

    /// Runs to the end, or to what must not happen.
    pub(crate) fn run(mut self) -> Run {
        let mut steps = 0;
        while steps < self.config.steps && self.checker.violation().is_none() {
            self.step(steps);
            steps += 1;
        }
        Run {
            steps,
            violation: self.checker.violation().cloned(),
            blows: self.blows,
            story: self.story,
            committed: self.checker.committed(),
        }
    }

    /// What every first node has in its log: the founding, the nodes, and a module.
    fn founding(&self) -> Vec<Arc<Proposal>> {
        let voters = match self.config.nodes {
            0..=2 => 1,
            3 | 4 => 3,
            _ => [3, 5][(self.config.seed % 2) as usize],
        };
        let set = (1..=voters).map(story::node).collect();
        let found = Command::Found(Cluster {
            id: ClusterId(uuid::Uuid::from_u128(1)),
            name: "simulated".parse().expect("the name is valid"),
            founded_at_ms: 0,
            settings: ClusterSettings {
                voters_wanted: voters as u8,
                lease: TERMS,
                ..ClusterSettings::DEFAULT
            },
            outlasting: None,
        });
        let component = b"component";
        let deploy = Command::Deploy {
            module: module(),
            digest: Digest::of(component),
            size: component.len() as u64,
            settings: Arc::default(),
            at_ms: 0,
        };
        let joins = (1..=self.config.nodes).map(|number| Command::Decide {
            term: 1,
            decision: Decision::Join {
                node: story::node(number),
                incarnation: Incarnation(1),
                about: about(address(number - 1), 1),
                at_ms: 0,
            },
        });
        let commands = [found, deploy].into_iter().chain(joins).map(What::Command);
        let first = [What::Voters(vec![set])].into_iter().chain(commands);
        (0..)
            .zip(first)
            .map(|(number, what)| Arc::new(Proposal { number, what }))
            .collect()
    }

    /// A new node's disk.
    fn disk(&mut self, first: &[Arc<Proposal>]) -> Disk {
        self.nodes += 1;
        let node = story::node(self.nodes);
        Disk {
            me: Owner {
                node,
                incarnation: Incarnation(1),
            },
            store: self.logs.store(node, first),
        }
    }

    fn add(&mut self, disk: Disk) {
        let drift = self.config.faults.has(Fault::Drift);
        let ppm = if drift {
            self.rng.random_range(5_000..=15_000)
        } else {
            10_000
        };
        let clock = Clock {
            offset: Duration::from_millis(self.rng.random_range(60_000..10_000_000)),
            ppm,
        };
        self.hosts.push(Host {
            node: disk.me.node,
            clock,
            addr: address(self.hosts.len()),
            machine: Machine::Down {
                disk: Some(disk),
                until: self.now,
                refuses: None,
            },
            boot: 1,
            paused: None,
            lags: Duration::ZERO,
            stalls: Duration::ZERO,
            inbox: Vec::new(),
        });
    }

    fn step(&mut self, step: u64) {
        self.now += STEP;
        self.logs.run_until(self.now);
        let calm = step >= self.config.calm_from;
        if step == self.config.calm_from {
            self.calm_down();
        }
        for (number, blow) in self.schedule.due(self.now) {
            let keep = self.config.keep.as_ref();
            // A machine that was to come may have been left out.
            let there = blow.host().is_none_or(|host| host < self.hosts.len());
            if !calm && there && keep.is_none_or(|keep| keep.contains(&number)) {
                self.blows.push((number, self.now));
                self.suffer(blow);
            }
        }
        self.heal();
        if calm && step.is_multiple_of(100) {
            let stays = |node: &NodeId| !self.removals.contains_key(node);
            self.clients.take_back_drains(&self.checker, stays);
        }
        self.remove_nodes();
        self.restart();
        self.silence();
        self.serve_clients();
        self.deliver();
        for at in 0..self.hosts.len() {
            // Nobody is always first.
            let host = (at + step as usize) % self.hosts.len();
            self.step_host(host);
        }
        self.check(step);
    }

    fn serve_clients(&mut self) {
        for (number, command) in self.clients.ask(self.now, &mut self.checker) {
            let host = self.rng.random_range(0..self.hosts.len());
            let envelope = Envelope {
                from: story::node(0),
                source: host,
                host,
                node: None,
                message: Message::Serve(number, command),
            };
            self.network.send(self.now, envelope);
        }
    }

    fn deliver(&mut self) {
        for envelope in self.network.arrived(self.now) {
            let host = &mut self.hosts[envelope.host];
            let Machine::Up(process) = &host.machine else {
                continue;
            };
            let meant = envelope.node.is_none_or(|node| node == process.me.node);
            // A process that stands still for long has full buffers.
            if meant && host.inbox.len() < INBOX {
                host.inbox.push(envelope);
            }
        }
    }

    fn step_host(&mut self, at: usize) {
        let now = self.now;
        let addresses = || (0..HOSTS_MAX).map(address).collect::<Vec<_>>();
        let host = &mut self.hosts[at];
        if host.paused.is_some_and(|until| now < until) {
            return;
        }
        let local = host.clock.now(now);
        let mut out = Out::default();
        if let Machine::Down { disk, until, .. } = &mut host.machine
            && now >= *until
            && let Some(disk) = disk.take()
        {
            let rng = ChaCha8Rng::seed_from_u64(self.rng.random());
            let place = Place {
                addr: host.addr,
                boot: host.boot,
                peers: addresses(),
            };
            let process = Process::start(disk, local, place, rng, self.config.bug, &mut out);
            host.machine = Machine::Up(Box::new(process));
        }
        let Machine::Up(process) = &mut host.machine else {
            return;
        };
        if host.paused.take().is_some() {
            process.log.stand_still(false);
            let text = "goes on".to_owned();
            self.story.note(now, Some(at), None, text);
        }
        process.lags = now < host.lags;
        process.log.stall(now < host.stalls);
        let inbox = std::mem::take(&mut host.inbox);
        process.step(local, inbox, &mut out);
        if let Some(run) = process.granted_after_all {
            self.checker.granted_after_all(at, run);
        }
        for committed in out.committed {
            self.checker.commits(now, at, committed, &mut self.story);
        }
        self.give_up(at, &out.given_up);
        let Machine::Up(process) = &self.hosts[at].machine else {
            return;
        };
        if out.hands_over {
            // The next leader waits as after any election.
            self.calm_since = self.calm_since.map(|_| now);
        }
        let from = process.me.node;
        if let Some(lead) = process.log.lead() {
            self.checker.leads(at, from, lead.term);
        }
        if let Some((term, began)) = process.log.contact(local) {
            let began = self.hosts[at].clock.at(began);
            self.checker.confirmed(at, term, began);
        }
        for (key, text) in out.notes {
            self.story.note(now, Some(at), key.map(|key| key.1), text);
        }
        for number in out.served {
            self.clients.served(number, &mut self.checker);
        }
        for (number, live) in out.placed {
            self.checker.placed(number, live);
        }
        for (to, message) in out.sends {
            self.send(at, from, to, message);
        }
    }

    fn send(&mut self, source: usize, from: NodeId, to: To, message: Message) {
        let hosts = self.hosts.len();
        let (targets, node) = match to {
            To::Host(host) if host < hosts => (host..host + 1, None),
            To::Host(_) => return,
            To::Everybody => (0..hosts, None),
            To::Node(node) => match self.hosts.iter().position(|host| host.node == node) {
                Some(host) => (host..host + 1, Some(node)),
                None => return,
            },
        };
        for host in targets.filter(|host| *host != source) {
            let envelope = Envelope {
                from,
                source,
                host,
                node,
                message: message.clone(),
            };
            self.network.send(self.now, envelope);
        }
    }

    fn check(&mut self, step: u64) {
        let mut running: Vec<(usize, Owner, SlotKey, Token)> = Vec::new();
        for (at, host) in self.hosts.iter().enumerate() {
            if let Machine::Up(process) = &host.machine {
                let runs = process.running(host.clock.now(self.now));
                running.extend(runs.map(|(key, token)| (at, process.me, key.clone(), token)));
            }
        }
        for (host, owner, key, token) in &running {
            // A process that stands still writes nothing.
            if self.hosts[*host].paused.is_none() && self.rng.random_bool(0.05) {
                self.checker.write(*host, *owner, key, *token);
            }
        }
        let living = self.hosts.iter().filter_map(|host| match &host.machine {
            Machine::Up(process) => Some(process.me),
            Machine::Down { .. } => None,
        });
        let living: Vec<Owner> = living.collect();
        self.checker.restarts(self.now, &living, self.calm_since);
        self.checker.look(self.now, &running, self.calm_since);
        if step.is_multiple_of(50) {
            self.measure();
        }
    }

    fn measure(&mut self) {
        let under_way = self.network.under_way();
        self.checker.bounded(
            None,
            "messages under way",
            under_way,
            400 * self.hosts.len(),
        );
        self.checker
            .bounded(None, "wishes of clients", self.clients.waiting(), 200);
        for (at, host) in self.hosts.iter_mut().enumerate() {
            if let Machine::Up(process) = &mut host.machine {
                if let Some(why) = process.log.failure() {
                    self.checker.log_fails(at, &why);
                }
                self.checker.compare(at, process.applied, &process.state);
                let slots = process.handover.slots().count();
                self.checker
                    .bounded(Some(at), "slots in the handover", slots, 64);
                let deaths = process.pending_deaths();
                self.checker.bounded(Some(at), "deaths to tell", deaths, 64);
                let clients = process
                    .leading
                    .as_ref()
                    .map_or(0, |leading| leading.clients());
                self.checker
                    .bounded(Some(at), "clients that wait", clients, 2_000);
            }
        }
    }
}

impl Machine {
    fn quorums(&self) -> Vec<BTreeSet<NodeId>> {
        match self {
            Self::Up(process) => process.log.quorums(),
            Self::Down { disk, .. } => disk
                .as_ref()
                .map_or(Vec::new(), |disk| disk.store.quorums()),
        }
    }
}

fn address(host: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, host as u8 + 1], 4_000))
}

/// True time of a step.
pub(crate) const STEP: Duration = Duration::from_millis(10);

/// Steps without faults at the end of a run: more than everything takes to be held again.
pub(crate) const CALM: u64 = 850;

/// Machines that may come to those there are at first.
const JOINERS: usize = 2;

/// Machines at most.
pub(crate) const HOSTS_MAX: usize = 12;

/// Messages that wait for a process.
const INBOX: usize = 4_096;

/// How often a broken connection is tried again.
const RECONNECT: Duration = Duration::from_millis(500);
