use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::state::{
    ClusterSettings, Command, SettingsChange,
    sample::{self, apply, decide, founded, join},
};

const TERMS: Terms = Terms::DEFAULT;

fn ms(ms: u64) -> Now {
    Duration::from_millis(ms)
}

fn run(node: u128, incarnation: u64) -> Owner {
    Owner {
        node: NodeId(Uuid::from_u128(node)),
        incarnation: Incarnation(incarnation),
    }
}

/// A leader elected at 0 that has just been confirmed, and a state with one member.
fn leader(now: Now) -> (Grantor, State) {
    let (mut grantor, mut state) = (Grantor::new(Duration::ZERO, 0), founded());
    grantor.confirmed(now);
    join(&mut state, run(1, 1));
    (grantor, state)
}

fn grant(index: u64) -> Answer {
    Answer::Granted(Grant {
        terms: TERMS,
        index,
    })
}

#[test]
fn the_usual_terms_are_safe_and_bad_ones_are_refused() {
    TERMS.check().unwrap();
    let long_election = Terms {
        contact: ms(1_000),
        ..TERMS
    };
    let refused = long_election.check().unwrap_err();
    assert!(matches!(refused, Unsafe::Guard { .. }));
    assert!(refused.to_string().contains("raise the guard"));
    let short = Terms {
        ttl: ms(2_000),
        ..TERMS
    };
    assert!(matches!(short.check(), Err(Unsafe::Ttl { .. })));
    // No arithmetic overflows on what somebody mistyped.
    let endless = Terms {
        ttl: Duration::MAX,
        ..TERMS
    };
    assert!(matches!(endless.check(), Err(Unsafe::Long(_))));
    let endless = Terms {
        guard: Duration::MAX,
        ..TERMS
    };
    assert!(matches!(endless.check(), Err(Unsafe::Ttl { .. })));
}

#[test]
fn a_lease_counts_from_before_it_was_asked_for() {
    let mut holder = Holder::default();
    assert_eq!(holder.standing(ms(0), 9), Standing::Waiting);
    holder.answered(ms(100), ms(900), grant(5));
    assert_eq!(
        holder.standing(ms(900), 9),
        Standing::Runs { until: ms(2_600) }
    );
}

#[test]
fn nothing_runs_before_the_state_has_what_the_leader_had() {
    let mut holder = Holder::default();
    holder.answered(ms(0), ms(0), grant(5));
    assert_eq!(holder.standing(ms(1), 4), Standing::Waiting);
    // Later grants ask for nothing more: what is taken away later is released first.
    holder.answered(ms(500), ms(501), grant(50));
    assert!(matches!(holder.standing(ms(501), 5), Standing::Runs { .. }));
}

#[test]
fn a_lease_that_ended_never_comes_back() {
    let mut holder = Holder::default();
    holder.answered(ms(0), ms(1), grant(0));
    let end = ms(2_500);
    assert!(matches!(
        holder.standing(end - ms(1), 0),
        Standing::Runs { .. }
    ));
    assert_eq!(holder.standing(end, 0), Standing::Lost);
    holder.answered(end, end, grant(0));
    assert_eq!(holder.standing(end, 0), Standing::Over);

    // Nor does one whose end was slept through, with the next grant already in the inbox.
    let mut holder = Holder::default();
    holder.answered(ms(0), ms(1), grant(0));
    holder.answered(ms(2_400), ms(60_000), grant(0));
    assert_eq!(holder.standing(ms(60_000), 0), Standing::Lost);
}

#[test]
fn a_lease_is_lost_until_a_leader_with_a_majority_is_heard_after_its_end() {
    let lost = || {
        let mut holder = Holder::default();
        holder.answered(ms(0), ms(1), grant(0));
        assert_eq!(holder.standing(ms(9_000), 0), Standing::Lost);
        holder
    };
    // Asked before the end: it says nothing of the time since.
    let mut holder = lost();
    holder.answered(ms(2_499), ms(9_000), grant(0));
    // A leader without a majority says neither yes nor no.
    holder.answered(ms(9_000), ms(9_001), Answer::NotNow);
    assert_eq!(holder.standing(ms(9_001), 0), Standing::Lost);
    for told in [grant(0), Answer::Over] {
        let mut holder = lost();
        holder.answered(ms(2_500), ms(9_000), told);
        assert_eq!(holder.standing(ms(9_000), 0), Standing::Over, "{told:?}");
        holder.answered(ms(9_001), ms(9_002), grant(0));
        assert_eq!(holder.standing(ms(9_002), 0), Standing::Over);
    }
    // Whoever never ran has nothing that could go on.
    let mut holder = Holder::default();
    holder.answered(ms(0), ms(1), Answer::Over);
    assert_eq!(holder.standing(ms(1), 0), Standing::Over);
}

