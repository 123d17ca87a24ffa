//! From commands to the messages of a batch.
//!
//! A command with many elements takes several messages, since an attribute's length has 16 bits: 4,095 IPv4 addresses fill one. The
//! encoder remembers which message belongs to which command, so that an error finds its way back.

use std::collections::HashMap;

use tortie_nft::check::{self, Content, Declared};
use tortie_nft::keys::{self, Bytes};
use tortie_nft::{ChainType, Command, Hook, HookPoint, Key, KeyType, Reason, Refused, Rule, TABLE, Verdict};

use crate::consts::*;
use crate::counts::Counts;
use crate::lower;
use crate::wire::{self, ATTRIBUTE_MAX, Writer};

/// An upper bound of what one more element adds to a message: two keys of 64 bytes, a chain's or counter's name, user data and headers.
const ELEMENT_MAX: usize = 2 * (keys::KEY_MAX + 24) + check::NAME_MAX + 48;

/// A batch, ready to be sent.
#[derive(Debug)]
pub(crate) struct Batch {
    writer: Writer,
    /// The number of the batch's first message; the data messages follow it one by one.
    first_seq: u32,
    /// The command of each data message.
    commands: Vec<usize>,
    changes: Changes,
}

/// What a batch does to the sets and maps there are.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    /// Whether all there was before is gone.
    cleared: bool,
    /// New ones, and `None` for deleted ones.
    sets: HashMap<String, Option<Declared>>,
}

impl Changes {
    fn find<'a>(&'a self, before: &'a HashMap<String, Declared>, name: &str) -> Option<&'a Declared> {
        match self.sets.get(name) {
            Some(changed) => changed.as_ref(),
            None if self.cleared => None,
            None => before.get(name),
        }
    }

    /// Brings what is known up to date, once the batch has taken effect.
    pub(crate) fn merge_into(self, sets: &mut HashMap<String, Declared>) {
        if self.cleared {
            sets.clear();
        }
        for (name, declared) in self.sets {
            match declared {
                Some(declared) => sets.insert(name, declared),
                None => sets.remove(&name),
            };
        }
    }
}

impl Batch {
    pub(crate) fn bytes(&self) -> &[u8] {
        self.writer.bytes()
    }

    /// The number of the message that opens the batch. Errors of the batch as a whole carry it.
    pub(crate) fn begin_seq(&self) -> u32 {
        self.first_seq
    }

    /// The number of the last data message, the one that is acknowledged.
    pub(crate) fn last_seq(&self) -> u32 {
        self.first_seq.wrapping_add(self.commands.len() as u32)
    }

    /// How many numbers the batch has used up.
    pub(crate) fn messages(&self) -> u32 {
        self.commands.len() as u32 + 2
    }

    /// The command that a message belongs to.
    pub(crate) fn command(&self, seq: u32) -> Option<usize> {
        let index = seq.wrapping_sub(self.first_seq).checked_sub(1)?;
        self.commands.get(index as usize).copied()
    }

    /// What it does to sets and maps.
    pub(crate) fn into_declared(self) -> Changes {
        self.changes
    }

    /// Whether there is nothing in it.
    pub(crate) fn is_empty(&self) -> bool {
        self.commands.is_empty()
    }
}

/// Encodes commands into a batch that takes effect only on generation `generation`.
///
/// `declared` is what is known of sets and maps before it. `table_flags` are those of a table that is created, and counters that are
/// created begin with `counts`.
pub(crate) fn batch(
    commands: &[Command],
    declared: &HashMap<String, Declared>,
    table_flags: u32,
    generation: u32,
    first_seq: u32,
    counts: &Counts,
) -> Result<Batch, Refused> {
    let mut writer = Writer::default();
    writer.begin_batch(NFNL_MSG_BATCH_BEGIN, first_seq);
    writer.number(NFNL_BATCH_GENID, generation);
    writer.end();
    let batch = Batch { writer, first_seq, commands: Vec::with_capacity(commands.len()), changes: Changes::default() };
    let mut encoder = Encoder { batch, declared, table_flags, counts, command: 0 };
    for (index, command) in commands.iter().enumerate() {
        encoder.command = index;
        encoder.command(command).map_err(|reason| Refused { command: index, what: check::short(command), reason })?;
    }
    let mut batch = encoder.batch;
    if !batch.is_empty() {
        batch.writer.acknowledge();
    }
    let end = batch.last_seq().wrapping_add(1);
    batch.writer.begin_batch(NFNL_MSG_BATCH_END, end);
    batch.writer.end();
    Ok(batch)
}

