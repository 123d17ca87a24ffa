//! What the agents would do with given manifests, without agents.
//!
//! Pods are on the node that they name. Those that name none are placed together on one node: the first by name among the nodes
//! that the manifests know, or `node1` if they know none.
//!
//! A pod may have no address yet. Selectors select it all the same, and no ipBlock holds it but the whole address space; for the
//! compiled form, which knows pods by their addresses alone, such pods are given stand-ins (see [`Offline::ruleset_for_matrix`]).

mod stand_in;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use tortie_api::calico::felix::Layers;
use tortie_api::calico::{FelixConfigurationSpec, HostEndpointSpec};
use tortie_api::k8s::PodIp;
use tortie_api::meta::StringMap;
use tortie_api::{Object, ObjectKey};
use tortie_nft::Ruleset;

use crate::cluster::{Cluster, PodView};
use crate::compile::{Endpoint, compile};
use crate::explain::{Explanation, explain};
use crate::generation::Generation;
use crate::host::HostOptions;
use crate::host_interfaces::{HostInterfaces, Interfaces};
use crate::options::CompileOptions;
use crate::oracle::{self, End, Question, World};
use crate::{host_interface, host_interface_with, host_programs};

/// The node of pods that name none, where the manifests know no node.
const DEFAULT_NODE: &str = "node1";

/// A cluster from manifests.
#[derive(Debug)]
pub struct Offline {
    cluster: Cluster,
    world: World,
    /// The cluster with a stand-in for each address that is not known, if there is such a pod.
    stood_in: Option<Cluster>,
    default_node: String,
    settings: Settings,
    warnings: Vec<String>,
}

/// What the manifests say of how nodes are to be treated.
#[derive(Debug, Default)]
struct Settings {
    felix: BTreeMap<String, FelixConfigurationSpec>,
    service_cidrs: Vec<IpNet>,
    labels: BTreeMap<String, StringMap>,
    /// HostEndpoints by node and name.
    hosts: BTreeMap<String, BTreeMap<String, HostEndpointSpec>>,
}

/// The interfaces of nodes that nobody looks at.
struct Unknown;

impl Interfaces for Unknown {
    fn with_addresses(&self, _: &[IpAddr]) -> Option<BTreeSet<String>> {
        None
    }
}

impl Settings {
    fn take_in(&mut self, object: &Object) {
        match object {
            Object::FelixConfiguration(configuration) => {
                self.felix.insert(configuration.metadata.name.clone(), configuration.spec.clone());
            }
            Object::BgpConfiguration(configuration) if configuration.metadata.name == "default" => {
                self.service_cidrs = configuration.spec.service_cidrs();
            }
            Object::Node(node) => {
                self.labels.insert(node.metadata.name.clone(), node.metadata.labels.clone());
            }
            Object::HostEndpoint(endpoint) => {
                let hosts = self.hosts.entry(endpoint.spec.node.clone()).or_default();
                hosts.insert(endpoint.metadata.name.clone(), endpoint.spec.clone());
            }
            _ => {}
        }
    }

    /// What becomes of a node's HostEndpoints.
    fn host_interfaces(&self, node: &str, options: &CompileOptions) -> HostInterfaces {
        let hosts = self.hosts.get(node);
        let excluded = &options.host.interface_exclude;
        hosts
            .map(|hosts| HostInterfaces::of(hosts, &Unknown, &options.interface_prefixes, excluded))
            .unwrap_or_default()
    }

    /// What is in force on a node.
    fn of(&self, node: &str) -> CompileOptions {
        let nothing = StringMap::new();
        let layers = Layers::of_node(&self.felix, node, self.labels.get(node).unwrap_or(&nothing));
        CompileOptions::of(&layers.spec(), self.service_cidrs.clone())
    }
}

