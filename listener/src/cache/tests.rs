#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::atomic::{AtomicUsize, Ordering};

use crds::config::Redacted;
use futures::future::join_all;
use serde_json::value::RawValue;
use testkit::servers::redis::{Options, PrivateRedis};
use tokio::sync::Notify;

use super::invalidation::{Change, Scope, Tag};
use super::key::CacheKeyBuilder;
use super::*;
use crate::delivery::failure::{Failure, FailureKind};
use crate::redis_client::standalone;

const MINUTE: Duration = Duration::from_mins(1);

/// A cache that knows what has changed.
fn cache() -> ResultCache {
    let cache = ResultCache::new(CacheMetrics::new().unwrap());
    let begun = Invalidations::begin(Arc::from("life"), Progress(10), [Arc::from("customer")]);
    cache.update(|known| *known = begun);
    cache
}

const fn times(ttl: Duration, negative_ttl: Duration, stale_if_error: Duration) -> ResultTimes {
    ResultTimes {
        ttl,
        negative_ttl,
        stale_if_error,
    }
}

fn request(times: &ResultTimes, part: &str, tags: Vec<Tag>) -> CacheRequest<'static> {
    CacheRequest {
        key: CacheKeyBuilder::empty().part(part.as_bytes()).finish(),
        observer: "shop/a",
        name: "customer",
        tags,
        times: *times,
        timeout: MINUTE,
        random: 0.0,
    }
}

fn json(text: &str) -> Arc<RawValue> {
    Arc::from(RawValue::from_string(text.to_owned()).unwrap())
}

fn failed() -> Outcome {
    Outcome::Rejected(Failure::of(FailureKind::Status, "no"))
}

/// Gets a result, or makes this one: a JSON text, a null or a failure.
async fn get(
    cache: &ResultCache,
    request: CacheRequest<'_>,
    made: &'static str,
) -> (String, Served) {
    let fetch = async {
        match made {
            "failed" => Err(failed()),
            "null" => Ok(None),
            text => Ok(Some(json(text))),
        }
    };
    let (result, served) = cache.get(request, fetch).await;
    let text = match result {
        Ok(Some(json)) => json.get().to_owned(),
        Ok(None) => "null".to_owned(),
        Err(_) => "failed".to_owned(),
    };
    (text, served)
}

fn is(text: &str, served: Served) -> (String, Served) {
    (text.to_owned(), served)
}

#[tokio::test]
async fn equal_requests_at_once_are_made_once() {
    let times = super::tests::times(MINUTE, MINUTE, Duration::ZERO);
    let (cache, made, go) = (cache(), AtomicUsize::new(0), Notify::new());
    let get = |_| {
        let (cache, made, go, times) = (&cache, &made, &go, &times);
        async move {
            let fetch = async {
                made.fetch_add(1, Ordering::Relaxed);
                go.notified().await;
                Ok(Some(json("1")))
            };
            cache.get(request(times, "a", Vec::new()), fetch).await.1
        }
    };
    let all = join_all((0..1000).map(get));
    let (served, ()) = tokio::join!(all, async {
        tokio::task::yield_now().await;
        go.notify_one();
    });
    assert_eq!(made.load(Ordering::Relaxed), 1);
    let joined = served.iter().filter(|served| **served == Served::Joined);
    assert_eq!(joined.count(), 999);
}

#[tokio::test]
async fn request_that_is_cut_off_is_made_by_the_next_one() {
    let times = super::tests::times(MINUTE, MINUTE, Duration::ZERO);
    let cache = cache();
    let first = cache.get(request(&times, "a", Vec::new()), std::future::pending());
    let mut first = Box::pin(first);
    assert!(futures::poll!(&mut first).is_pending());
    let second = get(&cache, request(&times, "a", Vec::new()), "2");
    let mut second = Box::pin(second);
    assert!(futures::poll!(&mut second).is_pending());
    drop(first);
    assert_eq!(second.await, is("2", Served::Miss));
    let key = CacheKeyBuilder::empty().part(b"a").finish().within("life");
    assert!(!cache.flights.is_under_way(&key));
}

