//! Messages to Microsoft Teams.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::v1alpha1::{ValueSource, never_null};

/// A message to a channel or chat of Microsoft Teams, by a workflow that posts what a webhook
/// receives. Where neither `text` nor `card` is given, the text sums up the event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = never_null)]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "!(has(self.text) && has(self.card))",
    "message": "give text or card, not both",
}]))]
pub struct Teams {
    /// The URL of the workflow, which is a secret.
    pub url: ValueSource,
    /// Template of the text.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 16384))]
    pub text: Option<String>,
    /// Template of an Adaptive Card as JSON, such as `{"type": "AdaptiveCard", "version": "1.4",
    /// "body": [{"type": "TextBlock", "text": "Order {{ new.id }}"}]}`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 16384))]
    pub card: Option<String>,
}
