//! What this node's settings are made of: FelixConfiguration, the service addresses of BGPConfiguration, the node's own labels, and
//! the bandwidth annotations of its pods.

use std::collections::BTreeMap;

use ipnet::IpNet;
use tortie_api::calico::FelixConfigurationSpec;
use tortie_api::calico::felix::{Layers, is_by_name};
use tortie_api::k8s::{Bandwidth, Pod};
use tortie_api::meta::StringMap;
use tortie_api::{Kind, Object, ObjectKey};

use crate::settings::{self, Settings};

/// The name of the BGPConfiguration for all nodes.
const DEFAULT: &str = "default";

/// A pod by namespace and name.
type PodName = (String, String);

/// What has changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Touched {
    /// What settings are made of.
    pub(crate) settings: bool,
    /// What a pod's interface needs.
    pub(crate) pods: bool,
}

/// Everything that settings are made of.
#[derive(Debug)]
pub(crate) struct Configurations {
    node: String,
    felix: BTreeMap<String, FelixConfigurationSpec>,
    service_cidrs: Vec<IpNet>,
    /// What BGPConfigurations for this node ask for in vain, by their names: fields, and what is done instead.
    unheeded_bgp: BTreeMap<String, Vec<(&'static str, &'static str)>>,
    labels: StringMap,
    pods: BTreeMap<PodName, PodNeeds>,
    pod_problems: BTreeMap<PodName, Vec<String>>,
}

/// What a pod's annotations ask of its interface.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct PodNeeds {
    pub(crate) bandwidth: Bandwidth,
    /// Whether it wants to send from addresses that are not its own.
    pub(crate) foreign_sources: bool,
}

/// What came of it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Resolved {
    pub(crate) settings: Settings,
    /// What is set and has no effect, one sentence each.
    pub(crate) warnings: Vec<String>,
}

impl Configurations {
    pub(crate) const fn new(node: String) -> Self {
        Self {
            node,
            felix: BTreeMap::new(),
            service_cidrs: Vec::new(),
            unheeded_bgp: BTreeMap::new(),
            labels: StringMap::new(),
            pods: BTreeMap::new(),
            pod_problems: BTreeMap::new(),
        }
    }

    /// Takes an object in.
    pub(crate) fn upsert(&mut self, object: &Object) -> Touched {
        let mut touched = Touched::default();
        match object {
            Object::FelixConfiguration(configuration) => {
                let name = configuration.metadata.name.clone();
                let before = self.felix.insert(name, configuration.spec.clone());
                touched.settings = before.as_ref() != Some(&configuration.spec);
            }
            Object::BgpConfiguration(configuration) => {
                let name = &configuration.metadata.name;
                if name == DEFAULT {
                    touched.settings = self.set_service_cidrs(configuration.spec.service_cidrs());
                }
                if name == DEFAULT || name.strip_prefix("node.") == Some(self.node.as_str()) {
                    let unheeded = configuration.spec.unheeded();
                    let before = self.unheeded_bgp.insert(name.clone(), unheeded.clone()).unwrap_or_default();
                    touched.settings |= before != unheeded;
                }
            }
            Object::Node(node) if node.metadata.name == self.node => {
                touched.settings = self.labels != node.metadata.labels;
                self.labels.clone_from(&node.metadata.labels);
            }
            Object::Pod(pod) => touched.pods = self.upsert_pod(pod),
            _ => {}
        }
        touched
    }

    /// Forgets an object. A node that is deleted keeps its labels: its pods still run.
    pub(crate) fn remove(&mut self, key: &ObjectKey) -> Touched {
        let mut touched = Touched::default();
        match key.kind {
            Kind::FelixConfiguration => touched.settings = self.felix.remove(&key.name).is_some(),
            Kind::BgpConfiguration => {
                touched.settings = self.unheeded_bgp.remove(&key.name).is_some_and(|unheeded| !unheeded.is_empty());
                touched.settings |= key.name == DEFAULT && self.set_service_cidrs(Vec::new());
            }
            Kind::Pod => {
                let pod = (key.namespace.clone().unwrap_or_default(), key.name.clone());
                touched.pods = self.set_pod(pod, PodNeeds::default(), Vec::new());
            }
            _ => {}
        }
        touched
    }

