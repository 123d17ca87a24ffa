//! FelixConfiguration: every field of Calico's API, read as Calico reads it, and told apart by what this version does with it.
#![allow(missing_docs, reason = "a test")]
#![allow(
    clippy::disallowed_methods,
    clippy::format_push_string,
    reason = "it compares a page of the documentation, and can write it"
)]

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Value, json};
use tortie_api::calico::felix::{FIELDS, Field, LogLevel, PortRange, Standing};
use tortie_api::calico::{FelixConfiguration, FelixConfigurationSpec};
use tortie_api::{Decoded, Object, decode};

fn manifest(name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "projectcalico.org/v3", "kind": "FelixConfiguration", "metadata": {"name": name}, "spec": spec})
}

fn read(name: &str, spec: &Value) -> Result<FelixConfiguration, Vec<String>> {
    match decode(&manifest(name, spec)) {
        Ok(Decoded::Object(object)) => match *object {
            Object::FelixConfiguration(configuration) => Ok(*configuration),
            other => panic!("{other:?}"),
        },
        Ok(other) => panic!("{other:?}"),
        Err(errors) => Err(errors.iter().map(ToString::to_string).collect()),
    }
}

fn spec(value: &Value) -> FelixConfigurationSpec {
    read("x", value).unwrap_or_else(|errors| panic!("{value}: {errors:?}")).spec
}

/// A value that a field takes, found by trying.
fn some_value(field: &Field) -> Value {
    let candidates = [
        json!(true),
        json!("90s"),
        json!(1),
        json!(1500),
        json!(0xffff_0000_u32),
        json!("Enabled"),
        json!("Drop"),
        json!("Accept"),
        json!("Info"),
        json!("Legacy"),
        json!("Insert"),
        json!("Tunnel"),
        json!("Strict"),
        json!("TC"),
        json!("TCP"),
        json!("Debug"),
        json!("Auto"),
        json!("DoubleIfFull"),
        json!("TunnelAddress"),
        json!("Any"),
        json!("Keep"),
        json!("IPPoolsOnly"),
        json!("DoNothing"),
        json!("CalicoIPAM"),
        json!("Continuous"),
        json!("PodsAndLoadBalancers"),
        json!("10/second"),
        json!("A=true"),
        json!("eth+"),
        json!("10.0.0.1"),
        json!("fd00::1"),
        json!(["10.0.0.0/8"]),
        json!(["eth+"]),
        json!([8080]),
        json!([{"port": 22}]),
        json!([{"name": "core", "timeout": "9s"}]),
        json!([{"min": 1, "max": 2}]),
        json!({"min": 1, "max": 2}),
        json!({"a": "b"}),
        json!({"udpTimeout": "Auto"}),
        json!("has(x)"),
        json!("^eth"),
    ];
    let mut candidates = candidates.into_iter();
    candidates
        .find(|value| read("x", &json!({field.name: value})).is_ok_and(|read| read.spec.fields() == [field.name]))
        .unwrap_or_else(|| panic!("no value fits {}", field.name))
}

#[test]
fn every_field_can_be_set_written_and_read_again() {
    let names: Vec<&str> = FIELDS.iter().map(|field| field.name).collect();
    assert!(names.is_sorted() && names.iter().collect::<BTreeSet<_>>().len() == names.len(), "the table is in order");
    for field in FIELDS {
        let value = some_value(field);
        let object = Object::FelixConfiguration(Box::new(FelixConfiguration {
            spec: spec(&json!({field.name: value})),
            ..serde_json::from_value(json!({"metadata": {"name": "x"}})).expect("metadata")
        }));
        let written = serde_json::to_value(&object).expect("JSON");
        assert!(written["spec"].get(field.name).is_some(), "{written}");
        assert_eq!(decode(&written), Ok(Decoded::Object(Box::new(object))), "{}", field.name);
        assert_eq!(spec(&json!({field.name: null})), FelixConfigurationSpec::default(), "{}: null", field.name);
        let wrong = read("x", &json!({field.name: [[7]]})).expect_err(field.name);
        assert!(wrong[0].starts_with(&format!("spec.{}", field.name)), "{wrong:?}");
    }
}

