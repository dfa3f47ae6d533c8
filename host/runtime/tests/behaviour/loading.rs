//! Every component that cannot run is refused with what is wrong with it.

#![expect(clippy::unwrap_used, reason = "what cannot be set up fails the test")]

use bytes::Bytes;
use holdfast_model::{Digest, Lane, Settings};
use holdfast_runtime::{Failure, LoadError, Options, Runtime};
use holdfast_test_components::{trapping, trapping_in};

use crate::support::{handler, load, product_wit, resource, runtime, world};

async fn refused(component: impl Into<Bytes>) -> LoadError {
    let settings = Settings::default();
    load(&runtime(), &component.into(), &settings)
        .await
        .unwrap_err()
}

#[tokio::test]
async fn what_is_no_component_is_told_apart() {
    assert!(matches!(
        refused("#!/bin/sh").await,
        LoadError::NotWasm { .. }
    ));
    assert!(matches!(refused("").await, LoadError::NotWasm { .. }));
    let module = wat::parse_str("(module)").unwrap();
    let error = refused(module).await;
    assert!(matches!(error, LoadError::CoreModule), "{error}");
    assert!(error.to_string().contains("wasm32-wasip2"), "{error}");
}

#[tokio::test]
async fn a_broken_component_says_where() {
    let mut component = handler("", "").to_vec();
    component.truncate(component.len() / 2);
    let error = refused(component).await;
    let LoadError::Malformed { offset, .. } = error else {
        panic!("{error}");
    };
    assert!(offset.is_some_and(|offset| offset >= 8), "{error}");
}

#[tokio::test]
async fn a_component_with_async_is_told_how_to_build_it() {
    for component in [
        "(component (core func (canon backpressure.inc)))",
        "(component (type (future)))",
        "(component (type (stream u8)))",
    ] {
        let error = refused(wat::parse_str(component).unwrap()).await;
        assert!(
            matches!(error, LoadError::Async { .. }),
            "{component}: {error}"
        );
        for told in ["WASI 0.2", "wasm32-wasip2", "at byte"] {
            assert!(error.to_string().contains(told), "{error}");
        }
    }
    let next = r#"(component (import "wasi:clocks/monotonic-clock@0.3.0" (instance)))"#;
    let error = refused(wat::parse_str(next).unwrap()).await;
    assert!(matches!(error, LoadError::UnknownImports(_)), "{error}");
    assert!(error.to_string().contains("nodes have 0.2"), "{error}");
}

#[tokio::test]
async fn size_and_digest_are_checked() {
    let options = Options {
        component_bytes_max: 8,
        ..Options::default()
    };
    let small = Runtime::new(options).unwrap();
    let component = handler("", "");
    let error = load(&small, &component, &Settings::default())
        .await
        .unwrap_err();
    assert!(
        matches!(error, LoadError::TooLarge { max: 8, .. }),
        "{error}"
    );

    let name = "probe".parse().unwrap();
    let wrong = Digest::of(b"other");
    let settings = Settings::default();
    let error = runtime()
        .load(component, wrong, &name, &settings)
        .await
        .unwrap_err();
    assert!(matches!(error, LoadError::WrongDigest { .. }), "{error}");
}

#[tokio::test]
async fn what_is_refused_anyway_is_not_compiled() {
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("compiled");
    let options = Options {
        cache_dir: Some(cache.clone()),
        ..Options::default()
    };
    let runtime = Runtime::new(options).unwrap();
    let kept = || std::fs::read_dir(&cache).unwrap().count();
    let functions = "(func)".repeat(70_000);
    let (bomb, none) = (
        handler("", &functions),
        trapping("package a:b; interface c { d: func(); } world it { export c; }"),
    );
    for component in [bomb, none] {
        let settings = Settings::default();
        let error = load(&runtime, &component, &settings).await.unwrap_err();
        let told = matches!(
            error,
            LoadError::TooManyParts {
                what: "functions",
                ..
            } | LoadError::MissingExport { .. }
        );
        assert!(told, "{error}");
        assert_eq!(kept(), 0);
    }
    // What turns out to be of no use only then is not kept either.
    let trap = handler("", "(func $trap (unreachable)) (start $trap)");
    let error = load(&runtime, &trap, &Settings::default())
        .await
        .unwrap_err();
    assert!(matches!(error, LoadError::Start(_)), "{error}");
    assert_eq!(kept(), 0);
    let module = load(&runtime, &handler("", ""), &Settings::default()).await;
    assert_eq!(kept(), 1);
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    assert!(
        maps.contains(&cache.display().to_string()),
        "the code is mapped"
    );
    drop(module);
}

