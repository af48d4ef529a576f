//! The HTTP API, after validation.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Redacted;

/// The HTTP API of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiConfig {
    /// Tokens that requests may present; names and values are unique.
    pub tokens: Vec<ApiToken>,
    /// Whether users and service accounts of the cluster are admitted.
    pub kubernetes: bool,
    /// The console; there is none where absent.
    pub console: Option<ConsoleConfig>,
}

/// The console of a listener.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConsoleConfig {
    /// Whether nobody may change anything there.
    pub read_only: bool,
}

/// A token of the HTTP API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiToken {
    /// Its name in logs.
    pub name: String,
    /// Its value.
    pub token: Redacted,
    /// What it admits to.
    pub role: ApiRole,
    /// The only tenant that it admits to; all where absent.
    pub tenant: Option<String>,
}

/// What a caller of the HTTP API may do. The later one includes the earlier.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
pub enum ApiRole {
    /// It looks at everything.
    Read,
    /// It also changes dead letters and jobs.
    Operate,
}
