//! The replicated log, modelled: Raft with joint changes of the voters, handing over, and states in
//! the place of a log that was shortened.
//!
//! What a node promises is on its disk before it is sent, and a disk takes its time. Entries of a
//! deposed leader survive or vanish as they would: a later leader has them or not.
//!
//! Absent: time, chance and messages under way; all three come from the caller.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use holdfast_cluster::{
    handover::Now,
    state::{Position, State},
};
use holdfast_model::NodeId;
use rand::{RngExt, rngs::ChaCha8Rng};

use super::{
    CHECKPOINT_EVERY, Checkpoint, Committed, ELECTION_MAX, ELECTION_MIN, Entry, HEARTBEAT, KEPT,
    LAG_MAX, Lead, Log, Logs, Message, Proposal, Store, What, decides,
};

pub(crate) struct Model;

impl Logs for Model {
    fn store(&mut self, node: NodeId, first: &[Arc<Proposal>]) -> Box<dyn Store> {
        let mut disk = Disk {
            node,
            term: 0,
            voted: None,
            checkpoint: Arc::new(Checkpoint {
                at: Position { index: 0, term: 0 },
                state: State::default(),
                voters: Vec::new(),
            }),
            base: Position { index: 0, term: 0 },
            base_voters: Vec::new(),
            log: VecDeque::new(),
            changes: Vec::new(),
        };
        for proposal in first {
            disk.term = 1;
            disk.write(Write::Push(Entry {
                term: 1,
                proposal: proposal.clone(),
            }));
        }
        Box::new(disk)
    }

    fn run_until(&mut self, _: Duration) {}
}

/// What a node keeps through a crash.
#[derive(Clone)]
struct Disk {
    node: NodeId,
    term: u64,
    voted: Option<NodeId>,
    checkpoint: Arc<Checkpoint>,
    /// The position before the first entry of the log.
    base: Position,
    base_voters: Vec<BTreeSet<NodeId>>,
    log: VecDeque<Entry>,
    /// Where the log changes the voters.
    changes: Vec<u64>,
}

/// What is done to a disk.
#[derive(Clone)]
enum Write {
    Vote(u64, Option<NodeId>),
    /// Nothing stays after that index.
    Truncate(u64),
    Push(Entry),
    /// A state that entries led to; the log may begin later now.
    Checkpoint(Arc<Checkpoint>),
    /// Another's state in the place of this node's log, unless that has the same entry there.
    Install(Arc<Checkpoint>),
}

impl Disk {
    fn last(&self) -> u64 {
        self.base.index + self.log.len() as u64
    }

    fn entry(&self, index: u64) -> Option<&Entry> {
        let at = index.checked_sub(self.base.index + 1)?;
        self.log.get(at as usize)
    }

    fn term_at(&self, index: u64) -> u64 {
        match self.entry(index) {
            Some(entry) => entry.term,
            None if index == self.base.index => self.base.term,
            None => 0,
        }
    }

    /// Index of the last change of the voters up to there, and the sets that decide since.
    fn voters_at(&self, index: u64) -> (u64, &[BTreeSet<NodeId>]) {
        let change = self.changes.iter().rev().find(|change| **change <= index);
        let change = change.and_then(|index| match &self.entry(*index)?.proposal.what {
            What::Voters(sets) => Some((*index, sets.as_slice())),
            What::Blank | What::Command(_) => None,
        });
        change.unwrap_or((self.base.index, &self.base_voters))
    }

    fn write(&mut self, write: Write) {
        match write {
            Write::Vote(term, voted) => (self.term, self.voted) = (term, voted),
            Write::Truncate(last) => {
                let left = last.saturating_sub(self.base.index);
                self.log.truncate(left as usize);
                self.changes.retain(|change| *change <= last);
            }
            Write::Push(entry) => {
                if matches!(entry.proposal.what, What::Voters(_)) {
                    self.changes.push(self.last() + 1);
                }
                self.log.push_back(entry);
            }
            Write::Checkpoint(checkpoint) => {
                self.begin_after(checkpoint.at.index.saturating_sub(KEPT));
                self.checkpoint = checkpoint;
            }
            Write::Install(checkpoint) => {
                let Position { index, term } = checkpoint.at;
                if self.term_at(index) == term {
                    self.begin_after(index);
                } else {
                    self.log.clear();
                    self.changes.clear();
                    (self.base, self.base_voters) = (checkpoint.at, checkpoint.voters.clone());
                }
                self.checkpoint = checkpoint;
            }
        }
    }

