//! The agent's side of the plugin: ADD, DEL, CHECK, STATUS and GC of the CNI specification 1.1.0.
//!
//! ADD takes its steps in an order in which each is known to the next start of the agent: addresses, the record on disk, the
//! link, the kernel's rules and route, the pod's published addresses. A step that fails undoes those before it. DEL goes the other
//! way, and removes the record last. Calls for one attachment, and those for one pod, wait for one another; a call goes on to its end
//! although its caller left.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use serde_json::Value;
use tortie_admin::types::{CniRequest, CniResponse, Endpoint};
use tortie_api::k8s::{Pod, requested_pools};
use tortie_api::{Kind, Object, ObjectKey};
use tortie_datastore::{Datastore, Error as StoreError};
use tortie_felix_netlink::{Error as NetError, Netns};

use crate::endpoints::{Record, Store};
use crate::interface::{self, HOST_MAC, Host};
use crate::ipam::{self, Claim, Ipam, RequestedPools};
use crate::request::{Call, Command, PodName, answer_version, handle};
use crate::{CniError, Dataplane, plugin, result};

/// How the server is set up.
#[derive(Debug)]
pub struct ServerConfig {
    /// The node's name.
    pub node: String,
    /// The agent's run directory; records go to `endpoints` below it.
    pub run_dir: PathBuf,
    /// The node's network namespace; the calling thread's if none.
    pub netns: Option<Netns>,
    /// How long an ADD waits for its pod to appear in the datastore.
    pub pod_wait: Duration,
    /// Whether a datastore without an IPPool is one with the default ones.
    pub implicit_pools: bool,
}

impl ServerConfig {
    /// The set-up of a node in the calling thread's namespace.
    pub fn new(node: impl Into<String>, run_dir: impl Into<PathBuf>) -> Self {
        Self {
            node: node.into(),
            run_dir: run_dir.into(),
            netns: None,
            pod_wait: Duration::from_secs(3),
            implicit_pools: true,
        }
    }
}

/// Answers the plugin's calls. Clones are the same server.
#[derive(Clone)]
pub struct CniServer {
    inner: Arc<Inner>,
}

struct Inner {
    config: ServerConfig,
    datastore: Arc<dyn Datastore>,
    dataplane: Arc<dyn Dataplane>,
    ipam: Arc<Ipam>,
    host: Host,
    store: Store,
    /// The turns of calls, by pod and by attachment.
    turns: Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>,
}

impl CniServer {
    /// A server. Needs a tokio runtime.
    ///
    /// # Errors
    /// When the node's network namespace cannot be used.
    pub fn new(
        mut config: ServerConfig,
        datastore: Arc<dyn Datastore>,
        dataplane: Arc<dyn Dataplane>,
    ) -> Result<Self, NetError> {
        let netns = config.netns.take().map_or_else(Netns::current, Ok)?;
        let ipam = Ipam::new(Arc::clone(&datastore), config.node.clone()).with_implicit_pools(config.implicit_pools);
        let ipam = Arc::new(ipam);
        let store = Store::new(&config.run_dir);
        let host = Host::new(netns)?;
        let turns = Mutex::default();
        Ok(Self { inner: Arc::new(Inner { config, datastore, dataplane, ipam, host, store, turns }) })
    }

    /// Answers a call. It goes on to its end if the caller does not wait for the answer.
    pub async fn handle(&self, request: CniRequest) -> CniResponse {
        let version = answer_version(&request.config).to_owned();
        let inner = Arc::clone(&self.inner);
        let outcome = tokio::spawn(async move { inner.answer(&request).await }).await;
        let outcome = outcome.unwrap_or_else(|error| {
            Err(CniError::new(CniError::INTERNAL, "the agent failed while it answered", error))
        });
        match outcome {
            Ok(body) => CniResponse { ok: true, body },
            Err(error) => {
                tracing::warn!(code = error.code, %error, "a CNI call failed");
                CniResponse { ok: false, body: error.to_json(&version) }
            }
        }
    }

    /// The node's way to addresses, for whoever else needs some: two would take two blocks where one is enough.
    pub fn ipam(&self) -> Arc<Ipam> {
        Arc::clone(&self.inner.ipam)
    }

