//! A receiver of webhooks on the loopback interface, which behaves or misbehaves as told.
//!
//! It speaks HTTP/1.1 by itself, because a proper server cannot break off, lie about lengths
//! or talk gibberish. Every complete request is counted; what is kept of them is bounded.

mod wire;

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinHandle, JoinSet};

use crate::actions::signature::Signer;

/// Most requests that are kept; later ones are only counted.
const MAX_KEPT: usize = 100_000;

/// Most bytes of bodies that are kept; later bodies are kept empty.
const MAX_KEPT_BYTES: usize = 64 * 1024 * 1024;

/// Most ids whose attempts are told apart; an id beyond always looks new.
const MAX_IDS: usize = 1_000_000;

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
    /// Answers 429 with `Retry-After` the first `times` times that it sees a `webhook-id`.
    Throttle {
        /// How many times.
        times: u32,
        /// Seconds in `Retry-After`.
        seconds: u32,
    },
    /// Answers 302 with this `Location`.
    Redirect(String),
    /// Never answers.
    Hang,
    /// Breaks the connection off.
    Reset,
    /// Promises more bytes than it sends, and breaks off.
    ShortBody(u16),
    /// Sends a head and then a body without end, slowly.
    EndlessBody(u16),
    /// Sends a body of so many bytes.
    HugeBody(usize),
    /// Answers with something that is not HTTP.
    Garbage,
}

/// How to start a sink.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where to listen; port 0 for any that is free.
    pub address: SocketAddr,
    /// What to do with requests to start with.
    pub behaviour: Behaviour,
    /// Keep what was received, or only count it.
    pub keep: bool,
    /// Secrets to check signatures by.
    pub signer: Option<Signer>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            behaviour: Behaviour::Ok,
            keep: true,
            signer: None,
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
#[derive(Debug)]
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
        let state = Arc::new(State {
            keep: options.keep,
            signer: options.signer,
            inner: Mutex::new(Inner {
                default: options.behaviour,
                ..Inner::default()
            }),
            counts: watch::Sender::default(),
        });
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
        self.state.lock().default = behaviour;
    }

    /// Gives a path its own behaviour.
    pub fn behave_at(&self, path: impl Into<String>, behaviour: Behaviour) {
        self.state.lock().by_path.insert(path.into(), behaviour);
    }

    /// What it kept, in order of arrival.
    #[must_use]
    pub fn received(&self) -> Vec<Received> {
        self.state.lock().received.clone()
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
        let Ok((stream, _)) = listener.accept().await else {
            // The connection was gone already, or files have run out and need time to return.
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        state.counts.send_modify(|counts| counts.connections += 1);
        let state = Arc::clone(&state);
        connections.spawn(async move {
            // How a client leaves is its own affair.
            let _ = wire::serve(stream, &state).await;
            drop(place);
        });
    }
}

#[derive(Debug)]
struct State {
    keep: bool,
    signer: Option<Signer>,
    inner: Mutex<Inner>,
    counts: watch::Sender<Counts>,
}

#[derive(Debug, Default)]
struct Inner {
    default: Behaviour,
    by_path: HashMap<String, Behaviour>,
    seen: HashMap<String, u32>,
    received: Vec<Received>,
    kept_bytes: usize,
}

impl State {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts and keeps a request; returns what to do with it.
    fn take(&self, request: wire::Request) -> Reaction {
        let signed = self.signer.as_ref().map(|signer| request.is_signed(signer));
        let mut inner = self.lock();
        let reaction = inner.reaction(&request);
        let status = reaction.status();
        if self.keep && inner.received.len() < MAX_KEPT {
            let body = if inner.kept_bytes + request.body.len() <= MAX_KEPT_BYTES {
                request.body
            } else {
                Bytes::new()
            };
            inner.kept_bytes += body.len();
            inner.received.push(Received {
                webhook_id: request.webhook_id,
                line: request.line,
                headers: request.headers,
                body,
                at: Instant::now(),
                status,
                signed,
            });
        }
        self.counts.send_modify(|counts| {
            counts.requests += 1;
            counts.succeeded += u64::from(status.is_some_and(|s| (200..300).contains(&s)));
            counts.badly_signed += u64::from(signed == Some(false));
        });
        reaction
    }
}

