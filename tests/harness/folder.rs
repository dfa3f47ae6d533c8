//! The folder of one cluster: removed with it, or by a later test if the test itself was killed.

use std::{
    env,
    fs::{self, File},
    path::Path,
};

use tempfile::TempDir;

/// A temporary folder. The lock on a file in it shows that its test lives, however that ends.
#[derive(Debug)]
pub(crate) struct Folder {
    folder: TempDir,
    #[expect(dead_code, reason = "an open file is a lock that is held")]
    lock: File,
}

impl Folder {
    /// Makes a folder, and removes those that killed tests have left.
    pub(crate) fn new(name: &str) -> Self {
        sweep(&env::temp_dir());
        let folder = tempfile::Builder::new()
            .prefix(&format!("{PREFIX}{name}-"))
            .tempdir()
            .expect("the temp folder is writable");
        let lock = File::create(folder.path().join(LOCK)).expect("the folder is writable");
        lock.lock().expect("a file of ours can be locked");
        Self { folder, lock }
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }
}

/// Removes the folders in `parent` whose tests have ended. Never fails: another test may be about
/// the same, and folders of others are theirs.
fn sweep(parent: &Path) {
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    let ours = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(PREFIX));
    for folder in ours.map(|entry| entry.path()) {
        // A folder that is being made has no lock yet, and is passed over.
        let lock = File::open(folder.join(LOCK));
        if lock.is_ok_and(|lock| lock.try_lock().is_ok()) {
            let _ = fs::remove_dir_all(folder);
        }
    }
}

const PREFIX: &str = "holdfast-";
const LOCK: &str = "of-a-test";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_killed_test_left_is_swept() {
        let parent = TempDir::new().unwrap();
        let make = |name: &str| {
            let folder = parent.path().join(format!("{PREFIX}{name}"));
            fs::create_dir(&folder).unwrap();
            folder
        };
        let (left, used, strange) = (make("left"), make("used"), make("strange"));
        drop(File::create(left.join(LOCK)).unwrap());
        let lock = File::create(used.join(LOCK)).unwrap();
        lock.lock().unwrap();
        sweep(parent.path());
        assert!(!left.exists() && used.exists() && strange.exists());
    }
}
