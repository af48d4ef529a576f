//! The port for probes and metrics when it is crowded: deliveries go on, and who asks properly is
//! answered.

use std::process::Stdio;

use testkit::http_sink::{Behaviour, Sink};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Command;

use crate::support::database;
use crate::support::listener::{Config, Process, observer};
use crate::support::probe::{free_address, ready};
use crate::support::told::keys_of;

/// Requests that never come to an end of their head.
const CROWD: usize = 1100;

/// Descriptors that the listener may have, as a shell gives a process.
const DESCRIPTORS: usize = 1024;

#[tokio::test(flavor = "multi_thread")]
async fn half_requests_hold_up_neither_deliveries_nor_probes() {
    let db = database().await;
    db.run("create table orders (id int primary key); select observer.track('orders')")
        .await;
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let config = Config::new(
        &db.url,
        "",
        &observer("orders", "public.orders", &sink.url("/orders"), ""),
    );
    let address = free_address();
    let process = Process::start(&["run", "--listen", &address, "-f"], &config.path());
    let limited = Command::new("prlimit")
        .arg(format!("--nofile={DESCRIPTORS}:{DESCRIPTORS}"))
        .args(["--pid", &process.pid().to_string()])
        .stdout(Stdio::null())
        .status();
    assert!(limited.await.unwrap().success(), "prlimit, of util-linux");
    ready(&address, 200).await;

    let mut crowd = Vec::new();
    for _ in 0..CROWD {
        let mut one = TcpStream::connect(&address).await.unwrap();
        // Some are closed before they have said so much.
        let _closed = one.write_all(b"GET /readyz HTTP/1.1\r\nhost: a\r\n").await;
        crowd.push(one);
    }
    db.run("insert into orders select generate_series(1, 200)")
        .await;
    keys_of(&sink, "/orders", 200).await;
    let letters: i64 = db.value("select count(*) from observer.dead_letter").await;
    assert_eq!(letters, 0, "{}", process.said());
    ready(&address, 200).await;

    // The last of them are told to hurry.
    let mut last = crowd.pop().unwrap();
    let mut answer = Vec::new();
    let _reset = last.read_to_end(&mut answer).await;
    drop(crowd);
    process.stop().await;
}
