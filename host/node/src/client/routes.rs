//! The routes, one method each.

use std::{
    pin::pin,
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use holdfast_model::{
    ModuleName, NodeId, ResourceId, Settings, Spec,
    api::{
        AllocateQuery, ChangeClusterSettings, ChangeNode, ClusterInfo, ClusterPlan,
        ClusterSettings, DeallocateQuery, DeployQuery, DrainQuery, IDEMPOTENCY_KEY_HEADER,
        ModuleInfo, ModuleList, NODE_HEADER, NodeInfo, NodeList, NodeLog, PlanRequest,
        REQUEST_ID_HEADER, RemoveModuleQuery, RemoveNodeQuery, ResourceInfo, ResourceList,
        ResourcesQuery, RestartQuery, SETTINGS_HEADER, SlotList, SlotsQuery, TIMEOUT_HEADER,
        VersionInfo, WASM,
    },
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};

use super::{Client, Error, Exchange};

/// A call of a resource.
#[derive(Clone, Debug, Default)]
pub struct Call {
    /// The body.
    pub body: Bytes,
    /// Its media type.
    pub content_type: Option<String>,
    /// Says that the call may be repeated; the handler is to know the key again.
    pub idempotency_key: Option<String>,
    /// Its identifier; made by the node when absent.
    pub request_id: Option<String>,
    /// How long the node may take; the module's `call_timeout_ms` when absent.
    pub timeout: Option<Duration>,
}

/// The answer of a call.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The body, as the handler gave it.
    pub body: Bytes,
    /// Its media type.
    pub content_type: Option<String>,
    /// The call's identifier.
    pub request_id: Option<String>,
    /// The node on which the handler ran.
    pub node: Option<NodeId>,
}

impl Client {
    /// What the node's wall clock says, in whole seconds; none where its answer has no date.
    ///
    /// # Errors
    /// See [`Error`]. It needs no API token.
    pub async fn date(&self) -> Result<Option<SystemTime>, Error> {
        let (head, _) = self.whole(Exchange::new(Method::GET, "/healthz")).await?;
        let date = head.headers.get(header::DATE);
        Ok(date.and_then(|date| httpdate::parse_http_date(date.to_str().ok()?).ok()))
    }

