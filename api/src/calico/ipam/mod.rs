//! What IPAM keeps in the datastore, in Calico's form, so that Calico's tools read what Tortie writes and the other way round.
//!
//! A pool is cut into blocks. Before a node uses a block it says so in a [`BlockAffinity`]; the [`IpamBlock`] then has one entry for
//! each address, and an [`IpamHandle`] names the blocks that an attachment's addresses are in. People set two kinds of their own:
//! [`IpamConfiguration`], how blocks are given out, and [`IpReservation`], addresses that nobody gets unasked.

mod affinity;
mod block;
mod handle;
mod labels;
mod settings;

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserializer;
use serde::de::{Error, Unexpected, Visitor};
use serde_json::Value;

pub(crate) use affinity::BLOCK_AFFINITY_FIELDS;
pub use affinity::{AffinityState, BlockAffinity, BlockAffinitySpec};
pub(crate) use block::IPAM_BLOCK_FIELDS;
pub use block::{AllocationAttribute, IpamBlock, IpamBlockSpec};
pub(crate) use handle::IPAM_HANDLE_FIELDS;
pub use handle::{IpamHandle, IpamHandleSpec};
pub use labels::{HOSTNAME_HASH_LABEL, hostname_hash};
pub use settings::{AddressPersistence, IpReservation, IpReservationSpec, IpamConfiguration, IpamConfigurationSpec};

/// Fields of a `spec` that this version does not know, as somebody else wrote them: they are written back as they are.
/// [`decode`](crate::decode()) fills them in.
pub type OtherFields = BTreeMap<String, Value>;

/// The fields of a `spec` that are not among the known ones.
pub(crate) fn other_fields(object: &Value, known: &[&str]) -> OtherFields {
    let Some(Value::Object(spec)) = object.get("spec") else { return OtherFields::new() };
    spec.iter()
        .filter(|(name, _)| !known.contains(&name.as_str()))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

/// Reads a truth value that Calico's `crd.projectcalico.org/v1` has as text in places: `"true"`.
fn truth_or_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    struct Truth;

    impl Visitor<'_> for Truth {
        type Value = bool;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("true or false, or the text of one of them")
        }

        fn visit_bool<E: Error>(self, truth: bool) -> Result<bool, E> {
            Ok(truth)
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<bool, E> {
            match text {
                "" => Ok(false),
                other => other.parse().map_err(|_| E::invalid_value(Unexpected::Str(other), &self)),
            }
        }

        fn visit_unit<E: Error>(self) -> Result<bool, E> {
            Ok(false)
        }
    }

    deserializer.deserialize_any(Truth)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// What is known is not kept as if it were somebody else's, and nothing that is somebody else's is lost.
    #[test]
    fn the_known_fields_are_those_that_are_written() {
        fn known<T: serde::Serialize>(spec: &T, fields: &[&str]) {
            let written = serde_json::to_value(json!({"spec": spec})).expect("JSON");
            assert_eq!(other_fields(&written, fields), OtherFields::new());
            let names = written["spec"].as_object().expect("fields").keys().cloned().collect::<Vec<_>>();
            assert_eq!(names.len(), fields.len(), "{names:?} and {fields:?}");
        }

        let cidr = "10.0.0.0/31";
        let block: IpamBlockSpec = serde_json::from_value(json!({
            "cidr": cidr, "affinity": "host:n", "affinityClaimTime": "2026-01-01T00:00:00Z", "allocations": [null, 0],
            "unallocated": [0], "attributes": [{}], "sequenceNumberForAllocation": {"1": 5}, "deleted": true,
        }))
        .expect("a block");
        known(&block, &IPAM_BLOCK_FIELDS);
        assert_eq!(block.node(), None, "it is as good as gone");
        let affinity: BlockAffinitySpec =
            serde_json::from_value(json!({"node": "n", "cidr": cidr, "deleted": "false"})).expect("an affinity");
        known(&affinity, &BLOCK_AFFINITY_FIELDS);
        assert!(affinity.is_of_node());
        let handle: IpamHandleSpec =
            serde_json::from_value(json!({"handleID": "h", "deleted": "true"})).expect("a handle");
        known(&handle, &IPAM_HANDLE_FIELDS);
    }
}
