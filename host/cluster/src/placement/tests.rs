use proptest::prelude::*;

use super::*;
use crate::ring::Ring;

#[test]
fn a_batch_of_single_resources_is_divided_exactly() {
    for (resources, nodes, want) in [
        (4, 2, vec![2, 2]),
        (1, 3, vec![0, 0, 1]),
        (5, 3, vec![1, 2, 2]),
        (1000, 2, vec![500, 500]),
        (1000, 3, vec![333, 333, 334]),
        (3, 100, [vec![0; 97], vec![1; 3]].concat()),
    ] {
        let mut module = Module::new(nodes);
        module.loads = (0..resources).map(|slot| unowned(slot, 1)).collect();
        module.settle(0);
        assert_eq!(sorted(module.counts()), want, "{resources} on {nodes}");
    }
}

#[test]
fn thousands_of_named_resources_are_within_one_percent() {
    for (resources, nodes) in [
        (1000, 2),
        (1000, 3),
        (10_000, 2),
        (10_000, 3),
        (10_000, 7),
        (10_000, 100),
        (100_000, 100),
    ] {
        let mut module = Module::new(nodes);
        module.loads = named(resources);
        module.settle(0);
        let mean = resources as f64 / nodes as f64;
        for count in module.counts() {
            let off = (count as f64 - mean).abs();
            assert!(
                off <= (mean / 100.0).max(1.0),
                "{count} of {resources} on {nodes}"
            );
        }
    }
}

#[test]
fn a_node_that_joins_a_hundred_gets_its_share_and_nothing_else_moves() {
    let mut module = Module::new(100);
    module.loads = named(50_000);
    module.settle(0);
    let joiner = member(999);
    module.members.push(joiner.clone());
    let assignments = module.round(usize::MAX);
    assert!(assignments.iter().all(|a| a.to == joiner.id));
    assert!(
        (490..=496).contains(&module.counts()[100]),
        "{:?}",
        module.counts()
    );
}

#[test]
fn great_lumps_are_placed_first_and_small_ones_fill_up_exactly() {
    let mut module = Module::new(100);
    module.loads = named(10_000);
    module.settle(0);
    assert_eq!(module.counts(), [100; 100]);
}

#[test]
fn resources_allocated_one_by_one_are_even_and_move_nothing() {
    let mut module = Module::new(3);
    for slot in 0..200 {
        module.loads.push(unowned(slot, 1));
        let assignments = module.round(100);
        assert_eq!(assignments.len(), 1, "slot {slot}: {assignments:?}");
        let counts = sorted(module.counts());
        assert!(counts[2] - counts[0] <= 1, "slot {slot}: {counts:?}");
    }
}

#[test]
fn resources_follow_weight_and_a_witness_gets_none() {
    let mut module = Module::new(4);
    for (member, weight) in module.members.iter_mut().zip([2, 1, 0, 1]) {
        member.weight = weighing(weight);
    }
    module.loads = (0..1000).map(|slot| unowned(slot, 1)).collect();
    module.settle(0);
    assert_eq!(module.counts(), [500, 250, 0, 250]);
}

#[test]
fn a_member_that_becomes_a_witness_gives_everything_away() {
    let mut module = Module::even(3, 30);
    module.members[1].weight = Weight::WITNESS;
    assert_eq!(module.round(100).len(), 10);
    assert_eq!(module.counts(), [15, 0, 15]);
}

#[test]
fn a_drain_is_bounded_and_comes_before_evening_out() {
    let mut module = Module::even(3, 30);
    module.members[0].eligible = false;
    module.members.push(member(9));
    for left in [6, 2] {
        let assignments = module.round(4);
        assert_eq!(assignments.len(), 4);
        assert_eq!(module.counts()[0], left);
    }
    // Two that drain, and with the rest of the budget what the new member still lacks.
    let assignments = module.round(4);
    assert!((2..=4).contains(&assignments.len()), "{assignments:?}");
    assert_eq!(module.counts(), [0, 10, 10, 10]);
}

