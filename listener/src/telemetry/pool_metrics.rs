//! Connections of this process to the listener's database, counted whenever metrics are scraped.

use std::sync::{Arc, Mutex};

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntGaugeVec, Opts};
use sqlx::PgPool;

use crate::sync::lock;

/// Pools that are counted, by number.
type Pools = Arc<Mutex<Vec<(&'static str, PgPool)>>>;

/// Collector of the connections of pools.
#[derive(Clone, Debug)]
pub struct PoolMetrics {
    connections: IntGaugeVec,
    pools: Pools,
}

/// Registration of a pool, which ends when this is dropped.
#[derive(Debug)]
pub(crate) struct WatchedPool {
    name: &'static str,
    pools: Pools,
}

impl Drop for WatchedPool {
    fn drop(&mut self) {
        let mut pools = lock(&self.pools);
        if let Some(at) = pools.iter().position(|(name, _)| *name == self.name) {
            pools.remove(at);
        }
    }
}

impl PoolMetrics {
    pub(super) fn new() -> Result<Self, prometheus::Error> {
        let connections = Opts::new(
            "database_connections",
            "Connections to the listener's database, by pool (main, jobs, leases) and state (in_use, idle)",
        );
        Ok(Self {
            connections: IntGaugeVec::new(connections, &["pool", "state"])?,
            pools: Arc::default(),
        })
    }

    /// Counts the connections of a pool until the registration is dropped.
    pub(crate) fn watch(&self, name: &'static str, pool: &PgPool) -> WatchedPool {
        lock(&self.pools).push((name, pool.clone()));
        WatchedPool {
            name,
            pools: Arc::clone(&self.pools),
        }
    }
}

impl Collector for PoolMetrics {
    fn desc(&self) -> Vec<&Desc> {
        self.connections.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let pools = lock(&self.pools);
        self.connections.reset();
        for (name, pool) in &*pools {
            let (size, idle) = (pool.size(), pool.num_idle());
            let size = i64::from(size);
            let idle = i64::try_from(idle).unwrap_or(i64::MAX).min(size);
            for (state, count) in [("in_use", size - idle), ("idle", idle)] {
                let series = self.connections.with_label_values(&[name, state]);
                series.add(count);
            }
        }
        self.connections.collect()
    }
}
