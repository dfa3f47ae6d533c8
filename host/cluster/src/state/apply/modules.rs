//! Modules: deployment, rollout, removal.

use std::{collections::BTreeMap, sync::Arc};

use holdfast_model::{Digest, ModuleName, NodeId, ResourceId, Settings};

use super::{
    super::{Event, FailedRollout, Key, Module, ModuleAbout, Outcome, Refused, Rollout, Version},
    Change,
};

impl Change<'_> {
    pub(super) fn deploy(
        &mut self,
        name: ModuleName,
        digest: Digest,
        size: u64,
        settings: Arc<Settings>,
        at_ms: u64,
    ) -> Result<Outcome, Refused> {
        let version = |number| Version {
            number,
            digest,
            size,
            settings: Arc::clone(&settings),
            deployed_at_ms: at_ms,
        };
        let same = |version: &Version| version.digest == digest && version.settings == settings;
        let Some(module) = self.state.modules.get_mut(&name) else {
            let about = ModuleAbout {
                version: version(1),
                rollout: None,
                failed: None,
                deployments: 1,
                removing: false,
            };
            let module = Module {
                about,
                resources: BTreeMap::new(),
                slots: BTreeMap::new(),
            };
            self.changes.insert(Key::Module(name.clone()));
            self.state.modules.insert(name.clone(), module);
            self.tell_deployed(name, 1, digest, true);
            return Ok(Outcome::Deployed {
                number: 1,
                new: true,
            });
        };
        if module.about.removing {
            return Err(Refused::Removing(name));
        }
        if let Some(rollout) = module.about.rollout.as_ref().filter(|r| same(&r.version)) {
            return Ok(Outcome::Deployed {
                number: rollout.version.number,
                new: false,
            });
        }
        self.changes.insert(Key::Module(name.clone()));
        let about = &mut module.about;
        if same(&about.version) {
            // Deploying what serves takes back what was about to replace it.
            about.rollout = None;
            return Ok(Outcome::Deployed {
                number: about.version.number,
                new: false,
            });
        }
        about.deployments += 1;
        let number = about.deployments;
        let serves = module.resources.is_empty();
        if serves {
            (about.version, about.rollout, about.failed) = (version(number), None, None);
        } else {
            about.rollout = Some(Rollout {
                version: version(number),
                failed_on: BTreeMap::new(),
            });
        }
        self.tell_deployed(name, number, digest, serves);
        Ok(Outcome::Deployed { number, new: true })
    }

    fn tell_deployed(&mut self, module: ModuleName, version: u64, digest: Digest, serves: bool) {
        (self.tell)(Event::ModuleDeployed {
            module: module.clone(),
            version,
            digest,
        });
        if serves {
            (self.tell)(Event::ModuleServing { module, version });
        }
    }

    pub(super) fn tried(
        &mut self,
        name: &ModuleName,
        number: u64,
        node: NodeId,
        error: Option<String>,
    ) -> Result<Outcome, Refused> {
        let module = self.state.modules.get_mut(name);
        let module = module.ok_or_else(|| Refused::UnknownModule(name.clone()))?;
        let rollout = module
            .about
            .rollout
            .as_mut()
            .filter(|r| r.version.number == number);
        let Some(rollout) = rollout else {
            return Err(Refused::NoRollout {
                module: name.clone(),
                number,
            });
        };
        match error {
            Some(error) => {
                rollout.failed_on.insert(node, error);
            }
            None => {
                module.about.version = rollout.version.clone();
                (module.about.rollout, module.about.failed) = (None, None);
                (self.tell)(Event::ModuleServing {
                    module: name.clone(),
                    version: number,
                });
            }
        }
        self.changes.insert(Key::Module(name.clone()));
        self.settle_rollout(name);
        Ok(Outcome::Done)
    }

    /// Ends a rollout that nobody is left to try: given up when every owner failed, done when
    /// there is no resource that could speak against it.
    pub(super) fn settle_rollout(&mut self, name: &ModuleName) {
        let Some(module) = self.state.modules.get_mut(name) else {
            return;
        };
        let Some(rollout) = &module.about.rollout else {
            return;
        };
        if module.resources.is_empty() {
            module.about.version = rollout.version.clone();
            (module.about.rollout, module.about.failed) = (None, None);
            self.changes.insert(Key::Module(name.clone()));
            (self.tell)(Event::ModuleServing {
                module: name.clone(),
                version: module.about.version.number,
            });
            return;
        }
        let all_failed = module
            .owners()
            .iter()
            .all(|owner| rollout.failed_on.contains_key(owner));
        if let Some(error) = rollout
            .failed_on
            .values()
            .next_back()
            .filter(|_| all_failed)
        {
            let failed = FailedRollout {
                version: rollout.version.clone(),
                error: error.clone(),
            };
            (self.tell)(Event::ModuleFailed {
                module: name.clone(),
                version: failed.version.number,
                error: failed.error.clone(),
            });
            (module.about.rollout, module.about.failed) = (None, Some(failed));
            self.changes.insert(Key::Module(name.clone()));
        }
    }

    pub(super) fn remove_module(
        &mut self,
        name: &ModuleName,
        resources_too: bool,
    ) -> Result<Outcome, Refused> {
        let module = self.state.modules.get_mut(name);
        let module = module.ok_or_else(|| Refused::UnknownModule(name.clone()))?;
        let resources = module.resources.len() as u64;
        if resources > 0 && !resources_too {
            return Err(Refused::HasResources {
                module: name.clone(),
                resources,
            });
        }
        if !std::mem::replace(&mut module.about.removing, true) {
            (self.tell)(Event::ModuleRemoving {
                module: name.clone(),
            });
        }
        module.about.rollout = None;
        let ids: Vec<ResourceId> = module.resources.keys().cloned().collect();
        self.changes.insert(Key::Module(name.clone()));
        self.deallocate(name, &ids)?;
        self.forget_if_removed(name);
        Ok(Outcome::Done)
    }

    pub(super) fn forget_if_removed(&mut self, name: &ModuleName) {
        let gone = |module: &Module| module.about.removing && module.slots.is_empty();
        if self.state.modules.get(name).is_some_and(gone) {
            self.state.modules.remove(name);
            self.changes.insert(Key::Module(name.clone()));
            (self.tell)(Event::ModuleRemoved {
                module: name.clone(),
            });
        }
    }
}
