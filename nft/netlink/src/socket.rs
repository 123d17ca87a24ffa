//! The executor: one socket, one writer.
//!
//! Between transactions it remembers the generation of nf_tables that it last saw, and the shape of each set. Every commit, whosever,
//! moves the generation on, and a batch that names an old one is refused. If the table is ours alone that is no news, since nobody
//! else can have changed it: the batch is sent again. In a table that others may write, the caller must read again.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use tortie_nft::check::{self, Declared};
use tortie_nft::{Command, Executor, HookPoint, Reason, Refused, Ruleset, Statement, TABLE, Transaction};
use tracing::debug;

use crate::attributes::Messages;
use crate::consts::*;
use crate::counts::Counts;
use crate::encode::{self, Batch, Changes};
use crate::error::{Error, reason};
use crate::monitor;
use crate::readback::{self, Elements, PlacedRule, ReadBack, SetHeader};
use crate::rebuild;
use crate::transport::Transport;
use crate::wire::Writer;

/// How often something that others keep interrupting is tried.
const TRIES: usize = 32;

/// How long the kernel is given to rearrange a hash table before it is dumped again.
const SETTLE: Duration = Duration::from_millis(5);

/// The errno of a batch whose generation is not the present one. No header for programs names it.
const ERESTART: i32 = 85;

/// Kernels before this one cannot delete a chain in the batch that deletes a map element leading to it.
const CHAIN_DELETION_FIXED: (u32, u32) = (6, 2);

/// Whose the table is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ownership {
    /// Flags `owner` and `persist`: only this socket may change it, and it outlives the socket.
    Owned,
    /// The kernel is older than Linux 6.9: anyone with `CAP_NET_ADMIN` may change it.
    Plain,
}

/// The table in the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Table {
    Absent,
    /// It is there with these flags, not owned by this socket.
    Unclaimed(u32),
    /// It is there, and ours as far as it can be.
    Claimed,
}

/// Our table in the kernel: applies transactions and reads back, blocking.
#[derive(Debug)]
pub struct NftSocket {
    transport: Transport,
    seq: u32,
    ownership: Ownership,
    split_chain_deletions: bool,
    /// What is known of nf_tables, `None` if it must be asked first.
    known: Option<Known>,
    /// Whether somebody else's change was met, and not yet read.
    stale: bool,
    /// Named objects of our table that another version or a stranger left there, as last read: type and name.
    foreign_objects: Vec<(u32, String)>,
    /// What counters begin with that are made anew.
    counts: Counts,
}

/// How a table becomes ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Claim {
    /// It is.
    Done,
    /// It must be deleted and made again.
    ByRebuilding,
}

#[derive(Debug)]
struct Known {
    generation: u32,
    table: Table,
    sets: HashMap<String, Declared>,
}

impl NftSocket {
    /// Opens a socket in the calling thread's network namespace, and finds out what the kernel can do. Changes nothing.
    ///
    /// # Errors
    /// [`Error::Open`], or [`Error::Request`] if nf_tables may not be asked.
    pub fn open() -> Result<Self, Error> {
        let mut socket = Self {
            transport: Transport::open()?,
            seq: 1,
            ownership: Ownership::Plain,
            split_chain_deletions: needs_split(&kernel_release()),
            known: None,
            stale: false,
            foreign_objects: Vec::new(),
            counts: Counts::default(),
        };
        monitor::register(socket.transport.port()).map_err(Error::Open)?;
        socket.ownership = socket.probe_ownership()?;
        debug!(ownership = ?socket.ownership, split = socket.split_chain_deletions, "nf_tables opened");
        Ok(socket)
    }

    /// Whether the kernel protects the table from others.
    #[must_use]
    pub fn ownership(&self) -> Ownership {
        self.ownership
    }

    /// The socket's netlink address: the kernel knows the table's owner by it, and announces it with each commit.
    #[must_use]
    pub fn port(&self) -> u32 {
        self.transport.port()
    }

    /// Leaves the table to anyone with the right to change it, as on a kernel that cannot protect it. For tests of what holds there.
    pub fn without_ownership(&mut self) {
        self.ownership = Ownership::Plain;
    }

    /// Whether deletions of chains go into a batch of their own, as kernels before 6.2 need; by default found from the kernel's
    /// version. Between the two batches the chains are there, without rules and unused.
    pub fn split_chain_deletions(&mut self, split: bool) {
        self.split_chain_deletions = split;
    }

