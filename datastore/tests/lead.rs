//! Of all who want to lead one does, until it steps down, dies, or the file of its lock is taken away.
#![allow(missing_docs, reason = "a test")]

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tortie_datastore::Datastore;
use tortie_datastore::directory::Directory;

const DUTY: &str = "controller";

fn open(path: &std::path::Path) -> Directory {
    Directory::open(path).expect("a directory")
}

async fn within<T>(limit: Duration, work: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(limit, work).await.ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_leads_at_a_time() {
    let folder = tempfile::tempdir().expect("a folder");
    let (leading, terms) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..4 {
        let (directory, leading, terms) = (open(folder.path()), Arc::clone(&leading), Arc::clone(&terms));
        tasks.spawn(async move {
            let leadership = directory.lead(DUTY, &format!("node-{number}")).await.expect("leads");
            assert_eq!(leading.fetch_add(1, Ordering::SeqCst), 0, "nobody else leads");
            tokio::time::sleep(Duration::from_millis(50)).await;
            assert!(!leadership.is_lost());
            let file = std::fs::read_to_string(directory.path().join(".tortie/controller.lead")).expect("a file");
            assert_eq!(file, format!("node-{number}\n"));
            leading.fetch_sub(1, Ordering::SeqCst);
            terms.fetch_add(1, Ordering::SeqCst);
        });
    }
    tasks.join_all().await;
    assert_eq!(terms.load(Ordering::SeqCst), 4);
    // Duties are independent.
    let directory = open(folder.path());
    let _one = directory.lead(DUTY, "a").await.expect("leads");
    assert!(within(Duration::from_secs(5), directory.lead("another", "b")).await.is_some());
    assert!(within(Duration::from_millis(1200), open(folder.path()).lead(DUTY, "b")).await.is_none());
}

#[tokio::test]
async fn who_takes_the_file_away_ends_a_leadership() {
    let folder = tempfile::tempdir().expect("a folder");
    let directory = open(folder.path());
    let mut leadership = directory.lead(DUTY, "a").await.expect("leads");
    assert!(within(Duration::from_millis(700), leadership.lost()).await.is_none());
    std::fs::remove_file(folder.path().join(".tortie/controller.lead")).expect("removed");
    assert!(within(Duration::from_secs(5), leadership.lost()).await.is_some() && leadership.is_lost());
    assert!(within(Duration::from_secs(5), directory.lead(DUTY, "b")).await.is_some());
}

/// The part of the next test that runs as a process of its own.
#[tokio::test]
async fn a_leader_of_its_own() {
    let Ok(path) = std::env::var("TORTIE_TEST_DIRECTORY") else { return };
    let _leadership = open(path.as_ref()).lead(DUTY, "child").await.expect("leads");
    println!("LEADS");
    tokio::time::sleep(Duration::from_secs(600)).await;
}

#[tokio::test]
async fn who_dies_leads_no_more() {
    use std::io::BufRead as _;

    let folder = tempfile::tempdir().expect("a folder");
    let mut child = Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "a_leader_of_its_own", "--nocapture"])
        .env("TORTIE_TEST_DIRECTORY", folder.path())
        .stdout(Stdio::piped())
        .spawn()
        .expect("a child");
    let mut lines = std::io::BufReader::new(child.stdout.take().expect("its output")).lines();
    assert!(lines.any(|line| line.expect("a line").contains("LEADS")));
    let directory = open(folder.path());
    assert!(within(Duration::from_millis(1200), directory.lead(DUTY, "b")).await.is_none());
    child.kill().and_then(|()| child.wait()).expect("killed");
    let start = Instant::now();
    assert!(within(Duration::from_secs(5), directory.lead(DUTY, "b")).await.is_some(), "{:?}", start.elapsed());
}
