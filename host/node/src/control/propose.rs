//! Commands and linearizable reads, from any node.
//!
//! A command is tried until its deadline: here when this node leads, else at the leader. An answer
//! can be lost after the command was applied, so a command may be applied twice. That is safe for
//! each of them, and only the outcome of the second time may differ:
//!
//! - `Found`: the second is refused, naming the cluster that the first founded.
//! - `Decide`: bound to one term. A join repeats itself; a vacated incarnation stays dead; a placed
//!   slot has another token, or the same `next`.
//! - `Release`: bound to a token, which the first release ended.
//! - `Drain`, `Remove`, `RemoveModule`, `Tried`: say what is to be, not what is to change; what is
//!   gone is reported as unknown.
//! - `Deploy`: the version that serves or rolls out already is not deployed again.
//! - `Allocate`: the same spec changes nothing and is reported as unchanged.
//! - `Deallocate`: what is gone is passed over and reported as such.
//!
//! Between the two, another client's concurrent command may be applied and then be overwritten, as
//! if it had come first: concurrent commands have no order.

use std::time::{Duration, Instant};

use holdfast_cluster::state::{Command, Decision, Outcome};
use holdfast_model::NodeId;
use openraft::{
    ReadPolicy,
    errors::{ClientWriteError, LinearizableReadError, RaftError},
};
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout_at,
};

use super::{
    Core,
    network::{Answer, CallError, Request, TransportError},
    types::Proposal,
};

/// Why a command has no outcome.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// No leader took the command in time. It was not applied and will not be.
    #[error("no leader took the command in time: {}", last_known(*leader))]
    NoLeader {
        /// Who was believed to lead, at the end.
        leader: Option<NodeId>,
    },
    /// The command was handed over, but its outcome is unknown: it may be applied, or be applied
    /// yet.
    #[error("the outcome of the command did not become known in time; it may be applied")]
    TimedOut,
    /// This node's copy of the control state has stopped.
    #[error("the control state of this node has stopped")]
    Shutdown,
}

/// Why a leader's decision has no outcome.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecideError {
    /// This node does not lead in that term, or not any more. The decision was not applied.
    #[error("this node does not lead in term {term}: {}", last_known(*leader))]
    NotLeader {
        /// The decision's term.
        term: u64,
        /// Who is believed to lead.
        leader: Option<NodeId>,
    },
    /// The outcome is unknown.
    #[error("the outcome of the decision did not become known in time; it may be applied")]
    TimedOut,
    /// This node's copy of the control state has stopped.
    #[error("the control state of this node has stopped")]
    Shutdown,
}

/// Why the state cannot be said to be current.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// No leader could confirm in time that it still leads.
    #[error("no leader confirmed in time that it still leads: {}", last_known(*leader))]
    NoLeader {
        /// Who was believed to lead, at the end.
        leader: Option<NodeId>,
    },
    /// This node has not yet applied what the leader has.
    #[error("this node did not catch up with the leader in time")]
    TimedOut,
    /// This node's copy of the control state has stopped.
    #[error("the control state of this node has stopped")]
    Shutdown,
}

fn last_known(leader: Option<NodeId>) -> String {
    leader.map_or("no leader is known".into(), |leader| {
        format!("last known leader is {leader}")
    })
}

/// What came of one attempt.
enum Attempt<T> {
    Done(T),
    /// Nothing was done there.
    NotTaken,
    /// It may have been done.
    Uncertain,
    Shutdown,
}

/// A read that waits for the next round.
pub(crate) struct ReadRequest {
    deadline: Instant,
    answer: oneshot::Sender<Result<u64, ReadError>>,
}

impl Core {
    /// Has a command applied, wherever the leader is.
    pub(crate) async fn propose(
        &self,
        command: Command,
        deadline: Instant,
    ) -> Result<Outcome, ProposeError> {
        let mut uncertain = false;
        let mut search = Search::new(self);
        loop {
            let attempt = match search.leader() {
                Some(leader) if leader == self.me => self.propose_here(&command, deadline).await,
                Some(leader) => {
                    let (attempt, hint) = self.propose_at(leader, &command, deadline).await;
                    search.hint = hint;
                    attempt
                }
                None => Attempt::NotTaken,
            };
            match attempt {
                Attempt::Done(outcome) => return Ok(outcome),
                Attempt::NotTaken => {}
                Attempt::Uncertain => uncertain = true,
                Attempt::Shutdown => return Err(ProposeError::Shutdown),
            }
            match search.wait(deadline).await {
                Wait::Again => {}
                Wait::Stopped => return Err(ProposeError::Shutdown),
                Wait::Late if uncertain => return Err(ProposeError::TimedOut),
                Wait::Late => {
                    return Err(ProposeError::NoLeader {
                        leader: search.leader(),
                    });
                }
            }
        }
    }

