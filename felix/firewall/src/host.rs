//! Who would drop forwarded packets of pods, and what is done about it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::{Duration, Instant};

use tortie_nft_netlink::foreign::{self, Accept, Chain, Condition, Deletion, FORWARD, Foreign, Table};
use tracing::debug;

use crate::firewalld;
use crate::legacy::{self, Family};
use crate::tools::Backend;
use crate::walk::{Direction, Outcome, walk};

/// How the comment of each of our rules in a firewall of the host's begins.
pub const MARK: &str = "Tortie:";

/// The comment of our rules in iptables.
const COMMENT: &str = "Tortie: pods are judged in table inet tortie";

/// The table and the chain of iptables that forwarded packets pass.
const FILTER: &str = "filter";
const CHAIN: &str = "FORWARD";

/// What could not be opened is not tried again for so long, however often it is looked at: the attempt itself may be why it is.
const TRY_AGAIN: Duration = Duration::from_secs(30);

/// The same for firewalld, whose program takes seconds.
const TELL_AGAIN: Duration = Duration::from_secs(600);

/// Where packets are dropped.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// The chain FORWARD of iptables.
    Iptables(Backend, Family),
    /// The table of firewalld.
    Firewalld,
    /// A table that somebody else wrote.
    Table {
        /// The table, as nft names it: `inet filter`.
        table: String,
        /// Its chain.
        chain: String,
    },
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Iptables(backend, family) => write!(f, "{} {CHAIN}", backend.program(*family)),
            Self::Firewalld => f.write_str("firewalld"),
            Self::Table { table, chain } => write!(f, "table {table} chain {chain}"),
        }
    }
}

/// Somebody who would drop packets of pods.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Obstacle {
    /// Where.
    pub place: Place,
    /// Which packets, and where in the chain.
    pub drops: Vec<(Direction, Option<usize>)>,
    /// What does it: `policy DROP`, `rule 7`.
    pub by: String,
}

impl Obstacle {
    /// Whether there is anything to open.
    fn is_closed(&self) -> bool {
        !self.drops.is_empty()
    }
}

/// What came of a look at the host's firewalls.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// What was opened for the first time, a sentence each.
    pub opened: Vec<String>,
    /// What had been opened, was closed again by somebody, and is open again.
    pub reopened: Vec<Reopened>,
    /// What stays closed, a sentence each with the remedy.
    pub problems: Vec<String>,
}

/// A place that somebody closed, and that is open again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reopened {
    /// The place.
    pub object: String,
    /// What was found there.
    pub found: String,
    /// Whether it is in nf_tables, of whose changes the kernel tells the author.
    pub in_nf_tables: bool,
}

/// How much is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Legacy iptables only, of whose changes nobody is told.
    Legacy,
    /// Everything.
    All,
}

/// Looks after the host's firewalls of one network namespace: that of the thread that calls it.
#[derive(Debug)]
pub struct HostFirewall {
    /// How the names of pods' interfaces begin.
    prefix: String,
    /// What was opened by this process, or found open by an earlier one.
    opened: BTreeSet<Place>,
    problems: BTreeMap<Place, String>,
    /// Why something could not even be read.
    unread: BTreeMap<&'static str, String>,
    /// When something could not be opened.
    failed: BTreeMap<Place, Instant>,
}

impl HostFirewall {
    /// For pods whose interfaces' names begin with `prefix`.
    pub fn new(prefix: &str) -> Self {
        Self {
            prefix: prefix.to_owned(),
            opened: BTreeSet::new(),
            problems: BTreeMap::new(),
            unread: BTreeMap::new(),
            failed: BTreeMap::new(),
        }
    }

    /// Who would drop packets of pods now. Changes nothing.
    ///
    /// # Errors
    /// What could not be read, a sentence each.
    pub fn inspect(&mut self) -> Result<Vec<Obstacle>, Vec<String>> {
        let mut obstacles = Vec::new();
        let mut errors = Vec::new();
        for family in Family::ALL {
            match self.look_at_legacy(family) {
                Ok(found) => obstacles.extend(found.map(|(obstacle, _)| obstacle).filter(Obstacle::is_closed)),
                Err(error) => errors.push(error),
            }
        }
        match self.look_at_nft() {
            Ok(found) => obstacles.extend(found.into_iter().map(|found| found.obstacle).filter(Obstacle::is_closed)),
            Err(error) => errors.push(error),
        }
        if errors.is_empty() { Ok(obstacles) } else { Err(errors) }
    }

