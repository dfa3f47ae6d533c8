//! Many clients, each a task that calls resources through one node while everything goes wrong.
//!
//! Unlike [`crate::Callers`], which demand success, these write down every call: whether an answer
//! was right depends on who held the resource, and whether there had to be one on what had been done
//! to the node. Both are known only to the test.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use rand::{RngExt as _, SeedableRng as _, rngs::ChaCha8Rng, seq::IndexedRandom as _};
use serde::Deserialize;
use serde_json::json;
use tokio::task::JoinHandle;

use crate::{
    Answer, Api, Collector, Key, Probe, Unanswered,
    callers::{LATE_MAX, is_clear},
    executor,
};

/// Clients that call resources of the probe, and one that allocates more of them. They stop when it
/// is dropped.
#[derive(Debug)]
pub struct Invokers {
    shared: Arc<Shared>,
    tasks: Vec<JoinHandle<()>>,
}

/// What came of a request.
#[derive(Clone, Debug)]
pub struct Call {
    /// The resource.
    pub key: Key,
    /// The node that was asked.
    pub node: usize,
    /// Just before it was sent, by the observer's clock.
    pub began: Duration,
    /// When its answer had come, or was given up.
    pub ended: Duration,
    /// What came.
    pub outcome: Outcome,
}

/// What a client got.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// The handler's answer.
    Served {
        /// The token in it.
        token: u64,
        /// The instance in it.
        instance: u64,
    },
    /// The allocation is done.
    Allocated,
    /// A clear failure: a problem of this status which says when to come back, or that all of the
    /// client's time is over.
    Failed(u16),
    /// An answer that nobody should get.
    Wrong(String),
    /// None.
    Unanswered(Unanswered),
}

/// When nodes could not answer, by what the test did to them.
#[derive(Debug, Default)]
pub struct Outages(BTreeMap<usize, Vec<Outage>>);

#[derive(Debug)]
struct Outage {
    from: Duration,
    to: Option<Duration>,
    /// Nobody listened.
    down: bool,
}

#[derive(Debug)]
struct Shared {
    stop: AtomicBool,
    /// Zero of the observer's clock.
    zero: Instant,
    nodes: Mutex<Vec<Api>>,
    ids: Mutex<Vec<String>>,
    calls: Mutex<Vec<Call>>,
}

#[derive(Deserialize)]
struct Echo {
    id: String,
    token: u64,
    instance: u64,
}

impl Invokers {
    /// Starts this many, dealt out to the nodes, and one that allocates at this pace.
    #[must_use]
    pub fn start(
        count: usize,
        nodes: Vec<Api>,
        ids: &[String],
        allocate_every: Duration,
        collector: &Collector,
        seed: u64,
    ) -> Self {
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            zero: collector.zero(),
            nodes: Mutex::new(nodes),
            ids: Mutex::new(ids.to_vec()),
            calls: Mutex::default(),
        });
        let mut tasks = vec![executor().spawn(allocate(Arc::clone(&shared), allocate_every))];
        for (number, seed) in (0..count).zip(seed..) {
            let chance = ChaCha8Rng::seed_from_u64(seed);
            tasks.push(executor().spawn(invoke(Arc::clone(&shared), number, chance)));
        }
        Self { shared, tasks }
    }

    /// From now on a node is asked there.
    pub fn redirect(&self, node: usize, api: Api) {
        self.shared.nodes.lock()[node] = api;
    }

    /// Every call that has ended since this was asked last.
    #[must_use]
    pub fn take(&self) -> Vec<Call> {
        std::mem::take(&mut *self.shared.calls.lock())
    }

    /// Lets every call that is under way end.
    ///
    /// # Panics
    /// When a client did.
    pub fn stop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for task in self.tasks.drain(..) {
            executor().block_on(task).expect("a client does not panic");
        }
    }
}

impl Drop for Invokers {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Shared {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    fn api(&self, node: usize) -> Api {
        self.nodes.lock()[node].clone()
    }

