use std::collections::BTreeSet;

use uuid::Uuid;

use super::*;
use crate::state::{
    Owner,
    sample::{self, decide},
};

fn death(node: u128, incarnation: u64) -> Death {
    Death {
        node: NodeId(Uuid::from_u128(node)),
        incarnation: Incarnation(incarnation),
    }
}

fn join(state: &mut State, Death { node, incarnation }: Death) {
    sample::join(state, Owner { node, incarnation });
}

fn pending(evidence: &mut Evidence, state: &State) -> BTreeSet<Death> {
    evidence.pending(state).into_iter().collect()
}

#[test]
fn a_death_is_told_until_the_state_has_it() {
    let (mut state, mut evidence) = (State::default(), Evidence::default());
    join(&mut state, death(1, 1));
    evidence.add(death(1, 1));
    assert_eq!(pending(&mut evidence, &state), [death(1, 1)].into());
    assert_eq!(pending(&mut evidence, &state), [death(1, 1)].into());
    let decision = death(1, 1).decision(&state).expect("it is present");
    decide(&mut state, decision);
    assert_eq!(pending(&mut evidence, &state), [].into());
    assert_eq!(death(1, 1).decision(&state), None);
}

#[test]
fn the_death_of_a_former_run_harms_no_later_one() {
    let (mut state, mut evidence) = (State::default(), Evidence::default());
    join(&mut state, death(1, 2));
    evidence.add(death(1, 1));
    assert_eq!(death(1, 1).decision(&state), None);
    assert_eq!(pending(&mut evidence, &state), [].into());
}

#[test]
fn a_death_before_its_join_is_applied_here_is_kept() {
    let (mut state, mut evidence) = (State::default(), Evidence::default());
    evidence.add(death(1, 1));
    assert_eq!(pending(&mut evidence, &state), [death(1, 1)].into());
    join(&mut state, death(1, 1));
    assert_eq!(pending(&mut evidence, &state), [death(1, 1)].into());
}

#[test]
fn a_run_that_was_replaced_keeps_its_slots_for_the_next_one() {
    let (mut state, mut evidence) = (State::default(), Evidence::default());
    join(&mut state, death(1, 1));
    evidence.replaced(death(1, 1));
    assert_eq!(pending(&mut evidence, &state), [].into());
}

#[test]
fn a_run_that_dies_before_it_joined_takes_the_one_it_replaced_with_it() {
    let (mut state, mut evidence) = (State::default(), Evidence::default());
    join(&mut state, death(1, 1));
    evidence.replaced(death(1, 1));
    evidence.add(death(1, 2));
    let all = pending(&mut evidence, &state);
    assert!(all.contains(&death(1, 1)), "{all:?}");
    let freed = all.iter().find_map(|death| death.decision(&state));
    decide(&mut state, freed.expect("the first run can be freed"));
    assert_eq!(pending(&mut evidence, &state), [].into());
}
