//! The steps of the demo, from the first node to the return of the one that was killed.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use futures_util::stream;
use holdfast_model::{
    ModuleName, NodeId, ResourceId, Settings, Spec,
    api::{BatchOutcome, BatchRequest, DeployQuery, Problem},
};

use super::{
    super::human,
    DemoArgs, Ready, ReadyNode, Summary,
    collector::Collector,
    handler,
    ledger::Tally,
    nodes::{Node, Processes},
    story::{self, Step, Story},
};
use crate::client::{Call, Client};

/// The cluster, and what watches it.
pub(super) struct Demo<'a> {
    story: &'a Story,
    module: ModuleName,
    ids: Vec<ResourceId>,
    collector: Collector,
    processes: &'a mut Processes,
    nodes: Vec<Node>,
    build: Duration,
    start: Duration,
}

impl<'a> Demo<'a> {
    pub(super) async fn prepare(
        args: &DemoArgs,
        folder: &Path,
        story: &'a Story,
        processes: &'a mut Processes,
    ) -> anyhow::Result<Self> {
        let (component, build) = handler::build(folder, story).await?;
        let collector = Collector::start().await.context("receive reports")?;

        let step = story.step("Start", "waiting for the nodes to find each other");
        let first = Node::start(folder, 1, None, processes, &collector).await?;
        let seed = first.listening.cluster;
        let mut nodes = vec![first];
        for number in 2..=args.nodes as usize {
            let node = Node::start(folder, number, Some(seed), processes, &collector).await?;
            nodes.push(node);
        }
        until_joined(&nodes, processes).await?;
        let what = format!(
            "{} nodes, each a process, joined to one cluster",
            args.nodes
        );
        let start = step.done(&what, None)?;

        let mut demo = Self {
            story,
            module: "demo".parse().expect("the name is a label"),
            ids: ids(args.resources),
            collector,
            processes,
            nodes,
            build,
            start,
        };
        demo.deploy(component).await?;
        Ok(demo)
    }

    async fn deploy(&mut self, component: bytes::Bytes) -> anyhow::Result<()> {
        let step = self
            .story
            .step("Deploy", "compiling the handler on every node");
        let mut settings = Settings::default();
        let destination = self.collector.addr().to_string();
        settings.grants.http = vec![destination.parse().expect("an address is a destination")];
        settings
            .config
            .insert("report_url".to_owned(), self.collector.url());
        let info = self
            .client()
            .deploy(
                &self.module,
                component,
                Some(&settings),
                &DeployQuery::default(),
            )
            .await
            .context("deploy the handler")?;
        let what = format!("version {} of module {}", info.version.number, self.module);
        step.done(&what, None)?;
        Ok(())
    }

    pub(super) async fn play(&mut self) -> anyhow::Result<Summary> {
        let total = self.ids.len() as u64;
        let (before_kill, allocate) = self.allocate().await?;
        let mut summary = Summary {
            ok: false,
            nodes: self.nodes.len() as u32,
            resources: total,
            before_kill,
            after_kill: None,
            after_rejoin: None,
            killed_resources: 0,
            moved_by_kill: 0,
            moved_by_rejoin: 0,
            build_ms: millis(self.build),
            start_ms: millis(self.start),
            allocate_ms: millis(allocate),
            failover_ms: 0,
            rejoin_ms: 0,
        };
        if !before_kill.is_exact() {
            return Ok(summary);
        }
        self.invoke().await?;
        let after_kill = self.kill(&mut summary).await?;
        summary.after_kill = Some(after_kill);
        if !after_kill.is_exact() {
            return Ok(summary);
        }
        let after_rejoin = self.rejoin(&mut summary).await?;
        summary.after_rejoin = Some(after_rejoin);
        summary.ok = after_rejoin.is_exact();
        Ok(summary)
    }

    async fn allocate(&mut self) -> anyhow::Result<(Tally, Duration)> {
        let step = self.story.step("Allocate", "allocating");
        let lines: Vec<BatchRequest> = self
            .ids
            .iter()
            .map(|id| BatchRequest::Allocate {
                id: id.clone(),
                spec: Spec::default(),
            })
            .collect();
        let mut refused: Option<Problem> = None;
        self.client()
            .batch(&self.module, stream::iter(lines), |answer| {
                if let BatchOutcome::Problem(problem) = answer.outcome {
                    refused.get_or_insert(problem);
                }
            })
            .await
            .context("allocate the resources")?;
        if let Some(problem) = refused {
            return Err(anyhow::Error::new(problem).context("allocate a resource"));
        }
        let tally = self.until_exact(&step).await?;
        let took = step.done(&held(tally), None)?;
        self.story.say(&self.spread())?;
        Ok((tally, took))
    }

