//! The Directory's watch, on real files.
#![allow(missing_docs, reason = "a test")]

mod common;

use std::fs;
use std::io::Write;
use std::time::{Duration, Instant};

use common::{Follower, pod, policy, write};
use tortie_api::{Kind, Object, ObjectKey};
use tortie_datastore::directory::{self, Directory};
use tortie_datastore::{Datastore, Error};

#[tokio::test]
async fn tells_what_is_there_and_then_what_changes() {
    let scratch = tempfile::tempdir().unwrap();
    write(scratch.path(), "a.yaml", &policy("x", "p"));
    let directory = Directory::open(scratch.path()).unwrap();
    let mut follower = Follower::new(&directory).await;
    assert_eq!(follower.names(), ["NetworkPolicy x/p"]);
    assert_eq!(follower.last.revision, directory::revision(scratch.path()).unwrap());

    let started = Instant::now();
    write(scratch.path(), "b.yml", &format!("{}---\n{}", policy("x", "q"), pod("x", "web")));
    follower.next().await;
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    assert_eq!(follower.names(), ["Pod x/web", "NetworkPolicy x/p", "NetworkPolicy x/q"]);

    fs::rename(scratch.path().join("a.yaml"), scratch.path().join("c.yaml")).unwrap();
    follower.caught_up(scratch.path()).await;
    assert_eq!(follower.names().len(), 3, "a move is no change");

    fs::remove_file(scratch.path().join("b.yml")).unwrap();
    follower.until("deletion", |this| this.names() == ["NetworkPolicy x/p"]).await;
    follower.caught_up(scratch.path()).await;

    // A comment changes the revision and nothing else.
    write(scratch.path(), "c.yaml", &format!("# why\n{}", policy("x", "p")));
    follower.caught_up(scratch.path()).await;
    assert!(follower.last.changes.is_empty());
}

#[tokio::test]
async fn never_reads_what_is_half_written() {
    let scratch = tempfile::tempdir().unwrap();
    let directory = Directory::open(scratch.path()).unwrap();
    let mut follower = Follower::new(&directory).await;
    let mut file = fs::File::create(scratch.path().join("a.yaml")).unwrap();
    for name in ["p", "q", "r"] {
        write!(file, "---\n{}", policy("x", name)).unwrap();
        file.sync_all().unwrap();
        assert!(follower.is_quiet().await, "{:?}", follower.names());
    }
    drop(file);
    follower.next().await;
    assert_eq!(follower.names().len(), 3);
}

#[tokio::test]
async fn keeps_the_last_good_version_also_over_a_restart() {
    let scratch = tempfile::tempdir().unwrap();
    let good = format!("{}---\n{}", policy("x", "p"), policy("x", "q"));
    write(scratch.path(), "a.yaml", &good);
    let directory = Directory::open(scratch.path()).unwrap();
    let mut follower = Follower::new(&directory).await;
    // Of a file with one bad document, the whole keeps its last good version.
    let bad = format!("# comment\n{}  ingres: []\n---\n{}", policy("x", "p"), policy("x", "new"));
    for text in [bad.as_str(), "a: [\n", "\u{0}", "- 1\n", "kind: NetworkPolicy\n"] {
        write(scratch.path(), "a.yaml", text);
        follower.caught_up(scratch.path()).await;
        assert_eq!(follower.names(), ["NetworkPolicy x/p", "NetworkPolicy x/q"], "{text:?}");
        assert!(follower.problems().contains("a.yaml:"), "{}", follower.problems());
        assert!(follower.problems().contains("last good version"), "{}", follower.problems());
    }
    write(scratch.path(), "a.yaml", &bad);
    follower.caught_up(scratch.path()).await;
    let place = format!("{}:7", directory.path().join("a.yaml").display());
    assert_eq!(follower.last.problems.len(), 1);
    assert_eq!(follower.last.problems[0].place, place);
    assert!(
        follower.problems().contains("spec.ingres: unknown field: did you mean \"ingress\"?"),
        "{}",
        follower.problems()
    );

    let mut restarted = Follower::new(&Directory::open(scratch.path()).unwrap()).await;
    assert_eq!(restarted.names(), ["NetworkPolicy x/p", "NetworkPolicy x/q"]);
    assert_eq!(restarted.last.problems, follower.last.problems);
    assert_eq!(restarted.last.revision, follower.last.revision);
    // A command that reads sees the same.
    assert_eq!(directory.list(Kind::NetworkPolicy).await.unwrap().len(), 2);

    write(scratch.path(), "a.yaml", &policy("x", "new"));
    restarted.until("the mended file", |this| this.names() == ["NetworkPolicy x/new"]).await;
    assert_eq!(restarted.problems(), "");

    // A file that goes takes its last good version with it.
    follower.caught_up(scratch.path()).await;
    fs::remove_file(scratch.path().join("a.yaml")).unwrap();
    follower.caught_up(scratch.path()).await;
    restarted.caught_up(scratch.path()).await;
    write(scratch.path(), "a.yaml", "a: [\n");
    let again = Follower::new(&Directory::open(scratch.path()).unwrap()).await;
    assert!(again.names().is_empty(), "{:?}", again.names());
    assert!(again.problems().contains("nothing of this file is in force"), "{}", again.problems());
}

