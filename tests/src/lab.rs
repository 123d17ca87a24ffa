//! A lab driven through the `tortie` command line, as a person would drive it, and cleaned up whatever happens to the test.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;

/// A running lab. Dropping it takes it down.
pub struct Lab {
    /// The lab's name, unique to this process.
    pub name: String,
    folder: PathBuf,
}

/// One row of `lab probe` or `policy matrix`: source, destination, protocol, port.
pub type Pair = (String, String, String, u16);

/// The `tortie` binary that was built with this test, or the one in `TORTIE_BIN`.
///
/// # Panics
/// When it was not built.
pub fn tortie() -> PathBuf {
    let path = place().expect("tests are in target/PROFILE/deps");
    assert!(
        path.exists() && path.with_file_name("tortie-node").exists(),
        "{} or tortie-node beside it is missing: run `cargo build --workspace`",
        path.display()
    );
    path
}

/// Where the binary should be.
fn place() -> Option<PathBuf> {
    let folder = match std::env::var_os("TORTIE_BIN") {
        Some(folder) => PathBuf::from(folder),
        None => std::env::current_exe().ok()?.ancestors().nth(2)?.to_owned(),
    };
    Some(folder.join("tortie"))
}

fn fail(what: &str, output: &Output) -> ! {
    panic!(
        "{what}: {}\n--- stdout\n{}\n--- stderr\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Runs `tortie ARGS` and returns what it printed.
///
/// # Panics
/// When it fails.
pub fn run(args: &[&str]) -> String {
    let output = Command::new(tortie()).args(args).stdin(Stdio::null()).output().expect("tortie runs");
    if !output.status.success() {
        fail(&format!("tortie {}", args.join(" ")), &output);
    }
    String::from_utf8_lossy(&output.stdout).into_owned()
}

impl Lab {
    /// `lab up` with the given documents, one file each, and further flags.
    ///
    /// # Panics
    /// When the lab does not come up.
    pub fn up(title: &str, documents: &[Value], flags: &[&str]) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("{title}{}x{}", std::process::id() % 100_000, COUNT.fetch_add(1, Ordering::Relaxed));
        let folder = std::env::temp_dir().join(format!("tortie-test-{name}"));
        let lab = Self { name, folder };
        lab.write("up", documents);
        let up = lab.folder.join("up");
        let mut args = vec!["lab", "up", "--lab", &lab.name, "-f", up.to_str().expect("a plain path")];
        args.extend(flags);
        run(&args);
        lab
    }

    /// Writes documents as YAML (JSON is YAML) into a folder of the lab's own, and returns it.
    ///
    /// # Panics
    /// When the disk refuses.
    pub fn write(&self, folder: &str, documents: &[Value]) -> PathBuf {
        let folder = self.folder.join(folder);
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).expect("a folder for manifests");
        for (index, document) in documents.iter().enumerate() {
            let file = folder.join(format!("{index:04}.yaml"));
            std::fs::write(&file, format!("{document:#}\n")).expect("a manifest is written");
        }
        folder
    }

    /// `lab apply -f` of the given documents.
    pub fn apply(&self, documents: &[Value]) {
        let folder = self.write("apply", documents);
        self.run(&["lab", "apply", "-f", folder.to_str().expect("a plain path")]);
    }

    /// `lab delete -f` of the given documents.
    pub fn delete(&self, documents: &[Value]) {
        let folder = self.write("delete", documents);
        self.run(&["lab", "delete", "-f", folder.to_str().expect("a plain path")]);
    }

    /// Runs `tortie ARGS --lab NAME`.
    pub fn run(&self, args: &[&str]) -> String {
        let mut args = args.to_vec();
        let place = args.iter().position(|arg| *arg == "--").unwrap_or(args.len());
        args.splice(place..place, ["--lab", &self.name]);
        run(&args)
    }

    /// Runs a command that prints JSON.
    ///
    /// # Panics
    /// When it does not.
    pub fn json(&self, args: &[&str]) -> Value {
        let mut args = args.to_vec();
        args.extend(["-o", "json"]);
        let text = self.run(&args);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{args:?} printed no JSON: {error}\n{text}"))
    }

    /// `lab probe` with the given flags: the verdict of each pair.
    pub fn probe(&self, flags: &[&str]) -> BTreeMap<Pair, String> {
        let mut args = vec!["lab", "probe"];
        args.extend(flags);
        rows(&self.json(&args))
    }

    /// The network namespace of a node (`NAME`) or a pod (`NS/NAME`), from `lab ps`.
    ///
    /// # Panics
    /// When there is none of that name.
    pub fn netns(&self, who: &str) -> String {
        let ps = self.json(&["lab", "ps"]);
        let found = match who.split_once('/') {
            Some((namespace, name)) => {
                array(&ps["pods"]).into_iter().find(|pod| pod["namespace"] == namespace && pod["name"] == name)
            }
            None => array(&ps["nodes"]).into_iter().find(|node| node["name"] == who),
        };
        found
            .and_then(|found| found["netns"].as_str().map(str::to_owned))
            .unwrap_or_else(|| panic!("{who} is not in {ps:#}"))
    }

    /// Starts `lab exec WHO -- ARGS` and leaves it running.
    ///
    /// # Panics
    /// When it does not start.
    pub fn spawn(&self, who: &str, args: &[&str]) -> Child {
        let mut command = Command::new(tortie());
        command.args(["lab", "exec", "--lab", &self.name, who, "--"]).args(args);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().expect("tortie lab exec starts")
    }

    /// A directory or file of the lab.
    pub fn path(&self, name: &str) -> PathBuf {
        Path::new("/run/tortie-lab").join(&self.name).join(name)
    }

    /// A file in the lab's own scratch folder.
    pub fn scratch(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let logs = Path::new("/run/tortie-lab").join(&self.name);
            for file in walk(&logs).into_iter().filter(|file| file.extension().is_some_and(|end| end == "log")) {
                let text = std::fs::read_to_string(&file).unwrap_or_default();
                let tail: Vec<&str> = text.lines().rev().take(15).collect();
                eprintln!("--- {}", file.display());
                tail.iter().rev().for_each(|line| eprintln!("{line}"));
            }
        }
        // A panic in here would end the process where a test fails already, and the other tests with it.
        let down = place().map(|tortie| Command::new(tortie).args(["lab", "down", "--lab", &self.name]).output());
        if !matches!(&down, Some(Ok(output)) if output.status.success()) {
            let said = match down {
                Some(Ok(output)) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
                Some(Err(error)) => error.to_string(),
                None => "nobody knows where tortie is".to_owned(),
            };
            eprintln!("lab {} may be up still: {said}: run `tortie lab down --lab {}`", self.name, self.name);
        }
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn walk(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() { files.extend(walk(&path)) } else { files.push(path) }
    }
    files
}

/// The items of a JSON list; none for anything else.
pub fn array(value: &Value) -> Vec<Value> {
    value.as_array().cloned().unwrap_or_default()
}

/// The rows of `lab probe` or `policy matrix` as a map.
///
/// # Panics
/// When a row lacks a field.
pub fn rows(value: &Value) -> BTreeMap<Pair, String> {
    let text = |value: &Value| value.as_str().unwrap_or_else(|| panic!("a row without text: {value}")).to_owned();
    array(value)
        .iter()
        .map(|row| {
            let port = u16::try_from(row["port"].as_u64().expect("a port")).expect("a port of 16 bits");
            let mut verdict = text(&row["verdict"]);
            if verdict == "error" {
                verdict = format!("error: {}", row["reason"]);
            }
            ((text(&row["from"]), text(&row["to"]), text(&row["protocol"]), port), verdict)
        })
        .collect()
}
