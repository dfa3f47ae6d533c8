use std::{
    net::{IpAddr, Ipv4Addr},
    sync::atomic::{AtomicUsize, Ordering},
};

use http_body_util::Empty;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket},
};

use super::*;

/// A client for which every name has these addresses, and how often it asked.
fn client(addrs: &[IpAddr]) -> (Client, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let (count, addrs) = (asked.clone(), addrs.to_vec());
    let resolve = move |_: &str, port: u16| {
        count.fetch_add(1, Ordering::Relaxed);
        let addrs = addrs.iter();
        Ok(addrs.map(|addr| SocketAddr::new(*addr, port)).collect())
    };
    (Client::resolving_with(Arc::new(resolve)), asked)
}

async fn get(client: &Client, grants: &[&str], url: &str) -> Result<Bytes, Error> {
    get_with(client, grants, url, RequestOptions::default()).await
}

async fn get_with(
    client: &Client,
    grants: &[&str],
    url: &str,
    options: RequestOptions,
) -> Result<Bytes, Error> {
    get_within(client, &Share::default(), grants, url, options).await
}

async fn get_behind(
    client: &Client,
    fence: &Fence,
    grants: &[&str],
    url: &str,
) -> Result<Bytes, Error> {
    let options = RequestOptions::default();
    get_as(client, &Share::default(), fence, grants, url, options).await
}

async fn get_within(
    client: &Client,
    share: &Share,
    grants: &[&str],
    url: &str,
    options: RequestOptions,
) -> Result<Bytes, Error> {
    get_as(client, share, &Fence::open(), grants, url, options).await
}

async fn get_as(
    client: &Client,
    share: &Share,
    fence: &Fence,
    grants: &[&str],
    url: &str,
    options: RequestOptions,
) -> Result<Bytes, Error> {
    let grants: Vec<HttpGrant> = grants.iter().map(|text| text.parse().unwrap()).collect();
    let body = Empty::new().map_err(|never| match never {}).boxed_unsync();
    let request = http::Request::get(url)
        .header("host", "it")
        .body(body)
        .unwrap();
    let permit = Arc::new(Semaphore::new(1)).acquire_owned().await.unwrap();
    let response = client
        .send(&grants, request, options, permit, share, fence)
        .await?;
    Ok(response.into_body().collect().await?.to_bytes())
}

/// Serves keep-alive connections; the answer says how many there have been.
struct Server {
    addr: SocketAddr,
    connections: Arc<AtomicUsize>,
}

impl Server {
    async fn start() -> Self {
        Self::serving(usize::MAX).await
    }

