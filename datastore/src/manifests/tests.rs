//! Reading manifests: what is accepted, and how what is not is reported.

use std::fs;

use super::*;

const POD: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\n";

fn problems(loaded: &Loaded) -> Vec<String> {
    loaded.problems.iter().map(|problem| format!("{}: {}", problem.place, problem.message)).collect()
}

fn names(loaded: &Loaded) -> Vec<String> {
    loaded.objects.iter().map(|(object, place)| format!("{} {place}", object.key())).collect()
}

#[test]
fn a_directory_is_read_in_order_of_path() {
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path();
    fs::create_dir_all(root.join("b/c")).unwrap();
    fs::create_dir_all(root.join(".hidden")).unwrap();
    for (file, name) in [
        ("b/c/x.yml", "x"),
        ("a.yaml", "a"),
        ("z.json", "z"),
        (".hidden/h.yaml", "h"),
        ("a.yaml~", "t"),
        ("note.txt", "n"),
    ] {
        fs::write(
            root.join(file),
            format!("{{\"apiVersion\": \"v1\", \"kind\": \"Pod\", \"metadata\": {{\"name\": \"{name}\"}}}}\n"),
        )
        .unwrap();
    }
    let loaded = load(&[root.to_owned()]);
    let at = |file: &str| root.join(file).display().to_string();
    assert_eq!(problems(&loaded), Vec::<String>::new());
    assert_eq!(
        names(&loaded),
        [
            format!("Pod default/a {}:1", at("a.yaml")),
            format!("Pod default/x {}:1", at("b/c/x.yml")),
            format!("Pod default/z {}:1", at("z.json")),
        ]
    );
    // A file that is named itself may be called anything; what is not there is a problem.
    let loaded = load(&[root.join("a.yaml~"), root.join("missing.yaml")]);
    assert_eq!(loaded.objects.len(), 1);
    assert!(problems(&loaded)[0].contains("missing.yaml: cannot be read: No such file"), "{:?}", problems(&loaded));
    assert!(loaded.has_errors());
}

#[test]
fn every_problem_has_the_line_of_its_field_in_the_file() {
    let text = "# a comment\n---\napiVersion: v1\nkind: Pod\nmetadata: {name: web}\n---\n\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata:\n  name: p\nspec:\n  podSelector: {}\n  ingress:\n  - ports:\n    - port: 80\n    - port: 80\n      endPort: 70\n    from:\n    - {}\n---\napiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Pod\n  metadata:\n    name: UP\n- apiVersion: batch/v1\n  kind: Job\n  metadata: {name: j}\n";
    let loaded = load_text("f.yaml", text);
    assert_eq!(
        problems(&loaded),
        [
            "f.yaml:18: NetworkPolicy default/p: spec.ingress[0].ports[1].endPort: Invalid value: 70: must be greater than or equal to port (80)",
            "f.yaml:20: NetworkPolicy default/p: spec.ingress[0].from[0]: Required value: must specify a peer: podSelector, namespaceSelector or ipBlock ({} as a selector selects all)",
            "f.yaml:28: Pod default/UP: metadata.name: Invalid value: \"UP\": must consist of lower case letters, digits, '-' and '.', and each part must start and end with a letter or digit (RFC 1123 subdomain, such as 'example.com')",
            "f.yaml:29: Job j: unknown kind Job of batch/v1: it has no effect",
        ]
    );
    assert_eq!(loaded.problems.iter().map(|problem| problem.warning).collect::<Vec<_>>(), [false, false, false, true]);
    assert_eq!(names(&loaded), ["Pod default/web f.yaml:3"]);
}

#[test]
fn what_is_not_yaml_has_a_line_too() {
    for (bytes, want) in [
        (&b"a: 1\nb: c: d\n"[..], "f.yaml:2: not YAML: "),
        (b"a: 1\n\tb: 2\n", "f.yaml:1: not YAML: "),
        (b"kind: Pod\nkind: Pod\n", "f.yaml:2: the key \"kind\" is there twice: remove one"),
        (b"a: b\n\xff\n", "f.yaml:2: is not UTF-8: save the file in that encoding"),
        (b"- 1\n", "f.yaml:1: object: Invalid value: [1]: must be an object with apiVersion and kind"),
        (
            b"\n\nkind: Pod\n",
            "f.yaml:3: Pod without a name: apiVersion: Required value: such as v1 or networking.k8s.io/v1",
        ),
        (b"a: *x\n", "f.yaml:1: not YAML: "),
    ] {
        let contents = read(Path::new("f.yaml"), bytes);
        let problem = &contents.problems[0];
        let line = format!("{}: {}", problem.place, problem.message);
        assert!(line.starts_with(want), "{line}");
        assert!(contents.documents.is_empty());
    }
}

