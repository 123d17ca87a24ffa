//! The success result of ADD, in the version that the configuration asks for.

use std::net::IpAddr;

use serde_json::{Map, Value, json};
use tortie_admin::types::Endpoint;

use crate::interface::{GATEWAY_V4, GATEWAY_V6};

/// The result object. What earlier plugins of the chain reported stays, ahead of ours.
pub(crate) fn success(version: &str, endpoint: &Endpoint, mtu: u32, previous: Option<&Value>) -> Value {
    let mut interfaces = list(previous, "interfaces");
    let first = interfaces.len();
    for (name, mac, sandbox) in
        [(&endpoint.host_interface, &endpoint.host_mac, None), (&endpoint.ifname, &endpoint.mac, Some(&endpoint.netns))]
    {
        let mut interface = Map::new();
        interface.insert("name".into(), json!(name));
        interface.insert("mac".into(), json!(mac));
        if version == "1.1.0" {
            interface.insert("mtu".into(), json!(mtu));
        }
        if let Some(sandbox) = sandbox {
            interface.insert("sandbox".into(), json!(sandbox));
        }
        interfaces.push(Value::Object(interface));
    }
    let mut ips = list(previous, "ips");
    let mut routes = list(previous, "routes");
    for ip in &endpoint.ips {
        let (length, family, gateway, everything) = match ip {
            IpAddr::V4(_) => (32, "4", IpAddr::V4(GATEWAY_V4), "0.0.0.0/0"),
            IpAddr::V6(_) => (128, "6", IpAddr::V6(GATEWAY_V6), "::/0"),
        };
        let mut entry = json!({ "address": format!("{ip}/{length}"), "gateway": gateway, "interface": first + 1 });
        if version.starts_with("0.") {
            entry["version"] = json!(family);
        }
        ips.push(entry);
        routes.push(json!({ "dst": everything, "gw": gateway }));
    }
    let dns = previous.and_then(|previous| previous.get("dns")).cloned().unwrap_or_else(|| json!({}));
    json!({ "cniVersion": version, "interfaces": interfaces, "ips": ips, "routes": routes, "dns": dns })
}

fn list(previous: Option<&Value>, field: &str) -> Vec<Value> {
    previous.and_then(|previous| previous.get(field)).and_then(Value::as_array).cloned().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint() -> Endpoint {
        Endpoint {
            namespace: "web".into(),
            pod: "a".into(),
            container_id: "c".into(),
            netns: "/run/netns/a".into(),
            ifname: "eth0".into(),
            host_interface: "cali1".into(),
            host_mac: "ee:ee:ee:ee:ee:ee".into(),
            mac: "02:00:00:00:00:01".into(),
            ips: vec!["10.244.0.1".parse().expect("ip"), "fd00::1".parse().expect("ip")],
        }
    }

    #[test]
    fn each_version_has_its_form() {
        let new = success("1.1.0", &endpoint(), 1450, None);
        assert_eq!(new["ips"][0], json!({"address": "10.244.0.1/32", "gateway": "169.254.1.1", "interface": 1}));
        assert_eq!(new["interfaces"][1]["mtu"], 1450);
        assert_eq!(new["interfaces"][1]["sandbox"], "/run/netns/a");
        assert_eq!(new["routes"][1], json!({"dst": "::/0", "gw": "fe80::ecee:eeff:feee:eeee"}));
        let old = success("0.4.0", &endpoint(), 1450, None);
        assert_eq!(old["ips"][1]["version"], "6");
        assert!(old["interfaces"][0].get("mtu").is_none() && new["ips"][0].get("version").is_none());
    }

    #[test]
    fn a_chain_keeps_what_came_before() {
        let previous = json!({"interfaces": [{"name": "x"}], "ips": [{"address": "192.0.2.1/24"}], "dns": {"nameservers": ["192.0.2.53"]}});
        let result = success("1.0.0", &endpoint(), 1500, Some(&previous));
        assert_eq!(result["interfaces"][0]["name"], "x");
        assert_eq!(result["ips"][1]["interface"], 2);
        assert_eq!(result["dns"]["nameservers"][0], "192.0.2.53");
        let odd = success("1.0.0", &endpoint(), 1500, Some(&json!({"interfaces": 7, "ips": "x"})));
        assert_eq!(odd["ips"][0]["interface"], 1);
    }
}
