//! Log lines, for which the schema says it all.

use crate::config::LogConfig;
use crate::v1alpha1::Log;
use crate::validation::context::ValidationContext;

/// Returns the configuration of a log line.
pub(super) fn check(_: &str, log: &Log, _: &mut ValidationContext<'_>) -> LogConfig {
    LogConfig {
        message: log.message.clone(),
        level: log.level,
    }
}
