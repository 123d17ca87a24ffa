//! What policies decide, summed up by tier: the metrics that the table's counters of hits lead to.
//!
//! There are two counters for each rule of each policy, which is too many for labels; tiers, directions and actions are few. Counters
//! go with their policies, so what is summed up is how much each has grown since the last page: the sums never fall while the agent
//! lives, and begin with what the table's counters have at its start. Only what has grown is looked up.

use std::collections::BTreeMap;

use tortie_felix::hits::{HitRow, Hits, is_hit_counter};

/// What a sum is of.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Labels {
    pub(super) tier: String,
    pub(super) direction: &'static str,
    pub(super) action: String,
    /// Whether it would have been decided so: staged policies.
    pub(super) staged: bool,
    /// Whether the flows existed, and were judged again.
    pub(super) again: bool,
}

/// The sums, and what the counters had when they were made.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    seen: Hits,
    sums: BTreeMap<Labels, u64>,
}

impl Totals {
    /// By how much counters of hits have grown since the last page. One that has less than then was made anew.
    pub(super) fn grown(&self, counters: &Hits) -> Hits {
        let grown = counters.iter().filter_map(|(name, (packets, bytes))| {
            let (seen, seen_bytes) = self.seen.get(name).copied().unwrap_or_default();
            let (seen, seen_bytes) = if *packets < seen { (0, 0) } else { (seen, seen_bytes) };
            let growth = (packets - seen, bytes.saturating_sub(seen_bytes));
            (growth.0 > 0 && is_hit_counter(name)).then(|| (name.clone(), growth))
        });
        grown.collect()
    }

    /// Adds that up, once it is known which rules it is of. An empty table says nothing: it may only be away for a moment.
    pub(super) fn add(&mut self, counters: &Hits, rows: &[HitRow]) {
        if counters.is_empty() {
            return;
        }
        for row in rows {
            for (again, tally) in [(false, row.new), (true, row.again)] {
                if tally.packets == 0 {
                    continue;
                }
                let labels = Labels {
                    tier: row.tier.clone(),
                    direction: row.by.direction(),
                    action: format!("{:?}", row.action),
                    staged: row.staged,
                    again,
                };
                *self.sums.entry(labels).or_default() += tally.packets;
            }
        }
        let counted = counters.iter().filter(|(name, (packets, _))| *packets > 0 && is_hit_counter(name));
        self.seen = counted.map(|(name, counts)| (name.clone(), *counts)).collect();
    }

    /// The sums.
    pub(super) fn sums(&self) -> &BTreeMap<Labels, u64> {
        &self.sums
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const ONE: &str = "h_000000000001";
    const TWO: &str = "h_000000000002";

    fn counters(counts: &[(&str, u64)]) -> Hits {
        counts.iter().map(|(name, packets)| ((*name).to_owned(), (*packets, packets * 60))).collect()
    }

    /// What is asked of the owner, and what it says: all is of one tier.
    fn page(totals: &mut Totals, counters: &Hits) -> u64 {
        let packets: u64 = totals.grown(counters).values().map(|(packets, _)| packets).sum();
        let by = json!({"TierDefault": {"tier": "default", "direction": "Ingress", "policies": "", "digits": ""}});
        let tally = |packets: u64| json!({"packets": packets, "bytes": 0});
        let row = json!({"tier": "default", "by": by, "action": "Deny", "staged": false, "new": tally(packets), "again": tally(0)});
        let row: HitRow = serde_json::from_value(row).expect("a row");
        totals.add(counters, &[row]);
        totals.sums().values().sum()
    }

    #[test]
    fn sums_grow_with_what_counters_count_and_never_fall() {
        let mut totals = Totals::default();
        assert_eq!(page(&mut totals, &counters(&[(ONE, 5), (TWO, 0), ("policies", 100)])), 5, "only hits");
        assert_eq!(totals.grown(&counters(&[(ONE, 5), (TWO, 0)])), Hits::new(), "nothing new is not asked about");
        assert_eq!(page(&mut totals, &counters(&[(ONE, 7), (TWO, 1)])), 8);
        assert_eq!(page(&mut totals, &counters(&[(TWO, 1)])), 8, "a policy went");
        assert_eq!(page(&mut totals, &counters(&[])), 8, "the table is not there");
        assert_eq!(page(&mut totals, &counters(&[(ONE, 3), (TWO, 1)])), 11, "the policy came again, and began anew");
        assert_eq!(page(&mut totals, &counters(&[(ONE, 1), (TWO, 1)])), 12, "its counter began anew");
        assert_eq!(totals.sums().len(), 1);
    }
}
