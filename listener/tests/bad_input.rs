//! What the program says to input that cannot work: an exit code, a reason and a remedy, and
//! never a secret.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};

use crate::support::fleet::LONG_LEASE;
use crate::support::listener::{Config, Process, observer};
use crate::support::program::{Ended, command};
use crate::support::{TestDb, database, empty_database};

/// Stands wherever a secret may stand.
const SECRET: &str = "hunter2swordfish";

/// A file in a folder of its own.
struct File {
    path: PathBuf,
    folder: TempDir,
}

fn file(text: &str) -> File {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("shop.yaml");
    std::fs::write(&path, text).unwrap();
    File { path, folder }
}

impl File {
    async fn run(&self, more: &[&str]) -> Ended {
        run(&self.path, more).await
    }

    async fn check(&self) -> Ended {
        let ended = command(&["check", "-f", self.path.to_str().unwrap()]).await;
        decent(&ended);
        ended
    }
}

async fn run(path: &Path, more: &[&str]) -> Ended {
    let path = path.to_str().unwrap();
    let args = [&["run", "--listen", "off", "-f", path], more].concat();
    let ended = command(&args).await;
    decent(&ended);
    ended
}

/// What holds for all mistakes.
fn decent(ended: &Ended) {
    let said = ended.said();
    assert!(!said.contains(SECRET), "a secret shows: {said}");
    assert!(!said.contains("panicked"), "{said}");
    assert!(!said.contains("RUST_BACKTRACE"), "{said}");
}

/// Asserts an exit code and texts on standard error.
fn refused(ended: &Ended, code: i32, texts: &[&str]) {
    assert_eq!(ended.code, Some(code), "{}", ended.said());
    for text in texts {
        assert!(
            ended.err.contains(text),
            "{text:?} in what it said: {}",
            ended.said()
        );
    }
}

/// A sound listener and observer, with secrets wherever some may stand.
fn sound(database_url: &str) -> String {
    format!(
        r#"apiVersion: observers.fraiseql.dev/v1alpha1
kind: ObserverListener
metadata: {{name: shop}}
spec:
  database:
    url: {{value: "{database_url}"}}
---
apiVersion: observers.fraiseql.dev/v1alpha1
kind: Observer
metadata: {{name: big-orders}}
spec:
  events: {{entity: public.orders}}
  when: new.total > 1000
  actions:
    - name: notify
      webhook:
        url: {{value: "https://hooks.example.com/{SECRET}"}}
        headers: {{authorization: {{secretKeyRef: {{name: hooks, key: token}}}}}}
        body: '{{"total": {{{{ new.total }}}}}}'
---
apiVersion: v1
kind: Secret
metadata: {{name: hooks}}
stringData: {{token: "Bearer {SECRET}"}}
"#
    )
}

async fn with_url(url: &str) -> Ended {
    file(&sound(url)).run(&[]).await
}

/// The test's database, with a secret in a place of the URL where it does no harm.
fn with_password(db: &TestDb, password: &str) -> String {
    db.url_as("postgres", password)
}

#[tokio::test]
async fn a_url_that_is_none_is_a_mistake_in_the_configuration() {
    for url in [
        format!("not a url {SECRET}"),
        format!("http://shop:{SECRET}@localhost/shop"),
        format!("postgres://shop:{SECRET}@localhost:port/shop"),
        format!("postgres://shop:{SECRET}@local host/{SECRET}"),
        format!("postgres://shop:{SECRET}@localhost/shop?sslmode={SECRET}"),
        String::new(),
    ] {
        let ended = with_url(&url).await;
        refused(&ended, 2, &["postgres://user:password@host:5432/database"]);
        let told = command(&["migrate", "--database-url", &url]).await;
        decent(&told);
        refused(&told, 2, &["postgres://"]);
    }
}

#[tokio::test]
async fn a_parameter_of_the_url_that_is_unknown_shows_no_value() {
    let url = format!("postgres://shop:{SECRET}@127.0.0.1:1/shop?pasword={SECRET}");
    refused(&with_url(&url).await, 1, &["cannot reach Postgres"]);
}

#[tokio::test]
async fn a_server_that_is_not_there_is_named_within_seconds() {
    let unused = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = unused.local_addr().unwrap();
    drop(unused);
    let refusing = with_url(&format!("postgres://shop:{SECRET}@{address}/shop")).await;
    refused(
        &refusing,
        1,
        &[
            &format!("cannot reach Postgres at {address}"),
            "Is the server running",
        ],
    );
    let nowhere = with_url(&format!("postgres://shop:{SECRET}@nowhere.invalid/shop")).await;
    refused(
        &nowhere,
        1,
        &["cannot reach Postgres at nowhere.invalid:5432"],
    );
}

