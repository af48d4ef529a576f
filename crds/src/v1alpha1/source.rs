//! How changes get into the change log.

use schemars::{JsonSchema, Schema};
use serde::{Deserialize, Serialize};

use super::never_null;

/// How changes get into the change log that a listener reads. Give exactly one source. Its kind cannot
/// change on an existing listener: another kind orders and numbers changes in its own way, so that a
/// stored position would mean nothing in it, and events would be lost or repeated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = never_null)]
#[schemars(extend("x-kubernetes-validations" = [
    {
        "rule": "[has(self.triggers)].filter(given, given).size() == 1",
        "message": "give exactly one source, such as triggers: {}",
    },
    {
        "rule": "has(self.triggers) == has(oldSelf.triggers)",
        "message": "the kind of source cannot change: stored positions mean nothing to another kind; make a new listener for it",
    },
]))]
pub struct Source {
    /// Triggers write to the log `observer.change_log` in the same transaction as the change.
    /// `select observer.track('public.orders')` in the database begins to log a table.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub triggers: Option<TriggerSource>,
}

/// Triggers on tracked tables. It has no settings: tables are tracked in SQL.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = open)]
pub struct TriggerSource {}

/// The cluster takes no `additionalProperties: false`; it refuses unknown fields by itself.
fn open(schema: &mut Schema) {
    schema.remove("additionalProperties");
}

impl Default for Source {
    fn default() -> Self {
        Self {
            triggers: Some(TriggerSource {}),
        }
    }
}
