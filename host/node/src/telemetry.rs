//! The node's own log, on standard error: lines that nobody waits for, and no floods of them.
//!
//! Invariant: logging never blocks, even a panic's message. See `writer` and `repeated`.

mod escape;
mod repeated;
mod writer;

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    fmt,
    io::{self, IsTerminal as _, Write as _},
    panic::PanicHookInfo,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use parking_lot::Mutex;
use tracing::error;
use tracing_subscriber::{
    EnvFilter, Layer as _, Registry, fmt as lines, layer::SubscriberExt as _, reload,
    util::SubscriberInitExt as _,
};

use self::{escape::Escape, repeated::CallsiteLimit, writer::LogWriter};
pub(crate) use self::{
    escape::is_misleading,
    repeated::{Repeated, RepeatedBy},
};

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Why the log cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The filter makes no sense.
    #[error(transparent)]
    Filter(#[from] InvalidFilter),
    /// No thread, or no file descriptor.
    #[error("start the thread that writes the log")]
    Writer(#[source] io::Error),
}

/// A filter that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("the log filter {filter:?} cannot be read: write a level, or `target=level` with commas")]
pub struct InvalidFilter {
    filter: String,
    #[source]
    source: tracing_subscriber::filter::ParseError,
}

/// What the process logs; can be changed while it runs. Clones share it.
#[derive(Clone)]
pub struct LogFilter(Arc<Inner>);

struct Inner {
    text: Mutex<String>,
    handle: reload::Handle<EnvFilter, Registry>,
}

impl LogFilter {
    /// The filter as it was given.
    #[must_use]
    pub fn text(&self) -> String {
        self.0.text.lock().clone()
    }

    /// Logs by another filter from now on.
    ///
    /// # Errors
    /// When it cannot be read; the former one stays.
    pub fn change(&self, filter: &str) -> Result<(), InvalidFilter> {
        let parsed = parse(filter)?;
        // Both change together, whoever else changes them.
        let mut text = self.0.text.lock();
        let reloaded = self.0.handle.reload(parsed);
        reloaded.expect("the subscriber is the process's, and ends with it");
        filter.clone_into(&mut text);
        Ok(())
    }
}

impl fmt::Debug for LogFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LogFilter").field(&self.text()).finish()
    }
}

/// Sends what the process logs from now on to standard error, panics included. None: something else
/// has been set up to take it, as by a program that embeds the node; that stays.
///
/// # Errors
/// When the filter cannot be read, or the thread that writes cannot be started.
pub fn start(format: Format, filter: &str) -> Result<Option<LogFilter>, StartError> {
    let (filtering, handle) = reload::Layer::new(parse(filter)?);
    let escape = Escape {
        json: format == Format::Json,
        ansi: format == Format::Text && io::stderr().is_terminal(),
    };
    let writer = LogWriter::to_stderr(escape).map_err(StartError::Writer)?;
    let lines = lines::layer().with_writer(writer.clone());
    let lines = match format {
        Format::Text => lines.with_ansi(escape.ansi).boxed(),
        Format::Json => lines.json().flatten_event(true).boxed(),
    };
    let subscriber = tracing_subscriber::registry()
        .with(filtering)
        .with(CallsiteLimit::default())
        .with(lines);
    let text = Mutex::new(filter.to_owned());
    if subscriber.try_init().is_err() {
        return Ok(None);
    }
    // Set once: another subscriber would have been refused.
    let _ = WRITER.set(writer);
    std::panic::set_hook(Box::new(log_panic));
    Ok(Some(LogFilter(Arc::new(Inner { text, handle }))))
}

/// From now on this process ends: what the consensus library takes for errors is what an end looks
/// like to it, and nobody needs to act.
pub fn ending() {
    ENDING.store(true, Relaxed);
}

/// Waits until all that was logged is written, before the process ends; not for long when nobody
/// reads it.
pub fn flush() {
    if let Some(writer) = WRITER.get() {
        writer.flush();
    }
}

/// Writes a text to standard error behind what was logged, as the last of this process.
pub fn write_last(text: &str) {
    match WRITER.get() {
        Some(writer) => {
            writer.take(text);
            writer.flush();
        }
        // Nobody may read it, which is no reason to panic.
        None => drop(io::stderr().write_all(text.as_bytes())),
    }
}

/// Lines of the log that were dropped so far, because nobody read it; none when the log is not this
/// process's own.
#[must_use]
pub fn dropped_lines() -> Option<u64> {
    WRITER.get().map(LogWriter::dropped)
}

/// In place of the standard hook, which writes to standard error itself and waits for its reader.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let thread = thread.name().unwrap_or("unnamed");
    let message = panic.payload_as_str().unwrap_or("something without a text");
    let location = panic.location().map(ToString::to_string);
    let location = location.unwrap_or_default();
    let backtrace = Backtrace::capture();
    if backtrace.status() == BacktraceStatus::Captured {
        error!(thread, location, %backtrace, "panicked: {message}");
    } else {
        error!(thread, location, "panicked: {message}");
    }
}

/// See [`ending`].
static ENDING: AtomicBool = AtomicBool::new(false);

/// What writes the log of this process, once it has one.
static WRITER: OnceLock<LogWriter> = OnceLock::new();

fn parse(filter: &str) -> Result<EnvFilter, InvalidFilter> {
    // Raft tells every step of its inner life; whoever wants that says so.
    let quiet = if filter.contains("openraft") {
        ""
    } else {
        ",openraft=error"
    };
    let parsed = EnvFilter::builder().parse(format!("{filter}{quiet}"));
    parsed.map_err(|source| InvalidFilter {
        filter: filter.to_owned(),
        source,
    })
}
