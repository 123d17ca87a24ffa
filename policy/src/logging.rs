//! What the kernel's log says ahead of a packet that a rule logs.
//!
//! `logPrefix` of FelixConfiguration may hold what stands for the rule's policy: `%t` for its tier, `%k` for its kind in short, `%n` for
//! its name, `%p` for the name with the namespace, where there is one.

use tortie_api::Kind;
use tortie_nft::log_prefix;

use crate::cluster::PolicyKey;

/// The prefix for rules of a policy in a tier; that of a profile has none. What is longer than the kernel takes is cut.
pub(crate) fn prefix(format: &str, tier: &str, policy: &PolicyKey) -> String {
    let mut text = String::with_capacity(format.len());
    let mut rest = format;
    while let Some((before, after)) = rest.split_once('%') {
        text.push_str(before);
        let mut letters = after.chars();
        match letters.next() {
            Some('t') if policy.kind == Kind::Profile => {}
            Some('t') => text.push_str(tier),
            Some('k') => text.push_str(short(policy.kind)),
            Some('n') => text.push_str(&policy.name),
            Some('p') => text.push_str(&policy.to_string()),
            _ => {
                text.push('%');
                rest = after;
                continue;
            }
        }
        rest = letters.as_str();
    }
    text.push_str(rest);
    log_prefix(&text)
}

/// Calico's short name of a kind.
const fn short(kind: Kind) -> &'static str {
    match kind {
        Kind::NetworkPolicy => "knp",
        Kind::ClusterNetworkPolicy => "kcnp",
        Kind::CalicoNetworkPolicy => "np",
        Kind::GlobalNetworkPolicy => "gnp",
        Kind::StagedNetworkPolicy => "snp",
        Kind::StagedGlobalNetworkPolicy => "sgnp",
        Kind::StagedKubernetesNetworkPolicy => "sknp",
        Kind::Profile => "pro",
        other => other.as_str(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(kind: Kind, namespace: &str, name: &str) -> PolicyKey {
        PolicyKey { namespace: (!namespace.is_empty()).then(|| namespace.into()), name: name.into(), kind }
    }

    #[test]
    fn specifiers_stand_for_the_policy() {
        let own = key(Kind::CalicoNetworkPolicy, "shop", "web");
        assert_eq!(prefix("calico-packet", "default", &own), "calico-packet");
        assert_eq!(prefix("%t %k %p %n", "audit", &own), "audit np shop/web web");
        assert_eq!(prefix("a%n%%t %x 5% ", "audit", &own), "aweb%audit %x 5% ");
        let global = key(Kind::GlobalNetworkPolicy, "", "all");
        assert_eq!(prefix("%k:%p:%n", "audit", &global), "gnp:all:all");
        assert_eq!(prefix("%t/%k/%n", "profiles", &key(Kind::Profile, "", "shared")), "/pro/shared");
    }

    #[test]
    fn what_a_name_says_is_not_looked_at_again_and_too_much_is_cut() {
        assert_eq!(prefix("%n", "t", &key(Kind::GlobalNetworkPolicy, "", "%t")), "%t");
        assert_eq!(prefix("%n", "t", &key(Kind::GlobalNetworkPolicy, "", &"x".repeat(200))).len(), 127);
    }
}
