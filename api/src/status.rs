//! `status` of the kinds that people write: what became of an object, as conditions. The controller writes it.

use serde::{Deserialize, Serialize};

/// The type of the condition that says whether an object is valid and in use.
pub const ACCEPTED: &str = "Accepted";

/// The type of the condition that says on how many of the nodes that it concerns an object is in force.
pub const PROGRAMMED: &str = "Programmed";

/// `status` of a kind of which there is nothing to say but conditions.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Status {
    /// How the object stands. `Accepted` says whether it is valid and in use, and if not, which field is wrong and what would be right.
    /// `Programmed` says on how many of the nodes that it concerns it is in force.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// `meta/v1 Condition`: one aspect of how an object stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// The aspect, such as `Accepted`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Whether it is so.
    pub status: ConditionStatus,
    /// Why, in one word for programs.
    pub reason: String,
    /// Why, for people.
    pub message: String,
    /// When `status` changed last, in RFC 3339.
    pub last_transition_time: String,
    /// The generation of the object that this is about: where `metadata.generation` is greater, nobody has looked at it since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<u64>,
}

/// Whether a condition holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum ConditionStatus {
    /// It does.
    True,
    /// It does not.
    False,
    /// Nobody can tell.
    Unknown,
}
