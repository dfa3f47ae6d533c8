//! The accepting side of a connection: runs the handler and sends what it says.

use std::{collections::HashMap, future::poll_fn, io, sync::Arc, task::Poll, time::Duration};

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::{
    net::TcpStream,
    task::{AbortHandle, JoinSet},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{
    Answer, Handler, Kind, Options, PeerInfo, Reply,
    frame::{self, Frame, HEADER, Type},
    outbox::{Company, Outbox},
    socket,
};

/// Serves a handshaken connection that the peer dialed, until it is over or this side leaves. Who
/// leaves looks at no more requests, and says so after the answers to those before. Handlers that
/// still work at the end are dropped.
pub(super) async fn serve(
    stream: Arc<TcpStream>,
    peer: &PeerInfo,
    handler: &dyn Handler,
    options: &Options,
    leave: &CancellationToken,
) -> io::Result<()> {
    let server = Server {
        peer,
        handler,
        frame_bytes_max: options.frame_bytes_max,
        requests_max: options.requests_max,
        outbox: Arc::new(Outbox::new(stream.clone(), options.outgoing_bytes_max)),
        running: Arc::default(),
    };
    let _over = Over(&server.outbox);
    let mut tasks = JoinSet::new();
    let served = async {
        server.read(&stream, &mut tasks, leave).await?;
        // Whoever does not read any more has had its time.
        let _ = timeout(PARTING, server.part(&stream, &mut tasks)).await;
        Ok(())
    };
    tokio::select! {
        served = served => served,
        written = server.outbox.write() => written,
    }
}

struct Server<'a> {
    peer: &'a PeerInfo,
    handler: &'a dyn Handler,
    frame_bytes_max: usize,
    requests_max: usize,
    outbox: Arc<Outbox>,
    running: Arc<Running>,
}

/// The calls whose handlers have tasks of their own.
type Running = Mutex<HashMap<u64, Option<AbortHandle>, foldhash::fast::RandomState>>;

impl Server<'_> {
    /// Takes requests until the connection ends, or until told to leave: then what was not taken yet
    /// never is.
    async fn read(
        &self,
        stream: &TcpStream,
        tasks: &mut JoinSet<()>,
        leave: &CancellationToken,
    ) -> io::Result<()> {
        let mut read = BytesMut::new();
        let mut leave = std::pin::pin!(leave.cancelled());
        loop {
            tokio::select! {
                biased;
                () = leave.as_mut() => return Ok(()),
                filled = socket::fill(stream, &mut read) => filled?,
            }
            while let Some(frame) = frame::take(&mut read, self.frame_bytes_max).map_err(invalid)? {
                self.take(frame, tasks).await?;
            }
            // Their answers are on the way already; this only frees their memory.
            while tasks.try_join_next().is_some() {}
        }
    }

    /// Answers what was taken, and says that this is all.
    async fn part(&self, stream: &TcpStream, tasks: &mut JoinSet<()>) {
        let answered = async { while tasks.join_next().await.is_some() {} };
        if timeout(PARTING / 2, answered).await.is_err() {
            // Some were begun and have no answer: that the connection breaks says so.
            return;
        }
        let over = frame::header(Type::Over, 0, Kind(0), 0);
        self.outbox.force(&over, &Bytes::new());
        self.outbox.flushed().await;
        // A socket that is closed with something unread in it takes back what it sent.
        let mut unread = BytesMut::new();
        if socket::finish(stream).is_ok() {
            while socket::fill(stream, &mut unread).await.is_ok() {
                unread.clear();
            }
        }
    }

    async fn take(&self, frame: Frame, tasks: &mut JoinSet<()>) -> io::Result<()> {
        match frame.ty {
            Type::Request => self.request(frame, tasks).await,
            Type::Cancel => {
                let running = self.running.lock().remove(&frame.call);
                if let Some(Some(task)) = running {
                    task.abort();
                }
                Ok(())
            }
            _ => Err(invalid("the dialing side of a connection sent an answer")),
        }
    }

    async fn request(&self, frame: Frame, tasks: &mut JoinSet<()>) -> io::Result<()> {
        if self.outbox.is_overrun(self.frame_bytes_max) {
            return Err(invalid("the peer asks but does not read the answers"));
        }
        let Frame {
            call,
            kind,
            payload,
            ..
        } = frame;
        if !self.outbox.has_room() || self.running.lock().len() >= self.requests_max {
            self.outbox
                .force(&frame::header(Type::Busy, call, Kind(0), 0), &Bytes::new());
            return Ok(());
        }
        let future = match self.handler.handle(self.peer, kind, payload) {
            Reply::Ready(answer) => {
                self.answer(call, answer);
                return Ok(());
            }
            Reply::Pending(mut future) => {
                // Most are ready at once, or after their first step: those need no task.
                let first = poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx)));
                if let Poll::Ready(answer) = first.await {
                    self.answer(call, answer);
                    return Ok(());
                }
                future
            }
            Reply::Task(future) => future,
        };
        let answered = Answering {
            call,
            outbox: self.outbox.clone(),
            running: self.running.clone(),
            frame_bytes_max: self.frame_bytes_max,
            open: true,
        };
        // Entered before it starts, so that its end finds the entry.
        self.running.lock().insert(call, None);
        let task = tasks.spawn(async move { answered.send(future.await).await });
        if let Some(entry) = self.running.lock().get_mut(&call) {
            *entry = Some(task);
        }
        Ok(())
    }

    fn answer(&self, call: u64, answer: Answer) {
        let (header, payload) = encode(call, answer, self.frame_bytes_max);
        self.outbox.force(&header, &payload);
    }
}

/// A handler's task: whatever becomes of it, the caller hears of it and its place is freed.
struct Answering {
    call: u64,
    outbox: Arc<Outbox>,
    running: Arc<Running>,
    frame_bytes_max: usize,
    open: bool,
}

impl Answering {
    async fn send(mut self, answer: Answer) {
        let (header, payload) = encode(self.call, answer, self.frame_bytes_max);
        let company = Company::of(self.running.lock().len());
        let pushed = self.outbox.push_when_room(&header, &payload, company);
        pushed.await;
        self.open = false;
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.running.lock().remove(&self.call);
        if self.open {
            // It panicked, or was cancelled: then nobody listens, which is as well.
            let failed = Err("the request's handler ended without an answer".into());
            let (header, payload) = encode(self.call, failed, self.frame_bytes_max);
            self.outbox.force(&header, &payload);
        }
    }
}

/// Closes the outbox when dropped: tasks that wait for room go on, and the socket is let go of.
struct Over<'a>(&'a Outbox);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.close();
    }
}

fn encode(call: u64, answer: Answer, frame_bytes_max: usize) -> ([u8; HEADER], Bytes) {
    let answer = answer.and_then(|payload| {
        let bytes = HEADER + payload.len();
        if bytes <= frame_bytes_max {
            return Ok(payload);
        }
        Err(format!(
            "the answer's frame of {bytes} bytes is longer than the {frame_bytes_max} allowed"
        ))
    });
    let (ty, payload) = match answer {
        Ok(payload) => (Type::Response, payload),
        Err(mut reason) => {
            reason.truncate(
                reason.floor_char_boundary(ERROR_BYTES_MAX.min(frame_bytes_max - HEADER)),
            );
            (Type::Error, reason.into())
        }
    };
    (frame::header(ty, call, Kind(0), payload.len()), payload)
}

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// How long who leaves goes on with what it had begun, and waits for the other side to end.
const PARTING: Duration = Duration::from_secs(1);

/// Longer reasons are cut.
const ERROR_BYTES_MAX: usize = 16 * 1024;
