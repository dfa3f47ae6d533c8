//! A log that is read, that nobody reads, and that cannot be written.

use std::sync::mpsc;

use super::*;

/// Passes each write on to whoever reads; the write waits for that.
struct Pipe(mpsc::SyncSender<Vec<u8>>);

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.0.send(bytes.to_vec()) {
            Ok(()) => Ok(bytes.len()),
            Err(_) => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn pipe() -> (LogWriter, mpsc::Receiver<Vec<u8>>) {
    let (sender, reader) = mpsc::sync_channel(0);
    let escape = Escape {
        json: false,
        ansi: false,
    };
    (LogWriter::to(Pipe(sender), escape).unwrap(), reader)
}

#[test]
fn what_was_logged_is_written_in_order_by_a_flush() {
    let (writer, reader) = pipe();
    let reads = thread::spawn(move || reader.into_iter().flatten().collect::<Vec<u8>>());
    let mut expected = Vec::new();
    for number in 0..10_000 {
        let line = format!("line {number}\n");
        writer.take(&line);
        expected.extend_from_slice(line.as_bytes());
    }
    writer.flush();
    let waiting = writer.0.waiting.lock();
    assert_eq!(
        (waiting.done, waiting.taken),
        (expected.len() as u64, expected.len() as u64)
    );
    drop(waiting);
    assert_eq!(writer.dropped(), 0);
    drop(reads);
}

#[test]
fn whoever_logs_never_waits_and_what_does_not_fit_is_counted() {
    let (writer, reader) = pipe();
    let line = format!("{}\n", "x".repeat(1023));
    let lines = 2 * BUFFER_BYTES_MAX / line.len();
    for _ in 0..lines {
        writer.take(&line);
    }
    // Nobody reads: it gives up.
    writer.flush();
    let dropped = writer.dropped();
    // The thread may have taken a full buffer out before.
    assert!((1..=lines as u64 / 2).contains(&dropped), "{dropped}");
    let reads = thread::spawn(move || reader.into_iter().map(|bytes| bytes.len()).sum::<usize>());
    writer.flush();
    let waiting = writer.0.waiting.lock();
    assert_eq!(waiting.done, (lines as u64 - dropped) * line.len() as u64);
    drop(reads);
}

#[test]
fn a_log_that_cannot_be_written_loses_its_lines_and_nothing_else() {
    let (writer, reader) = pipe();
    drop(reader);
    for _ in 0..100 {
        writer.take("lost\n");
        writer.flush();
    }
    assert_eq!(writer.0.waiting.lock().done, 500);
}

#[test]
fn pieces_are_whole_lines_that_a_pipe_takes_at_once() {
    let long = [b"x".repeat(PIECE_BYTES), b"\n".to_vec()].concat();
    let short = b"short\n".to_vec();
    let many = short.repeat(PIECE_BYTES);
    for (lines, expected) in [
        (short.clone(), short.len()),
        ([short.clone(), long.clone()].concat(), short.len()),
        ([long.clone(), short.clone()].concat(), long.len()),
        (many, PIECE_BYTES / short.len() * short.len()),
        (b"no end".to_vec(), 6),
    ] {
        assert_eq!(piece_of(&lines), expected);
    }
}
