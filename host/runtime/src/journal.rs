//! What guests say: lines on stdout and stderr, and messages of `wasi:logging`.
//!
//! Invariant: an instance costs bounded memory and a bounded number of entries a second, whatever it
//! writes, and all together a bounded number of bytes. How much was left out is said by a message of
//! its own.

mod volume;

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use holdfast_model::{ModuleName, ResourceId};
use parking_lot::Mutex;
use wasmtime::component::{ComponentType, Lift};

pub(crate) use self::volume::Metered;

/// One message of a guest.
#[derive(Clone, Copy, Debug)]
pub struct GuestLog<'a> {
    /// The module it comes from.
    pub module: &'a ModuleName,
    /// The resource it comes from.
    pub resource: &'a ResourceId,
    /// How the guest said it.
    pub source: Source,
    /// How important the guest finds it.
    pub level: Level,
    /// `context` of `wasi:logging`; empty for stdout and stderr.
    pub context: &'a str,
    /// The text, at most 8 KiB, without a line feed at its end.
    pub message: &'a str,
}

/// How a guest said something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A line on standard output.
    Stdout,
    /// A line on standard error.
    Stderr,
    /// A message of `wasi:logging`.
    Logging,
}

/// Levels of `wasi:logging`, the least important first.
#[derive(ComponentType, Lift, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[component(enum)]
#[repr(u8)]
pub enum Level {
    /// Values of variables and the flow of control.
    #[component(name = "trace")]
    Trace,
    /// Of interest to someone who debugs the handler.
    #[component(name = "debug")]
    Debug,
    /// Of interest to someone who watches the handler; also what stdout says.
    #[component(name = "info")]
    Info,
    /// A hazardous situation; also what stderr says.
    #[component(name = "warn")]
    Warn,
    /// A serious error.
    #[component(name = "error")]
    Error,
    /// A fatal error.
    #[component(name = "critical")]
    Critical,
}

/// Takes what guests say. Called on the thread that runs the guest: it must not block.
pub trait GuestLogSink: Send + Sync + 'static {
    /// Takes one message.
    fn log(&self, entry: &GuestLog<'_>);

    /// Whether there is room for a message with so many bytes now, and takes the room. `writes_much`
    /// says that the instance has written a lot lately.
    fn has_room(&self, bytes: usize, writes_much: bool) -> bool {
        let _ = (bytes, writes_much);
        true
    }
}

/// Sends what guests say to `tracing`, under the target `guest`.
#[derive(Clone, Copy, Debug, Default)]
pub struct TracingSink;

impl GuestLogSink for TracingSink {
    fn log(&self, entry: &GuestLog<'_>) {
        macro_rules! emit {
            ($level:ident) => {
                tracing::$level!(
                    target: "guest",
                    module = %entry.module,
                    resource.id = %entry.resource,
                    source = ?entry.source,
                    context = entry.context,
                    "{}", entry.message
                )
            };
        }
        match entry.level {
            Level::Trace => emit!(trace),
            Level::Debug => emit!(debug),
            Level::Info => emit!(info),
            // A guest's error is no error of the node: nobody needs to act for the node's sake.
            Level::Warn | Level::Error | Level::Critical => emit!(warn),
        }
    }
}

/// The journal of one instance. Made when the guest says something for the first time.
pub(crate) struct Journal {
    module: ModuleName,
    resource: ResourceId,
    sink: Arc<dyn GuestLogSink>,
    lines: Mutex<Lines>,
}

#[derive(Default)]
struct Lines {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    /// Last lines of the current call on stderr and in critical messages: where a panic leaves
    /// its message, and nowhere else.
    tail: VecDeque<String>,
    /// What all lines of the tail cost together.
    tail_bytes: usize,
    allowance: Allowance,
}

/// How many entries may still be logged: a burst of [`BURST`], and [`PER_SECOND`] on average.
struct Allowance {
    entries: f64,
    since: Instant,
    /// Entries that were refused and not told about yet.
    left_out: u64,
    /// When that was told last.
    told: Instant,
}

impl Journal {
    pub(crate) fn new(
        module: ModuleName,
        resource: ResourceId,
        sink: Arc<dyn GuestLogSink>,
    ) -> Self {
        Self {
            module,
            resource,
            sink,
            lines: Mutex::default(),
        }
    }

    /// Begins a new call: what earlier ones said last is of no interest any more.
    pub(crate) fn begin_call(&self) {
        let mut lines = self.lines.lock();
        lines.tail.clear();
        lines.tail_bytes = 0;
        self.tell_left_out(&mut lines);
    }

    /// Logs a message of `wasi:logging`.
    pub(crate) fn log(&self, level: Level, context: &str, message: &str) {
        let context = cut(context, CONTEXT_BYTES_MAX);
        let message = cut(message, LINE_BYTES_MAX).trim_end();
        let mut lines = self.lines.lock();
        if level == Level::Critical {
            for line in message.lines() {
                lines.remember(line);
            }
        }
        self.admit(&mut lines, Source::Logging, level, context, message);
    }

