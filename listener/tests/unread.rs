//! Nobody reads what the program says: its log, or what a command prints.

use std::io::{PipeReader, pipe};
use std::process::Stdio;

use testkit::http_sink::{Behaviour, Sink};
use tokio::process::{Child, Command};

use crate::support::listener::{Config, program};
use crate::support::rows::{all_told, change_rows, make_rows, rows_to};
use crate::support::{comes, database};

/// A command with these ends of its output, and without whatever the tests' own environment says.
fn start(args: &[&str], out: impl Into<Stdio>, err: impl Into<Stdio>) -> Child {
    Command::new(program())
        .args(args)
        .args(["--log-format", "text"])
        .env_remove("OBSERVER_DATABASE_URL")
        .env("RUST_LOG", "info")
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(err)
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

/// A listener with its log into a pipe.
fn talkative(config: &Config) -> (Child, PipeReader) {
    let (reader, writer) = pipe().unwrap();
    let path = config.path();
    let args = ["run", "--listen", "off", "-f", path.to_str().unwrap()];
    (start(&args, Stdio::null(), writer), reader)
}

/// They write a line of such a length for each change, besides telling the sink.
fn observers(sink: &Sink, length: usize) -> String {
    let message = "x".repeat(length);
    rows_to(sink, "/hook")
        + &format!(
            "apiVersion: observers.fraiseql.dev/v1alpha1\nkind: Observer\nmetadata: {{name: log}}\nspec:\n  \
             events: {{entity: public.kv, operations: [Update]}}\n  actions:\n    - name: log\n      \
             log: {{level: Info, message: {message}}}\n---\n"
        )
}

async fn signal(child: &Child, name: &str) {
    let pid = child.id().unwrap().to_string();
    let sent = Command::new("kill")
        .args([&format!("-{name}"), &pid])
        .status();
    assert!(sent.await.unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn listener_survives_closed_output_and_lost_terminal() {
    let db = database().await;
    make_rows(&db.pool).await;
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let config = Config::new(&db.url, "", &observers(&sink, 100));
    let (mut child, reader) = talkative(&config);
    change_rows(&db.pool, 1).await;
    all_told(&sink, 1).await;
    drop(reader);
    signal(&child, "HUP").await;
    change_rows(&db.pool, 2).await;
    all_told(&sink, 3).await;
    signal(&child, "TERM").await;
    let status = comes("its end", child.wait()).await.unwrap();
    assert_eq!(status.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_nobody_reads_holds_up_no_delivery() {
    let db = database().await;
    make_rows(&db.pool).await;
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let config = Config::new(&db.url, "", &observers(&sink, 8000));
    let (mut child, reader) = talkative(&config);
    // Some two megabytes of log, more than the pipe and the listener hold.
    let times = 25;
    change_rows(&db.pool, times).await;
    all_told(&sink, i64::try_from(times).unwrap()).await;
    signal(&child, "TERM").await;
    let status = comes("its end", child.wait()).await.unwrap();
    assert_eq!(status.code(), Some(0));
    drop(reader);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_whose_output_is_closed_ends_quietly() {
    let db = database().await;
    make_rows(&db.pool).await;
    let config = Config::new(
        &db.url,
        "",
        &rows_to(&Sink::start(Behaviour::Ok).await.unwrap(), "/"),
    );
    db.run(
        "insert into observer.dead_letter (listener, observer, action, log_id, event_id, entity, operation, attempts,
             error_kind, error, occurred_at, hash)
         values ('default/test', 'default/kv', 'post', 1, 'e-1', 'public.kv', 'Insert', 1, 'status', 'no', now(), 0)",
    )
    .await;
    let path = config.path();
    let file = ["-f", path.to_str().unwrap()];
    for args in [
        &["--help"][..],
        &["status"],
        &["status", "-o", "json"],
        &["jobs", "list"],
        &["jobs", "list", "-o", "json"],
        &["dead-letters", "list"],
        &["dead-letters", "list", "-o", "json"],
        &["dead-letters", "show", "1"],
        &["dead-letters", "export"],
        &["check"],
        &["migrate"],
        &["replay", "--observer", "kv", "--from", "1h", "--dry-run"],
    ] {
        let (reader, writer) = pipe().unwrap();
        drop(reader);
        let args = match args {
            ["--help"] => args.to_vec(),
            args => [args, &file].concat(),
        };
        let child = start(&args, writer, Stdio::piped());
        let ended = comes("its end", child.wait_with_output()).await.unwrap();
        let said = String::from_utf8(ended.stderr).unwrap();
        assert_eq!(ended.status.code(), Some(0), "{args:?}: {said}");
        assert_eq!(said, "", "{args:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn command_with_closed_stderr_keeps_its_exit_code() {
    for (args, code) in [
        (&["check", "-f", "/nowhere.yaml"][..], 2),
        (
            &[
                "dead-letters",
                "show",
                "1",
                "--database-url",
                "postgres://nobody@127.0.0.1:1/none",
            ],
            1,
        ),
    ] {
        let (reader, writer) = pipe().unwrap();
        drop(reader);
        let mut child = start(args, Stdio::null(), writer);
        let status = comes("its end", child.wait()).await.unwrap();
        assert_eq!(status.code(), Some(code), "{args:?}");
    }
}
