//! Why a call, or the start of an instance, did not succeed.

use std::{sync::Arc, time::Duration};

use holdfast_model::{
    ModuleName,
    call::{self, Refusal},
};
use wasmtime::{Trap, WasmBacktrace};
use wasmtime_wasi::I32Exit;

use crate::state::State;

/// How a call ended without an answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The guest trapped: a panic, a bug or a forbidden wait. The instance is dead.
    #[error("the handler trapped in `{function}`: {message}")]
    Trapped {
        /// The innermost function of the handler's own, or `unknown`.
        function: Arc<str>,
        /// What the panic or the trap said.
        message: Arc<str>,
        /// One frame per line, the innermost first; empty when unknown.
        backtrace: Arc<str>,
    },
    /// The call did not end in time. The instance is dead.
    #[error("the handler did not finish within {} ms", .0.as_millis())]
    TimedOut(Duration),
    /// The guest needed more memory than its limit and trapped. The instance is dead.
    #[error("the handler trapped in `{function}`: {}", out_of_memory(*.asked, *.limit))]
    OutOfMemory {
        /// The innermost function of the handler's own, or `unknown`.
        function: Arc<str>,
        /// The limit in bytes.
        limit: u64,
        /// What it would have had in all, in bytes.
        asked: u64,
    },
    /// The guest needed memory, and all guests of the node together have what they may have. It trapped.
    /// The instance is dead.
    #[error(
        "the handler was given no more memory in `{function}`: the guests of this node have all of the \
         {max} bytes that they may have together (--guest-memory-bytes-max); add nodes, or give it more"
    )]
    NodeOutOfMemory {
        /// The innermost function of the handler's own, or `unknown`.
        function: Arc<str>,
        /// What all guests of the node may have, in bytes.
        max: u64,
    },
    /// `handle` or `terminate` answered that it may succeed later. Its words are cut to 4 KiB, as
    /// all texts of a handler here.
    #[error("{0}")]
    Retry(String),
    /// `handle` or `terminate` answered that it will not succeed.
    #[error("{0}")]
    Fatal(String),
    /// `invoke` refused the request.
    #[error("{message}")]
    Refused {
        /// What kind of refusal.
        kind: Refusal,
        /// The handler's words.
        message: String,
    },
    /// The answer is larger than `limits.body_bytes_max`.
    #[error("the handler's answer has {len} bytes, and limits.body_bytes_max is {max}")]
    AnswerTooLarge {
        /// Its size in bytes.
        len: u64,
        /// The limit in bytes.
        max: u64,
    },
    /// The content type of the answer cannot be sent.
    #[error(
        "the handler's answer has a content type of {len} bytes that is no value of an HTTP header \
         with at most {CONTENT_TYPE_BYTES_MAX} bytes"
    )]
    BadContentType {
        /// Its size in bytes.
        len: usize,
    },
    /// The node runs as many instances in the fiber lane as its memory mappings allow.
    #[error(
        "this node runs {max} instances in the fiber lane, and more would exhaust the memory \
         mappings of its process (vm.max_map_count is {mappings}); add nodes, or raise it: sysctl \
         -w vm.max_map_count={}",
        mappings.saturating_mul(4)
    )]
    TooManyFibers {
        /// How many there may be.
        max: u64,
        /// What the system allows.
        mappings: u64,
    },
    /// The system did not give what an instance is made of. The handler was not called.
    #[error("this node could not make the instance: {0}")]
    System(String),
    /// The node may not run its instances any more. The handler was not called.
    #[error("this node's lease is over")]
    Fenced,
    /// The node may not run its instances any more, and that came about during the call, which may
    /// have had its effect. The instance is dead.
    #[error("the call was cut: this node may not run the resource any more")]
    Cut,
    /// The module has no `invocation` interface.
    #[error("the module has no `invocation` interface")]
    NotInvocable,
    /// An earlier call left the instance unusable: it trapped, timed out or was dropped midway.
    #[error("an earlier call left this instance unusable")]
    Dead,
}

