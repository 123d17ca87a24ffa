//! The filter table of legacy iptables, as the kernel holds it: read by the socket options that `iptables-legacy` uses itself.
//!
//! Reading it so needs no program, starts no process, and does not make the kernel set the table up where nobody has used it: a table
//! that `/proc/net/ip_tables_names` does not list is not asked for. The kernel gives a table as one block of entries: an entry is what
//! a packet must be, any number of matches, and a target. Chains are places in the block. Nothing here trusts the block's lengths.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsRawFd;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use tortie_nft_netlink::foreign::{Chain, Condition, FORWARD, Hook, Interface, Rule, Verdict};

/// `IPT_SO_GET_INFO` and `IP6T_SO_GET_INFO`.
const GET_INFO: i32 = 64;
/// `IPT_SO_GET_ENTRIES` and `IP6T_SO_GET_ENTRIES`.
const GET_ENTRIES: i32 = 65;
/// The size of `struct ipt_getinfo`: the table's name, five numbers of hooks, and so on.
const INFO: usize = 32 + 4 + 5 * 4 + 5 * 4 + 4 + 4;
/// Where the entries begin in `struct ipt_get_entries`.
const HEADER: usize = 36usize.next_multiple_of(align_of::<u64>());
/// The size of a match's and a target's header: length, name, revision.
const EXTENSION: usize = 32;
/// Tables change while they are read; the kernel then says so.
const TRIES: usize = 16;

/// An address family of iptables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// `iptables`.
    V4,
    /// `ip6tables`.
    V6,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// Where fields are in `struct ipt_entry` or `struct ip6t_entry`.
    fn layout(self) -> Layout {
        let end_of = |comefrom: usize| (comefrom + 4).next_multiple_of(align_of::<u64>()) + 16;
        match self {
            Self::V4 => Layout {
                addresses: 16,
                interfaces: 16,
                protocol: 80..82,
                flags: 82,
                fragments: 0x01,
                goto: 0x02,
                offsets: 88,
                size: end_of(92),
            },
            Self::V6 => Layout {
                addresses: 64,
                interfaces: 64,
                protocol: 128..131,
                flags: 131,
                fragments: 0,
                goto: 0x04,
                offsets: 140,
                size: end_of(144),
            },
        }
    }
}

struct Layout {
    /// How long addresses and their masks are, all four.
    addresses: usize,
    /// Where the interfaces' names and masks begin.
    interfaces: usize,
    /// The protocol, and IPv6's traffic class.
    protocol: std::ops::Range<usize>,
    /// The flags; what is inverted follows.
    flags: usize,
    /// The flag that only fragments are meant.
    fragments: u8,
    /// The flag that a jump does not come back.
    goto: u8,
    /// Where the target and the next entry are.
    offsets: usize,
    size: usize,
}

/// The names of the tables that are set up in the calling thread's network namespace.
pub fn tables(family: Family) -> Vec<String> {
    let file = match family {
        Family::V4 => "/proc/thread-self/net/ip_tables_names",
        Family::V6 => "/proc/thread-self/net/ip6_tables_names",
    };
    let text = std::fs::read_to_string(file).unwrap_or_default();
    text.lines().map(str::to_owned).filter(|name| !name.is_empty()).collect()
}

/// The chains of a table in the calling thread's network namespace, none if nobody has set it up. The built-in chain FORWARD has its
/// hook; of the others only what can be reached from it matters, and they have none.
pub fn read(family: Family, table: &str) -> io::Result<Option<Vec<Chain>>> {
    if !tables(family).iter().any(|name| name == table) {
        return Ok(None);
    }
    for _ in 0..TRIES {
        let info = ask(family, GET_INFO, table, 0, INFO)?;
        let number = |at: usize| word(&info, at).ok_or_else(torn);
        // After the name: valid hooks, five entry points, five underflows, the number of entries, their size.
        let (entry, underflow) = (number(36 + 4 * FORWARD as usize)?, number(56 + 4 * FORWARD as usize)?);
        let hooks: Vec<usize> = (0..5).filter_map(|hook| word(&info, 36 + 4 * hook)).collect();
        let has_forward = number(32)? & (1 << FORWARD) != 0;
        let size = number(80)?;
        match ask(family, GET_ENTRIES, table, size, HEADER + size) {
            Ok(block) => {
                let entries = block.get(HEADER..).unwrap_or_default();
                return Ok(Some(decode(family, entries, &hooks, has_forward.then_some((entry, underflow)))));
            }
            // Its size is another by now.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EINVAL)) => {}
            Err(error) => return Err(error),
        }
    }
    Err(torn())
}

