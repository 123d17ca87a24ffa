//! Nothing stays behind: after the demo, after Ctrl-C at any moment, after a lab whose own process was killed.

use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tortie_tests::lab::tortie;

/// Everything on this machine that carries the lab's name: namespaces, processes, files, links, tables.
fn traces(name: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut look = |folder: &str| {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(name) {
                found.push(entry.path().display().to_string());
            }
        }
    };
    look("/run/netns");
    look("/run/tortie-lab");
    look("/sys/class/net");
    look(&std::env::temp_dir().display().to_string());
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        if command.contains(name) && command.contains("tortie") && !command.contains("tortie-test") {
            found.push(format!("process {}: {command}", entry.file_name().to_string_lossy()));
        }
    }
    found
}

fn down(name: &str) {
    let output = Command::new(tortie()).args(["lab", "down", "--lab", name]).output().expect("tortie runs");
    assert!(output.status.success(), "lab down: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_demo_succeeds_and_leaves_nothing() {
    let name = format!("demo{}", std::process::id());
    let output = Command::new(tortie()).args(["lab", "demo", "--lab", &name]).output().expect("tortie runs");
    assert!(
        output.status.success(),
        "the demo failed\n{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(traces(&name), Vec::<String>::new());
}

#[test]
fn control_c_leaves_nothing() {
    for (round, after) in [100, 700, 1500, 4000].into_iter().enumerate() {
        let name = format!("ctrlc{}x{round}", std::process::id());
        let mut demo = Command::new(tortie())
            .args(["lab", "demo", "--lab", &name])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("tortie starts");
        std::thread::sleep(Duration::from_millis(after));
        kill(Pid::from_raw(i32::try_from(demo.id()).expect("a pid")), Signal::SIGINT).expect("the demo runs");
        let status = demo.wait().expect("the demo ends");
        assert!(!status.success(), "an interrupted demo says so");
        assert_eq!(traces(&name), Vec::<String>::new(), "after {after} ms");
    }
}

#[test]
fn down_cleans_after_a_killed_up() {
    for (round, after) in [50, 400, 900, 2000].into_iter().enumerate() {
        let name = format!("killed{}x{round}", std::process::id());
        let mut up = Command::new(tortie())
            .args(["lab", "up", "--lab", &name])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("tortie starts");
        std::thread::sleep(Duration::from_millis(after));
        up.kill().expect("lab up can be killed");
        let _ = up.wait();
        down(&name);
        assert_eq!(traces(&name), Vec::<String>::new(), "after {after} ms");
    }
}
