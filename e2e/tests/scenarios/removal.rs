//! What goes, goes wholly; what stays, goes on.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use crds::v1alpha1::ObserverListener;
use k8s_openapi::api::core::v1::Namespace;
use kube::Api;
use kube::api::DeleteParams;

use super::{MAIN, Shop, ready, uids};
use crate::support::figures::{figure, seconds};
use crate::support::installation;
use crate::support::room::{Room, scenario};
use crate::support::wait::{LATE, SOON, until};
use crate::support::writer::Writer;

/// Longest that a namespace may take to go.
const NAMESPACE_GONE: Duration = Duration::from_secs(90);

/// Kinds of all that is made for a listener, by the operator, by its pods or by the cluster.
const KINDS: &str = "deployments,replicasets,pods,serviceaccounts,roles,rolebindings,services,\
                     networkpolicies,poddisruptionbudgets,secrets,leases,jobs";

/// Names of all that is there for the listener `shop`.
async fn made(room: &Room) -> Result<Vec<String>> {
    let list = room
        .cluster
        .kubectl(&[
            "get",
            KINDS,
            "--namespace",
            &room.namespace,
            "--output",
            "name",
        ])
        .await?;
    let names = list
        .lines()
        .filter(|name| name.contains("/shop-listener") || name.contains("/shop-shard-"));
    Ok(names.map(str::to_owned).collect())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster: make e2e"]
async fn a_deleted_listener_leaves_nothing() {
    scenario("removal", async |room| {
        installation::installed(&room.cluster).await?;
        let mut shop = Shop::open(room, 2).await?;
        let writer = Writer::start(&shop.database.pool, 50);
        shop.more(MAIN, 100).await?;
        writer.stop().await?;
        let identity = format!("{}/shop", room.namespace);
        let (before, rows) = (made(room).await?, shop.database.rows_of(&identity).await?);
        figure(&format!("made for a listener: {}", before.join(" ")));
        ensure!(before.len() >= 10, "it has only {before:?}");
        ensure!(rows > 0, "it has no rows");

        let start = Instant::now();
        room.delete::<ObserverListener>("shop").await?;
        until("all that was made for it is gone", LATE, async || {
            let left = made(room).await?;
            ensure!(left.is_empty(), "left: {left:?}");
            let listener = room.api::<ObserverListener>().get_opt("shop").await?;
            ensure!(listener.is_none(), "the resource itself is left");
            Ok(())
        })
        .await?;
        let rows = shop.database.rows_of(&identity).await?;
        figure(&format!(
            "a deleted listener and all of its parts are gone after {}; rows left: {rows}",
            seconds(start.elapsed())
        ));
        ensure!(rows == 0, "{rows} rows are left");
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster: make e2e"]
async fn a_deleted_namespace_goes() {
    scenario("namespace", async |room| {
        installation::installed(&room.cluster).await?;
        let _shop = Shop::open(room, 1).await?;
        let namespaces: Api<Namespace> = Api::all(room.cluster.client.clone());
        namespaces
            .delete(&room.namespace, &DeleteParams::default())
            .await?;
        let ((), took) = until(
            "the namespace is gone",
            NAMESPACE_GONE,
            async || match namespaces.get_opt(&room.namespace).await? {
                None => Ok(()),
                Some(left) => {
                    let status = left.status.and_then(|status| status.conditions);
                    anyhow::bail!("it is there: {status:?}")
                }
            },
        )
        .await?;
        ensure!(took <= NAMESPACE_GONE, "it took {}", seconds(took));
        figure(&format!(
            "a deleted namespace with a listener and its database is gone after {}",
            seconds(took)
        ));
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster: make e2e"]
async fn listeners_deliver_without_an_operator() {
    scenario("no-operator", async |room| {
        installation::installed(&room.cluster).await?;
        let mut shop = Shop::open(room, 2).await?;
        let writer = Writer::start(&shop.database.pool, 100);
        shop.more(MAIN, 100).await?;
        let pods = uids(room, "shop").await?;
        installation::deployments(&room.cluster)
            .delete(installation::DEPLOYMENT, &DeleteParams::foreground())
            .await?;
        until("the operator is gone", SOON, async || {
            let left = installation::deployments(&room.cluster)
                .get_opt(installation::DEPLOYMENT)
                .await?;
            ensure!(left.is_none(), "its Deployment is there");
            Ok(())
        })
        .await?;
        shop.more(MAIN, 500).await?;
        let took = installation::install(&room.cluster).await?;
        ready(room, "shop").await?;
        shop.more(MAIN, 500).await?;
        writer.stop().await?;
        figure(&format!(
            "without the operator's Deployment, and with a new one after {}:",
            seconds(took)
        ));
        shop.tally
            .all_once(&shop.sink, &shop.database, MAIN, SOON)
            .await?;
        ensure!(uids(room, "shop").await? == pods, "pods were restarted");
        Ok(())
    })
    .await;
}
