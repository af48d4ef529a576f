//! A receiver of webhooks on the loopback interface, which behaves or misbehaves as told.
//!
//! It speaks HTTP/1.1 by itself, because a proper server cannot break off, lie about lengths
//! or talk gibberish. Every complete request is counted; what is kept of them is bounded.

mod request;
mod state;
mod wire;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use standardwebhooks::Webhook;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};

pub use self::request::Request;
use self::state::State;

/// Most connections at once.
const MAX_CONNECTIONS: usize = 4096;

/// Pause after a connection could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(5);

/// What the sink does with a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Behaviour {
    /// Answers 200.
    #[default]
    Ok,
    /// Answers 200 after a while.
    Delay(Duration),
    /// Answers with this status.
    Status(u16),
    /// Answers with this status after a while, and one in so many requests with 503.
    Steady {
        /// The status.
        status: u16,
        /// How long to wait. A client that goes meanwhile has not delivered.
        pause: Duration,
        /// How many; none fails where it is 0.
        fail_one_in: u64,
    },
    /// Answers with this status, and a body that repeats the request's head.
    Echo(u16),
    /// Answers with `status` the first `times` times that it sees a `webhook-id`.
    FailFirst {
        /// How many times.
        times: u32,
        /// The status.
        status: u16,
    },
    /// Answers with `status` for a share of the attempts, the same ones for the same seed.
    FailShare {
        /// Out of a thousand.
        per_mille: u16,
        /// Decides which.
        seed: u64,
        /// The status.
        status: u16,
    },
    /// Answers with `status` to what holds `text`.
    FailHolding {
        /// The text.
        text: String,
        /// The status.
        status: u16,
    },
    /// Answers 422 to what holds this word, and 503 to a share of the rest, the same ones for the
    /// same seed.
    Picky {
        /// The word.
        word: String,
        /// Out of a thousand.
        per_mille: u16,
        /// Decides which.
        seed: u64,
    },
    /// Answers 429 with `Retry-After` the first `times` times that it sees a `webhook-id`.
    Throttle {
        /// How many times.
        times: u32,
        /// Seconds in `Retry-After`.
        seconds: u32,
    },
    /// Answers 302 with this `Location`.
    Redirect(String),
    /// Answers 200 once the sink is told how to behave.
    Hold,
    /// Never answers.
    Hang,
    /// Breaks the connection off.
    Reset,
    /// Promises more bytes than it sends, and breaks off.
    ShortBody(u16),
    /// Sends a head and then a body without end, slowly.
    EndlessBody(u16),
    /// Answers 200 and sends a body of so many bytes, if they are taken.
    HugeBody(u64),
    /// Answers with something that is not HTTP.
    Garbage,
}

/// What a program makes of the requests to its sink.
pub trait Handler: Send + Sync {
    /// Responds to a request that is no delivery; none where it is one.
    fn control(&self, _request: &Request) -> Option<Response> {
        None
    }

    /// Takes note of a delivery just before it is answered with this status.
    fn delivered(&self, request: &Request, status: u16);
}

/// Response to a request that is no delivery.
#[derive(Clone, Debug, Default)]
pub struct Response {
    /// The status.
    pub status: u16,
    /// The body.
    pub body: Vec<u8>,
    /// What the sink does with deliveries from now on, if that changes.
    pub behaviour: Option<Behaviour>,
}

/// How to start a sink.
#[derive(Clone)]
pub struct Options {
    /// Where to listen; port 0 for any that is free.
    pub address: SocketAddr,
    /// What to do with requests to start with.
    pub behaviour: Behaviour,
    /// Keep what was received, or only count it.
    pub keep: bool,
    /// Secrets to check signatures by, as Standard Webhooks writes them.
    pub signing_secrets: Vec<String>,
    /// What else to make of requests.
    pub handler: Option<Arc<dyn Handler>>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            behaviour: Behaviour::Ok,
            keep: true,
            signing_secrets: Vec::new(),
            handler: None,
        }
    }
}

/// One complete request.
#[derive(Clone, Debug)]
pub struct Received {
    /// Method and target, as in `POST /hook`.
    pub line: String,
    /// `webhook-id`; empty where there was none.
    pub webhook_id: String,
    /// All headers, names in lower case, in the order of their arrival.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Bytes,
    /// When the request was complete.
    pub at: Instant,
    /// The status it is answered with; `None` where it gets no proper answer.
    pub status: Option<u16>,
    /// Whether its signature is right; `None` where the sink knows no secrets.
    pub signed: Option<bool>,
}

impl Received {
    /// Whether it was answered with a status of success.
    #[must_use]
    pub fn is_accepted(&self) -> bool {
        self.status
            .is_some_and(|status| (200..300).contains(&status))
    }

    /// The target, as in `/hook?x=1`.
    #[must_use]
    pub fn target(&self) -> &str {
        self.line.split(' ').nth(1).unwrap_or_default()
    }

    /// The value of a header, by its name in lower case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().find(|(known, _)| known == name)?;
        Some(value)
    }
}

