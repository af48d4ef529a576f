//! Results in the listener's Redis, which all its processes share.
//!
//! Nothing depends on it: a server that is away, slow, full, or returns rubbish makes a miss within
//! [`BUDGET`], and after some of them is left alone for a while. What it evicts or loses is looked up again.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use backoff::Backoff;
use crds::config::RedisServerConfig;
use redis::{Cmd, FromRedisValue, Pipeline, RedisError};
use redis_connection::{ConnectionLimits, RedisConnection};
use tokio::time::{Instant, sleep, timeout};
use uuid::Uuid;

use super::key::CacheKey;
use super::metrics::CacheMetrics;
use super::stored::StoredResult;
use super::tier::CacheTier;
use crate::circuit_breaker::{CircuitBreaker, Signal, Ticket, Transition};
use crate::redis_client;
use crate::sync::lock;

/// Longest wait for an answer.
const BUDGET: Duration = Duration::from_millis(50);

/// Timeout of a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Most commands in flight; others wait, within the budget.
const MAX_IN_FLIGHT: usize = 256;

/// Wait between two looks at what another process is looking up.
const LOOK: Backoff = Backoff::new(Duration::from_millis(2), Duration::from_millis(50));

/// Ends a claim that is still this process's own.
const RELEASE: &str =
    "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0";

/// Results in Redis.
#[derive(Clone)]
pub(crate) struct RedisTier {
    connection: RedisConnection,
    prefix: Arc<str>,
    breaker: Arc<Mutex<CircuitBreaker>>,
    metrics: CacheMetrics,
    budget: Duration,
}

impl fmt::Debug for RedisTier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Its address may hold a password.
        write!(f, "RedisTier({})", self.prefix)
    }
}

/// The claim of a process to make a request for all of them. It ends by itself.
#[derive(Debug)]
pub(crate) struct Claim {
    key: String,
    token: String,
}

/// Whether this process may make a request for all of them.
#[derive(Debug)]
pub(crate) enum Claimed {
    /// It may.
    Yes(Claim),
    /// Another one does.
    No,
    /// Redis does not say.
    Unknown,
}

/// What there is to do about a result that is not there.
#[derive(Debug)]
pub(crate) enum Turn {
    /// Another process has made the request.
    Found(StoredResult),
    /// It is this process's turn, with a claim unless others could not be told.
    Own(Option<Claim>),
}

impl RedisTier {
    /// Creates the tier of a listener; nothing where the address cannot be used. Opens no connection yet, but must
    /// be called within a runtime.
    pub(crate) fn new(
        server: &RedisServerConfig,
        listener: &str,
        metrics: CacheMetrics,
    ) -> Option<Self> {
        Self::within(BUDGET, server, listener, metrics)
    }

    /// One that waits for an answer for as long as a busy machine may take.
    #[cfg(test)]
    pub(crate) fn patient(
        server: &RedisServerConfig,
        listener: &str,
        metrics: CacheMetrics,
    ) -> Option<Self> {
        Self::within(Duration::from_mins(10), server, listener, metrics)
    }

    fn within(
        budget: Duration,
        server: &RedisServerConfig,
        listener: &str,
        metrics: CacheMetrics,
    ) -> Option<Self> {
        let limits = ConnectionLimits {
            connect_timeout: CONNECT_TIMEOUT,
            response_timeout: budget,
            reconnects: 0,
            max_in_flight: MAX_IN_FLIGHT,
        };
        Some(Self {
            connection: redis_client::open(server, limits)?,
            prefix: Arc::from(format!("observers:{{{listener}}}:cache:")),
            breaker: Arc::new(Mutex::new(CircuitBreaker::new())),
            metrics,
            budget,
        })
    }

    fn key(&self, key: &CacheKey) -> String {
        format!("{}{}", self.prefix, key.hex())
    }

    /// Waits for its turn to make a request: for the result of another process that is making it, at most
    /// for `patience`, which is how long a claim lasts too. `holds` says whether a result can be used.
    pub(crate) async fn turn(
        &self,
        key: &CacheKey,
        patience: Duration,
        holds: impl Fn(&StoredResult) -> bool,
    ) -> Turn {
        let begun = Instant::now();
        let mut look = LOOK;
        loop {
            match self.claim(key, patience).await {
                Claimed::Yes(claim) => return Turn::Own(Some(claim)),
                Claimed::No => {}
                Claimed::Unknown => return Turn::Own(None),
            }
            let pause = look.next_delay();
            if begun.elapsed() + pause >= patience {
                return Turn::Own(None);
            }
            sleep(pause).await;
            if let Some(found) = self.get(key).await.filter(|found| holds(found)) {
                return Turn::Found(found);
            }
        }
    }

