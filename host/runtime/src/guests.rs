//! Threads for guests that compute.
//!
//! They are apart from those that serve connections, bounded in number, and of a lower priority than all
//! else of the process. As many guests compute at a time as there are processors. At each tick of the
//! epoch the one that computes gives way to whoever waits, and modules take turns: however many
//! resources of one compute, another gets its share.
//!
//! A fiber gives its thread back whenever it waits or gives way. A plain call (the direct lane) cannot:
//! it keeps its thread, which sleeps until its turn comes again. That is what threads are bounded for;
//! a call that finds none waits until its deadline.
//!
//! Calls of modules that are over at once begin on the thread that they came in on ([`Tenant`]). One
//! that goes on computing there is caught: another thread takes over the worker's tasks, and the
//! call takes turns like the others. Past a number of those nothing begins there.
//!
//! Absent: what the work is, and how often it is tried.

mod handover;
mod ready;
mod run;
mod seat;
mod tenant;
#[cfg(test)]
mod tests;

use std::{
    cell::Cell,
    collections::HashMap,
    sync::{
        Arc, Weak,
        atomic::{
            AtomicU64, AtomicUsize,
            Ordering::{Relaxed, SeqCst},
        },
    },
    time::Duration,
};

use holdfast_model::ModuleName;
use parking_lot::Mutex;
use tracing::warn;

pub(crate) use self::{
    handover::Caught,
    seat::{Clock, is_guest_thread},
};
use self::{
    ready::{Class, Need, Ready, TenantId, Ticket},
    run::Task,
    seat::{Given, HOLDS, Seat},
};
pub use self::{
    run::{Lost, Run},
    tenant::{Full, Tenant},
};

thread_local! {
    /// Whether a guest on this thread computed on, since it was last asked.
    static OVERRAN: Cell<bool> = const { Cell::new(false) };
}

/// How many threads there are for guests.
#[derive(Clone, Debug)]
pub struct Options {
    /// Threads at most. Default 256. Half of what is free goes to one module. Too few: calls that
    /// compute in the direct lane wait for one another. Too many: memory for their stacks.
    pub threads_max: usize,
    /// Guests that compute at the same time. Default: one for each processor. Too few: processors
    /// idle. Too many: what serves connections waits for a processor.
    pub processors: usize,
    /// How much these threads give way to others, as `nice` counts: 0 to 19. Default 5.
    pub niceness: i32,
    /// Stack of each thread, which has the guest's own in it. Only what is touched takes memory.
    pub stack_bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            threads_max: 256,
            processors: std::thread::available_parallelism().map_or(2, usize::from),
            niceness: 5,
            stack_bytes: 18 << 20,
        }
    }
}

/// What goes on at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Threads for guests, idle ones included.
    pub threads: usize,
    /// Guests that have a processor.
    pub running: usize,
    /// Guests that wait for one, and work that waits for a thread.
    pub waiting: usize,
    /// Threads that served connections and were caught by a guest.
    pub caught: usize,
}

/// The threads for guests. Cheap to clone.
#[derive(Clone)]
pub struct Guests(Arc<Inner>);

struct Inner {
    options: Options,
    state: Mutex<State>,
    tenants: Mutex<HashMap<ModuleName, Weak<Tenant>>>,
    tenant_ids: AtomicU64,
    /// Calls that have taken the thread of a worker.
    caught: AtomicUsize,
    /// Whether somebody has to look after those that sleep.
    watched: AtomicUsize,
}

/// All that is decided about threads is decided under its lock.
struct State {
    ready: Ready<Piece>,
    /// How many have a processor.
    running: usize,
    /// Threads of the pool.
    threads: usize,
    idle: Vec<Arc<Seat>>,
    /// Those who gave way and keep their thread.
    preempted: HashMap<Ticket, (TenantId, Arc<Seat>)>,
    /// A thread could not be started: the next tick tries again.
    short_of_threads: bool,
}

