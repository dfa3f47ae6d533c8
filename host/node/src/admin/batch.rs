//! Many allocations and deallocations in one request: a line in, a line out, in order.

use std::{io, sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::{Request, State},
    response::IntoResponse,
};
use bytes::{Bytes, BytesMut};
use futures_util::{Stream, stream};
use holdfast_cluster::state::{Allocation, Command, Outcome};
use holdfast_model::{
    ModuleName, ResourceId, Spec,
    api::{
        BatchAnswer, BatchOutcome, BatchRequest, BatchResult, NDJSON, Problem,
        ProblemKind::{self, NoLeader, Unavailable, UnknownModule},
    },
    resource::InvalidSpec,
};
use http::header;
use http_body_util::BodyExt;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::{sync::Semaphore, task::JoinHandle, time::Instant};

use super::{
    Admin,
    body::broken,
    describe::{Problems, usual},
    error::{Error, Result},
    extract::{Asked, Module, NoQuery},
    resources::module_of,
};

/// Allocate and deallocate many resources
///
/// A line in, a line out. It streams both ways: read while you write. A line that cannot be done does not stop the
/// others, and the status is 200 whatever becomes of them.
#[utoipa::path(
    post,
    path = "/v1/modules/{module}/resources:batch",
    operation_id = "change_resources",
    tag = "resources",
    params(Module),
    request_body(content = BatchRequest, content_type = NDJSON, description = "Newline-delimited JSON: one change a line"),
    responses(
        (status = OK, description = "Newline-delimited JSON: what became of each line, in order", body = BatchAnswer, content_type = NDJSON),
        Problems<{ usual(&[UnknownModule, Unavailable, NoLeader]) }>,
    )
)]
pub(super) async fn batch(
    State(admin): State<Admin>,
    Module(module): Module,
    Asked(NoQuery {}): Asked<NoQuery>,
    request: Request,
) -> Result<impl IntoResponse> {
    admin
        .look_up(|state| module_of(state, &module).map(drop))
        .await?;
    let lines = Lines::of(request.into_body());
    let answers = answers(admin, module, lines);
    Ok(([(header::CONTENT_TYPE, NDJSON)], Body::from_stream(answers)))
}

/// How many batches of lines this node settles at once. Whose turn has not come reads no more lines, so
/// that whoever sends them waits.
#[derive(Clone)]
pub struct Batches(Arc<Semaphore>);

impl Default for Batches {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(SETTLED_AT_ONCE)))
    }
}

/// Where an answer is.
enum Stage {
    Reading(Lines),
    /// A task of its own: whoever asked may leave, and what was begun is done.
    Settling(JoinHandle<Vec<BatchAnswer>>, Option<Lines>),
}

/// One piece of the answer for each batch of lines; the next lines are read when it was sent. While one
/// is being settled, empty lines show that the connection stands.
fn answers(
    admin: Admin,
    module: ModuleName,
    lines: Lines,
) -> impl Stream<Item = io::Result<Bytes>> {
    let first = Some(Stage::Reading(lines));
    stream::try_unfold(first, move |stage| {
        let (admin, module) = (Arc::clone(&admin), module.clone());
        async move {
            let (mut settling, rest) = match stage {
                None => return Ok(None),
                Some(Stage::Settling(settling, rest)) => (settling, rest),
                Some(Stage::Reading(mut lines)) => {
                    let (pending, end) = gather(&mut lines).await;
                    if pending.is_empty() && matches!(end, End::Of(None)) {
                        return Ok(None);
                    }
                    let (broken, rest) = match end {
                        End::Not => (None, Some(lines)),
                        End::Of(broken) => (broken, None),
                    };
                    let settled = async move {
                        let mut answers = settle(&admin, &module, pending).await;
                        answers.extend(broken);
                        answers
                    };
                    (tokio::spawn(settled), rest)
                }
            };
            match tokio::time::timeout(QUIET_MAX, &mut settling).await {
                Err(_) => {
                    let again = Some(Stage::Settling(settling, rest));
                    Ok(Some((Bytes::from_static(b"\n"), again)))
                }
                Ok(settled) => {
                    let answers = settled.map_err(io::Error::other)?;
                    Ok(Some((encode(&answers)?, rest.map(Stage::Reading))))
                }
            }
        }
    })
}

/// Whether more lines may come.
enum End {
    Not,
    /// None come; and what is wrong with the last one, if anything is.
    Of(Option<BatchAnswer>),
}

