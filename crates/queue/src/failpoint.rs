//! Failpoints: places where a test can make the process die as by `kill -9`, between any two steps. Debug
//! builds only.
//!
//! `OBSERVER_FAILPOINT=save-jobs-added:3` kills the process when it reaches that point for the third time.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// All failpoints, in the order in which a job reaches them.
pub const ALL: &[&str] = &[
    "save-begun",
    "save-owned",
    "save-named",
    "save-moved",
    "save-buried",
    "save-settled",
    "save-jobs-added",
    "save-committed",
    "jobs-claimed",
    "job-attempted",
    "postgres-discard-verified",
    "postgres-dead-letters-written",
    "postgres-discard-finished",
    "postgres-finished",
    "redis-discard-verified",
    "redis-dead-letters-written",
    "redis-dead-letters-committed",
    "redis-finished",
];

/// Aborts the process here if the environment says so.
#[macro_export]
macro_rules! failpoint {
    ($name:literal) => {
        #[cfg(debug_assertions)]
        $crate::failpoint::reach($name);
    };
}

/// Reaches a failpoint; see [`crate::failpoint!`].
pub fn reach(name: &str) {
    static CHOSEN: OnceLock<Option<(String, u32)>> = OnceLock::new();
    static REACHED: AtomicU32 = AtomicU32::new(0);
    debug_assert!(ALL.contains(&name), "{name} is listed");
    let chosen = CHOSEN.get_or_init(|| {
        let chosen = std::env::var("OBSERVER_FAILPOINT").ok()?;
        let (name, times) = chosen.rsplit_once(':')?;
        Some((name.to_owned(), times.parse().ok()?))
    });
    if let Some((at, times)) = chosen
        && at == name
        && REACHED.fetch_add(1, Ordering::Relaxed) + 1 == *times
    {
        std::process::abort();
    }
}
