//! Leaves alone what is down, looks whether it is back with one attempt at a time, and comes back
//! to it little by little.
//!
//! Some deliveries fail for their own sake, at a receiver that is well: those must not hold up others.
//! So what is counted is deliveries and not attempts (a retry that fails once more says nothing new),
//! and it is left alone only when [`LATEST`] of them failed and none succeeded in between. A run of
//! failures that a success ended was no outage, so after one a longer run is waited for. What shows
//! that the receiver was not reached at all counts for each attempt, since no delivery can be to blame.
//!
//! No more attempts are made for a pause then. After it one is, the probe: of a delivery that has not
//! failed before if there is one, since others may only show again what is wrong with themselves. If it
//! fails though it was answered, so may a few others, each for the first time. If all do, the next pause is twice as long; if it works, attempts are admitted at a rate that doubles
//! each second, until there is none any more. What is not admitted has cost no attempt. A receiver that
//! says itself for how long it wants to be left alone (429 with `Retry-After`) is.
//!
//! Nothing here sleeps or draws: time and randomness come with the call.

use std::time::Duration;

use tokio::time::Instant;

/// So many failures of different deliveries with no success in between are an outage.
const LATEST: u32 = 20;

/// A run of failures that a success ended is no outage; so many times as long a one may be.
const LONGER: u32 = 3;

/// So many failures with no success in between are an outage whatever came before.
const MOST: u32 = 60;

/// First pause; each further one is twice as long. A pause is drawn from its second half, so that
/// processes do not come back together.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// Longest pause.
const LONGEST_PAUSE: Duration = Duration::from_mins(1);

/// How long a probe waits for a delivery that has not failed before.
const GRACE: Duration = Duration::from_secs(1);

/// How many deliveries one may be chosen of as the probe.
const CANDIDATES: u32 = 4;

/// So many deliveries that had not failed before are probes, one after the other, before the next pause.
const PROBES: u32 = 5;

/// Longest pause that the receiver may ask for.
const LONGEST_WISH: Duration = Duration::from_mins(10);

/// Attempts admitted in the first second of the return, about; in each further one twice as many.
const RAMP: f64 = 10.0;

/// How long the return takes: about 1,800 attempts a second are admitted at its end.
const RETURN: Duration = Duration::from_secs(8);

/// How the other side is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Everything is admitted.
    Closed,
    /// It is being looked whether it is back: one attempt, or few.
    HalfOpen,
    /// Nothing is admitted.
    Open,
}

/// What an attempt tells of the other side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sign {
    /// It is there.
    Well,
    /// It answered, with something that concerns this delivery alone.
    There,
    /// It failed on this delivery, which may be why.
    Failed,
    /// It cannot be reached, whatever the delivery.
    Away,
    /// It wants to be left alone for so long.
    Busy(Duration),
    /// Nothing: nothing was sent, or the attempt was cut off.
    None,
}

/// What changed with a sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// It is left alone from now on, for so long at first.
    Opened(Duration),
    /// It answers again.
    Returned,
}

/// What was admitted. Its sign is to be told with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket {
    /// Of the breaker, by then.
    age: u64,
    /// Of a delivery that had not failed before.
    fresh: bool,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Closed,
    Open(Pause),
    Probing(Pause),
    Returning(Return),
}

/// How long it is left alone, which what failed before cannot draw out for what did not.
#[derive(Clone, Copy, Debug)]
struct Pause {
    /// From when it began until something is admitted.
    wait: Duration,
    /// When a delivery that has not failed before may be the probe, and when any may.
    fresh_at: Instant,
    any_at: Instant,
    /// How many that had not failed before were probes since it began.
    probes: u32,
    /// How long the pauses are, drawn at random from there.
    fresh: Duration,
    any: Duration,
}

#[derive(Clone, Copy, Debug)]
struct Return {
    since: Instant,
    admitted: u32,
    pause: Pause,
}

/// See the module's words.
#[derive(Debug)]
pub(crate) struct Breaker {
    state: State,
    /// Failures since the latest success, each delivery counted once.
    run: u32,
    /// How many of them are an outage.
    patience: u32,
    /// Grows with each change of state, so that a late sign is known as one.
    age: u64,
    opened: u64,
}

impl Breaker {
    /// Everything is admitted.
    pub(crate) const fn new() -> Self {
        Self {
            state: State::Closed,
            run: 0,
            patience: LATEST,
            age: 0,
            opened: 0,
        }
    }

    pub(crate) fn condition(&self, now: Instant) -> Condition {
        match self.state {
            State::Closed => Condition::Closed,
            // That is noted with the next attempt, which may be long in coming.
            State::Returning(back) if back.is_over(now) => Condition::Closed,
            State::Open(_) => Condition::Open,
            State::Probing(_) | State::Returning(_) => Condition::HalfOpen,
        }
    }

    /// How often it was opened.
    pub(crate) const fn opened(&self) -> u64 {
        self.opened
    }

    /// How many attempts would be looked at now, where that is bounded; and when more would, where
    /// there is none.
    pub(crate) fn room(&self, now: Instant) -> Option<(u32, Instant)> {
        match self.state {
            State::Closed => None,
            State::Open(pause) if now < pause.fresh_at => Some((0, pause.fresh_at)),
            State::Open(_) => Some((CANDIDATES, now)),
            State::Probing(_) => Some((0, now + FIRST_PAUSE)),
            State::Returning(back) => back.room(now),
        }
    }