#[test]
fn unowned_slots_are_assigned_beyond_the_budget_and_everything_else_waits() {
    let mut module = Module::even(2, 20);
    module.members.push(member(9));
    module.loads.extend((100..130).map(|slot| unowned(slot, 1)));
    let assignments = module.round(0);
    assert!(
        assignments.iter().all(|a| a.slot.0 >= 100),
        "{assignments:?}"
    );
    assert_eq!(assignments.len(), 30);
    assert_eq!(sorted(module.counts()), [16, 17, 17]);
}

#[test]
fn a_member_that_is_not_stable_gets_nothing_from_others_and_keeps_what_it_has() {
    let mut module = Module::even(3, 30);
    module.members[2].stable = false;
    module.members.push(Member {
        stable: false,
        ..member(9)
    });
    assert_eq!(module.round(100), []);
    module.loads.extend((100..110).map(|slot| unowned(slot, 1)));
    module.members[1].eligible = false;
    module.settle(100);
    assert_eq!(module.counts(), [30, 0, 10, 0], "it all went to the first");
    for member in &mut module.members {
        member.stable = true;
    }
    module.settle(100);
    assert_eq!(sorted(module.counts()), [0, 13, 13, 14]);
}

#[test]
fn where_nobody_is_stable_only_what_must_move_does() {
    let mut module = Module::even(2, 20);
    module.members.push(member(9));
    for member in &mut module.members {
        member.stable = false;
    }
    assert_eq!(module.round(100), [], "nothing is evened out");
    module.loads.extend((100..104).map(|slot| unowned(slot, 1)));
    module.round(0);
    assert_eq!(
        module.counts(),
        [10, 10, 4],
        "what nobody has is given away"
    );
    module.members[0].eligible = false;
    assert_eq!(module.round(4).len(), 4, "and what must leave goes on");
    assert_eq!(module.counts()[0], 6);
}

#[test]
fn with_nobody_to_hold_them_all_slots_stay() {
    let mut module = Module::even(2, 8);
    module.loads.push(unowned(100, 1));
    for member in &mut module.members {
        member.eligible = false;
    }
    assert_eq!(module.round(100), []);
    module.members.clear();
    assert_eq!(module.round(100), []);
}

#[test]
fn an_owner_that_is_no_member_keeps_its_slots_until_they_are_vacated() {
    let mut module = Module::even(3, 9);
    let gone = module.members.remove(0).id;
    assert_eq!(module.round(100), []);
    for load in &mut module.loads {
        load.owner = load.owner.filter(|owner| *owner != gone);
    }
    assert_eq!(module.round(0).len(), 3);
    assert_eq!(sorted(module.counts()), [4, 5]);
}

#[test]
fn a_slot_that_is_moving_already_is_left_alone_and_counted_where_it_goes() {
    let mut module = Module::even(1, 10);
    module.members.push(member(2));
    for load in &mut module.loads[..8] {
        load.settled = false;
    }
    let assignments = module.round(100);
    assert_eq!(sorted_slots(&assignments), [8, 9]);
    for load in &mut module.loads {
        load.settled = true;
    }
    assert_eq!(module.round(100).len(), 3);
}

#[test]
fn a_slot_goes_to_its_preferred_owner_when_there_is_room() {
    let mut module = Module::new(4);
    module.loads = (0..400).map(|slot| unowned(slot * 10, 1)).collect();
    module.settle(0);
    let ring = Ring::new(&module.name, &module.members);
    let at_home = |module: &Module| {
        let first = |load: &&Load| ring.owners(load.slot).next() == load.owner;
        module.loads.iter().filter(first).count()
    };
    assert!(at_home(&module) > 320, "{} of 400", at_home(&module));

    let joiner = member(99);
    module.members.push(joiner.clone());
    let ring = Ring::new(&module.name, &module.members);
    let assignments = module.round(1000);
    let wished = assignments
        .iter()
        .filter(|a| ring.owners(a.slot).next() == Some(joiner.id));
    assert_eq!(assignments.len(), 80);
    assert!(wished.count() > 50);
}