#[test]
fn what_is_not_set_is_the_next_configurations() {
    let node = spec(&json!({"logSeverityScreen": "debug", "ipForwarding": "Disabled", "vxlanPort": 8472}));
    let default = spec(&json!({"logSeverityScreen": "Info", "natPortRange": "1000:2000", "ipForwarding": ""}));
    let both = node.or(&default);
    assert_eq!(both.fields(), ["ipForwarding", "logSeverityScreen", "natPortRange", "vxlanPort"]);
    assert_eq!(both.log_severity_screen, Some(LogLevel::Debug));
    assert_eq!(both.nat_port_range, Some(PortRange { min: 1000, max: 2000 }));
}

#[test]
fn errors_name_the_field_the_value_and_the_remedy() {
    for (name, value, want) in [
        (
            "default",
            json!({"nftablesFilterDenyActon": "Drop"}),
            "spec.nftablesFilterDenyActon: unknown field: did you mean \"nftablesFilterDenyAction\"?",
        ),
        ("default", json!({"flowLogsFileEnabled": true}), "spec.flowLogsFileEnabled: unknown field: remove it"),
        (
            "default",
            json!({"nftablesFilterDenyAction": "Block"}),
            "spec.nftablesFilterDenyAction: Unsupported value: \"Block\": supported values: \"Drop\", \"Reject\"",
        ),
        (
            "default",
            json!({"routeRefreshInterval": "90"}),
            "spec.routeRefreshInterval: Invalid value: \"90\": must be a duration, such as 90s, 1m30s or 500ms",
        ),
        (
            "default",
            json!({"routeRefreshInterval": 90}),
            "spec.routeRefreshInterval: Invalid value: 90: must be a string: put it in quotes",
        ),
        (
            "default",
            json!({"routeRefreshInterval": "-1s"}),
            "spec.routeRefreshInterval: Invalid value: \"-1s\": must be a duration, such as 90s, 1m30s or 500ms",
        ),
        (
            "default",
            json!({"natPortRange": "2000:1000"}),
            "spec.natPortRange: Invalid value: \"2000:1000\": must be a range whose first port is not above its last",
        ),
        (
            "default",
            json!({"natPortRange": 70000}),
            "spec.natPortRange: Invalid value: 70000: must be a port or a range of ports, such as 8080 or \"32768:60999\"",
        ),
        (
            "default",
            json!({"natOutgoingAddress": "fd00::1"}),
            "spec.natOutgoingAddress: Invalid value: \"fd00::1\": must be an IPv4 address",
        ),
        (
            "default",
            json!({"mtuIfacePattern": "(eth"}),
            "spec.mtuIfacePattern: Invalid value: \"(eth\": must be a regular expression: found open group without closing ')'",
        ),
        (
            "default",
            json!({"prometheusMetricsPort": 0}),
            "spec.prometheusMetricsPort: Invalid value: 0: must be between 1 and 65535, inclusive",
        ),
        (
            "default",
            json!({"nftablesMarkMask": 254}),
            "spec.nftablesMarkMask: Invalid value: 254: must have at least 8 bits set, such as 0xffff0000 (4294901760)",
        ),
        (
            "default",
            json!({"nodeSelector": "all()"}),
            "spec.nodeSelector: Forbidden: must not be set on \"default\" nor on a node's own: give a configuration with a selector another name",
        ),
        (
            "gpu",
            json!({"nodeSelector": "zone ="}),
            "spec.nodeSelector: Invalid value: \"zone =\": must be a selector such as has(key) && key == 'value': expected ==, !=, in, not in, contains, starts with or ends with at character 6",
        ),
        (
            "default",
            json!({"externalNodesList": ["10.0.0.1", "10.0.0"]}),
            "spec.externalNodesList[1]: Invalid value: \"10.0.0\": must be a network in CIDR notation, such as 10.0.0.0/8, or an address",
        ),
        (
            "default",
            json!({"failsafeInboundHostPorts": [{"protocol": "icmp", "port": 1}]}),
            "spec.failsafeInboundHostPorts[0].protocol: Unsupported value: \"icmp\": supported values: \"tcp\", \"udp\", \"sctp\"",
        ),
        (
            "default",
            json!({"healthTimeoutOverrides": [{"name": "core"}]}),
            "spec.healthTimeoutOverrides[0].timeout: Required value: this field must be set",
        ),
        (
            "default",
            json!({"healthHost": "node-1"}),
            "spec.healthHost: Invalid value: \"node-1\": must be an IP address or localhost",
        ),
        (
            "default",
            json!({"routeTableRange": {"min": 0, "max": 9}}),
            "spec.routeTableRange: Invalid value: {\"min\":0,\"max\":9}: must be a range of route table indices within 1..250",
        ),
        (
            "default",
            json!({"logActionRateLimit": "0/second"}),
            "spec.logActionRateLimit: Invalid value: \"0/second\": must be N/UNIT with N up to 9999 and a unit of second, minute, hour or day",
        ),
    ] {
        assert_eq!(read(name, &value), Err(vec![want.to_owned()]), "{value}");
    }
}

