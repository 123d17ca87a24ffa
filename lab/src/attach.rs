//! A pod's namespace, and its CNI ADD and DEL, called as a container runtime calls them: the plugin runs in the node's network
//! namespace, with its parameters in the environment and the network's configuration on stdin.

use std::io::Write;
use std::net::IpAddr;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use tortie_felix_netlink::netns;

use crate::Error;
use crate::fabric::make_namespace;
use crate::name::Paths;
use crate::state::{Node, Pod};

/// The interface's name inside a pod.
const INTERFACE: &str = "eth0";

/// Makes the pod's namespace and wires it; the addresses that the plugin reports.
pub async fn add(paths: &Paths, node: &Node, pod: &Pod) -> Result<Vec<IpAddr>, Error> {
    make_namespace(&pod.netns).await?;
    let (paths, node, pod) = (paths.clone(), node.clone(), pod.clone());
    let result = blocking(move || call(&paths, &node, &pod, "ADD")).await?;
    let ips = result["ips"].as_array().map(Vec::as_slice).unwrap_or_default();
    Ok(ips
        .iter()
        .filter_map(|ip| ip["address"].as_str())
        .filter_map(|address| address.split('/').next()?.parse().ok())
        .collect())
}

/// Unwires the pod. The namespace stays; its owner deletes it.
pub async fn remove(paths: &Paths, node: &Node, pod: &Pod) -> Result<(), Error> {
    let (paths, node, pod) = (paths.clone(), node.clone(), pod.clone());
    blocking(move || call(&paths, &node, &pod, "DEL")).await.map(|_| ())
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Result<T, Error> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Error::Failed(format!("the CNI call ended early: {error}")))?
}

fn call(paths: &Paths, node: &Node, pod: &Pod, command: &str) -> Result<Value, Error> {
    let plugin = paths.cni().join("tortie-cni");
    let config =
        json!({"cniVersion": "1.1.0", "name": "tortie", "type": "tortie-cni", "socket": paths.socket(&node.name)});
    let failed =
        |reason: String| Error::Failed(format!("pod {}: CNI {command} on {}: {reason}", pod.full_name(), node.name));
    let mut process = Command::new(&plugin);
    process
        .env_clear()
        .env("CNI_COMMAND", command)
        .env("CNI_CONTAINERID", &pod.container_id)
        .env("CNI_NETNS", format!("/run/netns/{}", pod.netns))
        .env("CNI_IFNAME", INTERFACE)
        .env("CNI_PATH", paths.cni())
        .env(
            "CNI_ARGS",
            format!(
                "IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={};K8S_POD_INFRA_CONTAINER_ID={}",
                pod.namespace, pod.name, pod.container_id
            ),
        )
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = netns::open(&node.netns)
        .map_err(Error::net)?
        .spawn(&mut process)
        .map_err(|error| Error::io("start", &plugin, error))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A plugin that ended before it read says why on stdout.
        let _ = stdin.write_all(config.to_string().as_bytes());
    }
    let output = child.wait_with_output().map_err(|error| Error::io("wait for", &plugin, error))?;
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    if output.status.success() {
        return Ok(answer);
    }
    let message =
        [&answer["msg"], &answer["details"]].iter().filter_map(|text| text.as_str()).collect::<Vec<_>>().join(": ");
    let stderr = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(failed(if message.is_empty() { format!("{} {stderr}", output.status) } else { message }))
}

/// A container id as runtimes make them: 64 hex digits, fresh each time.
pub fn container_id() -> Result<String, Error> {
    use std::fmt::Write as _;
    use std::io::Read as _;
    let mut bytes = [0; 32];
    let path = std::path::Path::new("/dev/urandom");
    std::fs::File::open(path)
        .and_then(|mut file| file.read_exact(&mut bytes))
        .map_err(|error| Error::io("read", path, error))?;
    Ok(bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    }))
}