    /// Puts right what an earlier run left half done, before the first call: endpoints whose link is gone, and addresses that no
    /// endpoint has. Returns the endpoints that stay. The [`Dataplane`] must answer already.
    ///
    /// # Errors
    /// When something could not be put right; the next call for its pod tries again.
    pub async fn recover(&self) -> Result<Vec<Endpoint>, CniError> {
        let mut staying = Vec::new();
        self.inner.store.sweep();
        for record in self.inner.store.load() {
            if self.inner.host.has(&record.endpoint.host_interface).await.map_err(|error| kernel(&error))? {
                staying.push(record);
            } else {
                tracing::info!(pod = pod_of(&record.endpoint), "an endpoint without its link is cleaned up");
                self.inner.tear_down(&record).await?;
            }
        }
        let known = |holder: &ipam::Holder| staying.iter().any(|record| handle_of(record) == holder.handle);
        let holders = self.inner.ipam.holders().await.map_err(addresses)?;
        self.inner.release(holders, |holder| !known(holder)).await?;
        Ok(staying.into_iter().map(|record| record.endpoint).collect())
    }
}

impl Inner {
    async fn answer(&self, request: &CniRequest) -> Result<Value, CniError> {
        let call = Call::parse(request)?;
        tracing::debug!(?call, "CNI call");
        match call.command {
            Command::Add => self.add(&call).await,
            Command::Del => self.del(&call).await.map(|()| Value::Null),
            Command::Check => self.check(&call).await.map(|()| Value::Null),
            Command::Status => self.status().await.map(|()| Value::Null),
            Command::Gc => self.collect_garbage(&call).await.map(|()| Value::Null),
            Command::Version => Ok(plugin::versions(&call.version)),
        }
    }

    // ---- ADD -----------------------------------------------------------------------------------------------------------------

    async fn add(&self, call: &Call) -> Result<Value, CniError> {
        let (Some(pod), Some(path)) = (&call.pod, &call.netns) else {
            return Err(CniError::new(CniError::INVALID_ENVIRONMENT, "ADD needs a pod and its network namespace", ""));
        };
        let attachment = self.attachment_turn(call);
        let _attachment = attachment.lock().await;
        let turn = self.pod_turn(pod);
        let _turn = turn.lock().await;
        let netns = Arc::new(
            interface::open(path)
                .map_err(|error| CniError::new(CniError::INVALID_ENVIRONMENT, "CNI_NETNS cannot be used", error))?,
        );
        if self.host.is_own(&netns).map_err(|error| kernel(&error))? {
            let details = format!("{} is the node's own network namespace", path.display());
            return Err(CniError::new(CniError::INVALID_ENVIRONMENT, "CNI_NETNS cannot be used", details));
        }
        let record = self.store.find(&call.container_id, &call.ifname);
        if let Some(other) = record.as_ref().filter(|record| !is_of(&record.endpoint, pod)) {
            let details = format!(
                "{} of container {} is pod {}'s: DEL it before it is given to pod {}/{}",
                call.ifname,
                call.container_id,
                pod_of(&other.endpoint),
                pod.namespace,
                pod.name
            );
            return Err(CniError::new(CniError::INVALID_ENVIRONMENT, "CNI_CONTAINERID cannot be used", details));
        }
        let object = self.wait_for_pod(pod).await?;
        self.check_pod(&object, pod)?;
        if let Some(record) = record
            && let Some(result) = self.again(call, &record, &netns).await?
        {
            return Ok(result);
        }
        self.supersede(call, pod).await?;
        let wrong = |error| CniError::new(CniError::ADDRESSES, format!("pod {}/{}", pod.namespace, pod.name), error);
        let claim = Claim {
            handle: call.handle(),
            namespace: pod.namespace.clone(),
            pod: pod.name.clone(),
            pinned: object.pinned_addresses().map_err(wrong)?,
            pools: RequestedPools {
                ipv4: requested_pools(&object.metadata.annotations, true).map_err(wrong)?,
                ipv6: requested_pools(&object.metadata.annotations, false).map_err(wrong)?,
            },
            tunnel: None,
        };
        let mtu = if let Some(mtu) = call.mtu {
            mtu
        } else {
            let (interfaces, overlay) = (self.dataplane.mtu_interfaces(), self.dataplane.overlay());
            self.host.mtu(&interfaces, overlay).await.map_err(|error| kernel(&error))?
        };
        let ips = self.ipam.assign(&claim).await.map_err(addresses)?;
        let endpoint = Endpoint {
            namespace: pod.namespace.clone(),
            pod: pod.name.clone(),
            container_id: call.container_id.clone(),
            netns: path.display().to_string(),
            ifname: call.ifname.clone(),
            host_interface: tortie_policy::host_interface_with(
                &self.dataplane.interface_prefix(),
                &pod.namespace,
                &pod.name,
            ),
            host_mac: HOST_MAC.to_string(),
            mac: String::new(),
            ips,
        };
        let mut record = Record { network: call.network.clone(), mtu, fixed_mtu: call.mtu.is_some(), endpoint };
        match self.set_up(&mut record, &netns).await {
            Ok(()) => Ok(result::success(&call.version, &record.endpoint, mtu, call.previous.as_ref())),
            Err(error) => {
                if let Err(second) = self.tear_down(&record).await {
                    tracing::warn!(pod = pod_of(&record.endpoint), error = %second, "a failed ADD could not be undone; DEL will");
                }
                Err(error)
            }
        }
    }

