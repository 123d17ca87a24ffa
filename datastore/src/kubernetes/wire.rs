//! Objects between the API server's form and ours: what is read of them, and what an agent keeps.

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use tortie_api::k8s::annotations;
use tortie_api::meta::StringMap;
use tortie_api::{FieldError, Kind, Object, ObjectKey, decode_as};

use super::resources::Group;

/// On objects in Calico's storage: the metadata that they have in `projectcalico.org/v3`, as JSON.
const STORED_METADATA: &str = "projectcalico.org/metadata";

/// The annotations of nodes that say how they are reached.
const CALICO_ANNOTATIONS: &str = "projectcalico.org/";

/// A page of a list.
#[derive(Debug, Deserialize)]
pub(super) struct List {
    #[serde(default)]
    pub(super) metadata: ListMeta,
    /// None, or null, where there is nothing.
    #[serde(default)]
    items: Option<Vec<Box<RawValue>>>,
}

impl List {
    pub(super) fn items(&self) -> &[Box<RawValue>] {
        self.items.as_deref().unwrap_or_default()
    }
}

/// `meta/v1 ListMeta`, as far as it is read.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ListMeta {
    #[serde(default)]
    pub(super) resource_version: String,
    #[serde(default, rename = "continue")]
    pub(super) token: Option<String>,
}

/// What identifies an object, read of one that may be unsound otherwise.
#[derive(Debug, Deserialize)]
pub(super) struct Head {
    pub(super) metadata: HeadMeta,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct HeadMeta {
    pub(super) name: String,
    #[serde(default)]
    pub(super) namespace: Option<String>,
    #[serde(default)]
    pub(super) resource_version: Option<String>,
    #[serde(default)]
    pub(super) uid: String,
    #[serde(default)]
    pub(super) generation: u64,
}

impl Head {
    pub(super) fn key(&self, kind: Kind) -> ObjectKey {
        let namespace = self.metadata.namespace.clone().filter(|_| kind.is_namespaced());
        ObjectKey { kind, namespace, name: self.metadata.name.clone() }
    }
}

/// The `apiVersion` of a kind's objects in a cluster.
pub(super) fn api_version(kind: Kind, group: Group) -> &'static str {
    if kind.api_version() == Group::V3.api_version() { group.api_version() } else { kind.api_version() }
}

/// Reads an object as it is: whole, and with its version.
pub(super) fn read(kind: Kind, group: Group, json: &str) -> Result<Object, Vec<FieldError>> {
    let mut object = decode_as(kind, json)?;
    if group == Group::Storage && kind.api_version() == Group::V3.api_version() {
        restore_metadata(&mut object);
    }
    if let Object::Pod(pod) = &mut object
        && pod.metadata.annotations.get(annotations::POD_IPS).is_some_and(String::is_empty)
    {
        // The pod's agent has taken its addresses back, and the status has them until the pod is gone: somebody else's by then.
        pod.status.pod_ips.clear();
    }
    Ok(object)
}

/// Labels and annotations as `projectcalico.org/v3` has them. Whatever is not as Calico writes it stays as it is.
fn restore_metadata(object: &mut Object) {
    #[derive(Deserialize)]
    struct Stored {
        #[serde(default)]
        labels: Option<StringMap>,
        #[serde(default)]
        annotations: Option<StringMap>,
    }
    let metadata = object.metadata_mut();
    let Some(text) = metadata.annotations.get(STORED_METADATA) else { return };
    if let Ok(stored) = serde_json::from_str::<Stored>(text) {
        metadata.labels = stored.labels.unwrap_or_default();
        metadata.annotations = stored.annotations.unwrap_or_default();
    }
}