    /// Forgets entries up to that index.
    fn begin_after(&mut self, index: u64) {
        if index <= self.base.index {
            return;
        }
        let voters = self.voters_at(index).1.to_vec();
        let term = self.term_at(index);
        self.log.drain(..(index - self.base.index) as usize);
        self.changes.retain(|change| *change > index);
        (self.base, self.base_voters) = (Position { index, term }, voters);
    }
}

impl Store for Disk {
    fn open(
        self: Box<Self>,
        now: Now,
        rng: ChaCha8Rng,
        careless: bool,
    ) -> (Box<dyn Log>, Arc<Checkpoint>) {
        let checkpoint = self.checkpoint.clone();
        let mut raft = Raft {
            durable: (*self).clone(),
            role: Role::Follower,
            leader: None,
            commit: checkpoint.at.index,
            given: checkpoint.at.index,
            installed: None,
            campaign_at: now,
            heard: None,
            handing_over: None,
            out: Vec::new(),
            pending: BTreeMap::new(),
            writes: VecDeque::new(),
            written: 0,
            flushing: None,
            flushed: 0,
            stalls: false,
            careless,
            disk: *self,
            rng,
        };
        raft.wait_for_leader(now);
        (Box::new(raft), checkpoint)
    }

    fn quorums(&self) -> Vec<BTreeSet<NodeId>> {
        self.voters_at(u64::MAX).1.to_vec()
    }
}

enum Said {
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
        entries: Vec<Entry>,
        commit: u64,
        began: Now,
    },
    Install {
        term: u64,
        checkpoint: Arc<Checkpoint>,
        began: Now,
    },
    Appended {
        term: u64,
        /// How much the follower has of the leader's log, or where it may agree with it.
        matched: Result<u64, u64>,
        began: Now,
    },
    /// The leader goes; that voter may campaign at once, if it has everything up to `last`.
    Transfer {
        term: u64,
        to: NodeId,
        last: u64,
    },
}

impl Said {
    fn term(&self) -> u64 {
        match self {
            Self::Vote { term, .. }
            | Self::Voted { term }
            | Self::Append { term, .. }
            | Self::Install { term, .. }
            | Self::Appended { term, .. }
            | Self::Transfer { term, .. } => *term,
        }
    }
}

/// A node's part in the log.
struct Raft {
    /// As this process sees it; what was written lately may not be on it yet.
    disk: Disk,
    /// What a crash leaves.
    durable: Disk,
    role: Role,
    leader: Option<NodeId>,
    commit: u64,
    /// What the caller was given.
    given: u64,
    installed: Option<Arc<Checkpoint>>,
    campaign_at: Now,
    heard: Option<Now>,
    /// Until when this leader helps to be deposed.
    handing_over: Option<Now>,
    /// Each with the number of writes that have to be on disk before.
    out: Vec<(u64, NodeId, Message)>,
    /// Where this process's own proposals stand in the log.
    pending: BTreeMap<u64, u64>,
    /// What is not on disk yet.
    writes: VecDeque<Write>,
    written: u64,
    /// How many writes are on their way to the disk, and when they will be there.
    flushing: Option<(usize, Now)>,
    flushed: u64,
    stalls: bool,
    /// Promises what is not on its disk.
    careless: bool,
    rng: ChaCha8Rng,
}

enum Role {
    Follower,
    /// Those who voted for it, and how many writes there were with its own vote.
    Candidate(BTreeSet<NodeId>, u64),
    Leader {
        elected: Now,
        first: u64,
        heartbeat_at: Now,
        peers: BTreeMap<NodeId, Peer>,
    },
}

#[derive(Default)]
struct Peer {
    matched: u64,
    sent: u64,
    began: Option<Now>,
}

impl Raft {
    fn write(&mut self, write: Write) {
        self.disk.write(write.clone());
        self.writes.push_back(write);
        self.written += 1;
    }

    fn flush(&mut self, now: Now) {
        while !self.writes.is_empty() {
            match self.flushing {
                None => {
                    let takes = match self.stalls {
                        true => Duration::from_millis(self.rng.random_range(30..900)),
                        false => Duration::ZERO,
                    };
                    self.flushing = Some((self.writes.len(), now + takes));
                }
                Some((count, done)) if done <= now => {
                    for write in self.writes.drain(..count) {
                        self.durable.write(write);
                    }
                    self.flushed += count as u64;
                    self.flushing = None;
                }
                Some(_) => return,
            }
        }
    }

    /// Sends something that needs what was written so far.
    fn promise(&mut self, to: NodeId, said: Said) {
        let after = if self.careless { 0 } else { self.written };
        self.out.push((after, to, Arc::new(said)));
    }

