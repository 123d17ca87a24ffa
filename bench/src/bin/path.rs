//! What policies cost a packet: a UDP ping-pong between two pods of one node, through the node's rules, where 10 to 10,000
//! NetworkPolicies select the pod that is asked and the last of them allows the flow.
//!
//! The peer is a ruleset of the same meaning as agents write it with iptables: a chain for each policy, asked one after the other until
//! one of them sets a mark, behind a rule that lets established flows pass. Its policies match one address each and need no ipset.
//! The lower bound is the same path without any rules.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, CpuSet, sched_setaffinity, unshare};
use nix::unistd::{Pid, gettid};
use serde_json::json;
use tortie_api::Object;
use tortie_bench::node::{object, pod};
use tortie_bench::{Work, peer, report};
use tortie_nft::interpreter::{Conntrack, FlowState, Interpreter, Packet, Walk};
use tortie_nft::{Direction, HookPoint, Ruleset, Verdict};
use tortie_nft_netlink::NftSocket;
use tortie_policy::{CompileOptions, Compiler, Endpoint, Generation, host_interface};

const POLICIES: [usize; 3] = [10, 1_000, 10_000];
const ROUNDS: usize = 7;
/// Pings of a flow that exists, and flows that are begun, in a round.
const PINGS: usize = 10_000;
const FLOWS: usize = 3_000;
const FIRST_PORT: u16 = 20_000;

const NAMESPACE: &str = "bench";
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 65, 0, 2);
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 65, 0, 3);
const PORT: u16 = 9_000;
const UDP: u8 = 17;

/// Who policy `index` allows: nobody who is there, but for the last one.
fn allowed(index: usize, policies: usize) -> Ipv4Addr {
    let offset = u32::try_from(index).unwrap_or_default();
    if index + 1 == policies { CLIENT } else { Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 66, 0, 0)) + offset) }
}

fn port(index: usize, policies: usize) -> u16 {
    if index + 1 == policies { PORT } else { 1_000 + u16::try_from(index % 500).unwrap_or_default() }
}

fn policy(index: usize, policies: usize) -> Result<Object, String> {
    object(&json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"namespace": NAMESPACE, "name": format!("policy-{index}")},
        "spec": {"podSelector": {"matchLabels": {"app": "server"}}, "policyTypes": ["Ingress"], "ingress": [
            {"from": [{"ipBlock": {"cidr": format!("{}/32", allowed(index, policies))}}],
                "ports": [{"port": port(index, policies), "protocol": "UDP"}]}]}}))
}

/// Our table.
fn ours(policies: usize, count_hits: bool) -> Result<Ruleset, String> {
    let mut compiler = Compiler::new(CompileOptions { count_hits, ..CompileOptions::default() });
    let cluster = compiler.cluster_mut();
    cluster.upsert(&object(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}))?);
    let mut endpoints = Vec::new();
    for (name, ip) in [("client", CLIENT), ("server", SERVER)] {
        cluster.upsert(&pod(NAMESPACE, name, "n0", name, u32::from(ip))?);
        let interface = host_interface(NAMESPACE, name);
        endpoints.push(Endpoint { namespace: NAMESPACE.into(), pod: name.into(), interface, ips: vec![ip.into()] });
    }
    for index in 0..policies {
        cluster.upsert(&policy(index, policies)?);
    }
    compiler.update(&endpoints, Generation::seed(1));
    Ok(compiler.table().clone())
}

/// The same for iptables-restore.
fn theirs(policies: usize) -> String {
    let mut text = String::from("*filter\n:FORWARD ACCEPT\n:forward -\n:to-server -\n");
    let mut rules = format!(
        "-A FORWARD -j forward\n-A forward -o {} -j to-server\n\
         -A to-server -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n\
         -A to-server -m conntrack --ctstate INVALID -j DROP\n\
         -A to-server -j MARK --set-xmark 0x0/0x10000\n",
        host_interface(NAMESPACE, "server")
    );
    for index in 0..policies {
        let (from, port) = (allowed(index, policies), port(index, policies));
        // Writing to a String cannot fail.
        let _ = write!(
            rules,
            "-A to-server -j policy-{index}\n-A to-server -m mark --mark 0x10000/0x10000 -j RETURN\n\
             -A policy-{index} -s {from}/32 -p udp -m udp --dport {port} -j MARK --set-xmark 0x10000/0x10000\n"
        );
        let _ = writeln!(text, ":policy-{index} -");
    }
    text + &rules + "-A to-server -j DROP\nCOMMIT\n"
}

