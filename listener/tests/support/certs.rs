//! Certificates for one test.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

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

impl Certs {
    pub(crate) fn make() -> Self {
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().unwrap();
        let ca = params.self_signed(&key).unwrap().pem();
        let issuer = rcgen::Issuer::new(params, key);
        let signed = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
            let key = rcgen::KeyPair::generate().unwrap();
            let params = rcgen::CertificateParams::new(names).unwrap();
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
