//! The datastore of a cluster: its API server.
//!
//! Every agent watches the kinds it needs ([`resources`]), each by a task of its own ([`watch`]); what they tell becomes one stream of
//! batches ([`merge`]). No object is kept: the agent's core has what it acts upon, and here is only what tells news from repetition
//! ([`known`]). What agents write is compared and swapped on `metadata.resourceVersion` by the server.

mod client;
mod content;
mod edit;
mod history;
mod known;
mod lease;
mod merge;
mod resources;
mod status;
mod watch;
mod wire;

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{DeleteParams, GetParams, ListParams, Patch, PatchParams, PostParams, Preconditions};
use kube::core::{Request, Status};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::sync::{OnceCell, mpsc};
use tortie_api::k8s::annotations;
use tortie_api::{Kind, Object, ObjectKey};

use crate::{Batch, Datastore, Error, Leadership, NodeAnnotations, NodeReport, Problem};
pub use content::WITH_STATUS;
pub use edit::Applied;
use history::History;
use lease::Lease;
use merge::Merge;
use resources::{Group, Scope, WATCHED, collection};
pub use status::{REPORTS, Standing, Standings, condition, rfc3339};
use watch::Watch;
pub use watch::spread;
use wire::{Head, List};

/// Batches that may wait for a slow receiver.
const BACKLOG: usize = 4;

/// Pieces of news that may wait for the merger.
const NEWS_BACKLOG: usize = 64;

/// How long a request may take.
const ANSWER: Duration = Duration::from_secs(30);

/// The first and the longest pause between attempts to reach the server.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// How many objects a page has.
const PAGE: u32 = 500;

/// On a pod: the container that has the addresses, as Calico's CNI plugin writes it.
const CONTAINER_ID: &str = "cni.projectcalico.org/containerID";

/// On a pod: its first address.
const POD_IP: &str = "cni.projectcalico.org/podIP";

/// A cluster's API server as a datastore.
#[derive(Clone)]
pub struct Kubernetes {
    client: Client,
    /// The server's address, for messages.
    place: String,
    group: Arc<OnceCell<Group>>,
    node: String,
    /// Whether every node's blocks are wanted.
    all_blocks: bool,
}

impl Kubernetes {
    /// A datastore behind the API server that a kubeconfig names; without one, that which `KUBECONFIG`, `~/.kube/config` or a pod's
    /// service account names. It need not answer yet. `node` is the node whose pods are wanted in full.
    ///
    /// # Errors
    /// When nothing names a server.
    pub async fn new(kubeconfig: Option<&Path>, node: &str) -> Result<Self, Error> {
        let (client, place) = client::connect(kubeconfig).await?;
        Ok(Self { client, place, group: Arc::default(), node: node.to_owned(), all_blocks: false })
    }

    /// The same, and whether the watch tells which blocks every node has, and not only this one's. Who is told by BGP need not know.
    #[must_use]
    pub fn with_all_blocks(self, all_blocks: bool) -> Self {
        Self { all_blocks, ..self }
    }

    /// Where the cluster has Calico's kinds.
    async fn group(&self) -> Result<Group, Error> {
        let failed = |reason: String| Error::Store { place: self.place.clone(), reason };
        let ask = || async {
            match tokio::time::timeout(ANSWER, Group::of_cluster(&self.client)).await {
                Ok(Ok(group)) => {
                    tracing::info!(server = self.place, calico = group.api_version(), "connected to the API server");
                    Ok(group)
                }
                Ok(Err(error)) => Err(failed(text(&error))),
                Err(_) => Err(failed("does not answer".to_owned())),
            }
        };
        self.group.get_or_try_init(ask).await.copied()
    }

    /// The client, for what is no datastore's business.
    pub const fn client(&self) -> &Client {
        &self.client
    }

    async fn requests(&self, kind: Kind, namespace: Option<&str>) -> Result<Request, Error> {
        Ok(Request::new(collection(kind, self.group().await?, namespace)))
    }

    async fn send(
        &self,
        request: Result<http::Request<Vec<u8>>, kube::core::request::Error>,
    ) -> Result<Box<RawValue>, kube::Error> {
        let request = request.map_err(kube::Error::BuildRequest)?;
        match tokio::time::timeout(ANSWER, self.client.request(request)).await {
            Ok(answer) => answer,
            Err(_) => Err(kube::Error::Service("no answer".into())),
        }
    }

