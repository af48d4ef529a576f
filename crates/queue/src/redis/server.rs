//! Connection to the server, and how scripts run on it.
//!
//! One connection carries all calls of a process and reconnects by itself. A call that finds it broken
//! fails, since only the caller knows whether it may be retried.

use std::fmt;
use std::time::Duration;

use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::io::tcp::TcpSettings;
use redis::{Client, ConnectionInfo, FromRedisValue, IntoConnectionInfo, Script, ScriptInvocation};

use super::{OpenError, RedisQueue};
use crate::QueueError;

/// Timeout of a connection attempt.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Timeout of a reply. Scripts are short, but a server may be busy with its disk.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Retries to connect that one call waits for.
const MAX_RECONNECTS: usize = 2;

/// Shortest and longest backoff between two attempts to connect.
const MIN_BACKOFF: Duration = Duration::from_millis(50);
const MAX_BACKOFF: Duration = Duration::from_millis(500);

/// Time without an acknowledgement after which a connection counts as broken.
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(10);

/// Most commands in flight; others wait.
const MAX_IN_FLIGHT: usize = 64;

impl RedisQueue {
    /// Timeout of one step of a call; a call has few.
    pub const CALL_TIMEOUT: Duration = Duration::from_secs(10);
}

/// Server, and the prefix of one listener's keys.
pub(super) struct Server {
    manager: ConnectionManager,
    prefix: String,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The URL may hold a password.
        f.debug_struct("Server")
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}

impl Server {
    pub(super) fn open(url: &str, listener: &str) -> Result<Self, OpenError> {
        let address = |error: redis::RedisError| OpenError::Address(error.to_string());
        let info: ConnectionInfo = url.into_connection_info().map_err(address)?;
        let tcp = TcpSettings::default().set_nodelay(true);
        #[cfg(target_os = "linux")]
        let tcp = tcp.set_user_timeout(TCP_USER_TIMEOUT);
        let client = Client::open(info.set_tcp_settings(tcp)).map_err(address)?;
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(RESPONSE_TIMEOUT))
            .set_number_of_retries(MAX_RECONNECTS)
            .set_min_delay(MIN_BACKOFF)
            .set_max_delay(MAX_BACKOFF)
            .set_concurrency_limit(MAX_IN_FLIGHT);
        let manager = ConnectionManager::new_lazy_with_config(client, config).map_err(address)?;
        Ok(Self {
            manager,
            prefix: format!("observers:{{{listener}}}:"),
        })
    }

    /// Prepares a call of a script, to which the caller adds arguments.
    pub(super) fn script<'a>(&self, script: &'a Script) -> ScriptInvocation<'a> {
        script.key(&self.prefix)
    }

    pub(super) async fn run<T: FromRedisValue>(
        &self,
        script: &ScriptInvocation<'_>,
    ) -> Result<T, QueueError> {
        let mut manager = self.manager.clone();
        Ok(within_timeout(script.invoke_async(&mut manager)).await?)
    }

    /// Runs a command on one key of the listener.
    pub(super) async fn command_of<T: FromRedisValue>(
        &self,
        command: &str,
        key: &str,
    ) -> Result<T, QueueError> {
        let mut cmd = redis::cmd(command);
        cmd.arg(format!("{}{key}", self.prefix));
        Ok(self.command(&cmd).await?)
    }

    /// Reads a page of a set: the next cursor, zero at the end, and some members.
    pub(super) async fn scan(
        &self,
        key: &str,
        cursor: u64,
        count: usize,
    ) -> Result<(u64, Vec<String>), QueueError> {
        let mut cmd = redis::cmd("SSCAN");
        cmd.arg(format!("{}{key}", self.prefix))
            .arg(cursor)
            .arg("COUNT")
            .arg(count);
        Ok(self.command(&cmd).await?)
    }

    pub(super) async fn command<T: FromRedisValue>(
        &self,
        cmd: &redis::Cmd,
    ) -> Result<T, redis::RedisError> {
        let mut manager = self.manager.clone();
        within_timeout(cmd.query_async(&mut manager)).await
    }
}

async fn within_timeout<T>(
    call: impl Future<Output = Result<T, redis::RedisError>>,
) -> Result<T, redis::RedisError> {
    match tokio::time::timeout(RedisQueue::CALL_TIMEOUT, call).await {
        Ok(answer) => answer,
        Err(_) => Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()),
    }
}
