//! Certificates for one test.

/// An authority, and what it signed; all as PEM.
#[derive(Debug)]
pub struct Certs {
    /// The authority's certificate.
    pub ca: String,
    /// A certificate for this machine, and its key.
    pub server: (String, String),
    /// A certificate for a client, and its key.
    pub client: (String, String),
}

impl Certs {
    /// A folder that servers can read, with all of these but the client's.
    #[must_use]
    pub fn folder(&self) -> tempfile::TempDir {
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

    /// Makes an authority, and what it signs.
    #[must_use]
    pub fn make() -> Self {
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
