//! The grammars of names, label keys and label values that the Kubernetes API shares between its kinds.

/// A name as the API defines it: how long, and of which characters.
pub(crate) type Check = fn(&str) -> Result<(), String>;

const DNS_LABEL: &str = "must consist of lower case letters, digits and '-', and start and end with a letter or digit \
                         (RFC 1123 label, such as 'my-name')";
const DNS_SUBDOMAIN: &str = "must consist of lower case letters, digits, '-' and '.', and each part must start and end \
                             with a letter or digit (RFC 1123 subdomain, such as 'example.com')";
const POLICY_NAME: &str = "must consist of lower case letters, digits and '-', start and end with a letter or digit, and have at \
                           most one '.', behind the name of its tier (such as 'my-policy' or 'my-tier.my-policy')";
const LABEL_NAME: &str = "must consist of letters, digits, '-', '_' and '.', and start and end with a letter or digit \
                          (such as 'app' or 'example.com/app')";
const LABEL_VALUE: &str = "must be empty or consist of letters, digits, '-', '_' and '.', and start and end with a \
                           letter or digit (such as 'my-value')";

fn no_longer_than(text: &str, limit: usize) -> Result<(), String> {
    if text.len() > limit { Err(format!("must be no more than {limit} bytes long")) } else { Ok(()) }
}

/// Whether `text` is not empty, starts and ends with what `edge` takes, and has only that and `inner` in between.
fn framed(text: &str, edge: fn(u8) -> bool, inner: &[u8]) -> bool {
    let bytes = text.as_bytes();
    bytes.first().is_some_and(|first| edge(*first))
        && bytes.last().is_some_and(|last| edge(*last))
        && bytes.iter().all(|byte| edge(*byte) || inner.contains(byte))
}

fn is_lower_alphanumeric(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

fn is_alphanumeric(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
}

fn is_dns_label(text: &str) -> bool {
    framed(text, is_lower_alphanumeric, b"-")
}

/// An RFC 1123 label: what namespaces are named by.
pub(super) fn dns_label(text: &str) -> Result<(), String> {
    no_longer_than(text, 63)?;
    if is_dns_label(text) { Ok(()) } else { Err(DNS_LABEL.to_owned()) }
}

/// An RFC 1123 subdomain: what most objects are named by.
pub(super) fn dns_subdomain(text: &str) -> Result<(), String> {
    no_longer_than(text, 253)?;
    if text.split('.').all(is_dns_label) { Ok(()) } else { Err(DNS_SUBDOMAIN.to_owned()) }
}

/// A qualified name, the key of a label or annotation: a name, before it optionally a DNS subdomain and a slash.
pub(super) fn qualified_name(text: &str) -> Result<(), String> {
    let name = match text.split_once('/') {
        Some((prefix, name)) => {
            dns_subdomain(prefix).map_err(|reason| format!("prefix part {reason}"))?;
            name
        }
        None => text,
    };
    no_longer_than(name, 63).map_err(|reason| format!("name part {reason}"))?;
    if framed(name, is_alphanumeric, b"-_.") { Ok(()) } else { Err(format!("name part {LABEL_NAME}")) }
}

/// The value of a label.
pub(super) fn label_value(text: &str) -> Result<(), String> {
    no_longer_than(text, 63)?;
    if text.is_empty() || framed(text, is_alphanumeric, b"-_.") { Ok(()) } else { Err(LABEL_VALUE.to_owned()) }
}

/// The name of a port: an IANA service name (RFC 6335).
pub(super) fn port_name(text: &str) -> Result<(), String> {
    let reason = if text.len() > 15 {
        "must be no more than 15 characters long"
    } else if !text.bytes().all(|byte| is_lower_alphanumeric(byte) || byte == b'-') {
        "must contain only lower case letters, digits and '-' (IANA_SVC_NAME)"
    } else if text.bytes().all(|byte| byte.is_ascii_digit()) && !text.is_empty() {
        "a string is the name of a port and must contain at least one letter (IANA_SVC_NAME): write a port number without quotes"
    } else if !text.bytes().any(|byte| byte.is_ascii_lowercase()) {
        "must contain at least one letter (IANA_SVC_NAME)"
    } else if text.contains("--") {
        "must not contain two hyphens in a row (IANA_SVC_NAME)"
    } else if text.starts_with('-') || text.ends_with('-') {
        "must not start or end with a hyphen (IANA_SVC_NAME)"
    } else {
        return Ok(());
    };
    Err(reason.to_owned())
}

/// The name of a Calico policy without a namespace: a plain name, or one with its tier before it.
fn global_policy_name(text: &str) -> Result<(), String> {
    no_longer_than(text, 253)?;
    if text.split('.').all(is_dns_label) && text.split('.').count() <= 2 {
        return Ok(());
    }
    Err(POLICY_NAME.to_owned())
}

/// The name of a Calico policy in a namespace: likewise, or what Calico calls its copy of a Kubernetes policy (`knp.default.NAME`).
fn policy_name(text: &str) -> Result<(), String> {
    let kubernetes = ["knp.default.", "ossg.default."].into_iter().find_map(|prefix| text.strip_prefix(prefix));
    match kubernetes {
        Some(name) => no_longer_than(text, 253).and_then(|()| dns_subdomain(name)),
        None => global_policy_name(text),
    }
}

/// A domain name of a ClusterNetworkPolicy: two parts at least, before them optionally `*.`, behind them a dot.
pub(super) fn domain(text: &str) -> Result<(), String> {
    let name = text.strip_prefix("*.").unwrap_or(text);
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.contains('.') && name.split('.').all(|part| framed(part, is_alphanumeric, b"-_")) {
        return Ok(());
    }
    Err("must be a domain name such as 'example.com', or '*.example.com' for all names below it".to_owned())
}

/// The name of a Linux interface, as Calico takes it.
pub(super) fn interface(text: &str) -> Result<(), String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    if (1..=15).contains(&text.len()) && text.bytes().all(plain) {
        return Ok(());
    }
    Err("must be the name of an interface (at most 15 letters, digits, '-', '_' and '.'), or '*' for the whole node"
        .to_owned())
}