#[tokio::test]
async fn forgets_the_last_good_version_of_a_file_that_went_while_nobody_looked() {
    let scratch = tempfile::tempdir().unwrap();
    write(scratch.path(), "a.yaml", &policy("x", "p"));
    drop(Follower::new(&Directory::open(scratch.path()).unwrap()).await);
    fs::remove_file(scratch.path().join("a.yaml")).unwrap();
    drop(Follower::new(&Directory::open(scratch.path()).unwrap()).await);
    write(scratch.path(), "a.yaml", "a: [\n");
    let follower = Follower::new(&Directory::open(scratch.path()).unwrap()).await;
    assert!(follower.names().is_empty(), "{:?}", follower.names());
}

#[tokio::test]
async fn a_last_good_copy_that_was_cut_short_is_not_used() {
    let scratch = tempfile::tempdir().unwrap();
    write(scratch.path(), "a.yaml", &format!("{}---\n{}", policy("x", "p"), policy("x", "q")));
    drop(Follower::new(&Directory::open(scratch.path()).unwrap()).await);
    let copy = fs::read_dir(scratch.path().join(".tortie/last-good")).unwrap().next().unwrap().unwrap().path();
    let bytes = fs::read(&copy).unwrap();
    fs::write(&copy, &bytes[..bytes.len() / 2]).unwrap();
    write(scratch.path(), "a.yaml", "a: [\n");
    let follower = Follower::new(&Directory::open(scratch.path()).unwrap()).await;
    assert!(follower.names().is_empty(), "{:?}", follower.names());
}

#[tokio::test]
async fn the_first_in_order_of_path_has_an_object_that_stands_twice() {
    let scratch = tempfile::tempdir().unwrap();
    fs::create_dir(scratch.path().join("z")).unwrap();
    let with_label = |value: &str| {
        policy("x", "p").replace("podSelector: {}", &format!("podSelector: {{matchLabels: {{a: {value}}}}}"))
    };
    write(scratch.path(), "z/late.yaml", &with_label("late"));
    write(scratch.path(), "m.yaml", &with_label("middle"));
    let directory = Directory::open(scratch.path()).unwrap();
    let mut follower = Follower::new(&directory).await;
    let label = |follower: &Follower| match follower.objects.values().next() {
        Some(Object::NetworkPolicy(policy)) => policy.spec.pod_selector.match_labels["a"].clone(),
        _ => String::new(),
    };
    assert_eq!(label(&follower), "middle");
    assert!(
        follower.problems().contains("z/late.yaml:1: NetworkPolicy x/p is already defined at"),
        "{}",
        follower.problems()
    );
    assert!(follower.problems().contains("m.yaml:1, which is kept"), "{}", follower.problems());

    write(scratch.path(), "a.yaml", &format!("\n{}", with_label("early")));
    follower.until("the first", |this| label(this) == "early").await;
    assert_eq!(follower.last.problems.len(), 2);
    fs::remove_file(scratch.path().join("a.yaml")).unwrap();
    fs::remove_file(scratch.path().join("m.yaml")).unwrap();
    follower.until("the last", |this| label(this) == "late").await;
    follower.caught_up(scratch.path()).await;
    assert_eq!(follower.problems(), "");
}

