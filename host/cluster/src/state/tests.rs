use proptest::prelude::*;

use super::{
    sample::{self, about},
    *,
};

/// A state, the position of its log, and the rows as a store would have them.
struct Replica {
    state: State,
    index: u64,
    rows: BTreeMap<Vec<u8>, Vec<u8>>,
}

const TERM: u64 = 7;

impl Replica {
    /// A founded cluster of this many active nodes, with a module `m`.
    fn with_nodes(nodes: u128) -> Self {
        let mut replica = Self {
            state: State::default(),
            index: 0,
            rows: BTreeMap::new(),
        };
        replica.done(found(99));
        for n in 1..=nodes {
            replica.join(n, 1);
        }
        let deployed = replica.deploy(b"first");
        assert_eq!(
            deployed,
            Outcome::Deployed {
                number: 1,
                new: true
            }
        );
        replica
    }

    fn apply(&mut self, command: Command) -> Outcome {
        self.index += 1;
        let before = self.state.clone();
        let mut changes = Changes::new();
        let at = Position {
            index: self.index,
            term: TERM,
        };
        let outcome = self.state.apply(at, command, &mut changes);
        for key in &changes {
            match self.state.row(key) {
                Some(row) => self.rows.insert(key.to_bytes(), row),
                None => self.rows.remove(&key.to_bytes()),
            };
        }
        if matches!(outcome, Outcome::Refused(_)) {
            assert_eq!(self.state, before, "a refused command changed something");
        }
        self.check(&before);
        outcome
    }

    fn done(&mut self, command: Command) {
        let outcome = self.apply(command);
        assert_eq!(outcome, Outcome::Done);
    }

    fn check(&self, before: &State) {
        let rows = self
            .rows
            .iter()
            .map(|(key, row)| (key.clone(), row.clone()));
        let stored = State::from_rows(rows).unwrap();
        assert_eq!(
            stored, self.state,
            "the rows that changed are not all that changed"
        );
        assert!(self.state.epoch >= before.epoch, "the epoch fell");
        for (name, module) in &self.state.modules {
            let mut in_slots = 0;
            for (slot, state) in &module.slots {
                in_slots += state.resources.len();
                assert!(state.resources.iter().all(|id| id.slot() == *slot));
                assert!(
                    !state.resources.is_empty() || state.owner.is_some(),
                    "{slot} is left over"
                );
                assert!(state.token.0 <= self.state.epoch.0);
                let Some(former) = before.slot(name, *slot) else {
                    assert!(
                        state.token.0 > before.epoch.0,
                        "a new slot has an old token"
                    );
                    continue;
                };
                assert!(state.token >= former.token, "the token of {slot} fell");
                if state.owner != former.owner {
                    assert!(
                        state.token > former.token,
                        "{slot} changed its owner, not its token"
                    );
                }
            }
            assert_eq!(in_slots, module.resources.len());
        }
    }

    fn decide(&mut self, decision: Decision) -> Outcome {
        self.apply(Command::Decide {
            term: TERM,
            decision,
        })
    }

    fn join(&mut self, n: u128, incarnation: u64) -> Outcome {
        let (node, incarnation) = (node(n), Incarnation(incarnation));
        self.decide(Decision::Join {
            node,
            incarnation,
            about: about(),
            at_ms: 1,
        })
    }

    fn vacate(&mut self, n: u128, incarnation: u64) -> Outcome {
        self.decide(Decision::Vacate {
            node: node(n),
            incarnation: Incarnation(incarnation),
        })
    }

    fn deploy(&mut self, component: &[u8]) -> Outcome {
        let (digest, size) = (Digest::of(component), component.len() as u64);
        let settings = Arc::default();
        self.apply(Command::Deploy {
            module: m(),
            digest,
            size,
            settings,
            at_ms: 1,
        })
    }

    /// Allocates ids, all of whose new slots go to node `to`.
    fn allocate(&mut self, ids: &[&str], to: u128) -> Outcome {
        let entries: Vec<_> = ids.iter().map(|i| (id(i), Spec::default())).collect();
        let slots: BTreeSet<Slot> = entries.iter().map(|(id, _)| id.slot()).collect();
        let placed = slots
            .into_iter()
            .map(|slot| Placed { slot, to: node(to) })
            .collect();
        self.apply(Command::Allocate {
            module: m(),
            entries,
            placed,
            at_ms: 1,
        })
    }

    fn deallocate(&mut self, ids: &[&str]) -> Outcome {
        let ids = ids.iter().map(|i| id(i)).collect();
        self.apply(Command::Deallocate { module: m(), ids })
    }

    fn place(&mut self, i: &str, to: u128) -> Outcome {
        let (slot, token) = (id(i).slot(), self.slot(i).token);
        let slots = vec![(m(), Placed { slot, to: node(to) }, token)];
        self.decide(Decision::Place { slots })
    }

    fn release(&mut self, i: &str, by: u128, token: Token) -> Released {
        let slots = vec![(m(), id(i).slot(), token)];
        let (node, incarnation) = (node(by), Incarnation(1));
        match self.apply(Command::Release {
            node,
            incarnation,
            slots,
        }) {
            Outcome::Released(released) => released[0],
            other => panic!("{other:?}"),
        }
    }

