//! Five nodes in network namespaces, everything going wrong at once, and 64 clients that go on asking.
//!
//! ```sh
//! cargo test --workspace --test scenarios chaos -- --nocapture
//! HOLDFAST_CHAOS_SECONDS=1800 cargo test --workspace --test scenarios chaos -- --nocapture
//! HOLDFAST_CHAOS_SEED=7 cargo test --workspace --test scenarios chaos -- --nocapture
//! ```
//!
//! The seed gives the schedule of faults. What they meet depends on the machine too.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fmt, fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use holdfast_model::api::ClusterInfo;
use holdfast_tests::{
    Cluster, Key, LONG, Probe, SOON,
    checker::Fact,
    faults::{Fault, Step, Target, schedule},
    invokers::{Call, Invokers, MODULE, Outages, Outcome},
    ledger::{Answered, Ledger},
    netns::{self, Loss, Network},
    probe::ids,
    wait_until,
};
use rand::{SeedableRng as _, rngs::ChaCha8Rng};

use crate::BIN;

/// How long faults are made, by default: the short form.
const SECONDS: u64 = 40;

/// Faults, then none until all is held again, and so on.
const EPISODE: Duration = Duration::from_secs(20);

const NODES: usize = 5;
const RESOURCES: usize = 48;
const INVOKERS: usize = 64;
/// How many resources are allocated while faults are made.
const ALLOCATIONS: u32 = 64;

/// What a loaded machine may add to the time of a failover before the cluster counts as not
/// recovering: nodes that were killed start meanwhile, all of them on a few cores.
const SLACK: Duration = Duration::from_secs(15);

/// How long everything has to be answered before the next faults.
const CALM: Duration = Duration::from_secs(3);

#[test]
fn no_two_nodes_act_for_a_resource_and_none_is_lost_whatever_goes_wrong() {
    let test = "chaos::no_two_nodes_act_for_a_resource_and_none_is_lost_whatever_goes_wrong";
    netns::test(test, NODES, |network| {
        let seed = number("HOLDFAST_CHAOS_SEED").unwrap_or_else(rand::random);
        let seconds = number("HOLDFAST_CHAOS_SECONDS").unwrap_or(SECONDS);
        println!("HOLDFAST_CHAOS_SEED={seed} HOLDFAST_CHAOS_SECONDS={seconds}");
        let mut chance = ChaCha8Rng::seed_from_u64(seed);
        let mut left = Duration::from_secs(seconds);
        let mut story = Story::begin(network, seed, left / ALLOCATIONS);
        while !left.is_zero() {
            let length = left.min(EPISODE);
            let steps = schedule(&mut chance, NODES, length);
            story.suffer(&steps);
            story.recover();
            left -= length;
        }
        story.end();
    });
}

fn number(variable: &str) -> Option<u64> {
    let text = env::var(variable).ok()?;
    let number = text.parse();
    Some(number.unwrap_or_else(|_| panic!("{variable} is no number: {text}")))
}

/// A cluster under faults, and what is known of it from outside.
struct Story {
    // First: fields are dropped in their order, and the cluster's folder goes with it.
    #[expect(dead_code, reason = "acts when dropped")]
    keeper: Keeper,
    cluster: Cluster,
    invokers: Invokers,
    ledger: Ledger,
    /// Events that the ledger has seen.
    seen: usize,
    outages: Outages,
    /// Calls without an answer, until it is known what the node went through.
    unanswered: Vec<Call>,
    /// When each process was last seen to have begun anew.
    anew: BTreeMap<u32, Instant>,
    /// What must be held: everything that was allocated, and acknowledged.
    acknowledged: BTreeSet<Key>,
    /// What is done to the network now.
    losses: BTreeMap<usize, Fault>,
    /// What became of the processes that faults of these numbers befell.
    processes: BTreeMap<usize, Fault>,
    /// The last known.
    leader: usize,
    /// What the cluster says that it needs after silence.
    failover_max: Duration,
    tally: Tally,
}

/// All of it in numbers.
#[derive(Debug, Default)]
struct Tally {
    faults: BTreeMap<&'static str, usize>,
    /// Faults whose node was stopped or down already.
    void: usize,
    statuses: BTreeMap<u16, usize>,
    unanswered: usize,
    /// Processes that lost their lease and began anew.
    begun_anew: usize,
    packets_lost: u64,
    allocated: usize,
    recoveries: Vec<Duration>,
}

