//! The keeper against a real kernel: settings, MTU and bandwidth of pods that the server made.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;
use tortie_api::k8s::{Bandwidth, BandwidthLimit};
use tortie_cni::keeper::{Findings, Keeper, Scope, Wanted};
use tortie_felix_netlink::tc::{Bucket, Found};
use tortie_felix_netlink::{Net, Netns, sysctl};

use crate::memory::{pod, pool};
use crate::server::{Node, Pod, node, request};

fn keeper(node: &Node) -> Keeper {
    let netns = node.netns.run(Netns::current).expect("entered").expect("the namespace");
    Keeper::in_netns(netns, node.run_dir.path()).expect("a keeper")
}

fn wanted() -> Wanted {
    Wanted { forward_ipv4: true, forward_ipv6: true, mtu_interfaces: "^eth".into(), ..Wanted::default() }
}

fn limit(rate: u64) -> BandwidthLimit {
    BandwidthLimit { rate, burst: 400_000, peak: None, minburst: None }
}

/// A node with one pod, `eth0` as its underlay, and the name of the pod's interface.
async fn one_pod() -> (Node, Pod, String) {
    let node = node(&[
        pool("v4", "10.244.0.0/16", &json!({})),
        pool("v6", "fd00:10:244::/48", &json!({})),
        pod("web", "web", None),
    ])
    .await;
    node.net.create_bridge("eth0").await.expect("an underlay");
    let eth0 = node.net.link("eth0").await.expect("read").expect("there");
    node.net.set_up(eth0.index).await.expect("up");
    let web = Pod::new("web");
    node.add("c1", &web).await;
    let interface = tortie_policy::host_interface("web", "web");
    (node, web, interface)
}

impl Node {
    async fn mtu_of(&self, interface: &str) -> u32 {
        self.net.link(interface).await.expect("read").expect("there").mtu
    }

    async fn set_mtu_of(&self, interface: &str, mtu: u32) {
        let link = self.net.link(interface).await.expect("read").expect("there");
        self.net.set_mtu(link.index, mtu).await.expect("set");
    }
}

async fn inner_mtu(pod: &Pod) -> u32 {
    let net = Net::in_netns(&pod.netns).expect("a handle");
    net.link("eth0").await.expect("read").expect("there").mtu
}

#[tokio::test]
async fn settings_that_others_change_are_put_right_and_told() {
    let (node, _web, interface) = one_pod().await;
    let mut keeper = keeper(&node);
    let first = keeper.keep(&wanted(), &Scope::All).await;
    assert_eq!(first, Findings::default(), "what nobody had put right is no repair");
    assert_eq!(keeper.keep(&wanted(), &Scope::All).await, Findings::default(), "twice");
    let get = |path: &str| node.netns.run(|| sysctl::get(path)).expect("entered").expect("read");
    assert_eq!(get("net/ipv4/conf/all/send_redirects"), "0");
    let settings = [
        "net/ipv4/ip_forward".to_owned(),
        "net/ipv6/conf/all/forwarding".to_owned(),
        format!("net/ipv4/conf/{interface}/forwarding"),
        format!("net/ipv6/conf/{interface}/forwarding"),
        format!("net/ipv6/conf/{interface}/accept_ra"),
        format!("net/ipv4/conf/{interface}/send_redirects"),
        format!("net/ipv4/neigh/{interface}/proxy_delay"),
    ];
    for setting in &settings {
        let right = get(setting);
        // Delays are in hundredths of a second, which not every kernel counts.
        let wrong = if right != "0" {
            "0"
        } else if setting.ends_with("delay") {
            "80"
        } else {
            "1"
        };
        sysctl::set_in(&node.netns, &[(setting, wrong)]).expect("set");
        let repairs = keeper.keep(&wanted(), &Scope::All).await.repairs;
        assert!(
            repairs.iter().any(|repair| repair.object == *setting && repair.sysctl && repair.found == wrong),
            "{setting}: {repairs:?}"
        );
        assert_eq!(get(setting), right, "{setting}");
    }
    let unwanted = Wanted { forward_ipv4: false, forward_ipv6: false, ..wanted() };
    sysctl::set_in(&node.netns, &[("net/ipv4/ip_forward", "0")]).expect("set");
    keeper.keep(&unwanted, &Scope::All).await;
    assert_eq!(get("net/ipv4/ip_forward"), "0", "it is none of ours then");
}

