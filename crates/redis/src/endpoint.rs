//! Where Redis is, and what the library needs to reach it.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use redis::io::tcp::TcpSettings;
use redis::sentinel::{SentinelClient, SentinelClientBuilder, SentinelServerType};
use redis::{
    ClientTlsConfig, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, RedisError,
    TlsCertificates, TlsMode,
};

use crate::TCP_USER_TIMEOUT;

/// Where Redis is.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisEndpoint {
    /// URL with login and database: of the server, of a node of the Cluster, or of a Sentinel, whose login
    /// and database are those of the servers that it names.
    pub url: String,
    /// Further nodes of the Cluster or further Sentinels, each with its port.
    pub nodes: Vec<(String, u16)>,
    /// What is there.
    pub topology: Topology,
    /// What `rediss://` needs beyond what the system knows.
    pub tls: Option<RedisTls>,
}

/// What is at an endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Topology {
    /// One server, or a proxy that passes for one.
    #[default]
    Standalone,
    /// Sentinels, which name the server.
    Sentinel {
        /// Name by which the Sentinels know the server.
        master_name: String,
        /// Login at the Sentinels themselves.
        login: SentinelLogin,
    },
    /// A Cluster.
    Cluster,
}

/// Login at Sentinels; they ask for none by default.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct SentinelLogin {
    /// User.
    pub username: Option<String>,
    /// Password.
    pub password: Option<String>,
}

/// Certificates as PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisTls {
    /// Authorities to trust besides those of the system.
    pub ca: Option<String>,
    /// Certificate and key to show to a server that asks for one.
    pub identity: Option<(String, String)>,
}

impl fmt::Debug for RedisEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisEndpoint")
            .field("nodes", &self.nodes)
            .field("topology", &self.topology)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for SentinelLogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SentinelLogin")
    }
}

impl fmt::Debug for RedisTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RedisTls")
    }
}

pub(crate) fn tcp_settings() -> TcpSettings {
    let tcp = TcpSettings::default().set_nodelay(true);
    #[cfg(target_os = "linux")]
    let tcp = tcp.set_user_timeout(TCP_USER_TIMEOUT);
    tcp
}

impl RedisEndpoint {
    /// A single server at a URL.
    #[must_use]
    pub fn standalone(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            nodes: Vec::new(),
            topology: Topology::Standalone,
            tls: None,
        }
    }

    pub(crate) fn connection_info(&self) -> Result<ConnectionInfo, RedisError> {
        let info = self.url.as_str().into_connection_info()?;
        Ok(info.set_tcp_settings(tcp_settings()))
    }

    /// The node of the URL and the others, all with its login.
    pub(crate) fn all_nodes(&self) -> Result<Vec<ConnectionInfo>, RedisError> {
        let first = self.connection_info()?;
        let others = self.nodes.iter().map(|(host, port)| {
            let address = at(first.addr(), host.clone(), *port);
            first.clone().set_addr(address)
        });
        Ok(std::iter::once(first.clone()).chain(others).collect())
    }

    /// Returns certificates where there are others than the system's. The library takes those instead of the
    /// system's, so that they are added here.
    pub(crate) fn certificates(&self) -> Option<TlsCertificates> {
        let tls = self.tls.as_ref()?;
        let root_cert = tls.ca.as_ref().map(|own| {
            let system = rustls_native_certs::load_native_certs().certs;
            let pem = system.iter().map(|certificate| {
                let body = STANDARD.encode(certificate);
                format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n")
            });
            pem.chain([own.clone()]).collect::<String>().into_bytes()
        });
        let client_tls = tls
            .identity
            .as_ref()
            .map(|(certificate, key)| ClientTlsConfig {
                client_cert: certificate.clone().into_bytes(),
                client_key: key.clone().into_bytes(),
            });
        Some(TlsCertificates {
            client_tls,
            root_cert,
        })
    }

    pub(crate) fn sentinel_client(
        &self,
        master_name: &str,
        login: &SentinelLogin,
    ) -> Result<SentinelClient, RedisError> {
        let nodes = self.all_nodes()?;
        let first = self.connection_info()?;
        let addresses = nodes.iter().map(|node| node.addr().clone());
        let settings = first.redis_settings();
        let mut builder =
            SentinelClientBuilder::new(addresses, master_name, SentinelServerType::Master)?
                .set_client_to_redis_db(settings.db())
                .set_client_to_redis_tcp_settings(tcp_settings())
                .set_client_to_sentinel_tcp_settings(tcp_settings());
        if let Some(username) = settings.username() {
            builder = builder.set_client_to_redis_username(username);
        }
        if let Some(password) = settings.password() {
            builder = builder.set_client_to_redis_password(password);
        }
        if let Some(username) = &login.username {
            builder = builder.set_client_to_sentinel_username(username);
        }
        if let Some(password) = &login.password {
            builder = builder.set_client_to_sentinel_password(password);
        }
        if matches!(first.addr(), ConnectionAddr::TcpTls { .. }) {
            builder = builder.set_client_to_redis_tls_mode(TlsMode::Secure);
            if let Some(certificates) = self.certificates() {
                builder = builder
                    .set_client_to_redis_certificates(certificates.clone())
                    .set_client_to_sentinel_certificates(certificates);
            }
        }
        builder.build()
    }
}

/// Another address with the encryption of this one.
fn at(like: &ConnectionAddr, host: String, port: u16) -> ConnectionAddr {
    match like {
        ConnectionAddr::TcpTls {
            insecure,
            tls_params,
            ..
        } => ConnectionAddr::TcpTls {
            host,
            port,
            insecure: *insecure,
            tls_params: tls_params.clone(),
        },
        _ => ConnectionAddr::Tcp(host, port),
    }
}