    fn say(&mut self, to: NodeId, said: Said) {
        self.out.push((0, to, Arc::new(said)));
    }

    fn voters(&self) -> (u64, &[BTreeSet<NodeId>]) {
        self.disk.voters_at(u64::MAX)
    }

    fn voting(&self) -> BTreeSet<NodeId> {
        self.voters().1.iter().flatten().copied().collect()
    }

    fn hands_over(&self, now: Now) -> bool {
        self.handing_over.is_some_and(|until| now < until)
    }

    fn wait_for_leader(&mut self, now: Now) {
        self.campaign_at = now + self.rng.random_range(ELECTION_MIN..ELECTION_MAX);
    }

    fn append(&mut self, proposal: Arc<Proposal>) {
        let entry = Entry {
            term: self.disk.term,
            proposal,
        };
        self.write(Write::Push(entry));
    }

    fn append_own(&mut self, what: What) {
        let number = self.rng.random();
        self.append(Arc::new(Proposal { number, what }));
    }

    fn campaign(&mut self, now: Now) {
        self.wait_for_leader(now);
        let node = self.disk.node;
        let term = self.disk.term + 1;
        self.write(Write::Vote(term, Some(node)));
        self.leader = None;
        let own = if self.careless { 0 } else { self.written };
        self.role = Role::Candidate(BTreeSet::new(), own);
        let last = self.disk.last();
        let last = (self.disk.term_at(last), last);
        for voter in self.voting() {
            if voter != node {
                self.promise(voter, Said::Vote { term, last });
            }
        }
    }

    fn count(&mut self, now: Now) {
        let Role::Candidate(votes, own) = &self.role else {
            return;
        };
        let node = self.disk.node;
        let own = self.flushed >= *own;
        let for_me = |voter: &NodeId| votes.contains(voter) || (own && *voter == node);
        if !decides(self.voters().1, for_me) {
            return;
        }
        self.role = Role::Leader {
            elected: now,
            first: self.disk.last() + 1,
            heartbeat_at: now,
            peers: BTreeMap::new(),
        };
        (self.leader, self.handing_over) = (Some(node), None);
        self.append_own(What::Blank);
    }

    fn replicate(&mut self, now: Now, others: &BTreeSet<NodeId>) {
        let mut followers: BTreeSet<NodeId> = self.voting().union(others).copied().collect();
        followers.remove(&self.disk.node);
        let Role::Leader {
            heartbeat_at,
            peers,
            ..
        } = &mut self.role
        else {
            return;
        };
        let heartbeat = now >= *heartbeat_at;
        if heartbeat {
            *heartbeat_at = now + HEARTBEAT;
        }
        let (disk, term) = (&self.disk, self.disk.term);
        for node in followers {
            let peer = peers.entry(node).or_insert_with(|| Peer {
                sent: disk.last(),
                ..Peer::default()
            });
            if heartbeat && peer.matched > 0 {
                // What was lost is sent again.
                peer.sent = peer.matched;
            }
            if !heartbeat && peer.sent >= disk.last() {
                continue;
            }
            let said = if peer.sent < disk.base.index {
                peer.sent = disk.checkpoint.at.index;
                Said::Install {
                    term,
                    checkpoint: disk.checkpoint.clone(),
                    began: now,
                }
            } else {
                let before = (peer.sent, disk.term_at(peer.sent));
                let from = (peer.sent - disk.base.index) as usize;
                let entries: Vec<Entry> = disk.log.range(from..).take(BATCH).cloned().collect();
                peer.sent += entries.len() as u64;
                Said::Append {
                    term,
                    before,
                    entries,
                    commit: self.commit,
                    began: now,
                }
            };
            self.out.push((0, node, Arc::new(said)));
        }
    }

    /// Commits what a quorum has, once that includes an entry of the leader's own term.
    fn advance(&mut self) {
        let Role::Leader { first, peers, .. } = &self.role else {
            return;
        };
        let node = self.disk.node;
        let own = match self.careless {
            true => self.disk.last(),
            false => self.durable.last(),
        };
        let has = |voter: &NodeId, index: u64| match *voter == node {
            true => own >= index,
            false => peers.get(voter).is_some_and(|peer| peer.matched >= index),
        };
        let sets = self.voters().1;
        let from = (self.commit + 1).max(*first);
        let quorum = |index: &u64| decides(sets, |node| has(node, *index));
        if let Some(index) = (from..=self.disk.last()).take_while(quorum).last() {
            self.commit = index;
        }
    }

