//! Resources: allocation and deallocation.

use std::collections::{BTreeMap, BTreeSet, btree_map::Entry};

use holdfast_model::{ModuleName, NodeId, ResourceId, Slot, Spec, Token};

use super::{
    super::{Allocation, Event, Key, Outcome, Placed, Refused, Resource, SlotState},
    Change,
};

impl Change<'_> {
    pub(super) fn allocate(
        &mut self,
        name: &ModuleName,
        entries: Vec<(ResourceId, Spec)>,
        placed: &[Placed],
        at_ms: u64,
    ) -> Result<Outcome, Refused> {
        let module = self.state.modules.get(name);
        let module = module.ok_or_else(|| Refused::UnknownModule(name.clone()))?;
        if module.about.removing {
            return Err(Refused::Removing(name.clone()));
        }
        let placed: BTreeMap<Slot, NodeId> = placed.iter().map(|p| (p.slot, p.to)).collect();
        let allocated = entries
            .into_iter()
            .map(|(id, spec)| self.allocate_one(name, id, spec, &placed, at_ms))
            .collect();
        Ok(Outcome::Allocated(allocated))
    }

    fn allocate_one(
        &mut self,
        name: &ModuleName,
        id: ResourceId,
        spec: Spec,
        placed: &BTreeMap<Slot, NodeId>,
        at_ms: u64,
    ) -> Allocation {
        let slot = id.slot();
        let known = self.state.slot(name, slot).is_some();
        let token = if known { Token(0) } else { self.token() };
        let owner = placed.get(&slot).and_then(|node| self.state.active(*node));
        let Some(module) = self.state.modules.get_mut(name) else {
            return Allocation::Unchanged;
        };
        let revision = self.at.index;
        let done = match module.resources.entry(id.clone()) {
            Entry::Occupied(entry) if entry.get().spec == spec => return Allocation::Unchanged,
            Entry::Occupied(mut entry) => {
                let resource = entry.get_mut();
                (resource.spec, resource.revision) = (spec, revision);
                Allocation::Changed
            }
            Entry::Vacant(entry) => {
                entry.insert(Resource {
                    spec,
                    revision,
                    allocated_at_ms: at_ms,
                });
                let fresh = || SlotState {
                    owner,
                    next: None,
                    token,
                    resources: BTreeSet::new(),
                };
                module
                    .slots
                    .entry(slot)
                    .or_insert_with(fresh)
                    .resources
                    .insert(id.clone());
                self.changes.insert(Key::Slot(name.clone(), slot));
                Allocation::Created
            }
        };
        self.changes.insert(Key::Resource(name.clone(), id.clone()));
        let module = name.clone();
        (self.tell)(match done {
            Allocation::Created => Event::ResourceAllocated { module, id },
            Allocation::Changed | Allocation::Unchanged => Event::ResourceChanged { module, id },
        });
        done
    }

    pub(super) fn deallocate(
        &mut self,
        name: &ModuleName,
        ids: &[ResourceId],
    ) -> Result<Outcome, Refused> {
        let module = self.state.modules.get_mut(name);
        let module = module.ok_or_else(|| Refused::UnknownModule(name.clone()))?;
        let mut existed = Vec::with_capacity(ids.len());
        for id in ids {
            let found = module.resources.remove(id).is_some();
            existed.push(found);
            if !found {
                continue;
            }
            self.changes.insert(Key::Resource(name.clone(), id.clone()));
            self.changes.insert(Key::Slot(name.clone(), id.slot()));
            (self.tell)(Event::ResourceDeallocated {
                module: name.clone(),
                id: id.clone(),
            });
            if let Entry::Occupied(mut entry) = module.slots.entry(id.slot()) {
                entry.get_mut().resources.remove(id);
                if entry.get().resources.is_empty() && entry.get().owner.is_none() {
                    entry.remove();
                }
            }
        }
        self.settle_rollout(name);
        Ok(Outcome::Deallocated(existed))
    }
}
