//! TLS before servers that speak none.

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sqlx::{AssertSqlSafe, PgPool};
use testkit::certs::Certs;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use super::eventually;

/// Settings of a server with the certificate for this machine.
pub(crate) fn server_settings(certs: &Certs) -> Arc<ServerConfig> {
    let chain = CertificateDer::from_pem_slice(certs.server.0.as_bytes()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(certs.server.1.as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let settings = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![chain], key);
    Arc::new(settings.unwrap())
}

/// Lets a Postgres server of one's own offer TLS, and check certificates of clients that send one.
pub(crate) async fn speak_tls(pool: &PgPool, certs: &Certs) {
    let folder: String = sqlx::query_scalar("show data_directory")
        .fetch_one(pool)
        .await
        .unwrap();
    let run = async |sql: String| {
        let done = sqlx::raw_sql(AssertSqlSafe(sql)).execute(pool).await;
        done.unwrap();
    };
    let (certificate, key) = &certs.server;
    for (name, pem) in [
        ("server.crt", certificate),
        ("server.key", key),
        ("root.crt", &certs.ca),
    ] {
        let lines = format!("select unnest(string_to_array('{pem}', e'\\n'))");
        // Nobody else may read a key.
        run(format!(
            "copy ({lines}) to program 'umask 077; cat >{folder}/{name}'"
        ))
        .await;
    }
    run("alter system set ssl_ca_file = 'root.crt'".to_owned()).await;
    run("alter system set ssl = on".to_owned()).await;
    run("select pg_reload_conf()".to_owned()).await;
    eventually("it offers TLS", async || {
        let on = sqlx::query_scalar::<_, String>("show ssl")
            .fetch_one(pool)
            .await
            .unwrap();
        (on == "on").then_some(())
    })
    .await;
}

/// A proxy that ends TLS before a server on the loopback address; dropped, it is there no more.
pub(crate) struct TlsProxy {
    port: u16,
    task: JoinHandle<()>,
}

impl TlsProxy {
    /// Starts before the server at this port.
    pub(crate) async fn before(server: u16, certs: &Certs) -> Self {
        let acceptor = TlsAcceptor::from(server_settings(certs));
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = socket.local_addr().unwrap().port();
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = socket.accept().await {
                let acceptor = acceptor.clone();
                connections.spawn(async move {
                    // A client that does not know the certificate goes.
                    let mut client = acceptor.accept(client).await.ok()?;
                    let mut there = TcpStream::connect(("127.0.0.1", server)).await.ok()?;
                    copy_bidirectional(&mut client, &mut there).await.ok()
                });
                while connections.try_join_next().is_some() {}
            }
        });
        Self { port, task }
    }

    /// Its URL.
    pub(crate) fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }
}

impl Drop for TlsProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}
