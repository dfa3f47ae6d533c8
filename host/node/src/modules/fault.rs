//! Whose fault it is that a component cannot be used here.
//!
//! A fault of the node says nothing against the component: others may run it. So it is told apart where
//! it happens, and by type.

use std::io;

use holdfast_model::api::ConditionKind;
use holdfast_runtime::LoadError;

use super::Error;

/// Why a component cannot be used on a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The node's own fault: others may well use it.
    Node(NodeFault),
    /// The component's, on this node at least.
    Component,
    /// Nobody who could be asked has it, or the node is busy: it may pass.
    Passing,
}

/// A fault of a node itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NodeFault {
    /// Its disk does not take or give what it must.
    Storage,
    /// The system gives it too little: memory, file descriptors, mappings, threads.
    Exhausted,
}

impl NodeFault {
    /// What a failed operation on the node's own files says of the node.
    #[must_use]
    pub fn of(error: &io::Error) -> Self {
        let number = error
            .raw_os_error()
            .map(rustix::io::Errno::from_raw_os_error);
        match number {
            Some(
                rustix::io::Errno::MFILE
                | rustix::io::Errno::NFILE
                | rustix::io::Errno::NOMEM
                | rustix::io::Errno::AGAIN,
            ) => Self::Exhausted,
            _ => Self::Storage,
        }
    }

    /// The condition of a node that has it.
    #[must_use]
    pub fn condition(self) -> ConditionKind {
        match self {
            Self::Storage => ConditionKind::Storage,
            Self::Exhausted => ConditionKind::Exhausted,
        }
    }
}

impl Error {
    /// Whose fault it is.
    #[must_use]
    pub fn cause(&self) -> Cause {
        match self {
            Self::File { source, .. } => Cause::Node(NodeFault::of(source)),
            Self::Fetch { .. } => Cause::Passing,
            Self::Load { source, .. } => match source {
                LoadError::System(_) | LoadError::CompilerNotRun(_) => {
                    Cause::Node(NodeFault::Exhausted)
                }
                LoadError::NotKept(_) => Cause::Node(NodeFault::Storage),
                LoadError::CompilerBusy(_) | LoadError::CompileTimeout(_) => Cause::Passing,
                _ => Cause::Component,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;

    #[test]
    fn what_the_system_does_not_give_is_told_from_what_the_disk_does_not_take() {
        for (errno, fault) in [
            (Errno::NOSPC, NodeFault::Storage),
            (Errno::DQUOT, NodeFault::Storage),
            (Errno::ROFS, NodeFault::Storage),
            (Errno::IO, NodeFault::Storage),
            (Errno::NOTDIR, NodeFault::Storage),
            (Errno::MFILE, NodeFault::Exhausted),
            (Errno::NFILE, NodeFault::Exhausted),
            (Errno::NOMEM, NodeFault::Exhausted),
        ] {
            assert_eq!(NodeFault::of(&errno.into()), fault, "{errno}");
        }
    }
}