impl Offline {
    /// Takes in the resources, defaulted and validated as a datastore hands them out.
    pub fn new<'a>(objects: impl IntoIterator<Item = &'a Object>) -> Self {
        let (mut cluster, mut settings) = (Cluster::default(), Settings::default());
        let objects: Vec<Cow<'a, Object>> = objects.into_iter().map(with_expected_addresses).collect();
        for object in &objects {
            cluster.upsert(object);
            settings.take_in(object);
        }
        let homeless: Vec<String> = endpoints(&cluster).filter(|pod| pod.ips().next().is_none()).map(name).collect();
        let without = homeless.iter().map(|pod| {
            format!(
                "Pod {pod} has no address, in status.podIPs or in an annotation cni.projectcalico.org/ipAddrs: \
                 selectors select it, but no ipBlock except /0 does"
            )
        });
        let of_hosts = settings.hosts.keys().flat_map(|node| {
            let HostInterfaces { interfaces, problems } = settings.host_interfaces(node, &settings.of(node));
            problems.into_iter().chain(host_programs::unheeded(&cluster, &interfaces))
        });
        let warnings = of_hosts.chain(contested(&cluster)).chain(without).collect();
        let default_node = cluster.node_names().first().map_or(DEFAULT_NODE, |node| node).to_owned();
        let stood_in = (!homeless.is_empty()).then(|| stand_in::stand_in(&cluster, &objects));
        let world = World::new(objects.iter().map(Cow::as_ref));
        Self { cluster, world, stood_in, default_node, settings, warnings }
    }

    /// The cluster.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// The resources as the oracle reads them.
    pub fn world(&self) -> &World {
        &self.world
    }

    /// Says where a policy comes from, for people who ask what decided: `web.yaml, line 12`.
    pub fn set_source(&mut self, key: ObjectKey, source: String) {
        self.world.set_source(key, source);
    }

    /// What should be known of the answers: HostEndpoints that are left out, what has no effect on others, addresses that several pods
    /// claim, and pods without one; a sentence on each.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The nodes that the manifests know, and the one that pods without a node are placed on.
    pub fn nodes(&self) -> BTreeSet<&str> {
        let mut nodes = self.cluster.node_names();
        nodes.extend(self.settings.hosts.keys().map(String::as_str));
        if nodes.is_empty() {
            nodes.insert(&self.default_node);
        }
        nodes
    }

    /// What the manifests' FelixConfiguration, BGPConfiguration and HostEndpoints say of a node's table.
    pub fn options(&self, node: &str) -> CompileOptions {
        let options = self.settings.of(node);
        let interfaces = self.settings.host_interfaces(node, &options).interfaces;
        CompileOptions { host: HostOptions { interfaces, ..options.host }, ..options }
    }

    /// [`explain`](crate::explain::explain) with the settings of the node that a pod at either end is on.
    ///
    /// # Errors
    /// Those of [`oracle::verdict`](crate::oracle::verdict).
    pub fn explain(&self, question: &Question) -> Result<Explanation, oracle::Error> {
        let node = [&question.from, &question.to].into_iter().find_map(|end| {
            let pod = match end {
                End::Pod { namespace, name } => self.cluster.pod(namespace, name)?,
                End::Address(address) => self.cluster.endpoint_at(*address)?,
            };
            Some(self.node_of(pod))
        });
        explain(&self.world, question, &self.options(node.unwrap_or(&self.default_node)))
    }

    /// A node's endpoints, in the order of their pods' names.
    pub fn endpoints(&self, node: &str) -> Vec<Endpoint> {
        self.endpoints_of(&self.cluster, node)
    }

    /// The table that the agent on `node` wants, in the first generation. A node that the manifests do not know has no endpoints.
    pub fn render(&self, node: &str, options: &CompileOptions) -> Ruleset {
        let named = |endpoint: Endpoint| Endpoint {
            interface: host_interface_with(options.naming_prefix(), &endpoint.namespace, &endpoint.pod),
            ..endpoint
        };
        let endpoints: Vec<Endpoint> = self.endpoints(node).into_iter().map(named).collect();
        compile(&self.cluster, &endpoints, Generation::seed(0), options)
    }

    /// What [`render`](Self::render) says, but with stand-ins for the addresses of pods that have none: addresses that belong to
    /// nobody, and that no ipBlock holds but the whole address space.
    pub fn ruleset_for_matrix(&self, node: &str, options: &CompileOptions) -> Ruleset {
        let cluster = self.matrix_cluster();
        compile(cluster, &self.endpoints_of(cluster, node), Generation::seed(0), options)
    }

    /// The cluster with stand-ins for addresses.
    pub(crate) fn matrix_cluster(&self) -> &Cluster {
        self.stood_in.as_ref().unwrap_or(&self.cluster)
    }

    /// The node that a pod is on, or is placed on.
    pub(crate) fn node_of<'a>(&'a self, pod: PodView<'a>) -> &'a str {
        pod.node().unwrap_or(&self.default_node)
    }

    fn endpoints_of(&self, cluster: &Cluster, node: &str) -> Vec<Endpoint> {
        endpoints(cluster)
            .filter(|pod| self.node_of(*pod) == node)
            .map(|pod| Endpoint {
                namespace: pod.namespace().to_string(),
                pod: pod.name().to_owned(),
                interface: host_interface(pod.namespace(), pod.name()),
                ips: pod.ips().collect(),
            })
            .collect()
    }
}

