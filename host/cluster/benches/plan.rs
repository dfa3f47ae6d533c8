//! What a round of the leader costs: `cargo bench --workspace --bench plan`.
//!
//! It is planned under the lock of the state, and after each change: nothing is applied meanwhile.
//! Prints a Markdown table of medians and what they are to be at most.

use std::{
    collections::BTreeSet,
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant},
};

use holdfast_cluster::state::{
    About, Changes, Cluster, ClusterSettings, Command, Decision, Outcome, Position, State,
};
use holdfast_model::{
    ClusterId, Digest, Incarnation, Labels, ModuleName, NodeId, ResourceId, Settings, Slot, Spec,
    Weight,
};
use uuid::Uuid;

fn main() {
    println!(
        "| nodes | modules | resources | a round when | slots placed | median | at most | met |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for resources in [1_000, 10_000, 100_000] {
        let ids = (0..resources).map(id).collect();
        rounds(3, 1, ids, None);
    }
    rounds(100, 10, one_in_each_slot(), Some(LARGE_MAX));
}

/// Rounds of a cluster in each of the ways in which it may be.
fn rounds(nodes: u128, modules: usize, ids: Vec<ResourceId>, at_most: Option<Duration>) {
    let resources = ids.len() * modules;
    let mut copy = Copy::with(nodes, modules, &ids);
    let all: BTreeSet<NodeId> = (1..=nodes).map(node).collect();
    let row = |copy: &Copy, live: &BTreeSet<NodeId>, when: &str| {
        let placed = copy.state.plan(live, live, MOVES_MAX).len();
        let median = time(|| drop(black_box(copy.state.plan(live, live, MOVES_MAX))));
        let (aim, met) = match at_most {
            None => (String::new(), ""),
            Some(max) if median <= max => (format!("{max:?}"), "yes"),
            Some(max) => (format!("{max:?}"), "**no**"),
        };
        println!(
            "| {nodes} | {modules} | {resources} | {when} | {placed} | {median:.3?} | {aim} | {met} |"
        );
    };
    row(&copy, &all, "nothing is to move");
    copy.join(nodes + 1);
    let joined = (1..=nodes + 1).map(node).collect();
    row(&copy, &joined, "a node has joined");
    copy.vacate(nodes + 1);
    let _ = copy.apply(Command::Drain {
        node: node(1),
        draining: true,
        deadline_ms: None,
    });
    row(&copy, &all, "a node is drained");
    copy.vacate(2);
    let survivors = all.iter().copied().filter(|it| *it != node(2)).collect();
    row(&copy, &survivors, "another has died");
}

/// As few ids as fill every slot.
fn one_in_each_slot() -> Vec<ResourceId> {
    let mut filled = BTreeSet::new();
    let fills = |id: &ResourceId| filled.insert(id.slot());
    (0..1_000_000)
        .map(id)
        .filter(fills)
        .take(usize::from(Slot::COUNT))
        .collect()
}

/// A copy of the state of a cluster.
struct Copy {
    state: State,
    index: u64,
}

impl Copy {
    fn with(nodes: u128, modules: usize, ids: &[ResourceId]) -> Self {
        let mut copy = Self {
            state: State::default(),
            index: 0,
        };
        let _ = copy.apply(Command::Found(Cluster {
            id: ClusterId(Uuid::from_u128(1)),
            name: "bench".parse().expect("it is a name"),
            founded_at_ms: 1,
            settings: ClusterSettings::DEFAULT,
            outlasting: None,
        }));
        for number in 1..=nodes {
            copy.join(number);
        }
        let live: BTreeSet<NodeId> = (1..=nodes).map(node).collect();
        for number in 0..modules {
            let module: ModuleName = format!("bench-{number}").parse().expect("it is a name");
            let _ = copy.apply(Command::Deploy {
                module: module.clone(),
                digest: Digest::of(b"component"),
                size: 9,
                settings: Arc::new(Settings::default()),
                at_ms: 1,
            });
            let placed = copy.state.place(&module, ids.iter(), &live);
            let spec = Spec::from_json(b"{}").expect("it is an object");
            let _ = copy.apply(Command::Allocate {
                module,
                entries: ids.iter().map(|id| (id.clone(), spec.clone())).collect(),
                placed,
                at_ms: 1,
            });
        }
        copy
    }

    fn join(&mut self, number: u128) {
        self.decide(Decision::Join {
            node: node(number),
            incarnation: Incarnation(1),
            about: about(),
            at_ms: 1,
        });
    }

    fn vacate(&mut self, number: u128) {
        self.decide(Decision::Vacate {
            node: node(number),
            incarnation: Incarnation(1),
        });
    }

    fn decide(&mut self, decision: Decision) {
        let _ = self.apply(Command::Decide { term: 1, decision });
    }

    fn apply(&mut self, command: Command) -> Outcome {
        self.index += 1;
        let at = Position {
            index: self.index,
            term: 1,
        };
        self.state.apply(at, command, &mut Changes::new())
    }
}

/// The median of some times.
fn time(mut act: impl FnMut()) -> Duration {
    let times = (0..ROUNDS).map(|_| {
        let begin = Instant::now();
        act();
        begin.elapsed()
    });
    let mut times: Vec<Duration> = times.collect();
    times.sort_unstable();
    times[ROUNDS / 2]
}

fn id(number: usize) -> ResourceId {
    format!("r{number}").parse().expect("it is an id")
}

fn node(number: u128) -> NodeId {
    NodeId(Uuid::from_u128(number))
}

fn about() -> About {
    About {
        addr: ([127, 0, 0, 1], 7301).into(),
        http: ([127, 0, 0, 1], 7300).into(),
        weight: Weight::MAX,
        zone: None,
        labels: Labels::default(),
        boot_id: "boot".into(),
        version: "0.1.0".into(),
    }
}

/// As the leader has it.
const MOVES_MAX: usize = 16;

/// What a round of a large cluster is to take at most.
const LARGE_MAX: Duration = Duration::from_millis(500);

/// Odd, so that the middle one is the median.
const ROUNDS: usize = 31;
