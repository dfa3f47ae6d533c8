//! Many modules and every action of an operator, in random order; then all is as it was asked for.
//!
//! ```sh
//! cargo test --workspace --test scenarios operations -- --nocapture
//! HOLDFAST_OPERATIONS_SECONDS=600 HOLDFAST_OPERATIONS_SEED=7 cargo test --workspace --test scenarios operations -- --nocapture
//! ```
//!
//! What is done waits for nothing but its own answer: the next operation meets whatever the ones before
//! have left in motion. Every so often the test lets the cluster settle, and then everything must hold:
//! each resource is held once, on the version that was deployed last; modules are even; no node is
//! idle; the voters are right; no log is flooded, and none has an error.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    process::{Command, Output, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use holdfast_model::{
    NodeId,
    api::{ModuleList, ResourceInfo, ResourceList, ResourceStatus},
};
use holdfast_tests::{
    Api, Cluster, Key, LONG, Probe, SOON,
    cluster::Join,
    component,
    ledger::{Answered, Ledger},
    operations::{Model, Operation},
    wait_until,
};
use rand::{SeedableRng as _, rngs::ChaCha8Rng, seq::IteratorRandom as _};
use serde::Deserialize;
use serde_json::json;

use crate::BIN;

/// How long operations are drawn, by default: the short form.
const SECONDS: u64 = 45;
/// How many are done before the cluster may settle.
const EPISODE: usize = 18;
const NODES: usize = 3;
const MODULES: usize = 12;

/// How long the cluster may take to settle on a loaded machine.
const SETTLED: Duration = Duration::from_secs(180);
/// How long a command may go on at all: more than any deadline that is given to one here.
const COMMAND: Duration = Duration::from_secs(120);
/// How many lines of a log may have the same second and the same words.
const SAME_LINES_MAX: usize = 40;

#[test]
fn whatever_operators_do_in_any_order_comes_true() {
    let seed = number("HOLDFAST_OPERATIONS_SEED").unwrap_or_else(rand::random);
    let seconds = number("HOLDFAST_OPERATIONS_SECONDS").unwrap_or(SECONDS);
    println!("HOLDFAST_OPERATIONS_SEED={seed} HOLDFAST_OPERATIONS_SECONDS={seconds}");
    let mut story = Story::begin(seed);
    let end = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < end {
        for _ in 0..EPISODE {
            let operation = story.model.draw(&mut story.chance);
            story.act(&operation);
        }
        story.settle();
    }
}

fn number(variable: &str) -> Option<u64> {
    let text = env::var(variable).ok()?;
    let number = text.parse();
    Some(number.unwrap_or_else(|_| panic!("{variable} is no number: {text}")))
}

/// A cluster, and what was asked of it.
struct Story {
    cluster: Cluster,
    chance: ChaCha8Rng,
    model: Model,
    ledger: Ledger,
    /// Events that the ledger has seen.
    seen: usize,
    /// How much of each node's log was read.
    read: BTreeMap<usize, usize>,
}

#[derive(Deserialize)]
struct Echo {
    token: u64,
    instance: u64,
}

impl Story {
    fn begin(seed: u64) -> Self {
        let cluster = Cluster::builder(BIN).nodes(NODES).alone().start();
        let story = Self {
            cluster,
            chance: ChaCha8Rng::seed_from_u64(seed),
            model: Model::new(NODES, MODULES),
            ledger: Ledger::default(),
            seen: 0,
            read: BTreeMap::new(),
        };
        // Nodes are lost all the time here; with the usual wait the test would do little else.
        let settings = json!({"stable_after_ms": 100});
        let ask = story.cluster.api(0).ask("PATCH", "/v1/cluster/settings");
        let _ = ask.json(&settings).answer().expect(200);
        story
    }

