//! The console of a listener.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::never_null;

/// Console: pages under `/console`, at the port of the HTTP API and for those whom that admits. Each pod answers
/// for the whole listener.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = never_null)]
pub struct Console {
    /// Whether nobody may change anything there, with whatever role; default false. The HTTP API is not
    /// restricted by it.
    #[serde(default)]
    pub read_only: bool,
}
