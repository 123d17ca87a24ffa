//! A node with pods and the world outside, each a network namespace that ends with the test, and the table of the node in its kernel.

use std::fs::File;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns, unshare};
use serde_json::{Value, json};
use tortie_api::{Decoded, Object, decode};
use tortie_nft::Ruleset;
use tortie_nft_netlink::NftSocket;
use tortie_policy::{Cluster, CompileOptions, Endpoint, Generation, compile, host_interface};
use tortie_tests::peer;

/// How long a test waits for what must come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// The node's addresses on the wire to the outside.
pub(crate) const NODE: [&str; 2] = ["172.31.0.2", "fd00:31::2"];
/// The outside's.
pub(crate) const OUTSIDE: [&str; 2] = ["172.31.0.1", "fd00:31::1"];

/// The hardware address of the node's end of every veth to a pod.
const HOST_MAC: &str = "ee:ee:ee:ee:ee:ee";

/// A network namespace.
pub(crate) struct Namespace(File);

impl Namespace {
    fn new() -> Self {
        let thread = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("a new network namespace (these tests need root)");
            let namespace = Self(File::open("/proc/thread-self/ns/net").expect("the thread's namespace"));
            ip("link set lo up");
            for sysctl in ["all", "default"] {
                write(&format!("net/ipv4/conf/{sysctl}/rp_filter"), "0");
                write(&format!("net/ipv4/conf/{sysctl}/send_redirects"), "0");
                write(&format!("net/ipv6/conf/{sysctl}/accept_dad"), "0");
            }
            namespace
        });
        thread.join().expect("a namespace")
    }

    /// Runs `work` in the namespace. Sockets that it opens stay there.
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(&self.0, CloneFlags::CLONE_NEWNET).expect("the namespace can be entered");
                work()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Runs `ip` there.
    pub(crate) fn ip(&self, arguments: &str) {
        self.run(|| ip(arguments));
    }

    /// A UDP socket there.
    pub(crate) fn udp(&self, address: &str) -> UdpSocket {
        let address: SocketAddr = address.parse().expect("an address and a port");
        let socket = self.run(|| UdpSocket::bind(address)).expect("a UDP socket");
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        socket
    }

    /// A TCP server there that tells each client which address it sees.
    pub(crate) fn tcp_mirror(&self, address: &str) {
        let address: SocketAddr = address.parse().expect("an address and a port");
        let listener = self.run(|| TcpListener::bind(address)).expect("a TCP server");
        std::thread::spawn(move || {
            while let Ok((mut client, from)) = listener.accept() {
                // It ends with its client.
                std::thread::spawn(move || {
                    let _ = client.write_all(format!("{from}\n").as_bytes());
                    let _ = client.read_to_end(&mut Vec::new());
                });
            }
        });
    }

    /// A UDP server there that tells each client which address it sees.
    pub(crate) fn udp_mirror(&self, address: &str) {
        let socket = self.udp(address);
        socket.set_read_timeout(None).expect("no timeout");
        std::thread::spawn(move || {
            let mut buffer = [0; 100];
            loop {
                let Ok((_, from)) = socket.recv_from(&mut buffer) else { continue };
                let _ = socket.send_to(from.to_string().as_bytes(), from);
            }
        });
    }

    /// The address that a UDP mirror sees; asked again until it answers.
    pub(crate) fn seen_by(&self, from: &str, mirror: &str) -> SocketAddr {
        let socket = self.udp(from);
        socket.set_read_timeout(Some(Duration::from_millis(500))).expect("a timeout");
        let until = Instant::now() + PATIENCE;
        let mut buffer = [0; 100];
        while Instant::now() < until {
            socket.send_to(b"who am I?", mirror).expect("a packet can be sent");
            if let Ok(length) = receive(&socket, &mut buffer) {
                return String::from_utf8_lossy(&buffer[..length]).parse().expect("an address");
            }
        }
        panic!("{mirror} does not answer {from}");
    }

    /// A TCP connection from here, and the address that the mirror at its other end sees.
    pub(crate) fn connect(&self, to: &str, patience: Duration) -> std::io::Result<(TcpStream, SocketAddr)> {
        let to: SocketAddr = to.parse().expect("an address and a port");
        self.run(|| {
            let mut stream = TcpStream::connect_timeout(&to, patience)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            let mut seen = String::new();
            let mut byte = [0];
            loop {
                match stream.read(&mut byte) {
                    Ok(1) if byte[0] != b'\n' => seen.push(char::from(byte[0])),
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Ok(_) => break,
                    Err(error) => return Err(error),
                }
            }
            let seen = seen.parse().map_err(|_| std::io::Error::from(ErrorKind::ConnectionReset))?;
            Ok((stream, seen))
        })
    }
}