#[tokio::test]
async fn a_server_that_accepts_and_says_nothing_is_given_up_on() {
    let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = mute.local_addr().unwrap();
    let ended = with_url(&format!("postgres://shop:{SECRET}@{address}/shop")).await;
    refused(
        &ended,
        1,
        &["cannot reach Postgres", "no answer within 5 s"],
    );
}

/// The database of a busy server, which takes so long before it answers on its `n`th connection.
async fn busy(db: &TestDb, delay: impl Fn(u32) -> Duration + Send + 'static) -> String {
    let busy = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut url = url::Url::parse(&db.url).unwrap();
    let server = format!("{}:{}", url.host_str().unwrap(), url.port().unwrap());
    url.set_host(Some("127.0.0.1")).unwrap();
    url.set_port(Some(busy.local_addr().unwrap().port()))
        .unwrap();
    tokio::spawn(async move {
        for n in 0.. {
            let (mut from, _) = busy.accept().await.unwrap();
            let (server, delay) = (server.clone(), delay(n));
            tokio::spawn(async move {
                tokio::time::sleep(delay).await;
                let mut to = TcpStream::connect(&server).await.unwrap();
                tokio::io::copy_bidirectional(&mut from, &mut to).await.ok()
            });
        }
    });
    url.into()
}

/// Longer than anybody waits on one connection, for that one alone.
fn silent(on: u32) -> impl Fn(u32) -> Duration {
    move |n| Duration::from_hours(u64::from(n == on))
}

fn listener(url: &str, spec: &str) -> Config {
    Config::new(
        url,
        spec,
        &observer("a", "public.a", "http://127.0.0.1:9", ""),
    )
}

#[tokio::test]
async fn a_server_that_is_slow_at_first_is_given_time() {
    let db = database().await;
    let url = busy(&db, silent(0)).await;
    let list = command(&["dead-letters", "list", "--database-url", &url]).await;
    decent(&list);
    list.ok();
    // The first two only look.
    let url = busy(&db, silent(2)).await;
    let config = listener(&url, "");
    let mut process = Process::run(&config);
    process.says("database outage").await;
    process.says("running").await;
    process.stop().await;
}

#[tokio::test]
async fn slow_connects_do_not_prevent_joining() {
    let db = database().await;
    let url = busy(&db, |_| Duration::from_secs(1)).await;
    let config = listener(&url, LONG_LEASE);
    let mut process = Process::run(&config);
    process.says("joined the fleet").await;
    process.stop().await;
}

#[tokio::test]
async fn a_server_that_is_no_postgres_is_named() {
    let sink = testkit::http_sink::Sink::start(testkit::http_sink::Behaviour::Garbage)
        .await
        .unwrap();
    let url = format!("postgres://shop:{SECRET}@{}/shop", sink.address());
    refused(&with_url(&url).await, 1, &["cannot reach Postgres"]);
}

#[tokio::test]
async fn who_is_not_let_in_reads_why() {
    let db = database().await;
    let wrong_password = with_url(&with_password(&db, SECRET)).await;
    refused(
        &wrong_password,
        1,
        &[
            "password authentication failed",
            "Check user, password and database",
        ],
    );
    let nobody = with_url(&db.url_as("nobody", SECRET)).await;
    refused(&nobody, 1, &["\"nobody\"", "Check user"]);
    let mut elsewhere = url::Url::parse(&db.url).unwrap();
    elsewhere.set_path("/no_such_database");
    let missing = with_url(elsewhere.as_str()).await;
    refused(
        &missing,
        1,
        &["database \"no_such_database\" does not exist"],
    );
}

#[tokio::test]
async fn a_database_without_the_schema_is_to_be_migrated() {
    let db = empty_database().await;
    refused(
        &with_url(&db.url).await,
        1,
        &["run", "observer-listener migrate"],
    );
    let list = command(&["dead-letters", "list", "--database-url", &db.url]).await;
    decent(&list);
    refused(&list, 1, &["observer-listener migrate"]);
    let migrated = command(&["migrate", "--database-url", &db.url]).await;
    decent(&migrated);
    assert!(migrated.ok().contains("schema `observer`"));
    let again = command(&["migrate", "--database-url", &db.url]).await.ok();
    assert!(again.contains("up to date"), "{again}");
    let empty = command(&["dead-letters", "list", "--database-url", &db.url])
        .await
        .ok();
    assert_eq!(empty, "no dead letters\n");
}

#[tokio::test]
async fn a_role_without_rights_reads_which_one_is_missing() {
    let db = database().await;
    let role = db.role("bare", &format!("login password '{SECRET}'")).await;
    let ended = with_url(&db.url_as(&role, SECRET)).await;
    refused(&ended, 1, &["permission denied", "observer"]);
}

