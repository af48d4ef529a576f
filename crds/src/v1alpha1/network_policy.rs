//! The network policy of a listener's pods.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Network policy that the operator makes for a listener's pods. It always restricts who reaches
/// them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NetworkPolicyOptions {
    /// What the pods may connect to; default `Open`. `Open` does not restrict it. `Derived` allows
    /// DNS, the API server, and what this listener and the observers that it runs name: databases,
    /// brokers, collectors, and the endpoints of actions and lookups. It follows changes of
    /// observers. Further policies add to it.
    #[serde(default)]
    pub egress: NetworkPolicyEgress,
}

/// What the pods of a listener may connect to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum NetworkPolicyEgress {
    /// Everything, as far as other policies allow it.
    #[default]
    Open,
    /// What the listener and its observers name.
    Derived,
}