#[test]
fn an_older_term_never_takes_the_place_of_a_newer_one() {
    let (_, state) = leader(ms(0));
    let mut grants: Grants = Grants::default();
    let of_second = grants.of_term(2, ms(10), 5).expect("none is newer");
    of_second.grantor.confirmed(ms(20));
    of_second.grantor.condemn(run(1, 1));
    // Read before the second term began, used after.
    assert!(grants.of_term(1, ms(1), 0).is_none());
    let of_second = grants.of_term(2, ms(30), 9).expect("it is the same one");
    let answer = of_second.grantor.answer(ms(30), run(1, 1), &state, 9);
    assert_eq!(answer, Answer::Over, "it is condemned still");
    let of_third = grants.of_term(3, ms(40), 12).expect("it is newer");
    of_third.grantor.confirmed(ms(40));
    assert_eq!(
        of_third.grantor.answer(ms(40), run(1, 1), &state, 12),
        grant(12)
    );
}

#[test]
fn answers_may_come_in_any_order() {
    let mut holder = Holder::default();
    holder.answered(ms(500), ms(600), grant(0));
    holder.answered(ms(0), ms(700), grant(0));
    holder.answered(ms(0), ms(700), Answer::NotNow);
    assert_eq!(
        holder.standing(ms(700), 0),
        Standing::Runs { until: ms(3_000) }
    );
    holder.answered(ms(0), ms(800), Answer::Over);
    assert_eq!(holder.standing(ms(800), 0), Standing::Over);
}

#[test]
fn a_leader_grants_only_to_members_and_only_in_contact_with_a_quorum() {
    let (mut grantor, state) = leader(ms(1_000));
    assert_eq!(grantor.answer(ms(1_100), run(1, 1), &state, 7), grant(7));
    assert_eq!(
        grantor.answer(ms(1_100), run(2, 1), &state, 7),
        Answer::NotNow
    );
    assert_eq!(
        grantor.answer(ms(1_600), run(1, 1), &state, 7),
        Answer::NotNow
    );
    grantor.confirmed(ms(1_500));
    assert_eq!(grantor.answer(ms(1_600), run(1, 1), &state, 7), grant(7));
    grantor.pause(true);
    assert_eq!(
        grantor.answer(ms(1_600), run(1, 1), &state, 7),
        Answer::NotNow
    );
}

#[test]
fn a_leader_grants_nothing_before_it_knows_what_earlier_ones_decided() {
    let mut state = founded();
    join(&mut state, run(1, 1));
    let mut grantor = Grantor::new(ms(0), 7);
    grantor.confirmed(ms(0));
    // Entry 6, of the leader before, may say that the asker is dead.
    let early = grantor.answer(ms(1), run(1, 1), &state, 5);
    assert_eq!(early, Answer::NotNow);
    let Owner { node, incarnation } = run(1, 1);
    decide(&mut state, Decision::Vacate { node, incarnation });
    assert_eq!(grantor.answer(ms(2), run(1, 1), &state, 7), Answer::Over);

    join(&mut state, run(1, 2));
    assert_eq!(grantor.answer(ms(3), run(1, 2), &state, 7), grant(7));
}

#[test]
fn a_contact_that_began_earlier_takes_nothing_back() {
    let (mut grantor, state) = leader(ms(1_000));
    grantor.confirmed(ms(200));
    assert_eq!(grantor.answer(ms(1_500), run(1, 1), &state, 7), grant(7));
}

