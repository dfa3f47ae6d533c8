use holdfast_model::{Incarnation, NodeId, ResourceId};

use super::*;

const RETRY: Duration = Duration::from_millis(500);
const T0: Now = Duration::ZERO;

fn owner(node: u128, incarnation: u64) -> Owner {
    let incarnation = Incarnation(incarnation);
    Owner {
        node: NodeId(uuid::Uuid::from_u128(node)),
        incarnation,
    }
}

fn key() -> SlotKey {
    ("m".parse().unwrap(), Slot(1))
}

fn slot(owner: Owner, token: u64) -> SlotState {
    let resources = BTreeSet::from(["a".parse::<ResourceId>().unwrap()]);
    SlotState {
        owner: Some(owner),
        next: None,
        token: Token(token),
        resources,
    }
}

fn leaving(mut state: SlotState) -> SlotState {
    state.next = Some(owner(2, 1).node);
    state
}

fn handover() -> Handover {
    Handover::new(owner(1, 1), RETRY)
}

/// A handover whose slot runs under token 1.
fn running() -> Handover {
    let mut handover = handover();
    let actions = handover.view(T0, &key(), Some(&slot(owner(1, 1), 1)));
    assert_eq!(actions, [Action::Run(key(), Token(1))]);
    handover
}

#[test]
fn a_slot_runs_where_the_state_says_and_nowhere_else() {
    assert_eq!(handover().view(T0, &key(), Some(&slot(owner(2, 1), 1))), []);
    assert_eq!(
        handover().view(T0, &key(), Some(&slot(owner(1, 2), 1))),
        [],
        "a later incarnation"
    );
    let mut running = running();
    assert!(running.is_running(&key()));
    assert_eq!(
        running.view(T0, &key(), Some(&slot(owner(1, 1), 1))),
        [],
        "nothing is new"
    );
}

#[test]
fn a_moving_slot_stops_then_releases_then_is_forgotten() {
    let mut handover = running();
    let state = leaving(slot(owner(1, 1), 1));
    assert_eq!(
        handover.view(T0, &key(), Some(&state)),
        [Action::Stop(key(), Token(1))]
    );
    assert!(!handover.is_running(&key()));
    assert_eq!(handover.view(T0, &key(), Some(&state)), []);
    assert_eq!(
        handover.stopped(T0, &key()),
        [Action::Release(key(), Token(1))]
    );
    assert_eq!(handover.view(T0, &key(), Some(&slot(owner(2, 1), 2))), []);
    assert_eq!(handover.slots().count(), 0);
}

#[test]
fn a_release_is_proposed_again_until_it_is_answered() {
    let mut handover = running();
    handover.view(T0, &key(), Some(&leaving(slot(owner(1, 1), 1))));
    handover.stopped(T0, &key());
    assert_eq!(handover.tick(RETRY / 2), []);
    assert_eq!(handover.tick(RETRY), [Action::Release(key(), Token(1))]);
    assert_eq!(handover.tick(RETRY), []);
    handover.view(RETRY, &key(), Some(&slot(owner(2, 1), 2)));
    assert_eq!(handover.tick(RETRY * 9), []);
}

#[test]
fn a_released_slot_runs_here_again_only_under_a_newer_token() {
    let mut handover = running();
    handover.view(T0, &key(), Some(&leaving(slot(owner(1, 1), 1))));
    handover.stopped(T0, &key());
    // The move was called off, but the release is on its way.
    assert_eq!(handover.view(T0, &key(), Some(&slot(owner(1, 1), 1))), []);
    assert!(!handover.is_running(&key()));
    let returned = handover.view(T0, &key(), Some(&slot(owner(1, 1), 2)));
    assert_eq!(returned, [Action::Run(key(), Token(2))]);
}

#[test]
fn a_move_called_off_while_stopping_still_ends_in_a_release() {
    let mut handover = running();
    handover.view(T0, &key(), Some(&leaving(slot(owner(1, 1), 1))));
    assert_eq!(handover.view(T0, &key(), Some(&slot(owner(1, 1), 1))), []);
    assert_eq!(
        handover.stopped(T0, &key()),
        [Action::Release(key(), Token(1))]
    );
}

#[test]
fn an_emptied_slot_is_released() {
    let mut handover = running();
    let mut state = slot(owner(1, 1), 1);
    state.resources.clear();
    assert_eq!(
        handover.view(T0, &key(), Some(&state)),
        [Action::Stop(key(), Token(1))]
    );
    assert_eq!(
        handover.stopped(T0, &key()),
        [Action::Release(key(), Token(1))]
    );
    assert_eq!(handover.view(T0, &key(), None), []);
}

#[test]
fn a_slot_that_leaves_before_it_ran_here_is_only_released() {
    let mut handover = handover();
    let state = leaving(slot(owner(1, 1), 5));
    assert_eq!(
        handover.view(T0, &key(), Some(&state)),
        [Action::Release(key(), Token(5))]
    );
}

#[test]
fn a_slot_that_is_taken_away_is_dropped_without_a_hook() {
    let mut taken = running();
    assert_eq!(
        taken.view(T0, &key(), Some(&slot(owner(2, 1), 2))),
        [Action::Drop(key())]
    );
    let mut taken = running();
    taken.view(T0, &key(), Some(&leaving(slot(owner(1, 1), 1))));
    assert_eq!(
        taken.view(T0, &key(), None),
        [Action::Drop(key())],
        "while it was stopping"
    );
    assert_eq!(
        taken.stopped(T0, &key()),
        [],
        "there is nothing left to release"
    );
}

#[test]
fn a_returned_slot_that_is_to_leave_at_once_is_released_under_its_new_token() {
    let mut handover = running();
    handover.view(T0, &key(), Some(&leaving(slot(owner(1, 1), 1))));
    handover.stopped(T0, &key());
    let actions = handover.view(T0, &key(), Some(&leaving(slot(owner(1, 1), 2))));
    assert_eq!(actions, [Action::Release(key(), Token(2))]);
}
