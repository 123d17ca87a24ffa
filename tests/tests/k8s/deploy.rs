//! What people install from: that an API server takes it as it is, and that the Helm chart is the same.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;
use tortie_tests::k8s::ApiServer;
use tortie_tests::root;

/// The files of the base that the chart has as templates.
const FILES: [&str; 4] = ["daemonset.yaml", "rbac.yaml", "reports.yaml", "service-account.yaml"];

fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn documents(yaml: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(yaml).expect("YAML")
}

/// The values of a chart by their paths, such as `pools.ipv4`.
fn values(yaml: &Value, path: &str, found: &mut BTreeMap<String, String>) {
    match yaml {
        Value::Object(fields) => {
            for (field, value) in fields {
                values(value, &if path.is_empty() { field.clone() } else { format!("{path}.{field}") }, found);
            }
        }
        Value::String(text) => drop(found.insert(path.to_owned(), text.clone())),
        other => drop(found.insert(path.to_owned(), other.to_string())),
    }
}

/// A template of the chart with its own values. Our templates have nothing but values in them.
fn rendered(template: &str, values: &BTreeMap<String, String>, used: &mut Vec<String>) -> String {
    let mut parts = template.split("{{");
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (expression, rest) = part.split_once("}}").expect("a closed expression");
        let path = expression.trim().strip_prefix(".Values.").unwrap_or_else(|| panic!("{expression}: not a value"));
        text += values.get(path).unwrap_or_else(|| panic!("values.yaml has no {path}"));
        text += rest;
        used.push(path.to_owned());
    }
    text
}

#[test]
fn the_chart_with_its_own_values_is_the_base() {
    let (base, chart) = (root().join("deploy/base"), root().join("deploy/helm/tortie"));
    let mut defaults = BTreeMap::new();
    let [document] = &documents(&text(&chart.join("values.yaml")))[..] else { panic!("values.yaml is one document") };
    values(document, "", &mut defaults);
    let mut used = Vec::new();
    for file in FILES {
        let template = rendered(&text(&chart.join("templates").join(file)), &defaults, &mut used);
        assert_eq!(documents(&template), documents(&text(&base.join(file))), "{file}: change both alike");
    }
    for path in defaults.keys() {
        assert!(used.contains(path), "values.yaml: {path} has no effect");
    }
    let mut templates: Vec<String> = std::fs::read_dir(chart.join("templates"))
        .expect("a folder")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    templates.sort();
    assert_eq!(templates, FILES);
    // Without an agent's version there is none of the chart.
    let [about] = &documents(&text(&chart.join("Chart.yaml")))[..] else { panic!("Chart.yaml is one document") };
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(about["version"], version);
    assert_eq!(about["appVersion"], format!("v{version}"));
    assert!(defaults["image"].ends_with(&format!(":v{version}")), "{}", defaults["image"]);
}

#[test]
fn an_api_server_takes_all_of_it_twice() {
    let server = ApiServer::start();
    let deploy = root().join("deploy");
    let deploy = deploy.to_str().expect("a plain path");
    server.kubectl(&["apply", "-k", deploy]);
    server.kubectl(&["wait", "--for=condition=Established", "--timeout=30s", "crd", "--all"]);
    let again = server.kubectl(&["apply", "-k", deploy]);
    let changed: Vec<&str> = again.lines().filter(|line| !line.ends_with(" unchanged")).collect();
    assert!(changed.is_empty(), "the second time: {changed:?}");

    let agent = server.get(&["daemonset", "tortie-node", "-n", "kube-system"]);
    let pod = &agent["spec"]["template"]["spec"];
    let container = &pod["containers"][0];
    // What keeps the machine safe from its agent.
    assert_eq!(container["securityContext"]["privileged"], Value::Null);
    assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true);
    assert_eq!(container["securityContext"]["capabilities"]["drop"], serde_json::json!(["ALL"]));
    assert_eq!(pod["hostPID"], Value::Null);
    let written: Vec<&str> = container["volumeMounts"]
        .as_array()
        .expect("mounts")
        .iter()
        .filter(|mount| mount["readOnly"] != true)
        .filter_map(|mount| mount["mountPath"].as_str())
        .collect();
    assert_eq!(written, ["/run/tortie", "/opt/cni/bin", "/etc/cni/net.d", "/host/proc/sys/net"]);
}

/// Which kinds are told what became of them stands in two places: in their definitions, and with who tells.
#[test]
fn every_kind_with_conditions_is_told_of() {
    let has_conditions = |definition: &Value| {
        let version = &definition["spec"]["versions"][0];
        !version["schema"]["openAPIV3Schema"]["properties"]["status"]["properties"]["conditions"].is_null()
    };
    let folder =
        std::fs::read_dir(root().join("deploy/crds")).expect("a folder").map(|entry| entry.expect("a file").path());
    let definitions = folder.flat_map(|path| documents(&text(&path)));
    let mut defined: Vec<String> = definitions
        .filter(has_conditions)
        .map(|definition| {
            format!("{}/{}", definition["spec"]["group"], definition["spec"]["names"]["plural"]).replace('"', "")
        })
        .collect();
    let mut told: Vec<String> = tortie_datastore::kubernetes::WITH_STATUS
        .iter()
        .map(|kind| format!("{}/{}", kind.api_version().split('/').next().unwrap_or_default(), kind.plural()))
        .collect();
    // It concerns the agent that leads alone, which is told of no change; its status is there so that manifests of Calico's apply.
    defined.retain(|plural| plural != "projectcalico.org/kubecontrollersconfigurations");
    defined.sort();
    told.sort();
    assert_eq!(defined, told);
}