#[test]
fn incarnations_that_were_replaced_or_ended_get_nothing_any_more() {
    let (mut grantor, mut state) = leader(ms(0));
    join(&mut state, run(1, 2));
    assert_eq!(grantor.answer(ms(1), run(1, 1), &state, 7), Answer::Over);
    assert_eq!(grantor.answer(ms(1), run(1, 2), &state, 7), grant(7));
    let Owner { node, incarnation } = run(1, 2);
    decide(&mut state, Decision::Vacate { node, incarnation });
    assert_eq!(grantor.answer(ms(1), run(1, 2), &state, 7), Answer::Over);
    // A later one has not joined yet.
    assert_eq!(grantor.answer(ms(1), run(1, 3), &state, 7), Answer::NotNow);
}

#[test]
fn silence_is_death_only_after_the_lease_and_both_guards() {
    let (mut grantor, state) = leader(ms(1_000));
    assert_eq!(grantor.silent(ms(1_000), &state), vec![]);
    grantor.answer(ms(1_100), run(1, 1), &state, 7);
    assert_eq!(grantor.silent(ms(4_599), &state), vec![]);
    assert_eq!(grantor.silent(ms(4_600), &state), vec![run(1, 1)]);
    // Whoever was given up gets nothing, though it asks and nothing was decided yet.
    grantor.confirmed(ms(4_600));
    assert_eq!(
        grantor.answer(ms(4_601), run(1, 1), &state, 7),
        Answer::Over
    );
    assert_eq!(grantor.silent(ms(4_601), &state), vec![run(1, 1)]);
}

#[test]
fn a_new_leader_counts_the_grants_of_earlier_ones_from_its_election() {
    let mut state = founded();
    join(&mut state, run(1, 1));
    let mut grantor = Grantor::new(ms(10_000), 0);
    assert!(!grantor.has_expired(ms(13_499), run(1, 1), &state));
    assert!(grantor.has_expired(ms(13_500), run(1, 1), &state));
    assert_eq!(grantor.silent(ms(10_100), &state), vec![]);
    assert_eq!(grantor.silent(ms(13_600), &state), vec![run(1, 1)]);
}

#[test]
fn a_member_that_has_not_asked_yet_has_the_time_of_a_lease_for_it() {
    let (mut grantor, mut state) = leader(ms(0));
    grantor.silent(ms(0), &state);
    join(&mut state, run(2, 1));
    assert_eq!(grantor.silent(ms(100_000), &state), vec![run(1, 1)]);
    assert_eq!(grantor.silent(ms(103_499), &state), vec![run(1, 1)]);
    assert_eq!(
        grantor.silent(ms(103_500), &state),
        vec![run(1, 1), run(2, 1)]
    );
}

fn set_ttl(state: &mut State, index: u64, ttl: Duration) {
    let change = SettingsChange {
        lease_ttl: Some(ttl),
        ..SettingsChange::default()
    };
    apply(state, index, Command::Set(change));
}

#[test]
fn longer_leases_are_granted_and_waited_for_at_once() {
    let (mut grantor, mut state) = leader(ms(1_000));
    grantor.answer(ms(1_000), run(1, 1), &state, 7);
    set_ttl(&mut state, 8, ms(10_000));
    assert!(!grantor.has_expired(ms(4_500), run(1, 1), &state));
    assert!(grantor.has_expired(ms(11_500), run(1, 1), &state));
    let terms = Terms {
        ttl: ms(10_000),
        ..TERMS
    };
    let granted = Answer::Granted(Grant { terms, index: 8 });
    assert_eq!(grantor.answer(ms(1_100), run(1, 1), &state, 8), granted);
    assert_eq!(grantor.outlasted(ms(100_000), &state), None);
}

