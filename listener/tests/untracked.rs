//! Observers of what the database does not log are told of, with the remedy: before a run by
//! `check --online`, and in a run's log until it is resolved.

use serde_json::Value;

use crate::support::listener::{Config, Process};
use crate::support::probe::{free_address, get};
use crate::support::program::{Ended, command};
use crate::support::{database, eventually};

const NOBODY: &str = "http://127.0.0.1:9/";

/// An observer that sees changes of tables alone.
fn observer(name: &str, entity: &str, more: &str, body: &str) -> String {
    format!(
        "apiVersion: observers.fraiseql.dev/v1alpha1\nkind: Observer\nmetadata: {{name: {name}}}\nspec:\n  \
         events: {{entity: \"{entity}\"}}\n{more}  \
         actions:\n    - name: post\n      webhook: {{url: {{value: \"{NOBODY}\"}}, body: '{body}'}}\n---\n"
    )
}

const BODY: &str = "{\"id\": {{ new.id }}}";

async fn check(config: &Config) -> Ended {
    let path = config.path();
    command(&["check", "--online", "-f", path.to_str().unwrap()]).await
}

#[tokio::test]
async fn what_the_database_does_not_log_is_named_before_a_run() {
    let db = database().await;
    db.run(
        "create schema shop;
         create table shop.orders (id int primary key, total numeric, secret text);
         create table shop.customers (id int primary key, name text);
         create table shop.parts (id int primary key) partition by range (id);
         create table shop.parts_1 partition of shop.parts for values from (0) to (10);
         create view shop.big as select * from shop.orders;
         select observer.track('shop.orders', exclude => array['secret']);
         select observer.track('shop.parts')",
    )
    .await;
    let observers = [
        observer(
            "right",
            "shop.orders",
            "  when: new.total > 1 && has(new.later)\n",
            BODY,
        ),
        observer("untracked", "shop.customers", "", BODY),
        observer("misspelled", "shop.ordres", "", BODY),
        observer("elsewhere", "public.orders", "", BODY),
        observer("view", "shop.big", "", BODY),
        observer("partition", "shop.parts_1", "", BODY),
        observer(
            "hidden",
            "shop.orders",
            "  when: changed(\"secret\")\n",
            BODY,
        ),
        observer("slip", "shop.orders", "", "{\"total\": {{ new.totl }}}"),
        observer("tenant", "shop.orders", "  tenant: acme\n", BODY),
        observer("cached", "shop.orders", "", BODY).replace(
            "      webhook:",
            "      cache: {invalidateOn: [{entity: shop.custmers}, {entity: price.changed}, {entity: shop.customers}]}\n      webhook:",
        ),
    ];
    let config = Config::new(&db.url, "", &observers.concat());
    let ended = check(&config).await;
    assert_eq!(ended.code, Some(2), "{}", ended.said());
    for text in [
        "default/untracked: spec.events.entity: shop.customers is not tracked",
        "run select observer.track('shop.customers')",
        "default/misspelled: spec.events.entity: there is no table shop.ordres; did you mean shop.orders?",
        "default/elsewhere: spec.events.entity: there is no table public.orders; did you mean shop.orders?",
        "default/view: spec.events.entity: shop.big is a view",
        "default/partition: spec.events.entity: shop.parts_1 is a partition",
        "write shop.parts",
        "default/hidden: spec.when: the column secret of shop.orders is excluded",
        "default/slip: spec.actions[0].webhook.body: shop.orders has no column totl; did you mean total?",
        "default/tenant: spec.tenant: shop.orders is tracked without a tenant column",
        "default/cached: spec.actions[0].cache.invalidateOn[0].entity: there is no table shop.custmers; did you mean \
         shop.customers?",
        "default/cached: spec.actions[0].cache.invalidateOn[2].entity: shop.customers is not tracked",
        "\n10 problems",
    ] {
        assert!(ended.err.contains(text), "{text:?} in {}", ended.said());
    }
}

#[tokio::test]
async fn custom_events_and_what_is_tracked_are_no_problem() {
    let db = database().await;
    db.run(
        "create table orders (id int primary key, company text);
         select observer.track('orders', tenant => 'company')",
    )
    .await;
    let custom = observer("custom", "billing.closed", "", BODY)
        .replace("closed\"}", "closed\", operations: [Custom]}");
    let tenant = observer("tenant", "public.orders", "  tenant: acme\n", BODY);
    let config = Config::new(&db.url, "", &[custom, tenant].concat());
    let said = check(&config).await.ok();
    assert!(said.starts_with("ok: "), "{said}");
}

#[tokio::test]
async fn untracked_table_is_logged_once_and_once_when_resolved() {
    let db = database().await;
    db.run("create table orders (id int primary key)").await;
    let config = Config::new(&db.url, "", &observer("a", "public.orders", "", BODY));
    let mut process = Process::run(&config);
    process.says("public.orders is not tracked").await;
    db.run("select observer.track('orders')").await;
    process.says("resolved: public.orders is not tracked").await;
    let said = process.stop().await;
    let warned = said
        .lines()
        .filter(|line| line.contains("WARN") && line.contains("public.orders is not tracked"));
    assert_eq!(warned.count(), 1, "{said}");
}

#[tokio::test]
async fn untracked_table_is_in_the_status_until_it_is_tracked() {
    let db = database().await;
    db.run("create table orders (id int primary key)").await;
    let config = Config::new(&db.url, "", &observer("a", "public.orders", "", BODY));
    let address = free_address();
    let process = Process::start(&["run", "--listen", &address, "-f"], &config.path());
    let found = async || {
        let (_, text) = get(&address, "/status").await?;
        let mut status: Value = serde_json::from_str(&text).ok()?;
        serde_json::from_value::<Vec<Value>>(status["tracking"]["findings"].take()).ok()
    };
    let told = eventually("it is told", async || {
        let found = found().await?;
        (!found.is_empty()).then_some(found)
    })
    .await;
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0]["observer"], "default/a");
    assert_eq!(told[0]["path"], "spec.events.entity");
    assert_eq!(told[0]["reason"], "TableNotTracked");
    let message = told[0]["message"].as_str().unwrap();
    assert!(
        message.contains("public.orders is not tracked"),
        "{message}"
    );
    db.run("select observer.track('orders')").await;
    eventually("it is told no more", async || {
        found().await?.is_empty().then_some(())
    })
    .await;
    process.stop().await;
}
