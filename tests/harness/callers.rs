//! Clients that call resources all the time, while a test does something to the cluster.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use crate::{
    Answer, Api, Probe, Unanswered,
    wait::{LONG, wait_until},
};

/// What a caller must be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// Success, if need be after waiting: nothing that calls must notice has happened.
    Success,
    /// Success, or that it was in vain and when to try again: the owner was lost.
    AnswerInTime,
}

/// What a caller saw.
#[derive(Debug, Default)]
pub struct Calls {
    /// Answers by status.
    pub statuses: BTreeMap<u16, usize>,
    /// What should not have been.
    pub wrong: Vec<String>,
}

/// Clients, each a thread that calls resources of the probe in turn. They stop when it is dropped.
#[derive(Debug, Default)]
pub struct Callers {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<Calls>>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    answered: AtomicUsize,
}

impl Due {
    /// How long the caller gives a call.
    #[must_use]
    pub fn timeout(self) -> Duration {
        match self {
            Self::Success => Duration::from_secs(30),
            Self::AnswerInTime => Duration::from_secs(2),
        }
    }

    /// Calls a resource of the module `probe` with this timeout.
    ///
    /// # Errors
    /// When the answer is not what is due, with what it was.
    pub fn call(self, api: &Api, id: &str, timeout: Duration) -> Result<Answer, String> {
        let ask = api
            .invoke("probe", id, Probe::echo())
            .header("holdfast-timeout-ms", timeout.as_millis());
        let answer = match ask.patience(timeout + LATE_MAX).send() {
            Ok(answer) => answer,
            Err(Unanswered { what, reason }) => return Err(format!("{what}: {reason:?}")),
        };
        let in_vain = self == Self::AnswerInTime && is_clear(&answer, timeout);
        match answer.status == 200 || in_vain {
            true => Ok(answer),
            false => Err(format!("{answer} after {:?}", answer.took)),
        }
    }
}

impl Callers {
    /// Adds a client of this node that calls these resources in turn.
    pub fn add(&mut self, api: &Api, ids: &[String], due: Due) {
        let (api, ids, shared) = (api.clone(), ids.to_vec(), Arc::clone(&self.shared));
        let client = thread::spawn(move || {
            let mut calls = Calls::default();
            for id in ids.iter().cycle() {
                if shared.stop.load(Ordering::Relaxed) || calls.wrong.len() > 5 {
                    break;
                }
                match due.call(&api, id, due.timeout()) {
                    Ok(answer) => *calls.statuses.entry(answer.status).or_default() += 1,
                    Err(wrong) => calls.wrong.push(wrong),
                }
                shared.answered.fetch_add(1, Ordering::Relaxed);
                // Leaves the machine to the nodes.
                thread::sleep(PAUSE);
            }
            calls
        });
        self.threads.push(client);
    }

    /// Waits until this many more calls were answered.
    ///
    /// # Panics
    /// When they are not within a minute.
    #[track_caller]
    pub fn wait_answered(&self, calls: usize) {
        let answered = || self.shared.answered.load(Ordering::Relaxed);
        let aim = answered() + calls;
        wait_until("calls are under way", LONG, || {
            let answered = answered();
            (answered >= aim).then_some(()).ok_or(answered)
        });
    }

    /// Ends all clients, and makes sure that each was answered as was due, and served at times.
    ///
    /// # Panics
    /// With what was wrong.
    #[track_caller]
    pub fn stop(mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for client in self.threads.drain(..) {
            let calls = client.join().expect("a client does not panic");
            println!("calls by status: {:?}", calls.statuses);
            assert!(calls.wrong.is_empty(), "{:#?}", calls.wrong);
            assert!(calls.statuses.contains_key(&200), "no call succeeded");
        }
    }
}

impl Drop for Callers {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

/// Whether this failure tells a client what to do: a problem that says when to come back, or that all
/// of the time that the client gave is over.
pub(crate) fn is_clear(answer: &Answer, timeout: Duration) -> bool {
    let a_problem = answer.header("content-type") == Some("application/problem+json");
    a_problem
        && match answer.status {
            503 => {
                let seconds = answer.header("retry-after").and_then(|s| s.parse().ok());
                seconds >= Some(1_u64)
            }
            504 => answer.took >= timeout,
            _ => false,
        }
}

/// What a loaded machine may add to a timeout before an answer counts as hanging.
pub(crate) const LATE_MAX: Duration = Duration::from_secs(15);

const PAUSE: Duration = Duration::from_millis(5);