    fn set_service_cidrs(&mut self, cidrs: Vec<IpNet>) -> bool {
        let changed = self.service_cidrs != cidrs;
        self.service_cidrs = cidrs;
        changed
    }

    /// Only pods that may be this node's are kept, and of those the few that need anything.
    fn upsert_pod(&mut self, pod: &Pod) -> bool {
        let elsewhere = pod.spec.node_name.as_deref().is_some_and(|node| !node.is_empty() && node != self.node);
        let (mut needs, mut errors) = (PodNeeds::default(), Vec::new());
        if !elsewhere && !pod.metadata.annotations.is_empty() {
            (needs.bandwidth, errors) = pod.bandwidth();
            errors.extend(pod.traffic_limits().1);
            match pod.allowed_source_prefixes() {
                Ok(prefixes) => needs.foreign_sources = !prefixes.is_empty(),
                Err(error) => errors.push(error),
            }
        }
        let name = (pod.metadata.namespace.clone().unwrap_or_default(), pod.metadata.name.clone());
        let problems = errors.iter().map(|error| format!("Pod {}/{}: {error}", name.0, name.1)).collect();
        self.set_pod(name, needs, problems)
    }

    fn set_pod(&mut self, pod: PodName, needs: PodNeeds, problems: Vec<String>) -> bool {
        if problems.is_empty() {
            self.pod_problems.remove(&pod);
        } else {
            self.pod_problems.insert(pod.clone(), problems);
        }
        if needs == PodNeeds::default() {
            return self.pods.remove(&pod).is_some();
        }
        self.pods.insert(pod, needs) != Some(needs)
    }

    /// What a pod's interface needs, if anything.
    pub(crate) fn needs_of(&self, namespace: &str, pod: &str) -> Option<PodNeeds> {
        if self.pods.is_empty() {
            return None;
        }
        self.pods.get(&(namespace.to_owned(), pod.to_owned())).copied()
    }

    /// What is wrong with the annotations of this node's pods.
    pub(crate) fn problems(&self) -> impl Iterator<Item = &String> {
        self.pod_problems.values().flatten()
    }

