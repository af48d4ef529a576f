//! What a sink knows, and what it makes of a request.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use sha2::{Digest, Sha256};
use standardwebhooks::Webhook;
use tokio::sync::watch;

use super::request::Request;
use super::{Behaviour, Counts, Handler, Options, Received, Response};

/// Most requests that are kept; later ones are only counted.
const MAX_KEPT: usize = 100_000;

/// Most bytes of bodies that are kept; later bodies are kept empty.
const MAX_KEPT_BYTES: usize = 64 * 1024 * 1024;

/// Most ids whose attempts are told apart; an id beyond always looks new.
const MAX_IDS: usize = 1_000_000;

pub(super) struct State {
    keep: bool,
    handler: Option<Arc<dyn Handler>>,
    secrets: Vec<Webhook>,
    inner: Mutex<Inner>,
    pub(super) counts: watch::Sender<Counts>,
    /// How often it was told how to behave.
    pub(super) told: watch::Sender<u64>,
}

#[derive(Debug, Default)]
pub(super) struct Inner {
    pub(super) default: Behaviour,
    pub(super) by_path: HashMap<String, Behaviour>,
    /// Comes before the default, each once.
    pub(super) next: VecDeque<Behaviour>,
    seen: HashMap<String, u32>,
    /// Requests to [`Behaviour::Steady`] so far.
    steady: u64,
    pub(super) received: Vec<Received>,
    kept_bytes: usize,
}

impl State {
    pub(super) fn new(options: Options, secrets: Vec<Webhook>) -> Self {
        Self {
            keep: options.keep,
            handler: options.handler,
            secrets,
            inner: Mutex::new(Inner {
                default: options.behaviour,
                ..Inner::default()
            }),
            counts: watch::Sender::default(),
            told: watch::Sender::default(),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts and keeps a request; returns what to do with it.
    pub(super) fn take(&self, request: &mut Request) -> Reaction {
        if let Some(handler) = &self.handler
            && let Some(response) = handler.control(request)
        {
            if let Some(behaviour) = &response.behaviour {
                self.behave(behaviour.clone());
            }
            return Reaction::Control(response);
        }
        let signed = (!self.secrets.is_empty()).then(|| {
            request.check_signature(&self.secrets);
            request.signed_by.is_some()
        });
        let mut inner = self.lock();
        let reaction = inner.reaction(request, &self.told);
        let status = reaction.status();
        if self.keep && inner.received.len() < MAX_KEPT {
            let body = if inner.kept_bytes + request.body.len() <= MAX_KEPT_BYTES {
                request.body.clone()
            } else {
                Bytes::new()
            };
            inner.kept_bytes += body.len();
            inner.received.push(Received {
                webhook_id: request.webhook_id().to_owned(),
                line: request.line().to_owned(),
                headers: request.headers().collect(),
                body,
                at: request.at,
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

    /// Changes what is done with requests to paths that have no behaviour of their own.
    pub(super) fn behave(&self, behaviour: Behaviour) {
        self.lock().default = behaviour;
        self.told.send_modify(|times| *times += 1);
    }

    /// Tells the handler of a request that is about to be answered.
    pub(super) fn answers(&self, request: &Request, status: u16) {
        if let Some(handler) = &self.handler {
            handler.delivered(request, status);
        }
    }
}

impl Inner {
    pub(super) fn hand_over(&mut self) -> Vec<Received> {
        self.kept_bytes = 0;
        std::mem::take(&mut self.received)
    }

    fn reaction(&mut self, request: &Request, told: &watch::Sender<u64>) -> Reaction {
        let behaviour = match self.by_path.get(request.path()) {
            Some(behaviour) => behaviour.clone(),
            None => self
                .next
                .pop_front()
                .unwrap_or_else(|| self.default.clone()),
        };
        match behaviour {
            Behaviour::Ok => Reaction::answer(200),
            Behaviour::Delay(pause) => Reaction::Answer {
                pause,
                status: 200,
                header: String::new(),
                body: Bytes::new(),
            },
            Behaviour::Status(status) => Reaction::answer(status),
            Behaviour::Steady {
                status,
                pause,
                fail_one_in,
            } => {
                self.steady += 1;
                let failing = fail_one_in > 0 && self.steady.is_multiple_of(fail_one_in);
                Reaction::Answer {
                    pause,
                    status: if failing { 503 } else { status },
                    header: String::new(),
                    body: Bytes::new(),
                }
            }
            Behaviour::Echo(status) => Reaction::Answer {
                pause: Duration::ZERO,
                status,
                header: String::new(),
                body: request.head().into(),
            },
            Behaviour::FailFirst { times, status } => {
                let failing = self.attempt(request.webhook_id()) <= times;
                Reaction::answer(if failing { status } else { 200 })
            }
            Behaviour::FailShare {
                per_mille,
                seed,
                status,
            } => {
                let attempt = self.attempt(request.webhook_id());
                let failing = draw(seed, request.webhook_id(), attempt) < per_mille;
                Reaction::answer(if failing { status } else { 200 })
            }
            Behaviour::FailHolding { text, status } => {
                let failing = String::from_utf8_lossy(&request.body).contains(&text);
                Reaction::answer(if failing { status } else { 200 })
            }
            Behaviour::Picky {
                word,
                per_mille,
                seed,
            } => {
                let holds = String::from_utf8_lossy(&request.body).contains(&word);
                let attempt = self.attempt(request.webhook_id());
                let failing = draw(seed, request.webhook_id(), attempt) < per_mille;
                Reaction::answer(match (holds, failing) {
                    (true, _) => 422,
                    (_, true) => 503,
                    _ => 200,
                })
            }
            Behaviour::Throttle { times, seconds } => {
                if self.attempt(request.webhook_id()) <= times {
                    Reaction::with_header(429, format!("retry-after: {seconds}\r\n"))
                } else {
                    Reaction::answer(200)
                }
            }
            Behaviour::Redirect(target) => {
                Reaction::with_header(302, format!("location: {target}\r\n"))
            }
            Behaviour::HugeBody(bytes) => Reaction::HugeBody(bytes),
            // What it is told from now on counts, as this is asked of under its lock.
            Behaviour::Hold => Reaction::Hold(told.subscribe()),
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
pub(super) fn draw(seed: u64, id: &str, attempt: u32) -> u16 {
    let digest = Sha256::digest(format!("{seed}\n{id}\n{attempt}"));
    // 65536 is not a multiple of 1000; a sink does not mind the bias.
    u16::from_be_bytes([digest[0], digest[1]]) % 1000
}

/// What happens on the wire.
#[derive(Debug)]
pub(super) enum Reaction {
    Answer {
        pause: Duration,
        status: u16,
        /// Further header lines, each with its line end.
        header: String,
        body: Bytes,
    },
    Control(Response),
    Hold(watch::Receiver<u64>),
    Hang,
    Reset,
    ShortBody(u16),
    EndlessBody(u16),
    HugeBody(u64),
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
            Self::Hold(_) | Self::HugeBody(_) => Some(200),
            Self::Control(_) | Self::Hang | Self::Reset | Self::Garbage => None,
        }
    }
}
