//! Announced restarts: a node says that its process is about to be replaced, so that the cluster
//! keeps its resources for the next run instead of giving them to others.
//!
//! Any node takes the wish; the node that it is about says so in the state, with a majority, before
//! it ends anything. Without one it goes on as it is: its next run would not get a lease. Before that
//! it asks the program that will run what version it is: a file that is gone, or is no program, is
//! found while the former one still serves.
//!
//! An announcement whose outcome did not become known in time may be applied yet. A node that finds itself
//! announced in its state makes that good: it announces the restart again, until that is acknowledged, and
//! restarts. It does not end before: a leader that has not applied the announcement would take the end
//! for a death.

use std::{
    path::{Path, PathBuf},
    pin::pin,
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use holdfast_cluster::state::{Command, Key, Owner, Refused, Standing};
use holdfast_model::NodeId;
use serde::{Deserialize, Serialize};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep},
};
use tracing::{debug, info, warn};

use crate::{
    control::{Control, ProposeError},
    modules::chain,
    peer::{Kind, Lane, Peers},
    rpc::{self, Question},
};

/// How a node's process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It stops.
    Stop,
    /// Another run takes its place at once.
    Restart,
}

/// Restarts this node, and asks others to. Cheap to clone.
#[derive(Clone)]
pub struct Restarts(Arc<Inner>);

struct Inner {
    me: Owner,
    control: Control,
    peers: Peers,
    /// What is started in the place of this process; none where its host decides that.
    program: Option<PathBuf>,
    tell: mpsc::Sender<Ending>,
}

/// Why a node does not restart.
#[derive(Clone, Debug, Serialize, Deserialize, thiserror::Error)]
pub enum RestartError {
    /// The state refuses it.
    #[error(transparent)]
    Refused(Refused),
    /// The cluster did not hear of it in time. The node goes on.
    #[error("the restart could not be announced to the cluster: {0}")]
    NotAnnounced(String),
    /// It could not be asked, or did not answer.
    #[error("the node did not answer: {0}")]
    NotReached(String),
    /// The cluster may hear of it yet. Then the node restarts.
    #[error(
        "the restart was not acknowledged in time; the node restarts if the cluster hears of it yet"
    )]
    Unknown,
    /// The program that would take its place cannot be started, or is older than it should be.
    #[error("{0}")]
    Program(String),
}

/// Asks a node to restart.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Restart {
    /// The version that the next run must have at least.
    expect_version: Option<String>,
}

impl Question for Restart {
    const KIND: Kind = Kind(11);
    const LANE: Lane = Lane::Control;
    type Answer = Result<(), RestartError>;
}

impl Restarts {
    /// Makes the restarts of a node, and the receiver of its own.
    #[must_use]
    pub fn new(
        me: Owner,
        control: Control,
        peers: Peers,
        program: Option<PathBuf>,
    ) -> (Self, mpsc::Receiver<Ending>) {
        // One is enough: whatever is told, the node ends.
        let (tell, told) = mpsc::channel(1);
        let inner = Inner {
            me,
            control,
            peers,
            program,
            tell,
        };
        (Self(Arc::new(inner)), told)
    }

    /// Has a node announce its restart, and begin it; only if its program is at least of this version,
    /// where one is given.
    ///
    /// # Errors
    /// When it goes on as it is, or could not be asked.
    pub async fn restart(
        &self,
        node: NodeId,
        expect_version: Option<semver::Version>,
    ) -> Result<(), RestartError> {
        let question = Restart {
            expect_version: expect_version.map(|version| version.to_string()),
        };
        if node == self.0.me.node {
            return self.answer(question).await;
        }
        let patience = PROGRAM + ANNOUNCE + ANSWER;
        let asked = rpc::ask(&self.0.peers, node, &question, patience).await;
        asked.unwrap_or_else(|error| Err(RestartError::NotReached(chain(&error))))
    }

    /// Announces the restart of this node, and begins it.
    pub(crate) async fn answer(&self, question: Restart) -> Result<(), RestartError> {
        self.look_at_program(question.expect_version).await?;
        self.announce().await?;
        // Full or closed: it is about to end already.
        let _ = self.0.tell.try_send(Ending::Restart);
        Ok(())
    }

    /// Makes sure that the next run can begin, and has the version that is expected.
    async fn look_at_program(&self, expected: Option<String>) -> Result<(), RestartError> {
        let refused = |why: String| Err(RestartError::Program(why));
        let Some(program) = self.0.program.clone() else {
            return match expected {
                None => Ok(()),
                Some(_) => {
                    refused("the node runs inside another program, which decides".to_owned())
                }
            };
        };
        let shown = program.display().to_string();
        // A thread that may wait for a disk: starting a program reads it.
        let runtime = tokio::runtime::Handle::current();
        let asked = tokio::task::spawn_blocking(move || runtime.block_on(version_of(&program)));
        let found = match asked.await {
            Ok(Ok(version)) => version,
            Ok(Err(why)) => return refused(format!("{shown} cannot take this one's place: {why}")),
            Err(failed) => return refused(failed.to_string()),
        };
        let wanted = expected.as_deref().map(semver::Version::parse).transpose();
        match wanted {
            Ok(Some(wanted)) if found < wanted => {
                refused(format!("{shown} is version {found}, not {wanted} or later"))
            }
            Ok(_) => {
                info!(program = shown, version = %found, "this program takes the place of this one");
                Ok(())
            }
            Err(error) => refused(format!("the expected version is none: {error}")),
        }
    }

