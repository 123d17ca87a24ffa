//! 100,000 routes into the FIB, replaced, and out: raw netlink with bytes prepared beforehand (the lower bound), ours, `ip -batch`, and
//! BIRD's kernel protocol fed by static routes. IPv4 and IPv6, by one gateway and by two; then what next hop objects would save, and
//! what reading costs. Wall-clock and CPU time, which for BIRD is its process's.
//!
//! Everything happens in a network namespace that exists only for this process.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::TimeValLike;
use tortie_bench::{Row, Work, peer, report};
use tortie_felix_netlink::{Bulk, Net, RouteChange, RouteKind, RouteSpec, VethSpec};

const ROUTES: u32 = 100_000;
const ROUNDS: usize = 5;
/// Routes in one `sendmsg`, as ours has them.
const BATCH: usize = 1000;
const PROTOCOL: u8 = 80;
const METRIC: u32 = 1024;
/// The protocol number of BIRD's routes.
const BIRD: u8 = 12;
/// How long BIRD must be idle to count as done; it is taken off its time.
const QUIET: Duration = Duration::from_millis(250);

/// Set for the child that only reads the routes, and tells how much memory that takes.
const READER: &str = "TORTIE_BENCH_FIB_READER";

const RAW: &str = "raw netlink, prepared bytes";
const OURS: &str = "tortie (felix/netlink bulk)";

type Outcome<T> = Result<T, String>;

#[allow(clippy::needless_pass_by_value)] // So that `map_err` takes it.
fn text<E: ToString>(error: E) -> String {
    error.to_string()
}

fn main() -> Outcome<()> {
    if std::env::var_os(READER).is_some() {
        return tell_memory();
    }
    // Before any other thread exists, so that all of the process is in the namespace.
    unshare(CloneFlags::CLONE_NEWNET).map_err(|errno| format!("unshare: {errno}; root is needed"))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(text)?;
    let index = runtime.block_on(uplink()).map_err(text)?;
    let mut rows = Vec::new();
    for ipv4 in [true, false] {
        rows.extend(side_by_side(&Set { ipv4, index })?);
        rows.extend(several(&Set { ipv4, index })?);
    }
    rows.extend(reading(index)?);
    report(&rows)
}

/// An interface with a subnet of each family.
async fn uplink() -> Result<u32, tortie_felix_netlink::Error> {
    let net = Net::current()?;
    let spec = VethSpec { name: "a".into(), peer_name: "b".into(), ..VethSpec::default() };
    let index = net.create_veth(spec).await?;
    for name in ["a", "b", "lo"] {
        if let Some(link) = net.link(name).await? {
            net.set_up(link.index).await?;
        }
    }
    for address in [IpNet::new_assert([172, 16, 0, 1].into(), 24), IpNet::new_assert(gateway(false, 1), 64)] {
        net.add_address(index, address).await?;
        net.wait_for_address(address.addr()).await?;
    }
    Ok(index)
}

fn gateway(ipv4: bool, number: u8) -> IpAddr {
    if ipv4 {
        Ipv4Addr::new(172, 16, 0, number).into()
    } else {
        Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, number.into()).into()
    }
}

/// The routes of one family.
struct Set {
    ipv4: bool,
    index: u32,
}

