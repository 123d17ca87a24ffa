//! Which of several paths to a prefix is used (RFC 4271, 9.1.2, with RFC 4456, 9), as one pure function.
//!
//! [`select`] runs the steps in the order of [`Step`], each dropping the paths that are worse than the best of those left:
//!
//! 1. routes of our own,
//! 2. the highest LOCAL_PREF (100 where it is missing),
//! 3. the shortest AS_PATH,
//! 4. the lowest ORIGIN,
//! 5. among paths from the same neighbouring AS, the lowest MULTI_EXIT_DISC (0 where it is missing),
//! 6. paths from other ASes before those from our own,
//! 7. the lowest BGP identifier, of the originator where a reflector names it,
//! 8. the shortest CLUSTER_LIST,
//! 9. the lowest peer address.
//!
//! Paths that are still together after step 6 are equally good for forwarding.

use core::fmt;
use std::net::{IpAddr, Ipv4Addr};

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use crate::wire::Attributes;

/// LOCAL_PREF of a path that has none.
pub const DEFAULT_LOCAL_PREF: u32 = 100;

/// Who a path comes from, as far as selection asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Source {
    /// Ourselves.
    Local,
    /// A peer.
    Peer {
        /// It is in another AS.
        external: bool,
        /// Its BGP identifier.
        router_id: Ipv4Addr,
        /// Its address.
        address: IpAddr,
    },
}

/// A path to choose from.
#[derive(Debug, Clone, Copy)]
pub struct Candidate<'a> {
    /// Its attributes.
    pub attributes: &'a Attributes,
    /// Who it comes from.
    pub source: Source,
}

/// A step of the selection, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Step {
    /// There was nothing to choose from.
    OnlyPath,
    /// Our own route.
    LocalRoute,
    /// LOCAL_PREF.
    LocalPref,
    /// Length of AS_PATH.
    AsPathLength,
    /// ORIGIN.
    Origin,
    /// MULTI_EXIT_DISC.
    Med,
    /// eBGP before iBGP.
    External,
    /// BGP identifier.
    RouterId,
    /// Length of CLUSTER_LIST.
    ClusterList,
    /// Peer address.
    PeerAddress,
}

impl Step {
    /// Why the best path is best, if this step decided.
    pub fn won(self) -> &'static str {
        match self {
            Self::OnlyPath => "the only path",
            Self::LocalRoute => "a route of our own",
            Self::LocalPref => "the highest LOCAL_PREF",
            Self::AsPathLength => "the shortest AS_PATH",
            Self::Origin => "the lowest ORIGIN",
            Self::Med => "the lowest MULTI_EXIT_DISC of its AS",
            Self::External => "from another AS",
            Self::RouterId => "the lowest BGP identifier",
            Self::ClusterList => "the shortest CLUSTER_LIST",
            Self::PeerAddress => "the lowest peer address",
        }
    }

    /// Why a path is not best, if this step dropped it.
    pub fn lost(self) -> &'static str {
        match self {
            Self::OnlyPath => "not usable",
            Self::LocalRoute => "we have a route of our own",
            Self::LocalPref => "another has a higher LOCAL_PREF",
            Self::AsPathLength => "another has a shorter AS_PATH",
            Self::Origin => "another has a lower ORIGIN",
            Self::Med => "another of its AS has a lower MULTI_EXIT_DISC",
            Self::External => "another comes from another AS",
            Self::RouterId => "another has a lower BGP identifier",
            Self::ClusterList => "another has a shorter CLUSTER_LIST",
            Self::PeerAddress => "another has a lower peer address",
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.won())
    }
}

/// What [`select`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection {
    /// The best path's index.
    pub best: usize,
    /// The step that left it alone.
    pub decided_by: Step,
    /// All paths that are as good for forwarding, the best included, in their given order.
    pub equal: SmallVec<[usize; 4]>,
}

/// Chooses the best of `candidates`, and tells `lost` of every other when it falls. `None` where there are none.
pub fn select(candidates: &[Candidate<'_>], mut lost: impl FnMut(usize, Step)) -> Option<Selection> {
    let mut race =
        Race { candidates, left: (0..candidates.len()).collect(), decided_by: Step::OnlyPath, lost: &mut lost };
    race.lowest(Step::LocalRoute, |path| path.source != Source::Local);
    race.lowest(Step::LocalPref, |path| u32::MAX - path.attributes.local_pref.unwrap_or(DEFAULT_LOCAL_PREF));
    race.lowest(Step::AsPathLength, |path| path.attributes.as_path.length());
    race.lowest(Step::Origin, |path| path.attributes.origin);
    race.lowest_med();
    race.lowest(Step::External, |path| !matches!(path.source, Source::Peer { external: true, .. }));
    let equal = race.left.clone();
    race.lowest(Step::RouterId, |path| match path.source {
        Source::Local => None,
        Source::Peer { router_id, .. } => Some(path.attributes.originator_id.unwrap_or(router_id)),
    });
    race.lowest(Step::ClusterList, |path| path.attributes.cluster_list.len());
    race.lowest(Step::PeerAddress, |path| match path.source {
        Source::Local => None,
        Source::Peer { address, .. } => Some(address),
    });
    let best = *race.left.first()?;
    Some(Selection { best, decided_by: race.decided_by, equal })
}

struct Race<'a, 'b> {
    candidates: &'a [Candidate<'b>],
    left: SmallVec<[usize; 4]>,
    decided_by: Step,
    lost: &'a mut dyn FnMut(usize, Step),
}