    /// Says in the state that this run of the node ends, and another one begins.
    ///
    /// # Errors
    /// When the cluster did not hear of it, or takes this run for dead.
    pub async fn announce(&self) -> Result<(), RestartError> {
        let Owner { node, incarnation } = self.0.me;
        let command = Command::Restart { node, incarnation };
        let deadline = (Instant::now() + ANNOUNCE).into_std();
        let outcome = self.0.control.propose(command, deadline).await;
        let not_heard = |error: ProposeError| match error {
            ProposeError::TimedOut => RestartError::Unknown,
            error => RestartError::NotAnnounced(chain(&error)),
        };
        outcome
            .map_err(not_heard)?
            .accepted()
            .map_err(RestartError::Refused)?;
        info!("announced the restart; what this node holds is kept for its next run");
        Ok(())
    }

    /// Waits until the state says that this run restarts, and the cluster has acknowledged it.
    async fn found_announced(&self) {
        let Owner { node, incarnation } = self.0.me;
        let mut changes = self.0.control.subscribe();
        loop {
            if !changes.changed().await.contains(&Key::Node(node)) {
                continue;
            }
            let announced = || {
                self.0.control.read(|state| {
                    state.nodes().get(&node).is_some_and(|known| {
                        known.incarnation == incarnation && known.standing == Standing::Restarting
                    })
                })
            };
            while announced() {
                match self.announce().await {
                    Ok(()) => return,
                    Err(error) => debug!(%error, "announces the restart again"),
                }
                sleep(AGAIN).await;
            }
        }
    }

    /// Waits for what ends the node: a signal, a restart that was asked for through the API, or one that
    /// the state has. A restart that the cluster cannot hear of is none.
    pub(crate) async fn ending(
        &self,
        mut signals: impl futures_util::Stream<Item = Ending> + Unpin,
        mut asked: mpsc::Receiver<Ending>,
    ) -> Ending {
        use futures_util::StreamExt as _;
        let mut announced = pin!(self.found_announced());
        loop {
            // All only receive: what is cancelled is received the next time.
            let ending = tokio::select! {
                Some(ending) = signals.next() => ending,
                Some(announced) = asked.recv() => return announced,
                () = &mut announced => return Ending::Restart,
            };
            if ending == Ending::Stop {
                return ending;
            }
            let announced = async {
                self.look_at_program(None).await?;
                self.announce().await
            };
            match announced.await {
                Ok(()) => return ending,
                Err(RestartError::Unknown) => {
                    warn!(
                        "restart not acknowledged in time; restarting if the cluster hears of it yet"
                    );
                }
                Err(error) => warn!(%error, "restart not announced; going on"),
            }
        }
    }
}

/// What a program says its version is: the last word of what `--version` prints.
async fn version_of(program: &Path) -> Result<semver::Version, String> {
    let mut command = tokio::process::Command::new(program);
    let command = command
        .arg("--version")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    let output = command.spawn().map_err(|error| error.to_string())?;
    let output = tokio::time::timeout(PROGRAM, output.wait_with_output()).await;
    let output = output
        .map_err(|_late| "it does not say its version".to_owned())?
        .map_err(|error| error.to_string())?;
    let said = String::from_utf8_lossy(&output.stdout);
    let word = said.split_whitespace().last().unwrap_or_default();
    match semver::Version::parse(word) {
        Ok(version) if output.status.success() => Ok(version),
        _ => Err("it does not say its version".to_owned()),
    }
}

/// How long a program may take to say its version: a large file on a slow disk.
const PROGRAM: Duration = Duration::from_secs(10);

/// How long the announcement may take: an election, and a slow disk. Shorter than a lease, so that
/// whoever asked hears that there is no majority before the node ends for that.
const ANNOUNCE: Duration = Duration::from_secs(2);

/// After how long an announcement is repeated that the state has and nobody acknowledged.
const AGAIN: Duration = Duration::from_millis(200);

/// How much later its answer may come.
const ANSWER: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;

    #[tokio::test]
    async fn a_program_says_its_version_or_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let program = |name: &str, script: &str| {
            let path = dir.path().join(name);
            fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
            path
        };
        let good = program("good", "[ \"$1\" = --version ] && echo holdfast 1.2.3-rc.1");
        let version = version_of(&good).await.unwrap();
        assert_eq!(version, semver::Version::parse("1.2.3-rc.1").unwrap());
        for (name, script) in [
            ("silent", ":"),
            ("other", "echo no version"),
            ("failing", "echo holdfast 1.2.3; exit 1"),
        ] {
            let why = version_of(&program(name, script)).await.unwrap_err();
            assert_eq!(why, "it does not say its version", "{name}");
        }
        let why = version_of(&dir.path().join("gone")).await.unwrap_err();
        assert!(why.contains("No such file"), "{why}");
    }
}
