//! Nodes in this process.

use holdfast_model::{
    Settings, Spec,
    api::{AllocateQuery, AllocateWait, DeployQuery, DeployWait},
};
use holdfast_test_components::probe;
use tokio::{
    io::AsyncReadExt as _,
    net::TcpListener,
    time::{Instant, sleep, timeout},
};

use super::*;

const LONG: Duration = Duration::from_secs(60);

fn any() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

fn builder(dir: &std::path::Path) -> Builder {
    let name = "embedded".parse().unwrap();
    Node::builder(dir, name).http(any()).listen(any())
}

async fn start(builder: Builder) -> Node {
    let started = tokio::task::spawn_blocking(|| builder.start());
    let mut node = started.await.unwrap().unwrap();
    let client = node.client().unwrap();
    let begun = Instant::now();
    while let Err(error) = client.ready().await {
        assert!(begun.elapsed() < LONG, "{error}");
        tokio::select! {
            ended = node.ended() => panic!("it has ended: {ended:?}"),
            () = sleep(Duration::from_millis(20)) => {}
        }
    }
    node
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_runs_in_another_program_until_it_is_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let token = "0123456789abcdef0123456789";
    let node = builder(dir.path()).bootstrap().token(token).unwrap();
    let node = start(node).await;
    let client = node.client().unwrap();
    let (module, id) = ("probe".parse().unwrap(), "a".parse().unwrap());
    let query = DeployQuery {
        wait: Some(DeployWait::Serving),
        ..DeployQuery::default()
    };
    let deployed = client
        .deploy(&module, probe(), Some(&Settings::default()), &query)
        .await;
    assert_eq!(deployed.unwrap().version.number, 1);
    let query = AllocateQuery {
        wait: Some(AllocateWait::Held),
        ..AllocateQuery::default()
    };
    client
        .allocate(&module, &id, &Spec::default(), &query)
        .await
        .unwrap();
    let answer = client
        .invoke(&module, &id, client::Call::default())
        .await
        .unwrap();
    assert_eq!(answer.node, Some(node.listening().node));
    // Without the token nobody is answered.
    let stranger = Client::new(&node.listening().http.to_string()).unwrap();
    stranger.cluster().await.unwrap_err();

    let at = node.listening().cluster;
    assert_eq!(node.stop().await.unwrap(), Ended::Stopped);
    std::net::TcpStream::connect(at).unwrap_err();
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_of_one_process_are_a_cluster_and_one_restarts_by_the_api() {
    let dirs = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let secret: Secret = "0123456789abcdef0123".parse().unwrap();
    let first = builder(dirs[0].path()).secret(secret.clone()).bootstrap();
    let first = start(first).await;
    let second = || {
        let seed = first.listening().cluster.to_string();
        builder(dirs[1].path()).secret(secret.clone()).seed(seed)
    };
    let mut node = start(second()).await;
    let client = first.client().unwrap();
    assert_eq!(client.nodes().await.unwrap().nodes.len(), 2);
    let id = node.listening().node;
    client.restart(id, &Default::default()).await.unwrap();
    assert_eq!(node.ended().await.unwrap(), Ended::Restart);
    let node = start(second()).await;
    assert_eq!(node.listening().node, id);
    assert_eq!(node.listening().incarnation.0, 2);
    assert_eq!(node.stop().await.unwrap(), Ended::Stopped);
    assert_eq!(first.stop().await.unwrap(), Ended::Stopped);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_in_another_program_sends_its_traces_where_it_is_told() {
    let collector = TcpListener::bind(any()).await.unwrap();
    let endpoint = format!("http://{}", collector.local_addr().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let node = builder(dir.path()).bootstrap().traces(traces::Options {
        endpoint: endpoint.parse().unwrap(),
        ratio: None,
    });
    let node = start(node).await;
    node.client().unwrap().cluster().await.unwrap();
    let (mut stream, _) = timeout(LONG, collector.accept()).await.unwrap().unwrap();
    let mut head = [0; 16];
    stream.read_exact(&mut head).await.unwrap();
    assert_eq!(&head, b"POST /v1/traces ");
    // Nothing is left to wait for.
    drop((stream, collector));
    assert_eq!(node.stop().await.unwrap(), Ended::Stopped);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_cannot_start_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let fails = |builder: Builder| {
        let started = tokio::task::spawn_blocking(|| builder.start());
        async {
            format!(
                "{:#}",
                anyhow::Error::new(started.await.unwrap().unwrap_err())
            )
        }
    };
    let lonely = fails(builder(dir.path())).await;
    assert!(lonely.contains("belongs to no cluster"), "{lonely}");
    let public = "0.0.0.0:0".parse().unwrap();
    let open = fails(builder(dir.path()).bootstrap().http(public)).await;
    assert!(open.contains("API token"), "{open}");
    let node = start(builder(dir.path()).bootstrap()).await;
    let used = fails(builder(dir.path()).bootstrap()).await;
    assert!(used.contains("used by another node"), "{used}");
    node.stop().await.unwrap();
}