    /// Deploys a component: a new module, or a new version of one. Without settings the present
    /// ones stay.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn deploy(
        &self,
        module: &ModuleName,
        component: Bytes,
        settings: Option<&Settings>,
        query: &DeployQuery,
    ) -> Result<ModuleInfo, Error> {
        let mut exchange = Exchange::new(Method::PUT, module_path(module))
            .query(query)
            .body(WASM, component)
            .waiting(query.timeout_ms);
        if let Some(settings) = settings {
            let name = HeaderName::from_static(SETTINGS_HEADER);
            exchange = exchange.header(name, ascii_json(settings));
        }
        self.json(exchange).await
    }

    /// All modules.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn modules(&self) -> Result<ModuleList, Error> {
        self.json(Exchange::new(Method::GET, "/v1/modules")).await
    }

    /// A module.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn module(&self, module: &ModuleName) -> Result<ModuleInfo, Error> {
        self.json(Exchange::new(Method::GET, module_path(module)))
            .await
    }

    /// Removes a module.
    ///
    /// # Errors
    /// See [`Error`]; a conflict when it has resources and is not forced. After a timeout it goes
    /// on being removed.
    pub async fn remove_module(
        &self,
        module: &ModuleName,
        query: &RemoveModuleQuery,
    ) -> Result<(), Error> {
        let exchange = Exchange::new(Method::DELETE, module_path(module))
            .query(query)
            .waiting(query.wait.and(query.timeout_ms));
        self.whole(exchange).await.map(drop)
    }

    /// Allocates a resource, or changes its spec.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn allocate(
        &self,
        module: &ModuleName,
        id: &ResourceId,
        spec: &Spec,
        query: &AllocateQuery,
    ) -> Result<ResourceInfo, Error> {
        let exchange = Exchange::new(Method::PUT, resource_path(module, id))
            .query(query)
            .body("application/json", spec.as_str().to_owned())
            .waiting(query.wait.and(query.timeout_ms));
        self.json(exchange).await
    }

    /// A resource.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn resource(
        &self,
        module: &ModuleName,
        id: &ResourceId,
    ) -> Result<ResourceInfo, Error> {
        self.json(Exchange::new(Method::GET, resource_path(module, id)))
            .await
    }

    /// Deallocates a resource; one that does not exist is deallocated already.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn deallocate(
        &self,
        module: &ModuleName,
        id: &ResourceId,
        query: &DeallocateQuery,
    ) -> Result<(), Error> {
        let exchange = Exchange::new(Method::DELETE, resource_path(module, id))
            .query(query)
            .waiting(query.wait.and(query.timeout_ms));
        self.whole(exchange).await.map(drop)
    }

    /// One page of a module's resources.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn resources(
        &self,
        module: &ModuleName,
        query: &ResourcesQuery,
    ) -> Result<ResourceList, Error> {
        let path = format!("{}/resources", module_path(module));
        self.json(Exchange::new(Method::GET, path).query(query))
            .await
    }

    /// Calls a resource. Without a time limit of its own, the call has that of its module, whatever the
    /// limit of this client.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn invoke(
        &self,
        module: &ModuleName,
        id: &ResourceId,
        call: Call,
    ) -> Result<Answer, Error> {
        let path = format!("{}/invoke", resource_path(module, id));
        let mut exchange = Exchange::new(Method::POST, path);
        exchange.body = http_body_util::BodyExt::boxed_unsync(http_body_util::Full::new(call.body));
        exchange.wait_ms = call.timeout.map(millis);
        let timeout = call.timeout.map(|limit| millis(limit).to_string());
        for (name, text) in [
            (CONTENT_TYPE_HEADER, call.content_type),
            (IDEMPOTENCY_KEY_HEADER, call.idempotency_key),
            (REQUEST_ID_HEADER, call.request_id),
            (TIMEOUT_HEADER, timeout),
        ] {
            if let Some(text) = text {
                let value = HeaderValue::try_from(&text)
                    .map_err(|_invalid| Error::InvalidHeader { name, value: text })?;
                exchange = exchange.header(HeaderName::from_static(name), value);
            }
        }
        let (head, body) = match call.timeout {
            Some(_) => self.whole(exchange).await?,
            None => self.as_long_as_calls(module, exchange).await?,
        };
        let text = |name: &str| text_of(&head.headers, name);
        Ok(Answer {
            body,
            content_type: text(CONTENT_TYPE_HEADER),
            request_id: text(REQUEST_ID_HEADER),
            node: text(NODE_HEADER).and_then(|node| node.parse().ok()),
        })
    }

    /// Sends a call, and waits for its answer as long as the module gives its calls; asked for only
    /// when the answer takes long.
    async fn as_long_as_calls(
        &self,
        module: &ModuleName,
        exchange: Exchange,
    ) -> Result<(http::response::Parts, Bytes), Error> {
        let begun = Instant::now();
        let mut answered = pin!(async {
            let response = self.start(exchange).await?;
            let (head, body) = response.into_parts();
            Ok((head, self.collect(body).await?))
        });
        if let Ok(answered) = tokio::time::timeout(self.timeout, &mut answered).await {
            return answered;
        }
        let asked = tokio::select! {
            biased;
            answered = &mut answered => return answered,
            asked = self.module(module) => asked,
        };
        let given = |version: &VersionInfo| version.settings.limits.call_timeout_ms;
        let longest = asked.map_or(0, |info| {
            let tried = info.rollout.as_ref();
            let tried = tried.map_or(0, |tried| given(&tried.version));
            given(&info.version).max(tried)
        });
        let limit = self.limit(Some(longest)).max(self.timeout);
        let left = limit.saturating_sub(begun.elapsed());
        let timed_out = |_elapsed| Error::TimedOut {
            url: self.server.clone(),
            after: limit,
        };
        tokio::time::timeout(left, answered)
            .await
            .map_err(timed_out)?
    }

    /// The cluster.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn cluster(&self) -> Result<ClusterInfo, Error> {
        self.json(Exchange::new(Method::GET, "/v1/cluster")).await
    }

    /// The nodes.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn nodes(&self) -> Result<NodeList, Error> {
        self.json(Exchange::new(Method::GET, "/v1/cluster/nodes"))
            .await
    }

    /// The slots of a module.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn slots(&self, module: &ModuleName) -> Result<SlotList, Error> {
        let query = SlotsQuery {
            module: module.clone(),
        };
        self.json(Exchange::new(Method::GET, "/v1/cluster/slots").query(&query))
            .await
    }

    /// What would move; nothing is changed.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn plan(&self, request: &PlanRequest) -> Result<ClusterPlan, Error> {
        let body = serde_json::to_vec(request).expect("ids and numbers, with texts for keys");
        let exchange = Exchange::new(Method::POST, "/v1/cluster/plan");
        self.json(exchange.body("application/json", body)).await
    }

    /// Drains a node, or ends its drain.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn drain(&self, node: NodeId, query: &DrainQuery) -> Result<NodeInfo, Error> {
        let exchange = Exchange::new(Method::POST, format!("/v1/cluster/nodes/{node}/drain"))
            .query(query)
            .waiting(query.wait.and(query.timeout_ms));
        self.json(exchange).await
    }

    /// Changes a node; gives it as it is then.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn change_node(&self, node: NodeId, change: &ChangeNode) -> Result<NodeInfo, Error> {
        let body = serde_json::to_vec(change).expect("numbers, which can always be written");
        let exchange = Exchange::new(Method::PATCH, format!("/v1/cluster/nodes/{node}"));
        self.json(exchange.body("application/json", body)).await
    }

    /// Has a node restart; gives the run that ends.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn restart(&self, node: NodeId, query: &RestartQuery) -> Result<NodeInfo, Error> {
        let path = format!("/v1/cluster/nodes/{node}/restart");
        self.json(Exchange::new(Method::POST, path).query(query))
            .await
    }

    /// What a node's own log has.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn node_log(&self, node: NodeId) -> Result<NodeLog, Error> {
        let path = format!("/v1/cluster/nodes/{node}/log");
        self.json(Exchange::new(Method::GET, path)).await
    }

    /// Changes what a node's own log has.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn change_node_log(&self, node: NodeId, log: &NodeLog) -> Result<NodeLog, Error> {
        let path = format!("/v1/cluster/nodes/{node}/log");
        let body = serde_json::to_vec(log).expect("a text, which can always be written");
        let exchange = Exchange::new(Method::PUT, path);
        self.json(exchange.body("application/json", body)).await
    }

    /// The settings of the cluster.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn settings(&self) -> Result<ClusterSettings, Error> {
        self.json(Exchange::new(Method::GET, "/v1/cluster/settings"))
            .await
    }

    /// Changes settings of the cluster; gives all of them.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn change_settings(
        &self,
        change: &ChangeClusterSettings,
    ) -> Result<ClusterSettings, Error> {
        let body = serde_json::to_vec(change).expect("numbers, which can always be written");
        let exchange = Exchange::new(Method::PATCH, "/v1/cluster/settings");
        self.json(exchange.body("application/json", body)).await
    }

    /// Removes a dead node.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn remove_node(&self, node: NodeId, query: &RemoveNodeQuery) -> Result<(), Error> {
        let path = format!("/v1/cluster/nodes/{node}");
        let exchange = Exchange::new(Method::DELETE, path).query(query);
        self.whole(exchange).await.map(drop)
    }

    /// Whether the node is part of a cluster and ready to serve; the problem says why not.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn ready(&self) -> Result<(), Error> {
        self.whole(Exchange::new(Method::GET, "/readyz"))
            .await
            .map(drop)
    }
}

pub(super) fn module_path(module: &ModuleName) -> String {
    format!("/v1/modules/{module}")
}

fn resource_path(module: &ModuleName, id: &ResourceId) -> String {
    format!("{}/resources/{}", module_path(module), id.to_path_segment())
}

fn text_of(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_owned)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// JSON text in which every character outside ASCII is a `\u` escape: fit for a header.
fn ascii_json(settings: &Settings) -> HeaderValue {
    let json = serde_json::to_string(settings).expect("settings have text keys only");
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        // A header carries no DEL either, which JSON leaves as it is.
        if c.is_ascii() && c != '\u{7f}' {
            text.push(c);
            continue;
        }
        for unit in c.encode_utf16(&mut [0; 2]) {
            text.push_str(&format!("\\u{unit:04x}"));
        }
    }
    HeaderValue::try_from(text).expect("JSON escapes control characters, and the rest is ASCII")
}

const CONTENT_TYPE_HEADER: &str = "content-type";
