//! Databases of a test's own, on one server for all tests.
//!
//! The server is the one of [`SERVER_URL`], which the program `with-postgres` starts for a whole
//! run of tests; without it each process starts one of its own. A database is a copy of a template
//! that the first who needs it prepares.

use std::future::Future;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, PgPool};
use tokio::sync::OnceCell;
use url::Url;

use crate::servers::binaries::Binaries;
use crate::servers::postgres::PrivateServer;
use crate::wait::STALLED;

/// Environment variable with the URL of a server that is shared by processes, as its super-user.
pub const SERVER_URL: &str = "OBSERVER_TEST_POSTGRES_URL";

/// Environment variable that chooses the version: 18 (downloaded, the default), 15 (as Debian
/// installs it), or the folder with the programs of another.
pub const VERSION: &str = "OBSERVER_TEST_POSTGRES";

/// Connections of a test database's pool.
const CONNECTIONS: u32 = 10;

/// Connections of a test to a database; a connection is waited for as long as everything else.
pub async fn pool(url: &str) -> PgPool {
    let options = PgPoolOptions::new().max_connections(CONNECTIONS);
    let patient = options.acquire_timeout(STALLED);
    let pool = patient.connect(url).await;
    pool.unwrap_or_else(|error| panic!("no connection to {url}: {error}"))
}

static SERVER: OnceCell<Server> = OnceCell::const_new();

enum Server {
    Shared(Url),
    Own(PrivateServer),
}

/// The server's programs that this run tests against.
#[must_use]
pub fn binaries() -> Binaries {
    match std::env::var(VERSION).as_deref() {
        Err(_) | Ok("" | "18") => Binaries::Download,
        Ok("15") => Binaries::Installed("/usr/lib/postgresql/15/bin".into()),
        Ok(folder) => Binaries::Installed(folder.into()),
    }
}

/// URL of a database on the server that all tests share, as the super-user.
pub async fn shared_url(database: &str) -> String {
    let server = SERVER
        .get_or_init(|| async {
            match std::env::var(SERVER_URL) {
                Ok(url) => Server::Shared(url.parse().expect("a URL")),
                Err(_) => Server::Own(PrivateServer::start(&binaries()).await.unwrap()),
            }
        })
        .await;
    match server {
        Server::Own(server) => server.url(database),
        Server::Shared(url) => {
            let mut url = url.clone();
            url.set_path(database);
            url.into()
        }
    }
}

/// The statements that make the whole schema `observer`, for tests of what does not know the listener's
/// migrator: `migrations/0001_schema.sql` and those after it, then the functions in the order of their names.
///
/// # Panics
///
/// If the files are not there.
#[must_use]
pub fn schema_sql() -> String {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../migrations");
    let mut sql = "create schema observer;\n".to_owned();
    for folder in [folder.to_owned(), format!("{folder}/functions")] {
        let files = std::fs::read_dir(&folder).unwrap();
        let mut files: Vec<_> = files.map(|entry| entry.unwrap().path()).collect();
        files.retain(|file| file.extension().is_some_and(|extension| extension == "sql"));
        files.sort();
        for file in files {
            sql.push_str(&std::fs::read_to_string(file).unwrap());
        }
    }
    sql
}

/// Connections to a database, made when they are needed.
#[must_use]
pub fn lazy_pool(url: &str, connections: u32) -> PgPool {
    let options: PgConnectOptions = url.parse().unwrap();
    PgPoolOptions::new()
        .max_connections(connections)
        .connect_lazy_with(options)
}

/// A database of the test's own; dropped with it.
#[derive(Debug)]
pub struct TestDb {
    /// URL as the super-user.
    pub url: String,
    /// Connections as the super-user.
    pub pool: PgPool,
    name: String,
    admin: String,
    roles: Mutex<Vec<String>>,
}

impl TestDb {
    /// A database with nothing in it.
    pub async fn empty() -> Self {
        Self::copy_of("template0").await
    }

    /// A copy of the template of this name, which is made by `prepare` if it is missing.
    pub async fn of_template<F: Future<Output = ()>>(
        name: &str,
        prepare: impl FnOnce(PgPool) -> F,
    ) -> Self {
        make_template(name, prepare).await;
        Self::copy_of(name).await
    }

