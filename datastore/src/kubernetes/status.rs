//! What became of objects: agents report which ones are in force on their nodes, and the controller sums that up in each object's `status`.
//!
//! A report is a Lease of the node's name in a namespace of its own ([`REPORTS`]). Nobody watches it but the controller, so that of a
//! change that 5,000 nodes report nobody else hears; and the node's object owns it, so that it goes with the node.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use k8s_openapi::jiff::Timestamp;
use kube::api::{GetParams, ListParams, Patch, PatchParams, PostParams};
use kube::core::Request;
use serde::Deserialize;
use serde_json::{Value, json};
use tortie_api::calico::CalicoNodeStatusAnswer;
use tortie_api::status::{Condition, ConditionStatus, Status};
use tortie_api::{Kind, ObjectKey};

use super::content::Content;
use super::resources::{Group, collection};
use super::wire::{self, Head, List};
use super::{Kubernetes, PAGE, text};
use crate::{Digests, Error};

/// The namespace of the reports.
pub const REPORTS: &str = "tortie-nodes";

/// On a report: for each kind which objects are in force, as digests.
const PROGRAMMED: &str = "projectcalico.org/programmed";

/// How an object stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// Which object.
    pub key: ObjectKey,
    /// Its `metadata.uid`.
    pub uid: String,
    /// Its `metadata.generation`.
    pub generation: u64,
    /// What its status says.
    pub conditions: Vec<Condition>,
    /// What is wrong with it, by field.
    pub problems: Vec<String>,
}

/// The objects of a kind, as of one list.
#[derive(Debug, Clone, Default)]
pub struct Standings {
    /// All of them.
    pub objects: Vec<Standing>,
    /// Their digest.
    pub digest: u64,
}

/// The status of an object, read on its own: what others have written may be unsound.
#[derive(Deserialize)]
struct Told {
    #[serde(default)]
    status: Option<Status>,
}

