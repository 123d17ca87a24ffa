//! Which rules count a flow: what the oracle names as deciding, as the comments of counters say it.

use serde_json::{Value, json};
use tortie_api::calico::{Action, TierAction};
use tortie_api::k8s::{PolicyType, Protocol};
use tortie_api::{Object, ObjectKey};
use tortie_nft::comment;
use tortie_policy::oracle::{Asked, Half, Reason, Step, Traffic};

use crate::documents::frame;
use crate::generated::both_directions;
use crate::support::{Flow, addr};
use crate::worlds::World;

/// The tiers that deny what their policies do not decide.
pub(crate) struct Denying(Vec<String>);

impl Denying {
    /// Those of a world of these objects.
    pub(crate) fn of(objects: &[Object]) -> Self {
        let tiers = objects.iter().filter_map(|object| match object {
            Object::Tier(tier) => Some((tier.metadata.name.clone(), tier.spec.default_action)),
            _ => None,
        });
        Self(
            tiers
                .filter(|(_, action)| *action == TierAction::Deny)
                .map(|(name, _)| name)
                .chain(["default".to_owned()])
                .collect(),
        )
    }

    fn has(&self, tier: &str) -> bool {
        self.0.iter().any(|name| name == tier)
    }
}

/// What counts a flow that is judged in one direction like this, in order: rules that log, pass or decide, staged ones among them, and
/// the end of a tier.
pub(crate) fn counting(half: &Half, direction: PolicyType, denying: &Denying, again: bool) -> Vec<String> {
    let mut hits = Vec::new();
    let asked: Vec<&Asked> = half
        .steps
        .iter()
        .filter_map(|step| match step {
            Step::Policy(asked) => Some(asked),
            Step::TierEnd { .. } => None,
        })
        .collect();
    for tier in asked.chunk_by(|a, b| a.tier == b.tier) {
        // Of staged policies the first rule that fits counts.
        let mut rehearsed = false;
        for asked in tier {
            for (number, rule) in asked.looked_at.iter().enumerate() {
                let counts = rule.misfits.is_empty() && !(asked.staged && rehearsed);
                if counts {
                    hits.push(format!("{} {} rule {}", named(&asked.policy), word(direction), number + 1));
                }
                rehearsed |= asked.staged && counts && rule.action != Action::Log;
            }
        }
        let name = &tier[0].tier;
        if tier.iter().all(|asked| asked.staged) && !rehearsed && denying.has(name) {
            hits.push(of_tier(name, direction, tier.iter().map(|asked| &asked.policy)));
        }
    }
    if let Reason::TierDefault { tier, policies } = &half.reason {
        hits.push(of_tier(tier, direction, policies));
    }
    let again = if again { "again: " } else { "" };
    hits.into_iter().map(|hit| comment(&format!("{again}{hit}"))).collect()
}

fn of_tier<'a>(tier: &str, direction: PolicyType, policies: impl IntoIterator<Item = &'a ObjectKey>) -> String {
    let policies: Vec<String> = policies.into_iter().map(named).collect();
    format!("tier {tier} {} default: {}", word(direction), policies.join(", "))
}

fn named(policy: &ObjectKey) -> String {
    let namespace = policy.namespace.as_ref().map_or(String::new(), |namespace| format!("{namespace}/"));
    format!("{} {namespace}{}", policy.kind.as_str(), policy.name)
}

const fn word(direction: PolicyType) -> &'static str {
    match direction {
        PolicyType::Ingress => "ingress",
        PolicyType::Egress => "egress",
    }
}

/// Many rules about one port are looked up in one map, where each address has the counter of the first rule that allows it: by a
/// selector or by a block, whichever comes first.
#[test]
fn of_many_rules_the_first_that_allows_counts() {
    let pod = |number: u8, labels: &Value| {
        json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"namespace": "x", "name": format!("pod{number}"), "labels": labels},
            "spec": {"nodeName": "n1", "containers": [{"name": "c", "ports": [{"name": "web", "containerPort": 80}]}]},
            "status": {"phase": "Running", "podIPs": [{"ip": format!("10.0.0.{number}")}]}})
    };
    let policy = |name: &str, peer: &Value, port: &Value| {
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"namespace": "x", "name": name},
            "spec": {"podSelector": {"matchLabels": {"a": "1"}}, "ingress": [{"from": [peer], "ports": [port]}]}})
    };
    let (clients, all) = (json!({"podSelector": {"matchLabels": {"a": "2"}}}), json!({"podSelector": {}}));
    let block = |cidr: &str| json!({"ipBlock": {"cidr": cidr}});
    let peers = [clients, block("10.0.0.2/31"), block("192.0.2.0/24"), all, block("10.0.0.0/24"), block("0.0.0.0/0")];
    let ports = [json!({"port": 80}), json!({"port": "web"}), json!({"port": 79, "endPort": 81})];
    let mut documents = frame(&[json!({}), json!({})]);
    documents.extend(
        [json!({"a": "1"}), json!({"a": "2"}), json!({"a": "2"}), json!({"a": "1", "b": "1"})]
            .iter()
            .zip(1..)
            .map(|(labels, number)| pod(number, labels)),
    );
    // Each comes first once: the order of the rules is that of their names.
    for (turn, port) in (0..peers.len()).flat_map(|turn| ports.iter().map(move |port| (turn, port))) {
        let mut world = World { documents: documents.clone() };
        for (index, name) in ["a", "b", "c", "d", "e", "f"].iter().enumerate() {
            world.documents.push(policy(name, &peers[(index + turn) % peers.len()], port));
        }
        let to_first = |flow: &Flow| flow.to == addr("10.0.0.1");
        let pick = |flows: Vec<Flow>| flows.into_iter().filter(to_first).collect();
        both_directions(&world, &[Traffic::to_port(Protocol::Tcp, 80)], pick).expect("as the oracle says");
    }
}

/// A staged policy that would have decided leaves nothing to the staged ones after it in the tier, whoever stands between them.
#[test]
fn of_staged_policies_the_first_that_fits_counts() {
    let policy = |kind: &str, name: &str, order: u8, ports: &Value| {
        let rule = json!({"action": "Deny", "protocol": "TCP", "destination": {"ports": ports}});
        json!({"apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": {"name": name},
            "spec": {"selector": "all()", "order": order, "types": ["Ingress"], "ingress": [rule]}})
    };
    let mut documents = frame(&[json!({}), json!({})]);
    documents.push(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "x", "name": "pod"},
        "spec": {"nodeName": "n1", "containers": [{"name": "c"}]},
        "status": {"phase": "Running", "podIPs": [{"ip": "10.0.0.1"}]}}));
    // What is still learned says nothing.
    documents.push(policy("StagedGlobalNetworkPolicy", "0", 0, &json!([80, 83])));
    documents.last_mut().expect("the policy")["spec"]["stagedAction"] = json!("Learn");
    documents.push(policy("StagedGlobalNetworkPolicy", "a", 1, &json!([80])));
    documents.push(policy("GlobalNetworkPolicy", "b", 2, &json!([81])));
    documents.push(policy("StagedGlobalNetworkPolicy", "c", 3, &json!([80, 82])));
    let traffics = [80, 81, 82, 83].map(|port| Traffic::to_port(Protocol::Tcp, port));
    both_directions(&World { documents }, &traffics, |flows| flows).expect("as the oracle says");
}
