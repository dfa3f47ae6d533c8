use std::hash::{DefaultHasher, Hash, Hasher};

use rand::RngExt;

use super::*;

#[test]
fn nodes_meet_through_any_of_several_seeds() {
    let mut net = Net::new(1);
    for node in 2..5 {
        // Nobody ever listens at the first two.
        net.start(node, 1, &[0, 1, 2, 3]);
    }
    net.run(2.0);
    net.assert_everybody_sees_everybody();
}

#[test]
fn a_seed_that_starts_late_is_found() {
    let mut net = Net::new(2);
    net.start(1, 1, &[0]);
    net.start(2, 1, &[0]);
    net.run(60.0);
    assert_eq!(net.seen_by(1), []);
    net.start(0, 1, &[]);
    net.run(11.0);
    net.assert_everybody_sees_everybody();
}

#[test]
fn a_lost_announcement_is_repeated() {
    let mut net = Net::new(3);
    net.start(0, 1, &[]);
    net.cut(&[1]);
    net.start(1, 1, &[0]);
    net.run(0.5);
    net.heal();
    net.run(1.0);
    net.assert_everybody_sees_everybody();
}

#[test]
fn fifty_nodes_see_one_another_and_declare_nobody_down() {
    let mut net = Net::cluster(50, 4);
    net.run(60.0);
    net.assert_everybody_sees_everybody();
    assert_eq!(net.events_of("down"), 0);
    assert!(net.largest_packet <= Options::default().packet_bytes_max);
}

#[test]
fn a_crash_is_noticed_by_all_within_seconds() {
    for nodes in [2, 3, 20] {
        let mut delays: Vec<Duration> = (0..15)
            .map(|seed| {
                let mut net = Net::cluster(nodes, seed);
                let crash = net.now;
                net.stop(1);
                while !net.everybody_sees_everybody() {
                    assert!(
                        net.now < crash + Duration::from_secs(7),
                        "{nodes} nodes, seed {seed}"
                    );
                    net.run(0.05);
                }
                net.now - crash
            })
            .collect();
        delays.sort();
        let (median, worst) = (delays[7], delays[14]);
        assert!(
            median <= Duration::from_secs(3),
            "{nodes} nodes: {median:?}"
        );
        assert!(
            nodes > 3 || worst <= Duration::from_secs(4),
            "{nodes} nodes: {worst:?}"
        );
    }
}

#[test]
fn a_restart_is_a_rename_within_a_second() {
    for moved in [false, true] {
        let mut net = Net::cluster(20, 5);
        net.stop(7);
        if moved {
            net.move_node(7, 107);
        }
        net.notes.clear();
        net.start(7, 2, &[0, 1, 2]);
        net.run(1.0);
        let to = net.member(7);
        assert_eq!(to.incarnation, Incarnation(2));
        assert_eq!(net.events_of("down"), 0);
        assert_eq!(net.events_of("renamed"), 19);
        assert!(
            net.nodes
                .values()
                .all(|n| n.own() == to || n.members().any(|m| m == to))
        );
        net.run(20.0);
        net.assert_everybody_sees_everybody();
    }
}

#[test]
fn a_restart_after_a_refuted_death_is_a_rename_too() {
    let mut net = Net::cluster(10, 17);
    net.cut(&[5]);
    net.run(20.0);
    net.heal();
    net.run(15.0);
    let refuted = net
        .notes
        .iter()
        .find(|note| note.1 == "refuted")
        .map(|note| note.0)
        .unwrap();
    net.stop(refuted);
    net.notes.clear();
    net.start(refuted, 2, &[0, 1, 2]);
    net.run(1.0);
    assert_eq!(net.events_of("renamed"), 9);
    assert_eq!(net.events_of("refuted"), 0);
}

#[test]
fn an_older_incarnation_does_not_come_back() {
    let mut net = Net::cluster(5, 6);
    net.stop(3);
    net.start(3, 9, &[0]);
    net.run(1.0);
    let newer = net.member(3);
    // A copy of an old state that shows up somewhere else.
    let mut copy = membership(
        Member {
            incarnation: Incarnation(8),
            addr: addr(200),
            ..newer
        },
        1,
    );
    for action in copy.step(net.now, Event::Announce(vec![addr(0), addr(1)])) {
        if let Action::Send { to, packet } = action {
            net.send(addr(200), to, packet);
        }
    }
    net.run(10.0);
    assert!(net.nodes[&0].members().any(|member| member == newer));
    net.assert_everybody_sees_everybody();
}