/// Receives, also where a signal or a stopped process comes in between: the kernel begins no call with a timeout again.
pub(crate) fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> std::io::Result<usize> {
    loop {
        match socket.recv(buffer) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Runs `ip` in the calling thread's namespace, with arguments separated by blanks.
fn ip(arguments: &str) {
    let output = Command::new(peer("ip")).args(arguments.split(' ')).output().expect("ip runs");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

fn write(sysctl: &str, value: &str) {
    std::fs::write(format!("/proc/sys/{sysctl}"), value).unwrap_or_else(|error| panic!("{sysctl}: {error}"));
}

/// A node, `pods` on it, and the outside, which has a route to all pods.
pub(crate) struct Net {
    pub(crate) node: Namespace,
    pub(crate) outside: Namespace,
    pub(crate) pods: Vec<Namespace>,
    documents: Vec<Object>,
    endpoints: Vec<Endpoint>,
    socket: NftSocket,
    table: Ruleset,
    generation: Generation,
}

/// The address of the pod of that number.
pub(crate) fn pod4(number: usize) -> String {
    format!("10.244.0.{}", number + 1)
}

/// Its IPv6 address.
pub(crate) fn pod6(number: usize) -> String {
    format!("fd00:10:244::{}", number + 1)
}

/// A document as a datastore hands it out.
fn object(document: &Value) -> Object {
    match decode(document) {
        Ok(Decoded::Object(object)) => *object,
        other => panic!("{document}: {other:?}"),
    }
}

impl Net {
    /// A net with a pod for each of these annotations, `demo/pod0` and so on. Pods may do everything until told otherwise.
    pub(crate) fn new(annotations: &[Value]) -> Self {
        let (node, outside) = (Namespace::new(), Namespace::new());
        join(&node, "eth0 address 02:00:00:00:00:02", &outside, "eth0 address 02:00:00:00:00:01");
        for (namespace, addresses) in [(&node, NODE), (&outside, OUTSIDE)] {
            namespace.ip(&format!("addr add {}/24 dev eth0", addresses[0]));
            namespace.ip(&format!("-6 addr add {}/64 dev eth0 nodad", addresses[1]));
            namespace.ip("link set eth0 up");
            namespace.run(|| {
                write("net/ipv4/ip_forward", "1");
                write("net/ipv6/conf/all/forwarding", "1");
            });
        }
        for (from, to) in [(&node, OUTSIDE), (&outside, NODE)] {
            from.ip(&format!("route add default via {}", to[0]));
            from.ip(&format!("-6 route add default via {}", to[1]));
        }
        let socket = node.run(NftSocket::open).expect("a netlink socket");
        let mut net = Self {
            node,
            outside,
            pods: Vec::new(),
            documents: Vec::new(),
            endpoints: Vec::new(),
            socket,
            table: Ruleset::default(),
            generation: Generation::seed(7),
        };
        for annotations in annotations {
            net.add_pod(annotations);
        }
        net.settle(&CompileOptions::default());
        net
    }

    fn add_pod(&mut self, annotations: &Value) {
        let number = self.pods.len();
        let (name, (v4, v6)) = (format!("pod{number}"), (pod4(number), pod6(number)));
        let interface = host_interface("demo", &name);
        let pod = Namespace::new();
        join(&self.node, &format!("{interface} address {HOST_MAC}"), &pod, "eth0");
        self.node.ip(&format!("-6 addr add fe80::1/64 dev {interface} nodad"));
        self.node.ip(&format!("link set {interface} up"));
        self.node.ip(&format!("route add {v4}/32 dev {interface}"));
        self.node.ip(&format!("-6 route add {v6}/128 dev {interface}"));
        pod.ip(&format!("addr add {v4}/32 dev eth0"));
        pod.ip(&format!("-6 addr add {v6}/128 dev eth0 nodad"));
        pod.ip("link set eth0 up");
        pod.ip("route add 169.254.1.1/32 dev eth0");
        pod.ip(&format!("neigh add 169.254.1.1 lladdr {HOST_MAC} dev eth0 nud permanent"));
        pod.ip("route add default via 169.254.1.1");
        pod.ip("-6 route add default via fe80::1 dev eth0");
        self.pods.push(pod);
        self.documents.push(object(&json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"namespace": "demo", "name": name, "labels": {"name": name}, "annotations": annotations},
            "status": {"podIPs": [{"ip": v4}, {"ip": v6}]},
            "spec": {"nodeName": "node", "containers": [{"name": "c"}]}})));
        let ips: Vec<IpAddr> = [v4, v6].iter().map(|ip| ip.parse().expect("an address")).collect();
        self.endpoints.push(Endpoint { namespace: "demo".to_owned(), pod: name, interface, ips });
    }

    /// Takes a document in, with the next [`Net::settle`].
    pub(crate) fn add(&mut self, document: &Value) {
        self.documents.push(object(document));
    }

    /// Lets go of the documents of this name, with the next [`Net::settle`].
    pub(crate) fn remove(&mut self, name: &str) {
        self.documents.retain(|document| document.key().name != name);
    }

    /// An IPPool with `natOutgoing` around all pods of each family.
    pub(crate) fn add_pools(&mut self) {
        for (name, cidr) in [("v4", "10.244.0.0/16"), ("v6", "fd00:10:244::/64")] {
            self.add(&json!({"apiVersion": "projectcalico.org/v3", "kind": "IPPool",
                "metadata": {"name": name}, "spec": {"cidr": cidr, "natOutgoing": true}}));
        }
    }

    /// A policy of namespace `demo`.
    pub(crate) fn add_policy(&mut self, name: &str, spec: &Value) {
        self.add(&json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"namespace": "demo", "name": name}, "spec": spec}));
    }

    /// Makes the node's table the one for these settings, as the agent does: the difference in one transaction, in the next generation
    /// where something tightens.
    pub(crate) fn settle(&mut self, options: &CompileOptions) {
        let mut cluster = Cluster::default();
        for document in &self.documents {
            cluster.upsert(document);
        }
        let mut want = compile(&cluster, &self.endpoints, self.generation, options);
        if tortie_policy::tightens(&self.table, &want) {
            self.generation = self.generation.next_after(&self.table, options.mark_mask);
            want = compile(&cluster, &self.endpoints, self.generation, options);
        }
        self.socket.apply(&self.table.diff(&want)).unwrap_or_else(|error| panic!("{error}\n{want}"));
        let found = self.socket.read().expect("a read-back").expect("our table");
        assert_eq!(found, want, "the kernel gives back what it was given");
        self.table = want;
    }

    /// What `nft` lists.
    pub(crate) fn listing(&self) -> String {
        let output = self
            .node
            .run(|| Command::new(peer("nft")).args(["list", "table", "inet", "tortie"]).output().expect("nft runs"));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// The packets that the rule with this comment has counted.
    pub(crate) fn counted(&self, comment: &str) -> u64 {
        let listing = self.listing();
        let mut rules = listing.lines().filter(|line| line.contains(comment) && line.contains("counter packets"));
        let (Some(rule), None) = (rules.next(), rules.next()) else { panic!("no one rule has {comment}:\n{listing}") };
        let counter = rule.split("counter packets ").nth(1).expect("a counter");
        counter.split(' ').next().and_then(|count| count.parse().ok()).expect("a count")
    }

    /// The packets that were denied for this reason since there is a table.
    pub(crate) fn denied(&self, reason: &str) -> u64 {
        let values = self.node.run(|| NftSocket::open().expect("a socket").counter_values().expect("counters"));
        values[reason].0
    }
}

/// A veth between two namespaces.
fn join(one: &Namespace, device: &str, other: &Namespace, peer_device: &str) {
    use std::os::fd::AsRawFd as _;
    let netns = format!("/proc/{}/fd/{}", std::process::id(), other.0.as_raw_fd());
    one.ip(&format!("link add {device} type veth peer name {peer_device} netns {netns}"));
}