impl Failure {
    /// The failure as callers of `invoke` see it.
    #[must_use]
    pub fn into_call_error(self, module: &ModuleName) -> call::Error {
        match self {
            Self::Trapped {
                function, message, ..
            } => call::Error::Trapped { function, message },
            Self::OutOfMemory {
                function,
                limit,
                asked,
            } => call::Error::Trapped {
                function,
                message: out_of_memory(asked, limit).into(),
            },
            Self::NodeOutOfMemory { ref function, .. } => call::Error::Trapped {
                function: function.clone(),
                message: self.to_string().into(),
            },
            Self::TimedOut(after) => call::Error::TimedOut(after),
            Self::Refused { kind, message } => call::Error::Refused { kind, message },
            Self::Retry(message) => call::Error::Refused {
                kind: Refusal::Unavailable,
                message,
            },
            Self::Fatal(message) => call::Error::Refused {
                kind: Refusal::Failed,
                message,
            },
            Self::AnswerTooLarge { .. } | Self::BadContentType { .. } => call::Error::Refused {
                kind: Refusal::Failed,
                message: self.to_string(),
            },
            Self::Cut => call::Error::Interrupted,
            Self::NotInvocable => call::Error::NotInvocable(module.to_string()),
            // Whoever calls a dead instance, or one that there is no room for, had no effect.
            Self::Fenced | Self::Dead | Self::TooManyFibers { .. } | Self::System(_) => {
                call::Error::Unavailable {
                    reason: self.to_string(),
                    retry_after: Duration::from_secs(1),
                }
            }
        }
    }

    /// Whether it is the node's own: another one might not fail so.
    #[must_use]
    pub fn is_of_the_node(&self) -> bool {
        matches!(
            self,
            Self::TooManyFibers { .. } | Self::NodeOutOfMemory { .. } | Self::System(_)
        )
    }

    /// Reads what wasmtime says of an instance that was not made in `time`. What neither the guest
    /// did nor its limits forbid, the system did not give.
    pub(crate) fn of_start(error: &wasmtime::Error, state: &State, time: Duration) -> Self {
        let of_guest = error.is::<Trap>() || error.is::<I32Exit>() || error.is::<WasmBacktrace>();
        match of_guest || state.memory.refused().is_some() {
            true => Self::of(error, state, time),
            false => Self::System(cut(format!("{error:#}"))),
        }
    }

    /// Why a call that had `time` was ended by its host: the time is up, unless the node had another
    /// reason.
    pub(crate) fn interrupted(state: &State, time: Duration) -> Self {
        match state.budget.is_cut() {
            true => Self::Cut,
            false => Self::TimedOut(time),
        }
    }

    /// Reads what wasmtime says about a call that had `time`.
    pub(crate) fn of(error: &wasmtime::Error, state: &State, time: Duration) -> Self {
        let trap = error.downcast_ref::<Trap>();
        if trap == Some(&Trap::Interrupt) {
            return Self::interrupted(state, time);
        }
        if let Some(journal) = state.journal_so_far() {
            journal.flush();
        }
        let tail = state.journal_so_far().map_or_else(Vec::new, |j| j.tail());
        let panic = panic_message(&tail);
        let frames = Frames::of(error);
        let function = frames.innermost();
        // Without memory, standard libraries abort, and what the host was to write has no place,
        // outside of any function. A panic or another trap has other reasons.
        let aborted = trap == Some(&Trap::UnreachableCodeReached) || frames.0.is_empty();
        if let (Some(refused), None, true) = (state.memory.refused(), &panic, aborted) {
            return match refused.node_max {
                None => Self::OutOfMemory {
                    function,
                    limit: state.memory.bytes_max(),
                    asked: refused.asked,
                },
                Some(max) => Self::NodeOutOfMemory { function, max },
            };
        }
        let message = panic.unwrap_or_else(|| {
            let exit = error.downcast_ref().map(|I32Exit(status)| {
                format!("it exited with status {status}; a handler must return")
            });
            let cause = match trap {
                Some(Trap::StackOverflow) => "it used up its call stack".to_owned(),
                Some(Trap::UnreachableCodeReached) => {
                    "it aborted (`unreachable` was executed)".to_owned()
                }
                Some(trap) => trap.to_string(),
                None => exit.unwrap_or_else(|| error.root_cause().to_string()),
            };
            last_words(cause, &tail)
        });
        Self::Trapped {
            function,
            message: cut(message).into(),
            backtrace: frames.to_string().into(),
        }
    }
}

/// A text of a guest, cut to what may be kept, sent and replicated. The rest is given back.
pub(crate) fn cut(text: String) -> String {
    if text.len() <= TEXT_BYTES_MAX {
        return text;
    }
    let head = &text[..text.floor_char_boundary(TEXT_BYTES_MAX)];
    format!("{head} [cut: it had {} bytes]", text.len())
}

fn out_of_memory(asked: u64, limit: u64) -> String {
    format!(
        "out of memory: it asked for {asked} bytes in all, and limits.memory_bytes_max is {limit}"
    )
}