    /// Admits an attempt, `fresh` if its delivery has not failed before, and answers with what its sign
    /// is to be told with; or says how long to wait.
    pub(crate) fn admit(&mut self, fresh: bool, now: Instant) -> Result<Ticket, Duration> {
        match &mut self.state {
            State::Closed => {}
            State::Open(pause) => {
                let at = if fresh { pause.fresh_at } else { pause.any_at };
                if now < at {
                    return Err(at - now);
                }
                let pause = *pause;
                self.turn(State::Probing(pause));
            }
            State::Probing(_) => return Err(FIRST_PAUSE),
            State::Returning(back) => match back.room(now) {
                None => self.turn(State::Closed),
                Some((0, next)) => return Err(next.saturating_duration_since(now)),
                Some(_) => back.admitted += 1,
            },
        }
        Ok(Ticket {
            age: self.age,
            fresh,
        })
    }

    /// Takes in what an attempt tells that was admitted with that ticket. `random` is drawn from 0
    /// to 1.
    pub(crate) fn note(
        &mut self,
        ticket: Ticket,
        sign: Sign,
        now: Instant,
        random: f64,
    ) -> Option<Change> {
        if ticket.age != self.age {
            return None;
        }
        match (self.state, sign) {
            // A probe that was cut off tells nothing, so there is another.
            (State::Probing(pause), Sign::None) => {
                self.turn(State::Open(Pause {
                    fresh_at: now,
                    any_at: now,
                    ..pause
                }));
                None
            }
            (_, Sign::None) | (State::Open(_), _) => None,
            (_, Sign::Busy(wish)) => {
                let wish = wish.min(LONGEST_WISH);
                Some(self.open(Pause::first(now, wish)))
            }
            (State::Probing(pause), Sign::Well | Sign::There) => {
                self.turn(State::Returning(Return {
                    since: now,
                    admitted: 0,
                    pause,
                }));
                Some(Change::Returned)
            }
            (State::Probing(pause), Sign::Failed) if ticket.fresh && pause.probes + 1 < PROBES => {
                self.turn(State::Open(Pause {
                    fresh_at: now,
                    probes: pause.probes + 1,
                    ..pause
                }));
                None
            }
            (State::Probing(pause), Sign::Failed | Sign::Away) => {
                let all = ticket.fresh || sign == Sign::Away;
                Some(self.open(pause.longer(all, now, random)))
            }
            (State::Closed | State::Returning(_), Sign::Well) => {
                self.ended_well();
                None
            }
            (_, Sign::There) => None,
            (state, Sign::Failed | Sign::Away) => {
                if !ticket.fresh && sign == Sign::Failed {
                    return None;
                }
                self.run += 1;
                (self.run >= self.patience).then(|| {
                    let pause = match state {
                        State::Returning(back) => back.pause.longer(true, now, random),
                        _ => Pause::first(now, drawn(FIRST_PAUSE, random)),
                    };
                    self.open(pause)
                })
            }
        }
    }

    /// A success ends a run of failures, which was no outage then.
    fn ended_well(&mut self) {
        let forgotten = self.patience.saturating_sub(1).max(LATEST);
        self.patience = forgotten.max((self.run * LONGER).min(MOST));
        self.run = 0;
    }

    fn open(&mut self, pause: Pause) -> Change {
        self.opened += 1;
        let wait = pause.wait;
        self.turn(State::Open(pause));
        Change::Opened(wait)
    }

    fn turn(&mut self, state: State) {
        self.age += 1;
        self.run = 0;
        self.state = state;
    }
}

impl Pause {
    /// The first, so long from now.
    fn first(now: Instant, wait: Duration) -> Self {
        Self {
            wait,
            probes: 0,
            fresh_at: now + wait,
            any_at: now + wait + GRACE,
            fresh: FIRST_PAUSE,
            any: FIRST_PAUSE,
        }
    }

    /// The one after a probe that failed; `all`: no matter what the delivery.
    fn longer(self, all: bool, now: Instant, random: f64) -> Self {
        let double = |pause: Duration| (pause * 2).min(LONGEST_PAUSE);
        let fresh = if all { double(self.fresh) } else { self.fresh };
        let any = double(self.any);
        let wait = drawn(fresh, random);
        Self {
            wait,
            probes: 0,
            fresh_at: now + wait,
            any_at: now + drawn(any, random).max(wait) + GRACE,
            fresh,
            any,
        }
    }
}

impl Return {
    fn is_over(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) >= RETURN
    }

    /// How many more may be begun by now, and when one more may.
    fn room(&self, now: Instant) -> Option<(u32, Instant)> {
        if self.is_over(now) {
            return None;
        }
        let lasted = now.saturating_duration_since(self.since);
        let allowed = RAMP * (lasted.as_secs_f64().exp2() - 1.0);
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "it is between 1 and a small bound"
        )]
        let allowed = allowed as u32 + 1;
        let room = allowed.saturating_sub(self.admitted);
        // When the next whole one is allowed.
        let next = (f64::from(self.admitted) / RAMP).ln_1p() / std::f64::consts::LN_2;
        let next = Duration::try_from_secs_f64(next).unwrap_or(RETURN);
        Some((room, (self.since + next.min(RETURN)).max(now)))
    }
}

/// From the second half of a pause.
fn drawn(pause: Duration, random: f64) -> Duration {
    pause.mul_f64(0.5 + random.clamp(0.0, 1.0) / 2.0)
}

#[cfg(test)]
mod tests;
