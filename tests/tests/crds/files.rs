//! `deploy/crds` against what `make crds` would write.

use std::collections::BTreeSet;

use tortie_tests::root;

#[test]
fn deploy_has_what_make_crds_writes() {
    let folder = root().join("deploy/crds");
    let wanted = tortie_api::schema::files();
    for (name, text) in &wanted {
        let there = std::fs::read_to_string(folder.join(name)).unwrap_or_default();
        assert!(there == *text, "deploy/crds/{name} is not what the types in api/ say: run `make crds`");
    }
    let known: BTreeSet<&str> = wanted.iter().map(|(name, _)| name.as_str()).collect();
    for entry in std::fs::read_dir(folder).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(known.contains(name.as_str()), "deploy/crds/{name} is of no kind in api/: delete it");
    }
}
