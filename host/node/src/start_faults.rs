//! Resources that this node cannot start for its own reasons: memory, mappings, stacks.
//!
//! Another node may well start them. So the leader is told which slots they are in, moves those to
//! others, and gives this node no more of the module for a while. That while grows with each fault
//! that comes soon after it, for a node that is full stays full until somebody gives it more.
//!
//! Invariant: bounded by the resources that this node owns; each is forgotten when it is started or
//! leaves. Absent: the next attempt here, which is made as after any failure.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use holdfast_model::{ModuleName, ResourceId, Slot};
use parking_lot::Mutex;

/// What cannot be started here. Cheap to clone; clones share it.
#[derive(Clone, Debug, Default)]
pub struct StartFaults(Arc<Mutex<BTreeMap<ModuleName, Module>>>);

/// What there is to say of a module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartFault {
    /// Slots with resources that were not started; at most [`SLOTS_MAX`].
    pub slots: BTreeSet<Slot>,
    /// How many resources these are.
    pub resources: usize,
    /// Why the last of them was not.
    pub why: String,
}

#[derive(Debug)]
struct Module {
    waiting: BTreeSet<ResourceId>,
    why: String,
    /// No more of the module is wanted until then.
    until: Instant,
    /// How long that is from the last fault.
    pause: Duration,
}

impl StartFaults {
    /// A resource could not be started, for this reason of the node's.
    pub fn failed(&self, module: &ModuleName, id: &ResourceId, why: &str) {
        self.failed_at(module, id, why, Instant::now());
    }

    /// A resource was started, or is not to run here any more.
    pub fn forget(&self, module: &ModuleName, id: &ResourceId) {
        if let Some(found) = self.0.lock().get_mut(module) {
            found.waiting.remove(id);
        }
    }

    /// The modules of which this node wants no more.
    #[must_use]
    pub fn look(&self) -> BTreeMap<ModuleName, StartFault> {
        self.look_at(Instant::now())
    }

    fn failed_at(&self, module: &ModuleName, id: &ResourceId, why: &str, now: Instant) {
        let mut modules = self.0.lock();
        let found = modules.entry(module.clone()).or_insert_with(|| Module {
            waiting: BTreeSet::new(),
            why: String::new(),
            until: now,
            pause: PAUSE_MIN,
        });
        // Faults of one burst count once.
        if now > found.until && !found.waiting.contains(id) {
            found.pause = (found.pause * 2).min(PAUSE_MAX);
        }
        found.until = now + found.pause;
        why.clone_into(&mut found.why);
        found.waiting.insert(id.clone());
    }

    fn look_at(&self, now: Instant) -> BTreeMap<ModuleName, StartFault> {
        let mut modules = self.0.lock();
        // After as long again without any fault, the next one is as good as the first.
        modules.retain(|_, found| !found.waiting.is_empty() || now < found.until + found.pause);
        let current = modules.iter().filter_map(|(name, found)| {
            let fault = StartFault {
                slots: found.slots(),
                resources: found.waiting.len(),
                why: found.why.clone(),
            };
            (!fault.slots.is_empty() || now < found.until).then(|| (name.clone(), fault))
        });
        current.collect()
    }
}

impl Module {
    fn slots(&self) -> BTreeSet<Slot> {
        let mut slots = BTreeSet::new();
        for id in &self.waiting {
            if slots.len() == SLOTS_MAX {
                break;
            }
            slots.insert(id.slot());
        }
        slots
    }
}

/// How many slots of a module the leader is told of at once: as many as it moves in a round or two.
/// The others follow when these are gone.
pub const SLOTS_MAX: usize = 128;

/// How long no more is wanted after a first fault, and after many.
const PAUSE_MIN: Duration = Duration::from_secs(60);
const PAUSE_MAX: Duration = Duration::from_secs(3600);

#[cfg(test)]
mod tests {
    use super::*;

    fn module() -> ModuleName {
        "m6".parse().unwrap()
    }

    fn id(number: usize) -> ResourceId {
        format!("r{number}").parse().unwrap()
    }

    #[test]
    fn what_was_not_started_is_told_until_it_is_and_no_more_is_wanted_for_a_while_after_that() {
        let (faults, now) = (StartFaults::default(), Instant::now());
        faults.failed_at(&module(), &id(1), "no memory", now);
        faults.failed_at(&module(), &id(2), "no mappings", now);
        let told = faults.look_at(now);
        let slots = [id(1).slot(), id(2).slot()].into();
        let why = "no mappings".to_owned();
        let expected = StartFault {
            slots,
            resources: 2,
            why,
        };
        assert_eq!(told[&module()], expected);
        faults.forget(&module(), &id(1));
        faults.forget(&module(), &id(2));
        assert_eq!(faults.look_at(now)[&module()].slots, BTreeSet::new());
        assert_eq!(faults.look_at(now + PAUSE_MIN), BTreeMap::new());
    }

    #[test]
    fn a_resource_that_is_still_not_started_is_told_however_long_that_takes() {
        let (faults, now) = (StartFaults::default(), Instant::now());
        faults.failed_at(&module(), &id(1), "no memory", now);
        assert_eq!(faults.look_at(now + PAUSE_MAX)[&module()].resources, 1);
    }

    #[test]
    fn the_pause_grows_with_faults_that_follow_it_and_not_with_those_of_one_burst() {
        let (faults, mut now) = (StartFaults::default(), Instant::now());
        let mut pauses = Vec::new();
        for number in 0..10 {
            for attempt in 0..3 {
                faults.failed_at(&module(), &id(number), "no memory", now);
                now += Duration::from_millis(attempt);
            }
            faults.forget(&module(), &id(number));
            pauses.push(faults.0.lock()[&module()].pause);
            now = faults.0.lock()[&module()].until + Duration::from_secs(1);
            assert_eq!(faults.look_at(now), BTreeMap::new());
        }
        assert_eq!(pauses[0], PAUSE_MIN);
        assert_eq!(pauses[1], PAUSE_MIN * 2);
        assert_eq!(pauses[9], PAUSE_MAX);
        let rested = now + PAUSE_MAX * 2;
        faults.look_at(rested);
        faults.failed_at(&module(), &id(1), "no memory", rested);
        assert_eq!(faults.0.lock()[&module()].pause, PAUSE_MIN);
    }

    #[test]
    fn the_leader_is_told_of_so_many_slots_at_once() {
        let (faults, now) = (StartFaults::default(), Instant::now());
        for number in 0..5_000 {
            faults.failed_at(&module(), &id(number), "no memory", now);
        }
        let told = &faults.look_at(now)[&module()];
        assert_eq!((told.slots.len(), told.resources), (SLOTS_MAX, 5_000));
    }
}
