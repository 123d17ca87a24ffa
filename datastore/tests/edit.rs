//! `apply` and `delete` of single documents: what they change, and that they change nothing else.
#![allow(missing_docs, reason = "a test")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tortie_api::{Kind, ObjectKey};
use tortie_datastore::Datastore;
use tortie_datastore::directory::{self, Directory};
use tortie_datastore::edit::{self, Action, Error};
use tortie_datastore::manifests::{self, Document};

const FILE: &str = "# The shop's policies.\n---\n# first\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata:\n  name: p   # a comment\n  namespace: x\n  labels: {team: shop}\nspec:\n  podSelector: {}\n\n# second\n---\napiVersion: v1\nkind: Pod\nmetadata: {name: web, namespace: x}\nspec:\n  tolerations: [{operator: Exists}]\n  containers:\n  - name: c\n    image: nginx\n---   # third\napiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: x}\nspec: {ports: [{port: 80}]}\n# tail\n";

fn documents(text: &str) -> Vec<Document> {
    let loaded = manifests::load_text("stdin", text);
    assert!(!loaded.has_errors(), "{:?}", loaded.problems);
    loaded.documents
}

fn key(kind: Kind, namespace: Option<&str>, name: &str) -> ObjectKey {
    ObjectKey { kind, namespace: namespace.map(Into::into), name: name.into() }
}

fn read(directory: &Path, file: &str) -> String {
    fs::read_to_string(directory.join(file)).unwrap()
}

#[test]
fn a_document_is_replaced_where_it_stands() {
    let scratch = tempfile::tempdir().unwrap();
    fs::write(scratch.path().join("shop.yaml"), FILE).unwrap();
    fs::set_permissions(scratch.path().join("shop.yaml"), fs::Permissions::from_mode(0o640)).unwrap();
    let new = "kind: Pod\napiVersion: v1\nmetadata:\n  name: web\n  namespace: x\nspec: {priority: 7, containers: [{name: d}]}  # new";
    let reports = edit::apply(scratch.path(), &documents(new)).unwrap();
    assert_eq!((reports[0].action, reports[0].place.line), (Action::Configured, 15));
    let want = FILE.replace("apiVersion: v1\nkind: Pod\nmetadata: {name: web, namespace: x}\nspec:\n  tolerations: [{operator: Exists}]\n  containers:\n  - name: c\n    image: nginx", new.trim_end_matches("  # new"));
    assert_eq!(read(scratch.path(), "shop.yaml"), want);
    assert_eq!(fs::metadata(scratch.path().join("shop.yaml")).unwrap().permissions().mode() & 0o777, 0o640);
    assert_eq!(edit::apply(scratch.path(), &documents(new)).unwrap()[0].action, Action::Unchanged);
    assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 2, "nothing but the file and .tortie");
}

#[test]
fn a_new_object_gets_a_file_of_its_own() {
    let scratch = tempfile::tempdir().unwrap();
    let pool = "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {name: pool}\nspec: {cidr: 10.0.0.0/16}\n";
    let text = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: web}}\nspec: {{containers: []}}\n---\n{pool}---\napiVersion: v1\nkind: Secret\nmetadata: {{name: s}}\ndata: {{a: Yg==}}\n"
    );
    let reports = edit::apply(scratch.path(), &documents(&text)).unwrap();
    assert!(reports.iter().all(|report| report.action == Action::Created));
    assert_eq!(read(scratch.path(), "IPPool.pool.yaml"), pool);
    assert!(read(scratch.path(), "Pod.default.web.yaml").contains("name: web"));
    assert!(read(scratch.path(), "Secret.default.s.yaml").contains("a: Yg=="));
    // A list's items have no text of their own; their strings come out as strings.
    let list = r#"{"apiVersion": "v1", "kind": "PodList", "items": [{"metadata": {"name": "l", "labels": {"a": "no", "b": "010", "c": "1e3", "d": "null"}}}]}"#;
    edit::apply(scratch.path(), &documents(list)).unwrap();
    let loaded = manifests::load(&[scratch.path().join("Pod.default.l.yaml")]);
    assert_eq!(loaded.problems, []);
    assert_eq!(loaded.objects[0].0.metadata().labels["a"], "no");
    assert_eq!(loaded.objects[0].0.metadata().labels["b"], "010");
    // A file that has the name already keeps what it holds.
    fs::write(scratch.path().join("Pod.x.y.yaml"), "apiVersion: v1\nkind: Pod\nmetadata: {name: other}\n").unwrap();
    edit::apply(scratch.path(), &documents("apiVersion: v1\nkind: Pod\nmetadata: {name: y, namespace: x}\n")).unwrap();
    assert_eq!(manifests::load(&[scratch.path().join("Pod.x.y.yaml")]).objects.len(), 2);
}

