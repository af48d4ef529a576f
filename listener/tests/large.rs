//! Events that are large, or long where nothing should be: the listener stays within a pod's 256 MiB,
//! sets aside what is too long, and goes on.

use testkit::http_sink::{Behaviour, Sink};

use crate::support::listener::{Config, Process, observer, patient};
use crate::support::memory::peak_mib;
use crate::support::told::{keys_of, letters};
use crate::support::{TestDb, all_is_behind, amounts_to, database};

/// What a pod may take, in MiB.
const MOST_MIB: u64 = 256;

/// Writes events of the entity `note` to the log, whatever the functions that do so would refuse;
/// `what` are their key and their tenant.
async fn logged(db: &TestDb, what: &str, count: u32) {
    db.run(&format!(
        "insert into observer.change_log (partition_no, hash, size, operation, entity, key, tenant, new)
         select (select partition_no from observer.log_partition_state), observer.hash_of(tenant, 'note', key), 2, 'c', 'note', key, tenant,
                '{{}}'
         from (select {what} from generate_series(1, {count}) n) of (key, tenant)"
    ))
    .await;
}

fn stays_small(process: &Process) {
    let peak = peak_mib(process.pid());
    println!("at most {peak} MiB");
    assert!(peak < MOST_MIB, "{peak} MiB, at most {MOST_MIB}");
}

#[tokio::test(flavor = "multi_thread")]
async fn long_keys_that_nobody_asks_for_are_not_read() {
    let db = database().await;
    db.run("create table orders (id int primary key); select observer.track('orders')")
        .await;
    logged(&db, "repeat('k', 10 * 1024 * 1024) || n, null", 40).await;
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let config = Config::new(
        &db.url,
        "",
        &observer("orders", "public.orders", &sink.url("/orders"), ""),
    );
    let process = Process::run(&config);
    db.run("insert into orders values (1)").await;
    keys_of(&sink, "/orders", 1).await;
    stays_small(&process);
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_long_is_set_aside_with_its_reason() {
    let db = database().await;
    db.run("create table orders (id int primary key); select observer.track('orders')")
        .await;
    for (what, count) in [
        ("repeat('k', 8192), 'one'", 1),
        ("repeat('k', 8193), 'one'", 1),
        ("'key', repeat('t', 8193)", 1),
        ("'key', repeat('t', 150 * 1024 * 1024)", 1),
        ("repeat('k', 10 * 1024 * 1024), null", 20),
    ] {
        logged(&db, what, count).await;
    }
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let observers = observer("note", "note", &sink.url("/note"), "")
        + &observer("orders", "public.orders", &sink.url("/orders"), "");
    let config = Config::new(&db.url, "", &observers);
    let process = Process::run(&config);
    db.run("insert into orders values (1)").await;
    keys_of(&sink, "/orders", 1).await;
    let told = keys_of(&sink, "/note", 1).await;
    assert_eq!(told, ["k".repeat(8192)]);
    let letters = letters(&db, 23).await;
    for (letter, words) in letters.iter().zip([
        "key takes 8193 bytes and at most 8192",
        "tenant takes 8193 bytes and at most 8192",
        "tenant takes 157286400 bytes",
    ]) {
        let (observer, _, kind, error) = letter;
        assert_eq!((&**observer, &**kind), ("note", "event"));
        assert!(error.contains(words), "{error}");
    }
    assert_eq!(letters.len(), 23);
    stays_small(&process);
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_event_for_many_observers_goes_to_a_few_at_a_time() {
    const OBSERVERS: u64 = 60;
    let db = database().await;
    db.run(
        "create table orders (id int primary key, note text); select observer.track('orders');
         alter table orders alter column note set storage external",
    )
    .await;
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let mut observers = String::new();
    for n in 0..OBSERVERS {
        let name = format!("o{n}");
        let one = observer(&name, "public.orders", &sink.url("/large"), "");
        observers += &patient(&one);
    }
    let config = Config::new(&db.url, "", &observers);
    let process = Process::run(&config);
    db.run("insert into orders values (1, repeat('n', 15 * 1024 * 1024))")
        .await;
    amounts_to("deliveries", OBSERVERS, async || sink.counts().succeeded).await;
    all_is_behind(&db).await;
    stays_small(&process);
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_jobs_are_claimed_a_few_at_a_time() {
    const EVENTS: u64 = 30;
    let db = database().await;
    db.run(
        "create table orders (id int primary key, note text); select observer.track('orders');
         alter table orders alter column note set storage external",
    )
    .await;
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let one = observer("orders", "public.orders", &sink.url("/large"), "");
    let queued = patient(&one).replace("      retry:", "      mode: Queued\n      retry:");
    let config = Config::new(&db.url, "", &queued);
    // All wait before anybody works on them.
    let reader = Process::run(&config);
    reader.signal("STOP").await;
    for id in 1..=EVENTS {
        db.run(&format!(
            "insert into orders values ({id}, repeat('n', 15 * 1024 * 1024))"
        ))
        .await;
    }
    reader.signal("CONT").await;
    amounts_to("deliveries", EVENTS, async || sink.counts().succeeded).await;
    all_is_behind(&db).await;
    let peak = peak_mib(reader.pid());
    println!("at most {peak} MiB");
    // Each is there several times on its way into the queue and out again.
    assert!(peak < 2 * MOST_MIB, "{peak} MiB");
    reader.stop().await;
}
