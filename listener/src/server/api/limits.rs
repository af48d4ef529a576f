//! Limits of what runs and of what is in memory, for all callers together.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody as _, to_bytes};
use axum::http::header::CONTENT_LENGTH;
use axum::response::Response;
use futures::{StreamExt as _, stream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};
use tokio::time::timeout;

use super::problem::Problem;

/// Maximum number of searches at once. The indexer, which uses the same connections, has one left.
const MAX_SEARCHES: usize = 2;

/// Maximum number of searches that wait for one to end.
const MAX_WAITING: usize = 32;

/// How long a search waits.
const WAIT: Duration = Duration::from_secs(10);

/// Maximum number of bytes of large responses in memory, which slow clients keep there.
const MAX_RESPONSE_BYTES: usize = 64 << 20;

/// Length up to which responses are not counted.
const SMALL: usize = 64 << 10;

/// What a response of unknown length has in memory.
const STREAM_BYTES: usize = 16 << 20;

/// Searches that run and that wait.
#[derive(Debug)]
pub(super) struct SearchLimit {
    running: Semaphore,
    waiting: Semaphore,
}

impl Default for SearchLimit {
    fn default() -> Self {
        Self {
            running: Semaphore::new(MAX_SEARCHES),
            waiting: Semaphore::new(MAX_WAITING),
        }
    }
}

impl SearchLimit {
    /// Waits until a search may run.
    pub(super) async fn enter(&self) -> Result<SemaphorePermit<'_>, Problem> {
        let busy = || {
            let detail = "too many searches are running; try again in a moment";
            Problem::too_many(detail, Duration::from_secs(1))
        };
        let _waiting = self.waiting.try_acquire().map_err(|_| busy())?;
        let slot = timeout(WAIT, self.running.acquire()).await;
        slot.map_err(|_| busy())?.map_err(|_| busy())
    }
}

/// Bytes of large responses in memory.
#[derive(Clone, Debug)]
pub(super) struct ResponseLimit(Arc<Semaphore>);

impl Default for ResponseLimit {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MAX_RESPONSE_BYTES)))
    }
}

impl ResponseLimit {
    /// Counts a response until it is sent, if it is a large one.
    pub(super) async fn admit(&self, response: Response) -> Result<Response, Problem> {
        let length = response.body().size_hint().exact();
        let length = length.map(|length| usize::try_from(length).unwrap_or(usize::MAX));
        if length.is_some_and(|length| length <= SMALL) {
            return Ok(response);
        }
        // One that is larger than all are to be together is sent alone.
        let counted = length.unwrap_or(STREAM_BYTES).min(MAX_RESPONSE_BYTES);
        let permits = u32::try_from(counted).unwrap_or(u32::MAX);
        let permit = Arc::clone(&self.0).try_acquire_many_owned(permits);
        let permit = permit.map_err(|_| {
            let detail =
                "too many large responses are being sent; ask for less, or try again in a moment";
            Problem::too_many(detail, Duration::from_secs(1))
        })?;
        let (mut parts, body) = response.into_parts();
        let Some(length) = length else {
            return Ok(Response::from_parts(parts, holding(body, permit)));
        };
        let whole = to_bytes(body, usize::MAX).await;
        let whole = whole.map_err(|_| Problem::unavailable("the response cannot be read"))?;
        parts.headers.insert(CONTENT_LENGTH, length.into());
        Ok(Response::from_parts(parts, in_parts(whole, permit)))
    }
}

/// Returns a body that holds a permit while it is being sent.
fn holding(body: Body, permit: OwnedSemaphorePermit) -> Body {
    let parts = body.into_data_stream().map(move |part| {
        let _held = &permit;
        part
    });
    Body::from_stream(parts)
}

/// Returns a body that holds a permit until the last part of it is being sent. The server takes a whole one at
/// once, and so would not say when it is sent.
fn in_parts(whole: Bytes, permit: OwnedSemaphorePermit) -> Body {
    let parts = stream::unfold((whole, permit), async |(mut rest, permit)| {
        if rest.is_empty() {
            return None;
        }
        let part = rest.split_to(rest.len().min(SMALL));
        Some((Ok::<_, Infallible>(part), (rest, permit)))
    });
    Body::from_stream(parts)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    fn response(bytes: usize) -> Response {
        Response::new(Body::from(vec![b'a'; bytes]))
    }

    #[tokio::test]
    async fn large_responses_are_counted_until_they_are_sent() {
        let limit = ResponseLimit::default();
        let half = MAX_RESPONSE_BYTES / 2;
        let first = limit.admit(response(half)).await.unwrap();
        assert_eq!(first.headers()[CONTENT_LENGTH], half.to_string());
        let second = limit.admit(response(half)).await.unwrap();
        assert!(limit.admit(response(SMALL + 1)).await.is_err());
        assert!(limit.admit(response(SMALL)).await.is_ok());
        drop(second);
        let body = to_bytes(first.into_body(), usize::MAX).await.unwrap();
        assert_eq!(body.len(), half);
        let whole = limit.admit(response(2 * MAX_RESPONSE_BYTES)).await.unwrap();
        assert!(limit.admit(response(SMALL + 1)).await.is_err());
        drop(whole);
        let stream = || {
            Response::new(Body::from_stream(
                stream::empty::<Result<Bytes, Infallible>>(),
            ))
        };
        let mut open = Vec::new();
        for _ in 0..MAX_RESPONSE_BYTES / STREAM_BYTES {
            open.push(limit.admit(stream()).await.unwrap());
        }
        assert!(limit.admit(stream()).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn searches_wait_for_a_while_and_not_in_any_number() {
        let limit = Arc::new(SearchLimit::default());
        let first = limit.enter().await.unwrap();
        let _second = limit.enter().await.unwrap();
        let waiting = Arc::clone(&limit);
        let third = tokio::spawn(async move { waiting.enter().await.is_ok() });
        tokio::task::yield_now().await;
        drop(first);
        assert!(third.await.unwrap());
        let _first = limit.enter().await.unwrap();
        let all: Vec<_> = (0..MAX_WAITING)
            .map(|_| {
                let limit = Arc::clone(&limit);
                tokio::spawn(async move { limit.enter().await.is_ok() })
            })
            .collect();
        tokio::task::yield_now().await;
        assert!(limit.enter().await.is_err(), "one too many");
        for one in all {
            assert!(!one.await.unwrap(), "it waits for a while only");
        }
    }
}
