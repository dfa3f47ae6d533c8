//! What a node that may not run its instances any more still does: nothing.

#![expect(clippy::unwrap_used, reason = "what cannot be set up fails the test")]

use std::{thread, time::Duration};

use holdfast_model::{Lane, Settings};
use holdfast_runtime::{Failure, Fence, Instance, Options, Runtime, TerminateReason};

use crate::support::{held, load, probe, request, resource};

/// A held instance in this lane, and the fence that it is behind.
async fn fenced(lane: Lane) -> (Instance, Fence, Runtime) {
    let fence = Fence::open();
    let options = Options {
        fence: fence.clone(),
        ..Options::default()
    };
    let runtime = Runtime::new(options).unwrap();
    let settings = Settings {
        lane: Some(lane),
        ..Settings::default()
    };
    (held(&runtime, &settings).await, fence, runtime)
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_begins_behind_a_shut_fence() {
    for lane in [Lane::Direct, Lane::Fiber] {
        let (mut instance, fence, runtime) = fenced(lane).await;
        instance.invoke(&request("")).await.unwrap();
        fence.pass_until(Duration::ZERO);
        assert_eq!(instance.invoke(&request("")).await, Err(Failure::Fenced));
        let ended = instance.terminate(TerminateReason::Moved).await;
        assert_eq!(ended, Err(Failure::Fenced), "no hook runs either");
        // A component is loaded all the same: its trial is nobody's resource.
        let module = load(&runtime, &probe(), &Settings::default()).await;
        let mut another = module.unwrap().instantiate(resource("{}")).await.unwrap();
        assert_eq!(another.handle().await, Err(Failure::Fenced));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_computes_is_cut_when_the_fence_shuts() {
    for lane in [Lane::Direct, Lane::Fiber] {
        let (mut instance, fence, _runtime) = fenced(lane).await;
        // The guest spins for ever, and its limit is half a minute.
        let shutter = thread::spawn(move || {
            thread::sleep(Duration::from_millis(100));
            fence.pass_until(Duration::ZERO);
        });
        let cut = instance.invoke(&request(r#"{"op":"spin"}"#)).await;
        assert_eq!(cut, Err(Failure::Cut), "{lane:?}");
        assert!(instance.is_dead());
        shutter.join().unwrap();
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
