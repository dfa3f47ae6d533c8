//! The ceiling: a bare hyper server that answers each request with its body.

use std::{
    convert::Infallible,
    io::{self, BufRead as _, BufReader, Read as _},
    net::SocketAddr,
    process::{Child, Command, Stdio},
    thread,
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;

/// The server, in a process of its own that ends with this.
pub(crate) struct Bare {
    process: Child,
    pub(crate) addr: SocketAddr,
}

impl Bare {
    /// Starts this very program as the server.
    pub(crate) fn start() -> Self {
        let program = std::env::current_exe().expect("a running program has a file");
        let mut process = Command::new(program)
            .arg("--serve-bare")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this program can be started once more");
        let mut line = String::new();
        let stdout = process.stdout.take().expect("it is piped");
        BufReader::new(stdout)
            .read_line(&mut line)
            .expect("it says where it listens");
        let addr = line.trim().parse().expect("it says where it listens");
        Self { process, addr }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Serves until standard input ends, with as many threads as a node has for it.
pub(crate) fn serve() {
    let tokio = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(thread::available_parallelism().map_or(2, |cores| cores.get().max(2)))
        .enable_all()
        .build()
        .expect("threads can be started");
    tokio.spawn(async {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .expect("loopback has a free port");
        println!("{}", listener.local_addr().expect("it is bound"));
        loop {
            let (stream, _) = listener.accept().await.expect("there are descriptors left");
            stream.set_nodelay(true).expect("the connection is there");
            tokio::spawn(
                http1::Builder::new()
                    .timer(TokioTimer::new())
                    .serve_connection(TokioIo::new(stream), service_fn(echo)),
            );
        }
    });
    let _ = io::stdin().read_to_end(&mut Vec::new());
}

async fn echo(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let body = request.into_body().collect().await;
    let body = body.map_or_else(|_| Bytes::new(), |body| body.to_bytes());
    Ok(Response::new(Full::new(body)))
}
