//! Resources that loop, and what the node that has them says of its health meanwhile.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use holdfast_tests::{Cluster, LONG, Probe, component, probe::ids, wait_until};
use serde_json::json;

/// Calls that go on until this is dropped, and longer.
pub(crate) struct Loops {
    server: SocketAddr,
    _calls: Vec<TcpStream>,
}

impl Loops {
    /// Has so many resources of a module loop on each of two nodes.
    pub(crate) fn start(cluster: &Cluster, each: usize) -> Self {
        let api = cluster.api(0);
        let settings = json!({"lane": "direct", "limits": {"call_timeout_ms": HOUR_MS}});
        let deployed = api.deploy(MODULE, component::probe(), &settings);
        let _ = deployed.answer().expect(201);
        let before = api.cluster().expect("it answers").resources.held;
        let all = ids("loop", 2 * each);
        api.allocate_all(MODULE, &all);
        wait_until("those that are to loop are held", LONG, || {
            let held = api.cluster()?.resources.held;
            let so = held == before + all.len() as u64;
            so.then_some(()).ok_or(held.to_string())
        });
        let server = cluster.listening(0).http;
        let body = Probe::spin();
        let call = |id: &String| {
            let mut stream = TcpStream::connect(server).expect("the node listens");
            let head = format!(
                "POST /v1/modules/{MODULE}/resources/{id}/invoke HTTP/1.1\r\nhost: bench\r\n\
                 content-length: {}\r\n\r\n{body}",
                body.len()
            );
            stream.write_all(head.as_bytes()).expect("the node reads");
            stream
        };
        let calls = all.iter().map(call).collect();
        // Trust is lost and turns are taken by then.
        std::thread::sleep(Duration::from_secs(3));
        Self {
            server,
            _calls: calls,
        }
    }

    /// How soon the first node says that it lives.
    pub(crate) fn health(&self, time: Duration) -> String {
        let stream = TcpStream::connect(self.server).expect("the node listens");
        stream.set_nodelay(true).expect("it is a TCP connection");
        let mut answers = BufReader::new(&stream);
        let mut times = Histogram::<u64>::new(3).expect("three digits are allowed");
        let begun = Instant::now();
        while begun.elapsed() < time {
            let asked = Instant::now();
            let mut writer = &stream;
            let sent = writer.write_all(b"GET /healthz HTTP/1.1\r\nhost: bench\r\n\r\n");
            sent.expect("the node reads");
            let mut line = String::new();
            while line.trim_end() != "ok" {
                line.clear();
                let read = answers.read_line(&mut line).expect("the node answers");
                assert!(read > 0, "the node closed the connection");
            }
            times.saturating_record(asked.elapsed().as_micros() as u64);
        }
        let ms = |quantile| times.value_at_quantile(quantile) as f64 / 1e3;
        format!(
            "p50 {:.2} ms, p99 {:.2} ms, longest {:.2} ms",
            ms(0.5),
            ms(0.99),
            ms(1.0)
        )
    }
}

const MODULE: &str = "loops";
const HOUR_MS: u64 = 3_600_000;