/// Which grammar the name of an object follows.
pub(crate) const fn object_name(kind: crate::Kind) -> Check {
    use crate::Kind;

    match kind {
        Kind::Namespace | Kind::Tier => dns_label,
        Kind::CalicoNetworkPolicy | Kind::StagedNetworkPolicy => policy_name,
        Kind::GlobalNetworkPolicy | Kind::StagedGlobalNetworkPolicy => global_policy_name,
        _ => dns_subdomain,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_the_rfcs_say() {
        for good in ["a", "0", "a-b", "x1", &"a".repeat(63)] {
            assert_eq!(dns_label(good), Ok(()), "{good}");
        }
        for bad in ["", "-", "a-", "-a", "A", "a.b", "a_b", "é", &"a".repeat(64)] {
            assert!(dns_label(bad).is_err(), "{bad}");
        }
        for good in ["a.b", "a", "10.0", "node.n-1"] {
            assert_eq!(dns_subdomain(good), Ok(()), "{good}");
        }
        // Only the whole is limited, not its parts.
        assert_eq!(crate::Kind::Pod.check_name(&format!("{}.b", "a".repeat(200))), Ok(()));
        assert!(crate::Kind::Namespace.check_name("a.b").is_err());
        for bad in ["", ".", "a..b", "a.-b", "a.", "a/b", "..", &"a".repeat(254)] {
            assert!(dns_subdomain(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn label_keys_and_values() {
        for good in ["app", "App_1.x", "kubernetes.io/metadata.name", "a/b"] {
            assert_eq!(qualified_name(good), Ok(()), "{good}");
        }
        for bad in ["", "/a", "a/", "a/b/c", "A.io/x", "a b", "-a", &"x".repeat(64)] {
            assert!(qualified_name(bad).is_err(), "{bad}");
        }
        for good in ["", "a", "A_b-c.d", &"x".repeat(63)] {
            assert_eq!(label_value(good), Ok(()), "{good}");
        }
        for bad in ["-", "a b", "a/b", "a.", &"x".repeat(64)] {
            assert!(label_value(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn port_names_are_service_names() {
        for good in ["http", "serve-80-tcp", "a", "8o"] {
            assert_eq!(port_name(good), Ok(()), "{good}");
        }
        for bad in ["", "-", "80", "HTTP", "a--b", "a-", "-a", "a_b", "0123456789abcdef"] {
            assert!(port_name(bad).is_err(), "{bad}");
        }
        assert!(port_name("80").unwrap_err().contains("without quotes"));
    }
}
