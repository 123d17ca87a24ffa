//! `tortie node checksystem`: whether this machine's kernel has what agents need, and what to do where it lacks something.
//!
//! Nothing is looked up in lists of modules: everything is done once, in a network namespace that is made for it and ends with it, so
//! that modules are loaded as they would be, and a container's limits count.

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result, bail};
use ipnet::IpNet;
use serde::Serialize;
use tortie_felix_netlink::tc::Bucket;
use tortie_felix_netlink::{Mac, Net, Netns, RouteKind, RouteSpec, VethSpec, Vxlan, netns};
use tortie_nft_netlink::features;

use crate::output::{self, Output};

/// The routing protocol number of agents.
const PROTOCOL: u8 = 80;

/// Any limit will do: 1 MB a second.
const BUCKET: Bucket = Bucket { rate: 1_000_000, burst: 100_000, peak: None };

/// What was tried, and how that went.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    /// What it is.
    feature: &'static str,
    /// What it is for.
    purpose: &'static str,
    /// Whether an agent does not work without.
    required: bool,
    /// Whether it is there.
    present: bool,
    /// How it was refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// What to do about that.
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
}

impl Row {
    /// `kernel` is what it takes in a kernel.
    fn of<E: std::fmt::Display>(
        feature: &'static str,
        purpose: &'static str,
        required: bool,
        result: Result<(), E>,
        kernel: &str,
    ) -> Self {
        let error = result.err().map(|error| error.to_string());
        let remedy =
            error.as_ref().map(|_| format!("a kernel with {kernel}, as part of it or as a module that may be loaded"));
        Self { feature, purpose, required, present: error.is_none(), error, remedy }
    }
}

pub(crate) async fn run(output: Output) -> Result<()> {
    let place = netns::anonymous().context(
        "nothing can be tried without the right to make network namespaces: run it as root, in a container with CAP_SYS_ADMIN and \
         CAP_NET_ADMIN",
    )?;
    let mut rows = rules(&place)?;
    rows.extend(links(&place).await?);
    rows.push(settings());
    // What an agent does not work without comes first.
    rows.sort_by_key(|row| !row.required);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    output.print(&rows, |_| format!("Linux {}\n{}", kernel.trim(), text(&rows)))?;
    let missing: Vec<&str> = rows.iter().filter(|row| row.required && !row.present).map(|row| row.feature).collect();
    if !missing.is_empty() {
        bail!("no agent works on this machine: it lacks {}", missing.join(", "));
    }
    Ok(())
}

/// nf_tables and conntrack.
fn rules(place: &Netns) -> Result<Vec<Row>> {
    let results = place.run(features::try_all)?.context("nf_tables cannot be tried")?;
    let row = |(feature, result): (features::Feature, Result<(), _>)| {
        Row::of(feature.name, feature.purpose, feature.required, result, feature.kernel)
    };
    Ok(results.into_iter().map(row).collect())
}

