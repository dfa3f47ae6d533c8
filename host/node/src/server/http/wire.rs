//! The socket under a connection: counts what passes, bounds unfinished heads, and keeps back the bare answers
//! that the parser gives by itself.
//!
//! hyper answers what it cannot parse with a status and nothing else. Whatever it writes while no request is
//! being answered, and after the last answer was written out, is such an answer: it is not sent, and
//! [`Wire::refused`] says why, so that a problem is sent in its place.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use super::state::{Phase, State, Verdict};
use crate::admin::{ByteBudget, Reservation, TurnedAway};

pub(super) struct Wire {
    stream: TcpStream,
    state: Arc<State>,
    budget: ByteBudget,
    /// For a head that is long and not whole yet.
    head: Option<Reservation>,
    /// How many requests had begun when the last answer was written out.
    flushed: u64,
    refused: Option<TurnedAway>,
}

impl Wire {
    pub(super) fn new(stream: TcpStream, state: Arc<State>, budget: ByteBudget) -> Self {
        Self {
            stream,
            state,
            budget,
            head: None,
            flushed: 0,
            refused: None,
        }
    }

    /// Why the parser would have refused what has come, if it would.
    pub(super) fn refused(&self) -> Option<TurnedAway> {
        self.refused
    }

    pub(super) fn into_stream(self) -> TcpStream {
        self.stream
    }

    /// Whether what is written now is the parser's.
    fn is_parsers(&self) -> bool {
        self.flushed == self.state.begun() && self.state.phase() == Phase::Waiting
    }

    fn keep_back(&mut self, answer: &[u8]) {
        let status = answer.strip_prefix(b"HTTP/1.1 ");
        self.refused = self
            .refused
            .or(match status.and_then(|rest| rest.get(..3)) {
                Some(b"414") => Some(TurnedAway::TargetTooLong),
                Some(b"431") => Some(TurnedAway::HeadTooLong),
                _ => Some(TurnedAway::Malformed),
            });
    }

    /// Takes from the budget for a head that grows; gives back what a whole one took.
    fn account(&mut self) -> Result<(), ()> {
        if self.state.phase() != Phase::Waiting {
            self.head = None;
            return Ok(());
        }
        let bytes = self.state.head();
        if bytes <= ByteBudget::FREE {
            return Ok(());
        }
        let budget = &self.budget;
        let head = self.head.get_or_insert_with(|| budget.reserve(None));
        head.grow(bytes).map_err(drop)
    }

    fn wrote(&mut self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        self.state.set_blocked(written.is_pending());
        if let Poll::Ready(Ok(bytes)) = &written {
            self.state.count_written(*bytes);
        }
        written
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        self.state.count_read(buffer.filled().len() - before);
        match self.account() {
            Ok(()) => Poll::Ready(Ok(())),
            Err(()) => {
                self.state.condemn(Verdict::NoMemory);
                Poll::Pending
            }
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.is_parsers() {
            self.keep_back(bytes);
            return Poll::Ready(Ok(bytes.len()));
        }
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.wrote(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // It is called when nothing is left to be written.
        if self.state.phase() == Phase::Waiting {
            self.flushed = self.state.begun();
        }
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.is_parsers() {
            let first = pieces.iter().find(|piece| !piece.is_empty());
            self.keep_back(first.map_or(&[], |piece| piece));
            return Poll::Ready(Ok(pieces.iter().map(|piece| piece.len()).sum()));
        }
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, pieces);
        self.wrote(written)
    }
}