/// Leaves of an object what an agent acts upon: of a pod elsewhere its labels, addresses and named ports.
pub(super) fn slim(object: &mut Object, node: &str) {
    let metadata = object.metadata_mut();
    metadata.resource_version = None;
    metadata.uid = None;
    match object {
        Object::Pod(pod) if pod.spec.node_name.as_deref() == Some(node) => {}
        Object::Pod(pod) => {
            pod.metadata.annotations.clear();
            for containers in [&mut pod.spec.containers, &mut pod.spec.init_containers] {
                for container in containers.iter_mut() {
                    container.ports.retain(|port| port.name.is_some());
                    container.name.clear();
                }
                containers.retain(|container| !container.ports.is_empty());
            }
        }
        Object::Node(node) => node.metadata.annotations.retain(|name, _| name.starts_with(CALICO_ANNOTATIONS)),
        other => other.metadata_mut().annotations.clear(),
    }
}

/// The object as the API server takes it.
pub(super) fn write(object: &Object, group: Group) -> Result<Value, serde_json::Error> {
    let mut value = serde_json::to_value(object)?;
    address(&mut value, object.kind(), group);
    Ok(value)
}

/// Says in an object's own words where the cluster has its kind.
pub(super) fn address(value: &mut Value, kind: Kind, group: Group) {
    value["apiVersion"] = api_version(kind, group).into();
    if group == Group::Storage && kind.api_version() == Group::V3.api_version() {
        value["kind"] = kind.storage_kind().into();
        // A truth value that is text there.
        if kind == Kind::BlockAffinity
            && let Some(deleted) = value["spec"]["deleted"].as_bool()
        {
            value["spec"]["deleted"] = deleted.to_string().into();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POD: &str = r#"{"metadata": {"name": "a", "namespace": "n", "uid": "u", "resourceVersion": "7", "labels": {"app": "a"},
        "annotations": {"x": "y"}, "managedFields": [{}]}, "spec": {"nodeName": "one", "containers": [{"name": "c", "image": "i",
        "ports": [{"containerPort": 80, "name": "http"}, {"containerPort": 81}]}, {"name": "d"}]},
        "status": {"podIPs": [{"ip": "10.0.0.1"}]}}"#;

    fn pod(node: &str) -> Value {
        let mut object = read(Kind::Pod, Group::V3, POD).expect("a pod");
        slim(&mut object, node);
        serde_json::to_value(&object).expect("JSON")
    }

    #[test]
    fn a_pod_elsewhere_is_its_labels_addresses_and_named_ports() {
        let elsewhere = pod("two");
        assert_eq!(elsewhere["metadata"], serde_json::json!({"name": "a", "namespace": "n", "labels": {"app": "a"}}));
        let ports =
            serde_json::json!([{"name": "", "ports": [{"containerPort": 80, "name": "http", "protocol": "TCP"}]}]);
        assert_eq!(elsewhere["spec"]["containers"], ports);
        assert_eq!(elsewhere["status"]["podIPs"][0]["ip"], "10.0.0.1");
        let own = pod("one");
        assert_eq!(own["metadata"]["annotations"]["x"], "y");
        assert_eq!(own["spec"]["containers"].as_array().map(Vec::len), Some(2));
    }

    #[test]
    fn addresses_that_were_taken_back_are_nobodys() {
        let taken_back = POD.replace(r#""x": "y""#, r#""cni.projectcalico.org/podIPs": """#);
        for (json, count) in [(POD, 1), (&taken_back, 0)] {
            let Ok(Object::Pod(pod)) = read(Kind::Pod, Group::V3, json) else { panic!("a pod") };
            assert_eq!(pod.addresses().len(), count, "{json}");
        }
    }

    #[test]
    fn in_calicos_storage_metadata_is_that_of_the_annotation() {
        let json = r#"{"apiVersion": "crd.projectcalico.org/v1", "kind": "GlobalNetworkSet", "metadata": {"name": "s",
            "annotations": {"projectcalico.org/metadata": "{\"labels\":{\"a\":\"b\"},\"creationTimestamp\":null}"}},
            "spec": {"nets": ["10.0.0.0/8"]}}"#;
        let object = read(Kind::GlobalNetworkSet, Group::Storage, json).expect("a set");
        assert_eq!(object.metadata().labels.get("a").map(String::as_str), Some("b"));
        assert!(object.metadata().annotations.is_empty());
        let written = write(&object, Group::Storage).expect("JSON");
        assert_eq!(written["apiVersion"], "crd.projectcalico.org/v1");
    }
}
