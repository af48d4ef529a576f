//! Actions that go by the job queue: retries across kills, what takes long, keys that must wait,
//! receivers that are dead, and the commands.

mod backend_switch;
mod commands;
mod crashes;
mod cuts;
mod lanes;
mod retries;
mod slow;

use std::time::Duration;

use testkit::servers::redis::{Options, PrivateRedis};

use crate::support::{TestDb, database, while_progressing_or};

/// What a listener says of its queue in tests in which workers die.
const SHORT: &str = "  queue: {workerLeaseDuration: 5s}\n";

/// The same where some die, and a delivery counts that is made anew since a busy machine let a live
/// worker give no sign of life for so long.
const LONGER: &str = "  queue: {workerLeaseDuration: 20s}\n";

/// The same where none dies.
const LONG: &str = "  queue: {workerLeaseDuration: 10m}\n";

pub(crate) async fn redis() -> PrivateRedis {
    PrivateRedis::start(&Options::default()).await.unwrap()
}

/// The same in Redis.
pub(crate) fn in_redis(redis: &PrivateRedis) -> String {
    let url = redis.url();
    format!(
        "  redis: {{url: {{value: \"{url}\"}}}}\n  queue: {{backend: Redis, workerLeaseDuration: 5s}}\n"
    )
}

/// A tracked table of orders.
async fn orders() -> TestDb {
    let db = database().await;
    db.run("create table orders (id int primary key, total int not null default 0); select observer.track('orders')")
        .await;
    db
}

/// An observer of `public.orders` that posts to a URL; `more` are fields of its action.
fn observer(name: &str, url: &str, more: &str) -> String {
    format!(
        "apiVersion: observers.fraiseql.dev/v1alpha1\nkind: Observer\nmetadata: {{name: {name}}}\nspec:\n  \
         events: {{entity: public.orders}}\n  actions:\n    - name: post\n      \
         webhook: {{url: {{value: \"{url}\"}}}}\n      {more}\n---\n"
    )
}

/// Jobs that are not over.
async fn pending(db: &TestDb) -> usize {
    let count: i64 = db.value("select count(*) from observer.job").await;
    usize::try_from(count).unwrap()
}

/// Waits until so many jobs are left.
async fn left(db: &TestDb, count: usize) {
    let look = async || match pending(db).await {
        pending if pending == count => Ok(()),
        pending => Err(pending),
    };
    while_progressing_or(look, async || {
        let jobs = "select coalesce(json_agg(j), '[]')::text from (
            select state, observer, key, attempts, scheduled_at, worker from observer.job limit 20) j";
        let (pending, jobs): (_, String) = (pending(db).await, db.value(jobs).await);
        format!("{count} jobs, and there are {pending}: {jobs}")
    })
    .await;
}

fn seconds(all: &[Duration]) -> (f64, f64) {
    let seconds = all.iter().map(Duration::as_secs_f64).collect();
    crate::support::fleet::median_and_most(seconds)
}