#[test]
fn shorter_leases_are_waited_for_only_when_the_longer_ones_are_over() {
    let (mut grantor, mut state) = leader(ms(0));
    set_ttl(&mut state, 8, ms(10_000));
    assert_eq!(grantor.outlasted(ms(900), &state), None);
    // One of 10 s was granted a moment before the change.
    grantor.confirmed(ms(1_000));
    grantor.answer(ms(1_000), run(1, 1), &state, 8);
    set_ttl(&mut state, 9, ms(3_000));
    assert_eq!(grantor.outlasted(ms(1_001), &state), None);
    assert!(!grantor.has_expired(ms(11_499), run(1, 1), &state));
    assert_eq!(grantor.outlasted(ms(11_500), &state), None);
    let over = grantor.outlasted(ms(11_501), &state).unwrap();
    assert_eq!(over, Decision::Outlasted { since: 9 });
    decide(&mut state, over);
    assert_eq!(grantor.outlasted(ms(20_000), &state), None);
    grantor.confirmed(ms(20_000));
    assert_eq!(grantor.answer(ms(20_000), run(1, 1), &state, 10), grant(10));
    assert!(!grantor.has_expired(ms(23_499), run(1, 1), &state));
    assert!(grantor.has_expired(ms(23_500), run(1, 1), &state));
}

#[test]
fn each_shortening_and_each_leader_waits_anew() {
    let (mut grantor, mut state) = leader(ms(0));
    set_ttl(&mut state, 8, ms(10_000));
    set_ttl(&mut state, 9, ms(6_000));
    assert_eq!(grantor.outlasted(ms(0), &state), None);
    // The grants of 6 s in between are over before those of 10 s that the first change waits for,
    // but this leader need not know why.
    set_ttl(&mut state, 10, ms(3_000));
    assert_eq!(grantor.outlasted(ms(5_000), &state), None);
    assert_eq!(grantor.outlasted(ms(15_499), &state), None);
    let stale = Decision::Outlasted { since: 9 };
    decide(&mut state, stale);
    let silence = |state: &State| state.cluster().unwrap().silence_max();
    assert_eq!(
        silence(&state),
        ms(10_500),
        "an earlier change's end is not this one's"
    );

    let mut next = Grantor::new(ms(15_000), 10);
    assert_eq!(next.outlasted(ms(15_500), &state), None);
    assert!(!next.has_expired(ms(25_499), run(1, 1), &state));
    assert!(next.outlasted(ms(26_000), &state).is_some());
    let over = grantor.outlasted(ms(15_500), &state).unwrap();
    decide(&mut state, over);
    assert_eq!(silence(&state), TERMS.silence_max());
}

fn restart(state: &mut State, Owner { node, incarnation }: Owner) {
    apply(state, 1, Command::Restart { node, incarnation });
}

#[test]
fn the_slots_of_a_restarting_run_are_kept_for_five_seconds() {
    let (mut grantor, mut state) = leader(ms(1_000));
    grantor.answer(ms(1_000), run(1, 1), &state, 7);
    assert!(
        !grantor.is_reserved(ms(1_000), run(1, 1), &state),
        "it did not say so"
    );
    restart(&mut state, run(1, 1));
    // It ends its instances under its lease.
    assert_eq!(grantor.answer(ms(1_100), run(1, 1), &state, 7), grant(7));
    // The end of its process may be as late as its next question would have been.
    let kept = ms(1_100) + RENEW_EVERY + ms(5_000);
    assert!(grantor.is_reserved(kept - ms(1), run(1, 1), &state));
    assert_eq!(grantor.silent(kept - ms(1), &state), vec![]);
    assert!(!grantor.is_reserved(kept, run(1, 1), &state));
    assert_eq!(grantor.silent(kept, &state), vec![run(1, 1)]);
}

#[test]
fn a_new_leader_keeps_the_slots_of_a_restarting_run_too_and_those_of_no_other() {
    let (_, mut state) = leader(ms(0));
    join(&mut state, run(2, 1));
    restart(&mut state, run(1, 1));
    let grantor = Grantor::new(ms(10_000), 0);
    assert!(grantor.is_reserved(ms(15_000), run(1, 1), &state));
    assert!(!grantor.is_reserved(ms(10_000), run(2, 1), &state));
    join(&mut state, run(1, 2));
    assert!(!grantor.is_reserved(ms(10_000), run(1, 1), &state));
    assert!(!grantor.is_reserved(ms(10_000), run(1, 2), &state));
}