#[test]
fn the_odd_resources_are_spread_over_zones() {
    let mut module = Module::new(6);
    for (index, member) in module.members.iter_mut().enumerate() {
        member.zone = Some(
            ["east", "west", "west", "west", "west", "west"][index]
                .parse()
                .unwrap(),
        );
    }
    for seed in 0..50 {
        module.loads = (0..3).map(|slot| unowned(slot * 600 + seed, 1)).collect();
        module.settle(0);
        let counts = module.counts();
        assert!(
            counts[0] <= 1 && counts[1..].iter().sum::<u64>() >= 2,
            "{counts:?}"
        );
        assert!(counts.iter().all(|count| *count <= 1), "{counts:?}");
    }
    for (index, member) in module.members.iter_mut().enumerate() {
        member.zone = Some(["a", "a", "a", "b", "b", "b"][index].parse().unwrap());
    }
    for seed in 0..50 {
        module.loads = (0..2).map(|slot| unowned(slot * 600 + seed, 1)).collect();
        module.settle(0);
        let counts = module.counts();
        assert_eq!(
            counts[..3].iter().sum::<u64>(),
            1,
            "seed {seed}: {counts:?}"
        );
    }
}

#[test]
fn a_small_zone_has_one_of_the_first_resources_too() {
    let mut module = Module::new(4);
    for (member, zone) in module.members.iter_mut().zip(["a", "a", "a", "b"]) {
        member.zone = Some(zone.parse().unwrap());
    }
    for seed in 0..50 {
        module.loads = (0..2).map(|slot| unowned(slot * 600 + seed, 1)).collect();
        module.settle(0);
        assert_eq!(module.counts()[3], 1, "seed {seed}");
    }
}

#[test]
fn lumps_get_as_even_as_they_allow() {
    for (lumps, want) in [
        (vec![10], [0, 10]),
        (vec![10, 10, 10], [10, 20]),
        (vec![10, 3, 3], [6, 10]),
        (vec![5, 4, 3, 2], [7, 7]),
        (vec![0, 0, 1], [0, 1]),
    ] {
        let mut module = Module::new(2);
        module.loads = lumps
            .iter()
            .zip(0..)
            .map(|(&size, slot)| unowned(slot * 700, size))
            .collect();
        module.settle(0);
        assert_eq!(sorted(module.counts()), want, "{lumps:?}");
    }
}

