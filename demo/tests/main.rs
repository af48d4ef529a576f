//! The demonstration, as its user runs it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]

use std::process::{Output, Stdio};

use sqlx::{Connection, Executor, PgConnection};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};

use testkit::database::TestDb;
use testkit::wait::{comes, while_progressing};

fn demo(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_observer-demo"));
    command.args(args).kill_on_drop(true);
    command.env_remove("RUST_LOG");
    command.env_remove("OBSERVER_DATABASE_URL");
    command
}

/// In a database of the user's.
fn demo_in(db: &TestDb, args: &[&str]) -> Command {
    let mut command = demo(args);
    command.env("OBSERVER_DATABASE_URL", &db.url);
    command
}

/// Runs it to its end.
async fn output(command: Command) -> Output {
    output_until(command, |_| false).await
}

/// Runs it to its end, which is asked for once `seen` finds enough in what it says. It is waited for
/// as long as it says more.
async fn output_until(mut command: Command, seen: impl Fn(&str) -> bool) -> Output {
    let (out, err) = (Stdio::piped(), Stdio::piped());
    let mut process = command.stdout(out).stderr(err).spawn().unwrap();
    let mut errors = process.stderr.take().unwrap();
    let errors = tokio::spawn(async move {
        let mut text = Vec::new();
        errors.read_to_end(&mut text).await.unwrap();
        text
    });
    let mut said = BufReader::new(process.stdout.take().unwrap());
    let (mut text, mut asked) = (String::new(), false);
    while more(&mut said, &mut text).await {
        if !asked && seen(&text) {
            interrupt(&process).await;
            asked = true;
        }
    }
    let status = comes("the end of what says no more", process.wait()).await;
    Output {
        status: status.unwrap(),
        stdout: text.into_bytes(),
        stderr: errors.await.unwrap(),
    }
}

/// Reads another line of what it says; false where there is none any more.
async fn more(said: &mut BufReader<ChildStdout>, text: &mut String) -> bool {
    let before = text.clone();
    let what = format!("more after:\n{before}");
    comes(&what, said.read_line(text)).await.unwrap() > 0
}

async fn interrupt(process: &Child) {
    let pid = process.id().unwrap().to_string();
    let killed = Command::new("kill").args(["-INT", &pid]).status().await;
    assert!(killed.unwrap().success(), "it is there to be interrupted");
}

/// Whether there was everything to see: of each kind of delivery a first one, and one and another
/// attempt that failed.
fn everything(text: &str) -> bool {
    let last = text
        .lines()
        .rev()
        .find(|line| line.contains("  committed "));
    let counted = |name: &str| {
        let count = last.and_then(|line| line.split(name).nth(1)?.split_whitespace().next());
        count.is_some_and(|count| count != "0")
    };
    ["committed", "delivered", "retried", "given up"]
        .into_iter()
        .all(counted)
        && SHOWN
            .iter()
            .all(|name| text.contains(&format!("A first delivery of {name}")))
        && text.contains("A first dead letter")
}

/// Observers of which a delivery is shown.
const SHOWN: [&str; 3] = ["order-audit", "big-orders", "paid-orders"];

/// A figure of the summary.
fn figure(text: &str, name: &str) -> u64 {
    let summary = text.split("Summary").nth(1).unwrap_or_default();
    let line = summary
        .lines()
        .find_map(|line| line.trim_start().strip_prefix(name));
    let line = line.unwrap_or_else(|| panic!("no {name} in:\n{text}"));
    line.split_whitespace().next().unwrap().parse().unwrap()
}

/// Asserts that it ended well and that nothing went wrong.
fn check(output: &Output) {
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{text}\n{errors}");
    for name in ["missing", "repeated", "out of order", "unexpected"] {
        assert_eq!(figure(&text, name), 0, "{name}:\n{text}");
    }
    assert!(!text.contains('\x1b'), "no control sequences:\n{text}");
    // On a busy machine the driver of the database tells what took long, and others what they ask for once
    // more.
    let noise = ["\"target\":\"sqlx::", "trying again", "retrying"];
    let slow = |line: &&str| noise.iter().any(|one| line.contains(one));
    let errors: Vec<&str> = errors.lines().filter(|line| !slow(line)).collect();
    assert_eq!(errors, [""; 0], "the display has it all");
}

/// Asserts that it ended well and that all there is to see was seen.
fn check_all(output: &Output) {
    check(output);
    let text = String::from_utf8_lossy(&output.stdout);
    for name in [
        "committed",
        "rolled back",
        "delivered",
        "retried",
        "given up",
    ] {
        assert!(figure(&text, name) > 0, "{name}:\n{text}");
    }
    for shown in SHOWN {
        let shown = format!("A first delivery of {shown}");
        assert!(text.contains(&shown), "{shown}:\n{text}");
    }
    assert!(text.contains("`new.total` is null"), "a reason:\n{text}");
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
    check_all(&output_until(demo(&[]), everything).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_users_database_it_leaves_no_trace() {
    let db = TestDb::empty().await;
    // How much happens in some seconds is the machine's affair.
    check(&output(demo_in(&db, &["--for", "5s"])).await);
    assert_eq!(traces(&db).await, 0);
    check_all(&output_until(demo_in(&db, &[]), everything).await);
    assert_eq!(traces(&db).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupt_ends_it_with_the_summary() {
    let db = TestDb::empty().await;
    let changes = |text: &str| text.contains("  committed ") && !text.ends_with("committed     0");
    let ended = output_until(demo_in(&db, &[]), changes).await;
    let said = String::from_utf8_lossy(&ended.stdout);
    assert!(figure(&said, "committed") > 0, "{said}");
    assert!(ended.status.success(), "{said}");
    assert_eq!(traces(&db).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_one_left_is_cleared_away() {
    let db = TestDb::empty().await;
    let mut command = demo_in(&db, &[]);
    command.stdout(std::process::Stdio::piped());
    let mut process = command.spawn().unwrap();
    let mut said = BufReader::new(process.stdout.take().unwrap());
    let mut text = String::new();
    while !text.contains("committed") {
        assert!(more(&mut said, &mut text).await, "it ended:\n{text}");
    }
    process.kill().await.unwrap();
    let left = traces(&db).await;
    assert!(left > 0, "it left traces: {left}");
    // The killed one's connections hold its lock until the server has noticed.
    let end = "select count(pg_terminate_backend(pid)) from pg_stat_activity
         where pid <> pg_backend_pid() and datname = current_database()
             and application_name = 'observer-listener'";
    while_progressing("the end of its connections", async || {
        match db.value::<i64>(end).await {
            0 => Ok(()),
            left => Err(left.unsigned_abs()),
        }
    })
    .await;
    check(&output(demo_in(&db, &["--for", "5s"])).await);
    assert_eq!(traces(&db).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shop_of_somebody_else_s_is_refused_and_not_touched() {
    let db = TestDb::empty().await;
    db.run("create schema shop; create table shop.orders (id int primary key)")
        .await;
    let refused = output(demo_in(&db, &["--for", "5s"])).await;
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
    assert!(kept, "their table is there, and no schema of ours");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_in_one_database_do_not_meet() {
    let db = TestDb::empty().await;
    let mut other = PgConnection::connect(&db.url).await.unwrap();
    other
        .execute("select pg_advisory_lock(x'73686f7064656d6f'::bit(64)::bigint)")
        .await
        .unwrap();
    let refused = output(demo_in(&db, &["--for", "5s"])).await;
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
