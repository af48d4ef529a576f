//! Messages to Microsoft Teams.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::v1alpha1::{ValueSource, never_null};

/// Message to a Microsoft Teams channel or chat, through a workflow that posts what its webhook
/// receives. If neither `text` nor `card` is set, the text is a summary of the event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = never_null)]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "!(has(self.text) && has(self.card))",
    "message": "give text or card, not both",
}]))]
pub struct Teams {
    /// URL of the workflow. It is confidential, so keep it in a Secret.
    pub url: ValueSource,
    /// Template of the text, 1 to 16384 characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 16384))]
    pub text: Option<String>,
    /// Template of an Adaptive Card as JSON, such as
    /// `{"type": "AdaptiveCard", "version": "1.4", "body": [{"type": "TextBlock", "text": "Order {{ new.id }}"}]}`,
    /// 1 to 16384 characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 16384))]
    pub card: Option<String>,
}
