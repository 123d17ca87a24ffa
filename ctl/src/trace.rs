//! `tortie policy explain --trace`: what the kernels of the nodes really did with the packets of a flow.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Result, bail};
use tokio::task::JoinSet;
use tortie_admin::client::{Client, DEFAULT_TIMEOUT};
use tortie_admin::types::{TraceReport, TraceRequest, TracedPacket, TracedStep};
use tortie_policy::explain::Route;
use tortie_policy::oracle::Traffic;

use crate::cli::Explain;
use crate::output::note;
use crate::settings::Settings;

/// So many packets of a node are shown.
const SHOWN: usize = 20;

/// Has every agent that the settings mean trace the flow, all at once, and waits for them.
pub(crate) async fn collect(
    settings: &Settings,
    args: &Explain,
    traffic: Traffic,
    route: &Route,
    seconds: u16,
) -> Result<Vec<TraceReport>> {
    let (Some(source), Some(destination)) = (route.source_address, route.destination_address) else {
        bail!("--trace needs the addresses of both ends: {} or {} has none", args.from, args.to);
    };
    let request = request(traffic, source, destination, args.source_port, seconds);
    let clients = settings.clients()?;
    note(&format!("tracing {source} to {destination} for {seconds} s: have it send now"));
    let mut tasks = JoinSet::new();
    for (index, client) in clients.into_iter().enumerate() {
        let request = request.clone();
        tasks.spawn(async move { (index, ask(client, &request).await) });
    }
    let mut results = tasks.join_all().await;
    results.sort_by_key(|(index, _)| *index);
    let mut reports = Vec::new();
    for (_, result) in results {
        match result {
            Ok(report) => reports.push(report),
            Err(error) => note(&format!("tortie: warning: {error}")),
        }
    }
    if reports.is_empty() {
        bail!("no agent could trace");
    }
    Ok(reports)
}

/// The flow. Only a source port that was asked for counts: whoever sends chooses his own.
fn request(
    traffic: Traffic,
    source: IpAddr,
    destination: IpAddr,
    source_port: Option<u16>,
    seconds: u16,
) -> TraceRequest {
    let (protocol, port) = match traffic {
        Traffic::Ports { protocol, port, .. } => (protocol.number(), Some(port)),
        Traffic::Icmp { .. } => (if source.is_ipv4() { 1 } else { 58 }, None),
        Traffic::Other(number) => (number, None),
    };
    TraceRequest { source, destination, protocol, source_port: source_port.filter(|_| port.is_some()), port, seconds }
}

async fn ask(client: Client, request: &TraceRequest) -> Result<TraceReport> {
    let client = client.with_timeout(DEFAULT_TIMEOUT + Duration::from_secs(request.seconds.into()));
    Ok(client.post("/v1/policy/trace", request).await?)
}

/// What happened, packet by packet.
pub(crate) fn text(reports: &[TraceReport]) -> String {
    let mut text = String::new();
    for report in reports {
        let packets = match report.packets.len() {
            0 => "saw no packet of it".to_owned(),
            1 => "saw a packet of it".to_owned(),
            number => format!("saw {number} packets of it"),
        };
        let _ = writeln!(text, "\ntrace: {} {packets}", report.node);
        for (what, count) in drops(report) {
            let times = if count == 1 { "a packet" } else { &format!("{count} packets") };
            let _ = writeln!(text, "  DROPPED {times}: {what}");
        }
        for (number, packet) in report.packets.iter().take(SHOWN).enumerate() {
            text.push_str(&of_packet(number + 1, packet));
        }
        if report.packets.len() > SHOWN {
            let _ = writeln!(text, "  {} more packets: -o json", report.packets.len() - SHOWN);
        }
    }
    text
}

/// What dropped packets on a node, and how many: table, chain and handle of the rule, to be found in its kernel, and what it stands for.
fn drops(report: &TraceReport) -> BTreeMap<String, usize> {
    let mut drops = BTreeMap::new();
    for step in report.packets.iter().flat_map(|packet| &packet.steps).filter(|step| step.verdict == "drop") {
        let handle = step.handle.map(|handle| format!(", handle {handle}")).unwrap_or_default();
        let what = step.policy.as_ref().or(step.comment.as_ref()).map(|what| format!(": {what}")).unwrap_or_default();
        *drops.entry(format!("table {}, chain {}{handle}{what}", step.table, step.chain)).or_default() += 1;
    }
    drops
}

fn of_packet(number: usize, packet: &TracedPacket) -> String {
    let address = |address: Option<IpAddr>| address.map_or_else(|| "?".to_owned(), |address| address.to_string());
    let mut text = format!("  packet {number}, {} to {}:\n", address(packet.source), address(packet.destination));
    for step in &packet.steps {
        let _ = writeln!(text, "    {}", of_step(step));
    }
    text
}

/// A step in words: where, what the rule is for, and what it did.
fn of_step(step: &TracedStep) -> String {
    let what = match (step.met.as_str(), step.policy.as_ref().or(step.comment.as_ref()), &step.rule, step.handle) {
        ("policy", ..) => "no rule decided".to_owned(),
        ("end", ..) => "at its end".to_owned(),
        (_, Some(words), _, _) => words.clone(),
        (_, None, Some(rule), _) => format!("`{rule}`"),
        (_, None, None, Some(handle)) => format!("rule of handle {handle}"),
        (_, None, None, None) => "a rule".to_owned(),
    };
    let verdict = match step.verdict.as_str() {
        "continue" => "goes on".to_owned(),
        "accept" => "accepted here".to_owned(),
        "drop" => "DROPPED".to_owned(),
        "return" => "goes back".to_owned(),
        verdict => verdict.replacen("jump ", "goes to ", 1).replacen("goto ", "goes to ", 1),
    };
    let table = if step.table == "tortie" { String::new() } else { format!("table {}, ", step.table) };
    format!("{table}{}: {what}: {verdict}", step.chain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(chain: &str, met: &str, comment: Option<&str>, verdict: &str) -> TracedStep {
        TracedStep {
            table: "tortie".into(),
            chain: chain.into(),
            met: met.into(),
            handle: Some(7),
            rule: None,
            comment: comment.map(str::to_owned),
            policy: (verdict == "drop").then(|| "NetworkPolicy shop/web ingress rule 1".to_owned()),
            verdict: verdict.into(),
        }
    }

    #[test]
    fn a_trace_is_told_in_words() {
        let steps = vec![
            step("egress", "rule", Some("class of the sender"), "goto e_0123"),
            step("e_0123", "rule", None, "drop"),
            TracedStep { table: "filter".into(), ..step("FORWARD", "policy", None, "accept") },
        ];
        let packet = TracedPacket { source: "10.0.0.1".parse().ok(), destination: "10.0.0.2".parse().ok(), steps };
        let report = TraceReport { node: "a".into(), packets: vec![packet] };
        let quiet = TraceReport { node: "b".into(), packets: Vec::new() };
        let expected = "\ntrace: a saw a packet of it\n  \
            DROPPED a packet: table tortie, chain e_0123, handle 7: NetworkPolicy shop/web ingress rule 1\n  \
            packet 1, 10.0.0.1 to 10.0.0.2:\n    \
            egress: class of the sender: goes to e_0123\n    \
            e_0123: NetworkPolicy shop/web ingress rule 1: DROPPED\n    \
            table filter, FORWARD: no rule decided: accepted here\n\
            \ntrace: b saw no packet of it\n";
        assert_eq!(text(&[report, quiet]), expected);
    }
}
