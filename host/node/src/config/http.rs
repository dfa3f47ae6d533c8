//! What the clients of the HTTP API may take of a node.

use std::time::Duration;

/// Limits of the HTTP listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpOptions {
    /// Connections at once. Default 16,384; fewer where the process may open fewer files. Too low: clients are
    /// turned away. Too high: idle connections take memory, about 20 KB each.
    pub connections_max: u32,
    /// Connections at once from one address (IPv6: from one network of 64 bits) that have not shown the token yet.
    /// Default 1,024. Too low: clients behind one address disturb each other while they connect. Too high: one
    /// client makes the others' connections the next to be closed.
    pub connections_per_client_max: u32,
    /// How long a request's head may take from its first byte to its last. Default 10 s. Too low: slow
    /// networks are cut off. Too high: unfinished requests take places.
    pub head_timeout: Duration,
    /// How long a connection may have no request. Default 75 s. Too low: clients connect anew for each call.
    /// Too high: connections that nobody uses take places.
    pub idle_timeout: Duration,
    /// How long a client may send nothing of a body that is waited for, or read nothing of an answer. Default
    /// 30 s. Too low: clients that pause are cut off. Too high: clients that are gone keep memory.
    pub stall_timeout: Duration,
    /// Bytes a second that a body, or an answer that waits for its reader, must make on average once `stall_timeout`
    /// has passed. Default 1,024. Too low: a few slow clients keep memory for hours. Too high: slow networks
    /// cannot send what is large.
    pub rate_min: u32,
    /// Bytes of bodies and of unfinished heads in memory at once, half of them for one module at most. Default
    /// 256 MiB; what a request takes up to 4 KiB is not counted. Too low: large bodies are refused. Too high: they
    /// take the memory that instances need.
    pub memory_max: u64,
}

impl Default for HttpOptions {
    fn default() -> Self {
        Self {
            connections_max: 16_384,
            connections_per_client_max: 1_024,
            head_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
            stall_timeout: Duration::from_secs(30),
            rate_min: 1_024,
            memory_max: 256 << 20,
        }
    }
}