#[test]
fn nodes_that_swap_addresses_are_not_confused() {
    let mut net = Net::cluster(5, 7);
    net.stop(3);
    net.stop(4);
    net.move_node(3, 4);
    net.move_node(4, 3);
    net.start(3, 2, &[0]);
    net.start(4, 2, &[0]);
    net.run(10.0);
    net.assert_everybody_sees_everybody();
    assert_eq!((net.member(3).addr, net.member(4).addr), (addr(4), addr(3)));
}

#[test]
fn a_new_node_at_the_address_of_a_dead_one_is_another_node() {
    let mut net = Net::cluster(5, 8);
    net.stop(3);
    net.move_node(9, 3);
    net.start(9, 1, &[0]);
    net.run(10.0);
    net.assert_everybody_sees_everybody();
    assert!(
        net.nodes[&0]
            .members()
            .all(|member| member.node != node_id(3))
    );
}

#[test]
fn an_isolated_node_comes_back_soon_after_the_network() {
    for isolated_for in [1.0, 10.0, 90.0, 1000.0] {
        let mut net = Net::cluster(10, 9);
        net.cut(&[5]);
        net.run(isolated_for);
        if isolated_for >= 10.0 {
            assert_eq!(net.seen_by(0).len(), 8);
        }
        net.heal();
        net.run(12.0);
        net.assert_everybody_sees_everybody();
    }
}

#[test]
fn halves_that_lost_each_other_meet_again_even_without_seeds() {
    for nodes in [4, 9] {
        let mut net = Net::cluster(nodes, 10);
        for membership in net.nodes.values_mut() {
            membership.seeds.clear();
        }
        let half: Vec<u16> = (0..nodes / 2).collect();
        net.cut(&half);
        net.run(60.0);
        assert_eq!(net.seen_by(0).len(), half.len() - 1);
        net.heal();
        net.run(35.0);
        net.assert_everybody_sees_everybody();
        assert!(net.events_of("refuted") > 0);
    }
}

#[test]
fn a_node_that_leaves_is_down_at_once_and_stays_silent() {
    let mut net = Net::cluster(10, 11);
    net.act(4, Event::Leave);
    net.run(0.7);
    let left = net.nodes.remove(&4).unwrap();
    net.assert_everybody_sees_everybody();
    assert_eq!(left.next_tick(), None);
    let mut left = left;
    assert!(
        left.step(net.now, Event::Announce(vec![addr(1)]))
            .is_empty()
    );
    assert!(left.step(net.now, Event::Packet(b"anything")).is_empty());
}

#[test]
fn five_percent_of_loss_leave_the_cluster_whole() {
    let mut net = Net::cluster(20, 12);
    net.loss = 0.05;
    net.run(300.0);
    net.loss = 0.0;
    net.run(35.0);
    net.assert_everybody_sees_everybody();
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let trace = |seed| {
        let mut net = Net::cluster(10, seed);
        net.loss = 0.1;
        net.run(20.0);
        net.stop(3);
        net.run(20.0);
        net.trace.finish()
    };
    assert_eq!(trace(13), trace(13));
    assert_ne!(trace(13), trace(14));
}

#[test]
fn up_and_down_of_a_node_alternate() {
    let mut net = Net::cluster(8, 15);
    net.loss = 0.4;
    net.run(200.0);
    let mut up = BTreeSet::new();
    let mut downs = 0;
    for (observer, what, member) in &net.notes {
        let key = (*observer, *member);
        match *what {
            "up" => assert!(up.insert(key), "{key:?} up twice"),
            "down" => {
                downs += 1;
                assert!(up.remove(&key), "{key:?} down twice");
            }
            "renamed" => assert!(up.contains(&key), "{key:?} renamed while down"),
            _ => {}
        }
    }
    assert!(downs > 0, "the test needs a worse network");
}

#[test]
fn malformed_packets_are_refused_and_change_nothing() {
    let mut net = Net::cluster(3, 16);
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let sample = net.last_packet.clone().unwrap();
    let before = net.seen_by(0);
    for round in 0..3000 {
        let packet: Vec<u8> = match round % 4 {
            0 => (0..rng.random_range(0..200))
                .map(|_| rng.random())
                .collect(),
            1 => sample[..rng.random_range(0..sample.len())].to_vec(),
            2 => [&sample[..], &[0; 2000]].concat(),
            _ => [&[VERSION_OF_TOMORROW], &sample[1..]].concat(),
        };
        let actions = net
            .nodes
            .get_mut(&0)
            .unwrap()
            .step(net.now, Event::Packet(&packet));
        if round % 4 != 1 {
            assert!(
                matches!(actions[..], [Action::Refused(Error::Malformed(_))]),
                "{packet:?}: {actions:?}"
            );
        }
    }
    assert_eq!(net.seen_by(0), before);
    net.run(10.0);
    net.assert_everybody_sees_everybody();
}

