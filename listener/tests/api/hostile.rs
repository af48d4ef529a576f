//! Requests that no client of good will makes.

use std::time::Duration;

use futures::StreamExt as _;
use reqwest::{Client, Method};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::shop::{ACME, ALL, GLOBEX, READER, Shop};
use crate::support::told::letters;

/// How long an answer may take that is made at once.
const PROMPT: Duration = Duration::from_secs(20);

/// Sends bytes, and returns what comes back until the connection is closed.
async fn raw(address: &str, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // A server that has had enough closes while this is still being sent.
    let _sent = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let read = timeout(PROMPT, stream.read_to_end(&mut answer)).await;
    assert!(read.is_ok(), "the connection is not closed");
    String::from_utf8_lossy(&answer).into_owned()
}

fn head(method: &str, target: &str, more: &str) -> Vec<u8> {
    format!(
        "{method} {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer {ALL}\r\n{more}\r\n"
    )
    .into_bytes()
}

fn status(answer: &str) -> u16 {
    let status = answer.split(' ').nth(1).unwrap_or_default();
    status.parse().unwrap_or_default()
}

/// Queries of searches, and what they are answered with.
fn queries() -> Vec<(String, u16)> {
    let words = |count: usize| vec!["a"; count].join("+");
    let nested = |depth: usize| format!("{}a{}", "(".repeat(depth), ")".repeat(depth));
    vec![
        (format!("q={}", "a".repeat(1024)), 200),
        (format!("q={}", "a".repeat(1025)), 400),
        (format!("q={}", "%C3%A9".repeat(600)), 400),
        (format!("q={}", words(64)), 200),
        (format!("q={}", words(65)), 400),
        (format!("q={}", nested(16)), 200),
        (format!("q={}", nested(17)), 400),
        (format!("q={}", "NOT+".repeat(200)), 400),
        ("q=%00".to_owned(), 400),
        ("q=%ff".to_owned(), 400),
        ("q=%zz".to_owned(), 200),
        ("q=%25%5f%27%3b--".to_owned(), 400),
        ("q=%F0%9F%A6%80".to_owned(), 200),
        ("q=new.a.b.c.d.e.f.g.h.i:1".to_owned(), 200),
        ("q=a&q=b".to_owned(), 400),
        ("%71=a".to_owned(), 200),
        ("token=a".to_owned(), 400),
        ("limit=-1".to_owned(), 400),
        ("limit=1001".to_owned(), 400),
        ("limit=99999999999999999999".to_owned(), 400),
        ("limit=0".to_owned(), 200),
        ("from=9999-12-31T23:59:59.999999999Z".to_owned(), 200),
        (
            "from=0000-01-01T00:00:00Z&to=0000-01-01T00:00:00Z".to_owned(),
            200,
        ),
        (
            "from=0000-01-01T00:00:00%2B23:59&facets=true".to_owned(),
            200,
        ),
        ("to=9999-12-31T23:59:59-23:59&facets=true".to_owned(), 200),
        ("from=2026-06-30T23:59:60Z".to_owned(), 200),
        ("from=-1".to_owned(), 400),
        ("cursor=".to_owned(), 400),
        ("cursor=A".to_owned(), 400),
        (format!("cursor={}", "A".repeat(4096)), 400),
        (format!("cursor={}", "A".repeat(4097)), 400),
        (format!("tenant={}", "a".repeat(2049)), 400),
        ("operation=Insert,,".to_owned(), 400),
        (format!("operation={}Insert", "Insert,".repeat(1000)), 200),
        (format!("operation={}Insert", "Insert,".repeat(2000)), 414),
    ]
}

/// Other targets, and what they are answered with.
const TARGETS: &[(&str, u16)] = &[
    ("/api/observers", 404),
    ("/api/observers/", 404),
    ("/api/observers/search/", 404),
    ("/api/observers//search", 404),
    ("/api/observers/%73earch", 404),
    ("/api/observers/../../metrics", 404),
    ("/api/observers/events/..%2f..%2fmetrics", 404),
    ("/api/observers/events/%ff", 404),
    ("/api/observers/events/%00", 404),
    ("/api/observers/events/1-1-1%0d%0aset-cookie:a=b", 404),
    ("/api/observers/events/-1", 404),
    ("/api/observers/events/99999999999999999999", 404),
    ("/api/observers/dead-letters/-1", 404),
    ("/api/observers/dead-letters/99999999999999999999", 404),
    ("/api/observers/dead-letters?before=0", 400),
    (
        "/api/observers/dead-letters?since=0000-01-01T00:00:00Z",
        200,
    ),
    (
        "/api/observers/dead-letters?until=9999-12-31T23:59:59-23:59",
        200,
    ),
    ("/metrics", 404),
    ("*", 404),
];

