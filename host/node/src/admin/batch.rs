//! Many allocations and deallocations in one request: a line in, a line out, in order.

use std::{io, time::Duration};

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

use super::{
    Admin,
    body::broken,
    describe::{Problems, usual},
    error::{Error, Result},
    extract::{Asked, Module, NoQuery},
    modules::deadline,
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

/// One piece of the answer for each batch of lines; the next lines are read when it was sent.
fn answers(
    admin: Admin,
    module: ModuleName,
    lines: Lines,
) -> impl Stream<Item = io::Result<Bytes>> {
    stream::try_unfold(Some((admin, module, lines)), |state| async {
        let Some((admin, module, mut lines)) = state else {
            return Ok(None);
        };
        let mut pending = Vec::new();
        let mut bytes = 0;
        let mut broken = None;
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
                Next::End => break,
                Next::Broken(number, problem) => {
                    broken = Some((number, problem));
                    break;
                }
            }
        }
        if pending.is_empty() && broken.is_none() {
            return Ok(None);
        }
        let mut answers = settle(&admin, &module, pending).await;
        let ended = broken.is_some();
        if let Some((line, problem)) = broken {
            answers.push(BatchAnswer {
                line,
                id: None,
                outcome: BatchOutcome::Problem(problem),
            });
        }
        let mut piece = Vec::new();
        for answer in &answers {
            serde_json::to_writer(&mut piece, answer)?;
            piece.push(b'\n');
        }
        Ok(Some((
            Bytes::from(piece),
            (!ended).then_some((admin, module, lines)),
        )))
    })
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
        .allocate(module, entries, deadline(None, false))
        .await;
    let allocated = allocated.map_err(|error| Error::from(error).problem());
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
        .propose(command, deadline(None, false).into_std())
        .await
    {
        Ok(Outcome::Deallocated(existed)) => Ok(existed),
        Ok(Outcome::Refused(refused)) => Err(Error::from(refused).problem()),
        Ok(_) => Err(incomplete()),
        Err(error) => Err(Error::from(error).problem()),
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

/// How many bytes of lines are in memory before they are settled, but for the last line.
const BATCH_BYTES_MAX: usize = 1 << 20;

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
