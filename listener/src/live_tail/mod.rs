//! The live tail: events as they are committed, for people who watch. One reader of the change log fills a ring,
//! which all who watch read, so they cost the database no more than one of them. It starts with the first who
//! asks, and ends a while after the last.

mod ring;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use backoff::Backoff;
use sqlx::PgPool;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use crate::capture::change_log::ChangeRecord;
use crate::capture::poll_loop::poll_pause;
use crate::capture::tail::{LogTail, TailStep};
use crate::sync::lock;
use ring::EventRing;
pub(crate) use ring::TailedEvent;

/// How long the log is read on after the last who asked.
const UNWATCHED: Duration = Duration::from_secs(30);

/// How long the first who asks waits for the log to be opened.
const OPEN_TIMEOUT: Duration = Duration::from_secs(5);

/// Backoff of a read that fails.
const RETRY: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));

/// Longest pause between two reads soon after an event; it grows with the time since the last one.
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

/// The change log cannot be followed now.
#[derive(Debug, thiserror::Error)]
#[error("the change log cannot be followed now; the listener's log says why")]
pub(crate) struct NotFollowed;

/// What somebody who watches asks for.
#[derive(Debug)]
pub(crate) struct TailRequest<'a> {
    /// Where the page before ended; without it, the tail begins now.
    pub(crate) after: Option<&'a str>,
    /// Most events.
    pub(crate) limit: usize,
    /// The only tenant whose events are shown.
    pub(crate) tenant: Option<&'a str>,
    /// How long the next event is waited for.
    pub(crate) wait: Duration,
}

/// Events that were committed.
#[derive(Debug)]
pub(crate) struct TailPage {
    /// The events, in order.
    pub(crate) items: Vec<TailedEvent>,
    /// Where it ends.
    pub(crate) next: String,
    /// Whether events between the page before and this one are not known any more.
    pub(crate) missed: bool,
}

/// The live tail of a listener's events in this process.
#[derive(Debug)]
pub(crate) struct LiveTail {
    pool: PgPool,
    listener: String,
    follower: Mutex<Option<Follower>>,
}

/// A reader of the log, from the first who asks to a while after the last.
#[derive(Debug)]
struct Follower {
    followed: Arc<Followed>,
    task: AbortOnDropHandle<()>,
}

/// What a reader has read.
#[derive(Debug)]
struct Followed {
    /// Tells its cursors from those of others.
    name: String,
    state: Mutex<State>,
    /// Number of the event that comes next; nothing until the log is open.
    grown: watch::Sender<Option<u64>>,
}

#[derive(Debug)]
struct State {
    ring: EventRing,
    asked_at: Instant,
    has_ended: bool,
}

impl LiveTail {
    /// Creates the tail of a listener, which reads nothing until somebody asks.
    pub(crate) fn new(pool: PgPool, listener: String) -> Self {
        Self {
            pool,
            listener,
            follower: Mutex::default(),
        }
    }

    /// Returns the events after a cursor, and waits for the next where there is none.
    pub(crate) async fn read(&self, request: &TailRequest<'_>) -> Result<TailPage, NotFollowed> {
        let followed = self.follow();
        let mut grown = followed.grown.subscribe();
        let opened = timeout(OPEN_TIMEOUT, grown.wait_for(Option::is_some));
        let is_open = opened.await.is_ok_and(|opened| opened.is_ok());
        if !is_open {
            return Err(NotFollowed);
        }
        let Some(after) = request.after else {
            return Ok(followed.begin());
        };
        let deadline = Instant::now() + request.wait;
        let mut from = followed.place(after);
        loop {
            grown.mark_unchanged();
            let page = lock(&followed.state)
                .ring
                .read(from, request.limit, request.tenant);
            let is_due = !page.items.is_empty() || page.missed;
            if is_due || !matches!(timeout_at(deadline, grown.changed()).await, Ok(Ok(()))) {
                return Ok(TailPage {
                    items: page.items,
                    next: followed.cursor(page.next),
                    missed: page.missed,
                });
            }
            from = Some(page.next);
        }
    }

    /// Ends the reader of the log, and tells those who wait.
    pub(crate) fn close(&self) {
        if let Some(Follower { followed, task }) = lock(&self.follower).take() {
            drop(task);
            followed.change(EventRing::lose);
        }
    }

    /// Returns what the reader of the log has read. Starts one where none runs.
    fn follow(&self) -> Arc<Followed> {
        let mut running = lock(&self.follower);
        if let Some(Follower { followed, task }) = &*running
            && !task.is_finished()
            && lock(&followed.state).is_asked(Instant::now())
        {
            return Arc::clone(followed);
        }
        let followed = Arc::new(Followed::new(Instant::now()));
        let following = follow(
            self.pool.clone(),
            self.listener.clone(),
            Arc::clone(&followed),
        );
        *running = Some(Follower {
            followed: Arc::clone(&followed),
            task: AbortOnDropHandle::new(tokio::spawn(following)),
        });
        followed
    }
}

