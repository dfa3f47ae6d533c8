use holdfast_cluster::state::{FailedRollout, Rollout};
use holdfast_model::Digest;

use super::*;

fn about(serves: u64, tried: Option<u64>, failed: Option<u64>) -> ModuleAbout {
    let version = |number| Version {
        number,
        digest: Digest::of(&[]),
        size: 0,
        settings: Default::default(),
        deployed_at_ms: 0,
    };
    ModuleAbout {
        version: version(serves),
        rollout: tried.map(|number| Rollout {
            version: version(number),
            failed_on: BTreeMap::new(),
        }),
        failed: failed.map(|number| FailedRollout {
            version: version(number),
            error: String::new(),
        }),
        deployments: 9,
        removing: false,
    }
}

#[test]
fn who_waits_for_a_version_hears_what_became_of_it() {
    for (serves, tried, failed, fate) in [
        (1, Some(2), None, Fate::Open),
        (1, Some(2), Some(1), Fate::Open),
        (2, None, None, Fate::Decided),
        (1, None, Some(2), Fate::Decided),
        (2, Some(3), None, Fate::Decided),
        (1, Some(3), Some(2), Fate::Decided),
        (1, Some(3), None, Fate::Replaced(3)),
        (3, None, None, Fate::Replaced(3)),
        (1, None, Some(3), Fate::Replaced(3)),
        (3, Some(4), None, Fate::Replaced(4)),
        (1, None, None, Fate::Removed),
    ] {
        let about = about(serves, tried, failed);
        let seen = Fate::of(Some(&about), 2);
        assert_eq!(seen, fate, "{serves} {tried:?} {failed:?}");
    }
    let mut going = about(2, None, None);
    going.removing = true;
    assert_eq!(Fate::of(Some(&going), 2), Fate::Removed);
    assert_eq!(Fate::of(None, 2), Fate::Removed);
}
