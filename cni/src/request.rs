//! What the runtime asks for, checked: nothing that fails here ever touches a path, an interface or the datastore.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde::Deserialize;
use serde_json::Value;
use tortie_admin::types::CniRequest;
use tortie_api::Kind;

use crate::CniError;

/// The versions of the specification that are spoken, oldest first.
pub(crate) const VERSIONS: [&str; 4] = ["0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// The newest of them.
pub(crate) const LATEST: &str = "1.1.0";

/// The longest value of a variable that is taken, in bytes.
const LONGEST_VARIABLE: usize = 4096;

/// The longest container id or network name that is taken, in bytes: it becomes part of a file's name.
const LONGEST_ID: usize = 160;

/// The MTUs that a veth takes, in bytes.
const MTU: std::ops::RangeInclusive<u32> = 68..=65_535;

/// A verb of the specification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Command {
    Add,
    Del,
    Check,
    Status,
    Gc,
    Version,
}

impl Command {
    pub(crate) fn parse(text: &str) -> Result<Self, CniError> {
        Ok(match text {
            "ADD" => Self::Add,
            "DEL" => Self::Del,
            "CHECK" => Self::Check,
            "STATUS" => Self::Status,
            "GC" => Self::Gc,
            "VERSION" => Self::Version,
            _ => {
                return Err(environment(format!(
                    "CNI_COMMAND is {:?}; it must be ADD, DEL, CHECK, STATUS, GC or VERSION",
                    shorten(text)
                )));
            }
        })
    }

    fn names_attachment(self) -> bool {
        matches!(self, Self::Add | Self::Del | Self::Check)
    }
}

/// A pod, by names that are fit for Kubernetes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct PodName {
    pub(crate) namespace: String,
    pub(crate) name: String,
}

/// A call, checked as far as that goes without looking at anything else.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) command: Command,
    /// The version in which the result is to be written.
    pub(crate) version: String,
    /// The network's name.
    pub(crate) network: String,
    /// Empty for STATUS, GC and VERSION, as is `ifname`.
    pub(crate) container_id: String,
    pub(crate) ifname: String,
    /// Where the pod's network namespace is; DEL may come without.
    pub(crate) netns: Option<PathBuf>,
    /// Always there for ADD.
    pub(crate) pod: Option<PodName>,
    /// The result of the plugins before this one in the chain.
    pub(crate) previous: Option<Value>,
    /// The MTU that the network configuration asks for, in bytes; that of the network between nodes if none.
    pub(crate) mtu: Option<u32>,
    /// GC: the attachments that are in use, as container id and interface name.
    pub(crate) valid: BTreeSet<(String, String)>,
}

/// The part of the network configuration that is read.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct NetworkConfiguration {
    cni_version: Option<String>,
    #[serde(default)]
    name: String,
    prev_result: Option<Value>,
    #[serde(default)]
    mtu: u32,
    #[serde(rename = "cni.dev/valid-attachments")]
    valid_attachments: Option<Vec<Attachment>>,
}

#[derive(Deserialize)]
struct Attachment {
    #[serde(rename = "containerID")]
    container_id: String,
    ifname: String,
}

/// The version in which to answer a configuration, errors included.
pub(crate) fn answer_version(config: &Value) -> &str {
    let version = config.get("cniVersion").and_then(Value::as_str).unwrap_or(LATEST);
    VERSIONS.iter().find(|known| **known == version).unwrap_or(&LATEST)
}