/// What is ready to run.
enum Piece {
    Step(Arc<Task>),
    Resume(Arc<Seat>),
}

impl Guests {
    /// No threads yet; they start when there is work.
    #[must_use]
    pub fn new(mut options: Options) -> Self {
        options.processors = options.processors.max(1);
        // Steps of fibers need threads that no plain call keeps.
        let holding_max = options
            .threads_max
            .saturating_sub(options.processors)
            .max(1);
        options.threads_max = holding_max + options.processors;
        Self(Arc::new(Inner {
            options,
            state: Mutex::new(State {
                ready: Ready::new(holding_max),
                running: 0,
                threads: 0,
                idle: Vec::new(),
                preempted: HashMap::new(),
                short_of_threads: false,
            }),
            tenants: Mutex::default(),
            tenant_ids: AtomicU64::new(0),
            caught: AtomicUsize::new(0),
            watched: AtomicUsize::new(0),
        }))
    }

    /// The tenant of this name, the same for all versions of a module.
    #[must_use]
    pub fn tenant(&self, name: &ModuleName) -> Arc<Tenant> {
        let mut tenants = self.0.tenants.lock();
        if let Some(known) = tenants.get(name).and_then(Weak::upgrade) {
            return known;
        }
        tenants.retain(|_, tenant| tenant.strong_count() > 0);
        let id = self.0.tenant_ids.fetch_add(1, Relaxed);
        let tenant = Arc::new(Tenant::new(id, self.clone()));
        tenants.insert(name.clone(), Arc::downgrade(&tenant));
        tenant
    }

    /// What goes on now.
    #[must_use]
    pub fn load(&self) -> Load {
        let state = self.0.state.lock();
        Load {
            threads: state.threads,
            running: state.running,
            waiting: state.ready.len(),
            caught: self.0.caught.load(Relaxed),
        }
    }

    /// Wakes those who sleep though their time is over. Called at each tick.
    pub(crate) fn sweep(&self) {
        if self.0.watched.load(SeqCst) == 0 {
            return;
        }
        let mut state = self.0.state.lock();
        let over = |(ticket, (tenant, seat)): (&Ticket, &(TenantId, Arc<Seat>))| {
            seat.is_over().then_some((*ticket, *tenant))
        };
        let over: Vec<_> = state.preempted.iter().filter_map(over).collect();
        for (ticket, tenant) in over {
            state.ready.remove(tenant, ticket);
            if let Some((_, seat)) = state.preempted.remove(&ticket) {
                seat.give(Given::Over);
            }
        }
        if std::mem::take(&mut state.short_of_threads) {
            self.0.dispatch(&mut state);
        }
        self.0.watch(&state);
    }

    /// Whether not too many workers are caught yet.
    fn has_workers_to_spare(&self) -> bool {
        self.0.caught.load(Relaxed) < CAUGHT_MAX
    }
}

/// A plain call on a thread for guests gives way to others, until it is its turn again or its time is
/// over.
pub(crate) fn give_way(tenant: &Tenant, clock: Clock) {
    let mut holds = HOLDS.get();
    tenant.give_way(clock, &mut holds);
    HOLDS.set(holds);
}

impl Tenant {
    /// Gives way to others, if any wait, until it is this guest's turn again or its time is over.
    /// `holds` says whether it has a processor, before and after.
    fn give_way(&self, clock: Clock, holds: &mut bool) {
        let guests = &self.guests.0;
        let seat = Seat::of_thread();
        {
            let mut state = guests.state.lock();
            if *holds {
                if state.ready.is_empty() {
                    return;
                }
                state.running -= 1;
                *holds = false;
            }
            seat.sit_down(clock);
            let piece = Piece::Resume(Arc::clone(&seat));
            let ticket = state
                .ready
                .push(self.id, Class::Usual, Need::Processor, piece);
            let sleeper = (self.id, Arc::clone(&seat));
            state.preempted.insert(ticket, sleeper);
            seat.note(ticket);
            guests.dispatch(&mut state);
            guests.watch(&state);
        }
        *holds = matches!(seat.wait(), Given::Go);
    }
}

