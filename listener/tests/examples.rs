//! The examples of the documentation, run as they are: what they send arrives.

use std::path::Path;

use observer_listener::demo::sink::{Behaviour, Received, Sink};
use serde_json::Value;

use crate::support::database;
use crate::support::listener::{Process, SOON};

/// Runs an example, whose receiver is this machine's, does something to orders, and gives what
/// was received first. `secrets` are those it needs besides the database's.
async fn run(example: &str, secrets: &[(&str, &str)], change: &str) -> Received {
    let db = database().await;
    db.run(
        "create table orders (id int primary key, total numeric, customer text, status text);
         select observer.track('orders')",
    )
    .await;
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let place = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/examples");
    let text = std::fs::read_to_string(place.join(example)).unwrap();
    // Receivers here are allowed only where a listener says so.
    let allowed = text.replacen(
        "spec:\n  source:",
        "spec:\n  egress: {allow: [127.0.0.0/8]}\n  source:",
        1,
    );
    assert_ne!(text, allowed);
    let hook = sink.url("/hook");
    let hooks = secrets.iter().map(|(name, key)| (*name, *key, &*hook));
    let secrets = std::iter::once(("shop-db", "url", &*db.url)).chain(hooks);
    let secrets = secrets.map(|(name, key, value)| {
        format!(
            "\n---\napiVersion: v1\nkind: Secret\nmetadata: {{name: {name}}}\nstringData: {{{key}: \"{value}\"}}\n"
        )
    });
    let file: String = std::iter::once(allowed).chain(secrets).collect();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(example);
    std::fs::write(&path, file).unwrap();
    let process = Process::start(&["run", "--listen", "off", "-f"], &path);
    db.run(change).await;
    assert!(sink.wait_for(1, SOON).await, "{}", process.said());
    process.stop().await;
    sink.received().remove(0)
}

fn json(received: &Received) -> Value {
    serde_json::from_slice(&received.body).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn slack() {
    let order = "insert into orders values (7, 1000.50, 'Ada <!channel>', 'new')";
    let received = run("slack.yaml", &[("shop-slack", "url")], order).await;
    let message = json(&received);
    assert_eq!(message["text"], "Order 7 over 1000.50");
    assert_eq!(
        message["blocks"][1]["text"]["text"],
        "*Ada &lt;!channel&gt;* ordered for 1000.50"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn teams() {
    let order = "insert into orders values (7, 1.50, 'Ada \"X\"', 'new');
                 update orders set status = 'cancelled'";
    let received = run("teams.yaml", &[("shop-teams", "url")], order).await;
    let body = &json(&received)["attachments"][0]["content"]["body"];
    assert_eq!(body[0]["text"], "Order 7 was cancelled");
    assert_eq!(body[1]["facts"][0]["value"], "Ada \"X\"");
}