impl Race<'_, '_> {
    fn lowest<K: Ord>(&mut self, step: Step, key: impl Fn(&Candidate<'_>) -> K) {
        if self.left.len() > 1
            && let Some(lowest) = self.left.iter().map(|&index| key(&self.candidates[index])).min()
        {
            self.drop_where(step, |path| key(path) > lowest);
        }
    }

    /// MULTI_EXIT_DISC compares only paths of one neighbouring AS, so the lowest is taken AS by AS: the outcome then does not depend on
    /// the order in which paths are looked at.
    fn lowest_med(&mut self) {
        if self.left.len() < 2 {
            return;
        }
        let med = |path: &Candidate<'_>| (path.attributes.as_path.neighbour(), path.attributes.med.unwrap_or(0));
        let all: SmallVec<[_; 4]> = self.left.iter().map(|&index| med(&self.candidates[index])).collect();
        self.drop_where(Step::Med, |path| {
            let (neighbour, value) = med(path);
            all.iter().any(|&(other, lower)| other == neighbour && lower < value)
        });
    }

    fn drop_where(&mut self, step: Step, falls: impl Fn(&Candidate<'_>) -> bool) {
        let before = self.left.len();
        let (candidates, lost) = (self.candidates, &mut *self.lost);
        self.left.retain(|index| {
            let falls = falls(&candidates[*index]);
            if falls {
                lost(*index, step);
            }
            !falls
        });
        if self.left.len() == 1 && before > 1 {
            self.decided_by = step;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{AsPath, Origin, Segment};

    fn path(numbers: &[u32]) -> Attributes {
        Attributes { as_path: AsPath::new([Segment::Sequence(numbers.to_vec())]), ..Attributes::default() }
    }

    fn peer(external: bool, id: u8) -> Source {
        Source::Peer { external, router_id: Ipv4Addr::new(0, 0, 0, id), address: IpAddr::from([10, 0, 0, id]) }
    }

    fn run(paths: &[(Attributes, Source)]) -> (usize, Step, Vec<(usize, Step)>) {
        let candidates: Vec<_> =
            paths.iter().map(|(attributes, source)| Candidate { attributes, source: *source }).collect();
        let mut lost = Vec::new();
        let selection = select(&candidates, |index, step| lost.push((index, step))).expect("there are candidates");
        (selection.best, selection.decided_by, lost)
    }

    #[test]
    fn every_step_decides_when_those_before_it_cannot() {
        let base = || path(&[1, 2]);
        let pairs = [
            ((base(), Source::Local), (base(), peer(true, 1)), Step::LocalRoute),
            (
                (Attributes { local_pref: Some(101), ..path(&[1, 2, 3]) }, peer(true, 2)),
                (base(), peer(true, 1)),
                Step::LocalPref,
            ),
            (
                (Attributes { origin: Origin::Egp, ..path(&[1]) }, peer(true, 2)),
                (base(), peer(true, 1)),
                Step::AsPathLength,
            ),
            (
                (Attributes { med: Some(9), ..base() }, peer(true, 2)),
                (Attributes { origin: Origin::Egp, ..base() }, peer(true, 1)),
                Step::Origin,
            ),
            ((base(), peer(false, 2)), (Attributes { med: Some(1), ..base() }, peer(true, 1)), Step::Med),
            ((base(), peer(true, 2)), (base(), peer(false, 1)), Step::External),
            (
                (Attributes { cluster_list: vec![Ipv4Addr::LOCALHOST], ..base() }, peer(false, 1)),
                (base(), peer(false, 2)),
                Step::RouterId,
            ),
        ];
        for (better, worse, step) in pairs {
            assert_eq!(run(&[better.clone(), worse.clone()]), (0, step, vec![(1, step)]));
            assert_eq!(run(&[worse, better]), (1, step, vec![(0, step)]));
        }
    }

    #[test]
    fn the_originator_counts_before_the_reflector_and_clusters_break_the_tie() {
        let reflected = |clusters: usize| Attributes {
            originator_id: Some(Ipv4Addr::new(9, 9, 9, 9)),
            cluster_list: vec![Ipv4Addr::LOCALHOST; clusters],
            ..path(&[1])
        };
        let (best, step, _) = run(&[(reflected(2), peer(false, 1)), (reflected(1), peer(false, 2))]);
        assert_eq!((best, step), (1, Step::ClusterList));
        let (best, step, _) = run(&[(reflected(1), peer(false, 2)), (reflected(1), peer(false, 1))]);
        assert_eq!((best, step), (1, Step::PeerAddress));
    }

    #[test]
    fn med_is_compared_within_a_neighbouring_as_only() {
        let with = |first, med| Attributes { med: Some(med), ..path(&[first, 7]) };
        // The lowest identifier has the highest MED of its AS, and so must not win through the other AS.
        let paths = [(with(1, 20), peer(true, 1)), (with(2, 30), peer(true, 3)), (with(1, 10), peer(true, 2))];
        let (best, step, lost) = run(&paths);
        assert_eq!((best, step), (2, Step::RouterId));
        assert_eq!(lost, vec![(0, Step::Med), (1, Step::RouterId)]);
    }

    #[test]
    fn one_path_wins_without_a_reason_and_none_has_none() {
        assert_eq!(run(&[(path(&[1]), peer(true, 1))]), (0, Step::OnlyPath, vec![]));
        assert_eq!(select(&[], |_, _| ()), None);
    }

    #[test]
    fn equal_paths_are_told() {
        let attributes = path(&[1]);
        let candidates = [3, 1, 2].map(|id| Candidate { attributes: &attributes, source: peer(false, id) });
        let selection = select(&candidates, |_, _| ()).expect("there are candidates");
        assert_eq!((selection.best, selection.equal.as_slice()), (1, [0, 1, 2].as_slice()));
    }
}