#[tokio::test]
async fn new_directories_are_found_whole() {
    let scratch = tempfile::tempdir().unwrap();
    let directory = Directory::open(scratch.path()).unwrap();
    let mut follower = Follower::new(&directory).await;
    // Directories and files as fast as they come: some files are there before their directory is watched, some after.
    for outer in 0..20 {
        let path = scratch.path().join(format!("d{outer}/e/f"));
        fs::create_dir_all(&path).unwrap();
        for inner in 0..5 {
            fs::write(path.join(format!("{inner}.yaml")), policy(&format!("n{outer}"), &format!("p{inner}"))).unwrap();
        }
    }
    follower.until("all of them", |this| this.objects.len() == 100).await;
    follower.caught_up(scratch.path()).await;

    // Moved within, away, and back.
    let outside = tempfile::tempdir().unwrap();
    fs::rename(scratch.path().join("d0"), scratch.path().join("moved")).unwrap();
    fs::rename(scratch.path().join("d1"), outside.path().join("d1")).unwrap();
    follower.until("95", |this| this.objects.len() == 95).await;
    write(&outside.path().join("d1/e/f"), "6.yaml", &policy("n1", "outside"));
    write(&scratch.path().join("moved/e/f"), "6.yaml", &policy("n0", "inside"));
    follower.until("the one inside", |this| this.has("NetworkPolicy n0/inside")).await;
    assert!(!follower.has("NetworkPolicy n1/outside"));
    fs::rename(outside.path().join("d1"), scratch.path().join("back")).unwrap();
    follower.until("what came back", |this| this.objects.len() == 102).await;
    fs::remove_dir_all(scratch.path().join("back")).unwrap();
    follower.until("what went", |this| this.objects.len() == 96).await;
    follower.caught_up(scratch.path()).await;
    assert_eq!(follower.problems(), "");
}

#[tokio::test]
async fn a_file_that_a_listing_finds_is_not_read_while_it_is_written() {
    let scratch = tempfile::tempdir().unwrap();
    let directory = Directory::open(scratch.path()).unwrap();
    let mut follower = Follower::new(&directory).await;
    let mut judged = 0;
    for round in 0..20 {
        let path = scratch.path().join(format!("d{round}"));
        let (first, second) = (format!("p{round}"), format!("q{round}"));
        // There before its directory is watched, so that a listing finds it.
        fs::create_dir(&path).unwrap();
        let mut file = fs::File::create(path.join("a.yaml")).unwrap();
        write!(file, "{}", policy("x", &first)).unwrap();
        let written = Instant::now();
        tokio::time::sleep(Duration::from_millis(12)).await;
        write!(file, "---\n{}", policy("x", &second)).unwrap();
        drop(file);
        // Longer than a writer is waited for, on a machine that is busy: nothing can be said.
        let in_time = written.elapsed() < Duration::from_millis(25);
        let batches = follower.batches.len();
        follower.until("the whole file", |this| this.has(&format!("NetworkPolicy x/{second}"))).await;
        if in_time {
            judged += 1;
            let told = follower.batches[batches..].iter().filter(|batch| !batch.changes.is_empty());
            assert_eq!(told.map(|batch| batch.changes.len()).collect::<Vec<_>>(), [2], "round {round}");
        }
    }
    println!("{judged} rounds judged");
}