    /// Looks, opens what it can, and says what came of it. Where nothing would drop pods' packets nothing is written.
    pub fn ensure(&mut self, scope: Scope) -> Report {
        let mut report = Report::default();
        for family in Family::ALL {
            self.ensure_legacy(family, &mut report);
        }
        if scope == Scope::All {
            self.ensure_nft(&mut report);
        }
        report.problems = self.unread.values().chain(self.problems.values()).cloned().collect();
        report
    }

    fn look_at_legacy(&self, family: Family) -> Result<Option<(Obstacle, Chain)>, String> {
        let program = Backend::Legacy.program(family);
        let chains =
            legacy::read(family, FILTER).map_err(|error| format!("the rules of {program} cannot be read: {error}"))?;
        let Some(chains) = chains else { return Ok(None) };
        let Some(base) = chains.iter().find(|chain| chain.hook.is_some()) else { return Ok(None) };
        let obstacle = self.obstacle(Place::Iptables(Backend::Legacy, family), &chains, base);
        Ok(Some((obstacle, base.clone())))
    }

    fn ensure_legacy(&mut self, family: Family, report: &mut Report) {
        let place = Place::Iptables(Backend::Legacy, family);
        let program = Backend::Legacy.program(family);
        let unread = self.look_at_legacy(family).map(|found| {
            let Some((obstacle, base)) = found else {
                self.problems.remove(&place);
                return;
            };
            if !obstacle.is_closed() {
                self.is_open(&place, &base);
                return;
            }
            let Some(tool) = Backend::Legacy.tool(family) else {
                self.problems.insert(place.clone(), no_program(&obstacle, Backend::Legacy, family, &self.prefix));
                return;
            };
            if self.failed_lately(&place) {
                return;
            }
            let open = || -> Result<(), String> {
                let mut drops = obstacle.drops.clone();
                if base.rules.iter().any(is_ours) {
                    // They stand behind what drops.
                    for rule in Direction::ALL.map(|direction| specification(&self.prefix, direction)) {
                        tool.delete_all(FILTER, CHAIN, &rule).map_err(|error| error.to_string())?;
                    }
                    drops = self.look_at_legacy(family)?.map(|(obstacle, _)| obstacle.drops).unwrap_or_default();
                }
                write_by_tool(&tool, &self.prefix, &drops)?;
                match self.look_at_legacy(family)? {
                    Some((obstacle, _)) if obstacle.is_closed() => Err(format!("{} still does", obstacle.by)),
                    _ => Ok(()),
                }
            };
            let result = open();
            self.came_of_it(&obstacle, result, &by_hand(&obstacle, program, &self.prefix), report);
        });
        match unread {
            Ok(()) => self.unread.remove(program),
            Err(error) => self.unread.insert(program, error),
        };
    }

    fn look_at_nft(&self) -> Result<Vec<Found>, String> {
        let mut foreign = Foreign::open().map_err(|error| error.to_string())?;
        let tables = foreign.tables(|table| !is_own(table) && table.chains.iter().any(forwards));
        let tables = tables.map_err(|error| format!("the tables of others cannot be read: {error}"))?;
        let mut found = Vec::new();
        for table in tables.into_iter().filter(|table| !is_own(table)) {
            for base in table.chains.iter().filter(|chain| forwards(chain)) {
                let obstacle = self.obstacle(place(&table, base), &table.chains, base);
                found.push(Found { obstacle, base: base.clone(), family: table.family, table: table.name.clone() });
            }
        }
        Ok(found)
    }

    fn ensure_nft(&mut self, report: &mut Report) {
        const NFT: &str = "nf_tables";
        let found = match self.look_at_nft() {
            Ok(found) => found,
            Err(error) => {
                self.unread.insert(NFT, error);
                return;
            }
        };
        self.unread.remove(NFT);
        let (closed, open): (Vec<Found>, Vec<Found>) = found.into_iter().partition(|found| found.obstacle.is_closed());
        self.problems
            .retain(|place, _| !in_nf_tables(place) || closed.iter().any(|found| found.obstacle.place == *place));
        for found in open {
            self.is_open(&found.obstacle.place, &found.base);
        }
        for found in closed {
            if self.failed_lately(&found.obstacle.place) {
                continue;
            }
            match found.obstacle.place.clone() {
                Place::Iptables(_, family) => {
                    let result = self.open_nft(&found, family);
                    let by_hand = by_hand(&found.obstacle, Backend::Nft.program(family), &self.prefix);
                    self.came_of_it(&found.obstacle, result, &by_hand, report);
                }
                Place::Firewalld => self.tell_firewalld(&found.obstacle, report),
                place @ Place::Table { .. } => {
                    let problem = foreign_table(&found.obstacle, &self.prefix);
                    self.problems.insert(place, problem);
                }
            }
        }
    }

