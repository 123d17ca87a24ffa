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
use tortie_api::calico::FelixConfigurationSpec;
use tortie_api::calico::felix::Layers;
use tortie_api::k8s::PodIp;
use tortie_api::meta::StringMap;
use tortie_api::{Object, ObjectKey};
use tortie_nft::Ruleset;

use crate::cluster::{Cluster, PodView};
use crate::compile::{Endpoint, compile};
use crate::explain::{Explanation, explain};
use crate::generation::Generation;
use crate::options::CompileOptions;
use crate::oracle::{self, End, Question, World};
use crate::{host_interface, host_interface_with};

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
            _ => {}
        }
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
        let warnings = contested(&cluster).into_iter().chain(without).collect();
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

    /// What should be known of the answers: pods without an address, and addresses that several pods claim, one sentence each.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The nodes that the manifests know, and the one that pods without a node are placed on.
    pub fn nodes(&self) -> BTreeSet<&str> {
        let mut nodes = self.cluster.node_names();
        if nodes.is_empty() {
            nodes.insert(&self.default_node);
        }
        nodes
    }

    /// What the manifests' FelixConfiguration and BGPConfiguration say of a node's table.
    pub fn options(&self, node: &str) -> CompileOptions {
        self.settings.of(node)
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
}
