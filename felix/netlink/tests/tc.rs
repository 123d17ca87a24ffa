//! Token buckets, the detour and the kernel's announcements of settings, in namespaces that end with the test. Needs root.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use tortie_felix_netlink::tc::{Bucket, Disciplines, HANDLE};
use tortie_felix_netlink::{Net, Netconf, NetconfMonitor, Netns, VethSpec, netns, sysctl};

/// Two namespaces with a veth between them: `veth0` 10.9.0.1 here, `eth0` 10.9.0.2 there.
struct Pair {
    here: Netns,
    net: Net,
    index: u32,
    there: Netns,
}

async fn pair() -> Pair {
    let (here, there) = (netns::anonymous().expect("a namespace"), netns::anonymous().expect("a namespace"));
    let net = Net::in_netns(&here).expect("a handle");
    let spec =
        VethSpec { name: "veth0".into(), peer_name: "eth0".into(), peer_netns: Some(&there), ..VethSpec::default() };
    let index = net.create_veth(spec).await.expect("a veth");
    let other = Net::in_netns(&there).expect("a handle");
    let end = other.link("eth0").await.expect("read").expect("the peer");
    for (net, index, address) in [(&net, index, "10.9.0.1/24"), (&other, end.index, "10.9.0.2/24")] {
        net.set_up(index).await.expect("up");
        net.add_address(index, address.parse().expect("an address")).await.expect("an address");
    }
    Pair { here, net, index, there }
}

impl Pair {
    async fn disciplines(&self, index: u32) -> Disciplines {
        let all = self.net.disciplines().await.expect("read");
        all.into_iter().find(|(of, _)| *of == index).map(|(_, disciplines)| disciplines).unwrap_or_default()
    }
}

