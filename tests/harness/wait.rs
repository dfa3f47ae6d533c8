//! Waiting for something to become true, with a deadline.

use std::{
    fmt::Display,
    thread,
    time::{Duration, Instant},
};

/// Enough for whatever takes milliseconds on an idle machine, on one that is overloaded four times. Only a
/// test that fails waits for so long.
pub const SOON: Duration = Duration::from_secs(60);

/// Enough for whatever takes seconds on an idle machine: elections, compiling, thousands of starts.
pub const LONG: Duration = Duration::from_secs(180);

/// Polls until `probe` says ok, and gives what it says and how long that took.
///
/// # Panics
/// After `deadline`, with `what` was waited for and the last reason why it was not so.
#[track_caller]
pub fn wait_until<T, E: Display>(
    what: &str,
    deadline: Duration,
    mut probe: impl FnMut() -> Result<T, E>,
) -> (T, Duration) {
    let start = Instant::now();
    let mut pause = PAUSE_MIN;
    loop {
        let asked = Instant::now();
        match probe() {
            Ok(found) => return (found, start.elapsed()),
            Err(reason) => assert!(
                start.elapsed() < deadline,
                "waited {:.1} s for this: {what}\nbut: {reason}",
                deadline.as_secs_f64()
            ),
        }
        // What is costly to ask is asked less often, to leave the machine to what is waited for.
        thread::sleep(pause.max(asked.elapsed() * 3));
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Polls for the whole of `period` and makes sure that `probe` never objects.
///
/// # Panics
/// As soon as it does, with its reason.
#[track_caller]
pub fn never<E: Display>(what: &str, period: Duration, mut probe: impl FnMut() -> Result<(), E>) {
    let start = Instant::now();
    while start.elapsed() < period {
        if let Err(reason) = probe() {
            panic!("this must not happen: {what}\nbut: {reason}");
        }
        thread::sleep(PAUSE_MAX);
    }
}

const PAUSE_MIN: Duration = Duration::from_millis(5);
const PAUSE_MAX: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_becomes_true_is_given_back() {
        let mut left = 3;
        let (found, _) = wait_until("the count is over", SOON, || {
            left -= 1;
            if left == 0 { Ok("over") } else { Err(left) }
        });
        assert_eq!(found, "over");
    }

    #[test]
    #[should_panic(expected = "for this: a unicorn\nbut: none in sight")]
    fn a_missed_deadline_says_what_and_why() {
        wait_until("a unicorn", Duration::from_millis(20), || {
            Err::<(), _>("none in sight")
        });
    }
}
