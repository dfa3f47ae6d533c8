//! Compiled components on disk, one file per digest.
//!
//! Invariant: a file is used only if its checksum holds and its name says this version of the
//! engine with these settings; anything else counts as absent.

use std::{
    collections::HashSet,
    fs,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io,
    io::Write as _,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, SystemTime},
};

use holdfast_model::Digest;
use wasmtime::{Engine, component::Component};

pub(crate) struct Cache {
    dir: PathBuf,
    /// What follows the digest in a file's name.
    suffix: String,
    writes: AtomicU64,
}

impl Cache {
    /// Opens the folder, and removes what other versions and interrupted writes left there.
    pub(crate) fn open(dir: PathBuf, engine: &Engine) -> io::Result<Self> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&dir)?;
        check_owner(&dir)?;
        let mut hasher = DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut hasher);
        let suffix = format!("-{:016x}.cwasm", hasher.finish());
        for entry in fs::read_dir(&dir)? {
            let path = entry?.path();
            let name = path
                .file_name()
                .and_then(|name| name.to_str())
                .unwrap_or("");
            let ours = name.ends_with(".cwasm") || name.ends_with(TEMPORARY);
            if ours && !name.ends_with(&suffix) {
                fs::remove_file(&path)?;
            }
        }
        Ok(Self {
            dir,
            suffix,
            writes: AtomicU64::new(0),
        })
    }

    /// The component, if a sound file has it.
    pub(crate) fn read(&self, engine: &Engine, digest: &Digest) -> Option<Component> {
        let file = fs::read(self.path(digest)).ok()?;
        let (checksum, code) = file.split_at_checked(CHECKSUM_BYTES)?;
        if Digest::of(code).0 != *checksum {
            return None;
        }
        deserialize(engine, code)
    }

    /// Keeps the component. Other readers and writers of the file see it whole or not at all.
    pub(crate) fn write(&self, digest: &Digest, component: &Component) -> wasmtime::Result<()> {
        let code = component.serialize()?;
        let write = self.writes.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}-{}-{write}{TEMPORARY}", digest.hex(), std::process::id());
        let temporary = self.dir.join(name);
        let result = self.write_new(&temporary, &code, &self.path(digest));
        if result.is_err() {
            // It may not exist; if it does, the next start removes it.
            let _ = fs::remove_file(&temporary);
        }
        Ok(result?)
    }

    /// Removes the files of all digests but these, unless they are younger than `age`.
    pub(crate) fn retain(&self, used: &HashSet<Digest>, age: Duration) -> io::Result<()> {
        let used: HashSet<PathBuf> = used.iter().map(|digest| self.path(digest)).collect();
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            let ours = path.to_string_lossy().ends_with(&self.suffix);
            if ours && !used.contains(&path) && is_older(&path, age)? {
                fs::remove_file(&path)?;
            }
        }
        Ok(())
    }

    fn write_new(&self, temporary: &Path, code: &[u8], path: &Path) -> io::Result<()> {
        let mut options = fs::OpenOptions::new();
        let mut file = options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(temporary)?;
        file.write_all(&Digest::of(code).0)?;
        file.write_all(code)?;
        drop(file);
        // No fsync: a file that a power loss cut short fails its checksum.
        fs::rename(temporary, path)
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.dir.join(format!("{}{}", digest.hex(), self.suffix))
    }
}

/// Whoever may write in the folder decides what this process executes.
fn check_owner(dir: &Path) -> io::Result<()> {
    let (found, me) = (fs::metadata(dir)?, rustix::process::geteuid().as_raw());
    if found.uid() == me && found.mode() & 0o022 == 0 {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::PermissionDenied,
        format!(
            "what it holds is executed, so it must belong to this user (id {me}) and nobody else \
             may write there; it belongs to {} with mode {:o}. Change that (chown {me}, chmod 700), \
             or remove it: it is made anew",
            found.uid(),
            found.mode() & 0o7777
        ),
    ))
}

/// A time in the future counts as young: the clock may have been set back.
fn is_older(path: &Path, age: Duration) -> io::Result<bool> {
    let written = fs::metadata(path)?.modified()?;
    Ok(SystemTime::now()
        .duration_since(written)
        .is_ok_and(|found| found >= age))
}

#[expect(
    unsafe_code,
    reason = "machine code cannot be checked; see the comment"
)]
fn deserialize(engine: &Engine, code: &[u8]) -> Option<Component> {
    // SAFETY: the bytes are what `Component::serialize` of this version made: the file's name has
    // the hash of version and settings, which wasmtime checks once more, and its checksum held.
    // It lies in a folder that only this user may write, who could replace this program as well.
    unsafe { Component::deserialize(engine, code) }.ok()
}

const CHECKSUM_BYTES: usize = 32;
const TEMPORARY: &str = ".cwasm-tmp";
