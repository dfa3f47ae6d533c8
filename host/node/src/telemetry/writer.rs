//! Writes log lines to standard error, from a thread of its own.
//!
//! Invariant: whoever logs never waits for whoever reads the log. Lines wait in a buffer of
//! [`BUFFER_BYTES_MAX`]; what does not fit is dropped, counted, and the count is logged once there
//! is room. An error of standard error (a full disk, a closed pipe) loses the lines that it hits and
//! nothing else.

use std::{
    fs::File,
    io::{self, Write},
    os::fd::AsFd as _,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};
use tracing::warn;
use tracing_subscriber::fmt::MakeWriter;

use super::{escape::Escape, repeated};

/// Takes lines for the thread that writes them. Clones share it.
#[derive(Clone)]
pub(super) struct LogWriter(Arc<Shared>);

struct Shared {
    escape: Escape,
    waiting: Mutex<Waiting>,
    /// There is something to write.
    filled: Condvar,
    /// Something was written, or given up.
    written: Condvar,
    /// Lines that were dropped so far.
    dropped: AtomicU64,
}

#[derive(Default)]
struct Waiting {
    /// Whole lines.
    lines: Vec<u8>,
    /// Bytes that were taken so far.
    taken: u64,
    /// Bytes of them that are no longer in memory: written, or failed.
    done: u64,
}

/// One event on its way to the buffer.
pub(super) struct Line<'a>(&'a Shared);

impl LogWriter {
    /// Starts the thread that writes to standard error.
    pub(super) fn to_stderr(escape: Escape) -> io::Result<Self> {
        // Not through `std::io::stderr`, whose lock others may hold for as long as a write takes.
        let stderr = File::from(io::stderr().as_fd().try_clone_to_owned()?);
        Self::to(stderr, escape)
    }

    fn to(out: impl Write + Send + 'static, escape: Escape) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            escape,
            waiting: Mutex::default(),
            filled: Condvar::new(),
            written: Condvar::new(),
            dropped: AtomicU64::new(0),
        });
        let thread = Writing {
            shared: shared.clone(),
            out,
            told: 0,
            told_at: None,
            looked_at: Instant::now(),
        };
        // Not joined: it may be stuck in a write, and ends with the process. `flush` waits for it.
        thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || thread.run())?;
        Ok(Self(shared))
    }

    /// Takes a text as it is.
    pub(super) fn take(&self, text: &str) {
        self.0.take(text.as_bytes());
    }

    /// Lines that were dropped so far, for nobody read the log.
    pub(super) fn dropped(&self) -> u64 {
        self.0.dropped.load(Relaxed)
    }

    /// Waits until everything that was logged before is written; not for long when nobody reads it.
    pub(super) fn flush(&self) {
        let mut waiting = self.0.waiting.lock();
        let until = waiting.taken;
        let deadline = Instant::now() + FLUSH_MAX;
        while waiting.done < until {
            let before = waiting.done;
            let soon = deadline.min(Instant::now() + FLUSH_STALLED);
            let timed_out = self.0.written.wait_until(&mut waiting, soon).timed_out();
            // A reader that is slow is waited for; one that does not read is not.
            if timed_out && waiting.done == before {
                return;
            }
        }
    }
}

impl<'a> MakeWriter<'a> for LogWriter {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Self::Writer {
        Line(&self.0)
    }
}

impl Shared {
    fn take(&self, lines: &[u8]) {
        let mut waiting = self.waiting.lock();
        if waiting.lines.len() + lines.len() > BUFFER_BYTES_MAX {
            self.dropped.fetch_add(1, Relaxed);
            return;
        }
        waiting.lines.extend_from_slice(lines);
        waiting.taken += lines.len() as u64;
        drop(waiting);
        self.filled.notify_one();
    }
}

impl Write for Line<'_> {
    /// Takes an event, which comes as one piece.
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        self.0.take(&self.0.escape.line(event));
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The thread that writes.
struct Writing<W> {
    shared: Arc<Shared>,
    out: W,
    /// How many dropped lines were told, and when.
    told: u64,
    told_at: Option<Instant>,
    /// When messages that were held back were last looked at.
    looked_at: Instant,
}

impl<W: Write> Writing<W> {
    fn run(mut self) {
        let mut lines = Vec::new();
        loop {
            let mut waiting = self.shared.waiting.lock();
            if waiting.lines.is_empty() {
                // Woken by a line, or to look at what was held back.
                self.shared.filled.wait_for(&mut waiting, LOOK_AGAIN);
            }
            std::mem::swap(&mut lines, &mut waiting.lines);
            drop(waiting);
            // While there is room for it: whoever logs much may fill it again during the write.
            self.tell_dropped();
            self.write(&lines);
            lines.clear();
            lines.shrink_to(KEPT_BYTES_MAX);
            if self.looked_at.elapsed() >= LOOK_AGAIN {
                self.looked_at = Instant::now();
                repeated::report_held_back(self.looked_at);
            }
        }
    }

    /// Writes whole lines, as many at a time as a pipe takes without mixing them with what others
    /// write to it.
    fn write(&mut self, mut lines: &[u8]) {
        while !lines.is_empty() {
            let (piece, rest) = lines.split_at(piece_of(lines));
            self.write_piece(piece);
            lines = rest;
            self.shared.waiting.lock().done += piece.len() as u64;
            self.shared.written.notify_all();
        }
    }

    fn write_piece(&mut self, mut piece: &[u8]) {
        while !piece.is_empty() {
            match self.out.write(piece) {
                Ok(0) => return,
                Ok(written) => piece = &piece[written..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Somebody who shares it made it so that it does not wait.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    thread::sleep(WOULD_BLOCK);
                }
                // There is nowhere to say so.
                Err(_) => return,
            }
        }
    }

    fn tell_dropped(&mut self) {
        let dropped = self.shared.dropped.load(Relaxed);
        let recently = |at: Instant| at.elapsed() < TELL_DROPPED_EVERY;
        if dropped == self.told || self.told_at.is_some_and(recently) {
            return;
        }
        warn!(
            lines = dropped - self.told,
            lines.total = dropped,
            "log lines dropped: standard error was not read fast enough"
        );
        self.told = dropped;
        self.told_at = Some(Instant::now());
    }
}

/// How many bytes to write at once: as many whole lines as fit [`PIECE_BYTES`], or one that is longer.
fn piece_of(lines: &[u8]) -> usize {
    let is_end = |byte: &u8| *byte == b'\n';
    let fitting = &lines[..lines.len().min(PIECE_BYTES)];
    let fitting = fitting.iter().rposition(is_end);
    let end = fitting.or_else(|| lines.iter().position(is_end));
    end.map_or(lines.len(), |end| end + 1)
}

/// Lines that wait to be written: some ten thousand. Smaller, and a burst loses lines; larger, and a
/// log that nobody reads costs memory for nothing.
const BUFFER_BYTES_MAX: usize = 2 << 20;

/// What stays allocated between two writes.
const KEPT_BYTES_MAX: usize = 64 << 10;

/// `PIPE_BUF` of pipe(7): what is written to a pipe in one piece.
const PIECE_BYTES: usize = 4096;

/// How often the thread looks at what was held back.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

const TELL_DROPPED_EVERY: Duration = Duration::from_secs(1);

/// How long to wait for a reader of the log that takes nothing, and for one that is slow.
const FLUSH_STALLED: Duration = Duration::from_millis(500);
const FLUSH_MAX: Duration = Duration::from_secs(5);

const WOULD_BLOCK: Duration = Duration::from_millis(10);

#[cfg(test)]
mod tests;
