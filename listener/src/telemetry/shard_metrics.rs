//! Metrics of how shards change hands.

use prometheus::{IntCounter, IntCounterVec, Opts};
use server::registry::Registry;

use super::metrics::registered;

/// Metrics of how shards change hands.
#[derive(Clone, Debug)]
pub struct ShardMetrics {
    /// Shards that this process claimed, by kind: `takeover` from another process, or `first`.
    pub claims: IntCounterVec,
    /// Shard leases that this process lost, rather than releasing them.
    pub leases_lost: IntCounter,
    /// Checkpoint commits rejected because another process owns the shard.
    pub checkpoint_fenced: IntCounter,
    /// Requests about Leases, by verb.
    pub lease_requests: IntCounterVec,
}

impl ShardMetrics {
    /// Registers the metrics.
    pub(super) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let claims = Opts::new(
            "shard_claims_total",
            "Shards that this process claimed, by kind: takeover (another process had it before), first",
        );
        let leases_lost = IntCounter::new(
            "shard_leases_lost_total",
            "Shard leases that this process lost: it did not renew its Lease in time, or somebody deleted it",
        )?;
        let checkpoint_fenced = IntCounter::new(
            "checkpoint_fenced_total",
            "Checkpoint commits rejected because another process owns the shard",
        )?;
        let lease_requests = Opts::new("lease_requests_total", "Requests about Leases");
        let lease_requests = IntCounterVec::new(lease_requests, &["verb"])?;
        Ok(Self {
            claims: registered(registry, IntCounterVec::new(claims, &["kind"])?)?,
            leases_lost: registered(registry, leases_lost)?,
            checkpoint_fenced: registered(registry, checkpoint_fenced)?,
            lease_requests: registered(registry, lease_requests)?,
        })
    }
}
