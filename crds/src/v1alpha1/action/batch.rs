//! Batches of events.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::duration::HumanDuration;

/// Delivery of several events in one request. The body is a JSON array, in which each event has its
/// own `id`. A batch holds first attempts only, and at most one event of each key; events join it
/// until it is full or sent. It counts once towards `maxConcurrency` and rate limits. Retries are
/// sent one by one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Batch {
    /// Most events in one request, 1 to 1000; default 50.
    #[serde(default = "default_max_events")]
    #[schemars(range(min = 1, max = 1000))]
    pub max_events: u32,
    /// Most bytes of the events in one request, 1024 to 16777216; default 1048576. A larger event
    /// is sent alone.
    #[serde(default = "default_max_bytes")]
    #[schemars(range(min = 1024, max = 16_777_216))]
    pub max_bytes: u32,
    /// Time that the first event of a batch waits for others, 1ms to 1m; default 10ms.
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
