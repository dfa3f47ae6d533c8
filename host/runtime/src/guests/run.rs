//! A piece of work on the threads for guests, and whoever waits for it.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{runtime::Handle, sync::oneshot};

use super::{
    OVERRAN, Piece, State,
    ready::{Class, Need, Ticket},
    tenant::Tenant,
};

/// Work on the threads for guests. It comes to its end even if this is dropped, once it has begun;
/// before that it is withdrawn.
#[must_use]
pub struct Run<T> {
    task: Arc<Task>,
    answer: oneshot::Receiver<T>,
}

/// The work has no answer: it panicked, or was cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the work of a guest ended without an answer")]
pub struct Lost;

type Work<T> = Pin<Box<dyn Future<Output = T> + Send>>;

pub(super) struct Task {
    pub(super) tenant: Arc<Tenant>,
    need: Need,
    is_call: bool,
    /// Whose timers and sockets it uses.
    context: Handle,
    work: Mutex<Option<Work<()>>>,
    begun: AtomicBool,
    overran: AtomicBool,
    /// Locked under the lock of the state, and for moments only.
    phase: Mutex<Phase>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// It waits for something else than a thread.
    Idle,
    Queued(Class, Ticket),
    Running {
        woken: bool,
        cancelled: bool,
    },
    Done,
}

impl<T: Send + 'static> Run<T> {
    pub(super) fn queue(
        tenant: &Arc<Tenant>,
        class: Class,
        need: Need,
        is_call: bool,
        work: Work<T>,
    ) -> Self {
        let (sender, answer) = oneshot::channel();
        let work = async move {
            // Nobody has to wait for it any more.
            let _ = sender.send(work.await);
        };
        let task = Arc::new(Task {
            tenant: Arc::clone(tenant),
            need,
            is_call,
            context: Handle::current(),
            work: Mutex::new(Some(Box::pin(work))),
            begun: AtomicBool::new(false),
            overran: AtomicBool::new(false),
            phase: Mutex::new(Phase::Idle),
        });
        if is_call {
            tenant.waits();
        }
        let guests = &tenant.guests.0;
        let mut state = guests.state.lock();
        task.queue(&mut state, class);
        guests.dispatch(&mut state);
        drop(state);
        Self { task, answer }
    }

    /// It began before it came here: it is not withdrawn.
    pub(super) fn begun_already(self) -> Self {
        self.task.begin();
        self
    }

    /// Takes the work back, unless it has begun. Says whether it did.
    pub fn withdraw(&mut self) -> bool {
        let begun = || self.task.begun.load(Relaxed);
        self.task.take_back(begun)
    }

    /// Waits for the work, which has `time` to begin: after that it is withdrawn, and the answer is
    /// none.
    ///
    /// # Errors
    /// When it panicked.
    pub async fn begun_within(&mut self, time: Duration) -> Result<Option<T>, Lost> {
        if let Ok(answer) = tokio::time::timeout(time, &mut *self).await {
            return answer.map(Some);
        }
        if self.withdraw() {
            return Ok(None);
        }
        self.await.map(Some)
    }

    /// Ends the work, and waits until nothing of it runs: at once if no thread is at it, else when it
    /// gives its thread back.
    pub async fn cancel(mut self) {
        if !self.task.take_back(|| false) {
            // Its answer is not wanted any more.
            let _ = (&mut self).await;
        }
    }
}

impl<T> Future for Run<T> {
    type Output = Result<T, Lost>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = Pin::new(&mut self.answer).poll(context);
        answer.map(|answer| answer.map_err(|_| Lost))
    }
}

impl<T> Drop for Run<T> {
    fn drop(&mut self) {
        let begun = || self.task.begun.load(Relaxed);
        self.task.take_back(begun);
    }
}

impl Task {
    /// Puts it into its queue. The lock of the state is held.
    fn queue(self: &Arc<Self>, state: &mut State, class: Class) {
        let piece = Piece::Step(Arc::clone(self));
        let ticket = state.ready.push(self.tenant.id, class, self.need, piece);
        *self.phase.lock() = Phase::Queued(class, ticket);
    }