    /// Calls a resource through a node that does not own it.
    async fn invoke(&self) -> anyhow::Result<()> {
        let step = self.story.step("Invoke", "calling a resource");
        let id = &self.ids[0];
        let holder = self.collector.ledger().holder(id);
        let other = self.nodes.iter().find(|node| Some(node.pid) != holder);
        let asked = other.context("the demo has more nodes than one")?;
        let started = Instant::now();
        let answer = asked
            .client
            .invoke(&self.module, id, Call::default())
            .await
            .context("call a resource")?;
        let took = started.elapsed();
        let name =
            |node: Option<NodeId>| match self.nodes.iter().find(|n| Some(n.listening.node) == node)
            {
                Some(node) => format!("node {}", node.number),
                None => "an unknown node".to_owned(),
            };
        let what = format!(
            "{id} through node {}, answered by {}: {}",
            asked.number,
            name(answer.node),
            human::short(&String::from_utf8_lossy(&answer.body), 60),
        );
        step.done(&what, Some(took))?;
        Ok(())
    }

    /// Kills the last node, and waits until all its resources are held again.
    async fn kill(&mut self, summary: &mut Summary) -> anyhow::Result<Tally> {
        let step = self.story.step("Kill", "killing a node");
        let victim = self.nodes.last().expect("the demo has nodes");
        let (pid, number) = (victim.pid, victim.number);
        let at = Instant::now();
        let (lost, mark, killed) = {
            // Nothing is entered meanwhile: what others report comes after the kill, and what the
            // victim said before it counts no more.
            let mut ledger = self.collector.ledger();
            let killed = self.processes.kill(pid)?;
            (ledger.killed(pid), ledger.events(), killed)
        };
        anyhow::ensure!(!lost.is_empty(), "node {number} held nothing to be lost");
        killed.gone().await?;
        step.doing("waiting until its resources are held again");
        let tally = self.until_exact(&step).await?;
        let (last, moved) = {
            let ledger = self.collector.ledger();
            let mut begun = ledger.begun_after(mark);
            for id in &lost {
                begun.remove(id);
            }
            (ledger.last_event().unwrap_or(at), begun.len() as u64)
        };
        let took = last.saturating_duration_since(at);
        summary.killed_resources = lost.len() as u64;
        summary.moved_by_kill = moved;
        summary.failover_ms = millis(took);
        let others = match moved {
            0 => "the others were not touched".to_owned(),
            n => format!("{} others were started anew", human::count(n)),
        };
        let what = format!(
            "node {number} with SIGKILL; its {} are held again by the other nodes, {others}",
            human::counted(lost.len() as u64, "resource"),
        );
        if tally.is_exact() {
            step.done(&what, Some(took))?;
        } else {
            step.done(
                &format!("node {number} with SIGKILL; {}", held(tally)),
                None,
            )?;
        }
        Ok(tally)
    }

    /// Starts the killed node anew, and waits until nothing moves any more.
    async fn rejoin(&mut self, summary: &mut Summary) -> anyhow::Result<Tally> {
        let step = self.story.step("Rejoin", "starting it anew");
        let mark = self.collector.ledger().events();
        let started = Instant::now();
        let node = self.nodes.last_mut().expect("the demo has nodes");
        let number = node.number;
        node.restart(self.processes, &self.collector).await?;
        until_joined(&self.nodes, self.processes).await?;
        step.doing("waiting until nothing moves any more");
        let tally = self.until_settled().await?;
        let total = self.ids.len() as u64;
        let (moved, last) = {
            let ledger = self.collector.ledger();
            let moved = ledger.begun_after(mark).len() as u64;
            (moved, ledger.last_event().unwrap_or(started))
        };
        let took = last.saturating_duration_since(started);
        summary.moved_by_rejoin = moved;
        summary.rejoin_ms = millis(took);
        let what = format!(
            "node {number}, started anew; {} of {} moved, the others stayed",
            human::count(moved),
            human::count(total),
        );
        step.done(&what, Some(took))?;
        self.story.say(&self.spread())?;
        Ok(tally)
    }

    /// Says where the nodes are, which are left to themselves now.
    pub(super) fn say_where(&self) -> anyhow::Result<()> {
        let url = format!("http://{}", self.nodes[0].listening.http);
        let mut text = format!(
            "\nIt stays up until Ctrl-C. In another terminal:\n  \
             export HOLDFAST_SERVER={url}\n  \
             holdfast status\n  \
             holdfast resources list {module}\n  \
             holdfast invoke {module}/{id}\n\nNodes:",
            module = self.module,
            id = self.ids[0],
        );
        for node in &self.nodes {
            let Node {
                number, listening, ..
            } = node;
            text.push_str(&format!(
                "\n  node {number}  http://{}  pid {}",
                listening.http, listening.pid
            ));
        }
        self.story.say(&text)
    }