impl Story {
    fn begin(network: Network, seed: u64, allocate_every: Duration) -> Self {
        let cluster = Cluster::builder(BIN).nodes(NODES).network(network);
        let cluster = cluster.alone().start();
        let mut settings = Probe::settings(cluster.collector());
        // Calls wait while their resource has no owner, and there are many callers.
        settings["limits"]["queue_calls_max"] = INVOKERS.into();
        Probe::deploy_with(&cluster.api(0), MODULE, &settings);
        let ids = ids("r", RESOURCES);
        let spec = Probe::slow_to_terminate();
        cluster.api(0).allocate_all_as(MODULE, &ids, &spec);
        cluster.collector().wait_held(MODULE, &ids, LONG);
        let info = cluster.api(0).cluster().expect("it is formed");
        let apis = (0..NODES).map(|node| cluster.api(node)).collect();
        let collector = cluster.collector();
        let invokers = Invokers::start(INVOKERS, apis, &ids, allocate_every, collector, seed);
        Self {
            keeper: Keeper::of(&cluster, seed),
            invokers,
            ledger: Ledger::default(),
            seen: 0,
            outages: Outages::default(),
            unanswered: Vec::new(),
            anew: BTreeMap::new(),
            acknowledged: ids.iter().map(|id| Key::new(MODULE, id)).collect(),
            losses: BTreeMap::new(),
            processes: BTreeMap::new(),
            leader: cluster.leader(),
            failover_max: Duration::from_millis(info.failover_ms_max),
            tally: Tally::default(),
            cluster,
        }
    }

    fn now(&self) -> Duration {
        self.cluster.collector().now()
    }

    /// Does all of this to the cluster, and makes it good again.
    fn suffer(&mut self, steps: &[Step]) {
        let begins = steps
            .iter()
            .enumerate()
            .map(|(i, step)| (step.from, i, true));
        let ends = steps
            .iter()
            .enumerate()
            .map(|(i, step)| (step.until, i, false));
        let mut turns: Vec<_> = begins.chain(ends).collect();
        turns.sort_unstable();
        let start = self.now();
        for (when, number, begins) in turns {
            thread::sleep((start + when).saturating_sub(self.now()));
            if begins {
                self.inflict(number, &steps[number].fault);
            } else {
                self.make_good(number);
            }
        }
    }

    fn inflict(&mut self, number: usize, fault: &Fault) {
        let fault = match fault.target() {
            Some(Target::Leader) => {
                self.find_leader();
                fault.of(self.leader)
            }
            _ => fault.clone(),
        };
        let busy = |other: &Fault| other.target() == fault.target();
        if fault.target().is_some() && self.processes.values().any(busy) {
            self.tally.void += 1;
            return;
        }
        println!("{:8.3} s  {fault}", self.now().as_secs_f64());
        *self.tally.faults.entry(fault.kind()).or_default() += 1;
        match fault {
            Fault::Stopped(Target::Node(node)) => {
                self.outages.begin(node, self.now());
                self.cluster.pause(node);
                self.processes.insert(number, fault);
            }
            Fault::Killed(Target::Node(node)) => {
                // What is known of the process ends with it.
                self.note_begun_anew(node);
                // It may be killed between two runs.
                self.outages.began_anew(node, self.now());
                self.outages.begin(node, self.now());
                self.cluster.kill9(node);
                self.processes.insert(number, fault);
            }
            _ => {
                self.losses.insert(number, fault);
                self.tell_the_switch();
            }
        }
    }

    fn make_good(&mut self, number: usize) {
        if let Some(fault) = self.losses.remove(&number) {
            println!("{:8.3} s  no more: {fault}", self.now().as_secs_f64());
            self.tell_the_switch();
        }
        let Some(fault) = self.processes.remove(&number) else {
            return;
        };
        println!("{:8.3} s  no more: {fault}", self.now().as_secs_f64());
        match fault {
            Fault::Killed(Target::Node(node)) => {
                self.cluster.restart(node);
                self.invokers.redirect(node, self.cluster.api(node));
                self.outages.end(node, self.now());
            }
            Fault::Stopped(Target::Node(node)) => {
                self.cluster.resume(node);
                self.outages.end(node, self.now());
            }
            _ => unreachable!("{fault} befalls no process"),
        }
    }

    fn tell_the_switch(&mut self) {
        let all = self.losses.values();
        let losses: Vec<Loss> = all.flat_map(|fault| fault.losses(NODES)).collect();
        self.tally.packets_lost += self.cluster.network().lose(&losses);
    }

