//! What is logged of floods.

use std::sync::mpsc;

use tracing_subscriber::layer::SubscriberExt as _;

use super::*;

/// Gives the lines that are logged on this thread to a channel.
struct Lines(mpsc::Sender<(Level, String)>);

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let line = (*event.metadata().level(), message_of(event));
        self.0.send(line).unwrap();
    }
}

/// Does something, and gives what it logs.
fn logged(act: impl FnOnce()) -> Vec<(Level, String)> {
    let (sender, lines) = mpsc::channel();
    let subscriber = tracing_subscriber::registry()
        .with(CallsiteLimit::default())
        .with(Lines(sender));
    tracing::subscriber::with_default(subscriber, act);
    lines.try_iter().collect()
}

/// Reports as if so much time had passed, and gives what is told of one message: other tests hold
/// back others at the same time.
fn reported(message: &str, later: Duration) -> Vec<(Level, String)> {
    let mut lines = logged(|| report_held_back(Instant::now() + later));
    lines.retain(|(_, line)| line.ends_with(message));
    lines
}

#[test]
fn the_first_passes_and_the_others_are_told_with_the_next() {
    let repeated = Repeated::new(Level::WARN, "as often as you like");
    assert_eq!(repeated.pass(), Some(0));
    for _ in 0..1000 {
        assert_eq!(repeated.pass(), None);
    }
    // As if it had been a while ago.
    repeated.0.lock().last = Instant::now().checked_sub(Repeated::PERIOD);
    assert_eq!(repeated.pass(), Some(1000));
    assert_eq!(repeated.pass(), None);
}

#[test]
fn what_was_held_back_is_told_even_if_nothing_follows() {
    let repeated = Repeated::new(Level::ERROR, "and then it was quiet");
    for _ in 0..30 {
        repeated.pass();
    }
    let told = |later| reported("and then it was quiet", later);
    assert_eq!(told(Duration::ZERO), [], "the next line may tell it");
    let lines = told(REPORT_AFTER);
    let [(Level::ERROR, line)] = &lines[..] else {
        panic!("{lines:?}");
    };
    assert!(line.starts_with("29 more in the last "), "{line}");
    assert_eq!(told(2 * REPORT_AFTER), [], "told once");
}

#[test]
fn each_key_has_its_own_count_and_the_keys_are_bounded() {
    let repeated = RepeatedBy::new(Level::WARN, "by key");
    for key in 0..KEYS_MAX {
        assert_eq!(repeated.pass(&key), Some(0));
        assert_eq!(repeated.pass(&key), None);
    }
    assert_eq!(repeated.pass(&KEYS_MAX), Some(0));
    assert_eq!(repeated.pass(&(KEYS_MAX + 1)), None, "one for all others");
    assert_eq!(repeated.by_key.lock().len(), KEYS_MAX);
}

#[test]
fn no_line_of_the_source_floods_the_log() {
    let flood = |number: u64| tracing::info!(number, "the same {}", "again");
    let lines = logged(|| {
        (0..10_000).for_each(flood);
        tracing::warn!("something else");
        for _ in 0..100 {
            tracing::debug!("asked for");
            tracing::info!(target: GUEST, "limited elsewhere");
        }
    });
    let count = |message: &str| lines.iter().filter(|(_, line)| line == message).count();
    // A slow machine takes some time for them, which lets a few more through.
    let passed = count("the same again");
    assert!((BURST as usize..1000).contains(&passed), "{passed}");
    assert_eq!(count("something else"), 1);
    assert_eq!(count("asked for"), 100);
    assert_eq!(count("limited elsewhere"), 100);
}

#[test]
fn what_a_line_of_the_source_did_not_log_is_told() {
    let limit = CallsiteLimit::default();
    let (sender, lines) = mpsc::channel();
    let subscriber = tracing_subscriber::registry()
        .with(limit)
        .with(Lines(sender));
    tracing::subscriber::with_default(subscriber, || {
        for _ in 0..5000 {
            tracing::warn!("five thousand of these");
        }
        let passed = lines.try_iter().count();
        let told = reported("five thousand of these", REPORT_AFTER);
        let expected = format!("{} more in the last ", 5000 - passed);
        assert!(
            matches!(&told[..], [(Level::WARN, line)] if line.starts_with(&expected)),
            "{expected:?}, but {told:?}"
        );
    });
}
