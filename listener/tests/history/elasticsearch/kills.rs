//! Processes that are killed while they write to a server that is reached over TLS.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use testkit::certs::Certs;
use testkit::http_sink::{Behaviour, Sink};
use testkit::seed::seed;

use super::{all_final, search, server};
use crate::support::database;
use crate::support::fleet::{SHORT_LEASE, files, run_for_a_while, shared};
use crate::support::listener::Process;
use crate::support::tls::TlsProxy;
use crate::support::writers::{Writers, make_table};

/// How often a process is killed.
const KILLS: usize = 6;

#[tokio::test(flavor = "multi_thread")]
async fn kills_of_either_process_leave_each_event_a_final_document() {
    let seed = seed();
    let mut random = StdRng::seed_from_u64(seed);
    let db = database().await;
    make_table(&db.pool).await;
    let sink = Sink::start(Behaviour::FailShare {
        per_mille: 50,
        seed,
        status: 503,
    })
    .await
    .unwrap();
    let (server, certs) = (server().await, Certs::make());
    let proxy = TlsProxy::before(server.port, &certs).await;
    let quoted = |ca: &str| format!(", tls: {{ca: {{value: {}}}}}", serde_json::json!(ca));
    let stranger = quoted(&Certs::make().ca);
    let spec = format!("{SHORT_LEASE}{}", search(&proxy.url(), &stranger));
    let config = files(&db.url, &format!("{spec}  shards: 4\n"), &sink, "/hook");
    let mut process = Process::run(&config);
    process.says("cannot write documents of the history").await;
    let said = process.said();
    let clear = said.contains("invalid peer certificate") && said.contains("check `tls.ca`");
    assert!(clear, "{said}");
    process.stop().await;
    config.change(&stranger, &quoted(&certs.ca));

    let writers = Writers::start(&db.url, 2, seed);
    let mut processes = [Process::run(&config), Process::run(&config)];
    shared(&db.pool, 4, &[&processes[0], &processes[1]]).await;
    for _ in 0..KILLS {
        let killed = random.random_range(0..2);
        let next = run_for_a_while(&config, &sink, &mut random).await;
        std::mem::replace(&mut processes[killed], next).kill().await;
    }
    writers.stop().await;
    let events = all_final(&db, &server).await;
    println!("{KILLS} kills, {events} events and documents");
    for process in processes {
        process.stop().await;
    }
}