/// The lines that are settled together: those that are there, as many as one entry of the log takes.
async fn gather(lines: &mut Lines) -> (Vec<Line>, End) {
    let (mut pending, mut bytes) = (Vec::new(), 0);
    while pending.len() < BATCH_LINES_MAX && bytes < BATCH_BYTES_MAX {
        let patience = if pending.is_empty() {
            None
        } else {
            Some(GATHER)
        };
        match lines.next(patience).await {
            Next::Line(number, line) => {
                bytes += line.len();
                pending.push(parse(number, &line));
            }
            Next::Later => break,
            Next::End => return (pending, End::Of(None)),
            Next::Broken(line, problem) => {
                let outcome = BatchOutcome::Problem(problem);
                let broken = BatchAnswer {
                    line,
                    id: None,
                    outcome,
                };
                return (pending, End::Of(Some(broken)));
            }
        }
    }
    (pending, End::Not)
}

fn encode(answers: &[BatchAnswer]) -> io::Result<Bytes> {
    let mut piece = Vec::with_capacity(answers.len() * 64);
    for answer in answers {
        serde_json::to_writer(&mut piece, answer)?;
        piece.push(b'\n');
    }
    Ok(piece.into())
}

enum Line {
    Do(u64, BatchRequest),
    Bad(BatchAnswer),
}

fn parse(line: u64, text: &[u8]) -> Line {
    match serde_json::from_slice(text) {
        Ok(request) => Line::Do(line, request),
        Err(error) => {
            let kind = if has_long_spec(text) {
                ProblemKind::TooLarge
            } else {
                ProblemKind::InvalidRequest
            };
            Line::Bad(BatchAnswer {
                line,
                id: None,
                outcome: BatchOutcome::Problem(Problem::new(kind, error.to_string())),
            })
        }
    }
}

/// Whether a line that is none was refused for the length of its spec, which its error does not
/// tell.
fn has_long_spec(text: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct SpecAlone<'a> {
        #[serde(borrow)]
        spec: &'a RawValue,
    }
    let spec = serde_json::from_slice(text)
        .map(|SpecAlone { spec }| Spec::from_json(spec.get().as_bytes()));
    matches!(spec, Ok(Err(InvalidSpec::TooLong { .. })))
}

/// Does what the lines say, in their order: runs of the same kind in one command each.
async fn settle(admin: &Admin, module: &ModuleName, lines: Vec<Line>) -> Vec<BatchAnswer> {
    let turn = admin.batches.0.acquire().await;
    let _turn = turn.expect("it is never closed");
    let mut answers = Vec::with_capacity(lines.len());
    let mut lines = lines.into_iter().peekable();
    while let Some(line) = lines.next() {
        match line {
            Line::Bad(answer) => answers.push(answer),
            Line::Do(number, BatchRequest::Allocate { id, spec }) => {
                let mut run = vec![(number, id, spec)];
                while let Some(Line::Do(number, BatchRequest::Allocate { id, spec })) =
                    lines.next_if(|next| matches!(next, Line::Do(_, BatchRequest::Allocate { .. })))
                {
                    run.push((number, id, spec));
                }
                allocate(admin, module, run, &mut answers).await;
            }
            Line::Do(number, BatchRequest::Deallocate { id }) => {
                let mut run = vec![(number, id)];
                while let Some(Line::Do(number, BatchRequest::Deallocate { id })) = lines
                    .next_if(|next| matches!(next, Line::Do(_, BatchRequest::Deallocate { .. })))
                {
                    run.push((number, id));
                }
                deallocate(admin, module, run, &mut answers).await;
            }
        }
    }
    answers
}

async fn allocate(
    admin: &Admin,
    module: &ModuleName,
    run: Vec<(u64, ResourceId, Spec)>,
    answers: &mut Vec<BatchAnswer>,
) {
    let entries = run
        .iter()
        .map(|(_, id, spec)| (id.clone(), spec.clone()))
        .collect();
    let allocated = admin
        .placement
        .allocate(module, entries, Instant::now() + SETTLE)
        .await;
    let allocated = allocated.map_err(|error| told(admin, error));
    for (at, (line, id, _)) in run.into_iter().enumerate() {
        let outcome = match &allocated {
            Ok(all) => match all.get(at) {
                Some(Allocation::Created) => BatchOutcome::Result(BatchResult::Created),
                Some(Allocation::Changed) => BatchOutcome::Result(BatchResult::Changed),
                Some(Allocation::Unchanged) => BatchOutcome::Result(BatchResult::Unchanged),
                None => BatchOutcome::Problem(incomplete()),
            },
            Err(problem) => BatchOutcome::Problem(problem.clone()),
        };
        answers.push(BatchAnswer {
            line,
            id: Some(id),
            outcome,
        });
    }
}