#[tokio::test]
async fn failure_is_not_kept_and_a_null_for_its_own_time() {
    let cache = cache();
    let short = times(MINUTE, Duration::ZERO, Duration::ZERO);
    let ask = |part| request(&short, part, Vec::new());
    assert_eq!(
        get(&cache, ask("a"), "failed").await,
        is("failed", Served::Miss)
    );
    assert_eq!(get(&cache, ask("a"), "2").await, is("2", Served::Miss));
    assert_eq!(
        get(&cache, ask("a"), "failed").await,
        is("2", Served::Memory)
    );
    assert_eq!(
        get(&cache, ask("b"), "null").await,
        is("null", Served::Miss)
    );
    assert_eq!(get(&cache, ask("b"), "3").await, is("3", Served::Miss));
    let long = times(MINUTE, MINUTE, Duration::ZERO);
    let ask = |part| request(&long, part, Vec::new());
    assert_eq!(
        get(&cache, ask("c"), "null").await,
        is("null", Served::Miss)
    );
    assert_eq!(get(&cache, ask("c"), "3").await, is("null", Served::Memory));
}

#[tokio::test]
async fn stale_result_is_used_only_where_the_request_fails() {
    let cache = cache();
    let times = super::tests::times(Duration::from_nanos(1), MINUTE, MINUTE);
    let ask = || request(&times, "a", Vec::new());
    assert_eq!(get(&cache, ask(), "1").await, is("1", Served::Miss));
    assert_eq!(get(&cache, ask(), "failed").await, is("1", Served::Stale));
    assert_eq!(get(&cache, ask(), "2").await, is("2", Served::Miss));
    assert_eq!(get(&cache, ask(), "failed").await, is("2", Served::Stale));
    // What was dropped is not used either.
    let all = Change::Scope(Scope::default());
    cache.update(|known| known.add(Progress(20), [(all, Progress(20))]));
    assert_eq!(
        get(&cache, ask(), "failed").await,
        is("failed", Served::Miss)
    );
}

#[tokio::test]
async fn result_near_its_end_is_made_again_by_one_and_serves_the_others() {
    let cache = cache();
    // A tenth of its time is longer than what it has left from the beginning.
    let times = super::tests::times(MINUTE, MINUTE, Duration::ZERO);
    let old = StoredResult {
        result: Some(json("1")),
        progress: Progress(10),
        fresh: Duration::from_secs(5),
        stale: Duration::ZERO,
    };
    let ask = || request(&times, "a", Vec::new());
    let key = ask().key.within("life");
    cache.memory.put(&key, &old).await;
    let go = Notify::new();
    let refresh = cache.get(ask(), async {
        go.notified().await;
        Ok(Some(json("2")))
    });
    let mut refresh = Box::pin(refresh);
    assert!(futures::poll!(&mut refresh).is_pending());
    assert_eq!(get(&cache, ask(), "3").await, is("1", Served::Memory));
    go.notify_one();
    assert_eq!(refresh.await.1, Served::Refreshed);
    assert_eq!(get(&cache, ask(), "3").await, is("2", Served::Memory));
    // One that fails leaves what is there.
    cache.memory.put(&key, &old).await;
    assert_eq!(get(&cache, ask(), "failed").await, is("1", Served::Stale));
    assert_eq!(get(&cache, ask(), "4").await, is("4", Served::Refreshed));
}

#[tokio::test]
async fn change_ends_a_result_also_for_one_that_joins() {
    let cache = cache();
    let times = super::tests::times(MINUTE, MINUTE, Duration::ZERO);
    let ask = || {
        request(
            &times,
            "a",
            vec![(Arc::from("customer"), Some("7".to_owned()))],
        )
    };
    let change = |at| {
        let row = Change::Row {
            entity: "customer".to_owned(),
            key: Some("7".to_owned()),
        };
        cache.update(|known| known.add(Progress(at), [(row, Progress(at))]));
    };
    assert_eq!(get(&cache, ask(), "1").await, is("1", Served::Miss));
    change(11);
    assert_eq!(get(&cache, ask(), "2").await, is("2", Served::Miss));
    assert_eq!(get(&cache, ask(), "3").await, is("2", Served::Memory));
    change(12);
    // It has begun before the next change, of which the second knows.
    let go = Notify::new();
    let before = cache.get(ask(), async {
        go.notified().await;
        Ok(Some(json("4")))
    });
    let mut before = Box::pin(before);
    assert!(futures::poll!(&mut before).is_pending());
    change(13);
    let mut after = Box::pin(get(&cache, ask(), "5"));
    assert!(futures::poll!(&mut after).is_pending());
    go.notify_one();
    assert_eq!(before.await.1, Served::Miss);
    assert_eq!(after.await, is("5", Served::Miss));
    cache.update(Invalidations::fall_behind);
    assert_eq!(get(&cache, ask(), "6").await, is("6", Served::Bypassed));
}