#[test]
fn kinds_of_one_name_do_not_meet() {
    let scratch = tempfile::tempdir().unwrap();
    let policy = |version: &str, spec: &str| {
        format!("apiVersion: {version}\nkind: NetworkPolicy\nmetadata: {{name: web}}\nspec: {spec}\n")
    };
    let kubernetes = policy("networking.k8s.io/v1", "{podSelector: {}}");
    let calico = policy("projectcalico.org/v3", "{selector: all()}");
    let reports = edit::apply(scratch.path(), &documents(&format!("{kubernetes}---\n{calico}"))).unwrap();
    assert_eq!(reports.iter().map(|report| report.action).collect::<Vec<_>>(), [Action::Created; 2]);
    assert_eq!(read(scratch.path(), "NetworkPolicy.default.web.yaml"), kubernetes);
    assert_eq!(read(scratch.path(), "CalicoNetworkPolicy.default.web.yaml"), calico);
    // What Calico keeps in its own group is the same object.
    let stored = policy("crd.projectcalico.org/v1", "{selector: has(a)}");
    assert_eq!(edit::apply(scratch.path(), &documents(&stored)).unwrap()[0].action, Action::Configured);
    assert_eq!(read(scratch.path(), "CalicoNetworkPolicy.default.web.yaml"), stored);
    let loaded = manifests::load(&[scratch.path().to_path_buf()]);
    assert_eq!(loaded.problems, []);
    let kinds: Vec<Kind> = loaded.objects.iter().map(|(object, _)| object.kind()).collect();
    assert_eq!(kinds, [Kind::CalicoNetworkPolicy, Kind::NetworkPolicy]);
    edit::delete(scratch.path(), &[key(Kind::CalicoNetworkPolicy, Some("default"), "web")]).unwrap();
    assert!(!scratch.path().join("CalicoNetworkPolicy.default.web.yaml").exists());
    assert_eq!(read(scratch.path(), "NetworkPolicy.default.web.yaml"), kubernetes);
}

#[test]
fn only_the_document_is_deleted_and_the_file_with_the_last() {
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("shop.yaml");
    fs::write(&file, FILE).unwrap();
    edit::delete(scratch.path(), &[key(Kind::Pod, Some("x"), "web")]).unwrap();
    let start = FILE.find("---\napiVersion: v1\nkind: Pod").unwrap();
    let end = FILE.find("---   # third").unwrap();
    assert_eq!(read(scratch.path(), "shop.yaml"), format!("{}{}", &FILE[..start], &FILE[end..]));
    edit::delete(scratch.path(), &[key(Kind::NetworkPolicy, Some("x"), "p")]).unwrap();
    assert_eq!(read(scratch.path(), "shop.yaml"), format!("# The shop's policies.\n{}", &FILE[end..]));
    let service = manifests::load(std::slice::from_ref(&file)).documents[0].key.clone();
    edit::delete(scratch.path(), &[service]).unwrap();
    assert!(!file.exists());
    let missing = edit::delete(scratch.path(), &[key(Kind::Pod, Some("x"), "web")]);
    assert!(matches!(missing, Err(Error::NotFound(_))), "{missing:?}");
}

#[test]
fn an_object_that_stands_twice_is_gone_after_its_deletion() {
    let scratch = tempfile::tempdir().unwrap();
    for file in ["a.yaml", "b.yaml"] {
        fs::write(scratch.path().join(file), FILE).unwrap();
    }
    let reports = edit::delete(scratch.path(), &[key(Kind::Pod, Some("x"), "web")]).unwrap();
    assert_eq!(reports.len(), 2);
    assert_eq!(manifests::load(&[scratch.path().to_owned()]).documents.len(), 4);
}

#[test]
fn json_is_edited_as_json() {
    let scratch = tempfile::tempdir().unwrap();
    let first = "{\"apiVersion\": \"v1\", \"kind\": \"Pod\", \"metadata\": {\"name\": \"a\"}}";
    let second = "{\n\t\"apiVersion\": \"v1\", \"kind\": \"Pod\",\n\t\"metadata\": {\"name\": \"b\"}\n}\n";
    fs::write(scratch.path().join("a.json"), format!("{first}{second}")).unwrap();
    let new = documents("apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {nodeName: n1}\n");
    edit::apply(scratch.path(), &new).unwrap();
    let text = read(scratch.path(), "a.json");
    assert!(text.ends_with(second) && text.contains("\"nodeName\": \"n1\""), "{text}");
    edit::delete(scratch.path(), &[key(Kind::Pod, Some("default"), "a")]).unwrap();
    assert_eq!(read(scratch.path(), "a.json"), second);
}

