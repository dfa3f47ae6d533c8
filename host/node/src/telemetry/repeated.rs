//! Limits messages that repeat themselves: the first is logged, those that follow are counted, and
//! the count is logged.
//!
//! Two users of the same count:
//! - [`Repeated`], for one message that others can cause as often as they like: one line each
//!   [`Repeated::PERIOD`].
//! - [`CallsiteLimit`], for all the rest: whatever line of the source logs, at [`BURST`] lines at
//!   once and [`PER_SECOND`] on average it is counted instead.
//!
//! Invariant: no count is lost. What was held back is told by the next line that passes or, when
//! none comes, by [`report_held_back`], which the log's own thread calls.
//!
//! Not limited here: what handlers write, which has limits of its own; lines below INFO, which somebody
//! asked for.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, LazyLock, Weak, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tracing::{
    Event, Level, Subscriber,
    callsite::Identifier,
    debug, error,
    field::{Field, Visit},
    info, trace, warn,
};
use tracing_subscriber::{Layer, layer::Context};

use super::ENDING;

/// Limits one message to one line per [`Repeated::PERIOD`].
pub(crate) struct Repeated(Arc<Mutex<HeldBack>>);

/// Limits a message for each key: a module, a node, an address.
pub(crate) struct RepeatedBy<K> {
    level: Level,
    message: &'static str,
    by_key: Mutex<HashMap<K, Repeated>>,
    /// For keys beyond [`KEYS_MAX`], together.
    others: Repeated,
}

/// Limits what each line of the source may log.
#[derive(Default)]
pub(super) struct CallsiteLimit(Mutex<HashMap<Identifier, Callsite>>);

/// Lines of one message that were not logged.
struct HeldBack {
    level: Level,
    message: String,
    lines: u64,
    /// When the last line was logged.
    last: Option<Instant>,
    /// [`report_held_back`] looks at it.
    watched: bool,
}

struct Callsite {
    lines_left: f64,
    since: Instant,
    held_back: Arc<Mutex<HeldBack>>,
}

impl Repeated {
    /// Time between two lines.
    pub(crate) const PERIOD: Duration = Duration::from_secs(5);

    /// For a message that is logged at `level`.
    pub(crate) fn new(level: Level, message: &'static str) -> Self {
        Self(Arc::new(Mutex::new(HeldBack::new(
            level,
            message.to_owned(),
        ))))
    }

    /// Whether to log the message now, and if so how often it was held back since it was told last.
    pub(crate) fn pass(&self) -> Option<u64> {
        let mut held_back = self.0.lock();
        let now = Instant::now();
        if held_back.is_quiet_for(Self::PERIOD, now) {
            held_back.last = Some(now);
            return Some(std::mem::take(&mut held_back.lines));
        }
        held_back.lines += 1;
        watch(&self.0, &mut held_back);
        None
    }
}

impl<K: std::hash::Hash + Eq + Clone> RepeatedBy<K> {
    /// For a message that is logged at `level`.
    pub(crate) fn new(level: Level, message: &'static str) -> Self {
        Self {
            level,
            message,
            by_key: Mutex::default(),
            others: Repeated::new(level, message),
        }
    }

    /// See [`Repeated::pass`].
    pub(crate) fn pass(&self, key: &K) -> Option<u64> {
        let mut by_key = self.by_key.lock();
        if let Some(known) = by_key.get(key) {
            return known.pass();
        }
        if by_key.len() >= KEYS_MAX {
            let now = Instant::now();
            by_key.retain(|_, known| {
                let held_back = known.0.lock();
                held_back.lines > 0 || !held_back.is_quiet_for(Repeated::PERIOD, now)
            });
        }
        if by_key.len() >= KEYS_MAX {
            return self.others.pass();
        }
        let new = Repeated::new(self.level, self.message);
        by_key.entry(key.clone()).or_insert(new).pass()
    }
}

impl<S: Subscriber> Layer<S> for CallsiteLimit {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        let metadata = event.metadata();
        let is_loud = *metadata.level() <= Level::WARN;
        if is_loud && metadata.target().starts_with(CONSENSUS) && ENDING.load(Relaxed) {
            return false;
        }
        let exempt = matches!(metadata.target(), GUEST | REPORTS);
        // Levels are ordered by how much they say: those above INFO are debug and trace.
        exempt || *metadata.level() > Level::INFO || self.pass(event, Instant::now())
    }
}

