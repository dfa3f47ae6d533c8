//! Components to run, and a runtime that keeps what they say.

#![expect(clippy::unwrap_used, reason = "what cannot be set up fails the test")]

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, LazyLock},
    time::Duration,
};

use bytes::Bytes;
use holdfast_model::{Digest, Settings, Spec, Token, call};
use holdfast_runtime::{
    GuestLog, GuestLogSink, Instance, LoadError, ManagedResource, Module, Options, Runtime, Source,
};
use parking_lot::Mutex;
use wit_component::{ComponentEncoder, StringEncoding, dummy_module, embed_component_metadata};
use wit_parser::{LiftLowerAbi, ManglingAndAbi, Resolve, WorldId};

/// Module, resource, source and text of everything that guests said.
#[derive(Default)]
pub(crate) struct Said(pub(crate) Mutex<Vec<(String, String, Source, String)>>);

impl GuestLogSink for Said {
    fn log(&self, entry: &GuestLog<'_>) {
        self.0.lock().push((
            entry.module.to_string(),
            entry.resource.to_string(),
            entry.source,
            entry.message.to_owned(),
        ));
    }
}

pub(crate) fn runtime() -> Runtime {
    Runtime::new(Options::default()).unwrap()
}

pub(crate) fn runtime_that_keeps() -> (Runtime, Arc<Said>) {
    let said = Arc::new(Said::default());
    let options = Options {
        log: said.clone(),
        ..Options::default()
    };
    (Runtime::new(options).unwrap(), said)
}

pub(crate) async fn load(
    runtime: &Runtime,
    component: &Bytes,
    settings: &Settings,
) -> Result<Module, LoadError> {
    let digest = Digest::of(component);
    let name = "probe".parse().unwrap();
    runtime
        .load(component.clone(), digest, &name, settings)
        .await
}

/// An instance of the probe for resource `r`, with `handle` called.
pub(crate) async fn held(runtime: &Runtime, settings: &Settings) -> Instance {
    let module = load(runtime, &probe(), settings).await.unwrap();
    let mut instance = module.instantiate(resource("{}")).await.unwrap();
    instance.handle().await.unwrap();
    instance
}

pub(crate) fn resource(spec: &str) -> ManagedResource {
    ManagedResource {
        id: "r".parse().unwrap(),
        spec: Spec::from_json(spec.as_bytes()).unwrap(),
        token: Token(7),
        attempt: 1,
    }
}

pub(crate) fn request(body: impl Into<Bytes>) -> call::Request {
    call::Request {
        id: "1".to_owned(),
        created_at_ms: 1,
        timeout: Duration::from_secs(20),
        idempotency_key: None,
        content_type: None,
        body: body.into(),
    }
}

/// A component of the world `it` of this WIT text, whose every function traps.
pub(crate) fn trapping(wit: &str) -> Bytes {
    trapping_in(Resolve::default(), wit)
}

/// The same, where the text may name what `resolve` has.
pub(crate) fn trapping_in(resolve: Resolve, wit: &str) -> Bytes {
    encode(resolve, wit, |resolve, world| {
        dummy_module(resolve, world, ManglingAndAbi::Legacy(LiftLowerAbi::Sync))
    })
}

/// A handler written in WAT: the body of `handle`, and fields of its core module.
pub(crate) fn handler(handle: &str, fields: &str) -> Bytes {
    handler_importing(&[], handle, fields)
}

/// The same, with imports: names of interfaces whose functions `fields` imports.
pub(crate) fn handler_importing(interfaces: &[&str], handle: &str, fields: &str) -> Bytes {
    let imports: String = interfaces
        .iter()
        .map(|name| format!("import {name};"))
        .collect();
    let wit = format!("package a:b; world it {{ export {RESOURCE_HANDLER}; {imports} }}");
    let wat = format!(
        r#"(module
            {fields}
            (memory (export "memory") 1)
            (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024))
            (func $handle (export "{RESOURCE_HANDLER}#handle")
                (param i32 i32 i32 i32 i32 i32 i64 i32) (result i32) {handle} (i32.const 0))
            (func (export "{RESOURCE_HANDLER}#terminate")
                (param i32 i32 i32 i32 i32 i32 i64 i32 i32) (result i32) (i32.const 0)))"#
    );
    encode(product_wit(), &wit, |_, _| wat::parse_str(&wat).unwrap())
}

