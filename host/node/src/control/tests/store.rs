//! The files of one node.

use std::{fs, path::Path, sync::Arc, time::Duration};

use holdfast_model::NodeId;
use openraft::{
    RaftLogReader,
    async_runtime::WatchReceiver,
    storage::{IOFlushed, RaftLogStorage, RaftStateMachine},
    testing::log::{StoreBuilder, Suite},
};
use redb::{ReadableDatabase, ReadableTable as _};
use tempfile::TempDir;

use super::{super::*, *};
use crate::control::{
    log::LogStore,
    machine::{Machine, Replica},
    snapshot::{Row, Staged},
    types::{Entry, LogId, SnapshotMeta, Types, Vote},
};

struct Builder;

impl StoreBuilder<Types, LogStore, Machine, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, LogStore, Machine), openraft::StorageError<Types>> {
        let dir = TempDir::new().unwrap();
        let me = NodeId::default();
        let log = LogStore::open(&dir.path().join(LOG_FILE), me).unwrap();
        let replica = Replica::open(dir.path().join(STATE_FILE), me).unwrap();
        Ok((dir, log, Machine(Arc::new(replica))))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn log_and_state_keep_the_librarys_rules() {
    Suite::test_all(Builder).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_node_keeps_its_vote_its_log_and_its_state_and_serves_them_alone() {
    let dir = TempDir::new().unwrap();
    let copy = TempDir::new().unwrap();
    let net = Net::new();
    let node = net.start(dir.path(), id(1)).await;
    found(&node).await;
    deploy(&node, "clocks").await;
    for i in 0..50 {
        allocate(&node, "clocks", &format!("r{i}")).await;
    }
    let (state, term) = (node.read(Clone::clone), node.leadership().borrow().term);
    // The last commit position reaches the disk a little after the last acknowledgement.
    let applied = *node.applied().borrow();
    let copied = within(|| async {
        for file in [LOG_FILE, STATE_FILE] {
            fs::copy(dir.path().join(file), copy.path().join(file)).unwrap();
        }
        let mut log = LogStore::open(&copy.path().join(LOG_FILE), id(1)).unwrap();
        let vote = log.read_vote().await.unwrap().unwrap();
        assert_eq!(vote.leader_id.term, term);
        let committed = log.read_committed().await.unwrap();
        committed.is_some_and(|committed| committed.index == applied)
    });
    copied.await;
    // What lies in the files is what a kill would have left: nothing was closed.
    let other = Net::new();
    let options = Options {
        election_min: HOUR,
        election_max: 2 * HOUR,
        ..options(copy.path(), id(1))
    };
    let replica = Replica::open(copy.path().join(STATE_FILE), id(1)).unwrap();
    assert_eq!(
        replica.position().unwrap().0,
        None,
        "the state file has to lag behind for this test"
    );
    drop(replica);
    let again = other.start_with(options).await;
    assert_eq!(again.read(Clone::clone), state);
    // And it goes on, in a new term.
    lead(&again).await;
    assert!(
        again.leadership().borrow().term > term,
        "it may not resume the term it led"
    );
    allocate(&again, "clocks", "after").await;
}

const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_restarts_without_the_others_serves_what_it_knew() {
    let mut cluster = Cluster::start(3).await;
    deploy(&cluster.nodes[0], "clocks").await;
    cluster.converge().await;
    let state = cluster.nodes[2].read(Clone::clone);
    cluster.nodes[2].shutdown().await;
    let (dir, me) = (cluster.dirs[2].path().to_owned(), cluster.nodes[2].core.me);
    cluster.net.forget(me);
    cluster.nodes.pop();
    closed(&dir, me).await;
    let alone = Net::new();
    let again = alone.start(&dir, me).await;
    assert_eq!(again.read(Clone::clone), state);
    let read = again
        .read_index(Instant::now() + Duration::from_millis(200))
        .await;
    assert!(matches!(read, Err(ReadError::NoLeader { .. })), "{read:?}");
}

#[tokio::test]
async fn a_member_that_lost_its_files_does_not_begin_anew() {
    let dir = TempDir::new().unwrap();
    let net = Net::new();
    let options = Options {
        member: true,
        ..options(dir.path(), id(1))
    };
    let opened = Control::open(options, net.transport(id(1))).await;
    let error = opened.err().expect("it must not open");
    assert!(matches!(error, OpenError::Damaged { .. }), "{error}");
    assert!(!dir.path().join(LOG_FILE).exists(), "nothing was begun");
}

async fn open_error(dir: &Path, me: NodeId) -> OpenError {
    let net = Net::new();
    let options = options(dir, me);
    match Control::open(options, net.transport(me)).await {
        Ok(_) => panic!("it opened"),
        Err(error) => error,
    }
}

/// Waits until the library's last task has let go of the files.
pub(super) async fn closed(dir: &Path, me: NodeId) {
    within(|| async { LogStore::open(&dir.join(LOG_FILE), me).is_ok() }).await;
    within(|| async { Replica::open(dir.join(STATE_FILE), me).is_ok() }).await;
}

async fn closed_node() -> TempDir {
    let dir = TempDir::new().unwrap();
    let net = Net::new();
    let node = net.start(dir.path(), id(1)).await;
    found(&node).await;
    deploy(&node, "clocks").await;
    node.shutdown().await;
    drop(node);
    net.forget(id(1));
    closed(dir.path(), id(1)).await;
    dir
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_file_is_named_with_what_to_do() {
    for (file, keep) in [
        (LOG_FILE, 0),
        (STATE_FILE, 0),
        (LOG_FILE, 100),
        (STATE_FILE, 5000),
    ] {
        let dir = closed_node().await;
        let path = dir.path().join(file);
        let mut bytes = fs::read(&path).unwrap();
        bytes.truncate(keep.max(4096));
        bytes[keep.min(4000)..].fill(0x5a);
        fs::write(&path, bytes).unwrap();
        let error = open_error(dir.path(), id(1)).await;
        assert!(
            matches!(&error, OpenError::Damaged { file, .. } if *file == path),
            "{error:?}"
        );
        let text = error.to_string();
        assert!(text.contains(file) && text.contains("join anew"), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_row_is_found_at_the_start() {
    let dir = closed_node().await;
    let path = dir.path().join(STATE_FILE);
    let db = redb::Database::open(&path).unwrap();
    let transaction = db.begin_write().unwrap();
    let mut rows = transaction.open_table(snapshot::ROWS).unwrap();
    rows.insert(b"mclocks\0".as_slice(), [0xff; 3].as_slice())
        .unwrap();
    drop(rows);
    transaction.commit().unwrap();
    drop(db);
    let error = open_error(dir.path(), id(1)).await;
    assert!(
        matches!(&error, OpenError::Damaged { file, .. } if *file == path),
        "{error:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_its_log_does_not_start() {
    let dir = closed_node().await;
    fs::remove_file(dir.path().join(LOG_FILE)).unwrap();
    let error = open_error(dir.path(), id(1)).await;
    assert!(
        matches!(&error, OpenError::Damaged { file, .. } if file.ends_with(LOG_FILE)),
        "{error:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_older_than_the_log_begins_does_not_start() {
    let dir = closed_node().await;
    let mut log = LogStore::open(&dir.path().join(LOG_FILE), id(1)).unwrap();
    log.purge(LogId::new_term_index(1, 2)).await.unwrap();
    drop(log);
    fs::remove_file(dir.path().join(STATE_FILE)).unwrap();
    let error = open_error(dir.path(), id(1)).await;
    assert!(
        matches!(&error, OpenError::Damaged { file, .. } if file.ends_with(STATE_FILE)),
        "{error:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn another_nodes_file_and_another_versions_are_refused() {
    let dir = closed_node().await;
    let error = open_error(dir.path(), id(2)).await;
    assert!(
        matches!(error, OpenError::OtherNode { found, me, .. } if found == id(1) && me == id(2))
    );

    let db = redb::Database::open(dir.path().join(LOG_FILE)).unwrap();
    let transaction = db.begin_write().unwrap();
    let mut meta = transaction.open_table(file::META).unwrap();
    meta.insert("format", 9_u32.to_le_bytes().as_slice())
        .unwrap();
    drop(meta);
    transaction.commit().unwrap();
    drop(db);
    let error = open_error(dir.path(), id(1)).await;
    assert!(
        matches!(error, OpenError::OtherFormat { found: 9, .. }),
        "{error:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_in_use_is_refused() {
    let dir = TempDir::new().unwrap();
    let net = Net::new();
    let _node = net.start(dir.path(), id(1)).await;
    let error = open_error(dir.path(), id(1)).await;
    assert!(matches!(error, OpenError::InUse { .. }), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn appended_entries_are_read_before_and_after_they_are_on_disk() {
    let dir = TempDir::new().unwrap();
    let mut log = LogStore::open(&dir.path().join(LOG_FILE), id(1)).unwrap();
    let blank = |index| Entry {
        log_id: LogId::new_term_index(1, index),
        payload: openraft::EntryPayload::Blank,
    };
    for first in (0..200).step_by(10) {
        log.append((first..first + 10).map(blank), IOFlushed::noop())
            .await
            .unwrap();
        let entries = log.try_get_log_entries(..).await.unwrap();
        let indexes: Vec<u64> = entries.iter().map(|entry| entry.log_id.index).collect();
        assert_eq!(indexes, (0..first + 10).collect::<Vec<_>>());
    }
    // A vote is written after everything that was appended before it.
    log.save_vote(&Vote::new(7, types::Peer(id(1))))
        .await
        .unwrap();
    drop(log);
    let mut log = LogStore::open(&dir.path().join(LOG_FILE), id(1)).unwrap();
    assert_eq!(log.try_get_log_entries(..).await.unwrap().len(), 200);
    assert_eq!(log.read_vote().await.unwrap().unwrap().leader_id.term, 7);
}

/// A file whose reads wait while a gate is shut.
#[derive(Debug)]
struct SlowFile {
    file: redb::backends::FileBackend,
    shut: Arc<(Mutex<bool>, parking_lot::Condvar)>,
}

impl redb::StorageBackend for SlowFile {
    fn len(&self) -> Result<u64, std::io::Error> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), std::io::Error> {
        let (shut, opened) = &*self.shut;
        opened.wait_while(&mut shut.lock(), |shut| *shut);
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> Result<(), std::io::Error> {
        self.file.set_len(len)
    }

    fn sync_data(&self) -> Result<(), std::io::Error> {
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), std::io::Error> {
        self.file.write(offset, data)
    }
}

// On one thread: a read that blocks it blocks everything.
#[tokio::test]
async fn a_disk_that_does_not_answer_holds_up_nothing_but_who_reads_it() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join(LOG_FILE);
    let mut log = LogStore::open(&path, id(1)).unwrap();
    let blank = |index| Entry {
        log_id: LogId::new_term_index(1, index),
        payload: openraft::EntryPayload::Blank,
    };
    log.append((0..1_000).map(blank), IOFlushed::noop())
        .await
        .unwrap();
    drop(log);
    let shut = Arc::new((Mutex::new(false), parking_lot::Condvar::new()));
    let file = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path)
        .unwrap();
    let file = SlowFile {
        file: redb::backends::FileBackend::new(file).unwrap(),
        shut: shut.clone(),
    };
    // Without a cache, so that each read is one of the file.
    let db = redb::Database::builder()
        .set_cache_size(0)
        .create_with_backend(file)
        .unwrap();
    let mut log = LogStore::of(db, &path).unwrap();
    *shut.0.lock() = true;
    // Should the reading be on this thread, the gate has to open for this test to fail.
    let gate = shut.clone();
    let opened_late = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_secs(10));
        let was_shut = std::mem::replace(&mut *gate.0.lock(), false);
        gate.1.notify_all();
        was_shut
    });
    let mut reader = log.clone();
    let read = tokio::spawn(async move { reader.limited_get_log_entries(0, 1_000).await });
    tokio::task::yield_now().await;
    assert!(*shut.0.lock(), "who does not read waited for the disk");
    assert!(!read.is_finished());
    // The end of the log, a vote, and what was appended meanwhile need no reading.
    let state = log.get_log_state().await.unwrap();
    assert_eq!(state.last_log_id.unwrap().index, 999);
    assert!(*shut.0.lock(), "the end of the log was read from the disk");
    *shut.0.lock() = false;
    shut.1.notify_all();
    assert_eq!(read.await.unwrap().unwrap().len(), 1_000);
    drop(log);
    drop(opened_late);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_of_large_entries_is_kept_short_in_bytes() {
    let dir = TempDir::new().unwrap();
    let net = Net::new();
    let options = Options {
        snapshot_every_bytes: 1 << 20,
        log_kept_bytes: 2 << 20,
        ..options(dir.path(), id(1))
    };
    let node = net.start_with(options).await;
    found(&node).await;
    deploy(&node, "clocks").await;
    let text = "x".repeat(60_000);
    for i in 0..200 {
        let Command::Allocate { module, placed, .. } = allocation("clocks", "r") else {
            unreachable!("it allocates")
        };
        let spec = Spec::from_value(&serde_json::json!({ "text": text })).unwrap();
        let command = Command::Allocate {
            module,
            entries: vec![(format!("r{i}").parse().unwrap(), spec)],
            placed,
            at_ms: 2,
        };
        node.propose(command, soon()).await.unwrap();
    }
    // 12 MiB were written.
    within(|| {
        let metrics = node.core.raft.metrics();
        let purged = metrics.borrow_watched().purged;
        std::future::ready(purged.is_some_and(|purged| purged.index > 140))
    })
    .await;
    let state = node.read(Clone::clone);
    node.shutdown().await;
    drop(node);
    net.forget(id(1));
    closed(dir.path(), id(1)).await;
    let log = LogStore::open(&dir.path().join(LOG_FILE), id(1)).unwrap();
    // What may be kept, and the steps that are not purged by half.
    assert!(log.bytes_after(0) <= 4 << 20, "{} B", log.bytes_after(0));
    drop(log);
    // What is left of the log and the state fit together.
    let again = net.start(dir.path(), id(1)).await;
    assert_eq!(again.read(Clone::clone), state);
}

/// Changes one stored entry of a closed node's log.
fn change_log(dir: &Path, change: impl FnOnce(&mut redb::Table<'_, u64, &'static [u8]>)) {
    let db = redb::Database::open(dir.join(LOG_FILE)).unwrap();
    let transaction = db.begin_write().unwrap();
    change(&mut transaction.open_table(log::stored::LOG).unwrap());
    transaction.commit().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_that_is_missing_or_altered_is_found_at_the_start_and_named() {
    let hole = |log: &mut redb::Table<'_, u64, &'static [u8]>| {
        log.remove(1).unwrap();
    };
    let altered = |log: &mut redb::Table<'_, u64, &'static [u8]>| {
        let mut entry = log.get(1).unwrap().unwrap().value().to_vec();
        *entry.last_mut().unwrap() ^= 1;
        log.insert(1, entry.as_slice()).unwrap();
    };
    let moved = |log: &mut redb::Table<'_, u64, &'static [u8]>| {
        let entry = log.get(2).unwrap().unwrap().value().to_vec();
        log.insert(1, entry.as_slice()).unwrap();
    };
    type Change = fn(&mut redb::Table<'_, u64, &'static [u8]>);
    for (change, says) in [
        (hole as Change, "entry 1 is missing, 2 is there"),
        (altered, "entry 1 is damaged: its checksum is wrong"),
        (moved, "entry 1 is damaged: its checksum is wrong"),
    ] {
        let dir = closed_node().await;
        change_log(dir.path(), change);
        let error = open_error(dir.path(), id(1)).await;
        let OpenError::Damaged { source, .. } = &error else {
            panic!("{error:?}")
        };
        let source = source.to_string();
        assert!(source.contains(says), "{source}");
        assert!(source.contains("holdfast rejoin"), "{source}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_would_leave_a_hole_is_not_appended() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join(LOG_FILE);
    let mut log = LogStore::open(&path, id(1)).unwrap();
    let blank = |index| Entry {
        log_id: LogId::new_term_index(1, index),
        payload: openraft::EntryPayload::Blank,
    };
    log.append([blank(0), blank(1)], IOFlushed::noop())
        .await
        .unwrap();
    let error = log.append([blank(3)], IOFlushed::noop()).await.unwrap_err();
    assert!(error.to_string().contains("entry 2 is missing"), "{error}");
    drop(log);
    let mut log = LogStore::open(&path, id(1)).expect("it is whole");
    assert_eq!(log.try_get_log_entries(..).await.unwrap().len(), 2);
}

/// The form that files of format 4 have, byte for byte.
#[test]
fn stored_values_have_the_form_that_is_written_down() {
    let entry = Entry {
        log_id: LogId::new_term_index(3, 7),
        payload: openraft::EntryPayload::Blank,
    };
    let hex = |bytes: Vec<u8>| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    assert_eq!(
        hex(log::stored::stored_entry(&entry)),
        "bc8cb912d178b0170182a66c6f675f696482a96c65616465725f696403a5696e64657807a77061796c6f6164a5426c616e6b"
    );
    assert_eq!(
        hex(seal::seal(b"row", b"value")),
        "c6d5be1a46a7fe8c76616c7565"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_transfer_leaves_nothing() {
    let dir = TempDir::new().unwrap();
    let files = || fs::read_dir(dir.path()).unwrap().count();
    let incoming = snapshot::Incoming::default();
    let row: Row = (Bytes::from_static(b"c"), Bytes::from_static(b"x"));
    let transfer = uuid::Uuid::new_v4();
    let stage = || Staged::begin(dir.path(), id(1), 1 << 20).unwrap();
    incoming.begin(transfer, SnapshotMeta::default(), stage());
    let arrived = incoming.take(transfer, 0).unwrap();
    arrived.staged.add(&[row]).unwrap();
    incoming.put_back(arrived);
    assert!(incoming.take(transfer, 0).is_none(), "a piece counts once");
    assert!(
        incoming.take(uuid::Uuid::new_v4(), 1).is_none(),
        "another transfer's piece"
    );
    // Another one begins: the first is over.
    incoming.begin(uuid::Uuid::new_v4(), SnapshotMeta::default(), stage());
    assert!(incoming.take(transfer, 1).is_none());
    within(|| async { files() == 1 }).await;
    drop(incoming);
    assert_eq!(files(), 0);
    // A process that died could not delete it.
    fs::write(dir.path().join("control-incoming-1.redb"), "x").unwrap();
    snapshot::sweep(dir.path()).unwrap();
    assert_eq!(files(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_installed_snapshot_replaces_state_and_file_and_tells_subscribers() {
    let (from, to) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let net = Net::new();
    let source = net.start(from.path(), id(1)).await;
    found(&source).await;
    deploy(&source, "new").await;
    let (other_net, other_dir) = (Net::new(), TempDir::new().unwrap());
    let other = other_net.start(other_dir.path(), id(2)).await;
    found(&other).await;
    deploy(&other, "old").await;

    let copy = Machine(source.core.replica.clone())
        .get_current_snapshot()
        .await
        .unwrap()
        .unwrap();
    let replica = Arc::new(Replica::open(to.path().join(STATE_FILE), id(3)).unwrap());
    let mut machine = Machine(replica.clone());
    let old = Machine(other.core.replica.clone())
        .get_current_snapshot()
        .await
        .unwrap()
        .unwrap();
    machine
        .install_snapshot(&old.meta, old.snapshot)
        .await
        .unwrap();
    let mut subscription = replica.subscribe();
    subscription.changed().await;
    machine
        .install_snapshot(&copy.meta, copy.snapshot)
        .await
        .unwrap();

    assert_eq!(replica.read(Clone::clone), source.read(Clone::clone));
    let changes = subscription.changed().await;
    for module in ["new", "old"] {
        assert!(
            changes.contains(&Key::Module(module.parse().unwrap())),
            "{module}: {changes:?}"
        );
    }
    drop((machine, replica));
    let again = Replica::open(to.path().join(STATE_FILE), id(3)).unwrap();
    assert_eq!(again.read(Clone::clone), source.read(Clone::clone));
    assert_eq!(again.position().unwrap().0, copy.meta.last_log_id);
    assert_eq!(fs::read_dir(to.path()).unwrap().count(), 1);
}

#[test]
fn the_label_is_written_first() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join(LOG_FILE);
    // A process that died right after creating the file has left an empty database.
    drop(redb::Database::create(&path).unwrap());
    let db = file::open(&path, id(1), 1 << 20).unwrap();
    let transaction = db.begin_read().unwrap();
    let meta = transaction.open_table(file::META).unwrap();
    assert_eq!(
        meta.get("node").unwrap().unwrap().value(),
        id(1).0.as_bytes()
    );
}