/// The pods that are endpoints, in the order of their names.
pub(crate) fn endpoints(cluster: &Cluster) -> impl Iterator<Item = PodView<'_>> {
    cluster.pods().filter(|pod| pod.is_endpoint())
}

/// A resource as it is to be taken in: no agent says which addresses a pod got, so that it is taken at its annotations' word.
pub(crate) fn with_expected_addresses(object: &Object) -> Cow<'_, Object> {
    match object {
        Object::Pod(pod) if pod.status.pod_ips.is_empty() => {
            let expected = pod.expected_addresses();
            if expected.is_empty() {
                return Cow::Borrowed(object);
            }
            let mut pod = pod.clone();
            pod.status.pod_ips = expected.into_iter().map(|ip| PodIp { ip }).collect();
            Cow::Owned(Object::Pod(pod))
        }
        _ => Cow::Borrowed(object),
    }
}

/// A sentence on each address that more than one endpoint claims.
fn contested(cluster: &Cluster) -> Vec<String> {
    let mut claims: BTreeMap<IpAddr, BTreeSet<String>> = BTreeMap::new();
    for pod in endpoints(cluster) {
        for ip in pod.ips() {
            claims.entry(ip).or_default().insert(name(pod));
        }
    }
    let shared = claims.into_iter().filter(|(_, pods)| pods.len() > 1);
    shared
        .map(|(ip, pods)| {
            let pods = Vec::from_iter(pods).join(" and ");
            format!("Pods {pods} claim one address, {ip}: in a cluster only one gets it, so answers on them may differ from it")
        })
        .collect()
}

/// `NAMESPACE/NAME`.
pub(crate) fn name(pod: PodView<'_>) -> String {
    format!("{}/{}", pod.namespace(), pod.name())
}

#[cfg(test)]
mod tests {
    use tortie_api::k8s::Pod;

    use super::*;

    fn pinned(name: &str, ip: &str) -> Object {
        let mut pod = Pod::default();
        pod.metadata.namespace = Some("demo".to_owned());
        pod.metadata.name = name.to_owned();
        pod.metadata.annotations.insert("cni.projectcalico.org/ipAddrs".to_owned(), format!("[\"{ip}\"]"));
        Object::Pod(pod)
    }

