//! firewalld, told of pods through its own command.
//!
//! Its table rejects at its end what none of its zones and policies accepts, and no rule elsewhere overrides that. So pods' interfaces
//! become a zone of their own that accepts, and a policy accepts what goes to that zone, as Docker does for its bridges. Zones and
//! policies can only be made in the permanent configuration, which a reload brings into force. A reload throws away what an
//! administrator changed without `--permanent`, so it is left to him where there is such a thing.

use crate::tools::{FirewallCmdError, firewall_cmd};

/// The zone of pods' interfaces.
pub(crate) const ZONE: &str = "tortie";

/// The policy for what goes to pods.
pub(crate) const POLICY: &str = "tortie-forwarding";

/// What is to be asked, which answer means that it is so already, and what makes it so.
struct Step {
    ask: String,
    wanted: &'static str,
    set: String,
}

/// The zone, and the policy of what goes to it.
fn steps(prefix: &str) -> Vec<Step> {
    let step = |ask: String, wanted, set: String| Step { ask, wanted, set };
    vec![
        step("--get-zones".into(), ZONE, format!("--new-zone={ZONE}")),
        step(format!("--zone={ZONE} --get-target"), "ACCEPT", format!("--zone={ZONE} --set-target=ACCEPT")),
        step(
            format!("--zone={ZONE} --query-interface={prefix}+"),
            "yes",
            format!("--zone={ZONE} --add-interface={prefix}+"),
        ),
        step("--get-policies".into(), POLICY, format!("--new-policy={POLICY}")),
        step(format!("--policy={POLICY} --get-target"), "ACCEPT", format!("--policy={POLICY} --set-target=ACCEPT")),
        step(
            format!("--policy={POLICY} --query-ingress-zone=ANY"),
            "yes",
            format!("--policy={POLICY} --add-ingress-zone=ANY"),
        ),
        step(
            format!("--policy={POLICY} --query-egress-zone={ZONE}"),
            "yes",
            format!("--policy={POLICY} --add-egress-zone={ZONE}"),
        ),
    ]
}

fn run(permanent: bool, words: &str) -> Result<String, FirewallCmdError> {
    let first = permanent.then_some("--permanent");
    firewall_cmd(&first.into_iter().chain(words.split(' ')).collect::<Vec<_>>())
}

/// Tells firewalld of the interfaces that begin with `prefix`. What it knows already is not written again.
pub(crate) fn tell(prefix: &str) -> Result<(), FirewallCmdError> {
    run(false, "--state")?;
    let unsaved = unsaved()?;
    for step in steps(prefix) {
        // A query that is answered by "no" fails.
        let is_so = run(true, &step.ask).is_ok_and(|answer| answer.split_whitespace().any(|word| word == step.wanted));
        if !is_so {
            run(true, &step.set)?;
        }
    }
    if unsaved {
        return Err(FirewallCmdError::Failed(format!(
            "its permanent configuration has the zone {ZONE} now, but it also runs with changes that were never saved, \
             and the reload that would bring the zone into force would throw them away"
        )));
    }
    run(false, "--reload").map(|_| ())
}

/// Takes back what [`tell`] told. Whether there was anything.
pub(crate) fn forget() -> Result<bool, FirewallCmdError> {
    let mut forgotten = false;
    for (ask, name, delete) in [
        ("--get-policies", POLICY, format!("--delete-policy={POLICY}")),
        ("--get-zones", ZONE, format!("--delete-zone={ZONE}")),
    ] {
        if run(true, ask).is_ok_and(|answer| answer.split_whitespace().any(|word| word == name)) {
            run(true, &delete)?;
            forgotten = true;
        }
    }
    if forgotten {
        run(false, "--reload")?;
    }
    Ok(forgotten)
}

/// Whether firewalld knows of pods.
pub(crate) fn knows() -> bool {
    run(true, "--get-zones").is_ok_and(|answer| answer.split_whitespace().any(|word| word == ZONE))
}

/// Whether firewalld runs with changes that a reload would throw away. Which interfaces are in a zone survives it.
fn unsaved() -> Result<bool, FirewallCmdError> {
    for question in ["--list-all-zones", "--list-all-policies", "--direct --get-all-rules", "--get-ipsets"] {
        let (now, saved) = (run(false, question)?, run(true, question)?);
        if settings(&now) != settings(&saved) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A listing without what differs between what runs and what is saved by nature: which zones are active, and their interfaces; and
/// without what is ours.
fn settings(listing: &str) -> Vec<String> {
    let mut ours = false;
    let mut lines = Vec::new();
    for line in listing.lines().filter(|line| !line.trim().is_empty()) {
        if !line.starts_with(char::is_whitespace) {
            ours = matches!(line.split_whitespace().next(), Some(ZONE | POLICY));
        }
        let changes = ["interfaces:"].iter().any(|word| line.trim_start().starts_with(word));
        if !ours && !changes {
            let line = line.split(" (").next().unwrap_or_default();
            lines.push(line.trim_end().to_owned());
        }
    }
    lines
}

/// The commands that tell it, for a person.
pub(crate) fn by_hand(prefix: &str) -> String {
    let commands: Vec<String> =
        steps(prefix).into_iter().map(|step| format!("firewall-cmd --permanent {}", step.set)).collect();
    format!("run: {}; firewall-cmd --reload", commands.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_reload_would_throw_away_counts() {
        let runs = "public (active)\n  target: default\n  interfaces: eth0\n  ports: 80/tcp\n\ntortie (active)\n  target: ACCEPT\n";
        let saved = "public\n  target: default\n  interfaces: \n  ports: 80/tcp\n";
        assert_eq!(settings(runs), settings(saved));
        assert_ne!(settings(runs), settings("public\n  target: default\n  interfaces: \n  ports: \n"));
    }
}