    /// Closes each connection silently after this many requests.
    async fn serving(requests_max: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let count = connections.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let number = count.fetch_add(1, Ordering::Relaxed) + 1;
                tokio::spawn(async move {
                    for _ in 0..requests_max {
                        let mut head = Vec::new();
                        while !head.ends_with(b"\r\n\r\n") {
                            head.push(stream.read_u8().await?);
                        }
                        let answer =
                            format!("HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n{number}");
                        stream.write_all(answer.as_bytes()).await?;
                    }
                    Ok::<_, io::Error>(())
                });
            }
        });
        Self { addr, connections }
    }

    fn url(&self, host: &str) -> String {
        format!("http://{host}:{}/", self.addr.port())
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

#[tokio::test]
async fn a_name_that_is_not_granted_is_not_even_resolved() {
    let server = Server::start().await;
    let (client, asked) = client(&[LOOPBACK]);
    let result = get(
        &client,
        &["b.example:*", "127.0.0.1:*"],
        &server.url("a.example"),
    )
    .await;
    assert!(
        matches!(result, Err(Error::HttpRequestDenied)),
        "{result:?}"
    );
    assert_eq!(asked.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_granted_name_does_not_reach_a_private_address() {
    let server = Server::start().await;
    let mapped: IpAddr = "::ffff:127.0.0.1".parse().unwrap();
    for addr in [LOOPBACK, mapped] {
        let (client, asked) = client(&[addr]);
        let result = get(&client, &["*.example:*"], &server.url("a.example")).await;
        assert!(
            matches!(result, Err(Error::DestinationIpProhibited)),
            "{result:?}"
        );
        assert_eq!(asked.load(Ordering::Relaxed), 1);
        // With a grant that names the address, too, it does.
        let both = ["*.example:*", "127.0.0.0/8:*"];
        assert!(get(&client, &both, &server.url("a.example")).await.is_ok());
    }
    // The same by address, in all its spellings.
    let (client, _) = client(&[]);
    for host in [
        "127.0.0.1",
        "[::ffff:127.0.0.1]",
        "[::1]",
        "169.254.169.254",
    ] {
        let result = get(&client, &["a.example:*"], &server.url(host)).await;
        assert!(
            matches!(result, Err(Error::HttpRequestDenied)),
            "{host}: {result:?}"
        );
    }
    assert_eq!(server.connections(), 2);
}

#[tokio::test]
async fn only_the_allowed_addresses_of_a_name_are_tried() {
    let server = Server::start().await;
    let (client, _) = client(&["10.255.255.1".parse().unwrap(), LOOPBACK]);
    let grants = ["a.example:*", "127.0.0.1:*"];
    let answer = get(&client, &grants, &server.url("a.example"))
        .await
        .unwrap();
    assert_eq!(answer, "1");
}

#[tokio::test]
async fn a_connection_is_used_again_but_not_against_the_grants() {
    let server = Server::start().await;
    let (client, _) = client(&[LOOPBACK]);
    let grants = ["a.example:*", "127.0.0.1:*"];
    let url = server.url("a.example");
    let deadline = Instant::now() + Duration::from_secs(20);
    // It comes back to the pool a moment after its answer has been read.
    loop {
        let before = server.connections();
        get(&client, &grants, &url).await.unwrap();
        if before > 0 && server.connections() == before {
            break;
        }
        assert!(Instant::now() < deadline, "never used again");
    }
    let result = get(&client, &["a.example:*"], &url).await;
    assert!(
        matches!(result, Err(Error::DestinationIpProhibited)),
        "{result:?}"
    );
}

#[tokio::test]
async fn a_connection_that_the_server_closed_is_replaced() {
    let server = Server::serving(1).await;
    let (client, _) = client(&[LOOPBACK]);
    for _ in 0..5 {
        get(
            &client,
            &["a.example:*", "127.0.0.1:*"],
            &server.url("a.example"),
        )
        .await
        .unwrap();
        // Closing is no answer: a request sent at the very moment would get none.
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            tokio::time::sleep(Duration::from_millis(5)).await;
            if !client.pool.close_old() {
                break;
            }
            assert!(Instant::now() < deadline, "the connection stays open");
        }
    }
    assert_eq!(server.connections(), 5);
}

#[tokio::test]
async fn a_silent_server_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let options = RequestOptions {
        first_byte_timeout: Some(Duration::from_millis(50)),
        ..RequestOptions::default()
    };
    let (client, _) = client(&[]);
    let result = get_with(&client, &["127.0.0.1:*"], &url, options).await;
    assert!(
        matches!(result, Err(Error::ConnectionReadTimeout)),
        "{result:?}"
    );
}

#[tokio::test]
async fn refusals_and_broken_tls_have_names_of_their_own() {
    let (client, _) = client(&[]);
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", gone.local_addr().unwrap());
    drop(gone);
    let result = get(&client, &["127.0.0.1:*"], &url).await;
    assert!(
        matches!(result, Err(Error::ConnectionRefused)),
        "{result:?}"
    );

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}/", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    let result = get(&client, &["127.0.0.1:*"], &url).await;
    assert!(matches!(result, Err(Error::TlsProtocolError)), "{result:?}");
}

#[tokio::test]
async fn an_address_that_is_silent_does_not_use_up_the_time() {
    let server = Server::start().await;
    let silent: IpAddr = "127.0.0.2".parse().unwrap();
    let (_listener, _clients) = silent_listener(SocketAddr::new(silent, server.addr.port())).await;
    let (client, _) = client(&[silent, LOOPBACK]);
    let options = RequestOptions {
        connect_timeout: Some(Duration::from_secs(20)),
        ..RequestOptions::default()
    };
    let grants = ["a.example:*", "127.0.0.0/8:*"];
    let answer = get_with(&client, &grants, &server.url("a.example"), options).await;
    assert_eq!(answer.unwrap(), "1");
}

