//! Random interleavings of what is wanted and what loads do, against the one promise: at rest, what is
//! wanted is ready and nothing else is kept.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use proptest::prelude::*;
use tokio::task::JoinSet;

use super::*;

/// What may happen between two looks.
#[derive(Clone, Debug)]
enum Step {
    /// The versions of a module that are wanted from now on, as bits: all that a start, a deployment, a
    /// rollout, its end, or a removal can say.
    Want(u8, u8),
    /// So many of the next attempts fail.
    Fail(u8),
    /// Loads get on by so many steps.
    Pass(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..3_u8, 0..8_u8).prop_map(|(module, versions)| Step::Want(module, versions)),
        1 => (0..4_u8).prop_map(Step::Fail),
        3 => (0..12_u8).prop_map(Step::Pass),
    ]
}

fn name(number: u8) -> ModuleName {
    format!("m{number}").parse().unwrap()
}

fn version(number: u8) -> Arc<Version> {
    Arc::new(Version {
        number: u64::from(number) + 1,
        digest: Digest::of(&[number]),
        size: 1,
        settings: Arc::default(),
        deployed_at_ms: 1,
    })
}

fn versions(bits: u8) -> Vec<Arc<Version>> {
    (0..3)
        .filter(|n| bits & (1 << n) != 0)
        .map(version)
        .collect()
}

/// Whatever else can go on does.
async fn pass(steps: u8) {
    for _ in 0..steps {
        tokio::task::yield_now().await;
    }
}

async fn play(steps: Vec<Step>) {
    let shelf: Shelf<Digest, String> = Shelf::new();
    let failures = Arc::new(AtomicU32::new(0));
    let mut loads = JoinSet::new();
    let mut wanted: BTreeMap<u8, u8> = BTreeMap::new();
    for step in steps {
        match step {
            Step::Fail(more) => failures.store(u32::from(more), Relaxed),
            Step::Pass(steps) => pass(steps).await,
            Step::Want(module, bits) => {
                wanted.insert(module, bits);
                for load in shelf.want(&name(module), &versions(bits)) {
                    let (failures, version) = (Arc::clone(&failures), load.version());
                    let attempt = move || {
                        let (failures, version) = (Arc::clone(&failures), Arc::clone(&version));
                        async move {
                            pass(3).await;
                            let fails = |left: u32| left.checked_sub(1);
                            match failures.fetch_update(Relaxed, Relaxed, fails) {
                                Ok(_) => Err("no space left on device".to_owned()),
                                Err(_) => Ok(version.digest),
                            }
                        }
                    };
                    loads.spawn(load.run(attempt, |_| pass(5)));
                }
            }
        }
    }
    // Everything comes to rest by itself: no load hangs, whether it is wanted or not.
    while let Some(done) = loads.join_next().await {
        done.unwrap();
    }
    for (module, bits) in wanted {
        for number in 0..3 {
            let found = shelf.progress(&name(module), &version(number));
            match bits & (1 << number) != 0 {
                true => assert!(
                    matches!(found, Some(Progress::Ready(_))),
                    "m{module} version {number} is wanted and {found:?}"
                ),
                false => assert!(found.is_none(), "m{module} version {number}: {found:?}"),
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn what_is_wanted_gets_ready_whatever_comes_between(
        steps in prop::collection::vec(step(), 1..40),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(play(steps));
    }
}

#[tokio::test]
async fn looking_makes_no_place_and_whoever_waits_is_told_when_it_is_given_up() {
    let shelf: Shelf<(), String> = Shelf::new();
    assert!(shelf.progress(&name(1), &version(1)).is_none());
    assert!(shelf.get(&name(1), &version(1)).await.is_none());
    let loads = shelf.want(&name(1), &[version(1)]);
    assert_eq!(loads.len(), 1);
    assert!(shelf.want(&name(1), &[version(1)]).is_empty(), "one load");
    let (first, second) = (version(1), name(1));
    let waits = shelf.get(&second, &first);
    let gives_up = async {
        pass(3).await;
        shelf.want(&name(1), &[])
    };
    let (told, none) = tokio::join!(waits, gives_up);
    assert!(told.is_none() && none.is_empty());
}
