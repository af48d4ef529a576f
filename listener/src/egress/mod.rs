//! Egress: which addresses may be dialled, and the clients that dial them.

pub(crate) mod bounded;
pub(crate) mod http_client;
pub(crate) mod policy;
pub(crate) mod proxy;
pub(crate) mod redaction;
pub(crate) mod response;
pub(crate) mod socket_owner;
pub(crate) mod socks5;
#[cfg(test)]
pub(crate) mod test_tls;
pub(crate) mod tls;