#[test]
fn json_is_json() {
    let one = "{\n\t\"apiVersion\": \"v1\",\n\t\"kind\": \"Pod\",\n\t\"metadata\": {\"name\": \"a\", \"annotations\": {\"x\": \"tab\\tand \\ud83d\\ude00 \\/\"}}\n}";
    let text = format!("{one}\n\n{}", one.replace("\"a\"", "\"b\""));
    let contents = read(Path::new("f.json"), text.as_bytes());
    assert_eq!(contents.problems, []);
    assert_eq!(contents.documents.iter().map(|document| document.place.line).collect::<Vec<_>>(), [1, 7]);
    assert_eq!(contents.documents[0].value["metadata"]["annotations"]["x"], "tab\tand 😀 /");
    let own: Vec<&str> = contents.documents.iter().filter_map(|document| document.text.as_deref()).collect();
    assert_eq!(own[0], one);
    for (text, want) in [
        ("{\"a\": 1,}", "f.json:1: not JSON: key must be a string"),
        ("{}\n{\"a\"\n", "f.json:3: not JSON: EOF"),
        ("apiVersion: v1", "f.json:1: not JSON: expected value"),
        ("{\"kind\": \"Pod\",\n\"kind\": \"Pod\"}", "f.json:2: the key \"kind\" is there twice"),
    ] {
        let contents = read(Path::new("f.json"), text.as_bytes());
        let problem = contents.problems.last().unwrap();
        assert!(format!("{}: {}", problem.place, problem.message).starts_with(want), "{:?}", contents.problems);
    }
    let deep = "[".repeat(200_000);
    assert!(!read(Path::new("f.json"), deep.as_bytes()).is_valid());
}

#[test]
fn lists_are_unfolded() {
    let text = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicyList\nmetadata: {resourceVersion: '5'}\nitems:\n- metadata: {name: a, namespace: x}\n  spec: {}\n- apiVersion: networking.k8s.io/v1\n  kind: NetworkPolicy\n  metadata: {name: b}\n";
    let loaded = load_text("f", text);
    assert_eq!(names(&loaded), ["NetworkPolicy x/a f:5", "NetworkPolicy default/b f:7"]);
    assert!(loaded.documents.iter().all(|document| document.text.is_none()));
    assert_eq!(loaded.documents[0].value["kind"], "NetworkPolicy");
    for (items, want) in [("null", ""), ("[]", ""), ("{}", "f:1: items: Invalid value: must be a list")] {
        let loaded = load_text("f", &format!("{{apiVersion: v1, kind: List, items: {items}}}"));
        assert_eq!(problems(&loaded).join(""), want);
    }
    let nested = load_text(
        "f",
        "{apiVersion: v1, kind: List, items: [{apiVersion: v1, kind: PodList, items: [{metadata: {name: a}}]}]}",
    );
    assert_eq!(names(&nested), ["Pod default/a f:1"]);
}

#[test]
fn a_document_keeps_its_text_and_every_field() {
    let text = format!(
        "# head\n---\n{POD}spec:\n  tolerations: [] # kept\n---\napiVersion: v1\nkind: Service\nmetadata: {{name: s}}\n"
    );
    let loaded = load_text("f", &text);
    let pod = &loaded.documents[0];
    assert_eq!(pod.text.as_deref(), Some(&*format!("{POD}spec:\n  tolerations: []")));
    assert!(pod.value["spec"]["tolerations"].is_array());
    assert_eq!(
        (pod.key.to_string(), loaded.documents[1].key.to_string()),
        ("Pod default/web".into(), "Service default/s".into())
    );
    assert!(loaded.documents[1].object.is_none());
    assert_eq!(loaded.problems, []);
}

