//! The replicated log, modelled: Raft with joint changes of the voters, without snapshots.
//!
//! What a node promises is on its [`Disk`] before it is sent. Entries of a deposed leader survive
//! or vanish as they would: a later leader has them or not.
//!
//! Absent: time, chance and messages under way; all three come from the caller.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use holdfast_cluster::{
    handover::Now,
    state::{Command, State},
};
use holdfast_model::{Incarnation, NodeId};

/// What a node keeps through a crash.
pub(crate) struct Disk {
    pub(crate) node: NodeId,
    pub(crate) incarnation: Incarnation,
    pub(crate) term: u64,
    voted: Option<NodeId>,
    pub(crate) log: Vec<Arc<Entry>>,
    /// Indexes of the changes of the voters in the log.
    changes: Vec<u64>,
    /// Everything up to `applied`.
    pub(crate) state: State,
    pub(crate) applied: u64,
}

pub(crate) struct Entry {
    pub(crate) term: u64,
    pub(crate) what: What,
}

pub(crate) enum What {
    /// The first entry of a term.
    Blank,
    Command(Command),
    /// A majority of each set decides, from here on.
    Voters(Vec<BTreeSet<NodeId>>),
}

#[derive(Clone)]
pub(crate) enum Message {
    Vote {
        term: u64,
        last: (u64, u64),
    },
    Voted {
        term: u64,
    },
    Append {
        term: u64,
        before: (u64, u64),
        entries: Vec<Arc<Entry>>,
        commit: u64,
        began: Now,
    },
    Appended {
        term: u64,
        /// How much the follower has of the leader's log, or where it may agree with it.
        matched: Result<u64, u64>,
        began: Now,
    },
}

impl Message {
    fn term(&self) -> u64 {
        match self {
            Self::Vote { term, .. }
            | Self::Voted { term }
            | Self::Append { term, .. }
            | Self::Appended { term, .. } => *term,
        }
    }
}

/// A node's part in the log, as far as a crash forgets it.
pub(crate) struct Raft {
    role: Role,
    pub(crate) leader: Option<NodeId>,
    pub(crate) commit: u64,
    campaign_at: Now,
    heard: Option<Now>,
    out: Vec<(NodeId, Message)>,
}

enum Role {
    Follower,
    Candidate(BTreeSet<NodeId>),
    Leader(Lead),
}

pub(crate) struct Lead {
    /// When it was elected, or a moment later.
    pub(crate) elected: Now,
    /// The index of its first entry.
    pub(crate) first: u64,
    heartbeat_at: Now,
    peers: BTreeMap<NodeId, Peer>,
}

#[derive(Default)]
struct Peer {
    matched: u64,
    sent: u64,
    began: Option<Now>,
}

impl Disk {
    pub(crate) fn new(node: NodeId) -> Self {
        Self {
            node,
            incarnation: Incarnation(1),
            term: 0,
            voted: None,
            log: Vec::new(),
            changes: Vec::new(),
            state: State::default(),
            applied: 0,
        }
    }

    pub(crate) fn last(&self) -> u64 {
        self.log.len() as u64
    }

    fn term_at(&self, index: u64) -> u64 {
        match index.checked_sub(1) {
            Some(at) => self.log.get(at as usize).map_or(0, |entry| entry.term),
            None => 0,
        }
    }

    /// Index of the last change of the voters, and the sets that decide since.
    pub(crate) fn voters(&self) -> (u64, &[BTreeSet<NodeId>]) {
        let Some(index) = self.changes.last() else {
            return (0, &[]);
        };
        match &self.log[*index as usize - 1].what {
            What::Voters(sets) => (*index, sets),
            What::Blank | What::Command(_) => (0, &[]),
        }
    }

    pub(crate) fn push(&mut self, entry: Arc<Entry>) {
        let changes = matches!(entry.what, What::Voters(_));
        self.log.push(entry);
        if changes {
            self.changes.push(self.last());
        }
    }

    fn truncate(&mut self, last: u64) {
        self.log.truncate(last as usize);
        self.changes.retain(|index| *index <= last);
    }

    fn votes(&self) -> bool {
        self.voters().1.iter().any(|set| set.contains(&self.node))
    }
}

/// Whether those with the property are a majority of every set.
pub(crate) fn decides(sets: &[BTreeSet<NodeId>], has: impl Fn(&NodeId) -> bool) -> bool {
    let majority =
        |set: &BTreeSet<NodeId>| set.iter().filter(|node| has(node)).count() > set.len() / 2;
    !sets.is_empty() && sets.iter().all(majority)
}

