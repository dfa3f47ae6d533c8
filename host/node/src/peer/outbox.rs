//! What is to be written to a connection: at once when it is idle, otherwise by a writer that gathers.
//!
//! A write costs far more than its bytes, so frames that come close to one another go out together.
//! Who pushes says whether others are likely to: then the writer first lets run what is ready to run.
//!
//! Invariant: bytes leave in the order in which they were pushed, and at most
//! [`Options::outgoing_bytes_max`](super::Options) of them wait, one frame and the answers that
//! must not be held back excepted. Once closed it stays closed and lets go of the socket.

use std::{collections::VecDeque, io, sync::Arc};

use bytes::{Buf, Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::{net::TcpStream, sync::Notify};
use tokio_util::sync::CancellationToken;

use super::frame::HEADER;

/// The outgoing side of one connection.
pub(super) struct Outbox {
    queue: Mutex<Queue>,
    /// Tells the writer that there is something to write, or that all is over.
    wake: Notify,
    /// Tells those who wait for room.
    room: Notify,
    /// Frees the writer from a socket that takes nothing.
    closed: CancellationToken,
    bytes_max: usize,
}

struct Queue {
    /// `None` once closed.
    stream: Option<Arc<TcpStream>>,
    chunks: VecDeque<Bytes>,
    /// Small frames behind the last chunk.
    tail: BytesMut,
    /// Bytes that wait, those in the writer's hands included.
    waiting: usize,
    /// Whether the writer is at work: nobody else may write then.
    writing: bool,
    /// Bytes ever pushed and ever given to the socket.
    pushed: u64,
    written: u64,
}

/// Whether a frame has company.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Company {
    /// Nothing else is under way: it goes out at once if the socket takes it.
    Alone,
    /// Others are likely to follow: it waits for those that are ready.
    Among,
}

impl Company {
    /// Of a frame that belongs to one of so many calls under way.
    pub(super) fn of(calls: usize) -> Self {
        if calls > 1 { Self::Among } else { Self::Alone }
    }
}

/// Why a frame was not taken. None of it will be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    Full,
    Closed,
}

impl Outbox {
    pub(super) fn new(stream: Arc<TcpStream>, bytes_max: usize) -> Self {
        let queue = Queue {
            stream: Some(stream),
            chunks: VecDeque::new(),
            tail: BytesMut::new(),
            waiting: 0,
            writing: false,
            pushed: 0,
            written: 0,
        };
        Self {
            queue: Mutex::new(queue),
            wake: Notify::new(),
            room: Notify::new(),
            closed: CancellationToken::new(),
            bytes_max,
        }
    }

    /// Takes a frame if there is room, and returns the position of its end in the stream.
    pub(super) fn push(
        &self,
        header: &[u8; HEADER],
        payload: &Bytes,
        company: Company,
    ) -> Result<u64, Refused> {
        self.put(header, payload, company, false)
    }

    /// Takes a frame whether there is room or not. For frames whose number is bounded elsewhere:
    /// an answer on the reading task, which asks [`Outbox::has_room`] first, and tiny ones.
    pub(super) fn force(&self, header: &[u8; HEADER], payload: &Bytes) {
        // Closed: nobody reads the answer any more.
        let _ = self.put(header, payload, Company::Alone, true);
    }

    /// Waits for room, then takes the frame. Nothing happens if the connection ends first.
    pub(super) async fn push_when_room(
        &self,
        header: &[u8; HEADER],
        payload: &Bytes,
        company: Company,
    ) {
        loop {
            // Made before the attempt, so that room made in between is not missed.
            let room = self.room.notified();
            match self.push(header, payload, company) {
                Ok(_) | Err(Refused::Closed) => return,
                Err(Refused::Full) => room.await,
            }
        }
    }

    /// Waits until the socket was given everything.
    pub(super) async fn flushed(&self) {
        loop {
            let room = self.room.notified();
            if self.queue.lock().waiting == 0 {
                return;
            }
            room.await;
        }
    }

    pub(super) fn has_room(&self) -> bool {
        self.queue.lock().waiting < self.bytes_max
    }

    /// Whether forced frames beyond one big one have used as much again as the limit: the other side
    /// goes on asking and does not read.
    pub(super) fn is_overrun(&self, frame_bytes_max: usize) -> bool {
        self.queue.lock().waiting > frame_bytes_max + 2 * self.bytes_max
    }

    /// Writes what the pushing side could not, until the outbox is closed or the socket fails.
    /// Run once per outbox, by the task that owns the connection.
    pub(super) async fn write(&self) -> io::Result<()> {
        loop {
            let (stream, batch) = match self.take() {
                Batch::Closed => return Ok(()),
                Batch::Empty => {
                    self.wake.notified().await;
                    // What is ready to run may push more.
                    tokio::task::yield_now().await;
                    continue;
                }
                Batch::Full(stream, batch) => (stream, batch),
            };
            for mut chunk in batch {
                while chunk.has_remaining() {
                    tokio::select! {
                        writable = stream.writable() => writable?,
                        () = self.closed.cancelled() => return Ok(()),
                    }
                    match stream.try_write(&chunk) {
                        Ok(bytes) => {
                            chunk.advance(bytes);
                            if !self.count(bytes) {
                                return Ok(());
                            }
                        }
                        Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                        Err(e) => return Err(e),
                    }
                }
            }
        }
    }