impl Set {
    fn family(&self) -> &'static str {
        if self.ipv4 { "IPv4" } else { "IPv6" }
    }

    fn destinations(&self) -> impl Iterator<Item = IpAddr> {
        let ipv4 = self.ipv4;
        (0..ROUTES).map(move |number| {
            if ipv4 {
                Ipv4Addr::from(0x0a00_0000 + number).into()
            } else {
                Ipv6Addr::from(0xfd0a_u128 << 112 | u128::from(number)).into()
            }
        })
    }

    fn specs(&self, gateways: &[u8]) -> Vec<RouteSpec> {
        let hops: Vec<_> = gateways.iter().map(|number| (gateway(self.ipv4, *number), self.index)).collect();
        self.destinations()
            .map(|ip| RouteSpec::new(ip.into(), RouteKind::multipath(hops.clone()), PROTOCOL).with_metric(METRIC))
            .collect()
    }

    /// Lines for `ip -batch`.
    fn script(&self, verb: &str, gateway_number: u8) -> String {
        let mut script = String::new();
        let to = gateway(self.ipv4, gateway_number);
        for ip in self.destinations() {
            let _ =
                writeln!(script, "route {verb} {} via {to} dev a proto {PROTOCOL} metric {METRIC}", IpNet::from(ip));
        }
        script
    }

    /// Messages as bytes, the last of each batch with NLM_F_ACK.
    fn datagrams(&self, kind: u16, flags: u16, way: &[u8]) -> Vec<Vec<u8>> {
        let destinations: Vec<IpAddr> = self.destinations().collect();
        let batches = destinations.chunks(BATCH).map(|batch| {
            let mut bytes = Vec::new();
            for (number, ip) in batch.iter().enumerate() {
                let acknowledge = if number + 1 == batch.len() { 4 } else { 0 };
                let start = bytes.len();
                bytes.extend([0; 4]);
                bytes.extend(kind.to_ne_bytes());
                bytes.extend((1 | acknowledge | flags).to_ne_bytes());
                bytes.extend([0; 8]);
                // rtmsg: family, destination and source length, TOS, table, protocol, scope, type, flags
                let (family, length) = if self.ipv4 { (2, 32) } else { (10, 128) };
                let (scope, kind) = if kind == 24 { (0, 1) } else { (255, 0) };
                bytes.extend([family, length, 0, 0, 254, PROTOCOL, scope, kind, 0, 0, 0, 0]);
                bytes.extend(attribute(1, &octets(*ip)));
                bytes.extend(attribute(6, &METRIC.to_ne_bytes()));
                bytes.extend(way);
                let length = u32::try_from(bytes.len() - start).unwrap_or_default();
                bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
            }
            bytes
        });
        batches.collect()
    }

    /// RTA_OIF and RTA_GATEWAY, or RTA_MULTIPATH.
    fn way(&self, gateways: &[u8]) -> Vec<u8> {
        let to = |number: u8| attribute(5, &octets(gateway(self.ipv4, number)));
        if let [one] = gateways {
            return [attribute(4, &self.index.to_ne_bytes()), to(*one)].concat();
        }
        let mut hops = Vec::new();
        for number in gateways {
            let to = to(*number);
            hops.extend(u16::try_from(8 + to.len()).unwrap_or_default().to_ne_bytes());
            hops.extend([0; 2]);
            hops.extend(self.index.to_ne_bytes());
            hops.extend(to);
        }
        attribute(9, &hops)
    }
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).unwrap_or_default();
    [&length.to_ne_bytes(), &kind.to_ne_bytes(), value].concat()
}

/// A piece of work in wall-clock and in CPU time.
struct Both {
    wall: Work,
    cpu: Work,
}

impl Both {
    fn new(name: &str) -> Self {
        let items = ROUTES as usize;
        Self { wall: Work::new(name, items), cpu: Work::new(&format!("{name}, CPU"), items) }
    }

    /// Times something that this process does, or a child that it waits for.
    fn time(&mut self, subject: &str, run: impl FnOnce() -> Outcome<()>) -> Outcome<()> {
        let (start, before) = (Instant::now(), used()?);
        run()?;
        self.wall.add(subject, start.elapsed());
        self.cpu.add(subject, used()?.saturating_sub(before));
        Ok(())
    }

    fn add(&mut self, subject: &str, (wall, cpu): (Duration, Duration)) {
        self.wall.add(subject, wall);
        self.cpu.add(subject, cpu);
    }

    fn rows(&self) -> Vec<Row> {
        [self.wall.rows(), self.cpu.rows()].concat()
    }
}

/// CPU time of this process and of the children it has waited for.
fn used() -> Outcome<Duration> {
    let mut sum = 0;
    for who in [UsageWho::RUSAGE_SELF, UsageWho::RUSAGE_CHILDREN] {
        let usage = getrusage(who).map_err(text)?;
        sum += usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    }
    Ok(Duration::from_micros(u64::try_from(sum).unwrap_or_default()))
}