    /// Puts our rules into the chain FORWARD of iptables-nft: by that program if there is one, else by ourselves, as it would.
    fn open_nft(&self, found: &Found, family: Family) -> Result<(), String> {
        let mut foreign = Foreign::open().map_err(|error| error.to_string())?;
        let mut found = found.clone();
        let ours: Vec<Deletion> = found
            .base
            .rules
            .iter()
            .filter(|rule| is_ours(rule))
            .map(|rule| Deletion::Rule {
                family: found.family,
                table: found.table.clone(),
                chain: found.base.name.clone(),
                handle: rule.handle,
            })
            .collect();
        if !ours.is_empty() {
            // They stand behind what drops.
            foreign.delete(&ours).map_err(|error| error.to_string())?;
            match self.again(&found)? {
                Some(now) => found = now,
                None => return Ok(()),
            }
        }
        let by_tool = Backend::Nft.tool(family).map(|tool| write_by_tool(&tool, &self.prefix, &found.obstacle.drops));
        if !matches!(by_tool, Some(Ok(()))) {
            if let Some(Err(error)) = by_tool {
                debug!(%error, "the rule is written without iptables");
                if let Some(now) = self.again(&found)? {
                    found = now;
                }
            }
            for (direction, rule) in in_writing_order(&found.obstacle.drops) {
                let accept = Accept {
                    family: found.family,
                    table: &found.table,
                    chain: &found.base.name,
                    before: rule.and_then(|rule| found.base.rules.get(rule)).map(|rule| rule.handle),
                    prefix: &self.prefix,
                    out: direction == Direction::ToPods,
                    comment: COMMENT,
                };
                foreign.accept(&accept).map_err(|error| error.to_string())?;
            }
        }
        match self.again(&found)? {
            None => Ok(()),
            Some(now) => Err(format!("{} still does", now.obstacle.by)),
        }
    }

    /// The same obstacle as it is now.
    fn again(&self, found: &Found) -> Result<Option<Found>, String> {
        let is_same = |now: &Found| now.obstacle.is_closed() && now.obstacle.place == found.obstacle.place;
        Ok(self.look_at_nft()?.into_iter().find(is_same))
    }

    fn tell_firewalld(&mut self, obstacle: &Obstacle, report: &mut Report) {
        let by_hand = firewalld::by_hand(&self.prefix);
        let result = firewalld::tell(&self.prefix).map_err(|error| error.to_string()).and_then(|()| {
            let is_closed = |found: &Found| found.obstacle.is_closed() && found.obstacle.place == Place::Firewalld;
            let still = self.look_at_nft()?.into_iter().find(is_closed);
            still.map_or(Ok(()), |found| Err(format!("although it was told of them, {} does", found.obstacle.by)))
        });
        self.came_of_it(obstacle, result, &by_hand, report);
    }

    fn obstacle(&self, place: Place, chains: &[Chain], base: &Chain) -> Obstacle {
        let outcome = |direction| match walk(chains, base, &self.prefix, direction) {
            Outcome::Passes => None,
            Outcome::Dropped { rule } => Some((direction, rule)),
        };
        let drops: Vec<_> = Direction::ALL.into_iter().filter_map(outcome).collect();
        let by = match drops.iter().filter_map(|(_, rule)| *rule).min() {
            Some(rule) => format!("its rule {}", rule + 1),
            None => "its policy".to_owned(),
        };
        Obstacle { place, drops, by }
    }

    /// Takes in that a chain lets packets of pods through. If by rules of ours, whoever removes them will be noticed.
    fn is_open(&mut self, place: &Place, base: &Chain) {
        self.problems.remove(place);
        self.failed.remove(place);
        if base.rules.iter().any(is_ours) {
            self.opened.insert(place.clone());
        }
    }

    fn failed_lately(&self, place: &Place) -> bool {
        let pause = if *place == Place::Firewalld { TELL_AGAIN } else { TRY_AGAIN };
        self.failed.get(place).is_some_and(|failed| failed.elapsed() < pause)
    }

