//! The demonstration, as its user runs it.

use std::process::Output;
use std::time::Duration;

use sqlx::{Connection, Executor, PgConnection};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::Command;

use crate::support::listener::program;
use crate::support::{TestDb, empty_database};

/// How long a demonstration of some seconds may take on a busy machine.
const LONG: Duration = Duration::from_mins(3);

fn demo(args: &[&str]) -> Command {
    let mut command = Command::new(program());
    command.arg("demo").args(args).kill_on_drop(true);
    command.env_remove("RUST_LOG");
    command.env_remove("OBSERVER_DATABASE_URL");
    command
}

async fn output(mut command: Command) -> Output {
    let output = tokio::time::timeout(LONG, command.output()).await;
    output.unwrap().unwrap()
}

/// A figure of the summary.
fn figure(text: &str, name: &str) -> u64 {
    let summary = text.split("Summary").nth(1).unwrap_or_default();
    let line = summary
        .lines()
        .find_map(|line| line.trim_start().strip_prefix(name));
    let line = line.unwrap_or_else(|| panic!("no {name} in:\n{text}"));
    line.split_whitespace().next().unwrap().parse().unwrap()
}

/// Asserts that it ended well and that all there is to see was seen.
fn check(output: &Output) {
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{text}\n{errors}");
    for name in [
        "committed",
        "rolled back",
        "delivered",
        "retried",
        "given up",
    ] {
        assert!(figure(&text, name) > 0, "{name}:\n{text}");
    }
    for name in ["missing", "repeated", "out of order", "unexpected"] {
        assert_eq!(figure(&text, name), 0, "{name}:\n{text}");
    }
    for shown in ["order-audit", "big-orders", "paid-orders"] {
        let shown = format!("A first delivery of {shown}");
        assert!(text.contains(&shown), "{shown}:\n{text}");
    }
    assert!(text.contains("`new.total` is null"), "a reason:\n{text}");
    assert!(!text.contains('\x1b'), "no control sequences:\n{text}");
    assert_eq!(errors, "", "the display has it all");
}

async fn traces(db: &TestDb) -> i64 {
    db.value(
        "select (select count(*) from pg_namespace where nspname = 'shop')
              + (select count(*) from observer.checkpoint)
              + (select count(*) from observer.dead_letter)
              + (select count(*) from observer.tracked)",
    )
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn one_command_shows_it_all() {
    check(&output(demo(&["--for", "5s"])).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_database_of_the_user_s_it_leaves_no_trace_and_can_be_repeated() {
    let db = empty_database().await;
    for _ in 0..2 {
        check(&output(demo(&["--for", "5s", "--database-url", &db.url])).await);
        assert_eq!(traces(&db).await, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupt_ends_it_with_the_summary() {
    let db = empty_database().await;
    let mut command = demo(&["--database-url", &db.url]);
    command.stdout(std::process::Stdio::piped());
    let mut process = command.spawn().unwrap();
    let mut said = BufReader::new(process.stdout.take().unwrap());
    let seen = async {
        let mut line = String::new();
        while !line.contains("committed") {
            line.clear();
            assert!(said.read_line(&mut line).await.unwrap() > 0, "it ended");
        }
        let pid = process.id().unwrap().to_string();
        let killed = Command::new("kill").args(["-INT", &pid]).status().await;
        assert!(killed.unwrap().success());
        let mut rest = String::new();
        said.read_to_string(&mut rest).await.unwrap();
        rest
    };
    let rest = tokio::time::timeout(LONG, seen).await.unwrap();
    assert!(figure(&rest, "committed") > 0);
    assert!(process.wait().await.unwrap().success(), "{rest}");
    assert_eq!(traces(&db).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_one_left_is_cleared_away() {
    let db = empty_database().await;
    let mut command = demo(&["--database-url", &db.url]);
    command.stdout(std::process::Stdio::piped());
    let mut process = command.spawn().unwrap();
    let mut said = BufReader::new(process.stdout.take().unwrap());
    let mut line = String::new();
    while !line.contains("committed") {
        line.clear();
        let read = tokio::time::timeout(LONG, said.read_line(&mut line)).await;
        assert!(read.unwrap().unwrap() > 0, "it ended");
    }
    process.kill().await.unwrap();
    assert!(traces(&db).await > 0);
    // The killed one's connections hold its lock until the server has noticed.
    db.run(
        "select pg_terminate_backend(pid, 10000) from pg_stat_activity
         where pid <> pg_backend_pid() and datname = current_database()
             and application_name = 'observer-listener'",
    )
    .await;
    check(&output(demo(&["--for", "5s", "--database-url", &db.url])).await);
    assert_eq!(traces(&db).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shop_of_somebody_else_s_is_refused_and_not_touched() {
    let db = empty_database().await;
    db.run("create schema shop; create table shop.orders (id int primary key)")
        .await;
    let refused = output(demo(&["--for", "5s", "--database-url", &db.url])).await;
    assert_eq!(refused.status.code(), Some(2));
    let message = String::from_utf8_lossy(&refused.stderr);
    assert!(
        message.contains("schema `shop` that no demo made"),
        "{message}"
    );
    let kept: bool = db
        .value(
            "select to_regclass('shop.orders') is not null and to_regnamespace('observer') is null",
        )
        .await;
    assert!(kept);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_in_one_database_do_not_meet() {
    let db = empty_database().await;
    let mut other = PgConnection::connect(&db.url).await.unwrap();
    other
        .execute("select pg_advisory_lock(x'73686f7064656d6f'::bit(64)::bigint)")
        .await
        .unwrap();
    let refused = output(demo(&["--for", "5s", "--database-url", &db.url])).await;
    assert_eq!(refused.status.code(), Some(2));
    let message = String::from_utf8_lossy(&refused.stderr);
    assert!(message.contains("another demo is under way"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_used_is_the_configuration_s_fault() {
    for args in [
        ["--for", "5s", "--database-url", "mysql://localhost/shop"],
        ["--for", "5h", "--database-url", "postgres://localhost/shop"],
    ] {
        assert_eq!(output(demo(&args)).await.status.code(), Some(2));
    }
}
