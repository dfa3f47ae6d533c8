//! Options of `holdfast start` about what the clients of the HTTP API may take.

use std::time::Duration;

use crate::config::HttpOptions;

/// Limits of the HTTP API.
#[derive(Clone, Debug, clap::Args)]
pub struct HttpLimits {
    /// How many HTTP connections there may be at once.
    ///
    /// Fewer where the process may open few files: peers, disks and handlers keep some. When it is reached, idle
    /// connections are closed, first those that have not shown the token as long as they have more than an eighth
    /// of the places. Too low: clients are turned away with 503. Too high: idle connections take memory, about 20 KB each.
    #[arg(long, value_name = "N", default_value_t = 16_384)]
    #[arg(value_parser = clap::value_parser!(u32).range(16..=1_000_000))]
    pub http_connections_max: u32,

    /// How many of them one client may have that has not shown the token.
    ///
    /// A client is an address, or with IPv6 a network of 64 bits. Beyond that its oldest ones are closed. Too low:
    /// clients behind one address disturb each other while they connect. Too high: one client can take all places
    /// from others who have just connected.
    #[arg(long, value_name = "N", default_value_t = 1_024)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub http_connections_per_client_max: u32,

    /// How long the head of a request may take, from its first byte.
    ///
    /// Beyond that it is answered with 408. Too low: slow networks are cut off. Too high: unfinished requests take
    /// places and memory.
    #[arg(long, value_name = "DURATION", default_value = "10s")]
    #[arg(value_parser = duration)]
    pub http_head_timeout: Duration,

    /// How long an HTTP connection may have no request.
    ///
    /// Then it is closed. Too low: clients connect anew for each request. Too high: connections that nobody uses take
    /// places.
    #[arg(long, value_name = "DURATION", default_value = "75s")]
    #[arg(value_parser = duration)]
    pub http_idle_timeout: Duration,

    /// How long a client may send nothing of a body, or read nothing of an answer.
    ///
    /// Beyond that a body is answered with 408, and the connection of who does not read is cut. Too low: clients that
    /// pause are cut off. Too high: clients that are gone keep memory and places.
    #[arg(long, value_name = "DURATION", default_value = "30s")]
    #[arg(value_parser = duration)]
    pub http_stall_timeout: Duration,

    /// Bytes a second that a body must make on average, and an answer that its client reads slowly.
    ///
    /// It counts once --http-stall-timeout has passed; 0 asks for none. Too low: few slow clients keep memory for
    /// hours. Too high: slow networks cannot send what is large.
    #[arg(long, value_name = "BYTES", default_value_t = 1_024)]
    pub http_rate_min: u32,

    /// Bytes of bodies and of unfinished heads that may be in memory at once.
    ///
    /// Each request has 4 KiB that do not count. Half of them are for one module at most. A request beyond is answered
    /// with 503, or with 429 when it is the module's share that is used up. Too low: large bodies are refused when
    /// several come at once. Too high: they take the memory that instances need.
    #[arg(long, value_name = "BYTES", default_value_t = 268_435_456)]
    #[arg(value_parser = clap::value_parser!(u64).range(65_536..))]
    pub http_memory_max: u64,
}

impl From<HttpLimits> for HttpOptions {
    fn from(limits: HttpLimits) -> Self {
        Self {
            connections_max: limits.http_connections_max,
            connections_per_client_max: limits.http_connections_per_client_max,
            head_timeout: limits.http_head_timeout,
            idle_timeout: limits.http_idle_timeout,
            stall_timeout: limits.http_stall_timeout,
            rate_min: limits.http_rate_min,
            memory_max: limits.http_memory_max,
        }
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    match (TIME_MIN..=TIME_MAX).contains(&duration) {
        true => Ok(duration),
        false => Err("it must be 100 ms to a day".to_owned()),
    }
}

const TIME_MIN: Duration = Duration::from_millis(100);
const TIME_MAX: Duration = Duration::from_secs(24 * 60 * 60);

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Args {
        #[command(flatten)]
        limits: HttpLimits,
    }

    #[test]
    fn the_defaults_are_those_of_an_embedded_node() {
        let args = Args::parse_from(["start"]);
        assert_eq!(HttpOptions::from(args.limits), HttpOptions::default());
    }

    #[test]
    fn no_time_is_none() {
        let refused = Args::try_parse_from(["start", "--http-idle-timeout", "0s"]);
        let text = refused.err().unwrap().to_string();
        assert!(text.contains("100 ms to a day"), "{text}");
    }
}