    /// Takes bytes written to stdout or stderr, and logs the lines that they complete.
    pub(crate) fn write(&self, source: Source, bytes: &[u8]) {
        let mut lines = self.lines.lock();
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            for piece in piece.chunks(LINE_BYTES_MAX) {
                let pending = lines.pending(source);
                if pending.len() + piece.len() > LINE_BYTES_MAX {
                    self.complete(&mut lines, source);
                }
                lines.pending(source).extend_from_slice(piece);
            }
            if piece.ends_with(b"\n") {
                self.complete(&mut lines, source);
            }
        }
    }

    /// Logs what was written last without a line feed.
    pub(crate) fn flush(&self) {
        let mut lines = self.lines.lock();
        self.complete(&mut lines, Source::Stdout);
        self.complete(&mut lines, Source::Stderr);
    }

    /// What the guest said last in the current call, on stderr or as a critical message.
    pub(crate) fn tail(&self) -> Vec<String> {
        self.lines.lock().tail.iter().cloned().collect()
    }

    fn complete(&self, lines: &mut Lines, source: Source) {
        let bytes = std::mem::take(lines.pending(source));
        if bytes.is_empty() {
            return;
        }
        let line = String::from_utf8_lossy(&bytes);
        let line = line.trim_end();
        let level = match source {
            Source::Stderr => Level::Warn,
            Source::Stdout | Source::Logging => Level::Info,
        };
        if source == Source::Stderr {
            lines.remember(line);
        }
        if !line.is_empty() {
            self.admit(lines, source, level, "", line);
        }
    }

    /// Logs an entry, unless there were too many.
    fn admit(&self, lines: &mut Lines, source: Source, level: Level, context: &str, message: &str) {
        self.tell_left_out(lines);
        let bytes = context.len() + message.len();
        let allowance = &mut lines.allowance;
        let writes_much = allowance.writes_much();
        if allowance.take(Instant::now()) && self.sink.has_room(bytes, writes_much) {
            self.emit(source, level, context, message);
        } else {
            lines.allowance.left_out += 1;
        }
    }

    /// Says how many entries were left out, once there may be entries again.
    fn tell_left_out(&self, lines: &mut Lines) {
        let allowance = &mut lines.allowance;
        let now = Instant::now();
        // Not for each one: while there are too many, half of what is said would be about that.
        let is_time = now.saturating_duration_since(allowance.told) >= TOLD_EVERY;
        let is_due = allowance.left_out > 0 && is_time;
        if is_due && allowance.take(now) && self.sink.has_room(0, allowance.writes_much()) {
            allowance.told = now;
            let left_out = std::mem::take(&mut allowance.left_out);
            let message = format!("{left_out} messages were left out: there were too many");
            self.emit(Source::Logging, Level::Warn, "", &message);
        }
    }

    fn emit(&self, source: Source, level: Level, context: &str, message: &str) {
        self.sink.log(&GuestLog {
            module: &self.module,
            resource: &self.resource,
            source,
            level,
            context,
            message,
        });
    }
}

impl Lines {
    fn pending(&mut self, source: Source) -> &mut Vec<u8> {
        match source {
            Source::Stderr => &mut self.stderr,
            Source::Stdout | Source::Logging => &mut self.stdout,
        }
    }

    fn remember(&mut self, line: &str) {
        self.tail_bytes += line.len() + LINE_COST;
        self.tail.push_back(line.to_owned());
        // The last line stays, however long: it is bounded by itself.
        while self.tail_bytes > TAIL_BYTES_MAX && self.tail.len() > 1 {
            let first = self.tail.pop_front().unwrap_or_default();
            self.tail_bytes -= first.len() + LINE_COST;
        }
    }
}

impl Allowance {
    fn writes_much(&self) -> bool {
        self.entries < BURST - LITTLE
    }

    /// Takes one entry, if there is one left by now.
    fn take(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.since);
        self.since = now;
        self.entries = (self.entries + passed.as_secs_f64() * PER_SECOND).min(BURST);
        let is_there = self.entries >= 1.0;
        if is_there {
            self.entries -= 1.0;
        }
        is_there
    }
}

impl Default for Allowance {
    fn default() -> Self {
        let now = Instant::now();
        Self {
            entries: BURST,
            since: now,
            left_out: 0,
            told: now,
        }
    }
}

fn cut(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}

const LINE_BYTES_MAX: usize = 8 << 10;
const CONTEXT_BYTES_MAX: usize = 256;
/// The stack of an interpreter in full; what is reported of it is cut once more.
const TAIL_BYTES_MAX: usize = 8 << 10;
/// What a line costs beside its text.
const LINE_COST: usize = 32;
/// What an instance may log at once, and a second on average. More than a person reads; less than
/// what fills a disk.
const BURST: f64 = 1000.0;
const PER_SECOND: f64 = 100.0;

/// An instance that has written no more than so many entries lately writes little.
const LITTLE: f64 = 20.0;

/// How often it is said at most that something was left out.
const TOLD_EVERY: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests;
