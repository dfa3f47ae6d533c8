//! The node's own log, on standard error.

use std::{fmt, io::IsTerminal as _, sync::Arc};

use parking_lot::Mutex;
use tracing_subscriber::{
    EnvFilter, Layer as _, Registry, fmt as lines, layer::SubscriberExt as _, reload,
    util::SubscriberInitExt as _,
};

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
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

/// Sends what the process logs from now on to standard error. None: something else has been set up
/// to take it, as by a program that embeds the node; that stays.
///
/// # Errors
/// When the filter cannot be read.
pub fn start(format: Format, filter: &str) -> Result<Option<LogFilter>, InvalidFilter> {
    let (filtering, handle) = reload::Layer::new(parse(filter)?);
    let lines = lines::layer().with_writer(std::io::stderr);
    let lines = match format {
        Format::Text => lines.with_ansi(std::io::stderr().is_terminal()).boxed(),
        Format::Json => lines.json().flatten_event(true).boxed(),
    };
    let subscriber = tracing_subscriber::registry().with(filtering).with(lines);
    let text = Mutex::new(filter.to_owned());
    let started = subscriber.try_init().ok();
    Ok(started.map(|()| LogFilter(Arc::new(Inner { text, handle }))))
}

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
