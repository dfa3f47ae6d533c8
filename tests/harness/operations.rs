//! What operators and their machines do to a cluster, drawn at random, and what must be so in the end.
//!
//! Pure: a [`Model`] knows what was asked for so far and draws the next [`Operation`] that makes sense.
//! At most one node is out of work at a time, so that the cluster always has its quorum: what is tested
//! is that everything asked for comes true, in any order. Absent: any knowledge of how.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use rand::{RngExt as _, rngs::ChaCha8Rng, seq::IteratorRandom as _};

/// Something that is done to a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Deploys a module, new or not.
    Deploy {
        /// Its name.
        module: String,
        /// Which of the builds of the component.
        build: u32,
        /// The memory limit in MiB: settings that differ.
        memory_mib: u32,
    },
    /// Removes a module with all its resources.
    Remove {
        /// Its name.
        module: String,
    },
    /// Allocates resources.
    Allocate {
        /// Of this module.
        module: String,
        /// With these ids.
        ids: Vec<String>,
    },
    /// Deallocates resources.
    Deallocate {
        /// Of this module.
        module: String,
        /// With these ids.
        ids: Vec<String>,
    },
    /// Kills a node's process (SIGKILL).
    Kill(usize),
    /// Stops a node (SIGTERM).
    Stop(usize),
    /// Starts a node that does not run.
    Start(usize),
    /// Stops a node's process for some milliseconds (SIGSTOP, SIGCONT).
    Pause(usize, u64),
    /// `holdfast restart NODE --wait`.
    Restart(usize),
    /// `holdfast restart --all`.
    RestartAll,
    /// `holdfast drain NODE --wait`.
    Drain(usize),
    /// `holdfast drain NODE --cancel`.
    CancelDrain(usize),
    /// One more node.
    Join,
    /// Stops a node for good and removes it from the cluster.
    Leave(usize),
    /// `holdfast nodes set NODE --weight N`.
    Weight(usize, u32),
    /// `holdfast settings --voters N`.
    Voters(u8),
    /// Commands that only look.
    Look,
}

/// What was asked for so far.
#[derive(Clone, Debug)]
pub struct Model {
    /// All modules.
    pub modules: BTreeMap<String, Module>,
    /// All nodes that are part of the cluster, by number.
    pub nodes: BTreeMap<usize, Node>,
    /// How many voters the cluster is to have, nodes permitting.
    pub voters: u8,
    modules_max: usize,
    next_node: usize,
    next_resource: u32,
    next_build: u32,
}

/// A module that is deployed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    /// Which build of the component.
    pub build: u32,
    /// Its memory limit.
    pub memory_mib: u32,
    /// The ids of its resources.
    pub ids: BTreeSet<String>,
}

/// A node of the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Node {
    /// Whether its process runs.
    pub runs: bool,
    /// Whether it drains.
    pub drains: bool,
    /// Its weight.
    pub weight: u32,
}

impl Model {
    /// A cluster of so many nodes without modules, which is to have so many at most.
    #[must_use]
    pub fn new(nodes: usize, modules_max: usize) -> Self {
        Self {
            modules: BTreeMap::new(),
            nodes: (0..nodes).map(|node| (node, Node::NEW)).collect(),
            voters: 3,
            modules_max,
            next_node: nodes,
            next_resource: 0,
            next_build: 0,
        }
    }

    /// Draws something that makes sense now.
    pub fn draw(&mut self, chance: &mut ChaCha8Rng) -> Operation {
        loop {
            if let Some(operation) = self.attempt(chance) {
                return operation;
            }
        }
    }

    /// What makes every node work again: to be done before the end is judged.
    #[must_use]
    pub fn settle(&self) -> Vec<Operation> {
        let start = self.nodes.iter().filter(|(_, node)| !node.runs);
        let start = start.map(|(node, _)| Operation::Start(*node));
        let cancel = self.nodes.iter().filter(|(_, node)| node.drains);
        let cancel = cancel.map(|(node, _)| Operation::CancelDrain(*node));
        start.chain(cancel).collect()
    }

