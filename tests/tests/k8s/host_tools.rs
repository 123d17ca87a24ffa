//! An agent in a container runs the machine's own programs: found among the machine's files, with what was asked of them.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output};

use tortie_tests::{lab, root};

/// The agent's program, called as a tool of the machine, whose files are in a folder.
fn called(name: &str, machine: Option<&Path>) -> Output {
    let mut command = Command::new(lab::tortie().with_file_name("tortie-node"));
    command.arg0(name).args(["version", "--client"]).env_remove("TORTIE_HOST_ROOT");
    if let Some(folder) = machine {
        command.env("TORTIE_HOST_ROOT", folder);
    }
    command.output().expect("the program runs")
}

#[test]
fn the_machines_programs_are_run_among_the_machines_files() {
    let machine = std::env::temp_dir().join(format!("tortie-test-machine{}", std::process::id()));
    std::fs::create_dir_all(machine.join("usr/sbin")).expect("a writable folder");
    // Any static program will do: it says its own name, not that of a tool for firewalls.
    let program = root().join("target/peers/k8s/bin/kubectl");
    std::fs::copy(&program, machine.join("usr/sbin/iptables-legacy"))
        .unwrap_or_else(|error| panic!("{}: {error}: run tests/k8s/build.sh", program.display()));

    let found = called("iptables-legacy", Some(&machine));
    let said = String::from_utf8_lossy(&found.stdout).into_owned();
    assert!(found.status.success() && said.contains("Client Version"), "{found:?}");

    for (name, machine, reason) in [
        ("iptables-nft", Some(machine.as_path()), "No such file"),
        ("iptables-nft", Some(Path::new("/nowhere")), "/nowhere cannot be entered"),
        // It would find itself.
        ("firewall-cmd", None, "TORTIE_HOST_ROOT does not say"),
    ] {
        let missing = called(name, machine);
        let said = String::from_utf8_lossy(&missing.stderr).into_owned();
        assert_eq!(missing.status.code(), Some(127), "{said}");
        assert!(said.contains(name) && said.contains(reason), "{said}");
    }
    std::fs::remove_dir_all(&machine).expect("it is ours");
}
