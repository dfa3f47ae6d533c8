//! What a node does from joining to leaving: belong to a cluster, follow it, hand over.

use std::{collections::BTreeSet, net::SocketAddr, sync::Arc, time::Duration};

use futures_util::future::join_all;
use holdfast_cluster::{
    evidence::Death,
    state::{Cluster, Command, Key, Owner, Standing},
};
use holdfast_model::{ClusterId, NodeId};
use tokio::{
    sync::{broadcast::error::RecvError, mpsc, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{Error, join};
use crate::{
    clock::now_ms,
    config::{NodeConfig, OnStop},
    control::Control,
    gossip,
    identity::DataDir,
    modules::chain,
    peer::{self, Evidence, Peers, Proof},
    placement::{Members, Placement},
    restart::{Ending, Restarts},
};

/// The cluster that a node belongs to.
#[derive(Clone, Copy)]
pub(super) struct Belonging {
    pub(super) cluster: ClusterId,
    /// This very run of this node founded it.
    pub(super) founded: bool,
}

/// Finds out which cluster the node belongs to, founding it if so told; none when stopped before.
pub(super) async fn belong(
    config: &NodeConfig,
    dir: &DataDir,
    control: &Control,
    peers: &Peers,
    stop: &CancellationToken,
) -> Result<Option<Belonging>, Error> {
    if let Some(cluster) = dir.cluster() {
        return Ok(Some(Belonging {
            cluster,
            founded: false,
        }));
    }
    // A founder that ended between its two steps has a state, but no note of it.
    let founded = control.read(|state| state.cluster().map(|cluster| cluster.id));
    let (cluster, founded) = match founded {
        Some(cluster) => (cluster, true),
        None if config.bootstrap => {
            if let Some((seed, cluster)) = join::greet(&config.seeds, peers).await {
                return Err(Error::SeedFounded { seed, cluster });
            }
            let id = ClusterId::random();
            let deadline = (Instant::now() + FOUND).into_std();
            let cluster = Cluster {
                id,
                name: config.cluster.clone(),
                founded_at_ms: now_ms(),
                settings: config.founding,
                outlasting: None,
            };
            control.found(cluster, deadline).await?;
            info!(cluster.id = %id, cluster.name = %config.cluster, "founded the cluster");
            (id, true)
        }
        None => match join::ask_seeds(config, peers, stop).await? {
            Some(cluster) => (cluster, false),
            None => return Ok(None),
        },
    };
    dir.remember_cluster(cluster)?;
    Ok(Some(Belonging { cluster, founded }))
}

/// Follows the state: its nodes are peers, and this node must be one of them. Returns only why the
/// node must end.
pub(super) async fn follow_state(me: Owner, control: Control, peers: Peers) -> Error {
    let mut changes = control.subscribe();
    let removed = || {
        Error::Expelled(
            "an operator removed this node from the cluster; it can come back as a new node, with an \
             empty data directory"
                .to_owned(),
        )
    };
    loop {
        let changed = tokio::select! {
            changed = changes.changed() => changed,
            // Its copy of the state ends where it was removed, or before.
            () = peers.expelled() => return removed(),
        };
        for key in changed {
            let Key::Node(id) = key else { continue };
            let node = control.read(|state| state.nodes().get(&id).cloned());
            let Some(node) = node else { continue };
            let present = node.incarnation == me.incarnation;
            match node.standing {
                Standing::Removed if id == me.node => {
                    return removed();
                }
                Standing::Down if id == me.node && present => return Error::Fenced,
                _ if id == me.node && node.incarnation > me.incarnation => {
                    return Error::Expelled(
                        "a later run of this node has joined the cluster: its data directory is \
                         used elsewhere, too"
                            .to_owned(),
                    );
                }
                Standing::Removed => peers.remove(id),
                standing => {
                    peers.update(id, node.incarnation, node.about.addr);
                    if standing == Standing::Down {
                        peers.ended(id, node.incarnation);
                    }
                }
            }
        }
    }
}

/// Takes what gossip sees: who is there, and where.
pub(super) async fn follow_members(
    heard: gossip::Handle,
    peers: Peers,
    members: watch::Sender<Members>,
) {
    let mut seen = heard.members();
    loop {
        let now: Members = Arc::clone(&seen.borrow_and_update());
        for member in now.iter() {
            peers.update(member.node, member.incarnation, member.addr);
        }
        members.send_replace(now);
        if seen.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

/// Keeps gossip told of where nodes may be: the seeds, whose names may get other addresses, and
/// every node that the state knows.
pub(super) async fn announce(
    seeds: Vec<String>,
    heard: gossip::Handle,
    control: Control,
    peers: Peers,
) {
    // Gossip drops what is foreign without a word; a handshake says why. Seeds that do not answer
    // take their time, so that nothing waits for them.
    let greeted = join::greet(&seeds, &peers);
    tokio::join!(greeted, announce_again(&seeds, heard, control));
}

async fn announce_again(seeds: &[String], heard: gossip::Handle, control: Control) {
    let mut told = BTreeSet::new();
    loop {
        let mut addresses: BTreeSet<SocketAddr> = control.read(|state| {
            let present = state
                .nodes()
                .values()
                .filter(|n| n.standing != Standing::Removed);
            present.map(|node| node.about.addr).collect()
        });
        let look_up = |seed| tokio::time::timeout(LOOKUP, tokio::net::lookup_host(seed));
        let found = seeds
            .iter()
            .map(|seed| async move { (seed, look_up(seed).await) });
        for (seed, found) in join_all(found).await {
            match found {
                Ok(Ok(found)) => addresses.extend(found),
                Ok(Err(error)) => debug!(seed, %error, "a seed's name was not found"),
                Err(_) => debug!(seed, "a seed's name was not found in time"),
            }
        }
        if addresses != told {
            heard.announce(addresses.iter().copied().collect());
            told = addresses;
        }
        tokio::time::sleep(LOOK_UP_AGAIN).await;
    }
}

/// Passes on the proofs of death that connections bring.
pub(super) async fn deaths(mut events: mpsc::Receiver<peer::Event>, placement: Placement) {
    while let Some(event) = events.recv().await {
        match event {
            peer::Event::Connected(peer) => {
                info!(node.id = %peer.node, node.incarnation = %peer.incarnation, "connected");
            }
            peer::Event::Lost { node, incarnation } => {
                info!(node.id = %node, node.incarnation = %incarnation, "the connection broke");
            }
            peer::Event::Dead(Evidence {
                subject: (node, incarnation),
                proof,
            }) => match proof {
                Proof::Refused { addr } => {
                    info!(node.id = %node, node.incarnation = %incarnation, peer.addr = %addr, "proven dead");
                    placement.died(Death { node, incarnation });
                }
                // The new run joins and takes back what the old one had: nothing need be freed,
                // unless it dies before that. Under another boot the lock of the data directory
                // proves nothing.
                Proof::NewerIncarnation { same_boot, .. } => {
                    info!(node.id = %node, node.incarnation = %incarnation, "started anew");
                    if same_boot {
                        placement.replaced(Death { node, incarnation });
                    }
                }
            },
        }
    }
}

/// Waits for a reason to end because another cluster has this one's name. Only who has just founded
/// and is still alone ends: an established cluster is not to be stopped by somebody else's mistake.
pub(super) async fn name_taken(heard: gossip::Handle, control: Control, founder: bool) -> Error {
    let mut events = heard.events();
    loop {
        match events.recv().await {
            Ok(gossip::Event::NameTaken { other, from }) => {
                let alone = control.read(|state| state.nodes().len() <= 1);
                if founder && alone {
                    return Error::NameTaken { other, from };
                }
            }
            Ok(_) | Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return std::future::pending().await,
        }
    }
}

/// Hands over its vote and what this node has, as far as there is somebody to take it and it is not kept
/// for the next run, and its leadership.
pub(super) async fn leave(
    ending: Ending,
    config: &NodeConfig,
    me: Owner,
    control: &Control,
    placement: &Placement,
    restarts: &Restarts,
) {
    if let Some(lost) = placement.lost_quorum() {
        warn!(%lost, "nothing can be handed over");
        return;
    }
    let others = placement.live().len() > 1;
    let joined = control.read(|state| state.active(me.node) == Some(me));
    let reserved = match (ending, config.on_stop) {
        (Ending::Restart, _) => true,
        (Ending::Stop, OnStop::HandOver) => false,
        (Ending::Stop, OnStop::Reserve) => {
            let announced = restarts.announce().await;
            let lost = "the cluster did not hear that this node will be back";
            announced
                .inspect_err(|error| warn!(%error, "{lost}"))
                .is_ok()
        }
    };
    if others && joined && !reserved {
        // Before anything that takes long: others may be told to stop at the same time.
        placement.give_vote(Instant::now() + VOTE).await;
    }
    if others && joined && !reserved && !config.drain_timeout.is_zero() {
        let slots = owned(me.node, control);
        info!(
            slots,
            timeout_ms = config.drain_timeout.as_millis() as u64,
            "handing over"
        );
        let deadline = Instant::now() + config.drain_timeout;
        match drain(me, control, placement, deadline).await {
            Ok(()) if owned(me.node, control) == 0 => info!(slots, "handed over"),
            Ok(()) => warn!(slots = owned(me.node, control), "not all was handed over"),
            Err(error) => warn!(error = chain(&error), "nobody could be asked to take over"),
        }
    }
    if others && control.leadership().borrow().me {
        let live = placement.live();
        let voters = control.members().voters;
        let heir = voters
            .into_iter()
            .find(|voter| *voter != me.node && live.contains(voter));
        let deadline = (Instant::now() + TRANSFER).into_std();
        if let Some(heir) = heir
            && let Err(error) = placement.hand_over(heir, deadline).await
        {
            warn!(error = chain(&error), "the leadership was not handed over");
        }
    }
}

/// Has everything moved away, until all of it is gone, time is up or nobody is left to take it.
async fn drain(
    me: Owner,
    control: &Control,
    placement: &Placement,
    deadline: Instant,
) -> Result<(), crate::control::ProposeError> {
    let command = Command::Drain {
        node: me.node,
        draining: true,
        deadline_ms: None,
    };
    control.propose(command, deadline.into_std()).await?;
    let mut applied = control.applied();
    while owned(me.node, control) > 0 && Instant::now() < deadline {
        // When all nodes are told to stop at once, each of them drains and none can take over.
        let live = placement.live();
        let heirs = control.read(|state| {
            let takes = |node: &&NodeId| state.active(**node).is_some() && **node != me.node;
            live.iter().filter(takes).count()
        });
        if heirs == 0 {
            break;
        }
        let _ = tokio::time::timeout(LOOK_AGAIN, applied.changed()).await;
    }
    Ok(())
}

fn owned(node: NodeId, control: &Control) -> usize {
    control.read(|state| {
        let slots = state
            .modules()
            .values()
            .flat_map(|module| module.slots.values());
        slots
            .filter(|slot| slot.owner.is_some_and(|owner| owner.node == node))
            .count()
    })
}

/// How soon to look again whether anybody can take over.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

const FOUND: Duration = Duration::from_secs(10);
/// How long it may take until another node votes in the place of this one: a few seconds of catching up.
const VOTE: Duration = Duration::from_secs(5);
const TRANSFER: Duration = Duration::from_secs(2);
const LOOKUP: Duration = Duration::from_secs(2);
const LOOK_UP_AGAIN: Duration = Duration::from_secs(5);