#[test]
fn members_that_cannot_be_are_refused() {
    let fine = Member {
        node: node_id(1),
        incarnation: Incarnation(1),
        addr: addr(1),
    };
    let nobody = Member {
        node: NodeId::default(),
        ..fine
    };
    let nowhere = Member {
        addr: "0.0.0.0:7301".parse().unwrap(),
        ..fine
    };
    let no_port = Member {
        addr: "10.0.0.1:0".parse().unwrap(),
        ..fine
    };
    let mut target = membership(
        Member {
            node: node_id(2),
            incarnation: Incarnation(1),
            addr: addr(2),
        },
        1,
    );
    for (sender, accepted) in [
        (fine, true),
        (nobody, false),
        (nowhere, false),
        (no_port, false),
    ] {
        let header = foca::Header {
            src: Identity::new(sender, 1),
            src_incarnation: 0,
            dst: Identity::seed(addr(2)),
            message: foca::Message::Announce,
        };
        let mut packet = Vec::new();
        let mut codec = Codec {
            own: sender.node,
            processes: Processes::default(),
        };
        foca::Codec::encode_header(&mut codec, &header, &mut packet).unwrap();
        let actions = target.step(Duration::ZERO, Event::Packet(&packet));
        let refused = matches!(actions[..], [Action::Refused(Error::Malformed(_))]);
        assert_eq!(!refused, accepted, "{sender:?}: {actions:?}");

        let options = Options::default();
        assert_eq!(
            Membership::new(sender, options, 1).is_ok(),
            accepted,
            "{sender:?}"
        );
    }
}

#[test]
fn an_echo_is_refused() {
    let own = Member {
        node: node_id(1),
        incarnation: Incarnation(1),
        addr: addr(1),
    };
    let mut node = membership(own, 1);
    // Its own address under another name, as behind a translating router.
    let actions = node.step(Duration::ZERO, Event::Announce(vec![addr(1), addr(2)]));
    let [Action::Send { to, packet }] = &actions[..] else {
        panic!("{actions:?}")
    };
    assert_eq!(*to, addr(2));
    let actions = node.step(Duration::ZERO, Event::Packet(packet));
    assert!(
        matches!(actions[..], [Action::Refused(Error::FromOurselves)]),
        "{actions:?}"
    );
}

#[test]
fn options_that_make_no_sense_are_refused() {
    let fine = Options::default();
    let zero = Duration::ZERO;
    for bad in [
        Options {
            probe_period: zero,
            ..fine.clone()
        },
        Options {
            probe_rtt: fine.probe_period,
            ..fine.clone()
        },
        Options {
            suspicion: zero,
            ..fine.clone()
        },
        Options {
            announce_alone_min: Duration::from_secs(11),
            ..fine.clone()
        },
        Options {
            announce_alone_min: zero,
            ..fine.clone()
        },
        Options {
            announce_absent: zero,
            ..fine.clone()
        },
        Options {
            packet_bytes_max: 511,
            ..fine.clone()
        },
    ] {
        let own = Member {
            node: node_id(1),
            incarnation: Incarnation(1),
            addr: addr(1),
        };
        assert!(Membership::new(own, bad.clone(), 1).is_err(), "{bad:?}");
    }
}

#[test]
fn announcements_per_step_are_bounded_and_reach_everybody_in_turn() {
    let own = Member {
        node: node_id(1),
        incarnation: Incarnation(1),
        addr: addr(1),
    };
    let mut node = membership(own, 1);
    let seeds = (100..200).map(addr).collect();
    let mut reached = BTreeSet::new();
    let mut actions = node.step(Duration::ZERO, Event::Announce(seeds));
    for _ in 0..4 {
        assert!(actions.len() <= ANNOUNCEMENTS_PER_ROUND_MAX);
        for action in &actions {
            let Action::Send { to, .. } = action else {
                panic!("{action:?}")
            };
            reached.insert(*to);
        }
        let now = node.next_tick().unwrap();
        actions = node.step(now, Event::Tick);
    }
    assert_eq!(reached.len(), Membership::SEEDS_MAX);
}