    fn came_of_it(&mut self, obstacle: &Obstacle, result: Result<(), String>, by_hand: &str, report: &mut Report) {
        let place = &obstacle.place;
        match result {
            Ok(()) => {
                self.problems.remove(place);
                self.failed.remove(place);
                if self.opened.insert(place.clone()) {
                    report
                        .opened
                        .push(format!("{} would drop packets of pods; it lets them through now", describe(obstacle)));
                } else {
                    report.reopened.push(Reopened {
                        object: place.to_string(),
                        found: format!("{} dropped packets of pods", obstacle.by),
                        in_nf_tables: in_nf_tables(place),
                    });
                }
            }
            Err(reason) => {
                let problem = format!(
                    "{} drops packets of pods, and could not be opened: {reason}; {by_hand}",
                    describe(obstacle)
                );
                self.problems.insert(place.clone(), problem);
                self.failed.insert(place.clone(), Instant::now());
            }
        }
    }
}

/// An obstacle in nf_tables, and what it takes to write there.
#[derive(Debug, Clone)]
struct Found {
    obstacle: Obstacle,
    base: Chain,
    family: foreign::Family,
    table: String,
}

fn is_own(table: &Table) -> bool {
    table.family == foreign::Family::Inet && table.name == "tortie"
}

fn forwards(chain: &Chain) -> bool {
    chain.hook.as_ref().is_some_and(|hook| hook.number == FORWARD && hook.kind == "filter")
}

fn is_ours(rule: &foreign::Rule) -> bool {
    rule.comment.as_deref().is_some_and(|comment| comment.starts_with(MARK))
}

fn in_nf_tables(place: &Place) -> bool {
    !matches!(place, Place::Iptables(Backend::Legacy, _))
}

/// Whose chain it is. Chains of bridges and the like forward no packets of pods' own.
fn place(table: &Table, base: &Chain) -> Place {
    let family = match table.family {
        foreign::Family::Ip => Some(Family::V4),
        foreign::Family::Ip6 => Some(Family::V6),
        _ => None,
    };
    match family {
        Some(family) if table.name == FILTER && base.name == CHAIN => Place::Iptables(Backend::Nft, family),
        _ if table.name == "firewalld" => Place::Firewalld,
        _ => Place::Table { table: format!("{} {}", table.family, table.name), chain: base.name.clone() },
    }
}

/// A rule as iptables takes it.
fn specification(prefix: &str, direction: Direction) -> String {
    let way = if direction == Direction::FromPods { "-i" } else { "-o" };
    format!("{way} {prefix}+ -m comment --comment \"{COMMENT}\" -j ACCEPT")
}

/// The last place first, so that what is written does not move what is still to be written.
fn in_writing_order(drops: &[(Direction, Option<usize>)]) -> Vec<(Direction, Option<usize>)> {
    let mut drops = drops.to_vec();
    drops.sort_by_key(|(direction, rule)| std::cmp::Reverse((rule.unwrap_or(usize::MAX), *direction)));
    // At the chain's end what is written first comes first.
    let end = drops.iter().take_while(|(_, rule)| rule.is_none()).count();
    drops[..end].reverse();
    drops
}

fn write_by_tool(tool: &iptables::IPTables, prefix: &str, drops: &[(Direction, Option<usize>)]) -> Result<(), String> {
    for (direction, rule) in in_writing_order(drops) {
        let specification = specification(prefix, direction);
        let written = match rule.map(|rule| i32::try_from(rule + 1)) {
            Some(Ok(position)) => tool.insert(FILTER, CHAIN, &specification, position),
            _ => tool.append(FILTER, CHAIN, &specification),
        };
        written.map_err(|error| error.to_string().trim().to_owned())?;
    }
    Ok(())
}

fn describe(obstacle: &Obstacle) -> String {
    match &obstacle.place {
        Place::Iptables(backend, family) => {
            format!("chain {CHAIN} of {} ({})", backend.program(*family), obstacle.by)
        }
        Place::Firewalld => format!("firewalld (table firewalld, {})", obstacle.by),
        Place::Table { table, chain } => format!("table {table}, chain {chain} ({})", obstacle.by),
    }
}

/// The commands that open iptables, for a person.
fn by_hand(obstacle: &Obstacle, program: &str, prefix: &str) -> String {
    let commands: Vec<String> = in_writing_order(&obstacle.drops)
        .into_iter()
        .map(|(direction, rule)| {
            let place = rule.map_or_else(|| format!("-A {CHAIN}"), |rule| format!("-I {CHAIN} {}", rule + 1));
            format!("{program} {place} {}", specification(prefix, direction))
        })
        .collect();
    format!("run: {}", commands.join("; "))
}

