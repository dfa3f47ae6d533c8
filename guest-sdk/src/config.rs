//! The module's `config`.

/// Why a setting could not be read. A setting that does not exist is no error.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The store that has the settings failed.
    #[error("the config store failed: {0}")]
    Upstream(String),
    /// Reading failed.
    #[error("reading the config failed: {0}")]
    Io(String),
}
