//! Connection to the server that Sentinels name. They are asked again when it is lost, when it answers as
//! one that is no longer the master, and when it does not answer.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::sentinel::SentinelClient;
use redis::{AsyncConnectionConfig, Cmd, Pipeline, RedisError, RedisFuture, RedisResult, Value};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

/// Calls without an answer in a row after which the Sentinels are asked again.
const MAX_UNANSWERED: u32 = 3;

/// Pause after an attempt to connect that failed, in which calls fail with its error.
const PAUSE: Duration = Duration::from_millis(200);

type Connecting = Shared<BoxFuture<'static, RedisResult<MultiplexedConnection>>>;

#[derive(Clone)]
pub(crate) struct SentinelConnection {
    client: Arc<tokio::sync::Mutex<SentinelClient>>,
    config: AsyncConnectionConfig,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// Number of the connection in use.
    number: u64,
    connecting: Option<Connecting>,
    unanswered: u32,
    failed: Option<(Instant, RedisError)>,
}

impl SentinelConnection {
    pub(crate) fn new(client: SentinelClient, config: AsyncConnectionConfig) -> Self {
        Self {
            client: Arc::new(tokio::sync::Mutex::new(client)),
            config,
            state: Arc::default(),
        }
    }

    /// Returns the connection in use and its number; connects where there is none. A caller that gives up
    /// waiting does not end the attempt.
    async fn connection(&self) -> RedisResult<(u64, MultiplexedConnection)> {
        let (number, connecting) = self.attempt()?;
        match connecting.await {
            Ok(connection) => Ok((number, connection)),
            Err(error) => {
                let mut state = lock(&self.state);
                if state.number == number && state.connecting.take().is_some() {
                    state.failed = Some((Instant::now(), error.clone()));
                }
                Err(error)
            }
        }
    }

    fn attempt(&self) -> RedisResult<(u64, Connecting)> {
        let mut state = lock(&self.state);
        if let Some(connecting) = &state.connecting {
            return Ok((state.number, connecting.clone()));
        }
        if let Some((at, error)) = &state.failed
            && at.elapsed() < PAUSE
        {
            return Err(error.clone());
        }
        let (client, config) = (Arc::clone(&self.client), self.config.clone());
        let task = AbortOnDropHandle::new(tokio::spawn(async move {
            let mut client = client.lock().await;
            client.get_async_connection_with_config(&config).await
        }));
        let connecting = task
            .map(|ended| {
                ended.unwrap_or_else(|error| Err(std::io::Error::other(error.to_string()).into()))
            })
            .boxed()
            .shared();
        state.number += 1;
        state.unanswered = 0;
        state.connecting = Some(connecting.clone());
        Ok((state.number, connecting))
    }

    /// Begins a call; until it is known to be answered, it counts as one that is not.
    async fn call(&self) -> RedisResult<(Call<'_>, MultiplexedConnection)> {
        let (number, connection) = self.connection().await?;
        let call = Call {
            state: &self.state,
            number,
            answered: false,
        };
        Ok((call, connection))
    }
}

struct Call<'a> {
    state: &'a Mutex<State>,
    number: u64,
    answered: bool,
}

impl Call<'_> {
    fn end<T>(mut self, result: RedisResult<T>) -> RedisResult<T> {
        let mut state = lock(self.state);
        if state.number != self.number {
            self.answered = true;
            drop(state);
            return result;
        }
        match &result {
            Err(error) if is_lost(error) => {
                self.answered = true;
                state.connecting = None;
            }
            Err(error) if error.is_timeout() => {}
            _ => {
                self.answered = true;
                state.unanswered = 0;
            }
        }
        drop(state);
        result
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        let mut state = lock(self.state);
        if self.answered || state.number != self.number {
            return;
        }
        state.unanswered += 1;
        if state.unanswered >= MAX_UNANSWERED {
            state.connecting = None;
        }
    }
}

/// Whether the connection is of no use any more: it is broken, or the server is not the master.
fn is_lost(error: &RedisError) -> bool {
    error.is_unrecoverable_error()
        || (error.is_io_error() && !error.is_timeout())
        || matches!(
            error.code(),
            Some("READONLY" | "MASTERDOWN" | "LOADING" | "UNBLOCKED")
        )
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ConnectionLike for SentinelConnection {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        async move {
            let (call, mut connection) = self.call().await?;
            let result = connection.send_packed_command(cmd).await;
            call.end(result)
        }
        .boxed()
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        async move {
            let (call, mut connection) = self.call().await?;
            let result = connection
                .send_packed_commands(pipeline, offset, count)
                .await;
            call.end(result)
        }
        .boxed()
    }

    fn get_db(&self) -> i64 {
        0
    }
}
