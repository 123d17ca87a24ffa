//! Tables as another version might leave them, made of our own by nft.

use tortie_tests::kernel::{nft_script, objects, run, try_run};

/// A table's difference from ours: a title and commands, in which `T` is the table.
pub(crate) struct Version {
    pub(crate) title: &'static str,
    commands: &'static [&'static str],
    /// What not every kernel can do.
    optional: &'static [&'static str],
}

/// What newer versions may have added. All of their names begin with `v2`.
pub(crate) const VERSIONS: &[Version] = &[
    Version {
        title: "chains that nobody knows, and jumps into them",
        commands: &[
            "add chain T v2_leaf",
            "add chain T v2_rules { comment \"newer\"; }",
            "add rule T v2_rules ip daddr 10.0.0.0/8 tcp dport { 22, 80-90 } counter comment \"newer\"",
            "add rule T v2_rules tcp dport vmap { 1 : jump v2_leaf, 2 : return }",
            "add rule T v2_rules meta l4proto 200 jump { counter; }",
            "insert rule T egress jump v2_rules",
            "insert rule T egress tcp dport 9 jump { counter; return; }",
            "add rule T ok_egress counter comment \"v2\"",
        ],
        optional: &["add chain T v2_ingress { type filter hook ingress device lo priority 0; policy accept; }"],
    },
    Version {
        title: "base chains of every kind",
        commands: &[
            "add chain T v2_out { type filter hook output priority 10; policy accept; }",
            "add chain T v2_route { type route hook output priority -5; policy accept; }",
            "add chain T v2_nat { type nat hook postrouting priority 105; policy accept; }",
            "add chain T v2_forward { type filter hook forward priority 5; policy accept; }",
            "add rule T v2_nat ip daddr 198.51.100.0/24 masquerade",
            "add rule T v2_forward ct state new counter",
        ],
        optional: &["add rule T v2_nat ip daddr 203.0.113.0/24 snat to 192.0.2.7"],
    },
    Version {
        title: "named objects, and rules that use them",
        commands: &[
            "add chain T v2_rules",
            "add counter T v2_counter",
            "add quota T v2_quota { over 1000 mbytes; }",
            "add limit T v2_limit { rate 1000/second; }",
            "add map T v2_objects { type ipv4_addr : counter; }",
            "add element T v2_objects { 10.0.0.1 : \"v2_counter\" }",
            "add rule T v2_rules counter name \"v2_counter\"",
            "add rule T v2_rules quota name \"v2_quota\" counter",
            "add rule T v2_rules limit name \"v2_limit\" counter",
            "add rule T v2_rules counter name ip saddr map @v2_objects",
            "insert rule T egress jump v2_rules",
        ],
        optional: &[
            "add ct timeout T v2_timeout { protocol tcp; policy = { established : 100 }; l3proto ip; }",
            "add ct helper T v2_ftp { type \"ftp\" protocol tcp; }",
            "add synproxy T v2_synproxy { mss 1460; wscale 7; }",
        ],
    },
    Version {
        title: "sets and maps of other kinds",
        commands: &[
            "add chain T v2_rules",
            "add set T v2_dynamic { type ipv4_addr; flags dynamic,timeout; timeout 1h; size 1000; }",
            "add set T v2_boxes { type ipv4_addr . inet_service; flags interval; }",
            "add element T v2_boxes { 10.0.0.0/8 . 80-90, 192.0.2.1 . 1 }",
            "add map T v2_marks { type ipv4_addr : mark; }",
            "add element T v2_marks { 10.0.0.1 : 7 }",
            "add map T v2_verdicts { type inet_service : verdict; flags interval; }",
            "add element T v2_verdicts { 1-9 : continue, 10 : return }",
            "add set T v2_types { type ether_addr . mark; }",
            "add rule T v2_rules update @v2_dynamic { ip saddr }",
            "add rule T v2_rules ip saddr . tcp dport @v2_boxes counter",
            "add rule T v2_rules meta mark set ip saddr map @v2_marks",
            "add rule T v2_rules tcp dport vmap @v2_verdicts",
            "insert rule T ingress jump v2_rules",
        ],
        optional: &[
            "add map T v2_rest { type ipv4_addr : verdict; elements = { * : continue }; }",
            "add set T v2_counted { type ipv4_addr; counter; elements = { 10.0.0.1 }; }",
        ],
    },
    Version {
        title: "expressions and statements outside of our vocabulary",
        commands: &[
            "insert rule T egress fib saddr type local counter comment \"v2\"",
            "insert rule T egress ct packets > 1000000 counter comment \"v2\"",
            "insert rule T ingress meta priority set 1:1 comment \"v2\"",
            "insert rule T ingress numgen inc mod 4 == 3 counter comment \"v2\"",
            "insert rule T guard meta mark set meta mark or 0x0 comment \"v2\"",
            "insert rule T guard tcp flags & (fin | syn) == fin | syn counter comment \"v2\"",
            "add rule T ok_egress ct mark set ct mark or 0x8 comment \"v2\"",
        ],
        optional: &[
            "insert rule T egress limit rate 5/second log prefix \"v2\" level debug",
            "insert rule T ingress ct count over 100000 counter comment \"v2\"",
            "insert rule T guard ip option lsrr exists counter comment \"v2\"",
            "insert rule T guard socket transparent 1 counter comment \"v2\"",
        ],
    },
];