/// The cause with what the guest said last: the line that tells most, and where there are several,
/// all of them below it. Of what is too long the end stays.
fn last_words(cause: String, tail: &[String]) -> String {
    let said = tail.join("\n");
    let said = said.trim_start_matches('\n').trim_end();
    let Some(line) = headline(said) else {
        return cause;
    };
    let text = format!("{cause}; it said last: {}", line.trim_start());
    if line == said {
        return text;
    }
    // One for the line feed.
    let room = TEXT_BYTES_MAX.saturating_sub(text.len() + CUT_BYTES + 1);
    if said.len() <= room {
        return format!("{text}\n{said}");
    }
    let left_out = said.ceil_char_boundary(said.len() - room);
    let rest = &said[left_out..];
    // From the beginning of a line, if one begins soon.
    let rest = match rest.split_once('\n') {
        Some((torn, whole)) if torn.len() < rest.len() / 2 => whole,
        _ => rest,
    };
    format!("{text}\n[cut: it had {} bytes]\n{rest}", said.len())
}

/// The line that says what happened: in languages that write their stack beside it, the last that
/// reads `Name: text` and is not part of the stack. Otherwise the last one.
fn headline(said: &str) -> Option<&str> {
    let names_an_error = |line: &&str| {
        let name = line
            .split(": ")
            .next()
            .filter(|name| name.len() < line.len());
        name.is_some_and(|name| {
            let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_');
            name.starts_with(|c: char| c.is_ascii_alphabetic()) && name.chars().all(is_part)
        })
    };
    let mut lines = said.lines().rev().filter(|line| !line.trim().is_empty());
    let last = lines.clone().next()?;
    Some(lines.find(names_an_error).unwrap_or(last))
}

/// The message of a Rust panic, from what the guest said last.
fn panic_message(tail: &[String]) -> Option<String> {
    let begin = tail.iter().rposition(|line| line.contains("panicked at"))?;
    let lines = &tail[begin..];
    let end = lines.iter().position(|line| line.starts_with("note: "));
    let lines = &lines[..end.unwrap_or(lines.len())];
    let first = lines[0].find("panicked at").map(|at| &lines[0][at..])?;
    let rest = lines[1..].join("\n");
    Some(format!("{first} {rest}").trim_end().to_owned())
}

/// The functions that were active, the innermost first, as people write them.
struct Frames(Vec<String>);

impl Frames {
    fn of(error: &wasmtime::Error) -> Self {
        let backtrace = error.downcast_ref::<WasmBacktrace>();
        let frames = backtrace.map_or(&[][..], |backtrace| backtrace.frames());
        let name = |frame: &wasmtime::FrameInfo| {
            frame
                .func_name()
                .map_or_else(|| format!("function {}", frame.func_index()), readable)
        };
        Self(frames.iter().take(FRAMES_MAX).map(name).collect())
    }

    fn innermost(&self) -> Arc<str> {
        let own = |name: &&String| !FOREIGN.iter().any(|prefix| bare(name).starts_with(prefix));
        // Names without a path are C: in a Rust guest those of its C library.
        let rust = |name: &&String| own(name) && name.contains("::");
        let mut names = self.0.iter();
        let found = names.clone().find(rust).or_else(|| names.find(own));
        let found = found.or(self.0.first());
        found.map_or("unknown", String::as_str).into()
    }
}

impl std::fmt::Display for Frames {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (n, name) in self.0.iter().enumerate() {
            if n > 0 {
                f.write_str("\n")?;
            }
            f.write_str(name)?;
        }
        Ok(())
    }
}

/// The name without the hash that Rust's older mangling adds.
fn readable(name: &str) -> String {
    // Cut before and after: a mangled name may stand for a far longer one.
    let name = &name[..name.floor_char_boundary(TEXT_BYTES_MAX)];
    let mut name = format!("{:#}", rustc_demangle::demangle(name));
    name.truncate(name.floor_char_boundary(NAME_BYTES_MAX));
    name.shrink_to_fit();
    match name.rsplit_once("::h") {
        Some((head, hash)) if hash.len() == 16 && hash.bytes().all(|b| b.is_ascii_hexdigit()) => {
            head.to_owned()
        }
        _ => name,
    }
}

/// `<alloc::vec::Vec<T> as …>::index` is a function of `alloc`.
fn bare(name: &str) -> &str {
    name.trim_start_matches(['<', '&', '['])
}

/// Functions that nobody wrote in a handler: they only report what happened in their caller.
const FOREIGN: [&str; 16] = [
    "abort",
    "alloc::",
    "core::",
    "std::",
    "panic_abort::",
    "dlmalloc",
    "rust_",
    "_rust_",
    "__rust",
    "__rg_",
    "__rdl_",
    "cabi_realloc",
    "memcpy",
    "memmove",
    "memset",
    "function ",
];