impl Kubernetes {
    /// Whether objects have a `status` to write: Calico's own definitions have none.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn has_statuses(&self) -> Result<bool, Error> {
        Ok(self.group().await? == Group::V3)
    }

    /// The objects of a kind, and how they stand. None of a kind that the cluster does not have.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn standings(&self, kind: Kind) -> Result<Standings, Error> {
        let (group, requests) = (self.group().await?, self.requests(kind, None).await?);
        let failed = |reason: String| Error::Store { place: self.place.clone(), reason: format!("{kind}: {reason}") };
        let (mut found, mut content, mut token) = (Standings::default(), Content::default(), None);
        loop {
            let params = ListParams { limit: Some(PAGE), continue_token: token, ..ListParams::default() };
            let page = match self.send(requests.list(&params)).await {
                Ok(page) => page,
                Err(kube::Error::Api(status)) if status.code == 404 => return Ok(found),
                Err(error) => return Err(failed(text(&error))),
            };
            let page: List = serde_json::from_str(page.get()).map_err(|error| failed(error.to_string()))?;
            for json in page.items() {
                let Ok(head) = serde_json::from_str::<Head>(json.get()) else { continue };
                let key = head.key(kind);
                let told: Option<Told> = serde_json::from_str(json.get()).ok();
                let (uid, generation) = (head.metadata.uid, head.metadata.generation);
                content.set(&key, &uid, generation);
                let problems = wire::read(kind, group, json.get()).err().unwrap_or_default();
                found.objects.push(Standing {
                    key,
                    uid,
                    generation,
                    conditions: told.and_then(|told| told.status).unwrap_or_default().conditions,
                    problems: problems.iter().map(ToString::to_string).collect(),
                });
            }
            token = page.metadata.token.filter(|token| !token.is_empty());
            if token.is_none() {
                found.digest = content.digest();
                return Ok(found);
            }
        }
    }

    /// Writes an object's conditions. False if it is not there any more.
    ///
    /// # Errors
    /// When the server does not answer, or refuses them.
    pub async fn write_conditions(&self, key: &ObjectKey, conditions: &[Condition]) -> Result<bool, Error> {
        let request = Request::new(collection(key.kind, self.group().await?, key.namespace.as_deref()));
        let patch = Patch::Merge(json!({"status": {"conditions": conditions}}));
        match self.send(request.patch_subresource("status", &key.name, &PatchParams::default(), &patch)).await {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(false),
            Err(error) => Err(self.failed(key, &error)),
        }
    }

    /// Answers a CalicoNodeStatus. One that is gone needs no answer.
    ///
    /// # Errors
    /// When the server does not answer, or refuses it.
    pub async fn answer_node_status(&self, name: &str, answer: &CalicoNodeStatusAnswer) -> Result<(), Error> {
        let key = ObjectKey { kind: Kind::CalicoNodeStatus, namespace: None, name: name.to_owned() };
        let (group, params) = (self.group().await?, PatchParams::default());
        let request = Request::new(collection(key.kind, group, None));
        let patch = Patch::Merge(json!({"status": answer}));
        let request = match group {
            Group::V3 => request.patch_subresource("status", name, &params, &patch),
            // Calico's own definition has no subresource.
            Group::Storage => request.patch(name, &params, &patch),
        };
        match self.send(request).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(error) => Err(self.failed(&key, &error)),
        }
    }

    /// Reports which objects are in force on a node.
    ///
    /// # Errors
    /// When the server does not answer, or has no such node.
    pub async fn report_programmed(&self, node: &str, digests: &Digests) -> Result<(), Error> {
        let failed = |reason: String| Error::Store {
            place: self.place.clone(),
            reason: format!("the report of {node} in namespace {REPORTS}: {reason}"),
        };
        let told: BTreeMap<&str, String> =
            digests.iter().map(|(kind, digest)| (kind.plural(), format!("{digest:x}"))).collect();
        let told = serde_json::to_string(&told).map_err(|error| failed(error.to_string()))?;
        let report = json!({
            "metadata": {"annotations": {PROGRAMMED: told}},
            "spec": {"holderIdentity": node, "renewTime": format!("{:.6}", Timestamp::now())},
        });
        let patch = Patch::Merge(&report);
        match self.send(reports().patch(node, &PatchParams::default(), &patch)).await {
            Ok(_) => return Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => return Err(failed(text(&error))),
        }
        let nodes = Request::new(collection(Kind::Node, Group::V3, None));
        let object = self.send(nodes.get_metadata(node, &GetParams::default()));
        let object = object.await.map_err(|error| failed(text(&error)))?;
        let object: Value = serde_json::from_str(object.get()).map_err(|error| failed(error.to_string()))?;
        let mut report = report;
        report["apiVersion"] = "coordination.k8s.io/v1".into();
        report["kind"] = "Lease".into();
        report["metadata"]["name"] = node.into();
        report["metadata"]["ownerReferences"] =
            json!([{"apiVersion": "v1", "kind": "Node", "name": node, "uid": object["metadata"]["uid"]}]);
        let request = reports().create(&PostParams::default(), report.to_string().into_bytes());
        self.send(request).await.map(|_| ()).map_err(|error| failed(text(&error)))
    }

    /// What each node has reported last.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn reports(&self) -> Result<BTreeMap<String, Digests>, Error> {
        let mut found = BTreeMap::new();
        self.each_metadata(&reports(), "reports", |report| {
            let digests = report.annotations.get(PROGRAMMED).and_then(|told| serde_json::from_str(told).ok());
            let told: BTreeMap<String, String> = digests.unwrap_or_default();
            let digest = |kind: Kind| Some((kind, u64::from_str_radix(told.get(kind.plural())?, 16).ok()?));
            found.insert(report.name, super::WITH_STATUS.into_iter().filter_map(digest).collect());
        })
        .await?;
        Ok(found)
    }

    /// The names of all nodes.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn node_names(&self) -> Result<BTreeSet<String>, Error> {
        let mut found = BTreeSet::new();
        let nodes = Request::new(collection(Kind::Node, Group::V3, None));
        self.each_metadata(&nodes, "nodes", |node| {
            found.insert(node.name);
        })
        .await?;
        Ok(found)
    }

    async fn each_metadata(
        &self,
        requests: &Request,
        what: &str,
        mut see: impl FnMut(Metadata) + Send,
    ) -> Result<(), Error> {
        let failed = |reason: String| Error::Store { place: self.place.clone(), reason: format!("{what}: {reason}") };
        let mut token = None;
        loop {
            let params = ListParams { limit: Some(PAGE), continue_token: token, ..ListParams::default() };
            let page = self.send(requests.list_metadata(&params)).await.map_err(|error| failed(text(&error)))?;
            let page: List = serde_json::from_str(page.get()).map_err(|error| failed(error.to_string()))?;
            for json in page.items() {
                if let Ok(Named { metadata }) = serde_json::from_str(json.get()) {
                    see(metadata);
                }
            }
            token = page.metadata.token.filter(|token| !token.is_empty());
            if token.is_none() {
                return Ok(());
            }
        }
    }
}

#[derive(Deserialize)]
struct Named {
    metadata: Metadata,
}

/// `meta/v1 ObjectMeta`, as far as it is read of nodes and reports.
#[derive(Deserialize)]
struct Metadata {
    name: String,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

fn reports() -> Request {
    Request::new(format!("/apis/coordination.k8s.io/v1/namespaces/{REPORTS}/leases"))
}

/// A time as API objects have it (RFC 3339), to the second.
pub fn rfc3339(time: SystemTime) -> String {
    format!("{:.0}", Timestamp::try_from(time).unwrap_or(Timestamp::UNIX_EPOCH))
}

/// A condition of an object's generation, with the time since when it is so: that of the condition `before`, unless it says otherwise.
pub fn condition(
    kind: &str,
    holds: bool,
    (reason, message): (&str, String),
    generation: u64,
    before: &[Condition],
) -> Condition {
    let status = if holds { ConditionStatus::True } else { ConditionStatus::False };
    let same = before.iter().find(|condition| condition.kind == kind && condition.status == status);
    let now = || rfc3339(SystemTime::now());
    Condition {
        kind: kind.to_owned(),
        status,
        reason: reason.to_owned(),
        message,
        last_transition_time: same.map_or_else(now, |condition| condition.last_transition_time.clone()),
        observed_generation: Some(generation),
    }
}
