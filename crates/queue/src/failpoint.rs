//! Places at which a test may have the process die as by `kill -9`, between any two steps of which
//! only one may have been taken. They are there in debug builds only.
//!
//! `OBSERVER_FAILPOINT=save-jobs-added:3` has the process die when it comes there the third time.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// Where the process may be made to die, in the order in which a job comes there.
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
    "postgres-dead-held",
    "postgres-dead-buried",
    "postgres-dead-finished",
    "postgres-finished",
    "redis-dead-held",
    "redis-dead-buried",
    "redis-dead-committed",
    "redis-finished",
];

/// Dies here, if that is what the environment asks for.
#[macro_export]
macro_rules! failpoint {
    ($name:literal) => {
        #[cfg(debug_assertions)]
        $crate::failpoint::pass($name);
    };
}

/// Comes by a place; see [`crate::failpoint!`].
pub fn pass(name: &str) {
    static CHOSEN: OnceLock<Option<(String, u32)>> = OnceLock::new();
    static PASSED: AtomicU32 = AtomicU32::new(0);
    debug_assert!(ALL.contains(&name), "{name} is listed");
    let chosen = CHOSEN.get_or_init(|| {
        let chosen = std::env::var("OBSERVER_FAILPOINT").ok()?;
        let (name, times) = chosen.rsplit_once(':')?;
        Some((name.to_owned(), times.parse().ok()?))
    });
    if let Some((at, times)) = chosen
        && at == name
        && PASSED.fetch_add(1, Ordering::Relaxed) + 1 == *times
    {
        std::process::abort();
    }
}