impl Version {
    /// Makes the table, which nobody owns at present, what this version would leave.
    pub(crate) fn leave(&self, netns: &str) {
        let script: Vec<String> = self.commands.iter().map(|command| of_table(command)).collect();
        nft_script(netns, &(script.join("\n") + "\n"));
        for command in self.optional {
            if let Err(error) = try_run(netns, "nft", &[&of_table(command)]) {
                println!("not on this kernel: {command}: {}", error.lines().next().unwrap_or_default());
            }
        }
        // And in every chain of ours something that a newer version counts.
        let mut counters = String::new();
        for chain in objects(netns).keys().filter_map(|name| name.strip_prefix("chain ")) {
            if !chain.starts_with("v2") {
                counters.push_str(&of_table(&format!("insert rule T {chain} meta cgroup 77 counter comment \"v2\"\n")));
            }
        }
        nft_script(netns, &counters);
    }
}

fn of_table(command: &str) -> String {
    command.replacen(" T ", " inet tortie ", 1)
}

/// Replaces the table by one that does the same in other words: another mask of marks, other names for all that is not the frame's, and
/// denials by a statement that we do not know. It has no owner.
pub(crate) fn leave_in_other_words(netns: &str) {
    let listing = run(netns, "nft", &["list", "table", "inet", "tortie"]);
    let live = mark_in(&listing, "set live {");
    let pending = mark_in(&listing, "set pending {");
    let mut text: String = listing
        .lines()
        .filter(|line| !line.starts_with("\tflags"))
        .map(|line| line.split(" # progname").next().unwrap_or_default().to_owned() + "\n")
        .collect();
    for (mark, other) in [(live, "52"), (pending, "53")] {
        for (end, filling) in [("0000", "000000"), ("ffff", "ffffff")] {
            text = text.replace(&format!("0x{mark:04x}{end}"), &format!("0x{other}{filling}"));
        }
    }
    text = text.replace("0xffff0000", "0xff000000");
    text = text.replace(" drop", " log prefix \"v2\" level debug drop");
    for name in objects(netns)
        .keys()
        .filter_map(|name| name.split(' ').nth(1))
        .filter(|name| name.contains(['0', '1', '2', '3', '4', '5', '6', '7', '8', '9']) && name.len() > 8)
    {
        text = text.replace(name, &format!("v2_{}", &name[..name.len().min(20)]));
    }
    nft_script(netns, &format!("delete table inet tortie\n{text}"));
}

/// The upper half of the first mark after a line.
fn mark_in(listing: &str, heading: &str) -> u16 {
    let tail = listing.split(heading).nth(1).unwrap_or_else(|| panic!("no {heading} in {listing}"));
    let digits = tail.split("0x").nth(1).unwrap_or_else(|| panic!("no mark after {heading}"));
    u16::from_str_radix(&digits[..4], 16).expect("a mark")
}
