//! kube-proxy, by iptables and by nftables: its rules as it writes them, and ours beside them.

use std::net::IpAddr;

use serde_json::{Value, json};
use tortie_tests::kernel;
use tortie_tests::lab::Lab;

use super::{namespace, node, outside, place, pod, until, who, with_firewalls};

/// A Service's address, and the port that every node has for it.
const VIP: &str = "10.96.0.10";
const NODE_PORT: u16 = 30080;

/// `server` accepts the pod `here`, itself, and the world outside.
fn policy(fabric: &str) -> Value {
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "server", "namespace": "near"},
    "spec": {"podSelector": {"matchLabels": {"app": "server"}},
        "ingress": [{"from": [
            {"podSelector": {"matchLabels": {"app": "here"}}},
            {"ipBlock": {"cidr": fabric}},
        ]}]}})
}

/// What kube-proxy writes in iptables mode for the Service, in the order in which it writes it. The chains' names are hashes there.
fn by_iptables(server: IpAddr) -> String {
    format!(
        "\
*filter
:KUBE-EXTERNAL-SERVICES - [0:0]
:KUBE-FIREWALL - [0:0]
:KUBE-FORWARD - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-PROXY-FIREWALL - [0:0]
:KUBE-SERVICES - [0:0]
-A INPUT -m conntrack --ctstate NEW -m comment --comment \"kubernetes load balancer firewall\" -j KUBE-PROXY-FIREWALL
-A INPUT -m comment --comment \"kubernetes health check service ports\" -j KUBE-NODEPORTS
-A INPUT -m conntrack --ctstate NEW -m comment --comment \"kubernetes externally-visible service portals\" -j KUBE-EXTERNAL-SERVICES
-A INPUT -j KUBE-FIREWALL
-A FORWARD -m conntrack --ctstate NEW -m comment --comment \"kubernetes load balancer firewall\" -j KUBE-PROXY-FIREWALL
-A FORWARD -m comment --comment \"kubernetes forwarding rules\" -j KUBE-FORWARD
-A FORWARD -m conntrack --ctstate NEW -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-A FORWARD -m conntrack --ctstate NEW -m comment --comment \"kubernetes externally-visible service portals\" -j KUBE-EXTERNAL-SERVICES
-A OUTPUT -m conntrack --ctstate NEW -m comment --comment \"kubernetes load balancer firewall\" -j KUBE-PROXY-FIREWALL
-A OUTPUT -m conntrack --ctstate NEW -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-A OUTPUT -j KUBE-FIREWALL
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
-A KUBE-FORWARD -m comment --comment \"kubernetes forwarding rules\" -m mark --mark 0x4000/0x4000 -j ACCEPT
-A KUBE-FORWARD -m comment --comment \"kubernetes forwarding conntrack rule\" -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A KUBE-SERVICES -d 10.96.0.99/32 -p tcp -m comment --comment \"near/gone has no endpoints\" -m tcp --dport 80 -j REJECT --reject-with icmp-port-unreachable
COMMIT
*nat
:KUBE-MARK-MASQ - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-EXT-SERVER - [0:0]
:KUBE-SVC-SERVER - [0:0]
:KUBE-SEP-SERVER - [0:0]
-A PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-A OUTPUT -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-A POSTROUTING -m comment --comment \"kubernetes postrouting rules\" -j KUBE-POSTROUTING
-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0
-A KUBE-POSTROUTING -m comment --comment \"kubernetes service traffic requiring SNAT\" -j MASQUERADE --random-fully
-A KUBE-SERVICES -d {VIP}/32 -p tcp -m comment --comment \"near/server cluster IP\" -m tcp --dport 80 -j KUBE-SVC-SERVER
-A KUBE-SERVICES -m comment --comment \"kubernetes service nodeports; NOTE: this must be the last rule in this chain\" -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
-A KUBE-NODEPORTS -p tcp -m comment --comment near/server -m tcp --dport {NODE_PORT} -j KUBE-EXT-SERVER
-A KUBE-EXT-SERVER -m comment --comment \"masquerade traffic for near/server external destinations\" -j KUBE-MARK-MASQ
-A KUBE-EXT-SERVER -j KUBE-SVC-SERVER
-A KUBE-SVC-SERVER ! -s 10.244.0.0/16 -d {VIP}/32 -p tcp -m comment --comment \"near/server cluster IP\" -m tcp --dport 80 -j KUBE-MARK-MASQ
-A KUBE-SVC-SERVER -m comment --comment \"near/server -> {server}:80\" -j KUBE-SEP-SERVER
-A KUBE-SEP-SERVER -s {server}/32 -m comment --comment near/server -j KUBE-MARK-MASQ
-A KUBE-SEP-SERVER -p tcp -m comment --comment near/server -m tcp -j DNAT --to-destination {server}:80
COMMIT
"
    )
}