/// Room for what says that something was cut.
const CUT_BYTES: usize = 48;
const FRAMES_MAX: usize = 64;
/// Longer than any name that a person wrote; a guest may name its functions as it likes.
const NAME_BYTES_MAX: usize = 512;
const TEXT_BYTES_MAX: usize = 4 << 10;
/// Longer than any media type in use.
pub(crate) const CONTENT_TYPE_BYTES_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(names: &[&str]) -> Frames {
        Frames(names.iter().map(|name| readable(name)).collect())
    }

    #[test]
    fn the_innermost_function_is_the_handlers_own() {
        let frames = frames(&[
            "rust_panic",
            "std::panicking::begin_panic_handler::h0123456789abcdef",
            "core::panicking::panic_bounds_check::h0123456789abcdef",
            "<alloc::vec::Vec<T> as core::ops::Index<I>>::index",
            "_ZN5probe4boom17h0123456789abcdefE",
            "probe::invoke",
        ]);
        assert_eq!(&*frames.innermost(), "probe::boom");
        assert_eq!(frames.to_string().lines().count(), 6);
        assert_eq!(&*Frames(vec![]).innermost(), "unknown");
        let waiting = [
            "poll_block",
            "nanosleep",
            "std::thread::sleep",
            "probe::wait",
        ];
        assert_eq!(&*self::frames(&waiting).innermost(), "probe::wait");
        assert_eq!(
            &*self::frames(&["abort", "inner", "outer"]).innermost(),
            "inner"
        );
    }

    #[test]
    fn texts_are_cut_between_characters() {
        let short = "x".repeat(TEXT_BYTES_MAX);
        assert_eq!(cut(short.clone()), short);
        let long = format!("x{}", "é".repeat(TEXT_BYTES_MAX));
        let text = cut(long);
        assert!(text.len() < TEXT_BYTES_MAX + 64, "{}", text.len());
        assert!(text.ends_with("é [cut: it had 8193 bytes]"), "{text}");
        assert!(readable(&"f".repeat(1 << 20)).len() <= NAME_BYTES_MAX);
    }

    fn lines(text: &str) -> Vec<String> {
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn last_words_are_whole_and_begin_with_the_line_that_tells_most() {
        let of = |text: &str| last_words("it exited".to_owned(), &lines(text));
        assert_eq!(of(""), "it exited");
        assert_eq!(of("\naborting\n\n"), "it exited; it said last: aborting");
        assert_eq!(of("aborting"), "it exited; it said last: aborting");

        let python = "Traceback (most recent call last):\n  File \"app.py\", line 9, in handle\n    \
                      self.join(spec[\"room\"])\nKeyError: 'room'";
        let said = format!("it exited; it said last: KeyError: 'room'\n{python}");
        assert_eq!(of(python), said);

        let javascript = "Uncaught exception:\nTypeError: room is undefined\nStack:\n  \
                          join@bot.js:4:7\n  handle@bot.js:12:3";
        let said = format!("it exited; it said last: TypeError: room is undefined\n{javascript}");
        assert_eq!(of(javascript), said);
    }

    #[test]
    fn of_last_words_that_are_too_long_the_end_stays() {
        let mut tail = vec!["é".repeat(99); 100];
        tail.push("ValueError: the end".to_owned());
        let text = last_words("it exited".to_owned(), &tail);
        assert!(text.len() <= TEXT_BYTES_MAX, "{}", text.len());
        assert!(text.len() > TEXT_BYTES_MAX / 2, "{}", text.len());
        let begin = "it exited; it said last: ValueError: the end\n[cut: it had 19919 bytes]\né";
        assert!(text.starts_with(begin), "{text}");
        assert!(text.ends_with("é\nValueError: the end"), "{text}");
    }

    #[test]
    fn a_lack_of_memory_is_said_once() {
        let failure = Failure::OutOfMemory {
            function: "probe::grow".into(),
            limit: 8,
            asked: 9,
        };
        let text = "the handler trapped in `probe::grow`: out of memory: it asked for 9 bytes in \
                    all, and limits.memory_bytes_max is 8";
        assert_eq!(failure.to_string(), text);
        let called = failure.into_call_error(&"m".parse().unwrap());
        assert_eq!(called.to_string(), text);
    }

    #[test]
    fn a_panic_is_read_from_stderr() {
        let tail = lines(
            "hello\n\nthread '<unnamed>' panicked at src/lib.rs:3:9:\nindex out of bounds\nnote: run with x",
        );
        assert_eq!(
            panic_message(&tail).unwrap(),
            "panicked at src/lib.rs:3:9: index out of bounds"
        );
        assert_eq!(panic_message(&lines("hello")), None);
    }
}
