//! From an empty cluster to a delivered webhook, as a user goes about it. By its name it is the
//! first of those that need the operator.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::{programmed, ready};
use crate::support::database::Database;
use crate::support::figures::{figure, quantile, seconds};
use crate::support::room::{Room, scenario};
use crate::support::sink::{self, Sink};
use crate::support::wait::{SOON, until};
use crate::support::{installation, repository};

/// Rows that are written one by one, to see how long each takes to arrive.
const ROWS: usize = 200;

/// The table that the example watches.
pub(super) const ORDERS: &str = "
    create table orders (
        id bigint primary key, status text not null, total numeric not null, v bigint not null default 0
    );
    select observer.track('orders');";

/// The example at work.
pub(super) async fn example(room: &Room) -> Result<(Database, Sink)> {
    let (database, sink) = tokio::try_join!(Database::start(room), Sink::start(room))?;
    database.migrate(room).await?;
    sqlx::raw_sql(ORDERS).execute(&database.pool).await?;
    room.secret("shop-db", serde_json::json!({"url": database.url}))
        .await?;
    room.secret("shop-hooks", sink::hooks(&sink)).await?;
    let file = repository("docs/examples/cluster.yaml");
    let start = Instant::now();
    room.cluster
        .kubectl(&[
            "apply",
            "--namespace",
            &room.namespace,
            "--filename",
            &file.to_string_lossy(),
        ])
        .await?;
    ready(room, "shop").await?;
    programmed(room, "order-events").await?;
    programmed(room, "big-orders").await?;
    let took = seconds(start.elapsed());
    figure(&format!(
        "kubectl apply of the example until it delivers: {took}"
    ));
    Ok((database, sink))
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster: make e2e"]
async fn a_row_becomes_a_signed_webhook() {
    scenario("install", async |room| {
        let took = installation::install(&room.cluster).await?;
        figure(&format!("helm install until ready: {}", seconds(took)));
        let (database, sink) = example(room).await?;
        // The first opens connections.
        insert(&database, 0).await?;
        arrived(&sink, 1).await?;
        for id in 1..=ROWS {
            insert(&database, id).await?;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let receipts = arrived(&sink, ROWS + 1).await?;
        let mut times = Vec::new();
        for (key, (occurred, arrived, signed)) in receipts {
            ensure!(signed, "the webhook of order {key} is not signed");
            if key != "0" {
                times.push(arrived - occurred);
            }
        }
        times.sort_unstable();
        figure(&format!(
            "row written to webhook arrived, {ROWS} single rows: p50 {:.1} ms, p99 {:.1} ms",
            millis(quantile(&times, 500)),
            millis(quantile(&times, 990)),
        ));
        Ok(())
    })
    .await;
}

async fn insert(database: &Database, id: usize) -> Result<()> {
    sqlx::query("insert into orders (id, status, total) values ($1, 'new', 10)")
        .bind(i64::try_from(id)?)
        .execute(&database.pool)
        .await?;
    Ok(())
}

/// For each key when it was written, when it arrived, and whether it was signed.
async fn arrived(sink: &Sink, count: usize) -> Result<HashMap<String, (i64, i64, bool)>> {
    let (receipts, _) = until(&format!("{count} webhooks arrive"), SOON, async || {
        let mut receipts = sink.since(0).await?;
        // A busy machine may have one sent again whose answer came too late.
        let mut seen = HashSet::new();
        receipts.retain(|receipt| seen.insert(receipt.id.clone()));
        ensure!(receipts.len() >= count, "{} have arrived", receipts.len());
        Ok(receipts)
    })
    .await?;
    ensure!(
        receipts.len() == count,
        "{} webhooks arrived for {count} rows",
        receipts.len()
    );
    receipts
        .into_iter()
        .map(|receipt| {
            let key = receipt.key.context("a webhook without a key")?;
            let occurred = receipt.occurred_at.context("a webhook without a time")?;
            Ok((
                key,
                (occurred, receipt.arrived_at, receipt.secret == Some(0)),
            ))
        })
        .collect()
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn millis(micros: i64) -> f64 {
    micros as f64 / 1000.0
}
