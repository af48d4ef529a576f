//! Keeping up with the fleet: a list, and the changes that follow it. Never are two lists asked
//! for within a retry period, and what ends for many processes at once is begun again by each
//! at a moment of its own.

use tokio::time::Instant;

use super::{Action, Core};

/// Why the Leases could not be listed or followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Breach {
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
    pub(crate) why: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing is under way until then.
    List(Instant),
    Follow(Instant),
    Listing,
    /// Followed, or about to be.
    Following,
}

#[derive(Debug)]
pub(super) struct Link {
    state: State,
    listed_at: Option<Instant>,
    opened_at: Option<Instant>,
    /// How often in a row the changes were not to be had.
    failures: u32,
    forbidden: bool,
    pub(super) outage: Option<Outage>,
}

impl Link {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            state: State::List(now),
            listed_at: None,
            opened_at: None,
            failures: 0,
            forbidden: false,
            outage: None,
        }
    }

    pub(super) fn listed(&mut self, now: Instant) {
        self.state = State::Follow(now);
        if self.failures == 0 {
            self.outage = None;
            self.forbidden = false;
        }
    }

    pub(super) fn following(&mut self, now: Instant) {
        self.failures = 0;
        self.outage = None;
        self.forbidden = false;
        self.opened_at = Some(now);
    }

    fn troubled(&mut self, breach: Breach, now: Instant) {
        self.forbidden = matches!(breach, Breach::Forbidden(_));
        let (Breach::Forbidden(why) | Breach::Failed(why)) = breach else {
            return;
        };
        let since = self.outage.as_ref().map_or(now, |outage| outage.since);
        self.outage = Some(Outage { since, why });
    }
}

impl Core {
    pub(super) fn not_listed(&mut self, breach: Breach, now: Instant) {
        self.link.troubled(breach, now);
        let at = self.next_list(now);
        self.link.state = State::List(at);
    }

    pub(super) fn unfollowed(&mut self, breach: Option<Breach>, now: Instant) {
        if self.link.state != State::Following {
            return;
        }
        let period = self.retry_period();
        self.link.state = match breach {
            // A connection ends in the course of things. One that ends at once, over and over,
            // is not opened more often than each period.
            None => {
                let opened = self.link.opened_at.map_or(now, |at| at + period);
                State::Follow(now.max(opened) + period.mul_f64(self.random() / 2.0))
            }
            Some(Breach::Expired) => State::List(self.next_list(now)),
            Some(breach) => {
                let forbidden = matches!(breach, Breach::Forbidden(_));
                self.link.troubled(breach, now);
                self.link.failures = self.link.failures.saturating_add(1);
                if forbidden || self.link.failures.is_multiple_of(2) {
                    State::List(self.next_list(now))
                } else {
                    State::Follow(now + self.spread())
                }
            }
        };
    }

    /// A moment for the next list.
    fn next_list(&mut self, now: Instant) -> Instant {
        let period = self.retry_period();
        let allowed = self.link.listed_at.map_or(now, |at| at + period);
        now.max(allowed) + period.mul_f64(self.random() / 2.0)
    }

    pub(super) fn keep_link(&mut self, now: Instant) {
        // A connection that has silently died does not show our own writes either.
        if self.link.state == State::Following
            && let Some(since) = self.view.awaiting_own_write_since()
        {
            let until = since + self.settings.timing.renew_deadline();
            if now >= until {
                self.link.state = State::List(self.next_list(now));
            } else {
                self.wake_at(until);
            }
        }
        match self.link.state {
            State::List(at) if now >= at => {
                self.link.state = State::Listing;
                self.link.listed_at = Some(now);
                self.actions.push(Action::List);
            }
            State::Follow(at) if now >= at => {
                self.link.state = State::Following;
                self.actions.push(Action::Follow(self.view.watched_version));
            }
            State::List(at) | State::Follow(at) => self.wake_at(at),
            State::Listing | State::Following => {}
        }
    }

    /// Whether the caller's Role does not grant what is needed.
    pub(crate) fn is_forbidden(&self) -> bool {
        self.link.forbidden
    }

    /// What keeps this process from knowing or writing the Leases.
    pub(crate) fn outage(&self) -> Option<&Outage> {
        self.link.outage.as_ref().or(self.refused.as_ref())
    }
}