#[test]
fn what_cannot_be_edited_alone_is_refused_and_nothing_changed() {
    let scratch = tempfile::tempdir().unwrap();
    let list = "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Pod\n  metadata: {name: a}\n- apiVersion: v1\n  kind: Pod\n  metadata: {name: b}\n";
    fs::write(scratch.path().join("list.yaml"), list).unwrap();
    let text = "apiVersion: v1\nkind: Pod\nmetadata: {name: new}\n---\napiVersion: v1\nkind: Pod\nmetadata: {name: b, labels: {a: b}}\n";
    let error = edit::apply(scratch.path(), &documents(text)).unwrap_err().to_string();
    assert!(error.contains("Pod default/b stands inside a List at") && error.contains("list.yaml:7"), "{error}");
    assert!(!scratch.path().join("Pod.default.new.yaml").exists(), "all or nothing");
    assert!(edit::delete(scratch.path(), &[key(Kind::Pod, Some("default"), "a")]).is_err());

    fs::write(scratch.path().join("broken.yaml"), "kind: Pod\nmetadata: {name: broken-pod\n").unwrap();
    let error = edit::apply(scratch.path(), &documents("apiVersion: v1\nkind: Pod\nmetadata: {name: broken-pod}\n"))
        .unwrap_err();
    assert!(error.to_string().contains("broken.yaml, which has an error"), "{error}");
    edit::apply(scratch.path(), &documents("apiVersion: v1\nkind: Pod\nmetadata: {name: new}\n")).unwrap();
    assert!(matches!(edit::apply(&scratch.path().join("missing"), &[]), Err(Error::Store(_))));
}

#[tokio::test]
async fn a_broken_file_is_in_the_way_of_its_own_objects_only() {
    let scratch = tempfile::tempdir().unwrap();
    let pod = |name: &str, label: &str| {
        format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{x: {label}}}}}\n")
    };
    fs::write(scratch.path().join("a.yaml"), pod("good", "one")).unwrap();
    // An agent has seen the file while it was good, and keeps that version.
    let mut watch = Directory::open(scratch.path()).unwrap().watch().await.unwrap();
    while !watch.recv().await.unwrap().in_sync {}
    // Now it only looks as if it named the pod "er", and no longer names the pod "good", which stays in force.
    fs::write(scratch.path().join("a.yaml"), "kind: Pod\nmetadata: {name: oth-er-s\n").unwrap();
    edit::apply(scratch.path(), &documents(&pod("er", "two"))).unwrap();
    let error = edit::apply(scratch.path(), &documents(&pod("good", "two"))).unwrap_err().to_string();
    assert!(error.contains("Pod default/good stands in") && error.contains("a.yaml"), "{error}");

    assert!(edit::try_delete(scratch.path(), &[key(Kind::Pod, Some("default"), "good")]).is_err());
    assert_eq!(edit::try_delete(scratch.path(), &[key(Kind::Pod, Some("default"), "er")]).unwrap().len(), 1);

    let loaded = directory::in_force(scratch.path()).unwrap();
    let mut found: Vec<_> = loaded
        .objects
        .iter()
        .map(|(object, _)| (object.metadata().name.as_str(), object.metadata().labels["x"].as_str()))
        .collect();
    found.sort_unstable();
    assert_eq!(found, [("er", "two"), ("good", "one")]);
    let problem = loaded.problems.iter().find(|problem| !problem.warning).expect("a problem");
    assert!(problem.message.contains("the last good version of this file stays in force"), "{problem:?}");
}

#[test]
fn a_document_with_anchors_or_markers_is_edited_or_refused_but_never_spoilt() {
    for text in [
        "%YAML 1.1\n---\napiVersion: v1\nkind: Pod\nmetadata: &m {name: a}\n...\n---\napiVersion: v1\nkind: Pod\nmetadata: {name: b}\n",
        "--- !!map\napiVersion: v1\nkind: Pod\nmetadata: {name: a}\n--- {apiVersion: v1, kind: Pod, metadata: {name: b}}\n",
        "---\n  apiVersion: v1\n  kind: Pod\n  metadata: {name: a, annotations: {x: |-\n   multi\n   line\n  }}\n---\napiVersion: v1\nkind: Pod\nmetadata: {name: b}",
        "\u{feff}apiVersion: v1\r\nkind: Pod\r\nmetadata: {name: a}\r\n---\r\napiVersion: v1\r\nkind: Pod\r\nmetadata: {name: b}\r\n",
    ] {
        for name in ["a", "b"] {
            let scratch = tempfile::tempdir().unwrap();
            fs::write(scratch.path().join("f.yaml"), text).unwrap();
            if manifests::load(&[scratch.path().to_owned()]).has_errors() {
                continue;
            }
            let new =
                documents(&format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{new: label}}}}\n"));
            if edit::apply(scratch.path(), &new).is_ok() {
                let loaded = manifests::load(&[scratch.path().to_owned()]);
                assert_eq!((loaded.objects.len(), loaded.problems.len()), (2, 0), "{text}");
                let labelled = loaded.objects.iter().filter(|(object, _)| !object.metadata().labels.is_empty());
                assert_eq!(labelled.map(|(object, _)| object.metadata().name.clone()).collect::<Vec<_>>(), [name]);
            }
            if edit::delete(scratch.path(), &[key(Kind::Pod, Some("default"), name)]).is_ok() {
                let loaded = manifests::load(&[scratch.path().to_owned()]);
                assert_eq!((loaded.objects.len(), loaded.problems.len()), (1, 0), "{text}");
            }
        }
    }
}