    fn act(&mut self, operation: &Operation) {
        println!("{:8.3} s  {operation}", self.seconds());
        match operation {
            Operation::Deploy {
                module,
                build,
                memory_mib,
            } => self.deploy(module, *build, *memory_mib),
            Operation::Remove { module } => {
                let path = format!("/v1/modules/{module}?force=true&wait=gone&timeout_ms=60000");
                self.insist(operation, |api| {
                    let answer = api.ask("DELETE", &path).patience(LONG + SOON);
                    one_of(answer, &[200, 204, 404])
                });
            }
            Operation::Allocate { module, ids } => {
                let line = |id: &String| json!({"op": "allocate", "id": id, "spec": {}});
                self.batch(operation, module, ids.iter().map(line));
            }
            Operation::Deallocate { module, ids } => {
                let line = |id: &String| json!({"op": "deallocate", "id": id});
                self.batch(operation, module, ids.iter().map(line));
            }
            Operation::Kill(node) => self.cluster.kill9(*node),
            Operation::Stop(node) => self.stop(*node),
            Operation::Start(node) => self.cluster.restart(*node),
            Operation::Pause(node, ms) => {
                self.cluster.pause(*node);
                thread::sleep(Duration::from_millis(*ms));
                self.cluster.resume(*node);
            }
            Operation::Restart(node) => self.command(&["restart", &self.id(*node), "--wait"]),
            Operation::RestartAll => self.command(&["restart", "--all"]),
            Operation::Drain(node) => self.command(&["drain", &self.id(*node), "--wait"]),
            Operation::CancelDrain(node) => self.command(&["drain", &self.id(*node), "--cancel"]),
            Operation::Join => {
                self.cluster.add(Join::default());
            }
            Operation::Leave(node) => {
                let id = self.id(*node);
                self.stop(*node);
                self.model.done(operation);
                self.command(&["nodes", "remove", &id]);
            }
            Operation::Weight(node, weight) => {
                let (id, weight) = (self.id(*node), weight.to_string());
                self.command(&["nodes", "set", &id, "--weight", &weight]);
            }
            Operation::Voters(voters) => {
                self.command(&["settings", "--voters", &voters.to_string()]);
            }
            Operation::Look => {
                for line in [
                    "status",
                    "nodes",
                    "modules",
                    "plan",
                    "settings",
                    "nodes --format json",
                ] {
                    let args: Vec<&str> = line.split(' ').collect();
                    self.command(&args);
                }
            }
        }
        if !matches!(operation, Operation::Leave(_)) {
            self.model.done(operation);
        }
        self.judge();
    }

    fn deploy(&mut self, module: &str, build: u32, memory_mib: u32) {
        let mut settings = Probe::settings(self.cluster.collector());
        settings["limits"]["memory_bytes_max"] = (u64::from(memory_mib) << 20).into();
        let operation = format!("deploy {module}");
        self.insist(&operation, |api| {
            let ask = api.ask("PUT", &format!("/v1/modules/{module}"));
            let ask = ask
                .header("content-type", "application/wasm")
                .header("holdfast-settings", &settings)
                .body(probe(build))
                .patience(LONG);
            one_of(ask, &[200, 201, 202])
        });
    }

    fn batch(
        &mut self,
        operation: &Operation,
        module: &str,
        lines: impl Iterator<Item = serde_json::Value>,
    ) {
        let lines: String = lines.map(|line| format!("{line}\n")).collect();
        let path = format!("/v1/modules/{module}/resources:batch");
        self.insist(operation, |api| {
            let ask = api.ask("POST", &path).body(lines.clone()).patience(LONG);
            let ask = ask.header("content-type", "application/x-ndjson");
            let answer = one_of(ask, &[200])?;
            let text = String::from_utf8_lossy(&answer);
            // What was deallocated by the first attempt, whose answer was lost, is not there any more.
            let failed = text.lines().find(|line| {
                !line.contains("\"result\"") && !line.contains("problem:unknown-resource")
            });
            failed.map_or(Ok(()), |line| Err(line.to_owned()))
        });
    }

    fn stop(&mut self, node: usize) {
        let status = self.cluster.stop(node);
        assert_eq!(status.code(), Some(0), "exit of node {node}");
    }

    /// Runs a command as an operator would, through any node, again until it succeeds.
    fn command(&mut self, args: &[&str]) {
        let what = args.join(" ");
        let mut tries = 0;
        let deadline = Instant::now() + SETTLED;
        loop {
            let through = self.any();
            let server = format!("http://{}", self.cluster.listening(through).http);
            let output = run(&server, args);
            if output.status.success() {
                return;
            }
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            tries += 1;
            println!(
                "            {what} through node {through}, try {tries}: {}: {said}",
                output.status
            );
            assert!(
                Instant::now() < deadline,
                "`holdfast {what}` never succeeds: {said}"
            );
            thread::sleep(Duration::from_millis(500));
        }
    }

    /// Asks, through any node, again until it is done.
    fn insist<T>(
        &mut self,
        what: &(impl std::fmt::Display + ?Sized),
        mut ask: impl FnMut(&Api) -> Result<T, String>,
    ) {
        let what = what.to_string();
        wait_until(&what, SETTLED, || {
            let through = self.any();
            let api = self.cluster.api(through);
            let done = ask(&api).map(|_| ());
            if let Err(why) = &done {
                println!("            {what}: {why}");
            }
            done
        });
    }