    async fn copy_of(template: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("test_{}_{number}", std::process::id());
        let admin = shared_url("postgres").await;
        let mut connection = PgConnection::connect(&admin).await.unwrap();
        let create = format!("create database {name} template {template}");
        connection.execute(AssertSqlSafe(create)).await.unwrap();
        connection.close().await.unwrap();
        let url = shared_url(&name).await;
        let pool = pool(&url).await;
        Self {
            url,
            pool,
            name,
            admin,
            roles: Mutex::default(),
        }
    }

    /// Makes a role of the test's own with these options, such as `login password 'x'`, and gives its name,
    /// which begins with `name` and needs no quotes. Roles are the whole server's.
    pub async fn role(&self, name: &str, options: &str) -> String {
        let role = format!("{name}_{}", self.name);
        self.run(&format!("create role {role} {options}")).await;
        self.roles.lock().unwrap().push(role.clone());
        role
    }

    /// Runs statements that return nothing.
    pub async fn run(&self, sql: &str) {
        if let Err(error) = self.pool.execute(AssertSqlSafe(sql.to_owned())).await {
            panic!("{error}\nin: {sql}");
        }
    }

    /// The message of the error that a statement ends in.
    pub async fn refusal(&self, sql: &str) -> String {
        match self.pool.execute(AssertSqlSafe(sql.to_owned())).await {
            Ok(_) => panic!("not refused: {sql}"),
            Err(error) => error.into_database_error().unwrap().message().to_owned(),
        }
    }

    /// The single value that a query returns.
    pub async fn value<T>(&self, sql: &str) -> T
    where
        T: for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres> + Send + Unpin,
    {
        match sqlx::query_scalar(AssertSqlSafe(sql.to_owned()))
            .fetch_one(&self.pool)
            .await
        {
            Ok(value) => value,
            Err(error) => panic!("{error}\nin: {sql}"),
        }
    }

    /// A connection beside the pool, for a transaction that is held open.
    pub async fn connect(&self) -> PgConnection {
        PgConnection::connect(&self.url).await.unwrap()
    }

    /// The URL of the same database as another user.
    #[must_use]
    pub fn url_as(&self, user: &str, password: &str) -> String {
        let mut url = Url::parse(&self.url).unwrap();
        url.set_username(user).unwrap();
        url.set_password(Some(password)).unwrap();
        url.into()
    }
}

/// Makes a template unless it is there; processes that want it at once wait for the first.
async fn make_template<F: Future<Output = ()>>(name: &str, prepare: impl FnOnce(PgPool) -> F) {
    let mut admin = PgConnection::connect(&shared_url("postgres").await)
        .await
        .unwrap();
    // Held until the connection closes.
    let lock = format!("select pg_advisory_lock(hashtext('{name}'))");
    admin.execute(AssertSqlSafe(lock)).await.unwrap();
    let there = "select exists (select from pg_database where datname = $1)";
    let there = sqlx::query_scalar(there).bind(name).fetch_one(&mut admin);
    let there: bool = there.await.unwrap();
    if !there {
        let partial = format!("{name}_partial");
        for statement in [
            format!("drop database if exists {partial}"),
            format!("create database {partial} template template0"),
        ] {
            admin.execute(AssertSqlSafe(statement)).await.unwrap();
        }
        let pool = pool(&shared_url(&partial).await).await;
        prepare(pool.clone()).await;
        pool.close().await;
        let rename = format!("alter database {partial} rename to {name}");
        admin.execute(AssertSqlSafe(rename)).await.unwrap();
    }
    admin.close().await.unwrap();
}

impl Drop for TestDb {
    fn drop(&mut self) {
        let (admin, name) = (self.admin.clone(), self.name.clone());
        let roles = std::mem::take(&mut *self.roles.lock().unwrap());
        // A thread of its own, since the test's runtime may be ending.
        let dropped = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime.unwrap().block_on(async {
                let mut connection = PgConnection::connect(&admin).await.unwrap();
                let drop = format!("drop database if exists {name} with (force)");
                connection.execute(AssertSqlSafe(drop)).await.unwrap();
                for role in roles {
                    let drop = format!("drop role if exists {role}");
                    connection.execute(AssertSqlSafe(drop)).await.unwrap();
                }
            });
        });
        // What is left goes with the server.
        let _ = dropped.join();
    }
}
