//! Whether a firewall would drop every forwarded packet of pods, found by walking a packet that is known only by its interface.
//!
//! The packet came from some pod, or goes to one; all else about it is open. A rule that holds for every such packet decides. A rule
//! that may hold or not is passed over: if it accepts, it accepts some packets and not all; if it drops, somebody wrote it on purpose
//! and it is respected. So what is found is the drop that nothing in particular leads to, such as Docker's policy, or the `reject` at
//! the end of firewalld's chain, and the rule of the base chain before which an `accept` of ours has to stand.

use tortie_nft_netlink::foreign::{Chain, Condition, Interface, Rule, Verdict};

/// How deep jumps are followed; the kernel allows 16.
const DEEPEST: usize = 32;

/// Rules that one walk looks at, at most: chains may be jumped to from many rules, and each jump is walked.
const LONGEST: usize = 100_000;

/// Which packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// They came in by a pod's interface.
    FromPods,
    /// They go out by a pod's interface.
    ToPods,
}

impl Direction {
    /// Both.
    pub const ALL: [Self; 2] = [Self::FromPods, Self::ToPods];
}

/// What becomes of the packets in a base chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Some go through.
    Passes,
    /// None goes through but those that a particular rule accepts.
    Dropped {
        /// The rule of the base chain that drops them or leads to where they are dropped; none if it is the chain's policy.
        rule: Option<usize>,
    },
}

/// Walks packets of pods, whose interfaces' names begin with `prefix`, through a base chain.
pub fn walk(chains: &[Chain], base: &Chain, prefix: &str, direction: Direction) -> Outcome {
    let walk = Walk { chains, prefix, direction };
    let mut budget = LONGEST;
    for (index, rule) in base.rules.iter().enumerate() {
        match walk.rule(rule, 0, &mut budget) {
            Step::Next => {}
            Step::Accepted => return Outcome::Passes,
            Step::Dropped => return Outcome::Dropped { rule: Some(index) },
            // Back from a base chain is its end.
            Step::Returned => break,
        }
    }
    match &base.hook {
        Some(hook) if hook.drops => Outcome::Dropped { rule: None },
        _ => Outcome::Passes,
    }
}

struct Walk<'a> {
    chains: &'a [Chain],
    prefix: &'a str,
    direction: Direction,
}

enum Step {
    Next,
    Accepted,
    Dropped,
    Returned,
}

impl Walk<'_> {
    fn rule(&self, rule: &Rule, depth: usize, budget: &mut usize) -> Step {
        if *budget == 0 || !rule.conditions.iter().all(|condition| self.holds(condition)) {
            return Step::Next;
        }
        *budget -= 1;
        match &rule.verdict {
            None | Some(Verdict::Unknown) => Step::Next,
            Some(Verdict::Accept) => Step::Accepted,
            Some(Verdict::Drop | Verdict::Reject) => Step::Dropped,
            Some(Verdict::Return) => Step::Returned,
            Some(Verdict::Jump(chain)) => match self.chain(chain, depth + 1, budget) {
                Step::Returned => Step::Next,
                step => step,
            },
            // The end of a chain that was gone to leads to where the one before would have led.
            Some(Verdict::Goto(chain)) => match self.chain(chain, depth + 1, budget) {
                Step::Next => Step::Returned,
                step => step,
            },
        }
    }

    fn chain(&self, name: &str, depth: usize, budget: &mut usize) -> Step {
        let Some(chain) = self.chains.iter().find(|chain| chain.name == name) else { return Step::Next };
        if depth > DEEPEST {
            return Step::Next;
        }
        for rule in &chain.rules {
            match self.rule(rule, depth, budget) {
                Step::Next => {}
                step => return step,
            }
        }
        Step::Next
    }

    /// Whether a condition holds for every packet of the direction.
    fn holds(&self, condition: &Condition) -> bool {
        match (condition, self.direction) {
            (Condition::In(interface), Direction::FromPods) | (Condition::Out(interface), Direction::ToPods) => {
                means_all(interface, self.prefix)
            }
            _ => false,
        }
    }
}

/// Whether a condition is true of every interface whose name begins with `prefix`.
fn means_all(interface: &Interface, prefix: &str) -> bool {
    if interface.negated {
        // Not this one: true of all pods' if no pod's could be meant.
        let could_be = interface.name.starts_with(prefix) || (interface.prefix && prefix.starts_with(&interface.name));
        !could_be
    } else {
        interface.prefix && prefix.starts_with(&interface.name)
    }
}

#[cfg(test)]
mod tests {
    use tortie_nft_netlink::foreign::Hook;

    use super::*;

    fn interface(text: &str) -> Interface {
        let (text, negated) = text.strip_prefix('!').map_or((text, false), |rest| (rest, true));
        let (name, prefix) = text.strip_suffix('*').map_or((text, false), |rest| (rest, true));
        Interface { name: name.into(), prefix, negated }
    }

