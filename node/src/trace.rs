//! What really happens to the packets of one flow, for a bounded time: the kernel's own words, with the rules that they are about.

use std::collections::BTreeMap;
use std::time::Duration;

use tortie_admin::types::{TraceReport, TraceRequest, TracedPacket, TracedStep};
use tortie_nft::TABLE;
use tortie_nft_netlink::{Flow, Met, PlacedRule, TraceEvent, TraceMonitor, TraceVerdict};

/// No trace is longer.
const LONGEST: Duration = Duration::from_secs(60);

/// No trace has more events: some hundred packets.
const MOST: usize = 4_000;

/// Traces a flow in the network namespace of this process. Blocks for as long as is asked, or until more has happened than anybody reads.
///
/// # Errors
/// In words, when the kernel cannot trace.
pub(crate) fn trace(asked: &TraceRequest) -> Result<Vec<TraceEvent>, String> {
    let flow = Flow {
        source: asked.source,
        destination: asked.destination,
        protocol: asked.protocol,
        source_port: asked.source_port,
        destination_port: asked.port,
    };
    if flow.source.is_ipv4() != flow.destination.is_ipv4() {
        return Err(format!(
            "{} and {} are of different families: no flow goes between them",
            flow.source, flow.destination
        ));
    }
    let mut monitor = TraceMonitor::arm(&flow).map_err(|error| {
        format!("the kernel cannot trace: {error}; it takes Linux 5.12, and nft_meta and nft_ct in it")
    })?;
    let lasts = Duration::from_secs(asked.seconds.into()).min(LONGEST);
    monitor.collect(lasts, MOST).map_err(|error| error.to_string())
}

/// The events by packet, in the order in which the packets came, with the rules that they met.
pub(crate) fn report(node: &str, events: Vec<TraceEvent>, rules: &[PlacedRule]) -> TraceReport {
    let rules: BTreeMap<(&str, u64), &PlacedRule> =
        rules.iter().map(|rule| ((rule.chain.as_str(), rule.handle), rule)).collect();
    let mut packets: Vec<TracedPacket> = Vec::new();
    let mut places: BTreeMap<u32, usize> = BTreeMap::new();
    for event in events {
        let place = *places.entry(event.packet).or_insert_with(|| {
            packets.push(TracedPacket::default());
            packets.len() - 1
        });
        let Some(packet) = packets.get_mut(place) else { continue };
        if let Some((source, destination)) = event.addresses {
            packet.source.get_or_insert(source);
            packet.destination.get_or_insert(destination);
        }
        packet.steps.push(step(event, &rules));
    }
    TraceReport { node: node.to_owned(), packets }
}

fn step(event: TraceEvent, rules: &BTreeMap<(&str, u64), &PlacedRule>) -> TracedStep {
    let handle = match event.met {
        Met::Rule(handle) => Some(handle),
        Met::End | Met::Policy => None,
    };
    let rule = handle.filter(|_| event.table == TABLE).and_then(|handle| rules.get(&(event.chain.as_str(), handle)));
    let met = match event.met {
        Met::Rule(_) => "rule",
        Met::End => "end",
        Met::Policy => "policy",
    };
    TracedStep {
        table: event.table,
        handle,
        rule: rule.map(|placed| placed.rule.to_string()),
        comment: rule.and_then(|placed| placed.rule.comment.clone()),
        chain: event.chain,
        met: met.to_owned(),
        verdict: match event.verdict {
            TraceVerdict::Continue => "continue".to_owned(),
            TraceVerdict::Accept => "accept".to_owned(),
            TraceVerdict::Drop => "drop".to_owned(),
            TraceVerdict::Jump(chain) => format!("jump {chain}"),
            TraceVerdict::Goto(chain) => format!("goto {chain}"),
            TraceVerdict::Return => "return".to_owned(),
            TraceVerdict::Other(code) => format!("verdict {code}"),
        },
    }
}
