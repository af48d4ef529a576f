//! Connections of this process to the listener's database, counted whenever metrics are scraped.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntGaugeVec, Opts};
use sqlx::PgPool;

use crate::sync::lock;

/// Pools that are counted.
#[derive(Debug, Default)]
struct Pools {
    /// Number of the next one.
    next: u64,
    by_number: BTreeMap<u64, (&'static str, PgPool)>,
}

/// Collector of the connections of pools.
#[derive(Clone, Debug)]
pub struct PoolMetrics {
    connections: IntGaugeVec,
    pools: Arc<Mutex<Pools>>,
}

/// Registration of a pool, which ends when this is dropped.
#[derive(Debug)]
pub(crate) struct WatchedPool {
    number: u64,
    pools: Arc<Mutex<Pools>>,
}

impl Drop for WatchedPool {
    fn drop(&mut self) {
        // Others may have the same name, as where a session follows another.
        lock(&self.pools).by_number.remove(&self.number);
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
        let mut pools = lock(&self.pools);
        let number = pools.next;
        pools.next += 1;
        pools.by_number.insert(number, (name, pool.clone()));
        WatchedPool {
            number,
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
        for (name, pool) in pools.by_number.values() {
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
