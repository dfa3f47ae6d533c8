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
    records::{self, Named, Record},
};
use crate::client::{self, Client};

/// What came of an import.
#[derive(Debug, Default, Serialize)]
pub(in crate::cli) struct Imported {
    pub(in crate::cli) created: u64,
    pub(in crate::cli) changed: u64,
    pub(in crate::cli) unchanged: u64,
    pub(in crate::cli) failed: u64,
    /// Lines that name another module, and were passed over.
    #[serde(skip_serializing_if = "is_zero")]
    pub(in crate::cli) of_other_modules: u64,
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
        let (source, file, module) = (source.clone(), file.to_owned(), module.clone());
        move || source.feed(&file, &module, &lines)
    });
    let (imported, sent) = send(client, module, received, &source, || bar.inc(1)).await;
    bar.finish_and_clear();
    if let Err(error) = sent {
        let done = imported.created + imported.changed + imported.unchanged;
        return Err(anyhow::Error::new(error).context(format!(
            "the import stopped after {}; it can be repeated",
            human::counted(done, "resource")
        )));
    }
    let read = reader
        .await
        .context("the reader of the file panicked")?
        .with_context(|| format!("read {}", file.display()))?;
    if let Some(cursor) = read.next_cursor {
        output.warn(&format!(
            "this is one page of a list that goes on: what follows is not imported. \
             `holdfast resources list {module} --cursor {cursor}` has it; --all has everything"
        ));
    }
    output.show(&imported, describe)?;
    let nothing = imported.of_other_modules > 0 && imported.settled() == 0;
    Ok(if imported.failed == 0 && !nothing {
        Exit::Done
    } else {
        Exit::Failed
    })
}

/// Sends the lines of a source to the batch route, and counts what comes of them.
pub(in crate::cli) async fn send(
    client: &Client,
    module: &ModuleName,
    received: mpsc::Receiver<BatchRequest>,
    source: &Source,
    mut answered: impl FnMut(),
) -> (Imported, Result<(), client::Error>) {
    let stream = stream::unfold(received, |mut received| async {
        let line = received.recv().await?;
        Some((line, received))
    });
    let mut imported = Imported::default();
    let sent = client
        .batch(module, stream, |answer| {
            imported.count(&answer, source.next());
            answered();
        })
        .await;
    imported.add_unsent(source);
    (imported, sent)
}

/// What is between the reader of the file and the answers: the lines on their way.
#[derive(Clone, Default)]
pub(in crate::cli) struct Source(Arc<Mutex<Lines>>);

#[derive(Default)]
struct Lines {
    /// Where the lines that were sent and are not answered stand in the file. As many at most as
    /// the connection and the node hold.
    sent: VecDeque<u64>,
    /// Lines that make no request. Bounded by counting the rest.
    unreadable: BTreeMap<u64, String>,
    unreadable_more: u64,
    of_other_modules: u64,
}

impl Source {
    fn feed(
        &self,
        file: &Path,
        module: &ModuleName,
        lines: &mpsc::Sender<BatchRequest>,
    ) -> io::Result<records::Source> {
        let each = |record: Record| self.take(record, module, lines);
        if file == Path::new("-") {
            return records::read(io::stdin().lock(), each);
        }
        let file: PathBuf = file.to_owned();
        records::read(BufReader::new(File::open(file)?), each)
    }

    /// Takes a record of the file on its way; false when nobody takes any more.
    pub(in crate::cli) fn take(
        &self,
        record: Record,
        module: &ModuleName,
        lines: &mpsc::Sender<BatchRequest>,
    ) -> bool {
        let Named { id, spec, .. } = match record.content {
            Ok(named) if named.module.as_ref().is_some_and(|of| of != module) => {
                self.lock().of_other_modules += 1;
                return true;
            }
            Ok(named) => named,
            Err(error) => {
                let mut lines = self.lock();
                if lines.unreadable.len() < FAILURES_MAX {
                    lines.unreadable.insert(record.at, error);
                } else {
                    lines.unreadable_more += 1;
                }
                return true;
            }
        };
        if lines.is_closed() {
            return false;
        }
        self.lock().sent.push_back(record.at);
        let request = BatchRequest::Allocate { id, spec };
        lines.blocking_send(request).is_ok()
    }

    /// Where the line stands that is answered next: answers come in order.
    fn next(&self) -> u64 {
        self.lock().sent.pop_front().unwrap_or_default()
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

    /// How many of the lines were sent and answered.
    fn settled(&self) -> u64 {
        self.created + self.changed + self.unchanged + self.failed
    }

    fn add_unsent(&mut self, source: &Source) {
        let mut lines = source.lock();
        for (line, error) in std::mem::take(&mut lines.unreadable) {
            self.fail(line, None, error);
        }
        self.failed += lines.unreadable_more;
        self.of_other_modules += lines.of_other_modules;
        self.failures.sort_by_key(|failure| failure.line);
    }

    fn fail(&mut self, line: u64, id: Option<ResourceId>, error: String) {
        self.failed += 1;
        if self.failures.len() < FAILURES_MAX {
            self.failures.push(Failed { line, id, error });
        }
    }
}

pub(in crate::cli) fn describe(imported: &Imported) -> String {
    let mut text = format!(
        "{} created, {} changed, {} unchanged, {} failed\n",
        human::count(imported.created),
        human::count(imported.changed),
        human::count(imported.unchanged),
        human::count(imported.failed),
    );
    if imported.of_other_modules > 0 {
        text.push_str(&format!(
            "{} of other modules passed over\n",
            human::counted(imported.of_other_modules, "line")
        ));
    }
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

fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// Lines read from the file before the node takes them.
pub(in crate::cli) const LINES_AHEAD: usize = 1_024;
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
        let module = "m".parse().unwrap();
        source.feed(file.path(), &module, &lines).unwrap();

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
        imported.add_unsent(&source);
        assert_eq!(
            describe(&imported),
            "1 created, 0 changed, 0 unchanged, 2 failed\n\
             line 2: it has no `id`\n\
             line 4 (b): Too large: full\n"
        );
    }

    #[test]
    fn what_a_list_of_all_modules_says_of_others_is_passed_over() {
        let source = Source::default();
        let (lines, mut received) = mpsc::channel(8);
        let mut file = tempfile::NamedTempFile::new().unwrap();
        for module in ["m", "other", "m"] {
            let line = format!("{{\"module\":\"{module}\",\"id\":\"a\",\"spec\":{{}}}}\n");
            io::Write::write_all(&mut file, line.as_bytes()).unwrap();
        }
        let module = "m".parse().unwrap();
        source.feed(file.path(), &module, &lines).unwrap();
        drop(lines);
        let mut sent = 0;
        while received.blocking_recv().is_some() {
            sent += 1;
        }
        assert_eq!(sent, 2);
        let mut imported = Imported::default();
        imported.add_unsent(&source);
        let text = describe(&imported);
        assert!(
            text.contains("1 line of other modules passed over"),
            "{text}"
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
