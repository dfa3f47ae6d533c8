use super::*;

const REPLACE_AFTER: Duration = Duration::from_secs(30);

/// Each word is a node, with ids from 1: `V` voter, `L` learner, then any of `*` leads, `x` dead
/// for a moment, `X` dead for long, `~` lagging, `-` leaving, `.` stopping.
fn nodes(text: &str) -> Vec<Candidate> {
    let node = |(word, n): (&str, u128)| Candidate {
        node: id(n),
        voter: word.starts_with('V'),
        leader: word.contains('*'),
        live: !word.contains(['x', 'X']),
        caught_up: !word.contains(['~', 'x', 'X']),
        leaving: word.contains('-'),
        stopping: word.contains('.'),
        silent_for: match (word.contains('x'), word.contains('X')) {
            (_, true) => REPLACE_AFTER,
            (true, _) => REPLACE_AFTER - Duration::from_millis(1),
            _ => Duration::ZERO,
        },
    };
    text.split_whitespace().zip(1..).map(node).collect()
}

fn id(n: u128) -> NodeId {
    NodeId(uuid::Uuid::from_u128(n))
}

fn voters<const N: usize>(ids: [u128; N]) -> Option<Change> {
    Some(Change::Voters(ids.map(id).into()))
}

#[track_caller]
fn check(text: &str, wanted: usize, want: Option<Change>) {
    let mut nodes = nodes(text);
    assert_eq!(next_change(&nodes, wanted, REPLACE_AFTER), want, "{text}");
    nodes.reverse();
    assert_eq!(
        next_change(&nodes, wanted, REPLACE_AFTER),
        want,
        "{text}, reversed"
    );
}

#[test]
fn one_voter_becomes_three_in_one_step_once_two_learners_are_ready() {
    check("V*", 3, None);
    check("V* L", 3, None);
    check("V* L L~", 3, None);
    check("V* L Lx", 3, None);
    check("V* L L-", 3, None);
    check("V* L L L", 3, voters([1, 2, 3]));
    check("V* Lx L L~ L", 3, voters([1, 3, 5]));
    check("V* V V L L", 3, None);
}

#[test]
fn five_voters_are_reached_from_three() {
    check("V* L L L L", 5, voters([1, 2, 3]));
    check("V* V V L", 5, None);
    check("V* V V L L", 5, voters([1, 2, 3, 4, 5]));
    check("V* V V V V L L", 5, None);
}

#[test]
fn too_many_voters_are_reduced_by_the_least_useful() {
    check("V* V V V V", 3, voters([1, 2, 3]));
    check("V V Vx V~ V*", 3, voters([1, 2, 5]));
    check("V* V V", 1, voters([1]));
    check("V* V V", 0, voters([1]));
    check("V* V V", 2, voters([1]));
    check("V* V V", 4, None);
}

#[test]
fn an_even_number_becomes_odd() {
    check("V* V L", 3, voters([1, 2, 3]));
    check("V* V", 3, voters([1]));
    check("V V* V V L L", 5, voters([1, 2, 3, 4, 5]));
    check("V V* V V", 5, voters([1, 2, 3]));
}

#[test]
fn a_voter_that_was_silent_for_long_is_replaced_by_a_ready_learner() {
    check("V* V VX L", 3, voters([1, 2, 4]));
    check("V* V Vx L", 3, None);
    check("V* V VX", 3, None);
    check("V* V VX L~", 3, None);
    check("V* V VX LX", 3, None);
    check("V* V VX L-", 3, None);
}

#[test]
fn voters_are_replaced_one_at_a_time() {
    check("V* V V VX VX L L", 5, voters([1, 2, 3, 4, 6]));
    check("V* V V V VX L L", 5, voters([1, 2, 3, 4, 6]));
}

#[test]
fn nothing_is_proposed_without_a_live_majority() {
    check("V* VX VX L L", 3, None);
    check("V* Vx L L", 3, None);
    check("V* V VX VX L", 5, None);
    check("L L", 3, None);
    check("", 3, None);
}

#[test]
fn a_voter_that_leaves_is_replaced_or_else_demoted() {
    check("V* V V- L", 3, voters([1, 2, 4]));
    check("V* V V-", 3, voters([1, 2]));
    check("V* V-", 3, voters([1]));
    check("V* V V- L L~", 3, voters([1, 2, 4]));
    // Without it, only one of two would be live.
    check("V* Vx V-", 3, None);
}

