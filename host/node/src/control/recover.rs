//! A node's part in the control state, read and founded anew without a majority.
//!
//! What was acknowledged is on a majority of the voters' disks, so one disk may lack some of it, and
//! has entries that nobody agreed on. All entries that it has count: one that was acknowledged
//! among them may not be told from one that was not.
//!
//! Nothing here changes the files that it reads, beyond what opening them does.

use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use holdfast_cluster::state::{Changes, Position, State};
use holdfast_model::{ClusterId, NodeId};
use openraft::{EntryPayload, Membership, RaftLogReader as _, storage::RaftLogStorage as _};

use super::{
    LOG_FILE, OpenError, Options, STATE_FILE, file,
    log::LogStore,
    machine::CACHE_BYTES,
    open_files,
    seal::seal,
    snapshot::{StageError, Staged},
    types::{LogId, Peer, SnapshotMeta, StoredMembership, Vote, term},
};

/// What one node's files say of its cluster.
pub struct Remains {
    me: NodeId,
    state: State,
    last: LogId,
    vote: Option<Vote>,
    known_agreed: Option<u64>,
    voters: BTreeSet<NodeId>,
    written_at: SystemTime,
}

/// Why nothing can be founded from a node's files.
#[derive(Debug, thiserror::Error)]
pub enum RemainsError {
    /// They cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The log cannot be read.
    #[error("read the log in {}", dir.display())]
    Read {
        /// The data directory.
        dir: PathBuf,
        /// What went wrong.
        #[source]
        source: io::Error,
    },
    /// There is no cluster in them.
    #[error(
        "the node of {} never learned the state of a cluster: there is nothing to found anew from",
        dir.display()
    )]
    Nothing {
        /// The data directory.
        dir: PathBuf,
    },
    /// The new files could not be written.
    #[error("write the files of the new cluster")]
    Write(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl From<StageError> for RemainsError {
    fn from(error: StageError) -> Self {
        Self::Write(error.into())
    }
}

impl Remains {
    /// Reads the files of a node that does not run, and applies everything that is in its log.
    ///
    /// # Errors
    /// When they cannot be read, or have no cluster.
    pub async fn read(dir: &Path, me: NodeId) -> Result<Self, RemainsError> {
        let read = |source| RemainsError::Read {
            dir: dir.to_owned(),
            source,
        };
        // Before it is opened, which may write.
        let written = std::fs::metadata(dir.join(LOG_FILE)).and_then(|about| about.modified());
        let options = Options {
            member: true,
            ..Options::new(dir.to_owned(), me)
        };
        let (mut log, replica) = open_files(&options)?;
        let (applied, membership) = replica
            .position()
            .map_err(|error| read(file::io_error(error)))?;
        let mut state = replica.read(State::clone);
        let mut voters = voters(membership.membership());
        let mut last = applied;
        let from = applied.map_or(0, |applied| applied.index + 1);
        for entry in log.try_get_log_entries(from..).await.map_err(read)? {
            let id = entry.log_id;
            last = Some(id);
            match entry.payload {
                EntryPayload::Blank => {}
                EntryPayload::Membership(config) => voters = self::voters(&config),
                EntryPayload::Normal(proposal) => {
                    let at = Position {
                        index: id.index,
                        term: term(&id),
                    };
                    state.apply(at, proposal.0, &mut Changes::new());
                }
            }
        }
        let (Some(last), Some(_)) = (last, state.cluster()) else {
            return Err(RemainsError::Nothing {
                dir: dir.to_owned(),
            });
        };
        let agreed = log.read_committed().await.map_err(read)?;
        let agreed = agreed.map(|id| id.index).max(applied.map(|id| id.index));
        Ok(Self {
            me,
            state,
            last,
            vote: log.read_vote().await.map_err(read)?,
            known_agreed: agreed,
            voters,
            written_at: written.map_err(read)?,
        })
    }

    /// The state, with everything of the log applied.
    #[must_use]
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Index and term of the last entry.
    #[must_use]
    pub fn last(&self) -> (u64, u64) {
        (self.last.index, term(&self.last))
    }

    /// The last entry that this node knew to be agreed on.
    #[must_use]
    pub fn known_agreed(&self) -> Option<u64> {
        self.known_agreed
    }

    /// The nodes whose majority decided.
    #[must_use]
    pub fn voters(&self) -> &BTreeSet<NodeId> {
        &self.voters
    }

    /// When the log was written to last.
    #[must_use]
    pub fn written_at(&self) -> SystemTime {
        self.written_at
    }

    /// Writes the files of a new cluster, of this node alone, into an empty directory: the state
    /// as a snapshot, and a log that begins behind it.
    ///
    /// # Errors
    /// When they cannot be written. What was written by then is of no use.
    pub fn found_anew(
        mut self,
        id: ClusterId,
        at_ms: u64,
        into: &Path,
    ) -> Result<(), RemainsError> {
        self.state.refound(id, self.me, at_ms);
        let me = Peer(self.me);
        let alone = Membership::new_with_defaults(vec![BTreeSet::from([me])], []);
        let meta = SnapshotMeta {
            last_log_id: Some(self.last),
            last_membership: StoredMembership::new(Some(self.last), alone),
        };
        let staged = Staged::begin(into, self.me, CACHE_BYTES)?;
        let rows = self.state.keys().filter_map(|key| {
            let row = self.state.row(&key)?;
            let name = key.to_bytes();
            let row = seal(&name, &row);
            Some((name.into(), row.into()))
        });
        staged.add(&rows.collect::<Vec<_>>())?;
        staged.complete(&meta)?;
        drop(staged.keep_as(&into.join(STATE_FILE))?);
        // Terms go on, so that a decision names one leader of either cluster.
        let voted = self.vote.map_or(0, |vote| vote.leader_id.term);
        let vote = Vote::new(voted.max(term(&self.last)) + 1, me);
        LogStore::begin_after(&into.join(LOG_FILE), self.me, vote, self.last)
    }
}

fn voters(membership: &Membership<Peer, openraft::EmptyNode>) -> BTreeSet<NodeId> {
    membership.voter_ids().map(|peer| peer.0).collect()
}
