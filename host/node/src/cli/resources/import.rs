//! `holdfast resources import`: sends a file's resources through the batch route.

use std::{
    collections::{BTreeMap, VecDeque},
    fs::File,
    io::{self, BufReader},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::Context as _;
use futures_util::stream;
use holdfast_model::{
    ModuleName, ResourceId,
    api::{BatchAnswer, BatchOutcome, BatchRequest, BatchResult},
};
use serde::Serialize;
use tokio::sync::mpsc;

use super::{
    super::{
        failure::Exit,
        human,
        output::{self, Output},
    },
    records::{self, Record},
};
use crate::client::Client;

/// What came of an import.
#[derive(Debug, Default, Serialize)]
struct Imported {
    created: u64,
    changed: u64,
    unchanged: u64,
    failed: u64,
    /// The first of the lines that failed.
    failures: Vec<Failed>,
}

#[derive(Debug, Serialize)]
struct Failed {
    line: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<ResourceId>,
    error: String,
}

pub(super) async fn run(
    module: &ModuleName,
    file: &Path,
    client: &Client,
    output: Output,
) -> anyhow::Result<Exit> {
    let bar = output::progress(None, format!("importing into {module}"));
    let source = Source::default();
    let (lines, received) = mpsc::channel(LINES_AHEAD);
    // Reading blocks, standard input for as long as it likes.
    let reader = tokio::task::spawn_blocking({
        let (source, file) = (source.clone(), file.to_owned());
        move || source.feed(&file, &lines)
    });
    let stream = stream::unfold(received, |mut received| async {
        let line = received.recv().await?;
        Some((line, received))
    });
    let mut imported = Imported::default();
    let sent = client
        .batch(module, stream, |answer| {
            imported.count(&answer, source.next());
            bar.inc(1);
        })
        .await;
    bar.finish_and_clear();
    imported.add_unsent(source.take_unreadable());
    if let Err(error) = sent {
        let done = imported.created + imported.changed + imported.unchanged;
        return Err(anyhow::Error::new(error).context(format!(
            "the import stopped after {}; it can be repeated",
            human::counted(done, "resource")
        )));
    }
    reader
        .await
        .context("the reader of the file panicked")?
        .with_context(|| format!("read {}", file.display()))?;
    output.show(&imported, describe)?;
    Ok(if imported.failed == 0 {
        Exit::Done
    } else {
        Exit::Failed
    })
}

/// What is between the reader of the file and the answers: the lines on their way.
#[derive(Clone, Default)]
struct Source(Arc<Mutex<Lines>>);

#[derive(Default)]
struct Lines {
    /// Where the lines that were sent and are not answered stand in the file. As many at most as
    /// the connection and the node hold.
    sent: VecDeque<u64>,
    /// Lines that make no request. Bounded by counting the rest.
    unreadable: BTreeMap<u64, String>,
    unreadable_more: u64,
}

impl Source {
    fn feed(&self, file: &Path, lines: &mpsc::Sender<BatchRequest>) -> io::Result<()> {
        let each = |record: Record| match record.content {
            Ok((id, spec)) => {
                self.lock().sent.push_back(record.at);
                lines
                    .blocking_send(BatchRequest::Allocate { id, spec })
                    .is_ok()
            }
            Err(error) => {
                let mut lines = self.lock();
                if lines.unreadable.len() < FAILURES_MAX {
                    lines.unreadable.insert(record.at, error);
                } else {
                    lines.unreadable_more += 1;
                }
                true
            }
        };
        if file == Path::new("-") {
            return records::read(io::stdin().lock(), each);
        }
        let file: PathBuf = file.to_owned();
        records::read(BufReader::new(File::open(file)?), each)
    }

    /// Where the line stands that is answered next: answers come in order.
    fn next(&self) -> u64 {
        self.lock().sent.pop_front().unwrap_or_default()
    }

    fn take_unreadable(&self) -> (BTreeMap<u64, String>, u64) {
        let mut lines = self.lock();
        (std::mem::take(&mut lines.unreadable), lines.unreadable_more)
    }

    fn lock(&self) -> MutexGuard<'_, Lines> {
        // Nothing in here panics half-way.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Imported {
    fn count(&mut self, answer: &BatchAnswer, line: u64) {
        match &answer.outcome {
            BatchOutcome::Result(BatchResult::Created) => self.created += 1,
            BatchOutcome::Result(BatchResult::Changed) => self.changed += 1,
            BatchOutcome::Result(_) => self.unchanged += 1,
            BatchOutcome::Problem(problem) => {
                self.fail(line, answer.id.clone(), problem.to_string());
            }
        }
    }

    fn add_unsent(&mut self, (unreadable, more): (BTreeMap<u64, String>, u64)) {
        for (line, error) in unreadable {
            self.fail(line, None, error);
        }
        self.failed += more;
        self.failures.sort_by_key(|failure| failure.line);
    }

    fn fail(&mut self, line: u64, id: Option<ResourceId>, error: String) {
        self.failed += 1;
        if self.failures.len() < FAILURES_MAX {
            self.failures.push(Failed { line, id, error });
        }
    }
}

fn describe(imported: &Imported) -> String {
    let mut text = format!(
        "{} created, {} changed, {} unchanged, {} failed\n",
        human::count(imported.created),
        human::count(imported.changed),
        human::count(imported.unchanged),
        human::count(imported.failed),
    );
    for Failed { line, id, error } in imported.failures.iter().take(FAILURES_SHOWN) {
        let id = id.as_ref().map(|id| format!(" ({id})")).unwrap_or_default();
        text.push_str(&format!("line {line}{id}: {error}\n"));
    }
    let hidden = imported.failed.saturating_sub(FAILURES_SHOWN as u64);
    if hidden > 0 {
        text.push_str(&format!("and {} more\n", human::count(hidden)));
    }
    text
}

/// Lines read from the file before the node takes them.
const LINES_AHEAD: usize = 1_024;
/// Failures kept for the report.
const FAILURES_MAX: usize = 1_000;
/// Failures told to people.
const FAILURES_SHOWN: usize = 20;

#[cfg(test)]
mod tests {
    use holdfast_model::api::{Problem, ProblemKind};

    use super::*;

    #[test]
    fn failed_lines_are_told_by_their_place_in_the_file() {
        let source = Source::default();
        let (lines, mut received) = mpsc::channel(8);
        let mut file = tempfile::NamedTempFile::new().unwrap();
        io::Write::write_all(&mut file, b"{\"id\":\"a\"}\n{}\n\n{\"id\":\"b\"}\n").unwrap();
        source.feed(file.path(), &lines).unwrap();

        let mut imported = Imported::default();
        let outcomes = [
            BatchOutcome::Result(BatchResult::Created),
            BatchOutcome::Problem(Problem::new(ProblemKind::TooLarge, "full")),
        ];
        for (line, outcome) in (1..).zip(outcomes) {
            let BatchRequest::Allocate { id, .. } = received.blocking_recv().unwrap() else {
                panic!("only allocations are sent");
            };
            let answer = BatchAnswer {
                line,
                id: Some(id),
                outcome,
            };
            imported.count(&answer, source.next());
        }
        imported.add_unsent(source.take_unreadable());
        assert_eq!(
            describe(&imported),
            "1 created, 0 changed, 0 unchanged, 2 failed\n\
             line 2: it has no `id`\n\
             line 4 (b): Too large: full\n"
        );
    }

    #[test]
    fn the_report_of_many_failures_is_bounded() {
        let mut imported = Imported::default();
        for line in 0..5_000 {
            imported.fail(line, None, "no".to_owned());
        }
        assert_eq!(imported.failures.len(), FAILURES_MAX);
        let text = describe(&imported);
        assert_eq!(text.lines().count(), 22);
        assert!(text.ends_with("and 4,980 more\n"), "{text}");
    }
}
