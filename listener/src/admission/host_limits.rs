//! Limits of hosts, for all actions of a process together: `spec.egress.limits` of the listener.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use crds::config::HostLimit;
use server::limiter::Gcra;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// Host with limits.
#[derive(Debug)]
pub(crate) struct LimitedHost {
    pub(crate) name: String,
    pub(crate) limit: HostLimit,
    pub(crate) bucket: Option<Mutex<Gcra>>,
    semaphore: Option<Arc<Semaphore>>,
}

/// Permit of an attempt in flight, where its host has a concurrency limit.
pub(crate) type HostPermit = Option<OwnedSemaphorePermit>;

impl LimitedHost {
    fn new(name: &str, limit: &HostLimit) -> Self {
        let most = limit.max_concurrency;
        let most = most.map(|most| usize::try_from(most).unwrap_or(Semaphore::MAX_PERMITS));
        Self {
            name: name.to_owned(),
            limit: limit.clone(),
            bucket: limit
                .rate_limit
                .map(|limit| Mutex::new(Gcra::new(limit.attempts, limit.per))),
            semaphore: most.map(|most| Arc::new(Semaphore::new(most))),
        }
    }

    /// Waits for a permit; nothing if there is none in time.
    pub(crate) async fn acquire(&self, max_wait: Duration) -> Option<HostPermit> {
        let Some(semaphore) = &self.semaphore else {
            return Some(None);
        };
        let turn = timeout(max_wait, Arc::clone(semaphore).acquire_owned()).await;
        turn.ok()?.ok().map(Some)
    }

    /// Returns how many permits are free; nothing where that is not bounded.
    pub(crate) fn available(&self) -> Option<u32> {
        let semaphore = self.semaphore.as_ref()?;
        Some(u32::try_from(semaphore.available_permits()).unwrap_or(u32::MAX))
    }
}

/// Hosts of a process that have limits. Those whose limits stay the same survive a reload.
#[derive(Debug, Default)]
pub(crate) struct HostLimits(HashMap<String, Weak<LimitedHost>>);

impl HostLimits {
    /// Returns the host of an endpoint with these limits.
    pub(crate) fn host(&mut self, name: &str, limit: &HostLimit) -> Arc<LimitedHost> {
        let known = self.0.get(name).and_then(Weak::upgrade);
        if let Some(known) = known.filter(|known| known.limit == *limit) {
            return known;
        }
        // Drops those that no action uses.
        self.0.retain(|_, known| known.strong_count() > 0);
        let new = Arc::new(LimitedHost::new(name, limit));
        self.0.insert(name.to_owned(), Arc::downgrade(&new));
        new
    }
}

