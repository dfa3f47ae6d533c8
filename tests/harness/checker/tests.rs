//! The checker must bite: each kind of wrong is planted once, and found.

use super::*;

const A: u32 = 11;
const B: u32 = 22;

/// A story of one resource `m/r`, one event a millisecond.
fn story(facts: impl IntoIterator<Item = Fact>) -> Findings {
    let events: Vec<Event> = (1..)
        .zip(facts)
        .map(|(ms, fact)| Event {
            at: Duration::from_millis(ms),
            fact,
        })
        .collect();
    check(&events)
}

fn r() -> Key {
    Key::new("m", "r")
}

fn handled(pid: u32, token: u64) -> Fact {
    Fact::Handled {
        key: r(),
        pid,
        token,
        instance: token,
        attempt: 1,
    }
}

fn terminating(pid: u32) -> Fact {
    Fact::Terminating {
        key: r(),
        pid,
        token: 0,
        instance: 0,
    }
}

fn terminated(pid: u32, reason: &str) -> Fact {
    Fact::Terminated {
        key: r(),
        pid,
        token: 0,
        instance: 0,
        reason: reason.to_owned(),
    }
}

#[test]
fn a_clean_move_is_sound_and_its_gap_is_measured() {
    let findings = story([
        handled(A, 1),
        terminating(A),
        terminated(A, "moved"),
        handled(B, 2),
    ]);
    findings.assert_undisturbed();
    assert_eq!(findings.holder("m", "r").unwrap().pid, B);
    let ms = Duration::from_millis;
    let gaps = findings.gaps_since(Duration::ZERO).unwrap();
    assert_eq!((gaps.count, gaps.median, gaps.worst), (1, ms(2), ms(2)));
    assert_eq!(findings.gaps_since(ms(5)), None);
}

#[test]
fn a_new_owner_that_does_not_wait_for_the_end_of_terminate_is_found() {
    let elsewhere = story([handled(A, 1), terminating(A), handled(B, 2)]);
    assert_eq!(elsewhere.overlaps.len(), 1);
    let in_its_process = story([handled(A, 1), terminating(A), handled(A, 2)]);
    assert_eq!(in_its_process.restarts, [(r(), A)]);
}

#[test]
fn what_is_ending_is_not_held_as_it_should_be() {
    let expected = BTreeSet::from([r()]);
    story([handled(A, 1)])
        .holds_exactly("m", &expected)
        .unwrap();
    let ending = story([handled(A, 1), terminating(A)]);
    let reason = ending.holds_exactly("m", &expected).unwrap_err();
    assert!(reason.ends_with("1 are ending"), "{reason}");
}

#[test]
fn a_planted_overlap_is_found() {
    let findings = story([handled(A, 1), handled(B, 2), terminated(A, "moved")]);
    let [overlap] = findings.overlaps.as_slice() else {
        panic!("{findings:#?}");
    };
    assert_eq!((overlap.first.pid, overlap.second.pid), (A, B));
    assert_eq!(overlap.key, r());
}

#[test]
#[should_panic(expected = "overlaps")]
fn a_planted_overlap_fails_a_test() {
    story([handled(A, 1), handled(B, 2)]).assert_undisturbed();
}

#[test]
fn a_resource_that_is_held_twice_at_the_end_is_not_held_exactly_once() {
    let findings = story([handled(A, 1), handled(B, 2)]);
    let error = findings
        .holds_exactly("m", &BTreeSet::from([r()]))
        .unwrap_err();
    assert!(error.contains("1 are held twice"), "{error}");
}

#[test]
fn a_planted_loss_is_found() {
    let expected = BTreeSet::from([r()]);
    for end in [terminated(A, "moved"), Fact::Ended { pid: A }] {
        let findings = story([handled(A, 1), end]);
        assert_eq!(findings.lost(&expected), [&r()]);
        assert!(findings.holds_exactly("m", &expected).is_err());
    }
    assert_eq!(story([]).lost(&expected), [&r()]);
}

#[test]
fn a_resource_that_nobody_asked_for_is_not_as_expected() {
    let findings = story([handled(A, 1)]);
    assert!(findings.holds_exactly("m", &BTreeSet::new()).is_err());
    assert!(findings.holds_exactly("other", &BTreeSet::new()).is_ok());
}

#[test]
fn a_new_owner_without_a_larger_token_is_found() {
    for token in [4, 5] {
        let findings = story([handled(A, 5), terminated(A, "moved"), handled(B, token)]);
        assert_eq!(findings.regressions.len(), 1, "token {token} after 5");
    }
    let same_owner = story([handled(A, 5), terminated(A, "upgraded"), handled(A, 5)]);
    same_owner.assert_undisturbed();
    let older = story([handled(A, 5), terminated(A, "upgraded"), handled(A, 4)]);
    assert_eq!(older.regressions.len(), 1);
}

