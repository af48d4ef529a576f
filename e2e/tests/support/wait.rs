//! Waiting for what comes of itself in a cluster, and how long it may go without progress.

use std::time::Duration;

pub(crate) use testkit::wait::until;

/// For what happens within seconds on an idle machine; a busy one takes twenty times as long.
pub(crate) const SOON: Duration = Duration::from_mins(5);

/// For what begins with an image that is started for the first time.
pub(crate) const LATE: Duration = Duration::from_mins(10);
