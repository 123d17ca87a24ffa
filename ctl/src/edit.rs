//! `tortie apply`, `delete` and `validate`: documents of a Directory, each edited where it stands, or objects of a cluster.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use serde::Serialize;
use tortie_api::{Object, ObjectKey};
use tortie_datastore::edit::{self, Report};
use tortie_datastore::manifests::{self, DocumentKey, Loaded};
use tortie_policy::References;

use crate::cli::{Delete, Files};
use crate::output::{self, Output};
use crate::settings::{Settings, Store};

/// What became of a document.
#[derive(Serialize)]
struct Done {
    object: String,
    action: String,
    place: String,
}

impl Done {
    fn at_server(key: &ObjectKey, action: &str) -> Self {
        let place = "the API server".to_owned();
        Self { object: DocumentKey::from(key).to_string(), action: action.to_owned(), place }
    }
}

/// Writes documents into the datastore; none of them if anything is wrong with one.
pub(crate) async fn apply(settings: &Settings, output: Output, files: &Files) -> Result<()> {
    let loaded = read(&files.filename)?;
    let store = settings.store().await?;
    match &store {
        Store::Directory(directory) => print(output, &edit::apply(directory.path(), &loaded.documents)?)?,
        Store::Kubernetes(kubernetes) => {
            let applied = kubernetes.apply(&loaded.documents).await?;
            let done: Vec<Done> = applied.iter().map(|(key, applied)| Done::at_server(key, applied.as_str())).collect();
            print_done(output, &done)?;
        }
    }
    warn_of_references(&store, &loaded).await
}

/// Removes documents from the datastore.
pub(crate) async fn delete(settings: &Settings, output: Output, args: &Delete) -> Result<()> {
    let keys: Vec<DocumentKey> = match (args.kind, args.filename.as_slice()) {
        (Some(kind), _) => {
            let namespace =
                kind.is_namespaced().then(|| args.namespace.clone().unwrap_or_else(|| "default".to_owned()));
            let key = |name: &String| ObjectKey { kind, namespace: namespace.clone(), name: name.clone() };
            args.names.iter().map(|name| DocumentKey::from(&key(name))).collect()
        }
        (_, files) => read(files)?.documents.into_iter().map(|document| document.key).collect::<Vec<_>>(),
    };
    match settings.store().await? {
        Store::Directory(directory) => print(output, &edit::delete(directory.path(), &keys)?),
        Store::Kubernetes(kubernetes) => {
            let mut done = Vec::new();
            for key in keys {
                let object = key
                    .object()
                    .with_context(|| format!("{key} is of a kind that Tortie does not act upon: use kubectl"))?;
                kubernetes.remove(&object).await?;
                done.push(Done::at_server(&object, "deleted"));
            }
            print_done(output, &done)
        }
    }
}

/// Says whether documents would be taken, without a look at the datastore.
pub(crate) fn validate(output: Output, files: &Files) -> Result<()> {
    let loaded = read(&files.filename)?;
    let mut references = References::default();
    loaded.objects.iter().for_each(|(object, _)| references.upsert(object));
    let valid = loaded.documents.iter().map(|document| Done {
        object: document.key.to_string(),
        action: if document.object.is_some() { "valid" } else { "not looked at" }.to_owned(),
        place: document.place.to_string(),
    });
    print_done(output, &valid.collect::<Vec<_>>())?;
    for problem in references.problems() {
        output::note(&format!("tortie: warning: among these files: {problem}"));
    }
    Ok(())
}

/// The documents of files. Everything that is wrong with any of them is an error.
fn read(paths: &[PathBuf]) -> Result<Loaded> {
    let loaded = manifests::load(paths);
    let text = |problem: &tortie_datastore::Problem| format!("{}: {}", problem.place, problem.message);
    for problem in loaded.problems.iter().filter(|problem| problem.warning) {
        output::note(&format!("tortie: warning: {}", text(problem)));
    }
    let errors: Vec<String> = loaded.problems.iter().filter(|problem| !problem.warning).map(text).collect();
    if errors.is_empty() { Ok(loaded) } else { bail!("{}", errors.join("\ntortie: ")) }
}

fn print(output: Output, reports: &[Report]) -> Result<()> {
    let done = reports.iter().map(|report| Done {
        object: report.key.to_string(),
        action: report.action.to_string(),
        place: report.place.to_string(),
    });
    print_done(output, &done.collect::<Vec<_>>())
}

fn print_done(output: Output, done: &[Done]) -> Result<()> {
    output.print(done, |output| {
        let line = |done: &Done| {
            let place = if output.wide() { format!(" in {}", done.place) } else { String::new() };
            format!("{} {}{place}\n", done.object, done.action)
        };
        done.iter().map(line).collect()
    })
}

/// Says what the new objects name that is not there: they are valid, and may mean something else than was meant.
async fn warn_of_references(store: &Store, new: &Loaded) -> Result<()> {
    let store = store.datastore();
    let mut references = References::default();
    for kind in References::KINDS {
        let objects = store.list(kind).await?;
        let is_new = |object: &&Object| new.objects.iter().any(|(it, _)| it.key() == object.key());
        objects.iter().filter(|object| References::is_target(object.kind()) || is_new(object)).for_each(|object| {
            references.upsert(object);
        });
    }
    for problem in references.problems() {
        output::note(&format!("tortie: warning: {problem}"));
    }
    Ok(())
}
