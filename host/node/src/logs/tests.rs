//! What is kept on one node.

use std::{sync::Arc, time::Duration};

use holdfast_model::ModuleName;
use holdfast_runtime::{GuestLog, GuestLogSink as _, Level, Source};

use super::{
    Filter,
    kept::{BYTES_MAX, Kept, MODULE_BYTES_MAX},
};

fn say(kept: &Kept, module: &str, resource: &str, level: Level, message: &str) {
    kept.log(&GuestLog {
        module: &module.parse().unwrap(),
        resource: &resource.parse().unwrap(),
        source: Source::Logging,
        level,
        context: "",
        message,
    });
}

fn of(module: &str) -> Filter {
    Filter {
        module: Some(module.parse().unwrap()),
        ..Filter::default()
    }
}

fn newest(kept: &Kept, filter: &Filter, limit: usize) -> Vec<String> {
    let (lines, _) = kept.newest(filter, limit);
    lines.into_iter().map(|line| line.message.into()).collect()
}

async fn after(kept: &Kept, filter: &Filter, line: u64, limit: usize) -> (Vec<String>, u64) {
    let (lines, at, _) = kept.after(filter, line, limit, Duration::ZERO).await;
    let messages = lines.into_iter().map(|line| line.message.into());
    (messages.collect(), at)
}

#[test]
fn the_newest_lines_come_in_the_order_in_which_they_were_said() {
    let kept = Kept::default();
    for (module, resource, level, message) in [
        ("a", "1", Level::Info, "one"),
        ("b", "1", Level::Warn, "two"),
        ("a", "2", Level::Debug, "three"),
        ("a", "1", Level::Error, "four"),
    ] {
        say(&kept, module, resource, level, message);
    }
    let all = Filter::default();
    assert_eq!(newest(&kept, &all, 10), ["one", "two", "three", "four"]);
    assert_eq!(newest(&kept, &all, 2), ["three", "four"]);
    assert_eq!(newest(&kept, &all, 0), [""; 0]);
    assert_eq!(newest(&kept, &of("a"), 2), ["three", "four"]);
    let resource = Filter {
        resource: Some("1".parse().unwrap()),
        ..of("a")
    };
    assert_eq!(newest(&kept, &resource, 10), ["one", "four"]);
    let warnings = Filter {
        level: holdfast_model::api::LogLevel::Warn,
        ..all
    };
    assert_eq!(newest(&kept, &warnings, 10), ["two", "four"]);
}

#[tokio::test]
async fn reading_on_misses_nothing_and_repeats_nothing() {
    let kept = Kept::default();
    for number in 0..10 {
        let module = if number % 3 == 0 { "b" } else { "a" };
        say(&kept, module, "r", Level::Info, &number.to_string());
    }
    let (mut read, mut at) = (Vec::new(), 0);
    loop {
        let (lines, looked_at) = after(&kept, &Filter::default(), at, 3).await;
        at = looked_at;
        if lines.is_empty() {
            break;
        }
        read.extend(lines);
    }
    let all: Vec<String> = (0..10).map(|number| number.to_string()).collect();
    assert_eq!((read, at), (all, 10));
    // What does not pass is not looked at again.
    assert_eq!(after(&kept, &of("c"), 0, 3).await, (Vec::new(), 10));
}

#[tokio::test]
async fn whoever_waits_hears_what_is_said_and_only_what_passes() {
    let kept = Arc::new(Kept::default());
    let waits = tokio::spawn({
        let kept = kept.clone();
        async move {
            let (lines, at, _) = kept.after(&of("a"), 0, 10, Duration::from_secs(60)).await;
            (lines.len(), at)
        }
    });
    say(&kept, "b", "r", Level::Info, "not this");
    tokio::task::yield_now().await;
    assert!(!waits.is_finished());
    say(&kept, "a", "r", Level::Info, "this");
    assert_eq!(waits.await.unwrap(), (1, 2));
}

#[tokio::test]
async fn who_comes_too_late_is_told_that_something_is_missing_and_only_then() {
    let kept = Kept::default();
    let missed = async |filter: &Filter, line| {
        let (_, _, missed) = kept.after(filter, line, 10, Duration::ZERO).await;
        missed
    };
    say(&kept, "quiet", "r", Level::Info, "hello");
    assert!(!missed(&of("quiet"), 0).await);
    let long = "x".repeat(100_000);
    for _ in 0..2 * MODULE_BYTES_MAX / 100_000 {
        say(&kept, "loud", "r", Level::Info, &long);
    }
    assert!(missed(&of("loud"), 1).await);
    assert!(missed(&Filter::default(), 1).await);
    assert!(!missed(&of("quiet"), 1).await);
    let (_, newest) = kept.newest(&Filter::default(), 1);
    assert!(!missed(&of("loud"), newest).await);
}

#[test]
fn a_module_that_says_much_pushes_out_its_own_lines_alone() {
    let kept = Kept::default();
    say(&kept, "quiet", "r", Level::Info, "hello");
    let long = "x".repeat(1_000);
    for _ in 0..3 * MODULE_BYTES_MAX / 1_000 {
        say(&kept, "loud", "r", Level::Info, &long);
    }
    assert_eq!(newest(&kept, &of("quiet"), 10), ["hello"]);
    let loud = newest(&kept, &of("loud"), usize::MAX).len();
    assert!(
        (MODULE_BYTES_MAX / 1_300..MODULE_BYTES_MAX / 1_000).contains(&loud),
        "{loud}"
    );
}

#[test]
fn all_modules_together_take_bounded_memory() {
    let kept = Kept::default();
    let long = "x".repeat(100_000);
    let modules = 2 * BYTES_MAX / MODULE_BYTES_MAX;
    for number in 0..modules {
        for _ in 0..MODULE_BYTES_MAX / 100_000 {
            say(&kept, &format!("m{number}"), "r", Level::Info, &long);
        }
    }
    let (lines, _) = kept.newest(&Filter::default(), usize::MAX);
    let bytes: usize = lines.iter().map(|line| line.message.len()).sum();
    assert!((BYTES_MAX / 3..=BYTES_MAX).contains(&bytes), "{bytes}");
    let last: ModuleName = format!("m{}", modules - 1).parse().unwrap();
    assert!(lines.iter().any(|line| line.module == last));
}
