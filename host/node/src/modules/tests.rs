use std::fs;

use holdfast_runtime::Options;

use super::*;

struct Nobody;

impl Fetch for Nobody {
    fn fetch(&self, _: Digest) -> BoxFuture<'static, Result<Bytes, String>> {
        Box::pin(async { Err("nobody has it".to_owned()) })
    }
}

fn modules(dir: &Path) -> Modules {
    let runtime = Runtime::new(Options::default()).unwrap();
    Modules::open(dir, runtime, Arc::new(Nobody)).unwrap()
}

/// Makes a file look as if it had been written two hours ago.
fn age(path: &Path) {
    let old = SystemTime::now() - 2 * YOUNG;
    fs::File::open(path).unwrap().set_modified(old).unwrap();
}

#[tokio::test]
async fn a_damaged_file_is_not_kept_but_written_again() {
    let dir = tempfile::tempdir().unwrap();
    let modules = modules(dir.path());
    let component = Bytes::from_static(b"component");
    let digest = modules.keep(component.clone()).await.unwrap();
    let path = modules.0.path(digest);
    fs::write(&path, b"componenT").unwrap();
    assert_eq!(modules.bytes(digest).await.unwrap(), None);
    modules.keep(component.clone()).await.unwrap();
    assert_eq!(modules.bytes(digest).await.unwrap(), Some(component));
}

#[tokio::test]
async fn what_was_asked_for_lately_outlives_a_change_of_other_modules() {
    let dir = tempfile::tempdir().unwrap();
    let modules = modules(dir.path());
    let component = |name: &'static str| Bytes::from_static(name.as_bytes());
    let again = modules.keep(component("again")).await.unwrap();
    let asked = modules.keep(component("asked")).await.unwrap();
    let unused = modules.keep(component("unused")).await.unwrap();
    for digest in [again, asked, unused] {
        age(&modules.0.path(digest));
    }
    // A deployment of bytes that have been here for long: kept here, asked for by a peer.
    modules.keep(component("again")).await.unwrap();
    assert!(modules.bytes(asked).await.unwrap().is_some());
    modules.retain(HashSet::new).await.unwrap();
    assert!(modules.0.path(again).exists());
    assert!(modules.0.path(asked).exists());
    assert!(!modules.0.path(unused).exists());
}

#[tokio::test]
async fn machine_code_that_nobody_uses_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let compiled = dir.path().join("compiled");
    let options = Options {
        cache_dir: Some(compiled.clone()),
        ..Options::default()
    };
    let runtime = Runtime::new(options).unwrap();
    let component = holdfast_test_components::probe();
    let modules = Modules::open(&dir.path().join("modules"), runtime, Arc::new(Nobody)).unwrap();
    let name: ModuleName = "bot".parse().unwrap();
    let loaded = modules.check(&name, component, &Arc::default()).await;
    drop(loaded.unwrap());
    let files = || {
        fs::read_dir(&compiled)
            .unwrap()
            .map(|entry| entry.unwrap().path())
    };
    modules.retain(HashSet::new).await.unwrap();
    assert_eq!(files().count(), 1, "it is young");
    files().for_each(|path| age(&path));
    modules.retain(HashSet::new).await.unwrap();
    assert_eq!(files().count(), 0);
}
