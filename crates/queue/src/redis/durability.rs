//! Settings of the server that jobs depend on.

use std::collections::HashMap;

use serde::Serialize;

use super::OpenError;
use super::server::Server;

/// Acknowledged jobs that a crash of the server loses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Durability {
    /// Nothing: `appendonly yes`, `appendfsync always`.
    Always,
    /// The last second, at most two: `appendfsync everysec`.
    EverySecond,
    /// What the system had not written yet: `appendfsync no`.
    System,
    /// All since the last snapshot: `appendonly no`.
    None,
    /// The server does not say.
    Unknown,
}

/// Reads the durability of a server; one that may evict keys is rejected.
pub(super) async fn read(server: &Server) -> Result<Durability, OpenError> {
    if let Some(policy) = setting(server, "maxmemory-policy").await?
        && policy != "noeviction"
    {
        return Err(OpenError::Evicts(policy));
    }
    let appendonly = setting(server, "appendonly").await?;
    let appendfsync = setting(server, "appendfsync").await?;
    Ok(durability(appendonly.as_deref(), appendfsync.as_deref()))
}

/// Reads a setting; `None` if this user may not read it.
async fn setting(server: &Server, name: &str) -> Result<Option<String>, OpenError> {
    let mut cmd = redis::cmd("CONFIG");
    cmd.arg("GET").arg(name);
    match server.command::<HashMap<String, String>>(&cmd).await {
        Ok(mut settings) => Ok(settings.remove(name)),
        Err(error)
            if error.is_io_error() || error.is_timeout() || is_connection_rejected(&error) =>
        {
            Err(error.into())
        }
        Err(_) => Ok(None),
    }
}

/// Whether the server rejected the connection rather than the command.
fn is_connection_rejected(error: &redis::RedisError) -> bool {
    matches!(error.code(), Some("NOAUTH" | "WRONGPASS" | "LOADING"))
        || error.kind() == redis::ErrorKind::AuthenticationFailed
}

fn durability(appendonly: Option<&str>, appendfsync: Option<&str>) -> Durability {
    match (appendonly, appendfsync) {
        (Some("no"), _) => Durability::None,
        (Some("yes"), Some("always")) => Durability::Always,
        (Some("yes"), Some("everysec")) => Durability::EverySecond,
        (Some("yes"), Some("no")) => Durability::System,
        _ => Durability::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durability_follows_from_two_settings() {
        for (appendonly, appendfsync, lost) in [
            (Some("yes"), Some("always"), Durability::Always),
            (Some("yes"), Some("everysec"), Durability::EverySecond),
            (Some("yes"), Some("no"), Durability::System),
            (Some("no"), Some("always"), Durability::None),
            (None, Some("always"), Durability::Unknown),
            (Some("yes"), None, Durability::Unknown),
        ] {
            assert_eq!(durability(appendonly, appendfsync), lost);
        }
    }
}
