//! How members watch each other, and which of these settings make sense.

use std::{
    net::SocketAddr,
    num::{NonZeroU8, NonZeroUsize},
    time::Duration,
};

use foca::PeriodicParams;

/// How members watch each other. The same on all nodes of a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// How often one member, each in turn, is asked for a sign of life. 500 ms.
    ///
    /// Lower finds a crash sooner and sends more: some four packets per period and node. Higher
    /// delays every detection by as much.
    pub probe_period: Duration,
    /// How long the answer may take before others are asked to try. Less than half of
    /// [`Options::probe_period`] is wise; it must be less than all of it. 250 ms.
    ///
    /// Too low, slow networks cause needless indirect probes; too high, these come too late to
    /// prevent a suspicion.
    pub probe_rtt: Duration,
    /// How long a suspected member has to speak up before it is declared down. 1.5 s.
    ///
    /// Too low, pauses of busy machines look like crashes; higher delays every detection by as
    /// much. With the defaults a crash is noticed by all after 2.5 s as a rule, after 5 s if chance
    /// has it that nobody probes that node for a while.
    pub suspicion: Duration,
    /// First pause between announcements while nobody else is known; doubles up to
    /// [`Options::announce_alone_max`]. 1 s.
    ///
    /// Lower joins a cluster that starts all at once a little sooner, at the cost of packets to
    /// addresses where nobody is yet.
    pub announce_alone_min: Duration,
    /// Longest pause between announcements while nobody else is known. 10 s.
    ///
    /// It is also how long a node can stay alone after its network came back.
    pub announce_alone_max: Duration,
    /// Pause between announcements to seeds and members that are down, while others are up. 30 s.
    ///
    /// It bounds how long the halves of a cluster stay apart after the network between them came
    /// back. Lower sends more packets to addresses of nodes that left.
    pub announce_absent: Duration,
    /// How long a member that is down stays known, to be announced to. 24 h.
    ///
    /// Too low, a half that was cut off for longer is only found again through the seeds. Higher
    /// costs some 100 bytes for each node that ever left.
    pub forget_after: Duration,
    /// Largest packet, before it is sealed. 1,300 bytes.
    ///
    /// Higher risks packets that the network cuts up or drops, lower makes news spread slower. At
    /// least 512.
    pub packet_bytes_max: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            probe_period: Duration::from_millis(500),
            probe_rtt: Duration::from_millis(250),
            suspicion: Duration::from_millis(1500),
            announce_alone_min: Duration::from_secs(1),
            announce_alone_max: Duration::from_secs(10),
            announce_absent: Duration::from_secs(30),
            forget_after: Duration::from_secs(24 * 60 * 60),
            packet_bytes_max: 1300,
        }
    }
}

/// Why a [`Membership`](super::Membership) could not be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidOptions {
    /// A duration that must not be zero is.
    #[error("{0} must be greater than zero")]
    Zero(&'static str),
    /// The direct probe would last as long as the whole round.
    #[error("probe_rtt ({rtt:?}) must be less than probe_period ({period:?})")]
    ProbeRtt {
        /// The rtt that was given.
        rtt: Duration,
        /// The period that was given.
        period: Duration,
    },
    /// The shortest pause is longer than the longest.
    #[error("announce_alone_min ({min:?}) must not be greater than announce_alone_max ({max:?})")]
    AnnounceAlone {
        /// The least that was given.
        min: Duration,
        /// The most that was given.
        max: Duration,
    },
    /// Members would not fit into a packet.
    #[error("packet_bytes_max is {0}, but must be from 512 to 65,000")]
    PacketBytes(usize),
    /// Others could not send to this node.
    #[error("{0} cannot be advertised to other nodes: give the address and port they reach")]
    Address(SocketAddr),
    /// The nil UUID stands for a seed whose node is unknown.
    #[error("the nil UUID cannot be the id of a node")]
    NilNode,
}

pub(super) fn config(options: &Options) -> Result<foca::Config, InvalidOptions> {
    for (name, duration) in [
        ("probe_period", options.probe_period),
        ("probe_rtt", options.probe_rtt),
        ("suspicion", options.suspicion),
        ("announce_alone_min", options.announce_alone_min),
        ("announce_absent", options.announce_absent),
        ("forget_after", options.forget_after),
    ] {
        if duration.is_zero() {
            return Err(InvalidOptions::Zero(name));
        }
    }
    let (rtt, period) = (options.probe_rtt, options.probe_period);
    if rtt >= period {
        return Err(InvalidOptions::ProbeRtt { rtt, period });
    }
    let (min, max) = (options.announce_alone_min, options.announce_alone_max);
    if min > max {
        return Err(InvalidOptions::AnnounceAlone { min, max });
    }
    let packet = NonZeroUsize::new(options.packet_bytes_max)
        .filter(|bytes| (512..=65_000).contains(&bytes.get()))
        .ok_or(InvalidOptions::PacketBytes(options.packet_bytes_max))?;
    let every = |frequency, members| {
        Some(PeriodicParams {
            frequency,
            num_members: NonZeroUsize::new(members).expect("the numbers below are not zero"),
        })
    };
    Ok(foca::Config {
        probe_period: period,
        probe_rtt: rtt,
        num_indirect_probes: NonZeroUsize::new(3).expect("three is not zero"),
        // Enough for a hundred members; each repeat costs some 30 bytes in packets sent anyway.
        max_transmissions: NonZeroU8::new(10).expect("ten is not zero"),
        suspect_to_down_after: options.suspicion,
        remove_down_after: Some(options.forget_after),
        max_packet_size: packet,
        // Without it a live node that was declared down would never learn of it.
        notify_down_members: true,
        periodic_announce: every(Duration::from_secs(30), 1),
        // `Membership::announce` does it, by address and also while nobody is up.
        periodic_announce_to_down_members: None,
        periodic_gossip: every(Duration::from_millis(200), 3),
    })
}
