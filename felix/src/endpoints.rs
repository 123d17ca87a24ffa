//! The node's endpoints, from the CNI server's word to rules and route in the kernel, and back.
//!
//! An endpoint is *admitted* while its Pod object is known, for its labels decide which policies hold. Admission moves the version of
//! the rules on; once the kernel holds that version the endpoint is *enforced* and gets its route. Leaving goes the same way back.

use std::collections::BTreeMap;
use std::hash::BuildHasher;
use std::net::IpAddr;

use rustc_hash::{FxBuildHasher, FxHashSet};
use tortie_api::{Kind, Object};

use crate::event::{Change, LocalEndpoint, Millis, RequestId};
use crate::routes::Routes;

/// How long a CNI request may wait for its Pod object, for the rules and for the route.
pub(crate) const PATIENCE: Millis = 30_000;

/// A request that waits for its answer.
#[derive(Debug)]
struct Waiting {
    request: RequestId,
    deadline: Millis,
}

/// One endpoint.
#[derive(Debug)]
struct Entry {
    endpoint: LocalEndpoint,
    /// The version of the rules that has it; none while it is not admitted.
    admitted: Option<u64>,
    /// Whether the kernel has its rules.
    enforced: bool,
    waiting: Option<Waiting>,
}

/// An endpoint that leaves: what must be gone before the interface may go.
#[derive(Debug)]
struct Leaving {
    waiting: Waiting,
    /// The first version of the rules without it.
    version: u64,
    ips: Vec<IpAddr>,
}

/// An answer: to which request, and what.
pub(crate) type Answer = (RequestId, Result<(), String>);

/// All endpoints, by container id and interface.
#[derive(Debug, Default)]
pub(crate) struct Endpoints {
    entries: BTreeMap<(String, String), Entry>,
    leaving: Vec<Leaving>,
    /// Moves on whenever other endpoints are admitted than before, or the same ones with something changed.
    revision: u64,
    /// Digests of the names of the endpoints' pods.
    pods: FxHashSet<u64>,
}

/// What has to be told about the node to answer a request that ran out of time.
pub(crate) struct Reasons<'a> {
    /// Why nothing may be written yet, if so.
    pub(crate) not_ready: Option<&'a str>,
    /// What is wrong with the rules, if anything.
    pub(crate) rules: Option<&'a str>,
}

impl Endpoints {
    /// Moves on whenever the endpoints that the rules are compiled for change.
    pub(crate) const fn revision(&self) -> u64 {
        self.revision
    }

    /// Whether a change may be of a pod that has an endpoint here. Rarely so without need, for only digests are compared.
    pub(crate) fn has_pod_of(&self, change: &Change) -> bool {
        match change {
            Change::Upsert(Object::Pod(pod)) => {
                let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
                self.pods.contains(&digest(namespace, &pod.metadata.name))
            }
            Change::Delete(key) if key.kind == Kind::Pod => {
                let namespace = key.namespace.as_deref().unwrap_or("default");
                self.pods.contains(&digest(namespace, &key.name))
            }
            _ => false,
        }
    }

    /// Takes note that endpoints came or went.
    fn changed(&mut self) {
        self.revision += 1;
        let pods = self.entries.values().map(|entry| digest(&entry.endpoint.namespace, &entry.endpoint.pod));
        self.pods = pods.collect();
    }