    #[test]
    fn annotations_tell_the_addresses() {
        let objects = [pinned("a", "10.0.0.1"), pinned("b", "fd00::2")];
        let offline = Offline::new(&objects);
        let ips: Vec<IpAddr> = offline.endpoints(DEFAULT_NODE).into_iter().flat_map(|endpoint| endpoint.ips).collect();
        assert_eq!(ips, ["10.0.0.1", "fd00::2"].map(|ip| ip.parse::<IpAddr>().expect("an address")));
        assert!(offline.warnings().is_empty());
    }

    #[test]
    fn an_address_that_two_pods_claim_is_warned_of() {
        let mut objects = vec![pinned("a", "10.0.0.1"), pinned("b", "10.0.0.1"), pinned("c", "10.0.0.3")];
        let mut ended = pinned("ended", "10.0.0.3");
        if let Object::Pod(pod) = &mut ended {
            pod.status.phase = Some("Succeeded".to_owned());
        }
        objects.push(ended);
        let offline = Offline::new(&objects);
        let [warning] = offline.warnings() else { panic!("{:?}", offline.warnings()) };
        assert!(warning.contains("demo/a and demo/b") && warning.contains("10.0.0.1"), "{warning}");
    }

    fn object(value: serde_json::Value) -> Object {
        serde_json::from_value(value).expect("an object")
    }

    fn host(name: &str, spec: &serde_json::Value) -> Object {
        object(serde_json::json!({"apiVersion": "projectcalico.org/v3", "kind": "HostEndpoint",
            "metadata": {"name": name, "labels": {"role": "node"}}, "spec": spec}))
    }

    #[test]
    fn host_endpoints_are_for_the_interfaces_that_they_name() {
        let objects = [
            host("all", &serde_json::json!({"node": "n1", "interfaceName": "*"})),
            host("by-address", &serde_json::json!({"node": "n1", "expectedIPs": ["192.0.2.1"]})),
            host("named", &serde_json::json!({"node": "n1", "interfaceName": "eth0"})),
            host("excluded", &serde_json::json!({"node": "n1", "interfaceName": "br-1"})),
            object(serde_json::json!({"apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkPolicy",
                "metadata": {"name": "fast"}, "spec": {"selector": "role == 'node'", "types": ["Ingress"],
                    "doNotTrack": true, "applyOnForward": true, "ingress": [{"action": "Allow"}]}})),
            object(serde_json::json!({"apiVersion": "projectcalico.org/v3", "kind": "FelixConfiguration",
                "metadata": {"name": "default"}, "spec": {"interfaceExclude": "/^br-/"}})),
        ];
        let offline = Offline::new(&objects);
        assert_eq!(Vec::from_iter(offline.nodes()), ["n1"], "a node that only a HostEndpoint names");
        let interfaces = offline.options("n1").host.interfaces;
        let interfaces: Vec<_> = interfaces.iter().map(|it| (it.endpoint.as_str(), it.interface.as_deref())).collect();
        assert_eq!(interfaces, [("all", None), ("named", Some("eth0"))]);
        let warnings = offline.warnings();
        let said = |words: &[&str]| warnings.iter().any(|it| words.iter().all(|word| it.contains(word)));
        assert!(said(&["HostEndpoint by-address", "spec.expectedIPs", "set spec.interfaceName"]), "{warnings:?}");
        assert!(said(&["HostEndpoint excluded", "interfaceExclude"]), "{warnings:?}");
        assert!(said(&["GlobalNetworkPolicy fast: spec.doNotTrack", "HostEndpoint all"]), "{warnings:?}");
        assert_eq!(warnings.len(), 3, "nothing is in vain for the endpoint that names its interface: {warnings:?}");
        let table = offline.render("n1", &offline.options("n1")).to_string();
        assert!(table.contains("chain host_input") && table.contains("chain untracked_in"), "{table}");
        let elsewhere = offline.render("n2", &offline.options("n2")).to_string();
        assert!(!elsewhere.contains("chain host_input"), "another node has none: {elsewhere}");
    }
}