fn torn() -> io::Error {
    io::Error::other("the table changed again and again while it was read")
}

/// Asks the kernel about a table: the structures begin with its name, and the one for entries then has their size.
fn ask(family: Family, option: i32, table: &str, size: usize, length: usize) -> io::Result<Vec<u8>> {
    let (domain, level) = match family {
        Family::V4 => (AddressFamily::Inet, libc::IPPROTO_IP),
        Family::V6 => (AddressFamily::Inet6, libc::IPPROTO_IPV6),
    };
    let socket = socket(domain, SockType::Raw, SockFlag::SOCK_CLOEXEC, nix::sys::socket::SockProtocol::Raw)?;
    let mut answer = vec![0u8; length];
    answer[..table.len().min(31)].copy_from_slice(&table.as_bytes()[..table.len().min(31)]);
    if option == GET_ENTRIES {
        answer[32..36].copy_from_slice(&(size as u32).to_ne_bytes());
    }
    let mut got = libc::socklen_t::try_from(length).map_err(io::Error::other)?;
    // SAFETY: the kernel writes at most `got` bytes to `answer`, which has that many, and the length to `got`.
    #[allow(unsafe_code)]
    let result =
        unsafe { libc::getsockopt(socket.as_raw_fd(), level, option, answer.as_mut_ptr().cast(), &raw mut got) };
    if result == 0 { Ok(answer) } else { Err(io::Error::last_os_error()) }
}

fn word(bytes: &[u8], at: usize) -> Option<usize> {
    let bytes = bytes.get(at..)?.first_chunk::<4>()?;
    Some(u32::from_ne_bytes(*bytes) as usize)
}

fn half(bytes: &[u8], at: usize) -> Option<usize> {
    let bytes = bytes.get(at..)?.first_chunk::<2>()?;
    Some(usize::from(u16::from_ne_bytes(*bytes)))
}

/// Where a standard target leads: a verdict, or a place in the block.
#[derive(Clone, Copy)]
enum Leads {
    Nowhere,
    To(Known),
    Place(usize, bool),
}

#[derive(Clone, Copy)]
enum Known {
    Accept,
    Drop,
    Return,
    Reject,
    Unknown,
}

/// Reads the entries of a table. `forward` is where the chain FORWARD begins, and where its policy is.
fn decode(family: Family, entries: &[u8], hooks: &[usize], forward: Option<(usize, usize)>) -> Vec<Chain> {
    let layout = family.layout();
    let mut chains: Vec<Chain> = Vec::new();
    // Chains by the place of their first entry, and each rule with where it leads.
    let mut names: BTreeMap<usize, String> = BTreeMap::new();
    let mut rules: Vec<(usize, Rule, Leads)> = Vec::new();
    let mut at = 0;
    while let Some(entry) = entries.get(at..).filter(|entry| entry.len() >= layout.size) {
        let (Some(target), Some(next)) = (half(entry, layout.offsets), half(entry, layout.offsets + 2)) else { break };
        let Some(entry) = entry.get(..next).filter(|_| next >= layout.size && target >= layout.size) else { break };
        let (Some(head), Some(body)) = (entry.get(..target), entry.get(target + EXTENSION..)) else { break };
        let name = text(&entry[target + 2..target + EXTENSION - 1]);
        if name == "ERROR" {
            // The head of a chain; of the block's end too, where no chain follows.
            names.insert(at + next, text(body));
        } else {
            let mut rule = Rule::default();
            conditions(&layout, head, &mut rule);
            let goto = head[layout.flags] & layout.goto != 0;
            let leads = match name.as_str() {
                "" => standard(body, at + next, goto),
                "REJECT" => Leads::To(Known::Reject),
                "LOG" | "NFLOG" | "MARK" | "CONNMARK" | "TCPMSS" | "CT" | "TRACE" | "CHECKSUM" | "AUDIT" => {
                    Leads::Nowhere
                }
                _ => Leads::To(Known::Unknown),
            };
            rules.push((at, rule, leads));
        }
        at += next;
    }
    for hook in hooks {
        names.entry(*hook).or_insert_with(|| format!("hook {hook}"));
    }
    if let Some((entry, _)) = forward {
        names.insert(entry, "FORWARD".to_owned());
    }
    for (at, mut rule, leads) in rules {
        if let Some(name) = names.get(&at) {
            let hook = forward.filter(|(entry, _)| *entry == at).map(|_| Hook {
                kind: "filter".to_owned(),
                number: FORWARD,
                priority: 0,
                drops: false,
            });
            chains.push(Chain { name: name.clone(), hook, rules: Vec::new() });
        }
        let Some(chain) = chains.last_mut() else { continue };
        if let (Some(hook), Some((_, underflow))) = (&mut chain.hook, forward)
            && at >= underflow
        {
            hook.drops |= at == underflow && matches!(leads, Leads::To(Known::Drop));
            continue;
        }
        rule.verdict = match leads {
            Leads::Nowhere => None,
            Leads::To(Known::Accept) => Some(Verdict::Accept),
            Leads::To(Known::Drop) => Some(Verdict::Drop),
            Leads::To(Known::Return) => Some(Verdict::Return),
            Leads::To(Known::Reject) => Some(Verdict::Reject),
            Leads::To(Known::Unknown) => Some(Verdict::Unknown),
            Leads::Place(place, goto) => names
                .get(&place)
                .map(|name| if goto { Verdict::Goto(name.clone()) } else { Verdict::Jump(name.clone()) }),
        };
        chain.rules.push(rule);
    }
    chains
}