    fn slot(&self, i: &str) -> SlotState {
        self.state
            .slot(&m(), id(i).slot())
            .expect("the slot exists")
            .clone()
    }

    fn next(&self, i: &str) -> Option<NodeId> {
        self.slot(i).next
    }

    fn owner(&self, i: &str) -> Option<(NodeId, u64)> {
        self.slot(i)
            .owner
            .map(|owner| (owner.node, owner.incarnation.0))
    }
}

fn m() -> ModuleName {
    "m".parse().unwrap()
}

fn id(text: &str) -> ResourceId {
    text.parse().unwrap()
}

fn node(n: u128) -> NodeId {
    NodeId(uuid::Uuid::from_u128(n))
}

fn remove(n: u128, incarnation: u64) -> Command {
    Command::Remove {
        node: node(n),
        incarnation: Incarnation(incarnation),
    }
}

fn found(id: u128) -> Command {
    Command::Found(sample::cluster(id))
}

#[test]
fn a_cluster_is_founded_once() {
    let mut replica = Replica::with_nodes(1);
    let founder = ClusterId(uuid::Uuid::from_u128(99));
    replica.done(found(99));
    let outcome = replica.apply(found(100));
    assert_eq!(outcome, Outcome::Refused(Refused::Founded(founder)));
}

#[test]
fn a_decision_of_another_term_is_refused() {
    let mut replica = Replica::with_nodes(1);
    let decision = Decision::Vacate {
        node: node(1),
        incarnation: Incarnation(1),
    };
    let outcome = replica.apply(Command::Decide {
        term: TERM - 1,
        decision,
    });
    let refused = Refused::OtherTerm {
        decided: TERM - 1,
        applied: TERM,
    };
    assert_eq!(outcome, Outcome::Refused(refused));
}

#[test]
fn the_first_resource_of_a_slot_gives_it_the_planned_owner() {
    let mut replica = Replica::with_nodes(2);
    assert_eq!(
        replica.allocate(&["a"], 2),
        Outcome::Allocated(vec![Allocation::Created])
    );
    assert_eq!(replica.owner("a"), Some((node(2), 1)));
    // Again with the same spec, and planned elsewhere: nothing changes.
    assert_eq!(
        replica.allocate(&["a"], 1),
        Outcome::Allocated(vec![Allocation::Unchanged])
    );
    assert_eq!(replica.owner("a"), Some((node(2), 1)));
}

