//! Messages to Slack, after validation.

use super::Redacted;

/// A message to Slack.
#[derive(Clone, Debug)]
pub struct SlackConfig {
    /// The incoming webhook, `http` or `https`.
    pub url: Redacted,
    /// Template of the text; a summary of the event where there are no blocks either.
    pub text: Option<String>,
    /// Template of the blocks, a JSON array.
    pub blocks: Option<String>,
}
