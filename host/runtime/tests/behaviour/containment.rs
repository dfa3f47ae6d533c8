//! A handler harms itself only.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use holdfast_model::{Lane, Settings};
use holdfast_runtime::{Failure, LoadError, Options, Runtime, Source, TerminateReason};

use crate::support::{
    handler, handler_importing, held, load, request, resource, runtime, runtime_that_keeps,
};

fn lane(lane: Lane) -> Settings {
    Settings {
        lane: Some(lane),
        ..Settings::default()
    }
}

fn trapped(failure: Failure) -> (String, String) {
    match failure {
        Failure::Trapped {
            function, message, ..
        } => (function.to_string(), message.to_string()),
        other => panic!("not a trap: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_tells_where_and_what_and_kills_its_instance_only() {
    for chosen in [Lane::Direct, Lane::Fiber] {
        let (runtime, said) = runtime_that_keeps();
        let mut one = held(&runtime, &lane(chosen)).await;
        let mut other = held(&runtime, &lane(chosen)).await;
        let failure = one.invoke(&request(r#"{"op":"panic"}"#)).await.unwrap_err();
        let (function, message) = trapped(failure.clone());
        assert!(function.contains("probe"), "{function}");
        assert!(message.starts_with("panicked at "), "{message}");
        assert!(message.ends_with(": told to panic"), "{message}");
        assert!(one.is_dead());
        assert_eq!(one.invoke(&request("")).await, Err(Failure::Dead));
        assert_eq!(
            one.terminate(TerminateReason::Stopping).await,
            Err(Failure::Dead)
        );
        assert!(other.invoke(&request("")).await.is_ok());

        let said = said.0.lock();
        let line = said
            .iter()
            .find(|(.., text)| text.contains("told to panic"))
            .unwrap();
        assert_eq!((line.0.as_str(), line.1.as_str()), ("probe", "r"));
        assert_eq!(line.2, Source::Logging);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_loop_ends_at_its_deadline() {
    let runtime = runtime();
    for chosen in [Lane::Direct, Lane::Fiber] {
        let limit = Duration::from_millis(300);
        let mut settings = lane(chosen);
        settings.limits.call_timeout_ms = 300;
        let mut instance = held(&runtime, &settings).await;
        let mut spin = request(r#"{"op":"spin"}"#);
        // What the caller has patience for costs no instance.
        spin.timeout = Duration::from_millis(10);
        let begin = Instant::now();
        let failure = instance.invoke(&spin).await.unwrap_err();
        assert_eq!(failure, Failure::TimedOut(limit));
        assert!(begin.elapsed() >= limit);
        assert!(instance.is_dead());
    }
}

#[test]
fn a_loop_does_not_hold_the_only_worker() {
    for chosen in [Lane::Direct, Lane::Fiber] {
        let tokio = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let turns = tokio.block_on(async {
            let mut settings = lane(chosen);
            settings.limits.call_timeout_ms = 3000;
            let mut instance = held(&runtime(), &settings).await;
            let turns = Arc::new(AtomicU32::new(0));
            let taken = turns.clone();
            let other = tokio::spawn(async move {
                loop {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    taken.fetch_add(1, Ordering::Relaxed);
                }
            });
            let counted = turns.clone();
            let call = tokio::spawn(async move {
                let spin = request(r#"{"op":"spin"}"#);
                let before = counted.load(Ordering::Relaxed);
                let result = instance.invoke(&spin).await;
                (result, counted.load(Ordering::Relaxed) - before)
            });
            let (result, turns) = call.await.unwrap();
            assert!(matches!(result, Err(Failure::TimedOut(_))), "{result:?}");
            other.abort();
            turns
        });
        // Some 600 if the machine has nothing else to do; without a hand-off one or none.
        assert!(turns >= 5, "{chosen:?}: the other task had {turns} turns");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_is_refused_at_the_limit() {
    let runtime = runtime();
    let mut settings = Settings::default();
    settings.limits.memory_bytes_max = 8 << 20;
    let mut instance = held(&runtime, &settings).await;
    let answer = instance
        .invoke(&request(r#"{"op":"alloc"}"#))
        .await
        .unwrap();
    let answer: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    let bytes = answer["bytes"].as_u64().unwrap();
    assert!((1 << 20..8 << 20).contains(&bytes), "{bytes}");

    let failure = instance
        .invoke(&request(vec![b' '; 16 << 20]))
        .await
        .unwrap_err();
    let Failure::OutOfMemory { limit, asked, .. } = failure else {
        panic!("{failure:?}");
    };
    assert_eq!(limit, 8 << 20);
    assert!(asked > limit);
    assert!(instance.is_dead());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_cannot_grow_frees_no_memory() {
    // Grows the memory by a page and, in vain, a table by all there is, and does so 64 times.
    let handle = "(local $n i32)
        (loop $again
            (drop (memory.grow (i32.const 1)))
            (drop (table.grow $t (ref.null func) (INDEX.const -1)))
            (local.set $n (i32.add (local.get $n) (i32.const 1)))
            (br_if $again (i32.lt_u (local.get $n) (i32.const 64))))
        (if (i32.gt_u (memory.size) (i32.const 16)) (then unreachable))";
    let mut settings = Settings::default();
    settings.limits.memory_bytes_max = 1 << 20;
    let component = handler(&handle.replace("INDEX", "i32"), "(table $t 1 funcref)");
    let module = load(&runtime(), &component, &settings).await.unwrap();
    let mut instance = module.instantiate(resource("{}")).await.unwrap();
    instance.handle().await.unwrap();

    // Only here could the size overflow the host's.
    let component = handler(&handle.replace("INDEX", "i64"), "(table $t i64 1 funcref)");
    let error = load(&runtime(), &component, &settings).await.unwrap_err();
    assert!(matches!(error, LoadError::Malformed { .. }), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trap_after_a_refused_growth_keeps_its_name() {
    let mut settings = Settings::default();
    settings.limits.memory_bytes_max = 1 << 20;
    let refused = "(drop (memory.grow (i32.const 1000)))";
    let granted = "(drop (memory.grow (i32.const 1)))";
    let divide = "(drop (i32.div_u (i32.const 1) (i32.const 0)))";
    for (handle, out_of_memory) in [
        (format!("{refused} unreachable"), true),
        (format!("{refused} {divide}"), false),
        (format!("{refused} {granted} unreachable"), false),
    ] {
        let component = handler(&handle, "");
        let module = load(&runtime(), &component, &settings).await.unwrap();
        let mut instance = module.instantiate(resource("{}")).await.unwrap();
        let failure = instance.handle().await.unwrap_err();
        let found = matches!(failure, Failure::OutOfMemory { .. });
        assert_eq!(found, out_of_memory, "{failure:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn more_fibers_than_the_process_can_have_are_refused() {
    let options = Options {
        fibers_max: Some(2),
        ..Options::default()
    };
    let runtime = Runtime::new(options).unwrap();
    let component = handler("", "");
    let module = load(&runtime, &component, &lane(Lane::Fiber))
        .await
        .unwrap();
    let one = module.instantiate(resource("{}")).await.unwrap();
    let _two = module.instantiate(resource("{}")).await.unwrap();
    let failure = module.instantiate(resource("{}")).await.err().unwrap();
    assert!(matches!(failure, Failure::TooManyFibers { max: 2, .. }));
    assert!(
        failure.to_string().contains("vm.max_map_count"),
        "{failure}"
    );
    drop(one);
    assert!(module.instantiate(resource("{}")).await.is_ok());
    // The direct lane has no stacks of its own.
    let module = load(&runtime, &component, &lane(Lane::Direct))
        .await
        .unwrap();
    assert!(module.instantiate(resource("{}")).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_text_is_cut() {
    // Answers `retry` with 60 MB of `x`.
    let handle = "(drop (memory.grow (i32.const 1000)))
        (memory.fill (i32.const 65536) (i32.const 120) (i32.const 60000000))
        (i32.store8 (i32.const 64) (i32.const 1))
        (i32.store8 (i32.const 68) (i32.const 0))
        (i32.store (i32.const 72) (i32.const 65536))
        (i32.store (i32.const 76) (i32.const 60000000))
        (return (i32.const 64))";
    let mut settings = Settings::default();
    settings.limits.memory_bytes_max = 128 << 20;
    let module = load(&runtime(), &handler(handle, ""), &settings)
        .await
        .unwrap();
    let mut instance = module.instantiate(resource("{}")).await.unwrap();
    let Failure::Retry(text) = instance.handle().await.unwrap_err() else {
        panic!("another failure");
    };
    assert!(text.starts_with("xxx"), "{text}");
    assert!(text.ends_with("x [cut: it had 60000000 bytes]"), "{text}");
    assert!(text.capacity() <= 8 << 10, "{}", text.capacity());
}

#[tokio::test(flavor = "multi_thread")]
async fn host_resources_and_random_bytes_are_bounded() {
    let fields = r#"
        (import "wasi:random/random@0.2.12" "get-random-bytes"
            (func $random (param i64 i32)))"#;
    let handle = "(call $random (i64.const 67108864) (i32.const 64))";
    let component = handler_importing(&["wasi:random/random@0.2.12"], handle, fields);
    let mut settings = Settings::default();
    settings.limits.memory_bytes_max = 128 << 20;
    let module = load(&runtime(), &component, &settings).await.unwrap();
    let mut instance = module.instantiate(resource("{}")).await.unwrap();
    let (_, message) = trapped(instance.handle().await.unwrap_err());
    assert!(message.contains("exceeds limit 65536"), "{message}");

    let fields = r#"
        (import "wasi:http/types@0.2.12" "[constructor]fields" (func $fields (result i32)))"#;
    let handle = "(loop (drop (call $fields)) (br 0))";
    let component = handler_importing(&["wasi:http/types@0.2.12"], handle, fields);
    let module = load(&runtime(), &component, &settings).await.unwrap();
    let mut instance = module.instantiate(resource("{}")).await.unwrap();
    let (_, message) = trapped(instance.handle().await.unwrap_err());
    assert!(message.contains("table"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn endless_recursion_is_no_crash() {
    let runtime = runtime();
    let call = "(call $handle (local.get 0) (local.get 1) (local.get 2) (local.get 3) \
        (local.get 4) (local.get 5) (local.get 6) (local.get 7)) (drop)";
    let component = handler(call, "");
    for chosen in [Lane::Direct, Lane::Fiber] {
        let module = load(&runtime, &component, &lane(chosen)).await.unwrap();
        let mut instance = module.instantiate(resource("{}")).await.unwrap();
        let (function, message) = trapped(instance.handle().await.unwrap_err());
        assert_eq!(function, "handle");
        assert_eq!(message, "it used up its call stack");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn exit_ends_the_instance_and_nothing_else() {
    let fields = r#"(import "wasi:cli/exit@0.2.12" "exit" (func $exit (param i32)))"#;
    let exit = "(call $exit (i32.const 1))";
    let component = handler_importing(&["wasi:cli/exit@0.2.12"], exit, fields);
    let module = load(&runtime(), &component, &Settings::default())
        .await
        .unwrap();
    let mut instance = module.instantiate(resource("{}")).await.unwrap();
    let (_, message) = trapped(instance.handle().await.unwrap_err());
    assert_eq!(message, "it exited with status 1; a handler must return");
    assert!(instance.is_dead());
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_in_the_direct_lane_traps_with_the_remedy() {
    let mut instance = held(&runtime(), &lane(Lane::Direct)).await;
    let sleep = request(r#"{"op":"sleep_ms","ms":50}"#);
    let (function, message) = trapped(instance.invoke(&sleep).await.unwrap_err());
    assert!(message.contains("lane = \"fiber\""), "{message}");
    assert!(function.contains("probe"), "{function}");
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_in_the_fiber_lane_holds_nobody() {
    let mut settings = lane(Lane::Fiber);
    settings.limits.call_timeout_ms = 1000;
    let mut instance = held(&runtime(), &settings).await;
    let begin = Instant::now();
    let sleep = request(r#"{"op":"sleep_ms","ms":50}"#);
    instance.invoke(&sleep).await.unwrap();
    assert!(begin.elapsed() >= Duration::from_millis(50));

    let long = request(r#"{"op":"sleep_ms","ms":60000}"#);
    let failure = instance.invoke(&long).await.unwrap_err();
    assert_eq!(failure, Failure::TimedOut(Duration::from_secs(1)));
    assert!(instance.is_dead());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_call_leaves_a_dead_instance() {
    let mut instance = held(&runtime(), &lane(Lane::Fiber)).await;
    let long = request(r#"{"op":"sleep_ms","ms":60000}"#);
    let call = instance.invoke(&long);
    assert!(
        tokio::time::timeout(Duration::from_millis(50), call)
            .await
            .is_err()
    );
    assert!(instance.is_dead());
    assert_eq!(instance.invoke(&request("")).await, Err(Failure::Dead));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hanging_terminate_ends_with_its_own_limit() {
    let runtime = runtime();
    let mut settings = Settings::default();
    settings.limits.terminate_timeout_ms = 100;
    let module = load(&runtime, &crate::support::probe(), &settings)
        .await
        .unwrap();
    let spec = r#"{"spin_in_terminate":true}"#;
    let mut instance = module.instantiate(resource(spec)).await.unwrap();
    instance.handle().await.unwrap();
    let failure = instance
        .terminate(TerminateReason::Moved)
        .await
        .unwrap_err();
    assert_eq!(failure, Failure::TimedOut(Duration::from_millis(100)));
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_that_grows_by_small_steps_takes_time_in_proportion() {
    // A page at a time to 192 MiB. Were each step a copy of all before, it would not end in time.
    let handle = "(local $n i32)
        (loop $again
            (if (i32.eq (memory.grow (i32.const 1)) (i32.const -1)) (then unreachable))
            (i32.store (i32.mul (local.get $n) (i32.const 65536)) (local.get $n))
            (local.set $n (i32.add (local.get $n) (i32.const 1)))
            (br_if $again (i32.lt_u (local.get $n) (i32.const 3072))))
        (loop $check
            (local.set $n (i32.sub (local.get $n) (i32.const 1)))
            (if (i32.ne (i32.load (i32.mul (local.get $n) (i32.const 65536))) (local.get $n))
                (then unreachable))
            (br_if $check (local.get $n)))";
    let mut settings = Settings::default();
    settings.limits.memory_bytes_max = 256 << 20;
    for chosen in [Lane::Direct, Lane::Fiber] {
        settings.lane = Some(chosen);
        let module = load(&runtime(), &handler(handle, ""), &settings)
            .await
            .unwrap();
        let mut instance = module.instantiate(resource("{}")).await.unwrap();
        instance.handle().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_guests_share_the_memory_of_the_node() {
    let options = Options {
        guest_memory_bytes_max: Some(2 << 20),
        ..Options::default()
    };
    let runtime = Runtime::new(options).unwrap();
    // Seventeen pages each.
    let handle = "(if (i32.eq (memory.grow (i32.const 16)) (i32.const -1)) (then unreachable))";
    let component = handler(handle, "");
    let module = load(&runtime, &component, &Settings::default())
        .await
        .unwrap();
    let mut one = module.instantiate(resource("{}")).await.unwrap();
    one.handle().await.unwrap();
    let mut other = module.instantiate(resource("{}")).await.unwrap();
    let failure = other.handle().await.unwrap_err();
    let Failure::NodeOutOfMemory { max, .. } = &failure else {
        panic!("{failure:?}");
    };
    assert_eq!(*max, 2 << 20);
    assert!(failure.to_string().contains("guest-memory"), "{failure}");
    assert_eq!(runtime.guest_memory(), (18 << 16, 2 << 20));
    drop((one, other));
    assert_eq!(runtime.guest_memory().0, 0);
    let mut another = module.instantiate(resource("{}")).await.unwrap();
    another.handle().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_stack_is_as_deep_as_its_module_says() {
    // `$down` calls itself so often, with a frame of 20 values that it needs afterwards.
    let locals = "(local i64 i64 i64 i64 i64 i64 i64 i64 i64 i64)";
    let fields = |depth: u32| {
        let sets: String = (1..=10)
            .map(|n| format!("(local.set {n} (i64.load (i32.const {})))", 8 * n))
            .collect();
        let sums: String = (1..=10)
            .map(|n| format!("(local.get {n}) (i64.add)"))
            .collect();
        format!(
            "(func $down (param i32) (result i64) {locals} {sets}
                (if (result i64) (local.get 0)
                    (then (call $down (i32.sub (local.get 0) (i32.const 1))))
                    (else (i64.const 1)))
                {sums})
            (func $go (drop (call $down (i32.const {depth}))))"
        )
    };
    let runtime = runtime();
    let deep = async |lane, depth, stack_bytes_max: Option<u64>| {
        let component = handler("(call $go)", &fields(depth));
        let mut settings = Settings {
            lane: Some(lane),
            ..Settings::default()
        };
        if let Some(bytes) = stack_bytes_max {
            settings.limits.stack_bytes_max = bytes;
        }
        let module = load(&runtime, &component, &settings).await.unwrap();
        // As a node starts instances: on threads that have room for any call stack.
        let (tenant, lane) = (module.tenant().clone(), module.lane());
        let start = async move {
            let mut instance = module.instantiate(resource("{}")).await.unwrap();
            instance.handle().await
        };
        tenant.start(lane, start).await.unwrap()
    };
    for lane in [Lane::Direct, Lane::Fiber] {
        // As deep as interpreters recurse: 256 KiB would have room for a tenth of that.
        assert_eq!(deep(lane, 4_000, None).await, Ok(()));
        let (_, message) = trapped(deep(lane, 4_000, Some(128 << 10)).await.unwrap_err());
        assert_eq!(message, "it used up its call stack");
        assert_eq!(deep(lane, 50_000, Some(16 << 20)).await, Ok(()));
        let (_, message) = trapped(deep(lane, 50_000, None).await.unwrap_err());
        assert_eq!(message, "it used up its call stack");
    }
}