    /// Everything after the addresses.
    async fn set_up(&self, record: &mut Record, netns: &Arc<Netns>) -> Result<(), CniError> {
        self.save(record)?;
        // Left by an ADD or a DEL that broke off: its pod's end may be half configured, or in another namespace.
        self.host.delete(&record.endpoint.host_interface).await.map_err(|error| kernel(&error))?;
        let mac = self.host.create(&record.endpoint, netns, record.mtu).await.map_err(|error| kernel(&error))?;
        record.endpoint.mac = mac.to_string();
        self.save(record)?;
        self.program(record).await
    }

    /// Rules and route, then the pod's addresses for everybody to see.
    async fn program(&self, record: &Record) -> Result<(), CniError> {
        let endpoint = &record.endpoint;
        self.dataplane.add_endpoint(endpoint.clone()).await.map_err(|error| {
            let msg = format!("pod {}: rules and route are not in the kernel", pod_of(endpoint));
            CniError::new(CniError::TRY_AGAIN, msg, error)
        })?;
        self.datastore
            .publish_pod_ips(&endpoint.namespace, &endpoint.pod, &self.publisher(record), &endpoint.ips)
            .await
            .map_err(|error| datastore(&error))
    }

    /// A second ADD for one attachment: the same result, if everything still is as the first one made it.
    async fn again(&self, call: &Call, record: &Record, netns: &Netns) -> Result<Option<Value>, CniError> {
        if record.endpoint.mac.is_empty()
            || self.host.difference(&record.endpoint, netns).await.map_err(|error| kernel(&error))?.is_some()
        {
            return Ok(None);
        }
        self.program(record).await?;
        Ok(Some(result::success(&call.version, &record.endpoint, record.mtu, call.previous.as_ref())))
    }

    /// Takes down what older containers of the same pod left: both have the same host interface.
    async fn supersede(&self, call: &Call, pod: &PodName) -> Result<(), CniError> {
        for record in self.store.load() {
            let endpoint = &record.endpoint;
            if !is_of(endpoint, pod) {
                continue;
            }
            if endpoint.container_id != call.container_id {
                tracing::info!(
                    pod = pod_of(endpoint),
                    container = endpoint.container_id,
                    "an older container of the pod goes"
                );
                self.tear_down(&record).await?;
            } else if endpoint.ifname != call.ifname {
                let details =
                    format!("pod {} has {} already; it gets one interface from us", pod_of(endpoint), endpoint.ifname);
                return Err(CniError::new(CniError::INVALID_ENVIRONMENT, "CNI_IFNAME cannot be used", details));
            }
        }
        Ok(())
    }

    /// The pod's object. The kubelet knows a pod before the watch that the agent reads from does.
    async fn wait_for_pod(&self, pod: &PodName) -> Result<Pod, CniError> {
        let key = ObjectKey { kind: Kind::Pod, namespace: Some(pod.namespace.clone()), name: pod.name.clone() };
        let deadline = tokio::time::Instant::now() + self.config.pod_wait;
        loop {
            match self.datastore.get(&key).await {
                Ok(Object::Pod(pod)) => return Ok(pod),
                Ok(_) | Err(StoreError::NotFound(_)) if tokio::time::Instant::now() >= deadline => {
                    let msg = format!("pod {}/{} is not in the datastore", pod.namespace, pod.name);
                    return Err(CniError::new(CniError::TRY_AGAIN, msg, "the same call succeeds once it is there"));
                }
                Ok(_) | Err(StoreError::NotFound(_)) => tokio::time::sleep(Duration::from_millis(20)).await,
                Err(error) => return Err(datastore(&error)),
            }
        }
    }

