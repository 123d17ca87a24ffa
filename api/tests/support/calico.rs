//! Calico's own validation cases, where `TORTIE_CORPORA` says they are, as manifests.

use std::path::Path;

use serde_json::{Value, json};
use tortie_api::Kind;

/// One case.
pub(crate) struct Case {
    /// What it is about.
    pub(crate) description: String,
    /// Whether Calico takes it.
    pub(crate) valid: bool,
    /// The object.
    pub(crate) manifest: Value,
}

/// All cases of kinds that we have; none, with a word about it, where there are no corpora.
pub(crate) fn cases() -> Option<Vec<Case>> {
    let Some(corpora) = std::env::var_os("TORTIE_CORPORA") else {
        println!("skipped: TORTIE_CORPORA is not set");
        return None;
    };
    let text = std::fs::read_to_string(Path::new(&corpora).join("calico-validation.jsonl")).unwrap();
    let cases = text.lines().filter_map(|line| {
        let case: Value = serde_json::from_str(line).unwrap();
        let description = case["desc"].as_str().unwrap().to_owned();
        Some(Case { description, valid: case["valid"].as_bool().unwrap(), manifest: manifest(&case)? })
    });
    Some(cases.collect())
}

/// The manifest of a case, if it is of a kind that we have; parts of an object are put into one.
fn manifest(case: &Value) -> Option<Value> {
    let object = case["obj"].clone();
    let kind = case["type"].as_str()?.trim_start_matches('*');
    let named = |name: &str, spec: Value| json!({"metadata": {"name": name}, "spec": spec});
    let global = |rule: Value| ("GlobalNetworkPolicy", named("p", json!({"ingress": [rule]})));
    let filter = |field: &str, rule: Value| ("BGPFilter", named("f", json!({field: [rule]})));
    let felix = |spec: Value| ("FelixConfiguration", named("default", spec));
    let controllers =
        |controllers: Value| ("KubeControllersConfiguration", named("default", json!({"controllers": controllers})));
    let (kind, mut manifest) = match kind {
        "v3.BGPConfigurationSpec" => ("BGPConfiguration", named("default", object)),
        "v3.BGPPeerSpec" => ("BGPPeer", named("p", object)),
        "v3.BGPFilterRuleV4" => filter("importV4", object),
        "v3.BGPFilterRuleV6" => filter("importV6", object),
        "v3.BGPFilterOperation" => filter("importV4", json!({"action": "Accept", "operations": [object]})),
        "v3.FelixConfigurationSpec" => felix(object),
        "v3.ProtoPort" => felix(json!({"failsafeInboundHostPorts": [object]})),
        "v3.KubeControllersConfigurationSpec" => ("KubeControllersConfiguration", named("default", object)),
        "v3.NodeControllerConfig" => controllers(json!({"node": object})),
        "v3.ServiceAccountControllerConfig" => controllers(json!({"serviceAccount": object})),
        "v3.WorkloadEndpointControllerConfig" => controllers(json!({"workloadEndpoint": object})),
        "v3.Template" => controllers(json!({"node": {"hostEndpoint": {"templates": [object]}}})),
        "v3.Rule" => global(object),
        "v3.EntityRule" => global(json!({"action": "Allow", "source": object})),
        "v3.ICMPFields" => global(json!({"action": "Allow", "protocol": "ICMP", "icmp": object})),
        "v3.HTTPMatch" => global(json!({"action": "Allow", "http": object})),
        "numorstring.Protocol" => global(json!({"action": "Allow", "protocol": object})),
        "v3.GlobalNetworkSetSpec" => ("GlobalNetworkSet", named("s", object)),
        "v3.NetworkSetSpec" => ("NetworkSet", named("s", object)),
        "v3.HostEndpointSpec" => ("HostEndpoint", named("h", object)),
        "v3.ProfileSpec" => ("Profile", named("p", object)),
        kind => {
            let kind = kind.strip_prefix("v3.")?;
            Kind::of_manifest("projectcalico.org/v3", kind)?;
            (kind, object)
        }
    };
    manifest["apiVersion"] = json!("projectcalico.org/v3");
    manifest["kind"] = json!(kind);
    Some(manifest)
}
