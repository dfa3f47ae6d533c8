//! States for tests: nodes that joined, by decisions as a leader makes them.

use std::sync::Arc;

use holdfast_model::{ClusterId, Digest, Labels, ModuleName, NodeId, ResourceId, Spec, Weight};

use super::{
    About, Changes, Cluster, ClusterSettings, Command, Decision, Owner, Placed, Position, State,
};

pub(crate) const TERM: u64 = 1;

pub(crate) fn about() -> About {
    let addr = "127.0.0.1:1".parse().expect("it is an address");
    About {
        addr,
        http: addr,
        weight: Weight::MAX,
        zone: None,
        labels: Labels::default(),
        boot_id: "boot".into(),
        version: "0".into(),
    }
}

pub(crate) fn cluster(id: u128) -> Cluster {
    Cluster {
        id: ClusterId(uuid::Uuid::from_u128(id)),
        name: "c".parse().expect("it is a name"),
        founded_at_ms: 1,
        settings: ClusterSettings::DEFAULT,
        outlasting: None,
    }
}

/// The state of a cluster without nodes.
pub(crate) fn founded() -> State {
    let mut state = State::default();
    apply(&mut state, 1, Command::Found(cluster(1)));
    state
}

/// Applies a command that must be accepted.
pub(crate) fn apply(state: &mut State, index: u64, command: Command) {
    let at = Position { index, term: TERM };
    let outcome = state.apply(at, command, &mut Changes::new());
    outcome.accepted().expect("the command is accepted");
}

/// Applies a decision that must be accepted.
pub(crate) fn decide(state: &mut State, decision: Decision) {
    let command = Command::Decide {
        term: TERM,
        decision,
    };
    apply(state, 1, command);
}

/// Allocates a resource of the module `m`, which is deployed before, on a node.
pub(crate) fn allocate(state: &mut State, id: &str, to: NodeId) {
    let module: ModuleName = "m".parse().expect("it is a name");
    let deploy = Command::Deploy {
        module: module.clone(),
        digest: Digest::of(b"component"),
        size: 9,
        settings: Arc::default(),
        at_ms: 1,
    };
    apply(state, 1, deploy);
    let id: ResourceId = id.parse().expect("it is an id");
    let slot = id.slot();
    let allocate = Command::Allocate {
        module,
        entries: vec![(id, Spec::default())],
        placed: vec![Placed { slot, to }],
        at_ms: 1,
    };
    apply(state, 1, allocate);
}

/// Has a run of a node join.
pub(crate) fn join(state: &mut State, Owner { node, incarnation }: Owner) {
    let join = Decision::Join {
        node,
        incarnation,
        about: about(),
        at_ms: 1,
    };
    decide(state, join);
}