/// Listens, and answers no attempt to connect: its queue is full.
async fn silent_listener(addr: SocketAddr) -> (TcpListener, Vec<TcpStream>) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(addr).unwrap();
    let listener = socket.listen(1).unwrap();
    let mut clients = Vec::new();
    while let Ok(client) = timeout(Duration::from_millis(200), TcpStream::connect(addr)).await {
        clients.push(client.unwrap());
    }
    (listener, clients)
}

#[tokio::test]
async fn a_module_with_slow_servers_leaves_connections_to_others() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let tarpit = format!("http://{}/", listener.local_addr().unwrap());
    let server = Server::start().await;
    let (client, _) = client(&[]);
    let (greedy, other) = (Share::default(), Share::default());
    let grants = ["127.0.0.1:*"];
    let kept = greedy.requests.available_permits();
    let mut stuck = FuturesUnordered::new();
    for _ in 0..kept {
        let options = RequestOptions::default();
        stuck.push(get_within(&client, &greedy, &grants, &tarpit, options));
    }
    let all_are_under_way = async {
        while greedy.requests.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        _ = stuck.next() => panic!("a request ended"),
        () = all_are_under_way => {}
    }
    let soon = RequestOptions {
        connect_timeout: Some(Duration::from_millis(50)),
        ..RequestOptions::default()
    };
    let url = server.url("127.0.0.1");
    let refused = get_within(&client, &greedy, &grants, &url, soon).await;
    assert!(
        matches!(refused, Err(Error::ConnectionLimitReached)),
        "{refused:?}"
    );
    let options = RequestOptions::default();
    get_within(&client, &other, &grants, &url, options)
        .await
        .unwrap();
    // The node's last place is not theirs.
    assert!(client.permits.available_permits() >= CONNECTIONS_MAX / 2);
}

#[tokio::test]
async fn a_slow_lookup_keeps_its_place_until_it_ends() {
    let (end, ended) = std::sync::mpsc::channel::<()>();
    let ended = parking_lot::Mutex::new(ended);
    let client = Client::resolving_with(Arc::new(move |_: &str, _: u16| {
        let _ = ended.lock().recv();
        Ok(vec![])
    }));
    let share = Share::default();
    let places = share.lookups.available_permits();
    let grants = ["a.example:*"];
    let soon = RequestOptions {
        connect_timeout: Some(Duration::from_millis(50)),
        ..RequestOptions::default()
    };
    let result = get_within(&client, &share, &grants, "http://a.example/", soon).await;
    assert!(matches!(result, Err(Error::DnsTimeout)), "{result:?}");
    // Nobody waits for it, and still it occupies its thread.
    assert_eq!(share.lookups.available_permits(), places - 1);
    assert_eq!(client.lookups.available_permits(), LOOKUPS_MAX - 1);
    drop(end);
    let all = u32::try_from(LOOKUPS_MAX).unwrap();
    let freed = timeout(Duration::from_secs(20), client.lookups.acquire_many(all)).await;
    assert!(freed.is_ok_and(|places| places.is_ok()));
}

#[tokio::test]
async fn nothing_leaves_behind_a_shut_fence_neither_anew_nor_on_an_open_connection() {
    let server = Server::start().await;
    let (client, _) = client(&[LOOPBACK]);
    let grants = [&*format!("127.0.0.1:{}", server.addr.port())];
    let url = server.url("127.0.0.1");
    let fence = Fence::open();
    get_behind(&client, &fence, &grants, &url).await.unwrap();
    // The connection is back in the pool, or a new one would be made: both are refused.
    fence.pass_until(Duration::ZERO);
    for _ in 0..2 {
        let refused = get_behind(&client, &fence, &grants, &url).await;
        assert!(
            matches!(refused, Err(Error::HttpRequestDenied)),
            "{refused:?}"
        );
    }
    assert!(server.connections() <= 2, "{}", server.connections());
}
