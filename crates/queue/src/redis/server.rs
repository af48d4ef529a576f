//! Connection to the server, and how scripts run on it.
//!
//! One connection carries all calls of a process and reconnects by itself. A call that finds it broken
//! fails, since only the caller knows whether it may be retried.

use std::fmt;
use std::time::Duration;

use redis::{FromRedisValue, Script, ScriptInvocation};
use redis_connection::{ConnectionLimits, RedisConnection, RedisEndpoint};

use super::{OpenError, RedisQueue};
use crate::QueueError;

/// Scripts are short, but a server may be busy with its disk.
const LIMITS: ConnectionLimits = ConnectionLimits {
    connect_timeout: Duration::from_secs(2),
    response_timeout: Duration::from_secs(5),
    reconnects: 2,
    max_in_flight: 64,
};

impl RedisQueue {
    /// Timeout of one step of a call; a call has few.
    pub const CALL_TIMEOUT: Duration = Duration::from_secs(10);
}

/// Server, and the prefix of one listener's keys.
pub(super) struct Server {
    connection: RedisConnection,
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
    pub(super) fn open(endpoint: &RedisEndpoint, listener: &str) -> Result<Self, OpenError> {
        let connection = RedisConnection::open(endpoint, LIMITS)
            .map_err(|error| OpenError::Address(error.to_string()))?;
        Ok(Self {
            connection,
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
        let mut connection = self.connection.clone();
        Ok(within_timeout(script.invoke_async(&mut connection)).await?)
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
        let mut connection = self.connection.clone();
        within_timeout(cmd.query_async(&mut connection)).await
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