impl Call {
    /// Checks a call.
    pub(crate) fn parse(request: &CniRequest) -> Result<Self, CniError> {
        let command = Command::parse(&request.command)?;
        for (name, value) in [
            ("CNI_CONTAINERID", &request.container_id),
            ("CNI_NETNS", &request.netns),
            ("CNI_IFNAME", &request.ifname),
            ("CNI_ARGS", &request.args),
        ] {
            if value.len() > LONGEST_VARIABLE || value.contains('\0') {
                return Err(environment(format!(
                    "{name} must have at most {LONGEST_VARIABLE} bytes, none of them NUL"
                )));
            }
        }
        let mut call = Self {
            command,
            version: answer_version(&request.config).to_owned(),
            network: String::new(),
            container_id: String::new(),
            ifname: String::new(),
            netns: None,
            pod: None,
            previous: None,
            mtu: None,
            valid: BTreeSet::new(),
        };
        if command == Command::Version {
            return Ok(call);
        }
        call.read_configuration(&request.config)?;
        if command.names_attachment() {
            call.read_attachment(request)?;
        }
        Ok(call)
    }

    fn read_configuration(&mut self, config: &Value) -> Result<(), CniError> {
        let config = NetworkConfiguration::deserialize(config)
            .map_err(|error| CniError::new(CniError::DECODING, "the network configuration cannot be read", error))?;
        let version = config.cni_version.unwrap_or_default();
        if !VERSIONS.contains(&version.as_str()) {
            return Err(CniError::new(
                CniError::INCOMPATIBLE_VERSION,
                "incompatible CNI versions",
                format!(
                    "the configuration's cniVersion is {:?}; use one of {}",
                    shorten(&version),
                    VERSIONS.join(", ")
                ),
            ));
        }
        if !is_identifier(&config.name) {
            return Err(configuration(format!(
                "name is {:?}; it must begin with a letter or digit, followed by letters, digits, '_', '.' or '-'",
                shorten(&config.name)
            )));
        }
        self.network = config.name;
        self.previous = config.prev_result;
        if config.mtu != 0 && !MTU.contains(&config.mtu) {
            return Err(configuration(format!(
                "mtu is {}; it must be between 68 and 65535, or 0 for that of the network between nodes",
                config.mtu
            )));
        }
        self.mtu = Some(config.mtu).filter(|mtu| *mtu != 0);
        if self.command == Command::Gc {
            let Some(attachments) = config.valid_attachments else {
                // An empty list means that nothing is in use; a missing one must not.
                return Err(configuration(
                    "cni.dev/valid-attachments is missing, without which GC would delete every pod's interface",
                ));
            };
            self.valid = attachments.into_iter().map(|entry| (entry.container_id, entry.ifname)).collect();
        }
        Ok(())
    }

    fn read_attachment(&mut self, request: &CniRequest) -> Result<(), CniError> {
        if !is_identifier(&request.container_id) {
            return Err(environment(format!(
                "CNI_CONTAINERID is {:?}; it must begin with a letter or digit, followed by letters, digits, '_', '.' or '-'",
                shorten(&request.container_id)
            )));
        }
        if !is_interface_name(&request.ifname) {
            return Err(environment(format!(
                "CNI_IFNAME is {:?}; it must have 1 to 15 bytes without '/', ':', '%' and white space, and be neither all nor default",
                shorten(&request.ifname)
            )));
        }
        self.container_id.clone_from(&request.container_id);
        self.ifname.clone_from(&request.ifname);
        if request.netns.starts_with('/') {
            self.netns = Some(PathBuf::from(&request.netns));
        } else if !request.netns.is_empty() || self.command != Command::Del {
            return Err(environment(format!(
                "CNI_NETNS is {:?}; it must be the absolute path of the pod's network namespace",
                shorten(&request.netns)
            )));
        }
        self.pod = pod_of(&request.args)?;
        if self.command == Command::Add && self.pod.is_none() {
            return Err(environment(
                "CNI_ARGS has no K8S_POD_NAMESPACE and K8S_POD_NAME; only Kubernetes pods are attached",
            ));
        }
        Ok(())
    }

    /// What identifies the attachment's addresses in the datastore.
    pub(crate) fn handle(&self) -> String {
        handle(&self.network, &self.container_id, &self.ifname)
    }
}

/// The IPAM handle of an attachment.
pub(crate) fn handle(network: &str, container_id: &str, ifname: &str) -> String {
    format!("{network}.{container_id}.{ifname}")
}

