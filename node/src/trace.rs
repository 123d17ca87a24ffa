//! What really happens to the packets of one flow, for a bounded time: the kernel's own words, with the rules that they are about.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tortie_admin::types::{TraceReport, TraceRequest, TracedPacket, TracedStep};
use tortie_felix::hits;
use tortie_nft::check::counters_of;
use tortie_nft::{Rule, TABLE};
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

/// The rules of the agent's table, by chain and handle.
pub(crate) struct Placed(BTreeMap<(String, u64), Rule>);

impl Placed {
    pub(crate) fn new(rules: Vec<PlacedRule>) -> Self {
        Self(rules.into_iter().map(|placed| ((placed.chain, placed.handle), placed.rule)).collect())
    }

    fn met(&self, event: &TraceEvent) -> Option<&Rule> {
        let Met::Rule(handle) = event.met else { return None };
        if event.table == TABLE { self.0.get(&(event.chain.clone(), handle)) } else { None }
    }

    /// The named counters of the rules that packets met.
    pub(crate) fn counters_met(&self, events: &[TraceEvent]) -> BTreeSet<String> {
        events.iter().filter_map(|event| self.met(event)).flat_map(counters_of).map(str::to_owned).collect()
    }
}

/// The events by packet, in the order in which the packets came, with the rules that they met. `counted` says what counters count.
pub(crate) fn report(
    node: &str,
    events: Vec<TraceEvent>,
    rules: &Placed,
    counted: &BTreeMap<String, String>,
) -> TraceReport {
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
        packet.steps.push(step(event, rules, counted));
    }
    TraceReport { node: node.to_owned(), packets }
}

fn step(event: TraceEvent, rules: &Placed, counted: &BTreeMap<String, String>) -> TracedStep {
    let rule = rules.met(&event);
    let handle = match event.met {
        Met::Rule(handle) => Some(handle),
        Met::End | Met::Policy => None,
    };
    let met = match event.met {
        Met::Rule(_) => "rule",
        Met::End => "end",
        Met::Policy => "policy",
    };
    // Counters of reasons have comments too; those of hits are named by what they count.
    let hit = |name: &str| hits::is_hit_counter(name).then(|| counted.get(name).cloned()).flatten();
    TracedStep {
        table: event.table,
        handle,
        rule: rule.map(ToString::to_string),
        comment: rule.and_then(|rule| rule.comment.clone()),
        policy: rule.and_then(|rule| counters_of(rule).find_map(hit)),
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

#[cfg(test)]
mod tests {
    use tortie_nft::{Statement, Verdict};

    use super::*;

    #[test]
    fn a_step_names_the_rule_and_the_policy_that_it_stands_for() {
        let counts = ["h_0123456789ab", "policies"].map(|name| Statement::NamedCounter(name.to_owned()));
        let statements: Vec<_> = counts.into_iter().chain([Statement::Verdict(Verdict::Drop)]).collect();
        let rule = Rule::new([], statements);
        let rules = Placed::new(vec![PlacedRule { chain: "i_1".into(), handle: 7, rule }]);
        let event = |table: &str, met| TraceEvent {
            packet: 1,
            family: 1,
            table: table.into(),
            chain: "i_1".into(),
            met,
            verdict: TraceVerdict::Drop,
            iif: None,
            oif: None,
            addresses: None,
        };
        let events = vec![event(TABLE, Met::Rule(7)), event("other", Met::Rule(7)), event(TABLE, Met::Policy)];
        assert_eq!(Vec::from_iter(rules.counters_met(&events)), ["h_0123456789ab", "policies"]);
        let words = |name: &str, text: &str| (name.to_owned(), text.to_owned());
        let counted = BTreeMap::from([
            words("h_0123456789ab", "GlobalNetworkPolicy web ingress rule 1"),
            words("policies", "what policies do not allow"),
        ]);
        let report = report("n", events, &rules, &counted);
        let steps = &report.packets[0].steps;
        assert_eq!(steps[0].policy.as_deref(), Some("GlobalNetworkPolicy web ingress rule 1"));
        assert_eq!((steps[0].handle, steps[0].rule.is_some()), (Some(7), true));
        assert_eq!((steps[1].handle, &steps[1].rule, &steps[1].policy), (Some(7), &None, &None), "another's table");
        assert_eq!((steps[2].handle, steps[2].met.as_str()), (None, "policy"));
    }
}
