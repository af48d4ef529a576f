//! Log lines, for which the schema says it all.

use crate::config::LogConfig;
use crate::v1alpha1::Log;

/// Returns the configuration of a log line.
pub(super) fn check(log: &Log) -> LogConfig {
    LogConfig {
        message: log.message.clone(),
        level: log.level,
    }
}
