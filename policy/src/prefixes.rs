//! What the names of pods' interfaces begin with (`interfacePrefix`).

use tortie_api::calico::FelixConfigurationSpec;

/// The prefix where nobody says otherwise.
const POD_PREFIX: &str = "cali";

/// A pod's interface has 11 digits after its prefix, as Calico names it, of the 15 bytes that the kernel takes.
const LONGEST_NAMING: usize = 4;

/// Interfaces of a node as others name them. What they begin with is no prefix of pods': the node would be cut off.
const NOT_PODS: [&str; 12] = [
    "lo",
    "eth0",
    "ens3",
    "enp0s3",
    "eno1",
    "wlan0",
    "bond0",
    "tunl0",
    "vxlan.calico",
    "docker0",
    "kube-ipvs0",
    "tifb0",
];

/// The prefixes that a configuration asks for, as far as they may be pods', with one that leaves room for a name; at least one.
pub fn interface_prefixes(spec: &FelixConfigurationSpec) -> Vec<String> {
    let mut prefixes: Vec<String> = Vec::new();
    for prefix in listed(spec).filter(|prefix| !is_others(prefix)) {
        if prefixes.iter().all(|known| known != prefix) {
            prefixes.push(prefix.to_owned());
        }
    }
    if prefixes.iter().all(|prefix| prefix.len() > LONGEST_NAMING) {
        prefixes.push(POD_PREFIX.to_owned());
    }
    prefixes
}

/// What new interfaces of pods are named by: the first prefix that leaves room for the rest of the name.
pub fn naming_prefix(prefixes: &[String]) -> &str {
    let mut short = prefixes.iter().filter(|prefix| prefix.len() <= LONGEST_NAMING);
    short.next().map_or(POD_PREFIX, String::as_str)
}

/// Why a configuration's prefixes are not taken as they are, one sentence each.
pub fn refused_prefixes(spec: &FelixConfigurationSpec) -> Vec<String> {
    let refused = listed(spec).filter(|prefix| is_others(prefix));
    let mut reasons: Vec<String> = refused
        .map(|prefix| {
            format!("{prefix}... are interfaces of the node itself, and never taken for pods': choose another")
        })
        .collect();
    if let Some(list) = &spec.interface_prefix
        && !listed(spec).any(|prefix| prefix.len() <= LONGEST_NAMING && !is_others(prefix))
    {
        reasons.push(format!(
            "{} leaves no room for names of interfaces, so new ones are named {POD_PREFIX}...: put a prefix of at most \
             {LONGEST_NAMING} characters into the list",
            list.0
        ));
    }
    reasons
}

fn listed(spec: &FelixConfigurationSpec) -> impl Iterator<Item = &str> {
    spec.interface_prefix.iter().flat_map(|list| list.0.split(','))
}

fn is_others(prefix: &str) -> bool {
    NOT_PODS.iter().any(|interface| interface.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefixes(list: &str) -> Vec<String> {
        let spec = serde_json::json!({ "interfacePrefix": list });
        interface_prefixes(&serde_json::from_value(spec).expect("a spec"))
    }

    #[test]
    fn a_list_always_has_one_to_name_pods_by() {
        assert_eq!(interface_prefixes(&FelixConfigurationSpec::default()), ["cali"]);
        for (list, expected, naming) in [
            ("tap-vm,pod,cali", &["tap-vm", "pod", "cali"][..], "pod"),
            ("longer", &["longer", "cali"], "cali"),
            ("eth,pod,pod", &["pod"], "pod"),
            ("e", &["cali"], "cali"),
        ] {
            assert_eq!(
                (prefixes(list), naming_prefix(&prefixes(list))),
                (expected.iter().map(ToString::to_string).collect(), naming)
            );
        }
    }
}