    /// It was taken out of its queue to run. The lock of the state is held.
    pub(super) fn picked(&self) {
        *self.phase.lock() = Phase::Running {
            woken: false,
            cancelled: false,
        };
        self.begin();
    }

    /// There is no thread for it yet. The lock of the state is held.
    pub(super) fn put_back(self: &Arc<Self>, state: &mut State) {
        if self.need != Need::Processor {
            state.ready.let_go(self.tenant.id);
        }
        self.queue(state, Class::Usual);
    }

    fn begin(&self) {
        if !self.begun.swap(true, Relaxed) && self.is_call {
            self.tenant.waits_no_more();
        }
    }

    /// Runs it until it waits, yields or ends.
    pub(super) fn step(self: &Arc<Self>) {
        let waker = Waker::from(Arc::clone(self));
        OVERRAN.set(false);
        let ended = {
            let _context = self.context.enter();
            let mut work = self.work.lock();
            let ended = catch_unwind(AssertUnwindSafe(|| {
                let Some(running) = work.as_mut() else {
                    return true;
                };
                let mut context = Context::from_waker(&waker);
                running.as_mut().poll(&mut context).is_ready()
            }));
            // A panic was reported by its hook; whoever waits finds no answer.
            let ended = ended.unwrap_or(true);
            if ended {
                let over = work.take();
                let _ = catch_unwind(AssertUnwindSafe(|| drop(over)));
            }
            ended
        };
        if OVERRAN.take() {
            self.overran.store(true, Relaxed);
        }
        if ended && self.is_call && !self.overran.load(Relaxed) {
            self.tenant.was_quick();
        }
        self.after_step(ended);
    }

    fn after_step(self: &Arc<Self>, ended: bool) {
        let cancelled = {
            let mut state = self.tenant.guests.0.state.lock();
            if self.need != Need::Processor {
                state.ready.let_go(self.tenant.id);
            }
            let phase = *self.phase.lock();
            let Phase::Running { woken, cancelled } = phase else {
                unreachable!("only its own thread ends a step");
            };
            if ended || cancelled {
                *self.phase.lock() = Phase::Done;
            } else if woken {
                self.queue(&mut state, Class::Usual);
            } else {
                *self.phase.lock() = Phase::Idle;
            }
            cancelled && !ended
        };
        if cancelled {
            let over = self.work.lock().take();
            let _ = catch_unwind(AssertUnwindSafe(|| drop(over)));
        }
    }

    /// Lets go of the work, unless a thread is at it, or `keep` says not to; says whether it is gone.
    /// What is running is let go of after its step, if it may be.
    fn take_back(&self, keep: impl Fn() -> bool) -> bool {
        {
            let mut state = self.tenant.guests.0.state.lock();
            if keep() {
                return false;
            }
            let mut phase = self.phase.lock();
            match *phase {
                Phase::Queued(_, ticket) => {
                    state.ready.remove(self.tenant.id, ticket);
                }
                Phase::Idle => {}
                Phase::Running { woken, .. } => {
                    *phase = Phase::Running {
                        woken,
                        cancelled: true,
                    };
                    return false;
                }
                Phase::Done => return true,
            }
            *phase = Phase::Done;
        }
        self.begin();
        drop(self.work.lock().take());
        true
    }
}

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        let guests = &self.tenant.guests.0;
        let mut state = guests.state.lock();
        let phase = *self.phase.lock();
        match phase {
            Phase::Idle => self.queue(&mut state, Class::Usual),
            // It yielded, and something has happened since: its time is up, or it is to end.
            Phase::Queued(Class::Usual, ticket) => {
                if state.ready.remove(self.tenant.id, ticket).is_some() {
                    self.queue(&mut state, Class::Urgent);
                }
            }
            Phase::Queued(Class::Urgent, _) | Phase::Done => return,
            Phase::Running { cancelled, .. } => {
                *self.phase.lock() = Phase::Running {
                    woken: true,
                    cancelled,
                };
                return;
            }
        }
        guests.dispatch(&mut state);
    }
}
