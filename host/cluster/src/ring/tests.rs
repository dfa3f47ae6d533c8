use std::collections::BTreeMap;

use super::*;

fn member(number: u128, weight: u32) -> Member {
    let id = format!("{:032x}", number * 0x9e37_79b9_7f4a_7c15)
        .parse()
        .unwrap();
    Member {
        id,
        weight: weight.try_into().unwrap(),
        zone: None,
        eligible: true,
        stable: true,
    }
}

fn ring(members: &[Member]) -> Ring {
    Ring::new(&"echo".parse().unwrap(), members)
}

fn slots() -> impl Iterator<Item = Slot> {
    (0..Slot::COUNT).map(Slot)
}

#[test]
fn every_holder_is_named_once_for_every_slot() {
    let members: Vec<_> = (1..=7).map(|n| member(n, n as u32)).collect();
    let ring = ring(&members);
    let mut want: Vec<_> = members.iter().map(|m| m.id).collect();
    want.sort();
    for slot in slots() {
        let mut owners: Vec<_> = ring.owners(slot).collect();
        owners.sort();
        assert_eq!(owners, want, "slot {slot}");
    }
}

#[test]
fn witnesses_and_ineligible_members_are_not_on_the_ring() {
    let draining = Member {
        eligible: false,
        ..member(3, 1)
    };
    let members = [member(1, 1), member(2, 0), draining];
    let ring = ring(&members);
    assert!(slots().all(|slot| ring.owners(slot).eq([members[0].id])));
    assert_eq!(self::ring(&members[1..]).owners(Slot(0)).count(), 0);
}

#[test]
fn a_new_node_changes_no_preference_except_to_itself() {
    let members: Vec<_> = (1..=5).map(|n| member(n, 1)).collect();
    let (before, after) = (ring(&members[..4]), ring(&members));
    let mut taken = 0;
    for slot in slots() {
        let (old, new) = (before.owners(slot).next(), after.owners(slot).next());
        if new != old {
            assert_eq!(new, Some(members[4].id), "slot {slot}");
            taken += 1;
        }
        let others = after.owners(slot).filter(|id| *id != members[4].id);
        assert!(others.eq(before.owners(slot)), "slot {slot}");
    }
    assert!((400..1300).contains(&taken), "{taken} of 4096");
}

#[test]
fn preference_follows_weight() {
    let members = [member(1, 30), member(2, 10)];
    let ring = ring(&members);
    let mut counts = BTreeMap::new();
    for slot in slots() {
        *counts.entry(ring.owners(slot).next().unwrap()).or_insert(0) += 1;
    }
    assert!((2500..3600).contains(&counts[&members[0].id]), "{counts:?}");
}

#[test]
fn the_order_of_members_does_not_matter_and_the_module_does() {
    let members: Vec<_> = (1..=5).map(|n| member(n, 1)).collect();
    let reversed: Vec<_> = members.iter().rev().cloned().collect();
    let other = Ring::new(&"other".parse().unwrap(), &members);
    let mut differ = 0;
    for slot in slots() {
        assert!(
            ring(&members[..])
                .owners(Slot(0))
                .eq(ring(&reversed).owners(Slot(0)))
        );
        differ += u32::from(!other.owners(slot).eq(ring(&members).owners(slot)));
    }
    assert!(differ > 3000, "{differ}");
}

#[test]
fn the_first_owner_of_some_slots_is_pinned() {
    // A change of the hash or of the encoding moves everything at the next upgrade: it must be
    // meant.
    let members: Vec<_> = (0..4).map(|n| member(n + 1, 1)).collect();
    let ring = ring(&members);
    let first = |slot| ring.indices(Slot(slot)).next().unwrap();
    assert_eq!(
        [0, 500, 1000, 2000, 3000, 4095].map(first),
        [3, 1, 3, 0, 0, 3]
    );
}