async fn deallocate(
    admin: &Admin,
    module: &ModuleName,
    run: Vec<(u64, ResourceId)>,
    answers: &mut Vec<BatchAnswer>,
) {
    let ids = run.iter().map(|(_, id)| id.clone()).collect();
    let command = Command::Deallocate {
        module: module.clone(),
        ids,
    };
    let existed = match admin
        .control
        .propose(command, (Instant::now() + SETTLE).into_std())
        .await
    {
        Ok(Outcome::Deallocated(existed)) => Ok(existed),
        Ok(Outcome::Refused(refused)) => Err(Error::from(refused).problem()),
        Ok(_) => Err(incomplete()),
        Err(error) => Err(told(admin, error)),
    };
    for (at, (line, id)) in run.into_iter().enumerate() {
        let outcome = match &existed {
            Ok(all) => match all.get(at) {
                Some(true) => BatchOutcome::Result(BatchResult::Deallocated),
                Some(false) => BatchOutcome::Result(BatchResult::Absent),
                None => BatchOutcome::Problem(incomplete()),
            },
            Err(problem) => BatchOutcome::Problem(problem.clone()),
        };
        answers.push(BatchAnswer {
            line,
            id: Some(id),
            outcome,
        });
    }
}

/// The problem of lines that were not acknowledged. While there is a leader, it is that which took too
/// long.
fn told(admin: &Admin, error: impl Into<Error>) -> Problem {
    let problem = error.into().problem();
    let leader = admin.control.leadership().borrow().leader;
    match problem.kind {
        ProblemKind::NoLeader if leader.is_some() => {
            Problem::new(ProblemKind::Timeout, problem.detail)
        }
        _ => problem,
    }
}

fn incomplete() -> Problem {
    Problem::new(
        ProblemKind::Internal,
        "the cluster's answer does not fit the question",
    )
}

/// The lines of a body, as they arrive.
struct Lines {
    body: Body,
    rest: BytesMut,
    read: u64,
    ended: bool,
}

enum Next {
    Line(u64, Bytes),
    /// Nothing more has arrived yet.
    Later,
    End,
    Broken(u64, Problem),
}

impl Lines {
    fn of(body: Body) -> Self {
        Self {
            body,
            rest: BytesMut::new(),
            read: 0,
            ended: false,
        }
    }

    /// The next line that is not blank. Waits for it, for so long if told how long.
    async fn next(&mut self, patience: Option<Duration>) -> Next {
        loop {
            let end = self.rest.iter().position(|byte| *byte == b'\n');
            if end.unwrap_or(self.rest.len()) > LINE_BYTES_MAX {
                let detail = format!("a line has at most {LINE_BYTES_MAX} bytes");
                return Next::Broken(self.read + 1, Problem::new(ProblemKind::TooLarge, detail));
            }
            if let Some(end) = end {
                let mut line = self.rest.split_to(end + 1);
                line.truncate(end);
                self.read += 1;
                if line.trim_ascii().is_empty() {
                    continue;
                }
                return Next::Line(self.read, line.freeze());
            }
            if self.ended {
                if self.rest.trim_ascii().is_empty() {
                    return Next::End;
                }
                self.read += 1;
                return Next::Line(self.read, self.rest.split().freeze());
            }
            let frame = match patience {
                None => Some(self.body.frame().await),
                Some(patience) => tokio::time::timeout(patience, self.body.frame()).await.ok(),
            };
            match frame {
                None => return Next::Later,
                Some(None) => self.ended = true,
                Some(Some(Ok(frame))) => {
                    if let Some(data) = frame.data_ref() {
                        self.rest.extend_from_slice(data);
                    }
                }
                Some(Some(Err(error))) => {
                    let problem = broken(&error).problem();
                    return Next::Broken(self.read + 1, problem);
                }
            }
        }
    }
}

/// How long more lines are waited for before those that came are settled: together they cost one
/// log entry, and are placed as one.
const GATHER: Duration = Duration::from_millis(10);

/// How many lines are settled at once, and in one log entry at most.
const BATCH_LINES_MAX: usize = 1_000;

/// How many bytes of lines are settled at once, but for the last line: about one log entry.
const BATCH_BYTES_MAX: usize = 1 << 20;

/// How many batches of lines one node settles at once. Fewer: those of several clients wait for each
/// other's round trips. More: they wait at the leader, who takes one after the other.
const SETTLED_AT_ONCE: usize = 16;

/// How long a batch of lines may take, once its turn has come: elections, and what others have sent
/// before it.
const SETTLE: Duration = Duration::from_secs(120);

/// How long nothing is sent at most.
const QUIET_MAX: Duration = Duration::from_secs(5);

/// Longest line: the longest spec, with room for its id and white space.
const LINE_BYTES_MAX: usize = 2 * Spec::BYTES_MAX;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_line_is_too_long_with_and_without_its_end() {
        for end in ["\n", ""] {
            let line = |bytes| "x".repeat(bytes);
            let longest = line(LINE_BYTES_MAX);
            let body = format!("\n{longest}\n{}{end}", line(LINE_BYTES_MAX + 1));
            let mut lines = Lines::of(Body::from(body));
            assert!(matches!(lines.next(None).await, Next::Line(2, _)));
            let Next::Broken(3, problem) = lines.next(None).await else {
                panic!("the third line is too long");
            };
            assert_eq!(problem.kind, ProblemKind::TooLarge);
        }
    }
}
