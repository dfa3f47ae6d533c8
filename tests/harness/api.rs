//! The HTTP API of one node, as the scenarios use it most.

use bytes::Bytes;
use holdfast_model::{
    NodeId, ResourceId,
    api::{ClusterInfo, ModuleInfo, NodeInfo, NodeList, ResourceInfo},
};
use serde_json::{Value, json};

use crate::{
    contract::Contract,
    http::{Answer, Ask, Connection},
    wait::LONG,
};

/// The HTTP API of one node. Cheap to clone; clones share connections.
#[derive(Clone, Debug)]
pub struct Api {
    connection: Connection,
}

impl Api {
    /// The API at `addr`, such as `127.0.0.1:7300`.
    #[must_use]
    pub fn new(addr: &str) -> Self {
        Self {
            connection: Connection::new(addr).held_to(Contract::of_nodes()),
        }
    }

    /// The same with an API token in every request.
    #[must_use]
    pub fn with_token(self, token: &str) -> Self {
        Self {
            connection: self.connection.with_token(token),
        }
    }

    /// Begins any request.
    pub fn ask(&self, method: &str, path: &str) -> Ask {
        self.connection.ask(method, path)
    }

    /// Begins a GET.
    pub fn get(&self, path: &str) -> Ask {
        self.ask("GET", path)
    }

    /// Begins a deployment that answers once the version serves or has failed.
    pub fn deploy(&self, module: &str, component: Bytes, settings: &Value) -> Ask {
        let path = format!("/v1/modules/{module}?wait=serving&timeout_ms=360000");
        self.ask("PUT", &path)
            .header("content-type", "application/wasm")
            .header("holdfast-settings", settings)
            .body(component)
            .patience(LONG * 3)
    }

    /// Begins an allocation that answers once it is safe.
    pub fn allocate(&self, module: &str, id: &str, spec: &Value) -> Ask {
        self.ask("PUT", &resource_path(module, id)).json(spec)
    }

    /// Begins an allocation that answers once the resource is held.
    pub fn allocate_held(&self, module: &str, id: &str, spec: &Value) -> Ask {
        let (path, ms) = (resource_path(module, id), LONG.as_millis());
        let path = format!("{path}?wait=held&timeout_ms={ms}");
        self.ask("PUT", &path).json(spec).patience(LONG + LONG)
    }

    /// Allocates all of these, with an empty spec, in one batch.
    ///
    /// # Panics
    /// When one of them is refused.
    #[track_caller]
    pub fn allocate_all(&self, module: &str, ids: &[String]) {
        self.allocate_all_as(module, ids, &json!({}));
    }

    /// Allocates all of these, with the same spec, in one batch.
    ///
    /// # Panics
    /// When one of them is refused.
    #[track_caller]
    pub fn allocate_all_as(&self, module: &str, ids: &[String], spec: &Value) {
        let allocate = |id: &String| json!({"op": "allocate", "id": id, "spec": spec});
        self.batch(module, ids.iter().map(allocate));
    }

    /// Deallocates all of these in one batch. Their instances may take longer.
    ///
    /// # Panics
    /// When one of them is refused.
    #[track_caller]
    pub fn deallocate_all(&self, module: &str, ids: &[String]) {
        let deallocate = |id: &String| json!({"op": "deallocate", "id": id});
        self.batch(module, ids.iter().map(deallocate));
    }

    #[track_caller]
    fn batch(&self, module: &str, lines: impl ExactSizeIterator<Item = Value>) {
        let sent = lines.len();
        let lines: String = lines.map(|line| format!("{line}\n")).collect();
        let answer = self
            .ask("POST", &format!("/v1/modules/{module}/resources:batch"))
            .header("content-type", "application/x-ndjson")
            .body(lines)
            .patience(LONG + LONG)
            .answer()
            .expect(200);
        let text = String::from_utf8_lossy(&answer.body);
        let answers: Vec<&str> = text.lines().filter(|line| !line.is_empty()).collect();
        assert_eq!(answers.len(), sent, "one answer a line");
        for answer in answers {
            let answer: Value = serde_json::from_str(answer).expect("an answer line is JSON");
            assert!(answer["result"].is_string(), "batch: {answer}");
        }
    }

    /// Begins a deallocation that answers once the instance is gone.
    pub fn deallocate(&self, module: &str, id: &str) -> Ask {
        let path = format!("{}?wait=gone&timeout_ms=180000", resource_path(module, id));
        self.ask("DELETE", &path).patience(LONG + LONG)
    }

    /// Begins a call of a resource.
    pub fn invoke(&self, module: &str, id: &str, body: impl Into<Bytes>) -> Ask {
        let path = format!("{}/invoke", resource_path(module, id));
        self.ask("POST", &path)
            .header("content-type", "application/json")
            .body(body)
    }

    /// What a node says about a resource.
    #[track_caller]
    #[must_use]
    pub fn resource(&self, module: &str, id: &str) -> ResourceInfo {
        self.get(&resource_path(module, id))
            .answer()
            .expect(200)
            .json()
    }

    /// What a node says about a module.
    #[track_caller]
    #[must_use]
    pub fn module(&self, module: &str) -> ModuleInfo {
        self.get(&format!("/v1/modules/{module}"))
            .answer()
            .expect(200)
            .json()
    }

    /// What a node says about the cluster.
    ///
    /// # Errors
    /// When it does not answer, as text.
    pub fn cluster(&self) -> Result<ClusterInfo, String> {
        ok(self.get("/v1/cluster")).map(|answer| answer.json())
    }

    /// What a node says about all nodes.
    ///
    /// # Errors
    /// When it does not answer, as text.
    pub fn nodes(&self) -> Result<Vec<NodeInfo>, String> {
        ok(self.get("/v1/cluster/nodes")).map(|answer| answer.json::<NodeList>().nodes)
    }

    /// What a node says about one node.
    ///
    /// # Errors
    /// When it does not answer, or does not know that node, as text.
    pub fn node(&self, node: NodeId) -> Result<NodeInfo, String> {
        let mut nodes = self.nodes()?.into_iter();
        nodes
            .find(|info| info.node == node)
            .ok_or_else(|| format!("{node} is not listed"))
    }

    /// Whether the node says that it is ready.
    ///
    /// # Errors
    /// What it says instead.
    pub fn ready(&self) -> Result<(), String> {
        ok(self.get("/readyz")).map(|_| ())
    }
}

/// The path of a resource, with its id percent-encoded.
///
/// # Panics
/// When `id` is no resource id: a test that wants to send such a thing writes the path by itself.
#[must_use]
pub fn resource_path(module: &str, id: &str) -> String {
    let id: ResourceId = id.parse().expect("the test's id is valid");
    format!("/v1/modules/{module}/resources/{}", id.to_path_segment())
}

fn ok(ask: Ask) -> Result<Answer, String> {
    match ask.send() {
        Ok(answer) if answer.status == 200 => Ok(answer),
        Ok(answer) => Err(answer.to_string()),
        Err(error) => Err(error.to_string()),
    }
}
