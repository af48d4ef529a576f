//! Certificates for one test.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use crds::config::{Redacted, TlsConfig};

/// An authority, and what it signed; all as PEM.
pub(crate) struct Certs {
    /// The authority's certificate.
    pub(crate) ca: String,
    /// A certificate for this machine, and its key.
    pub(crate) server: (String, String),
    /// A certificate for a client, and its key.
    #[allow(
        dead_code,
        reason = "not every test that includes this file has clients"
    )]
    pub(crate) client: (String, String),
}

#[allow(
    dead_code,
    reason = "not every test that includes this file needs all of them"
)]
impl Certs {
    /// A folder that servers can read, with all of these but the client's.
    pub(crate) fn folder(&self) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(folder.path(), open).unwrap();
        let (certificate, key) = &self.server;
        for (name, text) in [
            ("ca.crt", &self.ca),
            ("server.crt", certificate),
            ("server.key", key),
        ] {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        folder
    }

    /// What a client needs that knows the authority, and shows its certificate if it `shows` one.
    pub(crate) fn known(&self, shows: bool) -> TlsConfig {
        let (certificate, key) = &self.client;
        let own = (Redacted::new(&**certificate), Redacted::new(&**key));
        TlsConfig {
            ca: Some(Redacted::new(&*self.ca)),
            identity: shows.then_some(own),
        }
    }

    pub(crate) fn make() -> Self {
        let mut params = named("authority", Vec::new());
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().unwrap();
        let ca = params.self_signed(&key).unwrap().pem();
        let issuer = rcgen::Issuer::new(params, key);
        let signed = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
            let key = rcgen::KeyPair::generate().unwrap();
            let params = named(&names[0].clone(), names);
            let certificate = params.signed_by(&key, &issuer).unwrap();
            (certificate.pem(), key.serialize_pem())
        };
        Self {
            ca,
            server: signed(&["localhost", "127.0.0.1"]),
            client: signed(&["shop.example.com"]),
        }
    }
}

/// What is signed by another must have another name: OpenSSL takes it for its own signer else.
fn named(name: &str, names: Vec<String>) -> rcgen::CertificateParams {
    let mut params = rcgen::CertificateParams::new(names).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, name);
    params
}