    /// Claims a request, for at most so long.
    pub(crate) async fn claim(&self, key: &CacheKey, lasts: Duration) -> Claimed {
        let claim = Claim {
            key: format!("{}:claim", self.key(key)),
            token: Uuid::new_v4().to_string(),
        };
        let mut set = redis::cmd("SET");
        set.arg(&claim.key)
            .arg(&claim.token)
            .arg("NX")
            .arg("PX")
            .arg(millis(lasts));
        match self.command::<Option<String>>(&set).await {
            Some(Some(_)) => Claimed::Yes(claim),
            Some(None) => Claimed::No,
            None => Claimed::Unknown,
        }
    }

    /// Ends a claim.
    pub(crate) async fn release(&self, claim: Claim) {
        let mut eval = redis::cmd("EVAL");
        eval.arg(RELEASE).arg(1).arg(&claim.key).arg(&claim.token);
        let _ended: Option<u64> = self.command(&eval).await;
    }

    async fn command<T: FromRedisValue>(&self, command: &Cmd) -> Option<T> {
        let mut connection = self.connection.clone();
        self.within_budget(command.query_async(&mut connection))
            .await
    }

    async fn pipeline<T: FromRedisValue>(&self, pipeline: &Pipeline) -> Option<T> {
        let mut connection = self.connection.clone();
        self.within_budget(pipeline.query_async(&mut connection))
            .await
    }

    /// Waits for an answer within the budget, unless the server is left alone.
    async fn within_budget<T>(
        &self,
        call: impl Future<Output = Result<T, RedisError>>,
    ) -> Option<T> {
        let admitted = lock(&self.breaker).admit(true, Instant::now());
        let Ok(ticket) = admitted else {
            self.metrics.record_failure("left_alone");
            return None;
        };
        let mut call_permit = CallPermit {
            breaker: &self.breaker,
            ticket: Some(ticket),
        };
        let answer = timeout(self.budget, call).await;
        let (answer, signal) = match answer {
            Ok(Ok(answer)) => (Some(answer), Signal::Success),
            // It answers, if with an error: it is full, or read-only, or the login may not do that.
            Ok(Err(error)) if error.is_connection_dropped() || error.is_io_error() => {
                self.failed("connection", &error);
                (None, Signal::Unreachable)
            }
            Ok(Err(error)) => {
                self.failed("refused", &error);
                (None, Signal::Failure)
            }
            Err(error) => {
                self.failed("timeout", &error);
                (None, Signal::Unreachable)
            }
        };
        let told = call_permit.record(signal);
        if let Some(Transition::Opened(pause)) = told {
            tracing::warn!(
                ?pause,
                "the cache in Redis is left alone for a while; see observer_cache_redis_failures_total"
            );
        }
        answer
    }

    fn failed(&self, kind: &str, error: &dyn std::error::Error) {
        self.metrics.record_failure(kind);
        tracing::debug!(%error, kind, "the cache in Redis has no answer");
    }
}

/// An admitted call. One that is cut off says nothing of the server, so that another may be the probe.
struct CallPermit<'a> {
    breaker: &'a Mutex<CircuitBreaker>,
    ticket: Option<Ticket>,
}

impl CallPermit<'_> {
    fn record(&mut self, signal: Signal) -> Option<Transition> {
        let ticket = self.ticket.take()?;
        lock(self.breaker).record(ticket, signal, Instant::now(), rand::random())
    }
}

impl Drop for CallPermit<'_> {
    fn drop(&mut self) {
        self.record(Signal::Ignored);
    }
}

impl CacheTier for RedisTier {
    async fn get(&self, key: &CacheKey) -> Option<StoredResult> {
        let name = self.key(key);
        let mut both = redis::pipe();
        both.get(&name).pttl(&name);
        let (bytes, left): (Option<Vec<u8>>, i64) = self.pipeline(&both).await?;
        let bytes = bytes?;
        let left = Duration::from_millis(u64::try_from(left).unwrap_or(0));
        let found = StoredResult::decode(key, &bytes, left);
        if found.is_none() {
            self.metrics.record_failure("rubbish");
        }
        found
    }

    async fn put(&self, key: &CacheKey, result: &StoredResult) {
        let Ok(bytes) = result.encode(key) else {
            return;
        };
        let mut set = redis::cmd("SET");
        set.arg(self.key(key))
            .arg(bytes)
            .arg("PX")
            .arg(millis(result.fresh + result.stale));
        let _set: Option<()> = self.command(&set).await;
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn probe_that_is_cut_off_makes_room_for_another() {
        let breaker = Mutex::new(CircuitBreaker::new());
        let permit = || -> Result<CallPermit<'_>, Duration> {
            let ticket = lock(&breaker).admit(true, Instant::now())?;
            Ok(CallPermit {
                breaker: &breaker,
                ticket: Some(ticket),
            })
        };
        let mut opened = None;
        while opened.is_none() {
            opened = permit().unwrap().record(Signal::Unreachable);
        }
        assert!(permit().is_err());
        tokio::time::advance(Duration::from_mins(2)).await;
        let probe = permit().unwrap();
        assert!(permit().is_err());
        drop(probe);
        assert_eq!(
            permit().unwrap().record(Signal::Success),
            Some(Transition::Recovering)
        );
    }
}
