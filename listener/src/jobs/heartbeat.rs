//! Heartbeats of a worker, and the end of its lease if they fail.

use std::time::Duration;

use ::queue::{ClaimToken, HeartbeatResponse, WorkerId};
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;

use super::worker_config::WorkerConfig;

/// Part of the lease after which a worker without an acknowledged heartbeat cancels its work. The rest is
/// for clock drift and for the cancellation itself.
const RENEW_DEADLINE: f64 = 0.9;

/// Heartbeats per lease.
const HEARTBEATS_PER_LEASE: u32 = 4;

/// Longest interval between two heartbeats.
const MAX_INTERVAL: Duration = Duration::from_secs(10);

/// Sends heartbeats and cancels the claims that the queue names, until the lease is lost; then cancels
/// `lease_token`. The lease counts from when a heartbeat was sent, so that no queue counts a shorter one.
pub(crate) async fn run_heartbeats(
    config: &WorkerConfig,
    id: WorkerId,
    lease_token: &CancellationToken,
    cancel: impl Fn(&[ClaimToken]),
) {
    let interval = config.lease_duration / HEARTBEATS_PER_LEASE;
    let renew_deadline = config.lease_duration.mul_f64(RENEW_DEADLINE);
    let mut deadline = Instant::now() + renew_deadline;
    let mut next = Instant::now() + interval;
    loop {
        sleep_until(next.min(deadline)).await;
        let sent = Instant::now();
        if sent >= deadline {
            break;
        }
        let heartbeat = config.backend.queue.heartbeat(id);
        match timeout_at(deadline.min(sent + interval), heartbeat).await {
            Ok(Ok(HeartbeatResponse::Renewed { cancelled })) => {
                deadline = sent + renew_deadline;
                cancel(&cancelled);
            }
            Ok(Ok(HeartbeatResponse::Expired)) => break,
            Ok(Err(error)) => config.record_error(&error),
            Err(_) => tracing::debug!("worker heartbeat timed out"),
        }
        next = sent + interval.min(MAX_INTERVAL);
    }
    lease_token.cancel();
}
