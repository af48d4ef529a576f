//! Messages to Slack.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::v1alpha1::{ValueSource, never_null};

/// A message to a channel of Slack, by an incoming webhook. Where neither `text` nor `blocks` is
/// given, the text sums up the event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = never_null)]
pub struct Slack {
    /// The URL of the incoming webhook, which is a secret.
    pub url: ValueSource,
    /// Template of the text, in Slack's mrkdwn; values are escaped, so that none can mention
    /// anybody or make a link. Beside `blocks`, it is what notifications show.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 16384))]
    pub text: Option<String>,
    /// Template of a JSON array of blocks, such as
    /// `[{"type": "section", "text": {"type": "mrkdwn", "text": "Order {{ new.id }}"}}]`. Values
    /// are escaped for JSON and for mrkdwn.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 16384))]
    pub blocks: Option<String>,
}