impl Followed {
    fn new(now: Instant) -> Self {
        Self {
            name: Uuid::new_v4().simple().to_string(),
            state: Mutex::new(State {
                ring: EventRing::default(),
                asked_at: now,
                has_ended: false,
            }),
            grown: watch::Sender::default(),
        }
    }

    /// Returns a page that ends where the log is now.
    fn begin(&self) -> TailPage {
        let next = lock(&self.state).ring.next();
        TailPage {
            items: Vec::new(),
            next: self.cursor(next),
            missed: false,
        }
    }

    fn cursor(&self, next: u64) -> String {
        format!("{}-{next}", self.name)
    }

    /// Returns the number in a cursor, if it is one of this reader's.
    fn place(&self, cursor: &str) -> Option<u64> {
        let (name, next) = cursor.split_once('-')?;
        next.parse().ok().filter(|_| name == self.name)
    }

    /// Changes what was read, and tells those who wait.
    fn change(&self, change: impl FnOnce(&mut EventRing)) {
        let mut state = lock(&self.state);
        change(&mut state.ring);
        self.grown.send_replace(Some(state.ring.next()));
    }

    fn add(&self, records: &[ChangeRecord]) {
        let events: Vec<_> = records
            .iter()
            .map(|one| TailedEvent::from(&one.event))
            .collect();
        self.change(|ring| events.into_iter().for_each(|event| ring.push(event)));
    }
}

impl State {
    /// Notes that somebody asks. Returns whether the reader goes on.
    fn is_asked(&mut self, now: Instant) -> bool {
        if !self.has_ended {
            self.asked_at = now;
        }
        !self.has_ended
    }

    /// Returns whether the reader ends, since nobody has asked for a while.
    fn is_over(&mut self, now: Instant) -> bool {
        self.has_ended |= now.duration_since(self.asked_at) >= UNWATCHED;
        if self.has_ended {
            self.ring.lose();
        }
        self.has_ended
    }
}

/// Reads the log until nobody watches.
async fn follow(pool: PgPool, listener: String, followed: Arc<Followed>) {
    let (mut reader, mut backoff, mut last_event) = (None, RETRY, Instant::now());
    while !lock(&followed.state).is_over(Instant::now()) {
        let step = match &mut reader {
            None => match LogTail::open(pool.clone(), None, Some(listener.clone())).await {
                Ok(opened) => {
                    reader = Some(opened);
                    followed.change(|_| ());
                    continue;
                }
                Err(error) => Err(error),
            },
            Some(reader) => reader.read_next().await,
        };
        match step {
            Ok(TailStep::Events(records)) => {
                if !records.is_empty() {
                    last_event = Instant::now();
                    followed.add(&records);
                }
            }
            Ok(TailStep::Idle) => {
                backoff.reset();
                sleep(poll_pause(last_event.elapsed(), LONGEST_PAUSE, false)).await;
            }
            Ok(TailStep::Reset) => followed.change(EventRing::lose),
            Err(error) => {
                tracing::warn!(%error, "live tail: the change log cannot be read; retrying");
                sleep(backoff.next_delay()).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[tokio::test]
    async fn one_reader_is_shared_until_the_tail_is_closed() {
        let pool = PgPool::connect_lazy("postgres://nobody@127.0.0.1:9/nowhere").unwrap();
        let tail = LiveTail::new(pool, "default/test".to_owned());
        let followed = tail.follow();
        assert!(Arc::ptr_eq(&followed, &tail.follow()));
        let waiting = followed.grown.subscribe();
        tail.close();
        assert!(waiting.has_changed().unwrap(), "those who wait are told");
        assert!(!Arc::ptr_eq(&followed, &tail.follow()));
    }

    #[tokio::test(start_paused = true)]
    async fn reader_ends_a_while_after_the_last_who_asked() {
        let begun = Instant::now();
        let followed = Followed::new(begun);
        let mut state = lock(&followed.state);
        assert!(!state.is_over(begun + UNWATCHED / 2));
        assert!(state.is_asked(begun + UNWATCHED / 2));
        assert!(!state.is_over(begun + UNWATCHED));
        assert!(state.is_over(begun + UNWATCHED * 2));
        assert!(!state.is_asked(begun + UNWATCHED * 2), "another one starts");
    }

    #[tokio::test(start_paused = true)]
    async fn cursor_is_good_for_its_own_reader_alone() {
        let (one, other) = (Followed::new(Instant::now()), Followed::new(Instant::now()));
        let cursor = one.cursor(7);
        assert_eq!(one.place(&cursor), Some(7));
        for odd in [&*other.cursor(7), "", "-", "-7", &cursor[1..], "7"] {
            assert_eq!(one.place(odd), None, "{odd}");
        }
    }
}