#[tokio::test]
async fn the_handler_interface_is_required() {
    let component = trapping("package a:b; interface c { d: func(); } world it { export c; }");
    let error = refused(component).await;
    let LoadError::MissingExport { found } = &error else {
        panic!("{error}");
    };
    assert_eq!(found, &["a:b/c"]);
}

#[tokio::test]
async fn a_wrong_signature_is_shown_beside_the_right_one() {
    let wit = "package holdfast:handler@0.1.0;
        interface resource-handler {
            enum reason { a, b }
            handle: func(res: list<u8>) -> option<string>;
            terminate: func(res: string, reason: reason);
        }
        world it { export resource-handler; }";
    let error = refused(trapping(wit)).await;
    let LoadError::WrongSignature {
        function, found, ..
    } = &error
    else {
        panic!("{error}");
    };
    assert_eq!(*function, "handle");
    assert_eq!(found, "func(res: list<u8>) -> option<string>");
    assert!(
        error
            .to_string()
            .contains("func(res: record { module: string"),
        "{error}"
    );

    let absent = "package holdfast:handler@0.1.0;
        interface resource-handler { handle: func(); }
        world it { export resource-handler; }";
    let error = refused(trapping(absent)).await;
    assert!(error.to_string().contains("`terminate`"), "{error}");
    assert!(error.to_string().contains("`nothing`"), "{error}");
}

#[tokio::test]
async fn an_optional_interface_is_checked_too() {
    let wit = world("export invocation;") + "\ninterface invocation { invoke: func() -> u8; }";
    let error = refused(trapping(&wit)).await;
    let LoadError::WrongSignature { function, .. } = error else {
        panic!("{error}");
    };
    assert_eq!(function, "invoke");
}

#[tokio::test]
async fn all_unknown_imports_are_named_at_once() {
    let wit = world("import one; import two; import plain: func();")
        + "\ninterface one { f: func(); } interface two { g: func(); }";
    let LoadError::UnknownImports(names) = refused(trapping(&wit)).await else {
        panic!("not refused for its imports");
    };
    let expected = [
        "holdfast:handler/one@0.1.0",
        "holdfast:handler/two@0.1.0",
        "plain",
    ];
    assert_eq!(names.len(), 3);
    assert!(
        expected.iter().all(|name| names.iter().any(|n| n == name)),
        "{names:?}"
    );
}

#[tokio::test]
async fn all_functions_that_a_known_interface_lacks_are_named_at_once() {
    let wit = "package wasi:random@0.2.3;
        interface random { get-random-u64: func() -> u64; one: func(); two: func(); }";
    let mut resolve = product_wit();
    resolve.push_str("random.wit", wit).unwrap();
    let text = "package a:b; world it {
        export holdfast:handler/resource-handler@0.1.0; import wasi:random/random@0.2.3;
    }";
    let component = trapping_in(resolve, text);
    for lane in [Lane::Direct, Lane::Fiber] {
        let settings = Settings {
            lane: Some(lane),
            ..Settings::default()
        };
        let error = load(&runtime(), &component, &settings).await.unwrap_err();
        let LoadError::UnknownImports(names) = error else {
            panic!("{error:?}");
        };
        let expected = ["one", "two"].map(|name| format!("wasi:random/random@0.2.3#{name}"));
        assert_eq!(names, expected);
    }
}

#[tokio::test]
async fn stray_exports_and_later_patches_are_tolerated() {
    let wit = world("export init: func(); export more;").replace("@0.1.0", "@0.1.7")
        + "\ninterface more { f: func(); }";
    let module = load(&runtime(), &trapping(&wit), &Settings::default())
        .await
        .unwrap();
    assert!(!module.exports().invocation);
    let mut instance = module.instantiate(resource("{}")).await.unwrap();
    let request = crate::support::request("");
    assert_eq!(instance.invoke(&request).await, Err(Failure::NotInvocable));
    assert!(!instance.is_dead());
}

