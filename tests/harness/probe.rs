//! The probe, as the scenarios speak to it: what to deploy, and how to make it misbehave.

use serde_json::{Value, json};

use crate::{Answer, Api, Collector, component};

/// The module of the probe.
#[derive(Clone, Copy, Debug)]
pub struct Probe;

impl Probe {
    /// Settings with which it reports to this collector. Small limits, so that misbehaviour shows
    /// soon, but ample times: hooks must not be cut off because a machine is slow.
    #[must_use]
    pub fn settings(collector: &Collector) -> Value {
        json!({
            "limits": {
                "memory_bytes_max": 16 << 20,
                "handle_timeout_ms": 60_000,
                "terminate_timeout_ms": 60_000,
                "call_timeout_ms": 30_000,
                "queue_calls_max": 8,
                "body_bytes_max": 64 << 10,
            },
            "grants": { "http": [format!("{}:*", collector.ip())] },
            "config": { "report_url": collector.url() },
        })
    }

    /// Settings with which it reports to the node's log, for [`Logs`](crate::Logs): it makes no
    /// requests, so it runs in the direct lane, as a handler does that costs little.
    #[must_use]
    pub fn settings_logging() -> Value {
        json!({
            "limits": { "memory_bytes_max": 16 << 20 },
            "config": { "report_log": "on" },
        })
    }

    /// Deploys it under this name, and waits until it serves.
    ///
    /// # Panics
    /// When it is refused.
    #[track_caller]
    pub fn deploy(api: &Api, module: &str, collector: &Collector) -> Answer {
        Self::deploy_with(api, module, &Self::settings(collector))
    }

    /// Deploys it under this name with other settings, and waits until it serves.
    ///
    /// # Panics
    /// When it is refused.
    #[track_caller]
    pub fn deploy_with(api: &Api, module: &str, settings: &Value) -> Answer {
        let answer = api.deploy(module, component::probe(), settings).answer();
        assert!(matches!(answer.status, 200 | 201), "deploy: {answer}");
        answer
    }

    /// The spec of a resource whose `terminate` takes a moment: so long that a new owner who does
    /// not wait for its end is seen.
    #[must_use]
    pub fn slow_to_terminate() -> Value {
        json!({"terminate_ms": 200})
    }

    /// A call that tells the holder's token and how many calls it has answered.
    #[must_use]
    pub fn echo() -> String {
        json!({"op": "echo"}).to_string()
    }

    /// A call that is reported to the collector, and tells what `echo` does.
    #[must_use]
    pub fn observed() -> String {
        json!({"op": "observed"}).to_string()
    }

    /// A call that panics.
    #[must_use]
    pub fn panic() -> String {
        json!({"op": "panic"}).to_string()
    }

    /// A call that never ends.
    #[must_use]
    pub fn spin() -> String {
        json!({"op": "spin"}).to_string()
    }

    /// A call that takes all memory it can get.
    #[must_use]
    pub fn alloc() -> String {
        json!({"op": "alloc"}).to_string()
    }

    /// A call that waits.
    #[must_use]
    pub fn sleep_ms(ms: u64) -> String {
        json!({"op": "sleep_ms", "ms": ms}).to_string()
    }

    /// A call that is refused with this kind of `invocation.error`, in snake case.
    #[must_use]
    pub fn error(kind: &str) -> String {
        json!({"op": "error", "kind": kind}).to_string()
    }
}

/// Ids `{prefix}0` to `{prefix}{count - 1}`.
#[must_use]
pub fn ids(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|i| format!("{prefix}{i}")).collect()
}
