//! Those who allocate and deallocate, and drain nodes. They ask again until they are answered, or give
//! up at any time: what they asked for may be done all the same.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use holdfast_cluster::state::{Command, Owner, SettingsChange, Standing};
use holdfast_model::{Incarnation, NodeId, ResourceId, Slot, Spec, Weight};
use rand::{RngExt, rngs::ChaCha8Rng};

use crate::checker::{Checker, module};

/// Ids by slot: several for each of a number of slots.
pub(crate) struct Pool(Vec<Vec<ResourceId>>);

impl Pool {
    pub(crate) fn new(slots: usize) -> Self {
        let mut pool: BTreeMap<Slot, Vec<ResourceId>> = BTreeMap::new();
        let id = |n: u32| -> ResourceId { format!("r-{n}").parse().expect("the id is valid") };
        for id in (0..).map(id) {
            let full = pool.len() == slots;
            match pool.get_mut(&id.slot()) {
                Some(ids) if ids.len() < IDS => ids.push(id),
                Some(_) => {}
                None if full => {}
                None => {
                    pool.insert(id.slot(), vec![id]);
                }
            }
            if full && pool.values().all(|ids| ids.len() == IDS) {
                break;
            }
        }
        Self(pool.into_values().collect())
    }
}

impl Pool {
    pub(crate) fn slots(&self) -> usize {
        self.0.len()
    }
}

pub(crate) struct Clients<'a> {
    rng: ChaCha8Rng,
    pool: &'a Pool,
    /// Of each slot of the pool: how many ids were used, and which is there.
    used: Vec<(usize, Option<ResourceId>)>,
    wishes: BTreeMap<u64, Wish>,
    wished: u64,
    /// Wishes for restarts that were acknowledged.
    served: BTreeSet<u64>,
    next: Duration,
}

struct Wish {
    command: Command,
    again: Duration,
    /// How often it is asked before the client gives up, whatever becomes of it. None: until it is
    /// answered.
    tries: Option<u32>,
}

impl<'a> Clients<'a> {
    pub(crate) fn new(rng: ChaCha8Rng, pool: &'a Pool) -> Self {
        let mut clients = Self {
            rng,
            pool,
            used: vec![(0, None); pool.0.len()],
            wishes: BTreeMap::new(),
            wished: 0,
            served: BTreeSet::new(),
            next: Duration::from_secs(2),
        };
        let slots: Vec<usize> = (0..pool.0.len()).collect();
        for batch in slots.chunks(16) {
            clients.allocate(batch);
        }
        clients
    }

    fn allocate(&mut self, slots: &[usize]) {
        let mut entries = Vec::new();
        for slot in slots {
            let (used, present) = &mut self.used[*slot];
            let Some(id) = self.pool.0[*slot].get(*used) else {
                continue;
            };
            *used += 1;
            *present = Some(id.clone());
            entries.push((id.clone(), Spec::default()));
        }
        if !entries.is_empty() {
            self.wish(Command::Allocate {
                module: module(),
                entries,
                placed: Vec::new(),
                at_ms: 0,
            });
        }
    }

    fn wish(&mut self, command: Command) {
        let again = Duration::ZERO;
        // Who removes a node goes on until it is gone.
        let patient = matches!(command, Command::Remove { .. }) || self.rng.random_bool(0.7);
        let tries = (!patient).then(|| self.rng.random_range(1..3));
        let wish = Wish {
            command,
            again,
            tries,
        };
        self.wished += 1;
        self.wishes.insert(self.wished, wish);
    }

    pub(crate) fn drain(&mut self, node: NodeId, draining: bool) {
        self.wish(Command::Drain {
            node,
            draining,
            deadline_ms: None,
        });
    }

    pub(crate) fn weigh(&mut self, node: NodeId, weight: Weight) {
        self.wish(Command::Weigh { node, weight });
    }

    pub(crate) fn remove(&mut self, node: NodeId, incarnation: Incarnation) {
        self.wish(Command::Remove { node, incarnation });
    }

    /// Gives the number of the wish.
    pub(crate) fn restart(&mut self, run: Owner) -> u64 {
        let Owner { node, incarnation } = run;
        self.wish(Command::Restart { node, incarnation });
        self.wished
    }

    pub(crate) fn waits_for(&self, number: u64) -> bool {
        self.wishes.contains_key(&number)
    }

    /// Whether a restart that was wished for was acknowledged.
    pub(crate) fn was_served(&self, number: u64) -> bool {
        self.served.contains(&number)
    }

    pub(crate) fn set(&mut self, change: SettingsChange) {
        self.wish(Command::Set(change));
    }

    /// What is asked now, each with its number.
    pub(crate) fn ask(&mut self, now: Duration, checker: &mut Checker) -> Vec<(u64, Command)> {
        if now >= self.next {
            self.next = now + Duration::from_millis(self.rng.random_range(100..700));
            let slot = self.rng.random_range(0..self.used.len());
            match self.used[slot].1.take() {
                None => self.allocate(&[slot]),
                Some(id) => {
                    checker.take_back(std::slice::from_ref(&id));
                    self.wish(Command::Deallocate {
                        module: module(),
                        ids: vec![id],
                    });
                }
            }
        }
        let mut asked = Vec::new();
        self.wishes.retain(|number, wish| {
            if now < wish.again {
                return true;
            }
            if wish.tries == Some(0) {
                return false;
            }
            wish.tries = wish.tries.map(|tries| tries - 1);
            wish.again = now + AGAIN;
            asked.push((*number, wish.command.clone()));
            true
        });
        asked
    }

    /// A wish was acknowledged.
    pub(crate) fn served(&mut self, number: u64, checker: &mut Checker) {
        let Some(wish) = self.wishes.remove(&number) else {
            return;
        };
        if let Command::Restart { .. } = wish.command {
            self.served.insert(number);
        } else if let Command::Allocate { entries, .. } = wish.command {
            let ids = entries.into_iter().map(|(id, _)| id);
            // What a client wants gone meanwhile is not expected to stay.
            let wanted = |id: &ResourceId| {
                self.used
                    .iter()
                    .any(|(_, there)| there.as_ref() == Some(id))
            };
            checker.acknowledge(ids.filter(wanted));
        }
    }

    /// Takes back every drain: nothing is left that a late repetition did.
    pub(crate) fn take_back_drains(&mut self, checker: &Checker, stays: impl Fn(&NodeId) -> bool) {
        let nodes = checker.state.nodes().iter();
        let draining = nodes.filter(|(_, known)| known.standing == Standing::Draining);
        for (node, _) in draining.filter(|(node, _)| stays(node)) {
            self.drain(*node, false);
        }
    }

    pub(crate) fn waiting(&self) -> usize {
        self.wishes.len()
    }
}

/// Ids of each slot.
const IDS: usize = 4;

/// After how long a client asks again.
const AGAIN: Duration = Duration::from_millis(700);