impl Inner {
    fn reaction(&mut self, request: &wire::Request) -> Reaction {
        let behaviour = self.by_path.get(request.path()).unwrap_or(&self.default);
        match behaviour.clone() {
            Behaviour::Ok => Reaction::answer(200),
            Behaviour::Delay(pause) => Reaction::Answer {
                pause,
                status: 200,
                header: String::new(),
                body: Bytes::new(),
            },
            Behaviour::Status(status) => Reaction::answer(status),
            Behaviour::Echo(status) => Reaction::Answer {
                pause: Duration::ZERO,
                status,
                header: String::new(),
                body: request.head().into(),
            },
            Behaviour::FailFirst { times, status } => {
                let failing = self.attempt(&request.webhook_id) <= times;
                Reaction::answer(if failing { status } else { 200 })
            }
            Behaviour::FailShare {
                per_mille,
                seed,
                status,
            } => {
                let attempt = self.attempt(&request.webhook_id);
                let failing = draw(seed, &request.webhook_id, attempt) < per_mille;
                Reaction::answer(if failing { status } else { 200 })
            }
            Behaviour::Throttle { times, seconds } => {
                if self.attempt(&request.webhook_id) <= times {
                    Reaction::with_header(429, format!("retry-after: {seconds}\r\n"))
                } else {
                    Reaction::answer(200)
                }
            }
            Behaviour::Redirect(target) => {
                Reaction::with_header(302, format!("location: {target}\r\n"))
            }
            Behaviour::HugeBody(bytes) => Reaction::Answer {
                pause: Duration::ZERO,
                status: 200,
                header: String::new(),
                body: vec![b'x'; bytes].into(),
            },
            Behaviour::Hang => Reaction::Hang,
            Behaviour::Reset => Reaction::Reset,
            Behaviour::ShortBody(status) => Reaction::ShortBody(status),
            Behaviour::EndlessBody(status) => Reaction::EndlessBody(status),
            Behaviour::Garbage => Reaction::Garbage,
        }
    }

    /// The how-manieth request with this id this is, from 1.
    fn attempt(&mut self, id: &str) -> u32 {
        if let Some(seen) = self.seen.get_mut(id) {
            *seen = seen.saturating_add(1);
            return *seen;
        }
        if self.seen.len() < MAX_IDS {
            self.seen.insert(id.to_owned(), 1);
        }
        1
    }
}

/// A number below a thousand that depends on nothing but its arguments.
fn draw(seed: u64, id: &str, attempt: u32) -> u16 {
    let digest = Sha256::digest(format!("{seed}\n{id}\n{attempt}"));
    // 65536 is not a multiple of 1000; a sink does not mind the bias.
    u16::from_be_bytes([digest[0], digest[1]]) % 1000
}

/// What happens on the wire.
#[derive(Debug)]
enum Reaction {
    Answer {
        pause: Duration,
        status: u16,
        /// Further header lines, each with its line end.
        header: String,
        body: Bytes,
    },
    Hang,
    Reset,
    ShortBody(u16),
    EndlessBody(u16),
    Garbage,
}

impl Reaction {
    fn answer(status: u16) -> Self {
        Self::with_header(status, String::new())
    }

    fn with_header(status: u16, header: String) -> Self {
        Self::Answer {
            pause: Duration::ZERO,
            status,
            header,
            body: Bytes::new(),
        }
    }

    const fn status(&self) -> Option<u16> {
        match self {
            Self::Answer { status, .. } | Self::ShortBody(status) | Self::EndlessBody(status) => {
                Some(*status)
            }
            Self::Hang | Self::Reset | Self::Garbage => None,
        }
    }
}

#[cfg(test)]
mod tests;