impl CallsiteLimit {
    fn pass(&self, event: &Event<'_>, now: Instant) -> bool {
        let mut callsites = self.0.lock();
        // Bounded: there are as many as lines of the source that log.
        let callsite = callsites.entry(event.metadata().callsite());
        let callsite = callsite.or_insert_with(|| Callsite {
            lines_left: BURST,
            since: now,
            held_back: Arc::new(Mutex::new(HeldBack::new(
                *event.metadata().level(),
                String::new(),
            ))),
        });
        let passed = now.saturating_duration_since(callsite.since);
        callsite.since = now;
        let lines_left = callsite.lines_left + passed.as_secs_f64() * PER_SECOND;
        callsite.lines_left = lines_left.min(BURST);
        if callsite.lines_left >= 1.0 {
            callsite.lines_left -= 1.0;
            return true;
        }
        let mut held_back = callsite.held_back.lock();
        if held_back.lines == 0 {
            held_back.message = message_of(event);
            held_back.last = Some(now);
        }
        held_back.lines += 1;
        watch(&callsite.held_back, &mut held_back);
        false
    }
}

impl HeldBack {
    fn new(level: Level, message: String) -> Self {
        Self {
            level,
            message,
            lines: 0,
            last: None,
            watched: false,
        }
    }

    fn is_quiet_for(&self, time: Duration, now: Instant) -> bool {
        self.last
            .is_none_or(|last| now.saturating_duration_since(last) >= time)
    }
}

/// Sees to it that [`report_held_back`] looks at it.
fn watch(held_back: &Arc<Mutex<HeldBack>>, locked: &mut HeldBack) {
    if !locked.watched {
        locked.watched = true;
        WATCHED.lock().push(Arc::downgrade(held_back));
    }
}

/// Logs the counts of messages that were held back and that no later line has told.
pub(super) fn report_held_back(now: Instant) {
    let watched = std::mem::take(&mut *WATCHED.lock());
    let (mut later, mut due) = (Vec::new(), Vec::new());
    for weak in watched {
        let Some(held_back) = weak.upgrade() else {
            continue;
        };
        let mut held_back = held_back.lock();
        if held_back.lines == 0 {
            held_back.watched = false;
        } else if held_back.is_quiet_for(REPORT_AFTER, now) {
            let lines = std::mem::take(&mut held_back.lines);
            let last = held_back.last.replace(now);
            let time = last.map_or(Duration::ZERO, |last| now.saturating_duration_since(last));
            due.push((held_back.level, lines, time, held_back.message.clone()));
            held_back.watched = false;
        } else {
            later.push(weak);
        }
    }
    WATCHED.lock().append(&mut later);
    for (level, lines, time, message) in due {
        report(level, lines, time.as_secs(), &message);
    }
}

fn report(level: Level, lines: u64, seconds: u64, message: &str) {
    macro_rules! log {
        ($level:ident) => {
            $level!(target: REPORTS, "{lines} more in the last {seconds} s: {message}")
        };
    }
    match level {
        Level::ERROR => log!(error),
        Level::WARN => log!(warn),
        Level::INFO => log!(info),
        Level::DEBUG => log!(debug),
        Level::TRACE => log!(trace),
    }
}

fn message_of(event: &Event<'_>) -> String {
    struct Message(String);
    impl Visit for Message {
        fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
            if field.name() == "message" {
                self.0 = format!("{value:?}");
            }
        }
    }
    let mut message = Message(String::new());
    event.record(&mut message);
    let Message(mut text) = message;
    text.truncate(text.floor_char_boundary(MESSAGE_BYTES_MAX));
    text
}

/// What [`report_held_back`] is to look at.
static WATCHED: LazyLock<Mutex<Vec<Weak<Mutex<HeldBack>>>>> = LazyLock::new(Mutex::default);

/// The target of the consensus library, with what follows it.
const CONSENSUS: &str = "openraft";

/// The target of what handlers write, see [`holdfast_runtime::TracingSink`].
const GUEST: &str = "guest";

/// The target of the counts.
const REPORTS: &str = module_path!();

/// What one line of the source may log at once, and a second on average. More than a person reads;
/// less than what pushes everything else out of sight.
const BURST: f64 = 50.0;
const PER_SECOND: f64 = 5.0;

/// A message that goes on tells its count with its next line, which says more.
const REPORT_AFTER: Duration = Repeated::PERIOD.saturating_add(Duration::from_secs(1));

const KEYS_MAX: usize = 256;
const MESSAGE_BYTES_MAX: usize = 200;

#[cfg(test)]
mod tests;
