use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use futures_util::FutureExt as _;
use wasmtime::Config;

use super::*;

fn engine() -> Engine {
    Engine::new(&Config::new()).unwrap()
}

fn cache(dir: &Path) -> Cache {
    Cache::open(dir.join("cache"), &engine(), 1 << 30).unwrap()
}

fn limits(timeout: Duration) -> Limits {
    Limits {
        parallelism: 1,
        timeout,
        memory_bytes_max: 1 << 30,
    }
}

fn compiler(dir: &Path) -> Compiler {
    Compiler::new(Some(cache(dir)), None, limits(Duration::from_secs(60)))
}

async fn compiled(
    compiler: &Compiler,
    bytes: Bytes,
    digest: Digest,
) -> Result<Arc<Compiled>, LoadError> {
    compiler.component(&engine(), 0, bytes, digest).await
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
    compiled(&compiler(dir.path()), bytes, digest)
        .await
        .unwrap();
    let files = files(dir.path());
    assert_eq!(files.len(), 1);
    let mode = fs::metadata(&files[0]).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    let engine = engine();
    let cache = cache(dir.path());
    assert!(cache.read(&engine, &digest).is_some());
    assert!(cache.read(&engine, &Digest::of(b"other")).is_none());
}

#[tokio::test]
async fn a_damaged_file_is_compiled_again() {
    let dir = tempfile::tempdir().unwrap();
    let (bytes, digest) = component();
    let again = async || {
        let compiler = compiler(dir.path());
        compiled(&compiler, bytes.clone(), digest).await
    };
    again().await.unwrap();
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
        assert!(cache(dir.path()).read(&engine, &digest).is_none());
        again().await.unwrap();
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
    drop(compiled(&compiler, bytes, digest).await.unwrap());
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
        let opened = Cache::open(cache.clone(), &engine(), 1 << 30);
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
    let load = || compiled(&compiler, bytes.clone(), digest);
    let (one, two) = tokio::join!(load(), load());
    assert!(Arc::ptr_eq(&one.unwrap(), &two.unwrap()));
    assert_eq!(compiler.0.loaded.lock().len(), 1);
}

#[tokio::test]
async fn a_load_that_nobody_waits_for_is_joined_by_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let compiler = compiler(dir.path());
    let (bytes, digest) = component();
    let permit = compiler.0.permits.clone().acquire_owned().await.unwrap();
    let polled_once = compiled(&compiler, bytes.clone(), digest).now_or_never();
    assert!(polled_once.is_none());
    drop(permit);
    compiled(&compiler, bytes, digest).await.unwrap();
    assert_eq!(compiler.0.loaded.lock().len(), 1);
}

#[tokio::test]
async fn a_busy_compiler_says_so() {
    let compiler = Compiler::new(None, None, limits(Duration::from_millis(20)));
    let permit = compiler.0.permits.clone().acquire_owned().await.unwrap();
    let (bytes, digest) = component();
    let result = compiled(&compiler, bytes.clone(), digest).await;
    assert!(matches!(result.err(), Some(LoadError::CompilerBusy(_))));
    drop(permit);
    let compiler = Compiler::new(None, None, limits(Duration::from_secs(60)));
    compiled(&compiler, bytes, digest).await.unwrap();
}

#[tokio::test]
async fn the_cache_stays_within_its_bytes_and_keeps_what_is_used() {
    let dir = tempfile::tempdir().unwrap();
    let engine = engine();
    let compiler = compiler(dir.path());
    let digests: Vec<Digest> = (0..4).map(|n: u8| Digest::of(&[n])).collect();
    let code = engine.precompile_component(&component().0).unwrap();
    let cache = compiler.0.cache.clone().unwrap();
    for (age, digest) in digests.iter().enumerate() {
        let mut draft = cache.draft(digest).unwrap();
        draft.file.write_all(&code).unwrap();
        cache.keep(&engine, digest, draft).unwrap();
        let file = files(dir.path());
        let is_it = |path: &&std::path::PathBuf| path.to_string_lossy().contains(&digest.hex());
        let path = file.iter().find(is_it).unwrap();
        let written = std::time::SystemTime::now() - Duration::from_secs(100 - age as u64);
        let opened = fs::OpenOptions::new().append(true).open(path).unwrap();
        opened.set_modified(written).unwrap();
    }
    // Read, and so young again.
    assert!(cache.read(&engine, &digests[1]).is_some());
    let small = Cache::open(dir.path().join("cache"), &engine, 2 * code.len() as u64).unwrap();
    small.shrink(&HashSet::from([digests[0]])).unwrap();
    let left = digests
        .iter()
        .filter(|digest| small.read(&engine, digest).is_some());
    let left: Vec<_> = left.collect();
    assert_eq!(left, [&digests[0], &digests[1]]);
    drop(cache.draft(&digests[2]));
    assert_eq!(files(dir.path()).len(), 2, "nothing is left of a draft");
}

/// A compiler that is a script of the shell.
fn scripted(dir: &Path, script: &str, timeout: Duration) -> Compiler {
    let process = CompilerProcess {
        program: "/bin/sh".into(),
        args: vec!["-c".into(), script.into(), "compiler".into()],
    };
    Compiler::new(Some(cache(dir)), Some(process), limits(timeout))
}

#[tokio::test]
async fn what_becomes_of_the_compilers_process_is_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let (bytes, digest) = component();
    let failed = async |script: &str| {
        let compiler = scripted(dir.path(), script, Duration::from_secs(60));
        compiled(&compiler, bytes.clone(), digest)
            .await
            .err()
            .unwrap()
    };
    let error = failed("echo 'no such type (at offset 0x10)' >&2; exit 3").await;
    let LoadError::Malformed { detail, offset } = error else {
        panic!("{error}");
    };
    assert_eq!((detail.as_str(), offset), ("no such type", Some(16)));
    // The last argument is the limit.
    let error = failed("test $1 = 1073741824 && exit 4").await;
    assert!(
        matches!(error, LoadError::CompilerOutOfMemory { .. }),
        "{error}"
    );
    let error = failed("echo oh no >&2; kill -9 $$").await.to_string();
    assert!(
        error.contains("signal 9") && error.contains("oh no"),
        "{error}"
    );
    let error = failed("head -c 16 > /dev/null; echo this is no code").await;
    assert!(matches!(error, LoadError::NotKept(_)), "{error}");
    let mut compiler = scripted(dir.path(), "", Duration::from_secs(60));
    Arc::get_mut(&mut compiler.0)
        .unwrap()
        .process
        .as_mut()
        .unwrap()
        .program = "/none".into();
    let error = compiled(&compiler, bytes.clone(), digest)
        .await
        .err()
        .unwrap();
    assert!(matches!(error, LoadError::CompilerNotRun(_)), "{error}");
    assert!(
        files(dir.path()).len() <= 1,
        "nothing is left of what failed"
    );
}

#[tokio::test]
async fn a_compiler_that_takes_too_long_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let (bytes, digest) = component();
    let file = dir.path().join("pid");
    let script = format!("echo $$ > {}; exec sleep 1000", file.display());
    let compiler = scripted(dir.path(), &script, Duration::from_secs(2));
    let error = compiled(&compiler, bytes, digest).await.err().unwrap();
    assert!(matches!(error, LoadError::CompileTimeout(_)), "{error}");
    let pid = fs::read_to_string(file).unwrap();
    let stat = format!("/proc/{}/stat", pid.trim());
    let runs = || fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z "));
    while runs() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(files(dir.path()), [] as [std::path::PathBuf; 0]);
}