#[tokio::test]
async fn pods_follow_the_mtu_of_the_underlay_at_both_ends() {
    let (node, web, interface) = one_pod().await;
    let mut keeper = keeper(&node);
    keeper.keep(&wanted(), &Scope::All).await;
    assert_eq!((node.mtu_of(&interface).await, inner_mtu(&web).await, keeper.mtu()), (1500, 1500, Some(1500)));
    node.set_mtu_of("eth0", 1400).await;
    let nothing = Scope::Some { node: false, interfaces: BTreeSet::new(), names: BTreeSet::new() };
    let findings = keeper.keep(&wanted(), &nothing).await;
    assert_eq!((node.mtu_of(&interface).await, inner_mtu(&web).await), (1400, 1400));
    assert_eq!(findings, Findings::default(), "nobody changed a thing of ours");

    node.set_mtu_of(&interface, 1300).await;
    let findings = keeper.keep(&wanted(), &Scope::All).await;
    assert_eq!((node.mtu_of(&interface).await, findings.repairs.len()), (1400, 1), "{findings:?}");

    // Larger again, and by another expression.
    node.set_mtu_of("eth0", 9000).await;
    keeper.keep(&wanted(), &Scope::All).await;
    assert_eq!((node.mtu_of(&interface).await, inner_mtu(&web).await), (9000, 9000));
    let other = Wanted { mtu_interfaces: "^none".into(), ..wanted() };
    keeper.keep(&other, &Scope::All).await;
    assert_eq!((node.mtu_of(&interface).await, inner_mtu(&web).await), (1500, 1500), "nothing says otherwise");
}

#[tokio::test]
async fn an_mtu_of_the_network_configuration_stays() {
    let node = node(&[pool("v4", "10.244.0.0/16", &json!({})), pod("web", "web", None)]).await;
    node.net.create_bridge("eth0").await.expect("an underlay");
    let web = Pod::new("web");
    let mut call = request("ADD", "c1", &web);
    call.config["mtu"] = json!(1280);
    let response = node.server.handle(call).await;
    assert!(response.ok, "{}", response.body);
    let interface = tortie_policy::host_interface("web", "web");
    assert_eq!((node.mtu_of(&interface).await, inner_mtu(&web).await), (1280, 1280));
    assert_eq!(keeper(&node).keep(&wanted(), &Scope::All).await, Findings::default());
    assert_eq!((node.mtu_of(&interface).await, inner_mtu(&web).await), (1280, 1280));
    for (mtu, expected) in
        [(json!(20), "mtu is 20"), (json!(70_000), "mtu is 70000"), (json!("1500"), "cannot be read")]
    {
        let mut call = request("ADD", "c2", &web);
        call.config["mtu"] = mtu;
        let response = node.server.handle(call).await;
        assert!(!response.ok && response.body.to_string().contains(expected), "{}", response.body);
    }
}

