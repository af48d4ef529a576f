//! Who may do what, how often, and how requests are refused.

use futures::StreamExt as _;
use reqwest::{Client, Method};
use serde_json::{Value, json};

use super::shop::{ACME, ALL, READER, Shop};

#[tokio::test(flavor = "multi_thread")]
async fn roles_methods_and_sizes_are_refused_with_problems() {
    let mut shop = Shop::open().await;
    let base = format!("http://{}/api/observers", shop.address);
    let client = Client::new();
    let refused = async |request: reqwest::RequestBuilder| {
        let answer = request.send().await.unwrap();
        assert_eq!(answer.headers()["content-type"], "application/problem+json");
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        let problem: Value = answer.json().await.unwrap();
        assert_eq!(problem["status"], status, "{problem}");
        (
            status,
            headers,
            problem["detail"].as_str().unwrap().to_owned(),
        )
    };
    let drop = |token: &str| {
        let request = client.post(format!("{base}/dead-letters/drop"));
        request
            .bearer_auth(token)
            .json(&json!({"ids": [1_000_000]}))
    };
    let (status, _, detail) = refused(drop(READER)).await;
    assert_eq!(status, 403);
    assert!(
        detail.contains("reader") && detail.contains("Operate"),
        "{detail}"
    );
    assert_eq!(drop(ALL).send().await.unwrap().status(), 200);
    shop.process
        .says("caller=\"all\" operation=\"dropDeadLetters\"")
        .await;

    let (status, headers, _) = refused(client.get(format!("{base}/status"))).await;
    assert_eq!(
        (status, &headers["www-authenticate"]),
        (401, &"Bearer".parse().unwrap())
    );
    for method in [Method::OPTIONS, Method::TRACE, Method::PUT, Method::DELETE] {
        let request = client.request(method.clone(), format!("{base}/jobs"));
        let (status, headers, _) = refused(request.bearer_auth(READER)).await;
        assert_eq!(
            (status, &headers["allow"]),
            (405, &"GET,HEAD".parse().unwrap()),
            "{method}"
        );
    }
    let long = format!("{base}/search?q={}", "a".repeat(9000));
    assert_eq!(refused(client.get(long).bearer_auth(READER)).await.0, 414);
    let body = |kind: &str, body: String| {
        let request = client.post(format!("{base}/jobs/retry")).bearer_auth(ALL);
        request.header("content-type", kind).body(body)
    };
    for (kind, text, expected) in [
        ("application/json", " ".repeat(2 << 20), 413),
        ("text/plain", "{\"all\": true}".to_owned(), 415),
        ("application/json", "{\"all\": tru".to_owned(), 400),
        ("application/json", "{\"all\": false}".to_owned(), 422),
        ("application/json", "[]".to_owned(), 422),
        ("application/json", "{\"ids\": []}".to_owned(), 422),
    ] {
        assert_eq!(refused(body(kind, text)).await.0, expected);
    }

    // Tokens that are not known are limited together, and those that are known go on.
    // A machine that is slow lets more of them pass meanwhile.
    let mut asked = futures::stream::iter(0..2000)
        .map(|n| {
            let request = client.get(format!("{base}/status"));
            refused(request.bearer_auth(format!("a-token-that-is-not-known-{n}")))
        })
        .buffer_unordered(16);
    let mut passed = 0;
    while let Some((401, ..)) = asked.next().await {
        passed += 1;
    }
    assert!((90..2000).contains(&passed), "{passed}");
    assert_eq!(shop.get(ACME, "/status").await.0, 200);
    // So is each token that is known.
    let mut asked = futures::stream::iter(0..250)
        .map(|_| {
            client
                .get(format!("{base}/openapi.json"))
                .bearer_auth(READER)
                .send()
        })
        .buffer_unordered(16);
    let mut after = Vec::new();
    while let Some(answer) = asked.next().await {
        let answer = answer.unwrap();
        if answer.status() == 429 {
            after.push(answer.headers()["retry-after"].to_str().unwrap().to_owned());
        }
    }
    assert!(
        !after.is_empty() && after.iter().all(|seconds| seconds == "1"),
        "{after:?}"
    );
    let said = shop.process.stop().await;
    assert!(!said.contains("is-not-known-1"), "no token is logged");
    assert!(said.contains("with a token that is not known"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_rotated_one_by_one() {
    let mut shop = Shop::open().await;
    shop.config.change(READER, "reads-with-another-token");
    shop.process.signal("HUP").await;
    // Deliveries go on, and so does the API.
    shop.process
        .says("configuration reloaded: observers replaced")
        .await;
    let known = async |token: &str| {
        let url = format!("http://{}/api/observers/openapi.json", shop.address);
        let answer = Client::new().get(url).bearer_auth(token).send().await;
        answer.unwrap().status().as_u16()
    };
    let replaced = async || (known("reads-with-another-token").await == 200).then_some(());
    crate::support::eventually("the new token is known", replaced).await;
    assert_eq!((known(READER).await, known(ALL).await), (401, 200));
    shop.process.stop().await;
}
