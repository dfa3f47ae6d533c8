//! How long to wait after failures in a row.

use std::time::Duration;

/// A resource held for longer than this starts afresh after its next failure.
pub(super) const FORGIVEN_AFTER: Duration = Duration::from_secs(60);

/// The pause after this many failures in a row: 100 ms, doubled each time up to 30 s, and up to a
/// half less at random: resources that failed together, because what they talk to did, do not
/// return together to what just recovered.
pub(super) fn pause(failures: u32) -> Duration {
    let doubled = FIRST.saturating_mul(1 << failures.saturating_sub(1).min(16));
    doubled
        .min(LONGEST)
        .mul_f64(1.0 - rand::random::<f64>() / 2.0)
}

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_failed_together_returns_apart() {
        let mut pauses: Vec<Duration> = (0..100).map(|_| pause(9)).collect();
        pauses.sort();
        assert!(
            pauses[90] - pauses[10] > Duration::from_secs(5),
            "{pauses:?}"
        );
    }

    #[test]
    fn the_handbook_says_how_long_pauses_are() {
        let page = include_str!("../../../../docs/HANDLERS.md").replace('\n', " ");
        let [first, longest] = [FIRST, LONGEST].map(|time| match time.as_secs() {
            0 => format!("{} ms", time.as_millis()),
            seconds => format!("{seconds} s"),
        });
        let says = format!(
            "Pauses are {first}, doubled with each failure in a row up to {longest}, and up to a half \
             shorter at random."
        );
        assert!(page.contains(&says), "{says}");
        assert_eq!(FORGIVEN_AFTER, Duration::from_secs(60));
        assert!(page.contains(&format!("was held for a minute begins at {first} again")));
    }

    #[test]
    fn pauses_grow_up_to_a_limit() {
        for (failures, longest) in [
            (1, 100),
            (2, 200),
            (3, 400),
            (9, 25_600),
            (10, 30_000),
            (999, 30_000),
        ] {
            let longest = Duration::from_millis(longest);
            for _ in 0..50 {
                let pause = pause(failures);
                assert!(
                    pause <= longest && pause >= longest.mul_f64(0.49),
                    "{failures}: {pause:?}"
                );
            }
        }
    }
}