const VERSION_OF_TOMORROW: u8 = 3;

/// Nodes on virtual time, with a network between them that can be cut and that loses packets.

#[test]
fn a_cluster_whose_datagrams_are_all_lost_stays_whole_over_its_connections() {
    let mut net = Net::cluster(5, 21);
    net.connect();
    let all = [0, 1, 2, 3, 4];
    net.block(&all, &all);
    net.notes.clear();
    net.run(60.0);
    net.assert_everybody_sees_everybody();
    let downs = net.events_of("down");
    assert!(downs == 0, "{downs} were taken for dead: {:?}", net.notes);
    assert_eq!(net.said_blocked().len(), 20, "each says it of each");
    // A node that ends is found out as ever.
    net.stop(3);
    net.connect();
    net.run(7.0);
    net.assert_everybody_sees_everybody();
}

#[test]
fn datagrams_that_are_lost_in_one_direction_are_noticed_at_both_ends() {
    let mut net = Net::cluster(3, 22);
    net.connect();
    // What node 0 sends arrives nowhere.
    net.block(&[0], &[1, 2]);
    net.notes.clear();
    net.run(30.0);
    net.assert_everybody_sees_everybody();
    assert_eq!(net.events_of("down"), 0);
    let said = net.said_blocked();
    for other in [1, 2] {
        assert!(said.contains(&(other, node_id(0), true)), "{said:?}");
        assert!(said.contains(&(0, node_id(other), false)), "{said:?}");
    }
    assert_eq!(said.len(), 4, "of the others nothing is said: {said:?}");
}

#[test]
fn connections_carry_nothing_again_once_datagrams_get_through() {
    let mut net = Net::cluster(4, 23);
    net.connect();
    net.run(20.0);
    assert_eq!(net.delivered, 0, "nothing needs them");
    net.block(&[1], &[0, 2, 3]);
    net.block(&[0, 2, 3], &[1]);
    net.run(20.0);
    assert!(net.delivered > 0 && !net.said_blocked().is_empty());
    net.blocked.clear();
    net.run(20.0);
    assert!(net.said_blocked().is_empty(), "{:?}", net.said_blocked());
    let before = net.delivered;
    net.run(20.0);
    assert_eq!(net.delivered, before);
}

#[test]
fn a_node_whose_datagrams_go_nowhere_joins_over_its_connections() {
    let mut net = Net::cluster(3, 24);
    net.block(&[3], &[0, 1, 2]);
    net.block(&[0, 1, 2], &[3]);
    net.start(3, 1, &[0, 1]);
    net.run(5.0);
    assert_eq!(net.seen_by(3), [], "without a connection it cannot");
    net.connect();
    net.run(4.0);
    net.assert_everybody_sees_everybody();
    net.notes.clear();
    net.run(30.0);
    assert_eq!(net.events_of("down"), 0);
}

#[test]
fn who_answers_neither_datagrams_nor_on_its_connection_is_suspected_as_ever() {
    let mut net = Net::cluster(3, 25);
    net.connect();
    // The process stands still: its connections stand, and nothing answers on them.
    net.stop(1);
    net.run(7.0);
    net.assert_everybody_sees_everybody();
    assert!(
        net.said_blocked().is_empty(),
        "that is no matter of datagrams"
    );
}

#[test]
fn random_loss_is_not_taken_for_a_blocked_way() {
    let mut net = Net::cluster(5, 26);
    net.connect();
    net.loss = 0.05;
    for _ in 0..60 {
        net.run(1.0);
        assert!(net.said_blocked().is_empty(), "{:?}", net.said_blocked());
    }
}

#[test]
fn of_two_processes_with_one_identity_the_first_is_the_node_and_all_say_so() {
    let mut net = Net::cluster(5, 27);
    let first = net.member(4);
    net.notes.clear();
    // A copy of node 4's data directory, started beside it.
    let addr = addr(9);
    net.nodes
        .insert(9, membership(Member { addr, ..first }, 99));
    net.act(9, Event::Announce(vec![self::addr(0), self::addr(1)]));
    net.run(10.0);
    for node in 0..4 {
        let seen = net.seen_by(node);
        assert!(seen.contains(&first), "node {node} sees {seen:?}");
    }
    let twins: BTreeSet<u16> = net
        .notes
        .iter()
        .filter(|note| note.1 == "twin")
        .map(|note| note.0)
        .collect();
    assert!(twins.contains(&0) && twins.contains(&1), "{twins:?}");
    for what in ["refuted", "renamed", "down"] {
        assert_eq!(net.events_of(what), 0, "{what}: {:?}", net.notes);
    }
    // Once the first has ended for good, the other one may be the node.
    net.stop(4);
    net.run(60.0);
    let seen = net.seen_by(0);
    assert!(seen.iter().any(|member| member.addr == addr), "{seen:?}");
}

