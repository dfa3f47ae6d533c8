//! What a node that may not run its instances any more still does: nothing.

#![expect(clippy::unwrap_used, reason = "what cannot be set up fails the test")]

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use holdfast_model::{Lane, OnLostQuorum, Settings};
use holdfast_runtime::{
    Failure, Fence, Fences, GuestLog, GuestLogSink, Instance, Options, Runtime, TerminateReason,
};

use crate::support::{handler_importing, held, load, probe, request, resource};

/// A held instance in this lane, and the fences of its node.
async fn fenced(lane: Lane) -> (Instance, Fences, Runtime) {
    let fences = Fences::open();
    let options = Options {
        fences: fences.clone(),
        ..Options::default()
    };
    let runtime = Runtime::new(options).unwrap();
    let settings = Settings {
        lane: Some(lane),
        ..Settings::default()
    };
    (held(&runtime, &settings).await, fences, runtime)
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_begins_behind_a_shut_fence() {
    for lane in [Lane::Direct, Lane::Fiber] {
        let (mut instance, fences, runtime) = fenced(lane).await;
        instance.invoke(&request("")).await.unwrap();
        fences.pass_until(Duration::ZERO);
        assert_eq!(instance.invoke(&request("")).await, Err(Failure::Fenced));
        let ended = instance.terminate(TerminateReason::Moved).await;
        assert_eq!(ended, Err(Failure::Fenced), "no hook runs either");
        // A component is loaded all the same: its trial is nobody's resource.
        let module = load(&runtime, &probe(), &Settings::default()).await;
        let mut another = module.unwrap().instantiate(resource("{}")).await.unwrap();
        assert_eq!(another.handle().await, Err(Failure::Fenced));
    }
}

/// Shuts the fences when a guest says something.
struct Shutter(Fences);

impl GuestLogSink for Shutter {
    fn log(&self, _: &GuestLog<'_>) {
        self.0.pass_until(Duration::ZERO);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_ready_when_the_fence_has_shut_is_withheld() {
    let fields = r#"
        (import "wasi:logging/logging@0.1.0-draft" "log"
            (func $log (param i32 i32 i32 i32 i32)))"#;
    // Nothing is computed after that, so nothing but the look at the clock can tell.
    let log = "(call $log (i32.const 3) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0))";
    let component = handler_importing(&["wasi:logging/logging@0.1.0-draft"], log, fields);
    for lane in [Lane::Direct, Lane::Fiber] {
        let fences = Fences::open();
        let options = Options {
            fences: fences.clone(),
            log: Arc::new(Shutter(fences)),
            ..Options::default()
        };
        let runtime = Runtime::new(options).unwrap();
        let settings = Settings {
            lane: Some(lane),
            ..Settings::default()
        };
        let module = load(&runtime, &component, &settings).await.unwrap();
        let mut instance = module.instantiate(resource("{}")).await.unwrap();
        assert_eq!(instance.handle().await, Err(Failure::Cut), "{lane:?}");
        assert!(instance.is_dead());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_is_cut_by_the_fence_has_not_timed_out() {
    // Half of its starts never end: the trial that a module is loaded with has to be one of the others.
    let fields = r#"
        (import "wasi:random/random@0.2.12" "get-random-u64" (func $random (result i64)))
        (func $start (if (i32.wrap_i64 (i64.and (call $random) (i64.const 1))) (then (loop (br 0)))))
        (start $start)"#;
    let component = handler_importing(&["wasi:random/random@0.2.12"], "", fields);
    for lane in [Lane::Direct, Lane::Fiber] {
        let fences = Fences::open();
        let options = Options {
            fences: fences.clone(),
            ..Options::default()
        };
        let runtime = Runtime::new(options).unwrap();
        let mut settings = Settings {
            lane: Some(lane),
            ..Settings::default()
        };
        settings.limits.handle_timeout_ms = 200;
        let mut loaded = load(&runtime, &component, &settings).await;
        for _ in 0..TRIES {
            if loaded.is_err() {
                loaded = load(&runtime, &component, &settings).await;
            }
        }
        let module = loaded.unwrap();
        fences.pass_until(Duration::ZERO);
        let mut failure = None;
        for _ in 0..TRIES {
            failure = failure.or(module.instantiate(resource("{}")).await.err());
        }
        assert_eq!(failure, Some(Failure::Cut), "{lane:?}");
    }
}

/// After so many, one in two has happened.
const TRIES: u32 = 64;

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_computes_is_cut_when_the_fence_shuts() {
    for lane in [Lane::Direct, Lane::Fiber] {
        let (mut instance, fences, _runtime) = fenced(lane).await;
        // The guest spins for ever. At its limit it would be cut all the same, and too late.
        let mut spin = request(r#"{"op":"spin"}"#);
        spin.timeout = Duration::from_secs(30);
        let began = Instant::now();
        let shutter = thread::spawn(move || {
            thread::sleep(Duration::from_millis(100));
            fences.pass_until(Duration::ZERO);
        });
        let cut = instance.invoke(&spin).await;
        assert_eq!(cut, Err(Failure::Cut), "{lane:?}");
        assert!(began.elapsed() < spin.timeout, "{lane:?}: by its limit");
        assert!(instance.is_dead());
        shutter.join().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_on_without_a_majority_passes_until_the_node_ends() {
    let (mut stops, fences, runtime) = fenced(Lane::Direct).await;
    let settings = Settings {
        on_lost_quorum: OnLostQuorum::Continue,
        ..Settings::default()
    };
    let mut goes_on = held(&runtime, &settings).await;
    for lapsed in [
        // By the clock alone, and told.
        (|fences| fences.pass_until(Duration::from_nanos(1))) as fn(&Fences),
        Fences::lapse,
    ] {
        lapsed(&fences);
        assert_eq!(stops.invoke(&request("")).await, Err(Failure::Fenced));
        goes_on.invoke(&request("")).await.unwrap();
    }
    fences.end();
    assert_eq!(goes_on.invoke(&request("")).await, Err(Failure::Fenced));
}

#[test]
fn fences_that_were_never_passed_are_not_opened_by_a_lease_that_ends() {
    let fences = Fences::shut();
    fences.lapse();
    for module in [OnLostQuorum::Stop, OnLostQuorum::Continue] {
        assert!(fences.of(module).is_shut(), "{module:?}");
    }
}

#[test]
fn a_fence_is_open_shut_or_passed_until_its_time() {
    assert!(!Fence::open().is_shut());
    assert!(Fence::shut().is_shut());
    let fence = Fence::shut();
    // The machine has not been running for that long, and will not have been for longer.
    fence.pass_until(Duration::from_secs(u32::MAX.into()));
    assert!(!fence.is_shut());
    fence.pass_until(Duration::from_nanos(1));
    assert!(fence.is_shut());
}
