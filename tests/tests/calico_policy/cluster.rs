//! The cluster of these tests: two nodes, two namespaces, service accounts, and pods with ports by name.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use serde_json::{Value, json};
use tortie_tests::lab::{Lab, array};

pub(crate) const CALICO: &str = "projectcalico.org/v3";

/// A document of Calico's.
pub(crate) fn calico(kind: &str, name: &str, spec: &Value) -> Value {
    json!({"apiVersion": CALICO, "kind": kind, "metadata": {"name": name}, "spec": spec})
}

pub(crate) fn namespace(name: &str, labels: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
}

pub(crate) fn account(namespace: &str, name: &str, labels: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ServiceAccount",
        "metadata": {"name": name, "namespace": namespace, "labels": labels}})
}

pub(crate) fn pod(namespace: &str, name: &str, node: &str, labels: &Value, account: &str, ports: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {"nodeName": node, "serviceAccountName": account, "containers": [{"name": "c", "image": "serve", "ports": ports}]}})
}

/// What a lab's pods are and where.
pub(crate) struct Places {
    /// Network namespace and IPv4 address by `NAMESPACE/NAME`.
    pods: BTreeMap<String, (String, Ipv4Addr)>,
    /// An IPv4 address outside.
    pub(crate) outside: Ipv4Addr,
}

impl Places {
    pub(crate) fn of(lab: &Lab) -> Self {
        let ps = lab.json(&["lab", "ps"]);
        let v4 = |ips: &Value| {
            let mut ips = array(ips).into_iter().filter_map(|ip| ip.as_str()?.parse::<IpAddr>().ok());
            ips.find_map(|ip| if let IpAddr::V4(ip) = ip { Some(ip) } else { None }).expect("an IPv4 address")
        };
        let text = |value: &Value| value.as_str().expect("text").to_owned();
        let pods = array(&ps["pods"]).into_iter().map(|pod| {
            let name = format!("{}/{}", text(&pod["namespace"]), text(&pod["name"]));
            (name, (text(&pod["netns"]), v4(&pod["ips"])))
        });
        Self { pods: pods.collect(), outside: v4(&ps["outside"]["ips"]) }
    }

    /// A pod's network namespace.
    pub(crate) fn netns(&self, pod: &str) -> &str {
        &self.pods[pod].0
    }

    /// A pod's address.
    pub(crate) fn ip(&self, pod: &str) -> Ipv4Addr {
        self.pods[pod].1
    }

    /// The pods, in the order of their names.
    pub(crate) fn names(&self) -> Vec<&str> {
        self.pods.keys().map(String::as_str).collect()
    }
}
