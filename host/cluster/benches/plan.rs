//! What a round of the leader costs: `cargo bench -p holdfast-cluster`.
//!
//! It is planned under the lock of the state, and after each change: nothing is applied meanwhile.

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
    ClusterId, Digest, Incarnation, Labels, ModuleName, NodeId, ResourceId, Settings, Spec, Weight,
};
use uuid::Uuid;

fn main() {
    for resources in [1_000, 10_000, 100_000] {
        let mut copy = Copy::with(resources);
        let live: BTreeSet<NodeId> = (1..=3).map(node).collect();
        let idle = time(|| drop(black_box(copy.state.plan(&live, &live, MOVES_MAX))));
        let draining = Command::Drain {
            node: node(1),
            draining: true,
            deadline_ms: None,
        };
        let _ = copy.apply(draining);
        let moving = time(|| drop(black_box(copy.state.plan(&live, &live, MOVES_MAX))));
        println!(
            "{resources:6} resources: {idle:?} when nothing is to move, {moving:?} in a drain"
        );
    }
}

/// A copy of the state of three nodes.
struct Copy {
    state: State,
    index: u64,
}

impl Copy {
    fn with(resources: usize) -> Self {
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
        let live: BTreeSet<NodeId> = (1..=3).map(node).collect();
        for node in &live {
            let join = Decision::Join {
                node: *node,
                incarnation: Incarnation(1),
                about: about(),
                at_ms: 1,
            };
            let _ = copy.apply(Command::Decide {
                term: 1,
                decision: join,
            });
        }
        let module: ModuleName = "bench".parse().expect("it is a name");
        let _ = copy.apply(Command::Deploy {
            module: module.clone(),
            digest: Digest::of(b"component"),
            size: 9,
            settings: Arc::new(Settings::default()),
            at_ms: 1,
        });
        let ids = (0..resources).map(|n| format!("r{n}").parse().expect("it is an id"));
        let ids: Vec<ResourceId> = ids.collect();
        let placed = copy.state.place(&module, ids.iter(), &live);
        let spec = Spec::from_json(b"{}").expect("it is an object");
        let _ = copy.apply(Command::Allocate {
            module,
            entries: ids.into_iter().map(|id| (id, spec.clone())).collect(),
            placed,
            at_ms: 1,
        });
        copy
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

/// The shortest of some times.
fn time(mut act: impl FnMut()) -> Duration {
    let times = (0..ROUNDS).map(|_| {
        let begin = Instant::now();
        act();
        begin.elapsed()
    });
    times.min().unwrap_or_default()
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
const MOVES_MAX: usize = 32;

const ROUNDS: usize = 50;
