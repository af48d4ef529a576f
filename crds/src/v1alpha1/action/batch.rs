//! Events that go out together.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::duration::HumanDuration;

/// One request for several events that are due at about the same time, each for the first time; its
/// body is an array, each event in it with its own `id`. One holds at most one event of a key. It counts
/// once to `maxConcurrency` and to rates, and may be joined until it is full or its turn has come. What
/// fails is attempted again by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Batch {
    /// Most events in one request, 1 to 1000.
    #[serde(default = "default_max_events")]
    #[schemars(range(min = 1, max = 1000))]
    pub max_events: u32,
    /// Most bytes of all of them, 1024 to 16777216. A larger event goes by itself.
    #[serde(default = "default_max_bytes")]
    #[schemars(range(min = 1024, max = 16_777_216))]
    pub max_bytes: u32,
    /// How long the first waits for others, 1ms to 1m.
    #[serde(default = "default_linger")]
    pub linger: HumanDuration,
}

fn default_max_events() -> u32 {
    50
}

fn default_max_bytes() -> u32 {
    1024 * 1024
}

fn default_linger() -> HumanDuration {
    HumanDuration::from_millis(10)
}
