//! Who is who in a packet, and how packets are written: postcard, as foca lays them out.

use std::net::{IpAddr, SocketAddr};

use bytes::{Buf, BufMut};
use foca::{Header, Message, PostcardCodec};
use holdfast_model::{Incarnation, NodeId};
use serde::{Deserialize, Serialize};

use super::{Member, twins::Processes};

/// A member as others know it. Two of the same node are the same member at different times; the
/// greater one is newer.
///
/// The nil node stands for a seed: whoever listens at its address. It exists only as the addressee
/// of an announcement; the [`Codec`] sees to that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Identity {
    node: NodeId,
    incarnation: Incarnation,
    /// Grows when a live node was declared down and comes back.
    renewals: u32,
    addr: SocketAddr,
    /// Drawn at random by the process.
    process: u64,
}

impl Identity {
    pub(super) fn new(member: Member, process: u64) -> Self {
        let Member {
            node,
            incarnation,
            addr,
        } = member;
        // Flow and scope of an IPv6 address are not sent: without them both sides compare alike.
        let addr = SocketAddr::new(addr.ip(), addr.port());
        Self {
            node,
            incarnation,
            renewals: 0,
            addr,
            process,
        }
    }

    pub(super) fn seed(addr: SocketAddr) -> Self {
        Self {
            node: NodeId::default(),
            incarnation: Incarnation::default(),
            renewals: 0,
            addr,
            process: 0,
        }
    }

    pub(super) fn member(&self) -> Member {
        Member {
            node: self.node,
            incarnation: self.incarnation,
            addr: self.addr,
        }
    }

    /// Whether the other one is the same node at a later time.
    pub(super) fn precedes(&self, other: &Self) -> bool {
        let same = self.process == other.process;
        self.incarnation < other.incarnation
            || same && (self.incarnation, self.renewals) < (other.incarnation, other.renewals)
    }

    /// Whether both are one run of a node by what they say, and two processes.
    pub(super) fn is_twin_of(&self, other: &Self) -> bool {
        (self.node, self.incarnation) == (other.node, other.incarnation)
            && self.process != other.process
    }

    fn is_seed(&self) -> bool {
        self.node == NodeId::default()
    }

    /// Whether a packet can be sent to it at all.
    pub(super) fn is_reachable(&self) -> bool {
        let ip = self.addr.ip();
        let broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
        self.addr.port() != 0 && !ip.is_unspecified() && !ip.is_multicast() && !broadcast
    }
}

impl foca::Identity for Identity {
    type Addr = NodeId;

    fn renew(&self) -> Option<Self> {
        Some(Self {
            renewals: self.renewals.checked_add(1)?,
            ..*self
        })
    }

    fn addr(&self) -> NodeId {
        self.node
    }

    fn win_addr_conflict(&self, other: &Self) -> bool {
        // The last two decide only between two processes with copies of one data directory: after
        // one of them was taken for down.
        let age = |id: &Self| (id.incarnation, id.renewals, id.addr, id.process);
        age(self) > age(other)
    }
}

/// Reads and writes packets; refuses members that cannot be and twins, and takes an announcement to
/// the address of this node as one to this node.
pub(super) struct Codec {
    pub(super) own: NodeId,
    pub(super) processes: Processes,
}

/// Why a packet could not be read or written.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("the bytes are not those of a packet, or do not fit into one")]
    Postcard(#[from] postcard::Error),
    #[error("version {0} of the packet is unknown")]
    Version(u8),
    #[error("the packet is empty")]
    Empty,
    #[error("a member without a node id")]
    NoNode,
    #[error("a member at {0}, where nothing can be sent")]
    Unreachable(SocketAddr),
    #[error("the process at {0} has the identity of another one")]
    Twin(SocketAddr),
}

impl foca::Codec<Identity> for Codec {
    type Error = Error;

    fn encode_header(
        &mut self,
        header: &Header<Identity>,
        mut buf: impl BufMut,
    ) -> Result<(), Error> {
        if !buf.has_remaining_mut() {
            return Err(postcard::Error::SerializeBufferFull.into());
        }
        buf.put_u8(VERSION);
        Ok(PostcardCodec.encode_header(header, buf)?)
    }

    fn decode_header(&mut self, mut buf: impl Buf) -> Result<Header<Identity>, Error> {
        match buf.try_get_u8().map_err(|_| Error::Empty)? {
            VERSION => {}
            other => return Err(Error::Version(other)),
        }
        let mut header: Header<Identity> = PostcardCodec.decode_header(buf)?;
        check(&header.src)?;
        match &header.message {
            Message::PingReq { target: other, .. }
            | Message::IndirectPing { origin: other, .. }
            | Message::IndirectAck { target: other, .. }
            | Message::ForwardedAck { origin: other, .. } => check(other)?,
            Message::Announce if header.dst.is_seed() => header.dst.node = self.own,
            Message::Ping(_)
            | Message::Ack(_)
            | Message::Announce
            | Message::Feed
            | Message::Gossip
            | Message::Broadcast
            | Message::TurnUndead => {}
        }
        check(&header.dst)?;
        if self.processes.first(&header.src).is_some() {
            return Err(Error::Twin(header.src.addr));
        }
        Ok(header)
    }

    fn encode_member(
        &mut self,
        member: &foca::Member<Identity>,
        buf: impl BufMut,
    ) -> Result<(), Error> {
        Ok(PostcardCodec.encode_member(member, buf)?)
    }

    fn decode_member(&mut self, buf: impl Buf) -> Result<foca::Member<Identity>, Error> {
        let member: foca::Member<Identity> = PostcardCodec.decode_member(buf)?;
        check(member.id())?;
        let other = match member.state() {
            foca::State::Alive | foca::State::Suspect => self.processes.first(member.id()),
            foca::State::Down => self.processes.other(member.id()),
        };
        match other {
            None => Ok(member),
            // A twin of this node.
            Some(first) if first.node == self.own => Err(Error::Twin(member.id().addr)),
            // Says nothing new of the process that is the node.
            Some(first) => Ok(foca::Member::alive(first)),
        }
    }
}

fn check(identity: &Identity) -> Result<(), Error> {
    if identity.is_seed() {
        return Err(Error::NoNode);
    }
    if !identity.is_reachable() {
        return Err(Error::Unreachable(identity.addr));
    }
    Ok(())
}

/// Of the layout of packets.
const VERSION: u8 = 2;