    async fn propose_here(&self, command: &Command, deadline: Instant) -> Attempt<Outcome> {
        let write = self.raft.client_write(Proposal(command.clone()));
        match timeout_at(deadline.into(), write).await {
            Ok(Ok(response)) => Attempt::Done(response.data),
            Ok(Err(RaftError::APIError(ClientWriteError::LogEntryDiscarded(_)))) | Err(_) => {
                Attempt::Uncertain
            }
            Ok(Err(RaftError::APIError(_))) => Attempt::NotTaken,
            Ok(Err(RaftError::Fatal(_))) => Attempt::Shutdown,
        }
    }

    async fn propose_at(
        &self,
        leader: NodeId,
        command: &Command,
        deadline: Instant,
    ) -> (Attempt<Outcome>, Option<NodeId>) {
        let timeout = until(deadline).min(ATTEMPT_MAX);
        let request = Request::Propose {
            command: command.clone(),
            within_ms: millis(timeout),
        };
        match self.links.call(leader, request, timeout).await {
            Ok(Answer::Proposed(outcome)) => (Attempt::Done(outcome), None),
            Ok(Answer::NotLeader { leader }) => (Attempt::NotTaken, leader),
            Ok(Answer::Uncertain { leader }) => (Attempt::Uncertain, leader),
            Err(CallError::Transport(TransportError::NotSent)) => (Attempt::NotTaken, None),
            Ok(_) | Err(_) => (Attempt::Uncertain, None),
        }
    }

    /// Answers another node's proposal, if this node leads.
    pub(crate) async fn serve_proposal(&self, command: Command, within_ms: u32) -> Answer {
        let deadline = Instant::now() + Duration::from_millis(within_ms.into()).min(ATTEMPT_MAX);
        let attempt = self.propose_here(&command, deadline).await;
        let leader = self.leadership.borrow().leader;
        match attempt {
            Attempt::Done(outcome) => Answer::Proposed(outcome),
            Attempt::NotTaken => Answer::NotLeader { leader },
            Attempt::Uncertain => Answer::Uncertain { leader },
            Attempt::Shutdown => Answer::Failed("the control state has stopped".into()),
        }
    }

    /// Has a decision applied that was made as the leader of a term.
    pub(crate) async fn decide(
        &self,
        term: u64,
        decision: Decision,
        deadline: Instant,
    ) -> Result<Outcome, DecideError> {
        let leadership = *self.leadership.borrow();
        if !leadership.me || leadership.term != term {
            return Err(DecideError::NotLeader {
                term,
                leader: leadership.leader,
            });
        }
        let command = Command::Decide { term, decision };
        match self.propose_here(&command, deadline).await {
            Attempt::Done(outcome) => Ok(outcome),
            Attempt::NotTaken => Err(DecideError::NotLeader {
                term,
                leader: self.leadership.borrow().leader,
            }),
            Attempt::Uncertain => Err(DecideError::TimedOut),
            Attempt::Shutdown => Err(DecideError::Shutdown),
        }
    }

    /// Waits for the reads of a round, and confirms each round once.
    pub(crate) async fn run_reads(&self, mut requests: mpsc::Receiver<ReadRequest>) {
        let mut round = Vec::new();
        // Who asks while a round runs waits for the next: this one may have begun before a write
        // that the asker knows of.
        while requests.recv_many(&mut round, ROUND_MAX).await > 0 {
            let Some(deadline) = round.iter().map(|request| request.deadline).max() else {
                continue;
            };
            let result = self.find_read_index(deadline).await;
            for request in round.drain(..) {
                // Who asked may have given up.
                let _ = request.answer.send(result.clone());
            }
        }
    }

    /// The index up to which everything was acknowledged, as a leader confirms it.
    async fn find_read_index(&self, deadline: Instant) -> Result<u64, ReadError> {
        let mut search = Search::new(self);
        loop {
            let attempt = match search.leader() {
                Some(leader) if leader == self.me => self.read_index_here(deadline).await,
                Some(leader) => {
                    let timeout = until(deadline).min(ATTEMPT_MAX);
                    let request = Request::ReadIndex {
                        within_ms: millis(timeout),
                    };
                    match self.links.call(leader, request, timeout).await {
                        Ok(Answer::ReadIndex(index)) => Attempt::Done(index),
                        Ok(Answer::NotLeader { leader }) => {
                            search.hint = leader;
                            Attempt::NotTaken
                        }
                        Ok(_) | Err(_) => Attempt::NotTaken,
                    }
                }
                None => Attempt::NotTaken,
            };
            match attempt {
                Attempt::Done(index) => return Ok(index),
                Attempt::Shutdown => return Err(ReadError::Shutdown),
                Attempt::NotTaken | Attempt::Uncertain => {}
            }
            match search.wait(deadline).await {
                Wait::Again => {}
                Wait::Stopped => return Err(ReadError::Shutdown),
                Wait::Late => {
                    return Err(ReadError::NoLeader {
                        leader: search.leader(),
                    });
                }
            }
        }
    }