#[tokio::test]
async fn what_is_no_manifest_is_left_alone() {
    let scratch = tempfile::tempdir().unwrap();
    let directory = Directory::open(scratch.path()).unwrap();
    let mut follower = Follower::new(&directory).await;
    let before = follower.last.revision.clone();
    fs::create_dir(scratch.path().join(".git")).unwrap();
    for name in
        [".a.yaml", "a.yaml~", "a.yaml.swp", ".#a.yaml", "#a.yaml#", "README.md", ".git/a.yaml", ".tortie/a.yaml"]
    {
        write(scratch.path(), name, "a: [\n");
    }
    nix::unistd::mkfifo(&scratch.path().join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert!(follower.is_quiet().await);
    assert_eq!(directory::revision(scratch.path()).unwrap(), before);

    // Empty documents and files hold nothing; a pipe with the name of a manifest is an error, and blocks nobody.
    write(scratch.path(), "empty.yaml", "");
    write(scratch.path(), "comment.yaml", "---\n# nothing\n---\n");
    write(scratch.path(), "list.json", r#"{"apiVersion": "v1", "kind": "List", "items": []}"#);
    write(scratch.path(), "service.yaml", "apiVersion: v1\nkind: Service\nmetadata: {name: s}\n");
    follower.caught_up(scratch.path()).await;
    assert!(follower.objects.is_empty() && follower.problems().is_empty(), "{}", follower.problems());
    write(scratch.path(), "job.yaml", "apiVersion: batch/v1\nkind: Job\nmetadata: {name: j}\n");
    follower.caught_up(scratch.path()).await;
    assert!(
        follower.last.problems[0].warning && follower.problems().contains("unknown kind Job"),
        "{}",
        follower.problems()
    );
    nix::unistd::mkfifo(&scratch.path().join("pipe.yaml"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let fresh = Follower::new(&directory).await;
    assert!(fresh.problems().contains("it is not a regular file"), "{}", fresh.problems());
}

#[tokio::test]
async fn links_are_read_and_links_to_directories_not_followed() {
    use std::os::unix::fs::symlink;

    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path();
    let directory = Directory::open(path).unwrap();
    let mut follower = Follower::new(&directory).await;
    symlink(".", path.join("loop")).unwrap();
    follower.until("the warning", |this| this.problems().contains("loop: a symbolic link")).await;
    fs::remove_file(path.join("loop")).unwrap();
    follower.until("no warning", |this| this.problems().is_empty()).await;

    // As a ConfigMap is mounted: the files are links through `..data`, which is replaced at once.
    for (version, name) in [("..1", "p"), ("..2", "q")] {
        fs::create_dir(path.join(version)).unwrap();
        write(&path.join(version), "a.yaml", &policy("x", name));
    }
    symlink("..1", path.join("..data")).unwrap();
    symlink("..data/a.yaml", path.join("a.yaml")).unwrap();
    follower.until("the first version", |this| this.names() == ["NetworkPolicy x/p"]).await;
    symlink("..2", path.join("..data_tmp")).unwrap();
    fs::rename(path.join("..data_tmp"), path.join("..data")).unwrap();
    follower.until("the second version", |this| this.names() == ["NetworkPolicy x/q"]).await;
    follower.caught_up(path).await;

    fs::remove_file(path.join("..data")).unwrap();
    write(path, "b.yaml", &policy("x", "b"));
    fs::hard_link(path.join("b.yaml"), path.join("c.yaml")).unwrap();
    follower.until("the hard link", |this| this.problems().contains("c.yaml:1: NetworkPolicy x/b is already")).await;
}

#[tokio::test]
async fn pods_get_the_addresses_that_agents_publish() {
    let scratch = tempfile::tempdir().unwrap();
    write(scratch.path(), "a.yaml", &pod("x", "web"));
    let directory = Directory::open(scratch.path()).unwrap();
    let mut follower = Follower::new(&directory).await;
    let addresses = |follower: &Follower| match follower.objects.values().next() {
        Some(Object::Pod(pod)) => pod.addresses().iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
        _ => "none".to_owned(),
    };
    let ips = ["10.244.0.1".parse().unwrap(), "fd00::1".parse().unwrap()];
    directory.publish_pod_ips("x", "web", "n1/c1", &ips).await.unwrap();
    directory.publish_pod_ips("x", "stranger", "n1/c2", &ips[..1]).await.unwrap();
    follower.until("addresses", |this| addresses(this) == "10.244.0.1,fd00::1").await;
    follower.caught_up(scratch.path()).await;
    assert_eq!(follower.names(), ["Pod x/web"]);
    let key = ObjectKey { kind: Kind::Pod, namespace: Some("x".into()), name: "web".into() };
    assert_eq!(directory.get(&key).await.unwrap(), follower.objects[&key]);
    assert_eq!(directory.list(Kind::Pod).await.unwrap(), [follower.objects[&key].clone()]);

    // The publication outlives the pod's document, and is found when that comes back.
    fs::remove_file(scratch.path().join("a.yaml")).unwrap();
    follower.until("no pod", |this| this.objects.is_empty()).await;
    write(scratch.path(), "a.yaml", &pod("x", "web"));
    follower.until("addresses again", |this| addresses(this) == "10.244.0.1,fd00::1").await;
    directory.withdraw_pod_ips("x", "web", "n1/c1").await.unwrap();
    directory.withdraw_pod_ips("x", "web", "n1/c1").await.unwrap();
    follower.until("no addresses", |this| addresses(this).is_empty()).await;
    directory.publish_pod_ips("../../..", "..", "n1/c3", &ips).await.unwrap();
    assert!(!scratch.path().parent().unwrap().join("...json").exists());
}

/// Else whoever may write a Pod could put any address into the sets that policies compile to.
#[tokio::test]
async fn a_manifest_cannot_say_which_addresses_a_pod_has() {
    let scratch = tempfile::tempdir().unwrap();
    write(scratch.path(), "a.yaml", &(pod("x", "web") + "status: {podIPs: [{ip: 10.9.9.9}], phase: Running}\n"));
    let directory = Directory::open(scratch.path()).unwrap();
    let follower = Follower::new(&directory).await;
    let key = ObjectKey { kind: Kind::Pod, namespace: Some("x".into()), name: "web".into() };
    let got = directory.get(&key).await.unwrap();
    let listed = directory.list(Kind::Pod).await.unwrap();
    for object in [&got, &listed[0], &follower.objects[&key]] {
        let Object::Pod(pod) = object else { panic!("{object:?}") };
        assert!(pod.addresses().is_empty(), "{:?}", pod.status);
        assert_eq!(pod.status.phase.as_deref(), Some("Running"));
    }
}

/// A pod that is made anew on another node has its addresses before the old node says that its own are gone.
#[tokio::test]
async fn only_who_published_addresses_takes_them_back() {
    let scratch = tempfile::tempdir().unwrap();
    write(scratch.path(), "a.yaml", &pod("x", "web"));
    let directory = Directory::open(scratch.path()).unwrap();
    let key = ObjectKey { kind: Kind::Pod, namespace: Some("x".into()), name: "web".into() };
    let addresses = async || match directory.get(&key).await {
        Ok(Object::Pod(pod)) => pod.addresses(),
        other => panic!("{other:?}"),
    };
    let (old, new) = (["10.244.0.1".parse().unwrap()], ["10.244.1.1".parse().unwrap()]);
    directory.publish_pod_ips("x", "web", "n1/c1", &old).await.unwrap();
    directory.publish_pod_ips("x", "web", "n2/c2", &new).await.unwrap();
    directory.withdraw_pod_ips("x", "web", "n1/c1").await.unwrap();
    assert_eq!(addresses().await, new);
    directory.withdraw_pod_ips("x", "web", "n2/c2").await.unwrap();
    assert!(addresses().await.is_empty());
    // Written before publications said by whom.
    let file = scratch.path().join(".tortie/pods/x/web.json");
    fs::write(&file, r#"{"namespace": "x", "name": "web", "podIPs": ["10.244.0.1"]}"#).unwrap();
    assert_eq!(addresses().await, old);
    directory.withdraw_pod_ips("x", "web", "n1/c1").await.unwrap();
    assert!(addresses().await.is_empty() && !file.exists());
}

#[tokio::test]
async fn a_directory_that_goes_and_comes_back_is_found_again() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("data");
    fs::create_dir(&path).unwrap();
    write(&path, "a.yaml", &policy("x", "p"));
    let directory = Directory::open(&path).unwrap();
    let mut follower = Follower::new(&directory).await;
    fs::rename(&path, scratch.path().join("old")).unwrap();
    follower.until("the problem", |this| this.problems().contains("the directory is gone")).await;
    assert_eq!(follower.names(), ["NetworkPolicy x/p"], "last good state stays");
    fs::create_dir(&path).unwrap();
    write(&path, "b.yaml", &policy("x", "q"));
    follower.until("the new content", |this| this.names() == ["NetworkPolicy x/q"]).await;
    follower.caught_up(&path).await;
    assert_eq!(follower.problems(), "");
    write(&path, "b.yaml", &policy("x", "r"));
    follower.until("a later change", |this| this.names() == ["NetworkPolicy x/r"]).await;
}

#[tokio::test]
async fn a_storm_of_changes_ends_in_the_truth() {
    let scratch = tempfile::tempdir().unwrap();
    let directory = Directory::open(scratch.path()).unwrap();
    let mut follower = Follower::new(&directory).await;
    let path = scratch.path().to_owned();
    // Nobody takes what the watch has to tell, so that most of it waits in the kernel.
    let storm = tokio::task::spawn_blocking(move || {
        for round in 0..20 {
            for file in 0..200 {
                fs::write(path.join(format!("{file}.yaml")), policy("x", &format!("p{file}-{round}"))).unwrap();
            }
        }
        for file in 0..100 {
            fs::remove_file(path.join(format!("{file}.yaml"))).unwrap();
        }
    });
    storm.await.unwrap();
    follower.caught_up(scratch.path()).await;
    assert_eq!(follower.objects.len(), 100);
    assert!(follower.has("NetworkPolicy x/p150-19"));
}

#[tokio::test]
async fn changes_that_come_together_are_told_together() {
    let scratch = tempfile::tempdir().unwrap();
    let directory = Directory::open(scratch.path()).unwrap();
    let mut follower = Follower::new(&directory).await;
    for file in 0..100 {
        write(scratch.path(), &format!("{file}.yaml"), &policy("x", &format!("p{file}")));
    }
    follower.until("all", |this| this.objects.len() == 100).await;
    assert!(follower.batches.len() < 60, "{} batches", follower.batches.len());
}

#[tokio::test]
async fn commands_see_every_change_however_quick() {
    let scratch = tempfile::tempdir().unwrap();
    let directory = Directory::open(scratch.path()).unwrap();
    let key = |name: &str| ObjectKey { kind: Kind::NetworkPolicy, namespace: Some("x".into()), name: name.into() };
    // The same length each time, and quicker than the clock that stamps files.
    for round in 100..200 {
        write(scratch.path(), "a.yaml", &policy("x", &format!("p{round}")));
        let listed = directory.list(Kind::NetworkPolicy).await.unwrap();
        assert_eq!(listed.iter().map(Object::key).collect::<Vec<_>>(), [key(&format!("p{round}"))]);
    }
    tokio::time::sleep(Duration::from_millis(150)).await;
    for _ in 0..3 {
        assert!(directory.get(&key("p199")).await.is_ok());
    }
    fs::remove_file(scratch.path().join("a.yaml")).unwrap();
    assert!(directory.list(Kind::NetworkPolicy).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_file_that_is_too_large_is_a_problem_and_no_burden() {
    let scratch = tempfile::tempdir().unwrap();
    fs::File::create(scratch.path().join("huge.yaml")).unwrap().set_len(1 << 40).unwrap();
    // Whatever it holds, a file beyond 16 MiB would cost every agent seconds at each change.
    let mut large = policy("x", "large");
    large.push_str(&"# and so on and so forth\n".repeat(700_000));
    write(scratch.path(), "large.yaml", &large);
    write(scratch.path(), "a.yaml", &policy("x", "p"));
    let follower = Follower::new(&Directory::open(scratch.path()).unwrap()).await;
    assert!(follower.problems().contains("huge.yaml: cannot be read: it is larger than"), "{}", follower.problems());
    assert!(follower.problems().contains("large.yaml: cannot be read: it is larger than 16 MiB: split it"));
    assert_eq!(follower.names(), ["NetworkPolicy x/p"]);
    assert_eq!(follower.last.revision, directory::revision(scratch.path()).unwrap());
}

#[tokio::test]
async fn what_cannot_be_opened_says_why() {
    let scratch = tempfile::tempdir().unwrap();
    let error = Directory::open(scratch.path().join("missing")).err().unwrap();
    assert!(error.to_string().contains("missing: cannot open the datastore directory"), "{error}");
    write(scratch.path(), "file", "");
    assert!(Directory::open(scratch.path().join("file")).is_err());
    assert!(directory::revision(scratch.path().join("missing")).is_err());
    let directory = Directory::open(scratch.path()).unwrap();
    let key = ObjectKey { kind: Kind::Pod, namespace: Some("x".into()), name: "web".into() };
    assert!(matches!(directory.get(&key).await, Err(Error::NotFound(missing)) if missing == key));
}
