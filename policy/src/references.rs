//! What policies and host endpoints say of objects that are not there.
//!
//! Each object may be valid by itself and still mean something other than its author thinks, because it names a tier or a profile that
//! nobody has described. Nothing is weakened by that, and whoever looks after the node should know. Only what names anything but the
//! built-in tiers is kept, which is little in any cluster.

use std::collections::{BTreeMap, BTreeSet};

use tortie_api::calico::{DEFAULT_TIER, KUBE_ADMIN_TIER, KUBE_BASELINE_TIER};
use tortie_api::{Kind, Object, ObjectKey};

/// So many objects are named one by one that lack the same thing.
const NAMED: usize = 3;

/// Tiers, profiles, and who names them.
#[derive(Debug, Clone, Default)]
pub struct References {
    tiers: BTreeSet<String>,
    profiles: BTreeSet<String>,
    /// The tier that a policy is in, of those that are in none of the built-in ones.
    tier_of: BTreeMap<ObjectKey, String>,
    /// The profiles of a host endpoint.
    profiles_of: BTreeMap<String, Vec<String>>,
}

impl References {
    /// The kinds that it looks at.
    pub const KINDS: [Kind; 7] = [
        Kind::Tier,
        Kind::Profile,
        Kind::HostEndpoint,
        Kind::CalicoNetworkPolicy,
        Kind::GlobalNetworkPolicy,
        Kind::StagedNetworkPolicy,
        Kind::StagedGlobalNetworkPolicy,
    ];

    /// Whether others name objects of this kind.
    pub fn is_target(kind: Kind) -> bool {
        matches!(kind, Kind::Tier | Kind::Profile)
    }

    /// Takes in a new or changed object.
    pub fn upsert(&mut self, object: &Object) {
        match object {
            Object::Tier(tier) => drop(self.tiers.insert(tier.metadata.name.clone())),
            Object::Profile(profile) => drop(self.profiles.insert(profile.metadata.name.clone())),
            Object::HostEndpoint(host) => {
                let name = host.metadata.name.clone();
                if host.spec.profiles.is_empty() {
                    self.profiles_of.remove(&name);
                } else {
                    self.profiles_of.insert(name, host.spec.profiles.clone());
                }
            }
            Object::CalicoNetworkPolicy(policy)
            | Object::GlobalNetworkPolicy(policy)
            | Object::StagedNetworkPolicy(policy)
            | Object::StagedGlobalNetworkPolicy(policy) => {
                if is_built_in(&policy.spec.tier) {
                    self.tier_of.remove(&object.key());
                } else {
                    self.tier_of.insert(object.key(), policy.spec.tier.clone());
                }
            }
            _ => {}
        }
    }

    /// Forgets an object.
    pub fn remove(&mut self, key: &ObjectKey) {
        match key.kind {
            Kind::Tier => drop(self.tiers.remove(&key.name)),
            Kind::Profile => drop(self.profiles.remove(&key.name)),
            Kind::HostEndpoint => drop(self.profiles_of.remove(&key.name)),
            _ => drop(self.tier_of.remove(key)),
        }
    }

    /// What is named and not there: a sentence on each, with object, field, value and remedy.
    pub fn problems(&self) -> Vec<String> {
        let mut missing: BTreeMap<&str, Vec<&ObjectKey>> = BTreeMap::new();
        for (policy, tier) in self.tier_of.iter().filter(|(_, tier)| !self.tiers.contains(*tier)) {
            missing.entry(tier).or_default().push(policy);
        }
        let tiers = missing.into_iter().map(|(tier, policies)| {
            let who = shortened(policies.iter().map(ToString::to_string).collect());
            format!(
                "{who}: spec.tier: Invalid value: {tier:?}: there is no such Tier; until there is, it counts as the last one, and \
                 denies what its policies select and no rule of theirs decides: apply the Tier, or name another"
            )
        });
        let profiles = self.profiles_of.iter().flat_map(|(host, profiles)| {
            let missing = profiles.iter().enumerate().filter(|(_, profile)| !self.has_profile(profile));
            missing.map(move |(index, profile)| {
                format!(
                    "HostEndpoint {host}: spec.profiles[{index}]: Invalid value: {profile:?}: there is no such Profile; it allows \
                     nothing: apply the Profile, or take it out of the list"
                )
            })
        });
        tiers.chain(profiles).collect()
    }

