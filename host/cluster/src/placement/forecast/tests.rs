use holdfast_model::{
    Incarnation, Weight,
    api::{JoiningNode, PlanNode::New},
};
use proptest::prelude::*;

use super::*;
use crate::{
    placement::Assignment,
    state::{
        Command, Decision, Owner, SlotState,
        sample::{allocate, apply, decide, founded, join},
    },
};

fn id(number: u128) -> NodeId {
    NodeId(Uuid::from_u128(number))
}

fn known(number: u128) -> PlanNode {
    PlanNode::Known(id(number))
}

fn weight(weight: u32) -> Weight {
    weight.try_into().unwrap()
}

fn member(number: u128) -> Member {
    Member {
        id: id(number),
        weight: Weight::MAX,
        zone: None,
        eligible: true,
        stable: true,
    }
}

/// Nodes 1, 2 and so on, with two modules of so many resources, placed: each of the first in a slot
/// of its own, those of the second where their names fall.
fn present(nodes: u128, resources: [u32; 2]) -> Present {
    let members: Vec<Member> = (1..=nodes).map(member).collect();
    let own = |number: u32| Slot(number as u16);
    let named = |number: u32| Slot::of(&format!("r-{number}"));
    let module = |(name, slot, resources): (&str, fn(u32) -> Slot, u32)| {
        let name: ModuleName = name.parse().unwrap();
        let mut loads: BTreeMap<Slot, Load> = BTreeMap::new();
        for slot in (0..resources).map(slot) {
            let fresh = || Load {
                slot,
                owner: None,
                resources: 0,
                settled: true,
                stranded: false,
            };
            loads.entry(slot).or_insert_with(fresh).resources += 1;
        }
        let placed: Vec<Load> = loads.values().cloned().collect();
        for Assignment { slot, to } in plan(&name, &members, &placed, 0) {
            loads.entry(slot).and_modify(|load| load.owner = Some(to));
        }
        (name, loads.into_values().collect())
    };
    let [few, many] = resources;
    let modules = [("a", own as fn(u32) -> Slot, few), ("b", named, many)];
    let modules = modules.into_iter().map(module).collect();
    Present { members, modules }
}

fn joining(nodes: usize) -> PlanRequest {
    PlanRequest {
        join: vec![JoiningNode::default(); nodes],
        ..PlanRequest::default()
    }
}

fn leaving(node: u128) -> PlanRequest {
    PlanRequest {
        leave: [id(node)].into(),
        ..PlanRequest::default()
    }
}

fn weighing(node: u128, weight: Weight) -> PlanRequest {
    PlanRequest {
        weights: [(id(node), weight)].into(),
        ..PlanRequest::default()
    }
}

fn ways(plan: &ClusterPlan) -> impl Iterator<Item = &PlannedMove> {
    plan.modules.iter().flat_map(|module| &module.from_to)
}

fn sum(counts: impl Iterator<Item = PlanCount>) -> PlanCount {
    let mut sum = PlanCount::default();
    counts.for_each(|count| sum.add(count));
    sum
}

/// What holds where every slot has an owner: nothing appears or is lost, and the sums are those of
/// the parts.
fn check(plan: &ClusterPlan) {
    let nodes = || plan.nodes.iter();
    assert_eq!(sum(nodes().map(|node| node.now)), plan.total);
    assert_eq!(sum(nodes().map(|node| node.then)), plan.total);
    let modules = || plan.modules.iter();
    assert_eq!(sum(modules().map(|module| module.total)), plan.total);
    assert_eq!(sum(modules().map(|module| module.moves)), plan.moves);
    assert_eq!(sum(ways(plan).map(|way| way.count)), plan.moves);
    for node in nodes() {
        let of = |end: fn(&PlannedMove) -> Option<PlanNode>| {
            let ways = ways(plan).filter(|way| end(way) == Some(node.node));
            sum(ways.map(|way| way.count)).resources
        };
        let (gives, gets) = (of(|way| way.from), of(|way| Some(way.to)));
        let then = node.now.resources + gets - gives;
        assert_eq!(then, node.then.resources, "{node:?}");
    }
}

#[test]
fn nothing_moves_where_nothing_changes() {
    let present = present(3, [100, 1_000]);
    let same = weighing(2, Weight::MAX);
    for imagined in [PlanRequest::default(), same] {
        let plan = present.forecast(&imagined);
        check(&plan);
        assert_eq!(plan.moves, PlanCount::default());
        assert_eq!(plan.total.resources, 1_100);
        assert_eq!(plan.max_mean_now, plan.max_mean_then);
    }
}

