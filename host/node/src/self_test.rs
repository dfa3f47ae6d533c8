//! Whether this node's runtimes work: a thread of its own asks them, again and again, and looks at
//! each of their workers.
//!
//! A node that cannot serve must not keep its lease: its resources would be held, and answer nobody.
//! So a lease is renewed only while [`SelfTest::unfit`] is none; without renewals it runs out by
//! itself, others hold the resources, and the node restarts, which frees the threads that were stuck.
//!
//! **The bounds.** A runtime is unfit when none of its workers has moved for `MOTIONLESS_MAX` and it
//! has not answered meanwhile: it is stuck. Or when it has not answered for `UNANSWERED_MAX` though
//! its workers move: it is overloaded beyond use. The first is longer than the usual lease (3 s),
//! within which any stall of the control runtime costs the lease anyway, and short enough that
//! resources of a stuck node are held elsewhere within 10 s. The second is far above what a machine
//! with four times as much work as processors delays a task by (below a second), and half of the time
//! that callers wait (30 s): whoever is slower answers nobody.
//!
//! What does not count: guests that compute, for their threads are no workers while they do; one worker
//! that is stuck beside others that are not, which is told and measured; time in which the process
//! itself did not run (stopped, suspended, starved), which the thread that looks notices, for it did not
//! run then either.

mod judge;
#[cfg(test)]
mod tests;

use std::{
    fmt, io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tracing::{info, warn};

use self::judge::{Judge, Worker};

/// What is known of the runtimes. Clones share it.
#[derive(Clone)]
pub struct SelfTest(Arc<[Known]>);

/// Runs the test until it is dropped.
pub struct Testing(
    #[expect(dead_code, reason = "its end is what ends the thread")] mpsc::Sender<()>,
);

/// What was found of one runtime.
#[derive(Clone, Debug)]
pub struct Finding {
    /// Its name.
    pub runtime: &'static str,
    /// How long a task waited for a worker, at most in the last `WINDOW`.
    pub delay: Duration,
    /// Workers that have not moved for `MOTIONLESS_MAX`.
    pub stuck: usize,
    /// For how long it has been unfit, if it is.
    pub unfit_for: Option<Duration>,
}

/// Why a node is not fit to hold resources.
#[derive(Clone, Debug)]
pub struct Unfit {
    runtime: &'static str,
    unanswered: Duration,
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            runtime,
            unanswered,
        } = self;
        let seconds = unanswered.as_secs();
        write!(f, "the {runtime} runtime has not answered for {seconds} s")
    }
}

struct Known {
    runtime: &'static str,
    judge: Mutex<Judge>,
}

/// The task that a runtime is asked to run.
struct Canary {
    /// In microseconds, at least 1; 0 until it has run.
    took: Arc<AtomicU64>,
}

