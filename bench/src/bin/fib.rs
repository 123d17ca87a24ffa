//! 100,000 routes into the FIB: raw netlink with bytes prepared beforehand (the lower bound), ours, and `ip -batch`.
//!
//! Everything happens in a network namespace that exists only for this process.

use std::io::Write;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};

use ipnet::Ipv4Net;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{setsockopt, sockopt};
use tortie_bench::{Work, peer, report};
use tortie_felix_netlink::{Bulk, Net, RouteChange, RouteKind, RouteSpec, VethSpec};

const ROUTES: usize = 100_000;
const ROUNDS: usize = 5;
/// Routes in one `sendmsg`, as ours has them.
const BATCH: usize = 1000;
const PROTOCOL: u8 = 80;
const METRIC: u32 = 1024;

fn main() -> Result<(), String> {
    // Before any other thread exists, so that all of the process is in the namespace.
    unshare(CloneFlags::CLONE_NEWNET).map_err(|errno| format!("unshare: {errno}; root is needed"))?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| error.to_string())?;
    let index = runtime.block_on(async {
        let net = Net::current()?;
        let spec = VethSpec { name: "a".into(), peer_name: "b".into(), ..VethSpec::default() };
        let index = net.create_veth(spec).await?;
        net.set_up(index).await?;
        let other = net.link("b").await?.map_or(0, |link| link.index);
        net.set_up(other).await?;
        Ok(index)
    });
    let index = index.map_err(|error: tortie_felix_netlink::Error| error.to_string())?;

    let destinations: Vec<Ipv4Net> = (0..ROUTES)
        .map(|number| Ipv4Net::new_assert(Ipv4Addr::from(0x0a00_0000 + u32::try_from(number).unwrap_or_default()), 32))
        .collect();
    let specs: Vec<RouteSpec> = destinations
        .iter()
        .map(|net| RouteSpec::new((*net).into(), RouteKind::Device { index }, PROTOCOL).with_metric(METRIC))
        .collect();
    let add: Vec<_> = specs.iter().cloned().map(RouteChange::Replace).collect();
    let delete: Vec<_> = specs.iter().cloned().map(RouteChange::Delete).collect();
    let raw_add = datagrams(&destinations, index, 24, 0x500);
    let raw_delete = datagrams(&destinations, index, 25, 0);
    let script = |verb: &str| {
        let line = |net: &Ipv4Net| format!("route {verb} {net} dev a scope link proto {PROTOCOL} metric {METRIC}\n");
        destinations.iter().map(line).collect::<String>()
    };
    let (ip_add, ip_delete) = (script("replace"), script("del"));

    let mut bulk = Bulk::current().map_err(|error| error.to_string())?;
    let mut raw = raw_socket()?;
    let mut adding = Work::new("add 100,000 routes", ROUTES);
    let mut deleting = Work::new("delete 100,000 routes", ROUTES);
    for _ in 0..ROUNDS {
        adding.time("raw netlink, prepared bytes", || send(&mut raw, &raw_add))?;
        deleting.time("raw netlink, prepared bytes", || send(&mut raw, &raw_delete))?;
        adding.time("tortie (felix/netlink bulk)", || apply(&mut bulk, &add))?;
        deleting.time("tortie (felix/netlink bulk)", || apply(&mut bulk, &delete))?;
        adding.time("ip -batch", || ip_batch(&ip_add))?;
        deleting.time("ip -batch", || ip_batch(&ip_delete))?;
    }
    report(&[adding.rows(), deleting.rows()].concat())
}

fn apply(bulk: &mut Bulk, changes: &[RouteChange]) -> Result<(), String> {
    let failures = bulk.apply(changes).map_err(|error| error.to_string())?;
    failures.first().map_or(Ok(()), |failure| Err(format!("{} failures, first: {}", failures.len(), failure.error)))
}

fn ip_batch(script: &str) -> Result<(), String> {
    let mut ip = Command::new(peer("ip")?)
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .map_err(|error| error.to_string())?;
    if let Some(mut stdin) = ip.stdin.take() {
        stdin.write_all(script.as_bytes()).map_err(|error| error.to_string())?;
    }
    let status = ip.wait().map_err(|error| error.to_string())?;
    if status.success() { Ok(()) } else { Err(format!("ip -batch: {status}")) }
}

fn raw_socket() -> Result<Socket, String> {
    let mut socket = Socket::new(NETLINK_ROUTE).map_err(|error| error.to_string())?;
    socket.bind_auto().map_err(|error| error.to_string())?;
    setsockopt(&socket, sockopt::SndBufForce, &(1 << 20)).map_err(|errno| errno.to_string())?;
    Ok(socket)
}

/// Sends prepared batches and waits for the one acknowledgement of each.
fn send(socket: &mut Socket, batches: &[Vec<u8>]) -> Result<(), String> {
    let kernel = SocketAddr::new(0, 0);
    for batch in batches {
        socket.send_to(batch, &kernel, 0).map_err(|error| error.to_string())?;
        let (answer, _) = socket.recv_from_full().map_err(|error| error.to_string())?;
        let code = answer.get(16..20).and_then(|bytes| bytes.try_into().ok()).map_or(-1, i32::from_ne_bytes);
        if code != 0 {
            return Err(format!("raw netlink: error {code}"));
        }
    }
    Ok(())
}

/// RTM_NEWROUTE or RTM_DELROUTE messages as bytes, the last of each batch with NLM_F_ACK.
fn datagrams(destinations: &[Ipv4Net], index: u32, kind: u16, flags: u16) -> Vec<Vec<u8>> {
    let mut batches = Vec::new();
    for batch in destinations.chunks(BATCH) {
        let mut bytes = Vec::with_capacity(batch.len() * 52);
        for (number, net) in batch.iter().enumerate() {
            let acknowledge = if number + 1 == batch.len() { 4 } else { 0 };
            bytes.extend(52_u32.to_ne_bytes());
            bytes.extend(kind.to_ne_bytes());
            bytes.extend((1 | acknowledge | flags).to_ne_bytes());
            bytes.extend([0; 8]);
            // rtmsg: family, destination and source length, TOS, table, protocol, scope, type, flags
            bytes.extend([2, 32, 0, 0, 254, PROTOCOL, 253, 1, 0, 0, 0, 0]);
            for (attribute, value) in
                [(1_u16, net.addr().octets()), (4, index.to_ne_bytes()), (6, METRIC.to_ne_bytes())]
            {
                bytes.extend(8_u16.to_ne_bytes());
                bytes.extend(attribute.to_ne_bytes());
                bytes.extend(value);
            }
        }
        batches.push(bytes);
    }
    batches
}
