//! How each command changes the state.

mod modules;
mod resources;

use std::collections::btree_map::Entry;

use holdfast_model::{Incarnation, ModuleName, NodeId, Slot, Token, Weight};

use super::{
    About, Changes, Cluster, Command, Decision, Event, Key, Node, Outcome, Owner, Placed, Refused,
    Released, SettingsChange, SlotState, Standing, State,
};

/// Where in the log a command stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Its index.
    pub index: u64,
    /// The term of the leader that appended it.
    pub term: u64,
}

impl State {
    /// Applies one command and notes the rows that it changed.
    ///
    /// The same command at the same position gives the same result on every copy.
    pub fn apply(&mut self, at: Position, command: Command, changes: &mut Changes) -> Outcome {
        self.apply_and_tell(at, command, changes, &mut |_| {})
    }

    /// The same, and tells what has happened.
    pub fn apply_and_tell(
        &mut self,
        at: Position,
        command: Command,
        changes: &mut Changes,
        tell: &mut dyn FnMut(Event),
    ) -> Outcome {
        let mut change = Change {
            state: self,
            at,
            changes,
            tell,
            bumped: false,
        };
        change.run(command).unwrap_or_else(Outcome::Refused)
    }
}

/// One command while it is applied.
struct Change<'a> {
    state: &'a mut State,
    at: Position,
    changes: &'a mut Changes,
    tell: &'a mut dyn FnMut(Event),
    bumped: bool,
}

