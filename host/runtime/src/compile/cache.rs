//! Compiled components on disk, one file per digest.
//!
//! Invariant: a file is used only if its checksum holds and its name says this version of the
//! engine with these settings; anything else counts as absent.

use std::{
    fs,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io,
    io::Write as _,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
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

    pub(crate) fn remove(&self, digest: &Digest) -> io::Result<()> {
        match fs::remove_file(self.path(digest)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
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
