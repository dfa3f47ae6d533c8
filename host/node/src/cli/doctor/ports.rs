//! The ports of a node: free, or a node's already.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket},
    time::Duration,
};

use holdfast_model::api::{ClusterInfo, NodeInfo, NodeList, NodeStatus};

use super::{super::human, Finding, seeds};
use crate::client::{Client, Error};

/// What the ports are, and the other nodes that a node here knows.
#[derive(Debug)]
pub(super) struct Ports {
    http: Port,
    peers: [Port; 2],
    /// Where the HTTP APIs of nodes on other machines are.
    pub(super) others: Vec<SocketAddr>,
}

#[derive(Debug)]
struct Port {
    check: &'static str,
    addr: SocketAddr,
    /// The option that gives another one.
    option: &'static str,
    state: State,
}

#[derive(Debug)]
enum State {
    Free,
    /// A node has it: which, in words.
    Node(String),
    Taken,
    Unusable(io::Error),
}

/// Who answers on the port of an HTTP API.
struct Api {
    name: String,
    others: Vec<SocketAddr>,
}

pub(super) async fn look(http: SocketAddr, peers: SocketAddr, token: Option<&str>) -> Ports {
    let mut others = Vec::new();
    let mut state = bound(TcpListener::bind(http).map(drop));
    if let State::Taken = state
        && let Some(api) = api(http, token).await
    {
        state = State::Node(api.name);
        others = api.others;
    }
    let http = Port {
        check: "http-port",
        addr: http,
        option: "--http",
        state,
    };
    let mut tcp = bound(TcpListener::bind(peers).map(drop));
    if let State::Taken = tcp
        && let Ok(cluster) = seeds::recognize(reachable(peers)).await
    {
        tcp = State::Node(format!("a node of cluster {cluster}"));
    }
    let mut udp = bound(UdpSocket::bind(peers).map(drop));
    if let (State::Taken, State::Node(_)) = (&udp, &tcp) {
        udp = State::Node("the node of the TCP port".to_owned());
    }
    let peers = [("peer-port-tcp", tcp), ("peer-port-udp", udp)].map(|(check, state)| Port {
        check,
        addr: peers,
        option: "--listen",
        state,
    });
    Ports {
        http,
        peers,
        others,
    }
}

fn bound(result: io::Result<()>) -> State {
    match result {
        Ok(()) => State::Free,
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => State::Taken,
        Err(error) => State::Unusable(error),
    }
}

/// The node whose API this is; none where something else answers, or nothing.
async fn api(addr: SocketAddr, token: Option<&str>) -> Option<Api> {
    let client = Client::new(&reachable(addr).to_string()).ok()?;
    let client = client.with_timeout(PATIENCE);
    let client = match token {
        Some(token) => client.with_token(token).ok()?,
        None => client,
    };
    match tokio::try_join!(client.cluster(), client.nodes()) {
        Ok((cluster, nodes)) => Some(Api::of(&cluster, &nodes)),
        Err(Error::Problem(problem)) => Some(Api {
            name: format!("a node, which says: {problem}"),
            others: Vec::new(),
        }),
        Err(_) => None,
    }
}

impl Api {
    fn of(cluster: &ClusterInfo, NodeList { nodes, .. }: &NodeList) -> Self {
        let me = nodes.iter().find(|info| info.this);
        let elsewhere = |info: &&NodeInfo| {
            !info.this && info.status == NodeStatus::Active && !info.http.ip().is_loopback()
        };
        let others = nodes.iter().filter(elsewhere).map(|info| info.http);
        Self {
            name: match me {
                Some(me) => format!(
                    "node {} of cluster {}, {}, version {}",
                    human::node(me.node),
                    cluster.name,
                    me.status,
                    me.version
                ),
                None => format!("a node of cluster {}", cluster.name),
            },
            others: others.take(OTHERS_MAX).collect(),
        }
    }
}

impl Ports {
    pub(super) fn judge(&self) -> Vec<Finding> {
        std::iter::once(&self.http)
            .chain(&self.peers)
            .map(Port::judge)
            .collect()
    }
}

