use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use futures_util::FutureExt as _;
use wasmtime::Config;

use super::*;

fn engine() -> Engine {
    Engine::new(&Config::new()).unwrap()
}

fn compiler(dir: &Path) -> Compiler {
    let engine = engine();
    let cache = Cache::open(dir.join("cache"), &engine).unwrap();
    Compiler::new(engine, Some(cache), 1, Duration::from_secs(60))
}

fn component() -> (Bytes, Digest) {
    let bytes = Bytes::from(wat::parse_str("(component)").unwrap());
    let digest = Digest::of(&bytes);
    (bytes, digest)
}

fn files(dir: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(dir.join("cache")).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

#[tokio::test]
async fn a_compiled_component_is_kept_for_this_user_only() {
    let dir = tempfile::tempdir().unwrap();
    let (bytes, digest) = component();
    compiler(dir.path()).component(bytes, digest).await.unwrap();
    let files = files(dir.path());
    assert_eq!(files.len(), 1);
    let mode = fs::metadata(&files[0]).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    let engine = engine();
    let cache = Cache::open(dir.path().join("cache"), &engine).unwrap();
    assert!(cache.read(&engine, &digest).is_some());
    assert!(cache.read(&engine, &Digest::of(b"other")).is_none());
}

#[tokio::test]
async fn a_damaged_file_is_compiled_again() {
    let dir = tempfile::tempdir().unwrap();
    let (bytes, digest) = component();
    compiler(dir.path())
        .component(bytes.clone(), digest)
        .await
        .unwrap();
    let file = files(dir.path()).remove(0);
    let sound = fs::read(&file).unwrap();
    let mut flipped = sound.clone();
    let last = flipped.len() - 1;
    flipped[last] ^= 1;
    for damaged in [
        &sound[..0],
        &sound[..31],
        &sound[..sound.len() / 2],
        &flipped,
    ] {
        fs::write(&file, damaged).unwrap();
        let engine = engine();
        let cache = Cache::open(dir.path().join("cache"), &engine).unwrap();
        assert!(cache.read(&engine, &digest).is_none());
        compiler(dir.path())
            .component(bytes.clone(), digest)
            .await
            .unwrap();
        assert_eq!(fs::read(&file).unwrap(), sound);
    }
}

#[tokio::test]
async fn leftovers_are_removed_and_other_files_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("cache");
    fs::create_dir(&cache).unwrap();
    fs::set_permissions(&cache, fs::Permissions::from_mode(0o700)).unwrap();
    for name in ["a-0.cwasm", "b-1-0.cwasm-tmp", "notes.txt"] {
        fs::write(cache.join(name), "").unwrap();
    }
    let compiler = compiler(dir.path());
    assert_eq!(files(dir.path()), [cache.join("notes.txt")]);
    let (bytes, digest) = component();
    compiler.component(bytes, digest).await.unwrap();
    assert_eq!(files(dir.path()).len(), 2);
    let none = HashSet::new();
    compiler
        .retain(none.clone(), Duration::from_secs(3600))
        .await;
    assert_eq!(files(dir.path()).len(), 2, "it is young");
    compiler
        .retain(HashSet::from([digest]), Duration::ZERO)
        .await;
    assert_eq!(files(dir.path()).len(), 2, "it is used");
    compiler.retain(none, Duration::ZERO).await;
    assert_eq!(files(dir.path()), [cache.join("notes.txt")]);
}

#[test]
fn a_folder_that_others_may_write_to_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("cache");
    fs::create_dir(&cache).unwrap();
    for (mode, fits) in [
        (0o777, false),
        (0o770, false),
        (0o702, false),
        (0o755, true),
    ] {
        fs::set_permissions(&cache, fs::Permissions::from_mode(mode)).unwrap();
        let opened = Cache::open(cache.clone(), &engine());
        assert_eq!(opened.is_ok(), fits, "{mode:o}");
        if let Err(error) = opened {
            assert!(error.to_string().contains("chmod 700"), "{error}");
        }
    }
}

#[tokio::test]
async fn one_digest_is_compiled_once() {
    let dir = tempfile::tempdir().unwrap();
    let compiler = compiler(dir.path());
    let (bytes, digest) = component();
    let load = || compiler.component(bytes.clone(), digest);
    let (one, two) = tokio::join!(load(), load());
    assert!(Arc::ptr_eq(&one.unwrap(), &two.unwrap()));
    assert_eq!(compiler.loaded.lock().len(), 1);
}

#[tokio::test]
async fn a_dropped_load_leaves_the_way_free() {
    let dir = tempfile::tempdir().unwrap();
    let compiler = compiler(dir.path());
    let (bytes, digest) = component();
    let polled_once = compiler.component(bytes.clone(), digest).now_or_never();
    assert!(polled_once.is_none());
    compiler.component(bytes, digest).await.unwrap();
}

#[tokio::test]
async fn a_busy_compiler_says_so() {
    let mut compiler = Compiler::new(engine(), None, 1, Duration::from_millis(20));
    let permit = compiler.permits.clone().acquire_owned().await.unwrap();
    let (bytes, digest) = component();
    let result = compiler.component(bytes.clone(), digest).await;
    assert!(matches!(result.err(), Some(LoadError::CompilerBusy(_))));
    drop(permit);
    compiler.timeout = Duration::from_secs(60);
    compiler.component(bytes, digest).await.unwrap();
}
