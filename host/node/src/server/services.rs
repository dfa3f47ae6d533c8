//! The parts of a node, made in the order in which they need one another.

use std::sync::Arc;

use holdfast_cluster::state::Owner;
use holdfast_model::ClusterId;
use holdfast_runtime::{Fences, Runtime};
use tokio::sync::{mpsc, watch};

use super::{
    Error, Node,
    answer::{Answers, Carrier, Parts},
    descriptors, http,
    tasks::Ends,
};
use crate::{
    admin::{self, Api, ByteBudget},
    conditions::Conditions,
    control::{self, Control},
    deploy::{Deploy, FromPeers},
    dispatch::{self, Dispatch},
    events::{Events, Teller},
    gossip,
    logs::{self, Logs},
    metrics::Metrics,
    modules::Modules,
    peer::{self, Local, Peers},
    placement::{self, Lease, Members, Placement},
    restart::{Ending, Restarts},
    start_faults::StartFaults,
    traces::{self, Traces},
};

/// The parts of a node, made but not all running yet.
pub(super) struct Services {
    pub(super) cluster_id: watch::Sender<Option<ClusterId>>,
    pub(super) peers: Peers,
    pub(super) answers: Arc<Answers>,
    pub(super) events: mpsc::Receiver<peer::Event>,
    pub(super) control: Control,
    pub(super) placement: Placement,
    pub(super) members: watch::Sender<Members>,
    /// Gossip that peers deliver.
    pub(super) delivered: mpsc::Receiver<gossip::Delivered>,
    pub(super) allocations: placement::Allocations,
    pub(super) renewals: placement::Renewals,
    pub(super) lease: watch::Receiver<Lease>,
    pub(super) fences: Fences,
    pub(super) engine: dispatch::Running,
    pub(super) dispatch: Dispatch,
    pub(super) restarts: Restarts,
    pub(super) conditions: Conditions,
    /// Restarts of this node that were asked for.
    pub(super) asked: mpsc::Receiver<Ending>,
    pub(super) http: http::Server,
    /// Brings traces to their collector, where there is one.
    pub(super) exporting: Option<traces::Exporting>,
}

impl Services {
    pub(super) async fn start(node: &Node, me: Owner, ends: &Ends) -> Result<Self, Error> {
        let Node {
            config,
            dir,
            secret,
            runtimes,
            about,
            advertise,
            self_test,
            ..
        } = node;
        let metrics = Metrics::new();
        let teller = Teller::new(me.node, metrics.clone());
        let conditions = Conditions::new(teller.clone());
        let cluster_id = watch::Sender::new(dir.cluster());
        let answers = Arc::new(Answers::default());
        let local = Local {
            node: me.node,
            incarnation: me.incarnation,
            boot_id: dir.boot_id(),
            cluster: config.cluster.clone(),
            cluster_id: cluster_id.subscribe(),
            advertise: *advertise,
            about: about.clone(),
        };
        let key = secret.handshake_key(&config.cluster);
        let options = peer::Options::default();
        let (peers, events) = Peers::new(local, key, answers.clone(), options, runtimes.clone());
        let fences = Fences::shut();
        let said = Arc::new(logs::Kept::default());
        let options = holdfast_runtime::Options {
            cache_dir: Some(dir.path().join("compiled")),
            compiler: config.compiler.clone(),
            guest_memory_bytes_max: config.guest_memory_bytes_max,
            fences: fences.clone(),
            log: said.clone(),
            ..holdfast_runtime::Options::default()
        };
        let component_bytes_max = options.component_bytes_max;
        let runtime = Runtime::new(options)?;
        let fetch = Arc::new(FromPeers(peers.clone()));
        let modules = Modules::open(&dir.path().join("modules"), runtime, fetch)?;
        let options = control::Options {
            member: dir.cluster().is_some(),
            ..control::Options::new(dir.path().to_owned(), me.node)
        };
        let control = Control::open(options, Arc::new(Carrier(peers.clone()))).await?;
        let members = watch::Sender::<Members>::default();
        let (placement, allocations) = Placement::new(
            me.node,
            control.clone(),
            peers.clone(),
            members.subscribe(),
            conditions.clone(),
        );
        let times = metrics.lease_times();
        let start_faults = StartFaults::default();
        let (renewals, lease) = placement.renewals(
            me,
            fences.clone(),
            modules.clone(),
            start_faults.clone(),
            times,
            self_test.clone(),
        );
        let stop = ends.http.clone();
        let logs = Logs::new(
            me,
            said,
            config.log.clone(),
            peers.clone(),
            placement.clone(),
            stop,
        );
        let (traces, exporting) = match &config.traces {
            Some(options) => {
                let about = traces::About {
                    node: me.node,
                    cluster: &config.cluster,
                };
                let (traces, exporting) = Traces::new(options, &about, &metrics)?;
                (traces, Some(exporting))
            }
            None => (Traces::default(), None),
        };
        let (dispatch, engine) = Dispatch::new(dispatch::Parts {
            me,
            control: control.clone(),
            peers: peers.clone(),
            modules: modules.clone(),
            teller: teller.clone(),
            metrics: metrics.clone(),
            traces: traces.clone(),
            start_faults,
            lease: lease.clone(),
            starts_max: config.starts_max,
            placement: placement.clone(),
        });
        let happenings = Events::new(
            me,
            &teller,
            control.clone(),
            peers.clone(),
            placement.clone(),
            ends.http.clone(),
        );
        let deploy = Deploy::new(me.node, control.clone(), peers.clone(), modules.clone());
        let (restarts, asked) =
            Restarts::new(me, control.clone(), peers.clone(), config.program.clone());
        let (inbox, delivered) = gossip::Inbox::new();
        answers.open(Parts {
            inbox,
            control: control.clone(),
            peers: peers.clone(),
            modules: modules.clone(),
            placement: placement.clone(),
            dispatch: dispatch.clone(),
            restarts: restarts.clone(),
            logs: logs.clone(),
            events: happenings.clone(),
        });
        let connections = metrics.connections();
        let budget = ByteBudget::new(config.http_options.memory_max, metrics.request_bytes());
        let api = Api::new(admin::Parts {
            me: me.node,
            control: control.clone(),
            peers: peers.clone(),
            modules,
            placement: placement.clone(),
            dispatch: dispatch.clone(),
            deploy,
            restarts: restarts.clone(),
            logs,
            events: happenings,
            metrics,
            conditions: conditions.clone(),
            traces,
            self_test: self_test.clone(),
            batches: admin::Batches::default(),
            token: config.token.clone(),
            component_bytes_max,
            budget: budget.clone(),
        });
        let mut options = config.http_options.clone();
        options.connections_max = descriptors::connections_max(options.connections_max);
        let http = http::Server {
            api,
            options,
            budget,
            metrics: connections,
        };
        Ok(Self {
            cluster_id,
            peers,
            answers,
            events,
            control,
            placement,
            members,
            delivered,
            allocations,
            renewals,
            lease,
            fences,
            engine,
            dispatch,
            restarts,
            conditions,
            asked,
            http,
            exporting,
        })
    }
}