    /// Takes an endpoint in. Returns the answers to requests that this ends, and whether the rules depend on it.
    pub(crate) fn add(
        &mut self,
        endpoint: LocalEndpoint,
        request: Option<(RequestId, Millis)>,
        routes: &mut Routes,
        answers: &mut Vec<Answer>,
    ) -> bool {
        let key = (endpoint.container_id.clone(), endpoint.ifname.clone());
        let waiting = request.map(|(request, now)| Waiting { request, deadline: now + PATIENCE });
        if let Some(entry) = self.entries.get_mut(&key)
            && entry.endpoint == endpoint
        {
            if let Some(before) = std::mem::replace(&mut entry.waiting, waiting) {
                answers.push((before.request, Err("the same ADD was sent again".into())));
            }
            return false;
        }
        let holder = self.entries.iter().find(|(other, entry)| {
            **other != key
                && entry.endpoint.interface != endpoint.interface
                && entry.endpoint.ips.iter().any(|ip| endpoint.ips.contains(ip))
        });
        if let Some((_, holder)) = holder {
            let reason = format!(
                "an address of pod {}/{} is in use on this node by pod {}/{}: delete that pod's sandbox first",
                endpoint.namespace, endpoint.pod, holder.endpoint.namespace, holder.endpoint.pod
            );
            answers.extend(waiting.map(|waiting| (waiting.request, Err(reason))));
            return false;
        }
        // A pod has one interface of its name: a new sandbox of the pod takes the place of the old one.
        let replaced: Vec<_> = self
            .entries
            .iter()
            .filter(|(other, entry)| **other == key || entry.endpoint.interface == endpoint.interface)
            .map(|(other, _)| other.clone())
            .collect();
        for other in replaced {
            if let Some(entry) = self.entries.remove(&other) {
                routes.remove_pods(&entry.endpoint.ips);
                let reason = format!("container {} took the place of this one", endpoint.container_id);
                answers.extend(entry.waiting.map(|waiting| (waiting.request, Err(reason))));
            }
        }
        self.entries.insert(key, Entry { endpoint, admitted: None, enforced: false, waiting });
        self.changed();
        true
    }

    /// Lets an endpoint go; `version` is the first version of the rules without it. One that is not known waits for that version
    /// too: an earlier DEL may have failed half way.
    pub(crate) fn remove(
        &mut self,
        key: &(String, String),
        request: RequestId,
        now: Millis,
        version: u64,
        routes: &mut Routes,
        answers: &mut Vec<Answer>,
    ) {
        let mut ips = Vec::new();
        if let Some(entry) = self.entries.remove(key) {
            ips = entry.endpoint.ips;
            routes.remove_pods(&ips);
            answers.extend(entry.waiting.map(|waiting| (waiting.request, Err("the pod was deleted meanwhile".into()))));
            self.changed();
        }
        self.leaving.push(Leaving { waiting: Waiting { request, deadline: now + PATIENCE }, version, ips });
    }

    /// Admits those whose Pod object is `known`, and no others. Returns whether anything changed; `version` is the version of the
    /// rules that has the change.
    pub(crate) fn admit(&mut self, version: u64, routes: &mut Routes, known: impl Fn(&LocalEndpoint) -> bool) -> bool {
        let mut changed = false;
        for entry in self.entries.values_mut() {
            match (entry.admitted, known(&entry.endpoint)) {
                (None, true) => entry.admitted = Some(version),
                (Some(_), false) => {
                    entry.admitted = None;
                    entry.enforced = false;
                    routes.remove_pods(&entry.endpoint.ips);
                }
                _ => continue,
            }
            changed = true;
        }
        self.revision += u64::from(changed);
        changed
    }

    /// Whether [`Endpoints::admit`] would change anything.
    pub(crate) fn admission_due(&self, known: impl Fn(&LocalEndpoint) -> bool) -> bool {
        self.entries.values().any(|entry| entry.admitted.is_some() != known(&entry.endpoint))
    }

    /// Gives routes to those whose rules the kernel now holds (`applied`), and answers whoever has what it waits for.
    pub(crate) fn progress(&mut self, applied: u64, routes: &mut Routes, answers: &mut Vec<Answer>) {
        for entry in self.entries.values_mut() {
            if !entry.enforced && entry.admitted.is_some_and(|version| version <= applied) {
                entry.enforced = true;
                routes.add_pods(&entry.endpoint.ips, &entry.endpoint.interface);
            }
        }
        self.leaving.retain(|leaving| {
            let done = leaving.version <= applied && leaving.ips.iter().all(|ip| routes.pod_unrouted(*ip));
            if done {
                answers.push((leaving.waiting.request, Ok(())));
            }
            !done
        });
    }

