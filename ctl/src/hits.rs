//! `tortie policy hits`: how often each rule of each policy decided, as the agents' tables have counted it.

use anyhow::Result;
use tortie_admin::types::PolicyHits;

use crate::ask;
use crate::cli::Hits;
use crate::output::Output;
use crate::settings::Settings;

pub(crate) async fn run(settings: &Settings, output: Output, args: &Hits) -> Result<()> {
    let answers = ask::all::<Vec<PolicyHits>>(settings, "/v1/policy/hits").await?;
    let rows: Vec<PolicyHits> = answers.rows.iter().flatten().filter(|row| is_asked(row, args)).cloned().collect();
    output.print(&rows, |output| table(&rows, answers.many, output.wide()))?;
    answers.check()
}

/// Whether a row is of the policies that are asked for. Of a tier's default it is not known whose it is.
fn is_asked(row: &PolicyHits, args: &Hits) -> bool {
    let of_a_policy = row.kind.is_some();
    args.name.as_ref().is_none_or(|name| of_a_policy && row.policy == *name)
        && args.namespace.as_ref().is_none_or(|namespace| row.namespace.as_ref() == Some(namespace))
        && (!args.hit || row.packets > 0 || row.rejudged_packets > 0)
}

fn table(rows: &[PolicyHits], many: bool, wide: bool) -> String {
    if rows.is_empty() {
        return "No counters of such policies found.\n".to_owned();
    }
    if wide {
        let header =
            ["TIER", "KIND", "POLICY", "DIRECTION", "RULE", "ACTION", "PACKETS", "BYTES", "REJUDGED", "REJUDGED BYTES"];
        return ask::with_node(many, header, rows.iter().map(|row| (row.node.clone(), wide_cells(row))));
    }
    let header = ["TIER", "KIND", "POLICY", "RULE", "ACTION", "PACKETS", "BYTES", "REJUDGED"];
    ask::with_node(many, header, rows.iter().map(|row| (row.node.clone(), cells(row))))
}

fn cells(row: &PolicyHits) -> [String; 8] {
    [
        row.tier.clone(),
        kind(row),
        policy(row),
        rule(row),
        action(row),
        row.packets.to_string(),
        row.bytes.to_string(),
        row.rejudged_packets.to_string(),
    ]
}

fn wide_cells(row: &PolicyHits) -> [String; 10] {
    [
        row.tier.clone(),
        kind(row),
        policy(row),
        row.direction.clone(),
        row.rule.clone().unwrap_or_else(|| "default".to_owned()),
        action(row),
        row.packets.to_string(),
        row.bytes.to_string(),
        row.rejudged_packets.to_string(),
        row.rejudged_bytes.to_string(),
    ]
}

/// The policy's kind, without which its name may be that of several. A tier's default is of no policy alone.
fn kind(row: &PolicyHits) -> String {
    row.kind.clone().unwrap_or_else(|| "<none>".to_owned())
}

/// The policy; of a tier's default, those that made the tier responsible.
fn policy(row: &PolicyHits) -> String {
    match &row.namespace {
        Some(namespace) => format!("{namespace}/{}", row.policy),
        None => row.policy.clone(),
    }
}

/// The rule as a field; what no rule of the tier decided is its default.
fn rule(row: &PolicyHits) -> String {
    row.rule.clone().unwrap_or_else(|| format!("{} default", row.direction))
}

/// What it does, or would do.
fn action(row: &PolicyHits) -> String {
    if row.staged { format!("{} (staged)", row.action) } else { row.action.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(policy: &str, rule: Option<&str>, action: &str, packets: u64) -> PolicyHits {
        PolicyHits {
            node: "a".into(),
            tier: "default".into(),
            kind: rule.map(|_| "NetworkPolicy".to_owned()),
            namespace: rule.map(|_| "shop".to_owned()),
            policy: policy.into(),
            direction: "ingress".into(),
            rule: rule.map(str::to_owned),
            action: action.into(),
            staged: policy == "later",
            packets,
            bytes: packets * 60,
            rejudged_packets: 1,
            rejudged_bytes: 60,
        }
    }

    #[test]
    fn rules_defaults_and_staged_ones_are_told_apart() {
        let rows = [
            row("web", Some("spec.ingress[0]"), "Allow", 12),
            row("later", Some("spec.ingress[1]"), "Deny", 3),
            row("NetworkPolicy shop/web", None, "Deny", 7),
        ];
        let expected = "\
            TIER      KIND            POLICY                   RULE              ACTION          PACKETS   BYTES   REJUDGED\n\
            default   NetworkPolicy   shop/web                 spec.ingress[0]   Allow           12        720     1\n\
            default   NetworkPolicy   shop/later               spec.ingress[1]   Deny (staged)   3         180     1\n\
            default   <none>          NetworkPolicy shop/web   ingress default   Deny            7         420     1\n";
        assert_eq!(table(&rows, false, false), expected);
        assert_eq!(table(&[], true, false), "No counters of such policies found.\n");
        let args = |name: Option<&str>, namespace: Option<&str>| Hits {
            name: name.map(str::to_owned),
            namespace: namespace.map(str::to_owned),
            hit: false,
        };
        let asked = |args: &Hits| rows.iter().filter(|row| is_asked(row, args)).count();
        assert_eq!(asked(&args(None, None)), 3);
        assert_eq!(asked(&args(Some("web"), None)), 1);
        assert_eq!(asked(&args(None, Some("shop"))), 2);
        assert_eq!(asked(&args(Some("web"), Some("other"))), 0);
    }
}
