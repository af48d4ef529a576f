//! How the server is set up, as far as jobs depend on it.

use std::collections::HashMap;

use serde::Serialize;

use super::OpenError;
use super::server::Server;

/// What of the jobs that were acknowledged is lost with the server.
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
    /// The server does not tell.
    Unknown,
}

/// Asks the server. One that may drop keys is refused.
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

/// Nothing where this user may not ask.
async fn setting(server: &Server, name: &str) -> Result<Option<String>, OpenError> {
    let mut cmd = redis::cmd("CONFIG");
    cmd.arg("GET").arg(name);
    match server.command::<HashMap<String, String>>(&cmd).await {
        Ok(mut settings) => Ok(settings.remove(name)),
        Err(error) if error.is_io_error() || error.is_timeout() || is_refusal(&error) => {
            Err(error.into())
        }
        Err(_) => Ok(None),
    }
}

/// Of the connection rather than of the question.
fn is_refusal(error: &redis::RedisError) -> bool {
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
    fn what_is_lost_follows_from_two_settings() {
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
