//! Messages for the node's log.

/// Priority of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// Values of variables and the flow of control.
    Trace,
    /// Of interest to someone who debugs the handler.
    Debug,
    /// Of interest to someone who watches the handler.
    Info,
    /// A hazardous situation.
    Warn,
    /// A serious error.
    Error,
    /// A fatal error.
    Critical,
}