impl Change<'_> {
    fn run(&mut self, command: Command) -> Result<Outcome, Refused> {
        match command {
            Command::Found(cluster) => self.found(cluster),
            Command::Set(change) => self.set(change),
            Command::Decide { term, decision } => {
                // A deposed leader may have decided on what it no longer knows.
                if term != self.at.term {
                    return Err(Refused::OtherTerm {
                        decided: term,
                        applied: self.at.term,
                    });
                }
                match decision {
                    Decision::Join {
                        node,
                        incarnation,
                        about,
                        at_ms,
                    } => self.join(node, incarnation, about, at_ms),
                    Decision::Vacate { node, incarnation } => self.vacate(node, incarnation),
                    Decision::Outlasted { since } => self.outlasted(since),
                    Decision::Place { slots } => Ok(self.place(slots)),
                }
            }
            Command::Release {
                node,
                incarnation,
                slots,
            } => {
                let owner = Owner { node, incarnation };
                let released = slots
                    .into_iter()
                    .map(|(module, slot, token)| self.release(owner, &module, slot, token));
                Ok(Outcome::Released(released.collect()))
            }
            Command::Drain {
                node,
                draining,
                deadline_ms,
            } => self.drain(node, draining, deadline_ms.filter(|_| draining)),
            Command::Weigh { node, weight } => self.weigh(node, weight),
            Command::Restart { node, incarnation } => self.restart(node, incarnation),
            Command::Remove { node, incarnation } => self.remove(node, incarnation),
            Command::Deploy {
                module,
                digest,
                size,
                settings,
                at_ms,
            } => self.deploy(module, digest, size, settings, at_ms),
            Command::Tried {
                module,
                number,
                node,
                error,
            } => self.tried(&module, number, node, error),
            Command::RemoveModule {
                module,
                resources_too,
            } => self.remove_module(&module, resources_too),
            Command::Allocate {
                module,
                entries,
                placed,
                at_ms,
            } => self.allocate(&module, entries, &placed, at_ms),
            Command::Deallocate { module, ids } => self.deallocate(&module, &ids),
        }
    }

    /// The token of a change of owner made by this command.
    fn token(&mut self) -> Token {
        if !self.bumped {
            self.bumped = true;
            self.state.epoch.0 += 1;
            self.changes.insert(Key::Cluster);
        }
        Token(self.state.epoch.0)
    }

    fn found(&mut self, cluster: Cluster) -> Result<Outcome, Refused> {
        match &self.state.cluster {
            Some(founded) if founded.id == cluster.id => {}
            Some(founded) => return Err(Refused::Founded(founded.id)),
            None => {
                self.state.cluster = Some(cluster);
                self.changes.insert(Key::Cluster);
            }
        }
        Ok(Outcome::Done)
    }

    fn set(&mut self, change: SettingsChange) -> Result<Outcome, Refused> {
        let cluster = self.state.cluster.as_mut().ok_or(Refused::Unfounded)?;
        let settings = cluster.settings.changed(change).check();
        if cluster.set(settings.map_err(Refused::Invalid)?, self.at.index) {
            self.changes.insert(Key::Cluster);
        }
        Ok(Outcome::Done)
    }

    fn outlasted(&mut self, since: u64) -> Result<Outcome, Refused> {
        let cluster = self.state.cluster.as_mut().ok_or(Refused::Unfounded)?;
        if cluster.outlasted(since) {
            self.changes.insert(Key::Cluster);
        }
        Ok(Outcome::Done)
    }

    fn join(
        &mut self,
        node: NodeId,
        incarnation: Incarnation,
        about: About,
        at_ms: u64,
    ) -> Result<Outcome, Refused> {
        let former = self.state.nodes.get(&node).cloned();
        // What an operator has set stays until the node is started with another weight than before.
        let stays = |former: &&Node| former.about.weight == about.weight;
        let set = former.as_ref().filter(stays).map(|former| former.weight);
        let mut joined = Node {
            incarnation,
            standing: Standing::Active,
            weight: set.unwrap_or(about.weight),
            about,
            joined_at_ms: at_ms,
            drain_deadline_ms: None,
        };
        if let Some(former) = &former {
            if former.standing == Standing::Removed {
                return Err(Refused::Removed(node));
            }
            let present = former.incarnation;
            if incarnation < present {
                return Err(Refused::OtherIncarnation {
                    node,
                    present,
                    given: incarnation,
                });
            }
            if incarnation == present {
                if former.standing == Standing::Down {
                    return Err(Refused::Dead { node, incarnation });
                }
                joined.standing = former.standing;
                joined.joined_at_ms = former.joined_at_ms;
                joined.drain_deadline_ms = former.drain_deadline_ms;
            }
        }
        let is_new = former
            .as_ref()
            .is_none_or(|former| former.incarnation != incarnation);
        self.state.nodes.insert(node, joined);
        self.changes.insert(Key::Node(node));
        if is_new {
            (self.tell)(Event::NodeUp { node, incarnation });
        }
        if is_new && former.is_some() {
            // The data directory is locked by one process at a time, so the former incarnation
            // has ended: what it owned and nobody else was to get stays with its node.
            self.reassign(node, Some(Owner { node, incarnation }));
        }
        Ok(Outcome::Done)
    }

    fn vacate(&mut self, node: NodeId, incarnation: Incarnation) -> Result<Outcome, Refused> {
        let found = self.present(node, incarnation)?;
        if found.standing.may_own() {
            found.standing = Standing::Down;
            self.changes.insert(Key::Node(node));
            (self.tell)(Event::NodeDown { node, incarnation });
            self.reassign(node, None);
        } else if found.standing == Standing::Removed {
            self.reassign(node, None);
        }
        Ok(Outcome::Done)
    }

    fn restart(&mut self, node: NodeId, incarnation: Incarnation) -> Result<Outcome, Refused> {
        let found = self.present(node, incarnation)?;
        match found.standing {
            Standing::Down => return Err(Refused::Dead { node, incarnation }),
            Standing::Removed => return Err(Refused::Removed(node)),
            Standing::Restarting => {}
            Standing::Active | Standing::Draining => {
                (found.standing, found.drain_deadline_ms) = (Standing::Restarting, None);
                self.changes.insert(Key::Node(node));
                (self.tell)(Event::NodeRestarting { node, incarnation });
            }
        }
        Ok(Outcome::Done)
    }

    /// What the node owns stays its own until a leader says that its lease is over: the operator's
    /// word ends no process.
    fn remove(&mut self, node: NodeId, incarnation: Incarnation) -> Result<Outcome, Refused> {
        let found = self.present(node, incarnation)?;
        if found.standing != Standing::Removed {
            found.standing = Standing::Removed;
            self.changes.insert(Key::Node(node));
            (self.tell)(Event::NodeRemoved { node });
        }
        Ok(Outcome::Done)
    }

    /// The node, if the incarnation that was decided on is still its present one.
    fn present(&mut self, node: NodeId, given: Incarnation) -> Result<&mut Node, Refused> {
        let found = self.state.nodes.get_mut(&node);
        let found = found.ok_or(Refused::UnknownNode(node))?;
        let present = found.incarnation;
        if present != given {
            return Err(Refused::OtherIncarnation {
                node,
                present,
                given,
            });
        }
        Ok(found)
    }

    /// Gives every slot of a node's dead incarnations to its `next`, else to `heir`, else to
    /// nobody; and forgets moves to the node unless there is an heir to take them.
    fn reassign(&mut self, node: NodeId, heir: Option<Owner>) {
        let names: Vec<ModuleName> = self.state.modules.keys().cloned().collect();
        for name in names {
            let slots = self.state.modules[&name].slots.iter();
            let affected: Vec<Slot> = slots
                .filter(|(_, state)| {
                    let owned = state.owner.is_some_and(|owner| owner.node == node);
                    owned || (state.next == Some(node) && heir.is_none())
                })
                .map(|(slot, _)| *slot)
                .collect();
            for slot in affected {
                let state = &self.state.modules[&name].slots[&slot];
                let owned = state.owner.is_some_and(|owner| owner.node == node);
                if owned {
                    let next = state.next.and_then(|next| self.state.active(next));
                    self.give(&name, slot, next.or(heir));
                } else {
                    self.slot_mut(&name, slot, |state| state.next = None);
                }
            }
            self.settle_rollout(&name);
            self.forget_if_removed(&name);
        }
    }

    fn place(&mut self, slots: Vec<(ModuleName, Placed, Token)>) -> Outcome {
        for (module, Placed { slot, to }, token) in slots {
            let Some(state) = self.state.slot(&module, slot) else {
                continue;
            };
            if state.token != token {
                continue;
            }
            let present = state.owner.map(|owner| owner.node);
            // A move is called off whatever the owner's standing: it may drain, and stays the owner.
            let called_off = present == Some(to);
            let heir = self.state.active(to);
            if heir.is_none() && !called_off {
                continue;
            }
            let next = (!called_off).then_some(to);
            if present.is_none() {
                self.give(&module, slot, heir);
            } else if state.next != next {
                self.slot_mut(&module, slot, |state| state.next = next);
            }
        }
        Outcome::Done
    }

    fn release(&mut self, owner: Owner, module: &ModuleName, slot: Slot, token: Token) -> Released {
        let owned = |state: &&SlotState| state.owner == Some(owner) && state.token == token;
        let Some(state) = self.state.slot(module, slot).filter(owned) else {
            return Released::NotOwned;
        };
        let emptied = state.resources.is_empty();
        let heir = match state.next {
            Some(next) => self.state.active(next),
            None => Some(owner),
        };
        self.give(module, slot, heir);
        self.settle_rollout(module);
        self.forget_if_removed(module);
        if emptied {
            Released::Gone
        } else {
            Released::Given
        }
    }

    /// Changes the owner of a slot. An empty slot vanishes instead: nobody runs anything in it.
    fn give(&mut self, module: &ModuleName, slot: Slot, owner: Option<Owner>) {
        let token = self.token();
        let Some(found) = self.state.modules.get_mut(module) else {
            return;
        };
        self.changes.insert(Key::Slot(module.clone(), slot));
        if let Entry::Occupied(mut entry) = found.slots.entry(slot) {
            if entry.get().resources.is_empty() {
                entry.remove();
                return;
            }
            let state = entry.get_mut();
            (self.tell)(Event::Moved {
                module: module.clone(),
                slot,
                resources: u32::try_from(state.resources.len()).unwrap_or(u32::MAX),
                from: state.owner,
                to: owner,
                token,
            });
            (state.owner, state.next, state.token) = (owner, None, token);
        }
    }

    fn slot_mut(&mut self, module: &ModuleName, slot: Slot, change: impl FnOnce(&mut SlotState)) {
        let slots = self
            .state
            .modules
            .get_mut(module)
            .map(|module| &mut module.slots);
        if let Some(state) = slots.and_then(|slots| slots.get_mut(&slot)) {
            change(state);
            self.changes.insert(Key::Slot(module.clone(), slot));
        }
    }

    fn drain(
        &mut self,
        node: NodeId,
        draining: bool,
        deadline_ms: Option<u64>,
    ) -> Result<Outcome, Refused> {
        let found = self
            .state
            .nodes
            .get_mut(&node)
            .ok_or(Refused::UnknownNode(node))?;
        let incarnation = found.incarnation;
        let standing = match (found.standing, draining) {
            (Standing::Down, _) => return Err(Refused::Dead { node, incarnation }),
            (Standing::Removed, _) => return Err(Refused::Removed(node)),
            (Standing::Active | Standing::Draining | Standing::Restarting, true) => {
                Standing::Draining
            }
            (Standing::Active | Standing::Draining, false) => Standing::Active,
            (Standing::Restarting, false) => Standing::Restarting,
        };
        if (found.standing, found.drain_deadline_ms) != (standing, deadline_ms) {
            let former = found.standing;
            (found.standing, found.drain_deadline_ms) = (standing, deadline_ms);
            self.changes.insert(Key::Node(node));
            if former != standing {
                (self.tell)(match draining {
                    true => Event::NodeDraining { node },
                    false => Event::NodeActive { node },
                });
            }
        }
        Ok(Outcome::Done)
    }

    fn weigh(&mut self, node: NodeId, weight: Weight) -> Result<Outcome, Refused> {
        let found = self.state.nodes.get_mut(&node);
        let found = found.ok_or(Refused::UnknownNode(node))?;
        if found.standing == Standing::Removed {
            return Err(Refused::Removed(node));
        }
        if found.weight != weight {
            found.weight = weight;
            self.changes.insert(Key::Node(node));
        }
        Ok(Outcome::Done)
    }
}
