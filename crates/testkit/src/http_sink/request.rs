//! One complete request.

use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use bytes::Bytes;
use standardwebhooks::Webhook;

/// One complete request.
#[derive(Clone, Debug)]
pub struct Request {
    /// The request line and the headers, without the empty line.
    head: String,
    /// The body.
    pub body: Bytes,
    /// Where it came from.
    pub from: SocketAddr,
    /// When it was complete.
    pub at: Instant,
    /// Which of the sink's secrets it is signed with, the first that fits.
    pub signed_by: Option<usize>,
}

impl Request {
    /// Reads a head; its body is still to come.
    pub(super) fn parse(head: &[u8], from: SocketAddr) -> io::Result<Self> {
        let head = String::from_utf8_lossy(head).into_owned();
        let request = Self {
            head,
            body: Bytes::new(),
            from,
            at: Instant::now(),
            signed_by: None,
        };
        let mut lines = request.head.split("\r\n").skip(1);
        if lines.all(|line| line.contains(':')) {
            Ok(request)
        } else {
            Err(io::Error::from(io::ErrorKind::InvalidData))
        }
    }

    /// Method and target, as in `POST /hook`.
    #[must_use]
    pub fn line(&self) -> &str {
        let line = self.head.split("\r\n").next().unwrap_or_default();
        line.strip_suffix(" HTTP/1.1").unwrap_or(line)
    }

    /// The method.
    #[must_use]
    pub fn method(&self) -> &str {
        self.line().split(' ').next().unwrap_or_default()
    }

    /// The target's path, without its query.
    #[must_use]
    pub fn path(&self) -> &str {
        self.target().split('?').next().unwrap_or_default()
    }

    /// The target's query; empty where there is none.
    #[must_use]
    pub fn query(&self) -> &str {
        let (_, query) = self.target().split_once('?').unwrap_or_default();
        query
    }

    fn target(&self) -> &str {
        self.line().split(' ').nth(1).unwrap_or_default()
    }

    /// The headers as they came, in their order.
    fn raw_headers(&self) -> impl Iterator<Item = (&str, &str)> {
        let lines = self.head.split("\r\n").skip(1);
        let headers = lines.filter_map(|line| line.split_once(':'));
        headers.map(|(name, value)| (name, value.trim()))
    }

    /// All headers, names in lower case, in the order of their arrival.
    pub fn headers(&self) -> impl Iterator<Item = (String, String)> {
        self.raw_headers()
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
    }

    /// The value of a header, by its name in any case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.raw_headers();
        let (_, value) = headers.find(|(known, _)| known.eq_ignore_ascii_case(name))?;
        Some(value)
    }

    /// `webhook-id`; empty where there is none.
    #[must_use]
    pub fn webhook_id(&self) -> &str {
        self.header("webhook-id").unwrap_or_default()
    }

    /// The head with names of headers in lower case.
    pub(super) fn head(&self) -> String {
        self.headers()
            .fold(format!("{}\n", self.line()), |head, (name, value)| {
                head + &name + ": " + &value + "\n"
            })
    }

    /// Looks which of the secrets one of the signatures is by. The age of its timestamp does not matter.
    pub(super) fn check_signature(&mut self, secrets: &[Webhook]) {
        self.signed_by = self.signer(secrets);
    }

    fn signer(&self, secrets: &[Webhook]) -> Option<usize> {
        let timestamp: i64 = self.header("webhook-timestamp")?.parse().ok()?;
        let signatures = self.header("webhook-signature")?;
        secrets.iter().position(|secret| {
            let signed = secret.sign(self.webhook_id(), timestamp, &self.body);
            signed.is_ok_and(|signed| signatures.split(' ').any(|one| one == signed))
        })
    }
}