    /// Takes the leader's entries, unless there is a gap or another history before them.
    fn take(&mut self, before: (u64, u64), entries: &[Entry]) -> Result<u64, u64> {
        let (index, term) = before;
        if index > self.disk.last() {
            return Err(self.disk.last());
        }
        // What stands before the beginning of the log is committed, so the leader has it too.
        if index >= self.disk.base.index && self.disk.term_at(index) != term {
            return Err(index.saturating_sub(10).max(self.commit));
        }
        let mut at = index;
        for entry in entries {
            at += 1;
            if at > self.disk.base.index && self.disk.term_at(at) != entry.term {
                if at <= self.disk.last() {
                    self.write(Write::Truncate(at - 1));
                }
                self.write(Write::Push(entry.clone()));
            }
        }
        Ok(at)
    }

    /// Takes a state in the place of entries that the leader has no more.
    fn install(&mut self, checkpoint: &Arc<Checkpoint>) {
        if checkpoint.at.index > self.commit {
            self.write(Write::Install(checkpoint.clone()));
            self.commit = checkpoint.at.index;
            self.installed = Some(checkpoint.clone());
        }
    }
}

impl Log for Raft {
    fn leader(&self) -> Option<NodeId> {
        self.leader
    }

    fn lead(&self) -> Option<Lead> {
        match &self.role {
            Role::Leader { elected, first, .. } => Some(Lead {
                term: self.disk.term,
                elected: *elected,
                first: *first,
            }),
            Role::Follower | Role::Candidate(..) => None,
        }
    }

    fn contact(&self, now: Now) -> Option<(u64, Now)> {
        let Role::Leader { peers, .. } = &self.role else {
            return None;
        };
        let began = |node: &NodeId| match *node == self.disk.node {
            true => Some(now),
            false => peers.get(node).and_then(|peer| peer.began),
        };
        let sets = self.voters().1;
        let mut times: Vec<Now> = sets.iter().flatten().filter_map(began).collect();
        times.sort_unstable();
        let of_quorum = |time: &Now| decides(sets, |node| began(node) >= Some(*time));
        let began = times.into_iter().rev().find(of_quorum)?;
        Some((self.disk.term, began))
    }

    fn quorums(&self) -> Vec<BTreeSet<NodeId>> {
        self.voters().1.to_vec()
    }

    fn changes_voters(&self) -> bool {
        let (index, sets) = self.voters();
        index > self.commit || sets.len() != 1
    }

    fn is_near(&self, node: NodeId) -> bool {
        let Role::Leader { peers, .. } = &self.role else {
            return false;
        };
        let matched = peers.get(&node).map_or(0, |peer| peer.matched);
        node == self.disk.node || matched + LAG_MAX >= self.disk.last()
    }

    fn propose(&mut self, proposal: Proposal) -> bool {
        let leads = self.lead().is_some();
        if leads {
            let number = proposal.number;
            self.append(Arc::new(proposal));
            self.pending.insert(number, self.disk.last());
        }
        leads
    }

    fn is_pending(&self, number: u64) -> bool {
        self.pending.contains_key(&number) && self.lead().is_some()
    }

    fn change_voters(&mut self, voters: BTreeSet<NodeId>) {
        if self.lead().is_some() && !self.changes_voters() {
            let mut sets = self.quorums();
            sets.push(voters);
            self.append_own(What::Voters(sets));
        }
    }

    fn transfer(&mut self, now: Now, to: NodeId) {
        let (term, last) = (self.disk.term, self.disk.last());
        for voter in self.voting() {
            if voter != self.disk.node {
                self.say(voter, Said::Transfer { term, to, last });
            }
        }
        // From its next heartbeat on it would hold the others off again.
        self.handing_over = Some(now + ELECTION_MAX);
    }