/// Returns the name or address alone of `host`, `host:port`, `[address]` or `[address]:port`.
pub(crate) fn without_port(host: &str) -> &str {
    if let Some((address, _)) = host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return address;
    }
    match host.split_once(':') {
        // More colons are those of an address.
        Some((name, port)) if !port.contains(':') => name,
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use crate::redis_client::standalone;
    use crds::config::{ActionKind, BatchConfig, Egress, RateLimit};
    use futures::future::join_all;
    use testkit::servers::redis::{Options, PrivateRedis};

    use super::*;
    use crate::actions::Action;
    use crate::actions::fixture::{action, delivery, now, webhook};
    use crate::admission::action_runtime::ActionRuntime;
    use crate::admission::endpoint_gate::EndpointRegistry;
    use crate::admission::redis_limiter::RedisLimiter;
    use crate::delivery::outcome::Outcome;
    use testkit::http_sink::{Behaviour, Sink};
    use testkit::wait::amounts_to;

    fn shared(gates: &EndpointRegistry, limit: HostLimit) -> ActionRuntime {
        let egress = Egress {
            cidrs: vec!["127.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()],
            limits: vec![limit],
            ..Egress::default()
        };
        ActionRuntime::new(&egress, gates).unwrap()
    }

    fn limit(max_in_flight: Option<u32>, attempts: Option<u32>) -> HostLimit {
        HostLimit {
            host: "127.0.0.1".to_owned(),
            max_concurrency: max_in_flight,
            rate_limit: attempts.map(|attempts| RateLimit {
                attempts,
                per: Duration::from_hours(1),
            }),
        }
    }

    fn post(url: String, shared: &ActionRuntime) -> Action {
        Action::compile(&action(ActionKind::Webhook(webhook(url))), shared).unwrap()
    }

    #[tokio::test]
    async fn actions_with_one_host_share_its_limit() {
        const DELAY: Duration = Duration::from_millis(100);
        let sink = Sink::start(Behaviour::Delay(DELAY)).await.unwrap();
        let shared = shared(&EndpointRegistry::default(), limit(Some(2), None));
        let actions = ["/a", "/b"].map(|path| post(sink.url(path), &shared));
        let event = delivery(None, Some("{}"));
        assert_eq!(
            actions[0]
                .capacity(tokio::time::Instant::now())
                .unwrap()
                .available,
            2
        );
        let begun = std::time::Instant::now();
        let attempts = (0..12).map(|n| actions[n % 2].attempt(&event, now()));
        let outcomes = join_all(attempts).await;
        assert!(
            outcomes
                .iter()
                .all(|outcome| *outcome == Outcome::Delivered)
        );
        assert!(begun.elapsed() >= DELAY * 6, "two at once");
    }

    #[tokio::test]
    async fn batch_takes_one_permit_and_one_token() {
        let sink = Sink::start(Behaviour::Ok).await.unwrap();
        let shared = shared(&EndpointRegistry::default(), limit(Some(1), Some(2)));
        let mut config = webhook(sink.url("/"));
        config.batch = Some(BatchConfig {
            max_events: 10,
            max_bytes: 1 << 20,
            linger: Duration::from_mins(1),
        });
        let action = Action::compile(&action(ActionKind::Webhook(config)), &shared).unwrap();
        let event = delivery(None, Some("{}"));
        let all = (0..30).map(|_| action.attempt(&event, now()));
        let outcomes = join_all(all).await;
        let (done, held): (Vec<_>, Vec<_>) = outcomes
            .into_iter()
            .partition(|outcome| *outcome == Outcome::Delivered);
        assert_eq!((done.len(), held.len()), (20, 10));
        let is_held = |outcome: &Outcome| matches!(outcome, Outcome::Deferred(_));
        assert!(held.iter().all(is_held), "{held:?}");
        assert_eq!(sink.counts().requests, 2);
    }

    #[tokio::test]
    async fn processes_with_one_redis_share_a_host_limit() {
        const DELAY: Duration = Duration::from_millis(100);
        let sink = Sink::start(Behaviour::Delay(DELAY)).await.unwrap();
        let server = PrivateRedis::start(&Options::default()).await.unwrap();
        let url = standalone(&server);
        let process = || {
            let limiter = RedisLimiter::patient(&url, "shop/main");
            let shared = shared(&EndpointRegistry::default(), limit(Some(1), None))
                .with_redis_limiter(limiter);
            post(sink.url("/"), &shared)
        };
        let processes = [process(), process()];
        let event = delivery(None, Some("{}"));
        let begun = std::time::Instant::now();
        let attempts = processes.iter().flat_map(|action| {
            let attempt = || action.attempt(&event, now());
            [attempt(), attempt(), attempt()]
        });
        let outcomes = join_all(attempts).await;
        assert!(
            outcomes
                .iter()
                .all(|outcome| *outcome == Outcome::Delivered)
        );
        assert!(begun.elapsed() >= DELAY * 6, "two at once");
    }

    #[tokio::test]
    async fn rate_limited_attempt_releases_its_redis_permit() {
        let sink = Sink::start(Behaviour::Ok).await.unwrap();
        let server = PrivateRedis::start(&Options::default()).await.unwrap();
        let limiter = RedisLimiter::patient(&standalone(&server), "shop/main").unwrap();
        let shared = shared(&EndpointRegistry::default(), limit(Some(1), Some(1)));
        let action = post(
            sink.url("/"),
            &shared.with_redis_limiter(Some(limiter.clone())),
        );
        let event = delivery(None, Some("{}"));
        assert_eq!(action.attempt(&event, now()).await, Outcome::Delivered);
        let held = action.attempt(&event, now()).await;
        assert!(matches!(held, Outcome::Deferred(_)), "{held:?}");
        let lasts = Duration::from_mins(10);
        let permit = limiter
            .acquire_permit("127.0.0.1", 1, lasts, Duration::ZERO)
            .await;
        assert!(permit.is_some(), "it is free");
    }

    #[tokio::test]
    async fn waiting_for_a_host_permit_too_long_uses_up_no_attempt() {
        let sink = Sink::start(Behaviour::Hang).await.unwrap();
        let shared = shared(&EndpointRegistry::default(), limit(Some(1), None));
        let mut config = action(ActionKind::Webhook(webhook(sink.url("/"))));
        config.timeout = Duration::from_hours(1);
        let action = Action::compile(&config, &shared).unwrap();
        let event = delivery(None, Some("{}"));
        let first = action.attempt(&event, now());
        let second = async {
            amounts_to("requests", 1, async || sink.counts().requests).await;
            let full = action.capacity(tokio::time::Instant::now()).unwrap();
            assert_eq!(full.available, 0);
            let attempt = action.attempt(&event, now());
            let attempted = tokio::time::timeout(Duration::from_millis(50), attempt).await;
            // Nothing but the first one's time is left, and passes at once.
            tokio::time::pause();
            attempted
        };
        let (first, second) = tokio::join!(first, second);
        assert!(matches!(first, Outcome::Retry { .. }), "{first:?}");
        assert!(second.is_err(), "it waits for its turn");
        assert_eq!(sink.counts().requests, 1);
    }

    #[tokio::test]
    async fn host_rate_limit_is_shared_and_survives_a_reload() {
        let sink = Sink::start(Behaviour::Ok).await.unwrap();
        let gates = EndpointRegistry::default();
        let event = delivery(None, Some("{}"));
        let mut done = 0;
        let before = shared(&gates, limit(None, Some(5)));
        let kept = post(sink.url("/"), &before);
        for round in 0..4 {
            let again = shared(&gates, limit(None, Some(5)));
            let action = post(sink.url(&format!("/{round}")), &again);
            for _ in 0..3 {
                match action.attempt(&event, now()).await {
                    Outcome::Delivered => done += 1,
                    other => assert!(matches!(other, Outcome::Deferred(_)), "{other:?}"),
                }
            }
        }
        assert_eq!(done, 5);
        assert_eq!(
            kept.capacity(tokio::time::Instant::now())
                .unwrap()
                .available,
            0
        );
        let elsewhere = sink.url("/").replace("127.0.0.1", "localhost");
        let elsewhere = post(elsewhere, &before);
        assert_eq!(elsewhere.capacity(tokio::time::Instant::now()), None);
        let more = shared(&gates, limit(None, Some(7)));
        let more = post(sink.url("/"), &more);
        assert_eq!(
            more.attempt(&event, now()).await,
            Outcome::Delivered,
            "a new limit"
        );
    }

    #[test]
    fn hosts_have_no_ports() {
        for (host, name) in [
            ("hooks.example.com", "hooks.example.com"),
            ("hooks.example.com:8443", "hooks.example.com"),
            ("10.0.0.7:4222", "10.0.0.7"),
            ("[fd00::7]:4222", "fd00::7"),
            ("[fd00::7]", "fd00::7"),
            ("fd00::7", "fd00::7"),
            ("the listener's own database", "the listener's own database"),
        ] {
            assert_eq!(without_port(host), name);
        }
    }
}
