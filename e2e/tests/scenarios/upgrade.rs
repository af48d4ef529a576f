//! The chart goes and comes back: resources stay, and delivery goes on.

use anyhow::{Result, ensure};
use crds::v1alpha1::{Observer, ObserverListener};

use super::{MAIN, Shop, programmed, ready, uids};
use crate::support::figures::{figure, seconds};
use crate::support::installation::{self, NAMESPACE, RELEASE};
use crate::support::resources;
use crate::support::room::scenario;
use crate::support::wait::SOON;
use crate::support::writer::Writer;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster: make e2e"]
async fn an_uninstalled_chart_leaves_listeners_at_work() {
    scenario("uninstall", async |room| -> Result<()> {
        installation::installed(&room.cluster).await?;
        let mut shop = Shop::open(room, 1).await?;
        let writer = Writer::start(&shop.database.pool, 100);
        shop.more(MAIN, 100).await?;
        let pods = uids(room, "shop").await?;
        room.cluster
            .helm(&["uninstall", RELEASE, "--namespace", NAMESPACE, "--wait"])
            .await?;
        room.api::<ObserverListener>().get("shop").await?;
        room.api::<Observer>().get("main").await?;
        shop.more(MAIN, 500).await?;
        let took = installation::install(&room.cluster).await?;
        ready(room, "shop").await?;
        // The new one works.
        let late = resources::observer("late", &shop.sink.url("late"));
        room.apply::<Observer>(&late).await?;
        programmed(room, "late").await?;
        shop.more("/late", 1).await?;
        writer.stop().await?;
        figure(&format!(
            "helm uninstall, and helm install again after {}:",
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
