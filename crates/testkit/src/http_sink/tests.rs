//! The sink as a plain client sees it.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::Mutex;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::state::draw;
use super::*;

async fn exchange(sink: &Sink, request: &str) -> String {
    let mut stream = TcpStream::connect(sink.address()).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

fn post(path: &str, id: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nwebhook-id: {id}\r\ncontent-length: 2\r\n\r\n{{}}")
}

#[tokio::test]
async fn requests_on_one_connection_are_kept_in_order() {
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let answer = exchange(&sink, &(post("/a?x=1", "1") + &post("/b", "2"))).await;
    assert_eq!(answer.matches("HTTP/1.1 200").count(), 2);
    // They were counted before they were answered.
    assert_eq!(sink.counts().requests, 2);
    let received = sink.received();
    assert_eq!(received[0].line, "POST /a?x=1");
    assert_eq!(received[1].webhook_id, "2");
    assert_eq!(received[1].header("content-length"), Some("2"));
    assert_eq!(&received[1].body[..], b"{}");
    assert_eq!(sink.counts().succeeded, 2);
}

#[tokio::test]
async fn each_id_fails_as_often_as_told() {
    let sink = Sink::start(Behaviour::FailFirst {
        times: 1,
        status: 503,
    })
    .await
    .unwrap();
    for (id, status) in [("a", "503"), ("b", "503"), ("a", "200"), ("b", "200")] {
        let answer = exchange(&sink, &post("/", id)).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{answer}"
        );
    }
}

#[tokio::test]
async fn a_path_behaves_in_its_own_way_until_told_otherwise() {
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    sink.behave_at("/down", Behaviour::Status(500));
    assert!(exchange(&sink, &post("/down?q", "a")).await.contains("500"));
    assert!(exchange(&sink, &post("/up", "a")).await.contains("200"));
    sink.behave_at("/down", Behaviour::Ok);
    assert!(exchange(&sink, &post("/down", "a")).await.contains("200"));
}

#[tokio::test]
async fn what_is_held_is_answered_once_the_sink_is_told_how_to_behave() {
    let sink = Sink::start(Behaviour::Hold).await.unwrap();
    let request = post("/", "a");
    let mut held = std::pin::pin!(exchange(&sink, &request));
    tokio::select! {
        answer = &mut held => panic!("answered: {answer}"),
        arrived = sink.wait_for(1, Duration::from_mins(1)) => assert!(arrived, "it is there"),
    }
    sink.behave(Behaviour::Status(500));
    assert!(held.await.contains("200"), "it was taken before");
    assert!(exchange(&sink, &request).await.contains("500"));
}

#[tokio::test]
async fn the_next_request_may_be_dealt_with_in_another_way() {
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    sink.behave_once(Behaviour::Status(503));
    assert!(exchange(&sink, &post("/", "a")).await.contains("503"));
    assert!(exchange(&sink, &post("/", "a")).await.contains("200"));
}

#[tokio::test]
async fn a_sink_that_only_counts_keeps_nothing() {
    let sink = Sink::start_with(Options {
        keep: false,
        ..Options::default()
    })
    .await
    .unwrap();
    exchange(&sink, &post("/", "a")).await;
    assert_eq!(sink.counts().requests, 1);
    assert!(sink.received().is_empty());
}

#[tokio::test]
async fn waiting_for_what_does_not_come_ends() {
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    assert!(!sink.wait_for(1, Duration::from_millis(10)).await);
}

#[test]
fn a_share_fails_and_it_is_the_same_share_each_time() {
    let failing = |seed| {
        (0..1000)
            .filter(|n| draw(seed, &n.to_string(), 1) < 100)
            .count()
    };
    assert_eq!(failing(1), failing(1));
    assert!((60..140).contains(&failing(1)), "{}", failing(1));
}

#[tokio::test]
async fn drained_sink_has_read_closed_connections() {
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    for id in ["a", "b", "c"] {
        let mut stream = TcpStream::connect(sink.address()).await.unwrap();
        stream.write_all(post("/", id).as_bytes()).await.unwrap();
    }
    sink.drained().await;
    assert_eq!(sink.counts().requests, 3);
}

/// Keeps the paths of deliveries, and turns the sink off and on.
#[derive(Default)]
struct Switch(Mutex<Vec<String>>);

impl Handler for Switch {
    fn control(&self, request: &Request) -> Option<Response> {
        (request.path() == "/switch").then(|| Response {
            status: 202,
            body: request.query().as_bytes().to_vec(),
            behaviour: Some(Behaviour::Status(request.query().parse().unwrap())),
        })
    }

    fn delivered(&self, request: &Request, status: u16) {
        let delivered = format!("{} {status}", request.path());
        self.0.lock().unwrap().push(delivered);
    }
}

#[tokio::test]
async fn a_handler_sees_deliveries_and_responds_to_what_is_none() {
    let switch = Arc::new(Switch::default());
    let options = Options {
        handler: Some(Arc::<Switch>::clone(&switch)),
        ..Options::default()
    };
    let sink = Sink::start_with(options).await.unwrap();
    exchange(&sink, &post("/a", "1")).await;
    let answer = exchange(&sink, &post("/switch?500", "")).await;
    assert!(
        answer.starts_with("HTTP/1.1 202") && answer.ends_with("500"),
        "{answer}"
    );
    exchange(&sink, &post("/b", "2")).await;
    assert_eq!(*switch.0.lock().unwrap(), ["/a 200", "/b 500"]);
    assert_eq!(sink.counts().requests, 2, "a switch is no delivery");
}

#[tokio::test]
async fn a_client_that_goes_before_the_answer_has_not_delivered() {
    let switch = Arc::new(Switch::default());
    let options = Options {
        behaviour: Behaviour::Steady {
            status: 200,
            pause: Duration::from_hours(1),
            fail_one_in: 0,
        },
        handler: Some(Arc::<Switch>::clone(&switch)),
        ..Options::default()
    };
    let sink = Sink::start_with(options).await.unwrap();
    // The exchange ends, as the sink closes the connection of a client that has.
    assert_eq!(exchange(&sink, &post("/a", "1")).await, "");
    assert!(switch.0.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_steady_sink_fails_one_in_so_many() {
    let sink = Sink::start(Behaviour::Steady {
        status: 204,
        pause: Duration::ZERO,
        fail_one_in: 3,
    })
    .await
    .unwrap();
    for status in ["204", "204", "503", "204"] {
        let answer = exchange(&sink, &post("/", "a")).await;
        assert!(answer.contains(status), "{answer}");
    }
}

#[test]
fn signatures_are_right_only_by_a_known_secret() {
    let secrets = [1_u8, 2, 3].map(|n| Webhook::from_bytes(vec![n; 32]).unwrap());
    let at = 1_700_000_000;
    for (signer, expected) in [(0, Some(0)), (1, Some(1)), (2, None)] {
        let signature = secrets[signer].sign("id", at, b"{}").unwrap();
        let head = format!(
            "POST / HTTP/1.1\r\nwebhook-id: id\r\nwebhook-timestamp: {at}\r\nwebhook-signature: v1,x {signature}"
        );
        let from = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
        let mut request = Request::parse(head.as_bytes(), from).unwrap();
        request.body = Bytes::from_static(b"{}");
        request.check_signature(&secrets[..2]);
        assert_eq!(request.signed_by, expected, "{signer}");
    }
}