#[tokio::test]
async fn more_memory_than_allowed_is_refused_at_load() {
    let mut settings = Settings::default();
    settings.limits.memory_bytes_max = 128 << 10;
    // One page of its own, and a table of 16,384 entries.
    let component = handler("", "(table 16384 funcref)");
    let error = load(&runtime(), &component, &settings).await.unwrap_err();
    let LoadError::MemoryAboveLimit { needed, limit } = error else {
        panic!("{error}");
    };
    assert_eq!((needed, limit), (192 << 10, 128 << 10));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_function_is_bounded_as_calls_are() {
    let spin = handler("", "(func $spin (loop (br 0))) (start $spin)");
    let trap = handler("", "(func $trap (unreachable)) (start $trap)");
    for lane in [Lane::Direct, Lane::Fiber] {
        let mut settings = Settings {
            lane: Some(lane),
            ..Settings::default()
        };
        let error = load(&runtime(), &trap, &settings).await.unwrap_err();
        assert!(
            matches!(error, LoadError::Start(Failure::Trapped { .. })),
            "{error:?}"
        );
        settings.limits.handle_timeout_ms = 100;
        let error = load(&runtime(), &spin, &settings).await.unwrap_err();
        assert!(
            matches!(error, LoadError::Start(Failure::TimedOut(_))),
            "{error:?}"
        );
    }
}

#[tokio::test]
async fn the_lane_follows_what_is_imported_and_granted() {
    let component = handler("", "");
    let mut settings = Settings::default();
    settings.grants.http = vec!["a.example:443".parse().unwrap()];
    let module = load(&runtime(), &component, &settings).await.unwrap();
    assert_eq!(module.lane(), Lane::Direct, "a grant alone makes no fiber");
    settings.lane = Some(Lane::Fiber);
    let module = load(&runtime(), &component, &settings).await.unwrap();
    assert_eq!(module.lane(), Lane::Fiber);
}

#[tokio::test]
async fn every_known_interface_is_linked_in_both_lanes() {
    let imports = [
        "wasi:cli/environment@0.2.12",
        "wasi:cli/exit@0.2.12",
        "wasi:cli/stderr@0.2.12",
        "wasi:cli/stdin@0.2.12",
        "wasi:cli/stdout@0.2.12",
        "wasi:cli/terminal-input@0.2.12",
        "wasi:cli/terminal-output@0.2.12",
        "wasi:cli/terminal-stderr@0.2.12",
        "wasi:cli/terminal-stdin@0.2.12",
        "wasi:cli/terminal-stdout@0.2.12",
        "wasi:clocks/monotonic-clock@0.2.12",
        "wasi:clocks/wall-clock@0.2.12",
        "wasi:config/store@0.2.0-rc.1",
        "wasi:filesystem/preopens@0.2.12",
        "wasi:filesystem/types@0.2.12",
        "wasi:http/outgoing-handler@0.2.12",
        "wasi:http/types@0.2.12",
        "wasi:io/error@0.2.12",
        "wasi:io/poll@0.2.12",
        "wasi:io/streams@0.2.12",
        "wasi:logging/logging@0.1.0-draft",
        "wasi:random/insecure-seed@0.2.12",
        "wasi:random/insecure@0.2.12",
        "wasi:random/random@0.2.12",
        "wasi:sockets/instance-network@0.2.12",
        "wasi:sockets/ip-name-lookup@0.2.12",
        "wasi:sockets/network@0.2.12",
        "wasi:sockets/tcp-create-socket@0.2.12",
        "wasi:sockets/tcp@0.2.12",
        "wasi:sockets/udp-create-socket@0.2.12",
        "wasi:sockets/udp@0.2.12",
    ];
    let mut text =
        "package a:b; world it { export holdfast:handler/resource-handler@0.1.0;".to_owned();
    for import in imports {
        text.push_str(&format!("import {import};"));
    }
    text.push('}');
    let component = trapping_in(product_wit(), &text);
    for lane in [Lane::Direct, Lane::Fiber] {
        let settings = Settings {
            lane: Some(lane),
            ..Settings::default()
        };
        let module = load(&runtime(), &component, &settings).await.unwrap();
        for import in imports {
            assert!(
                module.imports().iter().any(|name| name == import),
                "{import}"
            );
        }
    }
}
