//! The private server: whom it lets in, how it stops and comes back, and that nothing is left.

use std::process::Command;

use observer_testkit::servers::binaries::Binaries;
use observer_testkit::servers::postgres::PrivateServer;
use sqlx::{Connection, PgConnection};

use observer_testkit::database::{binaries, shared_url};
use observer_testkit::wait::eventually;

#[tokio::test]
async fn a_wrong_password_is_refused() {
    let mut url: url::Url = shared_url("postgres").await.parse().unwrap();
    url.set_password(Some("wrong")).unwrap();
    let url = url.as_str();
    let error = PgConnection::connect(url).await.unwrap_err();
    assert_eq!(error.as_database_error().unwrap().code().unwrap(), "28P01");
}

#[tokio::test]
async fn restarted_server_keeps_its_data_and_cleans_up_at_the_end() {
    let server = PrivateServer::start(&binaries()).await.unwrap();
    let url = server.url("postgres");
    let mut connection = PgConnection::connect(&url).await.unwrap();
    sqlx::query("create table kept as select 1")
        .execute(&mut connection)
        .await
        .unwrap();
    let folder: String = sqlx::query_scalar("show data_directory")
        .fetch_one(&mut connection)
        .await
        .unwrap();

    for crash in [false, true] {
        if crash {
            server.crash().await.unwrap();
        } else {
            server.stop().await.unwrap();
        }
        assert!(PgConnection::connect(&url).await.is_err());
        server.resume().await.unwrap();
        let mut connection = PgConnection::connect(&url).await.unwrap();
        sqlx::query("select * from kept")
            .execute(&mut connection)
            .await
            .unwrap();
    }

    drop(server);
    assert!(PgConnection::connect(&url).await.is_err());
    assert!(!std::path::Path::new(&folder).parent().unwrap().exists());
}

/// The owner in the test below: the same test binary, told to start a server and wait.
#[tokio::test]
#[ignore = "run by the test of an owner that is killed"]
async fn owner_that_waits_to_be_killed() {
    let server = PrivateServer::start(&binaries()).await.unwrap();
    std::fs::write(
        std::env::var("OBSERVER_TEST_URL_FILE").unwrap(),
        server.url("postgres"),
    )
    .unwrap();
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn the_server_of_a_killed_owner_stops() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("url");
    let mut owner = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "private_server::owner_that_waits_to_be_killed",
            "--ignored",
        ])
        .env("OBSERVER_TEST_URL_FILE", &file)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let url = eventually("the owner writes its URL", async || {
        std::fs::read_to_string(&file)
            .ok()
            .filter(|url| !url.is_empty())
    })
    .await;
    PgConnection::connect(&url).await.unwrap();
    owner.kill().unwrap();
    owner.wait().unwrap();
    eventually("the server stops", async || {
        PgConnection::connect(&url).await.is_err().then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_folder_without_postgres_is_named() {
    let nowhere = Binaries::Installed("/nowhere".into());
    let error = PrivateServer::start(&nowhere).await.unwrap_err();
    assert!(
        error.to_string().contains("no `initdb` in /nowhere"),
        "{error}"
    );
}