    /// The settings that follow: of each field the value of the node's own configuration, of the one that selects it, or of `default`.
    pub(crate) fn resolve(&self) -> Resolved {
        let layers = Layers::of_node(&self.felix, &self.node, &self.labels);
        let mut warnings = Vec::new();
        let selected = layers.in_force.iter().find(|(name, _)| !is_by_name(name));
        for (name, (winner, _)) in layers.shadowed.iter().zip(selected.into_iter().cycle()) {
            warnings.push(format!(
                "FelixConfiguration {name}: its nodeSelector selects this node, as that of {winner} does, which is in force: only \
                 the first by name is"
            ));
        }
        let idle = self.felix.iter().filter(|(name, spec)| spec.node_selector.is_none() && !is_by_name(name));
        warnings.extend(idle.map(|(name, _)| {
            format!(
                "FelixConfiguration {name}: it is for no node: name it \"default\" or \"node.NAME\", or give it a nodeSelector"
            )
        }));
        let mut spec = FelixConfigurationSpec::default();
        for (name, layer) in layers.in_force {
            let hidden = spec.fields();
            let unheeded = layer.unheeded().into_iter().filter(|unheeded| !hidden.contains(&unheeded.field));
            warnings.extend(unheeded.map(|unheeded| {
                let (field, value, note) = (unheeded.field, unheeded.value, unheeded.note);
                let standing =
                    if unheeded.by_design { "has no effect here" } else { "is not supported by this version" };
                format!("FelixConfiguration {name}: spec.{field}: {value} {standing}: {note}")
            }));
            let refused = settings::refused(layer).into_iter().filter(|(field, _)| !hidden.contains(field));
            warnings
                .extend(refused.map(|(field, reason)| format!("FelixConfiguration {name}: spec.{field}: {reason}")));
            spec = spec.or(layer);
        }
        if !self.service_cidrs.is_empty() {
            warnings.push(
                "BGPConfiguration default: ranges of service addresses are guarded against loops; they are not announced by \
                 this version"
                    .to_owned(),
            );
        }
        for (name, unheeded) in &self.unheeded_bgp {
            warnings.extend(unheeded.iter().map(|(field, instead)| {
                format!("BGPConfiguration {name}: spec.{field} is not supported by this version: {instead}")
            }));
        }
        Resolved { settings: Settings::new(&spec, self.service_cidrs.clone()), warnings }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(kind: &str, name: &str, rest: &serde_json::Value) -> Object {
        let version = if matches!(kind, "Node" | "Pod") { "v1" } else { "projectcalico.org/v3" };
        let mut value = json!({"apiVersion": version, "kind": kind, "metadata": {"name": name}});
        for (key, part) in rest.as_object().expect("a map") {
            if key == "labels" || key == "annotations" {
                value["metadata"][key] = part.clone();
            } else {
                value[key] = part.clone();
            }
        }
        serde_json::from_value(value).expect("an object")
    }

    fn felix(name: &str, spec: &serde_json::Value) -> Object {
        object("FelixConfiguration", name, &json!({"spec": spec}))
    }

    const CHANGED: Touched = Touched { settings: true, pods: false };

    #[test]
    fn the_nodes_own_wins_over_a_selected_one_and_that_over_the_default() {
        let mut all = Configurations::new("n1".into());
        assert_eq!(all.resolve(), Resolved::default());
        for name in ["default", "node.n1", "b", "a", "node.n2"] {
            let spec = match name {
                "default" => json!({"vxlanPort": 1, "healthPort": 1, "natOutgoingAddress": "10.0.0.1"}),
                "node.n1" => json!({"vxlanPort": 2}),
                "node.n2" => json!({"vxlanPort": 3, "natPortRange": 5}),
                _ => json!({"vxlanPort": 4, "healthPort": 4, "nodeSelector": "zone == 'a'"}),
            };
            assert_eq!(all.upsert(&felix(name, &spec)), CHANGED);
            assert_eq!(all.upsert(&felix(name, &spec)), Touched::default());
        }
        let ports = |all: &Configurations| {
            let settings = all.resolve().settings;
            (settings.rules.vxlan_port, settings.health.port, settings.rules.nat_outgoing.port_range)
        };
        assert_eq!(ports(&all), (2, Some(1), None), "no label yet");
        assert_eq!(all.upsert(&object("Node", "n1", &json!({"labels": {"zone": "a"}}))), CHANGED);
        assert_eq!(all.upsert(&object("Node", "n2", &json!({"labels": {"zone": "b"}}))), Touched::default());
        assert_eq!(ports(&all), (2, Some(4), None));
        let warnings = all.resolve().warnings;
        assert!(
            warnings.len() == 1 && warnings[0].starts_with("FelixConfiguration b: its nodeSelector"),
            "{warnings:?}"
        );
        let delete = |name: &str| ObjectKey { kind: Kind::FelixConfiguration, namespace: None, name: name.into() };
        assert_eq!(all.remove(&delete("node.n1")), CHANGED);
        assert_eq!(ports(&all), (4, Some(4), None));
        for name in ["a", "b", "default"] {
            all.remove(&delete(name));
        }
        assert_eq!(all.resolve(), Resolved::default(), "everything has its default again");
    }

    #[test]
    fn what_has_no_effect_is_told_once_for_the_value_in_force() {
        let mut all = Configurations::new("n1".into());
        all.upsert(&felix(
            "default",
            &json!({"wireguardEnabled": true, "bpfLogLevel": "Debug", "ipsetsRefreshInterval": "1s"}),
        ));
        all.upsert(&felix("node.n1", &json!({"wireguardEnabled": false, "bpfLogLevel": "Info"})));
        all.upsert(&felix("orphan", &json!({"wireguardEnabled": true})));
        let warnings = all.resolve().warnings;
        assert_eq!(warnings.len(), 3, "{warnings:?}");
        assert!(warnings[0].starts_with("FelixConfiguration orphan: it is for no node"), "{warnings:?}");
        assert!(
            warnings[1].starts_with("FelixConfiguration node.n1: spec.bpfLogLevel: \"Info\" has no effect here"),
            "{warnings:?}"
        );
        assert!(
            warnings[2].starts_with("FelixConfiguration default: spec.ipsetsRefreshInterval: \"1s\""),
            "{warnings:?}"
        );
    }

    #[test]
    fn service_addresses_are_those_of_the_default_bgp_configuration() {
        let mut all = Configurations::new("n1".into());
        let spec = json!({"serviceExternalIPs": [{"cidr": "10.97.0.0/16"}], "serviceClusterIPs": [{"cidr": "10.96.0.0/16"}, {"cidr": "10.97.0.0/16"}]});
        assert_eq!(all.upsert(&object("BGPConfiguration", "node.n1", &json!({"spec": spec}))), Touched::default());
        assert_eq!(all.upsert(&object("BGPConfiguration", "default", &json!({"spec": spec}))), CHANGED);
        let cidrs: Vec<String> = all.resolve().settings.rules.service_cidrs.iter().map(ToString::to_string).collect();
        assert_eq!(cidrs, ["10.96.0.0/16", "10.97.0.0/16"]);
        let key = ObjectKey { kind: Kind::BgpConfiguration, namespace: None, name: "default".into() };
        assert_eq!(all.remove(&key), CHANGED);
        assert_eq!(all.resolve(), Resolved::default());
    }

    #[test]
    fn what_bgp_does_not_do_yet_is_said() {
        let mut all = Configurations::new("n1".into());
        let spec = json!({"spec": {"localWorkloadPeeringIPV4": "169.254.1.9"}});
        assert_eq!(all.upsert(&object("BGPConfiguration", "node.n2", &spec)), Touched::default());
        assert_eq!(all.upsert(&object("BGPConfiguration", "node.n1", &spec)), CHANGED);
        assert_eq!(all.upsert(&object("BGPConfiguration", "node.n1", &spec)), Touched::default());
        assert_eq!(
            all.resolve().warnings,
            [
                "BGPConfiguration node.n1: spec.localWorkloadPeeringIPV4 is not supported by this version: pods are no peers of their \
              node"
            ]
        );
        assert_eq!(all.upsert(&object("BGPConfiguration", "node.n1", &json!({}))), CHANGED);
        assert_eq!(all.resolve().warnings, [] as [String; 0]);
    }

    #[test]
    fn limits_are_those_of_pods_that_may_be_the_nodes_own() {
        let mut all = Configurations::new("n1".into());
        let pod = |node: Option<&str>, bandwidth: &str| {
            let spec = node.map_or_else(|| json!({}), |node| json!({"nodeName": node}));
            object("Pod", "web", &json!({"annotations": {"kubernetes.io/ingress-bandwidth": bandwidth}, "spec": spec}))
        };
        let limited = Touched { settings: false, pods: true };
        assert_eq!(all.upsert(&pod(Some("n2"), "1M")), Touched::default());
        assert_eq!(all.upsert(&pod(None, "1M")), limited);
        assert_eq!(all.upsert(&pod(Some("n1"), "1M")), Touched::default());
        assert_eq!(all.upsert(&pod(Some("n1"), "2M")), limited);
        let rate =
            |all: &Configurations| all.needs_of("default", "web").and_then(|it| it.bandwidth.ingress).map(|it| it.rate);
        assert_eq!(rate(&all), Some(2_000_000));
        assert_eq!(all.upsert(&pod(Some("n1"), "fast")), limited);
        assert_eq!((rate(&all), all.problems().count()), (None, 1));
        all.upsert(&pod(Some("n1"), "2M"));
        assert_eq!(all.problems().count(), 0);
        let key = ObjectKey { kind: Kind::Pod, namespace: Some("default".into()), name: "web".into() };
        assert_eq!(all.remove(&key), limited);
        assert_eq!(rate(&all), None);
    }
}