/// The verdict of a standard target: negative ones are final, the others are where to go on, which may be the next entry.
fn standard(body: &[u8], next: usize, goto: bool) -> Leads {
    let Some(verdict) = word(body, 0) else { return Leads::Nowhere };
    match (verdict as u32).cast_signed() {
        -1 => Leads::To(Known::Drop),
        -2 => Leads::To(Known::Accept),
        -5 => Leads::To(Known::Return),
        negative if negative < 0 => Leads::To(Known::Unknown),
        _ if verdict == next => Leads::Nowhere,
        _ => Leads::Place(verdict, goto),
    }
}

/// What a packet must be for an entry. `head` is the entry up to its target.
fn conditions(layout: &Layout, head: &[u8], rule: &mut Rule) {
    const VIA_IN: u8 = 0x01;
    const VIA_OUT: u8 = 0x02;
    let inverted = head[layout.flags + 1];
    let is_set = |range: std::ops::Range<usize>| head[range].iter().any(|byte| *byte != 0);
    // Masks of source and destination are the second half of the addresses.
    if is_set(layout.addresses / 2..layout.addresses)
        || is_set(layout.protocol.clone())
        || head[layout.flags] & layout.fragments != 0
    {
        rule.conditions.push(Condition::Other);
    }
    let interface = |which: usize, flag: u8| {
        let at = layout.interfaces + 16 * which;
        let (name, mask) = (&head[at..at + 16], &head[at + 32..at + 48]);
        let compared = mask.iter().take_while(|byte| **byte != 0).count();
        (compared > 0).then(|| Interface {
            name: text(&name[..compared]),
            prefix: name[..compared].last() != Some(&0) && compared < 16,
            negated: inverted & flag != 0,
        })
    };
    rule.conditions.extend(interface(0, VIA_IN).map(Condition::In));
    rule.conditions.extend(interface(1, VIA_OUT).map(Condition::Out));
    let mut matches = &head[layout.size..];
    while let Some(length) = half(matches, 0).filter(|length| *length >= EXTENSION) {
        let Some(this) = matches.get(..length) else { break };
        match text(&this[2..EXTENSION - 1]).as_str() {
            "comment" => rule.add_comment(&text(&this[EXTENSION..])),
            _ => rule.conditions.push(Condition::Other),
        }
        matches = &matches[length..];
    }
}

/// A string that ends at its first zero.
fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// Whatever the kernel gives, or a torn copy of it.
        #[test]
        fn no_block_panics(
            block in prop::collection::vec(prop_oneof![Just(0u8), Just(0xff), any::<u8>()], 0..2048),
            target in 100u16..300,
            next in 100u16..400,
            forward in 0usize..1000,
        ) {
            for family in Family::ALL {
                let mut block = block.clone();
                // Entries whose lengths are believable, so that what is behind them is looked at.
                let offsets = family.layout().offsets;
                for at in (0..block.len()).step_by(usize::from(next)) {
                    if let Some(place) = block.get_mut(at + offsets..at + offsets + 4) {
                        place[..2].copy_from_slice(&target.to_ne_bytes());
                        place[2..].copy_from_slice(&next.to_ne_bytes());
                    }
                }
                decode(family, &block, &[0, forward], Some((forward, forward + usize::from(next))));
            }
        }
    }
}
