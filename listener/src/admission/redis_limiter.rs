//! Rate limits shared by all processes of a listener, in the listener's Redis.
//!
//! The same algorithm as in [`server::limiter::Gcra`], in one script and by the server's clock.
//! If Redis does not answer soon, attempts go on: then only the process's own limit holds.

pub(crate) use super::redis_semaphore::RedisPermit;

use std::fmt;
use std::time::Duration;

use crds::config::{RateLimit, RedisServerConfig};
use redis::Script;
use redis_connection::{ConnectionLimits, RedisConnection};
use tokio::time::timeout;

use super::redis_semaphore;
use crate::redis_client;

/// Timeout of a command.
const RESPONSE_TIMEOUT: Duration = Duration::from_millis(250);

/// Timeout of a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Most commands in flight; others wait.
const MAX_IN_FLIGHT: usize = 1024;

/// `ARGV`, for each bucket: microseconds between two tokens, and the tolerance. Returns the microseconds
/// to wait, 0 where a token of each was taken.
const ACQUIRE_TOKENS: &str = "
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local full, early = {}, 0
for i, key in ipairs(KEYS) do
    full[i] = math.max(tonumber(redis.call('GET', key) or '0'), now)
    early = math.max(early, full[i] - now - tonumber(ARGV[2 * i]))
end
if early > 0 then
    return math.ceil(early)
end
for i, key in ipairs(KEYS) do
    local next = full[i] + tonumber(ARGV[2 * i - 1])
    redis.call('SET', key, string.format('%.0f', next), 'PX', math.ceil((next - now) / 1000) + 1000)
end
return 0";

/// Shared limits of one listener.
#[derive(Clone)]
pub struct RedisLimiter {
    pub(super) connection: RedisConnection,
    /// Timeout of a command.
    pub(super) response_timeout: Duration,
    pub(super) prefix: String,
    acquire_tokens: Script,
    pub(super) acquire_permit: Script,
}

impl fmt::Debug for RedisLimiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Its address may hold a password.
        write!(f, "RedisLimiter({})", self.prefix)
    }
}

impl RedisLimiter {
    /// Creates the limits of a listener; nothing where the address cannot be used. Opens no connection yet,
    /// but must be called within a runtime.
    #[must_use]
    pub fn new(server: &RedisServerConfig, listener: &str) -> Option<Self> {
        Self::within(RESPONSE_TIMEOUT, server, listener)
    }

    /// One that waits for an answer for as long as a busy machine may take.
    #[cfg(test)]
    pub(crate) fn patient(server: &RedisServerConfig, listener: &str) -> Option<Self> {
        Self::within(Duration::from_mins(10), server, listener)
    }

    fn within(
        response_timeout: Duration,
        server: &RedisServerConfig,
        listener: &str,
    ) -> Option<Self> {
        let limits = ConnectionLimits {
            connect_timeout: CONNECT_TIMEOUT.max(response_timeout),
            response_timeout,
            reconnects: 0,
            max_in_flight: MAX_IN_FLIGHT,
        };
        Some(Self {
            connection: redis_client::open(server, limits)?,
            response_timeout,
            prefix: format!("observers:{{{listener}}}:"),
            acquire_tokens: Script::new(ACQUIRE_TOKENS),
            acquire_permit: Script::new(redis_semaphore::ACQUIRE),
        })
    }

    /// Takes a token of each of these rate limits, or of none and returns how long to wait.
    pub(crate) async fn acquire(&self, limits: &[(String, RateLimit)]) -> Result<(), Duration> {
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let mut connection = self.connection.clone();
        let mut call = self.acquire_tokens.prepare_invoke();
        for (name, limit) in limits {
            call.key(format!("{}rate:{name}", self.prefix))
                .arg(micros(limit.each()).max(1))
                .arg(micros(limit.tolerance()));
        }
        match timeout(
            self.response_timeout,
            call.invoke_async::<u64>(&mut connection),
        )
        .await
        {
            Ok(Ok(0)) => Ok(()),
            Ok(Ok(early)) => Err(Duration::from_micros(early)),
            Ok(Err(error)) => {
                tracing::debug!(%error, "shared rate limit unavailable in Redis; applying the limit of this process alone");
                Ok(())
            }
            Err(_) => {
                tracing::debug!(
                    "shared rate limit timed out in Redis; applying the limit of this process alone"
                );
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Instant;

    use testkit::servers::redis::{Options, PrivateRedis};
    use testkit::wait::Patience;

    use super::*;
    use crate::redis_client::standalone;

    const LIMIT: RateLimit = RateLimit {
        attempts: 20,
        per: Duration::from_secs(1),
    };

    /// How many all processes take: what may be taken at once, and as much again and more.
    const TAKEN: u32 = 60;

    fn limits(name: &str) -> [(String, RateLimit); 1] {
        [(name.to_owned(), LIMIT)]
    }

    #[tokio::test]
    async fn tokens_are_taken_from_all_limits_or_none() {
        let server = PrivateRedis::start(&Options::default()).await.unwrap();
        let limiter = RedisLimiter::patient(&standalone(&server), "shop/main").unwrap();
        let rare = RateLimit {
            attempts: 1,
            per: Duration::from_hours(1),
        };
        let often = RateLimit {
            attempts: 20,
            ..rare
        };
        let both = [("a".to_owned(), often), ("host/x".to_owned(), rare)];
        assert_eq!(limiter.acquire(&both).await, Ok(()));
        for _ in 0..50 {
            assert!(limiter.acquire(&both).await.is_err());
        }
        for _ in 1..20 {
            assert_eq!(
                limiter.acquire(&both[..1]).await,
                Ok(()),
                "it was not touched"
            );
        }
        assert!(limiter.acquire(&both[..1]).await.is_err());
    }

    #[tokio::test]
    async fn all_processes_share_the_rate_limit() {
        let server = PrivateRedis::start(&Options::default()).await.unwrap();
        let url = standalone(&server);
        let begun = Instant::now();
        let all = Arc::new(AtomicU32::new(0));
        let mut processes = tokio::task::JoinSet::new();
        for _ in 0..4 {
            let limiter = RedisLimiter::patient(&url, "shop/main").unwrap();
            let all = Arc::clone(&all);
            processes.spawn(async move {
                let mut patience = Patience::default();
                while all.load(Ordering::Relaxed) < TAKEN {
                    match limiter.acquire(&limits("shop/big/notify")).await {
                        Ok(()) => drop(all.fetch_add(1, Ordering::Relaxed)),
                        Err(wait) => {
                            assert!(wait <= LIMIT.per, "{wait:?}");
                            assert!(patience.lasts(), "no more than {all:?} are taken");
                            tokio::time::sleep(wait.min(Duration::from_millis(20))).await;
                        }
                    }
                }
            });
        }
        processes.join_all().await;
        let taken = all.load(Ordering::Relaxed);
        let most = 20.0 + 20.0 * begun.elapsed().as_secs_f64() + 1.0;
        assert!(f64::from(taken) <= most, "{taken} of {most}");
        let other = RedisLimiter::patient(&url, "shop/other").unwrap();
        assert_eq!(
            other.acquire(&limits("shop/big/notify")).await,
            Ok(()),
            "it has its own"
        );
    }

    #[tokio::test]
    async fn unavailable_redis_holds_up_nothing() {
        let server = PrivateRedis::start(&Options::default()).await.unwrap();
        let limiter = RedisLimiter::new(&standalone(&server), "shop/main").unwrap();
        server.stop().await.unwrap();
        for _ in 0..50 {
            assert_eq!(limiter.acquire(&limits("a")).await, Ok(()));
        }
    }
}