fn tc(netns: &Netns, arguments: &[&str]) -> String {
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/peers/bin").to_owned();
    let path = format!("{}/tc", std::env::var("TORTIE_PEERS").unwrap_or(default));
    assert!(std::path::Path::new(&path).exists(), "{path} is missing: run `make peers`");
    let output = netns.run(|| Command::new(path).args(arguments).output()).expect("entered").expect("ran");
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// How long `bytes` take from one namespace to an address in the other.
fn transfer(from: &Netns, to: &Netns, address: IpAddr, bytes: usize) -> Duration {
    let listener = to.run(|| TcpListener::bind(SocketAddr::new(address, 0))).expect("entered").expect("bound");
    let port = listener.local_addr().expect("bound").port();
    let mut stream = from.run(|| TcpStream::connect((address, port))).expect("entered").expect("connected");
    let (mut accepted, _) = listener.accept().expect("accepted");
    std::thread::scope(|scope| {
        let start = Instant::now();
        scope.spawn(move || {
            stream.set_write_timeout(Some(Duration::from_secs(60))).expect("a timeout");
            stream.write_all(&vec![7; bytes]).expect("written");
        });
        accepted.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
        let mut received = Vec::new();
        accepted.read_to_end(&mut received).expect("read");
        assert_eq!(received.len(), bytes);
        start.elapsed()
    })
}

#[tokio::test]
async fn a_bucket_is_set_known_changed_and_removed() {
    let pair = pair().await;
    assert_eq!(pair.disciplines(pair.index).await.bucket, None);
    let buckets = [
        Bucket { rate: 1_250_000, burst: 125_000, peak: None },
        Bucket { rate: 2_500_000, burst: 536_870_912, peak: None },
        Bucket { rate: 125, burst: 4_294_967_295, peak: None },
        Bucket { rate: 2_500_000, burst: 64_000, peak: Some((5_000_000, 9000)) },
        Bucket { rate: 125_000_000_000_000, burst: 1_000_000, peak: None },
        Bucket { rate: 12_500_000_000, burst: 100_000, peak: Some((13_000_000_000, 2000)) },
    ];
    for bucket in buckets {
        pair.net.set_bucket(pair.index, &bucket).await.expect("set");
        let found = pair.disciplines(pair.index).await.bucket.expect("a bucket");
        assert!(found.is(&bucket), "{bucket:?}: {found:?}");
        for other in buckets.iter().filter(|other| **other != bucket) {
            assert!(!found.is(other), "{found:?} is not {other:?}");
        }
    }
    pair.net.set_bucket(pair.index, &buckets[0]).await.expect("set");
    let text = tc(&pair.here, &["qdisc", "show", "dev", "veth0"]);
    assert!(
        text.contains(&format!("qdisc tbf {HANDLE:x}: root")) && text.contains("rate 10Mbit burst 125000b"),
        "{text}"
    );
    pair.net.remove_bucket(pair.index).await.expect("removed");
    assert_eq!(pair.disciplines(pair.index).await, Disciplines::default());

    // Somebody else's bucket is none of ours.
    tc(
        &pair.here,
        &["qdisc", "add", "dev", "veth0", "root", "tbf", "rate", "10mbit", "burst", "125kb", "latency", "25ms"],
    );
    assert_eq!(pair.disciplines(pair.index).await.bucket, None);
    assert!(pair.net.remove_bucket(pair.index).await.is_err());
    assert!(tc(&pair.here, &["qdisc", "show", "dev", "veth0"]).contains("tbf"));
}

#[tokio::test]
async fn what_comes_in_is_turned_to_another_device_and_back() {
    let pair = pair().await;
    assert_eq!(pair.net.detour(pair.index).await.expect("read"), None);
    let first = pair.net.create_ifb("tifb0", 1400).await.expect("an ifb");
    let second = pair.net.create_ifb("tifb1", 1400).await.expect("an ifb");
    assert_eq!(pair.net.link("tifb0").await.expect("read").expect("there").mtu, 1400);
    for target in [first, second, second] {
        pair.net.set_detour(pair.index, target).await.expect("set");
        assert_eq!(pair.net.detour(pair.index).await.expect("read"), Some(target));
        assert!(pair.disciplines(pair.index).await.ingress);
    }
    // The target is down: nothing passes. Up, everything passes and enters by the veth.
    pair.net.set_up(second).await.expect("up");
    transfer(&pair.there, &pair.here, "10.9.0.1".parse().expect("an address"), 100_000);
    pair.net.remove_detour(pair.index).await.expect("removed");
    pair.net.remove_detour(pair.index).await.expect("it is gone already");
    assert_eq!(pair.net.detour(pair.index).await.expect("read"), None);
    transfer(&pair.there, &pair.here, "10.9.0.1".parse().expect("an address"), 100_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rate_is_what_the_bucket_says_in_both_directions() {
    const BYTES: usize = 3_000_000;
    let pair = pair().await;
    let bucket = Bucket { rate: 2_000_000, burst: 50_000, peak: None };
    let ifb = pair.net.create_ifb("tifb0", 1500).await.expect("an ifb");
    pair.net.set_up(ifb).await.expect("up");
    pair.net.set_bucket(pair.index, &bucket).await.expect("set");
    pair.net.set_bucket(ifb, &bucket).await.expect("set");
    pair.net.set_detour(pair.index, ifb).await.expect("set");
    let (here, there) = ("10.9.0.1".parse().expect("an address"), "10.9.0.2".parse().expect("an address"));
    // 1.5 s at the rate, in which headers count too. A busy machine takes longer; nothing makes it faster.
    let out = transfer(&pair.here, &pair.there, there, BYTES);
    assert!((1.2..20.0).contains(&out.as_secs_f64()), "out: {out:?}");
    let back = transfer(&pair.there, &pair.here, here, BYTES);
    assert!((1.2..20.0).contains(&back.as_secs_f64()), "in: {back:?}");
    pair.net.set_bucket(pair.index, &Bucket { rate: 500_000_000, ..bucket }).await.expect("set");
    assert!(transfer(&pair.here, &pair.there, there, BYTES) < out.max(Duration::from_secs(5)));
}

#[tokio::test]
async fn strangers_changes_of_forwarding_are_announced() {
    let pair = pair().await;
    let mut monitor = NetconfMonitor::in_netns(&pair.here).expect("a monitor");
    let wait = Duration::from_secs(20);
    for (setting, value, expected) in [
        ("net/ipv4/conf/veth0/forwarding", "1", Netconf::Interface(pair.index)),
        ("net/ipv4/conf/veth0/rp_filter", "1", Netconf::Interface(pair.index)),
        ("net/ipv6/conf/veth0/forwarding", "1", Netconf::Interface(pair.index)),
        ("net/ipv4/ip_forward", "1", Netconf::All),
        ("net/ipv6/conf/all/forwarding", "1", Netconf::All),
        ("net/ipv4/conf/default/rp_filter", "2", Netconf::Default),
    ] {
        sysctl::set_in(&pair.here, &[(setting, value)]).expect("set");
        let found = async { while monitor.next().await.expect("a change") != expected {} };
        tokio::time::timeout(wait, found).await.unwrap_or_else(|_| panic!("{setting}: no announcement"));
    }
    pair.net.set_mtu(pair.index, 1400).await.expect("set");
    let found = async { while monitor.next().await.expect("a change") != Netconf::Link(pair.index) {} };
    tokio::time::timeout(wait, found).await.expect("an announcement");
    assert_eq!(pair.net.link("veth0").await.expect("read").expect("there").mtu, 1400);
}
