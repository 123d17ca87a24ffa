//! What `explain` says, and what packets do: for every pair of pods, and from outside, on every port that any of them has, and by ping.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol as SocketProtocol, Socket, Type};
use tortie_api::Object;
use tortie_api::k8s::{PodIp, Protocol};
use tortie_datastore::manifests;
use tortie_nft::Family;
use tortie_policy::matrix::Verdict;
use tortie_policy::offline::Offline;
use tortie_policy::oracle::{End, Question, Traffic};
use tortie_tests::lab::{Lab, Pair};
use tortie_tests::stream::inside;

use crate::cluster::Places;
use crate::talk::echo_request;

/// What is asked about, besides pings.
const PORTS: &str = "TCP/80,TCP/5432,UDP/53";
const ASKED: [(Protocol, u16); 3] = [(Protocol::Tcp, 80), (Protocol::Tcp, 5432), (Protocol::Udp, 53)];

/// How a ping is called in a pair.
const PING: (&str, u16) = ("ICMP", 8);

const OUTSIDE: &str = "outside";

/// The objects of files, with the addresses that pods have in the lab.
pub(crate) fn objects(files: &[PathBuf], places: &Places) -> Vec<Object> {
    let loaded = manifests::load(files);
    assert!(!loaded.has_errors(), "{:#?}", loaded.problems);
    let mut objects: Vec<Object> = loaded.objects.into_iter().map(|(object, _)| object).collect();
    for object in &mut objects {
        if let Object::Pod(pod) = object {
            let name = format!("{}/{}", pod.metadata.namespace.as_deref().unwrap_or("default"), pod.metadata.name);
            pod.status.pod_ips = vec![PodIp { ip: places.ip(&name).into() }];
        }
    }
    objects
}

/// The verdict of each pair by `explain`.
pub(crate) fn explained(objects: &[Object], places: &Places) -> BTreeMap<Pair, String> {
    let offline = Offline::new(objects);
    let mut verdicts = BTreeMap::new();
    let mut senders = places.names();
    senders.push(OUTSIDE);
    for from in senders {
        for to in places.names() {
            let ports = ASKED.map(|(protocol, port)| (protocol.as_str(), port, Traffic::to_port(protocol, port)));
            for (protocol, port, traffic) in ports.into_iter().chain([(PING.0, PING.1, Traffic::ping(Family::V4))]) {
                let end = |who: &str| match who {
                    OUTSIDE => End::Address(IpAddr::V4(places.outside)),
                    pod => pod.parse().expect("NAMESPACE/POD"),
                };
                let question = Question { from: end(from), to: end(to), traffic, family: Some(Family::V4) };
                let verdict = offline.explain(&question).expect("an answer").verdict;
                let word = if verdict == Verdict::Allow { "allow" } else { "deny" };
                verdicts.insert((from.to_owned(), to.to_owned(), protocol.to_owned(), port), word.to_owned());
            }
        }
    }
    verdicts
}

/// The verdict of each pair by packets.
pub(crate) fn probed(lab: &Lab, places: &Places) -> BTreeMap<Pair, String> {
    let mut verdicts = lab.probe(&["--ports", PORTS]);
    verdicts.extend(lab.probe(&["--from", OUTSIDE, "--ports", PORTS]));
    let fabric = lab.json(&["lab", "ps"])["outside"]["netns"].as_str().expect("a name").to_owned();
    let senders = places.names().into_iter().map(|pod| (pod, places.netns(pod))).chain([(OUTSIDE, fabric.as_str())]);
    std::thread::scope(|scope| {
        let pings: Vec<_> = senders
            .flat_map(|(from, netns)| places.names().into_iter().map(move |to| (from, netns, to)))
            .map(|(from, netns, to)| (from, to, scope.spawn(move || is_reached(netns, places.ip(to)))))
            .collect();
        for (from, to, ping) in pings {
            let word = if ping.join().expect("a ping") { "allow" } else { "deny" };
            verdicts.insert((from.to_owned(), to.to_owned(), PING.0.to_owned(), PING.1), word.to_owned());
        }
    });
    verdicts
}

/// Whether any of a few pings is answered.
fn is_reached(netns: &str, address: Ipv4Addr) -> bool {
    static IDS: std::sync::atomic::AtomicU16 = std::sync::atomic::AtomicU16::new(0x4000);
    let id = IDS.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let socket =
        inside(netns, || Socket::new(Domain::IPV4, Type::RAW, Some(SocketProtocol::ICMPV4)).expect("a raw socket"));
    socket.set_read_timeout(Some(Duration::from_millis(100))).expect("a timeout");
    (0..3).any(|sequence| {
        // An own hook that denies it says so at once.
        let _ = socket.send_to(&echo_request(id, sequence), &SocketAddr::from((address, 0)).into());
        let asked = Instant::now();
        let mut bytes = [0; 256];
        while asked.elapsed() < Duration::from_millis(700) {
            let Ok(1..) = (&socket).read(&mut bytes) else { continue };
            let header = usize::from(bytes[0] & 15) * 4;
            if let Some([0, 0, _, _, a, b, ..]) = bytes.get(header..header + 8)
                && u16::from_be_bytes([*a, *b]) == id
            {
                return true;
            }
        }
        false
    })
}

/// What a file says must become of some pairs: lines such as `# deny dev/api -> shop/web TCP/80`.
pub(crate) fn expected(file: &Path) -> BTreeMap<Pair, String> {
    let text = std::fs::read_to_string(file).expect("a file");
    let lines = text.lines().filter_map(|line| {
        let words: Vec<&str> = line.strip_prefix("# ")?.split_whitespace().collect();
        let [verdict @ ("allow" | "deny"), from, "->", to, service] = words[..] else { return None };
        let (protocol, port) = match service.split_once('/') {
            Some((protocol, port)) => (protocol, port.parse().expect("a port")),
            None => PING,
        };
        Some(((from.to_owned(), to.to_owned(), protocol.to_owned(), port), verdict.to_owned()))
    });
    let expected: BTreeMap<Pair, String> = lines.collect();
    assert!(!expected.is_empty(), "{} expects nothing", file.display());
    expected
}

/// Holds what was explained against packets, and both against what is expected.
pub(crate) fn agree(
    what: &str,
    lab: &Lab,
    places: &Places,
    explained: &BTreeMap<Pair, String>,
    expected: &BTreeMap<Pair, String>,
) {
    let probed = probed(lab, places);
    let asked: BTreeSet<&Pair> = explained.keys().chain(probed.keys()).collect();
    let differ: Vec<String> = asked
        .into_iter()
        .filter(|pair| explained.get(*pair) != probed.get(*pair))
        .map(|pair| format!("{pair:?}: explained {:?}, packets {:?}", explained.get(pair), probed.get(pair)))
        .collect();
    assert!(differ.is_empty(), "{what}:\n{}", differ.join("\n"));
    for (pair, verdict) in expected {
        assert_eq!(probed.get(pair), Some(verdict), "{what}: {pair:?}");
    }
}
