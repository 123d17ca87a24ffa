//! What the grammar takes and refuses, what selectors select, and how they print.

use proptest::prelude::*;

use super::*;
use crate::k8s::LabelSelectorRequirement;

fn parsed(text: &str) -> Selector {
    Selector::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn labels(labels: &[(&str, &str)]) -> StringMap {
    labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn each_operator_does_what_its_name_says() {
    let node = labels(&[
        ("zone", "a"),
        ("kubernetes.io/hostname", "n-1"),
        ("in", "x"),
        ("empty", ""),
        ("not", "n"),
        ("has", "h"),
    ]);
    for selector in [
        "",
        " \t ",
        "all()",
        "global( )",
        "zone == 'a'",
        "zone==\"a\"&&has(in)",
        "has( kubernetes.io/hostname )",
        "kubernetes.io/hostname starts with 'n-'",
        "kubernetes.io/hostname startswith'n-'",
        "kubernetes.io/hostname ends \twith '1'",
        "kubernetes.io/hostname endswith '1'",
        "kubernetes.io/hostname contains '-'",
        "kubernetes.io/hostname contains''",
        "zone in {'b', \"a\"}",
        "zone in{'b','a',}",
        "zone not in { 'b' }",
        "zone notin { 'b' }",
        "missing not in {'b'}",
        "missing != 'b'",
        "!has(missing)",
        "!!has(zone)",
        "! ! ! has(missing)",
        "in == 'x'",
        "in in {'x'}",
        "not not in {'x'}",
        "has == 'h'",
        "empty == ''",
        "zone == 'b' || zone == 'a' && has(in)",
        "!(zone == 'b' || has(missing))",
        "zone not in {}",
        "!zone == 'b'",
        "(((zone == 'a')))",
    ] {
        assert!(parsed(selector).matches(&node), "{selector}");
    }
    for selector in [
        "zone != 'a'",
        "has(missing)",
        "missing == ''",
        "missing contains ''",
        "missing starts with ''",
        "missing in {''}",
        "zone in {}",
        "!all()",
        "!global()",
        "zone == 'a' && zone == 'b'",
        "!has(zone) || has(missing)",
        "zone == 'A'",
        "!zone == 'a'",
        "zone == 'a' && (zone == 'b' || has(missing))",
    ] {
        assert!(!parsed(selector).matches(&node), "{selector}");
    }
}

#[test]
fn what_is_no_selector_is_refused_with_the_place() {
    for selector in [
        "zone",
        "zone =",
        "zone = 'a'",
        "zone == a",
        "zone == 'a",
        "zone == 'a\"",
        "zone in 'a'",
        "zone in {'a'",
        "zone in {'a' 'b'}",
        "zone in {,}",
        "zone in {'a',,}",
        "has()",
        "has(zone",
        "has (zone)",
        "all ()",
        "all(x)",
        "hat(zone)",
        "(",
        ")",
        "()",
        "all() all()",
        "all() &",
        "all() && ",
        "&& all()",
        "zone not 'a'",
        "zone starts 'a'",
        "é == 'a'",
        "!",
        "zone in{'a'}x",
        "zone == 'a'\n",
        "zone ==\n'a'",
        "'a' == zone",
    ] {
        assert!(Selector::parse(selector).is_err(), "{selector}");
    }
    let message = |text: &str| Selector::parse(text).expect_err("no selector").to_string();
    assert_eq!(
        message("zone == 'ä' &&"),
        "must be a selector such as has(key) && key == 'value': expected a label's key, all() or has(KEY) at character 15"
    );
    assert!(message("zone == 'a'\n").contains("no line break (YAML's >- makes none) at character 12"));
}

#[test]
fn depth_and_length_are_limited() {
    let nested = |depth: usize| format!("{}all(){}", "(".repeat(depth), ")".repeat(depth));
    assert!(Selector::parse(&nested(64)).is_ok());
    assert!(Selector::parse(&nested(65)).is_err());
    assert!(Selector::parse(&"(".repeat(60_000)).is_err());
    assert!(Selector::parse(&"!(".repeat(30_000)).is_err());
    // Negations nest nothing, and long lists of names are what tools write.
    assert_eq!(parsed(&format!("{}has(a)", "!".repeat(501))).to_string(), "!has(a)");
    let names: Vec<String> = (0..2_000).map(|number| format!("'name-{number}'")).collect();
    assert!(parsed(&format!("a in {{{}}}", names.join(","))).matches(&labels(&[("a", "name-1999")])));
    assert!(Selector::parse(&format!("a == '{}'", "x".repeat(70_000))).is_err());
}

#[test]
fn forms_are_canonical() {
    for (text, want) in [
        ("", "all()"),
        ("  global( ) ", "global()"),
        ("a=='b'", "a == \"b\""),
        ("a != '\"'", "a != '\"'"),
        ("a in {'c', 'b', 'c'}", "a in {\"b\", \"c\"}"),
        ("a notin {'c'}", "a not in {\"c\"}"),
        ("a in {}", "a in {}"),
        ("!!!has(a)", "!has(a)"),
        ("!(!has(a))", "has(a)"),
        ("a == 'b' || c == 'd' && has(e)", "(a == \"b\" || (c == \"d\" && has(e)))"),
        ("(has(a) && has(b)) && has(c)", "((has(a) && has(b)) && has(c))"),
    ] {
        assert_eq!(parsed(text).to_string(), want);
        assert_eq!(parsed(want), parsed(text));
    }
    assert!(parsed("((all()))").is_all() && !parsed("!all()").is_all() && !parsed("global()").is_all());
    assert!(parsed("(global())").is_global() && !parsed("all()").is_global());
    assert!(parsed("has(a) || !global()").mentions_global() && !parsed("has(a)").mentions_global());
    assert_eq!(parsed("has(b) && !(a in {'x'} || c ends with 'y')").keys().into_iter().collect::<String>(), "abc");
}

#[test]
fn label_selectors_are_read_into_the_same_form() {
    use SelectorOperator::{DoesNotExist, Exists, In, NotIn};

    let requirement = |key: &str, operator, values: &[&str]| LabelSelectorRequirement {
        key: key.to_owned(),
        operator,
        values: values.iter().map(|value| (*value).to_owned()).collect(),
    };
    assert!(Selector::from(&LabelSelector::default()).is_all());
    let mut expressions = vec![
        requirement("d", In, &["y", "x", "y"]),
        requirement("e", NotIn, &["z"]),
        requirement("f", Exists, &[]),
        requirement("g", DoesNotExist, &[]),
        requirement("a", In, &["b"]),
    ];
    let one = LabelSelector { match_labels: labels(&[("a", "b")]), match_expressions: expressions.clone() };
    expressions.reverse();
    let other = LabelSelector { match_labels: labels(&[("a", "b")]), match_expressions: expressions };
    assert_eq!(Selector::from(&one), Selector::from(&other));
    assert_eq!(
        Selector::from(&one).to_string(),
        "(has(f) && a == \"b\" && e != \"z\" && d in {\"x\", \"y\"} && !has(g))"
    );
}

#[test]
fn requirements_are_what_an_index_can_use() {
    let has = |key: &str| Requirement::Has(key.to_owned());
    let one_of = |key: &str, values: &[&str]| {
        Requirement::OneOf(key.to_owned(), values.iter().map(|value| (*value).to_owned()).collect())
    };
    for (text, want) in [
        ("all()", vec![]),
        ("a != 'b'", vec![]),
        ("a not in {'b'}", vec![]),
        ("!has(a)", vec![]),
        ("!all()", vec![vec![]]),
        ("a in {}", vec![vec![]]),
        ("has(a)", vec![vec![has("a")]]),
        ("a starts with 'x'", vec![vec![has("a")]]),
        ("a == 'x' && b in {'y', 'z'}", vec![vec![one_of("a", &["x"])], vec![one_of("b", &["y", "z"])]]),
        ("a == 'x' || a == 'y'", vec![vec![one_of("a", &["x", "y"])]]),
        ("a == 'x' || has(a)", vec![vec![has("a")]]),
        ("has(a) || a == 'x'", vec![vec![has("a")]]),
        ("a == 'x' || b == 'y'", vec![vec![one_of("a", &["x"]), one_of("b", &["y"])]]),
        ("a == 'x' || !has(b)", vec![]),
        // The narrowest of each branch.
        ("(has(a) && b == 'x') || b == 'y'", vec![vec![one_of("b", &["x", "y"])]]),
        // A branch that selects nothing adds nothing.
        ("a in {} || b == 'y'", vec![vec![one_of("b", &["y"])]]),
        // Negations are carried inwards.
        ("!(a != 'x' || !has(b))", vec![vec![has("b")], vec![one_of("a", &["x"])]]),
        ("!(a != 'x' && b not in {'y'})", vec![vec![one_of("a", &["x"]), one_of("b", &["y"])]]),
    ] {
        assert_eq!(parsed(text).requirements(), want, "{text}");
    }
}

fn any_key() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["a", "b", "c", "in", "not", "has", "all"]).prop_map(str::to_owned)
}