#[tokio::test(flavor = "multi_thread")]
async fn odd_targets_get_problems() {
    let shop = Shop::open().await;
    let queries = queries().into_iter();
    let searches =
        queries.map(|(query, status)| (format!("/api/observers/search?{query}"), status));
    let targets = TARGETS
        .iter()
        .map(|(target, status)| ((*target).to_owned(), *status));
    let tried: Vec<(String, u16)> = searches.chain(targets).collect();
    for (target, expected) in &tried {
        let answer = loop {
            let answer = raw(&shop.address, &head("GET", target, "")).await;
            if status(&answer) != 429 {
                break answer;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        };
        let brief: String = target.chars().take(80).collect();
        assert_eq!(status(&answer), *expected, "{brief}: {answer}");
        let (headers, body) = answer.split_once("\r\n\r\n").unwrap();
        let is_of_the_api = target.starts_with("/api/observers");
        assert_eq!(
            headers.contains("cache-control: no-store"),
            is_of_the_api,
            "{brief}: {headers}"
        );
        assert!(!headers.contains("set-cookie"), "{brief}: {headers}");
        if *expected >= 400 {
            assert!(
                headers.contains("application/problem+json"),
                "{brief}: {headers}"
            );
            let problem: Value = serde_json::from_str(body).unwrap();
            assert_eq!(problem["status"], *expected, "{brief}");
            assert!(body.len() < 2000, "{brief}: {body}");
        }
    }
    shop.process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cursors_are_good_for_one_caller_and_one_search() {
    let shop = Shop::open().await;
    let cursor = async |token: &str| {
        let page = shop.json(token, "/search?limit=1").await;
        page["next"].as_str().unwrap().to_owned()
    };
    let (all, acme, globex) = (cursor(ALL).await, cursor(ACME).await, cursor(GLOBEX).await);
    let asked = async |token: &str, cursor: &str| {
        let path = format!("/search?limit=1&cursor={cursor}");
        shop.get(token, &path).await.0
    };
    for (token, own, others) in [
        (ACME, &acme, [&globex, &all]),
        (GLOBEX, &globex, [&acme, &all]),
        (ALL, &all, [&acme, &globex]),
    ] {
        assert_eq!(asked(token, own).await, 200);
        for other in others {
            assert_eq!(asked(token, other).await, 400, "{token}");
        }
        for cut in 0..own.len() {
            if cut % 9 == 0 {
                assert_eq!(asked(token, &own[..cut]).await, 400, "{cut}");
            }
        }
        // The same bytes in another alphabet are another text.
        assert_eq!(asked(token, &format!("{own}=")).await, 400);
    }
    // Who sees all tenants may go on with the cursor of another such token: it is the same search.
    assert_eq!(asked(READER, &all).await, 200);
    shop.process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn floods_and_slow_clients_keep_nobody_out() {
    let shop = Shop::open().await;
    // More headers than any client sends, and longer ones.
    let many = "x-more: a\r\n".repeat(2000);
    let long = format!("x-long: {}\r\n", "a".repeat(4 << 20));
    for more in [many.as_str(), long.as_str()] {
        let answer = raw(&shop.address, &head("GET", "/api/observers/status", more)).await;
        assert!(answer.is_empty() || status(&answer) == 431, "{answer}");
    }
    let answer = raw(&shop.address, b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n").await;
    assert!(answer.is_empty() || status(&answer) == 400, "{answer}");
    // Chunks without an end are a body that is too large.
    let mut endless = head(
        "POST",
        "/api/observers/jobs/retry",
        "content-type: application/json\r\ntransfer-encoding: chunked\r\n",
    );
    for _ in 0..40 {
        endless.extend_from_slice(b"10000\r\n");
        endless.extend(vec![b' '; 0x10000]);
        endless.extend_from_slice(b"\r\n");
    }
    let answer = raw(&shop.address, &endless).await;
    assert_eq!(status(&answer), 413, "{answer}");

    // Clients that never come to an end of their request.
    let mut slow = Vec::new();
    for _ in 0..100 {
        let mut stream = TcpStream::connect(&shop.address).await.unwrap();
        stream
            .write_all(b"GET /api/observers/status HTTP/1.1\r\nx: ")
            .await
            .unwrap();
        slow.push(stream);
    }
    let answer = timeout(PROMPT, shop.get(READER, "/status")).await;
    assert_eq!(answer.map(|answer| answer.0), Ok(200));

    // A flood of searches: each is answered or told to come back, and deliveries go on.
    let client = Client::new();
    let url = format!(
        "http://{}/api/observers/search?facets=true&q=marker",
        shop.address
    );
    let flood = futures::stream::iter(0..400)
        .map(|n| {
            let token = [ALL, READER, ACME, GLOBEX][n % 4];
            let asked = client.get(&url).bearer_auth(token).send();
            async move {
                let answer = asked.await.unwrap();
                let after = answer.headers().get("retry-after").cloned();
                (answer.status().as_u16(), after.is_some())
            }
        })
        .buffer_unordered(48);
    let insert = async {
        shop.db
            .run("insert into orders values (1000, 'acme', 'late', 'x')")
            .await;
        letters(&shop.db, 11).await;
    };
    let (told, ()) = tokio::join!(flood.collect::<Vec<_>>(), insert);
    assert!(told.contains(&(200, false)), "{told:?}");
    let fine = [(200, false), (429, true)];
    assert!(told.iter().all(|one| fine.contains(one)), "{told:?}");

    for method in ["HEAD", "OPTIONS", "PATCH", "BREW"] {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let answer = shop.ask(READER, method.clone(), "/search", None).await;
        let expected = if method == Method::HEAD { 200 } else { 405 };
        assert_eq!(answer.status(), expected, "{method}");
    }
    drop(slow);
    shop.process.stop().await;
}
