//! A program with a node of Holdfast in it.
//!
//! Founds a cluster of one, deploys a component, calls a resource, and ends. Any program can be one of
//! several nodes in the same way: the others get its address by `seed`, and the secret.
//!
//! ```console
//! $ holdfast build examples/counter
//! $ cargo run --release --example embedded -- target/wasm32-wasip2/release/counter.wasm
//! ```

use std::{net::SocketAddr, time::Duration};

use anyhow::Context as _;
use holdfast::{Node, client::Call, embed::Ended};
use holdfast_model::api::{AllocateQuery, AllocateWait, DeployQuery, DeployWait};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let path = std::env::args()
        .nth(1)
        .context("give the path of a component")?;
    let component = std::fs::read(&path).with_context(|| format!("read {path}"))?;
    let data = tempfile::tempdir()?;

    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let node = Node::builder(data.path(), "embedded".parse()?)
        .bootstrap()
        .http(any)
        .listen(any);
    // It blocks for a moment.
    let mut node = tokio::task::spawn_blocking(|| node.start()).await??;
    let client = node.client()?;
    while client.ready().await.is_err() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    println!("the node listens on {}", client.server());

    let (module, id) = ("counter".parse()?, "visits".parse()?);
    let serving = DeployQuery {
        wait: Some(DeployWait::Serving),
        ..DeployQuery::default()
    };
    client
        .deploy(&module, component.into(), None, &serving)
        .await?;
    let held = AllocateQuery {
        wait: Some(AllocateWait::Held),
        ..AllocateQuery::default()
    };
    client
        .allocate(&module, &id, &Default::default(), &held)
        .await?;
    let add = Call {
        body: r#"{"add":1}"#.into(),
        ..Call::default()
    };
    // A node can end by itself: a program looks at that beside what else it does.
    tokio::select! {
        ended = node.ended() => match ended? {
            Ended::Fenced | Ended::WrongCopy => std::process::exit(1),
            ended => anyhow::bail!("the node has ended: {ended:?}"),
        },
        answer = client.invoke(&module, &id, add) => {
            println!("{}", String::from_utf8_lossy(&answer?.body));
        }
    }
    node.stop().await?;
    println!("the node has ended");
    Ok(())
}
