//! What Calico's rules say of requests. Agents refuse it, see `docs/validation.md`; the API server takes it, so that manifests apply as
//! they are, and the refusal is said where all others are.

use schemars::JsonSchema;

/// Which HTTP requests a rule matches. Not supported: an agent refuses the policy, and keeps the last one it could read in force.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "only its schema is asked for")]
pub(super) struct HttpMatch {
    /// The methods, any of them.
    #[schemars(default, length(max = 20))]
    methods: Vec<String>,
    /// The paths, any of them.
    #[schemars(default, length(max = 20))]
    paths: Vec<HttpPath>,
}

/// A path, whole or by its beginning.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "only its schema is asked for")]
struct HttpPath {
    /// The whole path.
    #[schemars(length(max = 1024))]
    exact: Option<String>,
    /// What the path begins with.
    #[schemars(length(max = 1024))]
    prefix: Option<String>,
}