    /// Refuses what can have no endpoint here. A pod that another node runs must keep its addresses there: two nodes that announce one
    /// address take it from each other.
    fn check_pod(&self, object: &Pod, pod: &PodName) -> Result<(), CniError> {
        let refused = |code, reason: String, remedy: &str| {
            Err(CniError::new(code, format!("pod {}/{} {reason}", pod.namespace, pod.name), remedy))
        };
        if object.spec.host_network {
            let reason = "is on its node's network (spec.hostNetwork), and gets no interface".to_owned();
            return refused(CniError::INVALID_ENVIRONMENT, reason, "a runtime must not call CNI plugins for it");
        }
        if !object.is_endpoint() {
            let phase = object.status.phase.as_deref().unwrap_or_default();
            let remedy = "the same call succeeds once a new pod of that name is there";
            return refused(CniError::TRY_AGAIN, format!("has ended (status.phase is {phase})"), remedy);
        }
        match object.spec.node_name.as_deref() {
            Some(node) if !node.is_empty() && node != self.config.node => {
                let reason = format!("runs on node {node} (spec.nodeName), and this is node {}", self.config.node);
                refused(CniError::TRY_AGAIN, reason, "send the call to that node's agent, or bind the pod to this node")
            }
            _ => Ok(()),
        }
    }

    // ---- DEL -----------------------------------------------------------------------------------------------------------------

    async fn del(&self, call: &Call) -> Result<(), CniError> {
        let attachment = self.attachment_turn(call);
        let _attachment = attachment.lock().await;
        // The container's record says whose it is, where the call does not.
        let known = self
            .store
            .find(&call.container_id, &call.ifname)
            .map(|record| PodName { namespace: record.endpoint.namespace, name: record.endpoint.pod });
        let turn = known.as_ref().or(call.pod.as_ref()).map(|pod| self.pod_turn(pod));
        let _turn = match &turn {
            Some(turn) => Some(turn.lock().await),
            None => None,
        };
        if let Some(record) = self.store.find(&call.container_id, &call.ifname) {
            return self.tear_down(&record).await;
        }
        // Never made, gone already, or replaced by a newer container of its pod: at most its addresses are left. Or made by Calico, before
        // this agent took its place.
        self.ipam.release(&call.handle()).await.map_err(addresses)?;
        self.ipam.release_known(&calicos_handle(&call.container_id)).await.map(|_| ()).map_err(addresses)
    }

    /// Undoes an ADD, wherever it stopped; the record goes last, so that what fails is tried again.
    async fn tear_down(&self, record: &Record) -> Result<(), CniError> {
        let endpoint = &record.endpoint;
        let removed = self.dataplane.remove_endpoint(&endpoint.container_id, &endpoint.ifname).await;
        removed.map_err(|error| {
            let msg = format!("pod {}: rules and route could not be taken out of the kernel", pod_of(endpoint));
            CniError::new(CniError::TRY_AGAIN, msg, error)
        })?;
        self.host.delete(&endpoint.host_interface).await.map_err(|error| kernel(&error))?;
        let withdrawn =
            self.datastore.withdraw_pod_ips(&endpoint.namespace, &endpoint.pod, &self.publisher(record)).await;
        withdrawn.map_err(|error| datastore(&error))?;
        self.ipam.release(&handle_of(record)).await.map_err(addresses)?;
        self.store.remove(&endpoint.container_id, &endpoint.ifname).map_err(|error| disk(&self.config.run_dir, &error))
    }

    // ---- CHECK, STATUS, GC ---------------------------------------------------------------------------------------------------

    async fn check(&self, call: &Call) -> Result<(), CniError> {
        let failed =
            |details: String| CniError::new(CniError::CHECK_FAILED, "the interface is not as ADD made it", details);
        let Some(record) = self.store.find(&call.container_id, &call.ifname) else {
            return Err(failed(format!("container {} has no interface {} of ours", call.container_id, call.ifname)));
        };
        let path = call.netns.clone().unwrap_or_default();
        let netns = interface::open(&path).map_err(|error| failed(error.to_string()))?;
        match self.host.difference(&record.endpoint, &netns).await {
            Ok(None) => Ok(()),
            Ok(Some(difference)) => Err(failed(difference)),
            Err(error) => Err(kernel(&error)),
        }
    }

    async fn status(&self) -> Result<(), CniError> {
        self.ipam
            .check()
            .await
            .map_err(|error| CniError::new(CniError::NOT_AVAILABLE, "pods cannot be given addresses now", error))
    }

