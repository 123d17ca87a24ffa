//! The pool moves to an overlay and back while its pods talk, and what is on the network between nodes shows it.

use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::socket::{
    AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, recvfrom, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};
use tortie_admin::types::Route;
use tortie_felix_netlink::{Net, netns};

use super::crash::{STREAM, flow};
use super::stage::Stage;
use super::traffic::Traffic;
use super::{PATIENCE, ask};
use crate::control::{Listening, Request};
use crate::state::{Node, Pod};
use crate::{Error, Lab, store};

/// The UDP port of VXLAN.
const VXLAN: u16 = 4789;

/// How long the capture looks at the network between nodes.
const LOOK: Duration = Duration::from_millis(500);

/// Packets that were seen between nodes.
#[derive(Debug, Default)]
struct Seen {
    /// Wrapped into VXLAN.
    wrapped: usize,
    /// From a pod's address to a pod's, as they are.
    plain: usize,
}

pub(super) async fn run(lab: &Lab, stage: &mut Stage) -> Result<(), Error> {
    let state = lab.state()?;
    let pod = |namespace: &str, name: &str| {
        let found = state.pod(namespace, name).cloned();
        found.ok_or_else(|| Error::Failed(format!("pod {namespace}/{name} is missing")))
    };
    let (nginx, demo) = (pod("web", "nginx")?, pod("web", "demo")?);
    let Some(node) = state.node(&nginx.node).cloned() else {
        return Err(Error::Failed(format!("node {} is missing", nginx.node)));
    };
    stage.begin("The pool moves to VXLAN and back, under traffic");
    let listening = Listening { pod: nginx.full_name(), netns: nginx.netns.clone(), ports: vec![STREAM] };
    lab.responders(&state, &Request::Ensure(vec![listening])).await?;
    let traffic = Traffic::start(vec![flow(&demo, &nginx, true)?]);
    let mut rows = vec![["VXLANMODE", "IN FORCE AFTER", "WRAPPED", "PLAIN", "ROUTE"].map(str::to_owned).to_vec()];
    for (mode, wraps) in [("Never", false), ("Always", true), ("Never", false)] {
        let began = Instant::now();
        lab.apply_with(pools(mode)?, PATIENCE, &|_| ()).await?;
        let took = began.elapsed();
        let seen = look(&node, &demo).await?;
        if (seen.wrapped > 0) != wraps || (seen.plain > 0) == wraps {
            stage.fail(&format!("{mode}: {seen:?} on the network between nodes"));
        }
        let route = route_to(lab, &node, &demo).await?;
        let took = format!("{:.2} s", took.as_secs_f64());
        rows.push(vec![mode.to_owned(), took, seen.wrapped.to_string(), seen.plain.to_string(), route]);
    }
    let tallies = traffic.stop().await?;
    stage.table(&rows);
    for tally in &tallies {
        let text = format!(
            "web/demo to web/nginx meanwhile: {} of {} datagrams answered, {} of {} new connections made",
            tally.answered, tally.sent, tally.made, tally.tried
        );
        let ran = tally.sent >= 50 && tally.tried >= 50;
        if ran && tally.answered == tally.sent && tally.made == tally.tried {
            stage.line(&text);
        } else {
            stage.fail(&text);
        }
    }
    stage.end("nothing was lost on the way there and back");
    Ok(())
}

/// The lab's pools with this mode.
fn pools(mode: &str) -> Result<Vec<store::Entry>, Error> {
    let documents = store::default_pools()?.into_iter().map(|pool| {
        let mut value = pool.value;
        value["spec"]["vxlanMode"] = mode.into();
        value.to_string()
    });
    store::read_text("the lab's pools", &documents.collect::<Vec<_>>().join("\n---\n"))
}

/// The route of a node to a pod's block, as `ip route` would say it.
async fn route_to(lab: &Lab, node: &Node, pod: &Pod) -> Result<String, Error> {
    let routes: Vec<Route> = ask(lab, &node.name, "/v1/routes").await?;
    let ip = pod.ip(false);
    let leads = |route: &&Route| ip.is_some_and(|ip| route.destination.contains(&ip));
    let route = routes.iter().filter(leads).max_by_key(|route| route.destination.prefix_len());
    Ok(route.map_or_else(String::new, |route| {
        let via = route.via.map_or_else(String::new, |via| format!(" via {via}"));
        format!("{}{via} dev {}", route.destination, route.device)
    }))
}

/// Looks at what a node sends to other nodes, and they to it.
async fn look(node: &Node, pod: &Pod) -> Result<Seen, Error> {
    let netns = netns::open(&node.netns).map_err(Error::net)?;
    let uplink = Net::in_netns(&netns).map_err(Error::net)?.link("eth0").await.map_err(Error::net)?;
    let uplink = uplink.ok_or_else(|| Error::Failed(format!("{}: there is no eth0", node.name)))?.index as usize;
    let pod = pod.ip(false);
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let looking = tokio::task::spawn_blocking(move || netns.run(|| capture(uplink, pod, &stopped)));
    tokio::time::sleep(LOOK).await;
    stop.store(true, Ordering::Relaxed);
    let seen = looking.await.map_err(|error| Error::Failed(error.to_string()))?.map_err(Error::net)?;
    seen.map_err(|errno| Error::Failed(format!("{}: no capture: {errno}", node.name)))
}

fn capture(uplink: usize, pod: Option<IpAddr>, stop: &AtomicBool) -> nix::Result<Seen> {
    let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll)?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::milliseconds(20))?;
    let (mut seen, mut frame) = (Seen::default(), [0; 128]);
    while !stop.load(Ordering::Relaxed) {
        let Ok((length, from)) = recvfrom::<LinkAddr>(socket.as_raw_fd(), &mut frame) else { continue };
        if from.is_none_or(|from| from.ifindex() != uplink) {
            continue;
        }
        let frame = &frame[..length.min(128)];
        seen.wrapped += usize::from(is_vxlan(frame));
        seen.plain += usize::from(pod.is_some_and(|pod| is_between(frame, pod)));
    }
    Ok(seen)
}

/// Whether an Ethernet frame has an IPv4 packet without options to VXLAN's port.
fn is_vxlan(frame: &[u8]) -> bool {
    frame.get(12..15) == Some(&[8, 0, 0x45])
        && frame.get(23) == Some(&17)
        && frame.get(36..38) == Some(&VXLAN.to_be_bytes())
}

/// Whether it has one from or to an address.
fn is_between(frame: &[u8], address: IpAddr) -> bool {
    let IpAddr::V4(address) = address else { return false };
    let octets = address.octets();
    frame.get(12..14) == Some(&[8, 0]) && [26..30, 30..34].into_iter().any(|at| frame.get(at) == Some(&octets[..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_told_apart() {
        let mut frame = vec![0; 60];
        frame[12..15].copy_from_slice(&[8, 0, 0x45]);
        frame[23] = 17;
        frame[26..30].copy_from_slice(&[10, 244, 0, 1]);
        frame[36..38].copy_from_slice(&VXLAN.to_be_bytes());
        let pod: IpAddr = "10.244.0.1".parse().expect("an address");
        assert!(is_vxlan(&frame) && is_between(&frame, pod));
        frame[36] = 0;
        frame[29] = 2;
        assert!(!is_vxlan(&frame) && !is_between(&frame, pod));
        assert!(!is_vxlan(&[0; 10]) && !is_between(&[0; 10], pod));
    }
}
