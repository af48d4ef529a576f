//! A small shop in a database, and writers that keep it busy.
//!
//! Writers overlap, touch the same orders and roll back now and then. Each says what it is about
//! to commit, as the database returned it.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use queue::sql_transaction;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use sqlx::postgres::{PgConnectOptions, PgRow};
use sqlx::{ConnectOptions, Connection, PgConnection, PgPool, Row};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::tally::{Change, Order, Tally, lock};

/// Marks a schema as one that may be dropped.
const MARK: &str = "made by observer-demo, and dropped by it";

/// Writers at work.
const WRITERS: u64 = 2;

/// Longest pause of a writer between two transactions, in milliseconds: with the work itself,
/// some 20 changes a second in all.
const MAX_PAUSE: u64 = 160;

/// How long a transaction lingers that lets others overtake it, in milliseconds.
const MAX_LINGER: u64 = 60;

/// Orders in the shop at once; beyond, they go as fast as they come.
const MAX_ORDERS: usize = 200;

/// Writers prefer the latest orders, so that they meet.
const LATEST: usize = 20;

/// Customers who stay; others come and go.
const REGULARS: i64 = 12;

/// One in so many orders has no total yet. The observer `big-orders` did not think of that.
const NO_TOTAL: u32 = 10;

const MAKE: &str = "
create table shop.customers (
    id bigint generated always as identity primary key,
    name text not null
);
create table shop.orders (
    id bigint generated always as identity primary key,
    customer_id bigint not null references shop.customers,
    status text not null default 'new',
    total numeric(10, 2),
    note text,
    revision integer not null default 1
);
insert into shop.customers (name) select 'Regular ' || n from generate_series(1, 12) n;
select observer.track('shop.customers');
select observer.track('shop.orders');
";

/// Whether the database's schema `shop` may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// There is none.
    Nothing,
    /// A demo left it behind.
    Ours,
    /// It is somebody else's.
    Theirs,
}

/// Looks for the schema.
pub(crate) async fn find(pool: &PgPool) -> Result<Found, sqlx::Error> {
    let mark: Option<Option<String>> = sqlx::query_scalar(
        "select obj_description(oid, 'pg_namespace') from pg_namespace where nspname = 'shop'",
    )
    .fetch_optional(pool)
    .await?;
    Ok(match mark {
        None => Found::Nothing,
        Some(Some(mark)) if mark == MARK => Found::Ours,
        Some(_) => Found::Theirs,
    })
}

/// Makes the schema and tracks its tables.
pub(crate) async fn make(pool: &PgPool) -> Result<(), sqlx::Error> {
    let mut tx = sql_transaction::begin(pool).await?;
    let schema = format!("create schema shop; comment on schema shop is '{MARK}'");
    sqlx::raw_sql(sqlx::AssertSqlSafe(schema))
        .execute(&mut *tx)
        .await?;
    sqlx::raw_sql(MAKE).execute(&mut *tx).await?;
    tx.commit().await
}

/// Drops a schema that a demo made.
pub(crate) async fn unmake(pool: &PgPool) -> Result<(), sqlx::Error> {
    let mut tx = sql_transaction::begin(pool).await?;
    let tables = "select observer.untrack(c.oid::regclass) from pg_class c
                  where c.relnamespace = 'shop'::regnamespace and c.relkind = 'r'";
    sqlx::query(tables).execute(&mut *tx).await?;
    sqlx::query("drop schema shop cascade")
        .execute(&mut *tx)
        .await?;
    tx.commit().await
}

/// What the writers and their onlookers share.
pub(crate) type SharedTally = Arc<Mutex<Tally>>;

/// Starts the writers; each works until `stop` or an error.
pub(crate) async fn start_writers(
    options: &PgConnectOptions,
    tally: &SharedTally,
    seed: u64,
    stop: &CancellationToken,
) -> Result<JoinSet<Result<(), sqlx::Error>>, sqlx::Error> {
    let orders = Arc::new(Mutex::new(Vec::new()));
    let mut writers = JoinSet::new();
    for n in 0..WRITERS {
        let writer = Writer {
            connection: options.connect().await?,
            random: StdRng::seed_from_u64(seed.wrapping_add(n)),
            orders: Arc::clone(&orders),
            guests: Vec::new(),
            placed: 0,
            tally: Arc::clone(tally),
        };
        writers.spawn(writer.work(stop.clone()));
    }
    Ok(writers)
}

struct Writer {
    connection: PgConnection,
    random: StdRng,
    /// Committed and not removed, the latest last.
    orders: Arc<Mutex<Vec<i64>>>,
    /// Customers of this writer who may go.
    guests: Vec<i64>,
    placed: u32,
    tally: SharedTally,
}

/// What a transaction does.
#[derive(Clone, Copy, Debug)]
enum Step {
    Place,
    PlaceAndChange,
    Change(i64),
    Remove(i64),
    AddGuest,
    RemoveGuest(i64),
}

