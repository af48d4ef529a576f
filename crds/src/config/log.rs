//! Log lines, after validation.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A log line.
#[derive(Clone, Debug, Default)]
pub struct LogConfig {
    /// Message template; a summary of the event where absent.
    pub message: Option<String>,
    /// Level of the line.
    pub level: LogLevel,
}

/// Level of a log action's line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum LogLevel {
    /// For what someone should look into.
    Warn,
    /// For what is worth knowing.
    #[default]
    Info,
    /// For finding faults.
    Debug,
}
