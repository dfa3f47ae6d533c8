//! Makes the data directory of a node that cannot go on one of a new node of the same cluster.
//!
//! A log with a hole, or a state that differs from the others', cannot be repaired in place: a node that
//! forgets some of what it acknowledged, or its vote, could acknowledge something else or vote twice. So
//! its copy is begun anew under another identity, and filled by the cluster. The secret, the cluster's id
//! and the components are kept; the former files are put aside.
//!
//! What was acknowledged is on the disks of a majority of the voters. Where this was one of the last of
//! them, what only it has is lost to the cluster: see `holdfast recover`.

use std::{
    io,
    path::{Path, PathBuf},
};

use holdfast_model::{ClusterId, NodeId};

use crate::{
    clock::now_ms,
    control,
    identity::{self, DataDir},
};

/// A node that begins anew.
#[derive(Clone, Debug)]
pub struct Rejoined {
    /// The cluster, which stays the same.
    pub cluster: ClusterId,
    /// Who the node was. It never comes back.
    pub former: NodeId,
    /// Who it is from now on.
    pub node: NodeId,
    /// Where the former files are.
    pub backup: PathBuf,
}

/// Why a node does not begin anew. Then nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No node was ever there.
    #[error("{} is no data directory of a node", .0.display())]
    NoNode(PathBuf),
    /// It never joined a cluster.
    #[error("the node of {} belongs to no cluster yet: there is nothing to begin anew", .0.display())]
    NoCluster(PathBuf),
    /// The directory cannot be used.
    #[error(transparent)]
    DataDir(#[from] identity::Error),
    /// The new files could not be made.
    #[error("make the files of the new node")]
    Make(#[from] control::OpenError),
    /// The new files could not be put in the place of the old.
    #[error("replace the files of the former node")]
    Replace(#[from] io::Error),
}

/// The node of a data directory, which does not run.
pub struct Former(DataDir, ClusterId);

impl Former {
    /// Locks a data directory.
    ///
    /// # Errors
    /// When the node runs, or is part of no cluster.
    pub fn open(path: &Path) -> Result<Self, Error> {
        if !DataDir::is_one(path) {
            return Err(Error::NoNode(path.to_owned()));
        }
        let dir = DataDir::open(path)?;
        let cluster = dir.cluster();
        let cluster = cluster.ok_or_else(|| Error::NoCluster(path.to_owned()))?;
        Ok(Self(dir, cluster))
    }

    /// Who it is.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.0.node()
    }

    /// Its cluster.
    #[must_use]
    pub fn cluster(&self) -> ClusterId {
        self.1
    }

    /// Gives it another identity and an empty copy of the state. A crash on the way leaves either the
    /// former node or the new one.
    ///
    /// # Errors
    /// When the new files cannot be written. Then nothing was changed.
    pub fn rejoin(self) -> Result<Rejoined, Error> {
        let Self(dir, cluster) = self;
        let former = dir.node();
        let make = |into: &Path, node| -> Result<(), Error> { Ok(control::begin(into, node)?) };
        let (node, backup) = dir.become_another_node(now_ms(), make)?;
        Ok(Rejoined {
            cluster,
            former,
            node,
            backup,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_node_begins_anew_under_another_id_and_keeps_its_cluster_and_secret() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path();
        let dir = DataDir::open(path).unwrap();
        let (former, cluster) = (dir.node(), ClusterId::random());
        dir.remember_cluster(cluster).unwrap();
        control::begin(path, former).unwrap();
        drop(dir);
        fs::write(path.join("cluster.secret"), "secret").unwrap();
        // The log is damaged: that must not matter.
        fs::write(path.join("control-log.redb"), "no log").unwrap();

        let rejoined = Former::open(path).unwrap().rejoin().unwrap();
        assert_eq!((rejoined.former, rejoined.cluster), (former, cluster));
        assert_ne!(rejoined.node, former);
        let log = fs::read(rejoined.backup.join("control-log.redb")).unwrap();
        assert_eq!(log, b"no log", "the former files are put aside");
        let secret = fs::read_to_string(path.join("cluster.secret")).unwrap();
        assert_eq!(secret, "secret");
        let dir = DataDir::open(path).unwrap();
        assert_eq!((dir.node(), dir.cluster()), (rejoined.node, Some(cluster)));
        assert_eq!(dir.incarnation(), holdfast_model::Incarnation(1));
        control::begin(path, dir.node()).expect("its files are its own");
    }

    #[test]
    fn who_runs_or_never_joined_does_not_begin_anew() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path();
        assert!(matches!(Former::open(path), Err(Error::NoNode(_))));
        let dir = DataDir::open(path).unwrap();
        let error = Former::open(path).err().unwrap();
        assert!(matches!(
            error,
            Error::DataDir(identity::Error::InUse { .. })
        ));
        drop(dir);
        assert!(matches!(Former::open(path), Err(Error::NoCluster(_))));
    }
}
