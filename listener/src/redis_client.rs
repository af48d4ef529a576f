//! Clients of the listener's own Redis, for what all its processes share and can do without.

use std::time::Duration;

use crds::config::Redacted;
use redis::io::tcp::TcpSettings;
use redis::{Client, ConnectionInfo, IntoConnectionInfo};

/// Time without an acknowledgement after which a connection counts as broken, so that another one is made. A
/// connection that was forgotten on the way, as by a firewall, would otherwise be waited for a quarter of an
/// hour.
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(10);

/// Creates a client; nothing where the URL cannot be used. Opens no connection.
pub(crate) fn open(url: &Redacted) -> Option<Client> {
    let info: ConnectionInfo = url.reveal().into_connection_info().ok()?;
    let tcp = TcpSettings::default().set_nodelay(true);
    #[cfg(target_os = "linux")]
    let tcp = tcp.set_user_timeout(TCP_USER_TIMEOUT);
    Client::open(info.set_tcp_settings(tcp)).ok()
}