#[test]
fn durations_are_gos() {
    for (text, milliseconds, again) in [
        ("0", 0, "0s"),
        ("0s", 0, "0s"),
        ("90s", 90_000, "1m30s"),
        ("1m30s", 90_000, "1m30s"),
        ("1.5h", 5_400_000, "1h30m0s"),
        ("500ms", 500, "500ms"),
        (".5s", 500, "500ms"),
        ("1h", 3_600_000, "1h0m0s"),
        ("10us", 1, "10µs"),
        ("1.5ms", 2, "1.5ms"),
        ("1m0.25s", 60_250, "1m0.25s"),
        ("7ns", 1, "7ns"),
    ] {
        let duration = spec(&json!({"routeRefreshInterval": text})).route_refresh_interval.expect(text);
        assert_eq!((duration.millis(), duration.to_string().as_str()), (milliseconds, again), "{text}");
    }
    for text in ["s", "1", "1d", "1 s", "1s ", "1..5s", ".s", "+1s", "1e3s", "99999999h", "1s1"] {
        assert!(read("x", &json!({"routeRefreshInterval": text})).is_err(), "{text}");
    }
    assert_eq!(spec(&json!({"routeRefreshInterval": ""})), FelixConfigurationSpec::default());
}

#[test]
fn what_is_set_to_no_avail_is_known_and_what_says_what_is_done_anyway_is_not() {
    for field in FIELDS {
        for same in field.same {
            let value: Value = serde_json::from_str(same).expect("JSON");
            assert_eq!(spec(&json!({field.name: value})).unheeded(), [], "{} {same}", field.name);
        }
        let unheeded = spec(&json!({field.name: some_value(field)})).unheeded();
        match field.standing {
            Standing::Honoured => assert_eq!((unheeded.len(), field.same), (0, &[][..]), "{}", field.name),
            _ => assert!(unheeded.iter().all(|unheeded| unheeded.field == field.name), "{unheeded:?}"),
        }
    }
    let unheeded =
        spec(&json!({"wireguardEnabled": true, "bpfLogLevel": "Debug", "logSeverityScreen": "Info"})).unheeded();
    let told: Vec<_> =
        unheeded.iter().map(|unheeded| (unheeded.field, unheeded.value.as_str(), unheeded.by_design)).collect();
    assert_eq!(told, [("bpfLogLevel", "\"Debug\"", true), ("wireguardEnabled", "true", false)]);
}

/// The part of the page that is made from the table.
fn documented() -> String {
    let mut page = String::new();
    for (standing, title, head) in [
        (Standing::Honoured, "Honoured", "What the field does here"),
        (Standing::NotYet, "Not honoured yet", "What there is instead"),
        (Standing::NoEffect, "Without effect by design", "Why"),
    ] {
        page += &format!("## {title}\n\n| field | {} |\n|---|---|\n", head.to_lowercase());
        for field in FIELDS.iter().filter(|field| field.standing == standing) {
            let same = field.same.iter().map(|value| format!("`{}`", value.trim_matches('"')));
            let same = same.collect::<Vec<_>>().join(", ");
            let same = if same.is_empty() { same } else { format!(" No warning for {same}.") };
            page += &format!("| `{}` | {}{same} |\n", field.name, field.note);
        }
        page.push('\n');
    }
    page
}

#[test]
fn the_page_for_operators_is_the_table() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/felixconfiguration.md");
    let page = std::fs::read_to_string(&file).expect("docs/felixconfiguration.md");
    let start = page.find("## Honoured\n").expect("the page has the tables");
    if std::env::var_os("TORTIE_WRITE_DOCS").is_some() {
        std::fs::write(&file, page[..start].to_owned() + documented().trim_end() + "\n").expect("written");
        return;
    }
    assert_eq!(
        page[start..].trim_end(),
        documented().trim_end(),
        "docs/felixconfiguration.md is not what the code says: run this test with TORTIE_WRITE_DOCS=1"
    );
}
