//! What the API server would refuse, and what this version cannot honour and must therefore refuse.

mod bgp;
mod calico;
mod cluster;
mod cluster_network_policy;
mod controllers;
mod endpoints;
mod felix;
mod ipam;
pub(crate) mod names;
mod network_policy;
mod policy;
mod rule;

use crate::field::{FieldError, Path};
use crate::k8s::LabelSelector;
use crate::kind::Kind;
use crate::meta::{ObjectMeta, StringMap};
use crate::object::Object;

/// The API server's limit for all annotations of an object together.
const ANNOTATIONS_LIMIT: usize = 256 * 1024;

/// Everything that is wrong with a defaulted object.
pub(crate) fn object(object: &Object) -> Vec<FieldError> {
    let mut errors = Errors::default();
    metadata(object.kind(), object.metadata(), &mut errors);
    match object {
        Object::Namespace(_)
        | Object::ServiceAccount(_)
        | Object::Secret(_)
        | Object::EndpointSlice(_)
        | Object::IpReservation(_)
        | Object::ClusterInformation(_) => {}
        Object::Node(node) => cluster::node(node, &mut errors),
        Object::Pod(pod) => cluster::pod(pod, &mut errors),
        Object::NetworkPolicy(policy) => network_policy::spec(&policy.spec, &mut errors),
        Object::IpPool(pool) => calico::ip_pool(pool, &mut errors),
        Object::BgpConfiguration(configuration) => bgp::configuration(configuration, &mut errors),
        Object::IpamBlock(block) => ipam::block(block, &mut errors),
        Object::IpamConfiguration(configuration) => ipam::configuration(configuration, &mut errors),
        Object::BlockAffinity(affinity) => ipam::affinity(affinity, &mut errors),
        Object::IpamHandle(handle) => ipam::handle(handle, &mut errors),
        Object::BgpPeer(peer) => bgp::peer(peer, &mut errors),
        Object::BgpFilter(filter) => bgp::filter(filter, &mut errors),
        Object::CalicoNodeStatus(status) => controllers::node_status(status, &mut errors),
        Object::KubeControllersConfiguration(configuration) => controllers::configuration(configuration, &mut errors),
        Object::FelixConfiguration(configuration) => felix::configuration(configuration, &mut errors),
        Object::ClusterNetworkPolicy(policy) => cluster_network_policy::policy(policy, &mut errors),
        Object::Tier(tier) => policy::tier(tier, &mut errors),
        Object::CalicoNetworkPolicy(policy) | Object::StagedNetworkPolicy(policy) => {
            policy::policy(policy, true, &mut errors);
        }
        Object::GlobalNetworkPolicy(policy) | Object::StagedGlobalNetworkPolicy(policy) => {
            policy::policy(policy, false, &mut errors);
        }
        Object::StagedKubernetesNetworkPolicy(policy) => policy::staged_kubernetes(policy, &mut errors),
        Object::NetworkSet(set) | Object::GlobalNetworkSet(set) => endpoints::network_set(set, &mut errors),
        Object::HostEndpoint(endpoint) => endpoints::host_endpoint(endpoint, &mut errors),
        Object::Profile(profile) => endpoints::profile(profile, &mut errors),
    }
    errors.0
}

/// The errors found so far.
#[derive(Default)]
struct Errors(Vec<FieldError>);

impl Errors {
    fn push(&mut self, error: FieldError) {
        self.0.push(error);
    }

    /// Takes note of a value that does not satisfy its grammar.
    fn check(&mut self, path: Path, text: &str, result: Result<(), String>) {
        if let Err(reason) = result {
            self.push(FieldError::invalid(path, text, &reason));
        }
    }

    /// Takes note of the error, if it is one.
    fn note<T>(&mut self, result: Result<T, FieldError>) {
        if let Err(error) = result {
            self.push(error);
        }
    }
}

fn metadata(kind: Kind, metadata: &ObjectMeta, errors: &mut Errors) {
    let path = Path::root().field("metadata");
    if metadata.name.is_empty() {
        errors.push(FieldError::required(path.field("name"), "name must be set; generateName is not supported here"));
    } else {
        errors.check(path.field("name"), &metadata.name, names::object_name(kind)(&metadata.name));
    }
    if let Some(namespace) = &metadata.namespace {
        errors.check(path.field("namespace"), namespace, names::dns_label(namespace));
    }
    labels(&metadata.labels, &path.field("labels"), errors);
    let annotations = path.field("annotations");
    annotation_keys(&metadata.annotations, &annotations, errors);
}

/// The keys of annotations, and how large they are together.
fn annotation_keys(annotations: &StringMap, path: &Path, errors: &mut Errors) {
    for key in annotations.keys() {
        errors.check(path.clone(), key, names::qualified_name(&key.to_lowercase()));
    }
    let size: usize = annotations.iter().map(|(key, value)| key.len() + value.len()).sum();
    if size > ANNOTATIONS_LIMIT {
        let message = format!("Too long: may not be more than {ANNOTATIONS_LIMIT} bytes");
        errors.push(FieldError::new(path.clone(), message));
    }
}

fn labels(labels: &StringMap, path: &Path, errors: &mut Errors) {
    for (key, value) in labels {
        errors.check(path.clone(), key, names::qualified_name(key));
        errors.check(path.key(key), value, names::label_value(value));
    }
}

/// A label selector: its keys, values, and whether each operator has the values that it needs.
fn selector(selector: &LabelSelector, path: &Path, errors: &mut Errors) {
    use crate::k8s::SelectorOperator::{DoesNotExist, Exists, In, NotIn};

    labels(&selector.match_labels, &path.field("matchLabels"), errors);
    for (index, requirement) in selector.match_expressions.iter().enumerate() {
        let path = path.field("matchExpressions").index(index);
        errors.check(path.field("key"), &requirement.key, names::qualified_name(&requirement.key));
        let values = path.field("values");
        match requirement.operator {
            In | NotIn if requirement.values.is_empty() => {
                errors
                    .push(FieldError::required(values.clone(), "must be specified when `operator` is 'In' or 'NotIn'"));
            }
            Exists | DoesNotExist if !requirement.values.is_empty() => {
                let remedy = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                errors.push(FieldError::forbidden(values.clone(), remedy));
            }
            In | NotIn | Exists | DoesNotExist => {}
        }
        for (index, value) in requirement.values.iter().enumerate() {
            errors.check(values.index(index), value, names::label_value(value));
        }
    }
}