    /// Sends a request of the resource `id` through a node, and writes down what came of it.
    async fn call<F: Future<Output = Outcome>>(
        &self,
        node: usize,
        id: &str,
        send: impl FnOnce(Api) -> F,
    ) -> Outcome {
        let began = self.zero.elapsed();
        let outcome = send(self.api(node)).await;
        self.calls.lock().push(Call {
            key: Key::new(MODULE, id),
            node,
            began,
            ended: self.zero.elapsed(),
            outcome: outcome.clone(),
        });
        outcome
    }
}

async fn invoke(shared: Arc<Shared>, number: usize, mut chance: ChaCha8Rng) {
    let node = number % shared.nodes.lock().len();
    while shared.goes_on() {
        let id = shared.ids.lock().choose(&mut chance).cloned();
        let id = id.expect("there are resources to call");
        shared.call(node, &id, |api| served(api, &id)).await;
        tokio::time::sleep(PAUSE.mul_f64(chance.random_range(0.5..1.5))).await;
    }
}

async fn served(api: Api, id: &str) -> Outcome {
    let ask = api
        .invoke(MODULE, id, Probe::observed())
        .header("holdfast-timeout-ms", TIMEOUT.as_millis())
        .patience(TIMEOUT + LATE_MAX);
    outcome(
        ask.exchange().await,
        &[200],
        |answer| match serde_json::from_slice::<Echo>(&answer.body) {
            Ok(echo) if echo.id == id => Outcome::Served {
                token: echo.token,
                instance: echo.instance,
            },
            _ => Outcome::Wrong(format!("not an answer of {id}: {answer}")),
        },
    )
}

/// Allocates one after the other, each through the next node until one says that it is done.
async fn allocate(shared: Arc<Shared>, every: Duration) {
    let mut asked = 0;
    for serial in 0.. {
        let id = format!("late-{serial}");
        let mut pause = every;
        loop {
            tokio::time::sleep(pause).await;
            pause = PAUSE;
            if !shared.goes_on() {
                return;
            }
            let node = asked % shared.nodes.lock().len();
            asked += 1;
            let done = shared.call(node, &id, |api| allocated(api, &id)).await;
            if let Outcome::Allocated = done {
                shared.ids.lock().push(id);
                break;
            }
        }
    }
}

async fn allocated(api: Api, id: &str) -> Outcome {
    let ask = api.allocate(MODULE, id, &json!({})).patience(LATE_MAX * 2);
    outcome(ask.exchange().await, &[200, 201], |_| Outcome::Allocated)
}

fn outcome(
    answer: Result<Answer, Unanswered>,
    success: &[u16],
    succeeded: impl FnOnce(&Answer) -> Outcome,
) -> Outcome {
    match answer {
        Ok(answer) if success.contains(&answer.status) => succeeded(&answer),
        Ok(answer) if is_clear(&answer, TIMEOUT) => Outcome::Failed(answer.status),
        Ok(answer) => Outcome::Wrong(format!(
            "{answer} after {:?}, {:?}",
            answer.took, answer.headers
        )),
        Err(unanswered) => Outcome::Unanswered(unanswered),
    }
}

impl Outages {
    /// A node cannot answer from now on.
    pub fn begin(&mut self, node: usize, now: Duration) {
        self.0.entry(node).or_default().push(Outage {
            from: now,
            to: None,
            down: true,
        });
    }

    /// It can again.
    pub fn end(&mut self, node: usize, now: Duration) {
        for outage in self.0.entry(node).or_default() {
            outage.to.get_or_insert(now);
        }
    }

    /// A node listens again after it has lost its lease and begun anew. That ends the connections that
    /// its clients have, and refuses none.
    pub fn began_anew(&mut self, node: usize, at: Duration) {
        self.0.entry(node).or_default().push(Outage {
            from: at.saturating_sub(BEGINS_ANEW_MAX),
            to: Some(at),
            down: false,
        });
    }

    /// Whether it is clear why a node did not answer between these times.
    #[must_use]
    pub fn explain(&self, call: &Call, unanswered: &Unanswered) -> bool {
        let refused = unanswered.is_refused();
        let mut its = self.0.get(&call.node).into_iter().flatten();
        its.any(|outage| {
            let then = outage.from <= call.ended && outage.to.is_none_or(|to| to >= call.began);
            then && (outage.down || !refused)
        })
    }
}

/// What everything of the scenario is called.
pub const MODULE: &str = "probe";

/// How long a call may take.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Between two calls of a client, give or take a half: with 64 clients some 150 calls a second.
const PAUSE: Duration = Duration::from_millis(350);

/// How long it takes from the last answer of a run to the first of the next, on a loaded machine.
const BEGINS_ANEW_MAX: Duration = Duration::from_secs(5);