/// Interfaces, routes and traffic control. One builds on the other, so what comes behind something that failed fails too.
async fn links(place: &Netns) -> Result<Vec<Row>> {
    let net = Net::in_netns(place)?;
    let veth = VethSpec {
        name: "check0".to_owned(),
        mac: None,
        peer_name: "check1".to_owned(),
        peer_mac: None,
        peer_netns: None,
        mtu: 0,
    };
    let made = net.create_veth(veth).await;
    let index = *made.as_ref().unwrap_or(&0);
    let mut rows = vec![Row::of("veth", "pods' interfaces", true, made.map(drop), "CONFIG_VETH")];
    let up = net.set_up(index).await;
    let pod = |address: IpAddr| RouteSpec::new(IpNet::from(address), RouteKind::Device { index }, PROTOCOL);
    let block = RouteSpec::new("10.0.0.0/26".parse::<IpNet>()?, RouteKind::Blackhole, PROTOCOL);
    let routed = match up {
        Ok(()) => net.replace_route(&pod(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)))).await,
        Err(error) => Err(error),
    };
    let routed = match routed {
        Ok(()) => net.replace_route(&block).await,
        Err(error) => Err(error),
    };
    rows.push(Row::of("routes, blackhole routes", "pods and blocks of addresses", true, routed, "CONFIG_INET"));
    let routed = net.replace_route(&pod(IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1)))).await;
    let ipv6 = "CONFIG_IPV6, not switched off on its command line";
    rows.push(Row::of("IPv6 routes", "pods with IPv6 addresses", false, routed, ipv6));
    let near: IpNet = "192.0.2.1/24".parse()?;
    let several = async {
        net.add_address(index, near).await?;
        let hops = [2, 3].map(|host| (IpAddr::V4(Ipv4Addr::new(192, 0, 2, host)), index));
        let route = RouteSpec::new(
            IpNet::from(IpAddr::V4(Ipv4Addr::new(10, 9, 0, 0))),
            RouteKind::multipath(hops.to_vec()),
            PROTOCOL,
        );
        net.replace_route(&route).await
    };
    let kernel = "CONFIG_IP_ROUTE_MULTIPATH";
    rows.push(Row::of("routes by several next hops", "equal paths of BGP", false, several.await, kernel));
    let limited = net.set_bucket(index, &BUCKET).await;
    rows.push(Row::of(
        "traffic control: tbf",
        "pods' limits of what they receive",
        false,
        limited,
        "CONFIG_NET_SCH_TBF",
    ));
    let detour = async {
        let ifb = net.create_ifb("check2", 0).await?;
        net.set_detour(index, ifb).await
    };
    let kernel = "CONFIG_IFB, CONFIG_NET_SCH_INGRESS, CONFIG_NET_CLS_U32 and CONFIG_NET_ACT_MIRRED";
    rows.push(Row::of("traffic control: ifb", "pods' limits of what they send", false, detour.await, kernel));
    let vxlan = Vxlan { vni: 4096, port: 4789, local: near.addr(), learning: false };
    let made = net.create_vxlan("check3", &vxlan, Mac([2, 0, 0, 0, 0, 1]), 1450).await.map(drop);
    rows.push(Row::of("VXLAN", "IPPools with vxlanMode", false, made, "CONFIG_VXLAN (module vxlan)"));
    let made = net.create_ipip("tunl0").await.map(drop);
    rows.push(Row::of("IPIP", "IPPools with ipipMode", false, made, "CONFIG_NET_IPIP (module ipip)"));
    Ok(rows)
}

/// Whether forwarding can be switched on.
fn settings() -> Row {
    let path = "/proc/sys/net/ipv4/ip_forward";
    let result = OpenOptions::new().write(true).open(path).map(drop).map_err(|error| format!("{path}: {error}"));
    let mut row =
        Row::of("kernel settings can be written", "forwarding, and settings of pods' interfaces", true, result, "");
    row.remedy = row.remedy.map(|_| "run agents with a writable /proc/sys: privileged, in a container".to_owned());
    row
}

fn text(rows: &[Row]) -> String {
    let state = |row: &Row| match (row.present, row.required) {
        (true, _) => "ok",
        (false, true) => "MISSING",
        (false, false) => "missing",
    };
    let cells = rows.iter().map(|row| [row.feature.to_owned(), state(row).to_owned(), row.purpose.to_owned()]);
    let mut text = output::columns(["FEATURE", "STATE", "FOR"], cells);
    for row in rows.iter().filter(|row| !row.present) {
        let (error, remedy) = (row.error.as_deref().unwrap_or_default(), row.remedy.as_deref().unwrap_or_default());
        let _ = write!(text, "\n{}: {error}\n  it takes: {remedy}\n", row.feature);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_told_with_its_remedy() {
        let rows = [
            Row::of("veth", "pods' interfaces", true, Err("not supported"), "CONFIG_VETH"),
            Row::of("log", "rules that log", false, Ok::<_, &str>(()), "CONFIG_NFT_LOG"),
            Row::of("snat", "natOutgoingAddress", false, Err("not found"), "CONFIG_NFT_NAT"),
        ];
        let expected = "\
            FEATURE   STATE     FOR\n\
            veth      MISSING   pods' interfaces\n\
            log       ok        rules that log\n\
            snat      missing   natOutgoingAddress\n\
            \nveth: not supported\n  it takes: a kernel with CONFIG_VETH, as part of it or as a module that may be loaded\n\
            \nsnat: not found\n  it takes: a kernel with CONFIG_NFT_NAT, as part of it or as a module that may be loaded\n";
        assert_eq!(text(&rows), expected);
    }
}