/// What a sink has counted since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections accepted.
    pub connections: u64,
    /// Complete requests.
    pub requests: u64,
    /// Those answered with a status of success.
    pub succeeded: u64,
    /// Those whose signature was wrong or missing; 0 where the sink knows no secrets.
    pub badly_signed: u64,
}

/// A running sink; dropping it closes all its connections.
pub struct Sink {
    address: SocketAddr,
    state: Arc<State>,
    task: JoinHandle<()>,
}

impl Sink {
    /// Starts a sink on a free port.
    pub async fn start(behaviour: Behaviour) -> io::Result<Self> {
        Self::start_with(Options {
            behaviour,
            ..Options::default()
        })
        .await
    }

    /// Starts a sink.
    pub async fn start_with(options: Options) -> io::Result<Self> {
        let listener = TcpListener::bind(options.address).await?;
        let secrets: Result<Vec<Webhook>, _> = options
            .signing_secrets
            .iter()
            .map(|one| Webhook::new(one))
            .collect();
        let secrets =
            secrets.map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let state = Arc::new(State::new(options, secrets));
        Ok(Self {
            address: listener.local_addr()?,
            task: tokio::spawn(accept(listener, Arc::clone(&state))),
            state,
        })
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// `http://` address and `path`, which starts with a slash.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Changes what it does with requests to paths that have no behaviour of their own.
    pub fn behave(&self, behaviour: Behaviour) {
        self.state.behave(behaviour);
    }

    /// Has the next request that no path of its own awaits be dealt with in this way.
    pub fn behave_once(&self, behaviour: Behaviour) {
        self.state.lock().next.push_back(behaviour);
    }

    /// Gives a path its own behaviour.
    pub fn behave_at(&self, path: impl Into<String>, behaviour: Behaviour) {
        self.state.lock().by_path.insert(path.into(), behaviour);
        self.state.told.send_modify(|times| *times += 1);
    }

    /// What it kept, in order of arrival.
    #[must_use]
    pub fn received(&self) -> Vec<Received> {
        self.state.lock().received.clone()
    }

    /// Hands over what it kept, which makes room for more.
    #[must_use]
    pub fn take_received(&self) -> Vec<Received> {
        self.state.lock().hand_over()
    }

    /// What it counted.
    #[must_use]
    pub fn counts(&self) -> Counts {
        *self.state.counts.borrow()
    }

    /// Waits until `requests` have arrived in all; false where they have not within `limit`.
    pub async fn wait_for(&self, requests: u64, limit: Duration) -> bool {
        let mut counts = self.state.counts.subscribe();
        let enough = counts.wait_for(|counts| counts.requests >= requests);
        matches!(tokio::time::timeout(limit, enough).await, Ok(Ok(_)))
    }

    /// Waits until `requests` have arrived in all, as long as they become more; fails with what
    /// was there.
    #[cfg(feature = "tests")]
    pub async fn arrived(&self, requests: u64) {
        let mut counts = self.state.counts.subscribe();
        let enough = crate::wait::watched(
            &mut counts,
            |counts| (counts.requests >= requests).then_some(()),
            |counts| counts.requests,
            |counts| {
                format!(
                    "{requests} requests, and there are {counts:?}: {}",
                    self.kept()
                )
            },
        );
        assert!(
            enough.await.is_some(),
            "the sink lives as long as it is asked"
        );
    }

    /// Waits until it has read all that was sent on connections which their clients have closed, as
    /// those of a process that was killed: on a busy machine that may be long after the kill.
    #[cfg(feature = "tests")]
    pub async fn drained(&self) {
        /// `TCP_CLOSE_WAIT` of Linux: the other end has closed, and this one has not.
        const CLOSED_BY_PEER: &str = "08";
        let port = format!(":{:04X}", self.address.port());
        let open = async || {
            let list = tokio::fs::read_to_string("/proc/self/net/tcp").await;
            let list = list.unwrap_or_default();
            let unread = list.lines().filter(|line| {
                let mut fields = line.split_ascii_whitespace();
                let local = fields.nth(1).is_some_and(|local| local.ends_with(&port));
                local && fields.nth(1) == Some(CLOSED_BY_PEER)
            });
            match unread.count() {
                0 => Ok(()),
                unread => Err(unread as u64),
            }
        };
        crate::wait::while_progressing("closed connections are read to their end", open).await;
    }

    /// How many of which kind it kept.
    #[cfg(feature = "tests")]
    fn kept(&self) -> String {
        let mut kinds = std::collections::BTreeMap::new();
        for one in &self.state.lock().received {
            let kind = (one.line.clone(), one.status);
            *kinds.entry(kind).or_insert(0_u64) += 1;
        }
        format!("{kinds:?}")
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    // Connections die with this task, as the set is dropped.
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        let Ok((stream, from)) = listener.accept().await else {
            // The connection was gone already, or files have run out and need time to return.
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        state.counts.send_modify(|counts| counts.connections += 1);
        let state = Arc::clone(&state);
        connections.spawn(async move {
            // How a client leaves is its own affair.
            let _ = wire::serve(stream, from, &state).await;
            drop(place);
        });
    }
}

#[cfg(test)]
mod tests;
