//! What docs/how-to/restore.md and docs/how-to/upgrade.md print: a dump of one server is restored into another, and a
//! server is upgraded.

use std::collections::BTreeSet;

use testkit::http_sink::{Behaviour, Sink};
use testkit::page::{Page, Shell, docs};
use testkit::servers::binaries::Binaries;
use testkit::servers::postgres::PrivateServer;
use tokio::process::Child;
use url::Url;

use crate::support::listener::program;
use crate::support::{comes, eventually};

/// The programs that dump and restore, as Debian has them, and a server of their version.
const PROGRAMS: &str = "/usr/lib/postgresql/15/bin";

fn programs() -> Binaries {
    Binaries::Installed(PROGRAMS.into())
}

/// A server, and a shell whose user it is.
struct Place {
    server: PrivateServer,
    shell: Shell,
}

impl Place {
    /// With the file of docs/getting-started/laptop.md for a database `shop`.
    async fn new(sink: &Sink) -> Self {
        Self::of(PrivateServer::start(&programs()).await.unwrap(), sink)
    }

    fn of(server: PrivateServer, sink: &Sink) -> Self {
        let url = Url::parse(&server.url("shop")).unwrap();
        let shell = Shell::new(&[
            ("PGHOST", "127.0.0.1"),
            ("PGPORT", &server.port().to_string()),
            ("PGUSER", url.username()),
            ("PGPASSWORD", url.password().unwrap()),
            ("OBSERVER_LISTEN", "127.0.0.1:0"),
        ]);
        shell.install("observer-listener", program().as_ref());
        let file = std::fs::read_to_string(docs("examples/laptop.yaml")).unwrap();
        let file = file
            .replace("postgres://USER:PASSWORD@localhost:5432/shop", url.as_str())
            .replace("http://127.0.0.1:8080/orders", &sink.url("/orders"));
        shell.write("shop.yaml", &file);
        Self { server, shell }
    }

    fn listener(&self) -> Child {
        self.shell.start("observer-listener run -f shop.yaml")
    }

    async fn stop(&self, mut listener: Child) {
        let pid = listener.id().unwrap();
        self.shell.run(&format!("kill -TERM {pid}")).await;
        let ended = comes("the end of the listener", listener.wait()).await;
        assert!(ended.unwrap().success());
    }

    /// Makes the database with a tracked table.
    async fn prepare(&self) {
        self.shell.run("createdb shop").await;
        self.shell
            .run("observer-listener migrate -f shop.yaml")
            .await;
        self.value("create table orders (id int primary key); select observer.track('orders')")
            .await;
    }

    /// What `run` says that does not start.
    async fn refused(&self) -> String {
        let run = "! observer-listener run -f shop.yaml 2>&1";
        self.shell.run(run).await
    }

    /// What a query returns.
    async fn value(&self, query: &str) -> String {
        let command = format!("psql shop --no-align --tuples-only --command \"{query}\"");
        self.shell.run(&command).await.trim().to_owned()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn restored_dump_goes_on_in_another_server() {
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let old = Place::new(&sink).await;
    let commands = Page::read("how-to/restore.md", &[]).commands();
    let [dump, role, create, restore, migrate, reset, drop_listener] = &commands[..] else {
        panic!("the page has other commands: {commands:#?}")
    };
    old.prepare().await;
    let listener = old.listener();
    old.value("insert into orders select generate_series(1, 3)")
        .await;
    sink.arrived(3).await;
    sink.behave(Behaviour::Status(400));
    old.value("insert into orders values (4)").await;
    eventually("a dead letter", async || {
        let letters = old.value("select count(*) from observer.dead_letter").await;
        (letters == "1").then_some(())
    })
    .await;
    old.shell.run(dump).await;
    old.stop(listener).await;

    let new = Place::new(&sink).await;
    std::fs::copy(old.shell.path("shop.dump"), new.shell.path("shop.dump")).unwrap();
    for command in [role, create, restore, migrate] {
        new.shell.run(command).await;
    }
    // Nothing is delivered by a position of another server.
    let refused = new.refused().await;
    assert!(refused.contains("reset-position"), "{refused}");
    new.shell.run(reset).await;
    sink.behave(Behaviour::Ok);
    let before = sink.received();
    let listener = new.listener();
    new.value("insert into orders values (5)").await;
    sink.arrived(before.len() as u64 + 5).await;
    let ids = |all: &[testkit::http_sink::Received]| -> BTreeSet<String> {
        all.iter().map(|one| one.webhook_id.clone()).collect()
    };
    let again = ids(&sink.received()[before.len()..]);
    assert_eq!(again.len(), 5);
    assert!(again.is_disjoint(&ids(&before)), "ids are used once");
    assert_eq!(
        new.value("select count(*) from observer.dead_letter").await,
        "1"
    );
    new.stop(listener).await;
    new.shell.run(drop_listener).await;
    assert_eq!(
        new.value("select count(*) from observer.checkpoint").await,
        "0"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn upgraded_server_goes_on_from_the_stored_position() {
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let old = Place::new(&sink).await;
    old.prepare().await;
    let listener = old.listener();
    old.value("insert into orders select generate_series(1, 3)")
        .await;
    sink.arrived(3).await;
    old.stop(listener).await;
    old.value("insert into orders values (4), (5)").await;

    let new = old.server.upgraded(&programs()).await.unwrap();
    let new = Place::of(new, &sink);
    let refused = new.refused().await;
    assert!(refused.contains("reset-position"), "{refused}");
    let commands = Page::read("how-to/upgrade.md", &[]).commands();
    let [reset] = &commands[..] else {
        panic!("the page has other commands: {commands:#?}")
    };
    new.shell.run(reset).await;
    let listener = new.listener();
    new.value("insert into orders values (6)").await;
    sink.arrived(6).await;
    new.stop(listener).await;
    let ids: BTreeSet<String> = sink
        .received()
        .iter()
        .map(|one| one.webhook_id.clone())
        .collect();
    assert_eq!((ids.len(), sink.counts().requests), (6, 6));
}