/// Reads `CNI_ARGS`: `KEY=VALUE;KEY=VALUE`. Other keys than the pod's are other plugins'.
fn pod_of(args: &str) -> Result<Option<PodName>, CniError> {
    let (mut namespace, mut name) = (None, None);
    for pair in args.split(';').filter(|pair| !pair.is_empty()) {
        let Some((key, value)) = pair.split_once('=') else {
            return Err(environment(format!("CNI_ARGS has {:?}, which is no KEY=VALUE", shorten(pair))));
        };
        match key {
            "K8S_POD_NAMESPACE" => namespace = Some(value),
            "K8S_POD_NAME" => name = Some(value),
            _ => {}
        }
    }
    let (Some(namespace), Some(name)) = (namespace, name) else { return Ok(None) };
    for (variable, kind, value) in
        [("K8S_POD_NAMESPACE", Kind::Namespace, namespace), ("K8S_POD_NAME", Kind::Pod, name)]
    {
        kind.check_name(value)
            .map_err(|reason| environment(format!("{variable} is {:?}: it {reason}", shorten(value))))?;
    }
    Ok(Some(PodName { namespace: namespace.to_owned(), name: name.to_owned() }))
}

fn environment(details: impl ToString) -> CniError {
    CniError::new(CniError::INVALID_ENVIRONMENT, "the call's environment is not valid", details)
}

fn configuration(details: impl ToString) -> CniError {
    CniError::new(CniError::INVALID_CONFIG, "the network configuration is not valid", details)
}

/// The specification's rule for container ids and network names.
fn is_identifier(text: &str) -> bool {
    text.len() <= LONGEST_ID
        && text.starts_with(|first: char| first.is_ascii_alphanumeric())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'))
}

/// The specification's, and the kernel's, rule for names of interfaces. Refused besides: control characters, `%`, of which the kernel
/// makes a number, and the names under which sysctls of all interfaces are found.
fn is_interface_name(text: &str) -> bool {
    (1..=15).contains(&text.len())
        && !matches!(text, "." | ".." | "all" | "default")
        && text.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'/' | b':' | b'%'))
}

