//! What people ask all processes of a listener to do, and how commands ask people.

use std::process::Stdio;

use serde_json::Value;
use testkit::http_sink::{Behaviour, Sink};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::support::fleet::LONG_LEASE;
use crate::support::listener::{Config, Process, observer, program};
use crate::support::program::{command, command_by};
use crate::support::{TestDb, comes, database, eventually};

/// Two processes of one listener, whose observer `orders` posts to this URL.
async fn two(db: &TestDb, url: &str) -> (Config, [Process; 2]) {
    db.run("create table orders (id int primary key); select observer.track('orders')")
        .await;
    let spec = format!("  shards: 8\n{LONG_LEASE}");
    let config = Config::new(
        &db.url,
        &spec,
        &observer("orders", "public.orders", url, ""),
    );
    let mut processes = [Process::run(&config), Process::run(&config)];
    for process in &mut processes {
        process.says("running").await;
    }
    let owners = "select count(distinct holder) from observer.checkpoint where holder <> ''";
    eventually("both have shards", async || {
        (db.value::<i64>(owners).await == 2).then_some(())
    })
    .await;
    (config, processes)
}

/// How many processes tell of circuit breakers that are not closed.
async fn processes_with_open_circuits(path: &str) -> usize {
    let status = command(&["status", "-o", "json", "-f", path]).await.ok();
    let status: Value = serde_json::from_str(&status).unwrap();
    let members = status[0]["members"].as_array().unwrap().clone();
    let is_open = |one: &&Value| !one["openCircuits"].as_array().unwrap().is_empty();
    members.iter().filter(is_open).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn breaker_reset_reaches_all_processes() {
    let db = database().await;
    let sink = Sink::start(Behaviour::Status(503)).await.unwrap();
    let (config, processes) = two(&db, &sink.url("/")).await;
    let path = config.path();
    let path = path.to_str().unwrap();
    let reset =
        async |more: &[&str]| command(&[&["breaker", "reset", "-f", path], more].concat()).await;

    assert_eq!(
        reset(&["orders"]).await.ok().trim(),
        "closed 0 circuit breakers in 2 processes"
    );
    db.run("insert into orders select generate_series(1, 400)")
        .await;
    eventually("both circuit breakers open", async || {
        (processes_with_open_circuits(path).await == 2).then_some(())
    })
    .await;
    for (wrong, told) in [
        (&["order"][..], "did you mean default/orders?"),
        (
            &["orders", "call"],
            "observer default/orders has no action call",
        ),
        (&[], "<OBSERVER|--all>"),
    ] {
        let ended = reset(wrong).await;
        assert_eq!(ended.code, Some(2), "{}", ended.said());
        assert!(ended.err.contains(told), "{}", ended.said());
    }
    assert_eq!(
        reset(&["orders", "post"]).await.ok().trim(),
        "closed 2 circuit breakers in 2 processes"
    );
    // Without files nobody knows the names.
    let by_url = ["breaker", "reset", "--listener", "test", "order"];
    let unknown = command_by(&by_url, &[("OBSERVER_DATABASE_URL", db.url.as_str())]).await;
    assert_eq!(
        unknown.ok().trim(),
        "no circuit breaker was open in 2 processes, or there is no such observer or action"
    );
    for mut process in processes {
        process.says("circuit breakers closed by hand").await;
        process.stop().await;
    }
    let none = reset(&["--all"]).await.ok();
    assert!(none.contains("no process of default/test runs"), "{none}");
}

#[tokio::test(flavor = "multi_thread")]
async fn filter_that_is_over_before_it_is_read_ends_the_one_before() {
    let db = database().await;
    let sink = Sink::start(Behaviour::Status(200)).await.unwrap();
    let (config, mut processes) = two(&db, &sink.url("/")).await;
    let path = config.path();
    let path = path.to_str().unwrap();
    let debug = ["log-level", "-f", path, "debug", "--for", "1h"];
    command(&debug).await.ok();
    for process in &mut processes {
        process.says("logging by another filter").await;
    }
    // As if it had been asked for 10 s ago, for 1 s.
    db.run(
        "with old as (delete from observer.process_command)
         insert into observer.process_command (listener, kind, filter, expires_at, created_at)
         values ('default/test', 'logFilter', 'trace', clock_timestamp() - interval '9 s',
             clock_timestamp() - interval '10 s')",
    )
    .await;
    for mut process in processes {
        process.says("logging as at the start again").await;
        process.stop().await;
    }
    let reset = command(&["log-level", "-f", path, "--reset"]).await.ok();
    assert!(
        reset.contains("no other filter waits for those that start"),
        "{reset}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn log_level_changes_in_all_processes_and_reverts() {
    let db = database().await;
    let sink = Sink::start(Behaviour::Status(200)).await.unwrap();
    let (config, mut processes) = two(&db, &sink.url("/")).await;
    let path = config.path();
    let path = path.to_str().unwrap();
    for (wrong, told) in [
        (&["info,observer=loud"][..], "part 2, `observer=loud`"),
        (&["debug", "--for", "25h"], "use 1s to 24h"),
        (&[], "<FILTER|--reset>"),
    ] {
        let ended = command(&[&["log-level", "-f", path], wrong].concat()).await;
        assert_eq!(ended.code, Some(2), "{}", ended.said());
        assert!(ended.err.contains(told), "{}", ended.said());
    }
    let asked = async |args: &[&str]| {
        let said = command(&[&["log-level", "-f", path], args].concat())
            .await
            .ok();
        said.trim().to_owned()
    };
    assert_eq!(
        asked(&["debug", "--for", "1h"]).await,
        "2 processes log by debug for 1h"
    );
    // Attempts that went well are told at debug.
    db.run("insert into orders select generate_series(1, 200)")
        .await;
    for process in &mut processes {
        process.says("logging by another filter").await;
        process.says(" DEBUG ").await;
    }
    // What is asked later replaces it, and ends by itself.
    assert_eq!(
        asked(&["debug", "--for", "5s"]).await,
        "2 processes log by debug for 5s"
    );
    for process in &mut processes {
        process.says("logging as at the start again").await;
    }
    assert_eq!(
        asked(&["--reset"]).await,
        "2 processes log as at the start again"
    );
    db.run("insert into orders select generate_series(201, 400)")
        .await;
    sink.arrived(400).await;
    for process in processes {
        let said = process.stop().await;
        let (during, after) = said.split_once("logging as at the start again").unwrap();
        assert!(!after.contains(" DEBUG "), "{after}");
        let (before, _) = during.split_once("logging by another filter").unwrap();
        assert!(!before.contains(" DEBUG "), "{before}");
    }
}

/// Runs a command as the plugin has it run in a pod, which types this. Standard input ends only if the command
/// does not ask.
async fn relayed(
    db: &TestDb,
    terminal: &str,
    args: &[&str],
    typed: Option<&str>,
) -> (Option<i32>, String) {
    let mut child = Command::new(program())
        .args([&[&*format!("--relayed={terminal}")], args].concat())
        .env("OBSERVER_DATABASE_URL", &db.url)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let kept = if let Some(typed) = typed {
        input.write_all(typed.as_bytes()).await.unwrap();
        Some(input)
    } else {
        drop(input);
        None
    };
    let output = comes("its end", child.wait_with_output()).await.unwrap();
    drop(kept);
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(text).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_drops_asks_where_somebody_can_answer() {
    let db = database().await;
    db.run(
        "insert into observer.dead_letter (listener, observer, action, log_id, event_id, entity, operation,
             attempts, error_kind, error, occurred_at, hash)
         values ('default/shop', 'default/kv', 'post', 1, 'e-1', 'public.kv', 'Insert', 1, 'status', 'no', now(), 0)",
    )
    .await;
    let drop = ["dead-letters", "drop", "--all", "--listener", "shop"];
    let left = async || {
        db.value::<i64>("select count(*) from observer.dead_letter")
            .await
    };
    // Nobody sees the question without a terminal for errors.
    for terminal in ["0", "80,input", "80,errors"] {
        let (code, said) = relayed(&db, terminal, &drop, Some("y\n")).await;
        assert_eq!((code, left().await), (Some(2), 1), "{terminal}: {said}");
        assert!(
            said.contains(
                "1 dead letter would be dropped permanently. Nothing was done; add --yes"
            ),
            "{terminal}: {said}"
        );
    }
    for no in ["n\n", "\n", "yesterday\n"] {
        let (code, said) = relayed(&db, "80,input,errors", &drop, Some(no)).await;
        assert_eq!((code, left().await), (Some(1), 1), "{no}: {said}");
        assert!(
            said.contains("Do it? [y/N]") && said.contains("nothing was done"),
            "{said}"
        );
    }
    let (code, said) = relayed(&db, "80,input,errors", &drop, Some("y\n")).await;
    assert_eq!((code, left().await), (Some(0), 0), "{said}");
    assert!(said.contains("1 dropped"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn relayed_command_ends_with_its_input() {
    let db = database().await;
    for args in [&["tail"][..], &["status", "--watch"]] {
        let (code, said) = relayed(&db, "0", args, None).await;
        assert_eq!(code, Some(130), "{args:?}: {said}");
    }
}

/// Runs a script of bash, and returns what it prints.
async fn bash(script: &str) -> String {
    let output = Command::new("bash")
        .args(["--norc", "-c", script])
        .env("PROGRAM", program())
        .output();
    let output = output.await.unwrap();
    assert!(
        output.status.success(),
        "{script}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn shells_complete_commands() {
    let completed = bash(
        "source <(\"$PROGRAM\" completion bash); complete -p observer-listener
         COMP_WORDS=(observer-listener dead-letters re); COMP_CWORD=2
         _observer__listener observer-listener re dead-letters; echo \"${COMPREPLY[@]}\"",
    )
    .await;
    let lines: Vec<&str> = completed.lines().collect();
    assert!(lines[0].ends_with(" observer-listener"), "{completed}");
    assert_eq!(lines[1], "redrive", "{completed}");
    for shell in ["zsh", "fish", "powershell", "elvish"] {
        let script = command(&["completion", shell]).await.ok();
        assert!(
            script.contains("dead-letters") && script.contains("redrive"),
            "{shell}: {script}"
        );
    }
    let wrong = command(&["completion", "dos"]).await;
    assert_eq!(wrong.code, Some(2), "{}", wrong.said());
}
