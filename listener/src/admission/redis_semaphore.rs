//! Semaphore in Redis: concurrency limits shared by all processes of a listener. Permits expire, so those
//! of a process that died are free once its attempts must have ended.

use std::time::Duration;

use backoff::Backoff;
use redis::{RedisError, Script, cmd};
use redis_connection::RedisConnection;
use tokio::time::{Instant, sleep, timeout};
use uuid::Uuid;

use super::redis_limiter::RedisLimiter;

/// Backoff while no permit is free.
const RETRY: Backoff = Backoff::new(Duration::from_millis(10), Duration::from_millis(200));

/// `KEYS`: a sorted set of permits by expiry. `ARGV`: the permit's id, its lease in microseconds, and the
/// limit. Returns whether one was free. By the server's clock.
pub(crate) const ACQUIRE: &str = "
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
if redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[3]) then
    return 0
end
redis.call('ZADD', KEYS[1], string.format('%.0f', now + tonumber(ARGV[2])), ARGV[1])
local last = redis.call('ZRANGE', KEYS[1], -1, -1, 'WITHSCORES')
redis.call('PEXPIRE', KEYS[1], math.ceil((tonumber(last[2]) - now) / 1000) + 1000)
return 1";

/// Permit that is held until it is released or its lease expires.
#[must_use = "it is held until it is released"]
pub(crate) struct RedisPermit {
    connection: RedisConnection,
    response_timeout: Duration,
    key: String,
    id: String,
}

impl RedisLimiter {
    /// Waits for one of `most` permits; nothing if none is free in time. If Redis does not answer soon,
    /// there is one: then only the process's own limit holds.
    pub(crate) async fn acquire_permit(
        &self,
        name: &str,
        most: u32,
        lease: Duration,
        max_wait: Duration,
    ) -> Option<RedisPermit> {
        let permit = RedisPermit {
            connection: self.connection.clone(),
            response_timeout: self.response_timeout,
            key: format!("{}busy:{name}", self.prefix),
            id: Uuid::new_v4().to_string(),
        };
        let (begun, mut backoff) = (Instant::now(), RETRY);
        loop {
            match timeout(
                self.response_timeout,
                permit.try_acquire(&self.acquire_permit, most, lease),
            )
            .await
            {
                Ok(Ok(true)) => return Some(permit),
                Ok(Ok(false)) => {}
                Ok(Err(error)) => {
                    tracing::debug!(%error, "shared concurrency limit unavailable in Redis; applying the limit of this process alone");
                    return Some(permit);
                }
                Err(_) => {
                    tracing::debug!(
                        "shared concurrency limit timed out in Redis; applying the limit of this process alone"
                    );
                    return Some(permit);
                }
            }
            let pause = backoff.next_delay();
            if begun.elapsed() + pause > max_wait {
                return None;
            }
            sleep(pause).await;
        }
    }
}

impl RedisPermit {
    async fn try_acquire(
        &self,
        script: &Script,
        most: u32,
        lease: Duration,
    ) -> Result<bool, RedisError> {
        let micros = u64::try_from(lease.as_micros()).unwrap_or(u64::MAX);
        let mut call = script.prepare_invoke();
        call.key(&self.key).arg(&self.id).arg(micros).arg(most);
        call.invoke_async(&mut self.connection.clone()).await
    }

    /// Releases the permit.
    pub(crate) async fn release(mut self) {
        let mut call = cmd("ZREM");
        call.arg(&self.key).arg(&self.id);
        // Should that fail, it expires with its lease.
        let _ = timeout(
            self.response_timeout,
            call.query_async::<u32>(&mut self.connection),
        )
        .await;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use testkit::servers::redis::{Options, PrivateRedis};

    use super::*;
    use crate::redis_client::standalone;

    const LONG: Duration = Duration::from_mins(10);

    async fn two() -> (PrivateRedis, RedisLimiter, RedisLimiter) {
        let server = PrivateRedis::start(&Options::default()).await.unwrap();
        let url = standalone(&server);
        let one = || RedisLimiter::patient(&url, "shop/main").unwrap();
        let (first, second) = (one(), one());
        (server, first, second)
    }

    #[tokio::test]
    async fn permits_bound_the_attempts_of_all_processes() {
        let (_server, first, second) = two().await;
        let one = first
            .acquire_permit("host/x", 2, LONG, Duration::ZERO)
            .await
            .unwrap();
        let other = second
            .acquire_permit("host/x", 2, LONG, Duration::ZERO)
            .await;
        assert!(other.is_some());
        let third = first
            .acquire_permit("host/x", 2, LONG, Duration::ZERO)
            .await;
        assert!(third.is_none());
        assert!(
            first
                .acquire_permit("host/y", 2, LONG, Duration::ZERO)
                .await
                .is_some()
        );
        let leaves = async {
            sleep(Duration::from_millis(50)).await;
            one.release().await;
        };
        let (waits, ()) = tokio::join!(second.acquire_permit("host/x", 2, LONG, LONG), leaves);
        assert!(waits.is_some(), "it waits for one that leaves");
    }

    #[tokio::test]
    async fn permits_of_a_dead_process_expire() {
        let (_server, first, second) = two().await;
        let short = Duration::from_millis(300);
        let begun = Instant::now();
        let _dies = first
            .acquire_permit("host/x", 1, short, Duration::ZERO)
            .await
            .unwrap();
        assert!(
            second
                .acquire_permit("host/x", 1, LONG, LONG)
                .await
                .is_some()
        );
        assert!(begun.elapsed() >= short, "{:?}", begun.elapsed());
    }

    #[tokio::test]
    async fn unavailable_redis_holds_up_nothing() {
        let (server, first, _) = two().await;
        server.stop().await.unwrap();
        for _ in 0..10 {
            let permit = first
                .acquire_permit("host/x", 1, LONG, Duration::ZERO)
                .await;
            permit.unwrap().release().await;
        }
    }
}