    /// A node that works.
    fn any(&mut self) -> usize {
        let nodes = self.model.nodes.iter().filter(|(_, node)| node.runs);
        let running = self.cluster.running();
        let able = nodes.map(|(number, _)| *number);
        let mut able = able.filter(|node| running.contains(node));
        able.by_ref()
            .choose(&mut self.chance)
            .expect("at most one is down")
    }

    fn id(&self, node: usize) -> String {
        self.cluster.listening(node).node.to_string()
    }

    fn seconds(&self) -> f64 {
        self.cluster.collector().now().as_secs_f64()
    }

    /// Lets the ledger see what is new, and makes sure that nothing is wrong.
    #[track_caller]
    fn judge(&mut self) {
        let events = self.cluster.collector().events_after(self.seen);
        self.seen += events.len();
        for event in &events {
            self.ledger.see(event);
        }
        let wrong = self.ledger.wrong.iter().take(5);
        let wrong: Vec<String> = wrong.map(ToString::to_string).collect();
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }

    /// Makes every node work again, and waits until everything is as it was asked for.
    fn settle(&mut self) {
        for operation in self.model.settle() {
            self.act(&operation);
        }
        println!("{:8.3} s  settles", self.seconds());
        let (_, took) = wait_until("everything is as it was asked for", SETTLED, || {
            self.nodes_are_right()?;
            self.modules_are_right()
        });
        let calls = self.call_all();
        self.judge();
        println!(
            "{:8.3} s  settled after {:.1} s: {} modules, {calls} resources on {} nodes",
            self.seconds(),
            took.as_secs_f64(),
            self.model.modules.len(),
            self.model.nodes.len(),
        );
        self.logs_are_right();
    }

    fn nodes_are_right(&self) -> Result<(), String> {
        let nodes: Vec<usize> = self.model.nodes.keys().copied().collect();
        for node in &nodes {
            let api = self.cluster.api(*node);
            api.ready()?;
            let info = api.cluster()?;
            let active = info.nodes.active as usize == nodes.len();
            let voters = info.voters.len() == self.model.voters_due();
            let all = info.nodes.total as usize == nodes.len();
            if info.stale || !active || !all || !voters || info.leader.is_none() {
                return Err(format!("node {node} says {info:?}"));
            }
            let known: BTreeSet<NodeId> = nodes
                .iter()
                .map(|node| self.cluster.listening(*node).node)
                .collect();
            if !info.voters.iter().all(|voter| known.contains(voter)) {
                return Err(format!("a voter is no node: {:?}", info.voters));
            }
        }
        Ok(())
    }

    fn modules_are_right(&mut self) -> Result<(), String> {
        let through = self.any();
        let api = self.cluster.api(through);
        let list: ModuleList = api.get("/v1/modules").answer().is(200)?.json();
        let names: BTreeSet<String> = list
            .modules
            .iter()
            .map(|module| module.module.to_string())
            .collect();
        let due: BTreeSet<String> = self.model.modules.keys().cloned().collect();
        if names != due {
            return Err(format!("modules: {names:?}, not {due:?}"));
        }
        for info in &list.modules {
            let name = info.module.to_string();
            let due = &self.model.modules[&name];
            let version = &info.version;
            let memory = version.settings.limits.memory_bytes_max >> 20;
            let digest = holdfast_model::Digest::of(&probe(due.build));
            if info.rollout.is_some()
                || memory != u64::from(due.memory_mib)
                || version.digest != digest
            {
                return Err(format!("{name} is not {due:?}: {info:?}"));
            }
            let resources = resources(&api, &name)?;
            let ids: BTreeSet<String> = resources
                .iter()
                .map(|resource| resource.id.to_string())
                .collect();
            if ids != due.ids {
                return Err(format!(
                    "{name} has {} resources, not {}",
                    ids.len(),
                    due.ids.len()
                ));
            }
            for resource in &resources {
                let held = resource.status == ResourceStatus::Held;
                if !held || resource.version != Some(version.number) {
                    return Err(format!("{resource:?} of version {}", version.number));
                }
            }
            self.is_even(&name, &resources)?;
        }
        Ok(())
    }

