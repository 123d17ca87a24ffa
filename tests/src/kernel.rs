//! What is in a node's kernel, and what happens there: read by nft and ip, which know nothing of us.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tortie_nft_netlink::{NftEvent, NftMonitor};

use crate::agent::PATIENCE;
use crate::stream::inside;

/// Runs a program of the peers in a network namespace; what it printed if it succeeded, else what it complained of.
///
/// # Errors
/// When the program fails.
///
/// # Panics
/// When it cannot be started.
pub fn try_run(netns: &str, program: &str, args: &[&str]) -> Result<String, String> {
    let output = inside(netns, || Command::new(crate::peer(program)).args(args).output().expect("the peer runs"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

/// The same where it must succeed.
///
/// # Panics
/// When it does not.
pub fn run(netns: &str, program: &str, args: &[&str]) -> String {
    try_run(netns, program, args).unwrap_or_else(|error| panic!("{program} {args:?}: {error}"))
}

/// `nft -f` of a script.
///
/// # Panics
/// When nft refuses it.
pub fn nft_script(netns: &str, script: &str) {
    static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let number = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let file = std::env::temp_dir().join(format!("tortie-test-script-{}-{number}.nft", std::process::id()));
    std::fs::write(&file, script).expect("a script");
    let result = try_run(netns, "nft", &["-f", file.to_str().expect("a plain path")]);
    let _ = std::fs::remove_file(&file);
    if let Err(error) = result {
        panic!("nft -f: {error}\n{script}");
    }
}

/// A chain, set or other object of our table as `nft -a list` shows it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Object {
    /// Its lines without handles and without what counters have counted.
    pub text: Vec<String>,
    /// Its own handle and those of its rules.
    pub handles: Vec<u64>,
    /// What its counters have counted: packets, in order.
    pub packets: Vec<u64>,
}

/// The objects of our table by kind and name, such as `chain egress`. Empty if there is no table.
pub fn objects(netns: &str) -> BTreeMap<String, Object> {
    let listing = try_run(netns, "nft", &["-a", "list", "table", "inet", "tortie"]).unwrap_or_default();
    let mut objects: BTreeMap<String, Object> = BTreeMap::new();
    let mut name = None;
    // The first line is the table's own, and who owns it is not part of what it holds.
    for line in listing.lines().skip(1) {
        let depth = line.len() - line.trim_start_matches('\t').len();
        let (text, handle) = match line.rsplit_once(" # handle ") {
            Some((text, handle)) => (text.trim(), handle.trim().parse::<u64>().ok()),
            None => (line.trim(), None),
        };
        if depth == 1 && text.ends_with('{') {
            name = Some(text.trim_end_matches('{').trim().to_owned());
        }
        let Some(name) = &name else { continue };
        let object = objects.entry(name.clone()).or_default();
        object.handles.extend(handle);
        let (text, packets) = without_counter(text);
        object.packets.extend(packets);
        object.text.push(text);
    }
    objects
}

/// A line without `packets N bytes N`, and what was counted.
fn without_counter(line: &str) -> (String, Option<u64>) {
    let Some((head, tail)) = line.split_once("packets ") else { return (line.to_owned(), None) };
    let mut words = tail.split(' ');
    let packets = words.next().and_then(|word| word.parse().ok());
    (format!("{head}{}", words.skip(2).collect::<Vec<_>>().join(" ")), packets)
}

/// What lines only one of two texts has. Comments do not count.
pub fn difference(one: &str, text: &str, other: &str, second: &str) -> Option<String> {
    let lines = |text: &str| -> Vec<String> {
        text.lines()
            .map(|line| line.trim().to_owned())
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
            .collect()
    };
    let (text, second) = (lines(text), lines(second));
    if text == second {
        return None;
    }
    let only = |these: &[String], those: &[String]| {
        let lines: Vec<&str> = these.iter().filter(|line| !those.contains(line)).map(String::as_str).collect();
        lines.join("\n      ")
    };
    Some(format!(
        "{one} and {other} differ.\n    Only {one}:\n      {}\n    Only {other}:\n      {}",
        only(&text, &second),
        only(&second, &text)
    ))
}

/// A ruleset's text without the generation's marks, which are its only numbers of eight hex digits.
pub fn without_marks(text: &str) -> String {
    let mut parts = text.split("0x");
    let mut result = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let digits = part.chars().take_while(char::is_ascii_hexdigit).count();
        result.push_str("0x");
        result.push_str(if digits == 8 { "MARK" } else { &part[..digits] });
        result.push_str(&part[digits..]);
    }
    result
}

/// Our routes in a namespace, as `ip route` shows them, with the flag of their family.
pub fn our_routes(netns: &str) -> Vec<(&'static str, String)> {
    let mut routes = Vec::new();
    for family in ["-4", "-6"] {
        let text = run(netns, "ip", &[family, "route", "show", "proto", "80"]);
        routes.extend(text.lines().map(|line| (family, line.trim().to_owned())));
    }
    routes
}

/// Counts who writes our table. Unlike `nft monitor` it reads no table that it does not understand.
pub struct Commits(NftMonitor);

impl Commits {
    /// Begins to count.
    ///
    /// # Panics
    /// When the kernel cannot be listened to.
    pub fn open(netns: &str) -> Self {
        Self(inside(netns, || NftMonitor::open().expect("nf_tables can be listened to")))
    }

    /// How often somebody else than nft has changed our table.
    ///
    /// # Panics
    /// When the kernel said more than could be heard.
    pub fn close(mut self) -> usize {
        let mut count = 0;
        while let Some(event) = self.0.try_next().expect("events of nf_tables") {
            match event {
                NftEvent::Commit { process, touched, .. } => {
                    let by_nft = process.is_some_and(|(_, name)| name == "nft" || name == "nft.real");
                    count += usize::from(touched && !by_nft);
                }
                NftEvent::Overrun => panic!("events of nf_tables were lost"),
            }
        }
        count
    }
}

/// A program that prints what happens in a namespace, and what it has heard.
pub struct Ear {
    child: Child,
    file: PathBuf,
    netns: String,
    program: &'static str,
    heard_before: usize,
}

impl Ear {
    /// Starts `nft monitor`, or `ip monitor` of links, addresses, routes and rules, and waits until it hears.
    ///
    /// # Panics
    /// When it stays deaf.
    pub fn open(netns: &str, program: &'static str) -> Self {
        static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let file = std::env::temp_dir().join(format!("tortie-test-ear-{}-{number}", std::process::id()));
        let output = File::create(&file).expect("a file");
        let args: &[&str] =
            if program == "nft" { &["monitor"] } else { &["monitor", "link", "address", "route", "rule"] };
        let child = inside(netns, || {
            Command::new(crate::peer(program))
                .args(args)
                .stdout(output)
                .stderr(Stdio::null())
                .spawn()
                .expect("it starts")
        });
        let mut ear = Self { child, file, netns: netns.to_owned(), program, heard_before: 0 };
        ear.heard_before = ear.sound();
        ear
    }

    /// Does something that the program prints until it has, and returns how much it had heard by then.
    fn sound(&self) -> usize {
        let deadline = Instant::now() + PATIENCE;
        let before = self.text().matches(self.sign()).count();
        loop {
            for verb in ["add", "delete"] {
                match self.program {
                    "nft" => run(&self.netns, "nft", &[verb, "table", "ip", self.sign()]),
                    _ => run(&self.netns, "ip", &["route", verb, "blackhole", self.sign(), "proto", "99"]),
                };
            }
            let until = Instant::now() + Duration::from_millis(300);
            while Instant::now() < until {
                // Both halves of at least one sound, and no line half written.
                let text = self.text();
                if text.matches(self.sign()).count() >= before + 2 && text.ends_with('\n') {
                    return text.len();
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            assert!(Instant::now() < deadline, "{} monitor hears nothing", self.program);
        }
    }

    /// A table's name to nft, an address to ip.
    fn sign(&self) -> &'static str {
        if self.program == "nft" { "tortie_test_sound" } else { "192.0.2.199" }
    }

    fn text(&self) -> String {
        std::fs::read_to_string(&self.file).unwrap_or_default()
    }

    /// Ends, and returns the lines that it has heard; of nft's without those that only say that nft has committed something.
    pub fn close(self) -> Vec<String> {
        let end = self.sound();
        let text = self.text();
        let lines = text.get(self.heard_before..end).unwrap_or_default().lines();
        lines.filter(|line| !line.contains(self.sign()) && !line.ends_with("(nft)")).map(str::to_owned).collect()
    }
}

impl Drop for Ear {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_file(&self.file);
    }
}