/// How many rules a packet is compared with.
fn met(table: &Ruleset, walk: &Walk, hook: HookPoint) -> usize {
    let bases = table.chains.iter().filter(|(_, chain)| chain.hook.as_ref().is_some_and(|it| it.point == hook));
    let chains: BTreeSet<&str> =
        bases.map(|(name, _)| name.as_str()).chain(walk.steps.iter().map(|step| step.chain.as_str())).collect();
    let compared = chains.into_iter().map(|chain| {
        let leaves =
            |verdict: &Option<Verdict>| matches!(verdict, Some(Verdict::Accept | Verdict::Drop | Verdict::Goto(_)));
        let left = walk.steps.iter().find(|step| step.chain == chain && leaves(&step.verdict));
        left.map_or_else(|| table.chains.get(chain).map_or(0, |chain| chain.rules.len()), |step| step.rule + 1)
    });
    compared.sum()
}

/// The rules met by the first packet of the flow, and by a later one.
fn rules_met(table: &Ruleset) -> Result<[usize; 2], String> {
    let interpreter = Interpreter::new(table).map_err(|error| error.to_string())?;
    let mut packet = Packet {
        iif: host_interface(NAMESPACE, "client"),
        oif: String::new(),
        saddr: CLIENT.into(),
        daddr: SERVER.into(),
        l4proto: UDP,
        sport: Some(FIRST_PORT),
        dport: Some(PORT),
        icmp: None,
        ct: Conntrack::NEW,
        dnat: false,
    };
    let mut pass = |state: FlowState| {
        let mark = packet.ct.mark().unwrap_or_default();
        packet.ct = Conntrack::Flow { state, direction: Direction::Original, mark };
        packet.oif.clear();
        let walk = interpreter.trace(HookPoint::Prerouting, &mut packet);
        let first = met(table, &walk, HookPoint::Prerouting);
        packet.oif = host_interface(NAMESPACE, "server");
        let walk = interpreter.trace(HookPoint::Forward, &mut packet);
        first + met(table, &walk, HookPoint::Forward)
    };
    Ok([pass(FlowState::New), pass(FlowState::Established)])
}

/// A thread in a network namespace of its own, which tells its number, waits for its interface and then works.
fn inhabitant(work: impl FnOnce() + Send + 'static) -> Result<(i32, Sender<()>), String> {
    let (tell, told) = channel();
    let (go, wait) = channel::<()>();
    thread::spawn(move || {
        let unshared = unshare(CloneFlags::CLONE_NEWNET).map_err(|errno| format!("unshare: {errno}; root is needed"));
        let _ = tell.send(unshared.map(|()| gettid().as_raw()));
        if wait.recv().is_ok() {
            work();
        }
    });
    let tid = told.recv().map_err(|error| error.to_string())??;
    Ok((tid, go))
}

