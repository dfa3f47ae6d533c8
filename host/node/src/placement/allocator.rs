//! Allocations on the leader: gathered into batches, each placed as a whole.
//!
//! One batch at a time: a slot's first owner is planned on a state that has all allocations
//! before it, so that a module is even without moving anything that runs.

use std::{collections::BTreeMap, time::Duration};

use holdfast_cluster::state::{Allocation, Command, Outcome};
use holdfast_model::{ModuleName, ResourceId, Spec};
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{AllocateError, PIECE_BYTES_MAX, Placement, size};
use crate::{clock::now_ms, control::ProposeError};

type Answer = Result<Vec<Allocation>, AllocateError>;

#[derive(Clone)]
pub(super) struct Allocator(mpsc::Sender<Job>);

pub(super) struct Job {
    module: ModuleName,
    entries: Vec<(ResourceId, Spec)>,
    answer: oneshot::Sender<Answer>,
}

impl Job {
    fn bytes(&self) -> usize {
        self.entries.iter().map(size).sum()
    }
}

/// The task behind the allocations of a leader.
pub struct Allocations {
    placement: Placement,
    jobs: mpsc::Receiver<Job>,
}

impl Allocator {
    pub(super) fn new() -> (Self, mpsc::Receiver<Job>) {
        let (sender, jobs) = mpsc::channel(JOBS_MAX);
        (Self(sender), jobs)
    }

    pub(super) async fn allocate(
        &self,
        module: ModuleName,
        entries: Vec<(ResourceId, Spec)>,
        timeout: Duration,
    ) -> Answer {
        let (answer, answered) = oneshot::channel();
        let job = Job {
            module,
            entries,
            answer,
        };
        let allocated = async {
            self.0.send(job).await.ok()?;
            answered.await.ok()
        };
        let reason = match tokio::time::timeout(timeout, allocated).await {
            Ok(Some(answer)) => return answer,
            Ok(None) => "the node is stopping",
            Err(_) => "it was not committed in time",
        };
        Err(AllocateError::NotAcknowledged(reason.to_owned()))
    }
}

impl Allocations {
    pub(super) fn new(placement: Placement, jobs: mpsc::Receiver<Job>) -> Self {
        Self { placement, jobs }
    }

    /// Allocates until stopped.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            let first = tokio::select! {
                () = stop.cancelled() => return,
                first = self.jobs.recv() => first,
            };
            let Some(first) = first else { return };
            let mut bytes = first.bytes();
            let mut batch: BTreeMap<ModuleName, Vec<Job>> = BTreeMap::new();
            batch.entry(first.module.clone()).or_default().push(first);
            while bytes < PIECE_BYTES_MAX
                && let Ok(job) = self.jobs.try_recv()
            {
                bytes += job.bytes();
                batch.entry(job.module.clone()).or_default().push(job);
            }
            for (module, jobs) in batch {
                self.allocate(module, jobs).await;
            }
        }
    }

    async fn allocate(&self, module: ModuleName, mut jobs: Vec<Job>) {
        // Whoever gave up asks again, or does not want it any more.
        jobs.retain(|job| !job.answer.is_closed());
        if jobs.is_empty() {
            return;
        }
        let entries: Vec<(ResourceId, Spec)> = jobs
            .iter()
            .flat_map(|job| job.entries.iter().cloned())
            .collect();
        let control = &self.placement.0.control;
        let (live, unfit) = (self.placement.live(), self.placement.unfit());
        let ids = entries.iter().map(|(id, _)| id);
        let placed = control.read(|state| state.place_with(&module, ids, &live, &unfit));
        let command = Command::Allocate {
            module,
            entries,
            placed,
            at_ms: now_ms(),
        };
        let deadline = (Instant::now() + COMMIT).into_std();
        let proposed = control.propose(command, deadline).await;
        let answer = match proposed.map(Outcome::accepted) {
            Ok(Ok(Outcome::Allocated(allocated))) => Ok(allocated),
            Ok(Ok(outcome)) => {
                let reason = format!("answered with {outcome:?}");
                Err(AllocateError::NotAcknowledged(reason))
            }
            Ok(Err(refused)) => Err(AllocateError::Refused(refused)),
            Err(error @ ProposeError::NoLeader { .. }) => {
                Err(AllocateError::NotTaken(error.to_string()))
            }
            Err(error @ (ProposeError::TimedOut | ProposeError::Shutdown)) => {
                Err(AllocateError::NotAcknowledged(error.to_string()))
            }
        };
        let mut allocated = answer.as_ref().map(|all| all.iter().copied());
        for job in jobs {
            let part = match &mut allocated {
                Ok(all) => Ok(all.by_ref().take(job.entries.len()).collect()),
                Err(error) => Err((*error).clone()),
            };
            // Whoever asked may have gone; the allocation stands.
            let _ = job.answer.send(part);
        }
    }
}

/// Allocation requests that may wait for the batch before them; askers wait when it is full.
/// Each has up to about [`PIECE_BYTES_MAX`].
const JOBS_MAX: usize = 256;

const COMMIT: Duration = Duration::from_secs(5);