struct Encoder<'a> {
    batch: Batch,
    declared: &'a HashMap<String, Declared>,
    table_flags: u32,
    counts: &'a Counts,
    /// The command that is being encoded.
    command: usize,
}

impl Encoder<'_> {
    fn begin(&mut self, kind: u16, flags: u16) -> &mut Writer {
        self.batch.commands.push(self.command);
        let seq = self.batch.last_seq();
        self.batch.writer.begin(kind, flags, NFPROTO_INET, seq);
        &mut self.batch.writer
    }

    /// A message that names the table and one object.
    fn name(&mut self, kind: u16, flags: u16, attribute: u16, name: &str) {
        let w = self.begin(kind, flags);
        w.string(NFTA_TABLE_NAME, TABLE);
        w.string(attribute, name);
        w.end();
    }

    fn command(&mut self, command: &Command) -> Result<(), Reason> {
        match command {
            // Encoding checks the keys; once is enough for a hundred thousand of them.
            Command::AddElements { .. }
            | Command::DeleteElements { .. }
            | Command::AddMapElements { .. }
            | Command::DeleteMapElements { .. }
            | Command::AddCounterElements { .. }
            | Command::DeleteCounterElements { .. } => {}
            command => {
                check::command(command, |name| self.batch.changes.find(self.declared, name))
                    .map_err(Reason::Invalid)?;
            }
        }
        match command {
            Command::AddTable => {
                let flags = self.table_flags;
                let w = self.begin(NFT_MSG_NEWTABLE, NLM_F_CREATE);
                w.string(NFTA_TABLE_NAME, TABLE);
                w.number(NFTA_TABLE_FLAGS, flags);
                w.end();
            }
            Command::DeleteTable => {
                self.batch.changes = Changes { cleared: true, sets: HashMap::new() };
                let w = self.begin(NFT_MSG_DELTABLE, 0);
                w.string(NFTA_TABLE_NAME, TABLE);
                w.end();
            }
            Command::AddCounter { counter, comment } => self.add_counter(counter, comment.as_deref()),
            Command::DeleteCounter { counter } => {
                let w = self.begin(NFT_MSG_DELOBJ, 0);
                w.string(NFTA_OBJ_TABLE, TABLE);
                w.string(NFTA_OBJ_NAME, counter);
                w.number(NFTA_OBJ_TYPE, NFT_OBJECT_COUNTER);
                w.end();
            }
            Command::AddChain { chain, hook } => self.add_chain(chain, *hook),
            Command::DeleteChain { chain } => self.name(NFT_MSG_DELCHAIN, NLM_F_NONREC, NFTA_CHAIN_NAME, chain),
            Command::FlushChain { chain } => self.name(NFT_MSG_DELRULE, 0, NFTA_RULE_CHAIN, chain),
            Command::AddRule { chain, rule } => self.add_rule(chain, rule).map_err(Reason::Invalid)?,
            Command::AddSet { set, key, interval, comment } => {
                self.add_set(set, key, *interval, Content::Keys, comment.as_deref());
            }
            Command::AddMap { map, key, interval, comment } => {
                self.add_set(map, key, *interval, Content::Verdicts, comment.as_deref());
            }
            Command::AddCounterMap { map, key, interval, comment } => {
                self.add_set(map, key, *interval, Content::Counters, comment.as_deref());
            }
            Command::DeleteSet { set: name }
            | Command::DeleteMap { map: name }
            | Command::DeleteCounterMap { map: name } => {
                self.batch.changes.sets.insert(name.clone(), None);
                self.name(NFT_MSG_DELSET, 0, NFTA_SET_NAME, name);
            }
            Command::AddElements { set, elements } => {
                self.elements(NFT_MSG_NEWSETELEM, set, Content::Keys, elements.iter().map(|key| (key, Data::None)))?;
            }
            Command::DeleteElements { set, elements } => {
                self.elements(NFT_MSG_DELSETELEM, set, Content::Keys, elements.iter().map(|key| (key, Data::None)))?;
            }
            Command::AddMapElements { map, elements } => {
                let elements = elements.iter().map(|(key, verdict)| (key, Data::Verdict(verdict)));
                self.elements(NFT_MSG_NEWSETELEM, map, Content::Verdicts, elements)?;
            }
            Command::AddCounterElements { map, elements } => {
                let elements = elements.iter().map(|(key, counter)| (key, Data::Counter(counter)));
                self.elements(NFT_MSG_NEWSETELEM, map, Content::Counters, elements)?;
            }
            // The key says which; what it led to would only be in the way if it had changed.
            Command::DeleteMapElements { map, elements } => {
                let elements = elements.iter().map(|(key, _)| (key, Data::None));
                self.elements(NFT_MSG_DELSETELEM, map, Content::Verdicts, elements)?;
            }
            Command::DeleteCounterElements { map, elements } => {
                let elements = elements.iter().map(|(key, _)| (key, Data::None));
                self.elements(NFT_MSG_DELSETELEM, map, Content::Counters, elements)?;
            }
        }
        Ok(())
    }

    fn add_chain(&mut self, chain: &str, hook: Option<Hook>) {
        let w = self.begin(NFT_MSG_NEWCHAIN, NLM_F_CREATE | NLM_F_EXCL);
        w.string(NFTA_CHAIN_TABLE, TABLE);
        w.string(NFTA_CHAIN_NAME, chain);
        if let Some(hook) = hook {
            let kind = match hook.kind {
                ChainType::Filter => "filter",
                ChainType::Nat => "nat",
            };
            w.string(NFTA_CHAIN_TYPE, kind);
            w.number(NFTA_CHAIN_POLICY, NF_ACCEPT);
            let nest = w.nest(NFTA_CHAIN_HOOK);
            w.number(NFTA_HOOK_HOOKNUM, hook_number(hook.point));
            w.number(NFTA_HOOK_PRIORITY, hook.priority.cast_unsigned());
            w.close(nest);
        }
        w.end();
    }

    fn add_counter(&mut self, counter: &str, comment: Option<&str>) {
        let count = self.counts.of(counter);
        let w = self.begin(NFT_MSG_NEWOBJ, NLM_F_CREATE | NLM_F_EXCL);
        w.string(NFTA_OBJ_TABLE, TABLE);
        w.string(NFTA_OBJ_NAME, counter);
        w.number(NFTA_OBJ_TYPE, NFT_OBJECT_COUNTER);
        let data = w.nest(NFTA_OBJ_DATA);
        if let Some((packets, bytes)) = count {
            w.attribute(NFTA_COUNTER_PACKETS, &packets.to_be_bytes());
            w.attribute(NFTA_COUNTER_BYTES, &bytes.to_be_bytes());
        }
        w.close(data);
        if let Some(comment) = comment {
            let mut data = Vec::new();
            wire::udata_comment(&mut data, UDATA_OBJ_COMMENT, comment);
            w.attribute(NFTA_OBJ_USERDATA, &data);
        }
        w.end();
    }

    fn add_rule(&mut self, chain: &str, rule: &Rule) -> Result<(), String> {
        let w = self.begin(NFT_MSG_NEWRULE, NLM_F_CREATE | NLM_F_APPEND);
        w.string(NFTA_RULE_TABLE, TABLE);
        w.string(NFTA_RULE_CHAIN, chain);
        let list = w.nest(NFTA_RULE_EXPRESSIONS);
        lower::rule(w, rule);
        if w.size(list) > ATTRIBUTE_MAX {
            return Err("it is longer than a netlink attribute can be; make it two rules".into());
        }
        w.close(list);
        if let Some(comment) = &rule.comment {
            let mut data = Vec::new();
            wire::udata_comment(&mut data, UDATA_RULE_COMMENT, comment);
            w.attribute(NFTA_RULE_USERDATA, &data);
        }
        w.end();
        Ok(())
    }

    fn add_set(&mut self, name: &str, key: &[KeyType], interval: bool, content: Content, comment: Option<&str>) {
        let declared = Declared { key: key.to_vec(), interval, content };
        let w = self.begin(NFT_MSG_NEWSET, NLM_F_CREATE | NLM_F_EXCL);
        w.string(NFTA_SET_TABLE, TABLE);
        w.string(NFTA_SET_NAME, name);
        w.number(NFTA_SET_FLAGS, set_flags(&declared));
        w.number(NFTA_SET_KEY_TYPE, key_type(&declared.key));
        w.number(NFTA_SET_KEY_LEN, key_length(&declared.key));
        match content {
            Content::Keys => {}
            Content::Verdicts => {
                w.number(NFTA_SET_DATA_TYPE, NFT_DATA_VERDICT);
                w.number(NFTA_SET_DATA_LEN, 0);
            }
            Content::Counters => w.number(NFTA_SET_OBJ_TYPE, NFT_OBJECT_COUNTER),
        }
        // The kernel insists on a number, by which rules of the batch could name the set; ours use its name.
        w.number(NFTA_SET_ID, 1);
        if declared.interval && declared.key.len() > 1 {
            let desc = w.nest(NFTA_SET_DESC);
            let concat = w.nest(NFTA_SET_DESC_CONCAT);
            for kind in &declared.key {
                let field = w.nest(NFTA_LIST_ELEM);
                w.number(NFTA_SET_FIELD_LEN, kind.size() as u32);
                w.close(field);
            }
            w.close(concat);
            w.close(desc);
        }
        w.attribute(NFTA_SET_USERDATA, &set_udata(&declared, comment));
        w.end();
        self.batch.changes.sets.insert(name.to_owned(), Some(declared));
    }

    /// Elements of a set or map, in as many messages as they need. Nothing is said when there are none.
    fn elements<'b>(
        &mut self,
        kind: u16,
        set: &str,
        content: Content,
        elements: impl Iterator<Item = (&'b Key, Data<'b>)>,
    ) -> Result<(), Reason> {
        let declared = self.batch.changes.find(self.declared, set).cloned().ok_or(Reason::NotFound)?;
        check::holds(&declared, content).map_err(Reason::Invalid)?;
        let flags = if kind == NFT_MSG_NEWSETELEM { NLM_F_CREATE | NLM_F_EXCL } else { 0 };
        let mut elements = elements.peekable();
        while elements.peek().is_some() {
            let w = self.begin(kind, flags);
            w.string(NFTA_SET_ELEM_LIST_TABLE, TABLE);
            w.string(NFTA_SET_ELEM_LIST_SET, set);
            let list = w.nest(NFTA_SET_ELEM_LIST_ELEMENTS);
            while w.size(list) <= ATTRIBUTE_MAX - ELEMENT_MAX {
                let Some((key, data)) = elements.next() else { break };
                element(w, &declared, key, data, kind == NFT_MSG_NEWSETELEM).map_err(Reason::Invalid)?;
            }
            // The last few are tried one by one: what does not fit is taken back, and begins the next message.
            while let Some((key, data)) = elements.peek() {
                let before = w.position();
                element(w, &declared, key, *data, kind == NFT_MSG_NEWSETELEM).map_err(Reason::Invalid)?;
                if w.size(list) > ATTRIBUTE_MAX {
                    w.truncate(before);
                    break;
                }
                elements.next();
            }
            w.close(list);
            w.end();
        }
        Ok(())
    }
}

