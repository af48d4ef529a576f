//! The rules for a message to Slack that its schema cannot say.

use super::super::checks::Checks;
use super::super::report::field;
use super::url;
use super::webhook::URL;
use crate::config::SlackConfig;
use crate::resources::Slack;

/// Turns a message to Slack into what is sent.
pub(super) fn check(at: &str, slack: &Slack, checks: &mut Checks<'_>) -> SlackConfig {
    SlackConfig {
        url: url(&field(at, "url"), &slack.url, URL, checks),
        text: slack.text.clone(),
        blocks: slack.blocks.clone(),
    }
}
