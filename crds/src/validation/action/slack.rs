//! Validation of a Slack message: the rules that its schema cannot say.

use crate::config::{ServerUrl, SlackConfig};
use crate::manifest::diagnostics::field;
use crate::v1alpha1::Slack;
use crate::validation::context::ValidationContext;
use crate::validation::url::url;

/// Validates a Slack message and returns its configuration, with placeholders for what it reports.
pub(super) fn check(at: &str, slack: &Slack, context: &mut ValidationContext<'_>) -> SlackConfig {
    SlackConfig {
        url: url(&field(at, "url"), &slack.url, ServerUrl::HTTP, context),
        text: slack.text.clone(),
        blocks: slack.blocks.clone(),
    }
}
