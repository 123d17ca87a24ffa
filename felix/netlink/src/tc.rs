//! Traffic control: token buckets, and the detour that lets one shape what an interface receives.
//!
//! The kernel shapes what leaves an interface. What a pod is sent leaves the host's end of its veth, so a token bucket (`tbf`) sits at
//! that end's root. What a pod sends comes in there, and is turned to an intermediate device (`ifb`) of its own, which has the
//! other bucket at its root; behind that the packet goes on as if it had just come in by the veth.
//!
//! Ours are the buckets with [`HANDLE`]; others' queueing disciplines are replaced where a bucket has to go, and left alone elsewhere.

use netlink_packet_core::{DefaultNla, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, Nla, NlasIterator};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage};
use netlink_packet_route::tc::{
    TcAction, TcActionAttribute, TcActionMirrorOption, TcActionOption, TcAttribute, TcFilterU32Option, TcHandle,
    TcMessage, TcOption,
};

use crate::{Error, Net};

/// The handle of our buckets, `7e47:`.
pub const HANDLE: u16 = 0x7e47;

/// How long a packet may wait in a bucket's queue, in milliseconds; what would wait longer is dropped.
const LATENCY: u64 = 25;

/// The shortest queue, in bytes: some ten packets, without which a sender of a slow bucket would hardly get beyond one.
const SHORTEST_QUEUE: u64 = 16 << 10;

const TBF: &str = "tbf";
const INGRESS: &str = "ingress";
const U32: &str = "u32";
const MIRRED: &str = "mirred";

/// A token bucket. Two are equal if the kernel treats packets alike under both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bucket {
    /// The rate in the long run, in bytes a second.
    pub rate: u64,
    /// How much may pass at once after a silence, in bytes.
    pub burst: u32,
    /// The rate of that, in bytes a second, and how much of it may pass at once, in bytes; no limit if none.
    pub peak: Option<(u64, u32)>,
}

/// What the kernel has at the root of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found(Parameters);

/// A bucket as the kernel states it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Parameters {
    rate: u64,
    peak: u64,
    limit: u32,
    /// Times in ticks of 64 ns, modulo 2^32.
    burst_ticks: u32,
    peak_ticks: u32,
}

impl Found {
    /// Whether it is this bucket.
    pub fn is(&self, bucket: &Bucket) -> bool {
        /// Kernels round in different ways.
        const ROUNDING: u32 = 64;
        let (found, wanted) = (&self.0, bucket.parameters());
        let near = |a: u32, b: u32| a.wrapping_sub(b).min(b.wrapping_sub(a)) <= ROUNDING;
        (found.rate, found.peak, found.limit) == (wanted.rate, wanted.peak, wanted.limit)
            && near(found.burst_ticks, wanted.burst_ticks)
            && near(found.peak_ticks, wanted.peak_ticks)
    }
}

impl Bucket {
    fn parameters(&self) -> Parameters {
        let queue = (self.rate.saturating_mul(LATENCY) / 1000).max(SHORTEST_QUEUE);
        let (peak, peak_burst) = self.peak.unwrap_or_default();
        Parameters {
            rate: self.rate,
            peak,
            limit: u32::try_from(queue.saturating_add(u64::from(self.burst))).unwrap_or(u32::MAX),
            burst_ticks: ticks(self.rate, self.burst),
            peak_ticks: if peak == 0 { 0 } else { ticks(peak, peak_burst) },
        }
    }

    /// The attributes of `TCA_OPTIONS`, `TCA_TBF_*`.
    fn options(&self) -> Vec<TcOption> {
        const PARMS: u16 = 1;
        const RATE64: u16 = 4;
        const PRATE64: u16 = 5;
        const BURST: u16 = 6;
        const PBURST: u16 = 7;
        let Parameters { rate, peak, limit, burst_ticks, peak_ticks } = self.parameters();
        let mut parms = Vec::with_capacity(36);
        parms.extend(rate_spec(rate));
        parms.extend(if peak == 0 { [0; 12] } else { rate_spec(peak) });
        for word in [limit, burst_ticks, peak_ticks] {
            parms.extend(word.to_ne_bytes());
        }
        let mut options = vec![option(PARMS, parms), option(BURST, self.burst.to_ne_bytes().to_vec())];
        if rate > u64::from(u32::MAX) {
            options.push(option(RATE64, rate.to_ne_bytes().to_vec()));
        }
        if let Some((_, burst)) = self.peak {
            options.push(option(PBURST, burst.to_ne_bytes().to_vec()));
            if peak > u64::from(u32::MAX) {
                options.push(option(PRATE64, peak.to_ne_bytes().to_vec()));
            }
        }
        options
    }
}