/// How a packet gets to a node, and to which.
#[derive(Clone, Copy)]
enum Way {
    Datagram(SocketAddr),
    Connection { to: NodeId, deaf: bool },
}

struct Net {
    now: Duration,
    rng: ChaCha8Rng,
    nodes: BTreeMap<u16, Membership>,
    /// Where a node listens, if not at its own number.
    places: BTreeMap<u16, u16>,
    packets: BTreeMap<(Duration, u64), (Way, Bytes)>,
    sent: u64,
    /// Of those, over connections.
    delivered: u64,
    loss: f64,
    /// Whose datagrams do not arrive where.
    blocked: BTreeSet<(u16, u16)>,
    island: BTreeSet<SocketAddr>,
    largest_packet: usize,
    last_packet: Option<Bytes>,
    /// Who saw what about whom.
    notes: Vec<(u16, &'static str, NodeId)>,
    trace: DefaultHasher,
}

impl Net {
    fn new(seed: u64) -> Self {
        Self {
            now: Duration::ZERO,
            rng: ChaCha8Rng::seed_from_u64(seed),
            nodes: BTreeMap::new(),
            places: BTreeMap::new(),
            packets: BTreeMap::new(),
            sent: 0,
            delivered: 0,
            loss: 0.0,
            blocked: BTreeSet::new(),
            island: BTreeSet::new(),
            largest_packet: 0,
            last_packet: None,
            notes: vec![],
            trace: DefaultHasher::new(),
        }
    }

    /// That many nodes, from 0, which know one another.
    fn cluster(nodes: u16, seed: u64) -> Self {
        let mut net = Self::new(seed);
        for node in 0..nodes {
            net.start(node, 1, &[0, 1, 2]);
            net.run(0.05);
        }
        let deadline = net.now + Duration::from_secs(30);
        while !net.everybody_sees_everybody() {
            assert!(net.now < deadline, "the cluster does not form");
            net.run(0.1);
        }
        // Let the news of the start die down.
        net.run(5.0);
        net
    }

    fn start(&mut self, node: u16, incarnation: u64, seeds: &[u16]) {
        let place = self.places.get(&node).copied().unwrap_or(node);
        let incarnation = Incarnation(incarnation);
        let own = Member {
            node: node_id(node),
            incarnation,
            addr: addr(place),
        };
        self.nodes.insert(node, membership(own, self.rng.random()));
        self.act(
            node,
            Event::Announce(seeds.iter().copied().map(addr).collect()),
        );
    }

    fn stop(&mut self, node: u16) {
        self.nodes.remove(&node);
    }

    fn move_node(&mut self, node: u16, place: u16) {
        self.places.insert(node, place);
    }

    /// Cuts these places off from all others.
    fn cut(&mut self, places: &[u16]) {
        self.island = places.iter().copied().map(addr).collect();
    }

    fn heal(&mut self) {
        self.island.clear();
    }

    fn run(&mut self, seconds: f64) {
        let end = self.now + Duration::from_secs_f64(seconds);
        loop {
            let packet = self.packets.keys().next().map(|(at, _)| *at);
            let ticks = self
                .nodes
                .iter()
                .filter_map(|(id, node)| Some((node.next_tick()?, *id)));
            let tick = ticks.min();
            let at = packet.into_iter().chain(tick.map(|(at, _)| at)).min();
            let Some(at) = at.filter(|at| *at <= end) else {
                break;
            };
            self.now = self.now.max(at);
            if packet == Some(at) {
                let (_, (way, packet)) = self.packets.pop_first().unwrap();
                let listener = self.nodes.iter().find(|(_, node)| match way {
                    Way::Datagram(to) => node.own().addr == to,
                    Way::Connection { to, .. } => node.own().node == to,
                });
                let packet = &packet[..];
                let event = match way {
                    Way::Datagram(_) => Event::Packet(packet),
                    Way::Connection { deaf, .. } => Event::Delivered { packet, deaf },
                };
                if let Some((&node, _)) = listener {
                    self.act(node, event);
                }
            } else if let Some((_, node)) = tick {
                self.act(node, Event::Tick);
            }
        }
        self.now = end;
    }

