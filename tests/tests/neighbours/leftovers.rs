//! What Calico and flannel leave on a node: named by the agent, removed by `tortie node clean`, and nothing else with it.

use std::path::Path;

use serde_json::Value;
use tortie_tests::host::Host;
use tortie_tests::kernel;
use tortie_tests::lab::{array, tortie};

use super::{lab, open, problems, until, with_firewalls};

/// What the two write in their time, and beside it what is not theirs.
const LEFT: &str = r#"
for b in nft legacy; do for p in iptables ip6tables; do
    $p-$b -N cali-FORWARD; $p-$b -N cali-from-wl-dispatch; $p-$b -N FLANNEL-FWD; $p-$b -N califlower
    $p-$b -A FORWARD -m comment --comment "cali:wUHhoiAYhphO9Mso" -j cali-FORWARD
    $p-$b -A FORWARD -m comment --comment "cali:S93hcgKJrXEqnTfs" -m comment --comment "Policy explicitly accepted packet." -m mark --mark 0x10000/0x10000 -j ACCEPT
    $p-$b -A FORWARD -m comment --comment "flanneld forward" -j FLANNEL-FWD
    $p-$b -A FORWARD -p tcp --dport 4443 -m comment --comment "not calico, nor cali:" -j ACCEPT
    $p-$b -A cali-FORWARD -j cali-from-wl-dispatch
    $p-$b -t nat -N cali-nat-outgoing
    $p-$b -t nat -A POSTROUTING -m comment --comment "cali:O3lYWMrLQYEMJtB5" -j cali-nat-outgoing
done; done
ipset create cali40masq-ipam-pools hash:net
ipset create cali60all-ipam-pools hash:net family inet6
ipset create callers hash:ip
iptables-legacy -t nat -A cali-nat-outgoing -m set --match-set cali40masq-ipam-pools src -j MASQUERADE
nft add table ip calico; nft add table ip6 calico; nft add table inet calico; nft add chain ip calico x
nft add table ip flannel-ipv4; nft add table ip6 flannel-ipv6; nft add table ip calicoid
ip link add vxlan.calico type vxlan id 4096 dstport 14789 dev lo; ip link set vxlan.calico up
ip link add flannel.1 type vxlan id 1 dstport 18472 dev lo
ip link add cni0 type bridge; ip link add br0 type bridge
ip link add califoreign type veth peer name foreign0
ip link add tunl0 type veth peer name tunl0peer; ip link set tunl0 up; ip link set tunl0peer up
ip addr add 10.99.0.1/32 dev tunl0; ip addr add 10.98.0.1/24 dev tunl0
ip route add 10.99.1.0/26 dev tunl0 proto bird
ip route add 10.99.2.0/26 dev lo proto bird
"#;

fn clean(host: &Host, flags: &[&str]) -> (Value, String) {
    let program = tortie().display().to_string();
    let mut words = host.prefix();
    words.extend([program, "node".into(), "clean".into(), "-o".into(), "json".into()]);
    words.extend(flags.iter().map(|flag| (*flag).to_owned()));
    let output = std::process::Command::new(&words[0]).args(&words[1..]).output().expect("tortie runs");
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    (serde_json::from_slice(&output.stdout).unwrap_or_default(), errors)
}

/// What is there of what nobody may touch, and the lines that bear a name of the two.
fn traces(host: &Host) -> String {
    let script = "for b in nft legacy; do for p in iptables ip6tables; do for t in filter nat; do $p-$b -t $t -S; done; done; done; ipset list -n; nft list tables; ip -o link; ip -o addr show dev tunl0; ip route";
    host.script(script)
}

#[test]
fn are_named_and_removed_and_nothing_else() {
    let lab = lab("left");
    let (host, agents) = with_firewalls(&lab, "nft");
    host.script(LEFT);
    let root = lab.scratch("root");
    let write = |path: &str, text: &str| {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        std::fs::write(path, text).expect("a file");
    };
    write("etc/cni/net.d/10-calico.conflist", r#"{"name": "k8s-pod-network", "plugins": [{"type": "calico"}]}"#);
    write("etc/cni/net.d/10-flannel.conflist", r#"{"name": "cbr0", "plugins": [{"type": "flannel"}]}"#);
    write("etc/cni/net.d/20-other.conflist", r#"{"name": "other", "plugins": [{"type": "bridge"}]}"#);
    write("run/flannel/subnet.env", "FLANNEL_NETWORK=10.244.0.0/16\n");
    write("var/lib/cni/networks/cbr0/10.244.0.2", "x");
    write("var/lib/cni/networks/podman/10.88.0.2", "x");
    let root = root.display().to_string();
    let before = traces(&host);

    // An agent that starts here says so.
    let mut agents = agents;
    super::restart_by(&lab, &mut agents, &host.prefix());
    let named = |owner: &str| problems(&lab).iter().any(|problem| problem.starts_with(&format!("{owner} left ")));
    until("the agent names them", || named("Calico") && named("flannel"));

    let (listed, _) = clean(&host, &["--dry-run", "--host-root", &root]);
    assert!(array(&listed).iter().all(|row| row["result"] == "found"), "{listed:#}");
    assert_eq!(traces(&host), before, "a dry run removes");
    let (removed, errors) = clean(&host, &["--host-root", &root]);
    assert!(array(&removed).len() > 20, "{removed:#}");
    assert!(array(&removed).iter().all(|row| row["result"] == "removed"), "{removed:#}\n{errors}");

    let after = traces(&host);
    for name in [
        "cali-",
        "FLANNEL",
        "flannel",
        "cali:w",
        "cali:S",
        "cali:O",
        "cali40",
        "cali60",
        "vxlan.calico",
        "cni0",
        "10.99.0.1",
        "10.99.1.0",
    ] {
        assert!(before.contains(name) && !after.contains(name), "{name} is left\n{after}");
    }
    for name in [
        "califlower",
        "not calico, nor cali:",
        "callers",
        "calicoid",
        "br0",
        "califoreign",
        "10.98.0.1/24",
        "10.99.2.0/26",
    ] {
        assert!(after.contains(name), "{name} is gone\n{after}");
    }
    let left = |path: &str| Path::new(&root).join(path).exists();
    assert!(!left("etc/cni/net.d/10-calico.conflist") && !left("etc/cni/net.d/10-flannel.conflist"));
    assert!(!left("var/lib/cni/networks/cbr0") && !left("run/flannel"));
    assert!(left("etc/cni/net.d/20-other.conflist") && left("var/lib/cni/networks/podman/10.88.0.2"));
    assert!(open(&lab), "the pods of ours are untouched");
    assert!(!kernel::objects(&agents[0].netns).is_empty(), "our table is untouched");
    let (nothing, errors) = clean(&host, &["--host-root", &root]);
    assert_eq!(array(&nothing).len(), 0, "{nothing:#}\n{errors}");
}