impl Raft {
    pub(crate) fn new(disk: &Disk, now: Now, patience: Duration) -> Self {
        Self {
            role: Role::Follower,
            leader: None,
            commit: disk.applied,
            campaign_at: now + patience,
            heard: None,
            out: Vec::new(),
        }
    }

    pub(crate) fn lead(&self) -> Option<&Lead> {
        match &self.role {
            Role::Leader(lead) => Some(lead),
            Role::Follower | Role::Candidate(_) => None,
        }
    }

    /// How much of the log a peer of this leader has for sure.
    pub(crate) fn matched(&self, node: NodeId) -> u64 {
        let peer = self.lead().and_then(|lead| lead.peers.get(&node));
        peer.map_or(0, |peer| peer.matched)
    }

    /// When the latest contact with a quorum began that has succeeded in this leader's term.
    pub(crate) fn contact(&self, disk: &Disk, now: Now) -> Option<Now> {
        let lead = self.lead()?;
        let began = |node: &NodeId| match *node == disk.node {
            true => Some(now),
            false => lead.peers.get(node).and_then(|peer| peer.began),
        };
        let sets = disk.voters().1;
        let mut times: Vec<Now> = sets.iter().flatten().filter_map(began).collect();
        times.sort_unstable();
        let of_quorum = |time: &Now| decides(sets, |node| began(node) >= Some(*time));
        times.into_iter().rev().find(of_quorum)
    }

    /// Appends an entry; gives its index, unless this node does not lead.
    pub(crate) fn propose(&mut self, disk: &mut Disk, what: What) -> Option<u64> {
        self.lead()?;
        let term = disk.term;
        disk.push(Arc::new(Entry { term, what }));
        Some(disk.last())
    }

    pub(crate) fn sent(&mut self) -> Vec<(NodeId, Message)> {
        std::mem::take(&mut self.out)
    }

    /// Time has passed. `others` follow beside the voters; `patience` is the next time to campaign.
    pub(crate) fn tick(
        &mut self,
        disk: &mut Disk,
        now: Now,
        others: &BTreeSet<NodeId>,
        patience: Duration,
    ) {
        if let Role::Leader(lead) = &mut self.role {
            let voters = disk.voters().1.iter().flatten();
            let mut followers: BTreeSet<NodeId> = voters.chain(others).copied().collect();
            followers.remove(&disk.node);
            let heartbeat = now >= lead.heartbeat_at;
            if heartbeat {
                lead.heartbeat_at = now + HEARTBEAT;
            }
            for node in followers {
                let peer = lead.peers.entry(node).or_insert_with(|| Peer {
                    matched: 0,
                    sent: disk.last(),
                    began: None,
                });
                if heartbeat {
                    // What was lost is sent again.
                    if peer.matched > 0 {
                        peer.sent = peer.matched;
                    }
                }
                if !heartbeat && peer.sent >= disk.last() {
                    continue;
                }
                let from = peer.sent as usize;
                let entries: Vec<_> = disk.log[from..].iter().take(BATCH).cloned().collect();
                let append = Message::Append {
                    term: disk.term,
                    before: (peer.sent, disk.term_at(peer.sent)),
                    commit: self.commit,
                    began: now,
                    entries: entries.clone(),
                };
                peer.sent += entries.len() as u64;
                self.out.push((node, append));
            }
            self.advance(disk);
        } else if now >= self.campaign_at {
            self.campaign_at = now + patience;
            if disk.votes() {
                self.campaign(disk, now);
            }
        }
    }

    fn campaign(&mut self, disk: &mut Disk, now: Now) {
        disk.term += 1;
        disk.voted = Some(disk.node);
        self.leader = None;
        self.role = Role::Candidate(BTreeSet::from([disk.node]));
        let vote = Message::Vote {
            term: disk.term,
            last: (disk.term_at(disk.last()), disk.last()),
        };
        let voters: BTreeSet<NodeId> = disk.voters().1.iter().flatten().copied().collect();
        let others = voters.into_iter().filter(|node| *node != disk.node);
        self.out.extend(others.map(|node| (node, vote.clone())));
        self.count(disk, now);
    }