#[tokio::test]
async fn limits_come_change_and_go_and_survive_a_restart() {
    let (node, web, interface) = one_pod().await;
    let device = interface.replace("cali", "tifb");
    let with = |ingress: Option<u64>, egress: Option<u64>| Wanted {
        bandwidth: BTreeMap::from([(
            interface.clone(),
            Bandwidth { ingress: ingress.map(limit), egress: egress.map(limit) },
        )]),
        ..wanted()
    };
    let mut first = keeper(&node);
    let state = async || {
        let link = node.net.link(&interface).await.expect("read").expect("there");
        let all: BTreeMap<_, _> = node.net.disciplines().await.expect("read").into_iter().collect();
        let device = node.net.link(&device).await.expect("read");
        let own = all.get(&link.index).copied().unwrap_or_default();
        let other = device.as_ref().and_then(|device| all.get(&device.index)).copied().unwrap_or_default();
        (own.bucket, other.bucket, own.ingress, device)
    };
    for (ingress, egress) in [
        (Some(10_000_000), None),
        (Some(20_000_000), Some(5_000_000)),
        (None, Some(6_000_000)),
        (Some(1_000_000), Some(6_000_000)),
    ] {
        assert_eq!(first.keep(&with(ingress, egress), &Scope::All).await, Findings::default());
        let (own, other, detour, device) = state().await;
        assert_eq!((own.is_some(), other.is_some(), detour), (ingress.is_some(), egress.is_some(), egress.is_some()));
        assert_eq!(device.is_some_and(|device| device.up), egress.is_some());
        let is = |found: Option<Found>, wanted: Option<u64>| match (found, wanted) {
            (Some(found), Some(rate)) => found.is(&Bucket { rate: rate / 8, burst: 50_000, peak: None }),
            (found, wanted) => found.is_none() && wanted.is_none(),
        };
        assert!(is(own, ingress) && is(other, egress), "{ingress:?} {egress:?}: {own:?} {other:?}");
    }
    let limited = with(Some(1_000_000), Some(6_000_000));
    let before = state().await;
    assert_eq!(keeper(&node).keep(&limited, &Scope::All).await, Findings::default());
    assert_eq!(state().await, before, "a restart touches nothing");

    // Others take them away.
    let link = node.net.link(&interface).await.expect("read").expect("there");
    node.net.remove_bucket(link.index).await.expect("removed");
    assert_eq!(first.keep(&limited, &Scope::All).await.repairs.len(), 1);
    node.net.remove_detour(link.index).await.expect("removed");
    assert_eq!(first.keep(&limited, &Scope::All).await.repairs.len(), 1);
    assert_eq!(state().await.0, before.0);
    assert!(state().await.2);

    // No limit any more; then again, until the pod goes.
    assert_eq!(first.keep(&wanted(), &Scope::All).await, Findings::default());
    assert_eq!(state().await, (None, None, false, None));
    first.keep(&limited, &Scope::All).await;
    node.del("c1", &web).await;
    assert_eq!(node.net.link(&device).await.expect("read"), None, "DEL takes the device along");
}

#[tokio::test]
async fn devices_of_pods_that_are_gone_are_swept() {
    let (node, _web, interface) = one_pod().await;
    let stray = "tifb0123456789a";
    node.net.create_ifb(stray, 1500).await.expect("a device");
    node.net.create_ifb("tifb-mine", 1500).await.expect("another's device");
    let limited = Wanted {
        bandwidth: BTreeMap::from([(interface.clone(), Bandwidth { ingress: None, egress: Some(limit(1_000_000)) })]),
        ..wanted()
    };
    let findings = keeper(&node).keep(&limited, &Scope::All).await;
    assert_eq!(findings, Findings::default());
    assert_eq!(node.net.link(stray).await.expect("read"), None);
    assert!(node.net.link("tifb-mine").await.expect("read").is_some());
    assert!(node.net.link(&interface.replace("cali", "tifb")).await.expect("read").is_some());
}

#[tokio::test]
async fn a_strict_reverse_path_check_is_told_of_where_it_drops_what_is_allowed() {
    let (node, _web, interface) = one_pod().await;
    let wanted = Wanted { foreign_sources: BTreeSet::from([interface.clone()]), ..wanted() };
    let rp_filter = format!("net/ipv4/conf/{interface}/rp_filter");
    sysctl::set_in(&node.netns, &[(&rp_filter, "1"), ("net/ipv4/conf/all/rp_filter", "0")]).expect("set");
    let mut keeper = keeper(&node);
    assert_eq!(keeper.keep(&wanted, &Scope::All).await, Findings::default());
    assert_eq!(node.netns.run(|| sysctl::get(&rp_filter)).expect("entered").expect("read"), "0");
    sysctl::set_in(&node.netns, &[("net/ipv4/conf/all/rp_filter", "1")]).expect("set");
    let problems = keeper.keep(&wanted, &Scope::All).await.problems;
    assert!(
        problems.len() == 1 && problems[0].contains("pod web/web: net.ipv4.conf.all.rp_filter is 1"),
        "{problems:?}"
    );
}