/// One gateway: in, to another gateway, and out.
fn side_by_side(set: &Set) -> Outcome<Vec<Row>> {
    let name = |what: &str| format!("{what} 100,000 {} routes", set.family());
    let mut works = [Both::new(&name("add")), Both::new(&name("replace")), Both::new(&name("delete"))];
    let (first, second) = (set.specs(&[2]), set.specs(&[3]));
    let ours: [Vec<RouteChange>; 3] = [
        first.into_iter().map(RouteChange::Create).collect(),
        second.iter().cloned().map(RouteChange::Replace).collect(),
        second.into_iter().map(RouteChange::Delete).collect(),
    ];
    let raw = [
        set.datagrams(24, 0x600, &set.way(&[2])),
        set.datagrams(24, 0x500, &set.way(&[3])),
        set.datagrams(25, 0, &set.way(&[3])),
    ];
    let scripts = [set.script("add", 2), set.script("replace", 3), set.script("del", 3)];
    let (mut bulk, mut socket) = (Bulk::current().map_err(text)?, raw_socket()?);
    let bird = Bird::start(set)?;
    for _ in 0..ROUNDS {
        for (work, batches) in works.iter_mut().zip(&raw) {
            work.time(RAW, || send(&mut socket, batches))?;
        }
        for (work, changes) in works.iter_mut().zip(&ours) {
            work.time(OURS, || apply(&mut bulk, changes))?;
        }
        for (work, script) in works.iter_mut().zip(&scripts) {
            work.time("ip -batch", || ip(&["-batch", "-"], script))?;
        }
        for (work, step) in works.iter_mut().zip([Step::Enable, Step::Reconfigure, Step::Disable]) {
            work.add("BIRD 2, kernel protocol", bird.time(step, &mut bulk)?);
        }
        bird.reset()?;
    }
    Ok(works.iter().flat_map(Both::rows).collect())
}

/// Two gateways, one of which goes; and the same by next hop objects.
fn several(set: &Set) -> Outcome<Vec<Row>> {
    const OBJECTS: &str = "raw netlink, next hop group";
    let mut add = Both::new(&format!("add 100,000 {} routes by 2 next hops", set.family()));
    let mut shrink = Both::new(&format!("one of 2 next hops of 100,000 {} goes", set.family()));
    let (two, one) = (set.specs(&[2, 3]), set.specs(&[2]));
    let create: Vec<_> = two.into_iter().map(RouteChange::Create).collect();
    let replace: Vec<_> = one.iter().cloned().map(RouteChange::Replace).collect();
    let delete: Vec<_> = one.into_iter().map(RouteChange::Delete).collect();
    let raw_create = set.datagrams(24, 0x600, &set.way(&[2, 3]));
    let raw_replace = set.datagrams(24, 0x500, &set.way(&[2]));
    let raw_by_group = set.datagrams(24, 0x600, &attribute(30, &3_u32.to_ne_bytes()));
    let raw_delete_group = set.datagrams(25, 0, &[]);
    let (mut bulk, mut socket) = (Bulk::current().map_err(text)?, raw_socket()?);
    for number in [2, 3] {
        let to = gateway(set.ipv4, number).to_string();
        ip(&["nexthop", "add", "id", &(number - 1).to_string(), "via", &to, "dev", "a"], "")?;
    }
    for _ in 0..ROUNDS {
        add.time(RAW, || send(&mut socket, &raw_create))?;
        shrink.time(RAW, || send(&mut socket, &raw_replace))?;
        apply(&mut bulk, &delete)?;
        add.time(OURS, || apply(&mut bulk, &create))?;
        shrink.time(OURS, || apply(&mut bulk, &replace))?;
        apply(&mut bulk, &delete)?;
        ip(&["nexthop", "add", "id", "3", "group", "1/2"], "")?;
        add.time(OBJECTS, || send(&mut socket, &raw_by_group))?;
        shrink.time(OBJECTS, || ip(&["nexthop", "replace", "id", "3", "group", "1"], ""))?;
        send(&mut socket, &raw_delete_group)?;
        ip(&["nexthop", "del", "id", "3"], "")?;
    }
    ip(&["nexthop", "flush"], "")?;
    Ok([add.rows(), shrink.rows()].concat())
}

