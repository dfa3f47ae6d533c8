//! A whole cluster on virtual time: machines, wires, clients, and what goes wrong.
//!
//! Invariant: the same [`Config`] gives the same run. Nothing here reads a clock or a global.

mod harm;

use std::{collections::BTreeSet, net::SocketAddr, sync::Arc, time::Duration};

use holdfast_cluster::{
    handover::{Now, SlotKey},
    state::{Cluster, ClusterSettings, Command, Decision, Owner},
};
use holdfast_model::{ClusterId, Digest, Token};
use rand::{RngExt, SeedableRng, rngs::ChaCha8Rng};

use crate::{
    checker::{Checker, Violation, module},
    clients::{Clients, Pool},
    faults::{Blow, Fault, Faults, Injector},
    leader::about,
    log::{Disk, Entry, What},
    network::{Envelope, Message, Network, To},
    node::{Bug, Out, Process, TERMS},
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
    pub(crate) bug: Option<Bug>,
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
            bug: None,
        }
    }
}

/// What came of a run.
pub(crate) struct Run {
    pub(crate) violation: Option<Violation>,
    pub(crate) steps: u64,
    pub(crate) story: Story,
    pub(crate) committed: usize,
}

struct Host {
    clock: Clock,
    addr: SocketAddr,
    machine: Machine,
    /// Until when its process stands still.
    paused: Option<Duration>,
    lags: bool,
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
}

enum Machine {
    Up(Box<Process>),
    Down {
        disk: Box<Disk>,
        until: Duration,
        refused_at: Duration,
    },
}

pub(crate) struct World<'a> {
    config: Config,
    now: Duration,
    hosts: Vec<Host>,
    network: Network,
    cuts: Vec<(Duration, BTreeSet<(usize, usize)>)>,
    drains: Vec<(Duration, usize)>,
    later: Vec<(Duration, Blow)>,
    injector: Injector,
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
        let mut world = Self {
            now: Duration::ZERO,
            hosts: Vec::new(),
            network: Network::new(rng(1)),
            cuts: Vec::new(),
            drains: Vec::new(),
            later: Vec::new(),
            injector: Injector::new(rng(2), config.faults.clone()),
            clients: Clients::new(rng(3), pool),
            checker: Checker::default(),
            story: Story::default(),
            rng: rng(4),
            nodes: 0,
            config,
        };
        let first = world.founding();
        for _ in 0..world.config.nodes {
            let mut disk = world.disk();
            for entry in &first {
                disk.push(entry.clone());
            }
            disk.term = 1;
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
            story: self.story,
            committed: self.checker.committed(),
        }
    }

    /// What every first node has in its log: the founding, the nodes, and a module.
    fn founding(&self) -> Vec<Arc<Entry>> {
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
                incarnation: holdfast_model::Incarnation(1),
                about: about(address(number - 1)),
                at_ms: 0,
            },
        });
        let commands = [found, deploy].into_iter().chain(joins).map(What::Command);
        [What::Voters(vec![set])]
            .into_iter()
            .chain(commands)
            .map(|what| Arc::new(Entry { term: 1, what }))
            .collect()
    }

    fn disk(&mut self) -> Disk {
        self.nodes += 1;
        Disk::new(story::node(self.nodes))
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
        let machine = Machine::Down {
            disk: Box::new(disk),
            until: self.now,
            refused_at: Duration::MAX,
        };
        self.hosts.push(Host {
            clock,
            addr: address(self.hosts.len()),
            machine,
            paused: None,
            lags: false,
            inbox: Vec::new(),
        });
    }

    fn step(&mut self, step: u64) {
        self.now += STEP;
        let calm = step >= self.config.calm_from;
        if step == self.config.calm_from {
            self.calm_down();
        }
        if !calm && let Some(blow) = self.injector.next(self.now, self.hosts.len()) {
            self.suffer(blow);
        }
        let due = self.now;
        let blows: Vec<_> = self.later.extract_if(.., |(at, _)| *at <= due).collect();
        for (_, blow) in blows.into_iter().filter(|_| !calm) {
            self.suffer(blow);
        }
        self.heal();
        if calm && step.is_multiple_of(100) {
            self.clients.take_back_drains(&self.checker);
        }
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
        if host.paused.take().is_some() {
            let text = "goes on".to_owned();
            self.story.note(now, Some(at), None, text);
        }
        let local = host.clock.now(now);
        let mut out = Out::default();
        if let Machine::Down { disk, until, .. } = &mut host.machine
            && now >= *until
        {
            let disk = std::mem::replace(&mut **disk, Disk::new(story::node(0)));
            let rng = ChaCha8Rng::seed_from_u64(self.rng.random());
            let bug = self.config.bug;
            let process = Process::start(disk, local, host.addr, addresses(), rng, bug, &mut out);
            host.machine = Machine::Up(Box::new(process));
        }
        let Machine::Up(process) = &mut host.machine else {
            return;
        };
        process.lags = host.lags;
        let inbox = std::mem::take(&mut host.inbox);
        process.step(local, inbox, &mut out);
        self.checker.commits(now, at, process, &mut self.story);
        let from = process.me.node;
        for (key, text) in out.notes {
            self.story.note(now, Some(at), key.map(|key| key.1), text);
        }
        for number in out.served {
            self.clients.served(number, &mut self.checker);
        }
        for (position, live) in out.placed {
            self.checker.placed(position, live);
        }
        for (to, message) in out.sends {
            self.send(at, from, to, message);
        }
    }

    fn send(&mut self, source: usize, from: holdfast_model::NodeId, to: To, message: Message) {
        let hosts = self.hosts.len();
        let (targets, node) = match to {
            To::Host(host) if host < hosts => (host..host + 1, None),
            To::Host(_) => return,
            To::Everybody => (0..hosts, None),
            To::Node(node) => {
                let is = |host: &Host| host.machine.disk().node == node;
                match self.hosts.iter().position(is) {
                    Some(host) => (host..host + 1, Some(node)),
                    None => return,
                }
            }
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
        let calm =
            (step >= self.config.calm_from).then(|| STEP * (self.config.calm_from as u32 + 1));
        self.checker.look(self.now, &running, calm);
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
    fn disk(&self) -> &Disk {
        match self {
            Self::Up(process) => &process.disk,
            Self::Down { disk, .. } => disk,
        }
    }
}

fn address(host: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, host as u8 + 1], 4_000))
}

/// True time of a step.
const STEP: Duration = Duration::from_millis(10);

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