fn tool(program: &str, args: &[&str]) -> Result<(), String> {
    let output = Command::new(peer(program)?).args(args).output().map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

/// Gives a pod its interface and its route.
fn wire(name: &str, address: Ipv4Addr, tid: i32) -> Result<(), String> {
    let (host, tid, address) = (host_interface(NAMESPACE, name), tid.to_string(), address.to_string());
    let there = |words: &str| {
        let peer = peer("ip")?;
        let status = Command::new("nsenter")
            .arg(format!("--net=/proc/{tid}/ns/net"))
            .arg(peer)
            .args(words.split(' '))
            .status()
            .map_err(|error| format!("nsenter: {error}"))?;
        if status.success() { Ok(()) } else { Err(format!("ip {words}: {status}")) }
    };
    tool("ip", &["link", "add", &host, "type", "veth", "peer", "name", "eth0", "netns", &tid])?;
    tool("ip", &["link", "set", &host, "up"])?;
    tool("ip", &["address", "add", "169.254.1.1/32", "dev", &host])?;
    tool("ip", &["route", "add", &address, "dev", &host])?;
    there("link set eth0 up")?;
    there(&format!("address add {address}/32 dev eth0"))?;
    there("route add 169.254.1.1 dev eth0 scope link")?;
    there("route add default via 169.254.1.1 dev eth0")
}

fn serve() {
    let Ok(socket) = UdpSocket::bind((SERVER, PORT)) else { return };
    let mut buffer = [0; 64];
    while let Ok((length, from)) = socket.recv_from(&mut buffer) {
        let _ = socket.send_to(&buffer[..length], from);
    }
}

/// One ping and its answer.
fn ping(socket: &UdpSocket) -> Result<(), String> {
    let mut buffer = [0; 64];
    let io = |error: std::io::Error| format!("no answer: {error}");
    socket.send(&[1; 32]).map_err(io)?;
    socket.recv(&mut buffer).map_err(io).map(drop)
}

fn connected(port: u16) -> Result<UdpSocket, String> {
    let open = || {
        let socket = UdpSocket::bind((CLIENT, port))?;
        socket.connect(SocketAddr::from((SERVER, PORT)))?;
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
        Ok::<_, std::io::Error>(socket)
    };
    open().map_err(|error| error.to_string())
}

/// How long the pings of one flow took, and the first ones of many.
fn round() -> Result<[Duration; 2], String> {
    let socket = connected(FIRST_PORT - 1)?;
    for _ in 0..PINGS / 10 {
        ping(&socket)?;
    }
    let start = Instant::now();
    for _ in 0..PINGS {
        ping(&socket)?;
    }
    let established = start.elapsed();
    let mut new = Duration::ZERO;
    for offset in 0..FLOWS {
        let socket = connected(FIRST_PORT + u16::try_from(offset).unwrap_or_default())?;
        let start = Instant::now();
        ping(&socket)?;
        new += start.elapsed();
    }
    Ok([established, new])
}

fn ask(requests: &Receiver<()>, answers: &Sender<Result<[Duration; 2], String>>) {
    while requests.recv().is_ok() && answers.send(round()).is_ok() {}
}

/// Keeps everything on one core: how long another one takes to wake up says nothing of rules.
fn stay_on_one_core() -> Result<(), String> {
    let mut cores = CpuSet::new();
    cores.set(0).map_err(|errno| errno.to_string())?;
    sched_setaffinity(Pid::from_raw(0), &cores).map_err(|errno| format!("sched_setaffinity: {errno}"))
}

/// The ways a node may be ruled.
enum Rules {
    None,
    Ours(Ruleset),
    Iptables { backend: &'static str, text: String },
}

fn restore(backend: &str, text: &str) -> Result<(), String> {
    let program = peer(&format!("iptables-{backend}-restore"))?;
    let mut child = Command::new(program).stdin(Stdio::piped()).spawn().map_err(|error| error.to_string())?;
    child.stdin.take().ok_or("no input")?.write_all(text.as_bytes()).map_err(|error| error.to_string())?;
    let status = child.wait().map_err(|error| error.to_string())?;
    if status.success() { Ok(()) } else { Err(format!("iptables-{backend}-restore: {status}")) }
}

impl Rules {
    fn enforce(&self) -> Result<(), String> {
        match self {
            Self::None => Ok(()),
            Self::Ours(table) => {
                let mut socket = NftSocket::open().map_err(|error| error.to_string())?;
                socket.apply(&Ruleset::default().diff(table)).map(drop).map_err(|error| error.to_string())
            }
            Self::Iptables { backend, text } => restore(backend, text),
        }
    }

    fn lift(&self) -> Result<(), String> {
        match self {
            Self::None => {}
            // Empty chains would cost whoever comes next.
            Self::Ours(_) | Self::Iptables { backend: "nft", .. } => tool("nft", &["flush", "ruleset"])?,
            // This one's empty table stays with the namespace, and costs everybody the same.
            Self::Iptables { backend, .. } => restore(backend, "*filter\n:FORWARD ACCEPT\nCOMMIT\n")?,
        }
        // The next rules shall see flows that are new.
        tool("conntrack", &["-F"])
    }
}

fn main() -> Result<(), String> {
    stay_on_one_core()?;
    unshare(CloneFlags::CLONE_NEWNET).map_err(|errno| format!("unshare: {errno}; root is needed"))?;
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").map_err(|error| error.to_string())?;
    let (requests, requested) = channel();
    let (answer, answers) = channel();
    let (client, client_goes) = inhabitant(move || ask(&requested, &answer))?;
    let (server, server_goes) = inhabitant(serve)?;
    wire("client", CLIENT, client)?;
    wire("server", SERVER, server)?;
    for goes in [client_goes, server_goes] {
        goes.send(()).map_err(|error| error.to_string())?;
    }

    let mut rows = Vec::new();
    for policies in POLICIES {
        let table = ours(policies, true)?;
        let [first, later] = rules_met(&table)?;
        println!("{policies} policies: the first packet of a flow meets {first} rules of ours, a later one {later}");
        let text = theirs(policies);
        let subjects = [
            ("no rules", Rules::None),
            ("tortie", Rules::Ours(table)),
            ("tortie, hits not counted", Rules::Ours(ours(policies, false)?)),
            ("iptables-nft", Rules::Iptables { backend: "nft", text: text.clone() }),
            ("iptables-legacy", Rules::Iptables { backend: "legacy", text }),
        ];
        let mut established = Work::new(&format!("{policies} policies: established flow"), PINGS);
        let mut new = Work::new(&format!("{policies} policies: new flows"), FLOWS);
        for _ in 0..ROUNDS {
            for (name, rules) in &subjects {
                rules.enforce()?;
                requests.send(()).map_err(|error| error.to_string())?;
                let times = answers.recv().map_err(|error| error.to_string())?;
                rules.lift()?;
                let [pings, flows] = times.map_err(|error| format!("{name}: {error}"))?;
                established.add(name, pings);
                new.add(name, flows);
            }
        }
        rows.extend(established.rows());
        rows.extend(new.rows());
    }
    report(&rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As in a cluster, where nobody is to be asked by whom: a packet meets as many rules under ten policies as under a thousand.
    #[test]
    fn the_path_is_as_long_under_many_policies_as_under_few() {
        let met = |policies| rules_met(&ours(policies, true).expect("a table")).expect("a walk");
        assert_eq!(met(10), met(1_000));
    }
}
