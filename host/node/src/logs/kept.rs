//! The lines that a node keeps: the newest ones of each module.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use holdfast_model::{
    ModuleName, ResourceId,
    api::{LogLevel, LogSource},
};
use holdfast_runtime::{GuestLog, GuestLogSink, Level, Source, TracingSink};
use parking_lot::Mutex;
use tokio::{sync::watch, time::Instant};

use super::{Filter, Line};
use crate::clock::now_ms;

/// Takes what handlers say, writes it to the node's own log, and keeps it.
///
/// Each module has its own share, so that none pushes out what another says.
pub struct Kept {
    ring: Mutex<Ring>,
    /// The number of the newest line. They count from 1.
    newest: watch::Sender<u64>,
}

#[derive(Default)]
struct Ring {
    newest: u64,
    /// The newest line that is not kept any more, of a module of which none is.
    forgotten: u64,
    bytes: usize,
    modules: HashMap<ModuleName, Said>,
}

/// What the handlers of a module said last.
#[derive(Default)]
struct Said {
    bytes: usize,
    /// The newest line that is not kept any more.
    forgotten: u64,
    lines: VecDeque<Numbered>,
}

struct Numbered {
    number: u64,
    at_ms: u64,
    resource: ResourceId,
    level: LogLevel,
    source: LogSource,
    context: Box<str>,
    message: Box<str>,
}

impl Default for Kept {
    fn default() -> Self {
        Self {
            ring: Mutex::default(),
            newest: watch::Sender::new(0),
        }
    }
}

impl GuestLogSink for Kept {
    fn log(&self, entry: &GuestLog<'_>) {
        TracingSink.log(entry);
        let mut ring = self.ring.lock();
        ring.push(entry, now_ms());
        let newest = ring.newest;
        drop(ring);
        // Threads come here in any order.
        self.newest.send_if_modified(|known| {
            let is_newer = *known < newest;
            *known = newest.max(*known);
            is_newer
        });
    }
}

impl Kept {
    /// The newest lines, and the number of the newest of all.
    pub(super) fn newest(&self, filter: &Filter, limit: usize) -> (Vec<Line>, u64) {
        let ring = self.ring.lock();
        let mut found = Vec::new();
        for (module, said) in ring.wanted(filter) {
            let passing = said.lines.iter().rev().filter(|line| filter.passes(line));
            found.extend(passing.take(limit).map(|line| (module, line)));
        }
        found.sort_unstable_by_key(|(_, line)| line.number);
        let newest = found.split_off(found.len().saturating_sub(limit));
        (newest.into_iter().map(Line::of).collect(), ring.newest)
    }

    /// The oldest lines after the one of this number, as soon as there is any; the number of the last
    /// line that was looked at; and whether some that may have been wanted are not kept any more.
    pub(super) async fn after(
        &self,
        filter: &Filter,
        line: u64,
        limit: usize,
        wait: Duration,
    ) -> (Vec<Line>, u64, bool) {
        let deadline = Instant::now() + wait;
        let mut newest = self.newest.subscribe();
        let mut line = line;
        loop {
            newest.borrow_and_update();
            let (found, looked_at, missed) = self.next(filter, line, limit);
            if !found.is_empty() || missed {
                return (found, looked_at, missed);
            }
            line = looked_at;
            let changed = tokio::time::timeout_at(deadline, newest.changed());
            // The sender is self's, so it is there.
            if changed.await.is_err() {
                return (Vec::new(), line, false);
            }
            // What is said in a moment goes along with it.
            tokio::time::sleep_until(deadline.min(Instant::now() + GATHER)).await;
        }
    }