fn no_program(obstacle: &Obstacle, backend: Backend, family: Family, prefix: &str) -> String {
    let program = backend.program(family);
    format!(
        "{} drops packets of pods, and no {program} is found to let them through: install the package iptables beside the agent, or {}",
        describe(obstacle),
        by_hand(obstacle, program, prefix)
    )
}

fn foreign_table(obstacle: &Obstacle, prefix: &str) -> String {
    let Place::Table { table, chain } = &obstacle.place else { return describe(obstacle) };
    let commands: Vec<String> = obstacle
        .drops
        .iter()
        .map(|(direction, _)| {
            let way = if *direction == Direction::FromPods { "iifname" } else { "oifname" };
            format!("nft insert rule {table} {chain} {way} \"{prefix}*\" accept")
        })
        .collect();
    format!(
        "{} drops packets of pods, which no other table can prevent: let them through where that table comes from, and until then run: {}",
        describe(obstacle),
        commands.join("; ")
    )
}

/// Takes our rules out of iptables, by both backends. What was done, a sentence each.
///
/// # Errors
/// What could not be removed, with the reason.
pub fn remove_rules() -> Result<Vec<String>, Vec<String>> {
    let (mut done, mut errors) = (Vec::new(), Vec::new());
    for rule in our_rules() {
        let result = match &rule.place {
            OurPlace::Nft(deletion) => Foreign::open()
                .and_then(|mut foreign| foreign.delete(std::slice::from_ref(deletion)))
                .map_err(|error| error.to_string()),
            OurPlace::Legacy(family, prefixes) => remove_legacy(*family, prefixes),
        };
        match result {
            Ok(()) => done.push(rule.text),
            Err(error) => errors.push(format!("{}: {error}", rule.text)),
        }
    }
    if errors.is_empty() { Ok(done) } else { Err(errors) }
}

fn remove_legacy(family: Family, prefixes: &BTreeSet<String>) -> Result<(), String> {
    let program = Backend::Legacy.program(family);
    let specifications =
        || prefixes.iter().flat_map(|prefix| Direction::ALL.map(|direction| specification(prefix, direction)));
    let tool = Backend::Legacy.tool(family).ok_or_else(|| {
        let commands: Vec<String> = specifications().map(|rule| format!("{program} -D {CHAIN} {rule}")).collect();
        format!("there is no {program} here: run {}", commands.join("; "))
    })?;
    for specification in specifications() {
        tool.delete_all(FILTER, CHAIN, &specification).map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// The prefixes of interfaces that rules are for.
fn prefixes<'a>(rules: impl Iterator<Item = &'a foreign::Rule>) -> BTreeSet<String> {
    let conditions = rules.flat_map(|rule| &rule.conditions);
    let names = conditions.filter_map(|condition| match condition {
        Condition::In(interface) | Condition::Out(interface) if interface.prefix => Some(interface.name.clone()),
        _ => None,
    });
    names.collect()
}

/// A rule of ours in iptables.
#[derive(Debug)]
pub struct OurRule {
    /// What it is, for people.
    pub text: String,
    place: OurPlace,
}

#[derive(Debug)]
enum OurPlace {
    Nft(Deletion),
    /// With the prefixes of the interfaces that they are for.
    Legacy(Family, BTreeSet<String>),
}

/// Our rules in iptables, of both backends.
pub fn our_rules() -> Vec<OurRule> {
    let mut rules = Vec::new();
    for family in Family::ALL {
        let chains = legacy::read(family, FILTER).ok().flatten().unwrap_or_default();
        let prefixes = prefixes(chains.iter().flat_map(|chain| &chain.rules).filter(|rule| is_ours(rule)));
        if !prefixes.is_empty() {
            let text = format!("our rules in chain {CHAIN} of {}", Backend::Legacy.program(family));
            rules.push(OurRule { text, place: OurPlace::Legacy(family, prefixes) });
        }
    }
    let is_filter = |table: &Table| table.name == FILTER && table.chains.iter().any(|chain| chain.name == CHAIN);
    let tables = Foreign::open().and_then(|mut foreign| foreign.tables(is_filter)).unwrap_or_default();
    for table in tables {
        for chain in &table.chains {
            for rule in chain.rules.iter().filter(|rule| is_ours(rule)) {
                let text = format!("our rule in table {} {}, chain {}", table.family, table.name, chain.name);
                let deletion = Deletion::Rule {
                    family: table.family,
                    table: table.name.clone(),
                    chain: chain.name.clone(),
                    handle: rule.handle,
                };
                rules.push(OurRule { text, place: OurPlace::Nft(deletion) });
            }
        }
    }
    rules
}
