//! What is stored and proposed, byte for byte.
//!
//! `golden.txt` has a line for each value: its name, and its bytes in hexadecimal. A value that is
//! written otherwise, or that can no longer be read, would be lost to a cluster that was upgraded. So
//! a line is never changed: what is written anew has another name there, and the old line stays and
//! is still read.

use std::{collections::BTreeMap, fmt::Debug, sync::Arc, time::Duration};

use holdfast_model::{
    Digest, Incarnation, ModuleName, NodeId, ResourceId, Settings, Slot, Spec, Token, Weight,
};
use serde::{Serialize, de::DeserializeOwned};

use super::{sample, *};
use crate::codec;

/// Values by name, as they are written today.
#[derive(Default)]
struct Values(BTreeMap<String, Vec<u8>>);

impl Values {
    /// A value, which can be read again.
    fn put<T: Serialize + DeserializeOwned + PartialEq + Debug>(&mut self, name: &str, value: &T) {
        let bytes = codec::encode(value);
        assert_eq!(&codec::decode::<T>(&bytes).unwrap(), value, "{name}");
        let before = self.0.insert(name.to_owned(), bytes);
        assert_eq!(before, None, "{name} is there twice");
    }

    fn text(&self) -> String {
        let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
        let lines = self
            .0
            .iter()
            .map(|(name, bytes)| format!("{name} {}\n", hex(bytes)));
        lines.collect()
    }
}

fn node(number: u128) -> NodeId {
    NodeId(uuid::Uuid::from_u128(number))
}

fn module() -> ModuleName {
    "m".parse().unwrap()
}

fn id() -> ResourceId {
    "r".parse().unwrap()
}

fn version() -> Version {
    Version {
        number: 3,
        digest: Digest([0xab; 32]),
        size: 70_000,
        settings: Arc::new(Settings::default()),
        deployed_at_ms: 1_700_000_000_000,
    }
}

fn full_about() -> About {
    About {
        weight: Weight::try_from(50).unwrap(),
        zone: Some("z".parse().unwrap()),
        ..sample::about()
    }
}

fn full_cluster() -> Cluster {
    Cluster {
        outlasting: Some(Outlasting {
            silence: Duration::from_millis(1_500),
            since: 9,
        }),
        ..sample::cluster(1)
    }
}

fn rows(values: &mut Values) {
    values.put("row/cluster", &sample::cluster(1));
    values.put("row/cluster-outlasting", &full_cluster());
    let member = Node {
        incarnation: Incarnation(2),
        standing: Standing::Active,
        about: sample::about(),
        weight: Weight::MAX,
        joined_at_ms: 5,
        drain_deadline_ms: None,
    };
    values.put("row/node", &member);
    let draining = Node {
        standing: Standing::Draining,
        about: full_about(),
        drain_deadline_ms: Some(30_000),
        ..member
    };
    values.put("row/node-draining", &draining);
    for standing in [Standing::Restarting, Standing::Down, Standing::Removed] {
        values.put(&format!("standing/{standing:?}").to_lowercase(), &standing);
    }
    let about = ModuleAbout {
        version: version(),
        rollout: None,
        failed: None,
        deployments: 3,
        removing: false,
    };
    values.put("row/module", &about);
    let rolling = ModuleAbout {
        rollout: Some(Rollout {
            version: version(),
            failed_on: BTreeMap::from([(node(1), "no".to_owned())]),
        }),
        failed: Some(FailedRollout {
            version: version(),
            error: "never".to_owned(),
        }),
        ..about
    };
    values.put("row/module-rolling", &rolling);
    let resource = Resource {
        spec: Spec::from_json(br#"{"a":12345678901234567890123}"#).unwrap(),
        revision: 4,
        allocated_at_ms: 6,
    };
    values.put("row/resource", &resource);
}

fn commands(values: &mut Values) {
    let mut put = |name: &str, command: Command| values.put(&format!("command/{name}"), &command);
    put("found", Command::Found(sample::cluster(1)));
    put("set", Command::Set(SettingsChange::default()));
    let all = SettingsChange {
        voters_wanted: Some(5),
        lease_ttl: Some(Duration::from_secs(4)),
        lease_guard: Some(Duration::from_millis(500)),
        replace_voters_after: Some(Duration::from_secs(60)),
        fast_failover: Some(false),
        stable_after: Some(Duration::ZERO),
    };
    put("set-all", Command::Set(all));
    let incarnation = Incarnation(2);
    let slots = vec![(module(), Slot(300), Token(7))];
    put(
        "release",
        Command::Release {
            node: node(1),
            incarnation,
            slots,
        },
    );
    let drain = |draining, deadline_ms| Command::Drain {
        node: node(1),
        draining,
        deadline_ms,
    };
    put("drain", drain(true, None));
    put("drain-deadline", drain(true, Some(1_000)));
    put("drain-cancel", drain(false, None));
    put(
        "weigh",
        Command::Weigh {
            node: node(1),
            weight: Weight::MAX,
        },
    );
    put(
        "restart",
        Command::Restart {
            node: node(1),
            incarnation,
        },
    );
    put(
        "remove",
        Command::Remove {
            node: node(1),
            incarnation,
        },
    );
    let deploy = Command::Deploy {
        module: module(),
        digest: Digest([1; 32]),
        size: 5,
        settings: Arc::new(Settings::default()),
        at_ms: 8,
    };
    put("deploy", deploy);
    let tried = |error| Command::Tried {
        module: module(),
        number: 3,
        node: node(1),
        error,
    };
    put("tried", tried(None));
    put("tried-in-vain", tried(Some("no".to_owned())));
    put(
        "remove-module",
        Command::RemoveModule {
            module: module(),
            resources_too: true,
        },
    );
    let placed = vec![Placed {
        slot: Slot(1),
        to: node(2),
    }];
    let entries = vec![(id(), Spec::default())];
    put(
        "allocate",
        Command::Allocate {
            module: module(),
            entries,
            placed,
            at_ms: 9,
        },
    );
    put(
        "deallocate",
        Command::Deallocate {
            module: module(),
            ids: vec![id()],
        },
    );
    let mut put = |name, decision| {
        let decide = Command::Decide { term: 6, decision };
        values.put(&format!("decision/{name}"), &decide);
    };
    let about = full_about();
    put(
        "join",
        Decision::Join {
            node: node(1),
            incarnation,
            about,
            at_ms: 4,
        },
    );
    put(
        "vacate",
        Decision::Vacate {
            node: node(1),
            incarnation,
        },
    );
    put("outlasted", Decision::Outlasted { since: 9 });
    let placed = Placed {
        slot: Slot(1),
        to: node(2),
    };
    put(
        "place",
        Decision::Place {
            slots: vec![(module(), placed, Token(7))],
        },
    );
}

#[test]
fn what_is_stored_and_proposed_is_written_as_ever() {
    let mut values = Values::default();
    rows(&mut values);
    commands(&mut values);
    let known = include_str!("golden.txt");
    let now = values.text();
    assert!(
        known == now,
        "host/cluster/src/state/golden.txt differs from what is written now:\n{now}"
    );
}
