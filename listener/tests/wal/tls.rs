//! A source that is read over TLS.

use std::path::{Path, PathBuf};

use testkit::certs::Certs;

use super::{Source, counters, sink};
use crate::support::eventually;
use crate::support::fleet::SHORT_LEASE;
use crate::support::listener::Process;
use crate::support::tls::speak_tls;
use crate::support::writers::{KEYS, make_untracked_table};

/// Files with an authority, and with a client's certificate and key.
fn write(folder: &Path, certs: &Certs) -> [PathBuf; 3] {
    let (certificate, key) = &certs.client;
    [
        ("ca.pem", &certs.ca),
        ("client.pem", certificate),
        ("key.pem", key),
    ]
    .map(|(name, pem)| {
        let path = folder.join(name);
        std::fs::write(&path, pem).unwrap();
        path
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn replication_session_checks_the_server_and_sends_its_certificate() {
    let (certs, source, sink) = (Certs::make(), Source::apart().await, sink().await);
    speak_tls(&source.read, &certs).await;
    make_untracked_table(&source.read).await;
    let folder = tempfile::tempdir().unwrap();
    let [ca, certificate, key] = write(folder.path(), &certs);
    let config = counters(&source, SHORT_LEASE, &sink, "/");
    let url = source.read_url();
    let over = |mode: &str, ca: &Path| {
        let url = url.replace("127.0.0.1", "localhost");
        format!(
            "{url}?sslmode={mode}&sslrootcert={}&sslcert={}&sslkey={}",
            ca.display(),
            certificate.display(),
            key.display()
        )
    };
    let mut last = url.clone();
    for (mode, round) in [("verify-full", 1), ("verify-ca", 2), ("require", 3)] {
        let next = over(mode, &ca);
        config.change(&last, &next);
        last = next;
        let process = Process::run(&config);
        source.is_read().await;
        let of_session =
            "select s.ssl, s.client_dn from pg_stat_ssl s join pg_stat_replication r using (pid)";
        let (encrypted, name): (bool, Option<String>) = sqlx::query_as(of_session)
            .fetch_one(&source.read)
            .await
            .unwrap();
        assert!(encrypted, "{mode}");
        let name = name.unwrap_or_default();
        assert!(name.contains("CN=shop.example.com"), "{mode}: {name}");
        source.run("update kv set v = v + 1").await;
        source.logged(i64::from(KEYS * round)).await;
        process.stop().await;
    }
    // Another authority's server is not told anything, and the log says why.
    let stranger = folder.path().join("stranger.pem");
    std::fs::write(&stranger, Certs::make().ca).unwrap();
    config.change(&last, &over("verify-full", &stranger));
    let mut process = Process::run(&config);
    process.says("certificate").await;
    eventually("no session is open", async || {
        let open: i64 = sqlx::query_scalar("select count(*) from pg_stat_replication")
            .fetch_one(&source.read)
            .await
            .unwrap();
        (open == 0).then_some(())
    })
    .await;
    process.stop().await;
}