#[test]
fn what_a_removed_node_owns_is_free_when_its_lease_is_over() {
    let (mut grantor, mut state) = leader(ms(1_000));
    sample::allocate(&mut state, "a", run(1, 1).node);
    grantor.answer(ms(1_100), run(1, 1), &state, 7);
    let Owner { node, incarnation } = run(1, 1);
    apply(&mut state, 2, Command::Remove { node, incarnation });
    assert_eq!(
        state.owners().collect::<Vec<_>>(),
        [run(1, 1)],
        "it may run still"
    );
    assert_eq!(
        grantor.answer(ms(1_200), run(1, 1), &state, 7),
        Answer::Over
    );
    assert_eq!(grantor.silent(ms(4_599), &state), vec![]);
    assert_eq!(grantor.silent(ms(4_600), &state), vec![run(1, 1)]);
    decide(&mut state, Decision::Vacate { node, incarnation });
    assert_eq!(state.owners().count(), 0);
    assert_eq!(
        grantor.silent(ms(4_600), &state),
        vec![],
        "nothing is left to free"
    );
}

#[test]
fn settings_that_are_not_safe_are_refused() {
    let settings = ClusterSettings::DEFAULT;
    let ttl = SettingsChange {
        lease_ttl: Some(ms(100)),
        ..SettingsChange::default()
    };
    assert!(settings.changed(ttl).check().is_err());
    let voters = SettingsChange {
        voters_wanted: Some(4),
        ..SettingsChange::default()
    };
    assert!(settings.changed(voters).check().is_err());
    let hasty = SettingsChange {
        replace_voters_after: Some(ms(0)),
        ..SettingsChange::default()
    };
    assert!(settings.changed(hasty).check().is_err());
    assert_eq!(settings.changed(SettingsChange::default()), settings);
}

proptest! {
    /// Two leaders, one after the other, and a holder whose questions and answers take any time.
    /// Whatever happens, the holder has stopped when the second leader may replace it.
    #[test]
    fn whoever_may_be_replaced_has_stopped(
        asks in proptest::collection::vec((0..6_000_u64, 0..3_000_u64, 0..3_000_u64), 1..12),
        contacts in proptest::collection::vec((0..6_000_u64, 0..1_500_u64), 1..20),
        elected in 0..6_000_u64,
    ) {
        let mut state = founded();
        join(&mut state, run(1, 1));
        let mut first = Grantor::new(Duration::ZERO, 0);
        let mut holder = Holder::default();
        // A contact counts if it was complete before the other leader's election.
        let mut confirmed: Vec<(u64, u64)> = contacts
            .iter()
            .map(|(began, took)| (began + took, *began))
            .filter(|(done, _)| *done <= elected)
            .collect();
        confirmed.sort_unstable();
        let mut confirmed = confirmed.into_iter().peekable();
        let mut questions: Vec<(u64, u64, u64)> = asks
            .into_iter()
            .map(|(asked, there, back)| (asked + there, asked, back))
            .collect();
        questions.sort_unstable();
        let mut answers = Vec::new();
        for (arrived, asked, back) in questions {
            while let Some((_, began)) = confirmed.next_if(|(done, _)| *done <= arrived) {
                first.confirmed(ms(began));
            }
            let answer = first.answer(ms(arrived), run(1, 1), &state, 0);
            answers.push((arrived + back, asked, answer));
        }
        answers.sort_by_key(|(at, _, _)| *at);
        let second = Grantor::new(ms(elected), 0);
        let replaced = (0..).map(|step| elected + step * 10);
        let mut replaced = replaced.skip_while(|at| !second.has_expired(ms(*at), run(1, 1), &state));
        let replaced = replaced.next().unwrap();
        for (at, asked, answer) in answers.into_iter().filter(|(at, _, _)| *at <= replaced) {
            holder.answered(ms(asked), ms(at), answer);
        }
        let standing = holder.standing(ms(replaced), 0);
        prop_assert!(!matches!(standing, Standing::Runs { .. }), "{standing:?} at {replaced}");
        // With the time that stopping takes, and clocks that drift apart, too.
        if let Some(deadline) = holder.deadline {
            let slack = STOP + TERMS.silence_max() / DRIFT_PARTS;
            prop_assert!(deadline + slack <= ms(replaced), "{deadline:?} and {replaced}");
        }
    }
}