/// Reading what is there, and the memory that it takes at most.
fn reading(index: u32) -> Outcome<Vec<Row>> {
    let mut bulk = Bulk::current().map_err(text)?;
    let mut rows = Vec::new();
    for ipv4 in [true, false] {
        let set = Set { ipv4, index };
        let routes = set.specs(&[2]);
        let create: Vec<_> = routes.iter().cloned().map(RouteChange::Create).collect();
        apply(&mut bulk, &create)?;
        drop(create);
        let mut work = Both::new(&format!("read 100,000 {} routes", set.family()));
        for _ in 0..ROUNDS {
            work.time(OURS, || {
                let read = bulk.routes(Some(PROTOCOL)).map_err(text)?.len();
                if read == ROUTES as usize { Ok(()) } else { Err(format!("{read} routes were read")) }
            })?;
        }
        rows.extend(work.rows());
        // In a fresh process, whose memory nothing else has stretched.
        let child = std::env::current_exe().map_err(text)?;
        let output = Command::new(child).env(READER, "1").output().map_err(text)?;
        eprint!("{}: {}", set.family(), String::from_utf8_lossy(&output.stdout));
        let delete: Vec<_> = routes.into_iter().map(RouteChange::Delete).collect();
        apply(&mut bulk, &delete)?;
    }
    Ok(rows)
}

fn tell_memory() -> Outcome<()> {
    let mut bulk = Bulk::current().map_err(text)?;
    let before = most_memory()?;
    let read = bulk.routes(None).map_err(text)?.len();
    println!("reading {read} routes took {} KiB at the most", most_memory()?.saturating_sub(before));
    Ok(())
}

fn most_memory() -> Outcome<u64> {
    let status = std::fs::read_to_string("/proc/self/status").map_err(text)?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("no VmHWM")?;
    line.trim().trim_end_matches(" kB").parse().map_err(text)
}

fn apply(bulk: &mut Bulk, changes: &[RouteChange]) -> Outcome<()> {
    let failures = bulk.apply(changes).map_err(text)?;
    failures.first().map_or(Ok(()), |failure| Err(format!("{} failures, first: {}", failures.len(), failure.error)))
}

fn ip(arguments: &[&str], input: &str) -> Outcome<()> {
    let mut ip =
        Command::new(peer("ip")?).args(arguments).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().map_err(text)?;
    if let Some(mut stdin) = ip.stdin.take() {
        stdin.write_all(input.as_bytes()).map_err(text)?;
    }
    let status = ip.wait().map_err(text)?;
    if status.success() { Ok(()) } else { Err(format!("ip {}: {status}", arguments.join(" "))) }
}

fn raw_socket() -> Outcome<Socket> {
    let mut socket = Socket::new(NETLINK_ROUTE).map_err(text)?;
    socket.bind_auto().map_err(text)?;
    setsockopt(&socket, sockopt::SndBufForce, &(1 << 20)).map_err(text)?;
    Ok(socket)
}

/// Sends prepared batches and waits for the one acknowledgement of each.
fn send(socket: &mut Socket, batches: &[Vec<u8>]) -> Outcome<()> {
    let kernel = SocketAddr::new(0, 0);
    for batch in batches {
        socket.send_to(batch, &kernel, 0).map_err(text)?;
        let (answer, _) = socket.recv_from_full().map_err(text)?;
        let code = answer.get(16..20).and_then(|bytes| bytes.try_into().ok()).map_or(-1, i32::from_ne_bytes);
        if code != 0 {
            return Err(format!("raw netlink: error {code}"));
        }
    }
    Ok(())
}

/// What BIRD is told to do.
#[derive(Debug, Clone, Copy)]
enum Step {
    Enable,
    Reconfigure,
    Disable,
}

/// A BIRD with all the routes, and its kernel protocol off at first.
struct Bird {
    process: Child,
    folder: PathBuf,
    ipv4: bool,
    index: u32,
}