/// `struct tc_ratespec`, counting on Ethernet.
fn rate_spec(rate: u64) -> [u8; 12] {
    const ETHERNET: u8 = 1;
    let mut spec = [0; 12];
    spec[1] = ETHERNET;
    spec[8..].copy_from_slice(&u32::try_from(rate).unwrap_or(u32::MAX).to_ne_bytes());
    spec
}

/// How long `bytes` take at `rate`, in ticks, computed as the kernel does: by a multiplier of 32 bits and a shift.
fn ticks(rate: u64, bytes: u32) -> u32 {
    const TICK: u32 = 6;
    let (mut factor, mut shift) = (1_000_000_000_u64, 0_u32);
    let multiplier = loop {
        let multiplier = factor.checked_div(rate).unwrap_or(1);
        if rate == 0 || multiplier & 1 << 31 != 0 || factor & 1 << 63 != 0 {
            break multiplier as u32;
        }
        factor <<= 1;
        shift += 1;
    };
    (u64::from(bytes).wrapping_mul(u64::from(multiplier)) >> shift >> TICK) as u32
}

fn option(kind: u16, value: Vec<u8>) -> TcOption {
    TcOption::Other(DefaultNla::new(kind, value))
}

/// One attribute inside another.
fn nested(kind: u16, value: &[u8]) -> Vec<u8> {
    const HEADER: usize = 4;
    let mut bytes = Vec::with_capacity((HEADER + value.len()).next_multiple_of(4));
    bytes.extend(((HEADER + value.len()) as u16).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// The queueing disciplines of one interface, as far as they concern us.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Disciplines {
    /// Our bucket at the root.
    pub bucket: Option<Found>,
    /// Whether what comes in goes through filters.
    pub ingress: bool,
}

impl Net {
    /// The disciplines of every interface that has any, by the interface's number.
    pub async fn disciplines(&self) -> Result<Vec<(u32, Disciplines)>, Error> {
        let answers = self
            .dump("read queueing disciplines", RouteNetlinkMessage::GetQueueDiscipline(TcMessage::default()))
            .await?;
        let mut found: Vec<(u32, Disciplines)> = Vec::new();
        for answer in answers {
            let RouteNetlinkMessage::NewQueueDiscipline(message) = answer else { continue };
            let Ok(index) = u32::try_from(message.header.index) else { continue };
            let bucket = bucket_of(&message);
            let ingress = kind(&message) == Some(INGRESS);
            if bucket.is_none() && !ingress {
                continue;
            }
            // The kernel lists interface by interface.
            match found.last_mut() {
                Some((last, disciplines)) if *last == index => {
                    disciplines.bucket = disciplines.bucket.or(bucket);
                    disciplines.ingress |= ingress;
                }
                _ => found.push((index, Disciplines { bucket, ingress })),
            }
        }
        Ok(found)
    }

    /// Puts a bucket at the root of an interface. One of ours that is there changes without a loss.
    pub async fn set_bucket(&self, index: u32, bucket: &Bucket) -> Result<(), Error> {
        let mut message = message(index, TcHandle::ROOT)?;
        message.header.handle = TcHandle { major: HANDLE, minor: 0 };
        message.attributes.push(TcAttribute::Kind(TBF.to_owned()));
        message.attributes.push(TcAttribute::Options(bucket.options()));
        let operation = format!("limit the rate of interface {index}");
        let flags = NLM_F_CREATE | NLM_F_REPLACE;
        self.change(&operation, RouteNetlinkMessage::NewQueueDiscipline(message), flags).await
    }

    /// Takes our bucket from the root of an interface; the kernel puts its default there.
    pub async fn remove_bucket(&self, index: u32) -> Result<(), Error> {
        let mut message = message(index, TcHandle::ROOT)?;
        message.header.handle = TcHandle { major: HANDLE, minor: 0 };
        let operation = format!("remove the limit of interface {index}");
        self.change(&operation, RouteNetlinkMessage::DelQueueDiscipline(message), 0).await
    }

    /// Where the first filter of what comes in at an interface turns it to.
    pub async fn detour(&self, index: u32) -> Result<Option<u32>, Error> {
        let message = message(index, INGRESS_HANDLE)?;
        let operation = format!("read the filters of interface {index}");
        let answers = self.dump(&operation, RouteNetlinkMessage::GetTrafficFilter(message)).await?;
        Ok(answers.iter().find_map(|answer| match answer {
            RouteNetlinkMessage::NewTrafficFilter(message) => target_of(message),
            _ => None,
        }))
    }

    /// Turns whatever comes in at an interface to another one, instead of where it was turned to before.
    pub async fn set_detour(&self, index: u32, target: u32) -> Result<(), Error> {
        self.remove_detour(index).await?;
        let mut discipline = message(index, TcHandle::INGRESS)?;
        discipline.header.handle = INGRESS_HANDLE;
        discipline.attributes.push(TcAttribute::Kind(INGRESS.to_owned()));
        let operation = format!("filter what comes in at interface {index}");
        let request = RouteNetlinkMessage::NewQueueDiscipline(discipline);
        self.change(&operation, request, NLM_F_CREATE | NLM_F_EXCL).await?;
        let mut filter = message(index, INGRESS_HANDLE)?;
        // Priority 1, all protocols; the latter as the network has it.
        filter.header.info = 1 << 16 | u32::from((libc::ETH_P_ALL as u16).to_be());
        filter.attributes.push(TcAttribute::Kind(U32.to_owned()));
        filter.attributes.push(TcAttribute::Options(redirect(target)));
        let operation = format!("turn what comes in at interface {index} to interface {target}");
        self.change(&operation, RouteNetlinkMessage::NewTrafficFilter(filter), NLM_F_CREATE | NLM_F_EXCL).await
    }

    /// Lets what comes in at an interface go its usual way again; that it does already is no error.
    pub async fn remove_detour(&self, index: u32) -> Result<(), Error> {
        let mut message = message(index, TcHandle::INGRESS)?;
        message.header.handle = INGRESS_HANDLE;
        let operation = format!("remove the filters of interface {index}");
        match self.change(&operation, RouteNetlinkMessage::DelQueueDiscipline(message), 0).await {
            // EINVAL: there is no such discipline.
            Err(error) if error.is_missing() || error.errno() == Some(nix::errno::Errno::EINVAL) => Ok(()),
            result => result,
        }
    }

    /// Makes an intermediate device, down; its number.
    pub async fn create_ifb(&self, name: &str, mtu: u32) -> Result<u32, Error> {
        crate::link::check_name(name)?;
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        message.attributes.extend((mtu > 0).then_some(LinkAttribute::Mtu(mtu)));
        message.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Ifb)]));
        self.create(&format!("create intermediate device {name}"), name, message).await
    }

    /// Sets an interface's MTU, in bytes.
    pub async fn set_mtu(&self, index: u32, mtu: u32) -> Result<(), Error> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.attributes.push(LinkAttribute::Mtu(mtu));
        self.change(&format!("set the MTU of interface {index} to {mtu}"), RouteNetlinkMessage::SetLink(message), 0)
            .await
    }
}

