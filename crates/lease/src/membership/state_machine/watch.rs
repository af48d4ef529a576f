//! List and watch of a fleet's Leases. Two lists are at least a retry period apart, and reconnects
//! have jitter, so that many members do not reconnect at the same moment.

use tokio::time::Instant;

use super::{Command, MembershipState};

/// Why a list or a watch failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum WatchError {
    /// The version is too old to watch from.
    Expired,
    /// The caller's Role does not grant the verb.
    Forbidden(String),
    /// Any other failure.
    Failed(String),
}

/// Ongoing failure and its start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Outage {
    pub(crate) since: Instant,
    pub(crate) reason: String,
}

/// Phase of the list and watch cycle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WatchState {
    /// Waits for the next list.
    ListAt(Instant),
    WatchAt(Instant),
    Listing,
    /// A watch is open, or being opened.
    Watching,
}

/// Connection that lists and watches the Leases.
#[derive(Debug)]
pub(super) struct WatchConnection {
    state: WatchState,
    listed_at: Option<Instant>,
    opened_at: Option<Instant>,
    /// Failures of the watch in a row.
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

    /// Continues with a watch after a successful list.
    pub(super) fn on_list(&mut self, now: Instant) {
        self.state = WatchState::WatchAt(now);
        if self.failures == 0 {
            self.outage = None;
            self.forbidden = false;
        }
    }

    /// Ends the outage once a watch is open.
    pub(super) fn on_watch_open(&mut self, now: Instant) {
        self.failures = 0;
        self.outage = None;
        self.forbidden = false;
        self.opened_at = Some(now);
    }

    /// Records the start and the reason of an outage.
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
    /// Schedules another list after a failed one.
    pub(super) fn on_list_failed(&mut self, error: WatchError, now: Instant) {
        self.watch.record_outage(error, now);
        let at = self.next_list_time(now);
        self.watch.state = WatchState::ListAt(at);
    }

    /// Schedules the next watch, or a list where a watch cannot continue.
    pub(super) fn on_watch_ended(&mut self, error: Option<WatchError>, now: Instant) {
        if self.watch.state != WatchState::Watching {
            return;
        }
        let period = self.retry_period();
        self.watch.state = match error {
            // Connections end as a matter of course. One that ends at once, again and again, is
            // opened at most once per retry period.
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

    /// Returns the time of the next list, with jitter.
    fn next_list_time(&mut self, now: Instant) -> Instant {
        let period = self.retry_period();
        let allowed = self.watch.listed_at.map_or(now, |at| at + period);
        now.max(allowed) + period.mul_f64(self.random() / 2.0)
    }

    /// Starts a list or a watch when it is due, and detects a silently dead watch.
    pub(super) fn drive_watch(&mut self, now: Instant) {
        // A silently dead connection does not show this process's own writes either.
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

    /// Returns whether the caller's Role lacks a verb.
    pub(crate) fn is_forbidden(&self) -> bool {
        self.watch.forbidden
    }

    /// Returns what keeps this process from reading or writing the Leases.
    pub(crate) fn outage(&self) -> Option<&Outage> {
        self.watch.outage.as_ref().or(self.write_outage.as_ref())
    }
}
