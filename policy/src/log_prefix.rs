//! What the kernel's log says ahead of a packet that a rule logs: `logPrefix` of FelixConfiguration, with what Calico has it stand for.

use tortie_api::Kind;
use tortie_nft::{LOG_PREFIX_MAX, log_prefix};

use crate::cluster::PolicyKey;

/// What stands between the prefix and the packet.
const END: &str = ": ";

/// The prefix for the rules of a policy in a tier: `%t` is the tier, `%k` the policy's kind in short, `%n` its name and `%p` its name
/// with its namespace, if it has one; a profile is in no tier. Anything else stands for itself. What is longer than the kernel takes is
/// cut.
pub(crate) fn of(template: &str, tier: &str, policy: &PolicyKey) -> String {
    let mut text = String::with_capacity(template.len());
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('%') {
        text.push_str(before);
        let specifier = after.chars().next().unwrap_or_default();
        match specifier {
            't' if policy.kind == Kind::Profile => {}
            't' => text.push_str(tier),
            'k' => text.push_str(short(policy.kind)),
            'n' => text.push_str(&policy.name),
            'p' => text.push_str(&policy.to_string()),
            _ => {
                text.push('%');
                rest = after;
                continue;
            }
        }
        rest = &after[specifier.len_utf8()..];
    }
    text.push_str(rest);
    let mut fit = log_prefix(&text);
    let room = (0..=LOG_PREFIX_MAX - END.len()).rev().find(|at| fit.is_char_boundary(*at)).unwrap_or_default();
    fit.truncate(room);
    fit + END
}

/// A kind as Calico abbreviates it.
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

    #[test]
    fn specifiers_stand_for_the_policy_and_all_else_for_itself() {
        let web = PolicyKey { namespace: Some("shop".into()), name: "web".into(), kind: Kind::CalicoNetworkPolicy };
        let all = PolicyKey { namespace: None, name: "all".into(), kind: Kind::GlobalNetworkPolicy };
        // What a name says is not looked at again.
        let profile = PolicyKey { namespace: None, name: "%t".into(), kind: Kind::Profile };
        for (template, policy, expected) in [
            ("calico-packet", &web, "calico-packet: "),
            ("%t %k %n", &web, "default np web: "),
            ("[%p]", &web, "[shop/web]: "),
            ("%k:%p", &all, "gnp:all: "),
            ("100% %x%", &all, "100% %x%: "),
            ("a%n%%t", &all, "aall%default: "),
            ("%t/%k/%n", &profile, "/pro/%t: "),
            ("", &all, ": "),
        ] {
            assert_eq!(of(template, "default", policy), expected, "{template}");
        }
        let long = of(&"%n".repeat(100), "default", &web);
        assert!(long.len() == LOG_PREFIX_MAX && long.starts_with("webweb") && long.ends_with(END), "{long}");
    }
}