    /// What a failure means for who asked for an object.
    fn failed(&self, key: &ObjectKey, error: &kube::Error) -> Error {
        if let kube::Error::Api(status) = error {
            match (status.code, status.reason.as_str()) {
                (404, _) => return Error::NotFound(key.clone()),
                (409, "AlreadyExists") => return Error::AlreadyExists(key.clone()),
                (409, _) => return Error::Conflict(key.clone()),
                _ => {}
            }
        }
        self.store(key, &text(error))
    }

    fn store(&self, key: &ObjectKey, reason: &str) -> Error {
        Error::Store { place: self.place.clone(), reason: format!("{key}: {reason}") }
    }

    fn read(kind: Kind, group: Group, json: &RawValue) -> Result<Object, Vec<Problem>> {
        wire::read(kind, group, json.get()).map_err(|errors| {
            let key = serde_json::from_str::<Head>(json.get()).map(|head| head.key(kind));
            let place = key.map_or_else(|_| kind.to_string(), |key| key.to_string());
            let problem = |error: tortie_api::FieldError| Problem {
                place: place.clone(),
                message: error.to_string(),
                warning: false,
                kind: Some(kind),
            };
            errors.into_iter().map(problem).collect()
        })
    }

    /// Shows every object of a kind that a label selector selects. Returns what is wrong with those that are unsound.
    async fn each(
        &self,
        kind: Kind,
        label_selector: Option<String>,
        see: &mut (dyn FnMut(Object) + Send),
    ) -> Result<Vec<Problem>, Error> {
        let (group, requests) = (self.group().await?, self.requests(kind, None).await?);
        let mut problems = Vec::new();
        let mut token = None;
        loop {
            let label_selector = label_selector.clone();
            let params =
                ListParams { limit: Some(PAGE), continue_token: token, label_selector, ..ListParams::default() };
            let failed =
                |reason: String| Error::Store { place: self.place.clone(), reason: format!("{kind}: {reason}") };
            let page = match self.send(requests.list(&params)).await {
                Ok(page) => page,
                // The cluster does not have the kind.
                Err(kube::Error::Api(status)) if status.code == 404 => return Ok(problems),
                Err(error) => return Err(failed(text(&error))),
            };
            let page: List = serde_json::from_str(page.get()).map_err(|error| failed(error.to_string()))?;
            for json in page.items() {
                match Self::read(kind, group, json) {
                    Ok(object) => see(object),
                    Err(errors) => problems.extend(errors),
                }
            }
            token = page.metadata.token.filter(|token| !token.is_empty());
            if token.is_none() {
                return Ok(problems);
            }
        }
    }

    async fn all(&self, kind: Kind, label_selector: Option<String>) -> Result<Vec<Object>, Error> {
        let mut objects = Vec::new();
        self.each(kind, label_selector, &mut |object| objects.push(object)).await?;
        Ok(objects)
    }