    /// Asks all who can answer; the newest term counts.
    fn find_leader(&mut self) {
        let stopped: Vec<_> = self.processes.values().filter_map(Fault::target).collect();
        let can_answer = |node: &usize| !stopped.contains(&Target::Node(*node));
        let nodes = self.cluster.running().into_iter().filter(can_answer);
        let answers = nodes.filter_map(|node| {
            let ask = self.cluster.api(node).get("/v1/cluster");
            // Who has no contact with a leader takes its time to say so.
            ask.patience(Duration::from_millis(300)).send().ok()
        });
        let newest = answers
            .filter(|answer| answer.status == 200)
            .map(|answer| answer.json::<ClusterInfo>())
            .filter(|info| !info.stale)
            .filter_map(|info| Some((info.term, info.leader?)))
            .max();
        if let Some((_, leader)) = newest {
            self.leader = self.cluster.number_of(leader);
        }
    }

    /// Waits until everything is answered and goes on to be, and judges all until then.
    fn recover(&mut self) {
        let healed = self.now();
        let mut last_failure = healed;
        let mut report = String::new();
        let deadline = healed + LONG + LONG;
        loop {
            for call in self.judge() {
                let failed = matches!(call.outcome, Outcome::Failed(_) | Outcome::Unanswered(_));
                if failed && call.began >= healed {
                    last_failure = last_failure.max(call.ended);
                    report = format!("{call:?}");
                }
            }
            let now = self.now();
            let lost = self.ledger.unanswered(&self.acknowledged, last_failure);
            if lost.is_empty() && now >= last_failure + CALM {
                break;
            }
            assert!(
                now < deadline,
                "{} s after the last fault was made good {lost:?} are not answered; the last \
                 failure: {report}",
                (now - healed).as_secs()
            );
            thread::sleep(Duration::from_millis(100));
        }
        self.explain_unanswered();
        let took = last_failure - healed;
        println!(
            "{:8.3} s  all {} are held again, the last failure was {:.3} s after the last fault",
            self.now().as_secs_f64(),
            self.acknowledged.len(),
            took.as_secs_f64(),
        );
        assert!(
            took <= self.failover_max + SLACK,
            "it took {took:?}, where {:?} are promised; the last failure: {report}",
            self.failover_max
        );
        self.tally.recoveries.push(took);
    }

    /// Lets the ledger see what is new, gives the calls that are, and makes sure that nothing is wrong.
    fn judge(&mut self) -> Vec<Call> {
        // Calls first: every event until their end is among the events that are asked for then.
        let calls = self.invokers.take();
        let events = self.cluster.collector().events_after(self.seen);
        self.seen += events.len();
        for event in &events {
            self.ledger.see(event);
        }
        let mut wrong: Vec<String> = Vec::new();
        for call in &calls {
            match &call.outcome {
                Outcome::Served { token, instance } => {
                    *self.tally.statuses.entry(200).or_default() += 1;
                    self.ledger.answered(&Answered {
                        key: call.key.clone(),
                        token: *token,
                        instance: *instance,
                        began: call.began,
                        ended: call.ended,
                    });
                }
                Outcome::Allocated => {
                    self.tally.allocated += 1;
                    self.acknowledged.insert(call.key.clone());
                }
                Outcome::Failed(status) => *self.tally.statuses.entry(*status).or_default() += 1,
                Outcome::Unanswered(_) => self.unanswered.push(call.clone()),
                Outcome::Wrong(_) => wrong.push(format!("{call:?}")),
            }
        }
        wrong.extend(self.ledger.wrong.iter().map(ToString::to_string));
        self.make_sure_of_nothing(&wrong);
        calls
    }

    /// Makes sure that a node was stopped, killed or begun anew wherever a call was not answered.
    fn explain_unanswered(&mut self) {
        for node in 0..NODES {
            self.note_begun_anew(node);
        }
        let unanswered = std::mem::take(&mut self.unanswered);
        self.tally.unanswered += unanswered.len();
        let explained = |call: &&Call| match &call.outcome {
            Outcome::Unanswered(unanswered) => self.outages.explain(call, unanswered),
            _ => false,
        };
        let wrong = unanswered.iter().filter(|call| !explained(call));
        let wrong: Vec<_> = wrong.map(|call| format!("{call:?}")).collect();
        self.make_sure_of_nothing(&wrong);
    }