    /// Takes down the attachments of this network that are not in use, and takes back addresses that have no attachment. One that
    /// fails does not keep the others.
    async fn collect_garbage(&self, call: &Call) -> Result<(), CniError> {
        let mut first_error = None;
        for record in self.store.load() {
            let endpoint = &record.endpoint;
            let key = (endpoint.container_id.clone(), endpoint.ifname.clone());
            if record.network != call.network || call.valid.contains(&key) {
                continue;
            }
            let turn = self.pod_turn(&PodName { namespace: endpoint.namespace.clone(), name: endpoint.pod.clone() });
            let _turn = turn.lock().await;
            // Another call may have taken it down meanwhile.
            if self.store.find(&key.0, &key.1).as_ref() == Some(&record)
                && let Err(error) = self.tear_down(&record).await
            {
                tracing::warn!(pod = pod_of(endpoint), %error, "an unused attachment could not be taken down");
                first_error.get_or_insert(error);
            }
        }
        // In this order: an ADD that has its addresses by now is under way, or has its record.
        let holders = self.ipam.holders().await.map_err(addresses)?;
        let attachments = self.attachments_under_way().into_iter().chain(call.valid.iter().cloned());
        let mut known: Vec<String> =
            attachments.map(|(container, ifname)| handle(&call.network, &container, &ifname)).collect();
        known.extend(self.store.load().iter().map(handle_of));
        let prefix = format!("{}.", call.network);
        self.release(holders, |holder| holder.handle.starts_with(&prefix) && !known.contains(&holder.handle)).await?;
        first_error.map_or(Ok(()), Err)
    }

    /// Takes back the addresses of those holders that are to go.
    async fn release(&self, holders: Vec<ipam::Holder>, goes: impl Fn(&ipam::Holder) -> bool) -> Result<(), CniError> {
        for holder in holders.into_iter().filter(goes) {
            tracing::info!(handle = holder.handle, ips = ?holder.ips, "addresses without an endpoint are taken back");
            self.ipam.release(&holder.handle).await.map_err(addresses)?;
        }
        Ok(())
    }

    // ---- common --------------------------------------------------------------------------------------------------------------

    /// The lock of an attachment. Who needs a pod's as well takes this one first.
    fn attachment_turn(&self, call: &Call) -> Arc<tokio::sync::Mutex<()>> {
        self.turn(format!("{}@{}", call.container_id, call.ifname))
    }

    /// The attachments, as container id and interface name, that some call is at.
    fn attachments_under_way(&self) -> Vec<(String, String)> {
        let turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = turns.iter().filter(|(_, turn)| turn.strong_count() > 0);
        // Neither the name of a pod nor a container id has an `@`.
        let attachments = taken.filter_map(|(key, _)| key.split_once('@'));
        attachments.map(|(container, ifname)| (container.to_owned(), ifname.to_owned())).collect()
    }

    /// The lock of a pod.
    fn pod_turn(&self, pod: &PodName) -> Arc<tokio::sync::Mutex<()>> {
        self.turn(format!("{}/{}", pod.namespace, pod.name))
    }

    fn turn(&self, key: String) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(turn) = turns.get(&key).and_then(Weak::upgrade) {
            return turn;
        }
        turns.retain(|_, turn| turn.strong_count() > 0);
        let turn = Arc::default();
        turns.insert(key, Arc::downgrade(&turn));
        turn
    }

    /// Who publishes a pod's addresses: the attachment, on this node.
    fn publisher(&self, record: &Record) -> String {
        format!("{}/{}", self.config.node, handle_of(record))
    }

    fn save(&self, record: &Record) -> Result<(), CniError> {
        self.store.save(record).map_err(|error| disk(&self.config.run_dir, &error))
    }
}

/// What the addresses of a record are found by.
fn handle_of(record: &Record) -> String {
    handle(&record.network, &record.endpoint.container_id, &record.endpoint.ifname)
}

/// What the addresses of a container are found by that Calico's plugin attached, in the network that its manifests configure.
fn calicos_handle(container_id: &str) -> String {
    format!("k8s-pod-network.{container_id}")
}

/// Whether an endpoint is a pod's.
fn is_of(endpoint: &Endpoint, pod: &PodName) -> bool {
    endpoint.namespace == pod.namespace && endpoint.pod == pod.name
}

fn pod_of(endpoint: &Endpoint) -> String {
    format!("{}/{}", endpoint.namespace, endpoint.pod)
}

fn kernel(error: &NetError) -> CniError {
    CniError::new(CniError::INTERFACE, "the pod's interface could not be made or read", error)
}

fn datastore(error: &StoreError) -> CniError {
    CniError::new(CniError::TRY_AGAIN, "the datastore failed", error)
}

fn disk(run_dir: &Path, error: &std::io::Error) -> CniError {
    let remedy = tortie_datastore::remedy(error);
    let other = if remedy.is_empty() { "" } else { ", or give the agent another --run-dir" };
    let details = format!("{}: {error}{remedy}{other}", run_dir.join("endpoints").display());
    CniError::new(CniError::TRY_AGAIN, "the endpoint's record could not be written to the run directory", details)
}

fn addresses(error: ipam::Error) -> CniError {
    let code = if error.is_temporary() { CniError::TRY_AGAIN } else { CniError::ADDRESSES };
    CniError::new(code, "no addresses", error)
}
