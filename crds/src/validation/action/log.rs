//! The rules for a log line that its schema cannot say: none.

use crate::config::LogConfig;
use crate::v1alpha1::Log;

/// Turns a log line into what is written.
pub(super) fn check(log: &Log) -> LogConfig {
    LogConfig {
        message: log.message.clone(),
        level: log.level,
    }
}