    /// Notes that it is done.
    pub fn done(&mut self, operation: &Operation) {
        match operation {
            Operation::Deploy {
                module,
                build,
                memory_mib,
            } => {
                let module = self.modules.entry(module.clone()).or_insert(Module {
                    build: 0,
                    memory_mib: 0,
                    ids: BTreeSet::new(),
                });
                (module.build, module.memory_mib) = (*build, *memory_mib);
            }
            Operation::Remove { module } => {
                self.modules.remove(module);
            }
            Operation::Allocate { module, ids } => {
                let module = self.modules.get_mut(module).expect("it was drawn");
                module.ids.extend(ids.iter().cloned());
            }
            Operation::Deallocate { module, ids } => {
                let module = self.modules.get_mut(module).expect("it was drawn");
                module.ids.retain(|id| !ids.contains(id));
            }
            Operation::Kill(node) | Operation::Stop(node) => self.node(*node).runs = false,
            Operation::Start(node) => self.node(*node).runs = true,
            Operation::Drain(node) => self.node(*node).drains = true,
            Operation::CancelDrain(node) => self.node(*node).drains = false,
            Operation::Weight(node, weight) => self.node(*node).weight = *weight,
            Operation::Join => {
                self.nodes.insert(self.next_node, Node::NEW);
                self.next_node += 1;
            }
            Operation::Leave(node) => {
                self.nodes.remove(node);
            }
            Operation::Voters(voters) => self.voters = *voters,
            Operation::Pause(..)
            | Operation::Restart(_)
            | Operation::RestartAll
            | Operation::Look => {}
        }
    }

    /// How many voters there should be once all nodes work.
    #[must_use]
    pub fn voters_due(&self) -> usize {
        let nodes = self.nodes.len();
        // An even number survives no more losses than the odd one below.
        usize::from(self.voters).min(nodes - usize::from(nodes.is_multiple_of(2)))
    }

    fn node(&mut self, node: usize) -> &mut Node {
        self.nodes.get_mut(&node).expect("it was drawn")
    }

    fn attempt(&mut self, chance: &mut ChaCha8Rng) -> Option<Operation> {
        let running: Vec<usize> = self.those(|node| node.runs);
        let down: Vec<usize> = self.those(|node| !node.runs);
        let all_work = down.is_empty() && self.those(|node| node.drains).is_empty();
        let any = |chance: &mut ChaCha8Rng| running.iter().copied().choose(chance);
        let module = |chance: &mut ChaCha8Rng| self.modules.keys().choose(chance).cloned();
        Some(match chance.random_range(0..100) {
            0..14 => {
                let few = self.modules.len() < self.modules_max;
                let new = few && chance.random_bool(0.6);
                let name = match new {
                    true => format!("m{}", chance.random_range(0..self.modules_max)),
                    false => module(chance)?,
                };
                // Often the very component of another module: that is one file on each node.
                let known = self.modules.values().map(|module| module.build);
                let build = match known.choose(chance) {
                    Some(build) if chance.random_bool(0.5) => build,
                    _ => self.take_build(),
                };
                Operation::Deploy {
                    module: name,
                    build,
                    memory_mib: chance.random_range(16..20),
                }
            }
            14..18 => Operation::Remove {
                module: module(chance)?,
            },
            18..32 => Operation::Allocate {
                module: module(chance)?,
                ids: self.take_ids(chance.random_range(1..40)),
            },
            32..38 => {
                let module = module(chance)?;
                let ids = self.modules[&module].ids.iter();
                let some = chance.random_range(1..15);
                let ids: Vec<String> = ids.cloned().sample(chance, some);
                (!ids.is_empty()).then_some(Operation::Deallocate { module, ids })?
            }
            38..46 if all_work => Operation::Kill(any(chance)?),
            46..52 if all_work => Operation::Stop(any(chance)?),
            52..64 => Operation::Start(down.into_iter().choose(chance)?),
            64..68 if all_work => Operation::Pause(any(chance)?, chance.random_range(200..1_500)),
            68..70 if all_work => Operation::Pause(any(chance)?, chance.random_range(3_500..6_000)),
            70..76 if all_work => Operation::Restart(any(chance)?),
            76..78 if all_work => Operation::RestartAll,
            78..82 if all_work && running.len() > 2 => Operation::Drain(any(chance)?),
            82..87 => {
                let drains = self.those(|node| node.drains);
                Operation::CancelDrain(drains.into_iter().choose(chance)?)
            }
            87..89 if all_work && self.nodes.len() < NODES_MAX => Operation::Join,
            89..91 if all_work && self.nodes.len() > NODES_MIN => Operation::Leave(any(chance)?),
            91..95 => {
                let weights = [50, 100, 100, 100];
                let weight = weights.into_iter().choose(chance)?;
                Operation::Weight(any(chance)?, weight)
            }
            95..97 => Operation::Voters([3, 5, 3].into_iter().choose(chance)?),
            97..100 => Operation::Look,
            _ => return None,
        })
    }

