use super::*;

#[test]
fn what_an_outer_cargo_or_a_native_build_set_is_kept_away() {
    for (name, disturbing) in [
        ("CARGO", true),
        ("CARGO_MANIFEST_DIR", true),
        ("CARGO_PKG_NAME", true),
        ("CARGO_ENCODED_RUSTFLAGS", true),
        ("CARGO_BUILD_TARGET", true),
        ("CARGO_PROFILE_RELEASE_LTO", true),
        ("CARGO_TARGET_WASM32_WASIP2_RUSTFLAGS", true),
        ("RUSTFLAGS", true),
        ("RUSTC_WORKSPACE_WRAPPER", true),
        ("CARGO_HOME", false),
        ("CARGO_TARGET_DIR", false),
        ("CARGO_BUILD_TARGET_DIR", false),
        ("CARGO_NET_OFFLINE", false),
        ("CARGO_REGISTRIES_CRATES_IO_PROTOCOL", false),
        ("CARGO_BUILD_JOBS", false),
        ("RUSTC_WRAPPER", false),
        ("RUSTUP_TOOLCHAIN", false),
        ("PATH", false),
    ] {
        assert_eq!(disturbs(&name.into()), disturbing, "{name}");
    }
}

#[test]
fn folders_that_the_caller_named_are_the_callers() {
    let here = std::env::current_dir().unwrap();
    let of = |name: &str, value: &str| of_caller(OsStr::new(name), OsStr::new(value));
    for name in ["CARGO_TARGET_DIR", "CARGO_BUILD_TARGET_DIR", "CARGO_HOME"] {
        assert_eq!(
            of(name, "build/out"),
            Some(here.join("build/out")),
            "{name}"
        );
        assert_eq!(of(name, "/abs"), Some("/abs".into()), "{name}");
        assert_eq!(of(name, ""), None, "{name}");
    }
    assert_eq!(of("CARGO_NET_OFFLINE", "true"), None);
}

#[tokio::test]
async fn a_folder_without_a_handler_is_refused_before_anything_runs() {
    let dir = tempfile::tempdir().unwrap();
    let mut silent = |progress: Progress<'_>| panic!("{progress:?}");
    let error = component(dir.path(), None, &mut silent).await.unwrap_err();
    assert!(matches!(error, Error::Manifest(_)), "{error:?}");
    std::fs::write(dir.path().join(Manifest::FILE), "name = \"a\"").unwrap();
    let error = component(dir.path(), None, &mut silent).await.unwrap_err();
    assert!(matches!(error, Error::NoPackage { .. }), "{error:?}");
    let told = explain(error).to_string();
    assert!(told.ends_with("has no Cargo.toml"), "{told}");
}