    fn act(&mut self, node: u16, event: Event<'_>) {
        let from = self.nodes[&node].own().addr;
        let actions = self.nodes.get_mut(&node).unwrap().step(self.now, event);
        (self.now, node).hash(&mut self.trace);
        for action in actions {
            format!("{action:?}").hash(&mut self.trace);
            let note = match action {
                Action::Send { to, packet } => {
                    self.send(from, to, packet);
                    continue;
                }
                Action::Deliver { to, packet, deaf } => {
                    let at = self.now + Duration::from_millis(1);
                    self.sent += 1;
                    let way = Way::Connection { to, deaf };
                    self.packets.insert((at, self.sent), (way, packet));
                    self.delivered += 1;
                    continue;
                }
                Action::Twin { node, .. } => ("twin", node),
                Action::Up(member) => ("up", member.node),
                Action::Down(member) => ("down", member.node),
                Action::Renamed { to, .. } => ("renamed", to.node),
                Action::Refuted => ("refuted", node_id(node)),
                Action::Refused(error) => panic!("{node} at {:?}: {error:?}", self.now),
            };
            self.notes.push((node, note.0, note.1));
        }
    }

    fn send(&mut self, from: SocketAddr, to: SocketAddr, packet: Bytes) {
        self.largest_packet = self.largest_packet.max(packet.len());
        self.last_packet = Some(packet.clone());
        let latency = Duration::from_micros(self.rng.random_range(200..1000));
        let lost = self.rng.random_bool(self.loss);
        let blocked = |(a, b): &(u16, u16)| (addr(*a), addr(*b)) == (from, to);
        let lost = lost || self.blocked.iter().any(blocked);
        if !lost && self.island.contains(&from) == self.island.contains(&to) {
            self.sent += 1;
            let way = Way::Datagram(to);
            self.packets
                .insert((self.now + latency, self.sent), (way, packet));
        }
    }

    /// Between all nodes that run connections stand, as they do in a network that carries TCP.
    fn connect(&mut self) {
        let members: Vec<(u16, Member)> =
            self.nodes.keys().map(|n| (*n, self.member(*n))).collect();
        for (node, _) in &members {
            let others = members.iter().filter(|(other, _)| other != node);
            let others = others
                .map(|(_, member)| (member.node, member.addr))
                .collect();
            self.act(*node, Event::Connected(others));
        }
    }

    /// No datagram gets from one of these nodes to another, but for those between the same.
    fn block(&mut self, from: &[u16], to: &[u16]) {
        let pairs = from.iter().flat_map(|a| to.iter().map(|b| (*a, *b)));
        self.blocked.extend(pairs.filter(|(a, b)| a != b));
    }

    /// Who says of whom that datagrams do not get through, and whether inwards.
    fn said_blocked(&self) -> BTreeSet<(u16, NodeId, bool)> {
        let said = |(n, node): (&u16, &Membership)| {
            let n = *n;
            let blocked = node.blocked(self.now).collect::<Vec<_>>();
            blocked.into_iter().map(move |it| (n, it.node, it.inwards))
        };
        self.nodes.iter().flat_map(said).collect()
    }

    fn member(&self, node: u16) -> Member {
        self.nodes[&node].own()
    }

    fn seen_by(&self, node: u16) -> Vec<Member> {
        self.nodes[&node].members().collect()
    }

    fn everybody_sees_everybody(&self) -> bool {
        self.nodes
            .keys()
            .all(|node| self.seen_by(*node) == self.others(*node))
    }

    #[track_caller]
    fn assert_everybody_sees_everybody(&self) {
        for node in self.nodes.keys() {
            assert_eq!(self.seen_by(*node), self.others(*node), "as seen by {node}");
        }
    }

    fn others(&self, node: u16) -> Vec<Member> {
        self.nodes
            .keys()
            .filter(|other| **other != node)
            .map(|id| self.member(*id))
            .collect()
    }

    fn events_of(&self, what: &str) -> usize {
        self.notes.iter().filter(|note| note.1 == what).count()
    }
}

fn membership(own: Member, seed: u64) -> Membership {
    Membership::new(own, Options::default(), seed).unwrap()
}

fn node_id(number: u16) -> NodeId {
    format!("{:032x}", u128::from(number) + 1).parse().unwrap()
}

fn addr(place: u16) -> SocketAddr {
    SocketAddr::from(([10, 0, (place >> 8) as u8, place as u8], 7301))
}
