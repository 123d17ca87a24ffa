//! `FelixConfiguration`: how the agent treats its node, for the cluster (`default`), for the nodes that a selector names, and for one
//! node (`node.NAME`).
//!
//! [`FelixConfigurationSpec`] has every field of Calico's API, with its type, so that a manifest is read as strictly as Calico's own
//! API server reads it. What this version does with a field is its [`Standing`]; a table of all fields ([`FIELDS`]) says it, and
//! `docs/felixconfiguration.md` is that table for operators.

mod fields;
mod layers;
mod values;

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use fields::{FIELDS, FelixConfigurationSpec};
pub use layers::{Layers, is_by_name};
pub(super) use values::text;
pub use values::*;

use crate::meta::ObjectMeta;

/// Calico's default of `mtuIfacePattern`: the names that kernels and udev give to Ethernet, wireless and the like.
pub const MTU_INTERFACES: &str = "^((en|wl|ww|sl|ib)[Pcopsvx].*|(eth|wlan|wwan).*)";

/// `projectcalico.org/v3 FelixConfiguration`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct FelixConfiguration {
    /// `default`, `node.NAME`, or any other name for one with a `nodeSelector`.
    pub metadata: ObjectMeta,
    /// What is wanted.
    #[serde(default)]
    pub spec: FelixConfigurationSpec,
}

/// What this version does with a field of FelixConfiguration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It does what the field says, and changes with it at once.
    Honoured,
    /// Nothing, by design: what the field is about does not exist here.
    NoEffect,
    /// Nothing yet.
    NotYet,
}

/// One field of `spec`.
#[derive(Debug, Clone, Copy)]
pub struct Field {
    /// Its name in a manifest.
    pub name: &'static str,
    /// What this version does with it.
    pub standing: Standing,
    /// The same in words: of one honoured, what it does; of another, what is there instead.
    pub note: &'static str,
    /// Of a field that is not honoured, the values (in JSON) that say what is done anyway, so that setting them is no cause for a warning.
    pub same: &'static [&'static str],
}

/// A field that is set and has no effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unheeded {
    /// The field.
    pub field: &'static str,
    /// Its value, as JSON.
    pub value: String,
    /// What it is about, and what is there instead.
    pub note: &'static str,
    /// Whether it will never have an effect here, rather than not yet.
    pub by_design: bool,
}

impl FelixConfigurationSpec {
    /// The names of the fields that are set.
    pub fn fields(&self) -> Vec<&'static str> {
        let Ok(Value::Object(set)) = serde_json::to_value(self) else { return Vec::new() };
        FIELDS.iter().map(|field| field.name).filter(|name| set.contains_key(*name)).collect()
    }

    /// The fields that are set to something that this version does not do, in the order of their names.
    pub fn unheeded(&self) -> Vec<Unheeded> {
        let Ok(Value::Object(set)) = serde_json::to_value(self) else { return Vec::new() };
        FIELDS
            .iter()
            .filter(|field| field.standing != Standing::Honoured)
            .filter_map(|field| {
                let value = set.get(field.name)?.to_string();
                let by_design = field.standing == Standing::NoEffect;
                (!field.same.contains(&value.as_str())).then_some(Unheeded {
                    field: field.name,
                    value,
                    note: field.note,
                    by_design,
                })
            })
            .collect()
    }
}