impl Writer {
    async fn work(mut self, stop: CancellationToken) -> Result<(), sqlx::Error> {
        while !stop.is_cancelled() {
            self.transaction().await?;
            let pause = Duration::from_millis(self.random.random_range(0..=MAX_PAUSE));
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
        self.connection.close().await
    }

    async fn transaction(&mut self) -> Result<(), sqlx::Error> {
        let step = self.choose();
        let mut tx = self.connection.begin().await?;
        let changes = match step {
            Step::Place => vec![place(&mut tx, &mut self.random, &mut self.placed).await?],
            Step::PlaceAndChange => {
                let placed = place(&mut tx, &mut self.random, &mut self.placed).await?;
                let changed = match &placed {
                    Change::Order { id, .. } => change(&mut tx, &mut self.random, *id).await?,
                    Change::CustomerAdded | Change::CustomerRemoved => None,
                };
                [Some(placed), changed].into_iter().flatten().collect()
            }
            Step::Change(id) => Vec::from_iter(change(&mut tx, &mut self.random, id).await?),
            Step::Remove(id) => Vec::from_iter(remove(&mut tx, id).await?),
            Step::AddGuest => {
                let add = "insert into shop.customers (name) values ('Guest') returning id";
                self.guests
                    .push(sqlx::query_scalar(add).fetch_one(&mut *tx).await?);
                vec![Change::CustomerAdded]
            }
            Step::RemoveGuest(id) => {
                let gone = sqlx::query("delete from shop.customers where id = $1")
                    .bind(id)
                    .execute(&mut *tx)
                    .await?;
                vec![Change::CustomerRemoved; usize::from(gone.rows_affected() > 0)]
            }
        };
        if self.random.random_ratio(1, 8) {
            let linger = Duration::from_millis(self.random.random_range(0..=MAX_LINGER));
            tokio::time::sleep(linger).await;
        }
        if self.random.random_ratio(1, 16) {
            tx.rollback().await?;
            lock(&self.tally).rolled_back();
            return Ok(());
        }
        lock(&self.tally).commits(&changes, Instant::now());
        tx.commit().await?;
        self.remember(&changes);
        Ok(())
    }

    fn choose(&mut self) -> Step {
        let orders = lock(&self.orders);
        let latest = &orders[orders.len().saturating_sub(LATEST)..];
        let any = |random: &mut StdRng, from: &[i64]| {
            (!from.is_empty()).then(|| from[random.random_range(0..from.len())])
        };
        let chosen = match self.random.random_range(0..100) {
            0..25 if orders.len() < MAX_ORDERS => Some(Step::Place),
            25..32 if orders.len() < MAX_ORDERS => Some(Step::PlaceAndChange),
            0..82 => any(&mut self.random, latest).map(Step::Change),
            82..92 => any(&mut self.random, &orders).map(Step::Remove),
            _ => match self.guests.pop() {
                Some(guest) => Some(Step::RemoveGuest(guest)),
                None => Some(Step::AddGuest),
            },
        };
        chosen.unwrap_or(Step::Place)
    }

    fn remember(&mut self, changes: &[Change]) {
        let mut orders = lock(&self.orders);
        for change in changes {
            match change {
                Change::Order {
                    id, before: None, ..
                } => orders.push(*id),
                Change::Order {
                    id, after: None, ..
                } => orders.retain(|known| known != id),
                _ => {}
            }
        }
    }
}

async fn place(
    connection: &mut PgConnection,
    random: &mut StdRng,
    placed: &mut u32,
) -> Result<Change, sqlx::Error> {
    *placed = placed.wrapping_add(1);
    let total: Option<i64> =
        (!placed.is_multiple_of(NO_TOTAL)).then(|| random.random_range(500..250_000));
    let note = random
        .random_ratio(1, 5)
        .then_some("Leave it with the \"neighbours\", please");
    let row = sqlx::query(
        "insert into shop.orders (customer_id, total, note) values ($1, $2::bigint / 100.0, $3)
         returning id, revision, status, (total * 100)::bigint",
    )
    .bind(random.random_range(1..=REGULARS))
    .bind(total)
    .bind(note)
    .fetch_one(connection)
    .await?;
    let (id, revision, after) = read(&row)?;
    Ok(Change::Order {
        id,
        revision,
        before: None,
        after: Some(after),
    })
}

/// Changes an order in some way; nothing where it is gone.
async fn change(
    connection: &mut PgConnection,
    random: &mut StdRng,
    id: i64,
) -> Result<Option<Change>, sqlx::Error> {
    let row = sqlx::query(
        "select id, revision, status, (total * 100)::bigint from shop.orders where id = $1 for update",
    )
    .bind(id)
    .fetch_optional(&mut *connection)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let (_, _, before) = read(&row)?;
    let mut wanted = before.clone();
    if random.random_ratio(3, 4) {
        next_status(&before.status).clone_into(&mut wanted.status);
    } else {
        wanted.cents = Some(random.random_range(500..250_000));
    }
    let row = sqlx::query(
        "update shop.orders set status = $2, total = $3::bigint / 100.0, revision = revision + 1
         where id = $1 returning id, revision, status, (total * 100)::bigint",
    )
    .bind(id)
    .bind(&wanted.status)
    .bind(wanted.cents)
    .fetch_one(connection)
    .await?;
    let (id, revision, after) = read(&row)?;
    Ok(Some(Change::Order {
        id,
        revision,
        before: Some(before),
        after: Some(after),
    }))
}

async fn remove(connection: &mut PgConnection, id: i64) -> Result<Option<Change>, sqlx::Error> {
    let row = sqlx::query(
        "delete from shop.orders where id = $1
         returning id, revision, status, (total * 100)::bigint",
    )
    .bind(id)
    .fetch_optional(connection)
    .await?;
    row.map(|row| {
        let (id, revision, before) = read(&row)?;
        Ok(Change::Order {
            id,
            revision: revision + 1,
            before: Some(before),
            after: None,
        })
    })
    .transpose()
}

/// The way of an order; one that was returned is sold again.
fn next_status(status: &str) -> &'static str {
    match status {
        "new" => "paid",
        "paid" => "shipped",
        "shipped" => "returned",
        _ => "new",
    }
}

fn read(row: &PgRow) -> Result<(i64, i64, Order), sqlx::Error> {
    let order = Order {
        status: row.try_get(2)?,
        cents: row.try_get(3)?,
    };
    Ok((row.try_get(0)?, i64::from(row.try_get::<i32, _>(1)?), order))
}