/// Caches of two processes that share a Redis.
fn two(server: &PrivateRedis) -> [ResultCache; 2] {
    let server = standalone(server);
    [(); 2].map(|()| cache().with_patient_redis(&server, "shop/main"))
}

#[tokio::test]
async fn processes_share_results_and_make_each_request_once() {
    let server = PrivateRedis::start(&Options::default()).await.unwrap();
    let [one, other] = two(&server);
    let times = super::tests::times(MINUTE, MINUTE, Duration::ZERO);
    let ask = |part| request(&times, part, Vec::new());
    assert_eq!(get(&one, ask("a"), "1").await, is("1", Served::Miss));
    assert_eq!(get(&other, ask("a"), "2").await, is("1", Served::Redis));
    assert_eq!(get(&other, ask("a"), "3").await, is("1", Served::Memory));
    // What one is making the other waits for.
    let (begun, go) = (Notify::new(), Notify::new());
    let mut making = Box::pin(one.get(ask("b"), async {
        begun.notify_one();
        go.notified().await;
        Ok(Some(json("4")))
    }));
    tokio::select! {
        _ = &mut making => unreachable!("it waits"),
        () = begun.notified() => {}
    }
    let mut waiting = Box::pin(get(&other, ask("b"), "5"));
    let some_looks = Duration::from_millis(50);
    assert!(
        tokio::time::timeout(some_looks, &mut waiting)
            .await
            .is_err()
    );
    go.notify_one();
    let (made, waited) = tokio::join!(making, waiting);
    assert_eq!((made.1, waited), (Served::Miss, is("4", Served::Redis)));
}

#[tokio::test]
async fn rubbish_of_redis_is_a_miss() {
    let server = PrivateRedis::start(&Options::default()).await.unwrap();
    let [one, other] = two(&server);
    let times = super::tests::times(MINUTE, MINUTE, Duration::ZERO);
    let ask = |part| request(&times, part, Vec::new());
    let client = ::redis::Client::open(server.url()).unwrap();
    let mut raw = client.get_multiplexed_async_connection().await.unwrap();
    let name = |part| {
        let key = ask(part).key.within("life");
        format!("observers:{{shop/main}}:cache:{}", key.hex())
    };
    get(&one, ask("a"), "1").await;
    get(&one, ask("b"), "2").await;
    // Of another key, cut off, of another type, and nothing at all.
    let of_b: Vec<u8> = ::redis::cmd("GET")
        .arg(name("b"))
        .query_async(&mut raw)
        .await
        .unwrap();
    for (part, bytes) in [
        ("a", &*of_b),
        ("b", &of_b[..20]),
        ("c", b"\0\xff"),
        ("d", b""),
    ] {
        let set = ::redis::cmd("SET")
            .arg(name(part))
            .arg(bytes)
            .arg("PX")
            .arg(60_000)
            .to_owned();
        let (): () = set.query_async(&mut raw).await.unwrap();
        assert_eq!(
            get(&other, ask(part), "9").await,
            is("9", Served::Miss),
            "{part}"
        );
    }
    let (): () = ::redis::cmd("LPUSH")
        .arg(name("e"))
        .arg("x")
        .query_async(&mut raw)
        .await
        .unwrap();
    assert_eq!(get(&other, ask("e"), "9").await, is("9", Served::Miss));
    let (): () = ::redis::cmd("FLUSHALL")
        .query_async(&mut raw)
        .await
        .unwrap();
    assert_eq!(get(&one, ask("f"), "9").await, is("9", Served::Miss));
}

#[tokio::test]
async fn redis_that_is_away_or_does_not_answer_costs_little() {
    let server = PrivateRedis::start(&Options::default()).await.unwrap();
    let away = standalone(&server);
    let times = super::tests::times(MINUTE, MINUTE, Duration::ZERO);
    let ask = |part: &str| request(&times, part, Vec::new());
    // It accepts connections and says nothing.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent_url = Redacted::new(format!("redis://{}", silent.local_addr().unwrap()));
    let silent_server = RedisServerConfig::standalone(silent_url);
    server.stop().await.unwrap();
    for server in [away, silent_server] {
        let cache = cache().with_redis(Some((&server, "shop/main")));
        for n in 0..100 {
            let part = n.to_string();
            assert_eq!(get(&cache, ask(&part), "9").await, is("9", Served::Miss));
            assert_eq!(get(&cache, ask(&part), "8").await, is("9", Served::Memory));
        }
        let count = |cause| cache.metrics.redis_failures(cause);
        let tried = count("connection") + count("timeout");
        assert!((1..100).contains(&tried), "{tried}");
        assert!(count("left_alone") > 100);
    }
}