    /// Ends it: what still waits is dropped. Returns how many bytes the socket was given.
    pub(super) fn close(&self) -> u64 {
        let mut queue = self.queue.lock();
        queue.stream = None;
        queue.chunks.clear();
        queue.tail = BytesMut::new();
        self.closed.cancel();
        self.wake.notify_one();
        self.room.notify_waiters();
        queue.written
    }

    fn put(
        &self,
        header: &[u8; HEADER],
        payload: &Bytes,
        company: Company,
        force: bool,
    ) -> Result<u64, Refused> {
        let mut queue = self.queue.lock();
        let Some(stream) = queue.stream.clone() else {
            return Err(Refused::Closed);
        };
        let bytes = HEADER + payload.len();
        // A frame longer than the limit must pass when nothing else waits.
        if !force && queue.waiting > 0 && queue.waiting + bytes > self.bytes_max {
            return Err(Refused::Full);
        }
        queue.tail.extend_from_slice(header);
        if payload.len() <= INLINE_BYTES_MAX {
            queue.tail.extend_from_slice(payload);
        } else {
            let before = queue.tail.split().freeze();
            queue.chunks.push_back(before);
            queue.chunks.push_back(payload.clone());
        }
        queue.waiting += bytes;
        queue.pushed += bytes as u64;
        let end = queue.pushed;
        if queue.writing {
            return Ok(end);
        }
        if company == Company::Alone && queue.chunks.is_empty() {
            match stream.try_write(&queue.tail) {
                Ok(written) => {
                    queue.tail.advance(written);
                    queue.waiting -= written;
                    queue.written += written as u64;
                    if queue.waiting == 0 {
                        queue.tail.clear();
                        return Ok(end);
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => {
                    queue.stream = None;
                    self.wake.notify_one();
                    return Err(Refused::Closed);
                }
            }
        }
        queue.writing = true;
        self.wake.notify_one();
        Ok(end)
    }

    fn take(&self) -> Batch {
        let mut queue = self.queue.lock();
        let Some(stream) = queue.stream.clone() else {
            return Batch::Closed;
        };
        queue.writing = queue.waiting > 0;
        if !queue.writing {
            return Batch::Empty;
        }
        let mut batch = std::mem::take(&mut queue.chunks);
        if !queue.tail.is_empty() {
            batch.push_back(queue.tail.split().freeze());
        }
        Batch::Full(stream, batch)
    }

    /// Notes what the socket took; false once closed.
    fn count(&self, bytes: usize) -> bool {
        let mut queue = self.queue.lock();
        queue.waiting -= bytes;
        queue.written += bytes as u64;
        if queue.waiting < self.bytes_max {
            self.room.notify_waiters();
        }
        queue.stream.is_some()
    }
}

enum Batch {
    Empty,
    Full(Arc<TcpStream>, VecDeque<Bytes>),
    Closed,
}

/// Payloads up to here are copied behind their header; longer ones go out as they are.
const INLINE_BYTES_MAX: usize = 16 * 1024;

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::poll;
    use tokio::{io::AsyncReadExt as _, net::TcpListener};

    use super::*;

    #[tokio::test]
    async fn a_frame_alone_goes_out_at_once_and_those_among_others_together() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await;
        let outbox = Outbox::new(Arc::new(stream.unwrap()), usize::MAX);
        let (mut other, _) = listener.accept().await.unwrap();
        let push = |company| outbox.push(&[7; HEADER], &Bytes::from_static(b"payload"), company);
        let frame = (HEADER + "payload".len()) as u64;
        let written = || outbox.queue.lock().written;

        let mut writer = pin!(outbox.write());
        assert!(poll!(writer.as_mut()).is_pending());

        assert_eq!(push(Company::Alone), Ok(frame));
        assert_eq!(written(), frame);

        assert_eq!(push(Company::Among), Ok(2 * frame));
        assert!(poll!(writer.as_mut()).is_pending());
        assert_eq!(written(), frame, "what is ready to run has its turn first");
        assert_eq!(push(Company::Among), Ok(3 * frame));
        // It would pass those that wait.
        assert_eq!(push(Company::Alone), Ok(4 * frame));
        assert_eq!(written(), frame);
        assert!(poll!(writer.as_mut()).is_pending());
        assert_eq!(written(), 4 * frame);

        let mut read = vec![0; 4 * frame as usize];
        other.read_exact(&mut read).await.unwrap();
        assert!(
            read.chunks(frame as usize)
                .all(|it| it == [&[7; HEADER][..], b"payload"].concat())
        );
    }
}
