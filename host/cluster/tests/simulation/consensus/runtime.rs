//! The library's runtime on virtual time, where each task belongs to a process: with that it stands
//! still, goes on, or is never heard of again.

use std::{
    cell::RefCell,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
    time::Duration,
};

use openraft::{OptionalSend, async_runtime::AsyncRuntime};
use openraft_rt_sim::SimRuntime;

use super::lock;

thread_local! {
    /// Whose task is running.
    static LIFE: RefCell<Option<Arc<Life>>> = const { RefCell::new(None) };
}

/// How a process fares.
#[derive(Default)]
pub(super) struct Life(Mutex<Fate>);

#[derive(Default)]
enum Fate {
    #[default]
    Runs,
    /// With the tasks that are to be woken when it goes on.
    StandsStill(Vec<Waker>),
    Ended,
}

impl Life {
    /// Spawns a task of this process.
    pub(super) fn spawn(self: &Arc<Self>, work: impl Future<Output = ()> + Send + 'static) {
        let before = LIFE.replace(Some(self.clone()));
        drop(Runtime::spawn(work));
        LIFE.set(before);
    }

    pub(super) fn pause(&self, still: bool) {
        let mut fate = lock(&self.0);
        match (&mut *fate, still) {
            (Fate::Runs, true) => *fate = Fate::StandsStill(Vec::new()),
            (Fate::StandsStill(woken), false) => {
                let woken = std::mem::take(woken);
                *fate = Fate::Runs;
                woken.into_iter().for_each(Waker::wake);
            }
            _ => {}
        }
    }

    pub(super) fn end(&self) {
        *lock(&self.0) = Fate::Ended;
    }

    /// Whether a task may run; if not, it may be woken later.
    fn runs(&self, waker: &Waker) -> bool {
        match &mut *lock(&self.0) {
            Fate::Runs => true,
            Fate::StandsStill(woken) => {
                woken.push(waker.clone());
                false
            }
            Fate::Ended => false,
        }
    }
}

/// A task of a process.
struct Task<F> {
    life: Option<Arc<Life>>,
    work: Pin<Box<F>>,
}

impl<F: Future> Future for Task<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        if self
            .life
            .as_ref()
            .is_some_and(|life| !life.runs(context.waker()))
        {
            return Poll::Pending;
        }
        let before = LIFE.replace(self.life.clone());
        let polled = self.work.as_mut().poll(context);
        LIFE.set(before);
        polled
    }
}

/// See [`SimRuntime`]; a task belongs to the process of the task that spawned it.
#[derive(Debug)]
pub(crate) struct Runtime(SimRuntime);

impl AsyncRuntime for Runtime {
    type JoinError = <SimRuntime as AsyncRuntime>::JoinError;
    type JoinHandle<T: OptionalSend + 'static> = <SimRuntime as AsyncRuntime>::JoinHandle<T>;
    type Sleep = <SimRuntime as AsyncRuntime>::Sleep;
    type Instant = <SimRuntime as AsyncRuntime>::Instant;
    type TimeoutError = <SimRuntime as AsyncRuntime>::TimeoutError;
    type Timeout<R, T: Future<Output = R> + OptionalSend> =
        <SimRuntime as AsyncRuntime>::Timeout<R, T>;
    type ThreadLocalRng = <SimRuntime as AsyncRuntime>::ThreadLocalRng;
    type Mpsc = <SimRuntime as AsyncRuntime>::Mpsc;
    type Watch = <SimRuntime as AsyncRuntime>::Watch;
    type Oneshot = <SimRuntime as AsyncRuntime>::Oneshot;
    type Mutex<T: OptionalSend + 'static> = <SimRuntime as AsyncRuntime>::Mutex<T>;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        let life = LIFE.with_borrow(Clone::clone);
        let work = Box::pin(future);
        SimRuntime::spawn(Task { life, work })
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        SimRuntime::sleep(duration)
    }

    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        SimRuntime::sleep_until(deadline)
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(
        duration: Duration,
        future: F,
    ) -> Self::Timeout<R, F> {
        SimRuntime::timeout(duration, future)
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(
        deadline: Self::Instant,
        future: F,
    ) -> Self::Timeout<R, F> {
        SimRuntime::timeout_at(deadline, future)
    }

    fn is_panic(error: &Self::JoinError) -> bool {
        SimRuntime::is_panic(error)
    }

    fn thread_rng() -> Self::ThreadLocalRng {
        SimRuntime::thread_rng()
    }

    fn new(threads: usize) -> Self {
        Self(SimRuntime::new(threads))
    }

    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        self.0.block_on(future)
    }
}
