//! The node's own log, on standard error.

use std::io::IsTerminal as _;

use tracing_subscriber::{EnvFilter, fmt};

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

/// Sends what the process logs from now on to standard error.
///
/// # Errors
/// When the filter cannot be read.
pub fn start(format: Format, filter: &str) -> Result<(), InvalidFilter> {
    // Raft tells every step of its inner life; whoever wants that says so.
    let quiet = if filter.contains("openraft") {
        ""
    } else {
        ",openraft=error"
    };
    let parsed = EnvFilter::builder().parse(format!("{filter}{quiet}"));
    let filter = parsed.map_err(|source| InvalidFilter {
        filter: filter.to_owned(),
        source,
    })?;
    let builder = fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A second start, as a test that embeds nodes may do, keeps what the first one set up.
    let _ = match format {
        Format::Text => builder
            .with_ansi(std::io::stderr().is_terminal())
            .try_init(),
        Format::Json => builder.json().flatten_event(true).try_init(),
    };
    Ok(())
}