    /// Each node has its share of a module, by its weight, within one resource and 1%, or what a slot
    /// with several of them makes of it.
    fn is_even(&self, module: &str, resources: &[ResourceInfo]) -> Result<(), String> {
        let mut owned: BTreeMap<NodeId, usize> = BTreeMap::new();
        for resource in resources {
            let owner = resource.owner.ok_or("it has no owner")?;
            *owned.entry(owner.node).or_default() += 1;
        }
        let weights: u32 = self.model.nodes.values().map(|node| node.weight).sum();
        for (node, due) in &self.model.nodes {
            let id = self.cluster.listening(*node).node;
            let has = owned.get(&id).copied().unwrap_or_default() as f64;
            let fair = resources.len() as f64 * f64::from(due.weight) / f64::from(weights);
            if (has - fair).abs() > 2.0 + fair / 100.0 {
                return Err(format!(
                    "node {node} owns {has} of {module}, where {fair:.1} of {} are its share: {owned:?}",
                    resources.len()
                ));
            }
        }
        Ok(())
    }

    /// Calls every resource through any node. How many there are.
    fn call_all(&mut self) -> usize {
        let modules = self.model.modules.iter();
        let all: Vec<Key> = modules
            .flat_map(|(name, module)| module.ids.iter().map(|id| Key::new(name, id)))
            .collect();
        for key in &all {
            let through = self.any();
            let api = self.cluster.api(through);
            let began = self.cluster.collector().now();
            let ask = api.invoke(&key.module, &key.id, Probe::echo());
            let echo: Echo = ask.patience(LONG).answer().expect(200).json();
            let answered = Answered {
                key: key.clone(),
                token: echo.token,
                instance: echo.instance,
                began,
                ended: self.cluster.collector().now(),
            };
            self.judge();
            self.ledger.answered(&answered);
        }
        all.len()
    }

    /// No log repeats itself without end, and none says that a human must act: nobody must.
    fn logs_are_right(&mut self) {
        for node in self.model.nodes.keys() {
            let log = fs::read(self.cluster.log_file(*node)).unwrap_or_default();
            let from = self.read.insert(*node, log.len()).unwrap_or_default();
            let text = String::from_utf8_lossy(&log[from..]).into_owned();
            let mut same: BTreeMap<String, usize> = BTreeMap::new();
            for line in text.lines() {
                let second = line.get(..19).unwrap_or_default();
                let words = line.split_whitespace().skip(1);
                let words: Vec<&str> = words.filter(|word| !word.contains('=')).take(12).collect();
                *same
                    .entry(format!("{second} {}", words.join(" ")))
                    .or_default() += 1;
                assert!(
                    words.first().is_none_or(|level| *level != "ERROR"),
                    "the log of node {node} has an error: {line}"
                );
            }
            if let Some((line, count)) = same.iter().find(|(_, count)| **count > SAME_LINES_MAX) {
                panic!("the log of node {node} says {count} times in a second: {line}");
            }
        }
    }
}

/// All resources of a module.
fn resources(api: &Api, module: &str) -> Result<Vec<ResourceInfo>, String> {
    let mut all = Vec::new();
    let mut cursor = String::new();
    loop {
        let path = format!("/v1/modules/{module}/resources?limit=1000{cursor}");
        let page: ResourceList = api.get(&path).answer().is(200)?.json();
        all.extend(page.resources);
        match page.next_cursor {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return Ok(all),
        }
    }
}

/// One of many builds of the probe: the same code, another digest.
fn probe(build: u32) -> Bytes {
    let mut bytes = component::probe().to_vec();
    let payload = [b"\x05build".as_slice(), &build.to_le_bytes()].concat();
    // A custom section: its id, its size, and a name in front.
    bytes.extend([0, u8::try_from(payload.len()).expect("it is short")]);
    bytes.extend(payload);
    bytes.into()
}

/// The body of the answer, if it has one of these statuses.
fn one_of(ask: holdfast_tests::Ask, statuses: &[u16]) -> Result<Bytes, String> {
    let answer = ask.send().map_err(|error| error.to_string())?;
    match statuses.contains(&answer.status) {
        true => Ok(answer.body),
        false => Err(answer.to_string()),
    }
}

/// Runs a command to its end.
fn run(server: &str, args: &[&str]) -> Output {
    let child = Command::new(BIN)
        .args(["--server", server])
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    let (tell, ended) = mpsc::channel();
    thread::spawn(move || tell.send(child.wait_with_output()));
    let output = ended.recv_timeout(COMMAND).unwrap_or_else(|_| {
        panic!(
            "`holdfast {}` goes on after {COMMAND:?}: what does it wait for?",
            args.join(" ")
        )
    });
    output.expect("a child can be waited for")
}
