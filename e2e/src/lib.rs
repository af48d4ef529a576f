//! What the receiver of webhooks in the cluster and the tests outside say to each other.

use serde::{Deserialize, Serialize};

/// Port on which the receiver takes webhooks and answers the tests.
pub const PORT: u16 = 8080;

/// Environment variable with the signing secrets that the receiver knows, separated by commas.
pub const SECRETS: &str = "SINK_SECRETS";

/// Where the tests ask for receipts.
pub const RECEIVED: &str = "/received";

/// Where the tests say how webhooks are answered.
pub const BEHAVE: &str = "/behave";

/// Most receipts in one answer to the tests.
pub const PAGE: usize = 10_000;

/// One webhook that arrived.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Receipt {
    /// `webhook-id`; empty where there was none.
    pub id: String,
    /// Address that it came from.
    pub from: String,
    /// Path of the URL.
    pub path: String,
    /// Key of the event, if the body is one.
    pub key: Option<String>,
    /// Column `v` of the new row: which change of its key it is.
    pub sequence: Option<i64>,
    /// When the row was changed by the clock of the database, in microseconds since 1970.
    pub occurred_at: Option<i64>,
    /// When it had arrived, in microseconds since 1970.
    pub arrived_at: i64,
    /// How it was answered.
    pub status: u16,
    /// Which of the known secrets it was signed with, the first that fits; none if its signature
    /// is missing or wrong.
    pub secret: Option<usize>,
}

/// How webhooks are answered from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Behaviour {
    /// Status of the answer.
    pub status: u16,
    /// Milliseconds before the answer.
    #[serde(default)]
    pub delay_ms: u64,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            status: 204,
            delay_ms: 0,
        }
    }
}