/// The handle of the discipline of what comes in.
const INGRESS_HANDLE: TcHandle = TcHandle { major: 0xffff, minor: 0 };

fn message(index: u32, parent: TcHandle) -> Result<TcMessage, Error> {
    let index = i32::try_from(index).map_err(|_| Error::Invalid(format!("{index} is no interface's number")))?;
    let mut message = TcMessage::with_index(index);
    message.header.parent = parent;
    Ok(message)
}

fn kind(message: &TcMessage) -> Option<&str> {
    message.attributes.iter().find_map(|attribute| match attribute {
        TcAttribute::Kind(kind) => Some(kind.as_str()),
        _ => None,
    })
}

fn bucket_of(message: &TcMessage) -> Option<Found> {
    let is_ours = message.header.handle.major == HANDLE && message.header.parent == TcHandle::ROOT;
    if !is_ours || kind(message) != Some(TBF) {
        return None;
    }
    message.attributes.iter().find_map(|attribute| {
        let TcAttribute::Options(options) = attribute else { return None };
        let Some(TcOption::Other(nested)) = options.first() else { return None };
        let mut bytes = vec![0; nested.value_len()];
        nested.emit_value(&mut bytes);
        parameters(&bytes).map(Found)
    })
}

/// Reads the attributes of a bucket.
fn parameters(options: &[u8]) -> Option<Parameters> {
    let mut found = None;
    let (mut rate64, mut peak64) = (None, None);
    for attribute in NlasIterator::new(options).flatten() {
        let value = attribute.value();
        match attribute.kind() {
            1 => {
                let word = |at: usize| value.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes);
                found = Some(Parameters {
                    rate: word(8)?.into(),
                    peak: word(20)?.into(),
                    limit: word(24)?,
                    burst_ticks: word(28)?,
                    peak_ticks: word(32)?,
                });
            }
            4 => rate64 = value.try_into().ok().map(u64::from_ne_bytes),
            5 => peak64 = value.try_into().ok().map(u64::from_ne_bytes),
            _ => {}
        }
    }
    let found = found?;
    let peak = peak64.unwrap_or(found.peak);
    let peak_ticks = if peak == 0 { 0 } else { found.peak_ticks };
    Some(Parameters { rate: rate64.unwrap_or(found.rate), peak, peak_ticks, ..found })
}