#[test]
fn a_node_that_joins_is_named_and_gets_its_share() {
    let present = present(3, [90, 3]);
    let mut imagined = joining(2);
    imagined.join[1].weight = Weight::WITNESS;
    imagined.join[1].zone = Some("b".parse().unwrap());
    let plan = present.forecast(&imagined);
    check(&plan);
    let [.., one, witness] = plan.nodes.as_slice() else {
        panic!("{plan:?}");
    };
    assert_eq!((one.node, one.role), (New(1), PlanRole::Joins));
    assert_eq!((one.weight_now, one.weight_then), (None, Weight::MAX));
    assert_eq!((one.now.resources, one.then.resources), (0, 22));
    assert_eq!(plan.moves.resources, 22, "each of the others has one of b");
    assert_eq!((witness.node, witness.then.resources), (New(2), 0));
    assert_eq!(witness.zone, Some("b".parse().unwrap()));
    // 90 on four nodes: the fair share is 22.5, and two have 23.
    assert_eq!(plan.modules[0].max_mean_then, Some(1.022));
    assert_eq!(plan, present.forecast(&imagined), "the same each time");
}

#[test]
fn a_node_that_leaves_keeps_nothing_and_only_its_own_moves() {
    let present = present(3, [90, 3]);
    let plan = present.forecast(&leaving(2));
    check(&plan);
    let leaver = &plan.nodes[1];
    assert_eq!((leaver.node, leaver.role), (known(2), PlanRole::Leaves));
    assert_eq!((leaver.now.resources, leaver.then.resources), (31, 0));
    assert_eq!(plan.moves.resources, 31);
    assert!(ways(&plan).all(|way| way.from == Some(known(2))));
}

#[test]
fn another_weight_moves_what_is_too_much() {
    let present = present(2, [300, 0]);
    let plan = present.forecast(&weighing(2, weight(50)));
    check(&plan);
    let lighter = &plan.nodes[1];
    assert_eq!(lighter.weight_now, Some(Weight::MAX));
    assert_eq!(lighter.weight_then, weight(50));
    assert!((99..=101).contains(&lighter.then.resources), "{plan:?}");
    assert_eq!(plan.max_mean_now, Some(1.0));
    let none = present.forecast(&weighing(2, Weight::WITNESS));
    assert_eq!(none.moves.resources, 150);
    assert_eq!(none.nodes[1].then.resources, 0);
}

#[test]
fn changes_are_told_together() {
    let present = present(3, [300, 0]);
    let mut imagined = joining(1);
    imagined.leave = leaving(1).leave;
    imagined.weights = weighing(2, weight(50)).weights;
    let plan = present.forecast(&imagined);
    check(&plan);
    let then: Vec<u64> = plan.nodes.iter().map(|node| node.then.resources).collect();
    for (then, fair) in then.iter().zip([0_u64, 60, 120, 120]) {
        assert!(then.abs_diff(fair) * 100 <= fair, "{then}, {fair} is fair");
    }
}

#[test]
fn with_nobody_left_to_hold_anything_all_stays() {
    let present = present(1, [10, 0]);
    let plan = present.forecast(&leaving(1));
    check(&plan);
    assert_eq!(plan.moves, PlanCount::default());
    assert_eq!((plan.max_mean_now, plan.max_mean_then), (Some(1.0), None));
}

#[test]
fn what_nobody_has_is_given_away_and_is_no_move() {
    let mut present = present(2, [10, 0]);
    for load in &mut present.modules[0].1[..4] {
        load.owner = None;
    }
    let plan = present.forecast(&PlanRequest::default());
    assert_eq!(plan.moves, PlanCount::default());
    assert_eq!(sum(ways(&plan).map(|way| way.count)).slots, 4);
    assert!(ways(&plan).all(|way| way.from.is_none()));
    assert_eq!(sum(plan.nodes.iter().map(|node| node.then)), plan.total);
}

/// Nodes 1 to so many, the first of which has so many resources.
fn state(nodes: u128, resources: usize) -> State {
    let mut state = founded();
    for number in 1..=nodes {
        join(&mut state, run(number));
    }
    for number in 0..resources {
        allocate(&mut state, &format!("r-{number}"), id(1));
    }
    state
}

fn run(number: u128) -> Owner {
    Owner {
        node: id(number),
        incarnation: Incarnation(1),
    }
}

/// Does what a leader plans and owners release, until nothing moves; how many resources moved.
fn settle(state: &mut State, moves_max: usize) -> u64 {
    let mut moved = 0;
    loop {
        let live: BTreeSet<NodeId> = state.nodes().keys().copied().collect();
        let slots = state.plan(&live, &live, moves_max);
        if slots.is_empty() {
            return moved;
        }
        decide(state, Decision::Place { slots });
        for node in live {
            let leaves = |slot: &SlotState| {
                let owned = slot.owner.is_some_and(|owner| owner.node == node);
                owned && slot.next.is_some()
            };
            let mut slots = Vec::new();
            for (name, module) in state.modules() {
                for (slot, found) in module.slots.iter().filter(|(_, slot)| leaves(slot)) {
                    moved += found.resources.len() as u64;
                    slots.push((name.clone(), *slot, found.token));
                }
            }
            let release = Command::Release {
                node,
                incarnation: Incarnation(1),
                slots,
            };
            apply(state, 1, release);
        }
    }
}