fn any_value() -> impl Strategy<Value = String> {
    prop_oneof![4 => prop::sample::select(vec!["", "x", "y", "xy", "z"]).prop_map(str::to_owned), 1 => "[a-zé\" ]{0,3}"]
}

fn any_labels() -> impl Strategy<Value = StringMap> {
    prop::collection::btree_map(any_key(), any_value(), 0..4)
}

/// A selector as text, and what it means by an evaluator of its own.
fn any_selector() -> impl Strategy<Value = (String, Meaning)> {
    let quoted = |value: &str| format!("{}", Quoted(value));
    let leaf = prop_oneof![
        Just(("all( )".to_owned(), Meaning::Constant(true))),
        any_key().prop_map(|key| (format!("has({key})"), Meaning::Label(key, Test::Present))),
        (any_key(), any_value(), 0..5_u8).prop_map(move |(key, value, operator)| {
            let (text, test) = match operator {
                0 => ("==", Test::Is(vec![value.clone()])),
                1 => ("!=", Test::IsNot(vec![value.clone()])),
                2 => (" contains ", Test::Contains(value.clone())),
                3 => ("  starts with", Test::Starts(value.clone())),
                _ => ("\tends  with ", Test::Ends(value.clone())),
            };
            (format!("{key}{text}{}", quoted(&value)), Meaning::Label(key, test))
        }),
        (any_key(), prop::collection::vec(any_value(), 0..4), any::<bool>()).prop_map(move |(key, values, negated)| {
            let list = values.iter().map(|value| quoted(value)).collect::<Vec<_>>().join(", ");
            let operator = if negated { "not in" } else { "in" };
            let test = if negated { Test::IsNot(values) } else { Test::Is(values) };
            (format!("{key} {operator} {{{list}}}"), Meaning::Label(key, test))
        }),
    ];
    leaf.prop_recursive(4, 24, 3, |inner| {
        let parts = prop::collection::vec(inner.clone(), 2..4);
        prop_oneof![
            inner.prop_map(|(text, meaning)| (format!("!({text})"), Meaning::Not(Box::new(meaning)))),
            (parts, any::<bool>()).prop_map(|(parts, all)| {
                let (texts, meanings): (Vec<_>, Vec<_>) =
                    parts.into_iter().map(|(text, meaning)| (format!("({text})"), meaning)).unzip();
                (texts.join(if all { "&&" } else { " || " }), Meaning::Several(all, meanings))
            }),
        ]
    })
}

