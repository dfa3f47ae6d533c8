//! Real runtimes whose threads are stuck, or busy.

use std::sync::{Barrier, Condvar};

use super::*;

fn runtime(workers: usize) -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers)
        .enable_all()
        .build()
        .unwrap()
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Blocks so many workers until it is told to go on.
struct Stuck(Arc<(std::sync::Mutex<bool>, Condvar)>);

impl Stuck {
    fn new(runtime: &Handle, workers: usize) -> Self {
        let go_on = Arc::new((std::sync::Mutex::new(false), Condvar::new()));
        let all = Arc::new(Barrier::new(workers + 1));
        for _ in 0..workers {
            let (go_on, all) = (go_on.clone(), all.clone());
            runtime.spawn(async move {
                all.wait();
                let guard = go_on.0.lock().unwrap();
                drop(go_on.1.wait_while(guard, |go_on| !*go_on).unwrap());
            });
        }
        all.wait();
        Self(go_on)
    }
}

impl Drop for Stuck {
    fn drop(&mut self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }
}

const BOUND: Duration = Duration::from_secs(1);
const NEVER: Duration = Duration::from_secs(3600);

#[test]
fn a_stuck_runtime_is_found_and_one_that_goes_on_again() {
    let (control, data) = (runtime(2), runtime(3));
    let handles = vec![
        ("control", control.handle().clone()),
        ("data", data.handle().clone()),
    ];
    let (test, _testing) = SelfTest::start_with(handles, BOUND, NEVER).unwrap();
    let stuck = Stuck::new(data.handle(), 3);
    until("the stuck runtime is found", || test.unfit().is_some());
    let unfit = test.unfit().unwrap().to_string();
    assert!(
        unfit.starts_with("the data runtime has not answered for "),
        "{unfit}"
    );
    let findings = test.findings();
    assert_eq!(findings[1].stuck, 3, "{findings:?}");
    assert!(findings[0].unfit_for.is_none(), "{findings:?}");
    drop(stuck);
    until("it answers again", || test.unfit().is_none());
}

#[test]
fn one_stuck_worker_is_found_and_the_others_are_enough() {
    let data = runtime(2);
    let handles = vec![("data", data.handle().clone())];
    let (test, _testing) = SelfTest::start_with(handles, BOUND, NEVER).unwrap();
    let _stuck = Stuck::new(data.handle(), 1);
    until("the worker is found", || test.findings()[0].stuck == 1);
    assert!(test.unfit().is_none());
}

#[test]
fn workers_that_hand_their_work_on_to_compute_are_not_stuck() {
    let data = runtime(2);
    let handles = vec![("data", data.handle().clone())];
    let (test, _testing) = SelfTest::start_with(handles, BOUND, NEVER).unwrap();
    let go_on = Arc::new(std::sync::atomic::AtomicBool::new(false));
    for _ in 0..8 {
        let go_on = go_on.clone();
        // As guests do.
        data.spawn(async move {
            tokio::task::block_in_place(|| {
                while !go_on.load(Relaxed) {
                    thread::sleep(Duration::from_millis(1));
                }
            });
        });
    }
    thread::scope(|scope| {
        let waited = scope.spawn(|| thread::sleep(3 * BOUND));
        while !waited.is_finished() {
            let findings = test.findings();
            assert!(test.unfit().is_none(), "{findings:?}");
            thread::sleep(Duration::from_millis(50));
        }
    });
    go_on.store(true, Relaxed);
}
