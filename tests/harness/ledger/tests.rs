//! The ledger must bite: each kind of wrong is planted once, and found.

use super::*;

const A: u32 = 11;
const B: u32 = 22;

/// What a process did as its instance under a token. Instance and token are the same number.
fn by(pid: u32, token: u64, deed: Deed) -> Fact {
    let (key, instance) = (r(), token);
    match deed {
        Deed::Handled => Fact::Handled {
            key,
            pid,
            token,
            instance,
            attempt: 1,
        },
        Deed::Called => Fact::Called {
            key,
            pid,
            token,
            instance,
        },
        Deed::Terminating => Fact::Terminating {
            key,
            pid,
            token,
            instance,
        },
        Deed::Terminated => Fact::Terminated {
            key,
            pid,
            token,
            instance,
            reason: "moved".to_owned(),
        },
        Deed::Answered { .. } => unreachable!("an answer is no event"),
    }
}

fn handled(pid: u32, token: u64) -> Fact {
    by(pid, token, Deed::Handled)
}

fn called(pid: u32, token: u64) -> Fact {
    by(pid, token, Deed::Called)
}

fn r() -> Key {
    Key::new("m", "r")
}

/// A story of one resource, one event every 100 ms, from 100 ms on.
fn story(facts: impl IntoIterator<Item = Fact>) -> Ledger {
    let mut ledger = Ledger::default();
    for (i, fact) in (1..).zip(facts) {
        ledger.see(&Event { at: at(i), fact });
    }
    ledger
}

/// When the event of this number is.
fn at(number: u64) -> Duration {
    Duration::from_millis(number * 100)
}

fn wrong(facts: impl IntoIterator<Item = Fact>) -> Vec<Why> {
    story(facts).wrong.iter().map(|wrong| wrong.why).collect()
}

fn answered(ledger: &mut Ledger, token: u64, began: u64) -> Vec<Why> {
    ledger.answered(&Answered {
        key: r(),
        token,
        instance: token,
        began: at(began),
        ended: at(100),
    });
    ledger.wrong.iter().map(|wrong| wrong.why).collect()
}

#[test]
fn a_handover_and_a_takeover_are_sound() {
    let ledger = story([
        handled(A, 1),
        called(A, 1),
        by(A, 1, Deed::Terminating),
        by(A, 1, Deed::Terminated),
        handled(B, 2),
        called(B, 2),
        handled(A, 3),
    ]);
    assert_eq!(ledger.wrong, []);
    let expected = Counts {
        handovers: 1,
        takeovers: 1,
        calls: 2,
        ..Counts::default()
    };
    assert_eq!(ledger.counts, expected);
}

#[test]
fn whatever_a_former_holder_does_is_an_overlap() {
    for deed in [Deed::Called, Deed::Terminating, Deed::Terminated] {
        let facts = [handled(A, 1), handled(B, 2), by(A, 1, deed)];
        assert_eq!(wrong(facts), [Why::Overlap], "{deed:?}");
    }
    let facts = [handled(A, 2), handled(B, 3), handled(A, 1)];
    assert_eq!(wrong(facts), [Why::Overlap]);
}

#[test]
fn a_new_owner_that_does_not_wait_for_the_end_of_terminate_is_found_by_that_end() {
    let facts = [
        handled(A, 1),
        by(A, 1, Deed::Terminating),
        handled(B, 2),
        by(A, 1, Deed::Terminated),
    ];
    assert_eq!(wrong(facts), [Why::Overlap]);
}

#[test]
fn a_token_is_of_one_process() {
    assert_eq!(wrong([handled(A, 1), handled(B, 1)]), [Why::SharedToken]);
}

#[test]
fn an_instance_that_was_replaced_in_its_process_must_not_act_again() {
    let again = |instance| Fact::Handled {
        key: r(),
        pid: A,
        token: 1,
        instance,
        attempt: 2,
    };
    let ledger = story([handled(A, 1), again(7)]);
    assert_eq!((ledger.wrong.len(), ledger.counts.restarts), (0, 1));
    let facts = [handled(A, 1), again(7), called(A, 1)];
    assert_eq!(wrong(facts), [Why::Overlap]);
}

#[test]
fn who_never_reported_that_it_holds_must_not_act() {
    assert_eq!(wrong([called(A, 1)]), [Why::Stranger]);
    let of_another_process = [handled(A, 1), called(B, 1)];
    assert_eq!(wrong(of_another_process), [Why::Stranger]);
}

#[test]
fn a_holder_takes_no_calls_once_its_terminate_has_begun() {
    for end in [Deed::Terminating, Deed::Terminated] {
        let facts = [handled(A, 1), by(A, 1, end), called(A, 1)];
        assert_eq!(wrong(facts), [Why::AfterItsEnd], "{end:?}");
    }
}

#[test]
fn an_answer_of_a_former_holder_to_a_call_that_began_later_is_an_overlap() {
    let facts = || [handled(A, 1), handled(B, 2)];
    assert_eq!(answered(&mut story(facts()), 1, 1), []);
    assert_eq!(answered(&mut story(facts()), 1, 3), [Why::Overlap]);
    assert_eq!(answered(&mut story(facts()), 2, 3), []);
    assert_eq!(answered(&mut story(facts()), 3, 3), [Why::Stranger]);
}

#[test]
fn reports_of_a_process_that_was_killed_are_no_sign_of_life() {
    let facts = [
        handled(A, 1),
        Fact::Ended { pid: A },
        handled(B, 2),
        called(A, 1),
        handled(A, 1),
    ];
    assert_eq!(wrong(facts), []);
}

/// A process is stopped after the first `before` events of a life, and goes on after another
/// process took over; then it does this.
fn stopped(late: impl IntoIterator<Item = Fact>) -> Ledger {
    let begin = [
        handled(A, 1),
        Fact::Paused { pid: A },
        handled(B, 2),
        Fact::Resumed { pid: A },
    ];
    story(begin.into_iter().chain(late))
}

#[test]
fn one_report_may_have_passed_the_check_before_its_process_was_stopped() {
    let ledger = stopped([called(A, 1)]);
    assert_eq!((ledger.wrong.len(), ledger.counts.past_check), (0, 1));
}

#[test]
fn a_second_report_of_a_process_that_was_stopped_is_an_overlap() {
    let ledger = stopped([called(A, 1), called(A, 1)]);
    assert_eq!((ledger.wrong.len(), ledger.counts.past_check), (1, 1));
}

#[test]
fn a_late_report_of_a_process_that_was_stopped_is_an_overlap() {
    let ledger = stopped((0..5).map(|_| called(B, 2)).chain([called(A, 1)]));
    assert_eq!((ledger.wrong.len(), ledger.counts.past_check), (1, 0));
}

#[test]
fn a_process_that_was_stopped_only_after_the_next_began_has_no_excuse() {
    let facts = [
        handled(A, 1),
        handled(B, 2),
        Fact::Paused { pid: A },
        Fact::Resumed { pid: A },
        called(A, 1),
    ];
    assert_eq!(wrong(facts), [Why::Overlap]);
}

#[test]
fn what_is_not_answered_any_more_is_lost() {
    let mut ledger = story([handled(A, 1)]);
    let _ = answered(&mut ledger, 1, 5);
    let expected = BTreeSet::from([r(), Key::new("m", "never")]);
    assert_eq!(
        ledger.unanswered(&expected, at(5)),
        [Key::new("m", "never")]
    );
    assert_eq!(ledger.unanswered(&expected, at(6)).len(), 2);
}
