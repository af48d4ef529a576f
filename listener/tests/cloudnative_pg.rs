//! docs/how-to/cloudnative-pg.md: a Secret as `CloudNativePG` makes it serves a listener. Whether its operator takes what
//! the page prints is looked at with that of other pages.
//!
//! There is no image of the servers of `CloudNativePG` here, so a Postgres stands in for its cluster.

use serde_json::Value;
use sqlx::{AssertSqlSafe, PgPool};
use testkit::certs::Certs;
use testkit::http_sink::{Behaviour, Sink};
use testkit::page::Page;
use testkit::servers::postgres::PrivateServer;

use crate::support::listener::{Config, Process, observer};
use crate::support::own_server;
use crate::support::program::command_by;
use crate::support::tls::speak_tls;

const PAGE: &str = "how-to/cloudnative-pg.md";

/// Documents of the page.
fn documents() -> Vec<Value> {
    let page = Page::read(PAGE, &[]);
    let documents = page.blocks("yaml").into_iter();
    documents
        .map(|text| serde_yaml_ng::from_str(text).unwrap())
        .collect()
}

async fn run(pool: &PgPool, sql: &str) {
    let done = sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))
        .execute(pool)
        .await;
    done.unwrap();
}

/// Makes the database as the page's `initdb` has it made, and returns connections of the super-user to it.
async fn bootstrap(server: &PrivateServer, admin: &PgPool, initdb: &Value) -> PgPool {
    let text = |field: &str| initdb[field].as_str().unwrap();
    let (owner, database) = (text("owner"), text("database"));
    for statement in [
        "drop schema observer cascade; drop role observer_capture",
        &format!("create role {owner} login password 'p@ss'"),
        &format!("create database {database} owner {owner}"),
    ] {
        run(admin, statement).await;
    }
    let inside = testkit::database::pool(&server.url(database)).await;
    for statement in initdb["postInitApplicationSQL"].as_array().unwrap() {
        run(&inside, statement.as_str().unwrap()).await;
    }
    inside
}

/// The Secret as its operator builds it, but for the host.
fn secret(owner: &str, database: &str, port: u16) -> String {
    format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: shop-pg-app}}\ntype: kubernetes.io/basic-auth\n\
         stringData:\n  username: {owner}\n  user: {owner}\n  password: p@ss\n  dbname: {database}\n  \
         host: localhost\n  port: \"{port}\"\n  uri: postgresql://{owner}:p%40ss@localhost:{port}/{database}\n  \
         jdbc-uri: jdbc:postgresql://localhost:{port}/{database}\n---\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn generated_secret_serves_a_listener_over_verified_tls() {
    let certs = Certs::make();
    let (server, admin) = own_server().await;
    speak_tls(&admin, &certs).await;
    let [cluster, listener, _] = &documents()[..] else {
        panic!("the page has three documents")
    };
    let initdb = &cluster["spec"]["bootstrap"]["initdb"];
    let (owner, database) = (
        initdb["owner"].as_str().unwrap(),
        initdb["database"].as_str().unwrap(),
    );
    let inside = bootstrap(&server, &admin, initdb).await;
    let secret = secret(owner, database, server.port());
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let config = Config::new(
        "",
        "",
        &(observer("hook", "public.orders", &sink.url("/"), "") + &secret),
    );
    let url = serde_json::to_string(&listener["spec"]["database"]["url"]).unwrap();
    config.change("{value: \"\"}", &url);
    let env = listener["spec"]["podTemplate"]["env"].as_array().unwrap();
    assert_eq!(env[0]["value"], "verify-full");
    let from = &env[1]["valueFrom"]["secretKeyRef"];
    assert_eq!(
        (&from["name"], &from["key"]),
        (&"shop-pg-ca".into(), &"ca.crt".into())
    );
    let names = [&env[0], &env[1]].map(|one| one["name"].as_str().unwrap());
    let variables = [(names[0], "verify-full"), (names[1], &*certs.ca)];

    let files = config.path();
    let arguments = ["migrate", "-f", files.to_str().unwrap()];
    let said = command_by(&arguments, &variables).await.ok();
    assert!(
        !said.contains("warning"),
        "the capture role is given: {said}"
    );
    run(&inside, "create table orders (id int primary key)").await;
    run(&inside, &format!("alter table orders owner to {owner}")).await;
    run(&inside, "select observer.track('orders')").await;
    let process = Process::run_with(&config, "off", &variables);
    run(&inside, "insert into orders values (1)").await;
    sink.arrived(1).await;
    let clear: i64 = sqlx::query_scalar(
        "select count(*) from pg_stat_activity a join pg_stat_ssl s using (pid)
         where a.application_name = 'observer-listener' and not s.ssl",
    )
    .fetch_one(&admin)
    .await
    .unwrap();
    assert_eq!(clear, 0, "sessions without TLS");
    process.stop().await;

    let other = Certs::make();
    let variables = [(names[0], "verify-full"), (names[1], &*other.ca)];
    let mut process = Process::run_with(&config, "off", &variables);
    process.says("invalid peer certificate").await;
    process.kill().await;
}
