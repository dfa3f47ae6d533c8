//! Gossip over the connections between nodes, for where UDP does not get through.
//!
//! A packet is lost when its connection, or its receiver, has no room for it: as on UDP, the protocol
//! repeats what matters.

use std::{future::Future, pin::Pin, time::Duration};

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use holdfast_model::NodeId;
use tokio::sync::mpsc;

use crate::peer::{Kind, Lane, Peers};

/// Kind of a gossip packet's frame.
pub(crate) const DELIVER: Kind = Kind(22);

/// A packet that a peer has sent over its connection.
#[derive(Debug)]
pub struct Delivered {
    /// Whether no UDP packet of ours arrives there.
    pub(super) deaf: bool,
    pub(super) packet: Bytes,
}

/// Takes what peers deliver. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Inbox(mpsc::Sender<Delivered>);

impl Inbox {
    /// An inbox, and the end that gossip reads.
    pub(crate) fn new() -> (Self, mpsc::Receiver<Delivered>) {
        let (inbox, delivered) = mpsc::channel(DELIVERED_MAX);
        (Self(inbox), delivered)
    }

    /// Takes the payload of a frame, if there is room.
    pub(crate) fn take(&self, payload: &Bytes) {
        let Some(deaf) = payload.first() else { return };
        // Full: gossip has not begun, or is behind.
        let _ = self.0.try_send(Delivered {
            deaf: *deaf != 0,
            packet: payload.slice(1..),
        });
    }
}

/// Packets on their way over connections.
pub(super) struct Deliveries {
    peers: Peers,
    under_way: FuturesUnordered<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl Deliveries {
    pub(super) fn new(peers: Peers) -> Self {
        Self {
            peers,
            under_way: FuturesUnordered::new(),
        }
    }

    pub(super) fn push(&mut self, to: NodeId, packet: &Bytes, deaf: bool) {
        if self.under_way.len() >= DELIVERIES_MAX {
            return;
        }
        let mut payload = BytesMut::with_capacity(1 + packet.len());
        payload.put_u8(u8::from(deaf));
        payload.extend_from_slice(packet);
        let (peers, payload) = (self.peers.clone(), payload.freeze());
        self.under_way.push(Box::pin(async move {
            let answer = peers.call(to, Lane::Control, DELIVER, payload, DELIVERY);
            // Lost, as packets are.
            let _ = answer.await;
        }));
    }

    /// Waits for one to end, for ever when there is none.
    pub(super) async fn next(&mut self) {
        if self.under_way.next().await.is_none() {
            std::future::pending::<()>().await;
        }
    }
}

/// Packets that may wait for gossip: more than a large cluster sends in a round.
const DELIVERED_MAX: usize = 256;

/// Packets that may be on their way.
const DELIVERIES_MAX: usize = 256;

/// How long one may be on its way. Later the protocol has repeated it.
const DELIVERY: Duration = Duration::from_secs(1);
