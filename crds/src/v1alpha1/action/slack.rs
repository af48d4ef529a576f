//! Messages to Slack.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::v1alpha1::{ValueSource, never_null};

/// Message to a Slack channel, through an incoming webhook. If neither `text` nor `blocks` is set,
/// the text is a summary of the event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = never_null)]
pub struct Slack {
    /// URL of the incoming webhook. It is confidential, so keep it in a Secret.
    pub url: ValueSource,
    /// Template of the text in Slack's mrkdwn, 1 to 16384 characters. Values are escaped, so they
    /// cannot mention anybody or form a link. Beside `blocks`, it is what notifications show.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 16384))]
    pub text: Option<String>,
    /// Template of a JSON array of blocks, such as
    /// `[{"type": "section", "text": {"type": "mrkdwn", "text": "Order {{ new.id }}"}}]`, 1 to
    /// 16384 characters. Values are escaped for JSON and mrkdwn.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 16384))]
    pub blocks: Option<String>,
}