    async fn read_index_here(&self, deadline: Instant) -> Attempt<u64> {
        let confirm = self.raft.get_read_linearizer(ReadPolicy::ReadIndex);
        match timeout_at(deadline.into(), confirm).await {
            Ok(Ok(linearizer)) => Attempt::Done(linearizer.read_log_id().index()),
            Ok(Err(RaftError::Fatal(_))) => Attempt::Shutdown,
            Ok(Err(RaftError::APIError(
                LinearizableReadError::ForwardToLeader(_)
                | LinearizableReadError::QuorumNotEnough(_),
            )))
            | Err(_) => Attempt::NotTaken,
        }
    }

    /// Answers another node's read, if this node leads.
    pub(crate) async fn serve_read_index(&self, within_ms: u32) -> Answer {
        let deadline = Instant::now() + Duration::from_millis(within_ms.into()).min(ATTEMPT_MAX);
        match self.read_index_here(deadline).await {
            Attempt::Done(index) => Answer::ReadIndex(index),
            Attempt::NotTaken | Attempt::Uncertain => Answer::NotLeader {
                leader: self.leadership.borrow().leader,
            },
            Attempt::Shutdown => Answer::Failed("the control state has stopped".into()),
        }
    }

    /// Confirms with a quorum that this node leads, and says in which term.
    pub(crate) async fn confirm_leadership(&self, deadline: Instant) -> Result<u64, ReadError> {
        let not_leader = || ReadError::NoLeader {
            leader: self.leadership.borrow().leader,
        };
        let term = self.raft.as_leader().map_err(|_| not_leader())?.term();
        match self.read_index_here(deadline).await {
            Attempt::Done(_) => {}
            Attempt::Shutdown => return Err(ReadError::Shutdown),
            Attempt::NotTaken | Attempt::Uncertain => return Err(not_leader()),
        }
        // Terms only grow: the same before and after means the same in between.
        match self.raft.as_leader() {
            Ok(leader) if leader.term() == term => Ok(term),
            _ => Err(not_leader()),
        }
    }

    /// Waits until this node has applied an entry.
    pub(crate) async fn wait_applied(
        &self,
        index: u64,
        deadline: Instant,
    ) -> Result<(), ReadError> {
        let mut applied = self.replica.applied();
        match timeout_at(
            deadline.into(),
            applied.wait_for(|applied| *applied >= index),
        )
        .await
        {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(ReadError::Shutdown),
            Err(_) => Err(ReadError::TimedOut),
        }
    }
}

/// Asks for a place in the next round of reads.
pub(crate) async fn ask_read_index(
    reads: &mpsc::Sender<ReadRequest>,
    deadline: Instant,
    leader: impl Fn() -> Option<NodeId>,
) -> Result<u64, ReadError> {
    let (answer, answered) = oneshot::channel();
    let ask = async {
        reads
            .send(ReadRequest { deadline, answer })
            .await
            .map_err(|_| ReadError::Shutdown)?;
        answered.await.map_err(|_| ReadError::Shutdown)?
    };
    timeout_at(deadline.into(), ask)
        .await
        .unwrap_or_else(|_| Err(ReadError::NoLeader { leader: leader() }))
}

/// What a pause between two attempts has come to.
enum Wait {
    Again,
    /// The deadline has passed.
    Late,
    Stopped,
}

/// The search for a leader that answers.
struct Search {
    leadership: tokio::sync::watch::Receiver<super::Leadership>,
    hint: Option<NodeId>,
    pause: Duration,
}

impl Search {
    fn new(core: &Core) -> Self {
        Self {
            leadership: core.leadership.clone(),
            hint: None,
            pause: PAUSE_MIN,
        }
    }

    fn leader(&mut self) -> Option<NodeId> {
        let known = self.leadership.borrow_and_update().leader;
        self.hint.take().or(known)
    }

    /// Waits for another leader, though not long.
    async fn wait(&mut self, deadline: Instant) -> Wait {
        let until = (Instant::now() + self.pause).min(deadline);
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        match timeout_at(until.into(), self.leadership.changed()).await {
            // Who tells of leaders ends with the library.
            Ok(Err(_)) => Wait::Stopped,
            _ if Instant::now() < deadline => Wait::Again,
            _ => Wait::Late,
        }
    }
}

fn until(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}

fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

/// How long one node may take before another is tried: it may have lost the others.
const ATTEMPT_MAX: Duration = Duration::from_secs(5);

/// The first pause between two attempts, and the longest.
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_millis(200);

/// Reads that share one round.
pub(crate) const ROUND_MAX: usize = 4096;
