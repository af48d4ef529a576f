//! Signs of life, and the end of a worker's right when they fail.

use std::time::Duration;

use ::queue::{ClaimToken, HeartbeatResponse, WorkerId};
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;

use super::worker_config::WorkerConfig;

/// Of a lease, the part after which work is cut off that no sign of life was answered for: the rest
/// is for clocks that go at other rates, and for the cut itself.
const SAFE: f64 = 0.9;

/// Signs given in one lease.
const SIGNS: u32 = 4;

/// Gives signs of life and tells which claims are to be cut off, until `right` ends; ends it when
/// the signs fail for too long. Counted from before a sign is given, so that no queue counts less.
pub(crate) async fn run_heartbeats(
    setup: &WorkerConfig,
    id: WorkerId,
    right: &CancellationToken,
    cancel: impl Fn(&[ClaimToken]),
) {
    let pause = setup.lease / SIGNS;
    let mut deadline = Instant::now() + setup.lease.mul_f64(SAFE);
    let mut next = Instant::now() + pause;
    loop {
        sleep_until(next.min(deadline)).await;
        let asked = Instant::now();
        if asked >= deadline {
            break;
        }
        match timeout_at(
            deadline.min(asked + pause),
            setup.backend.queue.heartbeat(id),
        )
        .await
        {
            Ok(Ok(HeartbeatResponse::Renewed { cancelled })) => {
                deadline = asked + setup.lease.mul_f64(SAFE);
                cancel(&cancelled);
            }
            Ok(Ok(HeartbeatResponse::Expired)) => break,
            Ok(Err(error)) => setup.failed(&error),
            Err(_) => tracing::debug!("the job queue does not answer to a sign of life"),
        }
        next = asked + pause.min(Duration::from_secs(10));
    }
    right.cancel();
}