/// The beginning of a stranger's text, for an error.
fn shorten(text: &str) -> String {
    let end = text.char_indices().nth(80).map_or(text.len(), |(end, _)| end);
    format!("{}{}", &text[..end], if end < text.len() { "…" } else { "" })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn add() -> CniRequest {
        CniRequest {
            command: "ADD".into(),
            container_id: "0123abc".into(),
            netns: "/run/netns/x".into(),
            ifname: "eth0".into(),
            args: "IgnoreUnknown=1;K8S_POD_NAMESPACE=web;K8S_POD_NAME=nginx-0.a".into(),
            path: "/opt/cni/bin".into(),
            config: json!({"cniVersion": "1.1.0", "name": "tortie", "type": "tortie-cni"}),
        }
    }

    #[test]
    fn reads_an_add() {
        let call = Call::parse(&add()).expect("a call");
        assert_eq!(call.pod, Some(PodName { namespace: "web".into(), name: "nginx-0.a".into() }));
        assert_eq!(call.handle(), "tortie.0123abc.eth0");
        // A pod's name is a subdomain, whose parts may have any length.
        let long = "a".repeat(200);
        let args = format!("K8S_POD_NAMESPACE=web;K8S_POD_NAME={long}");
        assert_eq!(Call::parse(&CniRequest { args, ..add() }).expect("a call").pod.map(|pod| pod.name), Some(long));
    }

    #[test]
    fn refuses_with_the_specifications_numbers() {
        type Change = fn(&mut CniRequest);
        let cases: [(Change, u32, &str); 21] = [
            (|call| call.command = "add".into(), 4, "CNI_COMMAND"),
            (|call| call.container_id = String::new(), 4, "CNI_CONTAINERID"),
            (|call| call.container_id = "../../etc".into(), 4, "CNI_CONTAINERID"),
            (|call| call.container_id = "a/b".into(), 4, "CNI_CONTAINERID"),
            (|call| call.container_id = "a".repeat(5000), 4, "CNI_CONTAINERID"),
            (|call| call.ifname = "eth0/..".into(), 4, "CNI_IFNAME"),
            (|call| call.ifname = "0123456789abcdef".into(), 4, "CNI_IFNAME"),
            (|call| call.ifname = "eth%d".into(), 4, "CNI_IFNAME"),
            (|call| call.ifname = "all".into(), 4, "CNI_IFNAME"),
            (|call| call.ifname = "default".into(), 4, "CNI_IFNAME"),
            (|call| call.netns = String::new(), 4, "CNI_NETNS"),
            (|call| call.netns = "run/netns".into(), 4, "CNI_NETNS"),
            (|call| call.args = String::new(), 4, "K8S_POD_NAMESPACE"),
            (|call| call.args = "K8S_POD_NAMESPACE=../x;K8S_POD_NAME=a".into(), 4, "K8S_POD_NAMESPACE"),
            (|call| call.args = "K8S_POD_NAMESPACE=x;K8S_POD_NAME=A".into(), 4, "K8S_POD_NAME"),
            (|call| call.args = "K8S_POD_NAMESPACE=x.y;K8S_POD_NAME=a".into(), 4, "K8S_POD_NAMESPACE"),
            (|call| call.args = format!("K8S_POD_NAMESPACE=x;K8S_POD_NAME={}", "a".repeat(254)), 4, "K8S_POD_NAME"),
            (|call| call.args = "nonsense".into(), 4, "CNI_ARGS"),
            (|call| call.config = json!({"cniVersion": "9.0.0", "name": "x"}), 1, "9.0.0"),
            (|call| call.config = json!({"cniVersion": "1.1.0", "name": "a b"}), 7, "name"),
            (|call| call.config = json!([]), 6, ""),
        ];
        for (change, code, word) in cases {
            let mut request = add();
            change(&mut request);
            let error = Call::parse(&request).expect_err("a refusal");
            assert_eq!(error.code, code, "{error}");
            assert!(error.details.contains(word) && error.details.len() < 400, "{error}");
        }
    }

    #[test]
    fn a_del_may_lack_what_an_add_may_not() {
        let request = CniRequest { command: "DEL".into(), netns: String::new(), args: String::new(), ..add() };
        let call = Call::parse(&request).expect("a call");
        assert_eq!((call.netns, call.pod), (None, None));
    }

    #[test]
    fn a_gc_without_its_list_is_refused() {
        let mut request = CniRequest { command: "GC".into(), ..CniRequest::default() };
        request.config = json!({"cniVersion": "1.1.0", "name": "tortie"});
        assert_eq!(Call::parse(&request).expect_err("a refusal").code, CniError::INVALID_CONFIG);
        request.config["cni.dev/valid-attachments"] = json!([{"containerID": "a", "ifname": "eth0"}]);
        let call = Call::parse(&request).expect("a call");
        assert!(call.valid.contains(&("a".into(), "eth0".into())));
    }

    proptest! {
        #[test]
        fn no_input_panics(
            command in prop_oneof![Just("ADD".to_owned()), Just("DEL".to_owned()), Just("GC".to_owned()), ".{0,8}"],
            texts in proptest::collection::vec(any::<String>(), 4),
            version in prop_oneof![Just("1.1.0".to_owned()), ".{0,6}"],
            name in ".{0,20}",
        ) {
            let request = CniRequest {
                command,
                container_id: texts[0].clone(),
                netns: texts[1].clone(),
                ifname: texts[2].clone(),
                args: texts[3].clone(),
                path: String::new(),
                config: json!({"cniVersion": version, "name": name, "cni.dev/valid-attachments": []}),
            };
            if let Ok(call) = Call::parse(&request) {
                prop_assert!(!call.container_id.contains('/') && !call.ifname.contains('/'));
            }
        }
    }
}
