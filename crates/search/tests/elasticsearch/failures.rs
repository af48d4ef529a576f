//! What becomes of calls when the server is full, busy, away, or not one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crds::config::{Redacted, SearchLogin};
use observer_search::{Document, SearchError, SearchIndex};
use testkit::fault_proxy::{Answer, Fault, FaultProxy, Request};
use testkit::servers::elasticsearch::{SearchServer, SearchServerKind};
use testkit::wait::comes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::{INDEX, index_at};
use crate::support::builders::{delivery, document, matched, with_new};
use crate::support::{all_of, found, request, write};

const PASSWORD: &str = "hunter2-search";

fn unavailable<T: std::fmt::Debug>(result: Result<T, SearchError>) -> String {
    match result {
        Err(SearchError::Unavailable(told)) => told,
        other => panic!("{other:?}"),
    }
}

pub(super) async fn what_passes_is_told_from_what_lasts(mut server: SearchServer) {
    full_disk_passes(&server).await;
    wrong_password_is_refused_without_it(&server).await;
    too_long_requests_are_halved(&server).await;
    killed_server_keeps_what_was_written(&mut server).await;
}

async fn full_disk_passes(server: &SearchServer) {
    let index = index_at(&server.url(), None);
    let listener = "failures/full";
    write(&index, &[document(listener, 1)], 1).await;
    let settings = |block: &str| format!(r#"{{"index.blocks.read_only_allow_delete": {block}}}"#);
    let path = format!("/{INDEX}/_settings");
    server.must("PUT", &path, &settings("true")).await;
    let told = unavailable(index.write(&[document(listener, 2)]).await);
    assert!(told.contains("cluster_block_exception"), "{told}");
    let mut again = document(listener, 1);
    again.observers = vec![matched(
        "shop/a",
        vec![delivery("a", observer_search::DeliveryState::Delivered, 1)],
    )];
    unavailable(index.write(std::slice::from_ref(&again)).await);
    found(&index, listener, 1).await;
    server.must("PUT", &path, &settings("null")).await;
    write(&index, &[again, document(listener, 2)], 2).await;
}

async fn wrong_password_is_refused_without_it(server: &SearchServer) {
    let proxy = FaultProxy::before(server.port).await;
    proxy.set(Fault::Answer(Arc::new(|request: &Request| {
        let given = request.headers.get("authorization").map(String::as_str);
        let status = match given {
            Some("Basic c2hvcDpodW50ZXIyLXNlYXJjaA==") => return None,
            Some(_) => 401,
            None => 403,
        };
        let given = given.unwrap_or_default();
        // Some repeat what they were given.
        let body = format!(r#"{{"error": {{"type": "security_exception", "reason": "action [indices:data/read] {given} {PASSWORD}"}}}}"#);
        Some(Answer { status, body })
    })));
    let login = |password: &str| {
        Some(SearchLogin::Basic(
            Redacted::new("shop"),
            Redacted::new(password),
        ))
    };
    let index = index_at(&proxy.url(), login(PASSWORD));
    index.prepare().await.unwrap();
    write(&index, &[document("failures/login", 1)], 1).await;
    let key = Some(SearchLogin::ApiKey(Redacted::new("c2VjcmV0")));
    for (login, status) in [
        (login(&format!("{PASSWORD}x")), "401"),
        (key, "401"),
        (None, "403"),
    ] {
        let index = index_at(&proxy.url(), login);
        assert!(!format!("{index:?}").contains("hunter2"), "{index:?}");
        let told = index
            .write(&[document("failures/login", 2)])
            .await
            .unwrap_err();
        assert!(matches!(told, SearchError::Refused(_)), "{told:?}");
        let told = format!("{told} {told:?}");
        assert!(told.contains(status), "{told}");
        assert!(
            !told.contains("hunter2") && !told.contains("c2VjcmV0"),
            "{told}"
        );
    }
}

async fn too_long_requests_are_halved(server: &SearchServer) {
    let proxy = FaultProxy::before(server.port).await;
    proxy.set(Fault::Answer(Arc::new(|request: &Request| {
        let too_long = request.target.starts_with("/_bulk") && request.body.len() > 20_000;
        too_long.then(|| Answer {
            status: 413,
            body: String::new(),
        })
    })));
    let index = index_at(&proxy.url(), None);
    let listener = "failures/long";
    let row = |length: usize| format!(r#"{{"text": "{}"}}"#, "x".repeat(length));
    let mut documents: Vec<Document> = (0..20)
        .map(|number| with_new(listener, number, &row(2000)))
        .collect();
    documents.push(with_new(listener, 20, &row(30_000)));
    let report = index.write(&documents).await.unwrap();
    assert_eq!(report.written, 20);
    let rejected: Vec<&str> = report.rejected.iter().map(|one| one.id.as_str()).collect();
    assert_eq!(rejected, ["log-20"]);
    found(&index, listener, 20).await;
}

async fn killed_server_keeps_what_was_written(server: &mut SearchServer) {
    let index = index_at(&server.url(), None);
    let listener = "failures/killed";
    let documents: Vec<Document> = (0..100).map(|number| document(listener, number)).collect();
    index.write(&documents).await.unwrap();
    server.kill().await;
    unavailable(index.write(&documents).await);
    unavailable(index.search(&request(listener, "")).await);
    unavailable(index.prepare().await);
    server.resume().await;
    let report = index.write(&documents).await.unwrap();
    assert_eq!(report.written, 100);
    found(&index, listener, 100).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn overloaded_server_passes() {
    let limits = [
        "indexing_pressure.memory.limit=1kb",
        "http.max_content_length=100kb",
    ];
    let server = SearchServer::start(SearchServerKind::Elasticsearch7, &limits).await;
    let index = index_at(&server.url(), None);
    index.prepare().await.unwrap();
    let told = unavailable(
        index
            .write(&[with_new(
                "failures/pressure",
                1,
                &format!("{:?}", "x".repeat(5000)),
            )])
            .await,
    );
    assert!(told.contains("rejected_execution_exception"), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rubbish_and_silence_are_bounded() {
    for (answer, endless) in [
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nnot json!",
            false,
        ),
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}", false),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 999999999999\r\n\r\n{",
            false,
        ),
        ("HTTP/1.1 503 x\r\ncontent-length: 4\r\n\r\n<ht>", false),
        ("not HTTP\r\n\r\n", false),
        ("HTTP/1.1 200 OK\r\n\r\n", true),
        ("", true),
    ] {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", socket.local_addr().unwrap());
        let server = tokio::spawn(async move {
            while let Ok((mut stream, _)) = socket.accept().await {
                tokio::spawn(async move {
                    let mut request = vec![0; 65536];
                    let _ = stream.read(&mut request).await;
                    let _ = stream.write_all(answer.as_bytes()).await;
                    while endless && !answer.is_empty() {
                        tokio::time::sleep(Duration::from_millis(10)).await;
                        if stream.write_all(&[b' '; 1000]).await.is_err() {
                            return;
                        }
                    }
                    // It is closed by the client.
                    let _ = stream.read(&mut request).await;
                });
            }
        });
        let index = index_at(&url, None);
        let begun = Instant::now();
        let told = comes("an error", index.search(&request("x", ""))).await;
        if answer.ends_with("{}") {
            // An empty page is what no index gives.
            assert_eq!(told.unwrap().total, 0);
        } else {
            told.unwrap_err();
        }
        if !endless {
            comes("an error", index.write(&[document("x", 1)]))
                .await
                .unwrap_err();
            let _ = comes("an end", index.get(&all_of("x"), "a-1-6615e1afaa36c")).await;
        }
        assert!(
            begun.elapsed() < Duration::from_secs(40),
            "{answer}: {:?}",
            begun.elapsed()
        );
        server.abort();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_server_is_of_use() {
    let server = SearchServer::start(SearchServerKind::OpenSearch3, &[]).await;
    let proxy = FaultProxy::before(server.port).await;
    let index = index_at(&proxy.url(), None);
    write(&index, &[document("failures/slow", 1)], 1).await;
    proxy.set(Fault::Slow(Duration::from_secs(5)));
    index.write(&[document("failures/slow", 2)]).await.unwrap();
    proxy.set(Fault::Slow(Duration::from_mins(1)));
    let begun = Instant::now();
    let told = unavailable(index.write(&[document("failures/slow", 3)]).await);
    assert!(told.contains("no response within"), "{told}");
    assert!(begun.elapsed() < Duration::from_secs(30));
    proxy.set(Fault::Away);
    unavailable(index.write(&[document("failures/slow", 3)]).await);
    proxy.set(Fault::None);
    write(&index, &[document("failures/slow", 3)], 3).await;
}