    fn count(&mut self, disk: &mut Disk, now: Now) {
        let Role::Candidate(votes) = &self.role else {
            return;
        };
        if !decides(disk.voters().1, |node| votes.contains(node)) {
            return;
        }
        self.role = Role::Leader(Lead {
            elected: now,
            first: disk.last() + 1,
            heartbeat_at: now,
            peers: BTreeMap::new(),
        });
        self.leader = Some(disk.node);
        self.propose(disk, What::Blank);
    }

    /// Takes a message; `patience` is the time to campaign if no other comes.
    pub(crate) fn receive(
        &mut self,
        disk: &mut Disk,
        now: Now,
        from: NodeId,
        message: Message,
        patience: Duration,
    ) {
        // Whoever hears a leader does not help to depose it.
        if matches!(message, Message::Vote { .. }) {
            let led = self.heard.max(self.contact(disk, now));
            if led.is_some_and(|at| now < at + ELECTION_MIN) {
                return;
            }
        }
        if message.term() > disk.term {
            (disk.term, disk.voted) = (message.term(), None);
            (self.role, self.leader) = (Role::Follower, None);
        }
        let current = message.term() == disk.term;
        match message {
            Message::Vote { term, last } => {
                let newest = (disk.term_at(disk.last()), disk.last());
                let free = disk.voted.is_none_or(|voted| voted == from);
                if current && free && last >= newest {
                    disk.voted = Some(from);
                    self.campaign_at = now + patience;
                    self.out.push((from, Message::Voted { term }));
                }
            }
            Message::Voted { .. } if current => {
                if let Role::Candidate(votes) = &mut self.role {
                    votes.insert(from);
                    self.count(disk, now);
                }
            }
            Message::Append {
                before,
                entries,
                commit,
                began,
                ..
            } => {
                let mut matched = Err(0);
                if current {
                    (self.role, self.leader) = (Role::Follower, Some(from));
                    (self.heard, self.campaign_at) = (Some(now), now + patience);
                    matched = append(disk, before, entries);
                    if let Ok(matched) = matched {
                        self.commit = self.commit.max(commit.min(matched));
                    }
                }
                let term = disk.term;
                let answer = Message::Appended {
                    term,
                    matched,
                    began,
                };
                self.out.push((from, answer));
            }
            Message::Appended { matched, began, .. } if current => {
                if let Role::Leader(lead) = &mut self.role
                    && let Some(peer) = lead.peers.get_mut(&from)
                {
                    peer.began = peer.began.max(Some(began));
                    match matched {
                        Ok(matched) => {
                            peer.matched = peer.matched.max(matched);
                            peer.sent = peer.sent.max(matched);
                        }
                        Err(hint) if peer.matched == 0 => peer.sent = peer.sent.min(hint),
                        Err(_) => {}
                    }
                    self.advance(disk);
                }
            }
            Message::Voted { .. } | Message::Appended { .. } => {}
        }
    }

    /// Commits what a quorum has, once that includes an entry of the leader's own term.
    fn advance(&mut self, disk: &Disk) {
        let Role::Leader(lead) = &self.role else {
            return;
        };
        let has = |node: &NodeId, index: u64| {
            *node == disk.node || lead.peers.get(node).is_some_and(|p| p.matched >= index)
        };
        let sets = disk.voters().1;
        let from = (self.commit + 1).max(lead.first);
        let quorum = |index: &u64| decides(sets, |node| has(node, *index));
        if let Some(index) = (from..=disk.last()).take_while(quorum).last() {
            self.commit = index;
        }
    }
}

/// Takes the leader's entries, unless there is a gap or another history before them.
fn append(disk: &mut Disk, before: (u64, u64), entries: Vec<Arc<Entry>>) -> Result<u64, u64> {
    let (index, term) = before;
    if index > disk.last() {
        return Err(disk.last());
    }
    if disk.term_at(index) != term {
        return Err(index.saturating_sub(10).max(disk.applied));
    }
    let mut at = index;
    for entry in entries {
        at += 1;
        if disk.term_at(at) != entry.term {
            disk.truncate(at - 1);
            disk.push(entry);
        }
    }
    Ok(at)
}

/// Every node waits at least this long for a leader, and at most [`ELECTION_MAX`].
pub(crate) const ELECTION_MIN: Duration = Duration::from_millis(300);
pub(crate) const ELECTION_MAX: Duration = Duration::from_millis(600);

const HEARTBEAT: Duration = Duration::from_millis(100);

/// Entries in one message.
const BATCH: usize = 64;
