//! What is wrong is told within seconds, by a condition with its reason, and heals by itself.

use std::time::Duration;

use anyhow::{Result, ensure};
use crds::v1alpha1::{Observer, ObserverListener};
use serde_json::json;

use super::{Shop, programmed, ready};
use crate::support::figures::{figure, seconds};
use crate::support::resources::{self, condition};
use crate::support::room::{Room, scenario};
use crate::support::wait::{SOON, until};
use crate::support::{database, installation};

/// How soon a mistake should be told; shown beside the figure.
const GOAL: Duration = Duration::from_secs(5);

/// Waits for a condition of an observer and says how long it took.
async fn observer_says(
    room: &Room,
    name: &str,
    kind: &str,
    reason: &str,
    word: &str,
) -> Result<()> {
    let what = format!("observer {name} has {kind}=False {reason}");
    let ((), took) = until(&what, SOON, async || {
        let found = condition(&room.api::<Observer>().get(name).await?, kind, "False")?;
        ensure!(found.reason == reason, "its reason: {}", found.reason);
        ensure!(
            found.message.contains(word),
            "no {word} in: {}",
            found.message
        );
        Ok(())
    })
    .await?;
    told(&what, took);
    Ok(())
}

/// Waits for a listener that is not ready and says how long it took.
async fn listener_says(room: &Room, name: &str, reason: &str, word: &str) -> Result<()> {
    let what = format!("listener {name} has Ready=False {reason}");
    let ((), took) = until(&what, SOON, async || {
        let found = condition(
            &room.api::<ObserverListener>().get(name).await?,
            "Ready",
            "False",
        )?;
        ensure!(
            found.reason == reason,
            "its reason: {}: {}",
            found.reason,
            found.message
        );
        ensure!(
            found.message.contains(word),
            "no {word} in: {}",
            found.message
        );
        Ok(())
    })
    .await?;
    told(&what, took);
    Ok(())
}

fn told(what: &str, took: Duration) {
    let goal = if took <= GOAL { "" } else { " (goal: 5 s)" };
    figure(&format!("{what} after {}{goal}", seconds(took)));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster: make e2e"]
async fn mistakes_of_observers_are_told_and_heal() {
    scenario("conditions", async |room| {
        installation::installed(&room.cluster).await?;
        let shop = Shop::open(room, 1).await?;

        let mut lacking = resources::observer("lacking", &shop.sink.url("lacking"));
        lacking["spec"]["actions"][0]["webhook"]["signingSecret"]["secretKeyRef"]["name"] =
            "later".into();
        room.apply::<Observer>(&lacking).await?;
        observer_says(room, "lacking", "ResolvedRefs", "SecretMissing", "later").await?;
        room.secret(
            "later",
            json!({"signing-secret": crate::support::sink::SIGNING[0]}),
        )
        .await?;
        let (_, took) = until("it heals", SOON, async || {
            condition(
                &room.api::<Observer>().get("lacking").await?,
                "Programmed",
                "True",
            )
        })
        .await?;
        figure(&format!(
            "  heals {} after the Secret is there",
            seconds(took)
        ));

        let mut wrong = resources::observer("wrong", &shop.sink.url("wrong"));
        wrong["spec"]["when"] = "new.v >".into();
        room.apply::<Observer>(&wrong).await?;
        observer_says(room, "wrong", "Accepted", "Invalid", "spec.when").await?;
        let listener = room.api::<ObserverListener>().get("shop").await?;
        condition(&listener, "Ready", "True")?;
        condition(&listener, "Degraded", "True")?;
        wrong["spec"]["when"] = "new.v > 0".into();
        room.apply::<Observer>(&wrong).await?;
        programmed(room, "wrong").await?;
        until("the listener is no longer degraded", SOON, async || {
            condition(
                &room.api::<ObserverListener>().get("shop").await?,
                "Degraded",
                "False",
            )
        })
        .await?;
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster: make e2e"]
async fn one_identity_serves_one_listener() {
    scenario("identity", async |room| {
        installation::installed(&room.cluster).await?;
        let _shop = Shop::open(room, 1).await?;
        let mut second = resources::listener("second", 1);
        second["spec"]["identity"] = format!("{}/shop", room.namespace).into();
        room.apply::<ObserverListener>(&second).await?;
        listener_says(room, "second", "IdentityConflict", "shop").await?;
        ready(room, "shop").await?;
        room.delete::<ObserverListener>("shop").await?;
        let (_, took) = until("the second takes up the work", SOON, async || {
            condition(
                &room.api::<ObserverListener>().get("second").await?,
                "Ready",
                "True",
            )
        })
        .await?;
        figure(&format!(
            "  it works {} after the first is deleted",
            seconds(took)
        ));
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster: make e2e"]
async fn an_unreachable_database_is_told_and_heals() {
    scenario("unreachable", async |room| {
        installation::installed(&room.cluster).await?;
        let shop = Shop::open(room, 1).await?;
        let other = room.namespace.clone();
        let nowhere = format!("postgres://a:b@nowhere.{other}.svc.cluster.local:5432/x");
        let before = super::uids(room, "shop").await?;
        room.secret("db", json!({"url": nowhere})).await?;
        listener_says(room, "shop", "DatabaseUnreachable", "nowhere").await?;
        room.secret("db", json!({"url": shop.database.url})).await?;
        let (_, took) = until("it heals", SOON, async || {
            condition(
                &room.api::<ObserverListener>().get("shop").await?,
                "Ready",
                "True",
            )
        })
        .await?;
        figure(&format!("  heals {} after the URL is right", seconds(took)));
        ensure!(
            super::uids(room, "shop").await? == before,
            "the pods were restarted"
        );

        // A server that is there and has no such database, and a listener without its Secret.
        let mut lost = resources::listener("lost", 1);
        lost["spec"]["database"]["url"]["secretKeyRef"]["name"] = "lost".into();
        room.apply::<ObserverListener>(&lost).await?;
        listener_says(room, "lost", "SecretMissing", "lost").await?;
        let host = format!(
            "{}.{}.svc.cluster.local:5432",
            database::NAME,
            room.namespace
        );
        let url = format!("postgres://postgres:postgres@{host}/none");
        room.secret("lost", json!({"url": url})).await?;
        listener_says(room, "lost", "DatabaseAccessDenied", "none").await
    })
    .await;
}