    /// Whether there is such a profile. Those of namespaces and of service accounts are Calico's own.
    fn has_profile(&self, name: &str) -> bool {
        self.profiles.contains(name) || name.starts_with("kns.") || name.starts_with("ksa.") || name == ALLOW_ALL
    }
}

/// The profile that Calico makes for host endpoints of its own.
const ALLOW_ALL: &str = "projectcalico-default-allow";

/// Whether the tier is there without a document.
fn is_built_in(tier: &str) -> bool {
    [DEFAULT_TIER, KUBE_ADMIN_TIER, KUBE_BASELINE_TIER].contains(&tier)
}

/// The first few, and how many more.
fn shortened(names: Vec<String>) -> String {
    let more = names.len().saturating_sub(NAMED);
    let mut text = names.into_iter().take(NAMED).collect::<Vec<_>>().join(", ");
    if more > 0 {
        text = format!("{text} and {more} more");
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use tortie_api::{Decoded, decode};

    use super::*;

    fn object(kind: &str, name: &str, spec: &Value) -> Object {
        let document =
            json!({"apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": {"name": name}, "spec": spec});
        match decode(&document) {
            Ok(Decoded::Object(object)) => *object,
            other => panic!("{document}: {other:?}"),
        }
    }

    #[test]
    fn a_tier_is_missed_until_it_comes_and_after_it_went() {
        let mut references = References::default();
        let names = ["sec.a", "sec.b", "sec.c", "sec.d"];
        for name in names {
            references.upsert(&object("GlobalNetworkPolicy", name, &json!({"tier": "sec"})));
        }
        references.upsert(&object("GlobalNetworkPolicy", "plain", &json!({})));
        let problems = references.problems();
        let [problem] = problems.as_slice() else { panic!("{problems:?}") };
        let lead = "GlobalNetworkPolicy sec.a, GlobalNetworkPolicy sec.b, GlobalNetworkPolicy sec.c and 1 more: spec.tier: \
                    Invalid value: \"sec\": there is no such Tier";
        assert!(problem.starts_with(lead), "{problem}");
        let tier = object("Tier", "sec", &json!({"order": 5}));
        references.upsert(&tier);
        assert_eq!(references.problems(), [""; 0]);
        references.remove(&tier.key());
        assert_eq!(references.problems().len(), 1);
        for name in names {
            references.remove(&object("GlobalNetworkPolicy", name, &json!({"tier": "sec"})).key());
        }
        assert_eq!(references.problems(), [""; 0]);
    }

    #[test]
    fn a_policy_that_moves_to_a_built_in_tier_misses_nothing() {
        let mut references = References::default();
        references.upsert(&object("GlobalNetworkPolicy", "a", &json!({"tier": "sec"})));
        references.upsert(&object("GlobalNetworkPolicy", "a", &json!({})));
        assert_eq!(references.problems(), [""; 0]);
    }

    #[test]
    fn profiles_of_host_endpoints() {
        let mut references = References::default();
        let spec = json!({"node": "n", "interfaceName": "eth0", "profiles": ["kns.default", "web"]});
        references.upsert(&object("HostEndpoint", "h", &spec));
        let problems = references.problems();
        assert!(
            problems.len() == 1 && problems[0].starts_with("HostEndpoint h: spec.profiles[1]: Invalid value: \"web\"")
        );
        references.upsert(&object("Profile", "web", &json!({})));
        assert_eq!(references.problems(), [""; 0]);
    }
}
