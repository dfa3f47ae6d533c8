//! The threads, with work that is no guest.

use std::{
    future::pending,
    sync::{atomic::AtomicBool, mpsc},
    time::Instant,
};

use holdfast_model::Lane;
use tokio::time::timeout;

use super::*;
use crate::{budget::Stop, fence::Fence};

fn guests(threads_max: usize, processors: usize) -> Guests {
    Guests::new(Options {
        threads_max,
        processors,
        ..Options::default()
    })
}

fn tenant(guests: &Guests, name: &str) -> Arc<Tenant> {
    guests.tenant(&name.parse().unwrap())
}

fn clock(stop: &Stop) -> Clock {
    Clock {
        deadline: Instant::now() + SOON,
        stop: stop.clone(),
        fence: Fence::open(),
    }
}

/// Computes until stopped, as a plain call does.
async fn spin(tenant: Arc<Tenant>, stop: Stop) {
    let clock = clock(&stop);
    while !clock.is_over() {
        give_way(&tenant, clock.clone());
    }
}

async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(SOON, what).await.expect("it comes soon")
}

async fn until(mut look: impl FnMut() -> bool) {
    let looked = async {
        while !look() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    soon(looked).await;
}

const SOON: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn loops_of_one_tenant_leave_threads_and_processors_to_others() {
    let guests = guests(10, 1);
    let (greedy, other) = (tenant(&guests, "greedy"), tenant(&guests, "other"));
    let stop = Stop::default();
    let call = |_| {
        let spin = spin(Arc::clone(&greedy), stop.clone());
        greedy.call(Lane::Direct, spin).unwrap()
    };
    let mut loops: Vec<_> = (0..50).map(call).collect();
    until(|| greedy.waiting.load(Relaxed) <= 45).await;
    for lane in [Lane::Direct, Lane::Fiber] {
        assert_eq!(soon(other.start(lane, async { 42 })).await, Ok(42));
    }
    // Nine threads may be kept: it has half of them, and the fifth call is the last.
    assert_eq!(greedy.waiting.load(Relaxed), 45);
    assert!(guests.load().threads <= 10);
    assert!(!loops[0].withdraw(), "it has begun");
    assert!(loops[49].withdraw(), "it has not");
    drop(loops.split_off(40));
    assert_eq!(
        greedy.waiting.load(Relaxed),
        35,
        "whoever is gone waits no more"
    );
    stop.set();
    for ended in loops {
        soon(ended).await.unwrap();
    }
    until(|| guests.load().running == 0).await;
    assert_eq!(guests.load().waiting, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_sleeps_is_woken_when_its_time_is_over_though_no_processor_is_free() {
    let guests = guests(4, 1);
    let tenant = tenant(&guests, "m");
    let stop = Stop::default();
    let (go_on, told) = mpsc::channel::<()>();
    let sleeper = spin(Arc::clone(&tenant), stop.clone());
    let sleeper = tenant.start(Lane::Direct, sleeper);
    let busy = tenant.start(Lane::Direct, async move { told.recv().is_ok() });
    until(|| guests.load().waiting == 1).await;
    stop.set();
    // As the thread that counts epochs does.
    let sweep = async {
        loop {
            guests.sweep();
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::select! {
        ended = soon(sleeper) => ended.unwrap(),
        () = sweep => {}
    }
    go_on.send(()).unwrap();
    assert_eq!(soon(busy).await, Ok(true));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_is_cancelled_at_once_and_what_runs_when_it_gives_its_thread_back() {
    struct Dropped(Arc<AtomicBool>);
    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.store(true, SeqCst);
        }
    }
    let guests = guests(4, 1);
    let tenant = tenant(&guests, "m");
    for yields in [false, true] {
        let gone = Arc::new(AtomicBool::new(false));
        let held = Dropped(Arc::clone(&gone));
        let run = tenant.start(Lane::Fiber, async move {
            let _held = held;
            if yields {
                loop {
                    tokio::task::yield_now().await;
                }
            }
            pending::<()>().await;
        });
        soon(run.cancel()).await;
        until(|| gone.load(SeqCst)).await;
    }
    let stop = Stop::default();
    let run = tenant.start(Lane::Direct, spin(Arc::clone(&tenant), stop.clone()));
    until(|| guests.load().running == 1).await;
    stop.set();
    soon(run.cancel()).await;
    until(|| guests.load().running == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn work_that_panics_costs_its_waiter_the_answer_and_nobody_a_thread() {
    let guests = guests(3, 1);
    let tenant = tenant(&guests, "m");
    for lane in [Lane::Direct, Lane::Fiber, Lane::Direct, Lane::Fiber] {
        let run = tenant.start(lane, async { assert_eq!(1, 2, "told to panic") });
        assert_eq!(soon(run).await, Err(Lost));
    }
    assert_eq!(soon(tenant.start(Lane::Direct, async { 1 })).await, Ok(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_beyond_the_queue_are_refused() {
    let guests = guests(2, 1);
    let tenant = tenant(&guests, "m");
    let (go_on, told) = mpsc::channel::<()>();
    let busy = tenant.start(Lane::Direct, async move { told.recv().is_ok() });
    let call = || tenant.call(Lane::Direct, async {});
    let mut waiting = Vec::new();
    let refused = loop {
        match call() {
            Ok(run) => waiting.push(run),
            Err(full) => break full,
        }
    };
    assert_eq!(refused.0 as usize, waiting.len());
    waiting.pop();
    assert!(call().is_ok());
    drop(waiting);
    go_on.send(()).unwrap();
    assert_eq!(soon(busy).await, Ok(true));
}
