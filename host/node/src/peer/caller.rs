//! The dialing side of a connection: sends requests, matches answers, knows what may have arrived.

use std::{
    collections::HashMap,
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::{
    net::TcpStream,
    sync::oneshot,
    time::{Instant, timeout_at},
};

use super::{
    CallError, Kind, Options, PeerInfo,
    frame::{self, Frame, HEADER, Type},
    outbox::{Company, Outbox, Refused},
};

/// A handshaken connection that we dialed.
pub(super) struct Caller {
    pub(super) info: PeerInfo,
    outbox: Outbox,
    pending: Mutex<Pending>,
    next: AtomicU64,
    frame_bytes_max: usize,
    since: Instant,
    /// Milliseconds after `since` at which something was read last.
    contact_ms: AtomicU64,
}

/// Calls that wait for their answers.
struct Pending {
    open: bool,
    calls: HashMap<u64, oneshot::Sender<Outcome>, foldhash::fast::RandomState>,
}

enum Outcome {
    Answered(Type, Bytes),
    /// The peer did not look at it, and will not.
    Passed,
    /// The connection is over; this many bytes had been given to the socket.
    Broken {
        written: u64,
    },
}

impl Caller {
    pub(super) fn new(info: PeerInfo, stream: Arc<TcpStream>, options: &Options) -> Self {
        Self {
            info,
            outbox: Outbox::new(stream, options.outgoing_bytes_max),
            pending: Mutex::new(Pending {
                open: true,
                calls: HashMap::default(),
            }),
            next: AtomicU64::new(1),
            frame_bytes_max: options.frame_bytes_max,
            since: Instant::now(),
            contact_ms: AtomicU64::new(0),
        }
    }

    /// Asks and waits for the answer. Dropping the future tells the peer to stop.
    pub(super) async fn call(
        &self,
        kind: Kind,
        payload: Bytes,
        deadline: Instant,
    ) -> Result<Bytes, CallError> {
        let bytes = HEADER + payload.len();
        if bytes > self.frame_bytes_max {
            let max = self.frame_bytes_max;
            let reason = format!("a frame of {bytes} bytes is longer than the {max} allowed");
            return Err(CallError::NotSent { reason });
        }
        let call = self.next.fetch_add(1, Relaxed);
        let (answer, answered) = oneshot::channel();
        let company = {
            let mut pending = self.pending.lock();
            if !pending.open {
                return Err(closed());
            }
            pending.calls.insert(call, answer);
            Company::of(pending.calls.len())
        };
        let mut waiting = Waiting {
            caller: self,
            call,
            sent: false,
            over: false,
        };
        let header = frame::header(Type::Request, call, kind, payload.len());
        let end =
            self.outbox
                .push(&header, &payload, company)
                .map_err(|refused| match refused {
                    Refused::Full => CallError::Busy,
                    Refused::Closed => closed(),
                })?;
        waiting.sent = true;
        drop(payload);
        let outcome = match timeout_at(deadline, answered).await {
            Err(_) => return Err(CallError::TimedOut { sent: true }),
            Ok(outcome) => outcome.expect("whoever takes a call out of `pending` answers it"),
        };
        waiting.over = true;
        match outcome {
            Outcome::Answered(Type::Response, payload) => Ok(payload),
            Outcome::Answered(Type::Busy, _) => Err(CallError::Busy),
            Outcome::Answered(_, reason) => Err(CallError::Remote(
                String::from_utf8_lossy(&reason).into_owned(),
            )),
            Outcome::Passed => Err(closed()),
            // The peer acts on whole frames only.
            Outcome::Broken { written } if written < end => Err(closed()),
            Outcome::Broken { .. } => Err(CallError::Lost),
        }
    }

    /// Reads and writes until the connection is over, however that comes about: also when this
    /// future is dropped, every waiting call is answered.
    pub(super) async fn run(&self, stream: Arc<TcpStream>) -> io::Result<()> {
        let _over = Over(self);
        tokio::select! {
            read = self.read(&stream) => read,
            written = self.outbox.write() => written,
        }
    }

    /// Ends the connection: [`Caller::run`] returns, waiting calls fail.
    pub(super) fn close(&self) {
        let written = self.outbox.close();
        self.end_calls(|| Outcome::Broken { written });
    }

    fn end_calls(&self, outcome: impl Fn() -> Outcome) {
        let calls = {
            let mut pending = self.pending.lock();
            pending.open = false;
            std::mem::take(&mut pending.calls)
        };
        for answer in calls.into_values() {
            // Whoever gave up in this moment needs no answer.
            let _ = answer.send(outcome());
        }
    }

    /// How long ago something was read last.
    pub(super) fn quiet_for(&self) -> Duration {
        let contact = Duration::from_millis(self.contact_ms.load(Relaxed));
        self.since.elapsed().saturating_sub(contact)
    }

    async fn read(&self, stream: &TcpStream) -> io::Result<()> {
        let mut read = BytesMut::new();
        loop {
            super::socket::fill(stream, &mut read).await?;
            self.contact_ms
                .store(self.since.elapsed().as_millis() as u64, Relaxed);
            while let Some(frame) = frame::take(&mut read, self.frame_bytes_max)
                .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?
            {
                self.answer(frame)?;
            }
        }
    }

    fn answer(&self, frame: Frame) -> io::Result<()> {
        if matches!(frame.ty, Type::Request | Type::Cancel) {
            let text = "the accepting side of a connection sent a request";
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        if frame.ty == Type::Over {
            self.end_calls(|| Outcome::Passed);
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let waiting = self.pending.lock().calls.remove(&frame.call);
        if let Some(answer) = waiting {
            // Gave up in this moment: fine.
            let _ = answer.send(Outcome::Answered(frame.ty, frame.payload));
        }
        Ok(())
    }
}

/// A call that waits; cancels it when dropped before its end.
struct Waiting<'a> {
    caller: &'a Caller,
    call: u64,
    sent: bool,
    over: bool,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        let waits = self
            .caller
            .pending
            .lock()
            .calls
            .remove(&self.call)
            .is_some();
        if waits && self.sent {
            // At most one per request, which had to find room itself.
            let header = frame::header(Type::Cancel, self.call, Kind(0), 0);
            self.caller.outbox.force(&header, &Bytes::new());
        }
    }
}

/// Ends the connection when dropped.
struct Over<'a>(&'a Caller);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.close();
    }
}

fn closed() -> CallError {
    CallError::NotSent {
        reason: "the connection closed".into(),
    }
}