    /// What is wrong with the objects of a kind. [`Datastore::list`] leaves out those that cannot be read.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn object_problems(&self, kind: Kind) -> Result<Vec<Problem>, Error> {
        self.each(kind, None, &mut |_| {}).await
    }

    fn object(&self, key: &ObjectKey, group: Group, json: &RawValue) -> Result<Object, Error> {
        Self::read(key.kind, group, json).map_err(|problems| {
            let messages: Vec<String> = problems.into_iter().map(|problem| problem.message).collect();
            self.store(key, &messages.join("; "))
        })
    }

    /// Waits for the server, and says that it does. None when nobody listens any more.
    async fn reach(&self, batches: &mpsc::Sender<Batch>) -> Option<Group> {
        let mut pause = FIRST_PAUSE;
        loop {
            let error = match self.group().await {
                Ok(group) => return Some(group),
                Err(error) => error,
            };
            tracing::warn!(%error, "the API server cannot be reached; trying again");
            let problem =
                Problem { place: "the API server".to_owned(), message: error.to_string(), warning: true, kind: None };
            batches.send(Batch { problems: vec![problem], ..Batch::default() }).await.ok()?;
            tokio::select! {
                () = batches.closed() => return None,
                () = tokio::time::sleep(pause) => {}
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn patch_pod_status(&self, key: &ObjectKey, patch: &Patch<Value>) -> Result<(), kube::Error> {
        let request = Request::new(collection(Kind::Pod, Group::V3, key.namespace.as_deref()));
        self.send(request.patch_subresource("status", &key.name, &PatchParams::default(), patch)).await.map(|_| ())
    }
}

#[async_trait]
impl Datastore for Kubernetes {
    async fn watch(&self) -> Result<mpsc::Receiver<Batch>, Error> {
        let (batches, receiver) = mpsc::channel(BACKLOG);
        let this = self.clone();
        tokio::spawn(async move {
            let Some(group) = this.reach(&batches).await else { return };
            let (news, merged) = mpsc::channel(NEWS_BACKLOG);
            let history = Arc::new(History::new(this.client.clone(), group));
            for mut watched in WATCHED {
                if this.all_blocks && watched.0 == Kind::BlockAffinity {
                    watched.1 = Scope::Whole;
                }
                let (place, history) = ((group, this.node.as_str()), Arc::clone(&history));
                tokio::spawn(Watch::new(this.client.clone(), watched, place, history, news.clone()).run());
            }
            drop(news);
            Merge::new(WATCHED.map(|(kind, _)| kind)).run(merged, batches).await;
        });
        Ok(receiver)
    }

    async fn get(&self, key: &ObjectKey) -> Result<Object, Error> {
        let request = self.requests(key.kind, key.namespace.as_deref()).await?.get(&key.name, &GetParams::default());
        let json = self.send(request).await.map_err(|error| self.failed(key, &error))?;
        self.object(key, self.group().await?, &json)
    }

    async fn list(&self, kind: Kind) -> Result<Vec<Object>, Error> {
        self.all(kind, None).await
    }

    async fn list_labelled(&self, kind: Kind, label: &str, value: &str) -> Result<Vec<Object>, Error> {
        self.all(kind, Some(format!("{label}={value}"))).await
    }

    async fn create(&self, object: &Object) -> Result<Object, Error> {
        let key = object.key();
        let group = self.group().await?;
        let mut value = wire::write(object, group).map_err(|error| self.store(&key, &error.to_string()))?;
        if let Some(Value::Object(metadata)) = value.get_mut("metadata") {
            metadata.remove("resourceVersion");
            metadata.remove("uid");
        }
        let request = self.requests(key.kind, key.namespace.as_deref()).await?;
        let request = request.create(&PostParams::default(), value.to_string().into_bytes());
        let json = self.send(request).await.map_err(|error| self.failed(&key, &error))?;
        self.object(&key, group, &json)
    }

    async fn update(&self, object: &Object) -> Result<Object, Error> {
        let key = object.key();
        let Some(version) = &object.metadata().resource_version else { return Err(Error::Conflict(key)) };
        let group = self.group().await?;
        let mut value = wire::write(object, group).map_err(|error| self.store(&key, &error.to_string()))?;
        // A patch, so that what others keep in the object's metadata stays; with a test, so that nothing of theirs is overwritten.
        let mut operations = vec![
            json!({"op": "test", "path": "/metadata/resourceVersion", "value": version}),
            json!({"op": "replace", "path": "/spec", "value": value["spec"].take()}),
        ];
        for part in ["labels", "annotations"] {
            let value = value["metadata"][part].take();
            if !value.is_null() {
                operations.push(json!({"op": "add", "path": format!("/metadata/{part}"), "value": value}));
            }
        }
        let patch: Patch<Value> = Patch::Json(
            serde_json::from_value(Value::Array(operations)).map_err(|error| self.store(&key, &error.to_string()))?,
        );
        let request = self.requests(key.kind, key.namespace.as_deref()).await?;
        match self.send(request.patch(&key.name, &PatchParams::default(), &patch)).await {
            Ok(json) => self.object(&key, group, &json),
            Err(error) => {
                // A test that fails and an object that is refused have the same code.
                if matches!(&error, kube::Error::Api(status) if status.code == 422)
                    && self.get(&key).await?.metadata().resource_version.as_ref() != Some(version)
                {
                    return Err(Error::Conflict(key));
                }
                Err(self.failed(&key, &error))
            }
        }
    }

    async fn delete(&self, key: &ObjectKey, resource_version: &str) -> Result<(), Error> {
        let preconditions = Preconditions { resource_version: Some(resource_version.to_owned()), uid: None };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        let request = self.requests(key.kind, key.namespace.as_deref()).await?.delete(&key.name, &params);
        self.send(request).await.map(|_| ()).map_err(|error| self.failed(key, &error))
    }

    /// Writes the pod's status, as the kubelet does a second or two later: until then nobody else would know the pod's address. The
    /// annotations are for Calico's nodes.
    async fn publish_pod_ips(&self, namespace: &str, pod: &str, publisher: &str, ips: &[IpAddr]) -> Result<(), Error> {
        let key = ObjectKey { kind: Kind::Pod, namespace: Some(namespace.to_owned()), name: pod.to_owned() };
        let texts: Vec<String> = ips.iter().map(ToString::to_string).collect();
        let list: Vec<Value> = texts.iter().map(|ip| json!({"ip": ip})).collect();
        let patch = json!({
            "metadata": {"annotations": {
                CONTAINER_ID: publisher,
                POD_IP: texts.first(),
                annotations::POD_IPS: texts.join(","),
            }},
            "status": {"podIP": texts.first(), "podIPs": list},
        });
        self.patch_pod_status(&key, &Patch::Merge(patch)).await.map_err(|error| self.failed(&key, &error))
    }

    /// Says that the pod has no address any more. A pod that is gone, or another container's by now, is left alone.
    async fn withdraw_pod_ips(&self, namespace: &str, pod: &str, publisher: &str) -> Result<(), Error> {
        let key = ObjectKey { kind: Kind::Pod, namespace: Some(namespace.to_owned()), name: pod.to_owned() };
        let path = |annotation: &str| format!("/metadata/annotations/{}", annotation.replace('/', "~1"));
        let operations = json!([
            {"op": "test", "path": path(CONTAINER_ID), "value": publisher},
            {"op": "add", "path": path(POD_IP), "value": ""},
            {"op": "add", "path": path(annotations::POD_IPS), "value": ""},
        ]);
        let patch = serde_json::from_value(operations).map_err(|error| self.store(&key, &error.to_string()))?;
        match self.patch_pod_status(&key, &Patch::Json(patch)).await {
            Ok(()) => Ok(()),
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 422) => Ok(()),
            Err(error) => Err(self.failed(&key, &error)),
        }
    }

    async fn visit(&self, kind: Kind, see: &mut (dyn FnMut(Object) + Send)) -> Result<(), Error> {
        self.each(kind, None, see).await.map(|_| ())
    }

    async fn lead(&self, duty: &str, holder: &str) -> Result<Leadership, Error> {
        Lease::new(self.client.clone(), &self.place, duty, holder).lead().await
    }

    /// Writes the node's status, which is where a kubelet, too, lets its conditions be completed by others.
    async fn publish_node(&self, node: &str, report: &NodeReport) -> Result<(), Error> {
        let key = ObjectKey { kind: Kind::Node, namespace: None, name: node.to_owned() };
        let mut patch = json!({});
        for (annotation, address) in
            [(annotations::IPV4_ADDRESS, report.ipv4), (annotations::IPV6_ADDRESS, report.ipv6)]
        {
            if let Some(address) = address {
                patch["metadata"]["annotations"][annotation] = address.to_string().into();
            }
        }
        if report.network_available {
            let now = Timestamp::now().to_string();
            patch["status"]["conditions"] = json!([{
                "type": "NetworkUnavailable",
                "status": "False",
                "reason": "TortieIsUp",
                "message": "rules and routes of this node's pods are in the kernel",
                "lastTransitionTime": now,
                "lastHeartbeatTime": now,
            }]);
        }
        let request = Request::new(collection(Kind::Node, Group::V3, None));
        // A strategic patch: of conditions, those of other types stay.
        let patch = Patch::Strategic(patch);
        let request = request.patch_subresource("status", node, &PatchParams::default(), &patch);
        self.send(request).await.map(|_| ()).map_err(|error| self.failed(&key, &error))
    }

    async fn annotate_node(&self, node: &str, annotations: &NodeAnnotations) -> Result<(), Error> {
        let key = ObjectKey { kind: Kind::Node, namespace: None, name: node.to_owned() };
        // By way of the status, as above: agents need no other right to nodes. A null takes an annotation away.
        let patch: Patch<Value> = Patch::Merge(json!({"metadata": {"annotations": annotations}}));
        let request = Request::new(collection(Kind::Node, Group::V3, None));
        let request = request.patch_subresource("status", node, &PatchParams::default(), &patch);
        self.send(request).await.map(|_| ()).map_err(|error| self.failed(&key, &error))
    }
}

/// An error with its causes.
fn text(error: &kube::Error) -> String {
    if let kube::Error::Api(status) = error {
        return refusal(status);
    }
    let mut text = String::new();
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = cause {
        let part = error.to_string();
        if !text.contains(&part) {
            text = if text.is_empty() { part } else { format!("{text}: {part}") };
        }
        cause = error.source();
    }
    text
}

/// A refusal, with what to do about it.
fn refusal(status: &Status) -> String {
    match status.code {
        401 => format!("{}: the credentials are not accepted; are they expired?", status.message),
        403 => format!("{}: grant that to the agent's service account (deploy/ has the rules)", status.message),
        _ if status.message.is_empty() => format!("refused with code {}", status.code),
        _ => status.message.clone(),
    }
}
