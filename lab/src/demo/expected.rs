//! The demo's hand-written expectations: a witness that shares nothing with the compiler, the oracle or the packets.

use std::collections::BTreeMap;

use crate::ports::Port;
use crate::verdict::Verdict;

const TEXT: &str = include_str!("../../demo/expected.txt");

/// Who may reach what, after a step.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Expected {
    /// By `NAMESPACE/NAME` or `NAMESPACE/NAME:PORT`, the sources.
    accepts: BTreeMap<&'static str, Vec<&'static str>>,
}

impl Expected {
    /// What holds after `step`; before the first one everything is open.
    pub(super) fn after(step: &str) -> Self {
        let mut expected = Self::default();
        for line in TEXT.lines().filter(|line| !line.starts_with('#')) {
            let mut words = line.split_whitespace();
            let (Some(of), Some(destination)) = (words.next(), words.next()) else { continue };
            if of <= step {
                expected.accepts.insert(destination, words.collect());
            }
        }
        expected
    }

    /// The verdict on a pair.
    pub(super) fn verdict(&self, from: &str, to: &str, port: Port) -> Verdict {
        let by_port = self.accepts.get(format!("{to}:{}", port.port).as_str());
        match by_port.or_else(|| self.accepts.get(to)) {
            Some(sources) if !sources.contains(&from) && !sources.contains(&"*") => Verdict::Deny,
            _ => Verdict::Allow,
        }
    }

    /// Every name that the table uses, for the test that holds it against the manifests.
    #[cfg(test)]
    fn names() -> impl Iterator<Item = &'static str> {
        let lines = TEXT.lines().filter(|line| !line.starts_with('#'));
        lines.flat_map(|line| line.split_whitespace().skip(1)).map(|name| name.split(':').next().unwrap_or(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tortie_api::k8s::Protocol;

    fn tcp(port: u16) -> Port {
        Port { protocol: Protocol::Tcp, port }
    }

    #[test]
    fn steps_build_upon_each_other() {
        let open = Expected::after("");
        assert_eq!(open.verdict("dev/api", "web/nginx", tcp(80)), Verdict::Allow);
        let a = Expected::after("a");
        assert_eq!(a.verdict("web/demo", "web/nginx", tcp(80)), Verdict::Deny);
        let f = Expected::after("f");
        assert_eq!(f.verdict("web/demo", "web/nginx", tcp(80)), Verdict::Allow);
        assert_eq!(f.verdict("outside", "shop/web", tcp(80)), Verdict::Allow);
        assert_eq!(f.verdict("outside", "shop/web", tcp(8080)), Verdict::Deny);
        assert_eq!(f.verdict("prod/api", "shop/myapp", tcp(80)), Verdict::Allow);
        assert_eq!(f.verdict("dev/api", "shop/myapp", tcp(80)), Verdict::Deny);
    }

    #[test]
    fn the_table_names_pods_of_the_manifests() {
        for name in Expected::names().filter(|name| *name != "*") {
            let (namespace, pod) = name.split_once('/').unwrap();
            let line = format!("metadata: {{name: {pod}, namespace: {namespace}, ");
            assert!(crate::demo::CLUSTER.contains(&line), "{name} is no pod of the demo");
        }
    }
}
