//! The rules for a message to Slack that its schema cannot say.

use super::webhook::URL;
use crate::config::SlackConfig;
use crate::manifest::diagnostics::field;
use crate::v1alpha1::Slack;
use crate::validation::context::ValidationContext;
use crate::validation::url::url;

/// Turns a message to Slack into what is sent.
pub(super) fn check(at: &str, slack: &Slack, context: &mut ValidationContext<'_>) -> SlackConfig {
    SlackConfig {
        url: url(&field(at, "url"), &slack.url, URL, context),
        text: slack.text.clone(),
        blocks: slack.blocks.clone(),
    }
}
