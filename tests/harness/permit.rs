//! How many clusters run at a time on this machine, over all test processes.
//!
//! Cargo runs tests side by side; three nodes each would make a small machine so slow that
//! deadlines are missed for no fault of the product. Permits are locked files, which the kernel
//! unlocks however a process ends.

use std::{
    fs::{self, File, TryLockError},
    thread,
    time::{Duration, Instant},
};

use holdfast_test_components::target_dir;

/// The right to run one cluster, given back when dropped.
#[derive(Debug)]
pub struct Permit {
    #[expect(dead_code, reason = "an open file is a lock that is held")]
    locks: Vec<File>,
}

impl Permit {
    /// Waits for the right to run a small cluster beside others.
    #[must_use]
    pub fn shared() -> Self {
        Self {
            locks: vec![any_of(&["0", "1"])],
        }
    }

    /// Waits for the right to run a cluster alone: for loads that fill a small machine, and for
    /// times that are measured.
    #[must_use]
    pub fn alone() -> Self {
        // In the same order by everyone, so that nobody waits in a circle.
        let first = any_of(&["0"]);
        let second = any_of(&["1"]);
        Self {
            locks: vec![first, second],
        }
    }
}

fn any_of(names: &[&str]) -> File {
    let folder = target_dir().join("permits");
    fs::create_dir_all(&folder).expect("the target directory is writable");
    let start = Instant::now();
    loop {
        for name in names {
            let file = File::create(folder.join(name)).expect("the target directory is writable");
            match file.try_lock() {
                Ok(()) => return file,
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => panic!("cannot lock a permit: {error}"),
            }
        }
        assert!(
            start.elapsed() < WAIT_MAX,
            "no permit to run a cluster within {} s: another test hangs",
            WAIT_MAX.as_secs()
        );
        thread::sleep(Duration::from_millis(50));
    }
}

const WAIT_MAX: Duration = Duration::from_secs(1800);