    /// `in=cali* out=eth0 other accept|drop|reject|return|jump X|goto X|log`
    fn rule(text: &str) -> Rule {
        let mut rule = Rule::default();
        let mut words = text.split(' ');
        while let Some(word) = words.next() {
            match word.split_once('=') {
                Some(("in", name)) => rule.conditions.push(Condition::In(interface(name))),
                Some(("out", name)) => rule.conditions.push(Condition::Out(interface(name))),
                _ => match word {
                    "other" => rule.conditions.push(Condition::Other),
                    "accept" => rule.verdict = Some(Verdict::Accept),
                    "drop" => rule.verdict = Some(Verdict::Drop),
                    "reject" => rule.verdict = Some(Verdict::Reject),
                    "return" => rule.verdict = Some(Verdict::Return),
                    "vmap" => rule.verdict = Some(Verdict::Unknown),
                    "jump" => rule.verdict = Some(Verdict::Jump(words.next().unwrap().into())),
                    "goto" => rule.verdict = Some(Verdict::Goto(words.next().unwrap().into())),
                    "log" => {}
                    other => panic!("{other}"),
                },
            }
        }
        rule
    }

    fn chain(name: &str, rules: &[&str]) -> Chain {
        Chain { name: name.into(), hook: None, rules: rules.iter().map(|text| rule(text)).collect() }
    }

    fn look(drops: bool, forward: &[&str], others: &[(&str, &[&str])]) -> [Outcome; 2] {
        let hook = Hook { kind: "filter".into(), number: 2, priority: 0, drops };
        let base = Chain { hook: Some(hook), ..chain("FORWARD", forward) };
        let chains: Vec<Chain> = others.iter().map(|(name, rules)| chain(name, rules)).collect();
        Direction::ALL.map(|direction| walk(&chains, &base, "cali", direction))
    }

    const PASSES: Outcome = Outcome::Passes;
    const POLICY: Outcome = Outcome::Dropped { rule: None };
    const fn at(rule: usize) -> Outcome {
        Outcome::Dropped { rule: Some(rule) }
    }

    #[test]
    fn an_open_chain_passes() {
        assert_eq!(look(false, &[], &[]), [PASSES, PASSES]);
        assert_eq!(look(false, &["in=eth0 drop", "other reject", "log", "vmap"], &[]), [PASSES, PASSES]);
        assert_eq!(look(false, &["in=cali1 drop", "in=docker0 other drop"], &[]), [PASSES, PASSES]);
    }

    #[test]
    fn dockers_policy_drops() {
        let docker: &[(&str, &[&str])] = &[
            ("DOCKER-USER", &["return"]),
            ("ISOLATION", &["in=docker0 out=!docker0 jump STAGE2", "return"]),
            ("STAGE2", &["out=docker0 drop"]),
        ];
        let forward =
            ["jump DOCKER-USER", "jump ISOLATION", "out=docker0 other accept", "in=docker0 out=!docker0 accept"];
        assert_eq!(look(true, &forward, docker), [POLICY, POLICY]);
        let accepts = ["in=cali* accept", "out=cali* accept"];
        assert_eq!(look(true, &[&forward[..], &accepts].concat(), docker), [PASSES, PASSES]);
        assert_eq!(look(true, &[&forward[..], &accepts[..1]].concat(), docker), [PASSES, POLICY]);
    }

    #[test]
    fn a_reject_at_the_end_is_found_and_what_is_before_it_too() {
        assert_eq!(look(false, &["other accept", "reject"], &[]), [at(1), at(1)]);
        assert_eq!(look(false, &["other accept", "reject", "in=cali* accept"], &[]), [at(1), at(1)]);
        assert_eq!(look(false, &["in=cali* accept", "out=!docker0 drop"], &[]), [PASSES, at(1)]);
        assert_eq!(look(true, &["jump ufw", "drop"], &[("ufw", &["other accept", "reject"])]), [at(0), at(0)]);
    }

    #[test]
    fn gotos_returns_and_loops() {
        let zones: &[(&str, &[&str])] = &[
            ("zones", &["in=cali* goto trusted", "goto public"]),
            ("trusted", &["accept"]),
            ("public", &["other accept"]),
        ];
        assert_eq!(look(false, &["jump zones", "reject"], zones), [PASSES, at(1)]);
        // What is gone to ends, and the chain that went does not go on.
        let ends: &[(&str, &[&str])] = &[("a", &["goto b", "accept"]), ("b", &["log"])];
        assert_eq!(look(true, &["jump a"], ends), [POLICY, POLICY]);
        assert_eq!(look(true, &["goto b", "accept"], ends), [POLICY, POLICY]);
        assert_eq!(look(true, &["return", "accept"], &[]), [POLICY, POLICY]);
        // The kernel refuses loops and calls of what is not there; a reader that is torn must end.
        let a_loop: &[(&str, &[&str])] = &[("a", &["jump b", "jump b"]), ("b", &["jump a", "jump a"])];
        assert_eq!(look(true, &["jump a", "jump nowhere"], a_loop), [POLICY, POLICY]);
    }

    #[test]
    fn which_interfaces_are_meant() {
        for (text, expected) in [
            ("cali*", true),
            ("ca*", true),
            ("*", true),
            ("cali1", false),
            ("cali1*", false),
            ("eth0", false),
            ("!docker0", true),
            ("!docker*", true),
            ("!cali*", false),
            ("!cali1", false),
            ("!c*", false),
        ] {
            assert_eq!(means_all(&interface(text), "cali"), expected, "{text}");
        }
    }
}