/// What an element has beside its key.
#[derive(Debug, Clone, Copy)]
enum Data<'a> {
    None,
    Verdict(&'a Verdict),
    Counter(&'a str),
}

/// One element; an interval of one field is two, a start and an end behind its last value.
fn element(w: &mut Writer, declared: &Declared, key: &Key, data: Data<'_>, add: bool) -> Result<(), String> {
    let (first, last) = keys::encode(&declared.key, declared.interval, key)?;
    let interval = declared.interval && declared.key.len() == 1;
    let length = if let [kind] = declared.key.as_slice() { kind.size() } else { first.as_slice().len() };
    let behind = if interval { after(&last, length) } else { None };

    let nest = w.nest(NFTA_LIST_ELEM);
    element_key(w, NFTA_SET_ELEM_KEY, &first.as_slice()[..length]);
    if declared.interval && !interval {
        element_key(w, NFTA_SET_ELEM_KEY_END, &last.as_slice()[..length]);
    }
    match data {
        Data::None => {}
        Data::Verdict(verdict) => lower::verdict(w, NFTA_SET_ELEM_DATA, verdict),
        Data::Counter(counter) => w.string(NFTA_SET_ELEM_OBJREF, check::counter_name(counter)?),
    }
    if add && interval && behind.is_none() {
        let mut data = Vec::new();
        wire::udata(&mut data, UDATA_SET_ELEM_FLAGS, &UDATA_SET_ELEM_F_INTERVAL_OPEN.to_ne_bytes());
        w.attribute(NFTA_SET_ELEM_USERDATA, &data);
    }
    w.close(nest);

    if let Some(behind) = behind {
        let nest = w.nest(NFTA_LIST_ELEM);
        w.number(NFTA_SET_ELEM_FLAGS, NFT_SET_ELEM_INTERVAL_END);
        element_key(w, NFTA_SET_ELEM_KEY, &behind[..length]);
        w.close(nest);
    }
    Ok(())
}

fn element_key(w: &mut Writer, kind: u16, bytes: &[u8]) {
    let nest = w.nest(kind);
    w.attribute(NFTA_DATA_VALUE, bytes);
    w.close(nest);
}

/// The value after `last`, or `None` if that is the greatest there is.
fn after(last: &Bytes, length: usize) -> Option<[u8; keys::KEY_MAX]> {
    let mut bytes = [0; keys::KEY_MAX];
    bytes[..length].copy_from_slice(&last.as_slice()[..length]);
    for byte in bytes[..length].iter_mut().rev() {
        *byte = byte.wrapping_add(1);
        if *byte != 0 {
            return Some(bytes);
        }
    }
    None
}

pub(crate) fn hook_number(point: HookPoint) -> u32 {
    match point {
        HookPoint::Prerouting => 0,
        HookPoint::Input => 1,
        HookPoint::Forward => 2,
        HookPoint::Output => 3,
        // No executor lets a foreign hook through: `tortie_nft::check` refuses it.
        HookPoint::Postrouting | HookPoint::Foreign => 4,
    }
}

fn set_flags(declared: &Declared) -> u32 {
    let interval = if declared.interval { NFT_SET_INTERVAL } else { 0 };
    let concat = if declared.interval && declared.key.len() > 1 { NFT_SET_CONCAT } else { 0 };
    let content = match declared.content {
        Content::Keys => 0,
        Content::Verdicts => NFT_SET_MAP,
        Content::Counters => NFT_SET_OBJECT,
    };
    interval | concat | content
}

/// A field's number among nft's data types.
pub(crate) fn type_number(kind: KeyType) -> u32 {
    match kind {
        KeyType::IfName => TYPE_IFNAME,
        KeyType::Ipv4Addr => TYPE_IPADDR,
        KeyType::Ipv6Addr => TYPE_IP6ADDR,
        KeyType::NfProto => TYPE_NF_PROTO,
        KeyType::InetProto => TYPE_INET_PROTOCOL,
        KeyType::InetService => TYPE_INET_SERVICE,
        KeyType::Mark => TYPE_MARK,
    }
}

fn key_type(key: &[KeyType]) -> u32 {
    key.iter().fold(0, |number, kind| number << TYPE_BITS | type_number(*kind))
}

/// Length of the key: a single field is not padded.
pub(crate) fn key_length(key: &[KeyType]) -> u32 {
    match key {
        [kind] => kind.size() as u32,
        key => key.iter().map(|kind| kind.size().next_multiple_of(4) as u32).sum(),
    }
}

/// What nft wants to know to print a set: the byte order of a key of one field, and the comment.
fn set_udata(declared: &Declared, comment: Option<&str>) -> Vec<u8> {
    let order = match declared.key.as_slice() {
        [KeyType::Mark | KeyType::IfName] => BYTEORDER_HOST,
        [KeyType::Ipv4Addr | KeyType::Ipv6Addr | KeyType::InetService] => BYTEORDER_BIG,
        _ => BYTEORDER_INVALID,
    };
    let mut data = Vec::new();
    wire::udata(&mut data, UDATA_SET_KEYBYTEORDER, &order.to_ne_bytes());
    if declared.content == Content::Verdicts {
        wire::udata(&mut data, UDATA_SET_DATABYTEORDER, &BYTEORDER_INVALID.to_ne_bytes());
    }
    if let Some(comment) = comment {
        wire::udata_comment(&mut data, UDATA_SET_COMMENT, comment);
    }
    data
}
