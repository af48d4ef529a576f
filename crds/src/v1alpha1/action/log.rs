//! Log lines.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::LogLevel;
use crate::v1alpha1::never_null;

/// A line in the listener's log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = never_null)]
pub struct Log {
    /// Template of the line. Left out, it sums up the event.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 8192))]
    pub message: Option<String>,
    /// Level of the line.
    #[serde(default)]
    pub level: LogLevel,
}