    /// Applies a transaction, all or nothing, and claims the table if it is not ours yet. An empty transaction only claims it.
    ///
    /// # Errors
    /// [`Error::Refused`] names the command; [`Error::Stale`] asks for [`read`](Self::read) first. After [`Error::Receive`] it is
    /// unknown whether the change took effect.
    pub fn apply(&mut self, transaction: &Transaction) -> Result<(), Error> {
        if self.stale {
            return Err(Error::Stale);
        }
        if self.claim()? == Claim::ByRebuilding {
            return self.rebuild(transaction);
        }
        self.commit_in_parts(transaction)?;
        self.sweep_objects()
    }

    /// One batch, or two where the kernel needs that.
    fn commit_in_parts(&mut self, transaction: &Transaction) -> Result<(), Error> {
        let cut = if self.split_chain_deletions { first_chain_deletion(&transaction.commands) } else { None };
        match cut {
            None => self.commit(&transaction.commands, 0),
            Some(cut) => {
                let (before, deletions) = transaction.commands.split_at(cut);
                self.commit(before, 0)?;
                self.commit(deletions, cut)
            }
        }
    }

    /// Reads the table back; `None` if there is none. From here on transactions count on what was read.
    ///
    /// # Errors
    /// [`Error::ReadBack`] if others change nf_tables too fast to read it.
    pub fn read(&mut self) -> Result<Option<Ruleset>, Error> {
        for _ in 0..TRIES {
            let (known, headers) = self.ask()?;
            let ruleset = match known.table {
                Table::Absent => None,
                Table::Claimed => Some(self.read_table(headers, false)?),
                Table::Unclaimed(flags) => Some(self.read_table(headers, flags & NFT_TABLE_F_DORMANT != 0)?),
            };
            // What nobody else can change has not changed while it was read.
            let alone = known.table == Table::Claimed && self.ownership == Ownership::Owned;
            if alone || self.generation()? == known.generation {
                self.known = Some(known);
                self.stale = false;
                return Ok(ruleset);
            }
        }
        Err(Error::ReadBack(format!("it was changed by others {TRIES} times in a row while it was read")))
    }

    /// What counters had counted when an earlier run read them last: those that are not there any more, and are made, begin with that.
    pub fn remember_counts(&mut self, counts: impl IntoIterator<Item = (String, (u64, u64))>) {
        self.counts.remember(counts);
    }

    /// What each named counter of our table has counted, packets and bytes; nothing if there is no table. If the table is then flushed by
    /// somebody, or made anew, its counters go on from what was read here last.
    ///
    /// # Errors
    /// [`Error::Request`] if nf_tables may not be asked.
    pub fn counter_values(&mut self) -> Result<BTreeMap<String, (u64, u64)>, Error> {
        match self.dump("the counters", NFT_MSG_GETOBJ, counters) {
            Ok(dump) => {
                let values: BTreeMap<_, _> = Messages(&dump)
                    .filter_map(|message| readback::counter(&message))
                    .map(|counter| (counter.name, (counter.packets, counter.bytes)))
                    .collect();
                // The dump of a table that is not there is empty, and so is that of one that was just made.
                if !values.is_empty() {
                    self.counts.read(&values);
                }
                Ok(values)
            }
            Err(Error::Request { reason: Reason::NotFound, .. }) => Ok(BTreeMap::new()),
            Err(error) => Err(error),
        }
    }

