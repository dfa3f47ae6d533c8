//! What the log tells, in the words of the API.

use holdfast_cluster::state::{self, Owner};
use holdfast_model::api::{self, Happening};

/// What the log tells, in the words of the API.
pub(super) fn told(event: state::Event) -> Happening {
    use state::Event as Told;
    let owner = |owner: Owner| api::Owner {
        node: owner.node,
        incarnation: owner.incarnation,
    };
    match event {
        Told::NodeUp { node, incarnation } => Happening::NodeUp { node, incarnation },
        Told::NodeDown { node, incarnation } => Happening::NodeDown { node, incarnation },
        Told::NodeDraining { node } => Happening::NodeDraining { node },
        Told::NodeActive { node } => Happening::NodeActive { node },
        Told::NodeRestarting { node, incarnation } => {
            Happening::NodeRestarting { node, incarnation }
        }
        Told::NodeRemoved { node } => Happening::NodeRemoved { node },
        Told::ModuleDeployed {
            module,
            version,
            digest,
        } => Happening::ModuleDeployed {
            module,
            version,
            digest,
        },
        Told::ModuleServing { module, version } => Happening::ModuleServing { module, version },
        Told::ModuleFailed {
            module,
            version,
            error,
        } => Happening::ModuleFailed {
            module,
            version,
            error,
        },
        Told::ModuleRemoving { module } => Happening::ModuleRemoving { module },
        Told::ModuleRemoved { module } => Happening::ModuleRemoved { module },
        Told::ResourceAllocated { module, id } => Happening::ResourceAllocated {
            module,
            resource: id,
        },
        Told::ResourceChanged { module, id } => Happening::ResourceChanged {
            module,
            resource: id,
        },
        Told::ResourceDeallocated { module, id } => Happening::ResourceDeallocated {
            module,
            resource: id,
        },
        Told::Moved {
            module,
            slot,
            resources,
            from,
            to,
            token,
        } => Happening::Moved {
            module,
            slot,
            resources,
            from: from.map(owner),
            to: to.map(owner),
            token,
        },
    }
}
