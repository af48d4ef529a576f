//! Keeping up with the fleet: a list, and the changes that follow it. Never are two lists asked
//! for within a retry period, and what ends for many processes at once is begun again by each
//! at a moment of its own.

use tokio::time::Instant;

use super::{Command, MembershipState};

/// Why the Leases could not be listed or followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum WatchError {
    /// The changes since the version are not known any more.
    Expired,
    /// The caller's Role does not grant it.
    Forbidden(String),
    /// Anything else.
    Failed(String),
}

/// What goes wrong, and since when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Outage {
    pub(crate) since: Instant,
    pub(crate) reason: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WatchState {
    /// Nothing is under way until then.
    ListAt(Instant),
    WatchAt(Instant),
    Listing,
    /// Followed, or about to be.
    Watching,
}

#[derive(Debug)]
pub(super) struct WatchConnection {
    state: WatchState,
    listed_at: Option<Instant>,
    opened_at: Option<Instant>,
    /// How often in a row the changes were not to be had.
    failures: u32,
    forbidden: bool,
    pub(super) outage: Option<Outage>,
}

impl WatchConnection {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            state: WatchState::ListAt(now),
            listed_at: None,
            opened_at: None,
            failures: 0,
            forbidden: false,
            outage: None,
        }
    }

    pub(super) fn on_list(&mut self, now: Instant) {
        self.state = WatchState::WatchAt(now);
        if self.failures == 0 {
            self.outage = None;
            self.forbidden = false;
        }
    }

    pub(super) fn on_watch_open(&mut self, now: Instant) {
        self.failures = 0;
        self.outage = None;
        self.forbidden = false;
        self.opened_at = Some(now);
    }

    fn record_outage(&mut self, error: WatchError, now: Instant) {
        self.forbidden = matches!(error, WatchError::Forbidden(_));
        let (WatchError::Forbidden(reason) | WatchError::Failed(reason)) = error else {
            return;
        };
        let since = self.outage.as_ref().map_or(now, |outage| outage.since);
        self.outage = Some(Outage { since, reason });
    }
}

impl MembershipState {
    pub(super) fn on_list_failed(&mut self, error: WatchError, now: Instant) {
        self.watch.record_outage(error, now);
        let at = self.next_list_time(now);
        self.watch.state = WatchState::ListAt(at);
    }

    pub(super) fn on_watch_ended(&mut self, error: Option<WatchError>, now: Instant) {
        if self.watch.state != WatchState::Watching {
            return;
        }
        let period = self.retry_period();
        self.watch.state = match error {
            // A connection ends in the course of things. One that ends at once, over and over,
            // is not opened more often than each period.
            None => {
                let opened = self.watch.opened_at.map_or(now, |at| at + period);
                WatchState::WatchAt(now.max(opened) + period.mul_f64(self.random() / 2.0))
            }
            Some(WatchError::Expired) => WatchState::ListAt(self.next_list_time(now)),
            Some(error) => {
                let forbidden = matches!(error, WatchError::Forbidden(_));
                self.watch.record_outage(error, now);
                self.watch.failures = self.watch.failures.saturating_add(1);
                if forbidden || self.watch.failures.is_multiple_of(2) {
                    WatchState::ListAt(self.next_list_time(now))
                } else {
                    WatchState::WatchAt(now + self.jittered_retry())
                }
            }
        };
    }

    /// A moment for the next list.
    fn next_list_time(&mut self, now: Instant) -> Instant {
        let period = self.retry_period();
        let allowed = self.watch.listed_at.map_or(now, |at| at + period);
        now.max(allowed) + period.mul_f64(self.random() / 2.0)
    }

    pub(super) fn drive_watch(&mut self, now: Instant) {
        // A connection that has silently died does not show our own writes either.
        if self.watch.state == WatchState::Watching
            && let Some(since) = self.view.awaiting_own_write_since()
        {
            let until = since + self.config.timing.renew_deadline();
            if now >= until {
                self.watch.state = WatchState::ListAt(self.next_list_time(now));
            } else {
                self.wake_by(until);
            }
        }
        match self.watch.state {
            WatchState::ListAt(at) if now >= at => {
                self.watch.state = WatchState::Listing;
                self.watch.listed_at = Some(now);
                self.commands.push(Command::List);
            }
            WatchState::WatchAt(at) if now >= at => {
                self.watch.state = WatchState::Watching;
                self.commands
                    .push(Command::Watch(self.view.watched_version));
            }
            WatchState::ListAt(at) | WatchState::WatchAt(at) => self.wake_by(at),
            WatchState::Listing | WatchState::Watching => {}
        }
    }

    /// Whether the caller's Role does not grant what is needed.
    pub(crate) fn is_forbidden(&self) -> bool {
        self.watch.forbidden
    }

    /// What keeps this process from knowing or writing the Leases.
    pub(crate) fn outage(&self) -> Option<&Outage> {
        self.watch.outage.as_ref().or(self.write_outage.as_ref())
    }
}