    /// The rules of our table with the handles by which the kernel knows them, chain by chain in order; none if there is no table.
    ///
    /// # Errors
    /// [`Error::Request`] if nf_tables may not be asked.
    pub fn rules(&mut self) -> Result<Vec<PlacedRule>, Error> {
        match self.dump("the rules", NFT_MSG_GETRULE, |w| w.string(NFTA_RULE_TABLE, TABLE)) {
            Ok(dump) => Ok(Messages(&dump).filter_map(|message| readback::placed_rule(&message)).collect()),
            Err(Error::Request { reason: Reason::NotFound, .. }) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// [`counter_values`](Self::counter_values), to be kept for a later run; and the end of what is known of counters that are not
    /// there any more. For now and then.
    ///
    /// # Errors
    /// [`Error::Request`] if nf_tables may not be asked.
    pub fn counts_to_keep(&mut self) -> Result<BTreeMap<String, (u64, u64)>, Error> {
        let values = self.counter_values()?;
        if !values.is_empty() {
            self.counts.sweep(&values);
        }
        Ok(values)
    }

    /// Counters that were deleted for good begin at nothing if they are made again.
    fn forget_counts(&mut self, commands: &[Command]) {
        let mut gone: BTreeSet<&str> = BTreeSet::new();
        for command in commands {
            match command {
                Command::DeleteCounter { counter } => drop(gone.insert(counter)),
                Command::AddCounter { counter, .. } => drop(gone.remove(counter.as_str())),
                _ => {}
            }
        }
        for counter in gone {
            self.counts.forget(counter);
        }
    }

    /// Makes the table ours, if it is there and is not; and wakes it, if somebody has switched it off.
    fn claim(&mut self) -> Result<Claim, Error> {
        let known = match self.known.take() {
            Some(known) => known,
            None => self.ask()?.0,
        };
        let table = known.table;
        self.known = Some(known);
        match table {
            Table::Unclaimed(flags) if self.ownership == Ownership::Owned && flags & NFT_TABLE_F_PERSIST == 0 => {
                Ok(Claim::ByRebuilding)
            }
            Table::Unclaimed(_) => self.commit(&[Command::AddTable], 0).map(|()| Claim::Done),
            Table::Absent | Table::Claimed => Ok(Claim::Done),
        }
    }

    /// A plain table cannot become an owned one, so it is deleted and made again, in one batch, once it is as it is after the transaction.
    /// While there are still things in it that cannot be made again, it stays as it is: what a rule does that nobody here understands may
    /// be what denies.
    fn rebuild(&mut self, transaction: &Transaction) -> Result<(), Error> {
        self.commit_in_parts(transaction)?;
        let content = self.read()?.unwrap_or_default();
        if has_foreign(&content) {
            return Ok(());
        }
        self.commit_in_parts(&content.diff(&rebuild::by_maps(&content)))?;
        // What is counted in the moment between this and the batch is lost.
        self.counter_values()?;
        let mut commands = vec![Command::DeleteTable, Command::AddTable];
        commands.extend(Ruleset::default().diff(&content).commands);
        self.commit(&commands, 0)
    }

    /// Deletes what was found of foreign objects, each by itself: one that is still in use stays until the next read.
    fn sweep_objects(&mut self) -> Result<(), Error> {
        for (kind, name) in std::mem::take(&mut self.foreign_objects) {
            let first = self.seq;
            self.seq = self.seq.wrapping_add(3);
            let mut w = Writer::default();
            w.begin_batch(NFNL_MSG_BATCH_BEGIN, first);
            w.end();
            w.begin(NFT_MSG_DELOBJ, NLM_F_ACK, NFPROTO_INET, first.wrapping_add(1));
            w.string(NFTA_OBJ_TABLE, TABLE);
            w.string(NFTA_OBJ_NAME, &name);
            w.number(NFTA_OBJ_TYPE, kind);
            w.end();
            w.begin_batch(NFNL_MSG_BATCH_END, first.wrapping_add(2));
            w.end();
            self.transport.send(w.bytes())?;
            let errno = self.acknowledgement(first.wrapping_add(1))?;
            debug!(kind, name, errno, "an object that is not ours is deleted");
            if errno == 0
                && let Some(known) = &mut self.known
            {
                known.moved_on();
            }
        }
        Ok(())
    }

    /// What the kernel says to the message of this number.
    fn acknowledgement(&mut self, seq: u32) -> Result<i32, Error> {
        loop {
            for message in Messages(self.transport.receive()?) {
                if message.kind == NLMSG_ERROR
                    && message.seq == seq
                    && let Some(errno) = message.errno()
                {
                    return Ok(errno);
                }
            }
        }
    }

    /// Sends commands as one batch, again if only the generation was old. `offset` is the place of the first one in its transaction.
    fn commit(&mut self, commands: &[Command], offset: usize) -> Result<(), Error> {
        for _ in 0..TRIES {
            let mut known = match self.known.take() {
                Some(known) => known,
                None => self.ask()?.0,
            };
            let batch = match encode::batch(
                commands,
                &known.sets,
                self.table_flags(),
                known.generation,
                self.seq,
                &self.counts,
            ) {
                Ok(batch) if !batch.is_empty() => batch,
                unsent => {
                    self.known = Some(known);
                    return unsent.map(|_| ()).map_err(|refused| shifted(refused, offset).into());
                }
            };
            self.seq = self.seq.wrapping_add(batch.messages());
            match self.exchange(&batch, commands, offset) {
                Ok(()) => {
                    known.committed(commands, batch.into_declared());
                    self.forget_counts(commands);
                    self.known = Some(known);
                    return Ok(());
                }
                // Nobody else can have touched what is ours alone: only the number is old.
                Err(Error::Stale) if self.ownership == Ownership::Owned && known.table == Table::Claimed => {
                    known.generation = self.generation()?;
                    self.known = Some(known);
                }
                Err(error @ (Error::Refused(_) | Error::Send { .. })) => {
                    self.known = Some(known);
                    return Err(error);
                }
                Err(error) => {
                    self.stale = true;
                    return Err(error);
                }
            }
        }
        self.stale = true;
        Err(Error::Stale)
    }

    /// Sends a batch and waits for what becomes of it. The kernel answers to each message that failed, and to the last one.
    fn exchange(&mut self, batch: &Batch, commands: &[Command], offset: usize) -> Result<(), Error> {
        self.transport.send(batch.bytes())?;
        let mut failed: Option<Refused> = None;
        loop {
            for message in Messages(self.transport.receive()?) {
                let (NLMSG_ERROR, Some(errno)) = (message.kind, message.errno()) else { continue };
                if message.seq == batch.begin_seq() {
                    return Err(match errno {
                        ERESTART => Error::Stale,
                        errno => Error::Request { what: "the batch as a whole", reason: reason(errno) },
                    });
                }
                // A late reply to something earlier has no command here.
                let Some(command) = batch.command(message.seq) else { continue };
                if errno != 0 && failed.is_none() {
                    let what = commands.get(command).map(check::short).unwrap_or_default();
                    failed = Some(Refused { command: command + offset, what, reason: reason(errno) });
                }
                if message.seq == batch.last_seq() {
                    return failed.map_or(Ok(()), |refused| Err(refused.into()));
                }
            }
        }
    }

    fn table_flags(&self) -> u32 {
        match self.ownership {
            Ownership::Owned => NFT_TABLE_F_OWNER | NFT_TABLE_F_PERSIST,
            Ownership::Plain => 0,
        }
    }

    /// Whether the kernel has both flags: it is asked to make a table with them, in a batch that fails further on by intent.
    fn probe_ownership(&mut self) -> Result<Ownership, Error> {
        const PROBE: &str = "tortie-probe";
        let first = self.seq;
        self.seq = self.seq.wrapping_add(4);
        let mut w = Writer::default();
        w.begin_batch(NFNL_MSG_BATCH_BEGIN, first);
        w.end();
        w.begin(NFT_MSG_NEWTABLE, NLM_F_CREATE | NLM_F_EXCL, NFPROTO_INET, first.wrapping_add(1));
        w.string(NFTA_TABLE_NAME, PROBE);
        w.number(NFTA_TABLE_FLAGS, NFT_TABLE_F_OWNER | NFT_TABLE_F_PERSIST);
        w.end();
        w.begin(NFT_MSG_DELCHAIN, 0, NFPROTO_INET, first.wrapping_add(2));
        w.string(NFTA_CHAIN_TABLE, PROBE);
        w.string(NFTA_CHAIN_NAME, PROBE);
        w.end();
        w.begin_batch(NFNL_MSG_BATCH_END, first.wrapping_add(3));
        w.end();
        self.transport.send(w.bytes())?;
        let mut ownership = Ownership::Owned;
        loop {
            for message in Messages(self.transport.receive()?) {
                let (NLMSG_ERROR, Some(errno)) = (message.kind, message.errno()) else { continue };
                match (message.seq.wrapping_sub(first), reason(errno)) {
                    (2, _) => return Ok(ownership),
                    (1, Reason::NotSupported) => ownership = Ownership::Plain,
                    (0 | 1, reason) => return Err(Error::Request { what: "a first question", reason }),
                    _ => {}
                }
            }
        }
    }

    /// Asks for all that must be known between transactions, and the sets as the kernel announces them.
    fn ask(&mut self) -> Result<(Known, Vec<SetHeader>), Error> {
        let generation = self.generation()?;
        let table = self.table()?;
        let mut headers = Vec::new();
        if table != Table::Absent {
            let dump = self.dump("the sets", NFT_MSG_GETSET, |w| w.string(NFTA_SET_TABLE, TABLE))?;
            headers = Messages(&dump).filter_map(|message| readback::set_header(&message)).collect();
        }
        let sets = headers.iter().filter_map(|header| Some((header.name.clone(), header.declared.clone()?))).collect();
        Ok((Known { generation, table, sets }, headers))
    }

    fn generation(&mut self) -> Result<u32, Error> {
        let reply = self.get("the generation", NFT_MSG_GETGEN, |_| {})?;
        let number = Messages(&reply).next().and_then(|message| message.attributes().number(NFTA_GEN_ID));
        number.ok_or_else(|| Error::ReadBack("the kernel names no generation".into()))
    }

    fn table(&mut self) -> Result<Table, Error> {
        let reply = match self.get("the table", NFT_MSG_GETTABLE, |w| w.string(NFTA_TABLE_NAME, TABLE)) {
            Ok(reply) => reply,
            Err(Error::Request { reason: Reason::NotFound, .. }) => return Ok(Table::Absent),
            Err(error) => return Err(error),
        };
        let attributes = Messages(&reply).next().map(|message| message.attributes());
        let flags = attributes.and_then(|a| a.number(NFTA_TABLE_FLAGS)).unwrap_or(0);
        let owner = attributes.and_then(|a| a.number(NFTA_TABLE_OWNER));
        let ours = match self.ownership {
            _ if flags & NFT_TABLE_F_DORMANT != 0 => false,
            Ownership::Owned => owner == Some(self.transport.port()),
            Ownership::Plain => true,
        };
        Ok(if ours { Table::Claimed } else { Table::Unclaimed(flags) })
    }

    fn read_table(&mut self, headers: Vec<SetHeader>, dormant: bool) -> Result<Ruleset, Error> {
        let mut table = ReadBack::default();
        let chains = self.dump("the chains", NFT_MSG_GETCHAIN, |w| w.string(NFTA_CHAIN_TABLE, TABLE))?;
        for message in Messages(&chains) {
            table.chain(&message);
        }
        let objects = self.dump("the objects", NFT_MSG_GETOBJ, |w| w.string(NFTA_OBJ_TABLE, TABLE))?;
        for message in Messages(&objects) {
            table.object(&message);
        }
        let rules = self.dump("the rules", NFT_MSG_GETRULE, |w| w.string(NFTA_RULE_TABLE, TABLE))?;
        for message in Messages(&rules) {
            table.rule(&message);
        }
        for header in headers {
            let elements = self.elements(&header)?;
            table.set(header, elements);
        }
        if dormant {
            table.dormant();
        }
        self.foreign_objects = std::mem::take(&mut table.foreign_objects);
        Ok(table.finish())
    }

    /// The elements of a set.
    ///
    /// The kernel walks a hash table anew for each piece of a dump, and skips as many elements as it gave before. If the table is
    /// being rearranged meanwhile, as it is for a while after it has grown, some elements come twice and others not at all. So the
    /// dump is repeated until no element is double and, where the kernel tells how many there are (Linux 6.16), none is missing.
    fn elements(&mut self, header: &SetHeader) -> Result<Elements, Error> {
        let counts = header.declared.as_ref().is_some_and(|declared| !declared.interval);
        let wanted = header.count.filter(|_| counts).map_or(0, |count| count as usize);
        for attempt in 0..TRIES {
            if attempt > 0 {
                std::thread::sleep(SETTLE);
            }
            let dump = self.dump("the elements", NFT_MSG_GETSETELEM, |w| {
                w.string(NFTA_SET_ELEM_LIST_TABLE, TABLE);
                w.string(NFTA_SET_ELEM_LIST_SET, &header.name);
            })?;
            let mut elements = Elements::default();
            for message in Messages(&dump) {
                elements.collect(&message);
            }
            if !elements.remove_doubles() && elements.len() >= wanted {
                return Ok(elements);
            }
        }
        Err(Error::ReadBack(format!("{TRIES} dumps of set {} all had elements missing", header.name)))
    }

    /// Asks for one object.
    fn get(&mut self, what: &'static str, kind: u16, body: impl Fn(&mut Writer)) -> Result<Vec<u8>, Error> {
        self.ask_once(what, kind, 0, body).map(|(reply, _)| reply)
    }

    /// Asks for all objects of a kind, again if others changed them meanwhile.
    fn dump(&mut self, what: &'static str, kind: u16, body: impl Fn(&mut Writer)) -> Result<Vec<u8>, Error> {
        for _ in 0..TRIES {
            let (reply, interrupted) = self.ask_once(what, kind, NLM_F_DUMP, &body)?;
            if !interrupted {
                return Ok(reply);
            }
        }
        Err(Error::ReadBack(format!("{what} were changed by others {TRIES} times in a row while they were read")))
    }

    /// Sends a request and gathers the messages of the reply, and whether others interrupted it.
    fn ask_once(
        &mut self,
        what: &'static str,
        kind: u16,
        flags: u16,
        body: impl Fn(&mut Writer),
    ) -> Result<(Vec<u8>, bool), Error> {
        let seq = self.seq;
        self.seq = self.seq.wrapping_add(1);
        let mut w = Writer::default();
        w.begin(kind, flags, NFPROTO_INET, seq);
        body(&mut w);
        w.end();
        self.transport.send(w.bytes())?;
        let (mut reply, mut interrupted) = (Vec::new(), false);
        loop {
            let received = self.transport.receive()?;
            for message in Messages(received).filter(|message| message.seq == seq) {
                interrupted |= message.flags & NLM_F_DUMP_INTR != 0;
                match message.kind {
                    NLMSG_ERROR | NLMSG_DONE => match message.errno() {
                        None | Some(0) => return Ok((reply, interrupted)),
                        Some(errno) => return Err(Error::Request { what, reason: reason(errno) }),
                    },
                    _ => reply.extend_from_slice(message.whole()),
                }
            }
            if flags & NLM_F_DUMP == 0 && !reply.is_empty() {
                return Ok((reply, interrupted));
            }
        }
    }
}

impl Executor for NftSocket {
    type Error = Error;

    fn apply(&mut self, transaction: &Transaction) -> Result<(), Error> {
        Self::apply(self, transaction)
    }

    fn read(&mut self) -> Result<Option<Ruleset>, Error> {
        Self::read(self)
    }
}

impl Known {
    /// Follows a batch that took effect.
    fn committed(&mut self, commands: &[Command], declared: Changes) {
        self.moved_on();
        for command in commands {
            match command {
                Command::AddTable => self.table = Table::Claimed,
                Command::DeleteTable => self.table = Table::Absent,
                _ => {}
            }
        }
        declared.merge_into(&mut self.sets);
    }

    /// Follows any commit. The kernel leaves out 0 when its counter wraps.
    fn moved_on(&mut self) {
        self.generation = self.generation.checked_add(1).unwrap_or(1);
    }
}

/// What a dump of our table's counters asks for.
fn counters(w: &mut Writer) {
    w.string(NFTA_OBJ_TABLE, TABLE);
    w.number(NFTA_OBJ_TYPE, NFT_OBJECT_COUNTER);
}

fn shifted(refused: Refused, offset: usize) -> Refused {
    Refused { command: refused.command + offset, ..refused }
}

/// Where the deletions of chains at the end begin, if map elements are deleted before them.
fn first_chain_deletion(commands: &[Command]) -> Option<usize> {
    let last_other = commands.iter().rposition(|command| !matches!(command, Command::DeleteChain { .. }))?;
    let cut = last_other + 1;
    let frees = |command: &Command| matches!(command, Command::DeleteMapElements { .. } | Command::DeleteMap { .. });
    (cut < commands.len() && commands[..cut].iter().any(frees)).then_some(cut)
}

/// Whether a table holds what is outside the vocabulary.
fn has_foreign(table: &Ruleset) -> bool {
    let rules = table.chains.values().flat_map(|chain| &chain.rules);
    table.sets.values().any(|set| set.key.is_empty())
        || table.maps.values().any(|map| map.key.is_empty())
        || table.counter_maps.values().any(|map| map.key.is_empty())
        || table.chains.values().any(|chain| chain.hook.is_some_and(|hook| hook.point == HookPoint::Foreign))
        || rules.flat_map(|rule| &rule.statements).any(|statement| matches!(statement, Statement::Foreign(_)))
        || table.chains.values().flat_map(|chain| &chain.rules).any(|rule| {
            // A set without a name of its own is part of the rule.
            check::sets_of(rule).any(|name| {
                !table.sets.contains_key(name)
                    && !table.maps.contains_key(name)
                    && !table.counter_maps.contains_key(name)
            })
        })
}

fn kernel_release() -> String {
    nix::sys::utsname::uname().map(|name| name.release().to_string_lossy().into_owned()).unwrap_or_default()
}

fn needs_split(release: &str) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) < CHAIN_DELETION_FIXED,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_before_6_2_need_the_split() {
        assert!(needs_split("6.1.0-18-amd64"));
        assert!(needs_split("5.15.0"));
        assert!(!needs_split("6.2.0"));
        assert!(!needs_split("6.18.44-fc"));
        assert!(!needs_split("7.0"));
        assert!(!needs_split("what?"));
    }
}
