//! Founds a cluster anew from the disk of one node, when the majority of the voters is lost for good.
//!
//! The new cluster has another id, so that nodes of the lost one cannot come into it: their data
//! directories are of no use to it any more. Whether they are really lost only a person can know.

use std::{
    io,
    path::{Path, PathBuf},
};

use holdfast_model::{ClusterId, ModuleName, NodeId};

use crate::{
    clock::now_ms,
    control::{Remains, RemainsError},
    identity::{self, DataDir},
    modules,
};

/// The disk of a node that does not run, and nobody else's while this lives.
pub struct Survivor {
    dir: DataDir,
    remains: Remains,
}

/// A cluster that was founded anew.
#[derive(Clone, Debug)]
pub struct Founded {
    /// Its id.
    pub cluster: ClusterId,
    /// The id of the lost one.
    pub former: ClusterId,
    /// Where the files of the lost one are.
    pub backup: PathBuf,
}

/// Why no cluster was founded anew.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No node was ever there.
    #[error("{} is no data directory of a node", .0.display())]
    NoNode(PathBuf),
    /// The directory cannot be used.
    #[error(transparent)]
    DataDir(#[from] identity::Error),
    /// Nothing can be founded from what is in it.
    #[error(transparent)]
    Remains(#[from] RemainsError),
    /// The new files could not be put in the place of the old.
    #[error("replace the files of the lost cluster")]
    Replace(#[from] io::Error),
}

impl Survivor {
    /// Locks a data directory and reads what is in it. That changes nothing but the number of the
    /// node's next run.
    ///
    /// # Errors
    /// When the node runs, or its files cannot be read or have no cluster.
    pub async fn open(path: &Path) -> Result<Self, Error> {
        if !DataDir::is_one(path) {
            return Err(Error::NoNode(path.to_owned()));
        }
        let dir = DataDir::open(path)?;
        let remains = Remains::read(dir.path(), dir.node()).await?;
        Ok(Self { dir, remains })
    }

    /// The node.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.dir.node()
    }

    /// What its disk says of the cluster.
    #[must_use]
    pub fn remains(&self) -> &Remains {
        &self.remains
    }

    /// The modules whose component is not on this disk, or not whole: their resources do not start
    /// before the same component is deployed again.
    #[must_use]
    pub fn modules_without_component(&self) -> Vec<ModuleName> {
        let kept = |digest| modules::is_kept(&self.dir.path().join("modules"), digest);
        let modules = self.remains.state().modules().iter();
        modules
            .filter(|(_, module)| !kept(module.about.version.digest))
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// Founds the cluster anew. A crash on the way leaves either the lost one's files or the new
    /// one's.
    ///
    /// # Errors
    /// When the new files cannot be written. Then nothing was changed.
    pub fn found_anew(self) -> Result<Founded, Error> {
        let Self { dir, remains } = self;
        let founded = remains.state().cluster();
        let former = founded.expect("remains are of a cluster").id;
        let (cluster, at_ms) = (ClusterId::random(), now_ms());
        let make = |into: &Path| -> Result<(), Error> {
            remains.found_anew(cluster, at_ms, into)?;
            Ok(())
        };
        let backup = dir.become_anothers(cluster, at_ms, make)?;
        Ok(Founded {
            cluster,
            former,
            backup,
        })
    }
}
