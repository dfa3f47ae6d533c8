use super::*;
use uuid::Uuid;

fn id(n: u128) -> NodeId {
    NodeId(Uuid::from_u128(n))
}

fn set(ids: &[u128]) -> BTreeSet<NodeId> {
    ids.iter().copied().map(id).collect()
}

fn marks(marks: &[(u64, u64)]) -> Vec<Mark> {
    marks.iter().map(|(at, d)| (*at, StateDigest(*d))).collect()
}

#[test]
fn a_digest_is_that_of_the_rows_however_they_came_to_be() {
    let mut one = Digests::default();
    one.set(b"a", Some(b"1"));
    one.set(b"b", Some(b"2"));
    one.set(b"c", Some(b"3"));
    one.set(b"b", None);
    one.set(b"a", Some(b"4"));
    let mut other = Digests::default();
    other.set(b"c", Some(b"3"));
    other.set(b"a", Some(b"4"));
    assert_eq!(one.sum, other.sum);
    other.set(b"a", Some(b"5"));
    assert_ne!(one.sum, other.sum);
    // Bytes that move from a key to its row are another row.
    let (mut ab, mut a) = (Digests::default(), Digests::default());
    ab.set(b"ab", Some(b"c"));
    a.set(b"a", Some(b"bc"));
    assert_ne!(ab.sum, a.sum);
}

/// The same on all machines and in all versions that compare copies.
#[test]
fn a_digest_is_what_it_was_in_other_versions() {
    let mut digests = Digests::default();
    digests.set(b"key", Some(b"row"));
    digests.mark(7);
    assert_eq!(digests.marks(), marks(&[(7, GOLDEN)]));
}

const GOLDEN: u64 = 1_694_493_056_692_511_376;

#[test]
fn copies_that_cut_the_log_differently_have_positions_in_common() {
    let at = |step: usize| {
        let mut digests = Digests::default();
        for index in 0..20 * COMMON_EVERY {
            if index.is_multiple_of(COMMON_EVERY) || index.is_multiple_of(step as u64) {
                digests.mark(index);
            }
        }
        digests.marks().into_iter().map(|(at, _)| at).collect()
    };
    let (one, other): (BTreeSet<u64>, BTreeSet<u64>) = (at(7), at(11));
    assert!(one.intersection(&other).count() >= COMMON_KEPT);
    assert!(one.len() <= COMMON_KEPT + NEWEST_KEPT);
}

#[test]
fn who_differs_from_a_majority_is_wrong() {
    let three = [set(&[1, 2, 3])];
    let others = |digests: &[(u128, u64)]| {
        let others = digests.iter().map(|(n, d)| (id(*n), marks(&[(10, *d)])));
        others.collect::<BTreeMap<_, _>>()
    };
    let wrong = |majority: &[u128]| Verdict::Wrong {
        at: 10,
        majority: set(majority),
    };
    let unclear = |others: &[u128]| Verdict::Unclear {
        at: 10,
        others: set(others),
    };
    let own = marks(&[(10, 7)]);
    for (me, digests, want) in [
        (1, vec![(2, 7), (3, 7)], Verdict::Right),
        (1, vec![(2, 8), (3, 8)], wrong(&[2, 3])),
        // It is the other that is wrong.
        (1, vec![(2, 7), (3, 8)], Verdict::Right),
        // One against one, and each another.
        (1, vec![(2, 8)], unclear(&[2])),
        (1, vec![(2, 8), (3, 9)], unclear(&[2, 3])),
        // A learner has no say, but is compared.
        (4, vec![(1, 8), (2, 8), (3, 7)], wrong(&[1, 2])),
        (4, vec![(1, 8), (5, 8)], unclear(&[1, 5])),
        (4, vec![(1, 7)], Verdict::Right),
        (1, vec![], Verdict::Unknown),
    ] {
        let verdict = judge(id(me), &own, &others(&digests), &three);
        assert_eq!(verdict, want, "{me} {digests:?}");
    }
}

#[test]
fn only_equal_positions_are_compared_and_those_that_most_know() {
    let three = [set(&[1, 2, 3])];
    let own = marks(&[(10, 7), (11, 8), (12, 9)]);
    let others = BTreeMap::from([
        (id(2), marks(&[(11, 8), (12, 1)])),
        (id(3), marks(&[(9, 1), (11, 8)])),
    ]);
    assert_eq!(judge(id(1), &own, &others, &three), Verdict::Right);
    let others = BTreeMap::from([(id(2), marks(&[(13, 1)]))]);
    assert_eq!(judge(id(1), &own, &others, &three), Verdict::Unknown);
    let others = BTreeMap::from([(id(2), marks(&[(11, 8), (12, 1)]))]);
    assert!(matches!(
        judge(id(1), &own, &others, &three),
        Verdict::Unclear { at: 12, .. }
    ));
}

#[test]
fn while_the_voters_change_both_sets_have_to_agree() {
    let joint = [set(&[1, 2, 3]), set(&[3, 4, 5])];
    let own = marks(&[(10, 7)]);
    let others = |ids: &[u128]| ids.iter().map(|n| (id(*n), marks(&[(10, 8)]))).collect();
    let verdict = judge(id(1), &own, &others(&[2, 3]), &joint);
    assert!(matches!(verdict, Verdict::Unclear { .. }));
    let verdict = judge(id(1), &own, &others(&[2, 3, 4]), &joint);
    assert!(matches!(verdict, Verdict::Wrong { .. }));
}