#[test]
fn what_is_told_is_what_a_leader_then_moves_in_many_rounds() {
    let mut state = state(3, 600);
    let told = Present::of(&state).forecast(&PlanRequest::default());
    check(&told);
    let moved = settle(&mut state, 16);
    assert!(moved.abs_diff(told.moves.resources) <= 4, "{moved} moved");

    let told = Present::of(&state).forecast(&joining(1));
    join(&mut state, run(4));
    let moved = settle(&mut state, 16);
    assert!(moved.abs_diff(told.moves.resources) <= 2, "{moved} moved");

    let told = Present::of(&state).forecast(&leaving(2));
    let drain = Command::Drain {
        node: id(2),
        draining: true,
        deadline_ms: None,
    };
    apply(&mut state, 1, drain);
    let by_itself = Present::of(&state).forecast(&PlanRequest::default());
    // A drain is a leave that has begun.
    assert_eq!((by_itself.nodes, by_itself.moves), (told.nodes, told.moves));
    assert_eq!(settle(&mut state, 16), told.moves.resources);
}

#[test]
fn a_node_that_restarts_stays_and_one_that_was_removed_has_nothing() {
    let mut state = state(3, 30);
    settle(&mut state, 100);
    let Owner { node, incarnation } = run(1);
    apply(&mut state, 1, Command::Restart { node, incarnation });
    let plan = Present::of(&state).forecast(&PlanRequest::default());
    assert_eq!(plan.moves, PlanCount::default());
    assert_eq!(plan.nodes[0].role, PlanRole::Stays);
    let Owner { node, incarnation } = run(2);
    apply(&mut state, 1, Command::Remove { node, incarnation });
    let plan = Present::of(&state).forecast(&PlanRequest::default());
    assert_eq!(plan.nodes.len(), 2);
    assert_eq!(plan.moves, PlanCount::default(), "it is nobody's");
    assert_eq!(sum(plan.nodes.iter().map(|node| node.then)), plan.total);
}

#[test]
fn what_has_left_has_nothing_whatever_holds_its_slots_up() {
    let mut state = state(3, 30);
    settle(&mut state, 100);
    let Owner { node, incarnation } = run(1);
    apply(&mut state, 1, Command::Restart { node, incarnation });
    let plan = Present::of(&state).forecast(&leaving(1));
    check(&plan);
    assert_eq!(
        (plan.moves.resources, plan.nodes[0].then.resources),
        (10, 0)
    );

    // Slots that are on their way to it.
    let mut state = self::state(2, 10);
    let live = [1, 2].map(id).into();
    let slots = state.plan(&live, &live, 3);
    decide(&mut state, Decision::Place { slots });
    let plan = Present::of(&state).forecast(&leaving(2));
    check(&plan);
    assert_eq!((plan.moves.resources, plan.nodes[1].then.resources), (3, 0));
}

#[test]
fn what_is_under_way_counts_where_it_goes() {
    let mut state = state(2, 10);
    let live = [1, 2].map(id).into();
    let slots = state.plan(&live, &live, 3);
    decide(&mut state, Decision::Place { slots });
    let plan = Present::of(&state).forecast(&PlanRequest::default());
    let now: Vec<u64> = plan.nodes.iter().map(|node| node.now.resources).collect();
    assert_eq!(now, [7, 3]);
    assert_eq!(plan.moves.resources, 2);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_join_moves_at_most_its_share_and_a_leave_only_what_the_node_has(
        nodes in 2u128..8,
        few in 0u32..400,
        many in 2_000u32..9_000,
        joins in 1usize..4,
    ) {
        let present = present(nodes, [few, many]);
        let plan = present.forecast(&joining(joins));
        check(&plan);
        for module in &plan.modules {
            let share = module.total.resources.div_ceil(nodes as u64 + joins as u64);
            prop_assert!(module.moves.resources <= share * joins as u64, "{:?}", module);
        }
        for way in ways(&plan) {
            prop_assert!(matches!((way.from, way.to), (Some(PlanNode::Known(_)), New(_))));
        }
        let plan = present.forecast(&leaving(1));
        check(&plan);
        prop_assert!(ways(&plan).all(|way| way.from == Some(known(1))));
        prop_assert_eq!(plan.moves, plan.nodes[0].now);
    }
}