impl SelfTest {
    /// Starts to test these runtimes.
    ///
    /// # Errors
    /// When there is no thread for it.
    pub fn start(runtimes: Vec<(&'static str, Handle)>) -> io::Result<(Self, Testing)> {
        Self::start_with(runtimes, MOTIONLESS_MAX, UNANSWERED_MAX)
    }

    fn start_with(
        runtimes: Vec<(&'static str, Handle)>,
        motionless_max: Duration,
        unanswered_max: Duration,
    ) -> io::Result<(Self, Testing)> {
        let known = runtimes.iter().map(|(runtime, handle)| Known {
            runtime,
            judge: Mutex::new(Judge::new(
                handle.metrics().num_workers(),
                motionless_max,
                unanswered_max,
            )),
        });
        let test = Self(known.collect());
        let (testing, ended) = mpsc::channel();
        let this = test.clone();
        // Ends with `Testing`, within a look.
        thread::Builder::new()
            .name("self-test".to_owned())
            .spawn(move || this.run(&runtimes, &ended))?;
        Ok((test, Testing(testing)))
    }

    /// Why the node is not fit to hold resources, if it is not.
    #[must_use]
    pub fn unfit(&self) -> Option<Unfit> {
        self.0.iter().find_map(|known| {
            let judge = known.judge.lock();
            judge.unfit_for().map(|_| Unfit {
                runtime: known.runtime,
                unanswered: judge.unanswered(),
            })
        })
    }

    /// What was found of each runtime.
    #[must_use]
    pub fn findings(&self) -> Vec<Finding> {
        let find = |known: &Known| {
            let judge = known.judge.lock();
            Finding {
                runtime: known.runtime,
                delay: judge.delay(),
                stuck: judge.stuck(),
                unfit_for: judge.unfit_for(),
            }
        };
        self.0.iter().map(find).collect()
    }

    fn run(&self, runtimes: &[(&'static str, Handle)], ended: &mpsc::Receiver<()>) {
        let mut canaries: Vec<Option<Canary>> = runtimes.iter().map(|_| None).collect();
        let mut last = Instant::now();
        while ended.recv_timeout(LOOK_EVERY) == Err(mpsc::RecvTimeoutError::Timeout) {
            let now = Instant::now();
            // More has passed only if this thread could not run; then nobody else could.
            let passed = now.duration_since(last).min(2 * LOOK_EVERY);
            last = now;
            let each = self.0.iter().zip(runtimes).zip(&mut canaries);
            for ((known, (_, handle)), canary) in each {
                known.look(handle, canary, passed);
            }
        }
    }
}

impl Known {
    fn look(&self, handle: &Handle, canary: &mut Option<Canary>, passed: Duration) {
        let metrics = handle.metrics();
        let workers: Vec<Worker> = (0..metrics.num_workers())
            .map(|number| {
                let parks = metrics.worker_park_unpark_count(number);
                Worker {
                    // It counts both: an odd number says that it waits for work.
                    idle: !parks.is_multiple_of(2),
                    motion: (parks, metrics.worker_total_busy_duration(number)),
                }
            })
            .collect();
        let answered = match canary.as_ref() {
            None => Some(Duration::ZERO),
            Some(canary) => canary.answered(),
        };
        let mut judge = self.judge.lock();
        let before = judge.unfit_for().is_some();
        let stuck_before = judge.stuck();
        judge.look(answered, &workers, passed);
        let (after, stuck) = (judge.unfit_for().is_some(), judge.stuck());
        let waited = judge.unanswered();
        drop(judge);
        if answered.is_some() {
            *canary = Some(Canary::send(handle));
        }
        let runtime = self.runtime;
        if after && !before {
            warn!(
                runtime,
                seconds = waited.as_secs(),
                stuck,
                workers = workers.len(),
                "a runtime of this node does not answer; its lease is not renewed until it does"
            );
        } else if before && !after {
            info!(runtime, "the runtime answers again");
        } else if stuck > stuck_before {
            warn!(
                runtime,
                stuck,
                workers = workers.len(),
                "a worker of this node does not move; others do its work"
            );
        }
    }
}

impl Canary {
    fn send(handle: &Handle) -> Self {
        let sent = Instant::now();
        let took = Arc::new(AtomicU64::new(0));
        let tell = took.clone();
        // Ends at once; a runtime that is shut down drops it, and is not looked at for long any more.
        handle.spawn(async move {
            let micros = u64::try_from(sent.elapsed().as_micros()).unwrap_or(u64::MAX);
            tell.store(micros.max(1), Relaxed);
        });
        Self { took }
    }

    fn answered(&self) -> Option<Duration> {
        match self.took.load(Relaxed) {
            0 => None,
            micros => Some(Duration::from_micros(micros)),
        }
    }
}

/// How often the runtimes are asked: some wake-ups a second cost nothing that can be measured.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// See the bounds above.
const MOTIONLESS_MAX: Duration = Duration::from_secs(5);
const UNANSWERED_MAX: Duration = Duration::from_secs(15);

/// How long the longest delay is told: longer than the usual pause between two scrapes.
const WINDOW: Duration = Duration::from_secs(30);
