use std::{
    net::{IpAddr, Ipv4Addr},
    sync::atomic::{AtomicUsize, Ordering},
};

use http_body_util::Empty;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use super::*;

/// A client for which every name has these addresses, and how often it asked.
fn client(addrs: &[IpAddr]) -> (Client, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let (count, addrs) = (asked.clone(), addrs.to_vec());
    let resolve = move |_: String, port: u16| -> BoxFuture<'static, _> {
        count.fetch_add(1, Ordering::Relaxed);
        let found = addrs
            .iter()
            .map(|addr| SocketAddr::new(*addr, port))
            .collect();
        Box::pin(async move { Ok(found) })
    };
    (Client::resolving_with(Box::new(resolve)), asked)
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
    let grants: Vec<HttpGrant> = grants.iter().map(|text| text.parse().unwrap()).collect();
    let body = Empty::new().map_err(|never| match never {}).boxed_unsync();
    let request = http::Request::get(url)
        .header("host", "it")
        .body(body)
        .unwrap();
    let permit = Arc::new(Semaphore::new(1)).acquire_owned().await.unwrap();
    let response = client.send(&grants, request, options, permit).await?;
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
