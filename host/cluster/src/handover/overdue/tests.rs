use std::collections::BTreeSet;

use holdfast_model::{Incarnation, NodeId};

use super::*;
use crate::state::{
    Command, Decision, Placed,
    sample::{allocate, apply, decide, founded, join},
};

const T0: Now = Duration::from_secs(100);

fn run(node: u128) -> Owner {
    Owner {
        node: NodeId(uuid::Uuid::from_u128(node)),
        incarnation: Incarnation(1),
    }
}

/// Node 1 owns the resource `a` of the module `m`; and how long it may take to give it away.
fn owned() -> (State, Duration) {
    let mut state = founded();
    join(&mut state, run(1));
    join(&mut state, run(2));
    allocate(&mut state, "a", run(1).node);
    let limit = limit(&state.modules()[&module()]);
    (state, limit)
}

fn module() -> holdfast_model::ModuleName {
    "m".parse().unwrap()
}

fn place(state: &mut State, to: Owner) {
    let id: holdfast_model::ResourceId = "a".parse().unwrap();
    let (slot, token) = (id.slot(), state.slot(&module(), id.slot()).unwrap().token);
    let slots = vec![(module(), Placed { slot, to: to.node }, token)];
    decide(state, Decision::Place { slots });
}

#[test]
fn an_owner_that_outlasts_every_limit_of_a_move_is_named() {
    let (mut state, limit) = owned();
    let mut overdue = Overdue::default();
    assert_eq!(overdue.owners(T0, &state), BTreeSet::new());
    place(&mut state, run(2));
    // It counts from when the leader saw it, not from before.
    let began = T0 + Duration::from_secs(3_600);
    assert_eq!(overdue.owners(began, &state), BTreeSet::new());
    let last = began + limit - Duration::from_millis(1);
    assert_eq!(overdue.owners(last, &state), BTreeSet::new());
    assert_eq!(
        overdue.owners(began + limit, &state),
        BTreeSet::from([run(1)])
    );
}

#[test]
fn an_owner_that_keeps_its_slot_has_all_the_time() {
    let (mut state, limit) = owned();
    let mut overdue = Overdue::default();
    place(&mut state, run(2));
    overdue.owners(T0, &state);
    place(&mut state, run(1));
    assert_eq!(overdue.owners(T0 + limit, &state), BTreeSet::new());
    // Another move begins anew.
    place(&mut state, run(2));
    assert_eq!(overdue.owners(T0 + limit, &state), BTreeSet::new());
    assert_eq!(
        overdue.owners(T0 + 2 * limit, &state),
        BTreeSet::from([run(1)])
    );
}

#[test]
fn an_owner_must_give_away_what_has_no_resource_left() {
    let (mut state, limit) = owned();
    let mut overdue = Overdue::default();
    let deallocate = Command::Deallocate {
        module: module(),
        ids: vec!["a".parse().unwrap()],
    };
    apply(&mut state, 1, deallocate);
    assert_eq!(overdue.owners(T0, &state), BTreeSet::new());
    assert_eq!(overdue.owners(T0 + limit, &state), BTreeSet::from([run(1)]));
}

#[test]
fn what_a_handler_may_take_is_granted_to_its_owner() {
    let (state, limit) = owned();
    let limits = &state.modules()[&module()].about.version.settings.limits;
    let hooks = limits.call_timeout_ms + 2 * limits.terminate_timeout_ms;
    assert!(limit >= Duration::from_millis(hooks), "{limit:?}");
}