    fn receive(&mut self, now: Now, from: NodeId, message: Message) {
        let Some(said) = message.downcast_ref::<Said>() else {
            return;
        };
        // Whoever hears a leader does not help to depose it.
        if matches!(said, Said::Vote { .. }) {
            let contact = self.contact(now).map(|(_, began)| began);
            let led = self.heard.max(contact.filter(|_| !self.hands_over(now)));
            if led.is_some_and(|at| now < at + ELECTION_MIN) {
                return;
            }
        }
        if said.term() > self.disk.term {
            self.write(Write::Vote(said.term(), None));
            (self.role, self.leader) = (Role::Follower, None);
            self.handing_over = None;
        }
        let current = said.term() == self.disk.term;
        match said {
            Said::Vote { term, last } => {
                let own = self.disk.last();
                let newest = (self.disk.term_at(own), own);
                let free = self.disk.voted.is_none_or(|voted| voted == from);
                if current && free && *last >= newest {
                    self.write(Write::Vote(*term, Some(from)));
                    self.wait_for_leader(now);
                    self.promise(from, Said::Voted { term: *term });
                }
            }
            Said::Voted { .. } if current => {
                if let Role::Candidate(votes, _) = &mut self.role {
                    votes.insert(from);
                    self.count(now);
                }
            }
            Said::Append { began, .. } | Said::Install { began, .. } => {
                let mut matched = Err(0);
                if current {
                    (self.role, self.leader) = (Role::Follower, Some(from));
                    self.heard = Some(now);
                    self.wait_for_leader(now);
                    matched = match said {
                        Said::Install { checkpoint, .. } => {
                            self.install(checkpoint);
                            Ok(checkpoint.at.index)
                        }
                        Said::Append {
                            before,
                            entries,
                            commit,
                            ..
                        } => {
                            let matched = self.take(*before, entries);
                            if let Ok(matched) = matched {
                                self.commit = self.commit.max(matched.min(*commit));
                            }
                            matched
                        }
                        _ => Err(0),
                    };
                }
                let answer = Said::Appended {
                    term: self.disk.term,
                    matched,
                    began: *began,
                };
                self.promise(from, answer);
            }
            Said::Appended { matched, began, .. } if current => {
                if let Role::Leader { peers, .. } = &mut self.role
                    && let Some(peer) = peers.get_mut(&from)
                {
                    peer.began = peer.began.max(Some(*began));
                    match *matched {
                        Ok(matched) => {
                            peer.matched = peer.matched.max(matched);
                            peer.sent = peer.sent.max(matched);
                        }
                        Err(hint) if peer.matched == 0 => peer.sent = peer.sent.min(hint),
                        Err(_) => {}
                    }
                    self.advance();
                }
            }
            Said::Transfer { to, last, .. } if current => {
                self.heard = None;
                if *to == self.disk.node && self.disk.last() >= *last {
                    self.campaign(now);
                }
            }
            Said::Voted { .. } | Said::Appended { .. } | Said::Transfer { .. } => {}
        }
    }

    fn tick(&mut self, now: Now, others: &BTreeSet<NodeId>) {
        self.flush(now);
        self.count(now);
        if self.lead().is_some() {
            if let (index, [_, last]) = self.voters()
                && index <= self.commit
            {
                let last = last.clone();
                self.append_own(What::Voters(vec![last]));
            }
            self.replicate(now, others);
            self.advance();
        } else if now >= self.campaign_at {
            self.wait_for_leader(now);
            if self.voting().contains(&self.disk.node) {
                self.campaign(now);
            }
        }
    }

    fn sent(&mut self, now: Now) -> Vec<(NodeId, Message)> {
        self.flush(now);
        let flushed = self.flushed;
        let kept = self.out.extract_if(.., |(after, ..)| *after <= flushed);
        kept.map(|(_, to, message)| (to, message)).collect()
    }

    fn next(&mut self) -> Option<Committed> {
        if let Some(checkpoint) = self.installed.take() {
            self.given = checkpoint.at.index;
            return Some(Committed::State(checkpoint));
        }
        if self.given >= self.commit {
            return None;
        }
        let entry = self.disk.entry(self.given + 1)?.clone();
        self.given += 1;
        let at = Position {
            index: self.given,
            term: entry.term,
        };
        Some(Committed::Entry(at, entry))
    }

    fn applied(&mut self, at: Position, state: &State) {
        self.pending.retain(|_, index| *index > at.index);
        if at.index >= self.disk.checkpoint.at.index + CHECKPOINT_EVERY {
            self.write(Write::Checkpoint(Arc::new(Checkpoint {
                at,
                state: state.clone(),
                voters: self.disk.voters_at(at.index).1.to_vec(),
            })));
        }
    }

    fn stall(&mut self, stalls: bool) {
        self.stalls = stalls;
    }

    fn stand_still(&mut self, _: bool) {}

    fn kill(mut self: Box<Self>) -> Box<dyn Store> {
        // What was on its way got there, or not.
        if let Some((count, _)) = self.flushing
            && self.rng.random_bool(0.5)
        {
            for write in self.writes.drain(..count) {
                self.durable.write(write);
            }
        }
        Box::new(self.durable)
    }
}

/// Entries in one message.
const BATCH: usize = 64;