impl Inner {
    /// Gives processors to those whose turn it is. The lock of the state is held.
    fn dispatch(self: &Arc<Self>, state: &mut State) {
        while state.running < self.options.processors {
            let Some(piece) = state.ready.pick() else {
                return;
            };
            state.running += 1;
            match piece {
                Piece::Resume(seat) => state.resume(&seat),
                Piece::Step(task) => {
                    task.picked();
                    if !self.give(state, task) {
                        return;
                    }
                }
            }
        }
    }

    /// Gives a task a thread; says whether there is one.
    fn give(self: &Arc<Self>, state: &mut State, task: Arc<Task>) -> bool {
        if let Some(seat) = state.idle.pop() {
            seat.give(Given::Step(task));
            return true;
        }
        state.threads += 1;
        let (guests, first) = (Arc::clone(self), Arc::clone(&task));
        let thread = std::thread::Builder::new()
            .name("guest".to_owned())
            .stack_size(self.options.stack_bytes)
            .spawn(move || guests.work(first));
        let Err(error) = thread else {
            return true;
        };
        warn!(%error, "a thread for guests could not be started; trying again");
        state.threads -= 1;
        state.running -= 1;
        state.short_of_threads = true;
        task.put_back(state);
        self.watch(state);
        false
    }

    /// What a thread of the pool does, until there has been nothing to do for a while.
    fn work(self: Arc<Self>, first: Arc<Task>) {
        let _gone = Gone(&self);
        // Where that is not allowed it computes at the usual priority: the kernel shares fairly too.
        let _ = rustix::process::setpriority_process(None, self.options.niceness);
        let seat = Seat::of_pool();
        let mut next = Some(first);
        while let Some(task) = next {
            HOLDS.set(true);
            task.step();
            drop(task);
            let mut state = self.state.lock();
            if HOLDS.replace(false) {
                state.running -= 1;
            }
            next = self.next(&mut state);
            if next.is_none() {
                state.idle.push(Arc::clone(&seat));
                drop(state);
                next = seat.wait_for_work(IDLE_TIME);
            }
            if next.is_none() {
                let mut state = self.state.lock();
                let before = state.idle.len();
                state.idle.retain(|other| !Arc::ptr_eq(other, &seat));
                if state.idle.len() == before {
                    // It was given something in this very moment.
                    drop(state);
                    next = seat.wait_for_work(IDLE_TIME);
                }
            }
        }
    }

    /// The next task for a thread that is free, once all others have what they are to have.
    fn next(self: &Arc<Self>, state: &mut State) -> Option<Arc<Task>> {
        while state.running < self.options.processors {
            let piece = state.ready.pick()?;
            state.running += 1;
            match piece {
                Piece::Resume(seat) => state.resume(&seat),
                Piece::Step(task) => {
                    task.picked();
                    // Others may have been left without, when they could not be given a thread.
                    self.dispatch(state);
                    return Some(task);
                }
            }
        }
        None
    }

    /// Says whether the next tick has something to look after.
    fn watch(&self, state: &State) {
        let watched = state.preempted.len() + usize::from(state.short_of_threads);
        self.watched.store(watched, SeqCst);
    }
}

impl State {
    fn resume(&mut self, seat: &Arc<Seat>) {
        self.preempted.remove(&seat.ticket());
        seat.give(Given::Go);
    }
}

/// Counts a thread out of the pool when it ends, however it does.
struct Gone<'a>(&'a Arc<Inner>);

impl Drop for Gone<'_> {
    fn drop(&mut self) {
        self.0.state.lock().threads -= 1;
    }
}

/// How many workers may be caught before nothing begins on them any more. Each is a thread more of the
/// process.
const CAUGHT_MAX: usize = 16;

/// How long a thread waits for more to do.
const IDLE_TIME: Duration = Duration::from_secs(10);