proptest! {
    #[test]
    fn any_plan_is_sound(mut module in modules(), moves_max in 0usize..50) {
        let before = module.loads.clone();
        let assignments = module.round(moves_max);

        let mut slots = sorted_slots(&assignments);
        slots.dedup();
        prop_assert_eq!(slots.len(), assignments.len(), "a slot is assigned twice");
        let mut moves = 0;
        for Assignment { slot, to } in &assignments {
            let load = before.iter().find(|load| load.slot == *slot).unwrap();
            let any_stable = module.members.iter().any(|m| m.holds() && m.stable);
            let taker = module.members.iter().find(|m| m.id == *to && m.holds());
            prop_assert!(taker.is_some_and(|m| m.stable || !any_stable));
            prop_assert_ne!(load.owner, Some(*to));
            prop_assert!(load.settled || load.owner.is_none());
            moves += usize::from(load.owner.is_some());
        }
        prop_assert!(moves <= moves_max);
        if module.members.iter().any(Member::holds) {
            prop_assert!(module.loads.iter().all(|load| load.owner.is_some()));
        } else {
            prop_assert_eq!(assignments, []);
        }
    }

    #[test]
    fn a_plan_carried_out_leaves_nothing_to_plan(mut module in modules()) {
        module.round(usize::MAX);
        prop_assert_eq!(module.round(usize::MAX), []);
    }

    #[test]
    fn the_order_of_the_input_does_not_matter(module in modules(), moves_max in 0usize..50) {
        let mut reversed = module.clone();
        reversed.members.reverse();
        reversed.loads.reverse();
        prop_assert_eq!(module.plan(moves_max), reversed.plan(moves_max));
    }

    #[test]
    fn rounds_with_a_small_budget_end_where_everything_is_even(
        nodes in 1usize..8,
        owners in prop::collection::vec(prop::option::of(0usize..8), 1..150),
        weights in prop::collection::vec(1u32..4, 8),
        budget in 1usize..6,
    ) {
        let mut module = Module::new(nodes);
        for (member, weight) in module.members.iter_mut().zip(weights) {
            member.weight = weighing(weight);
        }
        module.loads = owners
            .iter()
            .zip(0..)
            .map(|(owner, slot)| Load {
                owner: owner.map(|owner| module.members[owner % nodes].id),
                ..unowned(slot * 27, 1)
            })
            .collect();
        let rounds = module.settle(budget);
        prop_assert!(rounds <= owners.len() / budget + 2, "{} rounds", rounds);
        let weights: u64 = module.members.iter().map(|m| m.weight.get()).sum();
        for (member, count) in module.members.iter().zip(module.counts()) {
            let share = owners.len() as u64 * member.weight.get();
            let (least, most) = (share / weights, share.div_ceil(weights));
            prop_assert!((least..=most).contains(&count), "{:?}", module.counts());
        }
    }

    #[test]
    fn a_node_that_joins_gets_its_share_and_nothing_else_moves(
        nodes in 1usize..9,
        resources in 0u16..600,
    ) {
        let mut module = Module::even(nodes, resources);
        let joiner = member(99);
        module.members.push(joiner.clone());
        let assignments = module.round(usize::MAX);
        prop_assert!(assignments.iter().all(|a| a.to == joiner.id));
        let share = usize::from(resources).div_ceil(nodes + 1);
        prop_assert!(assignments.len() <= share, "{} of {}", assignments.len(), share);
        let counts = sorted(module.counts());
        prop_assert!(counts[nodes] - counts[0] <= (resources as u64 / 100).max(1), "{:?}", counts);
    }

    #[test]
    fn of_a_node_that_leaves_only_its_own_slots_move(
        nodes in 2usize..9,
        resources in 0u16..600,
        leaver in 0usize..9,
        crashed: bool,
    ) {
        let mut module = Module::even(nodes, resources);
        let leaver = module.members[leaver % nodes].id;
        let own: Vec<u16> =
            module.loads.iter().filter(|l| l.owner == Some(leaver)).map(|l| l.slot.0).collect();
        if crashed {
            module.members.retain(|member| member.id != leaver);
            for load in &mut module.loads {
                load.owner = load.owner.filter(|owner| *owner != leaver);
            }
        } else {
            for member in &mut module.members {
                member.eligible = member.id != leaver;
            }
        }
        let assignments = module.round(usize::MAX);
        prop_assert_eq!(sorted_slots(&assignments), own);
        module.members.retain(|member| member.id != leaver);
        let counts = sorted(module.counts());
        prop_assert!(counts[nodes - 2] - counts[0] <= 1, "{:?}", counts);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_node_that_joins_thousands_gets_its_share_and_nothing_else_moves(
        nodes in 1usize..9,
        resources in 2_000u32..20_000,
    ) {
        let mut module = Module::new(nodes);
        module.loads = named(resources);
        module.settle(0);
        let joiner = member(99);
        module.members.push(joiner.clone());
        let assignments = module.round(usize::MAX);
        prop_assert!(assignments.iter().all(|a| a.to == joiner.id));
        let share = u64::from(resources).div_ceil(nodes as u64 + 1);
        prop_assert!(module.counts()[nodes] <= share, "{:?}", module.counts());
        for count in module.counts() {
            // Whole numbers: 1% exactly is within 1%.
            let off = (count * (nodes as u64 + 1)).abs_diff(resources.into());
            prop_assert!(off * 100 <= u64::from(resources), "{:?}", module.counts());
        }
    }
}

/// Any mix of members and loads, also of owners that are unknown or unable.
fn modules() -> impl Strategy<Value = Module> {
    let stable = prop::bool::weighted(0.8);
    let members = prop::collection::vec((0u32..4, any::<bool>(), 0u8..3, stable), 0..8);
    let loads = prop::collection::btree_map(
        0u16..Slot::COUNT,
        (
            prop::option::of(1u128..12),
            0u32..9,
            prop::bool::weighted(0.9),
        ),
        0..120,
    );
    (members, loads).prop_map(|(members, loads)| Module {
        members: members
            .into_iter()
            .zip(1..)
            .map(|((weight, eligible, zone, stable), number)| Member {
                weight: weighing(weight),
                eligible,
                stable,
                zone: (zone > 0).then(|| zone.to_string().parse().unwrap()),
                ..member(number)
            })
            .collect(),
        loads: loads
            .into_iter()
            .map(|(slot, (owner, resources, settled))| Load {
                owner: owner.map(|owner| member(owner).id),
                settled,
                ..unowned(slot, resources)
            })
            .collect(),
        ..Module::new(0)
    })
}

#[derive(Debug, Clone)]
struct Module {
    name: ModuleName,
    members: Vec<Member>,
    loads: Vec<Load>,
}

impl Module {
    fn new(nodes: usize) -> Self {
        let members = (1..).take(nodes).map(member).collect();
        Self {
            name: "echo".parse().unwrap(),
            members,
            loads: vec![],
        }
    }

    /// With that many slots of one resource each, placed.
    fn even(nodes: usize, resources: u16) -> Self {
        let mut module = Self::new(nodes);
        module.loads = (0..resources).map(|slot| unowned(slot, 1)).collect();
        module.settle(0);
        module
    }

    fn plan(&self, moves_max: usize) -> Vec<Assignment> {
        plan(&self.name, &self.members, &self.loads, moves_max)
    }

    /// Plans and carries out one round.
    fn round(&mut self, moves_max: usize) -> Vec<Assignment> {
        let assignments = self.plan(moves_max);
        let to: BTreeMap<_, _> = assignments.iter().map(|a| (a.slot, a.to)).collect();
        for load in &mut self.loads {
            load.owner = to.get(&load.slot).copied().or(load.owner);
        }
        assignments
    }

    /// Rounds until there is nothing to plan; how many there were.
    fn settle(&mut self, moves_max: usize) -> usize {
        (0..10_000)
            .find(|_| self.round(moves_max).is_empty())
            .expect("the plan never ends")
    }

    /// Resources of each member.
    fn counts(&self) -> Vec<u64> {
        let of = |id| {
            let held = self.loads.iter().filter(|load| load.owner == Some(id));
            held.map(|load| u64::from(load.resources)).sum()
        };
        self.members.iter().map(|member| of(member.id)).collect()
    }
}

fn member(number: u128) -> Member {
    let id = format!("{:032x}", number * 0x9e37_79b9_7f4a_7c15)
        .parse()
        .unwrap();
    Member {
        id,
        weight: weighing(1),
        zone: None,
        eligible: true,
        stable: true,
    }
}

fn weighing(weight: u32) -> Weight {
    weight.try_into().unwrap()
}

fn unowned(slot: u16, resources: u32) -> Load {
    Load {
        slot: Slot(slot),
        owner: None,
        resources,
        settled: true,
        stranded: false,
    }
}

/// The slots of resources `r-0`, `r-1` and so on.
fn named(resources: u32) -> Vec<Load> {
    let mut loads = BTreeMap::new();
    for number in 0..resources {
        *loads.entry(Slot::of(&format!("r-{number}"))).or_insert(0) += 1;
    }
    loads
        .into_iter()
        .map(|(slot, resources)| unowned(slot.0, resources))
        .collect()
}

fn sorted(mut counts: Vec<u64>) -> Vec<u64> {
    counts.sort_unstable();
    counts
}

fn sorted_slots(assignments: &[Assignment]) -> Vec<u16> {
    let mut slots: Vec<u16> = assignments.iter().map(|a| a.slot.0).collect();
    slots.sort_unstable();
    slots
}
