//! How fast a pod may send and be sent to, by its annotations: Kubernetes' own (`kubernetes.io/ingress-bandwidth`) and Calico's
//! (`qos.projectcalico.org/ingressBandwidth`, with burst and peak), of which Calico's wins.

use serde::{Deserialize, Serialize};

use super::Pod;
use super::annotation::{path, quantity};
use crate::field::FieldError;
use crate::meta::StringMap;

/// The least and the most of a rate, in bits a second, as the kubelet has it: 1k to 1P.
const RATE: (u64, u64) = (1_000, 1_000_000_000_000_000);

/// The same of a peak rate, which is above the rate.
const PEAK: (u64, u64) = (1_010, 1_010_000_000_000_000);

/// The same of a burst, in bits: what the kernel counts in 32 bits of bytes.
const BURST: (u64, u64) = (1_000, 34_359_738_360);

/// The same of a burst at the peak rate, in bytes.
const MINBURST: (u64, u64) = (1_000, 100_000_000);

/// The burst where nobody says one, in bits: 4Gi.
const DEFAULT_BURST: u64 = 4 << 30;

/// The limits of one pod.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bandwidth {
    /// Of what it is sent.
    pub ingress: Option<BandwidthLimit>,
    /// Of what it sends.
    pub egress: Option<BandwidthLimit>,
}

/// The limits of one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BandwidthLimit {
    /// In the long run, in bits a second.
    pub rate: u64,
    /// How much may pass at once after a silence, in bits.
    pub burst: u64,
    /// How fast that may pass, in bits a second; as fast as can be if none.
    pub peak: Option<u64>,
    /// How much may pass at once even then, in bytes; the interface's MTU if none.
    pub minburst: Option<u64>,
}

impl Bandwidth {
    /// Whether there is no limit at all.
    pub const fn is_none(&self) -> bool {
        self.ingress.is_none() && self.egress.is_none()
    }
}

/// The annotations of one direction.
struct Names {
    kubernetes: &'static str,
    bandwidth: &'static str,
    burst: &'static str,
    peakrate: &'static str,
    minburst: &'static str,
}

const INGRESS: Names = Names {
    kubernetes: "kubernetes.io/ingress-bandwidth",
    bandwidth: "qos.projectcalico.org/ingressBandwidth",
    burst: "qos.projectcalico.org/ingressBurst",
    peakrate: "qos.projectcalico.org/ingressPeakrate",
    minburst: "qos.projectcalico.org/ingressMinburst",
};

const EGRESS: Names = Names {
    kubernetes: "kubernetes.io/egress-bandwidth",
    bandwidth: "qos.projectcalico.org/egressBandwidth",
    burst: "qos.projectcalico.org/egressBurst",
    peakrate: "qos.projectcalico.org/egressPeakrate",
    minburst: "qos.projectcalico.org/egressMinburst",
};

impl Pod {
    /// The pod's limits, and what is wrong with its annotations. One that is no number sets no limit; one that is out of range is the
    /// nearest that is in it.
    pub fn bandwidth(&self) -> (Bandwidth, Vec<FieldError>) {
        let mut errors = Vec::new();
        let annotations = &self.metadata.annotations;
        let ingress = limit(annotations, &INGRESS, &mut errors);
        let egress = limit(annotations, &EGRESS, &mut errors);
        (Bandwidth { ingress, egress }, errors)
    }
}

fn limit(annotations: &StringMap, names: &Names, errors: &mut Vec<FieldError>) -> Option<BandwidthLimit> {
    let mut read = |name, range| quantity(annotations, name, range, errors);
    let (kubernetes, calico) = (read(names.kubernetes, RATE), read(names.bandwidth, RATE));
    let burst = read(names.burst, BURST);
    let peak = read(names.peakrate, PEAK);
    let minburst = read(names.minburst, MINBURST);
    let rate = calico.or(kubernetes);
    for (name, value) in [(names.burst, burst), (names.peakrate, peak), (names.minburst, minburst)] {
        if value.is_some() && rate.is_none() {
            let remedy = format!("has no effect without {}", names.bandwidth);
            errors.push(FieldError::forbidden(path(name), &remedy));
        }
    }
    let rate = rate?;
    let above = peak.filter(|peak| *peak > rate);
    if let Some(peak) = peak
        && above.is_none()
    {
        let remedy = format!("must be above the bandwidth ({rate} bits a second)");
        errors.push(FieldError::invalid(path(names.peakrate), &peak, &remedy));
    }
    Some(BandwidthLimit { rate, burst: burst.unwrap_or(DEFAULT_BURST), peak: above, minburst })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::k8s::annotation::pod;

    #[test]
    fn calicos_annotations_win_over_kubernetes() {
        let pod = pod(&[
            (INGRESS.kubernetes, "10M"),
            (EGRESS.kubernetes, "1Gi"),
            (EGRESS.bandwidth, "20M"),
            (EGRESS.burst, "1M"),
            (EGRESS.peakrate, "40M"),
            (EGRESS.minburst, "3k"),
        ]);
        let (bandwidth, errors) = pod.bandwidth();
        assert_eq!(errors, []);
        let ingress = BandwidthLimit { rate: 10_000_000, burst: DEFAULT_BURST, peak: None, minburst: None };
        let egress =
            BandwidthLimit { rate: 20_000_000, burst: 1_000_000, peak: Some(40_000_000), minburst: Some(3_000) };
        assert_eq!(bandwidth, Bandwidth { ingress: Some(ingress), egress: Some(egress) });
    }

    #[test]
    fn what_is_wrong_is_named_and_harms_nothing_else() {
        for (annotations, limited, message) in [
            (vec![(INGRESS.kubernetes, "fast")], false, "must be a quantity"),
            (vec![(INGRESS.kubernetes, "-1M")], false, "must be a quantity"),
            (vec![(INGRESS.kubernetes, "1")], true, "must be between 1000 and 1000000000000000"),
            (vec![(INGRESS.kubernetes, "2P")], true, "the nearest of them is taken"),
            (vec![(INGRESS.burst, "1M")], false, "has no effect without qos.projectcalico.org/ingressBandwidth"),
            (vec![(INGRESS.bandwidth, "1M"), (INGRESS.peakrate, "1M")], true, "must be above the bandwidth"),
            (vec![(INGRESS.bandwidth, "1M"), (INGRESS.minburst, "")], true, "must be a quantity"),
        ] {
            let (bandwidth, errors) = pod(&annotations).bandwidth();
            assert_eq!(bandwidth.ingress.is_some(), limited, "{annotations:?}");
            assert_eq!(errors.len(), 1, "{annotations:?}: {errors:?}");
            assert!(errors[0].to_string().contains(message), "{annotations:?}: {errors:?}");
        }
        assert!(pod(&[]).bandwidth().0.is_none());
    }
}