    /// The same for programs.
    pub(super) fn ready<'s>(&self, summary: &'s Summary) -> Ready<'s> {
        let nodes = self.nodes.iter().map(|node| ReadyNode {
            number: node.number,
            node: node.listening.node,
            http: format!("http://{}", node.listening.http),
            pid: node.pid,
        });
        Ready {
            event: "ready",
            module: self.module.clone(),
            nodes: nodes.collect(),
            summary,
        }
    }

    /// Waits until all resources are held exactly once, or for too long.
    async fn until_exact(&mut self, step: &Step<'_>) -> anyhow::Result<Tally> {
        let total = self.ids.len() as u64;
        let tell = |tally: Tally| {
            step.doing(&format!(
                "{} of {} held",
                human::count(tally.held_once),
                human::count(total)
            ));
        };
        let tally = self.collector.until_exact(total, HELD_TIMEOUT, tell).await;
        self.processes.check()?;
        Ok(tally)
    }

    /// Waits until every node holds something, nothing is to move and no report came for a while,
    /// or until an overlap or a loss shows that it is in vain.
    async fn until_settled(&mut self) -> anyhow::Result<Tally> {
        let joined = Instant::now();
        let total = self.ids.len() as u64;
        loop {
            tokio::time::sleep(POLL_INTERVAL).await;
            self.processes.check()?;
            let (tally, last, idle) = {
                let ledger = self.collector.ledger();
                let idle = self.nodes.iter().find(|node| ledger.held_by(node.pid) == 0);
                (ledger.tally(total), ledger.last_event(), idle)
            };
            let quiet = last.unwrap_or(joined).max(joined).elapsed() >= QUIET;
            let settled = tally.is_exact() && quiet && idle.is_none();
            if tally.overlaps > 0 || settled && self.nothing_is_to_move().await? {
                return Ok(tally);
            }
            if joined.elapsed() >= HELD_TIMEOUT {
                let why = match idle {
                    // The tally says what is wrong.
                    _ if !tally.is_exact() => return Ok(tally),
                    Some(node) => format!("node {} holds nothing", node.number),
                    None => "resources still move".to_owned(),
                };
                let waited = human::duration(HELD_TIMEOUT);
                anyhow::bail!("the cluster does not come to rest within {waited}: {why}");
            }
        }
    }

    async fn nothing_is_to_move(&self) -> anyhow::Result<bool> {
        let slots = self.client().slots(&self.module).await?.slots;
        let mut slots = slots.iter();
        Ok(slots.all(|slot| slot.owner.is_some() && slot.next.is_none()))
    }

    /// How many resources each node holds.
    fn spread(&self) -> String {
        let ledger = self.collector.ledger();
        let shares: Vec<(String, u64)> = self
            .nodes
            .iter()
            .map(|node| {
                let id = human::node(node.listening.node);
                let name = format!("node {} ({id})", node.number);
                (name, ledger.held_by(node.pid))
            })
            .collect();
        story::bars(&shares)
    }

    fn client(&self) -> &Client {
        &self.nodes[0].client
    }
}

/// Waits until all nodes are active members and the loss of one is survived.
async fn until_joined(nodes: &[Node], processes: &mut Processes) -> anyhow::Result<()> {
    let wanted = nodes.len() as u64;
    let deadline = Instant::now() + JOIN_TIMEOUT;
    loop {
        processes.check()?;
        // A node that has just started may have no leader yet: it is asked again.
        let seen = nodes[0].client.cluster().await;
        if let Ok(cluster) = &seen
            && cluster.nodes.active == wanted
            && cluster.losses_survived > 0
        {
            return Ok(());
        }
        if Instant::now() >= deadline {
            let cluster = seen.context("the nodes did not join in time")?;
            anyhow::bail!(
                "the nodes did not join in time: {} of {wanted} are active, {} can be lost",
                cluster.nodes.active,
                cluster.losses_survived,
            );
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

fn ids(count: u32) -> Vec<ResourceId> {
    (1..=count)
        .map(|n| {
            format!("resource-{n:04}")
                .parse()
                .expect("it is short and plain")
        })
        .collect()
}

fn held(tally: Tally) -> String {
    let held = human::counted(tally.held_once, "resource");
    match (tally.held_twice, tally.not_held) {
        (0, 0) => format!("{held}, each held by exactly one node"),
        (twice, not) => format!("{held} are held once, {twice} twice, {not} not at all"),
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

const JOIN_TIMEOUT: Duration = Duration::from_secs(60);
const HELD_TIMEOUT: Duration = Duration::from_secs(120);
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// Longer than the leader's pause between two rounds of moves.
const QUIET: Duration = Duration::from_secs(2);