#[test]
fn a_changed_spec_has_a_new_revision() {
    let mut replica = Replica::with_nodes(1);
    replica.allocate(&["a"], 1);
    let first = replica.state.resource(&m(), &id("a")).unwrap().revision;
    let entries = vec![(id("a"), Spec::from_json(br#"{"x":1}"#).unwrap())];
    let changed = Command::Allocate {
        module: m(),
        entries,
        placed: vec![],
        at_ms: 2,
    };
    assert_eq!(
        replica.apply(changed),
        Outcome::Allocated(vec![Allocation::Changed])
    );
    assert!(replica.state.resource(&m(), &id("a")).unwrap().revision > first);
}

#[test]
fn a_slot_planned_for_a_dead_node_waits_for_a_placement() {
    let mut replica = Replica::with_nodes(2);
    replica.vacate(2, 1);
    replica.allocate(&["a"], 2);
    assert_eq!(replica.owner("a"), None);
    replica.place("a", 1);
    assert_eq!(replica.owner("a"), Some((node(1), 1)));
}

#[test]
fn only_the_owners_release_under_the_present_token_moves_a_slot() {
    let mut replica = Replica::with_nodes(3);
    replica.allocate(&["a"], 1);
    let token = replica.slot("a").token;
    replica.place("a", 2);
    assert_eq!(
        replica.owner("a"),
        Some((node(1), 1)),
        "planning moves nothing"
    );
    assert_eq!(replica.release("a", 2, token), Released::NotOwned);
    assert_eq!(
        replica.release("a", 1, Token(token.0 + 1)),
        Released::NotOwned
    );
    assert_eq!(replica.release("a", 1, token), Released::Given);
    assert_eq!(replica.owner("a"), Some((node(2), 1)));
    assert_eq!(
        replica.release("a", 1, token),
        Released::NotOwned,
        "the release is repeated"
    );
}

#[test]
fn a_release_without_a_target_returns_the_slot_under_a_new_token() {
    let mut replica = Replica::with_nodes(2);
    replica.allocate(&["a"], 1);
    let token = replica.slot("a").token;
    replica.place("a", 2);
    replica.place("a", 1);
    assert_eq!(replica.slot("a").next, None, "the move is called off");
    assert_eq!(replica.release("a", 1, token), Released::Given);
    assert_eq!(replica.owner("a"), Some((node(1), 1)));
    assert!(replica.slot("a").token > token);
}

#[test]
fn a_release_to_a_dead_target_leaves_the_slot_to_nobody() {
    let mut replica = Replica::with_nodes(2);
    replica.allocate(&["a"], 1);
    replica.place("a", 2);
    let token = replica.slot("a").token;
    // The target drains meanwhile: it may take nothing new.
    replica.done(Command::Drain {
        node: node(2),
        draining: true,
        deadline_ms: None,
    });
    assert_eq!(replica.release("a", 1, token), Released::Given);
    assert_eq!(replica.owner("a"), None);
}

#[test]
fn a_placement_under_an_old_token_is_passed_over() {
    let mut replica = Replica::with_nodes(3);
    replica.allocate(&["a"], 1);
    let token = replica.slot("a").token;
    replica.place("a", 2);
    replica.release("a", 1, token);
    let slots = vec![(
        m(),
        Placed {
            slot: id("a").slot(),
            to: node(3),
        },
        token,
    )];
    replica.decide(Decision::Place { slots });
    assert_eq!(replica.slot("a").next, None);
}

#[test]
fn a_dead_incarnations_slots_go_to_their_targets_or_nobody() {
    let mut replica = Replica::with_nodes(3);
    replica.allocate(&["a", "b"], 1);
    replica.place("a", 2);
    assert_eq!(replica.vacate(1, 1), Outcome::Done);
    assert_eq!(replica.owner("a"), Some((node(2), 1)));
    assert_eq!(replica.owner("b"), None);
    let epoch = replica.state.epoch;
    assert_eq!(replica.vacate(1, 1), Outcome::Done);
    assert_eq!(replica.state.epoch, epoch, "a death counts once");
}

#[test]
fn a_death_of_another_incarnation_is_refused() {
    let mut replica = Replica::with_nodes(2);
    replica.allocate(&["a"], 1);
    replica.join(1, 2);
    let (present, given) = (Incarnation(2), Incarnation(1));
    let refused = Refused::OtherIncarnation {
        node: node(1),
        present,
        given,
    };
    assert_eq!(replica.vacate(1, 1), Outcome::Refused(refused));
    assert_eq!(replica.owner("a"), Some((node(1), 2)));
}

#[test]
fn a_new_incarnation_takes_back_what_its_node_owned_under_a_new_token() {
    let mut replica = Replica::with_nodes(2);
    replica.allocate(&["a", "b"], 1);
    replica.place("b", 2);
    let token = replica.slot("a").token;
    replica.join(1, 2);
    assert_eq!(replica.owner("a"), Some((node(1), 2)));
    assert!(replica.slot("a").token > token);
    assert_eq!(
        replica.owner("b"),
        Some((node(2), 1)),
        "what was to move has moved"
    );
    assert_eq!(replica.release("a", 1, token), Released::NotOwned);
}

fn restart(n: u128, incarnation: u64) -> Command {
    Command::Restart {
        node: node(n),
        incarnation: Incarnation(incarnation),
    }
}

#[test]
fn what_a_restarting_run_has_stays_for_the_next_one_of_its_node() {
    let mut replica = Replica::with_nodes(3);
    replica.allocate(&["a", "b"], 1);
    replica.done(restart(1, 1));
    replica.done(restart(1, 1));
    let present: BTreeSet<NodeId> = [1, 2, 3].map(node).into();
    let gone: BTreeSet<NodeId> = [2, 3].map(node).into();
    for live in [present, gone] {
        let moves = replica.state.plan(&live, &live, 100);
        assert_eq!(moves, [], "neither while it ends nor while it is away");
    }
    let fresh: ResourceId = "c".parse().unwrap();
    let all = [1, 2, 3].map(node).into();
    let placed = replica.state.place(&m(), [&fresh].into_iter(), &all);
    assert_ne!(placed[0].to, node(1), "it gets nothing new");
    assert_eq!(replica.join(1, 2), Outcome::Done);
    assert_eq!(replica.owner("a"), Some((node(1), 2)));
    assert_eq!(replica.owner("b"), Some((node(1), 2)));
    assert_eq!(replica.state.nodes()[&node(1)].standing, Standing::Active);
}

#[test]
fn only_a_present_run_that_lives_can_say_that_it_restarts() {
    let mut replica = Replica::with_nodes(2);
    replica.join(1, 2);
    let refused = replica.apply(restart(1, 1)).accepted().unwrap_err();
    assert!(
        matches!(refused, Refused::OtherIncarnation { .. }),
        "{refused}"
    );
    let refused = replica.apply(restart(9, 1)).accepted().unwrap_err();
    assert!(matches!(refused, Refused::UnknownNode(_)), "{refused}");
    replica.vacate(1, 2);
    let refused = replica.apply(restart(1, 2)).accepted().unwrap_err();
    assert!(matches!(refused, Refused::Dead { .. }), "{refused}");
    replica.done(remove(2, 1));
    let refused = replica.apply(restart(2, 1)).accepted().unwrap_err();
    assert!(matches!(refused, Refused::Removed(_)), "{refused}");
}

#[test]
fn a_drain_takes_a_restart_back() {
    let mut replica = Replica::with_nodes(2);
    replica.allocate(&["a"], 1);
    let drain = |draining| Command::Drain {
        node: node(1),
        draining,
        deadline_ms: None,
    };
    let standing = |replica: &Replica| replica.state.nodes()[&node(1)].standing;
    replica.done(restart(1, 1));
    replica.done(drain(false));
    assert_eq!(standing(&replica), Standing::Restarting);
    replica.done(drain(true));
    assert_eq!(standing(&replica), Standing::Draining);
    let live = [1, 2].map(node).into();
    assert_eq!(
        replica.state.plan(&live, &live, 100).len(),
        1,
        "what it has moves away"
    );
}

fn weigh(n: u128, weight: u32) -> Command {
    let weight = weight.try_into().unwrap();
    Command::Weigh {
        node: node(n),
        weight,
    }
}

fn weight(replica: &Replica, n: u128) -> u64 {
    replica.state.nodes()[&node(n)].weight.get()
}

#[test]
fn a_weight_that_was_set_is_what_is_planned_by() {
    let mut replica = Replica::with_nodes(2);
    replica.allocate(&["a", "b", "c", "d"], 1);
    let live = [1, 2].map(node).into();
    let moves = |replica: &Replica| replica.state.plan(&live, &live, 100).len();
    assert_eq!(moves(&replica), 2);
    replica.done(weigh(1, 75));
    replica.done(weigh(2, 25));
    assert_eq!(moves(&replica), 1);
    replica.done(weigh(2, 0));
    assert_eq!(moves(&replica), 0);
    replica.done(weigh(1, 0));
    assert_eq!(moves(&replica), 0, "nobody may hold anything: all stays");
    replica.done(weigh(2, 1));
    assert_eq!(moves(&replica), 4);
}

#[test]
fn a_weight_that_was_set_stays_until_the_node_is_started_with_another() {
    let mut replica = Replica::with_nodes(1);
    let start = |replica: &mut Replica, incarnation, weight: u32| {
        let about = About {
            weight: weight.try_into().unwrap(),
            ..about()
        };
        let joined = replica.decide(Decision::Join {
            node: node(1),
            incarnation: Incarnation(incarnation),
            about,
            at_ms: 1,
        });
        assert_eq!(joined, Outcome::Done);
    };
    assert_eq!(weight(&replica, 1), 100);
    replica.done(weigh(1, 30));
    // The same run under another address, and the next one with the same options.
    start(&mut replica, 1, 100);
    start(&mut replica, 2, 100);
    assert_eq!(weight(&replica, 1), 30);
    start(&mut replica, 3, 60);
    assert_eq!(weight(&replica, 1), 60, "the option says something new");
    start(&mut replica, 4, 100);
    assert_eq!(weight(&replica, 1), 100, "nothing is left of what was set");
    // Also while it is down.
    replica.vacate(1, 4);
    replica.done(weigh(1, 0));
    start(&mut replica, 5, 100);
    assert_eq!(weight(&replica, 1), 0);
}

#[test]
fn a_weight_is_set_only_for_a_node_of_the_cluster() {
    let mut replica = Replica::with_nodes(2);
    let unknown = Refused::UnknownNode(node(9));
    assert_eq!(replica.apply(weigh(9, 1)), Outcome::Refused(unknown));
    replica.done(remove(2, 1));
    let removed = Refused::Removed(node(2));
    assert_eq!(replica.apply(weigh(2, 1)), Outcome::Refused(removed));
}

#[test]
fn settings_change_one_by_one_and_only_to_safe_ones() {
    let mut replica = Replica::with_nodes(1);
    let change = SettingsChange {
        voters_wanted: Some(5),
        fast_failover: Some(false),
        ..SettingsChange::default()
    };
    replica.done(Command::Set(change));
    replica.done(Command::Set(SettingsChange::default()));
    let settings = |replica: &Replica| replica.state.cluster().unwrap().settings;
    let wanted = ClusterSettings {
        voters_wanted: 5,
        fast_failover: false,
        ..ClusterSettings::DEFAULT
    };
    assert_eq!(settings(&replica), wanted);
    let (none, ms) = (
        SettingsChange::default(),
        std::time::Duration::from_millis(1),
    );
    for refused in [
        SettingsChange {
            lease_guard: Some(ms),
            ..none
        },
        SettingsChange {
            replace_voters_after: Some(ClusterSettings::REPLACE_VOTERS_AFTER_MAX + ms),
            ..none
        },
        SettingsChange {
            stable_after: Some(ClusterSettings::STABLE_AFTER_MAX + ms),
            ..none
        },
    ] {
        let answer = replica.apply(Command::Set(refused)).accepted();
        assert!(matches!(answer, Err(Refused::Invalid(_))), "{answer:?}");
        assert_eq!(settings(&replica), wanted);
    }
    let longest = SettingsChange {
        replace_voters_after: Some(ClusterSettings::REPLACE_VOTERS_AFTER_MAX),
        stable_after: Some(ClusterSettings::STABLE_AFTER_MAX),
        ..none
    };
    replica.done(Command::Set(longest));
    let early = State::default().apply(
        Position { index: 1, term: 1 },
        Command::Set(change),
        &mut Changes::new(),
    );
    assert_eq!(early, Outcome::Refused(Refused::Unfounded));
}

#[test]
fn a_dead_incarnation_never_joins_again() {
    let mut replica = Replica::with_nodes(2);
    replica.vacate(1, 1);
    let dead = Refused::Dead {
        node: node(1),
        incarnation: Incarnation(1),
    };
    assert_eq!(replica.join(1, 1), Outcome::Refused(dead));
    assert_eq!(replica.join(1, 2), Outcome::Done);
    assert!(matches!(
        replica.join(1, 1),
        Outcome::Refused(Refused::OtherIncarnation { .. })
    ));
}

#[test]
fn an_emptied_slot_stays_until_its_owner_released_it() {
    let mut replica = Replica::with_nodes(2);
    replica.allocate(&["a"], 1);
    let token = replica.slot("a").token;
    assert_eq!(
        replica.deallocate(&["a", "x"]),
        Outcome::Deallocated(vec![true, false])
    );
    assert_eq!(replica.owner("a"), Some((node(1), 1)));
    // Allocated again before the release: planned elsewhere, but the owner still terminates.
    replica.allocate(&["a"], 2);
    assert_eq!(replica.owner("a"), Some((node(1), 1)));
    replica.deallocate(&["a"]);
    assert_eq!(replica.release("a", 1, token), Released::Gone);
    assert_eq!(replica.state.slot(&m(), id("a").slot()), None);
    replica.allocate(&["a"], 2);
    assert!(
        replica.slot("a").token > token,
        "tokens grow even across a slot's absence"
    );
}

#[test]
fn a_module_with_resources_is_removed_only_on_request_and_when_all_have_ended() {
    let mut replica = Replica::with_nodes(1);
    replica.allocate(&["a"], 1);
    let remove = |resources_too| Command::RemoveModule {
        module: m(),
        resources_too,
    };
    let refused = Refused::HasResources {
        module: m(),
        resources: 1,
    };
    assert_eq!(replica.apply(remove(false)), Outcome::Refused(refused));
    replica.done(remove(true));
    assert_eq!(
        replica.allocate(&["b"], 1),
        Outcome::Refused(Refused::Removing(m()))
    );
    let token = replica.slot("a").token;
    assert_eq!(replica.release("a", 1, token), Released::Gone);
    assert!(replica.state.modules().is_empty());
}

#[test]
fn a_new_version_serves_once_one_node_holds_a_resource_with_it() {
    let mut replica = Replica::with_nodes(2);
    replica.allocate(&["a"], 1);
    assert_eq!(
        replica.deploy(b"second"),
        Outcome::Deployed {
            number: 2,
            new: true
        }
    );
    assert_eq!(
        replica.deploy(b"second"),
        Outcome::Deployed {
            number: 2,
            new: false
        }
    );
    assert_eq!(replica.state.modules()[&m()].about.version.number, 1);
    let tried = |number, error: Option<&str>| Command::Tried {
        module: m(),
        number,
        node: node(1),
        error: error.map(str::to_owned),
    };
    replica.done(tried(2, None));
    assert_eq!(replica.state.modules()[&m()].about.version.number, 2);
    let over = Refused::NoRollout {
        module: m(),
        number: 2,
    };
    assert_eq!(
        replica.apply(tried(2, Some("late"))),
        Outcome::Refused(over)
    );
}

#[test]
fn a_version_that_fails_on_every_owner_is_given_up() {
    let mut replica = Replica::with_nodes(2);
    replica.allocate(&["a"], 1);
    replica.allocate(&["b"], 2);
    replica.deploy(b"bad");
    let failed = |n| Command::Tried {
        module: m(),
        number: 2,
        node: node(n),
        error: Some("boom".to_owned()),
    };
    replica.done(failed(1));
    assert!(replica.state.modules()[&m()].about.rollout.is_some());
    replica.done(failed(2));
    let about = &replica.state.modules()[&m()].about;
    assert_eq!((about.version.number, &about.rollout), (1, &None));
    assert_eq!(about.failed.as_ref().unwrap().error, "boom");
    assert_eq!(
        replica.deploy(b"third"),
        Outcome::Deployed {
            number: 3,
            new: true
        }
    );
}

#[test]
fn a_rollout_ends_when_the_last_node_that_could_speak_for_it_dies() {
    let mut replica = Replica::with_nodes(2);
    replica.allocate(&["a"], 1);
    replica.allocate(&["b"], 2);
    replica.deploy(b"bad");
    let error = Some("boom".to_owned());
    replica.done(Command::Tried {
        module: m(),
        number: 2,
        node: node(1),
        error,
    });
    replica.vacate(2, 1);
    assert!(replica.state.modules()[&m()].about.failed.is_some());
}

#[test]
fn deploying_what_serves_takes_a_rollout_back() {
    let mut replica = Replica::with_nodes(1);
    replica.allocate(&["a"], 1);
    replica.deploy(b"second");
    assert_eq!(
        replica.deploy(b"first"),
        Outcome::Deployed {
            number: 1,
            new: false
        }
    );
    assert_eq!(replica.state.modules()[&m()].about.rollout, None);
    // Nodes that tried the second version must not take this one for it.
    assert_eq!(
        replica.deploy(b"third"),
        Outcome::Deployed {
            number: 3,
            new: true
        }
    );
}

#[test]
fn an_incarnation_goes_on_without_a_majority_while_it_owns_what_says_so() {
    let mut replica = Replica::with_nodes(2);
    replica.allocate(&["a"], 1);
    let goes_on = |replica: &Replica, n: u128, incarnation: u64| {
        replica.state.goes_on_without_quorum(Owner {
            node: node(n),
            incarnation: Incarnation(incarnation),
        })
    };
    assert!(
        !goes_on(&replica, 1, 1),
        "modules stop unless they say otherwise"
    );
    let about = &mut replica.state.modules.get_mut(&m()).unwrap().about;
    about.version.settings = Arc::new(Settings {
        on_lost_quorum: OnLostQuorum::Continue,
        ..Settings::default()
    });
    assert!(goes_on(&replica, 1, 1));
    assert!(!goes_on(&replica, 1, 2), "another run owns nothing");
    assert!(!goes_on(&replica, 2, 1), "it owns nothing of it");
}

#[test]
fn a_cluster_founded_anew_has_what_the_lost_one_had_and_nobody_owns_it() {
    let mut replica = Replica::with_nodes(3);
    replica.allocate(&["a", "b"], 1);
    replica.allocate(&["c"], 2);
    replica.place("a", 3);
    // A slot that waits for its owner, who never releases it, must not stay.
    replica.deallocate(&["c"]);
    replica.deploy(b"second");
    let (before, token) = (replica.state.clone(), replica.slot("b").token);
    let mut state = before.clone();
    let anew = ClusterId(uuid::Uuid::from_u128(5));
    state.refound(anew, node(2), 77);

    let cluster = state.cluster().unwrap();
    assert_eq!((cluster.id, cluster.founded_at_ms), (anew, 77));
    assert_eq!(cluster.name, before.cluster().unwrap().name);
    assert_eq!(state.nodes().keys().copied().collect::<Vec<_>>(), [node(2)]);
    let module = &state.modules()[&m()];
    assert_eq!(module.resources, before.modules()[&m()].resources);
    assert_eq!(module.about.rollout, before.modules()[&m()].about.rollout);
    assert!(state.slot(&m(), id("c").slot()).is_none());
    for slot in module.slots.values() {
        assert_eq!((slot.owner, slot.next), (None, None));
        assert!(slot.token.0 > token.0 + (1 << 39) && slot.token.0 <= state.epoch().0);
    }
    let rows = state
        .keys()
        .map(|key| (key.to_bytes(), state.row(&key).unwrap()));
    assert_eq!(State::from_rows(rows).unwrap(), state);

    // The node that is left joins, and takes all of it.
    replica.state = state;
    replica.rows = replica
        .state
        .keys()
        .map(|key| (key.to_bytes(), replica.state.row(&key).unwrap()))
        .collect();
    replica.join(2, 2);
    let alone = BTreeSet::from([node(2)]);
    let plan = replica.state.plan(&alone, &alone, 0);
    assert_eq!(plan.len(), replica.state.modules()[&m()].slots.len());
    replica.place("a", 2);
    assert_eq!(replica.owner("a"), Some((node(2), 2)));
}

#[test]
fn a_module_that_was_being_removed_does_not_outlive_its_cluster() {
    let mut replica = Replica::with_nodes(2);
    replica.allocate(&["a"], 1);
    replica.apply(Command::RemoveModule {
        module: m(),
        resources_too: true,
    });
    assert!(
        replica.state.modules().contains_key(&m()),
        "its slot ends yet"
    );
    let mut state = replica.state.clone();
    state.refound(ClusterId(uuid::Uuid::from_u128(5)), node(2), 77);
    assert!(state.modules().is_empty());
}

#[test]
fn a_removed_node_owns_what_it_did_until_a_leader_says_that_it_has_ended() {
    let mut replica = Replica::with_nodes(2);
    replica.allocate(&["a"], 1);
    replica.done(remove(1, 1));
    assert_eq!(replica.owner("a"), Some((node(1), 1)));
    let run = Owner {
        node: node(1),
        incarnation: Incarnation(1),
    };
    assert!(!replica.state.is_member(run), "it gets no lease");
    assert_eq!(replica.vacate(1, 1), Outcome::Done);
    assert_eq!(replica.owner("a"), None);
    assert_eq!(replica.state.nodes()[&node(1)].standing, Standing::Removed);
    let unknown = Refused::UnknownNode(node(9));
    assert_eq!(replica.apply(remove(9, 1)), Outcome::Refused(unknown));
    let removed = Outcome::Refused(Refused::Removed(node(1)));
    assert_eq!(
        replica.join(1, 2),
        removed,
        "it comes back under a new identity only"
    );
    replica.done(remove(1, 1));
}

#[test]
fn a_node_that_started_anew_is_not_removed_for_what_its_former_run_was() {
    let mut replica = Replica::with_nodes(2);
    replica.allocate(&["a"], 1);
    replica.join(1, 2);
    let other = Refused::OtherIncarnation {
        node: node(1),
        present: Incarnation(2),
        given: Incarnation(1),
    };
    assert_eq!(replica.apply(remove(1, 1)), Outcome::Refused(other));
    assert_eq!(replica.owner("a"), Some((node(1), 2)));
}

#[test]
fn the_deadline_of_a_drain_is_what_was_said_last_and_ends_with_the_drain() {
    let mut replica = Replica::with_nodes(2);
    let mut drain = |draining, deadline_ms| {
        replica.done(Command::Drain {
            node: node(1),
            draining,
            deadline_ms,
        });
        replica.state.nodes()[&node(1)].drain_deadline_ms
    };
    assert_eq!(drain(true, None), None);
    assert_eq!(drain(true, Some(9)), Some(9));
    assert_eq!(drain(true, Some(5)), Some(5));
    assert_eq!(drain(false, Some(5)), None);
    assert_eq!(drain(true, Some(7)), Some(7));
    replica.join(1, 2);
    assert_eq!(replica.state.nodes()[&node(1)].drain_deadline_ms, None);
}

#[test]
fn a_move_away_from_a_draining_node_can_be_called_off() {
    let mut replica = Replica::with_nodes(2);
    replica.allocate(&["a"], 1);
    replica.done(Command::Drain {
        node: node(1),
        draining: true,
        deadline_ms: None,
    });
    replica.place("a", 2);
    assert_eq!(replica.next("a"), Some(node(2)));
    let alone: BTreeSet<NodeId> = [node(1)].into();
    let calls_off = replica.state.plan(&alone, &alone, 10);
    replica.decide(Decision::Place { slots: calls_off });
    assert_eq!(replica.next("a"), None);
    assert_eq!(
        replica.state.plan(&alone, &alone, 10),
        vec![],
        "nothing is left to say"
    );
}

#[test]
fn moves_of_a_node_that_cannot_be_reached_use_up_nobodys_budget() {
    let mut replica = Replica::with_nodes(3);
    let ids: Vec<String> = (0..60).map(|n| format!("r-{n}")).collect();
    let (first, second): (Vec<&str>, Vec<&str>) = ids
        .iter()
        .map(String::as_str)
        .partition(|id| id.ends_with(['0', '1', '2', '3', '4']));
    replica.allocate(&first, 1);
    replica.allocate(&second, 2);
    let all: BTreeSet<NodeId> = (1..=3).map(node).collect();
    let moves = replica.state.plan(&all, &all, 10);
    replica.decide(Decision::Place { slots: moves });
    let moving = ids.iter().find(|id| replica.next(id).is_some());
    let (lost, _) = replica
        .owner(moving.expect("something moves"))
        .expect("what moves has an owner");
    let live: BTreeSet<NodeId> = all.iter().copied().filter(|node| *node != lost).collect();
    let under_way = replica.state.moves_under_way(&live);
    assert!(under_way < 10, "{under_way} count");
    let more = replica.state.plan(&live, &live, 10);
    assert!(!more.is_empty(), "the others go on");
}

#[test]
fn a_plan_calls_off_moves_to_nodes_that_are_gone_and_keeps_to_its_budget() {
    let mut replica = Replica::with_nodes(3);
    let ids: Vec<String> = (0..60).map(|n| format!("r-{n}")).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    replica.allocate(&ids, 1);
    let all: BTreeSet<NodeId> = (1..=3).map(node).collect();
    let moves = replica.state.plan(&all, &all, 10);
    assert_eq!(moves.len(), 10);
    replica.decide(Decision::Place { slots: moves });
    assert_eq!(replica.state.moves_under_way(&all), 10);
    assert_eq!(
        replica.state.plan(&all, &all, 10),
        vec![],
        "the budget is used up"
    );
    let alone: BTreeSet<NodeId> = [node(1)].into();
    let calls_off = replica.state.plan(&alone, &alone, 10);
    assert_eq!(calls_off.len(), 10);
    assert!(calls_off.iter().all(|(_, placed, _)| placed.to == node(1)));
    replica.decide(Decision::Place { slots: calls_off });
    assert_eq!(replica.state.moves_under_way(&all), 0);
}

#[test]
fn a_module_whose_moves_take_long_leaves_budget_to_others() {
    let mut replica = Replica::with_nodes(3);
    let other: ModuleName = "zz".parse().unwrap();
    replica.apply(Command::Deploy {
        module: other.clone(),
        digest: Digest::of(b"zz"),
        size: 2,
        settings: Arc::default(),
        at_ms: 1,
    });
    let ids: Vec<String> = (0..90).map(|n| format!("r-{n}")).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    replica.allocate(&ids, 1);
    let all: BTreeSet<NodeId> = (1..=3).map(node).collect();
    let moves = |replica: &Replica| {
        let moves = replica.state.plan(&all, &all, 10);
        let of_other = moves.iter().filter(|(module, ..)| *module == other).count();
        (moves.len() - of_other, of_other)
    };
    let entries: Vec<_> = ids.iter().map(|i| (id(i), Spec::default())).collect();
    let placed = entries.iter().map(|(id, _)| Placed {
        slot: id.slot(),
        to: node(1),
    });
    replica.apply(Command::Allocate {
        module: other.clone(),
        placed: placed.collect(),
        entries,
        at_ms: 1,
    });
    assert_eq!(moves(&replica), (5, 5));

    // The first has all of it, and gives nothing back until three have ended.
    let mut first = replica.state.plan(&all, &all, 20);
    first.retain(|(module, ..)| *module != other);
    assert_eq!(first.len(), 10);
    replica.decide(Decision::Place { slots: first });
    assert_eq!(moves(&replica), (0, 0));
    let moving = |i: &&&str| replica.next(i).is_some();
    let ended: Vec<&str> = ids.iter().filter(moving).take(3).copied().collect();
    for i in ended {
        let token = replica.slot(i).token;
        replica.release(i, 1, token);
    }
    assert_eq!(moves(&replica), (0, 3));
}

#[test]
fn the_slots_of_a_node_that_cannot_be_reached_stay() {
    let mut replica = Replica::with_nodes(2);
    replica.allocate(&["a", "b", "c"], 1);
    let others: BTreeSet<NodeId> = [node(2)].into();
    assert_eq!(replica.state.plan(&others, &others, 100), vec![]);
}

#[test]
fn rows_of_unknown_shape_are_named() {
    let broken = [(b"z".to_vec(), vec![])];
    assert!(
        State::from_rows(broken)
            .unwrap_err()
            .to_string()
            .contains("row z")
    );
    let orphan = Key::Resource(m(), id("a")).to_bytes();
    let resource = Resource {
        spec: Spec::default(),
        revision: 1,
        allocated_at_ms: 1,
    };
    let row = crate::codec::encode(&resource);
    let error = State::from_rows([(orphan.clone(), row.clone())]).unwrap_err();
    assert!(error.source.is_none(), "it can be read: {error:?}");
    // A later version's: it has a field that this one would lose.
    let mut later = row;
    assert_eq!(later[1], 0x83, "a map of three");
    later[1] = 0x84;
    later.extend(b"\xa5later\xc0");
    let error = State::from_rows([(orphan, later)]).unwrap_err();
    let source = std::error::Error::source(&error.source.unwrap()).map(ToString::to_string);
    assert!(source.unwrap().contains("`later`"));
    for key in [
        Key::Cluster,
        Key::Node(node(3)),
        Key::Module(m()),
        Key::Slot(m(), Slot(9)),
        Key::Resource(m(), id("a/b")),
    ] {
        assert_eq!(Key::from_bytes(&key.to_bytes()).unwrap(), key);
    }
}

/// What may happen to a small cluster, in any order.
#[derive(Clone, Debug)]
enum Happening {
    Join(u128, u64),
    Vacate(u128, u64),
    Remove(u128, u64),
    Drain(u128, bool),
    Weigh(u128, u32),
    Allocate(u8, u128),
    Deallocate(u8),
    Place(u8, u128),
    Release(u8),
    Deploy(u8),
    Tried(u64, u128, bool),
    RemoveModule(bool),
}

fn happening() -> impl Strategy<Value = Happening> {
    use Happening as H;
    let node = 1..4_u128;
    prop_oneof![
        1 => (node.clone(), 1..4_u64).prop_map(|(n, i)| H::Join(n, i)),
        1 => (node.clone(), 1..4_u64).prop_map(|(n, i)| H::Vacate(n, i)),
        1 => (node.clone(), 1..4_u64).prop_map(|(n, i)| H::Remove(n, i)),
        1 => (node.clone(), any::<bool>()).prop_map(|(n, on)| H::Drain(n, on)),
        1 => (node.clone(), 0..3_u32).prop_map(|(n, w)| H::Weigh(n, w)),
        4 => (0..12_u8, node.clone()).prop_map(|(r, n)| H::Allocate(r, n)),
        2 => (0..12_u8).prop_map(H::Deallocate),
        4 => (0..12_u8, node.clone()).prop_map(|(r, n)| H::Place(r, n)),
        4 => (0..12_u8).prop_map(H::Release),
        1 => (0..3_u8).prop_map(H::Deploy),
        1 => (1..4_u64, node, any::<bool>()).prop_map(|(v, n, ok)| H::Tried(v, n, ok)),
        1 => any::<bool>().prop_map(H::RemoveModule),
    ]
}

proptest! {
    /// The invariants are checked after every command, by [`Replica::check`].
    #[test]
    fn no_order_of_commands_breaks_an_invariant(
        happenings in proptest::collection::vec(happening(), 1..120),
    ) {
        let mut replica = Replica::with_nodes(3);
        for happening in happenings {
            let name = |r: u8| format!("r{r}");
            match happening {
                Happening::Join(n, i) => { replica.join(n, i); }
                Happening::Vacate(n, i) => { replica.vacate(n, i); }
                Happening::Remove(n, i) => { replica.apply(remove(n, i)); }
                Happening::Drain(n, draining) => {
                    replica.apply(Command::Drain { node: node(n), draining, deadline_ms: None });
                }
                Happening::Weigh(n, w) => { replica.apply(weigh(n, w)); }
                Happening::Allocate(r, n) => { replica.allocate(&[&name(r)], n); }
                Happening::Deallocate(r) => { replica.deallocate(&[&name(r)]); }
                Happening::Place(r, n) => {
                    if replica.state.slot(&m(), id(&name(r)).slot()).is_some() {
                        replica.place(&name(r), n);
                    }
                }
                Happening::Release(r) => {
                    let slot = id(&name(r)).slot();
                    let state = replica.state.slot(&m(), slot).cloned();
                    if let Some((Owner { node, incarnation }, token)) =
                        state.and_then(|state| Some((state.owner?, state.token)))
                    {
                        let slots = vec![(m(), slot, token)];
                        replica.apply(Command::Release { node, incarnation, slots });
                    }
                }
                Happening::Deploy(n) => { replica.deploy(&[n]); }
                Happening::Tried(number, n, ok) => {
                    let error = (!ok).then(|| "no".to_owned());
                    let node = node(n);
                    replica.apply(Command::Tried { module: m(), number, node, error });
                }
                Happening::RemoveModule(resources_too) => {
                    replica.apply(Command::RemoveModule { module: m(), resources_too });
                }
            }
        }
    }
}
