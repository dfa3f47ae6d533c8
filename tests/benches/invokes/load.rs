//! The clients: connections that each send a request as soon as the last one was answered.
//!
//! As cheap as may be, for they share the processor with what is measured: requests put together from
//! ready parts, answers read no further than it takes to check them. As many threads as there are
//! processors, so that never the clients are the limit while a server has nothing to do.

use std::{
    io, iter,
    net::SocketAddr,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use rand::{SeedableRng as _, rngs::ChaCha8Rng, seq::IndexedRandom as _};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    runtime::Runtime,
    task::LocalSet,
};

/// Connections to one server, and what they ask for.
pub(crate) struct Load(Vec<Part>);

/// Those of one thread.
struct Part {
    tokio: Runtime,
    clients: Vec<Client>,
}

struct Client {
    stream: TcpStream,
    requests: Requests,
    chance: ChaCha8Rng,
    sent: Vec<u8>,
    got: Vec<u8>,
    times: Histogram<u64>,
}

/// Calls of resources by chance.
#[derive(Clone)]
pub(crate) struct Requests {
    paths: Arc<[String]>,
    rest: Arc<[u8]>,
    body_bytes: usize,
}

/// What came of some seconds.
pub(crate) struct Round {
    pub(crate) calls_per_second: f64,
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
    pub(crate) calls: u64,
}

impl Requests {
    /// Calls of these resources, with a body of this size.
    pub(crate) fn new(module: &str, ids: &[String], body_bytes: usize) -> Self {
        let path = |id: &String| format!("POST /v1/modules/{module}/resources/{id}/invoke");
        let mut rest = format!(
            " HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: text/plain\r\n\
             content-length: {body_bytes}\r\n\r\n"
        );
        rest.push_str(&"x".repeat(body_bytes));
        Self {
            paths: ids.iter().map(path).collect(),
            rest: rest.into_bytes().into(),
            body_bytes,
        }
    }
}

impl Load {
    /// Opens the connections.
    pub(crate) fn open(server: SocketAddr, connections: usize, requests: &Requests) -> Self {
        let threads = thread::available_parallelism().map_or(1, usize::from);
        let mut parts: Vec<Part> = iter::repeat_with(Part::new).take(threads).collect();
        for number in 0..connections {
            parts[number % threads].connect(server, requests, number as u64);
        }
        Self(parts)
    }

    /// Has every connection ask for so long.
    ///
    /// # Panics
    /// When an answer is no success, or not the body that was sent.
    pub(crate) fn round(&mut self, time: Duration) -> Round {
        let begun = Instant::now();
        let mut times = histogram();
        thread::scope(|scope| {
            let parts = self.0.iter_mut();
            let running: Vec<_> = parts
                .map(|part| scope.spawn(move || part.run(begun + time)))
                .collect();
            for part in running {
                let of_part = part.join().expect("the clients do not panic");
                times.add(of_part).expect("all have the same bounds");
            }
        });
        let at = |quantile| Duration::from_nanos(times.value_at_quantile(quantile));
        Round {
            calls_per_second: times.len() as f64 / begun.elapsed().as_secs_f64(),
            p50: at(0.5),
            p99: at(0.99),
            calls: times.len(),
        }
    }
}

impl Part {
    fn new() -> Self {
        let tokio = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime needs no more than memory");
        Self {
            tokio,
            clients: Vec::new(),
        }
    }

    fn connect(&mut self, server: SocketAddr, requests: &Requests, seed: u64) {
        let connect = async {
            let stream = TcpStream::connect(server).await?;
            stream.set_nodelay(true)?;
            io::Result::Ok(stream)
        };
        self.clients.push(Client {
            stream: self.tokio.block_on(connect).expect("the server listens"),
            requests: requests.clone(),
            chance: ChaCha8Rng::seed_from_u64(seed),
            sent: Vec::new(),
            got: vec![0; 64 << 10],
            times: histogram(),
        });
    }

    fn run(&mut self, until: Instant) -> Histogram<u64> {
        let local = LocalSet::new();
        let clients = self.clients.drain(..).map(|mut client| {
            local.spawn_local(async move {
                client.times.reset();
                while Instant::now() < until {
                    client.call().await.expect("the server answers");
                }
                client
            })
        });
        let clients: Vec<_> = clients.collect();
        let mut times = histogram();
        self.clients = local.block_on(&self.tokio, async {
            let mut ended = Vec::new();
            for client in clients {
                let client = client.await.expect("a client does not panic");
                times.add(&client.times).expect("all have the same bounds");
                ended.push(client);
            }
            ended
        });
        times
    }
}

/// Of nanoseconds, up to a minute.
fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3)
        .expect("the bounds are constants that it takes")
}

impl Client {
    async fn call(&mut self) -> io::Result<()> {
        let path = self.requests.paths.choose(&mut self.chance);
        self.sent.clear();
        self.sent
            .extend_from_slice(path.expect("there are resources").as_bytes());
        self.sent.extend_from_slice(&self.requests.rest);
        let begun = Instant::now();
        self.stream.write_all(&self.sent).await?;
        let mut len = 0;
        let whole = loop {
            match self.stream.read(&mut self.got[len..]).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => len += read,
            }
            if let Some(whole) = answer_bytes(&self.got[..len]) {
                break whole;
            }
        };
        while len < whole {
            match self.stream.read(&mut self.got[len..]).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => len += read,
            }
        }
        self.times
            .saturating_record(begun.elapsed().as_nanos() as u64);
        let answer = &self.got[..len];
        let echoed = len == whole
            && answer.ends_with(&self.sent[self.sent.len() - self.requests.body_bytes..]);
        assert!(
            answer.starts_with(b"HTTP/1.1 200") && echoed,
            "{}",
            String::from_utf8_lossy(answer)
        );
        Ok(())
    }
}

/// How long an answer is whose head has come; none while it has not.
fn answer_bytes(got: &[u8]) -> Option<usize> {
    let head = got.windows(4).position(|end| end == b"\r\n\r\n")?;
    let length = b"content-length: ";
    let at = got[..head]
        .windows(length.len())
        .position(|name| name == length)?;
    let digits = got[at + length.len()..head]
        .iter()
        .take_while(|c| c.is_ascii_digit());
    let body = digits.fold(0, |number, digit| number * 10 + usize::from(digit - b'0'));
    Some(head + 4 + body)
}