    /// Notes when a node that runs has begun anew.
    fn note_begun_anew(&mut self, node: usize) {
        let zero = self.cluster.collector().zero();
        let last = self.anew.entry(self.cluster.pid(node)).or_insert(zero);
        for at in self.cluster.begun_anew(node) {
            if at > *last {
                *last = at;
                self.tally.begun_anew += 1;
                self.outages.began_anew(node, at - zero);
            }
        }
    }

    #[track_caller]
    fn make_sure_of_nothing(&self, wrong: &[String]) {
        if wrong.is_empty() {
            return;
        }
        let keys = self.ledger.wrong.iter().map(|wrong| &wrong.key);
        self.tell(&keys.collect());
        let some = wrong.iter().take(10).map(String::as_str);
        panic!(
            "{} things are wrong, the first of them:\n{}",
            wrong.len(),
            some.collect::<Vec<_>>().join("\n")
        );
    }

    /// Prints what was seen of these resources and of the processes.
    fn tell(&self, keys: &BTreeSet<&Key>) {
        let numbers: BTreeMap<u32, usize> = (self.cluster.running().into_iter())
            .map(|node| (self.cluster.pid(node), node))
            .collect();
        println!("pids of the nodes that run: {numbers:?}");
        for event in self.cluster.collector().events() {
            let told = match &event.fact {
                Fact::Handled { key, .. }
                | Fact::Called { key, .. }
                | Fact::Terminating { key, .. }
                | Fact::Terminated { key, .. } => keys.contains(key),
                _ => true,
            };
            if told {
                println!("{:8.3} s  {:?}", event.at.as_secs_f64(), event.fact);
            }
        }
    }

    /// Ends the calls and judges the whole.
    fn end(mut self) {
        let quiet = self.now();
        self.invokers.stop();
        let _ = self.judge();
        self.explain_unanswered();
        // Whoever is asked says the same.
        for node in 0..NODES {
            let api = self.cluster.api(node);
            for key in &self.acknowledged {
                wait_until("a call of the resource is answered", SOON, || {
                    api.invoke(MODULE, &key.id, Probe::echo()).answer().is(200)
                });
            }
        }
        self.cluster.wait_formed();
        println!("after {:.0} s:\n{self}", quiet.as_secs_f64());
    }
}

impl fmt::Display for Story {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { ledger, tally, .. } = self;
        let worst = tally.recoveries.iter().max().copied().unwrap_or_default();
        let mut sorted = tally.recoveries.clone();
        sorted.sort_unstable();
        let median = sorted.get(sorted.len() / 2).copied().unwrap_or_default();
        writeln!(
            f,
            "packets lost: {}, nodes that began anew: {}",
            tally.packets_lost, tally.begun_anew
        )?;
        writeln!(
            f,
            "faults: {:?}, and {} on a node that was stopped or down already",
            tally.faults, tally.void
        )?;
        writeln!(
            f,
            "calls by status: {:?}, unanswered by a node that was stopped or down: {}",
            tally.statuses, tally.unanswered
        )?;
        writeln!(
            f,
            "allocated meanwhile and acknowledged: {}",
            tally.allocated
        )?;
        writeln!(f, "{:?}", ledger.counts)?;
        writeln!(
            f,
            "wrong: {}, lost: 0 of {}",
            ledger.wrong.len(),
            self.acknowledged.len()
        )?;
        write!(
            f,
            "from the last fault to the last failure, {} times: median {:.3} s, worst {:.3} s, \
             where {:.1} s are said",
            sorted.len(),
            median.as_secs_f64(),
            worst.as_secs_f64(),
            self.failover_max.as_secs_f64(),
        )
    }
}

/// Keeps the nodes' logs of a story that fails.
struct Keeper {
    from: Vec<PathBuf>,
    to: PathBuf,
}

impl Keeper {
    fn of(cluster: &Cluster, seed: u64) -> Self {
        let logs = (0..NODES).map(|node| cluster.data_dir(node).with_file_name("log"));
        Self {
            from: logs.collect(),
            to: Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("chaos-{seed}")),
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        if !thread::panicking() || fs::create_dir_all(&self.to).is_err() {
            return;
        }
        for (node, log) in self.from.iter().enumerate() {
            let _ = fs::copy(log, self.to.join(format!("node-{node}.log")));
        }
        eprintln!("the logs of all nodes are in {}", self.to.display());
    }
}
