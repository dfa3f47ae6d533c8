//! States for tests: nodes that joined, by decisions as a leader makes them.

use super::{About, Changes, Command, Decision, Owner, Position, State};

pub(crate) const TERM: u64 = 1;

pub(crate) fn about() -> About {
    let addr = "127.0.0.1:1".parse().expect("it is an address");
    About {
        addr,
        http: addr,
        weight: 1,
        zone: None,
        boot_id: "boot".into(),
        version: "0".into(),
    }
}

/// Applies a decision that must be accepted.
pub(crate) fn decide(state: &mut State, decision: Decision) {
    let at = Position {
        index: 1,
        term: TERM,
    };
    let command = Command::Decide {
        term: TERM,
        decision,
    };
    let outcome = state.apply(at, command, &mut Changes::new());
    outcome.accepted().expect("the decision is accepted");
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