/// The attributes of `TCA_OPTIONS`, `TCA_U32_*`: all packets, stolen and sent out of the target.
fn redirect(target: u32) -> Vec<TcOption> {
    const SEL: u16 = 5;
    const ACT: u16 = 7;
    const ACT_KIND: u16 = 1;
    const ACT_OPTIONS: u16 = 2;
    const MIRRED_PARMS: u16 = 2;
    const STOLEN: u32 = 4;
    const EGRESS_REDIRECT: u32 = 1;
    // `struct tc_u32_sel`: terminal, with one key that any packet has.
    let mut selector = [0; 32];
    selector[0] = 1;
    selector[2] = 1;
    // `struct tc_mirred`: index, capabilities, action, two counts, what to do, where to.
    let parameters: Vec<u8> =
        [0, 0, STOLEN, 0, 0, EGRESS_REDIRECT, target].iter().flat_map(|word: &u32| word.to_ne_bytes()).collect();
    let mut action = nested(ACT_KIND, b"mirred\0");
    action.extend(nested(ACT_OPTIONS, &nested(MIRRED_PARMS, &parameters)));
    vec![option(SEL, selector.to_vec()), option(ACT, nested(1, &action))]
}

fn target_of(message: &TcMessage) -> Option<u32> {
    let options = message.attributes.iter().filter_map(|attribute| match attribute {
        TcAttribute::Options(options) => Some(options),
        _ => None,
    });
    options.flatten().find_map(|option| match option {
        TcOption::U32(TcFilterU32Option::Action(actions)) => actions.iter().find_map(redirects_to),
        _ => None,
    })
}

fn redirects_to(action: &TcAction) -> Option<u32> {
    let is_mirred =
        action.attributes.iter().any(|attribute| matches!(attribute, TcActionAttribute::Kind(kind) if kind == MIRRED));
    let options = action.attributes.iter().filter_map(|attribute| match attribute {
        TcActionAttribute::Options(options) if is_mirred => Some(options),
        _ => None,
    });
    options.flatten().find_map(|option| match option {
        TcActionOption::Mirror(TcActionMirrorOption::Parms(parameters)) => Some(parameters.ifindex),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_is_known_by_what_the_kernel_says_of_it() {
        let bucket = Bucket { rate: 1_250_000, burst: 125_000, peak: None };
        let found = Found(bucket.parameters());
        assert!(found.is(&bucket));
        for other in [
            Bucket { rate: 1_250_001, ..bucket },
            Bucket { burst: 126_000, ..bucket },
            Bucket { peak: Some((2_500_000, 1500)), ..bucket },
        ] {
            assert!(!found.is(&other), "{other:?}");
        }
        // 0.1 s, in ticks of 64 ns.
        assert!(ticks(1_250_000, 125_000).abs_diff(1_562_500) <= 1);
        assert_eq!(ticks(0, 1), 0);
    }

    #[test]
    fn attributes_come_back_as_they_were_written() {
        for bucket in [
            Bucket { rate: 125, burst: 536_870_912, peak: None },
            Bucket { rate: 5_000_000_000, burst: 1_000_000, peak: Some((6_000_000_000, 9000)) },
        ] {
            let mut bytes = Vec::new();
            for option in bucket.options() {
                let mut value = vec![0; option.value_len()];
                option.emit_value(&mut value);
                bytes.extend(nested(option.kind(), &value));
            }
            assert_eq!(parameters(&bytes), Some(bucket.parameters()), "{bucket:?}");
        }
        assert_eq!(parameters(&[]), None);
        assert_eq!(parameters(&nested(1, &[0; 20])), None);
    }
}