const SIX_MISTAKES: &str = r#"apiVersion: observers.fraiseql.dev/v1alpha1
kind: ObserverListener
metadata: {name: shop}
spec:
  shards: 0
  source: {triggers: {}}
  database:
    url: {value: "postgres://shop:hunter2swordfish@localhost/shop"}
    maxPollIntervall: 16ms
---
apiVersion: observers.fraiseql.dev/v1alpha1
kind: Observer
metadata: {name: big-orders}
spec:
  events:
    entity: shop.orders
    operations: [Insert, Updated]
  actions:
    - name: notify
      webhook:
        url: {value: "hunter2swordfish"}
        signingSecret: {secretKeyRef: {name: hooks, key: hunter}}
      retry: {attempts: "8"}
"#;

#[tokio::test]
async fn six_mistakes_are_six_lines_with_file_and_line() {
    let six = file(SIX_MISTAKES);
    for ended in [six.run(&[]).await, six.check().await] {
        assert_eq!(ended.code, Some(2), "{}", ended.said());
        let name = six.path.to_str().unwrap();
        let lines: Vec<&str> = ended.err.lines().collect();
        let places: Vec<String> = lines
            .iter()
            .filter_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
            .map(|rest| rest.split(':').next().unwrap().to_owned())
            .collect();
        assert_eq!(
            places,
            ["5", "9", "17", "21", "22", "23"],
            "{}",
            ended.said()
        );
        assert_eq!(lines.last(), Some(&"6 problems"));
    }
}

#[tokio::test]
async fn a_sound_file_passes_the_check() {
    let ended = file(&sound("postgres://localhost/shop")).check().await;
    let said = ended.ok();
    assert_eq!(
        said,
        "ok: listener default/shop with 1 observer and 1 action\n"
    );
}

#[tokio::test]
async fn expressions_and_templates_are_placed_by_file_and_line() {
    let text = sound("postgres://localhost/shop")
        .replace("new.total > 1000", "new.total >")
        .replace("{{ new.total }}", "{{ neww.total }}");
    let wrong = file(&text);
    let name = wrong.path.to_str().unwrap();
    for ended in [wrong.run(&[]).await, wrong.check().await] {
        refused(
            &ended,
            2,
            &[
                &format!("{name}:13: Observer default/big-orders: spec.when: "),
                &format!(
                    "{name}:19: Observer default/big-orders: spec.actions[0].webhook.body: line 1"
                ),
                "neww",
                "2 problems",
            ],
        );
    }
}

#[tokio::test]
async fn a_listener_that_the_files_do_not_hold_is_named() {
    let ended = file(&sound("postgres://localhost/shop"))
        .run(&["--listener", "blog"])
        .await;
    refused(&ended, 2, &["of the name asked for", "default/shop"]);
}

#[tokio::test]
async fn files_that_are_not_there_are_named() {
    let folder = TempDir::new().unwrap();
    let missing = run(&folder.path().join("none.yaml"), &[]).await;
    refused(&missing, 2, &["none.yaml", "No such file"]);
    let empty = run(folder.path(), &[]).await;
    refused(&empty, 2, &["has no .yaml or .yml file"]);
    let nothing = file("");
    refused(&nothing.run(&[]).await, 2, &["ObserverListener"]);
    std::fs::write(nothing.path.clone(), [0xff, 0xfe, 0x00]).unwrap();
    refused(&run(nothing.folder.path(), &[]).await, 2, &["shop.yaml"]);
}

#[tokio::test]
async fn an_address_to_answer_on_must_be_one_and_be_free() {
    let db = database().await;
    let good = file(&sound(&db.url));
    let path = good.path.to_str().unwrap();
    let nonsense = command(&["run", "--listen", "nonsense", "-f", path]).await;
    decent(&nonsense);
    refused(&nonsense, 2, &["--listen nonsense", "127.0.0.1:9464"]);
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let used = command(&["run", "--listen", &address, "-f", path]).await;
    decent(&used);
    refused(&used, 1, &[&address, "--listen off"]);
    assert_eq!(
        db.value::<i64>("select count(*) from observer.checkpoint")
            .await,
        0,
        "what cannot start claims nothing"
    );
}

#[tokio::test]
async fn a_command_line_that_makes_no_sense_is_a_mistake_of_its_own() {
    for args in [
        &["run"][..],
        &["dead-letters", "list"],
        &[
            "dead-letters",
            "redrive",
            "--database-url",
            "postgres://x/y",
        ],
        &[
            "dead-letters",
            "show",
            "many",
            "--database-url",
            "postgres://x/y",
        ],
        &[
            "dead-letters",
            "list",
            "--limit",
            "0",
            "--database-url",
            "postgres://x/y",
        ],
        &["fly"],
    ] {
        let ended = command(args).await;
        decent(&ended);
        refused(&ended, 2, &["error:"]);
    }
}