impl Port {
    fn judge(&self) -> Finding {
        let (check, addr, option) = (self.check, self.addr, self.option);
        match &self.state {
            State::Free => Finding::ok(check, format!("{addr} is free")),
            State::Node(name) => Finding::ok(check, format!("{addr} has {name}")),
            State::Taken => Finding::failure(
                check,
                format!("{addr} is in use, and no node of Holdfast answers there"),
                format!(
                    "`ss -lntup 'sport = :{}'` says by whom: stop that, or start the node with \
                     another {option}",
                    addr.port()
                ),
            ),
            State::Unusable(error) => Finding::failure(
                check,
                format!("{addr} cannot be had: {error}"),
                match error.kind() {
                    io::ErrorKind::AddrNotAvailable => {
                        format!("give {option} an address of this machine; `ip addr` lists them")
                    }
                    io::ErrorKind::PermissionDenied => {
                        format!("give {option} a port above 1023, or the node CAP_NET_BIND_SERVICE")
                    }
                    _ => format!("give another {option}"),
                },
            ),
        }
    }
}

/// Where whoever listens on an address is reached from this machine.
fn reachable(mut addr: SocketAddr) -> SocketAddr {
    match addr.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => addr.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => addr.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    addr
}

const PATIENCE: Duration = Duration::from_secs(3);
/// So many clocks tell whether this one is wrong.
const OTHERS_MAX: usize = 8;

#[cfg(test)]
mod tests {
    use super::{super::Status, *};

    fn judged(state: State) -> Finding {
        let addr = "127.0.0.1:7300".parse().unwrap();
        Port {
            check: "http-port",
            addr,
            option: "--http",
            state,
        }
        .judge()
    }

    #[test]
    fn a_port_is_well_when_it_is_free_or_a_nodes() {
        assert_eq!(judged(State::Free).status, Status::Ok);
        let node = judged(State::Node("node 9f3a0000 of cluster office".to_owned()));
        assert_eq!(node.status, Status::Ok);
        assert_eq!(
            node.found,
            "127.0.0.1:7300 has node 9f3a0000 of cluster office"
        );
        let taken = judged(State::Taken);
        assert_eq!(taken.status, Status::Failure);
        assert!(taken.remedy.unwrap().contains("another --http"));
    }

    #[test]
    fn a_port_that_cannot_be_had_says_why_and_what_to_give_instead() {
        for (kind, remedy) in [
            (io::ErrorKind::AddrNotAvailable, "address of this machine"),
            (io::ErrorKind::PermissionDenied, "above 1023"),
        ] {
            let finding = judged(State::Unusable(kind.into()));
            assert_eq!(finding.status, Status::Failure);
            assert!(finding.remedy.unwrap().contains(remedy), "{kind}");
        }
    }

    #[tokio::test]
    async fn what_holds_a_port_is_asked_whether_it_is_a_node() {
        let other = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = other.local_addr().unwrap();
        // Whatever it is, it says nothing.
        let silent = tokio::spawn(async move {
            while let Ok((stream, _)) = other.accept().await {
                drop(stream);
            }
        });
        let ports = look(addr, addr, None).await;
        assert!(matches!(ports.http.state, State::Taken), "{ports:?}");
        assert!(matches!(ports.peers[0].state, State::Taken), "{ports:?}");
        assert!(matches!(ports.peers[1].state, State::Free), "{ports:?}");
        silent.abort();
    }

    #[test]
    fn a_node_is_named_and_others_are_those_on_other_machines() {
        let mut nodes = ["1a", "1b", "1c", "1d"].map(|head| {
            let id = format!("{head}000000-0000-4000-8000-000000000000");
            super::super::super::nodes::tests::info(&id)
        });
        for (at, info) in nodes.iter_mut().enumerate() {
            info.this = at == 0;
        }
        nodes[1].http = "10.0.0.2:7300".parse().unwrap();
        nodes[2].http = "10.0.0.3:7300".parse().unwrap();
        nodes[2].status = NodeStatus::Down;
        let cluster = super::super::super::status::tests::cluster();
        let list = NodeList {
            nodes: nodes.to_vec(),
            no_majority: None,
        };
        let api = Api::of(&cluster, &list);
        assert_eq!(
            api.name,
            "node 1a000000 of cluster office, active, version 0.1.0"
        );
        assert_eq!(api.others, [nodes[1].http]);
    }

    #[test]
    fn every_address_of_the_machine_is_reached_by_loopback() {
        for (addr, reached) in [
            ("0.0.0.0:1", "127.0.0.1:1"),
            ("[::]:1", "[::1]:1"),
            ("10.0.0.1:1", "10.0.0.1:1"),
        ] {
            assert_eq!(reachable(addr.parse().unwrap()).to_string(), reached);
        }
    }
}