    /// Answers the ADDs whose routes are in the kernel. Apart from [`Endpoints::progress`], because routes are handed out in between.
    pub(crate) fn answer_routed(&mut self, routes: &Routes, answers: &mut Vec<Answer>) {
        for entry in self.entries.values_mut().filter(|entry| entry.enforced) {
            if let Some(waiting) = &entry.waiting
                && entry.endpoint.ips.iter().all(|ip| matches!(routes.pod_routed(*ip), Some(Ok(()))))
            {
                answers.push((waiting.request, Ok(())));
                entry.waiting = None;
            }
        }
    }

    /// When the next request runs out of time.
    pub(crate) fn deadline(&self) -> Option<Millis> {
        let adding = self.entries.values().filter_map(|entry| entry.waiting.as_ref());
        adding.chain(self.leaving.iter().map(|leaving| &leaving.waiting)).map(|waiting| waiting.deadline).min()
    }

    /// Answers the requests that ran out of time. An endpoint whose ADD fails is let go; returns whether the rules depended on one.
    pub(crate) fn expire(
        &mut self,
        now: Millis,
        routes: &mut Routes,
        reasons: &Reasons<'_>,
        answers: &mut Vec<Answer>,
    ) -> bool {
        let mut touched = false;
        self.entries.retain(|_, entry| {
            let Some(waiting) = entry.waiting.as_ref().filter(|waiting| waiting.deadline <= now) else { return true };
            answers.push((waiting.request, Err(why_not(entry, routes, reasons))));
            routes.remove_pods(&entry.endpoint.ips);
            touched |= entry.admitted.is_some();
            false
        });
        self.leaving.retain(|leaving| {
            let expired = leaving.waiting.deadline <= now;
            if expired {
                let reason = reasons.not_ready.or(reasons.rules).unwrap_or("its routes could not be deleted");
                let text =
                    format!("the pod's rules and routes are still in the kernel: {reason}; the runtime will try again");
                answers.push((leaving.waiting.request, Err(text)));
            }
            !expired
        });
        self.changed();
        touched
    }

    /// The endpoints that the rules are compiled for.
    pub(crate) fn admitted(&self) -> impl Iterator<Item = &LocalEndpoint> {
        self.entries.values().filter(|entry| entry.admitted.is_some()).map(|entry| &entry.endpoint)
    }

    /// All endpoints.
    pub(crate) fn all(&self) -> impl Iterator<Item = &LocalEndpoint> {
        self.entries.values().map(|entry| &entry.endpoint)
    }

    /// What is wrong with endpoints now.
    pub(crate) fn problems(&self, problems: &mut Vec<String>) {
        for entry in self.entries.values().filter(|entry| entry.admitted.is_none()) {
            let LocalEndpoint { namespace, pod, .. } = &entry.endpoint;
            problems.push(format!(
                "pod {namespace}/{pod} is cut off: the datastore has no Pod object of that name that runs on a network of its own"
            ));
        }
    }
}

fn digest(namespace: &str, pod: &str) -> u64 {
    FxBuildHasher.hash_one((namespace, pod))
}

/// Why an ADD did not come through.
fn why_not(entry: &Entry, routes: &Routes, reasons: &Reasons<'_>) -> String {
    let LocalEndpoint { namespace, pod, interface, ips, .. } = &entry.endpoint;
    let seconds = PATIENCE / 1000;
    if let Some(reason) = reasons.not_ready {
        return format!("pod {namespace}/{pod} cannot be protected yet: {reason}");
    }
    if entry.admitted.is_none() {
        return format!(
            "the datastore showed no Pod {namespace}/{pod} that runs on a network of its own within {seconds} s, so its policies are \
             unknown; create the Pod object first"
        );
    }
    if !entry.enforced {
        let reason = reasons.rules.unwrap_or("the kernel did not answer");
        return format!("the rules of pod {namespace}/{pod} are not in the kernel: {reason}");
    }
    ips.iter()
        .find_map(|ip| routes.pod_routed(*ip).and_then(Result::err))
        .unwrap_or_else(|| format!("interface {interface} of pod {namespace}/{pod} did not come up within {seconds} s"))
}