/// The product's WIT with all that it depends on.
pub(crate) fn product_wit() -> Resolve {
    let mut resolve = Resolve::default();
    resolve.push_dir(root().join("wit")).unwrap();
    resolve
}

/// A handler with `invocation` that answers with the body it got.
pub(crate) fn echo() -> Bytes {
    let file = root().join("wit/invocation.wit");
    let invocation = fs::read_to_string(file).unwrap();
    let invocation = invocation.replace("package holdfast:handler@0.1.0;", "");
    let wit = world("export invocation;") + &invocation;
    let wat = r#"(module
        (memory (export "memory") 4)
        (global $free (mut i32) (i32.const 1024))
        (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
            (global.get $free)
            (global.set $free (i32.add (global.get $free) (local.get 3))))
        (func (export "holdfast:handler/resource-handler@0.1.0#handle")
            (param i32 i32 i32 i32 i32 i32 i64 i32) (result i32) (i32.const 0))
        (func (export "holdfast:handler/resource-handler@0.1.0#terminate")
            (param i32 i32 i32 i32 i32 i32 i64 i32 i32) (result i32) (i32.const 0))
        (func (export "holdfast:handler/invocation@0.1.0#invoke")
            (param i32 i32 i64 i64 i32 i32 i32 i32 i32 i32) (param $body i32) (param $len i32)
            (result i32)
            (i32.store offset=32 (i32.const 0) (local.get $body))
            (i32.store offset=36 (i32.const 0) (local.get $len))
            (global.set $free (i32.const 1024))
            (i32.const 16)))"#;
    encode(Resolve::default(), &wit, |_, _| {
        wat::parse_str(wat).unwrap()
    })
}

/// The product's `resource-handler`, and a world `it` that exports it and has `more`.
pub(crate) fn world(more: &str) -> String {
    let file = root().join("wit/resource-handler.wit");
    let wit = fs::read_to_string(file).unwrap();
    format!("{wit}\nworld it {{ export resource-handler; {more} }}")
}

fn encode(
    mut resolve: Resolve,
    wit: &str,
    core: impl FnOnce(&Resolve, WorldId) -> Vec<u8>,
) -> Bytes {
    let package = resolve.push_str("it.wit", wit).unwrap();
    let world = resolve.select_world(&[package], Some("it")).unwrap();
    let mut module = core(&resolve, world);
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).unwrap();
    let mut encoder = ComponentEncoder::default();
    encoder.module(&module).unwrap().encode().unwrap().into()
}

/// The component of `tests/guests/probe`, built once per test process as `holdfast build` does.
pub(crate) fn probe() -> Bytes {
    static PROBE: LazyLock<Bytes> = LazyLock::new(build_probe);
    PROBE.clone()
}

fn build_probe() -> Bytes {
    // The same folder and flags as those of the scenario tests, which so share the work.
    let tests: PathBuf = env!("CARGO_TARGET_TMPDIR").into();
    let target = tests.with_file_name("guests");
    fs::create_dir_all(&target).unwrap();
    let turn = File::create(target.join("turn")).unwrap();
    turn.lock().unwrap();
    if let Err(words) = cargo_build(&target) {
        assert!(words.contains("may not be installed"), "{words}");
        run(Command::new("rustup").args(["target", "add", TARGET])).unwrap();
        cargo_build(&target).unwrap();
    }
    let file = target.join(TARGET).join("release/probe.wasm");
    fs::read(file).unwrap().into()
}

fn cargo_build(target: &Path) -> Result<(), String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .current_dir(root())
        .args(["build", "--release", "--locked", "--target", TARGET])
        .args(["--package", "probe", "--target-dir"])
        .arg(target)
        // These would replace the flags below.
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env_remove("CARGO_BUILD_TARGET")
        .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "s")
        .env("CARGO_PROFILE_RELEASE_LTO", "true")
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1")
        .env("CARGO_PROFILE_RELEASE_PANIC", "abort")
        .env("CARGO_PROFILE_RELEASE_STRIP", "debuginfo")
        .env(
            "CARGO_TARGET_WASM32_WASIP2_RUSTFLAGS",
            "-C link-arg=-zstack-size=65536",
        );
    run(&mut command)
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&output.stderr).into_owned())
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

const RESOURCE_HANDLER: &str = "holdfast:handler/resource-handler@0.1.0";
const TARGET: &str = "wasm32-wasip2";
