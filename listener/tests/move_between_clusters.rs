//! A listener that moves: its processes share Leases of another store than those before, and have one Postgres.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Pod;
use kube::api::PostParams;
use kube::{Api, Client};
use serde_json::json;
use testkit::http_sink::{Behaviour, Sink};

use crate::api::cluster::{Plane, apply};
use crate::support::listener::{Config, Process, observer};
use crate::support::{TestDb, all_is_behind, database, eventually};

const NAMESPACE: &str = "moving-shop";

const POD: &str = "shop-listener-0";

/// Makes a pod of the cluster, which no node runs, and returns its uid. Leases without their pod are collected.
async fn pod(client: &Client) -> String {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": POD, "namespace": NAMESPACE},
        "spec": {"containers": [{"name": "listener", "image": "none"}]},
    });
    // Its service account may not be there yet.
    let api: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    let pod: Pod = serde_json::from_value(pod).unwrap();
    let made = eventually("there is a pod", async || {
        api.create(&PostParams::default(), &pod).await.ok()
    });
    made.await.metadata.uid.unwrap()
}

/// Starts it as that pod, whose Leases are those of the cluster.
fn as_a_pod(plane: &Plane, uid: &str) -> Process {
    let variables = [("POD_NAME", POD), ("POD_UID", uid)];
    Process::start_in(
        (plane.kubeconfig(), NAMESPACE),
        &["--listen", "off"],
        &variables,
    )
}

async fn orders(db: &TestDb, ids: std::ops::RangeInclusive<u32>) {
    for id in ids {
        db.run(&format!("insert into orders values ({id})")).await;
    }
}

/// Waits until all orders up to this one have arrived and are saved, and returns how many requests that took.
async fn all_arrived(db: &TestDb, sink: &Sink, count: usize) -> usize {
    crate::support::while_progressing_or(
        async || {
            let received = sink.received();
            let distinct: BTreeSet<&str> = received.iter().map(|one| &*one.webhook_id).collect();
            if distinct.len() == count {
                Ok(())
            } else {
                Err(distinct.len())
            }
        },
        async || {
            format!(
                "{count} orders have arrived of {} requests",
                sink.received().len()
            )
        },
    )
    .await;
    all_is_behind(db).await;
    sink.received().len()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: e2e/run control_plane"]
async fn moved_listener_goes_on_in_a_control_plane_and_back() {
    let plane = Plane::start();
    let client = plane.client().await;
    let (db, sink) = (database().await, Sink::start(Behaviour::Ok).await.unwrap());
    db.run("create table orders (id int primary key); select observer.track('orders')")
        .await;
    let config = Config::new(
        &db.url,
        "  checkpoint: {interval: 100ms}\n",
        &observer("hook", "public.orders", &sink.url("/"), "").replace(
            "{name: hook}",
            &format!("{{name: hook, namespace: {NAMESPACE}}}"),
        ),
    );
    let listener = format!("{{name: shop, namespace: {NAMESPACE}}}");
    config.change("{name: test}", &listener);
    let bundle = std::fs::read_to_string(config.path()).unwrap();
    let namespace =
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
    apply(&client, "namespaces", namespace).await;
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "stringData": {"bundle.yaml": bundle},
        "metadata": {"name": "shop-bundle", "namespace": NAMESPACE},
    });
    apply(&client, "secrets", secret).await;
    let uid = pod(&client).await;

    // In the cluster, then without it, and there again: each stopped before the next begins.
    let mut last = 0;
    for round in 0..3 {
        let process = if round == 1 {
            Process::run(&config)
        } else {
            as_a_pod(&plane, &uid)
        };
        orders(&db, last + 1..=last + 50).await;
        all_arrived(&db, &sink, last as usize + 50).await;
        // These are in flight, or wait, when it stops.
        orders(&db, last + 51..=last + 60).await;
        process.stop().await;
        last += 60;
    }
    let process = Process::run(&config);
    let requests = all_arrived(&db, &sink, last as usize).await;
    assert_eq!(requests, last as usize, "what was stopped is not repeated");

    // Somebody forgot to stop it.
    let both = as_a_pod(&plane, &uid);
    orders(&db, last + 1..=last + 100).await;
    all_arrived(&db, &sink, last as usize + 100).await;
    process.stop().await;
    orders(&db, last + 101..=last + 110).await;
    all_arrived(&db, &sink, last as usize + 110).await;
    both.stop().await;
}
