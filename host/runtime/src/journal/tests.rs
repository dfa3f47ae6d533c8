use std::time::Duration;

use super::*;

#[derive(Default)]
struct Seen(Mutex<Vec<(Source, Level, String)>>);

impl GuestLogSink for Seen {
    fn log(&self, entry: &GuestLog<'_>) {
        assert_eq!((entry.module.as_str(), entry.resource.as_str()), ("m", "r"));
        let entry = (entry.source, entry.level, entry.message.to_owned());
        self.0.lock().push(entry);
    }
}

fn journal() -> (Journal, Arc<Seen>) {
    let seen = Arc::new(Seen::default());
    let journal = Journal::new("m".parse().unwrap(), "r".parse().unwrap(), seen.clone());
    (journal, seen)
}

#[test]
fn lines_are_logged_when_they_are_complete() {
    let (journal, seen) = journal();
    journal.write(Source::Stdout, b"a");
    journal.write(Source::Stderr, b"x\ny");
    journal.write(Source::Stdout, b"b\n\nc");
    let at = |n: usize| seen.0.lock()[n].clone();
    assert_eq!(at(0), (Source::Stderr, Level::Warn, "x".to_owned()));
    assert_eq!(at(1), (Source::Stdout, Level::Info, "ab".to_owned()));
    assert_eq!(seen.0.lock().len(), 2);
    journal.flush();
    assert_eq!(at(2), (Source::Stdout, Level::Info, "c".to_owned()));
    assert_eq!(journal.tail(), ["x", "y"]);
}

#[test]
fn a_line_without_end_takes_bounded_memory() {
    let (journal, seen) = journal();
    for _ in 0..100 {
        journal.write(Source::Stdout, &[b'a'; 1000]);
    }
    assert!(journal.lines.lock().stdout.len() <= LINE_BYTES_MAX);
    assert!(
        seen.0
            .lock()
            .iter()
            .all(|(_, _, line)| line.len() <= LINE_BYTES_MAX)
    );
    journal.flush();
    let total: usize = seen.0.lock().iter().map(|(_, _, line)| line.len()).sum();
    assert_eq!(total, 100_000);
}

#[test]
fn a_flood_is_cut_and_said_to_be_cut() {
    let (journal, seen) = journal();
    let burst = BURST as usize;
    for _ in 0..burst + 2_000 {
        journal.log(Level::Info, "", "x");
    }
    let said = seen.0.lock().len();
    assert!((burst..burst + 1_000).contains(&said), "{said}");
    // As if a second had passed.
    let mut lines = journal.lines.lock();
    lines.allowance.entries = PER_SECOND;
    lines.allowance.told -= TOLD_EVERY;
    drop(lines);
    journal.begin_call();
    let last = |n: usize| seen.0.lock().iter().rev().nth(n).unwrap().2.clone();
    let (left_out, rest) = last(0)
        .split_once(' ')
        .map(|(n, rest)| (n.to_owned(), rest.to_owned()))
        .unwrap();
    assert_eq!(rest, "messages were left out: there were too many");
    assert!(left_out.parse::<usize>().unwrap() > 0);
    journal.log(Level::Info, "", "y");
    assert_eq!(last(0), "y");
}

#[test]
fn what_may_be_said_grows_with_time_up_to_a_burst() {
    let mut allowance = Allowance::default();
    let start = allowance.since;
    let taken = |allowance: &mut Allowance, at| (0..5_000).filter(|_| allowance.take(at)).count();
    assert_eq!(taken(&mut allowance, start), BURST as usize);
    let second = start + Duration::from_secs(1);
    assert_eq!(taken(&mut allowance, second), PER_SECOND as usize);
    let day = start + Duration::from_secs(86_400);
    assert_eq!(taken(&mut allowance, day), BURST as usize);
}

#[test]
fn long_messages_are_cut_between_characters() {
    let (journal, seen) = journal();
    journal.log(Level::Info, "", &"日".repeat(LINE_BYTES_MAX));
    assert_eq!(seen.0.lock()[0].2.len(), LINE_BYTES_MAX / 3 * 3);
}

#[test]
fn the_last_words_are_those_on_stderr_and_critical_ones() {
    let (journal, _) = journal();
    journal.log(Level::Critical, "", "panicked at a.rs:1:2:\nboom");
    journal.log(Level::Error, "", "not this");
    journal.write(Source::Stderr, b"aborting\n");
    assert_eq!(
        journal.tail(),
        ["panicked at a.rs:1:2:", "boom", "aborting"]
    );
    journal.begin_call();
    assert!(journal.tail().is_empty());
}

#[test]
fn the_last_words_are_kept_to_the_end_in_bounded_memory() {
    let (journal, _) = journal();
    for n in 0..100 {
        journal.write(
            Source::Stderr,
            format!("  File \"app.py\", line {n}\n").as_bytes(),
        );
    }
    assert_eq!(journal.tail().len(), 100);
    for n in 0..10_000 {
        journal.log(Level::Critical, "", &format!("line {n}\n"));
        journal.write(Source::Stderr, b"\n");
    }
    let tail = journal.tail();
    let bytes: usize = tail.iter().map(|line| line.len() + LINE_COST).sum();
    assert!(bytes <= TAIL_BYTES_MAX, "{bytes}");
    assert_eq!(tail[tail.len() - 2..], ["line 9999", ""]);
    journal.write(Source::Stderr, &[b'x'; 3 * LINE_BYTES_MAX]);
    journal.flush();
    assert_eq!(journal.tail().len(), 1);
    journal.begin_call();
    assert_eq!(
        (journal.tail().len(), journal.lines.lock().tail_bytes),
        (0, 0)
    );
}