/// What kube-proxy writes in nftables mode for the Service.
fn by_nftables(server: IpAddr, node: IpAddr) -> String {
    format!(
        "\
table ip kube-proxy {{
    comment \"rules for kube-proxy\"
    set cluster-ips {{ type ipv4_addr; comment \"Active ClusterIPs\"; elements = {{ {VIP}, 10.96.0.99 }}; }}
    set nodeport-ips {{ type ipv4_addr; comment \"IPs that accept NodePort traffic\"; elements = {{ {node} }}; }}
    map no-endpoint-services {{ type ipv4_addr . inet_proto . inet_service : verdict; elements = {{ 10.96.0.99 . tcp . 80 : goto reject-chain }}; }}
    map service-ips {{ type ipv4_addr . inet_proto . inet_service : verdict; elements = {{ {VIP} . tcp . 80 : goto service-SERVER }}; }}
    map service-nodeports {{ type inet_proto . inet_service : verdict; elements = {{ tcp . {NODE_PORT} : goto external-SERVER }}; }}
    chain filter-prerouting {{ type filter hook prerouting priority -110; policy accept; ct state new jump firewall-check; }}
    chain filter-input {{ type filter hook input priority -110; policy accept; ct state new jump nodeport-endpoints-check; ct state new jump service-endpoints-check; }}
    chain filter-forward {{ type filter hook forward priority -110; policy accept; ct state new jump service-endpoints-check; ct state new jump cluster-ips-check; }}
    chain filter-output {{ type filter hook output priority -110; policy accept; ct state new jump service-endpoints-check; ct state new jump firewall-check; }}
    chain filter-output-post-dnat {{ type filter hook output priority -90; policy accept; ct state new jump cluster-ips-check; }}
    chain nat-prerouting {{ type nat hook prerouting priority -100; policy accept; jump services; }}
    chain nat-output {{ type nat hook output priority -100; policy accept; jump services; }}
    chain nat-postrouting {{ type nat hook postrouting priority 100; policy accept; jump masquerading; }}
    chain firewall-check {{ }}
    chain nodeport-endpoints-check {{ }}
    chain service-endpoints-check {{ ip daddr . meta l4proto . th dport vmap @no-endpoint-services }}
    chain cluster-ips-check {{ ip daddr @cluster-ips reject comment \"Reject traffic to invalid ports of ClusterIPs\" }}
    chain reject-chain {{ reject; }}
    chain services {{
        ip daddr . meta l4proto . th dport vmap @service-ips
        ip daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports
    }}
    chain mark-for-masquerade {{ meta mark set meta mark | 0x4000; }}
    chain masquerading {{ meta mark & 0x4000 == 0 return; meta mark set meta mark ^ 0x4000; masquerade fully-random; }}
    chain external-SERVER {{ jump mark-for-masquerade; goto service-SERVER; }}
    chain service-SERVER {{
        ip daddr {VIP} tcp dport 80 ip saddr != 10.244.0.0/16 jump mark-for-masquerade
        goto endpoint-SERVER
    }}
    chain endpoint-SERVER {{ ip saddr {server} jump mark-for-masquerade; meta l4proto tcp dnat to {server}:80; }}
}}
"
    )
    // nft wants the end of a rule before the end of its chain.
    .replace(" }\n", "\n }\n")
}

/// What each client gets by way of the Service.
fn check(lab: &Lab, how: &str) {
    let vip: IpAddr = VIP.parse().expect("an address");
    let (node1, node_ip) = node(lab, "node1");
    let server = "near/server";
    let answer = |netns: &str, ip, port| who(netns, ip, port).map(|name| name.contains("server"));
    let got = |who: &str| answer(&place(lab, who).0, vip, 80);
    assert_eq!(got("here"), Some(true), "{how}: an allowed pod reaches {server} by its Service");
    assert_eq!(got("other"), None, "{how}: a pod that is not allowed must not reach {server} by its Service");
    assert_eq!(got("server"), Some(true), "{how}: a pod reaches itself by its Service");
    assert_eq!(answer(&node1, vip, 80), Some(true), "{how}: the node reaches {server} by its Service");
    assert_eq!(
        answer(&outside(lab), node_ip, NODE_PORT),
        Some(true),
        "{how}: the world reaches {server} by the node's port"
    );
}

/// The marks of all flows that the node knows.
fn flow_marks(netns: &str) -> Vec<u32> {
    let listing = kernel::run(netns, "conntrack", &["-L"]);
    let marks = listing.split_whitespace().filter_map(|word| word.strip_prefix("mark="));
    marks.map(|mark| mark.parse().expect("a number")).collect()
}

fn with_services(title: &str, rules: impl Fn(&super::Host, IpAddr, IpAddr)) {
    let documents =
        [namespace(), pod("here", "node1"), pod("other", "node1"), pod("server", "node1"), pod("there", "node2")];
    let lab = Lab::up(title, &documents, &["--nodes", "2"]);
    let (host, agents) = with_firewalls(&lab, "nft");
    let (netns, node_ip) = node(&lab, "node1");
    let server = *place(&lab, "server").1.iter().find(|ip| ip.is_ipv4()).expect("an IPv4 address");
    // The way back from a Service's address that no route leads to.
    kernel::run(&netns, "ip", &["route", "replace", "10.96.0.0/12", "dev", "lo"]);
    rules(&host, server, node_ip);
    let fabric = "172.31.0.1/32";
    lab.apply(&[policy(fabric)]);
    let listing = || {
        let text = kernel::run(&netns, "nft", &["list", "ruleset"]);
        // Without our own table, and without what counters count.
        let foreign = text.split("table inet tortie").next().unwrap_or_default().to_owned();
        foreign.split_whitespace().filter(|word| word.parse::<u64>().is_err()).collect::<Vec<_>>().join(" ")
    };
    let before = listing();
    check(&lab, title);
    // Where iptables would drop, our rules go in, and what kube-proxy rejects is still rejected.
    host.run(&["iptables-nft", "-P", "FORWARD", "DROP"]);
    until("our rules are there", || host.run(&["iptables-nft", "-S", "FORWARD"]).matches("Tortie").count() == 2);
    check(&lab, &format!("{title}, and a policy that drops"));
    let gone: IpAddr = "10.96.0.99".parse().expect("an address");
    let started = std::time::Instant::now();
    assert_eq!(who(&place(&lab, "here").0, gone, 80), None);
    assert!(started.elapsed().as_millis() < 1400, "{title}: a Service without endpoints is refused, not silent");
    // Our stamp is in the upper half of the flows' marks; the lower half, and the packets' marks, are kube-proxy's.
    let marks = flow_marks(&netns);
    assert!(marks.iter().any(|mark| mark & 0xffff_0000 != 0), "{title}: no flow is stamped: {marks:x?}");
    assert!(marks.iter().all(|mark| mark.trailing_zeros() >= 16), "{title}: bits of others are set: {marks:x?}");
    host.run(&["iptables-nft", "-P", "FORWARD", "ACCEPT"]);
    drop(agents);
    let after = listing();
    for word in before.split("chain").filter(|part| part.contains("KUBE") || part.contains("service")) {
        assert!(after.contains(word), "{title}: what kube-proxy wrote has changed: {word}");
    }
}

#[test]
fn kube_proxy_by_iptables() {
    with_services("kubeipt", |host, server, _| {
        host.script(&format!("iptables-nft-restore --noflush <<'RULES'\n{}RULES\n", by_iptables(server)));
    });
}

#[test]
fn kube_proxy_by_nftables() {
    with_services("kubenft", |host, server, node| {
        host.script(&format!("nft -f - <<'RULES'\n{}RULES\n", by_nftables(server, node)));
    });
}
