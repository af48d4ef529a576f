//! What users do, and what then happens.

mod autoscaling;
mod beginning;
mod burst;
mod changes;
mod chaos;
mod conditions;
mod crowd;
mod failover;
mod faults;
mod getting_started;
mod idle;
mod kubectl;
mod outage;
mod outputs;
mod refusals;
mod removal;
mod replicas;
mod scale;
mod spread;
mod stalled;
mod steps;
mod upgrade;
mod workers;

use anyhow::Result;
use crds::v1alpha1::{Observer, ObserverListener};
use serde_json::json;

use crate::support::database::Database;
use crate::support::resources;
use crate::support::room::Room;
use crate::support::sink::{self, Sink};
use crate::support::tally::Tally;
use crate::support::wait::{LATE, until};

/// A listener `shop` at work, with one observer `main`, on counters that a writer changes.
struct Shop {
    database: Database,
    sink: Sink,
    tally: Tally,
}

/// Where `main` calls the sink.
const MAIN: &str = "/main";

impl Shop {
    /// Starts all of it and waits until it works.
    async fn open(room: &Room, replicas: i32) -> Result<Self> {
        Self::open_as(room, &resources::listener("shop", replicas)).await
    }

    /// The same with a listener of its own making, called `shop`.
    async fn open_as(room: &Room, listener: &serde_json::Value) -> Result<Self> {
        let (database, sink) = tokio::try_join!(Database::start(room), Sink::start(room))?;
        database.migrate(room).await?;
        room.secret("hooks", sink::hooks(&sink)).await?;
        room.apply::<ObserverListener>(listener).await?;
        room.apply::<Observer>(&resources::observer("main", &sink.url("main")))
            .await?;
        ready(room, "shop").await?;
        programmed(room, "main").await?;
        Ok(Self {
            database,
            sink,
            tally: Tally::default(),
        })
    }

    /// Waits until so many more have arrived on a path.
    async fn more(&mut self, path: &str, count: u64) -> Result<()> {
        let (tally, sink) = (&mut self.tally, &self.sink);
        tally.count(sink).await?;
        let wanted = tally.path(path).delivered + count;
        until(
            &format!("{count} more arrive on {path}"),
            LATE,
            async || {
                tally.count(sink).await?;
                let delivered = tally.path(path).delivered;
                anyhow::ensure!(delivered >= wanted, "{delivered} of {wanted} have arrived");
                Ok(())
            },
        )
        .await
        .map(drop)
    }

    /// Waits until nothing more arrives on a path, while `main` goes on.
    async fn quiet(&mut self, path: &str) -> Result<()> {
        for _ in 0..20 {
            self.tally.count(&self.sink).await?;
            let before = self.tally.path(path).delivered;
            self.more(MAIN, 200).await?;
            if self.tally.path(path).delivered == before {
                return Ok(());
            }
        }
        anyhow::bail!("{path} is still called")
    }
}

/// Waits until a listener delivers and all its pods run what was applied.
async fn ready(room: &Room, name: &str) -> Result<ObserverListener> {
    let what = format!("listener {name} is ready and up to date");
    let (listener, _) = until(&what, LATE, async || {
        let listener = room.api::<ObserverListener>().get(name).await?;
        resources::condition(&listener, "Ready", "True")?;
        resources::condition(&listener, "Progressing", "False")?;
        let ready = listener.status.as_ref().map_or(0, |s| s.ready_replicas);
        anyhow::ensure!(
            ready == listener.spec.replicas,
            "{ready} of {} pods are ready",
            listener.spec.replicas
        );
        Ok(listener)
    })
    .await?;
    Ok(listener)
}

/// Waits until an observer runs as it is now.
async fn programmed(room: &Room, name: &str) -> Result<()> {
    until(&format!("observer {name} runs"), LATE, async || {
        let observer = room.api::<Observer>().get(name).await?;
        resources::condition(&observer, "Programmed", "True")
    })
    .await
    .map(drop)
}

/// The uids of a listener's pods.
async fn uids(room: &Room, listener: &str) -> Result<std::collections::BTreeSet<String>> {
    let labels = format!("app.kubernetes.io/instance={listener}");
    let pods = room.pods(&labels).await?;
    Ok(pods
        .into_iter()
        .filter_map(|pod| pod.metadata.uid)
        .collect())
}

/// A Secret `db` with the URL of nothing.
async fn no_database(room: &Room) -> Result<()> {
    let url = "postgres://nobody:nothing@nowhere.invalid:5432/none";
    room.secret("db", json!({"url": url})).await
}