    fn those(&self, which: impl Fn(&Node) -> bool) -> Vec<usize> {
        let nodes = self.nodes.iter().filter(|(_, node)| which(node));
        nodes.map(|(number, _)| *number).collect()
    }

    fn take_build(&mut self) -> u32 {
        self.next_build += 1;
        self.next_build
    }

    fn take_ids(&mut self, count: u32) -> Vec<String> {
        let from = self.next_resource;
        self.next_resource += count;
        (from..from + count).map(|id| format!("r{id}")).collect()
    }
}

impl Node {
    const NEW: Self = Self {
        runs: true,
        drains: false,
        weight: 100,
    };
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Allocate { module, ids } => write!(f, "allocate {} of {module}", ids.len()),
            Self::Deallocate { module, ids } => write!(f, "deallocate {} of {module}", ids.len()),
            Self::Deploy {
                module,
                build,
                memory_mib,
            } => write!(f, "deploy {module}: build {build}, {memory_mib} MiB"),
            other => write!(f, "{other:?}"),
        }
    }
}

const NODES_MIN: usize = 3;
const NODES_MAX: usize = 5;

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;

    fn drawn(seed: u64, count: usize) -> (Vec<Operation>, Model) {
        let mut chance = ChaCha8Rng::seed_from_u64(seed);
        let mut model = Model::new(3, 12);
        let draw = |_| {
            let operation = model.draw(&mut chance);
            model.done(&operation);
            operation
        };
        ((0..count).map(draw).collect(), model)
    }

    #[test]
    fn the_same_seed_draws_the_same() {
        assert_eq!(drawn(7, 100).0, drawn(7, 100).0);
        assert_ne!(drawn(7, 100).0, drawn(8, 100).0);
    }

    #[test]
    fn everything_is_drawn_and_at_most_one_node_is_out_of_work() {
        let mut kinds = BTreeSet::new();
        let mut chance = ChaCha8Rng::seed_from_u64(1);
        let mut model = Model::new(3, 12);
        for _ in 0..3_000 {
            let operation = model.draw(&mut chance);
            model.done(&operation);
            let text = format!("{operation:?}");
            kinds.insert(text.split([' ', '(']).next().unwrap_or_default().to_owned());
            let out = model
                .nodes
                .values()
                .filter(|node| !node.runs || node.drains);
            assert!(out.count() <= 1, "{operation}: {model:?}");
            assert!((NODES_MIN..=NODES_MAX).contains(&model.nodes.len()));
            assert!(model.modules.len() <= 12);
        }
        assert_eq!(kinds.len(), 17, "{kinds:?}");
    }

    #[test]
    fn settling_leaves_nothing_out_of_work() {
        let (_, mut model) = drawn(3, 500);
        for operation in model.settle() {
            model.done(&operation);
        }
        assert!(model.nodes.values().all(|node| node.runs && !node.drains));
        assert_eq!(model.settle(), []);
    }

    #[test]
    fn voters_are_an_odd_number_of_the_nodes() {
        let due = |nodes, voters| {
            let mut model = Model::new(nodes, 1);
            model.voters = voters;
            model.voters_due()
        };
        let cases = [(3, 3), (4, 3), (5, 3), (5, 5), (4, 5), (3, 5)];
        assert_eq!(cases.map(|(n, v)| due(n, v)), [3, 3, 3, 5, 3, 3]);
    }
}