#[test]
fn an_agent_keeps_nothing_that_it_has_no_use_for() {
    let text = "apiVersion: v1\nkind: Service\nmetadata: {name: s}\n---\napiVersion: v1\nkind: Pod\nmetadata: {name: p}\n---\napiVersion: x/v1\nkind: Other\nmetadata: {name: o}\n";
    assert_eq!(read(Path::new("a.yaml"), text.as_bytes()).documents.len(), 3);
    let contents = read_objects(Path::new("a.yaml"), text.as_bytes());
    let kept: Vec<_> = contents.documents.iter().map(|document| (document.key.name.as_str(), &document.text)).collect();
    assert_eq!(kept, [("p", &None)]);
    assert_eq!(contents.problems.len(), 1, "what has no effect is told all the same");
    let half = read_objects(Path::new("a.yaml"), format!("{text}---\n{{").as_bytes());
    assert!(half.documents.is_empty() && half.problems.len() == 1, "half a file is none");
}

#[test]
fn the_same_object_twice_is_a_problem_and_the_first_is_kept() {
    let loaded = load_text("f", &format!("{POD}---\n{POD}spec: {{nodeName: n2}}\n"));
    assert_eq!(names(&loaded), ["Pod default/web f:1"]);
    assert_eq!(
        problems(&loaded),
        ["f:5: Pod default/web is already defined at f:1, which is kept: remove one of them"]
    );
    assert!(loaded.has_errors());
}

#[test]
fn unquoted_booleans_and_numbers_are_no_strings() {
    let loaded = load_text("f", "apiVersion: v1\nkind: Pod\nmetadata:\n  name: web\n  labels:\n    a: no\n");
    assert_eq!(
        problems(&loaded),
        ["f:6: Pod default/web: metadata.labels[a]: Invalid value: false: must be a string: put it in quotes"]
    );
    let loaded = load_text(
        "f",
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: y\n  namespace: n\n  labels: {a: 'no', b: y, c: v1.10, d: 10.0.0.1, e: 1e}\n",
    );
    assert_eq!(problems(&loaded), Vec::<String>::new());
    assert_eq!(loaded.objects[0].0.metadata().labels["b"], "y");
}

mod any_input {
    use proptest::prelude::*;

    use super::*;

    const SEED: &str = "%YAML 1.2\n---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: &m\n  name: p\n  labels: {a: 'b', \"c\": d}\nspec:\n  podSelector: {}\n  ingress:\n  - from:\n    - ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}\n    ports:\n    - {port: 80, endPort: 90}\n...\n--- # x\napiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Pod\n  metadata: {name: a, annotations: {t: |\n     text\n   }}\n- *m\n";

    fn check(bytes: &[u8]) {
        for name in ["f.yaml", "f.json"] {
            let contents = read(Path::new(name), bytes);
            for document in &contents.documents {
                let Some(ranges) = &document.range else { continue };
                let text = std::str::from_utf8(bytes).unwrap();
                assert_eq!(text.get(ranges.content.clone()), document.text.as_deref());
                assert!(text.get(ranges.whole.clone()).is_some());
            }
            let lines = bytes.split(|byte| *byte == b'\n').count();
            for problem in &contents.problems {
                let line: usize = problem.place.rsplit(':').next().unwrap().parse().unwrap();
                assert!((1..=lines + 1).contains(&line), "{problem:?} of {lines}");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1_500))]

        #[test]
        fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            check(&bytes);
        }

        #[test]
        fn any_text(text in "[ \\-\\[\\]{}:,#&*!|>'\"%@`\n\ta-c0-9~.<?]{0,200}") {
            check(text.as_bytes());
        }

        #[test]
        fn mutated_manifests(edits in prop::collection::vec((any::<prop::sample::Index>(), 0..30_usize, ".{0,6}|[ \n:{}\\[\\]&*-]{1,4}"), 1..6)) {
            let mut text = SEED.to_owned();
            for (at, remove, insert) in edits {
                let places: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
                let from = at.index(places.len());
                let to = (from + remove).min(places.len() - 1);
                text.replace_range(places[from]..places[to], &insert);
            }
            check(text.as_bytes());
        }
    }
}
