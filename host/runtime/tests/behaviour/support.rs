//! Components to run, and a runtime that keeps what they say.

#![expect(clippy::unwrap_used, reason = "what cannot be set up fails the test")]

use std::{fs, sync::Arc, time::Duration};

use bytes::Bytes;
use holdfast_model::{Digest, Settings, Spec, Token, call};
use holdfast_runtime::{
    GuestLog, GuestLogSink, Instance, LoadError, ManagedResource, Module, Options, Runtime, Source,
};
pub(crate) use holdfast_test_components::probe;
use holdfast_test_components::{encode, resource_handler, root};
use parking_lot::Mutex;
use wit_parser::Resolve;

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
    answering(
        "(i32.store offset=32 (i32.const 0) (local.get $body))
         (i32.store offset=36 (i32.const 0) (local.get $len))",
    )
}

/// The same, with the content type that it got instead of the body.
pub(crate) fn echo_of_content_type() -> Bytes {
    answering(
        "(i32.store offset=20 (i32.const 0) (local.get $typed))
         (i32.store offset=24 (i32.const 0) (local.get $type))
         (i32.store offset=28 (i32.const 0) (local.get $type_len))",
    )
}

/// A handler with `invocation`, from code that fills in the response at address 20.
fn answering(fill: &str) -> Bytes {
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
            (param i32 i32 i64 i64 i32 i32 i32) (param $typed i32) (param $type i32)
            (param $type_len i32) (param $body i32) (param $len i32) (result i32)
            FILL
            (global.set $free (i32.const 1024))
            (i32.const 16)))"#;
    let wat = wat.replace("FILL", fill);
    encode(Resolve::default(), &wit, |_, _| {
        wat::parse_str(&wat).unwrap()
    })
}

/// The product's `resource-handler`, and a world `it` that exports it and has `more`.
pub(crate) fn world(more: &str) -> String {
    let wit = resource_handler();
    format!("{wit}\nworld it {{ export resource-handler; {more} }}")
}

const RESOURCE_HANDLER: &str = "holdfast:handler/resource-handler@0.1.0";