impl Bird {
    fn start(set: &Set) -> Outcome<Self> {
        let folder = std::env::temp_dir().join(format!("tortie-bench-fib-{}-{}", std::process::id(), set.family()));
        std::fs::create_dir_all(&folder).map_err(text)?;
        for (name, number) in [("first", 2), ("second", 3)] {
            let family = if set.ipv4 { "ipv4" } else { "ipv6" };
            let mut config = format!(
                "router id 10.0.0.1;\nprotocol device {{}}\n\
                 protocol kernel krt {{ disabled; scan time 3600; {family} {{ import none; export all; }}; }}\n\
                 protocol static {{ {family};\n"
            );
            for ip in set.destinations() {
                let _ = writeln!(config, "route {} via {};", IpNet::from(ip), gateway(set.ipv4, number));
            }
            config.push_str("}\n");
            std::fs::write(folder.join(name), config).map_err(text)?;
        }
        std::fs::copy(folder.join("first"), folder.join("bird.conf")).map_err(text)?;
        let process = Command::new(peer("bird")?)
            .arg("-f")
            .arg("-c")
            .arg(folder.join("bird.conf"))
            .arg("-s")
            .arg(folder.join("bird.ctl"))
            .stderr(Stdio::null())
            .spawn()
            .map_err(text)?;
        let bird = Self { process, folder, ipv4: set.ipv4, index: set.index };
        let deadline = Instant::now() + Duration::from_secs(60);
        while !bird.folder.join("bird.ctl").exists() || bird.ask(&["show", "status"]).is_err() {
            if Instant::now() > deadline {
                return Err("bird does not answer".into());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        bird.wait_until_quiet()?;
        Ok(bird)
    }

    fn ask(&self, words: &[&str]) -> Outcome<()> {
        let output = Command::new(peer("birdc")?)
            .arg("-s")
            .arg(self.folder.join("bird.ctl"))
            .args(words)
            .output()
            .map_err(text)?;
        if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
    }

    /// Its CPU time so far. The kernel counts it in steps of 10 ms.
    fn used(&self) -> Outcome<Duration> {
        let stat = std::fs::read_to_string(Path::new("/proc").join(self.process.id().to_string()).join("stat"));
        let stat = stat.map_err(|error| format!("bird has ended: {error}"))?;
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<u64>().ok()).unwrap_or_default();
        Ok(Duration::from_millis(10 * (ticks(11) + ticks(12))))
    }

    /// Waits until it does nothing any more, and says since when.
    fn wait_until_quiet(&self) -> Outcome<Instant> {
        let (mut last, mut since) = (self.used()?, Instant::now());
        while since.elapsed() < QUIET {
            std::thread::sleep(Duration::from_millis(5));
            let now = self.used()?;
            if now != last {
                (last, since) = (now, Instant::now());
            }
        }
        Ok(since)
    }

    /// Whether the kernel has what the step leads to.
    fn is_done(&self, step: Step, bulk: &mut Bulk) -> Outcome<bool> {
        let to =
            |number| RouteKind::Via { gateway: gateway(self.ipv4, number), index: Some(self.index), onlink: false };
        let wanted = match step {
            Step::Enable => Some(to(2)),
            Step::Reconfigure => Some(to(3)),
            Step::Disable => None,
        };
        let there = bulk.routes_as(Some(BIRD), |route| Some(Some(route.kind) == wanted)).map_err(text)?;
        Ok(there.iter().all(|good| *good) && there.len() == wanted.map_or(0, |_| ROUTES as usize))
    }

    /// Lets it do a step: wall-clock and its CPU time.
    fn time(&self, step: Step, bulk: &mut Bulk) -> Outcome<(Duration, Duration)> {
        if matches!(step, Step::Reconfigure) {
            let config = std::fs::read_to_string(self.folder.join("second")).map_err(text)?;
            // As it is now: enabled.
            let config = config.replace("{ disabled; ", "{ ");
            std::fs::write(self.folder.join("bird.conf"), config).map_err(text)?;
        }
        let (start, before) = (Instant::now(), self.used()?);
        match step {
            Step::Enable => self.ask(&["enable", "krt"])?,
            Step::Reconfigure => self.ask(&["configure"])?,
            Step::Disable => self.ask(&["disable", "krt"])?,
        }
        let mut end = self.wait_until_quiet()?;
        while !self.is_done(step, bulk)? {
            if start.elapsed() > Duration::from_secs(120) {
                return Err(format!("BIRD is not done with {step:?} after two minutes"));
            }
            end = self.wait_until_quiet()?;
        }
        Ok((end.saturating_duration_since(start), self.used()?.saturating_sub(before)))
    }

    /// Back to the first gateways.
    fn reset(&self) -> Outcome<()> {
        std::fs::copy(self.folder.join("first"), self.folder.join("bird.conf")).map_err(text)?;
        self.ask(&["configure"])?;
        self.wait_until_quiet()?;
        Ok(())
    }
}

impl Drop for Bird {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
        // What it left in the kernel would be in the way of others.
        let family = if self.ipv4 { "-4" } else { "-6" };
        let _ = ip(&[family, "route", "flush", "proto", "bird"], "");
    }
}
