//! What a connection is doing, as far as others may see: the one task that looks after all connections.
//!
//! hyper has timers for that, which it makes anew for each request; here the connection writes down what it
//! does, into memory of its own, and one sweep over all connections looks whether anything has happened.

use std::{
    future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::sync::Notify;

use crate::admin::SlowBody;

/// Of one connection. It serves one request at a time.
#[derive(Debug, Default)]
pub(super) struct State {
    phase: AtomicU8,
    /// Requests whose head has been read.
    begun: AtomicU64,
    read: AtomicU64,
    /// How much had been read when the present wait for a request began.
    head_from: AtomicU64,
    written: AtomicU64,
    /// Whether the client has to read before more can be written.
    blocked: AtomicBool,
    /// Whether the present request has bytes that nobody has read.
    unread: AtomicBool,
    /// Whether it has brought a request that may be answered.
    admitted: AtomicBool,
    ended: AtomicBool,
    verdict: AtomicU8,
    first: Notify,
    connection: AtomicWaker,
    body: AtomicWaker,
}

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Waits for a request, or for the rest of its head.
    Waiting,
    /// Answers, or is to be answered by a handler.
    Answering,
    /// Waits for more of the body.
    Reading,
    /// Has answered for the last time, and lets the client read that.
    Lingering,
}

/// Why a connection has to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It had no request for too long.
    Idle,
    /// The head of a request comes too slowly.
    SlowHead,
    /// The body of a request comes too slowly.
    SlowBody,
    /// The client does not read its answer.
    SlowReader,
    /// Others need its place.
    NoPlace,
    /// There is no memory for its unfinished head.
    NoMemory,
}

impl Verdict {
    /// All of them.
    pub(super) const ALL: [Self; 6] = [
        Self::Idle,
        Self::SlowHead,
        Self::SlowBody,
        Self::SlowReader,
        Self::NoPlace,
        Self::NoMemory,
    ];
}

/// What a connection was doing when it was looked at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Snapshot {
    pub(super) phase: Phase,
    pub(super) begun: u64,
    pub(super) read: u64,
    pub(super) written: u64,
    pub(super) blocked: bool,
    /// A part of a head has come, and not all of it.
    pub(super) in_head: bool,
}

impl State {
    pub(super) fn look(&self) -> Snapshot {
        let phase = self.phase();
        let read = self.read.load(Relaxed);
        Snapshot {
            phase,
            begun: self.begun.load(Relaxed),
            read,
            written: self.written.load(Relaxed),
            blocked: self.blocked.load(Relaxed),
            in_head: phase == Phase::Waiting && read > self.head_from.load(Relaxed),
        }
    }

    pub(super) fn phase(&self) -> Phase {
        match self.phase.load(Relaxed) {
            0 => Phase::Waiting,
            1 => Phase::Answering,
            2 => Phase::Reading,
            _ => Phase::Lingering,
        }
    }

    fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Relaxed);
    }

    /// Requests whose head has been read.
    pub(super) fn begun(&self) -> u64 {
        self.begun.load(Relaxed)
    }

    /// Bytes of a head that is not whole yet.
    pub(super) fn head(&self) -> u64 {
        self.read.load(Relaxed) - self.head_from.load(Relaxed)
    }

    /// Whether the present request's body was not read to its end.
    pub(super) fn is_unread(&self) -> bool {
        self.unread.load(Relaxed)
    }

    pub(super) fn is_admitted(&self) -> bool {
        self.admitted.load(Relaxed)
    }

    /// It has brought a request that may be answered.
    pub(super) fn admit(&self) {
        if !self.is_admitted() {
            self.admitted.store(true, Relaxed);
        }
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended.load(Relaxed)
    }

    /// Its socket is closed.
    pub(super) fn end(&self) {
        self.ended.store(true, Relaxed);
    }

    /// It has answered for the last time.
    pub(super) fn linger(&self) {
        self.enter(Phase::Lingering);
    }

    // Only the connection's own task counts, so that no addition has to be one step.
    pub(super) fn count_read(&self, bytes: usize) {
        let read = self.read.load(Relaxed) + bytes as u64;
        self.read.store(read, Relaxed);
    }

    pub(super) fn count_written(&self, bytes: usize) {
        let written = self.written.load(Relaxed) + bytes as u64;
        self.written.store(written, Relaxed);
    }

    /// Whether more can be written only when the client has read.
    pub(super) fn set_blocked(&self, blocked: bool) {
        if self.blocked.load(Relaxed) != blocked {
            self.blocked.store(blocked, Relaxed);
        }
    }

    /// Ends the connection, or the request whose body does not come. The first word stands, but that
    /// others need the place is said last.
    pub(super) fn condemn(&self, verdict: Verdict) {
        let decided = self.verdict.load(Relaxed);
        if decided == 0 || verdict == Verdict::NoPlace {
            self.verdict.store(verdict as u8 + 1, Relaxed);
        }
        self.connection.wake();
        self.body.wake();
    }

    pub(super) fn verdict(&self) -> Option<Verdict> {
        Some(match self.verdict.load(Relaxed) {
            0 => return None,
            1 => Verdict::Idle,
            2 => Verdict::SlowHead,
            3 => Verdict::SlowBody,
            4 => Verdict::SlowReader,
            5 => Verdict::NoPlace,
            _ => Verdict::NoMemory,
        })
    }

    /// Waits until the connection has to end. That of a body is told to whoever reads the body.
    pub(super) async fn condemned(&self) -> Verdict {
        future::poll_fn(|cx| {
            self.connection.register(cx.waker());
            match self.verdict() {
                None | Some(Verdict::SlowBody) => Poll::Pending,
                Some(verdict) => Poll::Ready(verdict),
            }
        })
        .await
    }

    /// Waits until others need its place.
    pub(super) async fn evicted(&self) {
        future::poll_fn(|cx| {
            self.connection.register(cx.waker());
            match self.verdict() {
                Some(Verdict::NoPlace) => Poll::Ready(()),
                _ => Poll::Pending,
            }
        })
        .await;
    }

    /// Waits for the first request.
    pub(super) async fn first(&self) {
        if self.begun() == 0 {
            self.first.notified().await;
        }
    }
}

/// A request that is being answered, until this is dropped.
pub(super) struct Answering(Arc<State>);

impl Answering {
    /// A request has come.
    pub(super) fn begin(state: &Arc<State>) -> Self {
        let begun = state.begun();
        state.begun.store(begun + 1, Relaxed);
        state.enter(Phase::Answering);
        if begun == 0 {
            state.first.notify_one();
        }
        Self(Arc::clone(state))
    }

    pub(super) fn state(&self) -> &Arc<State> {
        &self.0
    }

    /// The request's body, watched from now on.
    ///
    /// An answer may come before its end: what is refused by its head is not worth reading. The bytes of
    /// the body are still on the way then, so the connection serves no other request, and the answer
    /// has to say so: a client that reuses it would have its next request taken for the rest of this.
    pub(super) fn watch(&self, body: Incoming) -> Watched {
        self.0.unread.store(!body.is_end_stream(), Relaxed);
        Watched {
            body,
            state: Arc::clone(&self.0),
        }
    }

    /// The answer, which ends this when it is written.
    pub(super) fn with<B>(self, body: B) -> Answer<B> {
        Answer {
            body,
            _answering: self,
        }
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        let state = &self.0;
        state.head_from.store(state.read.load(Relaxed), Relaxed);
        state.enter(Phase::Waiting);
    }
}

/// The body of a request.
pub(super) struct Watched {
    body: Incoming,
    state: Arc<State>,
}

impl Body for Watched {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        let state = &self.state;
        if polled.is_pending() {
            state.body.register(cx.waker());
            if state.verdict() == Some(Verdict::SlowBody) {
                return Poll::Ready(Some(Err(SlowBody.into())));
            }
            // A body that nobody has to wait for any more is none that is waited for.
            if state.phase() == Phase::Answering {
                state.enter(Phase::Reading);
            }
            return Poll::Pending;
        }
        if state.phase() == Phase::Reading {
            state.enter(Phase::Answering);
        }
        let frame = ready!(polled);
        if frame.is_none() || self.body.is_end_stream() {
            self.state.unread.store(false, Relaxed);
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The body of an answer.
pub(super) struct Answer<B> {
    body: B,
    _answering: Answering,
}

impl<B: Body<Data = Bytes> + Unpin> Body for Answer<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
