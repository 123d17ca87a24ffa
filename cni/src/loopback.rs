//! The plugin `loopback`: brings a pod's `lo` up, nothing else. Runtimes of containers call it for every pod, by that name, from the same
//! folder as other plugins. Distributions bring one; where none is installed no pod would start, so ours stands in.

use std::path::Path;
use std::process::ExitCode;

use serde_json::{Value, json};
use tortie_admin::types::{CniRequest, CniResponse};
use tortie_felix_netlink::{Error, Net};

use crate::request::{Command, answer_version};
use crate::{CniError, interface, plugin};

/// The interface that every network namespace has.
const LOOPBACK: &str = "lo";

/// The plugin, whole: reads, acts, prints. Exit status 0, or 1 with an error object on standard output.
pub fn main() -> ExitCode {
    plugin::answer(run)
}

fn run(request: &CniRequest) -> CniResponse {
    let version = answer_version(&request.config);
    act(request, version).map_or_else(
        |error| CniResponse { ok: false, body: error.to_json(version) },
        |body| CniResponse { ok: true, body },
    )
}

fn act(request: &CniRequest, version: &str) -> Result<Value, CniError> {
    match Command::parse(&request.command)? {
        Command::Version => Ok(plugin::versions(version)),
        Command::Add => {
            let failed = |error: Error| CniError::new(CniError::INTERFACE, "lo cannot be brought up", error);
            in_pod(request, async |net, index| net.set_up(index).await.map_err(failed))?;
            Ok(request.config.get("prevResult").cloned().unwrap_or_else(|| result(version, &request.netns)))
        }
        Command::Check => in_pod(request, async |net, index| {
            let link = net.link_by_index(index).await;
            let is_up = link.is_ok_and(|link| link.is_some_and(|link| link.up));
            let down = || CniError::new(CniError::CHECK_FAILED, "the interface is not as ADD made it", "lo is down");
            if is_up { Ok(Value::Null) } else { Err(down()) }
        }),
        // It goes with its namespace.
        Command::Del | Command::Status | Command::Gc => Ok(Value::Null),
    }
}

/// Does something to `lo` in the pod's namespace.
fn in_pod<T>(request: &CniRequest, work: impl AsyncFnOnce(&Net, u32) -> Result<T, CniError>) -> Result<T, CniError> {
    let path = Path::new(&request.netns);
    let unusable = |details: String| CniError::new(CniError::INVALID_ENVIRONMENT, "CNI_NETNS cannot be used", details);
    if !path.is_absolute() {
        return Err(unusable(format!(
            "it is {:?}; it must be the absolute path of the pod's network namespace",
            request.netns
        )));
    }
    let netns = interface::open(path).map_err(|error| unusable(error.to_string()))?;
    plugin::runtime()?.block_on(async {
        let net = Net::in_netns(&netns).map_err(|error| unusable(error.to_string()))?;
        match net.link(LOOPBACK).await {
            Ok(Some(link)) => work(&net, link.index).await,
            Ok(None) => Err(unusable("the namespace has no interface lo".to_owned())),
            Err(error) => Err(unusable(error.to_string())),
        }
    })
}

/// What the kernel gives `lo` as it comes up.
fn result(version: &str, netns: &str) -> Value {
    let address = |address: &str, family: &str| {
        let mut entry = json!({ "address": address, "interface": 0 });
        if version.starts_with("0.") {
            entry["version"] = json!(family);
        }
        entry
    };
    json!({
        "cniVersion": version,
        "interfaces": [{ "name": LOOPBACK, "mac": "00:00:00:00:00:00", "sandbox": netns }],
        "ips": [address("127.0.0.1/8", "4"), address("::1/128", "6")],
        "dns": {},
    })
}

#[cfg(test)]
mod tests {
    use tortie_felix_netlink::netns;

    use super::*;

    /// Removes a namespace by its name, whatever happens to the test.
    struct Gone<'a>(&'a str);

    impl Drop for Gone<'_> {
        fn drop(&mut self) {
            netns::delete(self.0).expect("it is ours");
        }
    }

    fn call(command: &str, netns: &str, config: Value) -> CniResponse {
        run(&CniRequest {
            command: command.into(),
            container_id: "c".into(),
            netns: netns.into(),
            ifname: LOOPBACK.into(),
            args: String::new(),
            path: String::new(),
            config,
        })
    }

    #[test]
    fn brings_lo_up_and_says_so() {
        let name = format!("tortie-lo-{}", std::process::id());
        let namespace = netns::create(&name).expect("a namespace (as root)");
        let _gone = Gone(&name);
        let path = namespace.path().to_str().expect("a plain path").to_owned();
        let config = json!({"cniVersion": "0.3.1", "name": "cni-loopback", "type": "loopback"});
        let down = call("CHECK", &path, config.clone());
        assert_eq!(down.body["code"], 102, "{}", down.body);

        let up = call("ADD", &path, config.clone());
        assert!(up.ok, "{}", up.body);
        assert_eq!(up.body["interfaces"][0]["sandbox"], *path);
        assert_eq!(up.body["ips"][0], json!({"address": "127.0.0.1/8", "interface": 0, "version": "4"}));
        assert!(call("CHECK", &path, config.clone()).ok);
        let answered = namespace.run(|| {
            let server = std::net::UdpSocket::bind("127.0.0.1:0").expect("loopback");
            server.send_to(b"x", server.local_addr().expect("an address")).is_ok()
        });
        assert!(answered.expect("the namespace can be entered"));

        let chained = json!({"cniVersion": "1.0.0", "name": "x", "prevResult": {"cniVersion": "1.0.0", "ips": []}});
        assert_eq!(call("ADD", &path, chained).body, json!({"cniVersion": "1.0.0", "ips": []}));
        assert!(call("DEL", "/run/netns/gone", config).ok);
    }

    #[test]
    fn refuses_what_is_no_namespace() {
        for (netns, said) in [("", "absolute path"), ("run/x", "absolute path"), ("/nowhere", "/nowhere")] {
            let refused = call("ADD", netns, json!({"cniVersion": "1.0.0"}));
            assert_eq!(refused.body["code"], 4, "{}", refused.body);
            assert!(refused.body["details"].as_str().is_some_and(|text| text.contains(said)), "{}", refused.body);
        }
        assert_eq!(call("ad", "/x", json!({})).body["code"], 4);
        assert!(call("VERSION", "", json!({})).ok);
    }
}
