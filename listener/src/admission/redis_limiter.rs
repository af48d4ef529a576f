//! Limits that all processes of a listener keep together, by the listener's Redis.
//!
//! The same bucket as that of a process (see [`crate::admission::rate_limiter`]), in one script and by the server's
//! clock. Where the server does not answer soon, an attempt is not held up for its sake: then the
//! process's own bucket is all that counts.

pub(crate) use super::redis_semaphore::RedisPermit;

use std::fmt;
use std::time::Duration;

use crds::config::{RateLimit, Redacted};
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{Client, Script};
use tokio::time::timeout;

use super::redis_semaphore;

/// How long an answer may take.
const RESPONSE_TIMEOUT: Duration = Duration::from_millis(250);

/// Until a connection is made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// `ARGV`, for each bucket: microseconds between two tokens, and how far ahead it may be. Answers
/// with the microseconds to wait, 0 where a token of each was taken.
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

/// The limits of one listener.
#[derive(Clone)]
pub struct RedisLimiter {
    pub(super) manager: ConnectionManager,
    /// How long an answer may take.
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
    /// Those of a listener on its server; nothing where the address cannot be used. Opens no
    /// connection yet, but must be called within a runtime.
    #[must_use]
    pub fn new(url: &Redacted, listener: &str) -> Option<Self> {
        Self::within(RESPONSE_TIMEOUT, url, listener)
    }

    /// One that waits for an answer for as long as a busy machine may take.
    #[cfg(test)]
    pub(crate) fn patient(url: &Redacted, listener: &str) -> Option<Self> {
        Self::within(Duration::from_mins(10), url, listener)
    }

    fn within(response_timeout: Duration, url: &Redacted, listener: &str) -> Option<Self> {
        let client = Client::open(url.reveal()).ok()?;
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT.max(response_timeout)))
            .set_response_timeout(Some(response_timeout))
            .set_number_of_retries(0);
        Some(Self {
            manager: ConnectionManager::new_lazy_with_config(client, config).ok()?,
            response_timeout,
            prefix: format!("observers:{{{listener}}}:"),
            acquire_tokens: Script::new(ACQUIRE_TOKENS),
            acquire_permit: Script::new(redis_semaphore::ACQUIRE),
        })
    }

    /// Takes a token of each of the buckets of those names, or of none, and says how long to wait.
    pub(crate) async fn acquire(&self, limits: &[(String, RateLimit)]) -> Result<(), Duration> {
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let mut manager = self.manager.clone();
        let mut call = self.acquire_tokens.prepare_invoke();
        for (name, limit) in limits {
            call.key(format!("{}rate:{name}", self.prefix))
                .arg(micros(limit.each()).max(1))
                .arg(micros(limit.tolerance()));
        }
        match timeout(
            self.response_timeout,
            call.invoke_async::<u64>(&mut manager),
        )
        .await
        {
            Ok(Ok(0)) => Ok(()),
            Ok(Ok(early)) => Err(Duration::from_micros(early)),
            Ok(Err(error)) => {
                tracing::debug!(%error, "cannot ask Redis for the rate of the fleet; keeping that of this process");
                Ok(())
            }
            Err(_) => {
                tracing::debug!(
                    "Redis does not tell the rate of the fleet in time; keeping that of this process"
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
    async fn of_several_buckets_one_is_not_emptied_for_nothing() {
        let server = PrivateRedis::start(&Options::default()).await.unwrap();
        let limiter = RedisLimiter::patient(&Redacted::new(server.url()), "shop/main").unwrap();
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
    async fn all_processes_together_keep_to_the_limit() {
        let server = PrivateRedis::start(&Options::default()).await.unwrap();
        let url = Redacted::new(server.url());
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
    async fn without_an_answer_nothing_is_held_up() {
        let server = PrivateRedis::start(&Options::default()).await.unwrap();
        let limiter = RedisLimiter::new(&Redacted::new(server.url()), "shop/main").unwrap();
        server.stop().await.unwrap();
        for _ in 0..50 {
            assert_eq!(limiter.acquire(&limits("a")).await, Ok(()));
        }
    }
}
