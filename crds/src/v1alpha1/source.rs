//! Sources: how changes get into the change log.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{never_null, open};

/// How changes get into the change log. Set exactly one source. Its kind cannot change on an
/// existing listener: each kind numbers and orders changes in its own way, so a stored position
/// would point to the wrong place, and events would be lost or repeated. Create a new listener with
/// another identity instead.
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
    /// Triggers on the tracked tables, which write to the table `observer.change_log` in the
    /// transaction of the change. `select observer.track('public.orders')` in the database starts
    /// to log a table.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub triggers: Option<TriggerSource>,
}

/// Triggers on the tracked tables. There is nothing to set, as tables are tracked in SQL.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = open)]
pub struct TriggerSource {}

impl Default for Source {
    fn default() -> Self {
        Self {
            triggers: Some(TriggerSource {}),
        }
    }
}
