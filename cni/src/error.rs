//! Errors as the CNI specification wants them: a number, a sentence, and details.

use serde_json::{Value, json};

/// A failed CNI call, as it is printed for the runtime (CNI 1.1.0, "Error").
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{msg}{}{details}", if details.is_empty() { "" } else { ": " })]
pub struct CniError {
    /// The specification's number, or one of ours from 100 on.
    pub code: u32,
    /// One sentence.
    pub msg: String,
    /// The reason and the remedy.
    pub details: String,
}

impl CniError {
    /// The configuration's `cniVersion` is none of ours.
    pub const INCOMPATIBLE_VERSION: u32 = 1;
    /// A variable of the environment is missing or unusable.
    pub const INVALID_ENVIRONMENT: u32 = 4;
    /// The runtime's input could not be read.
    pub const IO: u32 = 5;
    /// The configuration is not JSON.
    pub const DECODING: u32 = 6;
    /// The configuration says what cannot be.
    pub const INVALID_CONFIG: u32 = 7;
    /// Nothing is wrong with the call; the same one may succeed later.
    pub const TRY_AGAIN: u32 = 11;
    /// STATUS: an ADD would fail now.
    pub const NOT_AVAILABLE: u32 = 50;
    /// The pod cannot have the addresses that it asks for, or there are none left.
    pub const ADDRESSES: u32 = 100;
    /// The kernel refused to make the interface as it should be.
    pub const INTERFACE: u32 = 101;
    /// CHECK: the interface is not as ADD made it.
    pub const CHECK_FAILED: u32 = 102;
    /// A fault of ours.
    pub const INTERNAL: u32 = 999;

    /// An error.
    // By value, since what is given is nearly always made for this call.
    #[allow(clippy::needless_pass_by_value)]
    pub fn new(code: u32, msg: impl Into<String>, details: impl ToString) -> Self {
        Self { code, msg: msg.into(), details: details.to_string() }
    }

    /// The object that the plugin prints.
    pub fn to_json(&self, version: &str) -> Value {
        json!({ "cniVersion": version, "code": self.code, "msg": self.msg, "details": self.details })
    }
}