#[derive(Debug, Clone)]
enum Meaning {
    Constant(bool),
    Label(String, Test),
    Not(Box<Meaning>),
    Several(bool, Vec<Meaning>),
}

#[derive(Debug, Clone)]
enum Test {
    Present,
    Is(Vec<String>),
    IsNot(Vec<String>),
    Contains(String),
    Starts(String),
    Ends(String),
}

impl Meaning {
    fn holds(&self, labels: &StringMap) -> bool {
        match self {
            Self::Constant(constant) => *constant,
            Self::Not(inner) => !inner.holds(labels),
            Self::Several(true, parts) => parts.iter().filter(|part| !part.holds(labels)).count() == 0,
            Self::Several(false, parts) => parts.iter().filter(|part| part.holds(labels)).count() > 0,
            Self::Label(key, Test::IsNot(values)) => !labels.get(key).is_some_and(|value| values.contains(value)),
            Self::Label(key, test) => match (labels.get(key), test) {
                (None, _) | (Some(_), Test::IsNot(_)) => false,
                (Some(_), Test::Present) => true,
                (Some(value), Test::Is(values)) => values.contains(value),
                (Some(value), Test::Contains(part)) => value.matches(part.as_str()).next().is_some(),
                (Some(value), Test::Starts(part)) => value.get(..part.len()) == Some(part),
                (Some(value), Test::Ends(part)) => {
                    value.len().checked_sub(part.len()).and_then(|start| value.get(start..)) == Some(part)
                }
            },
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn it_means_what_it_says((text, meaning) in any_selector(), labels in any_labels()) {
        let selector = parsed(&text);
        prop_assert_eq!(selector.matches(&labels), meaning.holds(&labels), "{} as {}", text, selector);
    }

    #[test]
    fn the_canonical_form_is_the_same_selector((text, _) in any_selector()) {
        let selector = parsed(&text);
        let printed = selector.to_string();
        prop_assert_eq!(&parsed(&printed), &selector);
        prop_assert_eq!(parsed(&printed).to_string(), printed.clone());
        let json = serde_json::to_string(&selector).unwrap();
        prop_assert_eq!(serde_json::from_str::<Selector>(&json).unwrap(), selector);
    }

    #[test]
    fn what_is_selected_meets_the_requirements((text, _) in any_selector(), labels in any_labels()) {
        let selector = parsed(&text);
        if selector.matches(&labels) {
            for alternatives in selector.requirements() {
                let is_met = |alternative: &Requirement| {
                    labels.iter().any(|(key, value)| alternative.is_met_by(key, value))
                };
                prop_assert!(alternatives.iter().any(is_met), "{} of {}", selector, text);
            }
        }
    }

    #[test]
    fn only_labels_that_are_named_decide((text, _) in any_selector(), mut labels in any_labels(), value in any_value()) {
        let selector = parsed(&text);
        let before = selector.matches(&labels);
        labels.retain(|key, _| selector.keys().contains(key.as_str()));
        labels.insert("never.named".to_owned(), value);
        prop_assert_eq!(selector.matches(&labels), before);
    }

    #[test]
    fn label_selectors_mean_the_same(
        matched in prop::collection::btree_map(any_key(), any_value(), 0..2),
        requirements in prop::collection::vec((any_key(), 0..4_u8, prop::collection::vec(any_value(), 1..3)), 0..3),
        labels in any_labels(),
    ) {
        let match_expressions = requirements.into_iter().map(|(key, operator, values)| {
            let (operator, values) = match operator {
                0 => (SelectorOperator::In, values),
                1 => (SelectorOperator::NotIn, values),
                2 => (SelectorOperator::Exists, Vec::new()),
                _ => (SelectorOperator::DoesNotExist, Vec::new()),
            };
            LabelSelectorRequirement { key, operator, values }
        });
        let selector = LabelSelector { match_labels: matched, match_expressions: match_expressions.collect() };
        prop_assert_eq!(Selector::from(&selector).matches(&labels), selector.matches(&labels));
    }

    #[test]
    fn no_text_is_too_strange(text in "[a-c()!&|={}'\", \tin]{0,24}") {
        if let Ok(selector) = Selector::parse(&text) {
            prop_assert_eq!(parsed(&selector.to_string()), selector);
        }
    }
}