#[test]
fn a_leader_that_leaves_hands_over_first() {
    check("V*- V V L", 3, Some(Change::Transfer(id(2))));
    check("V*- V~ V", 3, Some(Change::Transfer(id(3))));
    check("V- V*", 3, voters([2]));
    check("V- V* V L", 3, voters([2, 3, 4]));
    check("V*- L", 3, voters([1, 2]));
    check("V*- V", 3, Some(Change::Transfer(id(2))));
    check("V*-", 3, None);
    check("V*- L~", 3, None);
}

#[test]
fn a_voter_that_stops_gives_its_vote_to_a_ready_learner_or_keeps_it() {
    check("V* V V. L", 3, voters([1, 2, 4]));
    check("V* V V. L~ L", 3, voters([1, 2, 5]));
    // A vote is worth more than an even number, and it may come back.
    check("V* V V.", 3, None);
    check("V* V V. L~", 3, None);
    // Who stops as well is no successor.
    check("V* V V. L.", 3, None);
    check("V* L. L", 3, None);
}

#[test]
fn voters_that_stop_at_once_are_replaced_at_once() {
    check("V* V. V. L L", 3, voters([1, 4, 5]));
    check("V* V. V. L", 3, voters([1, 3, 4]));
    check("V*. V. V L L", 3, voters([1, 3, 4]));
    check("V* V. V. V V L L", 5, voters([1, 4, 5, 6, 7]));
}

#[test]
fn a_leader_that_stops_hands_over_first() {
    check("V*. V V L", 3, Some(Change::Transfer(id(2))));
    check("V*. V. V", 3, Some(Change::Transfer(id(3))));
    check("V. V* V L", 3, voters([2, 3, 4]));
    check("V*. V. V.", 3, None);
}

#[test]
fn repeated_steps_end_with_as_many_voters_as_wanted() {
    for (text, wanted, want) in [
        ("V* L L L L L", 5, 5),
        ("V* L L L L L", 3, 3),
        ("V* V V V V V", 3, 3),
        ("V* V VX L L L L", 5, 5),
        ("V- V*- V- L L L", 3, 3),
        ("V*- V- V- L", 3, 1),
        ("V*. V. V L L", 3, 3),
        ("V*. V. V. L L", 3, 3),
        ("V* V- V-", 3, 1),
    ] {
        let mut nodes = nodes(text);
        let mut steps = 0;
        while let Some(change) = next_change(&nodes, wanted, REPLACE_AFTER) {
            steps += 1;
            assert!(steps < 12, "{text} does not end: {change:?}");
            for node in &mut nodes {
                match &change {
                    Change::Voters(next) => node.voter = next.contains(&node.node),
                    Change::Transfer(heir) => node.leader = node.node == *heir,
                }
            }
        }
        let voters: Vec<_> = nodes.iter().filter(|node| node.voter).collect();
        assert_eq!(voters.len(), want, "{text}: {voters:?}");
        assert!(
            voters.iter().all(|voter| voter.live && !voter.leaving),
            "{text}: {voters:?}"
        );
    }
}

#[test]
fn losses_that_are_survived_leave_a_majority() {
    for (voters, live, want) in [
        (1, 1, 0),
        (2, 2, 0),
        (3, 3, 1),
        (3, 2, 0),
        (3, 1, 0),
        (5, 5, 2),
        (5, 4, 1),
        (0, 0, 0),
    ] {
        assert_eq!(survivable_losses(voters, live), want, "{live} of {voters}");
    }
}

#[test]
fn while_the_voters_change_both_the_former_and_the_next_need_a_majority() {
    let set = |ids: &[u128]| ids.iter().copied().map(id).collect::<BTreeSet<_>>();
    let joint = [set(&[1, 2, 3]), set(&[3, 4, 5])];
    for (nodes, want) in [
        (vec![1, 2, 4, 5], true),
        (vec![2, 3, 4], true),
        // A majority of all five, and none of the next.
        (vec![1, 2, 4], false),
        (vec![3, 4, 5], false),
    ] {
        assert_eq!(is_quorum(&joint, &set(&nodes)), want, "{nodes:?}");
    }
    assert!(is_quorum(&joint[..1], &set(&[1, 3])));
    assert!(!is_quorum(&[], &set(&[1, 2, 3])), "nobody decides yet");
}
