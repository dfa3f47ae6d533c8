use super::*;
use crate::cli::modules;

#[test]
fn a_file_suggests_the_modules_name() {
    assert_eq!(
        name_of(Path::new("x/my_counter.wasm")).unwrap().as_str(),
        "my-counter"
    );
    let error = name_of(Path::new("My.wasm")).unwrap_err().to_string();
    assert!(error.ends_with("--name"), "{error}");
}

#[test]
fn only_wasm_is_sent() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.wasm");
    std::fs::write(&path, "hello").unwrap();
    assert!(
        read(&path)
            .unwrap_err()
            .to_string()
            .contains("no WebAssembly")
    );
    std::fs::write(&path, b"\0asm\x0d\0\x01\0").unwrap();
    assert!(read(&path).is_ok());
}

#[test]
fn a_version_on_trial_is_told_from_one_that_serves() {
    let mut info = modules::tests::info("counter");
    let text = describe(Output::plain(), &info);
    assert!(text.contains("version    3 (serves)\n"), "{text}");
    let mut version = info.version.clone();
    version.number = 4;
    info.rollout = Some(holdfast_model::api::RolloutInfo {
        version,
        failed_on: Vec::new(),
    });
    let text = describe(Output::plain(), &info);
    let expected = "version    4 (being tried; version 3 serves until then)\n";
    assert!(text.contains(expected), "{text}");
    assert_eq!(waiting(&info), "version 4 is being tried");
}
