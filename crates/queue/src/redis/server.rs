//! The connection, and how scripts are run on it.
//!
//! One connection carries all calls of a process. It is made anew by itself; a call that finds it
//! broken fails, since only the caller knows whether it may be repeated.

use std::fmt;
use std::time::Duration;

use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::io::tcp::TcpSettings;
use redis::{Client, ConnectionInfo, FromRedisValue, IntoConnectionInfo, Script, ScriptInvocation};

use super::{OpenError, RedisQueue};
use crate::QueueError;

/// Until a connection is made.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);

/// Until an answer is there. Scripts are short, but a server may be busy with its disk.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// Attempts to connect after the first that one call waits for.
const RECONNECTS: usize = 2;

/// From one attempt to connect until the next.
const SHORTEST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// With something sent and no sign of the other side for this long, a connection is taken for broken.
const SILENCE_LIMIT: Duration = Duration::from_secs(10);

/// Most commands that are under way at once; others wait.
const MOST_UNDER_WAY: usize = 64;

impl RedisQueue {
    /// No step of a call takes longer; a call has few.
    pub const LONGEST_CALL: Duration = Duration::from_secs(10);
}

/// A server, and where on it one listener's keys lie.
pub(super) struct Server {
    manager: ConnectionManager,
    prefix: String,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Its address may hold a password.
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
        let tcp = tcp.set_user_timeout(SILENCE_LIMIT);
        let client = Client::open(info.set_tcp_settings(tcp)).map_err(address)?;
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(CONNECT_LIMIT))
            .set_response_timeout(Some(ANSWER_LIMIT))
            .set_number_of_retries(RECONNECTS)
            .set_min_delay(SHORTEST_PAUSE)
            .set_max_delay(LONGEST_PAUSE)
            .set_concurrency_limit(MOST_UNDER_WAY);
        let manager = ConnectionManager::new_lazy_with_config(client, config).map_err(address)?;
        Ok(Self {
            manager,
            prefix: format!("observers:{{{listener}}}:"),
        })
    }

    /// A script about to be run, to be given its arguments.
    pub(super) fn script<'a>(&self, script: &'a Script) -> ScriptInvocation<'a> {
        script.key(&self.prefix)
    }

    pub(super) async fn run<T: FromRedisValue>(
        &self,
        script: &ScriptInvocation<'_>,
    ) -> Result<T, QueueError> {
        let mut manager = self.manager.clone();
        Ok(within_limit(script.invoke_async(&mut manager)).await?)
    }

    /// Asks a command of one key of the listener.
    pub(super) async fn ask<T: FromRedisValue>(
        &self,
        command: &str,
        key: &str,
    ) -> Result<T, QueueError> {
        let mut cmd = redis::cmd(command);
        cmd.arg(format!("{}{key}", self.prefix));
        Ok(self.command(&cmd).await?)
    }

    /// A part of a set: where to go on, zero at its end, and some members.
    pub(super) async fn scan(
        &self,
        key: &str,
        from: u64,
        part: usize,
    ) -> Result<(u64, Vec<String>), QueueError> {
        let mut cmd = redis::cmd("SSCAN");
        cmd.arg(format!("{}{key}", self.prefix))
            .arg(from)
            .arg("COUNT")
            .arg(part);
        Ok(self.command(&cmd).await?)
    }

    pub(super) async fn command<T: FromRedisValue>(
        &self,
        cmd: &redis::Cmd,
    ) -> Result<T, redis::RedisError> {
        let mut manager = self.manager.clone();
        within_limit(cmd.query_async(&mut manager)).await
    }
}

async fn within_limit<T>(
    call: impl Future<Output = Result<T, redis::RedisError>>,
) -> Result<T, redis::RedisError> {
    match tokio::time::timeout(RedisQueue::LONGEST_CALL, call).await {
        Ok(answer) => answer,
        Err(_) => Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()),
    }
}
