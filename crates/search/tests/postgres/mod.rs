//! The suite for the backend in Postgres, and what only that one has.

mod failures;

use std::sync::Arc;

use async_trait::async_trait;
use observer_search::SearchIndex;
use observer_search::postgres::PostgresIndex;
use sqlx::{AssertSqlSafe, Executor};
use testkit::database::{TestDb, lazy_pool, schema_sql};

use crate::support::Fixture;

/// Connections of an index.
const CONNECTIONS: u32 = 4;

pub(crate) struct Postgres {
    database: TestDb,
}

pub(crate) async fn start() -> Postgres {
    let database = TestDb::of_template("search_migrated", async |pool| {
        pool.execute(AssertSqlSafe(schema_sql())).await.unwrap();
    });
    Postgres {
        database: database.await,
    }
}

#[async_trait]
impl Fixture for Postgres {
    async fn open(&self) -> Arc<dyn SearchIndex> {
        let index = PostgresIndex::new(lazy_pool(&self.database.url, CONNECTIONS));
        index.prepare().await.unwrap();
        Arc::new(index)
    }
}

crate::suite::suite!(start);