    fn next(&self, filter: &Filter, line: u64, limit: usize) -> (Vec<Line>, u64, bool) {
        let ring = self.ring.lock();
        let mut missed = ring.forgotten > line;
        let mut found = Vec::new();
        for (module, said) in ring.wanted(filter) {
            missed |= said.forgotten > line;
            let from = said.lines.partition_point(|known| known.number <= line);
            let later = said.lines.range(from..).filter(|line| filter.passes(line));
            found.extend(later.take(limit + 1).map(|line| (module, line)));
        }
        found.sort_unstable_by_key(|(_, line)| line.number);
        let looked_at = match found.get(limit) {
            Some(_) => found[limit - 1].1.number,
            None => ring.newest.max(line),
        };
        found.truncate(limit);
        let found = found.into_iter().map(Line::of).collect();
        (found, looked_at, missed)
    }
}

impl Filter {
    fn passes(&self, line: &Numbered) -> bool {
        let resource = self.resource.as_ref();
        line.level >= self.level && resource.is_none_or(|resource| *resource == line.resource)
    }
}

impl Ring {
    fn push(&mut self, entry: &GuestLog<'_>, at_ms: u64) {
        self.newest += 1;
        let line = Numbered {
            number: self.newest,
            at_ms,
            resource: entry.resource.clone(),
            level: level(entry.level),
            source: source(entry.source),
            context: entry.context.into(),
            message: entry.message.into(),
        };
        if !self.modules.contains_key(entry.module) {
            self.modules.insert(entry.module.clone(), Said::default());
        }
        let said = self.modules.get_mut(entry.module).expect("it is there now");
        let bytes = line.bytes();
        said.bytes += bytes;
        self.bytes += bytes;
        said.lines.push_back(line);
        self.bytes -= said.shrink(MODULE_BYTES_MAX);
        if self.bytes > BYTES_MAX {
            // Much at a time, so that not every line looks for the longest.
            let longest = self.modules.values_mut().max_by_key(|said| said.bytes);
            let freed = longest.map_or(0, |said| said.shrink(said.bytes / 2));
            self.bytes -= freed;
            let forgotten = &mut self.forgotten;
            self.modules.retain(|_, said| {
                let is_empty = said.lines.is_empty();
                if is_empty {
                    *forgotten = said.forgotten.max(*forgotten);
                }
                !is_empty
            });
        }
    }

    fn wanted(&self, filter: &Filter) -> impl Iterator<Item = (&ModuleName, &Said)> {
        let module = filter.module.as_ref();
        let modules = self.modules.iter();
        modules.filter(move |(name, _)| module.is_none_or(|module| module == *name))
    }
}

impl Said {
    /// Forgets the oldest lines until no more than this is left. Says how much was freed.
    fn shrink(&mut self, bytes_max: usize) -> usize {
        let before = self.bytes;
        while self.bytes > bytes_max
            && let Some(line) = self.lines.pop_front()
        {
            self.bytes -= line.bytes();
            self.forgotten = line.number;
        }
        before - self.bytes
    }
}

impl Numbered {
    /// About as much memory as it takes.
    fn bytes(&self) -> usize {
        size_of::<Self>() + self.context.len() + self.message.len()
    }
}

impl Line {
    fn of((module, line): (&ModuleName, &Numbered)) -> Self {
        Self {
            at_ms: line.at_ms,
            module: module.clone(),
            resource: line.resource.clone(),
            level: line.level,
            source: line.source,
            context: line.context.clone(),
            message: line.message.clone(),
        }
    }
}

fn level(level: Level) -> LogLevel {
    match level {
        Level::Trace => LogLevel::Trace,
        Level::Debug => LogLevel::Debug,
        Level::Info => LogLevel::Info,
        Level::Warn => LogLevel::Warn,
        Level::Error => LogLevel::Error,
        Level::Critical => LogLevel::Critical,
    }
}

fn source(source: Source) -> LogSource {
    match source {
        Source::Stdout => LogSource::Stdout,
        Source::Stderr => LogSource::Stderr,
        Source::Logging => LogSource::Logging,
    }
}

/// How long lines are gathered before they go to whoever waits for them.
const GATHER: Duration = Duration::from_millis(50);

/// What a module may take: some thousand lines.
pub(super) const MODULE_BYTES_MAX: usize = 1 << 20;

/// What all modules together may take.
pub(super) const BYTES_MAX: usize = 32 << 20;
