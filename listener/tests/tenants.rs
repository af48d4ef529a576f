//! An observer that is bound to a tenant never sees another's event: not when it is matched, nor in
//! dead letters, redrives and replays, nor when it is bound to another tenant meanwhile.

use crds::v1alpha1::Observer;
use kube::Api;
use kube::api::PostParams;
use serde::Deserialize;
use serde_json::{Value, json};
use testkit::http_sink::{Behaviour, Sink};
use testkit::page::Page;

use crate::api::cluster::{Plane, apply};
use crate::kubectl::define;
use crate::support::listener::{Config, Process};
use crate::support::program::{command, dlq};
use crate::support::told::letters;
use crate::support::{TestDb, amounts_to, database, eventually};

fn observer(name: &str, tenant: &str, url: &str) -> String {
    format!(
        "apiVersion: observers.fraiseql.dev/v1alpha1\nkind: Observer\nmetadata: {{name: {name}}}\nspec:\n  \
         events: {{entity: public.orders}}\n  tenant: {tenant}\n  actions:\n    - name: post\n      \
         webhook: {{url: {{value: \"{url}\"}}}}\n      retry: {{attempts: 100, initialBackoff: 20ms, maxBackoff: 50ms}}\n---\n"
    )
}

/// Orders of two tenants and of none, and an observer of each tenant.
async fn shop(sink: &Sink) -> (TestDb, Config) {
    let db = database().await;
    db.run(
        "create table orders (id int primary key, tenant text);
         select observer.track('orders', tenant => 'tenant')",
    )
    .await;
    let observers =
        observer("of-a", "a", &sink.url("/a")) + &observer("of-b", "b", &sink.url("/b"));
    let config = Config::new(&db.url, "", &observers);
    (db, config)
}

/// Tenants of what a path was sent.
fn tenants(sink: &Sink, path: &str) -> Vec<Value> {
    let received = sink.received();
    let line = format!("POST {path}");
    let here = received.iter().filter(|one| one.line == line);
    let bodies = here.map(|one| serde_json::from_slice::<Value>(&one.body).unwrap());
    bodies.map(|body| body["tenant"].clone()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_see_only_their_own_events_in_every_path() {
    let sink = Sink::start(Behaviour::Status(400)).await.unwrap();
    let (db, config) = shop(&sink).await;
    let process = Process::run(&config);
    db.run("insert into orders values (1, 'a'), (2, 'b'), (3, null), (4, 'c'), (5, 'A'), (6, '')")
        .await;
    letters(&db, 2).await;
    let mixed =
        "select count(*) from observer.dead_letter where observer <> 'default/of-' || tenant";
    assert_eq!(db.value::<i64>(mixed).await, 0);
    sink.behave(Behaviour::Ok);
    let said = dlq(&db, &["redrive", "--all", "--yes", "--tenant", "a"]).await;
    assert!(said.starts_with("1 to redrive"), "{said}");
    amounts_to("deliveries", 1, async || sink.counts().succeeded).await;
    let path = config.path();
    let replay = [
        "replay",
        "-f",
        path.to_str().unwrap(),
        "--from",
        "1h",
        "--observer",
        "of-b",
        "--yes",
    ];
    let said = command(&replay).await.ok();
    assert!(
        said.starts_with("1 event, 0 deliveries"),
        "it is a dead letter already: {said}"
    );
    let other = command(&[&replay[..], &["--tenant", "a"]].concat()).await;
    assert_eq!(other.code, Some(2));
    assert!(other.err.contains("only sees tenant b"), "{}", other.err);
    process.stop().await;
    assert!(tenants(&sink, "/a").iter().all(|tenant| tenant == "a"));
    assert!(tenants(&sink, "/b").iter().all(|tenant| tenant == "b"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_is_not_shown_to_the_tenant_that_comes_after() {
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    sink.behave_at("/a", Behaviour::Status(503));
    sink.behave_at("/b", Behaviour::Status(400));
    let (db, config) = shop(&sink).await;
    let process = Process::run(&config);
    db.run("insert into orders values (1, 'a'), (2, 'b')").await;
    letters(&db, 1).await;
    eventually("one waits", async || {
        let jobs: i64 = db.value("select count(*) from observer.job").await;
        (jobs == 1).then_some(())
    })
    .await;
    process.stop().await;
    let before = sink.counts().requests;
    // Their observers are another tenant's now.
    config.change("tenant: a\n", "tenant: x\n");
    config.change("tenant: b\n", "tenant: z\n");
    sink.behave_at("/a", Behaviour::Ok);
    sink.behave_at("/b", Behaviour::Ok);
    let process = Process::run(&config);
    dlq(&db, &["redrive", "--all", "--yes"]).await;
    eventually("both are set aside", async || {
        let barred: i64 = db
            .value("select count(*) from observer.dead_letter where error_kind = 'removed' and error like '%another''s%'")
            .await;
        (barred == 2).then_some(())
    })
    .await;
    process.stop().await;
    assert_eq!(sink.counts().requests, before, "nothing was sent");
}

/// The policy that docs/how-to/tenants.md prints, for namespaces that are a tenant's own.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: e2e/run control_plane"]
async fn printed_policy_binds_observers_in_a_control_plane() {
    let plane = Plane::start();
    let client = plane.client().await;
    define(&client).await;
    let labels = json!({"tenant": "acme"});
    let namespace = json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": "tenant-acme", "labels": labels},
    });
    apply(&client, "namespaces", namespace).await;
    let page = Page::read("how-to/tenants.md", &[]);
    let [observer, policy] = page.blocks("yaml")[..] else {
        panic!("the page has an observer and a policy")
    };
    for document in serde_yaml_ng::Deserializer::from_str(policy) {
        let object = Value::deserialize(document).unwrap();
        let resource = match object["kind"].as_str().unwrap() {
            "ValidatingAdmissionPolicy" => "validatingadmissionpolicies",
            _ => "validatingadmissionpolicybindings",
        };
        apply(&client, resource, object).await;
    }
    let observer: Observer = serde_yaml_ng::from_str(observer).unwrap();
    let api: Api<Observer> = Api::namespaced(client, "tenant-acme");
    let dry = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    for tenant in [None, Some("other".to_owned())] {
        let mut wrong = observer.clone();
        wrong.spec.tenant = tenant;
        let refused = eventually("the policy is in force", async || {
            api.create(&dry, &wrong).await.err()
        });
        let refused = refused.await.to_string();
        assert!(refused.contains("must be the label `tenant`"), "{refused}");
    }
    api.create(&dry, &observer).await.unwrap();
}
