//! Clusters of this module alone, in one process, on a network that can be cut.

mod cluster;
mod copies;
mod recover;
mod store;

use std::{
    path::Path,
    sync::{
        Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::{FutureExt, future::BoxFuture};
use holdfast_cluster::state::{Allocation, ClusterSettings, Key};
use holdfast_model::{ClusterId, Digest, Settings, Spec};
use parking_lot::Mutex;
use tempfile::TempDir;

use super::*;

/// A network of nodes, any of which can be cut off.
struct Net {
    nodes: Mutex<BTreeMap<NodeId, Control>>,
    cut: Mutex<BTreeSet<NodeId>>,
    /// Nodes whose messages arrive, but whose answers are lost.
    mute: Mutex<BTreeSet<NodeId>>,
    /// How many messages were sent.
    messages: AtomicU64,
}

struct Wire {
    net: Weak<Net>,
    me: NodeId,
}

impl Transport for Wire {
    fn call(
        &self,
        to: NodeId,
        message: Bytes,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<Bytes, TransportError>> {
        let (net, me) = (self.net.clone(), self.me);
        async move {
            let net = net.upgrade().ok_or(TransportError::NotSent)?;
            net.messages.fetch_add(1, Ordering::Relaxed);
            let whole = || [me, to].iter().all(|node| !net.cut.lock().contains(node));
            let target = net.nodes.lock().get(&to).cloned();
            let target = target.filter(|_| whole()).ok_or(TransportError::NotSent)?;
            let answer = tokio::time::timeout(timeout, target.handle(me, message)).await;
            let answer = answer.map_err(|_| TransportError::TimedOut)?;
            let heard = whole() && !net.mute.lock().contains(&to);
            answer.ok().filter(|_| heard).ok_or(TransportError::Lost)
        }
        .boxed()
    }
}

impl Net {
    fn new() -> Arc<Self> {
        let (nodes, cut, mute, messages) = Default::default();
        Arc::new(Self {
            nodes,
            cut,
            mute,
            messages,
        })
    }

    fn transport(self: &Arc<Self>, me: NodeId) -> Arc<dyn Transport> {
        Arc::new(Wire {
            net: Arc::downgrade(self),
            me,
        })
    }

    async fn start(self: &Arc<Self>, dir: &Path, me: NodeId) -> Control {
        self.start_with(options(dir, me)).await
    }

    async fn start_with(self: &Arc<Self>, options: Options) -> Control {
        let me = options.me;
        let node = Control::open(options, self.transport(me)).await.unwrap();
        self.nodes.lock().insert(me, node.clone());
        node
    }

    fn forget(&self, node: NodeId) {
        let forgotten = self.nodes.lock().remove(&node);
        drop(forgotten);
    }
}

/// A founded cluster; the first node leads, all vote.
pub(crate) struct Cluster {
    net: Arc<Net>,
    pub(crate) nodes: Vec<Control>,
    dirs: Vec<TempDir>,
}

impl Cluster {
    pub(crate) async fn start(count: u64) -> Self {
        Self::start_with(count, |options| options).await
    }

    async fn start_with(count: u64, change: impl Fn(Options) -> Options) -> Self {
        let net = Net::new();
        let (mut nodes, mut dirs) = (Vec::new(), Vec::new());
        for number in 1..=count {
            let dir = TempDir::new().unwrap();
            nodes.push(
                net.start_with(change(options(dir.path(), id(number))))
                    .await,
            );
            dirs.push(dir);
        }
        found(&nodes[0]).await;
        let mut voters = BTreeSet::from([id(1)]);
        for number in 2..=count {
            nodes[0].add_learner(id(number), soon()).await.unwrap();
            voters.insert(id(number));
            vote(&nodes[0], voters.clone()).await;
        }
        Self { net, nodes, dirs }
    }

    /// The one of these nodes that leads.
    async fn leader(&self, among: &[usize]) -> usize {
        let mut found = None;
        within(|| {
            found = among
                .iter()
                .copied()
                .find(|index| self.nodes[*index].leadership().borrow().me);
            std::future::ready(found.is_some())
        })
        .await;
        found.unwrap()
    }

    /// Waits until all copies are equal.
    async fn converge(&self) {
        within(|| {
            let equal = self.nodes.windows(2).all(|pair| {
                let applied = |node: &Control| *node.applied().borrow();
                applied(&pair[0]) == applied(&pair[1])
                    && pair[0].read(Clone::clone) == pair[1].read(Clone::clone)
            });
            std::future::ready(equal)
        })
        .await;
    }
}

/// Elections wait longer than the disk of a loaded machine takes: most tests need a leader that
/// stays.
fn options(dir: &Path, me: NodeId) -> Options {
    Options {
        heartbeat: Duration::from_millis(100),
        election_min: Duration::from_secs(1),
        election_max: Duration::from_secs(2),
        ..Options::new(dir.to_owned(), me)
    }
}

pub(crate) fn id(number: u64) -> NodeId {
    NodeId(uuid::Uuid::from_u128(number.into()))
}

pub(crate) fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

/// Waits until something holds, and fails when it does not for long.
pub(crate) async fn within<F: Future<Output = bool>>(mut holds: impl FnMut() -> F) {
    let deadline = soon();
    while !holds().await {
        assert!(Instant::now() < deadline, "it does not come true");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Makes these the voters, as soon as they are ready.
async fn vote(leader: &Control, voters: BTreeSet<NodeId>) {
    within(|| async {
        match leader.change_voters(voters.clone(), soon()).await {
            Ok(()) => true,
            Err(ChangeError::NotReady { .. } | ChangeError::InProgress) => false,
            Err(error) => panic!("{error}"),
        }
    })
    .await;
}

async fn lead(node: &Control) {
    within(|| std::future::ready(node.leadership().borrow().me)).await;
}

fn new_cluster(name: &str) -> state::Cluster {
    state::Cluster {
        id: ClusterId::random(),
        name: name.parse().unwrap(),
        founded_at_ms: 1,
        settings: ClusterSettings::DEFAULT,
        outlasting: None,
    }
}

async fn found(node: &Control) {
    node.found(new_cluster("test"), soon()).await.unwrap();
    lead(node).await;
}

fn deployment(module: &str) -> Command {
    Command::Deploy {
        module: module.parse().unwrap(),
        digest: Digest::of(b"component"),
        size: 9,
        settings: Arc::new(Settings::default()),
        at_ms: 1,
    }
}

async fn deploy(node: &Control, module: &str) {
    let outcome = node.propose(deployment(module), soon()).await.unwrap();
    assert!(matches!(outcome, Outcome::Deployed { .. }), "{outcome:?}");
}

fn allocation(module: &str, resource: &str) -> Command {
    Command::Allocate {
        module: module.parse().unwrap(),
        entries: vec![(resource.parse().unwrap(), Spec::from_json(b"{}").unwrap())],
        placed: Vec::new(),
        at_ms: 2,
    }
}

async fn allocate(node: &Control, module: &str, resource: &str) {
    let outcome = node
        .propose(allocation(module, resource), soon())
        .await
        .unwrap();
    let Outcome::Allocated(allocated) = outcome else {
        panic!("{outcome:?}")
    };
    // A repetition whose first answer was lost finds it unchanged.
    assert!(matches!(
        allocated[..],
        [Allocation::Created | Allocation::Unchanged]
    ));
}

fn has(node: &Control, module: &str, resource: &str) -> bool {
    let (module, resource) = (module.parse().unwrap(), resource.parse().unwrap());
    node.read(|state| state.resource(&module, &resource).is_some())
}