#[test]
fn an_old_owner_that_terminates_late_is_found() {
    let findings = story([
        handled(A, 1),
        terminated(A, "moved"),
        terminated(A, "moved"),
    ]);
    assert_eq!(findings.strays, [(r(), A)]);
}

#[test]
fn a_lost_instance_shows_as_a_restart() {
    let findings = story([handled(A, 1), handled(A, 1)]);
    findings.assert_undisturbed_but_for(&[r()]);
    assert_eq!(findings.restarts, [(r(), A)]);
}

#[test]
#[should_panic(expected = "two in one process")]
fn two_instances_in_one_process_fail_a_test() {
    story([handled(A, 1), handled(A, 2)]).assert_undisturbed();
}

#[test]
#[should_panic(expected = "did not hold")]
fn two_instances_that_both_terminate_fail_a_test_that_expects_a_restart() {
    let facts = [handled(A, 1), handled(A, 2), terminated(A, "moved")];
    let findings = story(facts.into_iter().chain([terminated(A, "moved")]));
    findings.assert_undisturbed_but_for(&[r()]);
}

#[test]
fn what_a_killed_process_held_is_free_from_then_on() {
    let findings = story([
        handled(A, 1),
        Fact::Ended { pid: A },
        terminated(A, "moved"),
        handled(A, 1),
        handled(B, 2),
    ]);
    findings.assert_undisturbed();
    assert_eq!(findings.gaps[0].from, Duration::from_millis(2));
    assert_eq!(findings.gaps[0].to, Duration::from_millis(5));
}

#[test]
fn a_stopped_process_holds_again_only_what_nobody_took() {
    let back = story([
        handled(A, 1),
        Fact::Paused { pid: A },
        Fact::Resumed { pid: A },
    ]);
    assert_eq!(back.holder("m", "r").unwrap().pid, A);

    let taken = story([
        handled(A, 1),
        Fact::Paused { pid: A },
        handled(B, 2),
        Fact::Resumed { pid: A },
    ]);
    taken.assert_undisturbed();
    assert_eq!(taken.holder("m", "r").unwrap().pid, B);

    let fights = story([
        handled(A, 1),
        Fact::Paused { pid: A },
        handled(B, 2),
        Fact::Resumed { pid: A },
        handled(A, 3),
    ]);
    assert_eq!(fights.overlaps.len(), 1);
}

#[test]
fn a_removed_resource_leaves_no_gap() {
    let findings = story([handled(A, 1), terminated(A, "removed"), handled(B, 2)]);
    assert_eq!(findings.gaps, []);
}

#[test]
fn spread_counts_by_process() {
    let mut facts = Vec::new();
    for (id, pid) in [("a", A), ("b", A), ("c", B)] {
        facts.push(Fact::Handled {
            key: Key::new("m", id),
            pid,
            token: 1,
            instance: 1,
            attempt: 1,
        });
    }
    facts.push(handled_in("other", A));
    assert_eq!(story(facts).spread("m"), BTreeMap::from([(A, 2), (B, 1)]));
}

fn handled_in(module: &str, pid: u32) -> Fact {
    Fact::Handled {
        key: Key::new(module, "r"),
        pid,
        token: 1,
        instance: 1,
        attempt: 1,
    }
}

#[test]
fn what_is_taken_from_a_process_that_lost_its_lease_is_no_overlap_unless_it_went_on() {
    let anew = Fact::StartedAnew { pid: A };
    let called = |pid| Fact::Called {
        key: r(),
        pid,
        token: 1,
        instance: 1,
    };
    let findings = story([handled(A, 1), called(A), handled(B, 2), anew.clone()]);
    findings.assert_undisturbed();
    assert_eq!(
        findings.holder("m", "r").map(|holding| holding.pid),
        Some(B)
    );
    // It worked on after somebody else had begun.
    let findings = story([handled(A, 1), handled(B, 2), called(A), anew.clone()]);
    assert_eq!(findings.overlaps.len(), 1);
    // The other one did not lose its lease.
    let findings = story([handled(B, 1), handled(A, 2), anew.clone()]);
    assert_eq!(findings.overlaps.len(), 1);
    // It holds again what it gets afterwards.
    let findings = story([handled(A, 1), anew, handled(A, 2)]);
    findings.assert_undisturbed();
    assert_eq!(
        findings.holder("m", "r").map(|holding| holding.token),
        Some(2)
    );
}
